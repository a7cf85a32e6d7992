//! RAM and ROM below 1 MiB: from the host bridge's memory attributes to the processors.

use std::sync::{Arc, Mutex, OnceLock, Weak};

use chipset::pci::Steering;
use chipset::shadow::ShadowWindow;
use guest_memory::{Attributes, GuestMemory, SHADOW, SHADOW_SEGMENTS, Shadow};
use processor::Partition;

use super::chipset::Surroundings;
use crate::Error;
use crate::firmware::Rom;

/// What a machine has there: ROM at first if it starts with firmware, and RAM alone if not.
pub(super) fn of(firmware: Option<&Rom>) -> Result<Arc<Shadow>, Error> {
    let shadow = firmware.map(|rom| Shadow::of_firmware(rom.bios())).transpose()?;
    Ok(Arc::new(shadow.unwrap_or_default()))
}

/// Puts on the bus what processors do not reach by themselves.
pub(super) fn add(around: &Surroundings<'_>, memory: &GuestMemory, shadow: &Arc<Shadow>) {
    let window = ShadowWindow::new(Arc::clone(shadow), memory.clone());
    let counters = around.counters("shadow");
    let size = SHADOW.end - SHADOW.start;
    around.buses.add_memory(Arc::new(Mutex::new(window)), &counters, SHADOW.start, size);
}

/// The way from the host bridge to the processors, which have the bus, which has the bridge.
pub(super) struct Switch {
    shadow: Arc<Shadow>,
    partition: OnceLock<Weak<dyn Partition>>,
}

impl Switch {
    /// For `shadow`, without processors.
    pub fn new(shadow: Arc<Shadow>) -> Arc<Self> {
        Arc::new(Self { shadow, partition: OnceLock::new() })
    }

    /// Those of `partition` are the machine's. Call once.
    pub fn connect(&self, partition: &Arc<dyn Partition>) {
        if self.partition.set(Arc::downgrade(partition)).is_err() {
            tracing::error!("the host bridge has been connected already");
        }
    }
}

impl Steering for Switch {
    fn steer(&self, segments: [Attributes; SHADOW_SEGMENTS]) {
        if !self.shadow.set(segments) {
            return;
        }
        let told = self.partition.get().and_then(Weak::upgrade).map(|partition| partition.shadow_changed());
        if let Some(Err(error)) = told {
            tracing::error!(%error, "what is RAM and what is ROM below 1 MiB has not changed for the processors");
        }
    }
}
