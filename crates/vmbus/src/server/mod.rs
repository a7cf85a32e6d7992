//! The host's end of the bus: offers devices, answers the guest's messages, passes signals on.
//!
//! Locks: `Hub::state` first, then those behind [`Synic`]; never hold a lock of the latter while calling
//! the server. `Hub::lines` are held for a moment and alone. Devices are called with no lock held.

mod gpadl;
mod state;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, Weak};

use guest_memory::{CodePages, GuestMemory};
use thiserror::Error;

use crate::channel::Line;
use crate::protocol::{self, OpenChannel, TlConnectRequest};
use crate::{Channel, Device, Doorbell, Guid};
use state::{State, Wanted};

/// Added to a channel's number, gives the connection id by which the guest signals it.
const CHANNEL_CONNECTION_ID: u32 = *protocol::CHANNEL_CONNECTION_IDS.start() - 1;
/// A guest message is refused while as many of ours wait for delivery. Bounds the queue: a guest message
/// has one answer, or as many as there are channels.
const MAX_WAITING_MESSAGES: usize = 256;

/// How messages and interrupts reach the guest.
pub trait Synic: Send + Sync {
    /// Puts a message into the slot of `sint` of processor `vp`. False if that cannot be done now, such as
    /// for a slot in use: call [`Server::retry_messages`] when that has changed. True also for a message
    /// that nobody will ever read, such as for a processor whose SynIC is off: it is lost.
    fn post_message(&self, vp: u32, sint: u8, message_type: u32, payload: &[u8]) -> bool;
    /// Sets an event flag of `sint` of processor `vp` and interrupts the processor if it was clear.
    fn signal_event(&self, vp: u32, sint: u8, flag: u16);
    /// From now on the guest's signals to `connection` may ring `doorbell` by themselves instead of being told by
    /// [`Server::event`].
    fn bind_signal(&self, _connection: u32, _doorbell: &Doorbell) {}
    /// The doorbell of `connection` goes. Called once for every [`Self::bind_signal`].
    fn unbind_signal(&self, _connection: u32) {}
}

/// Who serves connections of Hyper-V sockets.
pub trait Sockets: Send + Sync {
    /// The guest wants to connect its `endpoint` to the host's `service`: a device is to be offered on `bus` with
    /// `service` as its interface and `endpoint` as its instance, or the connection to be refused. Called on the thread
    /// of a processor, which does not wait.
    fn connect(&self, bus: &Server, endpoint: Guid, service: Guid);
}

/// What a bus is made of.
pub struct Settings {
    /// Guest memory.
    pub memory: GuestMemory,
    /// The record of guest code.
    pub code: Arc<CodePages>,
    /// How the guest is reached.
    pub synic: Arc<dyn Synic>,
    /// Number of virtual processors.
    pub processors: u32,
}

/// A guest message cannot be taken now: the guest is to send it again (HV_STATUS_INSUFFICIENT_BUFFERS).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("too many messages wait for the guest")]
pub struct Busy;

/// Nothing is behind a connection id (HV_STATUS_INVALID_CONNECTION_ID).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("no open channel has this connection id")]
pub struct UnknownConnection;

/// Why a device cannot be offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum OfferError {
    /// Another device has the same instance.
    #[error("a device {0} is on the bus already")]
    Duplicate(Guid),
    /// There are no more channel numbers.
    #[error("the bus has no room for another channel")]
    Full,
}

/// The host's end of the bus.
#[derive(Clone)]
pub struct Server {
    hub: Arc<Hub>,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").finish_non_exhaustive()
    }
}

impl Server {
    /// A bus without devices.
    pub fn new(settings: Settings) -> Self {
        let lines = (0..protocol::MAX_RELIDS).map(|_| RwLock::new(None)).collect();
        let state = Mutex::new(State::new(settings.processors));
        let (idle, sockets) = (Condvar::new(), OnceLock::new());
        Self { hub: Arc::new(Hub { settings, lines, state, idle, sockets }) }
    }

    /// Names who serves the guest's connections of Hyper-V sockets, for as long as it lives; the first one stays.
    /// Without anybody they are refused.
    pub fn serve_sockets(&self, sockets: Weak<dyn Sockets>) {
        self.hub.sockets.get_or_init(|| sockets);
    }

    /// Tells the guest that nobody answers its connection of a Hyper-V socket.
    pub fn refuse_socket(&self, endpoint: Guid, service: Guid) {
        self.hub.with(|state| state.refuse_socket(TlConnectRequest { endpoint, service }));
    }

    /// Offers a device: to a guest that is connected at once, to others when they ask.
    ///
    /// # Errors
    /// When the bus is full or has a device of the same instance.
    pub fn offer(&self, device: Arc<dyn Device>) -> Result<(), OfferError> {
        let offer = device.offer();
        self.hub.with(|state| state.add_device(device, offer))
    }

    /// Takes a device away, by its instance. The device's channels are to be closed. False if there is no
    /// such device.
    pub fn rescind(&self, instance: Guid) -> bool {
        self.hub.with(|state| state.remove_device(instance))
    }

    /// The guest has posted a message to one of the connections [`protocol::MESSAGE_CONNECTION_ID`] and
    /// [`protocol::MESSAGE_CONNECTION_ID_5`].
    ///
    /// # Errors
    /// When the guest has to try again.
    pub fn message(&self, payload: &[u8]) -> Result<(), Busy> {
        self.hub.message(payload)
    }

    /// The guest has signalled one of [`protocol::CHANNEL_CONNECTION_IDS`]. Fast: no lock shared by channels, one write to an eventfd.
    ///
    /// # Errors
    /// When no open channel has this connection id.
    pub fn event(&self, connection_id: u32, _flag: u16) -> Result<(), UnknownConnection> {
        let relid = connection_id.wrapping_sub(CHANNEL_CONNECTION_ID);
        self.hub.line(relid).ok_or(UnknownConnection)?.signal();
        Ok(())
    }

    /// A message slot has become free: sends what waits.
    pub fn retry_messages(&self) {
        self.hub.with(|_| ());
    }

    /// The machine is reset: closes all channels and waits until their devices have given them back.
    pub fn reset(&self) {
        self.hub.reset();
    }

    /// The version that the guest has agreed on, while it is connected.
    pub fn version(&self) -> Option<protocol::Version> {
        self.hub.lock().version()
    }
}

/// What the server, its devices' channels and the guest's signals meet at.
pub(crate) struct Hub {
    settings: Settings,
    /// Open channels by number.
    lines: Box<[RwLock<Option<Arc<Line>>>]>,
    state: Mutex<State>,
    /// Told when the last channel has been given back.
    idle: Condvar,
    sockets: OnceLock<Weak<dyn Sockets>>,
}

impl Hub {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something to the state and what follows from it.
    fn with<R>(&self, act: impl FnOnce(&mut State) -> R) -> R {
        let mut state = self.lock();
        let result = act(&mut state);
        state.send(&*self.settings.synic);
        if state.is_idle() {
            self.idle.notify_all();
        }
        // Devices that have gone are dropped outside the lock: they may own channels.
        let gone = state.take_gone();
        drop(state);
        drop(gone);
        result
    }

    fn line(&self, relid: u32) -> Option<Arc<Line>> {
        let slot = self.lines.get(usize::try_from(relid).ok()?)?;
        slot.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_line(&self, relid: u32, line: Option<Arc<Line>>) {
        let Some(slot) = self.lines.get(relid as usize) else { return };
        let connection = relid.wrapping_add(CHANNEL_CONNECTION_ID);
        let before =
            std::mem::replace(&mut *slot.write().unwrap_or_else(PoisonError::into_inner), line.clone());
        if before.is_some() {
            self.settings.synic.unbind_signal(connection);
        }
        if let Some(line) = line {
            self.settings.synic.bind_signal(connection, &line.doorbell);
        }
    }

    fn message(self: &Arc<Self>, payload: &[u8]) -> Result<(), Busy> {
        let wanted = self.with(|state| {
            if state.waiting_messages() >= MAX_WAITING_MESSAGES {
                return Err(Busy);
            }
            Ok(state.message(payload, self))
        })?;
        match wanted {
            Some(Wanted::Open(open)) => {
                let (device, channel, request) = *open;
                self.open(&*device, channel, &request);
            }
            Some(Wanted::Socket(request)) => {
                let server = Server { hub: Arc::clone(self) };
                match self.sockets.get().and_then(Weak::upgrade) {
                    Some(sockets) => sockets.connect(&server, request.endpoint, request.service),
                    None => server.refuse_socket(request.endpoint, request.service),
                }
            }
            None => {}
        }
        Ok(())
    }

    fn open(&self, device: &dyn Device, channel: Channel, request: &OpenChannel) {
        let line = Arc::clone(&channel.line);
        let status = match device.open(channel) {
            Ok(()) => protocol::STATUS_SUCCESS,
            Err(error) => {
                tracing::error!(relid = request.relid, %error, "device does not open its channel");
                protocol::STATUS_UNSUCCESSFUL
            }
        };
        self.with(|state| state.opened(request, &line, status));
    }

    /// A channel has been given back.
    pub(crate) fn released(&self, line: &Arc<Line>) {
        self.with(|state| state.released(line, self));
    }

    pub(crate) fn offer_subchannels(&self, primary: u32, count: u16) -> Result<(), OfferError> {
        self.with(|state| state.add_subchannels(primary, count))
    }

    pub(crate) fn pages_of(&self, gpadl: u32, relid: u32) -> Option<Box<[u64]>> {
        self.lock().pages_of(gpadl, relid).map(Into::into)
    }

    fn reset(&self) {
        self.with(|state| state.reset());
        let mut state = self.lock();
        while !state.is_idle() {
            state = self.idle.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}
