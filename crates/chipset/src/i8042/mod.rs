//! An 8042 keyboard controller with a PS/2 keyboard and a PS/2 mouse (IBM Personal System/2 Hardware
//! Interface Technical Reference, "Keyboard and Auxiliary Device Controller", 1990).
//!
//! ```text
//! keyboard (set 2) ─▶ translation to set 1 ─┐
//! mouse ─────────────────────────────────────┼─▶ output buffer (port 0x60) ─▶ IRQ 1 / IRQ 12
//! controller's own answers ──────────────────┘
//! ```
//!
//! Different from the chip: bytes take no time; A20 is kept and has no effect. Not emulated:
//! passwords (one is taken and not installed), the shifts that old keyboards send around Print Screen and the grey keys, key repeat (who types
//! repeats), mice with more than three buttons.

mod keyboard;
mod mouse;
mod registers;
mod scancodes;

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::Arc;

use interrupt::Line;

use crate::bus::{PortDevice, read_bytes, write_bytes};
use crate::power::PowerControl;
use crate::unhandled::Unhandled;
use keyboard::Keyboard;
use mouse::Mouse;
use registers::{CommandByte, OutputPort, Status};

/// Data port.
pub const DATA: u16 = 0x60;
/// Status and command port.
pub const COMMAND: u16 = 0x64;
/// The keyboard's interrupt.
pub const KEYBOARD_IRQ: u8 = 1;
/// The mouse's interrupt.
pub const MOUSE_IRQ: u8 = 12;

/// The command that pulses the reset line.
pub const PULSE_RESET: u8 = 0xfe;

/// How many answers of the controller wait at most.
const ANSWER_LIMIT: usize = 16;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Controller,
    Keyboard,
    Mouse,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct State {
    command_byte: CommandByte,
    /// The controller's memory behind the command byte.
    memory: [u8; 32],
    output_port: OutputPort,
    output: Option<(u8, Source)>,
    answers: VecDeque<(u8, Source)>,
    /// The command whose parameter the data port takes next.
    expects: Option<u8>,
    last_write_was_command: bool,
    /// What is read from port 0x60 when nothing waits.
    last_output: u8,
    /// The keyboard has sent the release prefix of set 2, which translation swallows.
    release: bool,
    keyboard: Keyboard,
    mouse: Mouse,
}

impl State {
    fn power_on() -> Self {
        Self {
            command_byte: CommandByte::new()
                .with_keyboard_interrupt(true)
                .with_system_flag(true)
                .with_mouse_disabled(true)
                .with_translate(true),
            memory: [0; 32],
            output_port: OutputPort::new().with_not_reset(true).with_a20(true),
            output: None,
            answers: VecDeque::new(),
            expects: None,
            last_write_was_command: false,
            last_output: 0,
            release: false,
            keyboard: Keyboard::new(),
            mouse: Mouse::new(),
        }
    }

    fn answer(&mut self, byte: u8, source: Source) {
        if self.answers.len() < ANSWER_LIMIT {
            self.answers.push_back((byte, source));
        }
    }

    /// Puts the next byte into the output buffer if it is free.
    fn fill(&mut self) {
        if self.output.is_some() {
            return;
        }
        self.output = self.answers.pop_front();
        while self.output.is_none() && !self.command_byte.keyboard_disabled() {
            let Some(byte) = self.keyboard.take() else { break };
            self.output = self.translated(byte).map(|byte| (byte, Source::Keyboard));
        }
        if self.output.is_none() && !self.command_byte.mouse_disabled() {
            self.output = self.mouse.take().map(|byte| (byte, Source::Mouse));
        }
    }

    fn translated(&mut self, byte: u8) -> Option<u8> {
        if !self.command_byte.translate() {
            return Some(byte);
        }
        if byte == scancodes::RELEASE {
            self.release = true;
            return None;
        }
        let released = if std::mem::take(&mut self.release) { scancodes::RELEASED } else { 0 };
        Some(scancodes::translate(byte) | released)
    }

    fn status(&self) -> Status {
        Status::new()
            .with_output_full(self.output.is_some())
            .with_system_flag(self.command_byte.system_flag())
            .with_last_was_command(self.last_write_was_command)
            .with_not_locked(true)
            .with_from_mouse(matches!(self.output, Some((_, Source::Mouse))))
    }
}

/// The controller with its two devices. Answers ports 0x60 and 0x64.
pub struct I8042 {
    state: State,
    keyboard_irq: Arc<dyn Line>,
    mouse_irq: Arc<dyn Line>,
    power: Arc<dyn PowerControl>,
    unhandled: Unhandled,
}

impl I8042 {
    /// A controller whose reset pulse goes to `power`.
    pub fn new(keyboard_irq: Arc<dyn Line>, mouse_irq: Arc<dyn Line>, power: Arc<dyn PowerControl>) -> Self {
        Self { state: State::power_on(), keyboard_irq, mouse_irq, power, unhandled: Unhandled::default() }
    }

    /// Power-on state.
    pub fn reset(&mut self) {
        self.state = State::power_on();
        self.update();
    }

    /// A key goes down or up, by its code in set 1: 0x01–0x7f, 0xe001–0xe07f for keys with the prefix 0xe0, or 0xe11d
    /// for Pause.
    /// False if it was dropped: the guest does not listen or its queue is full.
    pub fn key(&mut self, code: u16, pressed: bool) -> bool {
        let taken = self.state.keyboard.key(code, pressed);
        self.update();
        taken
    }

    /// Whether the guest has taken all that the keyboard had to say.
    pub fn keyboard_idle(&self) -> bool {
        self.state.keyboard.queue.is_empty() && !matches!(self.state.output, Some((_, Source::Keyboard)))
    }

    /// The mouse moves (right and up are positive), its wheel is turned (towards the user is positive), or its buttons
    /// (left, right, middle: bits 0–2) change.
    /// False if it was dropped: the guest does not listen or its queue is full.
    pub fn mouse(&mut self, right: i16, up: i16, wheel: i8, buttons: u8) -> bool {
        let taken = self.state.mouse.report(right, up, wheel, buttons);
        self.update();
        taken
    }

    /// The keyboard's lights: Scroll Lock, Num Lock, Caps Lock in bits 0–2.
    pub fn leds(&self) -> u8 {
        self.state.keyboard.leds()
    }

    fn update(&mut self) {
        self.state.fill();
        let command_byte = self.state.command_byte;
        let (keyboard, mouse) = match self.state.output {
            None => (false, false),
            Some((_, Source::Mouse)) => (false, command_byte.mouse_interrupt()),
            Some(_) => (command_byte.keyboard_interrupt(), false),
        };
        self.keyboard_irq.set(keyboard);
        self.mouse_irq.set(mouse);
    }

    fn read(&mut self, port: u16) -> u8 {
        match port {
            DATA => {
                if let Some((byte, source)) = self.state.output.take() {
                    self.state.last_output = byte;
                    // The line falls between two bytes: each is an edge.
                    match source {
                        Source::Mouse => self.mouse_irq.set(false),
                        Source::Controller | Source::Keyboard => self.keyboard_irq.set(false),
                    }
                }
                let byte = self.state.last_output;
                self.update();
                byte
            }
            COMMAND => self.state.status().into_bits(),
            _ => 0xff,
        }
    }

    fn write(&mut self, port: u16, value: u8) {
        match port {
            DATA => {
                self.state.last_write_was_command = false;
                match self.state.expects.take() {
                    Some(command) => self.parameter(command, value),
                    None => {
                        self.state.command_byte.set_keyboard_disabled(false);
                        self.state.keyboard.write(value);
                    }
                }
            }
            COMMAND => {
                self.state.last_write_was_command = true;
                self.state.expects = None;
                self.command(value);
            }
            _ => {}
        }
        self.update();
    }

    fn parameter(&mut self, command: u8, value: u8) {
        let state = &mut self.state;
        match command {
            0x60 => state.command_byte = CommandByte::from_bits(value & 0x7f),
            0x61..=0x7f => state.memory[usize::from(command & 0x1f)] = value,
            // Up to its NUL.
            0xa5 if value != 0 => state.expects = Some(command),
            0xa5 => {}
            0xd1 => self.write_output_port(value),
            0xd2 => state.answer(value, Source::Keyboard),
            0xd3 => state.answer(value, Source::Mouse),
            _ => {
                state.command_byte.set_mouse_disabled(false);
                state.mouse.write(value);
            }
        }
    }

    fn write_output_port(&mut self, value: u8) {
        let port = OutputPort::from_bits(value);
        self.state.output_port.set_a20(port.a20());
        if !port.not_reset() {
            self.power.reset();
        }
    }

    fn command(&mut self, command: u8) {
        let state = &mut self.state;
        match command {
            0x20 => state.answer(state.command_byte.into_bits(), Source::Controller),
            0x21..=0x3f => state.answer(state.memory[usize::from(command & 0x1f)], Source::Controller),
            0x60..=0x7f | 0xa5 | 0xd1..=0xd4 => state.expects = Some(command),
            // No password is installed.
            0xa4 => state.answer(0xf1, Source::Controller),
            0xa6 => {}
            0xa7 => state.command_byte.set_mouse_disabled(true),
            0xa8 => state.command_byte.set_mouse_disabled(false),
            // The interface tests of both devices find nothing wrong.
            0xa9 | 0xab => state.answer(0x00, Source::Controller),
            0xaa => {
                state.command_byte.set_system_flag(true);
                state.answer(0x55, Source::Controller);
            }
            0xad => state.command_byte.set_keyboard_disabled(true),
            0xae => state.command_byte.set_keyboard_disabled(false),
            // The input port: not locked.
            0xc0 => state.answer(0x80, Source::Controller),
            0xd0 => {
                let port = state
                    .output_port
                    .with_keyboard_full(matches!(
                        state.output,
                        Some((_, Source::Controller | Source::Keyboard))
                    ))
                    .with_mouse_full(matches!(state.output, Some((_, Source::Mouse))));
                state.answer(port.into_bits(), Source::Controller);
            }
            0xdd => state.output_port.set_a20(false),
            0xdf => state.output_port.set_a20(true),
            // The test inputs: clock and data of the keyboard are idle.
            0xe0 => state.answer(0x03, Source::Controller),
            // Pulses the lines whose bits are 0; bit 0 is the reset line.
            0xf0..=0xff if command & 1 == 0 => self.power.reset(),
            0xf0..=0xff => {}
            _ => self.unhandled.tell("keyboard controller", "command", u32::from(command)),
        }
    }
}

impl PortDevice for I8042 {
    fn port_read(&mut self, port: u16, data: &mut [u8]) {
        read_bytes(port, data, |port| self.read(port));
    }

    fn port_write(&mut self, port: u16, data: &[u8]) {
        write_bytes(port, data, |port, value| self.write(port, value));
    }
}
