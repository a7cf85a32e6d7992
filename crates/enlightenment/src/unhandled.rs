//! Logging of what a guest tries that nobody handles: once for each thing, and for few things in all, so
//! that a guest cannot flood the log.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

/// Different things that are logged before the log falls silent.
const LIMIT: usize = 64;

/// Remembers what has been logged.
#[derive(Default)]
pub(crate) struct Unhandled(Mutex<BTreeSet<(&'static str, u32)>>);

impl Unhandled {
    /// Whether this is the first time and the log is not full.
    pub fn first(&self, what: &'static str, number: u32) -> bool {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        seen.len() < LIMIT && seen.insert((what, number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thing_is_logged_once_and_few_things_in_all() {
        let log = Unhandled::default();
        assert!(log.first("msr", 1));
        assert!(!log.first("msr", 1));
        assert_eq!((0..1000).filter(|&n| log.first("hypercall", n)).count(), LIMIT - 1);
    }
}
