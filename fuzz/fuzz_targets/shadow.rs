//! The host bridge's configuration space, and accesses to what its memory attributes steer, beside a model by the table of
//! the data sheet.
#![no_main]

use std::sync::{Arc, Mutex};

use chipset::pci::{
    BarListener, BarMapping, CONFIG_ADDRESS, CONFIG_DATA, FunctionAddress, HOST_BRIDGE, HostBridge, PciBus,
    Steering,
};
use chipset::shadow::ShadowWindow;
use chipset::{MmioDevice, PortDevice};
use fuzz::Input;
use guest_memory::{Attributes, SHADOW, SHADOW_SEGMENTS, Shadow};

const SIZE: usize = (SHADOW.end - SHADOW.start) as usize;
const ROM: usize = 0x2_0000;

struct Switch(Arc<Shadow>);

impl Steering for Switch {
    fn steer(&self, segments: [Attributes; SHADOW_SEGMENTS]) {
        self.0.set(segments);
    }
}

struct NoRanges;

impl BarListener for NoRanges {
    fn bars_changed(&self, _address: FunctionAddress, _mappings: &[BarMapping]) {}
}

fn rom_byte(at: usize) -> u8 {
    (at >> 9) as u8 | 1
}

/// Reads and writes of the byte at `offset`, by register and half of it.
fn attributes(bus: &mut PciBus, offset: usize) -> (bool, bool) {
    let (register, high) = match offset {
        0x3_0000.. => (0x59, true),
        _ => (0x5a + (offset >> 15) as u8, offset >> 14 & 1 != 0),
    };
    bus.port_write(CONFIG_ADDRESS, &(1 << 31 | u32::from(register & !3)).to_le_bytes());
    let mut data = [0xff];
    bus.port_read(CONFIG_DATA + u16::from(register & 3), &mut data);
    let half = if high { data[0] >> 4 } else { data[0] };
    (half & 1 != 0, half & 2 != 0)
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    let (ram, _) = guest_memory::allocate(1 << 20).unwrap();
    let firmware: Vec<u8> = (0..ROM).map(rom_byte).collect();
    let shadow = Arc::new(Shadow::of_firmware(&firmware).unwrap());
    let mut window = ShadowWindow::new(Arc::clone(&shadow), ram);
    let mut bus = PciBus::new(Arc::new(NoRanges));
    let bridge = HostBridge::for_firmware(Arc::new(Switch(shadow)));
    bus.add(HOST_BRIDGE, Arc::new(Mutex::new(bridge)));
    let mut model = vec![0_u8; SIZE];
    while !input.is_empty() {
        let what = input.u8();
        if what & 1 == 0 {
            let register = input.u8();
            let register = if what & 2 == 0 { 0x58 + (register & 7) } else { register };
            bus.port_write(CONFIG_ADDRESS, &(1 << 31 | u32::from(register & !3)).to_le_bytes());
            let length = [1, 2, 4, 1][usize::from(what >> 2 & 3)];
            let value = input.u32().to_le_bytes();
            bus.port_write(CONFIG_DATA + u16::from(register & 3), &value[..length]);
            continue;
        }
        // As processors do, within a segment.
        let length = 1 + usize::from(what >> 2 & 7);
        let offset = input.u32() as usize % SIZE / 8 * 8;
        let (read, write) = attributes(&mut bus, offset);
        if what & 2 != 0 {
            let bytes = [input.u8(); 8];
            window.memory_write(offset as u64, &bytes[..length]);
            if write {
                model[offset..offset + length].copy_from_slice(&bytes[..length]);
            }
        }
        let mut found = [0x77; 8];
        window.memory_read(offset as u64, &mut found[..length]);
        for (at, byte) in (offset..).zip(&found[..length]) {
            let expected = match (read, at.checked_sub(SIZE - ROM)) {
                (true, _) => model[at],
                (false, Some(at)) => rom_byte(at),
                (false, None) => 0xff,
            };
            assert_eq!(*byte, expected, "{at:#x}");
        }
    }
    // Beyond its range nothing is reached.
    window.memory_write(u64::MAX, &[1]);
    window.memory_read(SIZE as u64, &mut [0; 64]);
});
