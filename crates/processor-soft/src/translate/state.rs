//! What generated code shares with Rust, as fields of [`Vcpu`] at `gs:[…]`, and the values that it passes.

use std::mem::offset_of;
use std::ptr::{null, null_mut};
use std::sync::atomic::AtomicU32;

use crate::extension::Image;
use crate::registers::Seg;
use crate::vcpu::Vcpu;

use super::emit::Mem;
use super::first_level::Entry;

/// Number of entries of the jump cache.
pub const JUMPS: usize = 1 << 15;

/// Where the code for a RIP is.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(32))]
pub struct Jump {
    pub rip: u64,
    /// [`Shared::key`] when the entry was made.
    pub key: u64,
    pub code: u64,
}

/// Where RIP is looked up in the jump cache.
pub fn jump_slot(rip: u64) -> usize {
    (rip ^ rip >> 12) as usize & (JUMPS - 1)
}

/// What stands in `slot` while it is free: a RIP that belongs into another slot.
pub fn no_jump(slot: usize) -> Jump {
    Jump { rip: u64::from(slot == 0), key: 0, code: 0 }
}

/// No instruction: [`Shared::transfer_start`] of jumps whose target needs no check.
pub const NO_CHECK: i32 = 0xffff;

/// The fields.
#[repr(C)]
pub struct Shared {
    /// Linear address of the page of the running block.
    pub page: u64,
    /// A jump's target while its return address is pushed.
    pub target: u64,
    pub host_rsp: u64,
    /// Where to begin.
    pub entry: u64,
    /// What the slow path of an access found.
    pub pointer: u64,
    /// Of the last transfer that the jump cache did not know: the offset of the instruction in its page,
    /// [`NO_CHECK`] if its target may be anything, and what it has added to RSP.
    pub transfer_start: u64,
    pub transfer_release: u64,
    pub read_table: *const Entry,
    pub write_table: *const Entry,
    pub jumps: *const Jump,
    /// What must agree with a jump cache entry besides RIP: a number for address space, privilege level, and
    /// since when no code has become invalid ([`super::Translator::key`]).
    pub key: u64,
    /// [`Vcpu::code_key`] of the page of the running block.
    pub code_key: u64,
    pub attention: *const AtomicU32,
    /// 1 while the guest's vector registers are in the host's.
    pub vectors: u32,
    /// 1 if they were until a call into Rust.
    pub vectors_before: u32,
    /// 1 if vector instructions may run natively.
    pub vectors_ready: u32,
    /// Where they are otherwise.
    pub image: *mut Image,
    pub vcpu: *mut Vcpu,
}

// SAFETY: the pointers lead to what belongs to the processor itself, or is atomic; they are set anew before
// generated code runs.
unsafe impl Send for Shared {}

impl Shared {
    pub fn new() -> Self {
        Self {
            page: 0,
            target: 0,
            host_rsp: 0,
            entry: 0,
            pointer: 0,
            transfer_start: NO_CHECK as u64,
            transfer_release: 0,
            read_table: null(),
            write_table: null(),
            jumps: null(),
            key: 0,
            code_key: 0,
            attention: null(),
            vectors: 0,
            vectors_before: 0,
            vectors_ready: 0,
            image: null_mut(),
            vcpu: null_mut(),
        }
    }
}

macro_rules! field {
    ($name:ident, $field:ident) => {
        /// The operand of the field.
        pub fn $name() -> Mem {
            Mem::state(offset_of!(Vcpu, generated) + offset_of!(Shared, $field))
        }
    };
}

field!(page, page);
field!(target, target);
field!(host_rsp, host_rsp);
field!(entry, entry);
field!(pointer, pointer);
field!(transfer_start, transfer_start);
field!(transfer_release, transfer_release);
field!(read_table, read_table);
field!(write_table, write_table);
field!(jumps, jumps);
field!(key, key);
field!(attention, attention);
field!(vectors, vectors);
field!(vectors_before, vectors_before);
field!(vectors_ready, vectors_ready);
field!(image, image);
field!(vcpu, vcpu);

/// The home of general register `n`.
pub fn register(n: usize) -> Mem {
    Mem::state(register_offset(n))
}

/// Its distance from `gs`.
pub fn register_offset(n: usize) -> usize {
    offset_of!(Vcpu, regs) + n * 8
}

/// [`Vcpu::status`].
pub fn status() -> Mem {
    Mem::state(offset_of!(Vcpu, status))
}

/// [`Vcpu::rip`].
pub fn rip() -> Mem {
    Mem::state(offset_of!(Vcpu, rip))
}

/// The base of a segment register.
pub fn segment_base(seg: Seg) -> Mem {
    let segment = seg as usize * size_of::<processor::Segment>();
    Mem::state(offset_of!(Vcpu, segments) + segment + offset_of!(processor::Segment, base))
}

/// Why generated code came back.
pub mod reason {
    /// RIP has no code at hand.
    pub const LOOK_UP: u64 = 0;
    /// [`crate::partition::VpShared::attention`] is not 0.
    pub const ATTENTION: u64 = 1;
    /// An instruction wants the run loop to look at what it has changed.
    pub const LEAVE: u64 = 2;
    /// An exception waits.
    pub const FAULT: u64 = 3;
    /// The instruction at RIP is to be interpreted: it lies in two pages, is not aligned, or uses vectors
    /// while they may not be used natively.
    pub const STEP: u64 = 4;
    /// A transfer whose target the jump cache does not know.
    pub const MISS: u64 = 5;
    /// Number of reasons.
    pub const COUNT: usize = 6;
}

/// What the slow path of an access tells its caller: go on with the pointer, go on behind the instruction,
/// or leave with a reason that is added to `EXIT`.
pub mod slow {
    pub const PROCEED: u64 = 0;
    pub const DONE: u64 = 1;
    pub const EXIT: u64 = 2;
}

/// An access or an interpreted instruction, packed for the way through a register.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Site {
    /// Offsets of the instruction and its successor in the page.
    pub start: u16,
    pub next: u16,
    pub size: u8,
    pub write: bool,
}

impl Site {
    pub fn pack(self) -> u64 {
        u64::from(self.size)
            | u64::from(self.write) << 8
            | u64::from(self.start) << 16
            | u64::from(self.next) << 32
    }

    pub fn unpack(packed: u64) -> Self {
        Self {
            size: packed as u8,
            write: packed >> 8 & 1 != 0,
            start: (packed >> 16) as u16,
            next: (packed >> 32) as u16,
        }
    }
}
