//! The interface as a guest sees it through its registers, and as the host does.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use guest_memory::GuestMemory;
use processor::{HypervisorInterface, MsrOutcome};
use tlfs::{HvStatus, msr};
use vm_memory::{Bytes, GuestAddress};

use crate::fake::{APIC_FREQUENCY, FakeMachine, FakeOffload};
use crate::{Features, MESSAGE_QUEUE_LIMIT};

const SIMP: u64 = 0x1000;
const SIEFP: u64 = 0x2000;
const SINT: u8 = 2;
const VECTOR: u8 = 0xf3;
const SLOT: GuestAddress = GuestAddress(SIMP + 256 * SINT as u64);
const UNIT: u64 = 100;

fn memory() -> GuestMemory {
    guest_memory::allocate(0x1_0000).unwrap().0
}

fn machine() -> FakeMachine {
    FakeMachine::new(&memory(), Features::ALL, 2)
}

impl FakeMachine {
    fn write(&self, vp: u32, msr: u32, value: u64) {
        assert_eq!(self.enlightenment.write_msr(vp, msr, value), MsrOutcome::Done(()), "{msr:#x}");
    }

    fn read(&self, vp: u32, msr: u32) -> u64 {
        match self.enlightenment.read_msr(vp, msr) {
            MsrOutcome::Done(value) => value,
            other => panic!("{msr:#x}: {other:?}"),
        }
    }

    fn refuses(&self, msr: u32, value: u64) {
        let outcome = self.enlightenment.write_msr(0, msr, value);
        assert_eq!(outcome, MsrOutcome::GeneralProtection, "{msr:#x} = {value:#x}");
    }

    /// Does what Linux does in hv_synic_enable_regs.
    fn enable_synic(&self, vp: u32) {
        self.write(vp, msr::SIMP, SIMP | 1);
        self.write(vp, msr::SIEFP, SIEFP | 1);
        self.write(vp, msr::SINT0 + u32::from(SINT), VECTOR.into());
        self.write(vp, msr::SCONTROL, 1);
    }

    fn slot_type(&self) -> u32 {
        self.memory.read_obj(SLOT).unwrap()
    }

    fn free_slot(&self) {
        self.memory.write_obj(0_u32, SLOT).unwrap();
    }
}

#[test]
fn without_features_there_is_no_hypervisor() {
    let m = FakeMachine::new(&memory(), Features::NONE, 1);
    let interface = &m.enlightenment;
    assert!(!interface.hypervisor_present());
    assert_eq!(interface.cpuid(0, 0x4000_0000, 0), [0; 4]);
    assert_eq!(interface.read_msr(0, msr::GUEST_OS_ID), MsrOutcome::GeneralProtection);
    assert_eq!(interface.write_msr(0, msr::GUEST_OS_ID, 1), MsrOutcome::GeneralProtection);
}

#[test]
fn what_is_not_offered_is_not_there() {
    let m = FakeMachine::new(&memory(), "synic".parse().unwrap(), 1);
    assert!(m.enlightenment.hypervisor_present());
    m.write(0, msr::SCONTROL, 1);
    for number in
        [msr::TIME_REF_COUNT, msr::VP_ASSIST_PAGE, msr::STIMER0_CONFIG, msr::GUEST_IDLE, msr::CRASH_CTL]
    {
        assert_eq!(m.enlightenment.read_msr(0, number), MsrOutcome::GeneralProtection);
        m.refuses(number, 0);
    }
}

#[test]
fn other_registers_are_not_the_interfaces() {
    let m = machine();
    assert_eq!(m.enlightenment.read_msr(0, 0x10), MsrOutcome::NotMine);
    assert_eq!(m.enlightenment.write_msr(0, 0x4b56_4d00, 0), MsrOutcome::NotMine);
    assert_eq!(m.enlightenment.read_msr(0, msr::REENLIGHTENMENT_CONTROL), MsrOutcome::GeneralProtection);
    assert_eq!(
        m.enlightenment.read_msr(2, msr::VP_INDEX),
        MsrOutcome::GeneralProtection,
        "no such processor"
    );
}

#[test]
fn identity_and_frequencies_can_be_read() {
    let m = machine();
    m.write(0, msr::GUEST_OS_ID, 0x8100_0006_0100_0000);
    assert_eq!(m.read(1, msr::GUEST_OS_ID), 0x8100_0006_0100_0000);
    assert_eq!(m.enlightenment.guest_os_id(), 0x8100_0006_0100_0000);
    assert_eq!((m.read(0, msr::VP_INDEX), m.read(1, msr::VP_INDEX)), (0, 1));
    assert_eq!(
        (m.read(0, msr::TSC_FREQUENCY), m.read(0, msr::APIC_FREQUENCY)),
        (1_000_000_000, APIC_FREQUENCY)
    );
}

#[test]
fn read_only_registers_refuse_writes() {
    let m = machine();
    for number in [
        msr::VP_INDEX,
        msr::VP_RUNTIME,
        msr::TIME_REF_COUNT,
        msr::TSC_FREQUENCY,
        msr::APIC_FREQUENCY,
        msr::SVERSION,
        msr::GUEST_IDLE,
    ] {
        m.refuses(number, 0);
    }
}

#[test]
fn the_hypercall_page_appears() {
    let m = machine();
    m.write(0, msr::GUEST_OS_ID, 1);
    m.write(1, msr::HYPERCALL, 0x3001);
    assert_eq!(m.read(0, msr::HYPERCALL), 0x3001);
    assert_eq!(m.memory.read_obj::<[u8; 8]>(GuestAddress(0x3000)).unwrap()[4..], [0x0f, 0x01, 0xc1, 0xc3]);
    m.refuses(msr::HYPERCALL, 0x100_0001);
}

#[test]
fn counter_and_page_tell_the_same_time() {
    let m = machine();
    m.clock.advance(123_456_789);
    m.write(0, msr::REFERENCE_TSC, 0x4001);
    let [sequence, scale, offset]: [u64; 3] = m.memory.read_obj(GuestAddress(0x4000)).unwrap();
    let now = ((123_456_789 * u128::from(scale)) >> 64) as u64 + offset;
    assert_ne!(sequence as u32, 0);
    assert_eq!((now, m.read(1, msr::TIME_REF_COUNT)), (1_234_567, 1_234_567));
    m.write(0, msr::REFERENCE_TSC, 0x4000);
    assert_eq!(m.memory.read_obj::<u64>(GuestAddress(0x4000)).unwrap(), 0);
    m.write(0, msr::REFERENCE_TSC, 0xffff_f001);
    assert_eq!(m.read(0, msr::REFERENCE_TSC), 0xffff_f001, "not accessible, but not refused");
}

#[test]
fn the_runtime_is_in_units_of_a_hundred_nanoseconds() {
    let m = machine();
    m.enlightenment.ran(1, 250);
    m.enlightenment.ran(1, 250);
    assert_eq!((m.read(0, msr::VP_RUNTIME), m.read(1, msr::VP_RUNTIME)), (0, 5));
}

#[test]
fn apic_registers_reach_the_processors_own_apic() {
    let m = machine();
    m.write(1, msr::EOI, 0);
    m.write(1, msr::ICR, 0x0100_0000_000c_00fd);
    m.write(1, msr::TPR, 0x20);
    assert_eq!(m.apics[1].ends.load(Ordering::SeqCst), 1);
    assert_eq!(m.read(1, msr::ICR), 0x0100_0000_000c_00fd);
    assert_eq!((m.read(0, msr::TPR), m.read(1, msr::TPR)), (0, 0x20));
    m.refuses(msr::TPR, 0x100);
}

#[test]
fn a_read_of_the_idle_register_halts() {
    assert_eq!(machine().enlightenment.read_msr(0, msr::GUEST_IDLE), MsrOutcome::Halt(0));
}

#[test]
fn a_crash_reaches_the_sink() {
    let m = machine();
    m.memory.write_slice(b"<0>Kernel panic", GuestAddress(0x5000)).unwrap();
    m.write(1, msr::CRASH_P0 + 3, 0x5000);
    m.write(1, msr::CRASH_P0 + 4, 15);
    m.write(1, msr::CRASH_CTL, m.read(1, msr::CRASH_CTL));
    let crashes = m.events.crashes.lock().unwrap();
    assert_eq!((crashes[0].vp, crashes[0].message.as_deref()), (1, Some("<0>Kernel panic")));
}

#[test]
fn the_reset_register_asks_for_a_reset() {
    let m = machine();
    m.write(0, msr::RESET, 0);
    m.write(0, msr::RESET, 1);
    assert_eq!((m.events.resets.load(Ordering::SeqCst), m.read(0, msr::RESET)), (1, 0));
}

#[test]
fn sources_are_masked_and_preserve_reserved_bits() {
    let m = machine();
    assert_eq!((m.read(0, msr::SINT15), m.read(0, msr::SVERSION), m.read(0, msr::EOM)), (0x1_0000, 1, 0));
    m.write(0, msr::SINT15, 0xff00_0000_0001_0000);
    assert_eq!(m.read(0, msr::SINT15), 0xff00_0000_0001_0000);
    m.refuses(msr::SINT0, 0xf);
    m.write(0, msr::SIMP, 0x1ffe);
    assert_eq!(m.read(0, msr::SIMP), 0x1ffe);
}

#[test]
fn a_message_interrupts_its_processor_only() {
    let m = machine();
    m.enable_synic(1);
    assert_eq!(m.enlightenment.post_message(1, SINT, 1, b"offer"), Ok(()));
    assert_eq!((m.apics[0].take(), m.apics[1].take()), (vec![], vec![VECTOR]));
    let bytes: [u8; 21] = m.memory.read_obj(SLOT).unwrap();
    assert_eq!(&bytes, b"\x01\0\0\0\x05\0\0\0\0\0\0\0\0\0\0\0offer");
}

#[test]
fn end_of_message_brings_the_next_one() {
    let m = machine();
    m.enable_synic(0);
    for n in 1..=3 {
        assert_eq!(m.enlightenment.post_message(0, SINT, n, &[]), Ok(()));
    }
    assert_eq!((m.slot_type(), m.apics[0].take()), (1, vec![VECTOR]));
    m.write(0, msr::EOM, 0);
    assert_eq!((m.slot_type(), m.apics[0].take()), (1, vec![]), "the slot is still occupied");
    for n in [2, 3] {
        m.free_slot();
        m.write(0, msr::EOM, 0);
        assert_eq!((m.slot_type(), m.apics[0].take()), (n, vec![VECTOR]));
    }
    m.free_slot();
    m.write(0, msr::EOM, 0);
    assert_eq!((m.slot_type(), m.apics[0].take()), (0, vec![]));
}

#[test]
fn end_of_interrupt_brings_the_next_one_from_another_thread() {
    let m = machine();
    m.enable_synic(0);
    let assist = m.enlightenment.apic_assist(0).unwrap();
    assert_eq!(m.enlightenment.post_message(0, SINT, 1, &[]), Ok(()));
    assert_eq!(m.enlightenment.post_message(0, SINT, 2, &[]), Ok(()));
    m.apics[0].take();
    m.free_slot();
    assist.ended(VECTOR - 1);
    m.timers.advance(0);
    assert_eq!(m.slot_type(), 0, "another interrupt");
    assist.ended(VECTOR);
    assert_eq!(m.apics[0].take(), [], "not while the APIC is locked");
    m.timers.advance(0);
    assert_eq!((m.slot_type(), m.apics[0].take()), (2, vec![VECTOR]));
}

#[test]
fn a_masked_source_gets_the_message_without_an_interrupt() {
    let m = machine();
    m.enable_synic(0);
    m.write(0, msr::SINT0 + u32::from(SINT), 0x1_0000 | u64::from(VECTOR));
    assert_eq!(m.enlightenment.post_message(0, SINT, 1, &[]), Ok(()));
    assert_eq!((m.slot_type(), m.apics[0].take()), (1, vec![]));
    m.write(0, msr::SINT0 + u32::from(SINT), 0x4_0000 | u64::from(VECTOR));
    assert!(m.enlightenment.signal_event(0, SINT, 9));
    assert_eq!(m.apics[0].take(), [], "polled");
}

#[test]
fn messages_that_cannot_be_are_refused() {
    let m = machine();
    let post = |vp, sint, kind, len| m.enlightenment.post_message(vp, sint, kind, &vec![0; len]);
    assert_eq!(post(0, SINT, 1, 0), Err(HvStatus::INVALID_SYNIC_STATE));
    m.enable_synic(0);
    assert_eq!(post(2, SINT, 1, 0), Err(HvStatus::INVALID_VP_INDEX));
    assert_eq!(post(0, 16, 1, 0), Err(HvStatus::INVALID_PARAMETER));
    assert_eq!(post(0, SINT, 0, 0), Err(HvStatus::INVALID_PARAMETER));
    assert_eq!(post(0, SINT, 1, 241), Err(HvStatus::INVALID_PARAMETER));
    assert_eq!(post(0, SINT, 1, 240), Ok(()));
}

#[test]
fn who_was_refused_hears_when_there_is_room() {
    let m = machine();
    let calls = Arc::new(Mutex::new(0));
    m.enlightenment.on_message_room(Box::new({
        let (calls, weak) = (calls.clone(), Arc::downgrade(&m.enlightenment));
        move || {
            *calls.lock().unwrap() += 1;
            assert_eq!(weak.upgrade().unwrap().post_message(0, SINT, 7, &[]), Ok(()));
        }
    }));
    assert!(m.enlightenment.post_message(0, SINT, 7, &[]).is_err());
    m.enable_synic(0);
    assert_eq!((*calls.lock().unwrap(), m.slot_type()), (1, 7));
    for _ in 0..MESSAGE_QUEUE_LIMIT {
        assert_eq!(m.enlightenment.post_message(0, SINT, 1, &[]), Ok(()));
    }
    assert_eq!(m.enlightenment.post_message(0, SINT, 1, &[]), Err(HvStatus::INSUFFICIENT_BUFFERS));
    m.free_slot();
    m.write(0, msr::EOM, 0);
    m.free_slot();
    m.write(0, msr::EOM, 0);
    assert_eq!(*calls.lock().unwrap(), 2);
}

#[test]
fn an_event_interrupts_when_its_flag_was_clear() {
    let m = machine();
    assert!(!m.enlightenment.signal_event(0, SINT, 17));
    m.enable_synic(0);
    assert!(m.enlightenment.signal_event(0, SINT, 17));
    assert!(!m.enlightenment.signal_event(0, SINT, 17));
    assert_eq!(m.apics[0].take(), [VECTOR]);
    let flags: u32 = m.memory.read_obj(GuestAddress(SIEFP + 256 * u64::from(SINT))).unwrap();
    assert_eq!(flags, 1 << 17);
    assert!(!m.enlightenment.signal_event(0, SINT, 2048));
    assert!(!m.enlightenment.signal_event(7, SINT, 0));
}

#[test]
fn auto_eoi_is_what_the_source_says() {
    let m = machine();
    let assist = m.enlightenment.apic_assist(0).unwrap();
    m.write(0, msr::SINT0 + 4, 0x2_0055);
    assert!(assist.auto_eoi(0x55));
    assert!(!m.enlightenment.apic_assist(1).unwrap().auto_eoi(0x55));
    assert!(m.enlightenment.apic_assist(2).is_none());
}

#[test]
fn the_assist_page_offers_to_skip_the_end() {
    let m = machine();
    let assist = m.enlightenment.apic_assist(0).unwrap();
    m.write(0, msr::VP_ASSIST_PAGE, 0x6001);
    assert!(assist.offer_skipped_eoi(true));
    assert_eq!(m.memory.read_obj::<u32>(GuestAddress(0x6000)).unwrap(), 1);
    m.memory.write_obj(0_u32, GuestAddress(0x6000)).unwrap();
    assert!(assist.take_skipped_eoi());
}

#[test]
fn a_direct_timer_interrupts() {
    let m = machine();
    // As Linux programs it: direct mode, auto-enable, enabled, vector 0xed; then the count.
    m.write(1, msr::STIMER0_CONFIG, 1 | 1 << 3 | 0xed << 4 | 1 << 12);
    m.write(1, msr::STIMER0_COUNT, 1000);
    m.timers.advance(999 * UNIT);
    assert_eq!(m.apics[1].take(), []);
    m.timers.advance(UNIT);
    assert_eq!((m.apics[0].take(), m.apics[1].take()), (vec![], vec![0xed]));
    m.write(1, msr::STIMER0_COUNT, 500);
    assert_eq!(m.apics[1].take(), [0xed], "in the past");
}

#[test]
fn a_message_timer_sends_its_message() {
    let m = machine();
    m.enable_synic(0);
    m.write(0, msr::STIMER0_CONFIG + 2, 1 << 3 | u64::from(SINT) << 16);
    m.write(0, msr::STIMER0_COUNT + 2, 1000);
    m.clock.advance(1100 * UNIT);
    m.timers.advance(0);
    assert_eq!((m.slot_type(), m.apics[0].take()), (0x8000_0010, vec![VECTOR]));
    let payload: [u64; 3] = m.memory.read_obj(GuestAddress(SLOT.0 + 16)).unwrap();
    assert_eq!(payload, [1, 1000, 1100]);
    assert_eq!(m.read(0, msr::STIMER0_CONFIG + 2), 1 << 3 | u64::from(SINT) << 16);
}

#[test]
fn a_timer_that_is_set_anew_forgets_its_waiting_message() {
    let m = machine();
    m.enable_synic(0);
    assert_eq!(m.enlightenment.post_message(0, SINT, 1, &[]), Ok(()));
    m.write(0, msr::STIMER0_CONFIG, 1 << 3 | u64::from(SINT) << 16);
    m.write(0, msr::STIMER0_COUNT, 1);
    m.timers.advance(UNIT);
    m.write(0, msr::STIMER0_COUNT, 1000);
    m.free_slot();
    m.write(0, msr::EOM, 0);
    assert_eq!(m.slot_type(), 0);
}

#[test]
fn reset_of_a_processor_is_its_alone() {
    let m = machine();
    m.memory.write_obj(0x77_u8, GuestAddress(0x7000)).unwrap();
    m.enable_synic(0);
    m.write(1, msr::SIMP, 0x7001);
    m.write(1, msr::SCONTROL, 1);
    m.write(1, msr::STIMER0_CONFIG, 8 | 1 << 12 | 0xed << 4);
    m.write(1, msr::STIMER0_COUNT, 100);
    m.enlightenment.reset_processor(1);
    assert_eq!((m.read(1, msr::SIMP), m.read(1, msr::SCONTROL), m.read(1, msr::STIMER0_COUNT)), (0, 0, 0));
    assert_eq!(m.memory.read_obj::<u8>(GuestAddress(0x7000)).unwrap(), 0x77);
    m.timers.advance(1000 * UNIT);
    assert_eq!(m.apics[1].take(), []);
    assert_eq!(m.read(0, msr::SCONTROL), 1);
}

#[test]
fn reset_of_the_machine_keeps_time_and_connections() {
    let m = machine();
    m.enable_synic(0);
    m.write(0, msr::GUEST_OS_ID, 1);
    m.write(0, msr::HYPERCALL, 0x3003);
    m.write(0, msr::CRASH_P0, 5);
    m.clock.advance(1000);
    m.enlightenment.reset();
    for number in [msr::GUEST_OS_ID, msr::HYPERCALL, msr::CRASH_P0, msr::SCONTROL, msr::SIMP] {
        assert_eq!(m.read(0, number), 0, "{number:#x}");
    }
    assert_eq!(m.memory.read_obj::<u64>(GuestAddress(0x3000)).unwrap(), 0);
    assert_eq!(m.read(0, msr::TIME_REF_COUNT), 10);
}

#[test]
fn accesses_are_counted() {
    let m = machine();
    m.write(0, msr::EOI, 0);
    m.write(0, msr::EOI, 0);
    m.refuses(0x4000_0999, 0);
    let values: std::collections::BTreeMap<_, _> = m.registry.named_values().into_iter().collect();
    assert_eq!((values["msr.eoi"], values["msr.unknown"], values["msr.tpr"]), (2, 1, 0));
}

#[test]
fn a_detached_interface_lets_go() {
    let m = machine();
    m.enlightenment.detach();
    assert_eq!(Arc::strong_count(&m.apics[0]), 1);
    m.enlightenment.write_msr(0, msr::EOI, 0);
    assert!(m.enlightenment.attach(Vec::new(), m.processors.clone()).is_err());
}

#[test]
fn slots_that_the_hosts_kernel_writes_too_are_filled_by_their_processor_only() {
    let m = machine();
    m.enable_synic(0);
    let offload = Arc::new(FakeOffload::default());
    m.enlightenment.attach_offload(offload.clone(), m.processors.clone());
    let raised = || std::mem::take(&mut *offload.raised.lock().unwrap());
    for n in [7, 8] {
        assert_eq!(m.enlightenment.post_message(0, SINT, n, &[]), Ok(()));
    }
    assert_eq!((m.slot_type(), raised()), (0, vec![]), "it may be in guest code");
    assert_eq!(*offload.deliveries.lock().unwrap(), [0, 0]);

    // The kernel was first, and the guest has not read that message yet.
    m.memory.write_obj(0x8000_0010_u32, SLOT).unwrap();
    m.enlightenment.deliver_messages(0);
    let flags: u8 = m.memory.read_obj(GuestAddress(SLOT.0 + 5)).unwrap();
    assert_eq!((m.slot_type(), flags, raised()), (0x8000_0010, 1, vec![]), "the guest is told to write EOM");

    for n in [7, 8] {
        m.free_slot();
        m.write(0, msr::EOM, 0);
        assert_eq!((m.slot_type(), raised()), (n, vec![(0, SINT)]));
    }
    m.free_slot();
    m.write(0, msr::EOM, 0);
    assert_eq!((m.slot_type(), raised()), (0, vec![]));
    for _ in 0..MESSAGE_QUEUE_LIMIT {
        assert_eq!(m.enlightenment.post_message(0, SINT, 1, &[]), Ok(()));
    }
    assert_eq!(m.enlightenment.post_message(0, SINT, 1, &[]), Err(HvStatus::INSUFFICIENT_BUFFERS));
}
