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

/// Standard error, with a carriage return before each line end while the terminal is raw.
struct Lines;

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut stderr = io::stderr().lock();
        if Terminal::is_raw() {
            for line in bytes.split_inclusive(|&byte| byte == b'\n') {
                match line.strip_suffix(b"\n") {
                    Some(text) => {
                        stderr.write_all(text)?;
                        stderr.write_all(b"\r\n")?;
                    }
                    None => stderr.write_all(line)?,
                }
            }
        } else {
            stderr.write_all(bytes)?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}
