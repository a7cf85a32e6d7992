//! The 65536 ports.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Mutex, OnceLock};

use counters::Counter;

use super::{SharedPorts, lock};

/// How many port devices a machine may have: far more than it does.
const SLOTS: usize = 256;
/// How many unclaimed ports the log tells of.
const TOLD: usize = 64;
const UNCLAIMED: u16 = 0;
/// Where software looks for ISA devices that may be absent: DMA controllers, the coprocessor's reset, parallel and
/// further serial ports, a floppy controller, super I/O chips, sound and game ports. That it looks is no news.
const PROBED: [(u16, u16); 14] = [
    (0x000, 0x00f),
    (0x02e, 0x02f),
    (0x04e, 0x04f),
    (0x081, 0x08f),
    (0x0c0, 0x0df),
    (0x0f0, 0x0f1),
    (0x200, 0x207),
    (0x278, 0x27f),
    (0x2e8, 0x2ff),
    (0x378, 0x37f),
    (0x388, 0x38b),
    (0x3bc, 0x3bf),
    (0x3e8, 0x3ef),
    (0x3f0, 0x3f7),
];

/// A device's place on the bus.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SlotIndex(u16);

struct Slot {
    device: SharedPorts,
    exits: Counter,
}

/// Look-up takes two loads and no lock.
pub(super) struct PortBus {
    /// Per port: [`UNCLAIMED`] or the slot's index plus one.
    claims: Box<[AtomicU16]>,
    slots: Box<[OnceLock<Slot>]>,
    told: Mutex<HashSet<u16>>,
}

impl Default for PortBus {
    fn default() -> Self {
        Self {
            claims: (0..=u16::MAX).map(|_| AtomicU16::new(UNCLAIMED)).collect(),
            slots: (0..SLOTS).map(|_| OnceLock::new()).collect(),
            told: Mutex::default(),
        }
    }
}

impl PortBus {
    /// Gives `device` a place, without ports as yet.
    ///
    /// # Panics
    /// With more devices than [`SLOTS`], a mistake of the machine's author.
    pub(super) fn slot(&self, device: SharedPorts, exits: Counter) -> SlotIndex {
        let mut new = Some(Slot { device, exits });
        for (index, place) in self.slots.iter().enumerate() {
            if let Some(slot) = new.take()
                && let Err(slot) = place.set(slot)
            {
                new = Some(slot);
            }
            if new.is_none() {
                return SlotIndex(index as u16);
            }
        }
        panic!("more than {SLOTS} port devices");
    }

    /// Gives those of `count` ports from `first` that are free to `slot`.
    pub(super) fn claim(&self, slot: SlotIndex, first: u16, count: u16) {
        self.exchange(first, count, UNCLAIMED, slot.0 + 1);
    }

    /// Frees those of `count` ports from `first` that `slot` has.
    pub(super) fn release(&self, slot: SlotIndex, first: u16, count: u16) {
        self.exchange(first, count, slot.0 + 1, UNCLAIMED);
    }

    fn exchange(&self, first: u16, count: u16, from: u16, to: u16) {
        for claim in self.claims.iter().skip(usize::from(first)).take(usize::from(count)) {
            // One that belongs to somebody else stays with him.
            let _ = claim.compare_exchange(from, to, Ordering::AcqRel, Ordering::Relaxed);
        }
    }

    fn at(&self, port: u16) -> Option<&Slot> {
        let claim = self.claims[usize::from(port)].load(Ordering::Acquire);
        self.slots.get(usize::from(claim.checked_sub(1)?))?.get()
    }

    pub(super) fn read(&self, port: u16, data: &mut [u8]) {
        data.fill(0xff);
        match self.at(port) {
            Some(slot) => {
                slot.exits.count();
                lock(&slot.device).port_read(port, data);
            }
            None => self.tell("read", port, data.len()),
        }
    }

    pub(super) fn write(&self, port: u16, data: &[u8]) {
        match self.at(port) {
            Some(slot) => {
                slot.exits.count();
                lock(&slot.device).port_write(port, data);
            }
            None => self.tell("written", port, data.len()),
        }
    }

    /// What the processor does as one counts as one.
    pub(super) fn read_string(&self, port: u16, size: usize, data: &mut [u8]) {
        data.fill(0xff);
        match self.at(port) {
            Some(slot) => {
                slot.exits.count();
                lock(&slot.device).port_read_string(port, size, data);
            }
            None => self.tell("read", port, size),
        }
    }

    pub(super) fn write_string(&self, port: u16, size: usize, data: &[u8]) {
        match self.at(port) {
            Some(slot) => {
                slot.exits.count();
                lock(&slot.device).port_write_string(port, size, data);
            }
            None => self.tell("written", port, size),
        }
    }

    fn tell(&self, access: &str, port: u16, len: usize) {
        let probed = PROBED.iter().any(|&(first, last)| (first..=last).contains(&port));
        let mut told = lock(&self.told);
        if probed {
            tracing::debug!("port {port:#06x} is {access} ({len} bytes), where an ISA device may be");
        } else if told.len() < TOLD && told.insert(port) {
            tracing::warn!("port {port:#06x} is {access} ({len} bytes), and no device claims it");
        }
    }
}
