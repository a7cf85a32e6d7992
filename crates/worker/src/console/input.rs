//! From a terminal or a stream into the serial port.

use std::io::{ErrorKind, Read};
use std::time::Duration;

use machine::MachineHandle;

/// Ctrl-A, which begins a command to the console.
const ESCAPE: u8 = 0x01;
/// How long to wait when the serial port takes no more.
const PAUSE: Duration = Duration::from_millis(2);

/// Where input comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// A terminal: Ctrl-A X ends the machine, Ctrl-A Ctrl-A is Ctrl-A.
    Terminal,
    /// A file, pipe or socket: every byte is input.
    Stream,
}

/// Starts a thread that reads until the source ends. A source that cannot be served is told in the log;
/// the machine runs on without it.
pub(super) fn start(name: &str, source: impl Read + Send + 'static, kind: Source, machine: MachineHandle) {
    let thread = std::thread::Builder::new().name(name.to_owned());
    if let Err(error) = thread.spawn(move || read(source, kind, &machine)) {
        tracing::error!("no thread for the console's input: {error}");
    }
}

fn read(mut source: impl Read, kind: Source, machine: &MachineHandle) {
    let mut bytes = [0; 256];
    let mut keys = Keys::default();
    loop {
        let read = match source.read(&mut bytes) {
            Ok(0) => return,
            Ok(read) => read,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            // A terminal that has been closed; SIGHUP tells it too.
            Err(_) => return,
        };
        let (input, leave) = match kind {
            Source::Stream => (bytes[..read].to_vec(), false),
            Source::Terminal => keys.translate(&bytes[..read]),
        };
        send(&input, machine);
        if leave {
            machine.stop();
            return;
        }
    }
}

/// Gives everything to the serial port, waiting while it takes no more.
fn send(mut input: &[u8], machine: &MachineHandle) {
    while !input.is_empty() && !machine.ended() {
        let taken = machine.serial_input(input);
        input = &input[taken.min(input.len())..];
        if taken == 0 {
            std::thread::sleep(PAUSE);
        }
    }
}

/// The commands of the terminal.
#[derive(Debug, Default)]
pub(super) struct Keys {
    escaped: bool,
}

impl Keys {
    /// What of `bytes` is input, and whether the user wants to leave.
    pub(super) fn translate(&mut self, bytes: &[u8]) -> (Vec<u8>, bool) {
        let mut input = Vec::with_capacity(bytes.len());
        for &byte in bytes {
            match (std::mem::take(&mut self.escaped), byte) {
                (false, ESCAPE) => self.escaped = true,
                (true, b'x' | b'X') => return (input, true),
                (true, ESCAPE | b'a' | b'A') => input.push(ESCAPE),
                (true, other) => input.extend([ESCAPE, other]),
                (false, other) => input.push(other),
            }
        }
        (input, false)
    }
}
