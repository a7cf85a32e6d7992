//! Maps and sets of addresses, which need no hash that withstands an adversary: they are bounded, and what a guest can
//! make slow is itself.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};

/// Spreads addresses.
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

/// What is known by a number made of an address.
pub type AddressMap<T> = HashMap<u64, T, BuildHasherDefault<AddressHasher>>;
/// A set of such numbers.
pub type AddressSet = HashSet<u64, BuildHasherDefault<AddressHasher>>;
