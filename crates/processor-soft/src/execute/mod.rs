//! Decoding into blocks, and the integer instructions.

use crate::fault::Fault;
use crate::vcpu::Vcpu;

/// The decoded blocks of one processor.
pub struct Blocks {}

impl Blocks {
    /// No blocks.
    pub fn new() -> Self {
        Self {}
    }
}

impl Vcpu {
    /// Runs blocks until something needs the attention of the run loop ([`crate::run`]): an exception
    /// (`Err`, with RIP at the faulting instruction), a [`crate::op::Flow::Leave`], or an attention flag of
    /// this processor, which is looked at between blocks.
    pub fn execute(&mut self) -> Result<(), Fault> {
        todo!()
    }

    /// Carries out exactly one instruction (single step, interrupt shadow).
    pub fn execute_one(&mut self) -> Result<(), Fault> {
        todo!()
    }
}
