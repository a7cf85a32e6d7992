//! A virtual machine from its configuration: memory map, buses, ACPI tables, boot, and the run of the
//! whole from power-on to power-off.
//!
//! ```text
//! MachineConfig ─▶ Machine::new (files opened, disks locked) ─▶ run
//!                                                               │  ┌───────────────┐
//!                                                               └─▶│ Board: one    │ reset: the board is
//!                                                                  │ power cycle   │ built anew
//!                                                                  └───────────────┘
//! ```
#![forbid(unsafe_code)]

pub mod acpi;
pub mod boot;
pub mod buses;
pub mod config;
pub mod memory_map;

pub use config::{InputError, MachineConfig};
