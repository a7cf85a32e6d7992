//! The translated blocks of one processor, and the ways to find them.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::io;

use guest_memory::PageState;
use iced_x86::{Encoder, InstructionInfoFactory, Mnemonic};
use vm_memory::{Bytes, GuestAddress};

use super::block::{PAGE, scan};
use super::emit::Emitter;
use super::lower::{Link, Lowered, Way, Writer};
use super::slow::{self, Interpreted};
use super::state::{JUMPS, Jump, jump_slot, no_jump};
use super::stubs::{self, Stubs};
use crate::execute::decode_one;
use crate::extension::Arena;
use crate::vcpu::Vcpu;

/// Bytes of code that a processor keeps.
const ARENA: usize = 24 << 20;
/// Room that the largest block may take.
const LARGEST: usize = 64 << 10;
/// Blocks that a processor keeps.
const BLOCKS: usize = 1 << 17;
/// Instructions that the log lists at the end.
const LISTED: usize = 60;
/// Links that wait for their targets.
const PENDING: usize = 1 << 18;

/// Spreads guest physical addresses.
#[derive(Default)]
pub struct AddressHasher(u64);

impl Hasher for AddressHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(u64::from(byte));
        }
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = (self.0 ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(26);
    }
}

type AddressMap<T> = HashMap<u64, T, BuildHasherDefault<AddressHasher>>;

/// A translated block.
#[derive(Clone, Copy)]
struct Block {
    state: PageState,
    saved: u64,
    direct: u64,
    looped: u64,
}

/// A jump that waits for its target to be translated.
#[derive(Clone, Copy)]
struct Pending {
    at: u64,
    way: Way,
    state: PageState,
}

/// Everything that one processor has translated.
pub struct Translator {
    arena: Arena,
    stubs: Stubs,
    blocks: AddressMap<Block>,
    pending: AddressMap<Vec<Pending>>,
    pending_count: usize,
    jumps: Box<[Jump]>,
    /// Never moved: generated code holds their addresses.
    #[expect(clippy::vec_box, reason = "generated code holds the addresses of the elements")]
    interpreted: Vec<Box<Interpreted>>,
    encoder: Encoder,
    info: InstructionInfoFactory,
    /// [`guest_memory::CodePages::ended`] when the jump cache was known to be good.
    pub ended: u64,
    /// [`crate::extension::ExtensionState::generation`] for which the code is good.
    pub thunks: u64,
}

// SAFETY: the pointers in the jump cache lead into the arena, which moves along.
unsafe impl Send for Translator {}

impl Translator {
    /// A translator without blocks.
    ///
    /// # Errors
    /// When the host refuses executable memory.
    pub fn new() -> io::Result<Box<Self>> {
        let arena = Arena::new(ARENA).inspect_err(|error| {
            tracing::error!("no executable memory for translated code, guest code is interpreted: {error}");
        })?;
        let mut translator = Box::new(Self {
            arena,
            stubs: Stubs::default(),
            blocks: AddressMap::default(),
            pending: AddressMap::default(),
            pending_count: 0,
            jumps: (0..JUMPS).map(no_jump).collect(),
            interpreted: Vec::new(),
            encoder: Encoder::new(64),
            info: InstructionInfoFactory::new(),
            ended: 0,
            thunks: 0,
        });
        translator.clear();
        Ok(translator)
    }

    /// Forgets all blocks.
    pub fn clear(&mut self) {
        self.blocks.clear();
        self.pending.clear();
        self.pending_count = 0;
        self.interpreted.clear();
        self.forget_jumps();
        self.arena.clear();
        let mut emitter = Emitter::new(self.arena.next());
        let interpret = slow::interpret as *const () as u64;
        self.stubs = stubs::write(&mut emitter, interpret, slow::access as *const () as u64);
        self.arena.add(&emitter.finish());
    }

    /// Empties the jump cache.
    pub fn forget_jumps(&mut self) {
        for (slot, jump) in self.jumps.iter_mut().enumerate() {
            *jump = no_jump(slot);
        }
    }

    /// The jump cache, for generated code.
    pub fn jumps(&self) -> *const Jump {
        self.jumps.as_ptr()
    }

    /// The slot of `rip` in the jump cache.
    pub fn jump(&mut self, rip: u64) -> &mut Jump {
        &mut self.jumps[jump_slot(rip)]
    }

    /// Runs generated code until it comes back with a reason.
    pub fn enter(&mut self, code: u64) -> u64 {
        // SAFETY: the stub was generated for this signature and keeps the ABI's registers; `code` is the
        // `saved` entry of a block in the arena, GS leads to the processor whose fields it works on.
        unsafe {
            let enter: unsafe extern "sysv64" fn(u64) -> u64 =
                std::mem::transmute(self.stubs.enter as *const ());
            enter(code)
        }
    }

    /// The code of the block at `gpa`, whose page is in `state`; `None` if the instruction there does not
    /// lie in one page.
    pub fn code(&mut self, cpu: &mut Vcpu, gpa: u64, state: PageState) -> Option<u64> {
        match self.blocks.get(&gpa) {
            Some(block) if block.state == state => Some(block.saved),
            _ => self.translate(cpu, gpa, state),
        }
    }

    fn translate(&mut self, cpu: &mut Vcpu, gpa: u64, state: PageState) -> Option<u64> {
        if self.arena.room() < LARGEST || self.blocks.len() >= BLOCKS || self.pending_count >= PENDING {
            self.clear();
        }
        let mut page = [0; PAGE];
        cpu.shared.memory.read_slice(&mut page, GuestAddress(gpa & !0xfff)).ok()?;
        let (guests, end) = scan(&page, (gpa & 0xfff) as u16);
        if guests.is_empty() {
            return None;
        }
        let interpreted = &mut self.interpreted;
        let thunks = cpu.extension.generation();
        let writer = Writer::new(self.arena.next(), &self.stubs, &mut self.encoder, &mut self.info);
        let lowered = writer.block(&guests, end, |guest| {
            let bytes = page.get(usize::from(guest.start)..).unwrap_or_default();
            let ops = decode_one(cpu, bytes.get(..15).unwrap_or(bytes)).unwrap_or_default();
            let mnemonic = guest.instruction.mnemonic();
            let mut record = Box::new(Interpreted { ops, thunks, mnemonic, runs: 0 });
            let address = &raw mut *record as u64;
            interpreted.push(record);
            address
        });
        self.install(gpa, state, lowered)
    }

    fn install(&mut self, gpa: u64, state: PageState, lowered: Lowered) -> Option<u64> {
        let Lowered { code, links, saved, direct, looped } = lowered;
        self.arena.add(&code)?;
        let block = Block { state, saved, direct, looped };
        self.blocks.insert(gpa, block);
        for waiting in self.pending.remove(&gpa).unwrap_or_default() {
            self.pending_count -= 1;
            if waiting.state == state {
                self.patch(waiting.at, waiting.way, block);
            }
        }
        for Link { at, target, way } in links {
            let target = gpa & !0xfff | u64::from(target);
            match self.blocks.get(&target) {
                Some(&found) if found.state == state => self.patch(at, way, found),
                _ => {
                    self.pending.entry(target).or_default().push(Pending { at, way, state });
                    self.pending_count += 1;
                }
            }
        }
        Some(block.saved)
    }

    fn patch(&mut self, at: u64, way: Way, block: Block) {
        let to = match way {
            Way::Saved => block.saved,
            Way::Direct => block.direct,
            Way::Looped => block.looped,
        };
        let distance = to.wrapping_sub(at + 4) as u32;
        self.arena.patch(at, distance.to_le_bytes());
    }

    /// Which instructions have been left to the interpreter, by how often they ran.
    fn interpreted_counts(&self) -> Vec<(Mnemonic, u64)> {
        let mut counts: HashMap<Mnemonic, u64> = HashMap::new();
        for record in &self.interpreted {
            *counts.entry(record.mnemonic).or_default() += record.runs;
        }
        let mut counts: Vec<_> = counts.into_iter().collect();
        counts.sort_by_key(|&(_, runs)| std::cmp::Reverse(runs));
        counts
    }
}

impl Drop for Translator {
    fn drop(&mut self) {
        let interpreted: Vec<_> = self.interpreted_counts().into_iter().take(LISTED).collect();
        tracing::debug!(blocks = self.blocks.len(), ?interpreted, "translated code ends");
    }
}

#[cfg(test)]
impl Translator {
    /// Number of blocks.
    pub fn len(&self) -> usize {
        self.blocks.len()
    }
}
