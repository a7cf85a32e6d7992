//! From where code has been fetched: what decides whether a flush may have changed the code that is mapped.

use super::mmu::{HUGE_SHIFT, REGION_SHIFT};
use crate::address::AddressSet;

/// Pages that are remembered.
const LIMIT: usize = 1 << 15;

/// The pages of one half of the address space from which code has been fetched, and the regions in which they are.
#[derive(Default)]
pub struct Fetched {
    pages: AddressSet,
    regions: AddressSet,
    huge: AddressSet,
}

impl Fetched {
    /// Whether there is no room for another page.
    pub fn is_full(&self) -> bool {
        self.pages.len() >= LIMIT
    }

    /// Notes the page of `linear`.
    pub fn insert(&mut self, linear: u64) {
        if self.pages.insert(linear >> 12) {
            self.regions.insert(linear >> REGION_SHIFT);
            self.huge.insert(linear >> HUGE_SHIFT);
        }
    }

    /// Whether one of the pages is in the region of 2^`shift` bytes around `linear`; the shift is one of the sizes of
    /// [`super::Mmu`]'s regions.
    pub fn is_in(&self, linear: u64, shift: u32) -> bool {
        let set = match shift {
            HUGE_SHIFT => &self.huge,
            REGION_SHIFT => &self.regions,
            _ => &self.pages,
        };
        set.contains(&(linear >> shift))
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.pages.clear();
        self.regions.clear();
        self.huge.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_in_its_regions_and_in_no_other() {
        let mut fetched = Fetched::default();
        let linear = 0xffff_ffff_8123_4567;
        fetched.insert(linear);
        for shift in [12, REGION_SHIFT, HUGE_SHIFT] {
            assert!(fetched.is_in(linear, shift));
            assert!(!fetched.is_in(linear ^ 1 << shift, shift));
        }
        fetched.clear();
        assert!(!fetched.is_in(linear, HUGE_SHIFT));
    }
}
