//! The firmware's ROM below 4 GiB, and the flash memory with its variables below that.

use std::sync::{Arc, Mutex};

use chipset::flash::Flash;
use chipset::rom::Rom as RomDevice;

use super::chipset::Surroundings;
use crate::firmware::Rom;

/// Puts `rom` on the bus. Processors read and run it without asking the bus; writes come here.
pub(super) fn add(around: &Surroundings<'_>, rom: &Rom) {
    let counters = around.counters("rom");
    let device = Arc::new(Mutex::new(RomDevice::new(rom.bios().to_vec())));
    around.buses.add_memory(device, &counters, rom.base(), rom.bios().len() as u64);
    if let Some((image, base, size)) = rom.variables() {
        let counters = around.counters("flash");
        around.buses.add_memory(Arc::new(Mutex::new(Flash::new(image))), &counters, base, size);
    }
}
