//! Counts of what every device does, in one registry: the device table, the metrics and the benchmarks
//! read the same numbers.
#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use serde::{Deserialize, Serialize};

/// A count that only grows. Cloned handles share it.
#[derive(Debug, Clone, Default)]
pub struct Counter(Arc<AtomicU64>);

impl Counter {
    /// Adds `n`.
    #[inline]
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// Adds one.
    #[inline]
    pub fn count(&self) {
        self.add(1);
    }

    /// The count so far.
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// How a device presents itself to the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Behind VMBus, known to be virtual.
    Synthetic,
    /// Looks like a piece of hardware.
    Emulated,
    /// The processor and the hypervisor interface.
    Processor,
}

/// What is counted for every device. Cloned handles share the counts.
#[derive(Debug, Clone, Default)]
pub struct DeviceCounters {
    /// Accesses that left the guest for this device: ports, MMIO, hypercalls, ring signals.
    pub exits: Counter,
    /// Requests that the device carried out.
    pub requests: Counter,
    /// Bytes from the device to the guest.
    pub bytes_in: Counter,
    /// Bytes from the guest to the device.
    pub bytes_out: Counter,
    /// Interrupts to the guest.
    pub interrupts: Counter,
}

/// One row of the device table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceRow {
    /// Name of the device in this machine, such as `scsi0`, `ide0` or `serial0`.
    pub name: String,
    /// Synthetic or emulated.
    pub kind: Kind,
    /// What the device says of itself and of the guest's driver: `driver bound`, `quiet`, ….
    pub state: String,
    /// Whether a driver of the guest has the device; `None` of those that do not know.
    #[serde(default)]
    pub driver: Option<bool>,
    /// See [`DeviceCounters::exits`].
    pub exits: u64,
    /// See [`DeviceCounters::requests`].
    pub requests: u64,
    /// See [`DeviceCounters::bytes_in`].
    pub bytes_in: u64,
    /// See [`DeviceCounters::bytes_out`].
    pub bytes_out: u64,
    /// See [`DeviceCounters::interrupts`].
    pub interrupts: u64,
}

/// What a device says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceState {
    /// See [`DeviceRow::state`].
    pub text: String,
    /// See [`DeviceRow::driver`].
    pub driver: Option<bool>,
}

impl DeviceState {
    /// Of a device that knows whether a driver of the guest has it.
    pub fn with_driver(text: impl Into<String>, bound: bool) -> Self {
        Self { text: text.into(), driver: Some(bound) }
    }
}

impl From<String> for DeviceState {
    fn from(text: String) -> Self {
        Self { text, driver: None }
    }
}

type AskState = Box<dyn Fn() -> DeviceState + Send + Sync>;

struct Device {
    name: String,
    kind: Kind,
    state: AskState,
    counters: DeviceCounters,
}

/// All devices of a machine and their counts, plus named counts that belong to no device.
#[derive(Default)]
pub struct Registry {
    devices: Mutex<Vec<Device>>,
    named: Mutex<Vec<(String, Counter)>>,
}

impl Registry {
    /// An empty registry.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a device. `state` is asked whenever the table is read; it must not block. A device whose name is
    /// known, because the machine has been reset and built anew, goes on with the counts it has.
    pub fn device<S: Into<DeviceState>>(
        &self,
        name: impl Into<String>,
        kind: Kind,
        state: impl Fn() -> S + Send + Sync + 'static,
    ) -> DeviceCounters {
        let (name, mut devices) = (name.into(), lock(&self.devices));
        let state: AskState = Box::new(move || state().into());
        if let Some(device) = devices.iter_mut().find(|device| device.name == name) {
            device.kind = kind;
            device.state = state;
            return device.counters.clone();
        }
        let counters = DeviceCounters::default();
        devices.push(Device { name, kind, state, counters: counters.clone() });
        counters
    }

    /// As [`Self::device`], for what `make` makes of the counters: `state` looks at it for as long as it is there.
    ///
    /// # Errors
    /// Those of `make`.
    pub fn owner<T: Send + Sync + 'static, S: Into<DeviceState>, E>(
        &self,
        name: impl Into<String>,
        kind: Kind,
        state: impl Fn(&T) -> S + Send + Sync + 'static,
        make: impl FnOnce(DeviceCounters) -> Result<Arc<T>, E>,
    ) -> Result<Arc<T>, E> {
        // Each needs the other.
        let slot = Arc::new(OnceLock::<Weak<T>>::new());
        let seen = Arc::clone(&slot);
        let counters = self.device(name, kind, move || {
            let owner = seen.get().and_then(Weak::upgrade);
            owner.map_or_else(|| "gone".to_owned().into(), |owner| state(&owner).into())
        });
        let owner = make(counters)?;
        slot.get_or_init(|| Arc::downgrade(&owner));
        Ok(owner)
    }

    /// Removes the device called `name`, after a hot removal.
    pub fn remove(&self, name: &str) {
        lock(&self.devices).retain(|device| device.name != name);
    }

    /// The count called `name` (dotted, such as `hypercall.post_message`), made at its first use.
    pub fn named(&self, name: &str) -> Counter {
        let mut named = lock(&self.named);
        if let Some((_, counter)) = named.iter().find(|(known, _)| known == name) {
            return counter.clone();
        }
        let counter = Counter::default();
        named.push((name.to_owned(), counter.clone()));
        counter
    }

    /// The device table, in the order of registration.
    pub fn table(&self) -> Vec<DeviceRow> {
        lock(&self.devices)
            .iter()
            .map(|device| {
                let DeviceState { text, driver } = (device.state)();
                DeviceRow {
                    name: device.name.clone(),
                    kind: device.kind,
                    state: text,
                    driver,
                    exits: device.counters.exits.value(),
                    requests: device.counters.requests.value(),
                    bytes_in: device.counters.bytes_in.value(),
                    bytes_out: device.counters.bytes_out.value(),
                    interrupts: device.counters.interrupts.value(),
                }
            })
            .collect()
    }

    /// The named counts, in the order of their first use.
    pub fn named_values(&self) -> Vec<(String, u64)> {
        lock(&self.named).iter().map(|(name, counter)| (name.clone(), counter.value())).collect()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_shows_what_the_handles_counted() {
        let registry = Registry::new();
        let counters = registry.device("ide0", Kind::Emulated, || "quiet".to_owned());
        counters.exits.add(3);
        counters.bytes_in.add(512);
        let table = registry.table();
        assert_eq!((table[0].exits, table[0].bytes_in, table[0].state.as_str()), (3, 512, "quiet"));
    }

    #[test]
    fn a_device_that_comes_again_goes_on_counting() {
        let registry = Registry::new();
        registry.device("ide0", Kind::Emulated, || "quiet".to_owned()).exits.count();
        registry.device("ide0", Kind::Emulated, || "busy".to_owned()).exits.count();
        let table = registry.table();
        assert_eq!((table.len(), table[0].exits, table[0].state.as_str()), (1, 2, "busy"));
    }

    #[test]
    fn a_name_is_one_count() {
        let registry = Registry::new();
        registry.named("a").count();
        registry.named("a").count();
        assert_eq!(registry.named_values(), [("a".to_owned(), 2)]);
    }
}
