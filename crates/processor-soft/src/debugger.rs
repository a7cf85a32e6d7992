//! A debugger's breakpoints and steps, of which the guest sees nothing.
//!
//! Breakpoints are linear addresses. Code on pages that hold one is carried out instruction by instruction; all
//! other code runs as ever, since every way from one page into another leads over the loops that ask
//! [`Vcpu::debugger_holds`]. With watched data everything goes instruction by instruction, and the watched pages are
//! never entered in the TLB.

use processor::{BreakOn, Breakpoint, DebugControl, DebugRegisters, DebugStop, Error, Exit, ProcessorDebug};

use crate::memory::Access;
use crate::registers::{Seg, efer};
use crate::run::SoftProcessor;
use crate::vcpu::Vcpu;

/// Breakpoints for execution that a debugger may set.
const BREAKPOINTS: usize = 1024;
/// Pages that hold watched data, at the most.
pub const WATCHED_PAGES: usize = 8;

/// What a debugger has asked for.
#[derive(Default)]
pub struct Debugger {
    control: DebugControl,
    /// Numbers of the pages with a breakpoint on execution, sorted; more may stay here for a while.
    pages: Vec<u64>,
    /// Some of the breakpoints watch data.
    watches: bool,
    /// Watched data that the present instruction has accessed.
    hit: Option<Breakpoint>,
}

impl Debugger {
    /// Whether the code at linear address `linear` is to be carried out instruction by instruction.
    #[inline]
    pub fn holds(&self, linear: u64) -> bool {
        !self.pages.is_empty() && self.pages.binary_search(&(linear >> 12)).is_ok()
    }

    /// Whether one step is wanted.
    #[inline]
    pub fn steps(&self) -> bool {
        self.control.step
    }

    /// The breakpoint on execution at `linear`.
    fn at(&self, linear: u64) -> Option<Breakpoint> {
        let here = |point: &&Breakpoint| point.on.is_execution() && point.address == linear;
        self.control.breakpoints.iter().find(here).copied()
    }

    /// Notes whether an access has hit watched data.
    pub fn note_access(&mut self, linear: u64, len: u64, access: Access) {
        let hit = |point: &&Breakpoint| {
            let kind = match point.on {
                BreakOn::Execution | BreakOn::Code => false,
                BreakOn::Write => access == Access::Write,
                BreakOn::Read => access == Access::Read,
                BreakOn::Access => true,
            };
            let (end, point_end) = (linear.saturating_add(len), point.address.saturating_add(point.length));
            kind && linear < point_end && point.address < end
        };
        if let Some(point) = self.control.breakpoints.iter().find(hit) {
            self.hit.get_or_insert(*point);
        }
    }
}

/// The pages of watched data.
fn watched_pages(breakpoints: &[Breakpoint]) -> Result<[u64; WATCHED_PAGES], Error> {
    let mut pages = [u64::MAX; WATCHED_PAGES];
    let mut count = 0;
    for point in breakpoints.iter().filter(|point| !point.on.is_execution()) {
        let last = point.address.saturating_add(point.length.max(1) - 1);
        for page in point.address >> 12..=last >> 12 {
            if pages.contains(&page) {
                continue;
            }
            let Some(place) = pages.get_mut(count) else {
                return Err(Error::Debug("too much data is to be watched"));
            };
            *place = page;
            count += 1;
        }
    }
    Ok(pages)
}

/// A control register does not take a value.
struct Unwilling;

impl Vcpu {
    /// The linear address of RIP.
    #[inline]
    pub fn linear_rip(&self) -> u64 {
        if self.code_64() {
            self.rip
        } else {
            self.segments[Seg::Cs as usize].base.wrapping_add(self.rip) & 0xffff_ffff
        }
    }

    /// Whether there is a debugger's breakpoint on the page of RIP, so that its code must not run freely.
    #[inline]
    pub fn debugger_holds(&self) -> bool {
        !self.debugger.pages.is_empty() && self.debugger.holds(self.linear_rip())
    }

    /// Whether the next instruction is to be carried out alone.
    #[inline]
    pub fn debugger_wants_step(&self) -> bool {
        self.debugger.steps() || self.debugger.watches || self.debugger_holds()
    }

    /// Carries out one instruction, unless a debugger's breakpoint is there.
    ///
    /// # Errors
    /// When the debugger is to be told of something.
    pub fn step_for_debugger(&mut self) -> Result<(), Exit> {
        let steps = self.debugger.steps();
        if !steps && let Some(point) = self.debugger.at(self.linear_rip()) {
            return Err(Exit::Debug(DebugStop::Breakpoint(point)));
        }
        self.interrupt_shadow = false;
        self.step();
        if let Some(point) = self.debugger.hit.take() {
            return Err(Exit::Debug(DebugStop::Breakpoint(point)));
        }
        // An exception belongs to the step: its delivery ends it.
        if steps && self.exception.is_none() { Err(Exit::Debug(DebugStop::Step)) } else { Ok(()) }
    }

    /// An exception or interrupt has been delivered.
    ///
    /// # Errors
    /// When that ends a debugger's step.
    pub fn delivered_for_debugger(&self) -> Result<(), Exit> {
        if self.debugger.steps() { Err(Exit::Debug(DebugStop::Step)) } else { Ok(()) }
    }

    fn set_debug_control(&mut self, control: &DebugControl) -> Result<(), Error> {
        if control.breakpoints.len() > BREAKPOINTS {
            return Err(Error::Debug("too many breakpoints"));
        }
        let watched = watched_pages(&control.breakpoints)?;
        if self.mmu.debugger_watches != watched {
            self.mmu.debugger_watches = watched;
            self.mmu.flush_all();
        }
        let executed = control.breakpoints.iter().filter(|point| point.on.is_execution());
        let mut pages: Vec<u64> = executed.map(|point| point.address >> 12).collect();
        pages.sort_unstable();
        pages.dedup();
        if pages.is_empty() {
            self.debugger.pages.clear();
        } else if pages.iter().any(|page| self.debugger.pages.binary_search(page).is_err()) {
            // Nothing may lead past the breakpoints by itself.
            self.debugger.pages = pages;
            self.forget_ways();
        }
        self.debugger.watches = watched != [u64::MAX; WATCHED_PAGES];
        self.debugger.hit = None;
        self.debugger.control = control.clone();
        Ok(())
    }

    /// Forgets all ways from one block to another that lead through no loop of Rust.
    fn forget_ways(&mut self) {
        self.blocks.jumps.clear();
        if let Some(translator) = &mut self.translator {
            translator.clear();
        }
    }

    fn debug_registers(&self) -> DebugRegisters {
        let image = &self.extension.image;
        let word = |at: usize| u16::from_le_bytes([image.x87[at], image.x87[at + 1]]);
        let [fip, fdp] = image.x87_pointers();
        DebugRegisters {
            system: self.snapshot(),
            cr2: self.cr2,
            cr8: self.apic.cr8().into(),
            kernel_gs_base: self.msrs.kernel_gs_base,
            st: std::array::from_fn(|st| std::array::from_fn(|n| image.x87[32 + 16 * st + n])),
            fcw: word(0),
            fsw: word(2),
            ftw: image.x87[4],
            fop: word(6),
            fip,
            fdp,
            xmm: std::array::from_fn(|index| image.xmm(index)),
            mxcsr: image.mxcsr,
        }
    }

    /// Sets CR0, CR3, CR4 and EFER as the guest's own instructions would.
    fn set_control_registers(&mut self, new: &processor::StartRegisters) -> Result<(), Unwilling> {
        if (new.efer ^ self.efer) & !efer::LMA != 0 {
            self.write_efer(new.efer).map_err(|_| Unwilling)?;
        }
        if new.cr4 != self.cr4 {
            self.set_cr4(new.cr4).map_err(|_| Unwilling)?;
        }
        if new.cr3 != self.cr3 {
            self.set_cr3(new.cr3).map_err(|_| Unwilling)?;
        }
        if new.cr0 != self.cr0 {
            self.set_cr0(new.cr0).map_err(|_| Unwilling)?;
        }
        Ok(())
    }

    fn set_debug_registers(&mut self, new: &DebugRegisters) -> Result<(), Error> {
        let old = self.debug_registers();
        let mut new = new.clone();
        new.settle_long_mode();
        new.check(&old)?;
        let former = [self.cr0, self.cr3, self.cr4, self.efer];
        let (pointers, exception) = (self.mmu.pdpte, self.exception.take());
        let changed = self.set_control_registers(&new.system);
        self.exception = exception;
        if changed.is_err() {
            [self.cr0, self.cr3, self.cr4, self.efer] = former;
            self.mmu.pdpte = pointers;
            self.paging_changed();
            self.mode_changed();
            return Err(Error::Debug("this processor does not take that value of a control register"));
        }
        if new.system.rip != old.system.rip {
            // What was to happen at the old place does not happen at the new one.
            self.rip = new.system.rip;
            (self.exception, self.deferred) = (None, None);
            (self.halted, self.halted_ignoring_if, self.interrupt_shadow) = (false, false, false);
        }
        self.regs[..16].copy_from_slice(&new.system.general);
        self.set_rflags(new.system.rflags);
        self.segments[..6].copy_from_slice(&new.system.segments);
        (self.tr, self.ldtr) = (new.system.tr, new.system.ldtr);
        (self.gdtr, self.idtr) = (new.system.gdtr, new.system.idtr);
        self.cr2 = new.cr2;
        if new.cr8 != old.cr8 {
            self.apic.set_cr8(new.cr8 as u8 & 0xf);
        }
        self.msrs.kernel_gs_base = new.kernel_gs_base;
        let image = &mut self.extension.image;
        for (st, value) in new.st.iter().enumerate() {
            image.x87[32 + 16 * st..42 + 16 * st].copy_from_slice(value);
        }
        image.set_fcw(new.fcw);
        image.set_fsw(new.fsw);
        image.x87[4] = new.ftw;
        image.x87[6..8].copy_from_slice(&new.fop.to_le_bytes());
        image.set_x87_pointers(new.fip, Some(new.fdp));
        for (index, &value) in new.xmm.iter().enumerate() {
            image.set_xmm(index, value);
        }
        image.mxcsr = new.mxcsr & crate::extension::MXCSR_VALID;
        self.mode_changed();
        Ok(())
    }
}

impl ProcessorDebug for SoftProcessor {
    fn registers(&mut self) -> Result<DebugRegisters, Error> {
        Ok(self.vcpu.debug_registers())
    }

    fn set_registers(&mut self, registers: &DebugRegisters) -> Result<(), Error> {
        self.vcpu.set_debug_registers(registers)
    }

    fn translate(&mut self, gva: u64) -> Result<Option<u64>, Error> {
        Ok(self.vcpu.look_through(gva))
    }

    fn control(&mut self, control: &DebugControl) -> Result<(), Error> {
        self.vcpu.set_debug_control(control)
    }
}

#[cfg(test)]
mod tests;
