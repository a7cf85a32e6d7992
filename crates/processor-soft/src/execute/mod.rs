//! Decoding into blocks, and the integer instructions.
//!
//! ```text
//! execute ─▶ blocks: find ─┬─▶ ops of the block, handler to handler (dispatch) ─▶ next block
//!                          └─▶ decode ─▶ alu, moves, branch, … │ system │ extension
//! ```
//!
//! Specification: SDM volume 2.

mod alu;
mod arithmetic;
mod bcd;
mod bits;
mod blocks;
mod branch;
mod chain;
mod conditional;
mod convert;
mod decode;
mod dispatch;
mod exchange;
mod flags;
mod hint;
mod liveness;
mod moves;
mod multiply;
mod operand;
mod shift;
mod stack;
mod string;
#[cfg(test)]
mod tests;

use std::sync::atomic::Ordering;

pub use blocks::Blocks;

use blocks::{Block, Cache, Kind, legacy_linear};
use chain::{HEAD, Side};
use decode::Mode;
use dispatch::Outcome;

use crate::fault::Fault;
use crate::op::{Flow, Op};
use crate::registers::gpr;
use crate::vcpu::Vcpu;

/// One instruction of the present mode, decoded for [`Vcpu::run_ops`]: all its ops from the first to the end of the chain.
/// `None` if the bytes do not hold all of it.
pub fn decode_one(cpu: &mut Vcpu, bytes: &[u8]) -> Option<Box<[Op]>> {
    let mut ops = Vec::with_capacity(4);
    let place = decode::Place { mode: Mode::of(cpu), offset: 0, linked: false };
    match decode::decode(cpu, place, bytes, 1, &mut ops) {
        decode::Decoded::Block { .. } => Some(ops.into_boxed_slice()),
        decode::Decoded::Truncated => None,
    }
}

impl Vcpu {
    /// Carries out what [`decode_one`] has decoded, of an instruction at `rip`. RIP is up to date afterwards.
    #[inline]
    pub fn run_ops(&mut self, ops: &[Op], rip: u64) -> Result<Flow, Fault> {
        let Some(op) = ops.first() else { return Err(self.invalid_opcode()) };
        self.regs[gpr::BLOCK_RIP] = rip;
        self.blocks.jumps.refuel(true);
        let result = (op.handler)(self, op);
        if !matches!(result, Ok(Flow::Jump)) {
            self.blocks.take_stopped();
        }
        if result.is_err() {
            self.rip = rip;
        }
        result
    }

    /// Runs blocks until something needs the attention of the run loop ([`crate::run`]): an exception
    /// (`Err`, with RIP at the faulting instruction), a [`crate::op::Flow::Leave`], or an attention flag of
    /// this processor, which is looked at between blocks.
    pub fn execute(&mut self) -> Result<(), Fault> {
        let mut cache = self.blocks.take_cache();
        let mut unlinked = None;
        let result = loop {
            if self.vp.attention.load(Ordering::Relaxed) != 0 || self.debugger_holds() {
                break Ok(());
            }
            match self.block(&mut cache, false, unlinked) {
                Ok(Flow::Leave) => break Ok(()),
                Ok(_) => unlinked = self.blocks.jumps.take_unlinked(),
                Err(fault) => break Err(fault),
            }
        };
        self.relieve(&mut cache);
        self.blocks.put_cache(cache);
        result
    }

    /// Carries out exactly one instruction (single step, interrupt shadow).
    pub fn execute_one(&mut self) -> Result<(), Fault> {
        let mut cache = self.blocks.take_cache();
        let result = self.block(&mut cache, true, None);
        self.relieve(&mut cache);
        self.blocks.put_cache(cache);
        result.map(|_| ())
    }

    /// Forgets all thunks and decoded blocks when there is no room for another thunk.
    pub fn relieve_blocks(&mut self) {
        if self.extension.is_full() {
            let mut cache = self.blocks.take_cache();
            self.relieve(&mut cache);
            self.blocks.put_cache(cache);
        }
    }

    /// Forgets all thunks, and with them all blocks, when there is no room for another thunk.
    #[inline]
    fn relieve(&mut self, cache: &mut Cache) {
        if self.extension.is_full() {
            self.extension.clear_thunks();
            cache.clear(self);
        }
    }

    /// Runs the block at RIP and those that follow it by themselves, or its first instruction only.
    /// `unlinked` is the op that has led here and could have a link.
    #[inline]
    fn block(
        &mut self,
        cache: &mut Cache,
        single: bool,
        unlinked: Option<(usize, Side)>,
    ) -> Result<Flow, Fault> {
        self.blocks.jumps.refuel(single);
        let mode = Mode::of(self);
        let kind = Kind::new(mode, single);
        if mode != Mode::Bits64 {
            return self.legacy_block(cache, kind, mode);
        }
        if !single
            && unlinked.is_none()
            && let Some(outcome) = chain::resume(self)
        {
            return self.finish(cache, outcome);
        }
        let cleared = cache.cleared;
        let block = cache.find(self, self.rip, kind)?;
        if let Some((address, side)) = unlinked
            && cleared == cache.cleared
        {
            cache.link(address, side, &block);
        }
        self.enter(cache, &block)
    }

    /// As [`Self::block`], for code that a limit ends.
    fn legacy_block(&mut self, cache: &mut Cache, kind: Kind, mode: Mode) -> Result<Flow, Fault> {
        let linear = legacy_linear(self, self.rip)?;
        let block = cache.find(self, linear, kind)?;
        let last = self.rip + u64::from(block.length).saturating_sub(1);
        if last <= u64::from(self.segments[crate::registers::Seg::Cs as usize].limit) {
            return self.enter(cache, &block);
        }
        let single = cache.find(self, linear, Kind::new(mode, true))?;
        legacy_linear(self, self.rip + u64::from(single.length).saturating_sub(1))?;
        self.enter(cache, &single)
    }

    #[inline(always)]
    fn enter(&mut self, cache: &Cache, block: &Block) -> Result<Flow, Fault> {
        self.regs[gpr::BLOCK_RIP] = self.rip;
        self.instructions += u64::from(block.count);
        // What the head would do has been done, whether or not there is other work.
        let op = &cache.ops[block.first as usize + 1];
        let outcome = (op.handler)(self, op);
        self.finish(cache, outcome)
    }

    /// Puts RIP and the count of instructions right after a block that has not ended by a jump.
    #[inline(always)]
    fn finish(&mut self, cache: &Cache, outcome: Outcome) -> Result<Flow, Fault> {
        match outcome {
            Ok(Flow::Jump) => Ok(Flow::Jump),
            Ok(_) => {
                self.settle(cache, true);
                Ok(Flow::Leave)
            }
            Err(fault) => {
                let start = self.settle(cache, false);
                self.rip = self.cut_rip(self.regs[gpr::BLOCK_RIP].wrapping_add(start));
                Err(fault)
            }
        }
    }

    /// Puts the count of instructions right after a block that ended at the op that was told to
    /// [`Blocks::stop_at`]; `done` says whether that op was carried out. Its distance from the start.
    #[cold]
    fn settle(&mut self, cache: &Cache, done: bool) -> u64 {
        let Some(index) = cache.position(self.blocks.take_stopped()) else { return 0 };
        let Some(head) = cache.ops[..index].iter().rposition(|op| op.scale == HEAD) else { return 0 };
        let (mut before, mut count) = (0, 0);
        for op in &cache.ops[head + 1..index] {
            // Pseudo instructions are where the one before them ends.
            count += u64::from(op.next != before);
            before = op.next;
        }
        self.instructions -= u64::from(cache.ops[head].reg).saturating_sub(count + u64::from(done));
        u64::from(before)
    }
}
