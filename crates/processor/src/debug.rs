//! What a debugger asks of a processor that is not in [`crate::Processor::run`].

use crate::{Error, StartRegisters, attribute, cr0, cr4, efer, flag, is_canonical};

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

impl DebugRegisters {
    /// Whether the processor can go from `before` to this at a debugger's wish.
    ///
    /// # Errors
    /// When it could not be in that state (SDM volume 3, 2.5 and 26.3; AMD64 APM volume 2, 15.5.1), or the privilege
    /// level or RFLAGS.VM would change.
    pub fn check(&self, before: &Self) -> Result<(), Error> {
        let (new, old) = (&self.system, &before.system);
        let long = long_mode(new);
        let code = new.segments[CS].attributes.0;
        let level = |registers: &StartRegisters| registers.segments[SS].attributes.0 >> 5 & 3;
        let bases = [new.segments[FS].base, new.segments[GS].base, self.kernel_gs_base];
        let canonical = |address: &u64| is_canonical(new.cr4, *address);
        let wrong = [
            ((new.rflags ^ old.rflags) & flag::VM != 0, "RFLAGS.VM cannot be set"),
            (new.cr0 & cr0::PG != 0 && new.cr0 & cr0::PE == 0, "paging needs protection (CR0.PG, CR0.PE)"),
            (new.cr0 & cr0::NW != 0 && new.cr0 & cr0::CD == 0, "CR0.NW needs CR0.CD"),
            (new.cr0 >> 32 != 0, "CR0 has 32 bits"),
            (long && new.cr4 & cr4::PAE == 0, "long mode needs CR4.PAE"),
            (!long && code & attribute::LONG != 0, "the code segment is one of long mode"),
            (
                long && code & attribute::LONG != 0 && code & attribute::DEFAULT_BIG != 0,
                "a code segment cannot have both L and D",
            ),
            (!long && new.rip >> 32 != 0, "RIP has 32 bits outside long mode"),
            (long && !canonical(&new.rip), "RIP is not canonical"),
            (!bases.iter().all(canonical), "a base is not canonical"),
            (new.cr0 & cr0::PE != 0 && level(new) != level(old), "the privilege level cannot be set"),
        ];
        wrong.iter().find(|(is, _)| *is).map_or(Ok(()), |(_, why)| Err(Error::Debug(why)))
    }

    /// Makes EFER.LMA what it is by EFER.LME and CR0.PG.
    pub fn settle_long_mode(&mut self) {
        let system = &mut self.system;
        system.efer &= !efer::LMA;
        if long_mode(system) {
            system.efer |= efer::LMA;
        }
    }
}

fn long_mode(registers: &StartRegisters) -> bool {
    registers.cr0 & cr0::PG != 0 && registers.efer & efer::LME != 0
}

const CS: usize = 1;
const SS: usize = 2;
const FS: usize = 4;
const GS: usize = 5;

/// What a breakpoint waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BreakOn {
    /// The instruction at the address is about to be carried out, whatever code there comes to be.
    Execution,
    /// The same, of the code that is there now: the processor may keep the breakpoint in the guest's memory while it
    /// runs.
    Code,
    /// A write.
    Write,
    /// A read.
    Read,
    /// A read or a write.
    Access,
}

impl BreakOn {
    /// Whether it waits for an instruction, and not for data.
    pub fn is_execution(self) -> bool {
        matches!(self, Self::Execution | Self::Code)
    }
}

/// A debugger's breakpoint, which the guest does not see.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Breakpoint {
    /// What it waits for.
    pub on: BreakOn,
    /// Linear address, in any address space.
    pub address: u64,
    /// Bytes of data that are watched; for code it does not matter.
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
    /// This breakpoint has been hit. Of those on code the instruction has not been carried out; of
    /// the others it has.
    Breakpoint(Breakpoint),
}

/// A processor as a debugger sees it.
pub trait ProcessorDebug {
    /// All registers.
    ///
    /// # Errors
    /// When the host does not tell them.
    fn registers(&mut self) -> Result<DebugRegisters, Error>;
    /// Sets all registers that [`Self::registers`] tells but IA32_PAT. Segments have their hidden parts with them;
    /// EFER.LMA follows from EFER.LME and CR0.PG, whatever is said.
    ///
    /// # Errors
    /// When the processor could not be in that state ([`DebugRegisters::check`] and what its model lacks), the
    /// privilege level or RFLAGS.VM would change, or the host refuses. Nothing has been changed then.
    fn set_registers(&mut self, registers: &DebugRegisters) -> Result<(), Error>;
    /// The guest physical address of linear address `gva` in the present address space, whatever the rights of
    /// its page; `None` if it is not mapped. Changes nothing, accessed flags included.
    ///
    /// # Errors
    /// When the host does not tell the address space.
    fn translate(&mut self, gva: u64) -> Result<Option<u64>, Error>;
    /// How the next [`crate::Processor::run`] is to go.
    ///
    /// # Errors
    /// When the processor has no room for as many breakpoints, or cannot wait for what one waits for; the former
    /// control stays then.
    fn control(&mut self, control: &DebugControl) -> Result<(), Error>;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn long() -> DebugRegisters {
        let mut registers = DebugRegisters::default();
        registers.system.cr0 = cr0::PG | cr0::PE;
        registers.system.cr4 = cr4::PAE;
        registers.system.efer = efer::LME | efer::LMA;
        registers.system.segments[CS].attributes.0 = 0x9b | attribute::LONG;
        registers
    }

    fn refusal(change: impl FnOnce(&mut DebugRegisters)) -> String {
        let mut new = long();
        change(&mut new);
        let text = new.check(&long()).expect_err("it is refused").to_string();
        text.rsplit_once(": ").map_or(text.clone(), |(_, why)| why.to_owned())
    }

    #[test]
    fn a_state_that_no_processor_can_be_in_is_refused() {
        assert!(long().check(&long()).is_ok());
        assert_eq!(refusal(|new| new.system.cr0 = cr0::PG), "paging needs protection (CR0.PG, CR0.PE)");
        assert_eq!(refusal(|new| new.system.cr0 |= cr0::NW), "CR0.NW needs CR0.CD");
        assert_eq!(refusal(|new| new.system.cr4 = 0), "long mode needs CR4.PAE");
        assert_eq!(refusal(|new| new.system.cr0 = cr0::PE), "the code segment is one of long mode");
        let both = "a code segment cannot have both L and D";
        assert_eq!(refusal(|new| new.system.segments[CS].attributes.0 |= attribute::DEFAULT_BIG), both);
        assert_eq!(refusal(|new| new.system.rip = 1 << 60), "RIP is not canonical");
        assert_eq!(refusal(|new| new.kernel_gs_base = 1 << 60), "a base is not canonical");
        let level = "the privilege level cannot be set";
        assert_eq!(refusal(|new| new.system.segments[SS].attributes.0 = 0xf3), level);
    }

    #[test]
    fn long_mode_follows_from_paging() {
        let mut registers = long();
        registers.system.cr0 = cr0::PE;
        registers.settle_long_mode();
        assert_eq!(registers.system.efer, efer::LME);
        registers.system.cr0 = cr0::PE | cr0::PG;
        registers.settle_long_mode();
        assert_eq!(registers.system.efer, efer::LME | efer::LMA);
    }
}
