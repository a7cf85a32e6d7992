//! The timer of a local APIC: pure arithmetic on times that it is told.

use super::registers::TimerMode;

/// Frequency at which the timer counts before its divider, in Hz. HV_X64_MSR_APIC_FREQUENCY tells it.
pub const TIMER_FREQUENCY: u64 = 200_000_000;

/// Nanoseconds per count before the divider.
const TICK: u64 = clock::NANOSECONDS / TIMER_FREQUENCY;

/// The shortest period in which a periodic timer interrupts, in nanoseconds: keeps a guest from keeping a
/// host thread busy with a period of a few counts.
pub const SHORTEST_PERIOD: u64 = 50_000;

/// Registers of the timer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Timer {
    pub(super) initial_count: u32,
    divide: u32,
    /// When the count was, or would have been, the initial count.
    started: u64,
    /// When the next interrupt is due, by the machine's clock.
    pub(super) due: Option<u64>,
    /// IA32_TSC_DEADLINE.
    pub(super) deadline: u64,
}

impl Timer {
    pub(super) fn divide_configuration(&self) -> u32 {
        self.divide
    }

    /// Nanoseconds per count.
    fn count_length(&self) -> u64 {
        let code = self.divide & 3 | self.divide >> 1 & 4;
        TICK << ((code + 1) & 7)
    }

    fn period(&self) -> u64 {
        u64::from(self.initial_count) * self.count_length()
    }

    pub(super) fn current_count(&self, mode: TimerMode, now: u64) -> u32 {
        if self.initial_count == 0 {
            return 0;
        }
        let counted = now.wrapping_sub(self.started) / self.count_length();
        let initial = u64::from(self.initial_count);
        let count = match mode {
            TimerMode::OneShot => initial.saturating_sub(counted),
            TimerMode::Periodic => initial - counted % initial,
            TimerMode::TscDeadline | TimerMode::Reserved => 0,
        };
        count as u32
    }

    /// A write to the initial count starts the count; 0 stops it.
    pub(super) fn start(&mut self, mode: TimerMode, count: u32, now: u64) {
        if matches!(mode, TimerMode::TscDeadline | TimerMode::Reserved) {
            return;
        }
        self.initial_count = count;
        self.started = now;
        self.due = (count != 0).then(|| now.saturating_add(self.period()));
    }

    /// A write to the divide configuration: the count goes on from where it is, at the new speed.
    pub(super) fn set_divide_configuration(&mut self, value: u32, mode: TimerMode, now: u64) {
        let count = self.current_count(mode, now);
        self.divide = value & 0x0b;
        let counted = u64::from(self.initial_count - count.min(self.initial_count)) * self.count_length();
        self.started = now.wrapping_sub(counted);
        if self.due.is_some() && matches!(mode, TimerMode::OneShot | TimerMode::Periodic) {
            self.due = Some(now.saturating_add(u64::from(count) * self.count_length()));
        }
    }

    /// A change of mode. Between counting and TSC deadline it disarms.
    pub(super) fn change_mode(&mut self, from: TimerMode, to: TimerMode, now: u64) {
        let counts = |mode| matches!(mode, TimerMode::OneShot | TimerMode::Periodic);
        match (counts(from), counts(to)) {
            _ if from == to => {}
            (true, true) => {
                let count = self.current_count(from, now);
                let counted =
                    u64::from(self.initial_count - count.min(self.initial_count)) * self.count_length();
                self.started = now.wrapping_sub(counted);
                self.due = (count != 0).then(|| now.saturating_add(u64::from(count) * self.count_length()));
            }
            _ => {
                self.initial_count = 0;
                self.deadline = 0;
                self.due = None;
            }
        }
    }

    /// The time `due` has come: what is due next.
    pub(super) fn elapse(&mut self, mode: TimerMode, now: u64) {
        let due = self.due.take();
        match (mode, due) {
            (TimerMode::Periodic, Some(due)) if self.initial_count != 0 => {
                let period = self.period();
                let missed = now.saturating_sub(due) / period;
                let next = due.saturating_add(period.saturating_mul(missed + 1));
                let earliest = if period < SHORTEST_PERIOD { now.saturating_add(SHORTEST_PERIOD) } else { 0 };
                self.due = Some(next.max(earliest));
            }
            _ => self.deadline = 0,
        }
    }
}
