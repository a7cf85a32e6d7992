//! NetVSP: the provider of synthetic network adapters.
//!
//! ```text
//!   hv_netvsc                                worker (one thread)            network::Port
//!   RNDIS messages in the send buffer or ───▶ frames, with what is left ───▶ send
//!     in pages of their own                   to be done (checksums, cuts)
//!   ◀── ranges of the receive buffer ──────── frames, finished ◀──────────── receive
//!       many in one packet, one interrupt
//! ```
//!
//! [`protocol`] is NVSP, which negotiates and lends buffers; [`rndis`] is what is in its messages.
//!
//! Not done: subchannels (one queue is offered), receive coalescing, and what chimney, VMQ, SR-IOV and PacketDirect are
//! about.

mod adapter;
mod buffers;
pub mod protocol;
pub mod rndis;
#[cfg(test)]
mod tests;
mod worker;

pub use adapter::{NetworkAdapter, NetworkSettings, network_instance};

/// Frames that the guest gets by one packet at the most.
const BATCH: usize = 32;
