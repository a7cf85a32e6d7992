//! The firmware configuration device, by port and by DMA with commands of the guest's making.
#![no_main]

use chipset::PortDevice;
use chipset::fw_cfg::{FwCfg, PORT, PORTS};
use fuzz::Input;
use vm_memory::{Bytes, GuestAddress};

const MEMORY: u64 = 64 << 10;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    let (memory, _) = guest_memory::allocate(MEMORY).unwrap();
    let mut device = FwCfg::new(memory.clone());
    device.add_file("etc/one", vec![1; 10_000]).unwrap();
    device.add_file("etc/two", Vec::new()).unwrap();
    while !input.is_empty() {
        let (what, value) = (input.u8(), input.u32());
        let length = [1, 2, 4][usize::from(what >> 6) % 3];
        let port = PORT + u16::from(what >> 2) % PORTS;
        match what & 3 {
            0 => device.port_write(port, &value.to_le_bytes()[..length]),
            1 => device.port_read(port, &mut [0; 4][..length]),
            _ => {
                // Wherever it is, part of it may be outside.
                let at = value % (MEMORY as u32 + 8);
                let _ = memory.write_slice(input.slice(16), GuestAddress(at.into()));
                device.port_write(PORT + 4, &u32::from(what & 4 != 0).to_be_bytes());
                device.port_write(PORT + 8, &at.to_be_bytes());
            }
        }
    }
});
