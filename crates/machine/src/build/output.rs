//! Where the serial port and the firmware's debug console write to.

use std::io::{self, Write};
use std::sync::PoisonError;

use crate::run::SerialOutput;

/// The serial port's output, which outlives the board.
pub(super) struct SharedOutput(pub SerialOutput);

impl Write for SharedOutput {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).flush()
    }
}

/// How much of a line of the debug console is kept.
const LINE: usize = 256;

/// The firmware's debug console: lines in the log, for those who want to see them.
#[derive(Default)]
pub(super) struct FirmwareLog(Vec<u8>);

impl Write for FirmwareLog {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for &byte in bytes {
            if byte == b'\n' {
                tracing::debug!("firmware: {}", String::from_utf8_lossy(&self.0));
                self.0.clear();
            } else if self.0.len() < LINE {
                self.0.push(byte);
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
