//! One counter of the 8254. Time is counted in ticks of its clock input and is told from outside: nothing
//! happens between accesses, the count and the output are computed from when the counter was loaded.

/// What a control word selects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Mode {
    /// 0: OUT rises at terminal count.
    #[default]
    TerminalCount,
    /// 1: a low pulse as long as the count, started by the gate.
    OneShot,
    /// 2: low for the last tick of each period.
    RateGenerator,
    /// 3: half high, half low.
    SquareWave,
    /// 4: low for a tick at terminal count.
    SoftwareStrobe,
    /// 5: the same, started by the gate.
    HardwareStrobe,
}

impl Mode {
    fn from_bits(bits: u8) -> Self {
        match bits & 7 {
            0 => Self::TerminalCount,
            1 => Self::OneShot,
            2 | 6 => Self::RateGenerator,
            3 | 7 => Self::SquareWave,
            4 => Self::SoftwareStrobe,
            _ => Self::HardwareStrobe,
        }
    }

    fn is_periodic(self) -> bool {
        matches!(self, Self::RateGenerator | Self::SquareWave)
    }

    fn starts_by_gate(self) -> bool {
        matches!(self, Self::OneShot | Self::HardwareStrobe)
    }
}

/// Which bytes of the count are accessed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Access {
    Low,
    High,
    #[default]
    Both,
}

/// A counter's registers and pins.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Channel {
    control: u8,
    mode: Mode,
    access: Access,
    /// The count register, as written.
    count: u16,
    /// A count for the next period, while a periodic mode counts.
    next_count: Option<u16>,
    /// The low byte of a count whose high byte is still to come.
    low_byte: Option<u8>,
    /// Whether the next byte to be read is the high one.
    read_high: bool,
    count_latch: Option<u16>,
    status_latch: Option<u8>,
    /// The counting element has a count.
    loaded: bool,
    gate: bool,
    /// The tick from which elapsed ticks are counted, while counting.
    since: Option<u64>,
    /// Ticks counted before the gate, or a half-written count, stopped the counting.
    counted: u64,
}

impl Channel {
    /// A counter at power-on, whose state is undefined on the chip: mode 0 without a count.
    pub(super) fn new(gate: bool) -> Self {
        Self { gate, ..Self::default() }
    }

    fn bcd(&self) -> bool {
        self.control & 1 != 0
    }

    /// The length that the count register stands for, in ticks.
    fn length_of(&self, count: u16) -> u64 {
        match (count, self.bcd()) {
            (0, false) => 0x1_0000,
            (0, true) => 10_000,
            (count, false) => u64::from(count),
            (count, true) => {
                (0..4).rev().fold(0, |value, digit| value * 10 + u64::from(count >> (4 * digit) & 15))
            }
        }
    }

    /// Ticks of a period or pulse. A period of 1 is not allowed on the chip and counts as 2.
    fn length(&self) -> u64 {
        let length = self.length_of(self.count);
        if self.mode.is_periodic() { length.max(2) } else { length }
    }

    fn elapsed(&self, tick: u64) -> u64 {
        self.counted + self.since.map_or(0, |since| tick.saturating_sub(since))
    }

    /// Whether the counter runs.
    pub(super) fn is_counting(&self) -> bool {
        self.since.is_some()
    }

    fn stop(&mut self, tick: u64) {
        self.counted = self.elapsed(tick);
        self.since = None;
    }

    fn restart(&mut self, tick: u64) {
        self.counted = 0;
        self.since = Some(tick);
    }

    /// Takes a count that was written during a period which has ended meanwhile.
    pub(super) fn advance(&mut self, tick: u64) {
        let Some((since, count)) = self.since.zip(self.next_count) else { return };
        let length = self.length();
        if self.elapsed(tick) >= length {
            // The new period begins where the old one ends. A counter that runs in a periodic mode has
            // counted nothing before.
            self.since = Some(since + length - self.counted.min(length));
            self.counted = 0;
            self.count = count;
            self.next_count = None;
        }
    }

    /// Leaves out the whole periods that have passed.
    fn begin_at_this_period(&mut self, tick: u64) {
        let phase = self.elapsed(tick) % self.length();
        if self.is_counting() {
            self.since = Some(tick - phase);
            self.counted = 0;
        } else {
            self.counted = phase;
        }
    }

    /// The value of the counting element.
    fn value(&self, tick: u64) -> u16 {
        if !self.loaded {
            return 0;
        }
        let (elapsed, length) = (self.elapsed(tick), self.length());
        let value = match self.mode {
            Mode::RateGenerator => length - elapsed % length,
            Mode::SquareWave => {
                // Counts by two; the halves of an odd length differ by one.
                let (position, half) = (elapsed % length, length.div_ceil(2));
                let (in_half, start) =
                    if position < half { (position, length) } else { (position - half, length) };
                (start & !1).saturating_sub(2 * in_half).max(2)
            }
            // Goes on below 0 when it is done.
            _ => {
                let modulus = if self.bcd() { 10_000 } else { 0x1_0000 };
                (length + modulus - elapsed % modulus) % modulus
            }
        };
        if self.bcd() { to_bcd(value) } else { value as u16 }
    }

    /// The level of OUT.
    pub(super) fn output(&self, tick: u64) -> bool {
        if !self.loaded {
            return self.mode != Mode::TerminalCount;
        }
        let (elapsed, length) = (self.elapsed(tick), self.length());
        match self.mode {
            Mode::TerminalCount => elapsed >= length && self.low_byte.is_none(),
            Mode::OneShot => !self.is_counting() || elapsed >= length,
            Mode::RateGenerator => !self.gate || elapsed % length != length - 1,
            Mode::SquareWave => !self.gate || elapsed % length < length.div_ceil(2),
            Mode::SoftwareStrobe | Mode::HardwareStrobe => elapsed != length || !self.is_counting(),
        }
    }

    /// The next tick after `tick` at which OUT rises.
    pub(super) fn next_rise(&self, tick: u64) -> Option<u64> {
        let since = self.since?;
        let (elapsed, length) = (self.elapsed(tick), self.length());
        let rise = match self.mode {
            Mode::TerminalCount | Mode::OneShot => (elapsed < length).then_some(length)?,
            Mode::RateGenerator | Mode::SquareWave => (elapsed / length + 1) * length,
            Mode::SoftwareStrobe | Mode::HardwareStrobe => (elapsed <= length).then_some(length + 1)?,
        };
        Some(since + (rise - self.counted))
    }

    /// A control word for this counter, other than latch commands.
    pub(super) fn control(&mut self, word: u8) {
        *self = Self {
            control: word & 0x3f,
            mode: Mode::from_bits(word >> 1),
            access: match word >> 4 & 3 {
                1 => Access::Low,
                2 => Access::High,
                _ => Access::Both,
            },
            gate: self.gate,
            ..Self::default()
        };
    }

    pub(super) fn latch_count(&mut self, tick: u64) {
        if self.count_latch.is_none() {
            self.advance(tick);
            self.count_latch = Some(self.value(tick));
        }
    }

    pub(super) fn latch_status(&mut self, tick: u64) {
        if self.status_latch.is_none() {
            self.advance(tick);
            let null_count = !self.loaded || self.next_count.is_some();
            let pins = u8::from(self.output(tick)) << 7 | u8::from(null_count) << 6;
            self.status_latch = Some(pins | self.control);
        }
    }

    pub(super) fn read(&mut self, tick: u64) -> u8 {
        if let Some(status) = self.status_latch.take() {
            return status;
        }
        self.advance(tick);
        let value = self.count_latch.unwrap_or_else(|| self.value(tick));
        let [low, high] = value.to_le_bytes();
        let (byte, complete) = match self.access {
            Access::Low => (low, true),
            Access::High => (high, true),
            Access::Both => {
                self.read_high = !self.read_high;
                if self.read_high { (low, false) } else { (high, true) }
            }
        };
        if complete {
            self.count_latch = None;
        }
        byte
    }

    pub(super) fn write(&mut self, value: u8, tick: u64) {
        self.advance(tick);
        match (self.access, self.low_byte.take()) {
            (Access::Low, _) => self.load(u16::from(value), tick),
            (Access::High, _) => self.load(u16::from(value) << 8, tick),
            (Access::Both, Some(low)) => self.load(u16::from_le_bytes([low, value]), tick),
            (Access::Both, None) => {
                self.low_byte = Some(value);
                if self.mode == Mode::TerminalCount {
                    // The first byte stops the counting and lowers OUT.
                    self.stop(tick);
                }
            }
        }
    }

    fn load(&mut self, count: u16, tick: u64) {
        if self.mode.is_periodic() && self.loaded {
            if self.next_count.is_none() {
                self.begin_at_this_period(tick);
            }
            self.next_count = Some(count);
            return;
        }
        self.count = count;
        if self.mode.starts_by_gate() {
            // The count is taken with the next trigger; one in progress goes on.
            self.loaded = true;
            return;
        }
        self.loaded = true;
        self.counted = 0;
        self.since = self.gate.then_some(tick);
    }

    pub(super) fn set_gate(&mut self, high: bool, tick: u64) {
        self.advance(tick);
        let rising = high && !self.gate;
        let falling = !high && self.gate;
        self.gate = high;
        if !self.loaded {
            return;
        }
        match self.mode {
            Mode::TerminalCount | Mode::SoftwareStrobe if falling => self.stop(tick),
            Mode::TerminalCount | Mode::SoftwareStrobe if rising && self.low_byte.is_none() => {
                self.since = Some(tick);
            }
            Mode::RateGenerator | Mode::SquareWave if falling => self.stop(tick),
            Mode::OneShot | Mode::HardwareStrobe | Mode::RateGenerator | Mode::SquareWave if rising => {
                if let Some(count) = self.next_count.take() {
                    self.count = count;
                }
                self.restart(tick);
            }
            _ => {}
        }
    }
}

fn to_bcd(value: u64) -> u16 {
    (0..4).fold((0, value), |(digits, rest), place| (digits | (rest % 10) << (4 * place), rest / 10)).0 as u16
}
