//! The translator: 64-bit code becomes host code.
//!
//! ```text
//! execute_translated ─▶ jump cache ─▶ code ──────────────────────────┐ links, jump cache
//!                         │ miss        ▲                             └──▶ other blocks
//!                         ▼             │ enter / reason (stubs)
//!                       cache: by guest physical address
//!                         │ miss
//!                         ▼
//!        block (which instructions, live flags) ─▶ classify ─▶ lower ─▶ arena
//! ```
//!
//! Host and guest speak the same language: most instructions are re-emitted as they are, with guest
//! registers in the host registers of the same number and guest flags in the host's flags. Memory operands
//! go through the first level of the software TLB, inline. What is not translated is done by the
//! interpreter's handlers, called from the generated code; code that is not 64-bit is interpreted
//! altogether.
//!
//! Blocks are found by guest physical address and do not depend on where they are mapped. A block is valid
//! while its page's word in [`guest_memory::CodePages`] is unchanged. Pages that hold code are not in the
//! first level for writes, so that every store to them comes to Rust.
//!
//! Vector instructions run natively while all register components that the host offers are enabled and
//! MXCSR masks all exceptions; otherwise each is interpreted from the run loop. x87 and MMX are interpreted.
//!
//! Approximations: flags that are written before they are read may have any value while an exception or an
//! interrupt is taken between. [`Vcpu::instructions`] counts interpreted instructions only. Code of the
//! running page that another processor changes runs on until this processor looks up from its blocks.

mod block;
mod cache;
mod classify;
mod emit;
mod first_level;
mod lower;
mod slow;
mod state;
mod stubs;
#[cfg(test)]
mod tests;

use std::cell::Cell;
use std::sync::atomic::Ordering;

use guest_memory::{CodePages, PageState};

pub use cache::Translator;
pub use first_level::FirstLevel;
pub use state::Shared;

use crate::extension::{Host, MXCSR_MASKS};
use crate::fault::Fault;
use crate::registers::{cr0, cr4, flag, gpr};
use crate::vcpu::Vcpu;

use state::{Jump, reason};

/// What a look-up of RIP has come to.
enum Found {
    Code(u64),
    /// The instruction cannot be translated where it is.
    Interpret,
}

/// How a block that ran alone has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlockEnd {
    /// Elsewhere.
    GoOn,
    /// Before an instruction that the interpreter is to do.
    Interpret,
    /// The run loop is wanted.
    Leave,
}

thread_local! {
    /// Base of the thread's GS segment, 0 if it has never been set.
    static GS_BASE: Cell<usize> = const { Cell::new(0) };
}

/// Makes `address` the base of the thread's GS segment.
fn set_gs_base(address: usize) {
    const ARCH_SET_GS: libc::c_int = 0x1001;
    if GS_BASE.get() != address {
        // SAFETY: nothing but generated code uses GS; the call changes no memory.
        let result = unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_SET_GS, address) };
        assert_eq!(result, 0, "the kernel refuses to set the base of GS");
        GS_BASE.set(address);
    }
}

impl Vcpu {
    /// As [`Self::execute`], with 64-bit code translated.
    pub fn execute_translated(&mut self) -> Result<(), Fault> {
        let translator = self.translator.take().map_or_else(Translator::new, Ok);
        let mut translator = match translator {
            Ok(translator) => translator,
            // Told once by `Translator::new`.
            Err(_) => return self.execute(),
        };
        let result = self.run_translated(&mut translator);
        self.translator = Some(translator);
        result
    }

    fn run_translated(&mut self, translator: &mut Translator) -> Result<(), Fault> {
        let this = std::ptr::from_mut(self);
        set_gs_base(this.addr());
        self.generated.vcpu = this;
        self.generated.attention = &raw const self.vp.attention;
        self.generated.jumps = translator.jumps();
        loop {
            if self.vp.attention.load(Ordering::Relaxed) != 0 {
                return Ok(());
            }
            if !self.code_64() {
                return self.execute();
            }
            let code = match self.find_code(translator)? {
                Found::Code(code) => code,
                Found::Interpret => return self.execute_one(),
            };
            self.refresh();
            self.generated.vectors_before = 0;
            self.generated.page = self.rip & !0xfff;
            self.generated.code_key = self.code_key(self.rip);
            self.generated.key = translator.key(self.generated.code_key);
            match translator.enter(code) {
                reason::LOOK_UP => {}
                reason::MISS => self.check_transfer()?,
                reason::STEP => return self.execute_one(),
                reason::FAULT => {
                    if let Some(fault) = self.pending_fault() {
                        return Err(fault);
                    }
                }
                reason::LEAVE if !self.wants_run_loop() => {}
                _ => return Ok(()),
            }
        }
    }

    /// Runs the translated block at RIP and nothing after it.
    pub fn run_one_block(&mut self) -> Result<BlockEnd, Fault> {
        let translator = self.translator.take().map_or_else(Translator::new, Ok);
        let Ok(mut translator) = translator else { return Ok(BlockEnd::Interpret) };
        translator.unlinked = true;
        let this = std::ptr::from_mut(self);
        set_gs_base(this.addr());
        self.generated.vcpu = this;
        self.generated.attention = &raw const self.vp.attention;
        self.generated.jumps = translator.jumps();
        let result = self.find_code(&mut translator).map(|found| match found {
            Found::Interpret => BlockEnd::Interpret,
            Found::Code(code) => {
                self.refresh();
                self.generated.vectors_before = 0;
                self.generated.page = self.rip & !0xfff;
                self.generated.code_key = self.code_key(self.rip);
                // That of no entry of the jump cache.
                self.generated.key = 0;
                match translator.enter(code) {
                    reason::STEP => BlockEnd::Interpret,
                    reason::MISS => match self.check_transfer() {
                        Ok(()) => BlockEnd::GoOn,
                        // The exception waits.
                        Err(_) => BlockEnd::Leave,
                    },
                    reason::LEAVE if self.wants_run_loop() => BlockEnd::Leave,
                    reason::ATTENTION => BlockEnd::Leave,
                    _ => BlockEnd::GoOn,
                }
            }
        });
        self.translator = Some(translator);
        match self.pending_fault() {
            Some(fault) => Err(fault),
            None => result,
        }
    }

    /// Whether the run loop has something to do before the next instruction.
    fn wants_run_loop(&self) -> bool {
        self.vp.attention.load(Ordering::Relaxed) != 0
            || self.exception.is_some()
            || self.deferred.is_some()
            || self.interrupt_waiting
            || self.nmi_waiting
            || self.halted
            || self.wait_for_sipi
            || self.flags & flag::TF != 0
            || self.pending_debug != 0
            || self.has_breakpoints()
    }

    /// Whether the instructions that use vector registers may run natively: all of them are enabled, and
    /// none traps.
    fn vectors_ready(&self) -> bool {
        let host = Host::get().xcr0;
        self.cr0 & (cr0::TS | cr0::EM) == 0
            && self.cr4_has(cr4::OSFXSR | cr4::OSXSAVE)
            && self.xcr0 & host == host
            && self.extension.image.mxcsr & MXCSR_MASKS == MXCSR_MASKS
    }

    /// Finds the code of RIP, by way of the jump cache.
    fn find_code(&mut self, translator: &mut Translator) -> Result<Found, Fault> {
        let ended = CodePages::ended();
        if translator.ended != ended {
            translator.ended = ended;
            translator.forget_keys();
            self.call_others();
        }
        self.relieve_blocks();
        if translator.thunks != self.extension.generation() {
            translator.thunks = self.extension.generation();
            translator.clear();
        }
        let (rip, key) = (self.rip, translator.key(self.code_key(self.rip)));
        let jump = translator.jump(rip);
        if jump.rip == rip && jump.key == key {
            return Ok(Found::Code(jump.code));
        }
        let page = self.code_page(rip)?;
        if page.host.is_none() {
            return Ok(Found::Interpret);
        }
        let state = self.mark_code(page.gpa);
        let code = match translator.code(self, page.gpa, state) {
            Some(code) => code,
            None => {
                let second = self.code_page((rip | 0xfff).wrapping_add(1))?;
                if second.host.is_none() {
                    return Ok(Found::Interpret);
                }
                let second = (second.gpa, self.mark_code(second.gpa));
                match translator.crossing(self, (page.gpa, state), second) {
                    Some(code) => code,
                    None => return Ok(Found::Interpret),
                }
            }
        };
        // The key may have changed since, by the fetch itself.
        let key = translator.key(self.code_key(rip));
        *translator.jump(rip) = Jump { rip, key, code };
        Ok(Found::Code(code))
    }

    /// Tells the other processors that code has been overwritten.
    fn call_others(&self) {
        for (index, vp) in self.shared.vps.iter().enumerate() {
            if index != self.index as usize {
                vp.call(crate::partition::attention::CODE);
            }
        }
    }

    /// Says that code of the page of `gpa` is about to be decoded. The page leaves the tables by which
    /// generated code stores; the word to remember.
    pub fn mark_code(&mut self, gpa: u64) -> PageState {
        let gfn = gpa >> 12;
        if self.shared.code.holds_code(gfn) {
            return self.shared.code.state(gfn);
        }
        let state = self.shared.code.mark(gfn);
        let host = self.mmu.host.pointer(gpa).addr() as u64;
        self.mmu.first_level.forbid_writes(host);
        state
    }

    /// Tells generated code where things are that may have moved: the tables of the present space and class,
    /// the vector registers.
    fn refresh(&mut self) {
        self.generated.image = &raw mut *self.extension.image;
        self.generated.vectors_ready = u32::from(self.vectors_ready());
        self.mmu.switch_first_level();
        (self.generated.read_table, self.generated.write_table) = self.mmu.first_level.pointers();
    }

    /// A transfer to an address that is not canonical faults itself: what it has done is undone.
    fn check_transfer(&mut self) -> Result<(), Fault> {
        if self.canonical(self.rip) || self.generated.transfer_start == state::NO_CHECK as u64 {
            return Ok(());
        }
        self.rip = self.generated.page + self.generated.transfer_start;
        self.regs[gpr::RSP] = self.regs[gpr::RSP].wrapping_add(self.generated.transfer_release);
        Err(self.general_protection())
    }
}
