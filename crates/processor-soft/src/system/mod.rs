//! Everything privileged: control registers, descriptors, interrupts, task switches, MSRs.
//!
//! ```text
//! prepare ─▶ control    CR, DR, GDTR, IDTR, TLB, TSC, CPUID      selectors  MOV Sreg, LAR, VERR …
//!            flags      CLI, STI, PUSHF, POPF                    far, iret  control transfers
//!            io         IN, OUT, INS, OUTS                       fast_call  SYSCALL, SYSENTER …
//!            msr, mtrr  RDMSR, WRMSR                             hypercall  VMCALL, VMMCALL
//! interrupt ─ delivery by IVT, IDT, task gate        descriptor, stack, task ─ what they are made of
//! ```
//!
//! Specification: SDM volumes 2 and 3. Not emulated: virtual-8086 mode extensions (VME, PVI), system
//! management mode, VMX, SVM, SMX, MONITOR and MWAIT, protection keys, shadow stacks.

mod control;
mod cpuid;
mod debug;
mod descriptor;
mod far;
pub mod fast_call;
mod flags;
mod hypercall;
mod interrupt;
mod io;
mod iret;
mod msr;
mod mtrr;
mod pack;
mod selectors;
mod software;
mod stack;
mod task;
#[cfg(test)]
mod tests;

use iced_x86::{Code, CodeSize, Instruction, Mnemonic, OpKind, Register};

use crate::op::{Handler, Op};
use crate::registers::Seg;
use crate::vcpu::Vcpu;

use pack::Packed;

pub use debug::dr6;
pub use interrupt::TripleFault;
pub use msr::{MsrState, UnknownMsrs};
pub use mtrr::Mtrr;
pub use pack::segment;

/// RIP of the instruction after `op`.
#[inline]
fn next(vcpu: &Vcpu, op: &Op) -> u64 {
    let next = op.next_rip(vcpu);
    if vcpu.code_64() { next } else { next & 0xffff_ffff }
}

/// Prepares a system instruction; false if it is none.
pub fn prepare(_vcpu: &mut Vcpu, instruction: &Instruction, op: &mut Op) -> bool {
    let instruction = &Decoded(instruction);
    let prepared = (instruction.transfer(op))
        .or_else(|| instruction.string_io(op))
        .or_else(|| instruction.selector(op))
        .or_else(|| instruction.table(op))
        .or_else(|| instruction.register(op))
        .or_else(|| instruction.plain());
    let Some((handler, packed)) = prepared else { return false };
    op.handler = handler;
    op.imm = packed.0;
    true
}

/// Number of a general register.
fn number(register: Register) -> u8 {
    register.full_register().number() as u8
}

/// An instruction, looked at group by group.
struct Decoded<'a>(&'a Instruction);

type Prepared = Option<(Handler, Packed)>;

impl Decoded<'_> {
    fn is_64(&self) -> bool {
        self.0.code_size() == CodeSize::Code64
    }

    fn operand_in_memory(&self, index: u32) -> bool {
        self.0.op_kind(index) == OpKind::Memory
    }

    /// Describes the r/m operand `index`.
    fn rm(&self, op: &mut Op, index: u32) -> Packed {
        let memory = self.operand_in_memory(index);
        let mut size = 2;
        if !memory {
            let register = self.0.op_register(index);
            op.rm = number(register);
            size = register.size() as u8;
        }
        Packed::new(size).in_memory(memory)
    }

    /// How many bytes the instruction pushes or pops.
    fn stack_size(&self) -> u8 {
        self.0.stack_pointer_increment().unsigned_abs() as u8
    }

    /// Far transfers, interrupts, flags.
    fn transfer(&self, op: &mut Op) -> Prepared {
        let far = |handler: Handler, size| Some((handler, Packed::new(size)));
        let drop = self.0.immediate16();
        match self.0.code() {
            Code::Jmp_ptr1616 | Code::Call_ptr1616 => {
                far::pack_direct(op, 2, self.0.far_branch_selector(), u32::from(self.0.far_branch16()));
                let jump = self.0.code() == Code::Jmp_ptr1616;
                Some((if jump { far::jump_direct } else { far::call_direct }, Packed(op.imm)))
            }
            Code::Jmp_ptr1632 | Code::Call_ptr1632 => {
                far::pack_direct(op, 4, self.0.far_branch_selector(), self.0.far_branch32());
                let jump = self.0.code() == Code::Jmp_ptr1632;
                Some((if jump { far::jump_direct } else { far::call_direct }, Packed(op.imm)))
            }
            Code::Jmp_m1616 => far(far::jump_indirect, 2),
            Code::Jmp_m1632 => far(far::jump_indirect, 4),
            Code::Jmp_m1664 => far(far::jump_indirect, 8),
            Code::Call_m1616 => far(far::call_indirect, 2),
            Code::Call_m1632 => far(far::call_indirect, 4),
            Code::Call_m1664 => far(far::call_indirect, 8),
            Code::Retfw => far(far::ret, 2),
            Code::Retfd => far(far::ret, 4),
            Code::Retfq => far(far::ret, 8),
            Code::Retfw_imm16 => Some((far::ret, Packed::new(2).with_value(drop.into()))),
            Code::Retfd_imm16 => Some((far::ret, Packed::new(4).with_value(drop.into()))),
            Code::Retfq_imm16 => Some((far::ret, Packed::new(8).with_value(drop.into()))),
            Code::Iretw => far(iret::iret, 2),
            Code::Iretd => far(iret::iret, 4),
            Code::Iretq => far(iret::iret, 8),
            Code::Int_imm8 => Some((software::int, Packed::new(0).with_value(self.0.immediate8().into()))),
            Code::Int3 => far(software::int3, 0),
            Code::Into => far(software::into, 0),
            Code::Int1 => far(software::int1, 0),
            Code::Sysretd | Code::Sysexitd => {
                let exit = self.0.code() == Code::Sysexitd;
                far(if exit { fast_call::sysexit } else { fast_call::sysret }, 4)
            }
            Code::Sysretq => far(fast_call::sysret, 8),
            Code::Sysexitq => far(fast_call::sysexit, 8),
            Code::Pushfw => far(flags::pushf, 2),
            Code::Pushfd => far(flags::pushf, 4),
            Code::Pushfq => far(flags::pushf, 8),
            Code::Popfw => far(flags::popf, 2),
            Code::Popfd => far(flags::popf, 4),
            Code::Popfq => far(flags::popf, 8),
            _ => None,
        }
    }

    /// INS and OUTS.
    fn string_io(&self, op: &mut Op) -> Prepared {
        let (handler, operand): (Handler, u32) = match self.0.mnemonic() {
            Mnemonic::Insb | Mnemonic::Insw | Mnemonic::Insd => (io::input_string, 0),
            Mnemonic::Outsb | Mnemonic::Outsw | Mnemonic::Outsd => (io::output_string, 1),
            _ => return None,
        };
        let size = match self.0.mnemonic() {
            Mnemonic::Insb | Mnemonic::Outsb => 1,
            Mnemonic::Insw | Mnemonic::Outsw => 2,
            _ => 4,
        };
        let (address, seg) = match self.0.op_kind(operand) {
            OpKind::MemoryESDI => (1, Seg::Es),
            OpKind::MemoryESEDI => (2, Seg::Es),
            OpKind::MemoryESRDI => (3, Seg::Es),
            OpKind::MemorySegSI => (1, self.segment()),
            OpKind::MemorySegESI => (2, self.segment()),
            _ => (3, self.segment()),
        };
        op.seg = io::string_segment(seg, self.is_64());
        let repeated = self.0.has_rep_prefix() || self.0.has_repne_prefix();
        let number = address | if repeated { io::string::REPEATED } else { 0 };
        let length = self.0.len() as u32;
        Some((handler, Packed::new(size).with_number(number).with_value(length)))
    }

    fn segment(&self) -> Seg {
        pack::segment(self.0.memory_segment().number())
    }

    /// Instructions on segment registers and selectors.
    fn selector(&self, op: &mut Op) -> Prepared {
        let code = self.0.code();
        let pointer = |op: &mut Op, seg: u8| {
            let register = self.0.op0_register();
            op.reg = number(register);
            let packed = Packed::new(register.size() as u8).with_number(seg);
            Some((selectors::load_pointer as Handler, packed))
        };
        match self.0.mnemonic() {
            Mnemonic::Mov if self.0.op1_register().is_segment_register() => {
                let seg = self.0.op1_register().number() as u8;
                Some((selectors::mov_from, self.rm(op, 0).with_number(seg)))
            }
            Mnemonic::Mov if self.0.op0_register().is_segment_register() => {
                let seg = self.0.op0_register();
                let packed = self.rm(op, 1).with_number(seg.number() as u8);
                (seg != Register::CS).then_some((selectors::mov_to, packed))
            }
            Mnemonic::Push | Mnemonic::Pop if self.0.op0_register().is_segment_register() => {
                let seg = self.0.op0_register().number() as u8;
                let packed = Packed::new(self.stack_size()).with_number(seg);
                let push = self.0.mnemonic() == Mnemonic::Push;
                Some((if push { selectors::push } else { selectors::pop }, packed))
            }
            Mnemonic::Les => pointer(op, Seg::Es as u8),
            Mnemonic::Lss => pointer(op, Seg::Ss as u8),
            Mnemonic::Lds => pointer(op, Seg::Ds as u8),
            Mnemonic::Lfs => pointer(op, Seg::Fs as u8),
            Mnemonic::Lgs => pointer(op, Seg::Gs as u8),
            Mnemonic::Lar | Mnemonic::Lsl => {
                let handler: Handler =
                    if self.0.mnemonic() == Mnemonic::Lar { selectors::lar } else { selectors::lsl };
                let register = self.0.op0_register();
                op.reg = number(register);
                let memory = self.rm(op, 1).memory();
                Some((handler, Packed::new(register.size() as u8).in_memory(memory)))
            }
            Mnemonic::Verr => Some((selectors::verify, self.rm(op, 0))),
            Mnemonic::Verw => Some((selectors::verify, self.rm(op, 0).with_number(1))),
            Mnemonic::Arpl if matches!(code, Code::Arpl_rm16_r16 | Code::Arpl_r32m16_r32) => {
                op.reg = number(self.0.op1_register());
                Some((selectors::arpl, self.rm(op, 0)))
            }
            _ => None,
        }
    }

    /// Descriptor-table registers, the task register, the machine status word.
    fn table(&self, op: &mut Op) -> Prepared {
        let table = |handler: Handler, size, number| Some((handler, Packed::new(size).with_number(number)));
        match self.0.code() {
            Code::Lgdt_m1632_16 => table(control::load_table, 2, 0),
            Code::Lgdt_m1632 => table(control::load_table, 4, 0),
            Code::Lgdt_m1664 => table(control::load_table, 8, 0),
            Code::Lidt_m1632_16 => table(control::load_table, 2, 1),
            Code::Lidt_m1632 => table(control::load_table, 4, 1),
            Code::Lidt_m1664 => table(control::load_table, 8, 1),
            Code::Sgdt_m1632_16 | Code::Sgdt_m1632 => table(control::store_table, 4, 0),
            Code::Sgdt_m1664 => table(control::store_table, 8, 0),
            Code::Sidt_m1632_16 | Code::Sidt_m1632 => table(control::store_table, 4, 1),
            Code::Sidt_m1664 => table(control::store_table, 8, 1),
            _ => match self.0.mnemonic() {
                Mnemonic::Lldt => Some((control::lldt, self.rm(op, 0))),
                Mnemonic::Ltr => Some((control::ltr, self.rm(op, 0))),
                Mnemonic::Sldt => Some((control::sldt, self.rm(op, 0))),
                Mnemonic::Str => Some((control::str, self.rm(op, 0))),
                Mnemonic::Lmsw => Some((control::lmsw, self.rm(op, 0))),
                Mnemonic::Smsw => Some((control::smsw, self.rm(op, 0))),
                Mnemonic::Invlpg => Some((control::invlpg, Packed::new(0))),
                Mnemonic::Invpcid => {
                    op.reg = number(self.0.op0_register());
                    Some((control::invpcid, Packed::new(0)))
                }
                _ => None,
            },
        }
    }

    /// Control and debug registers, segment bases, IN, OUT.
    fn register(&self, op: &mut Op) -> Prepared {
        let size = if self.is_64() { 8 } else { 4 };
        let base = |op: &mut Op, handler: Handler, seg| {
            let register = self.0.op0_register();
            op.rm = number(register);
            Some((handler, Packed::new(register.size() as u8).with_number(seg)))
        };
        match self.0.mnemonic() {
            Mnemonic::Mov => {
                let (first, second) = (self.0.op0_register(), self.0.op1_register());
                let (handler, special, general): (Handler, _, _) = if second.is_cr() {
                    (control::mov_from_control, second, first)
                } else if first.is_cr() {
                    (control::mov_to_control, first, second)
                } else if second.is_dr() {
                    (control::mov_from_debug, second, first)
                } else if first.is_dr() {
                    (control::mov_to_debug, first, second)
                } else {
                    return None;
                };
                op.rm = number(general);
                Some((handler, Packed::new(size).with_number(special.number() as u8)))
            }
            Mnemonic::Rdfsbase => base(op, control::read_base, Seg::Fs as u8),
            Mnemonic::Rdgsbase => base(op, control::read_base, Seg::Gs as u8),
            Mnemonic::Wrfsbase => base(op, control::write_base, Seg::Fs as u8),
            Mnemonic::Wrgsbase => base(op, control::write_base, Seg::Gs as u8),
            Mnemonic::Rdpid => base(op, control::rdpid, 0),
            Mnemonic::In => {
                let size = self.0.op0_register().size() as u8;
                Some((io::input, self.port(1, size)))
            }
            Mnemonic::Out => {
                let size = self.0.op1_register().size() as u8;
                Some((io::output, self.port(0, size)))
            }
            _ => None,
        }
    }

    fn port(&self, operand: u32, size: u8) -> Packed {
        if self.0.op_kind(operand) == OpKind::Register {
            Packed::new(size).in_memory(true)
        } else {
            Packed::new(size).with_value(self.0.immediate8().into())
        }
    }

    /// Instructions whose operands, if any, are fixed.
    fn plain(&self) -> Prepared {
        let (handler, number): (Handler, u8) = match self.0.mnemonic() {
            Mnemonic::Clts => (control::clts, 0),
            Mnemonic::Invd | Mnemonic::Wbinvd | Mnemonic::Wbnoinvd => (control::cache, 0),
            Mnemonic::Hlt => (control::hlt, 0),
            Mnemonic::Cli => (flags::cli, 0),
            Mnemonic::Sti => (flags::sti, 0),
            Mnemonic::Stac => (flags::access_check, 0),
            Mnemonic::Clac => (flags::access_check, 1),
            Mnemonic::Syscall => (fast_call::syscall, 0),
            Mnemonic::Sysenter => (fast_call::sysenter, 0),
            Mnemonic::Swapgs => (fast_call::swapgs, 0),
            Mnemonic::Rdmsr => (msr::rdmsr, 0),
            Mnemonic::Wrmsr => (msr::wrmsr, 0),
            Mnemonic::Rdtsc => (control::rdtsc, 0),
            Mnemonic::Rdtscp => (control::rdtsc, 1),
            Mnemonic::Rdpmc => (control::rdpmc, 0),
            Mnemonic::Cpuid => (control::cpuid, 0),
            Mnemonic::Pause => (control::pause, 0),
            Mnemonic::Vmcall | Mnemonic::Vmmcall => (hypercall::hypercall, 0),
            _ => return None,
        };
        // The length, for instructions that may be carried out again.
        let length = self.0.len() as u32;
        Some((handler, Packed::new(0).with_number(number).with_value(length)))
    }
}
