//! StorVSP: the provider of synthetic disks and optical drives.
//!
//! ```text
//!   hv_storvsc                  worker (one thread per channel)
//!   EXECUTE_SRB, pages of data ─▶ slot ─▶ scsi::Target ─┬─ answered at once
//!                                                       └─ DiskQueue (io_uring) ⇄ guest memory
//!   COMPLETE_IO ◀── batch, one interrupt ◀── slot ◀─────────────┘
//! ```
//!
//! Two kinds of controller: SCSI, with up to 255 units on path 0, target 0, that come and go while the guest
//! runs, and subchannels; and IDE, one disk of the emulated IDE controller, which the guest's driver takes
//! over: while its channel is open the disk belongs to it (see [`::storage::Ownership`]).
//!
//! Specification: none is public. Protocols 2.0, 4.2, 5.1, 6.0 and 6.2 as Linux' storvsc knows them.
//!
//! Not done: Fibre Channel, aborting requests that have begun (a reset waits for them).

mod controller;
mod gather;
pub mod protocol;
mod queues;
mod request;
#[cfg(test)]
mod tests;
mod worker;

pub use controller::{Controller, ScsiSettings, scsi_instance};

/// The longest transfer, in bytes.
pub const MAX_TRANSFER: u32 = 1 << 20;
/// Answers that wait for one interrupt while the guest goes on sending.
const ANSWERS_HELD: usize = 32;
/// Requests that a channel has in flight.
const SLOTS: usize = 256;
