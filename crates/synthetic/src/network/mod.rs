//! NetVSP: the provider of synthetic network adapters.
//!
//! ```text
//!   hv_netvsc                                worker (one thread             network::Port
//!   RNDIS messages in the send buffer or       for each channel)
//!     in pages of their own             ───▶ frames, with what is left ───▶ send
//!                                              to be done (checksums, cuts)
//!   ◀── ranges of the receive buffer ──────── frames, finished, or TCP's ◀── a queue
//!       many in one packet, one interrupt       segments put together
//! ```
//!
//! [`protocol`] is NVSP, which negotiates and lends buffers; [`rndis`] is what is in its messages. A session is what the
//! channels of one driver share.
//!
//! Not done: what chimney, VMQ, SR-IOV and PacketDirect are about, and a send table other than the guest's own.

mod adapter;
mod buffers;
mod moderation;
pub mod protocol;
pub mod rndis;
mod session;
#[cfg(test)]
mod tests;
mod worker;

pub use adapter::{NetworkAdapter, NetworkSettings, network_instance};

/// Ranges of the receive buffer that the guest gets by one packet, and the last frame's beyond that.
const BATCH: usize = 32;
