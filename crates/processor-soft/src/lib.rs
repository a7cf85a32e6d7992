//! The software processor: runs an unmodified x86-64 operating system without hardware virtualization.
//!
//! Tier 1 is the interpreter, in every mode of the processor; tier 2 the translator of 64-bit and
//! flat 32-bit code, which leaves the rest to it ([`translate`]). The way of an instruction through the
//! interpreter:
//!
//! ```text
//! fetch (memory) ─▶ decode (iced-x86) ─▶ Op list = Block, cached by guest physical address
//!                                          │
//!      execute::*    integer instructions, flags as the host computes them
//!      extension::*  x87 … AVX-512, AES, SHA: run natively by generated thunks
//!      system::*     control registers, descriptors, MSRs, interrupts, task switches
//!                                          │
//!      memory::*     segmentation ─▶ software TLB ─▶ RAM, or Bus for everything else
//! ```
//!
//! Specification: Intel 64 and IA-32 Architectures Software Developer's Manual (SDM), volumes 1 to 3.

mod address;
mod debugger;
#[cfg(test)]
mod differential;
mod execute;
mod extension;
mod fault;
mod lockstep;
mod memory;
mod op;
mod partition;
mod registers;
mod run;
mod system;
#[cfg(test)]
mod testing;
mod translate;
mod vcpu;

pub use partition::{SoftConfig, SoftPartition, Tier};
pub use translate::Inspection;
