//! The translated blocks of one processor, and the ways to find them.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use guest_memory::{CodePages, PageState};
use iced_x86::{CpuidFeature, Encoder, InstructionInfoFactory, Mnemonic};

use super::bases_can_be_set;
use super::block::{Guest, PAGE, Scan, scan, scan_crossing};
use super::counts::{Counts, Told};
use super::emit::Emitter;
use super::inspect::{Inspection, Translated};
use super::library::{Source, Translation};
use super::lower::{Ahead, Crossing, Entries, HEAD, Link, Lowered, Place, Tools, Way, Writer};
use super::mode::Mode;
use super::slow::{self, Interpreted};
use super::state::{JUMPS, Jump, jump_slot, no_jump};
use super::stubs::{self, Stubs};
use crate::address::AddressMap;
use crate::extension::{Arena, Host};
use crate::vcpu::Vcpu;

/// Bytes of code that all processors of a machine keep, and one at the most and at the least.
const ARENAS: usize = 128 << 20;
const ARENA: std::ops::RangeInclusive<usize> = 8 << 20..=48 << 20;
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
/// How often a jump to another page is linked anew before it is left to the jump cache.
const RELINKS: u8 = 8;
/// From here on keys are renewed. Generated code compares 32 bits, of which all ones is no key; a look-up of a
/// block takes a few.
const LAST_KEY: u64 = u32::MAX as u64 - 64;

/// Which block: a guest physical address, for which mode, and whether it shares look-ups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Name(u64);

impl Name {
    fn new(gpa: u64, mode: Mode, plain: bool) -> Self {
        Self(gpa << 5 | mode.number() << 1 | u64::from(plain))
    }

    fn gpa(self) -> u64 {
        self.0 >> 5
    }

    fn mode(self) -> Mode {
        Mode::from_number(self.0 >> 1 & 0xf)
    }

    fn plain(self) -> bool {
        self.0 & 1 != 0
    }

    /// As what the machine's processors know it, of an instruction that lies in two pages or of a block in one.
    fn shared(self, crossing: bool) -> u64 {
        self.0 << 1 | u64::from(crossing)
    }

    /// The block at another offset of the same page.
    fn at(self, offset: u16, plain: bool) -> Self {
        Self::new(self.gpa() & !(PAGE as u64 - 1) | u64::from(offset), self.mode(), plain)
    }
}

/// A translated block.
struct Block {
    name: Name,
    entries: Entries,
    /// The word of its page when it was last known to be good.
    state: PageState,
    /// Guest physical address of the page on which its only instruction goes on, and its word.
    second: Option<(u64, PageState)>,
    /// False while its ways in lead out.
    valid: bool,
    /// How its ways in begin while it is valid.
    heads: [[u8; HEAD]; 4],
    source: Source,
}

/// How a block is known: its name, the word of its page, and of the page on which its only instruction goes on, with
/// that page's guest physical address.
type Known = (Name, PageState, Option<(u64, PageState)>);

/// A jump to another page.
struct Crossroad {
    place: Crossing,
    relinks: u8,
}

/// A jump that waits for its target to be translated.
#[derive(Clone, Copy)]
struct Pending {
    at: u64,
    way: Way,
}

/// Everything that one processor has translated.
pub struct Translator {
    arena: Arena,
    /// Addresses are distances from the arena's start.
    stubs: Stubs,
    blocks: Vec<Block>,
    /// Numbers of blocks.
    names: AddressMap<u32>,
    /// Instructions that lie in two pages. Nothing in their page is linked to them: they are found through
    /// jumps whose key vouches for the mapping of both pages.
    crossings: AddressMap<u32>,
    /// Numbers of the blocks that depend on a page, by guest frame number.
    pages: AddressMap<Vec<u32>>,
    pending: AddressMap<Vec<Pending>>,
    pending_count: usize,
    crossroads: Vec<Crossroad>,
    jumps: Box<[Jump]>,
    /// Numbers for [`Vcpu::block_key`]s; a number is used once.
    keys: AddressMap<u64>,
    next_key: u64,
    last_key: (u64, u64),
    /// Never moved: generated code holds their addresses.
    #[expect(clippy::vec_box, reason = "generated code holds the addresses of the elements")]
    interpreted: Vec<Box<Interpreted>>,
    /// Those of the last block's.
    addresses: Vec<u64>,
    encoder: Encoder,
    /// The last block that has been translated, for its memory, and the code that has come into the arena last.
    lowered: Lowered,
    placed: Vec<u8>,
    page: Option<Box<PageCopy>>,
    info: InstructionInfoFactory,
    bmi2: bool,
    pub counts: Counts,
    /// What others know of them.
    pub told: Told,
    inspection: Arc<Inspection>,
    /// Where in the last block the code of each instruction begins, if somebody wants to know.
    marks: Vec<u64>,
    /// [`CodePages::ended`] up to which blocks of written pages have been barred.
    pub ended: u64,
    /// Blocks are not linked with each other.
    pub unlinked: bool,
}

/// The page of which a block was made last: the next one is likely to be of the same page.
struct PageCopy {
    bytes: [u8; PAGE],
    /// Guest frame number, and the page's word before it was read.
    of: Option<(u64, PageState)>,
}

impl Default for PageCopy {
    fn default() -> Self {
        Self { bytes: [0; PAGE], of: None }
    }
}

impl PageCopy {
    /// Makes it the page `gfn`, whose word is `state` now. `None` if there is no such page.
    fn refresh(&mut self, cpu: &Vcpu, gfn: u64, state: PageState) -> Option<()> {
        if self.of != Some((gfn, state)) {
            self.of = None;
            cpu.shared.read_code(&mut self.bytes, gfn << 12)?;
            self.of = Some((gfn, state));
        }
        Some(())
    }
}

/// A block that has been found.
#[derive(Debug, Clone, Copy)]
pub struct Found {
    pub saved: u64,
    pub resume: u64,
}

// SAFETY: the pointers in the jump cache lead into the arena, which moves along.
unsafe impl Send for Translator {}

impl Translator {
    /// A translator without blocks, for one of so many processors.
    ///
    /// # Errors
    /// When the host refuses executable memory.
    pub fn new(processors: usize, inspection: Arc<Inspection>) -> io::Result<Box<Self>> {
        if !bases_can_be_set() {
            tracing::error!("the host does not offer FSGSBASE, guest code is interpreted");
            return Err(io::ErrorKind::Unsupported.into());
        }
        let arena = Arena::new((ARENAS / processors.max(1)).clamp(*ARENA.start(), *ARENA.end()))
            .inspect_err(|error| {
                tracing::error!(
                    "no executable memory for translated code, guest code is interpreted: {error}"
                );
            })?;
        let mut translator = Box::new(Self {
            arena,
            stubs: Stubs::default(),
            blocks: Vec::new(),
            names: AddressMap::default(),
            crossings: AddressMap::default(),
            pages: AddressMap::default(),
            pending: AddressMap::default(),
            pending_count: 0,
            crossroads: Vec::new(),
            jumps: (0..JUMPS).map(no_jump).collect(),
            keys: AddressMap::default(),
            next_key: 1,
            last_key: (u64::MAX, 0),
            interpreted: Vec::new(),
            addresses: Vec::new(),
            encoder: Encoder::new(64),
            lowered: Lowered::default(),
            placed: Vec::new(),
            page: None,
            info: InstructionInfoFactory::new(),
            bmi2: Host::get().offers(CpuidFeature::BMI2),
            counts: Counts::default(),
            told: Told::new(),
            inspection,
            marks: Vec::new(),
            ended: 0,
            unlinked: false,
        });
        translator.clear();
        Ok(translator)
    }

    /// Forgets all blocks.
    pub fn clear(&mut self) {
        self.counts.cleared += 1;
        self.blocks.clear();
        self.names.clear();
        self.crossings.clear();
        self.pages.clear();
        self.pending.clear();
        self.pending_count = 0;
        self.crossroads.clear();
        self.interpreted.clear();
        self.jumps.iter_mut().enumerate().for_each(|(slot, jump)| *jump = no_jump(slot));
        self.arena.clear();
        let start = self.arena.next();
        let mut emitter = Emitter::new(0);
        let interpret = slow::interpret as *const () as u64;
        self.stubs = stubs::write(&mut emitter, interpret, slow::access as *const () as u64);
        self.inspection.stubs(self.stubs, start, emitter.here());
        self.arena.add(&emitter.finish().code);
    }

    /// Begins with the keys anew if they are nearly spent, which forgets all blocks: those that bear one. Whether
    /// it did.
    pub fn renew_keys(&mut self) -> bool {
        let spent = self.next_key >= LAST_KEY;
        if spent {
            self.clear();
            self.next_key = 1;
            self.keys.clear();
            self.last_key = (u64::MAX, 0);
        }
        spent
    }

    /// The number under which the jump cache knows a [`Vcpu::block_key`]. Takes no more than one new number;
    /// [`Self::renew_keys`] sees to it that there are some.
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

    /// The stub by which Rust enters generated code: `extern "sysv64" fn(entry) -> reason`.
    pub fn way_in(&self) -> u64 {
        self.arena.start() + self.stubs.enter
    }

    /// Counts a return from generated code.
    pub fn came_back(&mut self, reason: u64) {
        if let Some(count) = self.counts.exits.get_mut(reason as usize) {
            *count += 1;
        }
    }

    fn found(&self, number: u32) -> Found {
        let entries = &self.blocks[number as usize].entries;
        Found { saved: entries.saved, resume: entries.resume }
    }

    /// The block at `gpa`, whose page is in `state`; `None` if the instruction there does not lie in one
    /// page.
    pub fn block(&mut self, cpu: &mut Vcpu, gpa: u64, state: PageState, plain: bool) -> Option<Found> {
        let name = Name::new(gpa, cpu.block_mode()?, plain);
        let known = self.names.get(&name.0).copied();
        if let Some(number) = known
            && self.is_good(cpu, number, (state, None))
        {
            return Some(self.found(number));
        }
        let room = self.make_room();
        let mut copy = self.page.take().unwrap_or_default();
        copy.refresh(cpu, gpa >> 12, state)?;
        let page = &copy.bytes;
        let before = known.filter(|_| room);
        let shared = name.shared(false);
        let found = if let Some(known) = cpu.shared.library.take(shared, |source| source.is_in(page)) {
            self.counts.taken += 1;
            self.install((name, state, None), known.source.clone(), &known.lowered, before)
        } else {
            let scan = scan(page, (gpa & 0xfff) as u16, name.mode());
            if scan.guests.is_empty() {
                return None;
            }
            let bytes = |guest: &Guest| page.get(usize::from(guest.start)..).unwrap_or_default();
            let source = Source::gather(scan.extents.clone(), page);
            self.translate(cpu, (name, state, None), (&scan, source), bytes, before)
        };
        self.page = Some(copy);
        found
    }

    /// The block of the instruction at `gpa` that goes on in the page at `second`.
    pub fn crossing(
        &mut self,
        cpu: &mut Vcpu,
        (gpa, state): (u64, PageState),
        second: (u64, PageState),
    ) -> Option<Found> {
        let name = Name::new(gpa, cpu.block_mode()?, true);
        let known = self.crossings.get(&name.0).copied();
        if let Some(number) = known
            && self.is_good(cpu, number, (state, Some(second)))
        {
            return Some(self.found(number));
        }
        self.make_room();
        let bytes = two_pages(cpu, gpa, second.0)?;
        // Another second page is another block.
        let (known, before) = ((name, state, Some(second)), None);
        if let Some(taken) = cpu.shared.library.take(name.shared(true), |source| *source.bytes == bytes) {
            self.counts.taken += 1;
            return self.install(known, taken.source.clone(), &taken.lowered, before);
        }
        let scan = scan_crossing(&bytes, (gpa & 0xfff) as u16, name.mode());
        let source = Source { extents: scan.extents.clone().into(), bytes: bytes.into() };
        self.translate(cpu, known, (&scan, source), |_| &bytes, before)
    }

    /// Whether block `number` is what is in memory now; it may be entered then.
    fn is_good(
        &mut self,
        cpu: &mut Vcpu,
        number: u32,
        (state, second): (PageState, Option<(u64, PageState)>),
    ) -> bool {
        let block = &self.blocks[number as usize];
        if block.second.map(|(gpa, _)| gpa) != second.map(|(gpa, _)| gpa) {
            return false;
        }
        if (block.valid, block.state, block.second) == (true, state, second) {
            return true;
        }
        let now: Box<[u8]> = match second {
            Some((gpa, _)) => match two_pages(cpu, block.name.gpa(), gpa) {
                Some(bytes) => bytes.into(),
                None => return false,
            },
            None => match read_extents(cpu, block) {
                Some(bytes) => bytes,
                None => return false,
            },
        };
        if now != block.source.bytes {
            self.counts.changed += 1;
            return false;
        }
        self.counts.renewed += 1;
        let block = &mut self.blocks[number as usize];
        (block.state, block.second, block.valid) = (state, second, true);
        let (heads, ways) = (block.heads, block.entries.ways());
        for (at, head) in ways.into_iter().zip(heads) {
            self.arena.patch(at, &head);
        }
        true
    }

    /// Bars all blocks of the page `gfn` if it has been written since they were last known to be good.
    pub fn end_page(&mut self, code: &CodePages, gfn: u64) {
        let Some(mut numbers) = self.pages.remove(&gfn) else { return };
        self.counts.ended += 1;
        let state = code.state(gfn);
        // Whoever has been replaced is not looked at again.
        numbers.retain(|&number| {
            let name = self.blocks[number as usize].name.0;
            [&self.names, &self.crossings].into_iter().any(|map| map.get(&name) == Some(&number))
        });
        for &number in &numbers {
            let block = &mut self.blocks[number as usize];
            let word =
                if block.name.gpa() >> 12 == gfn { Some(block.state) } else { block.second.map(|s| s.1) };
            if !block.valid || word == Some(state) {
                continue;
            }
            block.valid = false;
            let entries = block.entries;
            for (way, out) in entries.ways().into_iter().zip(entries.ways_out()) {
                self.divert(way, out);
            }
        }
        if !numbers.is_empty() {
            self.pages.insert(gfn, numbers);
        }
    }

    /// Bars the blocks of all pages that have been written.
    pub fn end_pages(&mut self, code: &CodePages) {
        let pages: Vec<u64> = self.pages.keys().copied().collect();
        for gfn in pages {
            self.end_page(code, gfn);
        }
    }

    /// Makes the code at `from` a jump.
    fn divert(&mut self, from: u64, to: u64) {
        let mut head = [0xe9; HEAD];
        let distance = to.wrapping_sub(from + HEAD as u64) as u32;
        head[1..].copy_from_slice(&distance.to_le_bytes());
        self.arena.patch(from, &head);
    }

    /// False if everything had to be forgotten.
    fn make_room(&mut self) -> bool {
        let room = self.arena.room() >= LARGEST
            && self.blocks.len() < BLOCKS
            && self.pending_count < PENDING
            && self.crossroads.len() < PENDING;
        if !room {
            self.clear();
        }
        room
    }

    /// Writes the code of a block, makes it known here and lays it out for other processors; `bytes` are those of
    /// an instruction. For the rest see [`Self::install`].
    fn translate<'a>(
        &mut self,
        cpu: &mut Vcpu,
        known: Known,
        (scan, source): (&Scan, Source),
        bytes: impl Fn(&Guest) -> &'a [u8],
        before: Option<u32>,
    ) -> Option<Found> {
        self.counts.translated += 1;
        self.marks.clear();
        let (name, _, second) = known;
        let tools = Tools {
            stubs: &self.stubs,
            encoder: &mut self.encoder,
            info: &mut self.info,
            lowered: std::mem::take(&mut self.lowered),
            plain: name.plain(),
            bmi2: self.bmi2,
            counting: self.inspection.count,
            marks: self.inspection.dump.is_some().then_some(&mut self.marks),
        };
        let lowered = Writer::new(tools).block(scan, bytes);
        let make = || Translation { source: source.clone(), lowered: lowered.clone() };
        cpu.shared.library.add(name.shared(second.is_some()), make);
        let origin = self.arena.next();
        let found = self.install(known, source, &lowered, before);
        self.lowered = lowered;
        self.inspection.block(&Translated {
            rip: cpu.rip,
            gpa: name.gpa(),
            plain: name.plain(),
            scan,
            origin,
            code: &self.placed,
            marks: &self.marks,
            stubs: (&self.stubs, self.arena.start()),
        });
        found
    }

    /// Makes a block known; it takes the place of the block `before`.
    fn install(
        &mut self,
        (name, state, second): Known,
        source: Source,
        lowered: &Lowered,
        before: Option<u32>,
    ) -> Option<Found> {
        let origin = self.arena.next();
        let first = self.interpreted.len();
        let records = lowered.interpreted.iter().map(|&instruction| Box::new(Interpreted::new(instruction)));
        self.interpreted.extend(records);
        self.addresses.clear();
        self.addresses.extend(self.interpreted[first..].iter_mut().map(|record| &raw mut **record as u64));
        let place = Place {
            offset: origin - self.arena.start(),
            crossings: self.crossroads.len(),
            interpreted: &self.addresses,
        };
        lowered.place(&place, &mut self.placed);
        let (code, entries) = (&self.placed, lowered.entries.moved(origin));
        self.arena.add(code)?;
        let head = |at: u64| {
            let at = (at - origin) as usize;
            std::array::from_fn(|n| code.get(at + n).copied().unwrap_or(0x90))
        };
        let heads = entries.ways().map(head);
        let number = self.blocks.len() as u32;
        self.blocks.push(Block { name, entries, state, second, valid: true, heads, source });
        self.pages.entry(name.gpa() >> 12).or_default().push(number);
        if let Some((second, _)) = second {
            self.pages.entry(second >> 12).or_default().push(number);
            self.crossings.insert(name.0, number);
        } else {
            self.names.insert(name.0, number);
            for waiting in self.pending.remove(&name.0).unwrap_or_default() {
                self.pending_count -= 1;
                self.patch(waiting.at, waiting.way, entries);
            }
        }
        if let Some(before) = before {
            // Links lead there still.
            let old = self.blocks[before as usize].entries.ways();
            for (old, new) in old.into_iter().zip(entries.ways()) {
                self.divert(old, new);
            }
        }
        let crossings = lowered.crossings.iter().map(|crossing| crossing.moved(origin));
        self.crossroads.extend(crossings.map(|place| Crossroad { place, relinks: 0 }));
        self.link(name, lowered.links.iter().map(|link| link.moved(origin)));
        Some(self.found(number))
    }

    /// Links jumps within the page of the block `name`.
    fn link(&mut self, name: Name, links: impl Iterator<Item = Link>) {
        if self.unlinked {
            return;
        }
        for Link { at, target, way } in links {
            let target = name.at(target, way == Way::Plain);
            match self.names.get(&target.0) {
                Some(&found) => self.patch(at, way, self.blocks[found as usize].entries),
                None => {
                    self.pending.entry(target.0).or_default().push(Pending { at, way });
                    self.pending_count += 1;
                }
            }
        }
    }

    fn patch(&mut self, at: u64, way: Way, entries: Entries) {
        let to = match way {
            Way::Saved => entries.saved,
            Way::Resume | Way::Plain => entries.resume,
            Way::Direct => entries.direct,
            Way::Looped => entries.looped,
        };
        self.patch_distance(at, to);
    }

    fn patch_distance(&mut self, at: u64, to: u64) {
        let distance = to.wrapping_sub(at + 4) as u32;
        self.arena.patch(at, &distance.to_le_bytes());
    }

    /// Where a jump to another page goes.
    pub fn crossing_target(&self, number: u64) -> Ahead {
        self.crossroads.get(number as usize).map_or(Ahead::default(), |crossroad| crossroad.place.ahead)
    }

    /// Links a jump to another page with its target, for the address space of `key`.
    /// Whether this `counts`: in the upper half of the address space the key of before will not come back.
    pub fn link_crossroad(&mut self, number: u64, key: u64, target: Found, counts: bool) {
        let Some(crossroad) = self.crossroads.get_mut(number as usize) else { return };
        let place = crossroad.place;
        if crossroad.relinks >= RELINKS {
            self.counts.given_up += 1;
            self.patch_distance(place.other, place.look_up);
            return;
        }
        crossroad.relinks += u8::from(counts);
        self.counts.linked += 1;
        self.patch_distance(place.jump, target.resume);
        self.arena.patch(place.key, &(key as u32).to_le_bytes());
    }

    /// Which instructions have been left to the interpreter, by how often they ran.
    fn interpreted_counts(&self) -> Vec<(Mnemonic, u64)> {
        let mut counts: HashMap<Mnemonic, u64> = HashMap::new();
        for record in &self.interpreted {
            *counts.entry(record.instruction.mnemonic).or_default() += record.runs;
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
            keys = self.next_key,
            counts = ?self.counts,
            ?interpreted,
            "translated code ends"
        );
    }
}

/// What is now in memory where `block`, which lies in one page, was made from.
fn read_extents(cpu: &Vcpu, block: &Block) -> Option<Box<[u8]>> {
    let mut bytes = vec![0; block.source.bytes.len()];
    let mut rest = bytes.as_mut_slice();
    for &(offset, length) in &block.source.extents {
        let (here, after) = rest.split_at_mut_checked(usize::from(length))?;
        let gpa = block.name.gpa() & !(PAGE as u64 - 1) | u64::from(offset);
        cpu.shared.read_code(here, gpa)?;
        rest = after;
    }
    Some(bytes.into())
}

/// The longest instruction that begins at `gpa` and goes on in the page at `second`.
fn two_pages(cpu: &Vcpu, gpa: u64, second: u64) -> Option<[u8; 15]> {
    let mut bytes = [0; 15];
    let (here, there) = bytes.split_at_mut((PAGE - (gpa & 0xfff) as usize).min(15));
    cpu.shared.read_code(here, gpa)?;
    cpu.shared.read_code(there, second)?;
    Some(bytes)
}

#[cfg(test)]
impl Translator {
    /// Number of blocks.
    pub fn len(&self) -> usize {
        self.names.len()
    }
}
