//! What translators count, and its way into the machine's registry: all processors' counts are summed there.

use counters::{Counter, Registry};

use super::state::reason;

/// Counts of one processor. They only grow.
#[derive(Debug, Default)]
pub struct Counts {
    /// Ways back into Rust, by [`reason`].
    pub exits: [u64; reason::COUNT],
    /// Blocks that have been translated; taken from another processor; found unchanged after their page had been
    /// written; changed.
    pub translated: u64,
    pub taken: u64,
    pub renewed: u64,
    pub changed: u64,
    /// Pages with blocks that have been written.
    pub ended: u64,
    /// How often all has been forgotten.
    pub cleared: u64,
    /// Jumps to other pages that have been linked; those that are left to the jump cache.
    pub linked: u64,
    pub given_up: u64,
    /// Instructions in blocks that were left to the interpreter.
    pub interpreted: u64,
    /// Accesses that neither level of the TLB answered: which raised an exception; which wrote code; whose
    /// page came into the first level; which lie in two pages; and others, as those to devices.
    pub faults: u64,
    pub code_writes: u64,
    pub filled: u64,
    pub split: u64,
    pub uncached: u64,
    /// [`super::Shared::second_level`] and [`super::Shared::look_ups`].
    pub second_level: u64,
    pub look_ups: u64,
}

/// Number of counts.
const COUNT: usize = 16 + reason::COUNT;

impl Counts {
    /// In the order of [`names`].
    fn values(&self) -> [u64; COUNT] {
        let Self {
            exits,
            translated,
            taken,
            renewed,
            changed,
            ended,
            cleared,
            linked,
            given_up,
            interpreted,
            faults,
            code_writes,
            filled,
            split,
            uncached,
            second_level,
            look_ups,
        } = *self;
        let mut values = [0; COUNT];
        let (first, last) = values.split_at_mut(COUNT - reason::COUNT);
        first.copy_from_slice(&[
            translated,
            taken,
            renewed,
            changed,
            ended,
            cleared,
            linked,
            given_up,
            interpreted,
            look_ups,
            second_level,
            filled,
            split,
            uncached,
            code_writes,
            faults,
        ]);
        last.copy_from_slice(&exits);
        values
    }
}

fn names() -> impl Iterator<Item = String> {
    const NAMES: [&str; COUNT - reason::COUNT] = [
        "blocks.translated",
        "blocks.taken",
        "blocks.renewed",
        "blocks.changed",
        "pages.written",
        "cleared",
        "links.made",
        "links.given-up",
        "interpreted",
        "tlb.look-ups",
        "tlb.second-level",
        "tlb.filled",
        "tlb.split",
        "tlb.uncached",
        "tlb.code-writes",
        "tlb.faults",
    ];
    let exits = reason::NAMES.iter().map(|name| format!("exits.{name}"));
    NAMES.iter().map(|&name| name.to_owned()).chain(exits).map(|name| format!("translator.{name}"))
}

/// The counts of all processors in the registry: `translator.NAME`.
pub struct Totals(Box<[Counter]>);

impl Totals {
    pub fn new(registry: &Registry) -> Self {
        Self(names().map(|name| registry.named(&name)).collect())
    }

    /// Adds what has come to `counts` since the last time.
    pub fn add(&self, counts: &Counts, told: &mut Told) {
        let values = counts.values();
        let news = values.iter().zip(std::mem::replace(&mut told.0, values));
        for (counter, (&now, before)) in self.0.iter().zip(news) {
            if now != before {
                counter.add(now - before);
            }
        }
    }
}

/// What the registry knows of one processor's counts.
pub struct Told([u64; COUNT]);

impl Told {
    pub fn new() -> Self {
        Self([0; COUNT])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_registry_has_the_sum_of_all_processors() {
        let registry = Registry::new();
        let totals = Totals::new(&registry);
        let (mut first, mut told_first) = (Counts { translated: 2, ..Counts::default() }, Told::new());
        let (mut second, mut told_second) = (Counts::default(), Told::new());
        totals.add(&first, &mut told_first);
        first.translated = 5;
        second.translated = 1;
        second.exits[reason::FAULT as usize] = 4;
        totals.add(&first, &mut told_first);
        totals.add(&second, &mut told_second);
        totals.add(&second, &mut told_second);
        let values = registry.named_values();
        let value = |name: &str| values.iter().find(|(known, _)| known == name).unwrap().1;
        assert_eq!(value("translator.blocks.translated"), 6);
        assert_eq!(value("translator.exits.fault"), 4);
    }
}
