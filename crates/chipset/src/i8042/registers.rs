//! Registers of the controller.

use bitfield_struct::bitfield;

/// The status register.
#[bitfield(u8)]
#[derive(PartialEq, Eq)]
pub(super) struct Status {
    pub output_full: bool,
    /// Never: commands are carried out at once.
    pub input_full: bool,
    pub system_flag: bool,
    pub last_was_command: bool,
    pub not_locked: bool,
    pub from_mouse: bool,
    pub timeout: bool,
    pub parity_error: bool,
}

/// The command byte, the first of the controller's memory.
#[bitfield(u8)]
#[derive(PartialEq, Eq)]
pub(super) struct CommandByte {
    pub keyboard_interrupt: bool,
    pub mouse_interrupt: bool,
    pub system_flag: bool,
    __: bool,
    pub keyboard_disabled: bool,
    pub mouse_disabled: bool,
    pub translate: bool,
    __: bool,
}

/// The output port.
#[bitfield(u8)]
#[derive(PartialEq, Eq)]
pub(super) struct OutputPort {
    pub not_reset: bool,
    pub a20: bool,
    #[bits(2)]
    __: u8,
    pub keyboard_full: bool,
    pub mouse_full: bool,
    #[bits(2)]
    __: u8,
}
