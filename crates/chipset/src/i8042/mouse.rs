//! A PS/2 mouse with three buttons and a wheel, which it tells of once it has been asked in the way that drivers ask
//! (Microsoft IntelliMouse): by setting three sample rates one after the other.

use std::collections::VecDeque;

use super::keyboard::{ACKNOWLEDGE, RESEND, SELF_TEST_PASSED};

/// How many bytes wait for the guest at most.
const QUEUE_LIMIT: usize = 64;
/// Room that is left for answers to commands.
const ANSWER_RESERVE: usize = 8;

const STANDARD_MOUSE: u8 = 0x00;
const WHEEL_MOUSE: u8 = 0x03;
/// The sample rates that ask for the wheel.
const WHEEL_RATES: [u8; 3] = [200, 100, 80];
const PACKET_ALWAYS_1: u8 = 0x08;

/// The command whose parameter comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Parameter {
    Resolution,
    SampleRate,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mouse {
    pub(super) queue: VecDeque<u8>,
    reporting: bool,
    remote: bool,
    wrap: bool,
    scaling: bool,
    resolution: u8,
    sample_rate: u8,
    /// The last three sample rates, the newest last.
    rates: [u8; 3],
    /// Packets have a fourth byte, for the wheel.
    wheel: bool,
    buttons: u8,
    expects: Option<Parameter>,
    last: u8,
}

impl Mouse {
    pub(super) fn new() -> Self {
        Self {
            queue: VecDeque::new(),
            reporting: false,
            remote: false,
            wrap: false,
            scaling: false,
            resolution: 2,
            sample_rate: 100,
            rates: [0; 3],
            wheel: false,
            buttons: 0,
            expects: None,
            last: 0,
        }
    }

    /// The next byte for the controller.
    pub(super) fn take(&mut self) -> Option<u8> {
        let byte = self.queue.pop_front()?;
        self.last = byte;
        Some(byte)
    }

    /// The mouse has moved (right and up are positive), its wheel has been turned (towards the user is positive) or its
    /// buttons (left, right, middle: bits 0–2) have changed. False if it was dropped: the guest does not listen, or not
    /// fast enough.
    pub(super) fn report(&mut self, right: i16, up: i16, wheel: i8, buttons: u8) -> bool {
        self.buttons = buttons & 7;
        let (packet, length) = self.packet(right, up, wheel);
        let fits = self.queue.len() + length <= QUEUE_LIMIT - ANSWER_RESERVE;
        let sends = self.reporting && !self.remote && !self.wrap && fits;
        if sends {
            self.queue.extend(packet.iter().take(length));
        }
        sends
    }

    /// A packet, and how many of its bytes there are.
    fn packet(&self, right: i16, up: i16, wheel: i8) -> ([u8; 4], usize) {
        let (right, up) = (right.clamp(-256, 255), up.clamp(-256, 255));
        let signs = u8::from(right < 0) << 4 | u8::from(up < 0) << 5;
        let first = self.buttons | PACKET_ALWAYS_1 | signs;
        ([first, right as u8, up as u8, wheel.clamp(-8, 7) as u8], if self.wheel { 4 } else { 3 })
    }

    fn identity(&self) -> u8 {
        if self.wheel { WHEEL_MOUSE } else { STANDARD_MOUSE }
    }

    fn set_sample_rate(&mut self, rate: u8) {
        self.sample_rate = rate;
        self.rates = [self.rates[1], self.rates[2], rate];
        self.wheel |= self.rates == WHEEL_RATES;
    }

    fn answer(&mut self, bytes: &[u8]) {
        for byte in bytes {
            if self.queue.len() < QUEUE_LIMIT {
                self.queue.push_back(*byte);
            }
        }
    }

    /// A byte from the controller.
    pub(super) fn write(&mut self, byte: u8) {
        if self.wrap && byte != 0xff && byte != 0xec {
            self.answer(&[byte]);
            return;
        }
        match self.expects.take() {
            Some(Parameter::Resolution) => self.resolution = byte & 3,
            Some(Parameter::SampleRate) => self.set_sample_rate(byte),
            None => return self.command(byte),
        }
        self.answer(&[ACKNOWLEDGE]);
    }

    fn command(&mut self, command: u8) {
        if command == 0xfe {
            return self.answer(&[self.last]);
        }
        if !(matches!(command, 0xe6..=0xec | 0xee | 0xf0 | 0xf2..=0xf6 | 0xff)) {
            return self.answer(&[RESEND]);
        }
        if matches!(command, 0xf5 | 0xf6 | 0xff) {
            // Only a reset makes it forget that the wheel has been asked for.
            let wheel = self.wheel && command != 0xff;
            *self = Self { buttons: self.buttons, last: self.last, wheel, ..Self::new() };
        }
        self.answer(&[ACKNOWLEDGE]);
        match command {
            0xe6 => self.scaling = false,
            0xe7 => self.scaling = true,
            0xe8 => self.expects = Some(Parameter::Resolution),
            0xe9 => {
                let flags =
                    u8::from(self.remote) << 6 | u8::from(self.reporting) << 5 | u8::from(self.scaling) << 4;
                self.answer(&[flags | self.buttons, self.resolution, self.sample_rate]);
            }
            0xea => self.remote = false,
            0xeb => {
                let (packet, length) = self.packet(0, 0, 0);
                self.answer(packet.get(..length).unwrap_or_default());
            }
            0xec => self.wrap = false,
            0xee => self.wrap = true,
            0xf0 => self.remote = true,
            0xf2 => self.answer(&[self.identity()]),
            0xf3 => self.expects = Some(Parameter::SampleRate),
            0xf4 => self.reporting = true,
            0xff => self.answer(&[SELF_TEST_PASSED, STANDARD_MOUSE]),
            // 0xf5 and 0xf6 have done their work.
            _ => {}
        }
    }
}
