//! Control and debug registers, descriptor-table registers, TLB maintenance (SDM volume 3, chapter 2).

use super::debug::{dr6, dr7};
use super::next;
use crate::fault::{Exception, Fault, vector};
use crate::memory::Access;
use crate::op::{Flow, Op};
use crate::registers::{Seg, attribute, cr0, cr4, efer, gpr};
use crate::vcpu::Vcpu;

/// Bits of CR0 that exist.
const CR0_KNOWN: u64 = cr0::PE
    | cr0::MP
    | cr0::EM
    | cr0::TS
    | cr0::ET
    | cr0::NE
    | cr0::WP
    | cr0::AM
    | cr0::NW
    | cr0::CD
    | cr0::PG;
/// Bits of CR4 that CPUID offers.
const CR4_KNOWN: u64 = cr4::TSD
    | cr4::DE
    | cr4::PSE
    | cr4::PAE
    | cr4::MCE
    | cr4::PGE
    | cr4::PCE
    | cr4::OSFXSR
    | cr4::OSXMMEXCPT
    | cr4::UMIP
    | cr4::LA57
    | cr4::FSGSBASE
    | cr4::PCIDE
    | cr4::OSXSAVE
    | cr4::SMEP
    | cr4::SMAP;
/// CR3: keep the entries of the process-context.
const CR3_KEEP: u64 = 1 << 63;

impl Vcpu {
    /// #GP(0) unless at privilege level 0.
    #[inline]
    pub fn require_supervisor(&mut self) -> Result<(), Fault> {
        if self.cpl != 0 { Err(self.general_protection()) } else { Ok(()) }
    }

    /// #GP(0) if user-mode instruction prevention forbids SGDT and its like.
    pub fn require_no_umip(&mut self) -> Result<(), Fault> {
        if self.cpl != 0 && self.cr4_has(cr4::UMIP) { Err(self.general_protection()) } else { Ok(()) }
    }

    /// #UD in real and virtual-8086 mode.
    pub fn require_protected(&mut self) -> Result<(), Fault> {
        if self.real_mode() || self.virtual_8086() { Err(self.invalid_opcode()) } else { Ok(()) }
    }

    /// Whether PAE paging (not IA-32e) would be in use with these.
    fn uses_pdpte(cr0: u64, cr4: u64, efer: u64) -> bool {
        cr0 & cr0::PG != 0 && cr4 & cr4::PAE != 0 && efer & efer::LMA == 0
    }

    fn reload_pdpte(&mut self, cr3: u64) -> Result<(), Fault> {
        match self.load_pdpte(cr3) {
            Some(pointers) => {
                self.mmu.pdpte = pointers;
                Ok(())
            }
            None => Err(self.general_protection()),
        }
    }

    pub fn set_cr0(&mut self, value: u64) -> Result<(), Fault> {
        let value = value | cr0::ET;
        let paging = value & cr0::PG != 0;
        let invalid = value >> 32 != 0
            || (paging && value & cr0::PE == 0)
            || (value & cr0::NW != 0 && value & cr0::CD == 0);
        if invalid {
            return Err(self.general_protection());
        }
        let value = value & CR0_KNOWN;
        let changed = value ^ self.cr0;
        let mut new_efer = self.efer;
        let long_code = self.segments[Seg::Cs as usize].attributes.0 & attribute::LONG != 0;
        if changed & cr0::PG != 0 {
            if paging && self.efer & efer::LME != 0 {
                // A 16-bit TSS (type 3) has no place in IA-32e mode.
                let tss_16 = self.tr.attributes.0 & attribute::TYPE == 3;
                if !self.cr4_has(cr4::PAE) || long_code || tss_16 {
                    return Err(self.general_protection());
                }
                new_efer |= efer::LMA;
            } else if !paging {
                if self.code_64() || self.cr4_has(cr4::PCIDE) {
                    return Err(self.general_protection());
                }
                new_efer &= !efer::LMA;
            }
        }
        let reload = changed & (cr0::PG | cr0::CD | cr0::NW) != 0;
        if reload && Self::uses_pdpte(value, self.cr4, new_efer) {
            self.reload_pdpte(self.cr3)?;
        }
        self.cr0 = value;
        self.efer = new_efer;
        if changed & (cr0::PG | cr0::WP | cr0::PE) != 0 {
            self.paging_changed();
        }
        if changed & cr0::PE != 0 {
            self.cpl = 0;
        }
        self.mode_changed();
        Ok(())
    }

    pub fn set_cr3(&mut self, value: u64) -> Result<(), Fault> {
        let mut value = value;
        let (mut pcid, mut keep) = (0, false);
        if self.cr4_has(cr4::PCIDE) {
            pcid = (value & 0xfff) as u16;
            keep = value & CR3_KEEP != 0;
            value &= !CR3_KEEP;
        }
        if self.long_mode_active() {
            if value >> self.mmu.physical_bits != 0 {
                return Err(self.general_protection());
            }
        } else {
            value &= 0xffff_ffff;
            if Self::uses_pdpte(self.cr0, self.cr4, self.efer) {
                self.reload_pdpte(value)?;
            }
        }
        self.cr3 = value;
        self.mmu.switch(pcid, value & !0xfff, keep);
        Ok(())
    }

    pub fn set_cr4(&mut self, value: u64) -> Result<(), Fault> {
        let changed = value ^ self.cr4;
        let long = self.long_mode_active();
        let invalid = value & !CR4_KNOWN != 0
            || (long && value & cr4::PAE == 0)
            || (long && changed & cr4::LA57 != 0)
            || (changed & value & cr4::PCIDE != 0 && (!long || self.cr3 & 0xfff != 0));
        if invalid {
            return Err(self.general_protection());
        }
        let reload = changed & (cr4::PAE | cr4::PSE | cr4::PGE | cr4::SMEP) != 0;
        if reload && Self::uses_pdpte(self.cr0, value, self.efer) {
            self.reload_pdpte(self.cr3)?;
        }
        self.cr4 = value;
        let paging = cr4::PAE | cr4::PSE | cr4::PGE | cr4::SMEP | cr4::SMAP | cr4::PCIDE | cr4::LA57;
        if changed & paging != 0 {
            self.paging_changed();
        }
        if changed & cr4::DE != 0 {
            self.debug_registers_changed();
        }
        Ok(())
    }

    /// Number of the debug register that MOV reaches; DR4 and DR5 are DR6 and DR7 unless CR4.DE is set.
    fn debug_register(&mut self, number: usize) -> Result<usize, Fault> {
        if matches!(number, 4 | 5) && self.cr4_has(cr4::DE) {
            return Err(self.invalid_opcode());
        }
        self.require_supervisor()?;
        if self.dr7 & dr7::GENERAL_DETECT != 0 {
            return Err(self.raise_exception(Exception {
                vector: vector::DEBUG,
                error_code: None,
                address: 0,
                dr6: dr6::GENERAL_DETECT,
            }));
        }
        Ok(if matches!(number, 4 | 5) { number + 2 } else { number })
    }
}

/// MOV r, CRn.
pub fn mov_from_control(vcpu: &mut Vcpu, op: &Op) -> Result<Flow, Fault> {
    let packed = op.packed();
    vcpu.require_supervisor()?;
    let value = match packed.number() {
        0 => vcpu.cr0,
        2 => vcpu.cr2,
        3 => vcpu.cr3,
        4 => vcpu.cr4,
        8 => u64::from(vcpu.apic.cr8()),
        _ => return Err(vcpu.invalid_opcode()),
    };
    vcpu.set_register(op.rm, packed.size(), value);
    Ok(Flow::Next)
}

/// MOV CRn, r.
pub fn mov_to_control(vcpu: &mut Vcpu, op: &Op) -> Result<Flow, Fault> {
    let packed = op.packed();
    vcpu.require_supervisor()?;
    let mut value = vcpu.regs[usize::from(op.rm)];
    if packed.size() == 4 {
        value &= 0xffff_ffff;
    }
    match packed.number() {
        0 => vcpu.set_cr0(value)?,
        2 => {
            vcpu.cr2 = value;
            return Ok(Flow::Next);
        }
        3 => vcpu.set_cr3(value)?,
        4 => vcpu.set_cr4(value)?,
        8 if value > 0xf => return Err(vcpu.general_protection()),
        8 => vcpu.apic.set_cr8(value as u8),
        _ => return Err(vcpu.invalid_opcode()),
    }
    vcpu.rip = next(vcpu, op);
    Ok(Flow::Leave)
}

/// MOV r, DRn.
pub fn mov_from_debug(vcpu: &mut Vcpu, op: &Op) -> Result<Flow, Fault> {
    let packed = op.packed();
    let value = match vcpu.debug_register(packed.number())? {
        6 => vcpu.dr6,
        7 => vcpu.dr7,
        number => vcpu.dr[number & 3],
    };
    vcpu.set_register(op.rm, packed.size(), value);
    Ok(Flow::Next)
}

/// MOV DRn, r.
pub fn mov_to_debug(vcpu: &mut Vcpu, op: &Op) -> Result<Flow, Fault> {
    let packed = op.packed();
    let number = vcpu.debug_register(packed.number())?;
    let mut value = vcpu.regs[usize::from(op.rm)];
    if packed.size() == 4 {
        value &= 0xffff_ffff;
    } else if number >= 6 && value >> 32 != 0 {
        return Err(vcpu.general_protection());
    }
    match number {
        6 => vcpu.dr6 = value & dr6::WRITABLE | dr6::FIXED,
        7 => vcpu.dr7 = value & dr7::WRITABLE | dr7::FIXED,
        number => vcpu.dr[number & 3] = value,
    }
    vcpu.debug_registers_changed();
    vcpu.rip = next(vcpu, op);
    Ok(Flow::Leave)
}

/// CLTS.
pub fn clts(vcpu: &mut Vcpu, _op: &Op) -> Result<Flow, Fault> {
    vcpu.require_supervisor()?;
    vcpu.cr0 &= !cr0::TS;
    Ok(Flow::Next)
}

/// LMSW: the four low bits of CR0; PE can be set, not cleared.
pub fn lmsw(vcpu: &mut Vcpu, op: &Op) -> Result<Flow, Fault> {
    vcpu.require_supervisor()?;
    let value = vcpu.operand(op, 2)? & 0xf;
    let protection = vcpu.cr0 & cr0::PE;
    vcpu.set_cr0((vcpu.cr0 & !0xf) | value | protection)?;
    vcpu.rip = next(vcpu, op);
    Ok(Flow::Leave)
}

/// SMSW.
pub fn smsw(vcpu: &mut Vcpu, op: &Op) -> Result<Flow, Fault> {
    vcpu.require_no_umip()?;
    vcpu.store_selector(op, vcpu.cr0)?;
    Ok(Flow::Next)
}

/// LGDT and LIDT: register 0 or 1. Operand size 2 takes 24 bits of the base.
pub fn load_table(vcpu: &mut Vcpu, op: &Op) -> Result<Flow, Fault> {
    vcpu.require_supervisor()?;
    let packed = op.packed();
    let width = if packed.size() == 8 { 8 } else { 4 };
    let mut data = [0; 10];
    let offset = op.offset(vcpu);
    vcpu.read_bytes(op.seg, offset, &mut data[..2 + width])?;
    let limit = u16::from_le_bytes([data[0], data[1]]);
    let mut base = [0; 8];
    base.copy_from_slice(&data[2..]);
    let mut base = u64::from_le_bytes(base);
    match packed.size() {
        2 => base &= 0xff_ffff,
        8 if !vcpu.canonical(base) => return Err(vcpu.general_protection()),
        _ => {}
    }
    let table = if packed.number() == 0 { &mut vcpu.gdtr } else { &mut vcpu.idtr };
    (table.base, table.limit) = (base, limit);
    Ok(Flow::Next)
}

/// SGDT and SIDT.
pub fn store_table(vcpu: &mut Vcpu, op: &Op) -> Result<Flow, Fault> {
    vcpu.require_no_umip()?;
    let packed = op.packed();
    let table = if packed.number() == 0 { vcpu.gdtr } else { vcpu.idtr };
    let width = if packed.size() == 8 { 8 } else { 4 };
    let mut data = [0; 10];
    data[..2].copy_from_slice(&table.limit.to_le_bytes());
    data[2..].copy_from_slice(&table.base.to_le_bytes());
    let offset = op.offset(vcpu);
    vcpu.write_bytes(op.seg, offset, &data[..2 + width])?;
    Ok(Flow::Next)
}

/// LLDT.
pub fn lldt(vcpu: &mut Vcpu, op: &Op) -> Result<Flow, Fault> {
    vcpu.require_protected()?;
    vcpu.require_supervisor()?;
    let selector = vcpu.operand(op, 2)? as u16;
    vcpu.load_ldt(selector)?;
    Ok(Flow::Next)
}

/// LTR.
pub fn ltr(vcpu: &mut Vcpu, op: &Op) -> Result<Flow, Fault> {
    vcpu.require_protected()?;
    vcpu.require_supervisor()?;
    let selector = vcpu.operand(op, 2)? as u16;
    vcpu.load_task_register(selector)?;
    Ok(Flow::Next)
}

/// SLDT.
pub fn sldt(vcpu: &mut Vcpu, op: &Op) -> Result<Flow, Fault> {
    vcpu.require_protected()?;
    vcpu.require_no_umip()?;
    vcpu.store_selector(op, u64::from(vcpu.ldtr.selector))?;
    Ok(Flow::Next)
}

/// STR.
pub fn str(vcpu: &mut Vcpu, op: &Op) -> Result<Flow, Fault> {
    vcpu.require_protected()?;
    vcpu.require_no_umip()?;
    vcpu.store_selector(op, u64::from(vcpu.tr.selector))?;
    Ok(Flow::Next)
}

/// INVLPG. The operand is not accessed; addresses that are not canonical do nothing.
pub fn invlpg(vcpu: &mut Vcpu, op: &Op) -> Result<Flow, Fault> {
    vcpu.require_supervisor()?;
    let mut linear = vcpu.segments[op.seg as usize].base.wrapping_add(op.offset(vcpu));
    if !vcpu.code_64() {
        linear &= 0xffff_ffff;
    }
    vcpu.mmu.flush_page(linear);
    vcpu.rip = next(vcpu, op);
    Ok(Flow::Jump)
}

/// INVPCID: the type is in `reg`, the descriptor in memory.
pub fn invpcid(vcpu: &mut Vcpu, op: &Op) -> Result<Flow, Fault> {
    vcpu.require_supervisor()?;
    let kind = vcpu.regs[usize::from(op.reg)];
    let kind = if vcpu.code_64() { kind } else { kind & 0xffff_ffff };
    let offset = op.offset(vcpu);
    vcpu.linear(op.seg, offset, 16, Access::Read)?;
    let mut data = [0; 16];
    vcpu.read_bytes(op.seg, offset, &mut data)?;
    let descriptor = u128::from_le_bytes(data);
    let (context, linear) = (descriptor as u64, (descriptor >> 64) as u64);
    let one = kind < 2;
    let invalid = kind > 3
        || context >> 12 != 0
        || (one && context != 0 && !vcpu.cr4_has(cr4::PCIDE))
        || (kind == 0 && !vcpu.canonical(linear));
    if invalid {
        return Err(vcpu.general_protection());
    }
    match kind {
        0 => vcpu.mmu.flush_page(linear),
        1 => vcpu.mmu.flush_context(context as u16),
        2 => vcpu.mmu.flush_all(),
        _ => vcpu.mmu.flush_local(),
    }
    vcpu.rip = next(vcpu, op);
    Ok(Flow::Jump)
}

/// INVD, WBINVD, WBNOINVD: caches are coherent and cannot be lost.
pub fn cache(vcpu: &mut Vcpu, _op: &Op) -> Result<Flow, Fault> {
    vcpu.require_supervisor()?;
    Ok(Flow::Next)
}

/// HLT.
pub fn hlt(vcpu: &mut Vcpu, op: &Op) -> Result<Flow, Fault> {
    vcpu.require_supervisor()?;
    vcpu.halted = true;
    vcpu.rip = next(vcpu, op);
    Ok(Flow::Leave)
}

/// RDFSBASE and RDGSBASE.
pub fn read_base(vcpu: &mut Vcpu, op: &Op) -> Result<Flow, Fault> {
    if !vcpu.cr4_has(cr4::FSGSBASE) {
        return Err(vcpu.invalid_opcode());
    }
    let packed = op.packed();
    let base = vcpu.segments[packed.number()].base;
    vcpu.set_register(op.rm, packed.size(), base);
    Ok(Flow::Next)
}

/// WRFSBASE and WRGSBASE.
pub fn write_base(vcpu: &mut Vcpu, op: &Op) -> Result<Flow, Fault> {
    if !vcpu.cr4_has(cr4::FSGSBASE) {
        return Err(vcpu.invalid_opcode());
    }
    let packed = op.packed();
    let mut base = vcpu.regs[usize::from(op.rm)];
    if packed.size() == 4 {
        base &= 0xffff_ffff;
    }
    if !vcpu.canonical(base) {
        return Err(vcpu.general_protection());
    }
    vcpu.segments[packed.number()].base = base;
    Ok(Flow::Next)
}

/// RDTSC and (register 1) RDTSCP.
pub fn rdtsc(vcpu: &mut Vcpu, op: &Op) -> Result<Flow, Fault> {
    if vcpu.cpl != 0 && vcpu.cr4_has(cr4::TSD) {
        return Err(vcpu.general_protection());
    }
    let tsc = vcpu.tsc();
    vcpu.regs[gpr::RAX] = tsc & 0xffff_ffff;
    vcpu.regs[gpr::RDX] = tsc >> 32;
    if op.packed().number() == 1 {
        vcpu.regs[gpr::RCX] = u64::from(vcpu.msrs.tsc_aux);
    }
    Ok(Flow::Next)
}

/// RDPID.
pub fn rdpid(vcpu: &mut Vcpu, op: &Op) -> Result<Flow, Fault> {
    vcpu.regs[usize::from(op.rm)] = u64::from(vcpu.msrs.tsc_aux);
    Ok(Flow::Next)
}

/// RDPMC: there are no performance counters.
pub fn rdpmc(vcpu: &mut Vcpu, _op: &Op) -> Result<Flow, Fault> {
    Err(vcpu.general_protection())
}

/// CPUID.
pub fn cpuid(vcpu: &mut Vcpu, _op: &Op) -> Result<Flow, Fault> {
    let answer = vcpu.cpuid(vcpu.regs[gpr::RAX] as u32, vcpu.regs[gpr::RCX] as u32);
    for (register, value) in [gpr::RAX, gpr::RBX, gpr::RCX, gpr::RDX].into_iter().zip(answer) {
        vcpu.regs[register] = u64::from(value);
    }
    Ok(Flow::Next)
}

/// PAUSE: a processor that spins lets others run now and then.
pub fn pause(vcpu: &mut Vcpu, _op: &Op) -> Result<Flow, Fault> {
    const SPINS: u32 = 64;
    vcpu.pauses = vcpu.pauses.wrapping_add(1);
    if vcpu.pauses.is_multiple_of(SPINS) && vcpu.shared.vps.len() > 1 {
        std::thread::yield_now();
    } else {
        std::hint::spin_loop();
    }
    Ok(Flow::Next)
}
