//! Counts of what the guest asks of the interface, in the machine's registry: `hypercall.NAME`,
//! `msr.GROUP`, and `synic.interrupts`.

use counters::{Counter, Registry};

use crate::hypercall;
use crate::msr::Group;

/// Name of the count of what is not known.
pub(crate) const UNKNOWN: &str = "unknown";

pub(crate) struct Counts {
    hypercalls: Box<[Counter]>,
    msrs: [Counter; Group::NAMES.len()],
    /// Interrupts by synthetic sources and timers.
    pub interrupts: Counter,
}

impl Counts {
    pub fn new(registry: &Registry) -> Self {
        Self {
            hypercalls: hypercall::count_names()
                .map(|name| registry.named(&format!("hypercall.{name}")))
                .collect(),
            msrs: Group::NAMES.map(|name| registry.named(&format!("msr.{name}"))),
            interrupts: registry.named("synic.interrupts"),
        }
    }

    /// Counts the hypercall at `position` of the table.
    #[inline]
    pub fn hypercall(&self, position: usize) {
        if let Some(counter) = self.hypercalls.get(position) {
            counter.count();
        }
    }

    /// Counts an access to an MSR.
    #[inline]
    pub fn msr(&self, group: Group) {
        if let Some(counter) = self.msrs.get(group as usize) {
            counter.count();
        }
    }
}
