//! What the hypervisor interface does.
