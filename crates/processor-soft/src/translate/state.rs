//! What generated code shares with Rust, as fields of [`Vcpu`] at `gs:[…]`, and the values that it passes.

use std::mem::offset_of;
use std::ptr::{null, null_mut};
use std::sync::atomic::{AtomicU32, AtomicU64};

use crate::extension::Image;
use crate::registers::Seg;
use crate::vcpu::Vcpu;

use super::cache::Translator;
use super::emit::Mem;
use super::fast_call::FastCalls;
use super::first_level::Pair;
use super::plan::SLOTS;
use crate::memory::mmu_offset;
use crate::system::MsrState;

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
    /// Guest physical address of the page and, in the lowest bits, [`super::mode::Mode::number`]; or what no page
    /// has if the code lies in two.
    pub page: u64,
}

/// [`Jump::page`] of code that another address space may have in part.
pub const NO_PAGE: u64 = u64::MAX;

/// Where RIP is looked up in the jump cache.
pub fn jump_slot(rip: u64) -> usize {
    (rip ^ rip >> 12) as usize & (JUMPS - 1)
}

/// What stands in `slot` while it is free: a RIP that belongs into another slot.
pub fn no_jump(slot: usize) -> Jump {
    Jump { rip: u64::from(slot == 0), key: 0, code: 0, page: NO_PAGE }
}

/// No instruction: in [`Shared::transfer`] of jumps whose target needs no check.
pub const NO_CHECK: i32 = 0xffff;

/// The fields.
#[repr(C)]
pub struct Shared {
    /// Linear address of the page of the running block.
    pub page: u64,
    /// A jump's target while its return address is pushed.
    pub target: u64,
    pub host_rsp: u64,
    /// Base of FS for Rust code.
    pub host_fs: u64,
    /// Where a stub goes back to.
    pub back: u64,
    /// The [`super::cache::Crossroad`] through which generated code came back, if the reason is
    /// [`reason::LINK`].
    pub crossroad: u64,
    /// Host addresses that accesses share: [`super::plan`].
    pub slots: [u64; SLOTS],
    /// Where to begin.
    pub entry: u64,
    /// [`guest_memory::CodePages::ended`] up to which the translator knows.
    pub ended: u64,
    /// Of the last transfer that the jump cache did not know: in the lower half the offset of the instruction
    /// in its page, [`NO_CHECK`] if its target may be anything; in the upper half what it has added to RSP.
    pub transfer: i32,
    /// Bit 63 of RIP.
    pub half: u64,
    /// [`super::mode::Mode::number`] of the running block.
    pub mode: u64,
    /// What is added to the host's TSC.
    pub time_offset: u64,
    /// Not 0 if RDTSC raises an exception at the present privilege level.
    pub time_barred: u8,
    /// Of the present space and class.
    pub tables: *const Pair,
    /// What STAC and CLAC make of it, and of the second level.
    pub stac: Switch,
    pub clac: Switch,
    /// Bits of the processor's [`super::first_level::WritableFilter`].
    pub writable: *const AtomicU64,
    pub jumps: *const Jump,
    /// The code table of the second level for the present privilege level.
    pub code_entries: *const u8,
    /// What must agree with a jump cache entry besides RIP: a number for address space, privilege level, and
    /// since when no code has become invalid ([`super::Translator::key`]).
    pub key: u64,
    /// [`Vcpu::block_key`] of the page of the running block.
    pub code_key: u64,
    pub attention: *const AtomicU32,
    /// Which of the guest's extension registers are in the host's: a value of [`loaded`].
    pub loaded: u32,
    /// Which were until a call into Rust.
    pub loaded_before: u32,
    /// Which may be, so that their instructions run natively.
    pub may_load: u32,
    /// Where they are otherwise.
    pub image: *mut Image,
    /// RAX and RDX while the x87 state is loaded.
    pub lent: [u64; 2],
    pub vcpu: *mut Vcpu,
    /// What is running.
    pub translator: *mut Translator,
    pub fast_calls: FastCalls,
    /// Accesses that the first level of the TLB did not know and the second did.
    pub second_level: u64,
    /// Look-ups in the first level, if they are counted.
    pub look_ups: u64,
}

/// What belongs to a class of access.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct Switch {
    pub tables: *const Pair,
    /// Of the second level.
    pub entries: *const u8,
    pub class: u64,
}

impl Switch {
    pub const NONE: Self = Self { tables: null(), entries: null(), class: 0 };
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
            ended: 0,
            transfer: NO_CHECK,
            half: 0,
            mode: 0,
            time_offset: 0,
            time_barred: 0,
            host_fs: 0,
            back: 0,
            crossroad: 0,
            slots: [0; SLOTS],
            tables: null(),
            stac: Switch::NONE,
            clac: Switch::NONE,
            writable: null(),
            jumps: null(),
            code_entries: null(),
            key: 0,
            code_key: 0,
            attention: null(),
            loaded: 0,
            loaded_before: 0,
            may_load: 0,
            image: null_mut(),
            lent: [0; 2],
            vcpu: null_mut(),
            translator: null_mut(),
            fast_calls: FastCalls::CLOSED,
            second_level: 0,
            look_ups: 0,
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
field!(transfer, transfer);
field!(half, half);
field!(time_offset, time_offset);
field!(time_barred, time_barred);
field!(host_fs, host_fs);
field!(back, back);
field!(crossroad, crossroad);
field!(tables, tables);
field!(writable, writable);
field!(jumps, jumps);
field!(code_entries, code_entries);
field!(key, key);
field!(code_key, code_key);
field!(attention, attention);
field!(loaded, loaded);
field!(loaded_before, loaded_before);
field!(may_load, may_load);
field!(image, image);
field!(vcpu, vcpu);
field!(mode, mode);
field!(second_level, second_level);
field!(look_ups, look_ups);

/// A field of [`Shared::lent`].
pub fn lent(n: usize) -> Mem {
    Mem::state(offset_of!(Vcpu, generated) + offset_of!(Shared, lent) + n * 8)
}

/// A slot.
pub fn slot(n: u8) -> Mem {
    Mem::state(offset_of!(Vcpu, generated) + offset_of!(Shared, slots) + usize::from(n) * 8)
}

/// A field of what STAC (`set`) or CLAC switches to: 0 the tables, 1 the entries, 2 the class.
pub fn switch(set: bool, field: usize) -> Mem {
    let switch = if set { offset_of!(Shared, stac) } else { offset_of!(Shared, clac) };
    Mem::state(offset_of!(Vcpu, generated) + switch + field * 8)
}

/// The second level's table of the present class.
pub fn entries() -> Mem {
    Mem::state(offset_of!(Vcpu, mmu) + mmu_offset::TABLE)
}

/// Its class.
pub fn class() -> Mem {
    Mem::state(offset_of!(Vcpu, mmu) + mmu_offset::CLASS)
}

/// Distance of its tags from `gs`.
pub fn tags_offset() -> usize {
    offset_of!(Vcpu, mmu) + mmu_offset::TAGS
}

/// [`Vcpu::flags`], the lower half.
pub fn flags() -> Mem {
    Mem::state(offset_of!(Vcpu, flags))
}

/// The byte of them that has the direction flag.
pub fn direction() -> Mem {
    Mem::state(offset_of!(Vcpu, flags) + 1)
}

/// [`Vcpu::interrupt_waiting`].
pub fn interrupt_waiting() -> Mem {
    Mem::state(offset_of!(Vcpu, interrupt_waiting))
}

/// [`Vcpu::interrupt_shadow`].
pub fn interrupt_shadow() -> Mem {
    Mem::state(offset_of!(Vcpu, interrupt_shadow))
}

/// What SWAPGS exchanges with the base of GS.
pub fn kernel_gs_base() -> Mem {
    Mem::state(offset_of!(Vcpu, msrs) + offset_of!(MsrState, kernel_gs_base))
}

/// [`Vcpu::cr2`].
pub fn fault_address() -> Mem {
    Mem::state(offset_of!(Vcpu, cr2))
}

/// What RDTSCP puts into ECX.
pub fn time_aux() -> Mem {
    Mem::state(offset_of!(Vcpu, msrs) + offset_of!(MsrState, tsc_aux))
}

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

/// Offset `at` in what is known of SYSCALL and SYSRET.
pub fn fast_calls(at: usize) -> Mem {
    Mem::state(offset_of!(Vcpu, generated) + offset_of!(Shared, fast_calls) + at)
}

/// The current privilege level.
pub fn privilege_level() -> Mem {
    Mem::state(offset_of!(Vcpu, cpl))
}

/// Offset `at` in a segment register.
pub fn segment(seg: Seg, at: usize) -> Mem {
    Mem::state(offset_of!(Vcpu, segments) + seg as usize * size_of::<processor::Segment>() + at)
}

/// The selector of a segment register.
pub fn selector(seg: Seg) -> Mem {
    segment(seg, offset_of!(processor::Segment, selector))
}

/// The base of a segment register.
pub fn segment_base(seg: Seg) -> Mem {
    segment(seg, offset_of!(processor::Segment, base))
}

/// Which of the guest's extension registers are meant; each value includes those before.
pub mod loaded {
    pub const NONE: u8 = 0;
    /// Vector and mask registers, MXCSR.
    pub const VECTORS: u8 = 1;
    /// The x87 state, of which the MMX registers are part.
    pub const X87: u8 = 2;
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
    /// The block at RIP is of a page that has been written since.
    pub const STALE: u64 = 6;
    /// A jump to another page that has no link, or one for another address space.
    pub const LINK: u64 = 7;
    /// Accesses that share a look-up do not lie in one page that the first level knows: from RIP on the block
    /// is needed without sharing.
    pub const PLAIN: u64 = 8;
    /// A jump to another page that has no link and that the jump cache does not know.
    pub const CROSS: u64 = 9;
    /// Number of reasons.
    pub const COUNT: usize = 10;
    /// Their names.
    pub const NAMES: [&str; COUNT] =
        ["look-up", "attention", "leave", "fault", "step", "miss", "stale", "link", "plain", "cross"];
}

/// What the Rust side of an access tells its caller: go on behind the instruction, or leave with a reason that
/// is added to `EXIT`.
pub mod slow {
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
