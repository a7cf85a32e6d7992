//! The entry for fuzz targets: a guest that does whatever the input says.

use std::sync::{Arc, OnceLock};

use guest_memory::GuestMemory;
use interrupt::ApicAssist;
use processor::HypervisorInterface;
use tlfs::HvStatus;
use vm_memory::{Bytes, GuestAddress};

use crate::fake::{FakeContext, FakeMachine};
use crate::{EventPort, Features, MessagePort};

/// Guest memory: small, so that addresses hit its edges.
const MEMORY: u64 = 0x1_0000;
const PROCESSORS: u32 = 3;
/// Operations for one input.
const OPERATIONS: usize = 256;

struct Port;

impl MessagePort for Port {
    fn post(&self, _connection: u32, message_type: u32, payload: &[u8]) -> Result<(), HvStatus> {
        assert!(message_type != 0 && message_type >> 31 == 0 && payload.len() <= 240);
        Ok(())
    }
}

impl EventPort for Port {
    fn signal(&self, flag: u16) {
        assert_eq!(flag, 0);
    }
}

/// Bytes of the input, then zeros.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        let len = N.min(self.0.len());
        bytes[..len].copy_from_slice(&self.0[..len]);
        self.0 = &self.0[len..];
        bytes
    }

    fn u8(&mut self) -> u8 {
        u8::from_le_bytes(self.bytes())
    }

    fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.bytes())
    }

    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.bytes())
    }

    /// Mostly a place in memory, with some low bits, now and then anything.
    fn address(&mut self) -> u64 {
        match self.u8() {
            0 => self.u64(),
            1 => MEMORY - u64::from(self.u8()),
            page => u64::from(page % 16) << 12 | u64::from(self.u8()),
        }
    }
}

/// Does what `data` says to a fresh partition: writes of memory and MSRs, hypercalls in every form,
/// messages and events of the host, time, interrupts, resets. Panics if the interface does, or breaks a
/// promise to a port.
pub fn run(data: &[u8]) {
    static RAM: OnceLock<Option<GuestMemory>> = OnceLock::new();
    let ram = RAM.get_or_init(|| guest_memory::allocate(MEMORY).ok().map(|(memory, _)| memory));
    let Some(memory) = ram else { return };
    let machine = FakeMachine::new(memory, Features::ALL, PROCESSORS);
    let interface = &machine.enlightenment;
    assert!(interface.connect_message(1, Arc::new(Port)));
    assert!(interface.connect_events(2, Arc::new(Port)));
    // Most of the interface needs an identified guest.
    interface.write_msr(0, tlfs::msr::GUEST_OS_ID, 1);
    let mut input = Input(data);
    for _ in 0..OPERATIONS {
        if input.0.is_empty() {
            break;
        }
        operation(&machine, &mut input);
    }
    interface.reset();
    interface.detach();
}

fn operation(machine: &FakeMachine, input: &mut Input<'_>) {
    let interface = &machine.enlightenment;
    let operation = input.u8();
    let vp = u32::from(operation >> 6);
    match operation & 0x3f {
        0..=15 => {
            let number = msr_number(input);
            let value = if operation & 1 == 0 { input.u64() } else { input.address() };
            interface.write_msr(vp, number, value);
        }
        16..=19 => {
            interface.read_msr(vp, msr_number(input));
        }
        20..=39 => hypercall(machine, vp, input),
        40..=47 => {
            let gpa = GuestAddress(input.address() % MEMORY);
            let bytes: [u8; 16] = input.bytes();
            let len = bytes.len().min((MEMORY - gpa.0) as usize);
            let written = machine.memory.write_slice(&bytes[..len], gpa);
            assert!(written.is_ok());
        }
        48..=50 => {
            let (sint, kind, len) = (input.u8(), u32::from(input.u8()), input.u8());
            let _ = interface.post_message(vp, sint % 20, kind, &vec![0xa5; len.into()]);
        }
        51..=53 => {
            interface.signal_event(vp, input.u8() % 20, input.u16());
        }
        54..=56 => machine.timers.advance(u64::from(input.u16()) * 100),
        57..=59 => assist(machine, vp, input),
        60 => interface.reset_processor(vp),
        61 => interface.reset(),
        62 => interface.ran(vp, input.u64()),
        _ => {
            interface.cpuid(vp, 0x4000_0000 + u32::from(input.u8()), 0);
        }
    }
}

fn msr_number(input: &mut Input<'_>) -> u32 {
    0x4000_0000 + u32::from(input.u16()) % 0x120
}

fn assist(machine: &FakeMachine, vp: u32, input: &mut Input<'_>) {
    let Some(assist) = machine.enlightenment.apic_assist(vp) else { return };
    let assist: &dyn ApicAssist = &*assist;
    match input.u8() % 5 {
        0 => drop(assist.offer_skipped_eoi(true)),
        1 => drop(assist.offer_skipped_eoi(false)),
        2 => drop(assist.take_skipped_eoi()),
        3 => drop(assist.auto_eoi(input.u8())),
        _ => assist.ended(input.u8()),
    }
}

fn hypercall(machine: &FakeMachine, vp: u32, input: &mut Input<'_>) {
    const CODES: [u16; 15] =
        [0x02, 0x03, 0x08, 0x0b, 0x13, 0x14, 0x15, 0x50, 0x51, 0x5c, 0x5d, 0x99, 0x9a, 0x8001, 0x77];
    let form = input.u8();
    let code = u64::from(CODES[usize::from(input.u8()) % CODES.len()]);
    let fast = u64::from(form & 1) << 16;
    let variable = u64::from(input.u8() % 8) << 17;
    let reps = u64::from(input.u8() % 64) << 32 | u64::from(input.u8() % 8) << 48;
    let reserved = if form & 0xf0 == 0xf0 { input.u64() } else { 0 };
    let value = code | fast | if form & 2 != 0 { variable } else { 0 } | if form & 4 != 0 { reps } else { 0 };
    let value = value | reserved;
    let parameters = [input.address(), input.address()];
    let mut context = FakeContext {
        long_mode: form & 8 == 0,
        privilege_level: u8::from(form == 0xff) * 3,
        ..FakeContext::default()
    };
    let pairs: [(usize, usize); 3] = [(2, 0), (3, 1), (7, 6)];
    let singles = [1, 2, 8];
    for (index, argument) in [value, parameters[0], parameters[1]].into_iter().enumerate() {
        if context.long_mode {
            context.general[singles[index]] = argument;
        } else {
            context.general[pairs[index].0] = argument >> 32;
            context.general[pairs[index].1] = argument & 0xffff_ffff;
        }
    }
    for xmm in &mut context.xmm {
        *xmm = u128::from_le_bytes(input.bytes());
    }
    for _ in 0..8 {
        if machine.enlightenment.hypercall(vp, &mut context) != processor::HypercallOutcome::Again {
            break;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..Default::default() })]

        #[test]
        fn no_guest_makes_the_interface_panic(data in vec(any::<u8>(), 0..2000)) {
            run(&data);
        }
    }
}
