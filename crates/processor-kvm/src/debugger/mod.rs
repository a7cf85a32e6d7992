//! A debugger's view of a processor of KVM (*Documentation/virt/kvm/api.rst*, KVM_SET_GUEST_DEBUG).
//!
//! Watched data and breakpoints are in the processor's debug registers ([`points`]), of which there are four. Breakpoints
//! in code that is there, beyond those, are INT3 in the guest's memory while the machine runs ([`patches`]).
//!
//! Quirks, which are KVM's: the guest's own debug registers do nothing while a debugger's are in use, and a step over
//! an instruction that faults goes through the guest's handler, for only the instruction's own end is trapped. While
//! one steps, the trap flag is set in what the guest pushes.

mod patches;
mod points;

use std::io;

use kvm_bindings::{
    KVM_GUESTDBG_BLOCKIRQ, KVM_GUESTDBG_ENABLE, KVM_GUESTDBG_SINGLESTEP, KVM_GUESTDBG_USE_HW_BP,
    KVM_GUESTDBG_USE_SW_BP, KVM_MP_STATE_HALTED, KVM_MP_STATE_RUNNABLE, kvm_guest_debug, kvm_mp_state,
    kvm_xsave,
};
use processor::{
    Breakpoint, DebugControl, DebugRegisters, DebugStop, Error, Exit, ProcessorDebug, StartRegisters,
    attribute, efer,
};
use vm_memory::{Bytes, GuestAddress};

use crate::partition::{Shared, failed, failed_errno};
use crate::vcpu::KvmProcessor;
use crate::{registers, sys};
pub use patches::Patches;
use points::Plan;

const KERNEL_GS_BASE: u32 = 0xc000_0102;
/// Vectors.
const DEBUG: u32 = 1;
const BREAKPOINT: u32 = 3;
/// DR6: a single step; breakpoints and everything else that is a reason for #DB.
const DR6_STEP: u64 = 1 << 14;
const DR6_REASONS: u64 = 0xe00f;
/// Bits of MXCSR that may be set.
const MXCSR_VALID: u32 = 0xffff;

/// What a debugger has asked for.
#[derive(Default)]
pub struct Debugger {
    control: DebugControl,
    plan: Plan,
}

impl Debugger {
    /// Whether one step is wanted.
    pub fn steps(&self) -> bool {
        self.control.step
    }

    fn at(&self, linear: u64) -> Option<Breakpoint> {
        let here = |point: &&Breakpoint| point.on.is_execution() && point.address == linear;
        self.control.breakpoints.iter().find(here).copied()
    }
}

fn linear_rip(system: &StartRegisters) -> u64 {
    let code = &system.segments[1];
    if system.efer & efer::LMA != 0 && code.attributes.0 & attribute::LONG != 0 {
        system.rip
    } else {
        code.base.wrapping_add(system.rip) & 0xffff_ffff
    }
}

/// Physical memory as the walk through page tables reads it.
fn read_word(shared: &Shared, gpa: u64) -> Option<u64> {
    shared.memory.read_obj(GuestAddress(gpa)).ok()
}

impl KvmProcessor {
    fn system(&self) -> Result<StartRegisters, Error> {
        self.registers().map_err(failed("asking KVM for a processor's registers"))
    }

    /// #BP or #DB that KVM does not give to the guest, at linear address `pc`.
    pub fn debug_exit(&mut self, exception: u32, pc: u64, dr6: u64) -> Result<(), Exit> {
        let stop = match exception {
            BREAKPOINT => self.debugger.at(pc).map(DebugStop::Breakpoint),
            _ => {
                let step = (self.debugger.steps() && dr6 & DR6_STEP != 0).then_some(DebugStop::Step);
                self.debugger.plan.hit(dr6).map(DebugStop::Breakpoint).or(step)
            }
        };
        match stop {
            Some(stop) => Err(Exit::Debug(stop)),
            None => self
                .give_to_guest(exception, dr6)
                .map_err(|error| self.failed("does not take back a debug exception", &error)),
        }
    }

    /// The guest's own breakpoint, watchpoint or single step.
    fn give_to_guest(&self, exception: u32, dr6: u64) -> io::Result<()> {
        let fd = self.fd();
        if exception == DEBUG {
            let mut registers = fd.get_debug_regs()?;
            registers.dr6 = registers.dr6 & !DR6_REASONS | dr6 & DR6_REASONS;
            fd.set_debug_regs(&registers)?;
        }
        let mut events = fd.get_vcpu_events()?;
        events.exception.injected = 1;
        events.exception.nr = exception as u8;
        events.exception.has_error_code = 0;
        fd.set_vcpu_events(&events)?;
        Ok(())
    }

    fn halted(&self) -> Result<bool, Error> {
        let state =
            self.fd().get_mp_state().map_err(failed_errno("asking KVM whether a processor has halted"))?;
        Ok(state.mp_state == KVM_MP_STATE_HALTED)
    }

    fn kernel_gs_base(&self) -> Result<u64, Error> {
        let value = crate::msr::get(self.fd(), KERNEL_GS_BASE).map_err(failed("asking KVM for an MSR"))?;
        value.ok_or(Error::Debug("KVM does not tell IA32_KERNEL_GS_BASE"))
    }

    fn xsave(&self) -> Result<kvm_xsave, Error> {
        self.fd().get_xsave().map_err(failed_errno("asking KVM for x87 and vector registers"))
    }

    fn set_system(&self, new: &DebugRegisters, old: &DebugRegisters) -> Result<(), Error> {
        let mut present =
            self.fd().get_sregs().map_err(failed_errno("asking KVM for a processor's registers"))?;
        let same = StartRegisters {
            rip: old.system.rip,
            rflags: old.system.rflags,
            general: old.system.general,
            ..new.system.clone()
        };
        if same == old.system && (new.cr2, new.cr8) == (old.cr2, old.cr8) {
            return Ok(());
        }
        (present.cr2, present.cr8) = (new.cr2, new.cr8);
        let system = registers::to_system(&new.system, present);
        let set = self.fd().set_sregs(&system);
        set.map_err(failed_errno("setting control and segment registers of a processor of KVM"))
    }
}

/// Words of an XSAVE area (SDM volume 1, 13.4): x87 registers, and which states are not in their initial form.
const ST: usize = 32 / 4;
const XMM: usize = 160 / 4;
const STATES: usize = 512 / 4;
const X87_AND_SSE: u32 = 3;

/// x87 and vector registers into `registers`.
fn from_xsave(xsave: &kvm_xsave, registers: &mut DebugRegisters) {
    let word = |at: usize| xsave.region[at];
    let wide = |at: usize| -> [u8; 16] {
        let words: [[u8; 4]; 4] = std::array::from_fn(|n| word(at + n).to_le_bytes());
        std::array::from_fn(|n| words[n / 4][n % 4])
    };
    let pair = |at: usize| u64::from(word(at)) | u64::from(word(at + 1)) << 32;
    (registers.fcw, registers.fsw) = (word(0) as u16, (word(0) >> 16) as u16);
    (registers.ftw, registers.fop) = (word(1) as u8, (word(1) >> 16) as u16);
    (registers.fip, registers.fdp, registers.mxcsr) = (pair(2), pair(4), word(6));
    registers.st = std::array::from_fn(|st| std::array::from_fn(|n| wide(ST + 4 * st)[n]));
    registers.xmm = std::array::from_fn(|index| u128::from_le_bytes(wide(XMM + 4 * index)));
}

/// x87 and vector registers of `registers` into `xsave`.
fn to_xsave(registers: &DebugRegisters, xsave: &mut kvm_xsave) {
    let region = &mut xsave.region;
    region[0] = u32::from(registers.fcw) | u32::from(registers.fsw) << 16;
    region[1] = u32::from(registers.ftw) | u32::from(registers.fop) << 16;
    for (at, value) in [(2, registers.fip), (4, registers.fdp)] {
        (region[at], region[at + 1]) = (value as u32, (value >> 32) as u32);
    }
    region[6] = registers.mxcsr & MXCSR_VALID;
    let mut put = |at: usize, value: u128| {
        (0..4).for_each(|n| region[at + n] = (value >> (32 * n)) as u32);
    };
    for (index, value) in registers.st.iter().enumerate() {
        let bytes = std::array::from_fn(|n| value.get(n).copied().unwrap_or(0));
        put(ST + 4 * index, u128::from_le_bytes(bytes));
    }
    registers.xmm.iter().enumerate().for_each(|(index, value)| put(XMM + 4 * index, *value));
    region[STATES] |= X87_AND_SSE;
}

impl ProcessorDebug for KvmProcessor {
    fn registers(&mut self) -> Result<DebugRegisters, Error> {
        let system = self.system()?;
        let present =
            self.fd().get_sregs().map_err(failed_errno("asking KVM for a processor's registers"))?;
        let mut registers = DebugRegisters {
            system,
            cr2: present.cr2,
            cr8: present.cr8,
            kernel_gs_base: self.kernel_gs_base()?,
            ..DebugRegisters::default()
        };
        from_xsave(&self.xsave()?, &mut registers);
        Ok(registers)
    }

    fn set_registers(&mut self, registers: &DebugRegisters) -> Result<(), Error> {
        let old = ProcessorDebug::registers(self)?;
        let mut new = registers.clone();
        new.system.pat = None;
        new.settle_long_mode();
        new.check(&old)?;
        // What may be refused goes first.
        self.set_system(&new, &old)?;
        let mut xsave = self.xsave()?;
        to_xsave(&new, &mut xsave);
        let fd = self.fd();
        fd.set_regs(&registers::to_general(&new.system))
            .map_err(failed_errno("setting registers of a processor of KVM"))?;
        sys::set_xsave(fd, &xsave)
            .map_err(failed("setting x87 and vector registers of a processor of KVM"))?;
        if new.kernel_gs_base != old.kernel_gs_base {
            let set = crate::msr::set(fd, &[(KERNEL_GS_BASE, new.kernel_gs_base)]);
            set.map_err(failed("setting IA32_KERNEL_GS_BASE of a processor of KVM"))?;
        }
        // It does not halt at a place to which it has not come by itself.
        if new.system.rip != old.system.rip && self.halted()? {
            let running = kvm_mp_state { mp_state: KVM_MP_STATE_RUNNABLE };
            self.fd().set_mp_state(running).map_err(failed_errno("waking a processor of KVM"))?;
        }
        Ok(())
    }

    fn translate(&mut self, gva: u64) -> Result<Option<u64>, Error> {
        Ok(processor::translate(&self.system()?, |gpa| read_word(&self.shared, gpa), gva))
    }

    fn control(&mut self, control: &DebugControl) -> Result<(), Error> {
        let system = self.system()?;
        let ram = |gva| processor::translate(&system, |gpa| read_word(&self.shared, gpa), gva);
        let in_ram = |gva| {
            let gpa = ram(gva).filter(|_| self.shared.traps_int3);
            gpa.filter(|gpa| self.shared.memory.read_obj::<u8>(GuestAddress(*gpa)).is_ok())
        };
        let here = linear_rip(&system);
        let passed = Some(here).filter(|_| control.step);
        let plan = Plan::new(&control.breakpoints, passed, in_ram)?;
        let mut flags = 0;
        if control.step {
            flags |= KVM_GUESTDBG_SINGLESTEP;
            if self.shared.can_block_interrupts && !self.halted()? {
                flags |= KVM_GUESTDBG_BLOCKIRQ;
            }
        }
        if !plan.registers.is_empty() {
            flags |= KVM_GUESTDBG_USE_HW_BP;
        }
        if plan.patched {
            flags |= KVM_GUESTDBG_USE_SW_BP;
        }
        if flags != 0 {
            flags |= KVM_GUESTDBG_ENABLE;
        }
        let mut debug = kvm_guest_debug { control: flags, ..kvm_guest_debug::default() };
        debug.arch.debugreg = plan.debug_registers();
        self.fd()
            .set_guest_debug(&debug)
            .map_err(failed_errno("setting breakpoints of a processor of KVM"))?;
        self.shared.patches.want(self.index, plan.patches.clone(), passed.and_then(in_ram));
        self.debugger = Debugger { control: control.clone(), plan };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn x87_and_vector_registers_come_back_as_they_went() {
        let mut registers = DebugRegisters {
            st: std::array::from_fn(|n| [n as u8; 10]),
            xmm: std::array::from_fn(|n| n as u128 * 3),
            fcw: 0x37f,
            fsw: 0x3800,
            ftw: 0x81,
            fop: 5,
            fip: 6,
            fdp: 7,
            mxcsr: 0x1f80,
            ..DebugRegisters::default()
        };
        let mut xsave = kvm_xsave::default();
        to_xsave(&registers, &mut xsave);
        let expected = registers.clone();
        registers = DebugRegisters::default();
        from_xsave(&xsave, &mut registers);
        assert_eq!(registers, expected);
    }
}
