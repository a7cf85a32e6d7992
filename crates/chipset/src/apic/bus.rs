//! The bus between local APICs: who a message is for.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use clock::{Clock, Timers};
use interrupt::{EoiListener, ExternalInterrupts, Message, MessageTarget, Trigger};

use super::Apic;
use super::registers::{Command, DeliveryMode};

/// How a local APIC is addressed, in one word that can be read without its lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Addressing {
    pub(super) logical_id: u32,
    pub(super) enabled: bool,
    pub(super) x2apic: bool,
    pub(super) cluster: bool,
}

impl Addressing {
    pub(super) fn pack(self) -> u64 {
        u64::from(self.logical_id)
            | u64::from(self.enabled) << 32
            | u64::from(self.x2apic) << 33
            | u64::from(self.cluster) << 34
    }

    pub(super) fn unpack(word: u64) -> Self {
        Self {
            logical_id: word as u32,
            enabled: word >> 32 & 1 != 0,
            x2apic: word >> 33 & 1 != 0,
            cluster: word >> 34 & 1 != 0,
        }
    }

    /// Whether a logical destination names this APIC.
    fn matches(self, destination: u32) -> bool {
        let both = self.logical_id & destination;
        if self.x2apic {
            self.logical_id >> 16 == destination >> 16 && both & 0xffff != 0
        } else if destination > 0xff {
            false
        } else if self.cluster {
            self.logical_id >> 4 == destination >> 4 && both & 0x0f != 0
        } else {
            both != 0
        }
    }
}

/// Who a delivery is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Destination {
    Physical(u32),
    Logical(u32),
    Everyone,
    EveryoneBut(u32),
}

impl Destination {
    /// A destination field of 8 bits (`wide` false) or 32 bits, with its broadcast value.
    pub(super) fn new(field: u32, logical: bool, wide: bool) -> Self {
        match (field, logical) {
            (u32::MAX, _) => Self::Everyone,
            (0xff, _) if !wide => Self::Everyone,
            (field, true) => Self::Logical(field),
            (field, false) => Self::Physical(field),
        }
    }
}

/// A message on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Delivery {
    pub(super) destination: Destination,
    pub(super) mode: DeliveryMode,
    pub(super) vector: u8,
    pub(super) trigger: Trigger,
}

/// All local APICs of a machine, and the bus between them. The local APICs refer to it weakly: without it,
/// messages and ends of interrupts go nowhere, so the machine keeps it for as long as processors run.
pub struct ApicBus {
    apics: Vec<Arc<Apic>>,
    /// Where the next search for the lowest priority begins, so that equals take turns.
    turn: AtomicUsize,
    pub(super) external: OnceLock<Arc<dyn ExternalInterrupts>>,
    pub(super) eoi_listener: OnceLock<Arc<dyn EoiListener>>,
}

impl ApicBus {
    /// A local APIC for each of `ids`, in reset state; the first belongs to the boot processor.
    pub fn new(ids: &[u32], clock: &Arc<dyn Clock>, timers: &dyn Timers) -> Arc<Self> {
        Arc::new_cyclic(|bus: &Weak<Self>| Self {
            apics: ids
                .iter()
                .enumerate()
                .map(|(index, id)| Apic::new(*id, index == 0, bus.clone(), Arc::clone(clock), timers))
                .collect(),
            turn: AtomicUsize::new(0),
            external: OnceLock::new(),
            eoi_listener: OnceLock::new(),
        })
    }

    /// The local APIC of processor `index`.
    pub fn apic(&self, index: usize) -> Option<&Arc<Apic>> {
        self.apics.get(index)
    }

    /// All of them, by processor index.
    pub fn apics(&self) -> &[Arc<Apic>] {
        &self.apics
    }

    /// Says where LINT0 of the boot processor comes from: the 8259s. The first call counts.
    pub fn connect_external(&self, external: Arc<dyn ExternalInterrupts>) {
        let _first = self.external.set(external);
    }

    /// Says who hears of the ends of level-triggered interrupts: the IOAPIC. The first call counts.
    pub fn connect_eoi_listener(&self, listener: Arc<dyn EoiListener>) {
        let _first = self.eoi_listener.set(listener);
    }

    pub(super) fn deliver(&self, delivery: Delivery) {
        let targets = self.apics.iter().filter(|apic| {
            let addressing = apic.addressing();
            addressing.enabled
                && match delivery.destination {
                    Destination::Physical(id) => apic.fixed_id() == id,
                    Destination::Logical(field) => addressing.matches(field),
                    Destination::Everyone => true,
                    Destination::EveryoneBut(id) => apic.fixed_id() != id,
                }
        });
        if delivery.mode == DeliveryMode::LowestPriority {
            self.deliver_lowest(targets.collect(), delivery);
        } else {
            targets.for_each(|apic| apic.accept(delivery.mode, delivery.vector, delivery.trigger));
        }
    }

    fn deliver_lowest(&self, mut targets: Vec<&Arc<Apic>>, delivery: Delivery) {
        targets.retain(|apic| apic.software_enabled());
        if !targets.is_empty() {
            let turn = self.turn.fetch_add(1, Ordering::Relaxed) % targets.len();
            targets.rotate_left(turn);
        }
        if let Some(apic) = targets.iter().min_by_key(|apic| apic.arbitration_priority()) {
            apic.accept(DeliveryMode::Fixed, delivery.vector, delivery.trigger);
        }
    }
}

impl MessageTarget for ApicBus {
    fn send(&self, message: Message) {
        let command = Command::from_bits(u64::from(message.data));
        if command.level() && !command.assert() {
            // The end of a level as a message: local APICs wait for none.
            return;
        }
        // The upper half of the address extends the destination to 32 bits.
        let upper = (message.address >> 32) as u32 & 0xffff_ff00;
        let field = upper | (message.address >> 12) as u32 & 0xff;
        self.deliver(Delivery {
            destination: Destination::new(field, message.address & 4 != 0, upper != 0),
            mode: command.mode(),
            vector: command.vector(),
            trigger: if command.level() { Trigger::Level } else { Trigger::Edge },
        });
    }
}
