//! Logs to standard error: warnings and errors, or what RUST_LOG says.

use std::io::{self, Write};

use tracing_subscriber::EnvFilter;
use worker::console::Terminal;

pub(crate) fn start() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_target(false)
        .with_ansi(false)
        .without_time()
        .with_writer(|| Lines)
        .init();
}

/// Standard error, with a carriage return before each line end while the terminal is raw. A terminal that has
/// gone away takes the log with it.
struct Lines;

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut stderr = io::stderr().lock();
        for line in bytes.split_inclusive(|&byte| byte == b'\n') {
            let text = line.strip_suffix(b"\n").filter(|_| Terminal::is_raw());
            let _ = match text {
                Some(text) => stderr.write_all(text).and_then(|()| stderr.write_all(b"\r\n")),
                None => stderr.write_all(line),
            };
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
