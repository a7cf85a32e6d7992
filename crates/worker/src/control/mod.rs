//! The control socket: a Unix socket, one JSON request per line, one JSON reply per line.
//!
//! ```text
//! → {"command":"status"}      ← {"status":{"name":"vm",…}}
//! → {"command":"devices"}     ← {"devices":{"devices":[…],"counts":{…}}}
//! → {"command":"power-off"}   ← "done"      the ACPI power button: the guest is asked to power off
//! → {"command":"reset"}       ← "done"      the machine starts again, as after its reset button
//! → {"command":"quit"}        ← "done"      the machine stops at once; its disks are flushed
//! → {"command":"serial"}      ← "done"      from here on the connection is the serial port's
//! → anything else             ← {"error":"…"}
//! ```

mod client;
mod server;

#[cfg(test)]
mod tests;

pub use client::{Client, ClientError};
pub use server::{ControlSocket, Serving, SocketFile};

use std::collections::BTreeMap;

use counters::DeviceRow;
use machine::Status;
use serde::{Deserialize, Serialize};

/// What a client asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// How the machine is.
    Status {},
    /// What the devices have done.
    Devices {},
    /// Ask the guest to power off.
    PowerOff {},
    /// Start again.
    Reset {},
    /// Stop at once.
    Quit {},
    /// Make this connection the serial port's.
    Serial {},
}

/// What a worker answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reply {
    /// To [`Request::Status`].
    Status(Status),
    /// To [`Request::Devices`].
    Devices(Devices),
    /// It is done, or on its way.
    Done,
    /// It is not, and why.
    Error(String),
}

/// The device table and the counts that belong to no device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Devices {
    /// A row for each device.
    pub devices: Vec<DeviceRow>,
    /// The value of each count, by its name.
    pub counts: BTreeMap<String, u64>,
}
