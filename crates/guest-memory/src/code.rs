//! Which guest pages hold decoded code, and since when.
//!
//! Every guest frame has one 32-bit word: bit 0 says that some processor has decoded code from the page,
//! the rest is a generation that moves on when such a page is written. A processor remembers the word it
//! got from [`CodePages::mark`] with whatever it decoded; that is valid as long as the word is unchanged.
//!
//! Order: the decoder marks, then reads the bytes; the writer writes, then looks at the word. On x86 a
//! store may still be on its way when the word is read, so a writer on one processor and a decoder on
//! another may miss each other for some nanoseconds; the architecture asks software that modifies the
//! code of a running processor to synchronise by more than that (Intel SDM volume 3, section 9.1.3).

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

use vm_memory::bitmap::{Bitmap, BitmapSlice, NewBitmap, WithBitmapSlice};

use crate::PAGE_SHIFT;
use crate::mapping::Mapping;

/// The word of a page: a generation and whether it holds decoded code.
pub type PageState = u32;

const HAS_CODE: u32 = 1;
const GENERATION: u32 = 2;

/// Pages whose code has been ended that are remembered by number.
const LOG: usize = 4096;
/// Bits of a frame number in the log; above it stands how many entries came before.
const LOG_FRAME: u32 = 40;

/// The words of all pages of a machine, by guest frame number.
pub struct CodePages {
    words: Box<[AtomicU32]>,
    /// The first frame of ROM, and the words from there on. Nobody writes to it.
    rom_start: u64,
    rom: Box<[AtomicU32]>,
    /// How often code has been ended.
    ended: AtomicU64,
    /// Where, for the last [`LOG`] times.
    log: Box<[AtomicU64]>,
}

impl fmt::Debug for CodePages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CodePages").field("pages", &self.words.len()).finish()
    }
}

impl CodePages {
    /// Words for the frames below `frames`.
    pub fn new(frames: u64) -> Self {
        Self::with_rom(frames, 0..0)
    }

    /// Words for the frames below `frames`, and for those of `rom`, above them.
    pub fn with_rom(frames: u64, rom: Range<u64>) -> Self {
        let words = |range: Range<u64>| range.map(|_| AtomicU32::new(0)).collect();
        Self {
            words: words(0..frames),
            rom_start: rom.start,
            rom: words(rom),
            ended: AtomicU64::new(0),
            log: (0..LOG).map(|_| AtomicU64::new(u64::MAX)).collect(),
        }
    }

    /// Says that code of frame `gfn` is about to be decoded; returns the word to remember. Frames beyond
    /// RAM answer 0 and are never valid.
    pub fn mark(&self, gfn: u64) -> PageState {
        match self.word(gfn) {
            Some(word) => word.fetch_or(HAS_CODE, Ordering::SeqCst) | HAS_CODE,
            None => 0,
        }
    }

    /// The word of frame `gfn` now; 0 beyond RAM.
    #[inline]
    pub fn state(&self, gfn: u64) -> PageState {
        self.word(gfn).map_or(0, |word| word.load(Ordering::Relaxed))
    }

    /// Whether frame `gfn` holds decoded code.
    #[inline]
    pub fn holds_code(&self, gfn: u64) -> bool {
        self.state(gfn) & HAS_CODE != 0
    }

    /// A number that grows, after the page's word, whenever a page with decoded code has been written: while
    /// it stays the same, no code has become invalid.
    #[inline]
    pub fn ended(&self) -> u64 {
        self.ended.load(Ordering::Acquire)
    }

    /// Tells `frame` of each page whose code was ended between two answers of [`Self::ended`], some of them
    /// twice. False if that is not known: any page may have been.
    pub fn ended_between(&self, from: u64, to: u64, mut frame: impl FnMut(u64)) -> bool {
        if to.wrapping_sub(from) > LOG as u64 {
            return false;
        }
        (from..to).all(|number| {
            // Whoever counted may not have written yet, or a later one may have written over it.
            let entry = self.log[number as usize % LOG].load(Ordering::Acquire);
            let known = entry >> LOG_FRAME == number & (u64::MAX >> LOG_FRAME);
            if known {
                frame(entry & ((1 << LOG_FRAME) - 1));
            }
            known
        })
    }

    /// The word itself, for a processor that keeps a reference beside its translation of the page.
    #[inline]
    pub fn word(&self, gfn: u64) -> Option<&AtomicU32> {
        let at = |gfn: u64| usize::try_from(gfn).ok();
        match at(gfn).and_then(|index| self.words.get(index)) {
            None => gfn.checked_sub(self.rom_start).and_then(at).and_then(|index| self.rom.get(index)),
            word => word,
        }
    }

    /// Says that frame `gfn` has been written. True if it held code, which is invalid from now on.
    #[inline]
    pub fn written(&self, gfn: u64) -> bool {
        self.word(gfn).is_some_and(|word| Self::word_has_code(word) && self.word_written(word))
    }

    /// Ends the code of the page of `word`, got from [`Self::word`], which has been written. True if it held
    /// code.
    #[cold]
    pub fn word_written(&self, word: &AtomicU32) -> bool {
        if word.load(Ordering::Relaxed) & HAS_CODE == 0 {
            return false;
        }
        let bytes = std::ptr::from_ref(word).addr() - self.words.as_ptr().addr();
        // Several writers may end the same generation; each moves it on, which is harmless.
        let _ = word.fetch_update(Ordering::SeqCst, Ordering::Relaxed, |state| {
            Some(state.wrapping_add(GENERATION) & !HAS_CODE)
        });
        let number = self.ended.fetch_add(1, Ordering::SeqCst);
        let frame = (bytes / size_of::<AtomicU32>()) as u64;
        self.log[number as usize % LOG].store(number << LOG_FRAME | frame, Ordering::Release);
        true
    }

    /// Whether the page of `word` holds decoded code.
    #[inline(always)]
    pub fn word_has_code(word: &AtomicU32) -> bool {
        word.load(Ordering::Relaxed) & HAS_CODE != 0
    }

    /// Says that `len` bytes from guest physical address `gpa` have been written by a device.
    pub fn range_written(&self, gpa: u64, len: u64) {
        if len == 0 {
            return;
        }
        fence(Ordering::SeqCst);
        for gfn in gpa >> PAGE_SHIFT..=gpa.saturating_add(len - 1) >> PAGE_SHIFT {
            self.written(gfn);
        }
    }
}

/// The bitmap of a memory region, as `vm-memory` calls it: tells [`CodePages`] of every write.
#[derive(Clone, Default)]
pub struct WriteTracker {
    code: Option<Arc<CodePages>>,
    base: u64,
    /// The region's memory, which is there as long as the region.
    _memory: Option<Arc<Mapping>>,
}

impl WriteTracker {
    pub(crate) fn new(code: Arc<CodePages>, base: u64, memory: Arc<Mapping>) -> Self {
        Self { code: Some(code), base, _memory: Some(memory) }
    }
}

impl fmt::Debug for WriteTracker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WriteTracker").field("base", &self.base).finish()
    }
}

impl Bitmap for WriteTracker {
    fn mark_dirty(&self, offset: usize, len: usize) {
        if let Some(code) = &self.code {
            code.range_written(self.base + offset as u64, len as u64);
        }
    }

    fn dirty_at(&self, _offset: usize) -> bool {
        false
    }

    fn slice_at(&self, offset: usize) -> TrackerSlice<'_> {
        TrackerSlice { code: self.code.as_deref(), base: self.base + offset as u64 }
    }
}

impl<'a> WithBitmapSlice<'a> for WriteTracker {
    type S = TrackerSlice<'a>;
}

impl NewBitmap for WriteTracker {
    fn with_len(_len: usize) -> Self {
        Self::default()
    }
}

/// The part of a [`WriteTracker`] that belongs to a volatile slice.
#[derive(Clone, Copy, Debug)]
pub struct TrackerSlice<'a> {
    code: Option<&'a CodePages>,
    base: u64,
}

impl Bitmap for TrackerSlice<'_> {
    fn mark_dirty(&self, offset: usize, len: usize) {
        if let Some(code) = self.code {
            code.range_written(self.base + offset as u64, len as u64);
        }
    }

    fn dirty_at(&self, _offset: usize) -> bool {
        false
    }

    fn slice_at(&self, offset: usize) -> Self {
        Self { code: self.code, base: self.base + offset as u64 }
    }
}

impl<'a> WithBitmapSlice<'a> for TrackerSlice<'_> {
    type S = Self;
}

impl BitmapSlice for TrackerSlice<'_> {}
