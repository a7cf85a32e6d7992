use clock::{FakeClock, FakeTimers};
use proptest::prelude::*;

use super::*;
use crate::line::tests::Probe;

struct Bench {
    pit: Arc<Mutex<Pit>>,
    timers: Arc<FakeTimers>,
    irq: Arc<Probe>,
}

impl Bench {
    fn new() -> Self {
        let clock = FakeClock::new();
        let timers = FakeTimers::new(clock.clone());
        let irq = Probe::new();
        let pit = Pit::new(clock, &*timers, irq.clone());
        Self { pit, timers, irq }
    }

    fn out(&self, port: u16, value: u8) {
        lock(&self.pit).port_write(port, &[value]);
    }

    fn input(&self, port: u16) -> u8 {
        let mut data = [0xff];
        lock(&self.pit).port_read(port, &mut data);
        data[0]
    }

    /// Programs a channel with low and high byte.
    fn program(&self, channel: u8, mode: u8, count: u16) {
        self.out(0x43, channel << 6 | 0x30 | mode << 1);
        let [low, high] = count.to_le_bytes();
        self.out(PORT + u16::from(channel), low);
        self.out(PORT + u16::from(channel), high);
    }

    /// Lets exactly `ticks` pass, from a time at which no fraction of a tick has passed.
    fn tick(&self, ticks: u64) {
        let now = lock(&self.pit).clock.now();
        let target = time_of(lock(&self.pit).tick() + ticks);
        self.timers.advance(target - now);
    }

    fn count(&self, channel: u8) -> u16 {
        self.out(0x43, channel << 6);
        let port = PORT + u16::from(channel);
        u16::from_le_bytes([self.input(port), self.input(port)])
    }

    fn status(&self, channel: u8) -> u8 {
        self.out(0x43, 0xe0 | 2 << channel);
        self.input(PORT + u16::from(channel))
    }
}

const OUT: u8 = 0x80;
const NULL_COUNT: u8 = 0x40;

#[test]
fn channel_0_mode_2_interrupts_every_period() {
    let bench = Bench::new();
    bench.program(0, 2, 11932);
    bench.irq.take_edges();
    for _ in 0..3 {
        bench.tick(11931);
        assert_eq!(bench.irq.take_edges(), 0);
        bench.tick(1);
        assert_eq!(bench.irq.take_edges(), 1);
    }
    bench.tick(100 * 11932);
    assert_eq!(bench.irq.take_edges(), 100);
}

#[test]
fn channel_0_mode_2_counts_from_n_to_1() {
    let bench = Bench::new();
    bench.program(0, 2, 3);
    let counts: Vec<_> = (0..7)
        .map(|_| {
            let count = bench.count(0);
            bench.tick(1);
            count
        })
        .collect();
    assert_eq!(counts, [3, 2, 1, 3, 2, 1, 3]);
}

#[test]
fn channel_0_mode_2_takes_a_new_count_with_the_next_period() {
    let bench = Bench::new();
    bench.program(0, 2, 1000);
    bench.irq.take_edges();
    bench.tick(400);
    bench.out(PORT, 0xc8);
    bench.out(PORT, 0);
    assert_eq!(bench.status(0) & NULL_COUNT, NULL_COUNT);
    bench.tick(599);
    assert_eq!(bench.count(0), 1);
    bench.tick(1);
    assert_eq!((bench.irq.take_edges(), bench.count(0)), (1, 200));
    bench.tick(200);
    assert_eq!(bench.irq.take_edges(), 1);
}

#[test]
fn mode_0_raises_out_once_at_terminal_count_and_counts_on() {
    let bench = Bench::new();
    bench.program(0, 0, 100);
    assert!(!bench.irq.is_high());
    bench.tick(99);
    assert!(!bench.irq.is_high());
    bench.tick(1);
    assert!(bench.irq.is_high());
    bench.tick(1);
    assert_eq!(bench.count(0), 0xffff);
    assert_eq!(bench.timers.next_deadline(), None);
}

#[test]
fn mode_0_stops_between_the_bytes_of_a_new_count() {
    let bench = Bench::new();
    bench.program(0, 0, 100);
    bench.tick(50);
    bench.out(PORT, 10);
    bench.tick(200);
    assert_eq!(bench.status(0) & OUT, 0);
    bench.out(PORT, 0);
    bench.tick(10);
    assert_eq!(bench.status(0) & OUT, OUT);
}

#[test]
fn mode_3_is_half_high_and_half_low() {
    let bench = Bench::new();
    bench.program(0, 3, 5);
    let levels: Vec<_> = (0..10)
        .map(|_| {
            let level = bench.status(0) & OUT != 0;
            bench.tick(1);
            level
        })
        .collect();
    let period = [true, true, true, false, false];
    assert_eq!(levels, [period, period].concat());
}

#[test]
fn mode_3_counts_by_two_twice_a_period() {
    let bench = Bench::new();
    bench.program(0, 3, 8);
    let counts: Vec<_> = (0..9)
        .map(|_| {
            let count = bench.count(0);
            bench.tick(1);
            count
        })
        .collect();
    assert_eq!(counts, [8, 6, 4, 2, 8, 6, 4, 2, 8]);
}

#[test]
fn mode_4_strobes_for_one_tick() {
    let bench = Bench::new();
    bench.program(0, 4, 100);
    assert!(bench.irq.is_high());
    bench.irq.take_edges();
    bench.tick(100);
    assert_eq!(bench.status(0) & OUT, 0);
    bench.tick(1);
    assert_eq!(bench.status(0) & OUT, OUT);
    assert_eq!(bench.irq.take_edges(), 1);
    assert_eq!(bench.timers.next_deadline(), None);
}

#[test]
fn mode_1_is_started_by_the_gate_and_can_be_again() {
    let bench = Bench::new();
    bench.program(2, 1, 100);
    assert_eq!(bench.input(0x61) & 0x20, 0x20);
    bench.out(0x61, 1);
    assert_eq!(bench.input(0x61) & 0x20, 0);
    bench.tick(60);
    bench.out(0x61, 0);
    bench.out(0x61, 1);
    bench.tick(99);
    assert_eq!(bench.input(0x61) & 0x20, 0);
    bench.tick(1);
    assert_eq!(bench.input(0x61) & 0x20, 0x20);
}

#[test]
fn mode_5_strobes_after_its_trigger() {
    let bench = Bench::new();
    bench.program(2, 5, 10);
    bench.tick(20);
    assert_eq!(bench.status(2) & OUT, OUT);
    bench.out(0x61, 1);
    bench.tick(10);
    assert_eq!(bench.status(2) & OUT, 0);
    bench.tick(1);
    assert_eq!(bench.status(2) & OUT, OUT);
}

#[test]
fn channel_2_calibration_as_linux_does_it() {
    let bench = Bench::new();
    bench.out(0x61, bench.input(0x61) & !0x02 | 0x01);
    bench.out(0x43, 0xb0);
    let latch = (FREQUENCY / 20) as u16; // 50 ms
    bench.out(0x42, latch as u8);
    bench.out(0x42, (latch >> 8) as u8);
    assert_eq!(bench.input(0x61) & 0x20, 0);
    bench.timers.advance(49_990_000);
    assert_eq!(bench.input(0x61) & 0x20, 0);
    bench.timers.advance(20_000);
    assert_eq!(bench.input(0x61) & 0x20, 0x20);
}

#[test]
fn a_low_gate_suspends_mode_0() {
    let bench = Bench::new();
    bench.out(0x61, 1);
    bench.program(2, 0, 100);
    bench.tick(30);
    bench.out(0x61, 0);
    bench.tick(1000);
    assert_eq!(bench.count(2), 70);
    bench.out(0x61, 1);
    bench.tick(20);
    assert_eq!(bench.count(2), 50);
}

#[test]
fn a_latched_count_stays_until_it_is_read() {
    let bench = Bench::new();
    bench.program(0, 2, 0x1234);
    bench.tick(4);
    bench.out(0x43, 0x00);
    bench.tick(100);
    bench.out(0x43, 0x00);
    assert_eq!((bench.input(0x40), bench.input(0x40)), (0x30, 0x12));
    assert_eq!(bench.count(0), 0x1234 - 104);
}

#[test]
fn read_back_gives_status_before_count() {
    let bench = Bench::new();
    bench.program(0, 2, 0x1234);
    bench.out(0x43, 0xc2);
    assert_eq!(bench.input(0x40), 0x80 | 0x34);
    assert_eq!((bench.input(0x40), bench.input(0x40)), (0x34, 0x12));
}

#[test]
fn a_control_word_stops_the_counter_until_a_count_is_written() {
    let bench = Bench::new();
    bench.program(0, 2, 1000);
    bench.out(0x43, 0x30);
    assert_eq!(bench.timers.next_deadline(), None);
    assert!(!bench.irq.is_high());
    assert_eq!(bench.status(0), NULL_COUNT | 0x30);
}

#[test]
fn single_byte_access() {
    let bench = Bench::new();
    bench.out(0x43, 0x24); // channel 0, high byte, mode 2
    bench.out(0x40, 0x12);
    bench.tick(0x100);
    assert_eq!(bench.input(0x40), 0x11);
}

#[test]
fn bcd_counts_in_decimal() {
    let bench = Bench::new();
    bench.out(0x43, 0x35);
    bench.out(0x40, 0x00);
    bench.out(0x40, 0x10);
    bench.tick(1);
    assert_eq!(bench.count(0), 0x0999);
}

#[test]
fn a_tiny_period_does_not_keep_the_host_busy() {
    let bench = Bench::new();
    bench.program(0, 2, 2);
    bench.irq.take_edges();
    bench.timers.advance(NANOSECONDS);
    assert!(u64::from(bench.irq.take_edges()) <= NANOSECONDS / SHORTEST_PERIOD + 1);
}

#[test]
fn the_refresh_bit_toggles() {
    let bench = Bench::new();
    let before = bench.input(0x61) & 0x10;
    bench.timers.advance(REFRESH);
    assert_ne!(bench.input(0x61) & 0x10, before);
}

proptest! {
    #[test]
    fn random_accesses_never_panic(accesses in prop::collection::vec((0_u8..8, any::<u8>()), 0..300)) {
        let bench = Bench::new();
        for (what, value) in accesses {
            match what {
                0..4 => bench.out(PORT + u16::from(what), value),
                4 => bench.out(0x61, value),
                5 => { bench.input(PORT + u16::from(value & 3)); }
                6 => { bench.input(0x61); }
                _ => bench.timers.advance(u64::from(value) * 1000),
            }
        }
    }
}
