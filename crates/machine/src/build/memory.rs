//! Dynamic memory, where the configuration wants it.

use std::sync::Arc;

use counters::{Kind, Registry};
use synthetic::memory::{DynamicMemory, MemorySettings, Provider};
use vmbus::Server;

use crate::Error;
use crate::config::MachineConfig;

/// Offers it on `bus`.
pub(super) fn offer(bus: &Server, config: &MachineConfig, registry: &Registry) -> Result<(), Error> {
    let Some(least) = config.memory_min else { return Ok(()) };
    let memory = registry.owner("memory", Kind::Synthetic, DynamicMemory::state, |counters| {
        let settings = MemorySettings { size: config.memory.0, least: least.0, counters };
        Ok::<_, Error>(DynamicMemory::new(settings))
    })?;
    bus.offer(Arc::new(Provider(memory)))?;
    Ok(())
}
