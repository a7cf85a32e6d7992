//! Ports by which firmware and kernels tell where they are: the debug console of virtual machines (0x402) and
//! the POST code (0x80). Port 0x80 is written by kernels to pass time, thousands of times: nothing is told of
//! it but the last code.

#[cfg(test)]
mod tests;

use std::io::Write;

use crate::bus::{PortDevice, read_bytes, write_bytes};

/// Debug console.
pub const DEBUG_CONSOLE: u16 = 0x402;
/// POST code.
pub const POST_CODE: u16 = 0x80;

/// What the debug console reads as, by which firmware knows that it is there.
const DEBUG_CONSOLE_PRESENT: u8 = 0xe9;

/// Both ports.
pub struct DebugPorts {
    post_code: u8,
    output: Box<dyn Write + Send>,
    failed: bool,
}

impl DebugPorts {
    /// Ports whose console writes to `output`.
    pub fn new(output: Box<dyn Write + Send>) -> Self {
        Self { post_code: 0, output, failed: false }
    }

    /// Power-on state.
    pub fn reset(&mut self) {
        self.post_code = 0;
    }

    /// The last POST code.
    pub fn post_code(&self) -> u8 {
        self.post_code
    }

    fn write(&mut self, byte: u8) {
        if let Err(error) = self.output.write_all(&[byte])
            && !std::mem::replace(&mut self.failed, true)
        {
            tracing::warn!("debug console: output is lost: {error}");
        }
    }
}

impl PortDevice for DebugPorts {
    fn port_read(&mut self, port: u16, data: &mut [u8]) {
        read_bytes(port, data, |port| match port {
            DEBUG_CONSOLE => DEBUG_CONSOLE_PRESENT,
            POST_CODE => self.post_code,
            _ => 0xff,
        });
    }

    fn port_write(&mut self, port: u16, data: &[u8]) {
        write_bytes(port, data, |port, value| match port {
            DEBUG_CONSOLE => self.write(value),
            POST_CODE => self.post_code = value,
            _ => {}
        });
    }
}
