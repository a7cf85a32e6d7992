//! Accesses that a device has no answer for: told once each, a bounded number in all.

use std::collections::BTreeSet;

/// How many different accesses a device tells of. A guest can cause no more lines in the log than this.
const LIMIT: usize = 32;

/// What a device has told of already.
#[derive(Debug, Clone, Default)]
pub(crate) struct Unhandled {
    told: BTreeSet<(&'static str, u32)>,
}

impl Unhandled {
    /// Tells, once, that `device` ignores `what` with this `value` (a register, a command).
    pub(crate) fn tell(&mut self, device: &'static str, what: &'static str, value: u32) {
        if self.told.len() < LIMIT && self.told.insert((what, value)) {
            tracing::warn!("{device}: {what} {value:#x} is not emulated");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut unhandled = Unhandled::default();
        (0..1000).for_each(|value| unhandled.tell("test", "command", value));
        assert_eq!(unhandled.told.len(), LIMIT);
    }
}
