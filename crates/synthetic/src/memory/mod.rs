//! Dynamic memory: the guest gives pages back that it does not need, gets them again, and more than it started with.
//!
//! ```text
//!   hv_balloon                     worker (one thread)
//!   STATUS_REPORT, every second ─▶ policy: what the guest needs ─▶ target
//!   ◀─ BALLOON_REQUEST             balloon: which pages the guest has given
//!   BALLOON_RESPONSE, ranges ────▶   └─▶ the host's memory behind them is free
//!   ◀─ UNBALLOON_REQUEST, ranges
//!   ◀─ HOT_ADD_REQUEST, range        more: the machine's processors have it from now on
//!   HOT_ADD_RESPONSE, pages
//! ```
//!
//! A guest that needs more within a second than it has left and a fifth of what it needs runs out of memory: the host
//! does not know before the guest's next report.
//!
//! Specification: none is public. Linux `drivers/hv/hv_balloon.c`; protocols 0.3, 1.0 and 2.0.
//!
//! A guest that has memory added and does not put it to use (Linux leaves that to a rule of udev or
//! `memhp_default_state=online`) counts it as needed, so that it gets all there is.
//!
//! Not done: hints about pages that are free anyway.

mod balloon;
pub mod protocol;
#[cfg(test)]
mod tests;
mod worker;

pub use worker::{DynamicMemory, MemorySettings, MoreMemory, Provider};
