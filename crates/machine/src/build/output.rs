//! Where the serial port writes to.

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
