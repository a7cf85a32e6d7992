//! The cache of decoded blocks.
//!
//! ```text
//! linear address ─▶ jumps: direct-mapped, valid while `Vcpu::code_key` and the page's word are the same
//!                     │ miss
//!                     ▼
//!   code page ─▶ guest physical address ─▶ index ─▶ Block ─▶ ops
//!                                            │ miss or the page's word has changed
//!                                            ▼
//!                                          decode
//! ```
//!
//! Nothing is freed one by one: when there is no room, everything is forgotten.

use vm_memory::{Bytes, GuestAddress};

use super::decode::{BLOCK_LIMIT, Decoded, LONGEST, Mode, decode};
use crate::fault::Fault;
use crate::memory::CodePage;
use crate::op::Op;
use crate::registers::Seg;
use crate::vcpu::Vcpu;
use guest_memory::PageState;

/// Ops that a processor keeps: 32 MiB, touched as they are needed.
const OPS: usize = 1 << 20;
/// Blocks that a processor keeps.
const BLOCKS: usize = 1 << 18;
/// Slots of the index by guest physical address.
const INDEX: usize = 1 << 18;
/// Slots of the table by linear address.
const JUMPS: usize = 1 << 13;
/// Bytes that are decoded at once.
const WINDOW: usize = 256;
/// Room for the ops of one block: an instruction takes up to four.
const BLOCK_OPS: usize = BLOCK_LIMIT as usize * 4 + 1;

const PAGE: u64 = 0x1000;

/// The decoded blocks of one processor. The cache is taken out while blocks run, so that handlers have the
/// whole processor to themselves; what stays tells which op has ended a block early.
pub struct Blocks {
    cache: Option<Box<Cache>>,
    stopped: usize,
}

impl Blocks {
    /// No blocks.
    pub fn new() -> Self {
        Self { cache: None, stopped: 0 }
    }

    /// Remembers which op ends the block.
    #[inline]
    pub fn stop_at(&mut self, op: &Op) {
        self.stopped = std::ptr::from_ref(op).addr();
    }

    /// The address given to [`Self::stop_at`], once.
    pub fn take_stopped(&mut self) -> usize {
        std::mem::take(&mut self.stopped)
    }

    pub fn take_cache(&mut self) -> Box<Cache> {
        self.cache.take().unwrap_or_else(Cache::new)
    }

    pub fn put_cache(&mut self, cache: Box<Cache>) {
        self.cache = Some(cache);
    }
}

/// Where a block is and when it is valid, in a slot of the table by linear address.
#[derive(Clone, Copy)]
pub struct Entry {
    linear: u64,
    key: u64,
    gfn: u32,
    state: PageState,
    /// Index of the first op.
    pub first: u32,
    /// Length in bytes.
    pub length: u16,
    /// Number of instructions.
    pub count: u8,
    kind: Kind,
}

const _: () = assert!(size_of::<Entry>() == 32);

/// How a block has been decoded: the mode, and whether it is a single instruction on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kind(u8);

impl Kind {
    #[inline(always)]
    pub fn new(mode: Mode, single: bool) -> Self {
        Self(mode as u8 | u8::from(single) << 2)
    }

    fn mode(self) -> Mode {
        match self.0 & 3 {
            0 => Mode::Bits16,
            1 => Mode::Bits32,
            _ => Mode::Bits64,
        }
    }

    fn limit(self) -> u16 {
        if self.0 & 4 != 0 { 1 } else { BLOCK_LIMIT }
    }
}

/// No block: its linear address would have to be one byte below the top, with a key that is never used.
const NONE: Entry = Entry {
    linear: u64::MAX,
    key: u64::MAX,
    gfn: u32::MAX,
    state: 0,
    first: 0,
    length: 0,
    count: 0,
    kind: Kind(0xff),
};

#[derive(Clone, Copy)]
struct Block {
    gpa: u64,
    /// The page on which the only instruction goes on, and its word.
    second: Option<(u64, PageState)>,
    state: PageState,
    first: u32,
    length: u16,
    count: u8,
    kind: Kind,
}

/// Ops, blocks, and the ways to find them.
pub struct Cache {
    pub ops: Vec<Op>,
    blocks: Vec<Block>,
    /// Number of a block plus 1.
    index: Box<[u32]>,
    jumps: Box<[Entry; JUMPS]>,
}

#[inline(always)]
fn jump_slot(linear: u64) -> usize {
    (linear ^ linear >> 13) as usize & (JUMPS - 1)
}

fn index_slot(gpa: u64, kind: Kind) -> usize {
    let mixed = (gpa ^ u64::from(kind.0) << 56).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> (64 - INDEX.trailing_zeros())) as usize
}

impl Cache {
    fn new() -> Box<Self> {
        let jumps: Box<[Entry]> = vec![NONE; JUMPS].into_boxed_slice();
        Box::new(Self {
            ops: Vec::with_capacity(OPS),
            blocks: Vec::new(),
            index: vec![0; INDEX].into_boxed_slice(),
            jumps: jumps.try_into().unwrap_or_else(|_| unreachable!("the vector has that length")),
        })
    }

    fn clear(&mut self) {
        self.ops.clear();
        self.blocks.clear();
        self.index.fill(0);
        self.jumps.fill(NONE);
    }

    /// The block at `linear`, which is where RIP is.
    #[inline(always)]
    pub fn find(&mut self, cpu: &mut Vcpu, linear: u64, kind: Kind) -> Result<Entry, Fault> {
        let key = cpu.code_key(linear);
        let entry = &self.jumps[jump_slot(linear)];
        let known = entry.linear == linear && entry.key == key && entry.kind == kind;
        if known && cpu.shared.code.state(u64::from(entry.gfn)) == entry.state {
            return Ok(*entry);
        }
        self.look_up(cpu, linear, kind)
    }

    #[cold]
    #[inline(never)]
    fn look_up(&mut self, cpu: &mut Vcpu, linear: u64, kind: Kind) -> Result<Entry, Fault> {
        let page = cpu.code_page(linear)?;
        let (true, Ok(gfn)) = (page.host.is_some(), u32::try_from(page.gpa / PAGE)) else {
            let block = self.build(cpu, linear, page, kind)?;
            return Ok(Self::entry(&block, linear));
        };
        let slot = index_slot(page.gpa, kind);
        let known = (self.index[slot] as usize).checked_sub(1).and_then(|number| self.blocks.get(number));
        let block = match known.copied() {
            Some(block)
                if block.gpa == page.gpa && block.kind == kind && Self::is_valid(cpu, &block, linear)? =>
            {
                block
            }
            _ => {
                let block = self.build(cpu, linear, page, kind)?;
                self.blocks.push(block);
                self.index[slot] = self.blocks.len() as u32;
                block
            }
        };
        let mut entry = Self::entry(&block, linear);
        if block.second.is_none() {
            // The key may have changed since, by the fetch itself.
            (entry.key, entry.gfn) = (cpu.code_key(linear), gfn);
            self.jumps[jump_slot(linear)] = entry;
        }
        Ok(entry)
    }

    fn entry(block: &Block, linear: u64) -> Entry {
        let Block { state, first, length, count, kind, .. } = *block;
        Entry { linear, key: 0, gfn: 0, state, first, length, count, kind }
    }

    /// Whether a block is what is in memory. Faults if the part on the second page cannot be fetched.
    fn is_valid(cpu: &mut Vcpu, block: &Block, linear: u64) -> Result<bool, Fault> {
        if cpu.shared.code.state(block.gpa / PAGE) != block.state {
            return Ok(false);
        }
        let Some((second, state)) = block.second else { return Ok(true) };
        let page = cpu.code_page(second_page(linear, block.kind))?;
        Ok(page.gpa == second && cpu.shared.code.state(second / PAGE) == state)
    }

    fn build(&mut self, cpu: &mut Vcpu, linear: u64, page: CodePage, kind: Kind) -> Result<Block, Fault> {
        let threads_full = cpu.extension.is_full();
        if threads_full {
            cpu.extension.clear_thunks();
        }
        if threads_full || self.ops.len() + BLOCK_OPS > OPS || self.blocks.len() >= BLOCKS {
            self.clear();
        }
        let mut bytes = [0; WINDOW];
        let here = usize::try_from(PAGE - linear % PAGE).unwrap_or(WINDOW).min(WINDOW);
        let first = self.ops.len() as u32;
        let state = fetch(cpu, page, &mut bytes[..here]);
        let ram = page.host.is_some();
        let limit = if ram { kind.limit() } else { 1 };
        let mut block = Block { gpa: page.gpa, second: None, state, first, length: 0, count: 0, kind };
        let decoded = match decode(cpu, kind.mode(), &bytes[..here], limit, &mut self.ops) {
            Decoded::Truncated => {
                // Fewer bytes than the longest instruction: the page ends here.
                let next = cpu.code_page(second_page(linear, kind))?;
                let state = fetch(cpu, next, &mut bytes[here..LONGEST]);
                block.second = Some((next.gpa, state));
                decode(cpu, kind.mode(), &bytes[..LONGEST], 1, &mut self.ops)
            }
            decoded => decoded,
        };
        if let Decoded::Block { length, count } = decoded {
            (block.length, block.count) = (length, count as u8);
        }
        Ok(block)
    }
}

/// Linear address of the page behind that of `linear`.
fn second_page(linear: u64, kind: Kind) -> u64 {
    let next = (linear | (PAGE - 1)).wrapping_add(1);
    if kind.mode() == Mode::Bits64 { next } else { next & 0xffff_ffff }
}

/// Reads code; the word of its page, from before.
fn fetch(cpu: &mut Vcpu, page: CodePage, bytes: &mut [u8]) -> PageState {
    if page.host.is_some() {
        let state = cpu.shared.code.mark(page.gpa / PAGE);
        if cpu.shared.memory.read_slice(bytes, GuestAddress(page.gpa)).is_ok() {
            return state;
        }
    }
    // An instruction at most, in the sizes that a bus knows.
    for (index, byte) in bytes.iter_mut().take(LONGEST).enumerate() {
        cpu.bus.memory_read(page.gpa.wrapping_add(index as u64), std::slice::from_mut(byte));
    }
    0
}

/// The linear address of RIP in code that is not 64-bit, after the check of the limit.
pub fn legacy_linear(cpu: &mut Vcpu, last: u64) -> Result<u64, Fault> {
    let code = &cpu.segments[Seg::Cs as usize];
    if last > u64::from(code.limit) {
        return Err(cpu.general_protection());
    }
    Ok(code.base.wrapping_add(cpu.rip) & 0xffff_ffff)
}
