//! A PS/2 mouse with three buttons.

use std::collections::VecDeque;

use super::keyboard::{ACKNOWLEDGE, RESEND, SELF_TEST_PASSED};

/// How many bytes wait for the guest at most.
const QUEUE_LIMIT: usize = 64;
/// Room that is left for answers to commands.
const ANSWER_RESERVE: usize = 8;

const STANDARD_MOUSE: u8 = 0x00;
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

    /// The mouse has moved (right and up are positive) or its buttons (left, right, middle: bits 0–2) have
    /// changed. False if it was dropped: the guest does not listen, or not fast enough.
    pub(super) fn report(&mut self, right: i16, up: i16, buttons: u8) -> bool {
        self.buttons = buttons & 7;
        let fits = self.queue.len() + 3 <= QUEUE_LIMIT - ANSWER_RESERVE;
        let sends = self.reporting && !self.remote && !self.wrap && fits;
        if sends {
            self.queue.extend(self.packet(right, up));
        }
        sends
    }

    fn packet(&self, right: i16, up: i16) -> [u8; 3] {
        let (right, up) = (right.clamp(-256, 255), up.clamp(-256, 255));
        let signs = u8::from(right < 0) << 4 | u8::from(up < 0) << 5;
        [self.buttons | PACKET_ALWAYS_1 | signs, right as u8, up as u8]
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
            Some(Parameter::SampleRate) => self.sample_rate = byte,
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
            *self = Self { buttons: self.buttons, last: self.last, ..Self::new() };
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
            0xeb => self.answer(&self.packet(0, 0)),
            0xec => self.wrap = false,
            0xee => self.wrap = true,
            0xf0 => self.remote = true,
            0xf2 => self.answer(&[STANDARD_MOUSE]),
            0xf3 => self.expects = Some(Parameter::SampleRate),
            0xf4 => self.reporting = true,
            0xff => self.answer(&[SELF_TEST_PASSED, STANDARD_MOUSE]),
            // 0xf5 and 0xf6 have done their work.
            _ => {}
        }
    }
}
