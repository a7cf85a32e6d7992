//! Definitions of Microsoft's *Hypervisor Top-Level Functional Specification* (TLFS, version 6.0b and its
//! continuation on Microsoft Learn): CPUID leaves, model-specific registers, hypercalls and the structures
//! that a guest and its hypervisor exchange. There is no behaviour here.
//!
//! Names follow the specification without its prefixes. Values that a guest chooses are open: newtypes
//! with constants, never Rust enums. Structures are little-endian as on x86, and their sizes are asserted.
//!
//! Not defined here: partition management, nested virtualization, VSM, debugging and other architectures.
#![forbid(unsafe_code)]
#![cfg_attr(not(test), no_std)]

pub mod cpuid;
pub mod hypercall;
pub mod message;
pub mod msr;
mod processor;
pub mod register;
mod status;
mod synic;
mod time;

pub use processor::{
    InitialVpContext, PageMsr, SegmentRegister, TableRegister, VirtualApicAssist, VpAssistPage,
};
pub use status::HvStatus;
pub use synic::{CrashControl, Scontrol, Sint};
pub use time::{ReferenceTscPage, StimerConfig};

/// Size of the pages that guest and hypervisor share, in bytes.
pub const PAGE_SIZE: usize = 4096;
/// "This partition", where a partition id is asked for.
pub const PARTITION_ID_SELF: u64 = u64::MAX;
/// "Any processor", where a processor index is asked for.
pub const VP_INDEX_ANY: u32 = u32::MAX;
/// "The calling processor", where a processor index is asked for.
pub const VP_INDEX_SELF: u32 = u32::MAX - 1;
/// Synthetic interrupt sources of a virtual processor.
pub const SINT_COUNT: usize = 16;
/// Synthetic timers of a virtual processor.
pub const STIMER_COUNT: usize = 4;
/// The lowest interrupt vector that a synthetic interrupt source or an IPI hypercall may have.
pub const FIRST_VECTOR: u8 = 16;
/// Event flags of one synthetic interrupt source.
pub const EVENT_FLAG_COUNT: u16 = 2048;
/// Version of the synthetic interrupt controller, as SVERSION tells it.
pub const SYNIC_VERSION: u64 = 1;
