//! Dynamic memory: the guest gives pages back that it does not need, and gets them again.
//!
//! ```text
//!   hv_balloon                     worker (one thread)
//!   STATUS_REPORT, every second ─▶ policy: what the guest needs ─▶ target
//!   ◀─ BALLOON_REQUEST             balloon: which pages the guest has given
//!   BALLOON_RESPONSE, ranges ────▶   └─▶ the host's memory behind them is free
//!   ◀─ UNBALLOON_REQUEST, ranges
//! ```
//!
//! A guest that needs more within a second than it has left and a fifth of what it needs runs out of memory: the host
//! does not know before the guest's next report.
//!
//! Specification: none is public. Linux `drivers/hv/hv_balloon.c`; protocols 0.3, 1.0 and 2.0.
//!
//! Not done: adding memory that the machine did not start with, hints about pages that are free anyway.

mod balloon;
pub mod protocol;
#[cfg(test)]
mod tests;
mod worker;

pub use worker::{DynamicMemory, MemorySettings, Provider};
