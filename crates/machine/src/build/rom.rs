//! The firmware's ROM below 4 GiB.

use std::sync::{Arc, Mutex};

use chipset::rom::Rom as RomDevice;

use super::chipset::Surroundings;
use crate::firmware::Rom;

/// Puts `rom` on the bus. On KVM reads do not come here, only writes.
pub(super) fn add(around: &Surroundings<'_>, rom: &Rom) {
    let counters = around.counters("rom");
    let device = Arc::new(Mutex::new(RomDevice::new(rom.bios().to_vec())));
    around.buses.add_memory(device, &counters, rom.base(), rom.bios().len() as u64);
}
