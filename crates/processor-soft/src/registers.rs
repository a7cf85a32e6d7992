//! Names and bits of the registers (SDM volume 1, section 3.4; volume 3, section 2.5).

use processor::Segment;

/// Index of a general register in [`crate::vcpu::Vcpu::regs`], in encoding order.
pub mod gpr {
    pub const RAX: usize = 0;
    pub const RCX: usize = 1;
    pub const RDX: usize = 2;
    pub const RBX: usize = 3;
    pub const RSP: usize = 4;
    pub const RBP: usize = 5;
    pub const RSI: usize = 6;
    pub const RDI: usize = 7;
    pub const R11: usize = 11;
    /// Pseudo register: the RIP at which the running block was entered. RIP-relative operands use it as
    /// their base, with the distance from the block's start folded into the displacement.
    pub const BLOCK_RIP: usize = 16;
    /// Pseudo register: always 0, for operands without base or index.
    pub const ZERO: usize = 17;
    /// Pseudo register: the address of a RIP-relative operand that is too far from the block's start for
    /// the displacement; the pseudo instruction before the one that uses it sets it.
    pub const FAR: usize = 18;
    /// Number of entries: any `u8` is a valid index, so that no access needs a check. Only those above are
    /// in use.
    pub const COUNT: usize = 256;
}

/// A segment register, in encoding order, or no segmentation at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Seg {
    Es = 0,
    Cs = 1,
    Ss = 2,
    Ds = 3,
    Fs = 4,
    Gs = 5,
    /// Base 0, no checks: ES, CS, SS and DS in 64-bit mode. The decoder chooses it.
    Flat = 6,
    /// As `Flat`, for operands relative to RSP or RBP: #SS instead of #GP.
    FlatStack = 7,
}

pub use processor::{attribute, cr0, cr4, efer, flag};

/// A segment as a real-mode load leaves it.
pub fn real_mode_segment(selector: u16, code: bool) -> Segment {
    let kind = if code { 0xb } else { 0x3 };
    Segment {
        selector,
        base: u64::from(selector) << 4,
        limit: 0xffff,
        attributes: processor::SegmentAttributes(kind | attribute::CODE_OR_DATA | attribute::PRESENT),
    }
}
