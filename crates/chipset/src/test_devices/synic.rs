//! The SynIC test port, as QEMU's `hyperv-testdev` has it: a 32-bit write of
//!
//! ```text
//! 31        24 23     16 15      8 7       0
//! | connection | command | processor | source |
//! ```
//!
//! makes or drops a route to a source of a processor (1, 2), raises it (3), makes or drops a message
//! connection whose posts come back to the source (4, 5), makes or drops an event connection whose signals
//! set the source's event flag with the connection's number (6, 7). A message that finds its slot occupied
//! is delivered at the end of the one before it.

use std::collections::BTreeSet;
use std::sync::Arc;

use thiserror::Error;

use crate::bus::{PortDevice, value_of};
use crate::unhandled::Unhandled;

/// The port, four bytes wide.
pub const SYNIC_PORT: u16 = 0x3000;
/// The most routes at a time.
pub const ROUTES: usize = 1024;

/// Why the hypervisor interface does not do what the guest asks by the test port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum SynicError {
    /// There is no such processor or source.
    #[error("there is no such processor or source")]
    Target,
    /// The connection exists already, or does not exist.
    #[error("the connection is taken, or there is none")]
    Connection,
}

/// The hypervisor interface as the test port sees it.
pub trait SynicTest: Send + Sync {
    /// Checks that there is a source `sint` of processor `vp`.
    ///
    /// # Errors
    /// [`SynicError::Target`] if not.
    fn check(&self, vp: u8, sint: u8) -> Result<(), SynicError>;
    /// Interrupts processor `vp` as its source `sint` says, if that is not masked.
    fn raise(&self, vp: u8, sint: u8);
    /// Connects `connection` to a port that posts what it gets to the source.
    ///
    /// # Errors
    /// When there is no such target, or the connection is taken.
    fn connect_echo(&self, connection: u8, vp: u8, sint: u8) -> Result<(), SynicError>;
    /// Connects `connection` to a port that sets the event flag `connection` of the source.
    ///
    /// # Errors
    /// When there is no such target, or the connection is taken.
    fn connect_event(&self, connection: u8, vp: u8, sint: u8) -> Result<(), SynicError>;
    /// Removes a connection.
    ///
    /// # Errors
    /// When there is none.
    fn disconnect(&self, connection: u8) -> Result<(), SynicError>;
}

mod command {
    pub const MAKE_ROUTE: u8 = 1;
    pub const DROP_ROUTE: u8 = 2;
    pub const RAISE: u8 = 3;
    pub const MAKE_MESSAGE_CONNECTION: u8 = 4;
    pub const DROP_MESSAGE_CONNECTION: u8 = 5;
    pub const MAKE_EVENT_CONNECTION: u8 = 6;
    pub const DROP_EVENT_CONNECTION: u8 = 7;
}

/// Which kind of connection the guest has made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Message,
    Event,
}

/// The port's state.
pub struct SynicPort {
    synic: Arc<dyn SynicTest>,
    pub(super) routes: BTreeSet<(u8, u8)>,
    /// What this port has connected: it drops nobody else's connections. At most one for each number.
    pub(super) connections: BTreeSet<(Kind, u8)>,
    unhandled: Unhandled,
}

impl SynicPort {
    /// The port in front of `synic`.
    pub fn new(synic: Arc<dyn SynicTest>) -> Self {
        Self { synic, routes: BTreeSet::new(), connections: BTreeSet::new(), unhandled: Unhandled::default() }
    }

    fn command(&mut self, value: u32) -> Result<(), SynicError> {
        let [sint, vp, command, connection] = value.to_le_bytes();
        match command {
            command::MAKE_ROUTE => {
                self.synic.check(vp, sint)?;
                if self.routes.len() < ROUTES {
                    self.routes.insert((vp, sint));
                }
                Ok(())
            }
            command::DROP_ROUTE => self.routes.remove(&(vp, sint)).then_some(()).ok_or(SynicError::Target),
            command::RAISE => {
                let route = self.routes.get(&(vp, sint)).ok_or(SynicError::Target)?;
                self.synic.raise(route.0, route.1);
                Ok(())
            }
            command::MAKE_MESSAGE_CONNECTION => {
                self.synic.connect_echo(connection, vp, sint)?;
                self.connections.insert((Kind::Message, connection));
                Ok(())
            }
            command::MAKE_EVENT_CONNECTION => {
                self.synic.connect_event(connection, vp, sint)?;
                self.connections.insert((Kind::Event, connection));
                Ok(())
            }
            command::DROP_MESSAGE_CONNECTION => self.disconnect(Kind::Message, connection),
            command::DROP_EVENT_CONNECTION => self.disconnect(Kind::Event, connection),
            _ => {
                self.unhandled.tell("SynIC test port", "command", command.into());
                Ok(())
            }
        }
    }

    fn disconnect(&mut self, kind: Kind, connection: u8) -> Result<(), SynicError> {
        if !self.connections.remove(&(kind, connection)) {
            return Err(SynicError::Connection);
        }
        self.synic.disconnect(connection)
    }
}

impl PortDevice for SynicPort {
    fn port_read(&mut self, port: u16, data: &mut [u8]) {
        self.unhandled.tell("SynIC test port", "a read of port", port.into());
        data.fill(0);
    }

    fn port_write(&mut self, _port: u16, data: &[u8]) {
        let value = value_of(data);
        if data.len() != size_of::<u32>() {
            self.unhandled.tell("SynIC test port", "a write of fewer than 32 bits:", value);
            return;
        }
        if let Err(error) = self.command(value) {
            tracing::debug!("SynIC test port: {value:#010x}: {error}");
            self.unhandled.tell("SynIC test port", "what has no target:", value);
        }
    }
}
