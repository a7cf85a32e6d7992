//! Hypercalls as a guest makes them.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use processor::GeneralRegister::{R8, Rax, Rbx, Rcx, Rdi, Rdx, Rsi};
use processor::{
    DescriptorTable, GeneralRegister, HypercallContext, HypercallOutcome, HypervisorInterface, Segment,
    SegmentAttributes, TlbRange,
};
use tlfs::message::MessageType;
use tlfs::{HvStatus, msr};
use vm_memory::{Bytes, GuestAddress};

use super::TABLE;
use crate::fake::{FakeContext, FakeMachine, Flushed};
use crate::{EventPort, Feature, Features, MessagePort};

const INPUT: u64 = 0x1000;
const OUTPUT: u64 = 0x2000;
const FAST: u64 = 1 << 16;
const SUCCESS: u64 = 0;

const FLUSH_SPACE: u64 = 0x02;
const FLUSH_LIST: u64 = 0x03;
const SPIN_WAIT: u64 = 0x08;
const SEND_IPI: u64 = 0x0b;
const FLUSH_SPACE_EX: u64 = 0x13;
const FLUSH_LIST_EX: u64 = 0x14;
const SEND_IPI_EX: u64 = 0x15;
const GET_REGISTERS: u64 = 0x50;
const SET_REGISTERS: u64 = 0x51;
const POST_MESSAGE: u64 = 0x5c;
const SIGNAL_EVENT: u64 = 0x5d;
const START_PROCESSOR: u64 = 0x99;
const INDEX_FROM_APIC_ID: u64 = 0x9a;
const QUERY_CAPABILITIES: u64 = 0x8001;

const SELF_PARTITION: u64 = u64::MAX;
const SELF_VP: u64 = 0xffff_fffe;

fn status(status: HvStatus) -> u64 {
    status.0.into()
}

fn reps(count: u64) -> u64 {
    count << 32
}

fn variable(quadwords: u64) -> u64 {
    quadwords << 17
}

fn machine() -> FakeMachine {
    machine_with(Features::ALL, 70)
}

fn machine_with(features: Features, processors: u32) -> FakeMachine {
    let (memory, _) = guest_memory::allocate(0x8000).unwrap();
    let machine = FakeMachine::new(&memory, features, processors);
    machine.enlightenment.write_msr(0, msr::GUEST_OS_ID, 1);
    machine
}

impl FakeMachine {
    fn input(&self, quadwords: &[u64]) {
        for (index, quadword) in (0..).zip(quadwords) {
            self.memory.write_obj(*quadword, GuestAddress(INPUT + index * 8)).unwrap();
        }
    }

    fn output(&self, index: u64) -> u64 {
        self.memory.read_obj(GuestAddress(OUTPUT + index * 8)).unwrap()
    }

    /// Makes a hypercall as processor 0 with these values in RCX, RDX and R8; returns RAX.
    fn call(&self, input: u64, first: u64, second: u64) -> u64 {
        let mut context = context(input, first, second);
        assert_eq!(self.enlightenment.hypercall(0, &mut context), HypercallOutcome::Done);
        context.register(Rax)
    }

    /// Makes a hypercall with these input parameters in memory.
    fn slow(&self, input: u64, parameters: &[u64]) -> u64 {
        self.input(parameters);
        self.call(input, INPUT, OUTPUT)
    }

    fn flushes(&self) -> Vec<Flushed> {
        std::mem::take(&mut self.processors.flushes.lock().unwrap())
    }
}

fn context(input: u64, first: u64, second: u64) -> FakeContext {
    let mut context = FakeContext::default();
    context.set_register(Rcx, input);
    context.set_register(Rdx, first);
    context.set_register(R8, second);
    context
}

#[derive(Default)]
struct Port {
    messages: Mutex<Vec<(u32, u32, Vec<u8>)>>,
    events: Mutex<Vec<u16>>,
    busy: bool,
}

impl MessagePort for Port {
    fn post(&self, connection: u32, message_type: u32, payload: &[u8]) -> Result<(), HvStatus> {
        if self.busy {
            return Err(HvStatus::INSUFFICIENT_BUFFERS);
        }
        self.messages.lock().unwrap().push((connection, message_type, payload.to_vec()));
        Ok(())
    }
}

impl EventPort for Port {
    fn signal(&self, flag: u16) {
        self.events.lock().unwrap().push(flag);
    }

    fn flag_count(&self) -> u16 {
        4
    }
}

// The calling conventions.

#[test]
fn the_table_is_in_order() {
    assert!(TABLE.windows(2).all(|pair| pair[0].code < pair[1].code));
}

#[test]
fn only_privileged_code_in_protected_mode_may_call() {
    let m = machine();
    let mut user = FakeContext { privilege_level: 3, ..context(SPIN_WAIT | FAST, 0, 0) };
    let mut real = FakeContext { protected_mode: false, ..context(SPIN_WAIT | FAST, 0, 0) };
    assert_eq!(m.enlightenment.hypercall(0, &mut user), HypercallOutcome::InvalidOpcode);
    assert_eq!(m.enlightenment.hypercall(0, &mut real), HypercallOutcome::InvalidOpcode);
}

#[test]
fn a_guest_without_identity_may_not_call() {
    let m = machine();
    m.enlightenment.write_msr(0, msr::GUEST_OS_ID, 0);
    let mut context = context(SPIN_WAIT | FAST, 0, 0);
    assert_eq!(m.enlightenment.hypercall(0, &mut context), HypercallOutcome::InvalidOpcode);
}

#[test]
fn an_unknown_code_is_told() {
    let m = machine();
    assert_eq!(m.call(0x77, 0, 0), status(HvStatus::INVALID_HYPERCALL_CODE));
    assert_eq!(m.call(0x8002, 0, 0), status(HvStatus::INVALID_HYPERCALL_CODE));
}

#[test]
fn what_is_not_offered_is_denied() {
    let m = machine_with("hypercalls".parse().unwrap(), 1);
    for hypercall in TABLE {
        let result = m.call(hypercall.code.0.into(), INPUT, OUTPUT);
        assert_eq!(result, status(HvStatus::ACCESS_DENIED), "{}", hypercall.name);
    }
    let without_ex = machine_with("all,-ex-processor-masks".parse().unwrap(), 1);
    assert_eq!(without_ex.slow(FLUSH_SPACE, &[0, 3, 0]), SUCCESS);
    assert_eq!(without_ex.slow(FLUSH_SPACE_EX, &[0, 3, 0, 0]), status(HvStatus::ACCESS_DENIED));
}

#[test]
fn reserved_bits_of_the_input_value_are_checked() {
    let m = machine();
    for bit in (27..32).chain(44..48).chain(60..64) {
        let result = m.call(SPIN_WAIT | FAST | 1 << bit, 0, 0);
        assert_eq!(result, status(HvStatus::INVALID_HYPERCALL_INPUT), "bit {bit}");
    }
}

#[test]
fn a_simple_call_has_no_reps_and_no_variable_header() {
    let m = machine();
    for extra in [reps(1), 1 << 48, variable(1)] {
        assert_eq!(m.call(SPIN_WAIT | FAST | extra, 0, 0), status(HvStatus::INVALID_HYPERCALL_INPUT));
    }
}

#[test]
fn a_rep_call_starts_within_its_list() {
    let m = machine();
    for (count, start) in [(0, 0), (0, 1), (1, 1), (3, 7)] {
        let result = m.call(FLUSH_LIST | reps(count) | start << 48, INPUT, 0);
        assert_eq!(result, status(HvStatus::INVALID_HYPERCALL_INPUT), "{start} of {count}");
    }
}

#[test]
fn parameters_are_aligned_within_a_page_and_in_memory() {
    let m = machine();
    for gpa in [INPUT + 4, 0x1ff0, 0x8000, 0x7fff_ffff_f000, u64::MAX - 7] {
        assert_eq!(m.call(FLUSH_SPACE, gpa, 0), status(HvStatus::INVALID_ALIGNMENT), "{gpa:#x}");
    }
    assert_eq!(m.call(QUERY_CAPABILITIES, 0, OUTPUT + 1), status(HvStatus::INVALID_ALIGNMENT));
    assert_eq!(m.call(QUERY_CAPABILITIES, 0, 0x8000), status(HvStatus::INVALID_ALIGNMENT));
    m.memory.write_obj([0_u64, 3, 0], GuestAddress(0x1fe8)).unwrap();
    assert_eq!(m.call(FLUSH_SPACE, 0x1fe8, 1), SUCCESS, "up to the end of the page; output is ignored");
}

#[test]
fn input_and_output_do_not_overlap() {
    let m = machine();
    m.input(&[SELF_PARTITION, SELF_VP, 0x0009_0003]);
    assert_eq!(m.call(GET_REGISTERS | reps(1), INPUT, INPUT + 16), status(HvStatus::INVALID_ALIGNMENT));
    assert_eq!(m.call(GET_REGISTERS | reps(1), INPUT, INPUT + 24), 1 << 32);
}

#[test]
fn a_32_bit_caller_uses_register_pairs() {
    let m = machine();
    let mut context = FakeContext { long_mode: false, ..FakeContext::default() };
    let pairs = [(Rdx, Rax, SEND_IPI | FAST), (Rbx, Rcx, 0x41), (Rdi, Rsi, 1 << 35 | 1)];
    for (high, low, value) in pairs {
        // The upper halves of the registers are not the caller's.
        context.set_register(high, value >> 32 | 0xdead_0000_0000);
        context.set_register(low, value & 0xffff_ffff | 0xbeef_0000_0000);
    }
    context.set_register(Rdx, 0);
    assert_eq!(m.enlightenment.hypercall(0, &mut context), HypercallOutcome::Done);
    assert_eq!((context.register(Rdx), context.register(Rax)), (0, 0));
    assert_eq!((m.apics[0].take(), m.apics[35].take(), m.apics[3].take()), (vec![0x41], vec![0x41], vec![]));
}

#[test]
fn a_fast_call_cannot_have_more_input_than_the_registers_hold() {
    let m = machine();
    assert_eq!(m.call(POST_MESSAGE | FAST, 0, 0), status(HvStatus::INVALID_HYPERCALL_INPUT));
    assert_eq!(m.call(FLUSH_LIST | FAST | reps(12), 0, 0), status(HvStatus::INVALID_HYPERCALL_INPUT));
}

#[test]
fn xmm_registers_carry_input() {
    let m = machine();
    let mut context = context(FLUSH_LIST | FAST | reps(3), 0x5000, 0);
    context.xmm[0] = 0x1000 << 64 | 0b10;
    context.xmm[1] = 0x3000 << 64 | 0x2000;
    assert_eq!(m.enlightenment.hypercall(0, &mut context), HypercallOutcome::Done);
    assert_eq!(context.register(Rax), 3 << 32);
    let flush = &m.flushes()[0];
    assert_eq!((flush.targets.as_slice(), flush.flush.address_space), ([1].as_slice(), Some(0x5000)));
    let starts: Vec<_> = flush.flush.ranges.iter().map(|range| range.start).collect();
    assert_eq!(starts, [0x1000, 0x2000, 0x3000]);
}

#[test]
fn registers_that_are_not_offered_are_an_invalid_opcode() {
    let m = machine_with("all,-xmm-input".parse().unwrap(), 1);
    let mut wide = context(FLUSH_SPACE | FAST, 0, 0);
    assert_eq!(m.enlightenment.hypercall(0, &mut wide), HypercallOutcome::InvalidOpcode);
    assert_eq!(m.call(SEND_IPI | FAST, 0x41, 1), SUCCESS, "general registers suffice");
    let m = machine_with("all,-xmm-output".parse().unwrap(), 1);
    let mut returns = context(QUERY_CAPABILITIES | FAST, 0, 0);
    assert_eq!(m.enlightenment.hypercall(0, &mut returns), HypercallOutcome::InvalidOpcode);
}

#[test]
fn output_goes_into_the_registers_behind_the_input() {
    let m = machine();
    let mut query = context(QUERY_CAPABILITIES | FAST, 0x1234, 0x5678);
    assert_eq!(m.enlightenment.hypercall(0, &mut query), HypercallOutcome::Done);
    assert_eq!((query.register(Rax), query.register(Rdx), query.register(R8)), (SUCCESS, 0, 0x5678));

    let mut get = context(GET_REGISTERS | FAST | reps(2), SELF_PARTITION, SELF_VP);
    get.xmm = [0x0009_0002 << 32 | 0x0009_0003, 0, 0, 7, 7, 7];
    m.enlightenment.write_msr(0, msr::GUEST_OS_ID, 0xabc);
    assert_eq!(m.enlightenment.hypercall(5, &mut get), HypercallOutcome::Done);
    assert_eq!(get.register(Rax), 2 << 32);
    assert_eq!(get.xmm, [0x0009_0002 << 32 | 0x0009_0003, 5, 0xabc, 7, 7, 7]);

    let mut narrow = FakeContext { long_mode: false, ..FakeContext::default() };
    narrow.set_register(Rax, QUERY_CAPABILITIES | FAST);
    assert_eq!(m.enlightenment.hypercall(0, &mut narrow), HypercallOutcome::Done);
    assert_eq!(narrow.register(Rax), status(HvStatus::INVALID_HYPERCALL_INPUT), "64-bit callers only");
}

#[test]
fn calls_are_counted() {
    let m = machine();
    m.call(SPIN_WAIT | FAST, 0, 0);
    m.call(0x77, 0, 0);
    let values: std::collections::BTreeMap<_, _> = m.registry.named_values().into_iter().collect();
    assert_eq!((values["hypercall.notify_long_spin_wait"], values["hypercall.unknown"]), (1, 1));
    assert_eq!(values["hypercall.post_message"], 0);
}

// Continuation.

#[test]
fn a_long_list_is_continued_where_it_was_interrupted() {
    let m = machine();
    m.processors.flush_time.store(60_000, Ordering::SeqCst);
    let list: Vec<_> = [0, 0, 1].into_iter().chain((0..300).map(|page| page << 12)).collect();
    m.input(&list);
    let mut context = context(FLUSH_LIST | reps(300), INPUT, 0);
    let mut starts = Vec::new();
    while m.enlightenment.hypercall(0, &mut context) == HypercallOutcome::Again {
        starts.push(context.register(Rcx) >> 48);
        assert_eq!(context.register(Rcx) & 0xffff_ffff_ffff, FLUSH_LIST | reps(300));
    }
    assert_eq!((starts, context.register(Rax)), (vec![128, 256], 300 << 32));
    let flushed: Vec<_> = m.flushes().into_iter().flat_map(|flush| flush.flush.ranges).collect();
    let expected: Vec<_> = (0..300).map(|page| TlbRange { start: page << 12, pages: 1 }).collect();
    assert_eq!(flushed, expected);
}

#[test]
fn a_32_bit_callers_continuation_is_in_edx_and_eax() {
    let m = machine();
    m.processors.flush_time.store(60_000, Ordering::SeqCst);
    m.input(&[0, 0, 1]);
    let mut context = FakeContext { long_mode: false, ..FakeContext::default() };
    context.set_register(Rax, FLUSH_LIST);
    context.set_register(Rdx, 200);
    context.set_register(Rcx, INPUT);
    assert_eq!(m.enlightenment.hypercall(0, &mut context), HypercallOutcome::Again);
    assert_eq!((context.register(Rdx), context.register(Rax)), (128 << 16 | 200, FLUSH_LIST));
    assert_eq!(m.enlightenment.hypercall(0, &mut context), HypercallOutcome::Done);
    assert_eq!((context.register(Rdx), context.register(Rax)), (200, 0));
}

#[test]
fn a_quick_list_is_not_interrupted() {
    let m = machine();
    let list: Vec<_> = [0, 0, 1].into_iter().chain((0..500).map(|page| page << 12)).collect();
    assert_eq!(m.slow(FLUSH_LIST | reps(500), &list), 500 << 32);
}

#[test]
fn an_error_tells_how_many_were_done() {
    let m = machine();
    m.input(&[SELF_PARTITION, 0, 2 << 32, 1 << 32 | 6]);
    let result = m.call(INDEX_FROM_APIC_ID | reps(4), INPUT, OUTPUT);
    assert_eq!(result, 3 << 32 | status(HvStatus::INVALID_PARAMETER), "0, 2 and 6 exist, 1 does not");
}

// TLB flush.

#[test]
fn flush_of_a_space_names_processors_and_space() {
    let m = machine();
    assert_eq!(m.slow(FLUSH_SPACE, &[0x1234_5067, 0, 0b1001]), SUCCESS);
    let flush = m.flushes().remove(0);
    assert_eq!((flush.caller, flush.targets.as_slice()), (Some(0), [0, 3].as_slice()));
    assert_eq!((flush.flush.address_space, flush.flush.keep_global), (Some(0x1234_5000), false));
    assert!(flush.flush.ranges.is_empty());
}

#[test]
fn flush_flags_widen_and_narrow() {
    let m = machine();
    assert_eq!(m.slow(FLUSH_SPACE, &[0x5000, 0b111, 0]), SUCCESS);
    let flush = m.flushes().remove(0);
    assert_eq!(flush.targets, (0..70).collect::<Vec<_>>());
    assert_eq!((flush.flush.address_space, flush.flush.keep_global), (None, true));
}

#[test]
fn flush_flags_that_are_reserved_or_not_offered_are_refused() {
    let m = machine();
    for flags in [1 << 3, 1 << 4, 1 << 63] {
        assert_eq!(m.slow(FLUSH_SPACE, &[0, flags, 1]), status(HvStatus::INVALID_PARAMETER));
        assert_eq!(m.slow(FLUSH_SPACE_EX, &[0, flags, 1, 0]), status(HvStatus::INVALID_PARAMETER));
    }
    assert_eq!(m.slow(FLUSH_LIST | reps(1), &[0, 4, 1, 0]), status(HvStatus::INVALID_PARAMETER));
    assert_eq!(m.flushes(), []);
}

#[test]
fn a_range_says_how_many_pages_follow() {
    let m = machine();
    let last = 0xffff_ffff_ffff_f000;
    assert_eq!(m.slow(FLUSH_LIST | reps(3), &[0, 0, 1, 0x7000, 0x8fff, last | 0xfff]), 3 << 32);
    let ranges = m.flushes().remove(0).flush.ranges;
    let expected = [(0x7000, 1), (0x8000, 4096), (last, 1)].map(|(start, pages)| TlbRange { start, pages });
    assert_eq!(ranges, expected);
}

#[test]
fn an_empty_set_flushes_nothing() {
    let m = machine();
    assert_eq!(m.slow(FLUSH_SPACE, &[0, 0, 0]), SUCCESS);
    assert_eq!(m.slow(FLUSH_SPACE_EX, &[0, 0, 0, 0]), SUCCESS);
    assert_eq!(m.slow(FLUSH_SPACE_EX | variable(1), &[0, 0, 0, 2, u64::MAX << 6]), SUCCESS, "none exists");
    assert_eq!(m.flushes(), []);
}

#[test]
fn a_sparse_set_has_a_bank_for_every_bit() {
    let m = machine();
    assert_eq!(m.slow(FLUSH_SPACE_EX | variable(2), &[0, 0, 0, 0b11, 1 << 5, 0b100]), SUCCESS);
    assert_eq!(m.flushes().remove(0).targets, [5, 66]);
    assert_eq!(m.slow(FLUSH_SPACE_EX | variable(1), &[0, 0, 0, 0b10, 0b11]), SUCCESS);
    assert_eq!(m.flushes().remove(0).targets, [64, 65]);
    assert_eq!(m.slow(FLUSH_SPACE_EX, &[0, 0, 1, 0]), SUCCESS);
    assert_eq!(m.flushes().remove(0).targets.len(), 70);
}

#[test]
fn a_set_that_does_not_fit_its_header_is_refused() {
    let m = machine();
    let input = status(HvStatus::INVALID_HYPERCALL_INPUT);
    assert_eq!(m.slow(FLUSH_SPACE_EX | variable(1), &[0, 0, 0, 0b11, 0, 0]), input);
    assert_eq!(m.slow(FLUSH_SPACE_EX | variable(2), &[0, 0, 0, 0b1, 0, 0]), input);
    assert_eq!(m.slow(FLUSH_SPACE_EX, &[0, 0, 2, 0]), status(HvStatus::INVALID_PARAMETER), "format");
}

#[test]
fn in_the_ex_form_the_list_follows_the_banks() {
    let m = machine();
    let parameters = [0x9000, 0, 0, 0b1, 0b10, 0x4000, 0x6001];
    assert_eq!(m.slow(FLUSH_LIST_EX | variable(1) | reps(2), &parameters), 2 << 32);
    let flush = m.flushes().remove(0);
    assert_eq!(flush.targets, [1]);
    let expected = [(0x4000, 1), (0x6000, 2)].map(|(start, pages)| TlbRange { start, pages });
    assert_eq!(flush.flush.ranges, expected);
}

// Interrupts.

#[test]
fn an_ipi_reaches_the_processors_of_the_mask() {
    let m = machine();
    assert_eq!(m.call(SEND_IPI | FAST, 0xfd, 0b110), SUCCESS);
    assert_eq!(m.slow(SEND_IPI, &[0x30, 0b100]), SUCCESS);
    assert_eq!(
        (m.apics[0].take(), m.apics[1].take(), m.apics[2].take()),
        (vec![], vec![0xfd], vec![0xfd, 0x30])
    );
}

#[test]
fn an_ipi_needs_a_valid_vector_and_trust_level() {
    let m = machine();
    for first in [0xf, 0x100, 0x12 << 32 | 0x30, 0x20 << 32 | 0x30] {
        assert_eq!(m.call(SEND_IPI | FAST, first, 1), status(HvStatus::INVALID_PARAMETER), "{first:#x}");
    }
    assert_eq!(m.call(SEND_IPI | FAST, 0x10 << 32 | 0x30, 1), SUCCESS, "level 0, said explicitly");
}

#[test]
fn an_ipi_of_the_ex_form_reaches_far_processors() {
    let m = machine();
    assert_eq!(m.slow(SEND_IPI_EX | variable(1), &[0x40, 0, 0b10, 1 << 5]), SUCCESS);
    assert_eq!((m.apics[69].take(), m.apics[5].take()), (vec![0x40], vec![]));
    assert_eq!(m.slow(SEND_IPI_EX, &[0x41, 1, 0]), SUCCESS);
    assert!(m.apics.iter().all(|apic| apic.take() == [0x41]));
}

// Ports.

#[test]
fn a_message_reaches_its_port() {
    let m = machine();
    let port = Arc::new(Port::default());
    assert!(m.enlightenment.connect_message(1, port.clone()));
    assert_eq!(m.slow(POST_MESSAGE, &[1, 4 << 32 | 1, 0x4433_2211]), SUCCESS);
    assert_eq!(*port.messages.lock().unwrap(), [(1, 1, vec![0x11, 0x22, 0x33, 0x44])]);
}

#[test]
fn messages_are_checked() {
    let m = machine();
    assert!(m.enlightenment.connect_message(1, Arc::new(Port::default())));
    let invalid = status(HvStatus::INVALID_PARAMETER);
    assert_eq!(m.slow(POST_MESSAGE, &[1, 241 << 32 | 1]), invalid);
    assert_eq!(m.slow(POST_MESSAGE, &[1, 0]), invalid, "type 0");
    assert_eq!(m.slow(POST_MESSAGE, &[1, MessageType::TIMER_EXPIRED.0.into()]), invalid);
    assert_eq!(m.slow(POST_MESSAGE, &[1 << 32 | 1, 1]), invalid, "reserved");
    assert_eq!(m.slow(POST_MESSAGE, &[1, 240 << 32 | 1]), SUCCESS);
    assert_eq!(m.call(POST_MESSAGE, 0x1f08, 0), status(HvStatus::INVALID_ALIGNMENT), "out of the page");
}

#[test]
fn connections_are_found_by_kind() {
    let m = machine();
    assert!(m.enlightenment.connect_message(1, Arc::new(Port { busy: true, ..Port::default() })));
    assert!(m.enlightenment.connect_events(2, Arc::new(Port::default())));
    assert!(!m.enlightenment.connect_events(1, Arc::new(Port::default())), "taken");
    assert!(!m.enlightenment.connect_events(1 << 24, Arc::new(Port::default())), "too large");
    assert_eq!(m.slow(POST_MESSAGE, &[1, 1]), status(HvStatus::INSUFFICIENT_BUFFERS));
    assert_eq!(m.slow(POST_MESSAGE, &[2, 1]), status(HvStatus::INVALID_PORT_ID));
    assert_eq!(m.slow(POST_MESSAGE, &[3, 1]), status(HvStatus::INVALID_CONNECTION_ID));
    assert_eq!(m.slow(POST_MESSAGE, &[1 << 24 | 1, 1]), status(HvStatus::INVALID_CONNECTION_ID));
    assert_eq!(m.call(SIGNAL_EVENT | FAST, 1, 0), status(HvStatus::INVALID_PORT_ID));
    assert_eq!(m.call(SIGNAL_EVENT | FAST, 3, 0), status(HvStatus::INVALID_CONNECTION_ID));
    assert!(m.enlightenment.disconnect(2));
    assert!(!m.enlightenment.disconnect(2));
    assert_eq!(m.call(SIGNAL_EVENT | FAST, 2, 0), status(HvStatus::INVALID_CONNECTION_ID));
}

#[test]
fn an_event_reaches_its_port() {
    let m = machine();
    let port = Arc::new(Port::default());
    assert!(m.enlightenment.connect_events(0x1_0042, port.clone()));
    assert_eq!(m.call(SIGNAL_EVENT | FAST, 0x1_0042, 0), SUCCESS);
    assert_eq!(m.slow(SIGNAL_EVENT, &[3 << 32 | 0x1_0042]), SUCCESS);
    assert_eq!(*port.events.lock().unwrap(), [0, 3]);
    assert_eq!(m.call(SIGNAL_EVENT | FAST, 4 << 32 | 0x1_0042, 0), status(HvStatus::INVALID_PARAMETER));
    assert_eq!(m.call(SIGNAL_EVENT | FAST, 1 << 48 | 0x1_0042, 0), status(HvStatus::INVALID_PARAMETER));
}

// Processors.

#[test]
fn a_spinning_processor_yields() {
    let m = machine();
    assert_eq!(m.call(SPIN_WAIT | FAST, 0xfff, 0), SUCCESS);
    assert_eq!(m.processors.yields.load(Ordering::SeqCst), 1);
}

#[test]
fn an_apic_id_names_a_processor() {
    let m = machine();
    // The fake APICs' ids are twice the indices.
    m.input(&[SELF_PARTITION, 0, 10 << 32 | 4, 138]);
    assert_eq!(m.call(INDEX_FROM_APIC_ID | reps(3), INPUT, OUTPUT), 3 << 32);
    assert_eq!((m.output(0), m.output(1) as u32), (5 << 32 | 2, 69));
    m.input(&[SELF_PARTITION, 0, 5]);
    let result = m.call(INDEX_FROM_APIC_ID | reps(1), INPUT, OUTPUT);
    assert_eq!(result, status(HvStatus::INVALID_PARAMETER));
    m.input(&[7, 0, 0]);
    let result = m.call(INDEX_FROM_APIC_ID | reps(1), INPUT, OUTPUT);
    assert_eq!(result, status(HvStatus::INVALID_PARTITION_ID));
}

/// Parameters that start processor 3 in 64-bit mode.
fn start_parameters() -> [u64; 30] {
    let mut p = [0; 30];
    p[0] = SELF_PARTITION;
    p[1] = 3;
    p[2] = 0xffff_ffff_8100_0000;
    p[3] = 0xffff_c900_0000_4000;
    p[4] = 2;
    p[5..7].copy_from_slice(&[0, 0xa09b_0010_ffff_ffff]);
    p[17..19].copy_from_slice(&[0x6000, 0x008b_0040_0000_0067]);
    p[21..23].copy_from_slice(&[0x0fff << 48, 0x7000]);
    p[23..25].copy_from_slice(&[0x007f << 48, 0x8000]);
    p[25] = 0xd01;
    p[26] = 0x8005_0033;
    p[27] = 0x1_0000;
    p[28] = 0x20;
    p[29] = 0x0007_0406_0007_0406;
    p
}

#[test]
fn a_processor_starts_with_the_registers_it_is_given() {
    let m = machine();
    assert_eq!(m.slow(START_PROCESSOR, &start_parameters()), SUCCESS);
    let (vp, state) = m.processors.started.lock().unwrap()[0].clone();
    assert_eq!((vp, state.rip, state.rflags), (3, 0xffff_ffff_8100_0000, 2));
    assert_eq!(state.general[GeneralRegister::Rsp as usize], 0xffff_c900_0000_4000);
    assert_eq!((state.cr0, state.cr3, state.cr4, state.efer), (0x8005_0033, 0x1_0000, 0x20, 0xd01));
    assert_eq!(state.pat, Some(0x0007_0406_0007_0406));
    let code = Segment { selector: 0x10, base: 0, limit: u32::MAX, attributes: SegmentAttributes(0xa09b) };
    assert_eq!(state.segments[1], code);
    assert_eq!(state.segments[3].attributes, SegmentAttributes(1 << 16), "not present");
    let task = Segment { selector: 0x40, base: 0x6000, limit: 0x67, attributes: SegmentAttributes(0x8b) };
    assert_eq!(state.tr, task);
    assert_eq!(state.idtr, DescriptorTable { base: 0x7000, limit: 0xfff });
    assert_eq!(state.gdtr, DescriptorTable { base: 0x8000, limit: 0x7f });
}

#[test]
fn a_processor_starts_once_and_not_itself() {
    let m = machine();
    assert_eq!(m.slow(START_PROCESSOR, &start_parameters()), SUCCESS);
    assert_eq!(m.slow(START_PROCESSOR, &start_parameters()), status(HvStatus::INVALID_VP_STATE));
    let with = |index: usize, value| {
        let mut parameters = start_parameters();
        parameters[index] = value;
        m.slow(START_PROCESSOR, &parameters)
    };
    assert_eq!(with(1, 0), status(HvStatus::INVALID_VP_STATE));
    assert_eq!(with(1, 70), status(HvStatus::INVALID_VP_INDEX));
    assert_eq!(with(1, 1 << 32 | 3), status(HvStatus::INVALID_VTL_STATE));
    assert_eq!(with(0, 1), status(HvStatus::INVALID_PARTITION_ID));
}

#[test]
fn registers_that_do_not_go_together_are_refused() {
    let m = machine();
    let cases = [
        (2, 1 << 60),      // RIP is not canonical
        (4, 1 << 40),      // RFLAGS has 32 bits
        (25, 0x901),       // EFER.LMA does not follow from LME and PG
        (26, 0x8000_0010), // CR0.PG without PE
        (26, 0xa005_0033), // CR0.NW without CD
        (26, 1 << 32 | 0x33),
        (27, 1 << 52),
        (28, 0), // long mode without PAE
        (29, 0x0007_0406_0007_0402),
    ];
    for (index, value) in cases {
        let mut parameters = start_parameters();
        parameters[index] = value;
        let result = m.slow(START_PROCESSOR, &parameters);
        assert_eq!(result, status(HvStatus::INVALID_REGISTER_VALUE), "{index}: {value:#x}");
    }
    assert!(m.processors.started.lock().unwrap().is_empty());
}

// Registers.

fn get(m: &FakeMachine, context: &FakeContext, name: u32) -> Result<[u64; 2], u64> {
    m.input(&[SELF_PARTITION, SELF_VP, name.into()]);
    let mut context = context.clone();
    for (register, value) in [(Rcx, GET_REGISTERS | reps(1)), (Rdx, INPUT), (R8, OUTPUT)] {
        context.set_register(register, value);
    }
    assert_eq!(m.enlightenment.hypercall(1, &mut context), HypercallOutcome::Done);
    match context.register(Rax) {
        0x1_0000_0000 => Ok([m.output(0), m.output(1)]),
        error => Err(error),
    }
}

#[test]
fn a_processor_reads_its_registers() {
    let m = machine();
    let mut context = FakeContext::default();
    context.set_register(Rbx, 0xb);
    context.xmm[5] = 6 << 64 | 5;
    context.state.cr3 = 0x1234_5000;
    context.state.pat = Some(0x77);
    context.state.segments[5] =
        Segment { selector: 0x2b, base: 0xabc, limit: 0xfffff, attributes: SegmentAttributes(0x1_c093) };
    context.state.idtr = DescriptorTable { base: 0x9000, limit: 0xfff };
    m.enlightenment.write_msr(1, msr::TPR, 0x50);
    m.enlightenment.write_msr(1, msr::SIMP, 0x3001);
    m.clock.advance(4200);
    let expected = [
        (0x0002_0003, [0xb, 0]),
        (0x0003_0005, [5, 6]),
        (0x0004_0002, [0x1234_5000, 0]),
        (0x0004_0004, [5, 0]),
        (0x0006_0005, [0xabc, 0xc093_002b_000f_ffff]),
        (0x0007_0000, [0xfff << 48, 0x9000]),
        (0x0008_0000, [4200, 0]),
        (0x0008_0003, [0xfee0_0900, 0]),
        (0x0008_0004, [0x77, 0]),
        (0x0008_000c, [2, 0]),
        (0x0009_0003, [1, 0]),
        (0x0009_0004, [42, 0]),
        (0x000a_0011, [1, 0]),
        (0x000a_0013, [0x3001, 0]),
        (0x0000_0100, [10 << 48 | 20348, 0]),
        (0x0000_0240, [1_000_000_000, 0]),
    ];
    for (name, value) in expected {
        assert_eq!(get(&m, &context, name), Ok(value), "{name:#x}");
    }
    assert_eq!(get(&m, &context, 0x000d_0002), Err(status(HvStatus::INVALID_PARAMETER)));
}

fn set(m: &FakeMachine, name: u64, value: [u64; 2]) -> (u64, FakeContext) {
    m.input(&[SELF_PARTITION, SELF_VP, name, 0, value[0], value[1]]);
    let mut context = context(SET_REGISTERS | reps(1), INPUT, 0);
    assert_eq!(m.enlightenment.hypercall(1, &mut context), HypercallOutcome::Done);
    (context.register(Rax), context)
}

#[test]
fn a_processor_writes_its_registers() {
    let m = machine();
    assert_eq!(set(&m, 0x0002_0003, [0xb, 0]).1.register(Rbx), 0xb);
    assert_eq!(set(&m, 0x0003_0001, [1, 2]).1.xmm[1], 2 << 64 | 1);
    assert_eq!(set(&m, 0x0009_0012, [0x40, 0]).0, 1 << 32);
    assert_eq!(m.enlightenment.read_msr(1, msr::TPR), processor::MsrOutcome::Done(0x40));
    assert_eq!(set(&m, 0x0004_0004, [3, 0]).0, 1 << 32);
    assert_eq!(m.enlightenment.read_msr(1, msr::TPR), processor::MsrOutcome::Done(0x30));
}

#[test]
fn registers_refuse_what_does_not_fit() {
    let m = machine();
    let value = status(HvStatus::INVALID_REGISTER_VALUE);
    assert_eq!(set(&m, 0x0009_0012, [0x100, 0]).0, value);
    assert_eq!(set(&m, 0x0002_0003, [0, 1]).0, value);
    assert_eq!(set(&m, 0x0009_0003, [1, 0]).0, value, "read only");
    assert_eq!(set(&m, 0x0004_0004, [16, 0]).0, value);
    assert_eq!(set(&m, 0x0004_0000, [1, 0]).0, status(HvStatus::INVALID_PARAMETER));
    assert_eq!(set(&m, 1 << 32 | 0x0002_0003, [0, 0]).0, status(HvStatus::INVALID_PARAMETER), "reserved");
}

#[test]
fn registers_are_the_callers_own() {
    let m = machine();
    let target = |parameters: [u64; 3]| m.slow(GET_REGISTERS | reps(1), &parameters);
    assert_eq!(target([SELF_PARTITION, 0, 0x0009_0003]), 1 << 32, "by its index");
    assert_eq!(target([SELF_PARTITION, 1, 0x0009_0003]), status(HvStatus::INVALID_VP_STATE));
    assert_eq!(target([SELF_PARTITION, 70, 0x0009_0003]), status(HvStatus::INVALID_VP_INDEX));
    assert_eq!(target([1, SELF_VP, 0x0009_0003]), status(HvStatus::INVALID_PARTITION_ID));
    assert_eq!(target([SELF_PARTITION, 0x11 << 32 | SELF_VP, 0]), status(HvStatus::INVALID_PARAMETER));
    assert_eq!(target([SELF_PARTITION, 1 << 40 | SELF_VP, 0]), status(HvStatus::INVALID_PARAMETER));
}

#[test]
fn there_are_no_other_extended_hypercalls() {
    let m = machine();
    m.memory.write_obj(u64::MAX, GuestAddress(OUTPUT)).unwrap();
    assert_eq!(m.call(QUERY_CAPABILITIES, 0, OUTPUT), SUCCESS);
    assert_eq!(m.output(0), 0);
}

#[test]
fn every_hypercall_is_offered_by_a_feature_that_cpuid_tells() {
    for hypercall in TABLE {
        let told = |feature: &Feature| {
            feature.privileges().into_bits() != 0
                || feature.recommendations().into_bits() != 0
                || *feature == Feature::SpinWait
        };
        assert!(!hypercall.needs.is_empty() && hypercall.needs.iter().all(told), "{}", hypercall.name);
    }
}
