//! The process of one virtual machine: its console, its control socket, its signals, its end.
//!
//! ```text
//! terminal, file, socket ◀─▶ Console ◀─▶ serial port ┐
//! control socket ─▶ requests ─────────────────────────┼─▶ machine::MachineHandle
//! debugger ◀─▶ gdb::serve ────────────────────────────┤
//! SIGTERM, SIGINT, SIGHUP ─▶ power button, then stop ─┘
//! ```

pub mod console;
pub mod control;
mod debugger;
mod keyboard;
mod signals;
mod table;

pub use table::{address_table, device_table, integration_table, processor_table};

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use counters::DeviceRow;
use machine::config::{InputError, Serial};
use machine::{End, Machine, MachineConfig};
use thiserror::Error;

use console::{Console, Terminal};
use control::ControlSocket;
use debugger::DebugSocket;

/// How long a guest may take to power off after it has been asked to.
pub const GRACE: Duration = Duration::from_secs(20);
/// How long the end of the process waits for the console's reader.
const DRAIN: Duration = Duration::from_secs(2);

/// Why a worker cannot run.
#[derive(Debug, Error)]
pub enum Error {
    /// What the user gave does not do. Nothing has been created or changed.
    #[error(transparent)]
    Input(#[from] InputError),
    /// The machine cannot be built.
    #[error(transparent)]
    Machine(machine::Error),
    /// The host refused something.
    #[error("{0}")]
    Host(&'static str, #[source] std::io::Error),
}

impl From<machine::Error> for Error {
    fn from(error: machine::Error) -> Self {
        match error {
            machine::Error::Input(error) => Self::Input(error),
            error => Self::Machine(error),
        }
    }
}

/// How a machine ended, and what its devices did.
#[derive(Debug)]
pub struct Report {
    /// How it ended.
    pub end: End,
    /// Whether it had to be stopped because the guest did not power off when it was asked to.
    pub forced: bool,
    /// The device table.
    pub devices: Vec<DeviceRow>,
    /// The counts that belong to no device.
    pub counts: BTreeMap<String, u64>,
}

/// Runs the machine of `config` in this process until it ends. `tell` is told, in one line, which processor was chosen
/// where `config` leaves that open.
///
/// # Errors
/// When the machine cannot be started.
pub fn run(config: MachineConfig, tell: &dyn Fn(&str)) -> Result<Report, Error> {
    // Before any thread starts, so that all of them leave the signals to the one that waits for them.
    let signals = signals::restore_terminal_on_defects().and_then(|()| signals::block());
    signals.map_err(|error| Error::Host("cannot set up signals", error))?;
    let console = Console::start().map_err(|error| Error::Host("cannot start the console", error))?;
    let machine = Machine::new(config.clone(), console.output())?;
    let handle = machine.handle();

    // Everything that could be wrong with the input has been looked at: from here on things are created.
    let socket = config.api.as_deref().map(ControlSocket::bind).transpose()?;
    let debugger = config.gdb.as_ref().map(DebugSocket::bind).transpose()?;
    let mut terminal = None;
    match &config.serial {
        Serial::Stdio => terminal = console.attach_stdio(&handle),
        Serial::File(path) => console.attach_file(path)?,
        Serial::Socket(path) => console.listen(path, &handle)?,
    }
    let socket = socket.map(|socket| socket.serve(handle.clone(), Arc::clone(&console)));
    let socket = socket.transpose().map_err(|error| Error::Host("cannot serve the control socket", error))?;
    let debugger = debugger.zip(handle.debuggee()).map(|(socket, machine)| socket.serve(machine)).transpose();
    let debugger = debugger.map_err(|error| Error::Host("cannot serve debuggers", error))?;
    let ending =
        signals::watch(handle.clone()).map_err(|error| Error::Host("cannot wait for signals", error))?;

    if let Some(choice) = machine.processor_choice() {
        tell(choice);
    }
    let end = machine.run();
    console.drain(DRAIN);
    drop(terminal);
    drop(socket);
    drop(debugger);
    console.close();
    let counts = handle.counts().into_iter().collect();
    Ok(Report { end, forced: ending.forced(), devices: handle.devices(), counts })
}

/// The terminal of this process as it was, for those who end the process in a hurry.
pub fn restore_terminal() {
    Terminal::restore();
}
