//! The cache of decoded blocks.
//!
//! ```text
//! linear address ─▶ jumps: direct-mapped, valid while `Vcpu::code_key` is the same
//!                     │ miss                     (the block itself looks at its page's word)
//!                     ▼
//!   code page ─▶ guest physical address ─▶ index ─▶ Block ─▶ ops
//!                                            │ miss or the page's word has changed
//!                                            ▼
//!                                          decode
//! ```
//!
//! Jumps within a page need no look-up at all: the op that jumps gets a link to the block, see
//! [`super::chain`]. Nothing is freed one by one: when there is no room, everything is forgotten.

use super::chain::{self, Jumps, Side};
use super::decode::{BLOCK_LIMIT, Decoded, LONGEST, Mode, Place, decode};
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
/// Bytes that are decoded at once.
const WINDOW: usize = 256;
/// Room for the ops of one block: an instruction takes up to four; head and end.
const BLOCK_OPS: usize = BLOCK_LIMIT as usize * 4 + 2;

const PAGE: u64 = 0x1000;

/// The decoded blocks of one processor. The cache is taken out while blocks run, so that handlers have the
/// whole processor to themselves; what stays tells which op has ended a block early.
pub struct Blocks {
    cache: Option<Box<Cache>>,
    stopped: usize,
    /// The blocks by linear address.
    pub jumps: Jumps,
}

impl Blocks {
    /// No blocks.
    pub fn new() -> Self {
        Self { cache: None, stopped: 0, jumps: Jumps::new() }
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

/// A decoded block.
#[derive(Clone, Copy)]
pub struct Block {
    gpa: u64,
    /// The page on which the only instruction goes on, and its word.
    second: Option<(u64, PageState)>,
    state: PageState,
    /// Index of its first op, which is a [`chain::enter`].
    pub first: u32,
    /// Length in bytes.
    pub length: u16,
    /// Number of instructions.
    pub count: u8,
    kind: Kind,
    /// Where its bytes are kept.
    bytes: u32,
    /// Whether it can be found by its linear address: it is 64-bit code in RAM.
    tabled: bool,
}

impl Block {
    /// Whether blocks of its page may have a link to it: none that depends on a second page may.
    pub fn is_linkable(&self) -> bool {
        self.tabled && self.second.is_none()
    }
}

/// Ops, blocks, and the ways to find them.
pub struct Cache {
    pub ops: Vec<Op>,
    blocks: Vec<Block>,
    /// What has been decoded, to know it again after something else in its page has been written.
    bytes: Vec<u8>,
    /// Number of a block plus 1.
    index: Box<[u32]>,
    /// How often everything has been forgotten.
    pub cleared: u64,
}

fn index_slot(gpa: u64, kind: Kind) -> usize {
    let mixed = (gpa ^ u64::from(kind.0) << 56).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> (64 - INDEX.trailing_zeros())) as usize
}

impl Cache {
    fn new() -> Box<Self> {
        Box::new(Self {
            ops: Vec::with_capacity(OPS),
            blocks: Vec::new(),
            bytes: Vec::new(),
            index: vec![0; INDEX].into_boxed_slice(),
            cleared: 0,
        })
    }

    pub fn clear(&mut self, cpu: &mut Vcpu) {
        self.ops.clear();
        self.blocks.clear();
        self.bytes.clear();
        self.index.fill(0);
        cpu.blocks.jumps.clear();
        self.cleared += 1;
    }

    /// The index of the op at an address, if there is one.
    pub fn position(&self, address: usize) -> Option<usize> {
        let index = address.checked_sub(self.ops.as_ptr().addr())? / size_of::<Op>();
        (index < self.ops.len()).then_some(index)
    }

    /// Links the op at `address` with `block`.
    pub fn link(&mut self, address: usize, side: Side, block: &Block) {
        let Some(index) = self.position(address) else { return };
        match i32::try_from(i64::from(block.first) - index as i64) {
            Ok(distance) if block.is_linkable() => chain::link(&mut self.ops[index], side, distance),
            _ => chain::refuse_link(&mut self.ops[index], side),
        }
    }

    /// The block at `linear`, which is where RIP is.
    pub fn find(&mut self, cpu: &mut Vcpu, linear: u64, kind: Kind) -> Result<Block, Fault> {
        let page = cpu.code_page(linear)?;
        if page.host.is_none() {
            return self.build(cpu, linear, page, kind);
        }
        let slot = index_slot(page.gpa, kind);
        let known = (self.index[slot] as usize).checked_sub(1).filter(|&number| {
            self.blocks.get(number).is_some_and(|block| block.gpa == page.gpa && block.kind == kind)
        });
        let block = match known {
            Some(number) if self.is_valid(cpu, number, linear, page)? => self.blocks[number],
            _ => {
                let block = self.build(cpu, linear, page, kind)?;
                self.blocks.push(block);
                self.index[slot] = self.blocks.len() as u32;
                block
            }
        };
        if block.tabled {
            let key = cpu.code_key(linear);
            cpu.blocks.jumps.enter(linear, key, &self.ops[block.first as usize]);
        }
        Ok(block)
    }

    /// Whether block `number` is what is in memory. Faults if the part on the second page cannot be fetched.
    fn is_valid(
        &mut self,
        cpu: &mut Vcpu,
        number: usize,
        linear: u64,
        page: CodePage,
    ) -> Result<bool, Fault> {
        let block = self.blocks[number];
        let same = cpu.shared.code.state(block.gpa / PAGE) == block.state;
        let Some((second, state)) = block.second else { return Ok(same || self.renew(cpu, number, page)) };
        let page = cpu.code_page(second_page(linear, block.kind))?;
        Ok(same && page.gpa == second && cpu.shared.code.state(second / PAGE) == state)
    }

    /// Makes a block valid again whose page has been written, if its own bytes are as they were.
    fn renew(&mut self, cpu: &mut Vcpu, number: usize, page: CodePage) -> bool {
        let block = &mut self.blocks[number];
        let length = usize::from(block.length);
        let mut bytes = [0; WINDOW];
        let Some(bytes) = bytes.get_mut(..length) else { return false };
        let state = fetch(cpu, page, bytes);
        let start = block.bytes as usize;
        if self.bytes.get(start..start + length) != Some(bytes) {
            return false;
        }
        block.state = state;
        chain::set_state(&mut self.ops[block.first as usize], state);
        true
    }

    fn build(&mut self, cpu: &mut Vcpu, linear: u64, page: CodePage, kind: Kind) -> Result<Block, Fault> {
        let thunks_full = cpu.extension.is_full();
        if thunks_full {
            cpu.extension.clear_thunks();
        }
        if thunks_full || self.ops.len() + BLOCK_OPS > OPS || self.blocks.len() >= BLOCKS {
            self.clear(cpu);
        }
        let mut bytes = [0; WINDOW];
        let offset = (linear % PAGE) as u16;
        let here = usize::from(PAGE as u16 - offset).min(WINDOW);
        let first = self.ops.len();
        let ram = page.host.is_some();
        let state = fetch(cpu, page, &mut bytes[..here]);
        let limit = if ram { kind.limit() } else { 1 };
        let place = Place { mode: kind.mode(), offset, linked: ram && kind.limit() != 1 };
        let mut block = Block {
            gpa: page.gpa,
            second: None,
            state,
            first: first as u32,
            length: 0,
            count: 0,
            kind,
            bytes: self.bytes.len() as u32,
            tabled: ram && kind == Kind::new(Mode::Bits64, false),
        };
        self.ops.push(chain::head());
        let decoded = match decode(cpu, place, &bytes[..here], limit, &mut self.ops) {
            Decoded::Truncated => {
                // Fewer bytes than the longest instruction: the page ends here.
                let next = cpu.code_page(second_page(linear, kind))?;
                let state = fetch(cpu, next, &mut bytes[here..LONGEST]);
                block.second = Some((next.gpa, state));
                match cpu.shared.code.word(next.gpa / PAGE).filter(|_| next.host.is_some()) {
                    Some(word) => self.ops.push(chain::second_page(word, state)),
                    None => block.tabled = false,
                }
                decode(cpu, place, &bytes[..LONGEST], 1, &mut self.ops)
            }
            decoded => decoded,
        };
        if let Decoded::Block { length, count } = decoded {
            (block.length, block.count) = (length, count as u8);
            self.bytes.extend_from_slice(bytes.get(..usize::from(length)).unwrap_or_default());
        }
        let word = cpu.shared.code.word(page.gpa / PAGE).filter(|_| ram);
        chain::fill_head(&mut self.ops[first], word, state, block.count);
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
        let state = cpu.mark_code(page.gpa);
        if cpu.shared.read_code(bytes, page.gpa).is_some() {
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
