//! Task switches through 16-bit and 32-bit task state segments (SDM volume 3, chapter 8). There are none in
//! IA-32e mode.

use processor::Segment;

use super::debug::dr6;
use super::descriptor::{Found, RPL, code, is_null, kind, null_segment};
use super::iret::virtual_8086_segment;
use crate::fault::{Fault, vector};
use crate::registers::{Seg, attribute, cr0, cr4, flag, gpr};
use crate::vcpu::Vcpu;

/// What causes the switch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Switch {
    Jump,
    Call,
    Iret,
    /// An interrupt or exception through a task gate.
    Gate,
}

/// Offsets of a 32-bit TSS.
mod tss32 {
    pub const CR3: u64 = 28;
    pub const EIP: u64 = 32;
    pub const EFLAGS: u64 = 36;
    pub const REGISTERS: u64 = 40;
    pub const SEGMENTS: u64 = 72;
    pub const LDT: u64 = 96;
    pub const TRAP: u64 = 100;
    pub const LIMIT: u32 = 103;
}

/// Offsets of a 16-bit TSS.
mod tss16 {
    pub const IP: u64 = 14;
    pub const FLAGS: u64 = 16;
    pub const REGISTERS: u64 = 18;
    pub const SEGMENTS: u64 = 34;
    pub const LDT: u64 = 42;
    pub const LIMIT: u32 = 43;
}

/// The state that a TSS holds.
#[derive(Debug, Clone, Default)]
struct Image {
    cr3: u32,
    eip: u32,
    eflags: u32,
    registers: [u32; 8],
    /// ES, CS, SS, DS, FS, GS.
    selectors: [u16; 6],
    ldt: u16,
    trap: bool,
}

impl Vcpu {
    /// Switches to the task of TSS `selector`; the present one continues at `return_rip`.
    pub fn switch_task(&mut self, selector: u16, cause: Switch, return_rip: u64) -> Result<(), Fault> {
        let refusal = if cause == Switch::Iret { vector::INVALID_TSS } else { vector::GENERAL_PROTECTION };
        let found = self.task_descriptor(selector, cause, refusal)?;
        let wide = found.descriptor.has(attribute::CODE);
        let mut segment = found.descriptor.segment(selector);
        let least = if wide { tss32::LIMIT } else { tss16::LIMIT };
        if segment.limit < least {
            return Err(self.raise_code(vector::INVALID_TSS, code(selector)));
        }
        let old = self.tr;
        let old_wide = old.attributes.0 & attribute::CODE != 0;
        let old_limit = if old_wide { tss32::LIMIT } else { tss16::LIMIT };
        if old.limit < old_limit {
            return Err(self.raise_code(vector::INVALID_TSS, code(old.selector)));
        }
        // All of what is read and written below is touched first, so that a page fault leaves the old task
        // as it was.
        let image = self.read_task(segment.base, wide)?;
        let mut flags = self.rflags();
        if cause == Switch::Iret {
            flags &= !flag::NT;
        }
        self.write_task(old.base, old_wide, flags, return_rip)?;
        if matches!(cause, Switch::Jump | Switch::Iret) {
            let address = self.gdtr.base.wrapping_add(u64::from(old.selector & !7));
            self.set_busy(address, false)?;
        }
        if cause != Switch::Iret {
            self.set_busy(found.address, true)?;
            segment.attributes.0 |= kind::BUSY;
        }
        let nested = matches!(cause, Switch::Call | Switch::Gate);
        if nested {
            self.write_system(segment.base, old.selector)?;
        }
        // From here on faults belong to the new task.
        self.tr = segment;
        self.cr0 |= cr0::TS;
        self.dr7 &= !0x155;
        self.debug_registers_changed();
        if self.load_task(&image, wide, nested).is_err() {
            // The new task's fault, not that of the instruction that switched.
            self.deferred = self.exception.take();
        }
        Ok(())
    }

    fn task_descriptor(&mut self, selector: u16, cause: Switch, refusal: u8) -> Result<Found, Fault> {
        if is_null(selector) || selector & 4 != 0 {
            return Err(self.raise_code(refusal, code(selector)));
        }
        let found = self.descriptor(selector, refusal)?;
        let busy = match found.descriptor.system_kind() {
            Some(kind::TSS_16 | kind::TSS_32) => false,
            Some(kind::TSS_16_BUSY | kind::TSS_32_BUSY) => true,
            _ => return Err(self.raise_code(refusal, code(selector))),
        };
        if busy != (cause == Switch::Iret) {
            return Err(self.raise_code(refusal, code(selector)));
        }
        if !found.descriptor.present() {
            return Err(self.raise_code(vector::SEGMENT_NOT_PRESENT, code(selector)));
        }
        Ok(found)
    }

    fn read_task(&mut self, base: u64, wide: bool) -> Result<Image, Fault> {
        let at = |offset: u64| base.wrapping_add(offset);
        let mut image = Image::default();
        if wide {
            image.cr3 = self.read_system(at(tss32::CR3))?;
            image.eip = self.read_system(at(tss32::EIP))?;
            image.eflags = self.read_system(at(tss32::EFLAGS))?;
            for (index, register) in image.registers.iter_mut().enumerate() {
                *register = self.read_system(at(tss32::REGISTERS + 4 * index as u64))?;
            }
            for (index, selector) in image.selectors.iter_mut().enumerate() {
                *selector = self.read_system(at(tss32::SEGMENTS + 4 * index as u64))?;
            }
            image.ldt = self.read_system(at(tss32::LDT))?;
            image.trap = self.read_system::<u16>(at(tss32::TRAP))? & 1 != 0;
        } else {
            image.eip = u32::from(self.read_system::<u16>(at(tss16::IP))?);
            image.eflags = u32::from(self.read_system::<u16>(at(tss16::FLAGS))?);
            for (index, register) in image.registers.iter_mut().enumerate() {
                *register = u32::from(self.read_system::<u16>(at(tss16::REGISTERS + 2 * index as u64))?);
            }
            for (index, selector) in image.selectors.iter_mut().take(4).enumerate() {
                *selector = self.read_system(at(tss16::SEGMENTS + 2 * index as u64))?;
            }
            image.ldt = self.read_system(at(tss16::LDT))?;
        }
        Ok(image)
    }

    fn write_task(&mut self, base: u64, wide: bool, flags: u64, rip: u64) -> Result<(), Fault> {
        let at = |offset: u64| base.wrapping_add(offset);
        if wide {
            self.write_system(at(tss32::EIP), rip as u32)?;
            self.write_system(at(tss32::EFLAGS), flags as u32)?;
            for index in 0..8 {
                self.write_system(at(tss32::REGISTERS + 4 * index as u64), self.regs[index] as u32)?;
            }
            for index in 0..6 {
                let selector = self.segments[index].selector;
                self.write_system(at(tss32::SEGMENTS + 4 * index as u64), selector)?;
            }
        } else {
            self.write_system(at(tss16::IP), rip as u16)?;
            self.write_system(at(tss16::FLAGS), flags as u16)?;
            for index in 0..8 {
                self.write_system(at(tss16::REGISTERS + 2 * index as u64), self.regs[index] as u16)?;
            }
            for index in 0..4 {
                let selector = self.segments[index].selector;
                self.write_system(at(tss16::SEGMENTS + 2 * index as u64), selector)?;
            }
        }
        Ok(())
    }

    fn load_task(&mut self, image: &Image, wide: bool, nested: bool) -> Result<(), Fault> {
        if wide && self.cr0 & cr0::PG != 0 {
            let cr3 = u64::from(image.cr3);
            if self.cr4_has(cr4::PAE) {
                match self.load_pdpte(cr3) {
                    Some(pointers) => self.mmu.pdpte = pointers,
                    None => return Err(self.raise_code(vector::INVALID_TSS, code(self.tr.selector))),
                }
            }
            self.cr3 = cr3;
            self.mmu.switch(0, cr3 & !0xfff, false);
        }
        self.rip = u64::from(image.eip);
        let mut flags = u64::from(image.eflags);
        if nested {
            flags |= flag::NT;
        }
        if !wide {
            flags &= 0xffff;
        }
        self.set_rflags(flags);
        for (index, &register) in image.registers.iter().enumerate() {
            self.regs[index] =
                if wide { u64::from(register) } else { self.regs[index] & 0xffff_0000 | u64::from(register) };
        }
        // Selectors are visible at once; the hidden parts follow, and their faults are the new task's.
        for (index, &selector) in image.selectors.iter().enumerate() {
            self.segments[index] = null_segment(selector);
        }
        self.ldtr = null_segment(image.ldt);
        if flags & flag::VM != 0 {
            for (index, &selector) in image.selectors.iter().enumerate() {
                self.segments[index] = virtual_8086_segment(selector);
            }
            self.cpl = 3;
            self.mode_changed();
            self.ldtr = self.ldt_segment(image.ldt, vector::INVALID_TSS)?;
            return Ok(());
        }
        self.cpl = (image.selectors[Seg::Cs as usize] & RPL) as u8;
        self.mode_changed();
        self.ldtr = self.ldt_segment(image.ldt, vector::INVALID_TSS)?;
        let segment = self.task_code(image.selectors[Seg::Cs as usize])?;
        self.segments[Seg::Cs as usize] = segment;
        let selector = image.selectors[Seg::Ss as usize];
        self.segments[Seg::Ss as usize] = self.stack_segment(selector, self.cpl, vector::INVALID_TSS)?;
        for seg in [Seg::Es, Seg::Ds, Seg::Fs, Seg::Gs] {
            let selector = image.selectors[seg as usize];
            self.segments[seg as usize] = self.data_segment(selector, vector::INVALID_TSS)?;
        }
        self.mode_changed();
        if !wide {
            self.regs[gpr::RSP] &= 0xffff;
        }
        if self.rip > u64::from(segment.limit) {
            return Err(self.general_protection());
        }
        if image.trap {
            self.pending_debug |= dr6::TASK_SWITCH;
        }
        Ok(())
    }

    fn task_code(&mut self, selector: u16) -> Result<Segment, Fault> {
        let invalid = vector::INVALID_TSS;
        if is_null(selector) {
            return Err(self.raise_code(invalid, code(selector)));
        }
        let mut found = self.descriptor(selector, invalid)?;
        let descriptor = found.descriptor;
        let privileged = if descriptor.is_conforming() {
            descriptor.dpl() <= self.cpl
        } else {
            descriptor.dpl() == self.cpl
        };
        if !descriptor.is_code() || !privileged {
            return Err(self.raise_code(invalid, code(selector)));
        }
        if !descriptor.present() {
            return Err(self.raise_code(vector::SEGMENT_NOT_PRESENT, code(selector)));
        }
        self.set_accessed(&mut found)?;
        Ok(found.descriptor.segment(selector))
    }
}
