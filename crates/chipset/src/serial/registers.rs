//! Registers of the 16550A, by the names of the data sheet.

use bitfield_struct::bitfield;

/// Interrupt enable register.
#[bitfield(u8)]
#[derive(PartialEq, Eq)]
pub(super) struct InterruptEnable {
    pub received_data: bool,
    pub transmitter_empty: bool,
    pub line_status: bool,
    pub modem_status: bool,
    #[bits(4)]
    __: u8,
}

/// Modem control register.
#[bitfield(u8)]
#[derive(PartialEq, Eq)]
pub(super) struct ModemControl {
    pub data_terminal_ready: bool,
    pub request_to_send: bool,
    pub out1: bool,
    /// On a PC: lets the interrupt through.
    pub out2: bool,
    pub loopback: bool,
    #[bits(3)]
    __: u8,
}

/// Modem status register.
#[bitfield(u8)]
#[derive(PartialEq, Eq)]
pub(super) struct ModemStatus {
    pub delta_clear_to_send: bool,
    pub delta_data_set_ready: bool,
    pub trailing_edge_ring: bool,
    pub delta_carrier: bool,
    pub clear_to_send: bool,
    pub data_set_ready: bool,
    pub ring: bool,
    pub carrier: bool,
}

/// Line status bits.
pub(super) const DATA_READY: u8 = 0x01;
pub(super) const OVERRUN: u8 = 0x02;
pub(super) const TRANSMITTER_EMPTY: u8 = 0x60;

/// Interrupt identification.
pub(super) const NO_INTERRUPT: u8 = 0x01;
pub(super) const LINE_STATUS: u8 = 0x06;
pub(super) const RECEIVED_DATA: u8 = 0x04;
pub(super) const CHARACTER_TIMEOUT: u8 = 0x0c;
pub(super) const HOLDING_EMPTY: u8 = 0x02;
pub(super) const MODEM_STATUS: u8 = 0x00;
pub(super) const FIFOS_ENABLED: u8 = 0xc0;

/// FIFO control bits.
pub(super) const FIFO_ENABLE: u8 = 0x01;
pub(super) const FIFO_CLEAR_RECEIVE: u8 = 0x02;

/// Line control: the divisor latch is accessed.
pub(super) const DIVISOR_LATCH: u8 = 0x80;
