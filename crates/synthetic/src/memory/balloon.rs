//! Which pages the guest has given, and the talk about them.

use std::ops::Range;

use super::protocol::{Capabilities, PageRange, VERSIONS, decode, encode, long, message, word};
use super::worker::MoreMemory;

/// The most pages that are asked for at once: 128 MiB.
const ASK: u64 = 1 << 15;
/// The most ranges of pages that are given back at once.
const RANGES: usize = 64;
/// The most pages of a range that is given back.
const RANGE: u64 = 1 << 12;
/// The most pages that are added at once, unless what is added at the least is more: 1 GiB.
const ADD: u64 = 1 << 18;
/// Status reports after which a guest that gave less than it was asked for is asked again.
const RETRY: u32 = 10;
/// What a guest is left beyond what it needs, as a part of that: one fifth.
const BUFFER: u64 = 5;
/// The guest gives or gets no less than this many pages: 16 MiB. Less is not worth the talk.
const LEAST: u64 = 1 << 12;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Closed,
    /// Nothing has been agreed upon.
    Open,
    Agreed,
    Ready,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    Nothing,
    /// So many pages, of which so many have come.
    Pages(u64, u64),
    /// To take pages back.
    Back,
    /// To take so many pages that it did not start with.
    More(u64),
}

/// The balloon of one guest. Sizes are pages.
pub(super) struct Balloon {
    /// Pages that the guest has or has given, and the fewest that it is left.
    total: u64,
    least: u64,
    /// What the guest can do.
    can: Capabilities,
    /// Whether it takes memory that it did not start with.
    grows: bool,
    /// Frames that the machine has and the guest has not taken yet.
    pending: Range<u64>,
    /// A bit for each frame that the guest has given.
    held: Vec<u64>,
    count: u64,
    phase: Phase,
    asked: Asked,
    /// How many pages the guest is to give.
    target: u64,
    /// How many it is to have at the end.
    wanted: u64,
    /// Status reports until a guest that gave less is asked again.
    patience: u32,
    /// What the guest says that it needs.
    demand: Option<u64>,
    transaction: u32,
    /// Messages that make no sense.
    pub strays: u64,
}

impl Balloon {
    /// The balloon of a guest that starts with `total` pages and is left `least` of them at the least; frame numbers are below
    /// `frames`.
    pub fn new(total: u64, least: u64, frames: u64) -> Self {
        Self {
            total,
            least: least.min(total),
            can: Capabilities(0),
            grows: false,
            pending: 0..0,
            held: vec![0; frames.div_ceil(64) as usize],
            count: 0,
            phase: Phase::Closed,
            asked: Asked::Nothing,
            target: 0,
            wanted: 0,
            patience: 0,
            demand: None,
            transaction: 0,
            strays: 0,
        }
    }

    /// The guest's driver has come. It has all pages.
    pub fn open(&mut self) {
        self.close();
        self.phase = Phase::Open;
    }

    /// The guest's driver has gone; whoever comes next has all pages.
    pub fn close(&mut self) {
        self.held.fill(0);
        (self.count, self.phase, self.asked) = (0, Phase::Closed, Asked::Nothing);
        (self.target, self.wanted, self.patience, self.demand) = (0, 0, 0, None);
        (self.can, self.grows) = (Capabilities(0), false);
    }

    /// Pages that the guest has or has given.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Pages that the guest has given.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Whether the guest's driver is ready.
    pub fn ready(&self) -> bool {
        self.phase == Phase::Ready
    }

    /// The guest has sent `data`: what is answered at once, if anything is. `free` is told of each range of pages that
    /// the guest has given, which it does not use any more.
    pub fn receive(&mut self, data: &[u8], free: &mut dyn FnMut(PageRange)) -> Option<Vec<u8>> {
        let Some((message_type, transaction, body)) = decode(data) else {
            self.strays += 1;
            return None;
        };
        let understood = match (message_type, self.phase) {
            (message::VERSION_REQUEST, Phase::Open | Phase::Agreed | Phase::Ready) => {
                let known = word(body, 0).is_some_and(|version| VERSIONS.contains(&version));
                self.phase = if known { Phase::Agreed } else { Phase::Open };
                return Some(encode(message::VERSION_RESPONSE, transaction, &[u32::from(known), 0]));
            }
            (message::CAPABILITIES_REPORT, Phase::Agreed) => {
                self.phase = Phase::Ready;
                self.can = Capabilities(word(body, 0).unwrap_or(0));
                self.grows = self.can.hot_add();
                return Some(encode(message::CAPABILITIES_RESPONSE, transaction, &[1, 0]));
            }
            (message::STATUS_REPORT, Phase::Ready) => self.status(body),
            (message::BALLOON_RESPONSE, Phase::Ready) => self.take(body, free),
            (message::UNBALLOON_RESPONSE, Phase::Ready) if self.asked == Asked::Back => {
                self.asked = Asked::Nothing;
                Some(())
            }
            (message::HOT_ADD_RESPONSE, Phase::Ready) => self.taken(body),
            _ => None,
        };
        self.strays += u64::from(understood.is_none());
        None
    }

    fn status(&mut self, body: &[u8]) -> Option<()> {
        let committed = long(body, 8)?;
        // What the guest has given counts as committed there.
        let demand = committed.saturating_sub(self.count);
        let growth = self.demand.map_or(0, |before| demand.saturating_sub(before));
        self.demand = Some(demand);
        self.patience = self.patience.saturating_sub(1);
        // Until the next report it may grow as much again, and faster.
        let wanted = demand.saturating_add(demand / BUFFER).saturating_add(growth.saturating_mul(2));
        self.wanted = wanted.max(self.least);
        let target = self.total.saturating_sub(self.wanted);
        if target.abs_diff(self.target) >= LEAST || target == 0 {
            // A guest in need does not wait.
            if target < self.target {
                self.patience = 0;
            }
            self.target = target;
        }
        Some(())
    }

    fn take(&mut self, body: &[u8], free: &mut dyn FnMut(PageRange)) -> Option<()> {
        let Asked::Pages(asked, mut got) = self.asked else { return None };
        let flags = word(body, 4)?;
        let (more, ranges) = (flags & 1 != 0, (flags >> 1) as usize);
        for index in 0..ranges {
            // More than there are are none.
            let range = PageRange::unpack(long(body, 8 + 8 * index)?);
            got += self.hold(range, free);
        }
        self.asked = if more { Asked::Pages(asked, got) } else { Asked::Nothing };
        if !more && got < asked {
            self.patience = RETRY;
        }
        Some(())
    }

    /// The guest says how much it has taken of what was added.
    fn taken(&mut self, body: &[u8]) -> Option<()> {
        let Asked::More(pages) = self.asked else { return None };
        let (count, result) = (u64::from(word(body, 0)?), word(body, 4)?);
        self.asked = Asked::Nothing;
        let taken = count.min(pages);
        self.total += taken;
        self.pending.start += taken;
        match (taken, result) {
            (0, 0) => self.patience = RETRY,
            // It has met its limit.
            _ if taken < pages => self.grows = false,
            _ => {}
        }
        (count <= pages).then_some(())
    }

    /// Notes that the guest has given `range`, as far as it is memory and has not been given before. How many pages
    /// that is.
    fn hold(&mut self, range: PageRange, free: &mut dyn FnMut(PageRange)) -> u64 {
        let end = range.start.saturating_add(range.count).min(self.held.len() as u64 * 64);
        let mut new = 0;
        for frame in range.start.min(end)..end {
            let (word, bit) = (&mut self.held[(frame / 64) as usize], 1 << (frame % 64));
            new += u64::from(*word & bit == 0);
            *word |= bit;
        }
        self.count += new;
        if end > range.start {
            free(PageRange { start: range.start, count: end - range.start });
        }
        new
    }

    /// What there is to ask of the guest now. `more` is what can be added to its memory, and is added here.
    pub fn next(&mut self, more: &dyn MoreMemory) -> Option<Vec<u8>> {
        if self.phase != Phase::Ready || self.asked != Asked::Nothing {
            return None;
        }
        if self.count > self.target {
            let ranges = self.release(self.count - self.target);
            self.asked = Asked::Back;
            let mut words = vec![0, ranges.len() as u32];
            for range in ranges.into_iter().map(PageRange::pack) {
                words.extend([range as u32, (range >> 32) as u32]);
            }
            return Some(self.message(message::UNBALLOON_REQUEST, &words));
        }
        if self.wanted > self.total {
            return self.grow(more);
        }
        let missing = self.target - self.count;
        if missing < LEAST || self.patience > 0 {
            return None;
        }
        let pages = missing.min(ASK);
        self.asked = Asked::Pages(pages, 0);
        Some(self.message(message::BALLOON_REQUEST, &[pages as u32, 0]))
    }

    /// Has the machine get more memory, if the guest takes it.
    fn grow(&mut self, more: &dyn MoreMemory) -> Option<Vec<u8>> {
        if !self.grows || self.patience > 0 {
            return None;
        }
        let wanted = (self.wanted - self.total).min(ADD);
        while self.pending.end - self.pending.start < wanted {
            let Some(next) = more.next() else { break };
            let aligned = |frame: u64| frame.is_multiple_of(self.can.hot_add_alignment());
            let follows = self.pending.is_empty() || self.pending.end == next.start;
            if !aligned(next.start) || !aligned(next.end) || !follows {
                break;
            }
            if let Err(error) = more.add() {
                tracing::error!(%error, "no memory is added to the guest's any more");
                self.grows = false;
                break;
            }
            let start = if self.pending.is_empty() { next.start } else { self.pending.start };
            self.pending = start..next.end;
        }
        let range = PageRange { start: self.pending.start, count: self.pending.end - self.pending.start };
        if range.count == 0 {
            return None;
        }
        self.asked = Asked::More(range.count);
        // What is added, and the region in which that is: the same.
        let packed = [range.pack() as u32, (range.pack() >> 32) as u32];
        Some(self.message(message::HOT_ADD_REQUEST, &[packed, packed].concat()))
    }

    fn message(&mut self, message_type: u16, words: &[u32]) -> Vec<u8> {
        self.transaction = self.transaction.wrapping_add(1);
        encode(message_type, self.transaction, words)
    }

    /// Takes some `pages` from those that are held.
    fn release(&mut self, mut pages: u64) -> Vec<PageRange> {
        let mut ranges: Vec<PageRange> = Vec::new();
        for index in 0..self.held.len() {
            while self.held[index] != 0 && pages > 0 {
                let frame = index as u64 * 64 + u64::from(self.held[index].trailing_zeros());
                let full = ranges.len() == RANGES;
                match ranges.last_mut() {
                    Some(last) if last.start + last.count == frame && last.count < RANGE => last.count += 1,
                    _ if full => return ranges,
                    _ => ranges.push(PageRange { start: frame, count: 1 }),
                }
                self.held[index] &= self.held[index] - 1;
                self.count -= 1;
                pages -= 1;
            }
        }
        ranges
    }
}
