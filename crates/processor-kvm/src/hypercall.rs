//! A hypercall that KVM leaves to us, as its caller's registers. KVM has checked mode and privilege level, and
//! brought the parameters of 32-bit callers into the form of 64-bit ones.

use processor::{GeneralRegister, HypercallContext, StartRegisters};

/// Registers of a hypercall.
pub struct Context<'a> {
    pub input: u64,
    pub parameters: [u64; 2],
    /// RAX, when it has been carried out.
    pub result: u64,
    /// All registers, if they are asked for.
    pub registers: &'a dyn Fn() -> StartRegisters,
}

impl HypercallContext for Context<'_> {
    fn long_mode(&self) -> bool {
        true
    }

    fn privilege_level(&self) -> u8 {
        0
    }

    fn protected_mode(&self) -> bool {
        true
    }

    fn register(&self, register: GeneralRegister) -> u64 {
        match register {
            GeneralRegister::Rcx => self.input,
            GeneralRegister::Rdx => self.parameters[0],
            GeneralRegister::R8 => self.parameters[1],
            GeneralRegister::Rax => self.result,
            other => (self.registers)().general[other as usize],
        }
    }

    fn set_register(&mut self, register: GeneralRegister, value: u64) {
        match register {
            GeneralRegister::Rax => self.result = value,
            // A result value is all that KVM takes; no call that it leaves to us has output in registers.
            other => tracing::error!(?other, "a hypercall's output in a register is lost"),
        }
    }

    fn xmm(&self, index: usize) -> u128 {
        tracing::error!(index, "a hypercall's input in an XMM register is not to be had");
        0
    }

    fn set_xmm(&mut self, index: usize, _value: u128) {
        tracing::error!(index, "a hypercall's output in an XMM register is lost");
    }

    fn snapshot(&self) -> StartRegisters {
        (self.registers)()
    }
}
