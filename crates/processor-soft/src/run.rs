//! The run loop: delivers exceptions and interrupts, sleeps while the guest halts, runs blocks.

use processor::{Exit, Processor, StartRegisters};

use crate::vcpu::Vcpu;

/// A processor and its run loop.
pub struct SoftProcessor {
    vcpu: Box<Vcpu>,
}

impl SoftProcessor {
    pub fn new(vcpu: Vcpu) -> Self {
        Self { vcpu: Box::new(vcpu) }
    }
}

impl Processor for SoftProcessor {
    fn start_at(&mut self, _registers: &StartRegisters) {
        todo!()
    }

    fn run(&mut self) -> Exit {
        todo!()
    }

    fn describe(&self) -> String {
        todo!()
    }
}
