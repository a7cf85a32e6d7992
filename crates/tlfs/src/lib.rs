//! Definitions of the hypervisor top-level functional specification.
