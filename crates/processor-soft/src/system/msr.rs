//! Model-specific registers (SDM volume 4; AMD64 manual volume 2, appendix A).
//!
//! Not offered, hence #GP: performance counters, branch records, debug control, power and thermal control,
//! microcode update, VMX and SVM. Caches need no control: MTRR, PAT and speculation control are kept and
//! checked, without effect.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use clock::Clock;
use processor::MsrOutcome;

use super::mtrr::Mtrr;
use super::next;
use crate::extension::Host;
use crate::fault::Fault;
use crate::op::{Flow, Op};
use crate::registers::{Seg, cr0, efer, gpr};
use crate::vcpu::Vcpu;

/// MSR numbers.
mod number {
    use std::ops::RangeInclusive;

    pub const TSC: u32 = 0x10;
    pub const PLATFORM_ID: u32 = 0x17;
    pub const APIC_BASE: u32 = 0x1b;
    pub const TSC_ADJUST: u32 = 0x3b;
    pub const SPEC_CTRL: u32 = 0x48;
    pub const PRED_CMD: u32 = 0x49;
    pub const BIOS_SIGN_ID: u32 = 0x8b;
    pub const MTRR_CAP: u32 = 0xfe;
    pub const ARCH_CAPABILITIES: u32 = 0x10a;
    pub const SYSENTER_CS: u32 = 0x174;
    pub const SYSENTER_ESP: u32 = 0x175;
    pub const SYSENTER_EIP: u32 = 0x176;
    pub const MCG_CAP: u32 = 0x179;
    pub const MCG_STATUS: u32 = 0x17a;
    pub const MISC_ENABLE: u32 = 0x1a0;
    pub const PAT: u32 = 0x277;
    pub const MTRRS: RangeInclusive<u32> = 0x200..=0x2ff;
    pub const MACHINE_CHECK: RangeInclusive<u32> = 0x400..=0x40f;
    pub const TSC_DEADLINE: u32 = 0x6e0;
    pub const X2APIC: RangeInclusive<u32> = 0x800..=0x8ff;
    pub const XSS: u32 = 0xda0;
    pub const HYPERVISOR: RangeInclusive<u32> = 0x4000_0000..=0x4fff_ffff;
    pub const EFER: u32 = 0xc000_0080;
    pub const STAR: u32 = 0xc000_0081;
    pub const LSTAR: u32 = 0xc000_0082;
    pub const CSTAR: u32 = 0xc000_0083;
    pub const FMASK: u32 = 0xc000_0084;
    pub const FS_BASE: u32 = 0xc000_0100;
    pub const GS_BASE: u32 = 0xc000_0101;
    pub const KERNEL_GS_BASE: u32 = 0xc000_0102;
    pub const TSC_AUX: u32 = 0xc000_0103;
    pub const AMD_SYSCFG: u32 = 0xc001_0010;
    pub const AMD_HWCR: u32 = 0xc001_0015;
    pub const AMD_TOP_MEM: u32 = 0xc001_001a;
    pub const AMD_TOP_MEM2: u32 = 0xc001_001d;
    pub const AMD_NB_CFG: u32 = 0xc001_001f;
    pub const AMD_INTERRUPT_PENDING: u32 = 0xc001_0055;
    pub const AMD_DE_CFG: u32 = 0xc001_1029;

    /// Registers that operating systems try on any processor, to see whether they are there: SMI count,
    /// feature control, platform information, MISC_FEATURE_ENABLES, PPERF, and DE_CFG where it is not AMD's.
    pub const ABSENT: [u32; 6] = [0x34, 0x3a, 0xce, 0x140, 0x64e, AMD_DE_CFG];
}

/// Machine-check banks: control, status, address and miscellaneous register each.
const BANKS: usize = 4;
/// IA32_ARCH_CAPABILITIES: not vulnerable to RDCL, SSB, MDS, page-size change, TAA, SBDR/SSDP, FBSDP, PSDP,
/// BHI, PBRSB, GDS, RFDS, ITS; enhanced IBRS; no L1D flush needed. Processors of AMD say the like in CPUID.
///
/// What a guest does against the speculation of a processor of its own (retpolines, returns by way of a thunk, VERW,
/// barriers at each system call) has no effect here: its branches are not the host's branches, and the code for
/// its accesses has branches that it does not know of. So it is told that there is nothing to guard, and does not
/// pay for what would not guard it.
const ARCH_CAPABILITIES: u64 =
    1 | 1 << 1 | 0b1111 << 3 | 1 << 8 | 0b111 << 13 | 1 << 20 | 1 << 24 | 1 << 26 | 1 << 27 | 1 << 62;
/// IBRS, STIBP, SSBD, BHI_DIS_S.
const SPEC_CTRL: u64 = 0b111 | 1 << 10;
/// Fast strings; no branch trace store, no precise event sampling.
const MISC_ENABLE: u64 = 1 | 1 << 11 | 1 << 12;
/// Revision 1 in the upper half.
const MICROCODE: u64 = 1 << 32;
/// PAT after reset.
const PAT: u64 = 0x0007_0406_0007_0406;
/// HWCR bits that software may set: SmmLock, TscFreqSel, McStatusWrEn, IRPerfEn and MonMwaitUserEn are not
/// among them but for TscFreqSel, which is fixed.
const AMD_HWCR_FIXED: u64 = 1 << 24;
/// Unknown MSRs that are told of.
const TOLD: usize = 128;

/// The processor's own MSRs.
pub struct MsrState {
    pub star: u64,
    pub lstar: u64,
    pub cstar: u64,
    pub fmask: u64,
    pub kernel_gs_base: u64,
    pub sysenter_cs: u64,
    pub sysenter_esp: u64,
    pub sysenter_eip: u64,
    pub tsc_aux: u32,
    /// Guest's TSC minus the machine's.
    pub tsc_offset: u64,
    tsc_adjust: u64,
    pub pat: u64,
    pub mtrr: Mtrr,
    spec_ctrl: u64,
    misc_enable: u64,
    mcg_status: u64,
    bank_control: [u64; BANKS],
    de_cfg: u64,
}

impl MsrState {
    /// As after power-on.
    pub fn new() -> Self {
        Self {
            star: 0,
            lstar: 0,
            cstar: 0,
            fmask: 0,
            kernel_gs_base: 0,
            sysenter_cs: 0,
            sysenter_esp: 0,
            sysenter_eip: 0,
            tsc_aux: 0,
            tsc_offset: 0,
            tsc_adjust: 0,
            pat: PAT,
            mtrr: Mtrr::default(),
            spec_ctrl: 0,
            misc_enable: MISC_ENABLE,
            mcg_status: 0,
            bank_control: [0; BANKS],
            // LFENCE serialises.
            de_cfg: 1 << 1,
        }
    }

    /// As after a reset; INIT keeps them.
    pub fn reset(&mut self, init: bool) {
        if !init {
            *self = Self::new();
        }
    }

    /// Whether the processor is of AMD's kind.
    #[inline]
    pub fn amd(&self) -> bool {
        Host::get().amd
    }
}

/// An MSR access that raises #GP.
pub struct Refused;

/// The unknown MSRs that guests have tried, so that each is told of once.
#[derive(Default)]
pub struct UnknownMsrs(Mutex<HashSet<u32>>);

impl UnknownMsrs {
    fn tell(&self, number: u32, operation: &str) {
        if number::ABSENT.contains(&number) {
            tracing::debug!("{operation} of MSR {number:#x}, which is not offered, raises #GP");
            return;
        }
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if told.len() < TOLD && told.insert(number) {
            tracing::warn!("{operation} of MSR {number:#x}, which does not exist, raises #GP");
        }
    }
}

impl Vcpu {
    /// The guest's TSC.
    #[inline]
    pub fn tsc(&self) -> u64 {
        self.shared.clock.tsc().wrapping_add(self.msrs.tsc_offset)
    }

    fn read_own_msr(&mut self, number: u32) -> Result<u64, Refused> {
        let msrs = &mut self.msrs;
        Ok(match number {
            number::TSC => self.tsc(),
            number::TSC_ADJUST => msrs.tsc_adjust,
            number::PLATFORM_ID if !msrs.amd() => 0,
            number::APIC_BASE => self.apic.base(),
            number::SPEC_CTRL => msrs.spec_ctrl,
            number::BIOS_SIGN_ID => MICROCODE,
            number::ARCH_CAPABILITIES if !msrs.amd() => ARCH_CAPABILITIES,
            number::MISC_ENABLE if !msrs.amd() => msrs.misc_enable,
            number::SYSENTER_CS => msrs.sysenter_cs,
            number::SYSENTER_ESP => msrs.sysenter_esp,
            number::SYSENTER_EIP => msrs.sysenter_eip,
            number::MCG_CAP => BANKS as u64,
            number::MCG_STATUS => msrs.mcg_status,
            number::PAT => msrs.pat,
            number::MTRR_CAP => Mtrr::CAPABILITIES,
            number if number::MTRRS.contains(&number) => msrs.mtrr.read(number).ok_or(Refused)?,
            number if number::MACHINE_CHECK.contains(&number) => {
                let index = number - number::MACHINE_CHECK.start();
                // There are no machine checks: status, address and miscellaneous information are 0.
                if index.is_multiple_of(4) { msrs.bank_control[(index / 4) as usize % BANKS] } else { 0 }
            }
            // The APIC's timer goes by the machine's TSC.
            number::TSC_DEADLINE => match self.apic.tsc_deadline() {
                0 => 0,
                deadline => deadline.wrapping_add(msrs.tsc_offset).max(1),
            },
            number if number::X2APIC.contains(&number) => self.apic.read_msr(number).map_err(|_| Refused)?,
            number::XSS => 0,
            number::EFER => self.efer,
            number::STAR => msrs.star,
            number::LSTAR => msrs.lstar,
            number::CSTAR => msrs.cstar,
            number::FMASK => msrs.fmask,
            number::FS_BASE => self.segments[Seg::Fs as usize].base,
            number::GS_BASE => self.segments[Seg::Gs as usize].base,
            number::KERNEL_GS_BASE => msrs.kernel_gs_base,
            number::TSC_AUX => u64::from(msrs.tsc_aux),
            number::AMD_HWCR if msrs.amd() => AMD_HWCR_FIXED,
            number::AMD_DE_CFG if msrs.amd() => msrs.de_cfg,
            number::AMD_SYSCFG
            | number::AMD_TOP_MEM
            | number::AMD_TOP_MEM2
            | number::AMD_NB_CFG
            | number::AMD_INTERRUPT_PENDING
                if msrs.amd() =>
            {
                0
            }
            _ => {
                self.shared.unknown_msrs.tell(number, "read");
                return Err(Refused);
            }
        })
    }

    fn canonical_or_refused(&self, value: u64) -> Result<u64, Refused> {
        if self.canonical(value) { Ok(value) } else { Err(Refused) }
    }

    fn write_own_msr(&mut self, number: u32, value: u64) -> Result<(), Refused> {
        let physical_bits = self.mmu.physical_bits;
        let require = |good: bool| if good { Ok(()) } else { Err(Refused) };
        match number {
            number::TSC => {
                let change = value.wrapping_sub(self.tsc());
                self.shift_tsc(change);
            }
            number::TSC_ADJUST => self.shift_tsc(value.wrapping_sub(self.msrs.tsc_adjust)),
            number::APIC_BASE => {
                self.apic.set_base(value).map_err(|_| Refused)?;
                self.apic_changed();
            }
            number::SPEC_CTRL => {
                require(value & !SPEC_CTRL == 0)?;
                self.msrs.spec_ctrl = value;
            }
            number::PRED_CMD => require(value & !1 == 0)?,
            // Written with 0 before CPUID fills in the revision.
            number::BIOS_SIGN_ID => require(value == 0)?,
            number::MISC_ENABLE if !self.msrs.amd() => {
                require(value & !MISC_ENABLE == 0)?;
                self.msrs.misc_enable = value;
            }
            number::SYSENTER_CS => self.msrs.sysenter_cs = value & 0xffff_ffff,
            number::SYSENTER_ESP => self.msrs.sysenter_esp = self.canonical_or_refused(value)?,
            number::SYSENTER_EIP => self.msrs.sysenter_eip = self.canonical_or_refused(value)?,
            number::MCG_STATUS => {
                require(value & !0b111 == 0)?;
                self.msrs.mcg_status = value;
            }
            number::PAT => {
                require(value.to_le_bytes().iter().all(|kind| matches!(kind, 0 | 1 | 4..=7)))?;
                self.msrs.pat = value;
            }
            number if number::MTRRS.contains(&number) => {
                require(self.msrs.mtrr.write(number, value, physical_bits))?;
            }
            number if number::MACHINE_CHECK.contains(&number) => {
                let index = number - number::MACHINE_CHECK.start();
                if index.is_multiple_of(4) {
                    self.msrs.bank_control[(index / 4) as usize % BANKS] = value;
                } else {
                    require(value == 0)?;
                }
            }
            number::TSC_DEADLINE => {
                let deadline = match value {
                    0 => 0,
                    value => value.wrapping_sub(self.msrs.tsc_offset).max(1),
                };
                self.apic.set_tsc_deadline(deadline);
            }
            number if number::X2APIC.contains(&number) => {
                self.apic.write_msr(number, value).map_err(|_| Refused)?;
            }
            number::XSS => require(value == 0)?,
            number::EFER => self.write_efer(value)?,
            number::STAR => self.msrs.star = value,
            number::LSTAR => self.msrs.lstar = self.canonical_or_refused(value)?,
            number::CSTAR => self.msrs.cstar = self.canonical_or_refused(value)?,
            number::FMASK => {
                require(value >> 32 == 0)?;
                self.msrs.fmask = value;
            }
            number::FS_BASE => self.segments[Seg::Fs as usize].base = self.canonical_or_refused(value)?,
            number::GS_BASE => self.segments[Seg::Gs as usize].base = self.canonical_or_refused(value)?,
            number::KERNEL_GS_BASE => self.msrs.kernel_gs_base = self.canonical_or_refused(value)?,
            number::TSC_AUX => {
                require(value >> 32 == 0)?;
                self.msrs.tsc_aux = value as u32;
            }
            number::AMD_HWCR if self.msrs.amd() => require(value & !AMD_HWCR_FIXED == 0)?,
            number::AMD_DE_CFG if self.msrs.amd() => self.msrs.de_cfg = value,
            number::AMD_SYSCFG | number::AMD_NB_CFG | number::AMD_INTERRUPT_PENDING if self.msrs.amd() => {
                require(value == 0)?;
            }
            _ => {
                self.shared.unknown_msrs.tell(number, "write");
                return Err(Refused);
            }
        }
        Ok(())
    }

    fn shift_tsc(&mut self, change: u64) {
        self.msrs.tsc_offset = self.msrs.tsc_offset.wrapping_add(change);
        self.msrs.tsc_adjust = self.msrs.tsc_adjust.wrapping_add(change);
    }

    /// Writes EFER.
    ///
    /// # Errors
    /// When a bit is not known, or LME would change while paging is on.
    pub fn write_efer(&mut self, value: u64) -> Result<(), Refused> {
        let automatic_ibrs = if self.msrs.amd() { efer::AIBRSE } else { 0 };
        let known = efer::SCE | efer::LME | efer::LMA | efer::NXE | automatic_ibrs;
        let changed = value ^ self.efer;
        if value & !known != 0 || (changed & efer::LME != 0 && self.cr0 & cr0::PG != 0) {
            return Err(Refused);
        }
        // LMA is the processor's to set.
        self.efer = value & !efer::LMA | self.efer & efer::LMA;
        if changed & efer::NXE != 0 {
            self.paging_changed();
        }
        Ok(())
    }
}

/// RDMSR.
pub fn rdmsr(vcpu: &mut Vcpu, op: &Op) -> Result<Flow, Fault> {
    vcpu.require_supervisor()?;
    let number = vcpu.regs[gpr::RCX] as u32;
    let mut flow = Flow::Next;
    let value = if number::HYPERVISOR.contains(&number) {
        // One of them tells the time that the processor has run.
        vcpu.account();
        match vcpu.hypervisor.as_ref().map(|hypervisor| hypervisor.read_msr(vcpu.index, number)) {
            Some(MsrOutcome::Done(value)) => Ok(value),
            Some(MsrOutcome::Halt(value)) => {
                flow = halt(vcpu, op);
                Ok(value)
            }
            Some(MsrOutcome::GeneralProtection) => Err(Refused),
            Some(MsrOutcome::NotMine) | None => {
                vcpu.shared.unknown_msrs.tell(number, "read");
                Err(Refused)
            }
        }
    } else {
        vcpu.read_own_msr(number)
    };
    match value {
        Ok(value) => {
            vcpu.regs[gpr::RAX] = value & 0xffff_ffff;
            vcpu.regs[gpr::RDX] = value >> 32;
            Ok(flow)
        }
        Err(Refused) => Err(vcpu.general_protection()),
    }
}

/// WRMSR.
pub fn wrmsr(vcpu: &mut Vcpu, op: &Op) -> Result<Flow, Fault> {
    vcpu.require_supervisor()?;
    let number = vcpu.regs[gpr::RCX] as u32;
    let value = vcpu.regs[gpr::RAX] & 0xffff_ffff | vcpu.regs[gpr::RDX] << 32;
    let mut flow = Flow::Next;
    let done = if number::HYPERVISOR.contains(&number) {
        let hypervisor = vcpu.hypervisor.clone();
        match hypervisor.map(|hypervisor| hypervisor.write_msr(vcpu.index, number, value)) {
            Some(MsrOutcome::Done(())) => Ok(()),
            Some(MsrOutcome::Halt(())) => {
                flow = halt(vcpu, op);
                Ok(())
            }
            Some(MsrOutcome::GeneralProtection) => Err(Refused),
            Some(MsrOutcome::NotMine) | None => {
                vcpu.shared.unknown_msrs.tell(number, "write");
                Err(Refused)
            }
        }
    } else {
        if number == number::EFER {
            vcpu.rip = next(vcpu, op);
            flow = Flow::Leave;
        }
        vcpu.write_own_msr(number, value)
    };
    match done {
        Ok(()) => Ok(flow),
        Err(Refused) => Err(vcpu.general_protection()),
    }
}

/// The access has put the processor to sleep.
fn halt(vcpu: &mut Vcpu, op: &Op) -> Flow {
    vcpu.halted = true;
    vcpu.halted_ignoring_if = true;
    vcpu.rip = next(vcpu, op);
    Flow::Leave
}
