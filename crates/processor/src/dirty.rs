//! Which pages the guest has written.

use crate::Error;

/// Pages of a range of RAM that have been written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirtyPages {
    /// Guest physical address of the first page.
    pub start: u64,
    /// A bit for each page of 4 KiB from `start` on, the lowest bit of a word first.
    pub bitmap: Vec<u64>,
}

impl DirtyPages {
    /// Guest physical addresses of the pages that have been written, in order.
    pub fn pages(&self) -> impl Iterator<Item = u64> {
        let bits = (0..).zip(&self.bitmap).flat_map(|(word, bits)| {
            (0..64).filter(move |bit| bits >> bit & 1 != 0).map(move |bit| word * 64 + bit)
        });
        bits.map(|page: u64| self.start + page * 4096)
    }
}

/// The log of the pages that processors have written, for who copies memory while the guest runs. What devices write
/// on the guest's behalf is not in it.
pub trait DirtyLog: Send + Sync {
    /// Pages that are written from now on are noted. Call while the processors are stopped, or what they write
    /// meanwhile may be missed.
    ///
    /// # Errors
    /// When the host refuses.
    fn start(&self) -> Result<(), Error>;
    /// Nothing is noted any more, and what has been is forgotten.
    ///
    /// # Errors
    /// When the host refuses.
    fn stop(&self) -> Result<(), Error>;
    /// All RAM with the pages that have been written since [`Self::start`] or the last call of this, whichever came
    /// later. A page is to be read after this has named it.
    ///
    /// # Errors
    /// When nothing is noted, or the host refuses.
    fn take(&self) -> Result<Vec<DirtyPages>, Error>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_named_by_their_addresses() {
        let dirty = DirtyPages { start: 1 << 32, bitmap: vec![1 | 1 << 63, 0, 2] };
        let pages: Vec<u64> = dirty.pages().map(|gpa| (gpa - (1 << 32)) / 4096).collect();
        assert_eq!(pages, [0, 63, 129]);
    }
}
