//! The partition: what the processors share, and how others reach them.

use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use guest_memory::{CodePages, GuestMemory};
use processor::Bus;

/// What a software partition is made of.
pub struct SoftConfig {
    /// Number of processors.
    pub processors: u32,
    pub memory: GuestMemory,
    pub code: Arc<CodePages>,
    pub clock: Arc<clock::VmClock>,
}

/// A partition whose processors are interpreted.
pub struct SoftPartition {}

/// What all processors share.
pub struct Shared {
    pub memory: GuestMemory,
    pub code: Arc<CodePages>,
    pub clock: Arc<clock::VmClock>,
    pub bus: Arc<dyn Bus>,
}

/// What other threads may touch of a processor.
pub struct VpShared {
    /// Bits of `attention`; anything but 0 makes [`crate::vcpu::Vcpu::execute`] return.
    pub attention: AtomicU32,
}
