//! The keyboard controller between a guest and somebody who types and moves the mouse.
#![no_main]

use std::sync::Arc;

use chipset::PortDevice;
use chipset::i8042::{COMMAND, DATA, I8042};
use chipset::power::PowerControl;
use fuzz::Input;
use interrupt::NotConnected;

struct NoPower;

impl PowerControl for NoPower {
    fn power_off(&self) {}
    fn reset(&self) {}
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    let line = Arc::new(NotConnected);
    let mut device = I8042::new(line.clone(), line, Arc::new(NoPower));
    while !input.is_empty() {
        let (what, value) = (input.u8(), input.u16());
        match what & 7 {
            0 => device.port_write(DATA, &[value as u8]),
            1 => device.port_write(COMMAND, &[value as u8]),
            2 => {
                device.port_write(COMMAND, &[0xd4]);
                device.port_write(DATA, &[value as u8]);
            }
            3 => device.port_read(DATA, &mut [0; 4]),
            4 => device.port_read(COMMAND, &mut [0; 2]),
            5 => drop(device.key(value, what & 8 != 0)),
            _ => drop(device.mouse(value as i16, !value as i16, what as i8, what >> 3)),
        }
    }
    // Whatever the guest has done, what waits for it is bounded.
    let mut waiting = 0;
    let mut status = [0];
    device.port_read(COMMAND, &mut status);
    while status[0] & 1 != 0 {
        device.port_read(DATA, &mut [0]);
        device.port_read(COMMAND, &mut status);
        waiting += 1;
        assert!(waiting < 200, "the queues are not bounded");
    }
});
