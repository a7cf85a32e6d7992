//! Guest tests: real Debian kernels on the translator or on what BODHI_PROCESSOR names, and on KVM in the nested host.
//!
//! They need what `make guests build` makes. Those that are ignored take long and run in `make test-all`.

mod boot;
mod change;
mod crash;
mod debugger;
mod disk;
mod end;
mod firmware;
mod installed;
mod integration;
mod kvm;
mod lockstep;
mod nested;
mod network;
mod power_off;
mod probe;
mod setup_disk;
mod shadow;
mod socket;
mod stress;
mod xen;
