//! Networks of machines.
//!
//! ```text
//!   NIC ── Port::send ──▶ Switch ──▶ inbox of a port ──▶ Port::receive ── NIC
//!                         learns where MAC addresses are
//! ```
//!
//! A [`Switch`] carries [`Frame`]s between its [`Port`]s, as a switch of wires does: to the port where the destination
//! has been seen, else to all. [`PortSettings`] say what a port lets through. A NIC of a guest has a port; so has what leads out of the network: [`nat`], [`tap`].
#![forbid(unsafe_code)]

mod capture;
mod frame;
mod guard;
mod limit;
pub mod nat;
mod offload;
mod port;
mod steering;
mod switch;
pub mod tap;

pub use capture::Capture;
pub use frame::{Checksum, Frame, HEADER, Mac, Segments, TcpOver};
pub use guard::Guards;
pub use limit::RateLimit;
pub use port::{Port, PortSettings, Queue, Sent, Sink};
pub use steering::{KEY as STEERING_KEY, Steering};
pub use switch::Switch;
