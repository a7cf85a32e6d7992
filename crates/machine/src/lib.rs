//! A virtual machine from its configuration: memory map, buses, ACPI tables, boot, and the run of the
//! whole from power-on to its end.
//!
//! ```text
//! MachineConfig ─▶ Machine::new: files opened, disks locked
//!                     │          ┌───────────────────────────────┐
//!                     ├─ build ─▶│ Board: all that lives from    │─ run: a thread per processor
//!                     ▲          │ power-on to reset             │        │
//!                     │          └───────────────────────────────┘        │
//!                     └──────────────────── reset ────────────────────────┴─▶ End
//! ```
#![forbid(unsafe_code)]

pub mod acpi;
mod backup;
pub mod boot;
mod build;
pub mod buses;
pub mod config;
mod control;
mod debug;
mod disks;
pub mod doctor;
pub mod firmware;
mod handle;
pub mod memory_map;
mod networks;
mod pause;
mod run;
mod segments;
pub mod smbios;

pub use backup::BackupError;
pub use config::{InputError, MachineConfig};
pub use control::{End, Failure};
pub use disks::{ChangeError, DiskStatus, DriveStatus};
pub use handle::{
    AdapterStatus, Components, IntegrationError, IntegrationStatus, MachineHandle, ScreenError, Status,
    SyntheticDevice,
};
pub use integration::{
    Address, Addresses, Applications, AskError, KeyValues, ServiceStatus, Shutdown, State,
};
pub use networks::NetStatus;
pub use pause::PauseError;
pub use run::Machine;

use thiserror::Error;

/// Why a machine cannot be had.
#[derive(Debug, Error)]
pub enum Error {
    /// What the user gave does not do.
    #[error(transparent)]
    Input(#[from] InputError),
    /// The host gives no memory.
    #[error("no memory for the guest")]
    Memory(#[from] guest_memory::Error),
    /// The host gives no thread.
    #[error("no thread for the timers")]
    Timers(#[source] std::io::Error),
    /// The processor cannot be had.
    #[error(transparent)]
    Processor(#[from] processor::Error),
    /// This host's KVM cannot be used.
    #[error("--processor kvm: {0}")]
    Kvm(#[from] processor_kvm::HostError),
    /// The hypervisor interface cannot be put together.
    #[error("the hypervisor interface cannot be put together")]
    Enlightenment(#[from] enlightenment::Error),
    /// The ACPI tables do not fit into their place.
    #[error("{0} bytes of ACPI tables do not fit into their place")]
    AcpiTables(usize),
    /// Something that firmware is told cannot be.
    #[error("the firmware cannot be told of the machine")]
    FirmwareFile(#[from] chipset::fw_cfg::Error),
    /// The SMBIOS tables do not fit into the machine's memory.
    #[error("the SMBIOS tables do not fit into memory")]
    Smbios,
    /// The integration services cannot be had.
    #[error("the host gives no event for the integration services")]
    Integration(#[source] std::io::Error),
    /// A network adapter cannot be had.
    #[error("the host gives no event for a network adapter")]
    Network(#[source] std::io::Error),
    /// A synthetic device cannot be offered.
    #[error("a synthetic device cannot be offered")]
    Offer(#[from] vmbus::OfferError),
}
