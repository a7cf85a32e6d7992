//! Dynamic memory, where the configuration wants it.

use std::sync::{Arc, OnceLock, Weak};

use counters::{Kind, Registry};
use synthetic::memory::{DynamicMemory, MemorySettings, Provider};
use vmbus::Server;

use crate::Error;
use crate::config::MachineConfig;

/// Offers it on `bus`.
pub(super) fn offer(bus: &Server, config: &MachineConfig, registry: &Registry) -> Result<(), Error> {
    let Some(least) = config.memory_min else { return Ok(()) };
    // The device and its row in the table, each of which needs the other.
    let slot = Arc::new(OnceLock::<Weak<DynamicMemory>>::new());
    let state = Arc::clone(&slot);
    let counters = registry.device("memory", Kind::Synthetic, move || {
        let memory = state.get().and_then(Weak::upgrade);
        memory.map_or_else(|| "gone".to_owned(), |memory| memory.state())
    });
    let settings = MemorySettings { size: config.memory.0, least: least.0, counters };
    let memory = DynamicMemory::new(settings);
    slot.get_or_init(|| Arc::downgrade(&memory));
    bus.offer(Arc::new(Provider(memory)))?;
    Ok(())
}
