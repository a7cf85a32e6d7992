//! Accesses to the registers and the memory of the video adapter, and the screen that they make.
#![no_main]

use std::sync::{Arc, Mutex};

use chipset::pci::PciFunction;
use chipset::vga::{BOCHS, DISPI_PORT, LinearWindow, PORT, PORTS, RegisterWindow, Vga};
use chipset::{MmioDevice, PortDevice};
use clock::FakeClock;
use fuzz::Input;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    let clock = FakeClock::new();
    let vga = Arc::new(Mutex::new(Vga::with_identity(clock.clone(), BOCHS)));
    let mut window = LinearWindow::new(Arc::clone(&vga));
    let mut registers = RegisterWindow::new(Arc::clone(&vga));
    while !input.is_empty() {
        let (what, value) = (input.u8(), input.u32());
        let length = [1, 2, 4][usize::from(what >> 6) % 3];
        let bytes = &value.to_le_bytes()[..length];
        let mut device = vga.lock().unwrap();
        match what & 7 {
            0 | 1 => device.port_write(PORT + u16::from(input.u8()) % PORTS, bytes),
            2 => device.port_read(PORT + u16::from(input.u8()) % PORTS, &mut [0; 4][..length]),
            3 => {
                device.port_write(DISPI_PORT, &u16::from(what >> 3 & 15).to_le_bytes());
                device.port_write(DISPI_PORT + 1, &(value as u16).to_le_bytes());
            }
            4 => device.memory_write(u64::from(value) % 0x2_0000, input.slice(64)),
            5 => device.memory_read(u64::from(value) % 0x2_0000, &mut [0; 64][..length]),
            6 => {
                drop(device);
                window.memory_write(u64::from(value), input.slice(64));
                window.memory_read(u64::from(value), &mut [0; 64]);
                registers.memory_write(u64::from(value) % 0x1000, bytes);
                registers.memory_read(u64::from(value) % 0x1000, &mut [0; 64]);
            }
            _ => {
                clock.advance(u64::from(value));
                device.config_write(what & 0xfc, value, u32::MAX);
                device.bars();
                // An image of millions of pixels takes its time.
                if device.frame().width() < 1024 {
                    device.text();
                }
                device.mode();
            }
        }
    }
});
