//! Overlay pages (TLFS, "GPA Overlay Pages"): pages of the hypervisor that cover a page of guest RAM.
//!
//! Processors and devices reach RAM directly, so an overlay is put in place by exchanging contents: while
//! it covers a guest page, that page holds the overlay's contents and the overlay keeps what was there
//! before; when it goes, both change back. Thus contents follow an overlay that moves, and what it
//! covered is untouched. The exchange is not atomic for other processors. Overlays on top of each other
//! give the guest mixed contents, as the specification warns, and harm nobody else.
//!
//! Pages outside RAM cannot be covered: the overlay then is where nobody reaches it.

use std::sync::atomic::Ordering;

use guest_memory::GuestMemory;
use tlfs::PAGE_SIZE;
use vm_memory::bitmap::Bitmap;
use vm_memory::{AtomicInteger, Bytes, GuestAddress, GuestMemoryBackend, VolatileMemory};

/// Contents of a page.
pub(crate) type Page = [u8; PAGE_SIZE];

/// An overlay page.
pub(crate) struct Overlay {
    /// The overlay's contents while it is away; what it covers while it is in place.
    other: Box<Page>,
    at: Option<u64>,
}

impl Overlay {
    /// An overlay of zeros that is away.
    pub fn new() -> Self {
        Self { other: Box::new([0; PAGE_SIZE]), at: None }
    }

    /// Guest physical address of the page that is covered.
    #[inline]
    pub fn at(&self) -> Option<u64> {
        self.at
    }

    /// Puts the overlay over the page at `gpa`, from wherever it is, or takes it away. False if there is
    /// no RAM at `gpa`: the overlay is away then.
    pub fn place(&mut self, memory: &GuestMemory, gpa: Option<u64>) -> bool {
        if self.at == gpa {
            return true;
        }
        if let Some(at) = self.at.take() {
            // RAM does not go away, so this cannot fail; if it did, the contents would be lost with it.
            self.exchange(memory, at);
        }
        let Some(gpa) = gpa else { return true };
        let placed = self.exchange(memory, gpa);
        self.at = placed.then_some(gpa);
        placed
    }

    /// Like [`Self::place`], with new contents.
    pub fn place_with(&mut self, memory: &GuestMemory, gpa: u64, contents: &Page) -> bool {
        self.place(memory, None);
        self.other.copy_from_slice(contents);
        self.place(memory, Some(gpa))
    }

    /// Takes the overlay away and clears it.
    pub fn reset(&mut self, memory: &GuestMemory) {
        self.place(memory, None);
        self.other.fill(0);
    }

    fn exchange(&mut self, memory: &GuestMemory, gpa: u64) -> bool {
        let mut there = [0; PAGE_SIZE];
        if memory.read_slice(&mut there, GuestAddress(gpa)).is_err() {
            return false;
        }
        if memory.write_slice(&self.other[..], GuestAddress(gpa)).is_err() {
            return false;
        }
        self.other.copy_from_slice(&there);
        true
    }

    /// Clears bits of the word at the beginning of the overlay, wherever it is, and returns the old word.
    /// Atomic against the guest.
    pub fn clear_bits(&mut self, memory: &GuestMemory, bits: u32) -> u32 {
        let clear = |word: &std::sync::atomic::AtomicU32| word.fetch_and(!bits, Ordering::SeqCst);
        if let Some(old) = self.at.and_then(|gpa| atomic(memory, gpa, clear)) {
            return old;
        }
        let old = self.first_word();
        self.other[..4].copy_from_slice(&(old & !bits).to_le_bytes());
        old
    }

    /// The word at the beginning of the overlay, wherever it is.
    pub fn word(&self, memory: &GuestMemory) -> u32 {
        let load = |word: &std::sync::atomic::AtomicU32| word.load(Ordering::SeqCst);
        self.at.and_then(|gpa| observe(memory, gpa, load)).unwrap_or_else(|| self.first_word())
    }

    fn first_word(&self) -> u32 {
        u32::from_le_bytes([self.other[0], self.other[1], self.other[2], self.other[3]])
    }
}

/// Changes an integer in guest memory atomically. `None` outside RAM or if `gpa` is not aligned.
#[inline]
pub(crate) fn atomic<T: AtomicInteger, R>(
    memory: &GuestMemory,
    gpa: u64,
    change: impl FnOnce(&T) -> R,
) -> Option<R> {
    let slice = memory.get_slice(GuestAddress(gpa), size_of::<T>()).ok()?;
    let result = change(slice.get_atomic_ref::<T>(0).ok()?);
    slice.bitmap().mark_dirty(0, size_of::<T>());
    Some(result)
}

/// Like [`atomic`], for a look only.
#[inline]
pub(crate) fn observe<T: AtomicInteger, R>(
    memory: &GuestMemory,
    gpa: u64,
    look: impl FnOnce(&T) -> R,
) -> Option<R> {
    let slice = memory.get_slice(GuestAddress(gpa), size_of::<T>()).ok()?;
    Some(look(slice.get_atomic_ref::<T>(0).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory() -> GuestMemory {
        guest_memory::allocate(4 * PAGE_SIZE as u64).unwrap().0
    }

    fn byte(memory: &GuestMemory, gpa: u64) -> u8 {
        memory.read_obj(GuestAddress(gpa)).unwrap()
    }

    #[test]
    fn what_is_covered_comes_back_and_contents_follow_the_overlay() {
        let memory = memory();
        memory.write_obj(1u8, GuestAddress(0x1000)).unwrap();
        memory.write_obj(2u8, GuestAddress(0x2000)).unwrap();
        let mut overlay = Overlay::new();
        assert!(overlay.place(&memory, Some(0x1000)));
        assert_eq!(byte(&memory, 0x1000), 0);
        memory.write_obj(9u8, GuestAddress(0x1000)).unwrap();
        assert!(overlay.place(&memory, Some(0x2000)));
        assert_eq!((byte(&memory, 0x1000), byte(&memory, 0x2000)), (1, 9));
        assert!(overlay.place(&memory, None));
        assert_eq!(byte(&memory, 0x2000), 2);
    }

    #[test]
    fn outside_ram_an_overlay_is_away() {
        let memory = memory();
        let mut overlay = Overlay::new();
        assert!(overlay.place(&memory, Some(0x3000)));
        memory.write_obj(7u8, GuestAddress(0x3000)).unwrap();
        assert!(!overlay.place(&memory, Some(0x4000)));
        assert_eq!((overlay.at(), byte(&memory, 0x3000)), (None, 0));
        assert!(!overlay.place(&memory, Some(0xffff_ffff_ffff_f000)));
        assert_eq!(overlay.word(&memory), 7);
    }
}
