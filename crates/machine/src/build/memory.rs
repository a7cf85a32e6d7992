//! RAM, and dynamic memory, where the configuration wants it.

use std::error::Error as StdError;
use std::ops::Range;
use std::sync::{Arc, Weak};

use counters::{Kind, Registry};
use guest_memory::{GuestMemory, Layout, PAGE_SHIFT};
use processor::Partition;
use synthetic::memory::{DynamicMemory, MemorySettings, MoreMemory, Provider};
use vmbus::Server;

use super::processors::Processors;
use crate::Error;
use crate::config::MachineConfig;
use crate::memory_map::growth;

/// What RAM the machine has and may get, beside `rom`.
pub(super) fn layout(config: &MachineConfig, uefi: bool, rom: Range<u64>) -> Layout {
    let size = config.memory.0;
    let more = config.memory_max.map_or_else(Vec::new, |most| growth(size, most.0, uefi));
    Layout { size, more, rom }
}

/// Offers it on `bus`.
pub(super) fn offer(
    bus: &Server,
    config: &MachineConfig,
    memory: &GuestMemory,
    processors: &Processors,
    registry: &Registry,
) -> Result<(), Error> {
    if config.memory_min.is_none() && config.memory_max.is_none() {
        return Ok(());
    }
    let top = memory.spans().last().map_or(0, |span| span.range.end);
    let least = config.memory_min.unwrap_or(config.memory).0;
    let more = Box::new(More { memory: memory.clone(), partition: Arc::downgrade(&processors.partition()) });
    let dynamic = registry.owner("memory", Kind::Synthetic, DynamicMemory::state, |counters| {
        let settings = MemorySettings { size: config.memory.0, least, top, more, counters };
        Ok::<_, Error>(DynamicMemory::new(settings))
    })?;
    bus.offer(Arc::new(Provider(dynamic)))?;
    Ok(())
}

/// RAM that the machine does not have yet. The board has the bus, which has this.
struct More {
    memory: GuestMemory,
    partition: Weak<dyn Partition>,
}

impl MoreMemory for More {
    fn next(&self) -> Option<Range<u64>> {
        let next = self.memory.next()?;
        Some(next.start >> PAGE_SHIFT..next.end >> PAGE_SHIFT)
    }

    fn add(&self) -> Result<(), Box<dyn StdError + Send + Sync>> {
        let partition = self.partition.upgrade().ok_or("the machine has come to its end")?;
        let added = self.memory.grow().ok_or("there is no more")?;
        partition.memory_grown()?;
        tracing::info!(start = added.start, end = added.end, "memory is added to the guest's");
        Ok(())
    }

    fn absent(&self) -> u64 {
        self.memory.absent() >> PAGE_SHIFT
    }
}
