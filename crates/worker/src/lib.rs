//! The process of one virtual machine.
