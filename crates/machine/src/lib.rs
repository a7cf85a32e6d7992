//! Builds a virtual machine from its configuration.
