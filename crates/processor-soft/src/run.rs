//! The run loop: delivers exceptions and interrupts, sleeps while the guest halts, runs blocks.
//!
//! ```text
//! ┌▶ attention (others' wishes) ─▶ exception ─▶ NMI, interrupt ─▶ halted? sleep : execute ─┐
//! └────────────────────────────────────────────────────────────────────────────────────────┘
//! ```

use std::time::Instant;

use guest_memory::SHADOW;
use processor::{Error, Exit, Processor, ProcessorDebug, StartRegisters};

use crate::fault::{Exception, vector};
use crate::partition::{Tier, attention};
use crate::registers::{Seg, attribute, cr4, flag};
use crate::system::{Mtrr, TripleFault, dr6};
use crate::translate::Signals;
use crate::vcpu::Vcpu;

/// Turns of the run loop after which the registry is told what has been counted.
const TELL: u32 = 64;
/// Why a processor in lock step cannot go on.
const DIFFERENCE: &str = "lock step: the tiers differ";

/// A processor and its run loop.
pub struct SoftProcessor {
    pub(crate) vcpu: Box<Vcpu>,
}

impl SoftProcessor {
    pub fn new(vcpu: Vcpu) -> Self {
        Self { vcpu: Box::new(vcpu) }
    }
}

impl Processor for SoftProcessor {
    fn start_at(&mut self, registers: &StartRegisters) -> Result<(), Error> {
        self.vcpu.reset_if_asked();
        self.vcpu.start_at(registers);
        Ok(())
    }

    fn leave_as_firmware_does(&mut self) -> Result<(), Error> {
        self.vcpu.reset_if_asked();
        self.vcpu.msrs.mtrr = Mtrr::as_firmware_leaves(self.vcpu.mmu.physical_bits);
        Ok(())
    }

    fn run(&mut self) -> Exit {
        self.vcpu.run()
    }

    fn describe(&self) -> String {
        self.vcpu.describe()
    }

    fn debug(&mut self) -> Option<&mut dyn ProcessorDebug> {
        Some(self)
    }
}

impl Vcpu {
    /// Sets the registers that a loader or StartVirtualProcessor gives, and ends the wait for a start-up
    /// interrupt.
    pub fn start_at(&mut self, registers: &StartRegisters) {
        self.regs[..16].copy_from_slice(&registers.general);
        self.rip = registers.rip;
        self.set_rflags(registers.rflags);
        self.segments[..6].copy_from_slice(&registers.segments);
        (self.tr, self.ldtr) = (registers.tr, registers.ldtr);
        (self.gdtr, self.idtr) = (registers.gdtr, registers.idtr);
        self.cr0 = registers.cr0;
        self.cr3 = registers.cr3;
        self.cr4 = registers.cr4;
        self.efer = registers.efer;
        if let Some(pat) = registers.pat {
            self.msrs.pat = pat;
        }
        let stack = self.segments[Seg::Ss as usize].attributes.0;
        self.cpl = if self.real_mode() { 0 } else { (stack >> attribute::DPL_SHIFT & 3) as u8 };
        self.wait_for_sipi = false;
        self.vp.set_waits_for_start(false);
        self.halted = false;
        let pcid = if self.cr4_has(cr4::PCIDE) { self.cr3 & 0xfff } else { 0 };
        self.mmu.switch(pcid as u16, self.cr3 & !0xfff, false);
        self.paging_changed();
        self.mode_changed();
    }

    /// The registers that [`StartRegisters`] holds.
    pub fn snapshot(&self) -> StartRegisters {
        let mut general = [0; 16];
        general.copy_from_slice(&self.regs[..16]);
        let mut segments = [processor::Segment::default(); 6];
        segments.copy_from_slice(&self.segments[..6]);
        StartRegisters {
            rip: self.rip,
            rflags: self.rflags(),
            general,
            segments,
            tr: self.tr,
            ldtr: self.ldtr,
            gdtr: self.gdtr,
            idtr: self.idtr,
            cr0: self.cr0,
            cr3: self.cr3,
            cr4: self.cr4,
            efer: self.efer,
            pat: Some(self.msrs.pat),
        }
    }

    fn run(&mut self) -> Exit {
        if self.shared.stopped.load(std::sync::atomic::Ordering::SeqCst) {
            return Exit::Stopped;
        }
        self.running_since = Instant::now();
        let _signals = (self.shared.tier != Tier::Interpreter).then(Signals::block);
        self.vp.set_in_guest(true);
        let exit = loop {
            if let Err(exit) = self.turn() {
                break exit;
            }
        };
        self.vp.set_in_guest(false);
        self.account();
        exit
    }

    /// Tells the hypervisor interface how long guest code has run, and the registry what has been counted.
    pub fn account(&mut self) {
        self.tell_counts();
        self.vp.instructions.store(self.instructions, std::sync::atomic::Ordering::Relaxed);
        if let Some(hypervisor) = &self.hypervisor {
            let nanoseconds = u64::try_from(self.running_since.elapsed().as_nanos()).unwrap_or(u64::MAX);
            hypervisor.ran(self.index, nanoseconds);
            self.running_since = Instant::now();
        }
    }

    /// One turn of the run loop.
    pub(crate) fn turn(&mut self) -> Result<(), Exit> {
        let calls = self.vp.take_attention();
        if calls != 0 {
            self.attend(calls)?;
        }
        if let Some(exception) = self.exception.take().or_else(|| self.deferred.take()) {
            // A trap ends a halt.
            self.wake();
            self.deliver_exception(exception).map_err(|lost| self.triple_fault(lost))?;
            return self.delivered_for_debugger();
        }
        // A debugger's step is not to end up in the handler of an interrupt.
        let held_off = self.debugger.steps() && !self.halted;
        if (self.interrupt_waiting || self.nmi_waiting) && !held_off {
            if self.interrupt_shadow && !self.halted {
                return self.step_for_debugger();
            }
            self.interrupt_shadow = false;
            if self.deliver_waiting()? {
                return self.delivered_for_debugger();
            }
        }
        if self.halted || self.wait_for_sipi {
            self.interrupt_shadow = false;
            self.sleep();
            return Ok(());
        }
        if self.flags & flag::TF != 0 || self.has_breakpoints() || self.debugger_wants_step() {
            self.step_for_debugger()?;
        } else {
            let result = match self.shared.tier {
                Tier::Interpreter => self.execute(),
                Tier::Translator => {
                    self.translated_turns = self.translated_turns.wrapping_add(1);
                    if self.translated_turns.is_multiple_of(TELL) {
                        self.tell_counts();
                    }
                    self.execute_translated()
                }
                Tier::LockStep => {
                    let difference = |state| Exit::Failed { reason: DIFFERENCE.to_owned(), state };
                    self.execute_in_lock_step().map_err(difference)?
                }
            };
            if let Err(_fault) = result {
                // Delivered in the next turn, after what others ask for.
            }
        }
        self.vp.instructions.store(self.instructions, std::sync::atomic::Ordering::Relaxed);
        Ok(())
    }

    fn sleep(&mut self) {
        self.account();
        self.vp.set_in_guest(false);
        self.vp.sleep();
        self.vp.set_in_guest(true);
        self.running_since = Instant::now();
    }

    /// Delivers an NMI or interrupt that waits, if it can be taken now.
    fn deliver_waiting(&mut self) -> Result<bool, Exit> {
        if self.wait_for_sipi {
            return Ok(false);
        }
        if self.nmi_waiting && !self.nmi_blocked {
            self.nmi_waiting = false;
            self.nmi_blocked = true;
            self.wake();
            return self
                .deliver_interrupt(vector::NMI)
                .map(|()| true)
                .map_err(|lost| self.triple_fault(lost));
        }
        let enabled = self.flags & flag::IF != 0;
        if !self.interrupt_waiting || !(enabled || self.halted_ignoring_if) {
            return Ok(false);
        }
        if !self.apic.pending() {
            self.interrupt_waiting = false;
            return Ok(false);
        }
        self.wake();
        if !enabled {
            return Ok(true);
        }
        match self.apic.acknowledge() {
            Some(vector) => {
                self.deliver_interrupt(vector).map(|()| true).map_err(|lost| self.triple_fault(lost))
            }
            None => Ok(false),
        }
    }

    fn wake(&mut self) {
        self.halted = false;
        self.halted_ignoring_if = false;
    }

    /// Carries out one instruction, with single-step and breakpoint traps.
    pub(crate) fn step(&mut self) {
        let stepping = self.flags & flag::TF != 0;
        if self.has_breakpoints() && self.flags & flag::RF == 0 {
            let hit = self.instruction_breakpoints(self.linear_rip());
            if hit != 0 {
                self.exception = Some(debug_exception(hit));
                return;
            }
        }
        self.flags &= !flag::RF;
        self.step_spared = false;
        // Of an earlier instruction, if it is still there: it may have outlived its day, see STI.
        self.interrupt_shadow = false;
        if self.execute_one().is_err() {
            return;
        }
        let mut traps = std::mem::take(&mut self.pending_debug);
        if stepping && !self.step_spared {
            traps |= dr6::SINGLE_STEP;
        }
        if traps == 0 {
            return;
        }
        if self.interrupt_shadow {
            // After a load of SS traps wait for the next instruction.
            self.pending_debug = traps & !dr6::SINGLE_STEP;
            return;
        }
        self.exception = Some(debug_exception(traps));
    }

    /// Does what others have asked for.
    pub(crate) fn attend(&mut self, calls: u32) -> Result<(), Exit> {
        if calls & attention::RESET != 0 {
            self.power_on_reset();
        }
        if calls & attention::INIT != 0 {
            self.reset_registers(true);
            self.apic.init();
            self.apic_changed();
            if let Some(hypervisor) = &self.hypervisor {
                hypervisor.reset_processor(self.index);
            }
        }
        if calls & attention::STARTUP != 0 && self.wait_for_sipi {
            let vector = self.vp.startup_vector();
            self.load_real_segment(Seg::Cs, u16::from(vector) << 8);
            self.rip = 0;
            self.wait_for_sipi = false;
            self.vp.set_waits_for_start(false);
            self.mode_changed();
        }
        if calls & attention::START != 0
            && let Some(registers) = self.vp.take_start()
        {
            self.start_at(&registers);
        }
        if calls & attention::FORBID != 0 {
            self.forbid_asked_writes();
        }
        if calls & attention::FLUSH != 0 {
            let (vp, cr4) = (std::sync::Arc::clone(&self.vp), self.cr4);
            vp.carry_out_flushes(|flush| match flush {
                Some(flush) => self.mmu.flush(flush, cr4),
                None => self.mmu.flush_all(),
            });
        }
        if calls & attention::SHADOW != 0 {
            self.mmu.flush_all();
            // Also what has been decoded since by way of the TLB as it was.
            self.shared.code.range_written(SHADOW.start, SHADOW.end - SHADOW.start);
        }
        if calls & attention::NMI != 0 {
            self.nmi_waiting = true;
        }
        if calls & attention::INTERRUPT != 0 {
            self.interrupt_waiting = true;
        }
        if self.shared.stopped.load(std::sync::atomic::Ordering::SeqCst) {
            return Err(Exit::Stopped);
        }
        Ok(())
    }

    fn power_on_reset(&mut self) {
        self.apic.reset();
        self.reset_registers(false);
        if let Some(hypervisor) = &self.hypervisor {
            hypervisor.reset_processor(self.index);
        }
    }

    /// Carries out a reset that has been asked for while the processor did not run.
    fn reset_if_asked(&mut self) {
        let calls = self.vp.attention.fetch_and(!attention::RESET, std::sync::atomic::Ordering::SeqCst);
        if calls & attention::RESET != 0 {
            self.power_on_reset();
        }
    }

    fn triple_fault(&self, _lost: TripleFault) -> Exit {
        Exit::TripleFault { state: self.describe() }
    }

    /// The registers as text.
    pub fn describe(&self) -> String {
        use std::fmt::Write;
        let mut text = format!(
            "processor {} at {:04x}:{:016x}, flags {:08x}, privilege level {}{}\n",
            self.index,
            self.segments[Seg::Cs as usize].selector,
            self.rip,
            self.rflags(),
            self.cpl,
            if self.halted { ", halted" } else { "" },
        );
        const NAMES: [&str; 16] = [
            "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13",
            "r14", "r15",
        ];
        for (index, name) in NAMES.iter().enumerate() {
            let end = if index % 4 == 3 { '\n' } else { ' ' };
            let _infallible = write!(text, "{name:>3} {:016x}{end}", self.regs[index]);
        }
        for (name, segment) in ["es", "cs", "ss", "ds", "fs", "gs", "ldtr", "tr"]
            .into_iter()
            .zip(self.segments[..6].iter().chain([&self.ldtr, &self.tr]))
        {
            let _infallible = writeln!(
                text,
                "{name:>4} {:04x} base {:016x} limit {:08x} attributes {:05x}",
                segment.selector, segment.base, segment.limit, segment.attributes.0
            );
        }
        let _infallible = write!(
            text,
            "gdtr {:016x} limit {:04x} idtr {:016x} limit {:04x}\n\
             cr0 {:08x} cr2 {:016x} cr3 {:016x} cr4 {:08x} efer {:04x}",
            self.gdtr.base,
            self.gdtr.limit,
            self.idtr.base,
            self.idtr.limit,
            self.cr0,
            self.cr2,
            self.cr3,
            self.cr4,
            self.efer,
        );
        text
    }
}

fn debug_exception(dr6: u64) -> Exception {
    Exception { vector: vector::DEBUG, error_code: None, address: 0, dr6 }
}
