//! Accesses to the flash memory of UEFI firmware.
#![no_main]

use std::sync::{Arc, Mutex};

use chipset::MmioDevice;
use chipset::flash::{Flash, FlashImage};
use fuzz::Input;

const SIZE: usize = 3 * 4096 + 100;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    let image = Arc::new(Mutex::new(FlashImage::new(vec![0x5a; SIZE], None)));
    let mut flash = Flash::new(Arc::clone(&image));
    while !input.is_empty() {
        let what = input.u8();
        let offset = match what & 3 {
            0 => u64::MAX - u64::from(input.u8()),
            1 => SIZE as u64 - u64::from(input.u8()),
            _ => u64::from(input.u32()) % 0x4000,
        };
        if what & 0x80 == 0 {
            flash.memory_read(offset, &mut [0xff; 64][..1 + usize::from(what >> 1 & 63)]);
        } else {
            flash.memory_write(offset, input.slice(1 + usize::from(what >> 2 & 7)));
        }
    }
    assert_eq!(image.lock().unwrap().bytes().len(), SIZE);
});
