//! How one block hands over to the next without a return to the loop of [`Vcpu::execute`].
//!
//! Only for 64-bit code. Every block begins with an [`enter`]; a jump within the page goes there by a link
//! in the op that jumps, any other jump by the table of linear addresses. `enter` looks at whether the
//! block is still valid and whether there is something else to do; if so, it returns to the loop.
//!
//! ```text
//! [enter] op op op jcc ──link──▶ [enter] op op ret ──table──▶ [enter] …
//! ```

use std::sync::atomic::{AtomicU32, Ordering};

use super::dispatch::{Outcome, next};
use crate::op::{Flow, Op};
use crate::registers::gpr;
use crate::vcpu::Vcpu;

use guest_memory::PageState;

/// Slots of the table by linear address.
const SLOTS: usize = 1 << 15;
/// Blocks that are run before a return to the loop. Bounds the stack where the compiler does not turn the
/// last call of a handler into a jump.
const FUEL: u32 = if cfg!(debug_assertions) { 8 } else { 64 };
/// `scale` of the op that begins a block.
pub const HEAD: u8 = 0xff;
/// A link that is never made: the target is not in the page.
const NO_LINK: i32 = i32::MIN;

/// Which successor of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The target of a jump.
    Taken,
    /// The instruction behind the block.
    Next,
}

#[derive(Clone, Copy)]
struct Jump {
    linear: u64,
    key: u64,
    head: *const Op,
}

/// No block: keys are never all ones.
const NONE: Jump = Jump { linear: u64::MAX, key: u64::MAX, head: std::ptr::null() };

/// The table of blocks by linear address, and a link that waits to be made.
pub struct Jumps {
    slots: Box<[Jump; SLOTS]>,
    fuel: u32,
    /// Address of the op whose link is missing, or 0.
    unlinked: usize,
    side: Side,
}

// SAFETY: the pointers lead to ops of the cache that belongs to the same processor and are used only while
// its blocks run.
unsafe impl Send for Jumps {}

#[inline(always)]
fn slot(linear: u64) -> usize {
    (linear ^ linear >> 15) as usize & (SLOTS - 1)
}

impl Jumps {
    pub fn new() -> Self {
        let slots: Box<[Jump]> = vec![NONE; SLOTS].into_boxed_slice();
        let slots = slots.try_into().unwrap_or_else(|_| unreachable!("the vector has that length"));
        Self { slots, fuel: 0, unlinked: 0, side: Side::Taken }
    }

    /// Forgets all blocks, whose ops are about to go.
    pub fn clear(&mut self) {
        self.slots.fill(NONE);
        self.unlinked = 0;
    }

    /// Enters a block that begins with `head`.
    pub fn enter(&mut self, linear: u64, key: u64, head: &Op) {
        self.slots[slot(linear)] = Jump { linear, key, head };
    }

    /// Forgets the block at `linear`.
    fn forget(&mut self, linear: u64) {
        self.slots[slot(linear)] = NONE;
    }

    /// The head of the block at `linear`, if it is known.
    #[inline(always)]
    fn find(&self, linear: u64, key: u64) -> Option<&'static Op> {
        let jump = &self.slots[slot(linear)];
        // SAFETY: an op of the cache, which stays where it is until `clear`.
        (jump.linear == linear && jump.key == key).then(|| unsafe { &*jump.head })
    }

    /// Fresh fuel for a chain of blocks, or none for a single instruction.
    #[inline]
    pub fn refuel(&mut self, single: bool) {
        self.fuel = if single { 0 } else { FUEL };
    }

    /// The address of the op that lacks a link, once.
    #[inline]
    pub fn take_unlinked(&mut self) -> Option<(usize, Side)> {
        let address = std::mem::take(&mut self.unlinked);
        (address != 0).then_some((address, self.side))
    }
}

/// The op that begins a block, before it is filled.
pub fn head() -> Op {
    Op { handler: enter, scale: HEAD, ..super::decode::blank() }
}

/// Tells the head of a block when it is valid.
pub fn fill_head(head: &mut Op, word: Option<&AtomicU32>, state: PageState, count: u8) {
    // Without a word the block is not RAM's: nothing leads to its head.
    head.imm = word.map_or(0, |word| std::ptr::from_ref(word).expose_provenance() as u64);
    head.disp = state as i32;
    head.reg = count;
}

/// Tells the head of a block that it is valid again.
pub fn set_state(head: &mut Op, state: PageState) {
    head.disp = state as i32;
}

/// The op behind the head of a block whose only instruction goes on on a second page.
pub fn second_page(word: &AtomicU32, state: PageState) -> Op {
    let mut op = Op { handler: enter_second, ..super::decode::blank() };
    fill_head(&mut op, Some(word), state, 0);
    op
}

/// Pseudo op: goes on if the second page has not been written either.
fn enter_second(cpu: &mut Vcpu, op: &Op) -> Outcome {
    if is_valid(op) {
        return next(cpu, op);
    }
    // The loop must not find the block by the table again.
    cpu.blocks.jumps.forget(cpu.rip);
    cpu.instructions -= 1;
    Ok(Flow::Jump)
}

/// Whether the page of a block has not been written since it was decoded.
#[inline(always)]
fn is_valid(head: &Op) -> bool {
    // SAFETY: `fill_head` has been called for every block that a link or the table leads to; the words
    // live as long as the processor.
    let word = unsafe { &*std::ptr::with_exposed_provenance::<AtomicU32>(head.imm as usize) };
    word.load(Ordering::Relaxed) == head.disp as u32
}

/// Pseudo op: the beginning of a block.
#[inline(always)]
pub fn enter(cpu: &mut Vcpu, op: &Op) -> Outcome {
    let fuel = cpu.blocks.jumps.fuel;
    if !is_valid(op) || cpu.vp.attention.load(Ordering::Relaxed) != 0 || fuel == 0 {
        return Ok(Flow::Jump);
    }
    cpu.blocks.jumps.fuel = fuel - 1;
    cpu.regs[gpr::BLOCK_RIP] = cpu.rip;
    cpu.instructions += u64::from(op.reg);
    next(cpu, op)
}

/// Runs from RIP on by the table; `None` if it does not know, and nothing has happened.
#[inline]
pub fn resume(cpu: &mut Vcpu) -> Option<Outcome> {
    let head = known(cpu, cpu.rip).filter(|head| is_valid(head))?;
    Some(enter(cpu, head))
}

/// The head of the block at `rip`, if it is known. Its address is canonical and may be fetched from.
#[inline(always)]
pub fn known(cpu: &Vcpu, rip: u64) -> Option<&'static Op> {
    cpu.blocks.jumps.find(rip, cpu.code_key(rip))
}

/// Goes on at RIP by the table.
#[inline(always)]
fn go(cpu: &mut Vcpu) -> Outcome {
    match known(cpu, cpu.rip) {
        Some(head) => enter(cpu, head),
        None => Ok(Flow::Jump),
    }
}

/// Goes on at RIP by the link of `op`.
#[inline(always)]
pub fn follow(cpu: &mut Vcpu, op: &Op, side: Side) -> Outcome {
    let distance = match side {
        Side::Taken => op.imm as i32,
        Side::Next => (op.imm >> 32) as i32,
    };
    if distance << 1 == 0 {
        return without_link(cpu, op, side);
    }
    // SAFETY: the loop has set the distance to a head in the same array of ops.
    let head = unsafe { &*std::ptr::from_ref(op).offset(distance as isize) };
    enter(cpu, head)
}

fn without_link(cpu: &mut Vcpu, op: &Op, side: Side) -> Outcome {
    let distance = if side == Side::Taken { op.imm as i32 } else { (op.imm >> 32) as i32 };
    if distance == NO_LINK {
        return go(cpu);
    }
    cpu.blocks.jumps.unlinked = std::ptr::from_ref(op).addr();
    cpu.blocks.jumps.side = side;
    Ok(Flow::Jump)
}

/// The links of an op before any is made: `taken` and `next` say whether they are in the page.
pub fn links(taken: bool, next: bool) -> u64 {
    let link = |in_page: bool| if in_page { 0 } else { u64::from(NO_LINK as u32) };
    link(taken) | link(next) << 32
}

/// Says that a link of `op` will never be made.
pub fn refuse_link(op: &mut Op, side: Side) {
    link(op, side, NO_LINK);
}

/// Makes a link of `op` over `distance` ops.
pub fn link(op: &mut Op, side: Side, distance: i32) {
    op.imm = match side {
        Side::Taken => op.imm & !0xffff_ffff | u64::from(distance as u32),
        Side::Next => op.imm & 0xffff_ffff | u64::from(distance as u32) << 32,
    };
}
