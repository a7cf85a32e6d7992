//! The DEC 21140: any access to its registers, ports and configuration, any lists of descriptors, which may lead in
//! circles or nowhere, frames that come in between, and time that passes.
#![no_main]

use std::sync::{Arc, Mutex};

use chipset::bus::{MmioDevice, PortDevice};
use chipset::dec21140::{Dec21140, LONGEST_FRAME, RETRY, Settings, Wire};
use chipset::pci::PciFunction;
use clock::{FakeClock, FakeTimers};
use counters::DeviceCounters;
use fuzz::Input;
use interrupt::NotConnected;
use libfuzzer_sys::fuzz_target;
use vm_memory::{Bytes, GuestAddress};

const MEMORY: u64 = 0x1_0000;
const MAC: [u8; 6] = [0x00, 0x15, 0x5d, 0x01, 0x02, 0x03];
/// Where descriptors are, so that lists lead to them.
const DESCRIPTORS: u32 = 64;
/// Bits of CSR6: both processes started, promiscuous, back to the sender, on the MII port.
const MODES: [u32; 6] = [0x2002, 0x2042, 0x0040, 0x2442, 0x2000, 0x4_2042];
/// Sizes of buffers and of a setup frame.
const SIZES: [u32; 6] = [0, 4, 64, 192, 1536, 2047];

struct Sink;

impl Wire for Sink {
    fn send(&self, frame: Vec<u8>) {
        assert!(frame.len() <= LONGEST_FRAME);
    }
}

fn set(adapter: &Mutex<Dec21140>, register: u64, value: u32) {
    adapter.lock().unwrap().memory_write(8 * register, &value.to_le_bytes());
}

/// An address that is a descriptor's or a buffer's, or anything.
fn address(input: &mut Input<'_>) -> u32 {
    match input.u8() {
        0..160 => u32::from(input.u8()) % DESCRIPTORS * 16,
        160..250 => u32::from(input.u16()),
        _ => input.u32(),
    }
}

fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    let (memory, _) = guest_memory::allocate(MEMORY).unwrap();
    let clock = FakeClock::new();
    let timers = FakeTimers::new(Arc::clone(&clock));
    let settings = Settings {
        mac: MAC,
        memory: memory.clone(),
        clock,
        line: Arc::new(NotConnected),
        wire: Box::new(Sink),
        counters: DeviceCounters::default(),
    };
    let adapter = Dec21140::new(settings, &*timers);
    adapter.lock().unwrap().config_write(0x04, 7, 0xffff);
    while !input.is_empty() {
        let choice = input.u8();
        match choice % 16 {
            0..5 => {
                let control = match input.u8() {
                    choice @ 0..192 => {
                        let [first, second] = [choice, input.u8()].map(usize::from);
                        SIZES[first % 6] | SIZES[second % 6] << 11 | u32::from(input.u8()) << 24
                    }
                    _ => input.u32(),
                };
                let at = u64::from(u32::from(input.u8()) % DESCRIPTORS) * 16;
                let status = if choice & 16 == 0 { 1 << 31 } else { input.u32() };
                let longwords = [status, control, address(&mut input), address(&mut input)];
                for (index, longword) in (0..).zip(longwords) {
                    memory.write_slice(&longword.to_le_bytes(), GuestAddress(at + 4 * index)).unwrap();
                }
            }
            5 => set(&adapter, 3, address(&mut input)),
            6 => set(&adapter, 4, address(&mut input)),
            7 => set(&adapter, 6, MODES.get(usize::from(input.u8())).copied().unwrap_or_else(|| input.u32())),
            8 => set(&adapter, 1 + u64::from(choice >> 4 & 1), 0),
            9 => {
                let mut frame = input.slice(64).to_vec();
                frame.resize(usize::from(input.u16()) % 3000, choice);
                adapter.lock().unwrap().receive(frame);
            }
            10 => timers.advance(u64::from(input.u16()) * RETRY / 1000),
            11 => {
                let len = usize::from(choice >> 4) + 1;
                let value = [input.u64(), input.u64()].map(u64::to_le_bytes).concat();
                adapter.lock().unwrap().memory_write(u64::from(input.u8()) % 160, &value[..len]);
            }
            12 => {
                let mut data = [0; 16];
                let len = usize::from(choice >> 4) + 1;
                adapter.lock().unwrap().memory_read(u64::from(input.u8()) % 160, &mut data[..len]);
                adapter.lock().unwrap().port_read(input.u16(), &mut data[..4]);
            }
            13 => {
                // Bits of CSR9, one after the other.
                for byte in input.slice(usize::from(choice >> 4) + 1) {
                    let value = u32::from(*byte) & 0x0f | u32::from(*byte >> 4) << 16;
                    set(&adapter, 9, value | 0x4800);
                    set(&adapter, 9, value & 0xf_0000);
                }
            }
            14 => adapter.lock().unwrap().config_write(input.u8() & 0xfc, input.u32(), input.u32()),
            _ if choice & 16 == 0 => adapter.lock().unwrap().set_link(choice & 32 == 0),
            _ => set(&adapter, 0, input.u32()),
        }
    }
});
