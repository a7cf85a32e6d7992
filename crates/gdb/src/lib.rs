//! GDB's remote serial protocol for a machine: every virtual processor is a thread of one process.
//!
//! ```text
//! gdb ◀─packets─▶ serve ─▶ Debuggee: registers, memory, resume, interrupt
//!                   ▲                    │
//!                   └────── Stop ────────┘
//! ```
//!
//! Specification: *Debugging with GDB*, appendix "GDB Remote Serial Protocol". The machine stops as a whole
//! (all-stop mode). Breakpoints of either kind, `Z0` and `Z1`, are linear addresses of which the guest sees
//! nothing. Not offered: non-stop mode, range stepping, reverse execution, file transfer, and setting control
//! and segment registers.
#![forbid(unsafe_code)]

mod debuggee;
#[cfg(any(test, feature = "fuzzing"))]
#[cfg_attr(not(test), allow(dead_code, reason = "what tests look at, the fuzz entry does not"))]
mod fake;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod registers;
mod serve;
mod target;
#[cfg(test)]
mod tests;

pub use debuggee::{Debuggee, Refused, Resume, Stop};
pub use serve::{Error, Stream, serve};
