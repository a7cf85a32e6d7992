//! VMBus: the channels by which a guest's synthetic device drivers talk to their providers (VSPs).
//!
//! ```text
//!   guest                                    host
//!   hv_vmbus ── PostMessage ──▶ Server::message ─┐   offers, GPADLs, open, close …  (protocol, server)
//!            ◀── SynIC message ── Synic ─────────┤
//!   driver   ── SignalEvent ──▶ Server::event ───┼─▶ doorbell of the channel
//!            ◀── SynIC event ─── Channel::interrupt
//!            ◀═══ rings in guest memory ════════▶ Device's event loop               (ring)
//! ```
//!
//! A [`Device`] is offered to the guest by the [`Server`]. When the guest opens the device's channel, the
//! device gets a [`Channel`]: two [`ring`]s, a doorbell (an eventfd for its event loop) and the interrupt
//! to the guest. It gives the channel back by dropping it, after the guest or the server has asked for it.
//!
//! Not done: protocols before 2.4 (interrupts by a shared page), monitor pages (every offer says that none
//! is allocated, so that guests signal by a dedicated connection instead), trust levels other than 0.

mod channel;
mod device;
mod guid;
#[cfg(any(test, feature = "loopback"))]
pub mod loopback;
pub mod protocol;
pub mod ring;
mod server;

pub use channel::Channel;
pub use device::{Device, Offer, OpenError};
pub use doorbell::Doorbell;
pub use guid::Guid;
pub use server::{Busy, OfferError, Server, Settings, Sockets, Synic, UnknownConnection};
