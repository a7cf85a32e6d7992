//! The run loop: delivers exceptions and interrupts, sleeps while the guest halts, runs blocks.
