//! Translations that the processors of a machine hand to each other.
//!
//! Each processor has the code that it runs to itself, so that it links and bars blocks without asking anybody. What a
//! processor has translated is laid out here for the others, which put it where they need it: that takes a small part
//! of the time of a translation.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::block::{Extent, PAGE};
use super::lower::Lowered;
use crate::address::AddressMap;

/// Bytes of what is laid out last; of what was laid out before, about as much is kept.
const HALF: usize = 12 << 20;
/// Bytes that a translation takes beside its code.
const OVERHEAD: usize = 512;

/// What a block was made of.
#[derive(Clone)]
pub struct Source {
    /// Where it was in its page.
    pub extents: Box<[Extent]>,
    pub bytes: Box<[u8]>,
}

impl Source {
    /// That of a block that was made of `extents` of `page`.
    pub fn gather(extents: Vec<Extent>, page: &[u8; PAGE]) -> Self {
        let bytes = extents.iter().flat_map(|&extent| part(page, extent)).copied().collect();
        Self { extents: extents.into_boxed_slice(), bytes }
    }

    /// Whether `page` has the same bytes there.
    pub fn is_in(&self, page: &[u8; PAGE]) -> bool {
        let mut rest = &*self.bytes;
        self.extents.iter().all(|&extent| {
            let Some((here, after)) = rest.split_at_checked(usize::from(extent.1)) else { return false };
            rest = after;
            part(page, extent) == here
        })
    }
}

fn part(page: &[u8; PAGE], (offset, length): Extent) -> &[u8] {
    page.get(usize::from(offset)..usize::from(offset) + usize::from(length)).unwrap_or_default()
}

/// A block for whoever needs it.
pub struct Translation {
    pub source: Source,
    pub lowered: Lowered,
}

struct Laid {
    translation: Arc<Translation>,
    /// Processors that have not had it yet.
    left: u32,
}

#[derive(Default)]
struct Shelves {
    new: AddressMap<Laid>,
    old: AddressMap<Laid>,
    /// Bytes of what is new.
    bytes: usize,
}

/// The translations that not all processors have had yet, the latest of them.
#[derive(Default)]
pub struct Library {
    /// Processors besides the one that translates.
    others: u32,
    shelves: Mutex<Shelves>,
}

impl Library {
    /// Of a machine with so many processors.
    pub fn new(processors: u32) -> Self {
        Self { others: processors.saturating_sub(1), shelves: Mutex::default() }
    }

    fn shelves(&self) -> MutexGuard<'_, Shelves> {
        // Each change leaves them whole.
        self.shelves.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The translation known as `name` if it `fits`.
    pub fn take(&self, name: u64, fits: impl Fn(&Source) -> bool) -> Option<Arc<Translation>> {
        if self.others == 0 {
            return None;
        }
        let shelves = &mut *self.shelves();
        let shelf = if shelves.new.contains_key(&name) { &mut shelves.new } else { &mut shelves.old };
        let laid = shelf.get_mut(&name).filter(|laid| fits(&laid.translation.source))?;
        laid.left -= 1;
        if laid.left > 0 {
            return Some(Arc::clone(&laid.translation));
        }
        shelf.remove(&name).map(|laid| laid.translation)
    }

    /// Lays out what `make` makes as `name`, if there is somebody who may want it.
    pub fn add(&self, name: u64, make: impl FnOnce() -> Translation) {
        if self.others == 0 {
            return;
        }
        let translation = Arc::new(make());
        let size = OVERHEAD + translation.lowered.buffers.code.len();
        let shelves = &mut *self.shelves();
        if shelves.bytes + size > HALF {
            shelves.old = std::mem::take(&mut shelves.new);
            shelves.bytes = 0;
        }
        shelves.bytes += size;
        shelves.new.insert(name, Laid { translation, left: self.others });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn translation(bytes: &[u8]) -> Translation {
        let mut page = [0; PAGE];
        page[8..8 + bytes.len()].copy_from_slice(bytes);
        let source = Source::gather(vec![(8, bytes.len() as u16)], &page);
        Translation { source, lowered: Lowered::default() }
    }

    #[test]
    fn every_other_processor_may_take_a_translation_once() {
        let library = Library::new(3);
        library.add(1, || translation(&[1, 2]));
        assert!(library.take(2, |_| true).is_none());
        assert!(library.take(1, |_| false).is_none());
        assert!(library.take(1, |_| true).is_some());
        assert!(library.take(1, |_| true).is_some());
        assert!(library.take(1, |_| true).is_none());
    }

    #[test]
    fn one_processor_lays_nothing_out() {
        let library = Library::new(1);
        library.add(1, || unreachable!());
        assert!(library.take(1, |_| true).is_none());
    }

    #[test]
    fn what_nobody_takes_goes_as_new_translations_come() {
        let library = Library::new(2);
        let count = HALF / OVERHEAD;
        for name in 0..2 * count as u64 + 1 {
            library.add(name, || translation(&[1]));
        }
        let shelves = library.shelves();
        assert!(shelves.new.len() + shelves.old.len() <= 2 * count);
        drop(shelves);
        assert!(library.take(0, |_| true).is_none());
        assert!(library.take(count as u64, |_| true).is_some());
    }

    #[test]
    fn a_source_is_where_its_bytes_are() {
        let Translation { source, .. } = translation(&[1, 2, 3]);
        let mut page = [7; PAGE];
        assert!(!source.is_in(&page));
        page[8..11].copy_from_slice(&[1, 2, 3]);
        assert!(source.is_in(&page));
    }
}
