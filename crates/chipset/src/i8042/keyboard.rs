//! A PS/2 keyboard with 102 keys.

use std::collections::VecDeque;

use super::scancodes::{
    EXTENDED, PAUSE, PAUSE_SET_1, PAUSE_SET_2, RELEASE, RELEASED, TELL_RELEASE, set_2_of, set_3_of,
};

pub(super) const ACKNOWLEDGE: u8 = 0xfa;
pub(super) const RESEND: u8 = 0xfe;
pub(super) const SELF_TEST_PASSED: u8 = 0xaa;
const ECHO: u8 = 0xee;
const IDENTITY: [u8; 2] = [0xab, 0x83];

/// How many bytes wait for the guest at most.
const QUEUE_LIMIT: usize = 64;
/// Room that is left for answers to commands.
const ANSWER_RESERVE: usize = 8;

/// The command whose parameter comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Parameter {
    Leds,
    ScanCodeSet,
    Typematic,
    /// A key of set 3, and whether it is to tell when it is let go. More may follow, up to the next command.
    Key(bool),
}

/// The lowest command; what is below is a parameter.
const COMMANDS: u8 = 0xed;

/// For each code of set 3, whether its key tells when it is let go.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Releases([bool; 256]);

impl Releases {
    fn defaults() -> Self {
        let mut releases = Self([false; 256]);
        TELL_RELEASE.iter().for_each(|code| releases.0[usize::from(*code)] = true);
        releases
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Keyboard {
    pub(super) queue: VecDeque<u8>,
    scanning: bool,
    set: u8,
    leds: u8,
    expects: Option<Parameter>,
    last: u8,
    releases: Releases,
}

impl Keyboard {
    pub(super) fn new() -> Self {
        Self {
            queue: VecDeque::new(),
            scanning: true,
            set: 2,
            leds: 0,
            expects: None,
            last: 0,
            releases: Releases::defaults(),
        }
    }

    /// Scroll Lock, Num Lock, Caps Lock: bits 0–2.
    pub(super) fn leds(&self) -> u8 {
        self.leds
    }

    /// The next byte for the controller.
    pub(super) fn take(&mut self) -> Option<u8> {
        let byte = self.queue.pop_front()?;
        self.last = byte;
        Some(byte)
    }

    /// A key goes down or up. False if it was dropped: the guest does not listen, or not fast enough.
    pub(super) fn key(&mut self, code: u16, pressed: bool) -> bool {
        if self.set == 3 {
            let Some(code) = set_3_of(code) else { return false };
            return match pressed {
                true => self.send(&[code]),
                false => !self.releases.0[usize::from(code)] || self.send(&[RELEASE, code]),
            };
        }
        if code == PAUSE {
            // It says all at once when it goes down.
            let bytes: &[u8] = if self.set == 1 { &PAUSE_SET_1 } else { &PAUSE_SET_2 };
            return !pressed || self.send(bytes);
        }
        let [low, high] = code.to_le_bytes();
        let Some(set_2) = set_2_of(low) else { return false };
        let mut bytes = Vec::with_capacity(3);
        if high == EXTENDED {
            bytes.push(EXTENDED);
        }
        match (self.set, pressed) {
            (1, pressed) => bytes.push(if pressed { low } else { low | RELEASED }),
            (_, true) => bytes.push(set_2),
            (_, false) => bytes.extend([RELEASE, set_2]),
        }
        self.send(&bytes)
    }

    /// Puts what a key says into the queue. False if it was dropped.
    fn send(&mut self, bytes: &[u8]) -> bool {
        let fits = self.queue.len() + bytes.len() <= QUEUE_LIMIT - ANSWER_RESERVE;
        if self.scanning && fits {
            self.queue.extend(bytes);
        }
        self.scanning && fits
    }

    fn answer(&mut self, bytes: &[u8]) {
        for byte in bytes {
            if self.queue.len() < QUEUE_LIMIT {
                self.queue.push_back(*byte);
            }
        }
    }

    fn set_defaults(&mut self) {
        self.set = 2;
        self.leds = 0;
        self.releases = Releases::defaults();
        self.queue.clear();
    }

    /// A byte from the controller.
    pub(super) fn write(&mut self, byte: u8) {
        match self.expects.take() {
            Some(parameter) if byte < COMMANDS => self.parameter(parameter, byte),
            // A command in place of a parameter is a command.
            _ => self.command(byte),
        }
    }

    fn parameter(&mut self, parameter: Parameter, byte: u8) {
        match (parameter, byte) {
            (Parameter::Leds, leds) => {
                self.leds = leds & 7;
                self.answer(&[ACKNOWLEDGE]);
            }
            (Parameter::ScanCodeSet, 0) => self.answer(&[ACKNOWLEDGE, self.set]),
            (Parameter::ScanCodeSet, set @ 1..=3) => {
                self.set = set;
                self.answer(&[ACKNOWLEDGE]);
            }
            (Parameter::ScanCodeSet, _) => self.answer(&[RESEND]),
            (Parameter::Typematic, _) => self.answer(&[ACKNOWLEDGE]),
            (Parameter::Key(releases), code) => {
                self.releases.0[usize::from(code)] = releases;
                self.expect(parameter);
            }
        }
    }

    fn command(&mut self, command: u8) {
        match command {
            0xed => self.expect(Parameter::Leds),
            0xee => self.answer(&[ECHO]),
            0xf0 => self.expect(Parameter::ScanCodeSet),
            0xf2 => self.answer(&[ACKNOWLEDGE, IDENTITY[0], IDENTITY[1]]),
            0xf3 => self.expect(Parameter::Typematic),
            0xf4 => {
                self.scanning = true;
                self.answer(&[ACKNOWLEDGE]);
            }
            0xf5 | 0xf6 => {
                self.set_defaults();
                self.scanning = command == 0xf6;
                self.answer(&[ACKNOWLEDGE]);
            }
            // All keys of set 3 repeat, tell when they are let go, do neither, or do both.
            0xf7..=0xfa => {
                self.releases = Releases([matches!(command, 0xf8 | 0xfa); 256]);
                self.answer(&[ACKNOWLEDGE]);
            }
            // The same of single keys, in the order repeat, tell, neither. Until 0xf4 the others say nothing.
            0xfb..=0xfd => {
                self.scanning = false;
                self.expect(Parameter::Key(command == 0xfc));
            }
            0xfe => self.answer(&[self.last]),
            0xff => {
                self.set_defaults();
                self.scanning = true;
                self.answer(&[ACKNOWLEDGE, SELF_TEST_PASSED]);
            }
            _ => self.answer(&[RESEND]),
        }
    }

    fn expect(&mut self, parameter: Parameter) {
        self.expects = Some(parameter);
        self.answer(&[ACKNOWLEDGE]);
    }
}
