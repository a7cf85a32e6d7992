use clock::{FakeClock, FakeTimers};
use proptest::prelude::*;

use super::*;
use crate::line::tests::Probe;

struct Bench {
    rtc: Arc<Mutex<Rtc>>,
    timers: Arc<FakeTimers>,
    irq: Arc<Probe>,
}

/// Thursday, 2024-02-29 23:59:56 UTC.
const LEAP_NIGHT: u64 = 1_709_251_196;

impl Bench {
    fn new() -> Self {
        let clock = FakeClock::new();
        clock.set_wall(LEAP_NIGHT * NANOSECONDS);
        let timers = FakeTimers::new(clock.clone());
        let irq = Probe::new();
        let rtc = Rtc::new(clock, &*timers, irq.clone());
        Self { rtc, timers, irq }
    }

    fn out(&self, port: u16, value: u8) {
        lock(&self.rtc).port_write(port, &[value]);
    }

    fn input(&self, port: u16) -> u8 {
        let mut data = [0xff];
        lock(&self.rtc).port_read(port, &mut data);
        data[0]
    }

    fn read(&self, index: u8) -> u8 {
        self.out(PORT, index);
        self.input(0x71)
    }

    fn write(&self, index: u8, value: u8) {
        self.out(PORT, index);
        self.out(0x71, value);
    }

    fn time(&self) -> [u8; 8] {
        [CENTURY, YEAR, MONTH, DAY, HOURS, MINUTES, SECONDS, DAY_OF_WEEK].map(|index| self.read(index))
    }

    fn seconds(&self, seconds: u64) {
        self.timers.advance(seconds * NANOSECONDS);
    }
}

const B_24H: u8 = 0x02;
const B_BINARY: u8 = 0x04;
const B_SET: u8 = 0x80;

#[test]
fn the_wall_clock_shows_in_bcd_and_the_leap_day_ends() {
    let bench = Bench::new();
    assert_eq!(bench.time(), [0x20, 0x24, 0x02, 0x29, 0x23, 0x59, 0x56, 0x05]);
    bench.seconds(4);
    assert_eq!(bench.time(), [0x20, 0x24, 0x03, 0x01, 0x00, 0x00, 0x00, 0x06]);
}

#[test]
fn binary_and_twelve_hour_formats() {
    let bench = Bench::new();
    bench.write(B, B_24H | B_BINARY);
    assert_eq!(bench.time(), [20, 24, 2, 29, 23, 59, 56, 5]);
    bench.write(B, 0);
    assert_eq!(bench.read(HOURS), 0x91);
}

#[test]
fn setting_the_time_as_linux_does() {
    let bench = Bench::new();
    bench.write(B, B_24H | B_SET);
    for (index, value) in [
        (YEAR, 0x99),
        (CENTURY, 0x19),
        (MONTH, 0x12),
        (DAY, 0x31),
        (HOURS, 0x23),
        (MINUTES, 0x59),
        (SECONDS, 0x59),
    ] {
        bench.write(index, value);
    }
    bench.seconds(10);
    assert_eq!(bench.read(SECONDS), 0x59);
    bench.write(B, B_24H);
    bench.timers.advance(NANOSECONDS / 2);
    assert_eq!(bench.time(), [0x20, 0x00, 0x01, 0x01, 0x00, 0x00, 0x00, 0x07]);
}

#[test]
fn a_register_can_be_set_while_the_clock_runs() {
    let bench = Bench::new();
    bench.write(MINUTES, 0x30);
    assert_eq!(bench.time()[4..7], [0x23, 0x30, 0x56]);
    bench.seconds(5);
    assert_eq!(bench.time()[4..7], [0x23, 0x31, 0x01]);
}

#[test]
fn update_in_progress_shows_before_the_second_ends() {
    let bench = Bench::new();
    bench.timers.advance(NANOSECONDS - UPDATE_WARNING - 1);
    assert_eq!(bench.read(A) & 0x80, 0);
    bench.timers.advance(1);
    assert_eq!(bench.read(A) & 0x80, 0x80);
    bench.timers.advance(UPDATE_WARNING);
    assert_eq!(bench.read(A) & 0x80, 0);
}

#[test]
fn update_ended_interrupts_once_a_second_after_c_is_read() {
    let bench = Bench::new();
    bench.read(C);
    bench.write(B, B_24H | UPDATE_ENDED);
    bench.timers.advance(NANOSECONDS - 1);
    assert!(!bench.irq.is_high());
    bench.timers.advance(1);
    assert!(bench.irq.is_high());
    assert_eq!(bench.read(C) & 0xf0, INTERRUPT_REQUEST | PERIODIC | UPDATE_ENDED);
    assert!(!bench.irq.is_high());
    bench.seconds(1);
    assert!(bench.irq.is_high());
}

#[test]
fn the_periodic_interrupt_comes_at_its_rate() {
    let bench = Bench::new();
    bench.read(C);
    bench.write(B, B_24H | PERIODIC);
    for _ in 0..5 {
        bench.timers.advance(NANOSECONDS / 1024 + 1);
        assert!(bench.irq.is_high());
        assert_eq!(bench.read(C) & PERIODIC, PERIODIC);
        assert!(!bench.irq.is_high());
    }
    bench.write(A, 0x20);
    bench.seconds(1);
    assert!(!bench.irq.is_high());
}

/// A clock that goes on by more than a period of 1024 Hz whenever it is looked at.
struct Hurried(Arc<FakeClock>);

impl Clock for Hurried {
    fn now(&self) -> u64 {
        self.0.advance(NANOSECONDS / 1024 + 1);
        self.0.now()
    }
    fn tsc(&self) -> u64 {
        self.now()
    }
    fn tsc_frequency(&self) -> u64 {
        NANOSECONDS
    }
    fn time_of_tsc(&self, tsc: u64) -> u64 {
        tsc
    }
    fn wall(&self) -> u64 {
        self.0.wall()
    }
}

#[test]
fn a_period_that_ends_while_the_flags_are_read_is_another_edge() {
    let (clock, irq) = (FakeClock::new(), Probe::new());
    let timers = FakeTimers::new(clock.clone());
    let rtc = Rtc::new(Arc::new(Hurried(clock)), &*timers, irq.clone());
    let bench = Bench { rtc, timers, irq };
    bench.write(B, B_24H | PERIODIC);
    assert_eq!(bench.irq.take_edges(), 1);
    for _ in 0..3 {
        assert_eq!(bench.read(C) & PERIODIC, PERIODIC);
        assert_eq!((bench.irq.take_edges(), bench.irq.is_high()), (1, true));
    }
}

#[test]
fn the_alarm_goes_off_at_its_time() {
    let bench = Bench::new();
    bench.write(HOURS_ALARM, 0x00);
    bench.write(MINUTES_ALARM, 0x01);
    bench.write(SECONDS_ALARM, 0x30);
    bench.read(C);
    bench.write(B, B_24H | ALARM);
    bench.seconds(4 + 89);
    assert!(!bench.irq.is_high());
    bench.seconds(1);
    assert!(bench.irq.is_high());
    assert_eq!(bench.read(C) & ALARM, ALARM);
    bench.seconds(86_399);
    assert!(!bench.irq.is_high());
    bench.seconds(1);
    assert!(bench.irq.is_high());
}

#[test]
fn an_alarm_of_wildcards_goes_off_every_second_and_an_impossible_one_never() {
    let bench = Bench::new();
    (1..6).step_by(2).for_each(|index| bench.write(index, 0xff));
    bench.seconds(1);
    assert_eq!(bench.read(C) & ALARM, ALARM);
    bench.write(HOURS_ALARM, 0x77);
    bench.read(C);
    bench.seconds(200_000);
    assert_eq!(bench.read(C) & ALARM, 0);
}

#[test]
fn no_timer_runs_for_what_does_not_interrupt() {
    let bench = Bench::new();
    bench.write(B, B_24H | PERIODIC);
    assert!(bench.timers.next_deadline().is_some());
    bench.write(B, B_24H);
    assert_eq!(bench.timers.next_deadline(), None);
}

#[test]
fn both_banks_keep_bytes_apart() {
    let bench = Bench::new();
    bench.write(0x40, 0x12);
    bench.out(0x72, 0x40);
    bench.out(0x73, 0x34);
    assert_eq!((bench.read(0x40), bench.input(0x73), bench.input(0x72)), (0x12, 0x34, 0x40));
}

#[test]
fn the_memory_size_is_told_in_three_places() {
    let bench = Bench::new();
    lock(&bench.rtc).set_memory_size(512 << 20, 1 << 30);
    assert_eq!(
        [0x15, 0x16, 0x17, 0x18, 0x30, 0x31].map(|index| bench.read(index)),
        [0x80, 0x02, 0xff, 0xff, 0xff, 0xff]
    );
    assert_eq!([0x34, 0x35].map(|index| bench.read(index)), [0x00, 0x1f]);
    assert_eq!([0x5b, 0x5c, 0x5d].map(|index| bench.read(index)), [0x00, 0x40, 0x00]);
}

#[test]
fn reset_switches_interrupts_off_and_keeps_the_memory() {
    let bench = Bench::new();
    bench.write(0x40, 0x12);
    bench.write(B, B_24H | UPDATE_ENDED);
    bench.seconds(1);
    lock(&bench.rtc).reset();
    assert!(!bench.irq.is_high());
    assert_eq!((bench.read(B), bench.read(0x40), bench.read(D)), (B_24H, 0x12, VALID));
}

proptest! {
    #[test]
    fn random_accesses_never_panic(
        accesses in prop::collection::vec((0_u8..4, 0_u8..0x40, any::<u8>()), 0..200),
    ) {
        let bench = Bench::new();
        for (what, index, value) in accesses {
            match what {
                0 => bench.write(index, value),
                1 => { bench.read(index); }
                2 => bench.out(PORT + u16::from(index & 3), value),
                _ => bench.timers.advance(u64::from(value) * 10_000_000),
            }
        }
    }
}
