//! An MC146818 real-time clock with 256 bytes of CMOS memory in two banks (Motorola MC146818A data sheet;
//! 82371AB (PIIX4) data sheet, section 4.2.8).
//!
//! The time is the machine's wall clock plus what the guest has set it off by; nothing ticks. Events are
//! found by comparing the time of an access with the time of the last one, and a timer runs only for events
//! that interrupt.
//!
//! Different from the chip: the divider's reset stops periodic interrupts, not the time. Not emulated:
//! daylight saving, the square wave, the NMI mask in bit 7 of port 0x70.

mod calendar;
mod registers;

#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, Weak};

use clock::{Clock, NANOSECONDS, Timer, Timers};
use interrupt::Line;

use crate::bus::{PortDevice, read_bytes, write_bytes};
use crate::sync::lock;
use calendar::{DateTime, Format};
use registers::*;

/// First of the four ports: index and data of each bank.
pub const PORT: u16 = 0x70;
/// The interrupt.
pub const IRQ: u8 = 8;
/// The byte that holds the century, as the FADT tells.
pub const CENTURY: u8 = 0x32;

/// How long before the end of a second "update in progress" shows, in nanoseconds.
const UPDATE_WARNING: u64 = 244_000;
/// Frequency of the crystal.
const CRYSTAL: u64 = 32_768;
/// Alarm registers from here on match any value.
const ANY: u8 = 0xc0;

#[derive(Debug, Clone, PartialEq, Eq)]
struct State {
    index: u8,
    bank_2_index: u8,
    /// Both banks. The time registers count only while updates are halted.
    memory: [u8; 256],
    /// Guest time minus the machine's wall clock, in nanoseconds.
    offset: i128,
    /// Events since register C was read.
    flags: u8,
    /// Up to when events have been noticed: guest time in seconds,
    seen_second: i64,
    /// and crystal ticks.
    seen_tick: u64,
}

/// The clock. Answers ports 0x70–0x73.
pub struct Rtc {
    state: State,
    clock: Arc<dyn Clock>,
    timer: Box<dyn Timer>,
    irq: Arc<dyn Line>,
}

impl Rtc {
    /// A clock that shows the machine's wall time and drives `irq`.
    pub fn new(clock: Arc<dyn Clock>, timers: &dyn Timers, irq: Arc<dyn Line>) -> Arc<Mutex<Self>> {
        Arc::new_cyclic(|rtc: &Weak<Mutex<Self>>| {
            let rtc = rtc.clone();
            let timer = timers.timer(Box::new(move || {
                if let Some(rtc) = rtc.upgrade() {
                    lock(&rtc).update();
                }
            }));
            let mut state = State {
                index: 0,
                bank_2_index: 0,
                memory: [0; 256],
                offset: 0,
                flags: 0,
                seen_second: 0,
                seen_tick: 0,
            };
            state.memory[usize::from(A)] = StatusA::new().with_divider(DIVIDER_RUNS).with_rate(6).into_bits();
            state.memory[usize::from(B)] = StatusB::new().with_hours_24(true).into_bits();
            let mut rtc = Self { state, clock, timer, irq };
            rtc.see();
            rtc.state.flags = 0;
            Mutex::new(rtc)
        })
    }

    /// The reset line: interrupts off. Time, alarm and memory are kept by the battery.
    pub fn reset(&mut self) {
        let enables = StatusB::from_bits(self.state.memory[usize::from(B)])
            .with_update_interrupt(false)
            .with_alarm_interrupt(false)
            .with_periodic_interrupt(false);
        self.set_status_b(enables);
        self.state.flags = 0;
        self.state.index = 0;
        self.state.bank_2_index = 0;
        self.update();
    }

    /// Sets the bytes by which firmware learns the memory size: RAM below 4 GiB, and above.
    pub fn set_memory_size(&mut self, below_4g: u64, above_4g: u64) {
        const KIB: u64 = 1024;
        const MIB: u64 = 1024 * KIB;
        let above = |start, unit: u64, most| ((below_4g.saturating_sub(start)) / unit).min(most);
        let extended = above(MIB, KIB, 0xffff) as u16;
        let above_16m = above(16 * MIB, 64 * KIB, 0xffff) as u16;
        let conventional = 640_u16;
        let units_above_4g = (above_4g / (64 * KIB)).min(0xff_ffff) as u32;
        self.put(0x15, &conventional.to_le_bytes());
        self.put(0x17, &extended.to_le_bytes());
        self.put(0x30, &extended.to_le_bytes());
        self.put(0x34, &above_16m.to_le_bytes());
        self.put(0x5b, &units_above_4g.to_le_bytes()[..3]);
    }

    /// Sets a byte of CMOS memory that is not part of the clock (0x0e and up).
    pub fn set_byte(&mut self, index: u8, value: u8) {
        if index > D {
            self.state.memory[usize::from(index)] = value;
        }
    }

    fn put(&mut self, index: u8, bytes: &[u8]) {
        for (index, byte) in (index..).zip(bytes) {
            self.set_byte(index, *byte);
        }
    }

    fn status_a(&self) -> StatusA {
        StatusA::from_bits(self.state.memory[usize::from(A)])
    }

    fn status_b(&self) -> StatusB {
        StatusB::from_bits(self.state.memory[usize::from(B)])
    }

    fn format(&self) -> Format {
        let status = self.status_b();
        Format { binary: status.binary(), hours_24: status.hours_24() }
    }

    /// Guest time in nanoseconds since 1970.
    fn guest_time(&self) -> i128 {
        i128::from(self.clock.wall()) + self.state.offset
    }

    /// Whole seconds since 1970 and nanoseconds beyond.
    fn guest_seconds(&self) -> (i64, u64) {
        let (time, second) = (self.guest_time(), i128::from(NANOSECONDS));
        (time.div_euclid(second) as i64, time.rem_euclid(second) as u64)
    }

    /// Crystal ticks between two periodic events; `None` while there are none.
    fn period(&self) -> Option<u64> {
        let status = self.status_a();
        match status.rate() {
            0 => None,
            _ if status.divider() != DIVIDER_RUNS => None,
            // The two fastest rates of other crystals give 256 and 128 Hz with this one.
            rate @ 1..=2 => Some(1 << (rate + 6)),
            rate => Some(1 << (rate - 1)),
        }
    }

    fn tick(&self) -> u64 {
        (u128::from(self.clock.now()) * u128::from(CRYSTAL) / u128::from(NANOSECONDS)) as u64
    }

    /// Notices what has happened since the last time.
    fn see(&mut self) {
        let tick = self.tick();
        if let Some(period) = self.period()
            && tick / period != self.state.seen_tick / period
        {
            self.state.flags |= PERIODIC;
        }
        self.state.seen_tick = tick;
        let (second, _) = self.guest_seconds();
        if !self.status_b().set() && second != self.state.seen_second {
            self.state.flags |= UPDATE_ENDED;
            if self.next_alarm(self.state.seen_second).is_some_and(|alarm| alarm <= second) {
                self.state.flags |= ALARM;
            }
        }
        self.state.seen_second = second;
    }

    /// The first second after `after` that the alarm registers match.
    fn next_alarm(&self, after: i64) -> Option<i64> {
        let format = self.format();
        let register = |index: u8| self.state.memory[usize::from(index)];
        let matches = |index, value, decoded| register(index) >= ANY || value == decoded;
        let hour = |hour| matches(HOURS_ALARM, hour, format.decode_hour(register(HOURS_ALARM)));
        let minute = |minute| matches(MINUTES_ALARM, minute, format.decode(register(MINUTES_ALARM)));
        let second = |second| matches(SECONDS_ALARM, second, format.decode(register(SECONDS_ALARM)));
        let midnight = after - after.rem_euclid(86_400);
        (0..48)
            .filter(|hours| hour(hours % 24))
            .map(|hours| midnight + hours * 3600)
            .filter(|start| start + 3600 > after)
            .find_map(|start| {
                (0..60)
                    .filter(|minutes| minute(*minutes))
                    .map(|minutes| start + minutes * 60)
                    .filter(|start| start + 60 > after)
                    .find_map(|start| {
                        (0..60).filter(|s| second(*s)).map(|s| start + s).find(|at| *at > after)
                    })
            })
    }

    /// Notices events, drives the interrupt, and waits for the next event that would interrupt.
    fn update(&mut self) {
        self.see();
        let enabled = self.status_b().into_bits() & (PERIODIC | ALARM | UPDATE_ENDED);
        let interrupting = self.state.flags & enabled != 0;
        self.irq.set(interrupting);
        match self.next_event(enabled) {
            Some(time) if !interrupting => self.timer.arm(time),
            _ => self.timer.disarm(),
        }
    }

    /// When, by the machine's clock, the next of the `enabled` events comes.
    fn next_event(&self, enabled: u8) -> Option<u64> {
        let now = self.clock.now();
        let periodic = self.period().filter(|_| enabled & PERIODIC != 0).map(|period| {
            let tick = (self.tick() / period + 1) * period;
            (u128::from(tick) * u128::from(NANOSECONDS)).div_ceil(u128::from(CRYSTAL)) as u64
        });
        let (second, _) = self.guest_seconds();
        let updates = !self.status_b().set();
        let update = (updates && enabled & UPDATE_ENDED != 0).then_some(second + 1);
        let alarm = if updates && enabled & ALARM != 0 { self.next_alarm(second) } else { None };
        let second = update.into_iter().chain(alarm).min().map(|second| {
            let wait = i128::from(second) * i128::from(NANOSECONDS) - self.guest_time();
            now.saturating_add(u64::try_from(wait).unwrap_or(0))
        });
        periodic.into_iter().chain(second).min()
    }

    /// What a time register shows now, while updates go on.
    fn time_register(&self, index: u8) -> Option<u8> {
        let format = self.format();
        let date = DateTime::from_seconds(self.guest_seconds().0);
        Some(match index {
            SECONDS => format.encode(date.second),
            MINUTES => format.encode(date.minute),
            HOURS => format.encode_hour(date.hour),
            DAY_OF_WEEK => format.encode(date.day_of_week()),
            DAY => format.encode(date.day),
            MONTH => format.encode(date.month),
            YEAR => format.encode(date.year.rem_euclid(100)),
            CENTURY => format.encode(date.year.div_euclid(100)),
            _ => return None,
        })
    }

    /// Copies the time into the registers.
    fn latch_time(&mut self) {
        for index in [SECONDS, MINUTES, HOURS, DAY_OF_WEEK, DAY, MONTH, YEAR, CENTURY] {
            if let Some(value) = self.time_register(index) {
                self.state.memory[usize::from(index)] = value;
            }
        }
    }

    /// Makes the registers the time, `fraction` nanoseconds into the second.
    fn set_time(&mut self, fraction: u64) {
        let format = self.format();
        let register = |index: u8| self.state.memory[usize::from(index)];
        let date = DateTime {
            year: format.decode(register(CENTURY)) * 100 + format.decode(register(YEAR)),
            month: format.decode(register(MONTH)),
            day: format.decode(register(DAY)),
            hour: format.decode_hour(register(HOURS)),
            minute: format.decode(register(MINUTES)),
            second: format.decode(register(SECONDS)),
        };
        let seconds = date.to_seconds();
        let time = i128::from(seconds) * i128::from(NANOSECONDS) + i128::from(fraction);
        self.state.offset = time - i128::from(self.clock.wall());
        self.state.seen_second = seconds;
    }

    fn set_status_b(&mut self, new: StatusB) {
        let was_set = self.status_b().set();
        if new.set() && !was_set {
            self.latch_time();
        }
        self.state.memory[usize::from(B)] = new.into_bits();
        if was_set && !new.set() {
            // The first update comes half a second after the divider is let go, which guests rely on.
            self.set_time(NANOSECONDS / 2);
        }
    }

    fn read_register(&mut self, index: u8) -> u8 {
        let stored = self.state.memory[usize::from(index & 0x7f)];
        match index & 0x7f {
            A => {
                let warning = self.guest_seconds().1 >= NANOSECONDS - UPDATE_WARNING;
                let updating = warning && !self.status_b().set();
                self.status_a().with_update_in_progress(updating).into_bits()
            }
            C => {
                self.see();
                let flags = std::mem::take(&mut self.state.flags);
                let enabled = self.status_b().into_bits() & flags != 0;
                // An event that has come since is an edge of its own.
                self.irq.set(false);
                self.update();
                flags | if enabled { INTERRUPT_REQUEST } else { 0 }
            }
            D => VALID,
            index if !self.status_b().set() => self.time_register(index).unwrap_or(stored),
            _ => stored,
        }
    }

    fn write_register(&mut self, index: u8, value: u8) {
        self.update();
        let index = index & 0x7f;
        match index {
            A => self.state.memory[usize::from(A)] = value & 0x7f,
            B => self.set_status_b(StatusB::from_bits(value)),
            C | D => {}
            _ if !self.status_b().set() && self.time_register(index).is_some() => {
                let (_, fraction) = self.guest_seconds();
                self.latch_time();
                self.state.memory[usize::from(index)] = value;
                self.set_time(fraction);
            }
            _ => self.state.memory[usize::from(index)] = value,
        }
        self.update();
    }

    fn read(&mut self, port: u16) -> u8 {
        match port {
            0x71 => self.read_register(self.state.index),
            0x72 => self.state.bank_2_index,
            0x73 => self.state.memory[usize::from(self.state.bank_2_index | 0x80)],
            // The index of the first bank is write-only.
            _ => 0xff,
        }
    }

    fn write(&mut self, port: u16, value: u8) {
        match port {
            PORT => self.state.index = value & 0x7f,
            0x71 => self.write_register(self.state.index, value),
            0x72 => self.state.bank_2_index = value & 0x7f,
            0x73 => self.state.memory[usize::from(self.state.bank_2_index | 0x80)] = value,
            _ => {}
        }
    }
}

impl PortDevice for Rtc {
    fn port_read(&mut self, port: u16, data: &mut [u8]) {
        read_bytes(port, data, |port| self.read(port));
    }

    fn port_write(&mut self, port: u16, data: &[u8]) {
        write_bytes(port, data, |port, value| self.write(port, value));
    }
}
