//! The first serial port, as it is after reset, polled.

use core::fmt;

use crate::machine::{in8, out8};

const DATA: u16 = 0x3f8;
const LINE_STATUS: u16 = 0x3fd;
const TRANSMITTER_EMPTY: u8 = 1 << 5;

/// The port.
pub struct Serial;

impl fmt::Write for Serial {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            while in8(LINE_STATUS) & TRANSMITTER_EMPTY == 0 {}
            out8(DATA, byte);
        }
        Ok(())
    }
}

/// Prints a line.
#[macro_export]
macro_rules! say {
    ($($text:tt)*) => {{
        use core::fmt::Write;
        // The port takes everything.
        let _ = writeln!($crate::serial::Serial, $($text)*);
    }};
}
