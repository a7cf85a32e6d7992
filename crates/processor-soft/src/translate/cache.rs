//! The translated blocks of one processor, and the ways to find them.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::io;

use guest_memory::PageState;
use iced_x86::{Encoder, InstructionInfoFactory, Mnemonic};
use vm_memory::{Bytes, GuestAddress};

use super::block::{End, Guest, PAGE, scan, scan_crossing};
use super::emit::Emitter;
use super::lower::{Link, Lowered, Way, Writer};
use super::slow::{self, Interpreted};
use super::state::{JUMPS, Jump, jump_slot, no_jump, reason};
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
/// Address spaces whose keys are remembered.
const KEYS: usize = 4096;
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

/// A translated instruction that lies in two pages. Nothing is linked to it: it is found through the jump
/// cache, whose key vouches for the mapping of both pages.
#[derive(Clone, Copy)]
struct Crossing {
    state: PageState,
    /// Guest physical address of the second page, and its word.
    second: u64,
    second_state: PageState,
    code: u64,
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
    /// Instructions that lie in two pages, by the address of their first byte.
    crossings: AddressMap<Crossing>,
    pending: AddressMap<Vec<Pending>>,
    pending_count: usize,
    jumps: Box<[Jump]>,
    /// Numbers for [`Vcpu::code_key`]s; a number is used once.
    keys: AddressMap<u64>,
    next_key: u64,
    last_key: (u64, u64),
    /// Never moved: generated code holds their addresses.
    #[expect(clippy::vec_box, reason = "generated code holds the addresses of the elements")]
    interpreted: Vec<Box<Interpreted>>,
    encoder: Encoder,
    info: InstructionInfoFactory,
    /// Ways back into Rust, by reason.
    exits: [u64; reason::COUNT],
    /// How often the jump cache has become worthless, and blocks have been translated.
    invalidations: u64,
    translated: u64,
    /// [`guest_memory::CodePages::ended`] when the jump cache was known to be good.
    pub ended: u64,
    /// [`crate::extension::ExtensionState::generation`] for which the code is good.
    pub thunks: u64,
    /// Blocks are not linked with each other.
    pub unlinked: bool,
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
            crossings: AddressMap::default(),
            pending: AddressMap::default(),
            pending_count: 0,
            jumps: (0..JUMPS).map(no_jump).collect(),
            keys: AddressMap::default(),
            next_key: 1,
            last_key: (u64::MAX, 0),
            interpreted: Vec::new(),
            encoder: Encoder::new(64),
            info: InstructionInfoFactory::new(),
            exits: [0; reason::COUNT],
            invalidations: 0,
            translated: 0,
            ended: 0,
            thunks: 0,
            unlinked: false,
        });
        translator.clear();
        Ok(translator)
    }

    /// Forgets all blocks.
    pub fn clear(&mut self) {
        self.blocks.clear();
        self.crossings.clear();
        self.pending.clear();
        self.pending_count = 0;
        self.interpreted.clear();
        self.forget_keys();
        self.arena.clear();
        let mut emitter = Emitter::new(self.arena.next());
        let interpret = slow::interpret as *const () as u64;
        self.stubs = stubs::write(&mut emitter, interpret, slow::access as *const () as u64);
        self.arena.add(&emitter.finish());
    }

    /// Makes all entries of the jump cache worthless.
    pub fn forget_keys(&mut self) {
        self.invalidations += 1;
        self.keys.clear();
        self.last_key = (u64::MAX, 0);
    }

    /// The number under which the jump cache knows a [`Vcpu::code_key`].
    pub fn key(&mut self, code_key: u64) -> u64 {
        if self.last_key.0 == code_key {
            return self.last_key.1;
        }
        if self.keys.len() >= KEYS {
            self.keys.clear();
        }
        let next = &mut self.next_key;
        let key = *self.keys.entry(code_key).or_insert_with(|| {
            *next += 1;
            *next
        });
        self.last_key = (code_key, key);
        key
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
        let reason = unsafe {
            let enter: unsafe extern "sysv64" fn(u64) -> u64 =
                std::mem::transmute(self.stubs.enter as *const ());
            enter(code)
        };
        if let Some(count) = self.exits.get_mut(reason as usize) {
            *count += 1;
        }
        reason
    }

    /// The code of the block at `gpa`, whose page is in `state`; `None` if the instruction there does not
    /// lie in one page.
    pub fn code(&mut self, cpu: &mut Vcpu, gpa: u64, state: PageState) -> Option<u64> {
        match self.blocks.get(&gpa) {
            Some(block) if block.state == state => Some(block.saved),
            _ => self.translate(cpu, gpa, state),
        }
    }

    /// The code of the instruction at `gpa` that goes on in the page at `second`.
    pub fn crossing(
        &mut self,
        cpu: &mut Vcpu,
        (gpa, state): (u64, PageState),
        (second, second_state): (u64, PageState),
    ) -> Option<u64> {
        if let Some(known) = self.crossings.get(&gpa)
            && (known.state, known.second, known.second_state) == (state, second, second_state)
        {
            return Some(known.code);
        }
        self.make_room();
        let mut bytes = [0; 30];
        let here = (PAGE - (gpa & 0xfff) as usize).min(15);
        cpu.shared.memory.read_slice(&mut bytes[..here], GuestAddress(gpa)).ok()?;
        cpu.shared.memory.read_slice(&mut bytes[here..here + 15], GuestAddress(second)).ok()?;
        let offset = (gpa & 0xfff) as u16;
        let (guests, end) = scan_crossing(&bytes[..15], offset);
        let lowered = self.lower(cpu, &guests, end, |_| &bytes[..15]);
        let code = lowered.saved;
        self.arena.add(&lowered.code)?;
        self.link(gpa, state, lowered.links);
        self.crossings.insert(gpa, Crossing { state, second, second_state, code });
        Some(code)
    }

    fn make_room(&mut self) {
        let many = self.blocks.len() >= BLOCKS || self.crossings.len() >= BLOCKS;
        if self.arena.room() < LARGEST || many || self.pending_count >= PENDING {
            self.clear();
        }
    }

    fn translate(&mut self, cpu: &mut Vcpu, gpa: u64, state: PageState) -> Option<u64> {
        self.make_room();
        let mut page = [0; PAGE];
        cpu.shared.memory.read_slice(&mut page, GuestAddress(gpa & !0xfff)).ok()?;
        let (guests, end) = scan(&page, (gpa & 0xfff) as u16);
        if guests.is_empty() {
            return None;
        }
        let lowered = self.lower(cpu, &guests, end, |guest| {
            let bytes = page.get(usize::from(guest.start)..).unwrap_or_default();
            bytes.get(..15).unwrap_or(bytes)
        });
        self.install(gpa, state, lowered)
    }

    /// Writes the code of a block; `bytes` are those of an instruction.
    fn lower<'a>(
        &mut self,
        cpu: &mut Vcpu,
        guests: &[Guest],
        end: End,
        bytes: impl Fn(&Guest) -> &'a [u8],
    ) -> Lowered {
        self.translated += 1;
        let interpreted = &mut self.interpreted;
        let thunks = cpu.extension.generation();
        let writer = Writer::new(self.arena.next(), &self.stubs, &mut self.encoder, &mut self.info);
        writer.block(guests, end, |guest| {
            let ops = decode_one(cpu, bytes(guest)).unwrap_or_default();
            let mnemonic = guest.instruction.mnemonic();
            let mut record = Box::new(Interpreted { ops, thunks, mnemonic, runs: 0 });
            let address = &raw mut *record as u64;
            interpreted.push(record);
            address
        })
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
        self.link(gpa, state, links);
        Some(block.saved)
    }

    /// Links jumps within the page of `gpa`.
    fn link(&mut self, gpa: u64, state: PageState, links: Vec<Link>) {
        if self.unlinked {
            return;
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
        tracing::debug!(
            blocks = self.blocks.len(),
            translated = self.translated,
            invalidations = self.invalidations,
            keys = self.next_key,
            exits = ?self.exits,
            ?interpreted,
            "translated code ends"
        );
    }
}

#[cfg(test)]
impl Translator {
    /// Number of blocks.
    pub fn len(&self) -> usize {
        self.blocks.len()
    }
}
