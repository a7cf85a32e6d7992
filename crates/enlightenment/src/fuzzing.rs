//! The entry for fuzz targets: a guest that does whatever the input says.

use std::sync::{Arc, OnceLock};

use guest_memory::GuestMemory;
use interrupt::ApicAssist;
use processor::GeneralRegister::{R8, Rax, Rbx, Rcx, Rdi, Rdx, Rsi};
use processor::{HypercallContext, HypercallOutcome, HypervisorInterface};
use tlfs::{HvStatus, hypercall, msr};
use vm_memory::{Bytes, GuestAddress};

use crate::fake::{FakeContext, FakeMachine};
use crate::hypercall::TABLE;
use crate::{EventPort, Features, MessagePort};

/// Guest memory: small, so that addresses hit its edges.
const MEMORY: u64 = 0x1_0000;
const PROCESSORS: u32 = 3;
/// Operations for one input.
const OPERATIONS: usize = 512;

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
            page @ 2..=63 => u64::from(page % 16) << 12 | u64::from(self.u8()),
            page => u64::from(page % 16) << 12,
        }
    }

    /// A value such as guests pass: something small, one of the special values, a bit or two, an
    /// address, now and then anything.
    fn value(&mut self) -> u64 {
        let kind = self.u8();
        match kind % 8 {
            0 => 0,
            1 => u64::from(kind >> 3),
            2 => u64::from(self.u8()),
            3 => tlfs::PARTITION_ID_SELF,
            4 => tlfs::VP_INDEX_SELF.into(),
            5 => self.address() | 1,
            6 => u64::from(self.u16()) << (kind >> 3),
            _ => self.u64(),
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
            interface.write_msr(vp, number, input.value());
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

/// Mostly a register that is there.
fn msr_number(input: &mut Input<'_>) -> u32 {
    const RUNS: [(u32, u8); 12] = [
        (msr::GUEST_OS_ID, 4),
        (msr::VP_RUNTIME, 1),
        (msr::TIME_REF_COUNT, 4),
        (msr::EOI, 4),
        (msr::SCONTROL, 5),
        (msr::SINT0, 16),
        (msr::STIMER0_CONFIG, 8),
        (msr::STIMER0_CONFIG, 8),
        (msr::GUEST_IDLE, 1),
        (msr::CRASH_P0, 6),
        (msr::SIEFP, 3),
        (msr::FIRST, u8::MAX),
    ];
    let (first, count) = RUNS[usize::from(input.u8()) % RUNS.len()];
    first + u32::from(input.u8() % count)
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
    const UNKNOWN: u16 = 0x77;
    let form = input.u8();
    let position = usize::from(input.u8()) % (TABLE.len() + 1);
    let hypercall = TABLE.get(position);
    let code = hypercall.map_or(UNKNOWN, |hypercall| hypercall.code.0);
    let mut value = hypercall::Input::new().with_code(code).with_fast(form & 1 != 0);
    let (has_list, has_header) = hypercall.map_or((false, false), |h| (h.list.is_some(), h.variable));
    // Now and then a list or header where there should be none, and the other way round.
    if has_list != (form & 0x0e == 0) {
        value.set_rep_count((input.u8() % 160).into());
        value.set_rep_start((input.u8() % 4).into());
    }
    if has_header != (form & 0x70 == 0) {
        value.set_variable_header((input.u8() % 4).into());
    }
    let reserved = if form == 0x55 { input.u64() } else { 0 };
    let [first, second] = [(); 2].map(|()| if form & 1 != 0 { input.value() } else { input.address() });
    for offset in (0..64).step_by(8) {
        let gpa = GuestAddress(((first % MEMORY) & !7).min(MEMORY - 64) + offset);
        let written = machine.memory.write_obj(input.value(), gpa);
        assert!(written.is_ok());
    }
    let mut context = FakeContext {
        long_mode: form & 0x80 == 0,
        privilege_level: u8::from(form == 0xff) * 3,
        xmm: [(); 6].map(|()| u128::from(input.value()) << 64 | u128::from(input.value())),
        ..FakeContext::default()
    };
    let arguments = [(Rcx, Rdx, Rax), (Rdx, Rbx, Rcx), (R8, Rdi, Rsi)];
    for ((long, high, low), value) in arguments.into_iter().zip([value.into_bits() | reserved, first, second])
    {
        if context.long_mode {
            context.set_register(long, value);
        } else {
            context.set_register(high, value >> 32);
            context.set_register(low, value & 0xffff_ffff);
        }
    }
    for _ in 0..8 {
        if machine.enlightenment.hypercall(vp, &mut context) != HypercallOutcome::Again {
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
        #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..Default::default() })]

        #[test]
        fn no_guest_makes_the_interface_panic(data in vec(any::<u8>(), 0..2000)) {
            run(&data);
        }
    }
}
