//! The adapter's way to guest memory: descriptors, and lists of them.

use std::sync::atomic::Ordering;

use guest_memory::GuestMemory;
use vm_memory::{Bytes, GuestAddress};

/// Bytes of a descriptor.
const DESCRIPTOR: u32 = 16;

/// Nothing answers an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct MasterAbort;

/// A descriptor: status, control, two addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Descriptor {
    pub status: u32,
    pub control: u32,
    pub buffers: [u32; 2],
}

/// A list of descriptors, and which one is next.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct List {
    pub base: u32,
    pub next: u32,
}

impl List {
    /// A list that begins at `base`.
    pub fn new(base: u32) -> Self {
        let base = base & !3;
        Self { base, next: base }
    }

    /// What comes behind the next descriptor, if that says whether the ring ends and whether its second address leads on;
    /// `skip` longwords lie between two others.
    pub fn behind(&self, descriptor: &Descriptor, end_of_ring: bool, chained: bool, skip: u32) -> u32 {
        if end_of_ring {
            self.base
        } else if chained {
            descriptor.buffers[1] & !3
        } else {
            self.next.wrapping_add(DESCRIPTOR + 4 * skip)
        }
    }
}

/// Guest memory as the adapter sees it: 32 bits of address.
pub(super) struct Dma {
    memory: GuestMemory,
    /// The longwords of descriptors have their bytes swapped.
    pub swapped: bool,
}

impl Dma {
    pub fn new(memory: GuestMemory) -> Self {
        Self { memory, swapped: false }
    }

    fn value(&self, longword: u32) -> u32 {
        if self.swapped { u32::from_be(longword) } else { u32::from_le(longword) }
    }

    /// The status of the descriptor at `at`, before whatever else it says.
    pub fn status(&self, at: u32) -> Result<u32, MasterAbort> {
        let status = self.memory.load(GuestAddress(at.into()), Ordering::Acquire);
        status.map(|status| self.value(status)).map_err(|_| MasterAbort)
    }

    /// The descriptor at `at`.
    pub fn descriptor(&self, at: u32) -> Result<Descriptor, MasterAbort> {
        let status = self.status(at)?;
        let mut rest = [0; 12];
        self.read(at.wrapping_add(4), &mut rest)?;
        let longword = |index: usize| {
            let bytes = std::array::from_fn(|byte| rest[4 * index + byte]);
            self.value(u32::from_ne_bytes(bytes))
        };
        Ok(Descriptor { status, control: longword(0), buffers: [longword(1), longword(2)] })
    }

    /// Gives the descriptor at `at` back to the host, behind everything else that was written.
    pub fn close(&self, at: u32, status: u32) -> Result<(), MasterAbort> {
        let status = if self.swapped { status.to_be() } else { status.to_le() };
        self.memory.store(status, GuestAddress(at.into()), Ordering::Release).map_err(|_| MasterAbort)
    }

    pub fn read(&self, at: u32, data: &mut [u8]) -> Result<(), MasterAbort> {
        self.memory.read_slice(data, GuestAddress(at.into())).map_err(|_| MasterAbort)
    }

    pub fn write(&self, at: u32, data: &[u8]) -> Result<(), MasterAbort> {
        self.memory.write_slice(data, GuestAddress(at.into())).map_err(|_| MasterAbort)
    }
}
