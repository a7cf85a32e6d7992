//! Registers of the MC146818, by the names of the data sheet.

use bitfield_struct::bitfield;

/// Indices of the time registers.
pub(super) const SECONDS: u8 = 0x00;
pub(super) const SECONDS_ALARM: u8 = 0x01;
pub(super) const MINUTES: u8 = 0x02;
pub(super) const MINUTES_ALARM: u8 = 0x03;
pub(super) const HOURS: u8 = 0x04;
pub(super) const HOURS_ALARM: u8 = 0x05;
pub(super) const DAY_OF_WEEK: u8 = 0x06;
pub(super) const DAY: u8 = 0x07;
pub(super) const MONTH: u8 = 0x08;
pub(super) const YEAR: u8 = 0x09;
pub(super) const A: u8 = 0x0a;
pub(super) const B: u8 = 0x0b;
pub(super) const C: u8 = 0x0c;
pub(super) const D: u8 = 0x0d;

/// Status register A.
#[bitfield(u8)]
#[derive(PartialEq, Eq)]
pub(super) struct StatusA {
    #[bits(4)]
    pub rate: u8,
    #[bits(3)]
    pub divider: u8,
    pub update_in_progress: bool,
}

/// The divider's setting for a crystal of 32.768 kHz.
pub(super) const DIVIDER_RUNS: u8 = 2;

/// Status register B.
#[bitfield(u8)]
#[derive(PartialEq, Eq)]
pub(super) struct StatusB {
    pub daylight_saving: bool,
    pub hours_24: bool,
    pub binary: bool,
    pub square_wave: bool,
    pub update_interrupt: bool,
    pub alarm_interrupt: bool,
    pub periodic_interrupt: bool,
    /// Halts the updates, so that the time can be set.
    pub set: bool,
}

/// Status register C; the enables of B have the same places.
pub(super) const UPDATE_ENDED: u8 = 0x10;
pub(super) const ALARM: u8 = 0x20;
pub(super) const PERIODIC: u8 = 0x40;
pub(super) const INTERRUPT_REQUEST: u8 = 0x80;
/// Status register D: the battery is good.
pub(super) const VALID: u8 = 0x80;
