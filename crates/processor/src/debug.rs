//! What a debugger asks of a processor that is not in [`crate::Processor::run`].

use crate::{Error, StartRegisters};

/// The registers that a debugger shows, beyond those of [`StartRegisters`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DebugRegisters {
    /// General, segment and control registers.
    pub system: StartRegisters,
    /// CR2.
    pub cr2: u64,
    /// The task priority, CR8.
    pub cr8: u64,
    /// IA32_KERNEL_GS_BASE.
    pub kernel_gs_base: u64,
    /// x87 registers, from ST(0).
    pub st: [[u8; 10]; 8],
    /// x87 control word.
    pub fcw: u16,
    /// x87 status word.
    pub fsw: u16,
    /// x87 tags as FXSAVE has them: one bit for each physical register, 0 for an empty one.
    pub ftw: u8,
    /// x87 opcode.
    pub fop: u16,
    /// x87 instruction pointer.
    pub fip: u64,
    /// x87 data pointer.
    pub fdp: u64,
    /// XMM0–XMM15.
    pub xmm: [u128; 16],
    /// MXCSR.
    pub mxcsr: u32,
}

/// What a breakpoint waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BreakOn {
    /// The instruction at the address is about to be carried out.
    Execution,
    /// A write.
    Write,
    /// A read.
    Read,
    /// A read or a write.
    Access,
}

/// A debugger's breakpoint, which the guest does not see.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Breakpoint {
    /// What it waits for.
    pub on: BreakOn,
    /// Linear address, in any address space.
    pub address: u64,
    /// Bytes that are watched; for [`BreakOn::Execution`] it does not matter.
    pub length: u64,
}

/// How a debugger lets a processor go on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DebugControl {
    /// Come back after one instruction, or after the delivery of an exception that it raises. External
    /// interrupts wait meanwhile, unless the processor has halted: a debugger's user wants to see the next
    /// instruction and not an interrupt handler.
    pub step: bool,
    /// Come back at one of these.
    pub breakpoints: Vec<Breakpoint>,
}

/// Why a processor has come back to the debugger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DebugStop {
    /// One step is done.
    Step,
    /// This breakpoint has been hit. Of [`BreakOn::Execution`] ones the instruction has not been carried out; of
    /// the others it has.
    Breakpoint(Breakpoint),
}

/// A processor as a debugger sees it.
pub trait ProcessorDebug {
    /// All registers.
    fn registers(&mut self) -> DebugRegisters;
    /// Sets the general registers, RIP, RFLAGS, the bases of FS and GS, x87 and vector registers, CR2, CR8 and
    /// IA32_KERNEL_GS_BASE.
    ///
    /// # Errors
    /// When another register is to be changed, which the processor could not take in the middle of its work,
    /// or the host refuses.
    fn set_registers(&mut self, registers: &DebugRegisters) -> Result<(), Error>;
    /// The guest physical address of linear address `gva` in the present address space, whatever the rights of
    /// its page; `None` if it is not mapped. Changes nothing, accessed flags included.
    fn translate(&mut self, gva: u64) -> Option<u64>;
    /// How the next [`crate::Processor::run`] is to go.
    ///
    /// # Errors
    /// When the processor has no room for as many breakpoints; the former control stays then.
    fn control(&mut self, control: &DebugControl) -> Result<(), Error>;
}
