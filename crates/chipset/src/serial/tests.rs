use std::sync::Mutex;

use proptest::prelude::*;

use super::*;
use crate::line::tests::Probe;
use crate::sync::lock;

#[derive(Clone, Default)]
struct Output(Arc<Mutex<Vec<u8>>>);

impl Write for Output {
    fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
        lock(&self.0).extend(data);
        Ok(data.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

struct Bench {
    serial: Serial,
    irq: Arc<Probe>,
    output: Output,
}

const DATA: u16 = 0;
const IER: u16 = 1;
const IIR: u16 = 2;
const FCR: u16 = 2;
const LCR: u16 = 3;
const MCR: u16 = 4;
const LSR: u16 = 5;
const MSR: u16 = 6;
const RTS: u8 = 0x02;
const OUT2: u8 = 0x08;
const LOOP: u8 = 0x10;

impl Bench {
    fn new() -> Self {
        let (irq, output) = (Probe::new(), Output::default());
        let serial = Serial::new(COM1, irq.clone(), Box::new(output.clone()), DeviceCounters::default());
        Self { serial, irq, output }
    }

    /// With FIFOs of trigger level 8 and interrupts let through.
    fn with_fifo() -> Self {
        let mut bench = Self::new();
        bench.out(FCR, 0x81);
        bench.out(MCR, OUT2 | RTS);
        bench
    }

    fn input(&mut self, register: u16) -> u8 {
        let mut data = [0xff];
        self.serial.port_read(COM1 + register, &mut data);
        data[0]
    }

    fn out(&mut self, register: u16, value: u8) {
        self.serial.port_write(COM1 + register, &[value]);
    }
}

#[test]
fn what_is_sent_is_written_and_the_transmitter_is_empty_at_once() {
    let mut bench = Bench::new();
    b"hello".iter().for_each(|byte| bench.out(DATA, *byte));
    assert_eq!(*lock(&bench.output.0), b"hello");
    assert_eq!(bench.input(LSR), 0x60);
}

#[test]
fn linux_recognises_a_16550a() {
    let mut bench = Bench::new();
    bench.out(IER, 0);
    assert_eq!(bench.input(IER), 0);
    bench.out(IER, 0x0f);
    assert_eq!(bench.input(IER), 0x0f);
    bench.out(IER, 0x1f | 0x40);
    assert_eq!(bench.input(IER), 0x0f);
    bench.out(MCR, LOOP | 0x0a);
    assert_eq!(bench.input(MSR) & 0xf0, 0x90);
    bench.out(FCR, 1);
    assert_eq!(bench.input(IIR) >> 6, 3);
    bench.out(7, 0x5a);
    assert_eq!(bench.input(7), 0x5a);
}

#[test]
fn the_divisor_latch_hides_data_and_interrupt_enable() {
    let mut bench = Bench::new();
    bench.out(LCR, 0x83);
    bench.out(DATA, 0x01);
    bench.out(IER, 0x02);
    assert_eq!((bench.input(DATA), bench.input(IER)), (0x01, 0x02));
    bench.out(LCR, 0x03);
    assert_eq!(bench.input(IER), 0);
    assert!(lock(&bench.output.0).is_empty());
}

#[test]
fn the_transmitter_interrupts_when_enabled_and_until_it_is_identified() {
    let mut bench = Bench::with_fifo();
    bench.out(IER, 0x02);
    assert!(bench.irq.is_high());
    assert_eq!(bench.input(IIR) & 0x0f, HOLDING_EMPTY);
    assert!(!bench.irq.is_high());
    assert_eq!(bench.input(IIR) & 0x0f, NO_INTERRUPT);
    bench.out(IER, 0);
    bench.out(IER, 0x02);
    assert_eq!(bench.input(IIR) & 0x0f, HOLDING_EMPTY);
    bench.out(DATA, b'x');
    assert!(bench.irq.is_high());
}

#[test]
fn received_data_interrupts_at_the_trigger_level_and_times_out_below() {
    let mut bench = Bench::with_fifo();
    bench.out(IER, 0x01);
    assert_eq!(bench.serial.receive(b"12345678"), 8);
    assert!(bench.irq.is_high());
    assert_eq!(bench.input(IIR) & 0x0f, RECEIVED_DATA);
    assert_eq!(bench.input(DATA), b'1');
    assert_eq!(bench.input(IIR) & 0x0f, CHARACTER_TIMEOUT);
    (0..7).for_each(|_| assert!(bench.input(DATA) != 0));
    assert!(!bench.irq.is_high());
    assert_eq!(bench.input(LSR) & DATA_READY, 0);
}

#[test]
fn without_fifo_one_byte_at_a_time_and_none_is_lost() {
    let mut bench = Bench::new();
    bench.out(MCR, RTS);
    bench.serial.receive(b"abc");
    let read: Vec<_> = (0..3).map(|_| (bench.input(LSR) & DATA_READY, bench.input(DATA))).collect();
    assert_eq!(read, [(1, b'a'), (1, b'b'), (1, b'c')]);
    assert_eq!(bench.input(LSR) & DATA_READY, 0);
}

#[test]
fn the_input_queue_is_bounded() {
    let mut bench = Bench::with_fifo();
    let flood = vec![b'x'; 2 * INPUT_LIMIT];
    assert_eq!(bench.serial.receive(&flood), INPUT_LIMIT);
    let more = bench.serial.receive(&flood);
    assert_eq!(more, FIFO_DEPTH);
    assert_eq!(bench.serial.receive(&flood), 0);
    bench.input(DATA);
    assert_eq!(bench.serial.room(), 1);
}

#[test]
fn loopback_returns_what_is_sent_and_overruns() {
    let mut bench = Bench::new();
    bench.out(MCR, LOOP);
    bench.out(DATA, b'x');
    bench.out(DATA, b'y');
    assert_eq!(bench.input(LSR) & (DATA_READY | OVERRUN), DATA_READY | OVERRUN);
    assert_eq!(bench.input(LSR) & OVERRUN, 0);
    assert_eq!(bench.input(DATA), b'x');
    assert!(lock(&bench.output.0).is_empty());
}

#[test]
fn input_waits_while_in_loopback() {
    let mut bench = Bench::with_fifo();
    bench.out(MCR, LOOP);
    bench.serial.receive(b"z");
    assert_eq!(bench.input(LSR) & DATA_READY, 0);
    bench.out(MCR, RTS);
    assert_eq!(bench.input(DATA), b'z');
}

#[test]
fn input_typed_ahead_waits_for_rts() {
    let mut bench = Bench::new();
    bench.serial.receive(b"early");
    bench.out(FCR, 0x07);
    assert_eq!(bench.input(LSR) & DATA_READY, 0);
    bench.out(MCR, OUT2 | RTS);
    assert_eq!(bench.input(DATA), b'e');
}

#[test]
fn modem_changes_are_remembered_until_read() {
    let mut bench = Bench::with_fifo();
    bench.input(MSR);
    bench.out(IER, 0x08);
    bench.out(MCR, LOOP);
    bench.out(MCR, OUT2);
    assert!(bench.irq.is_high());
    assert_eq!(bench.input(IIR) & 0x0f, MODEM_STATUS);
    assert_eq!(bench.input(MSR), 0xbb);
    assert_eq!(bench.input(MSR), 0xb0);
    assert!(!bench.irq.is_high());
}

#[test]
fn out2_gates_the_interrupt() {
    let mut bench = Bench::new();
    bench.out(IER, 0x02);
    assert!(!bench.irq.is_high());
    bench.out(MCR, OUT2);
    assert!(bench.irq.is_high());
}

#[test]
fn clearing_the_fifo_drops_what_is_in_it() {
    let mut bench = Bench::with_fifo();
    bench.serial.receive(b"abc");
    bench.out(FCR, 0x83);
    assert_eq!(bench.input(LSR) & DATA_READY, 0);
}

proptest! {
    #[test]
    fn random_accesses_never_panic(
        accesses in prop::collection::vec((any::<bool>(), 0_u16..8, any::<u8>()), 0..300),
    ) {
        let mut bench = Bench::new();
        for (write, register, value) in accesses {
            if write { bench.out(register, value) } else { bench.input(register); }
            bench.serial.receive(&vec![value; usize::from(value)]);
            prop_assert!(bench.serial.state.received.len() <= FIFO_DEPTH);
            prop_assert!(bench.serial.state.waiting.len() <= INPUT_LIMIT);
        }
    }
}
