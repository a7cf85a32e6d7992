//! Disks: image formats, and the SCSI and ATAPI command sets.
//!
//! A [`Disk`] is what a guest's disk is made of. Emulated devices use its synchronous methods; StorVSP makes
//! a [`DiskQueue`] of it and keeps many requests in flight. Both take their data from guest RAM and put it
//! there without a copy, and both tell [`guest_memory::CodePages`] of what they wrote: callers need not.
//!
//! ```text
//!    chipset::ide               synthetic::storage
//!      │      │                    │         │
//!      │      └─▶ scsi::DvdUnit    │    scsi::DiskUnit
//!      ▼ read, write        submit ▼ kick, complete
//!    Disk ◀──────────────────── DiskQueue (io_uring, or a thread)
//!      └── raw image, snapshot over one
//! ```
//!
//! Data integrity: a write that has completed is in the host's page cache at least, so that the end of this
//! process loses nothing; after [`Disk::flush`], and for a write with `fua`, it is on stable storage.

mod disk;
mod error;
mod memory;
mod ownership;
mod raw;
pub mod scheduling;
pub mod scsi;
mod snapshot;
mod thread_queue;

pub use disk::{Disk, DiskInfo, DiskQueue, Op, Request, SubmitError};
pub use error::Error;
pub use memory::{GuestRange, Segment};
pub use ownership::{EmulatedUse, Owner, Ownership, SharedDisk};
pub use raw::{OpenOptions, open};

/// The unit in which sizes and addresses of disks are counted.
pub const SECTOR: u64 = 512;
