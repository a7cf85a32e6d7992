//! The translator: 64-bit code, and 32-bit code in flat segments, becomes host code.
//!
//! ```text
//! execute_translated ─▶ jump cache ─▶ code ──────────────────────────┐ links, jump cache
//!                         │ miss        ▲                             └──▶ other blocks
//!                         ▼             │ enter / reason (stubs)
//!                       cache: by guest physical address
//!                         │ miss ─▶ library: what another processor has translated ──────────┐
//!                         ▼                                                                 ▼
//!        block (which instructions, live flags) ─▶ classify ─▶ lower ─▶ arena
//! ```
//!
//! Host and guest speak the same language: most instructions are re-emitted as they are, with guest
//! registers in the host registers of the same number and guest flags in the host's flags. Memory operands
//! go through the first level of the software TLB, inline; accesses off the same base share a look-up
//! ([`plan`]). What is not translated is done by the interpreter's handlers, called from the generated code;
//! code of other modes is interpreted altogether.
//!
//! Blocks are found by guest physical address and [mode] and do not depend on where they are mapped.
//! Jumps within a page are linked for good; jumps to other pages while the address space is the one for which
//! they were linked. Returns go through the jump cache as other indirect jumps do: the host's RSP is the guest's, so that
//! its own return predictor is out of reach, and a stack of return addresses beside it would cost at CALL what it saves
//! at RET. When a page that holds blocks is written, the ways into its blocks are made to lead out;
//! a block is made good again if what it was made of turns out to be the same. Pages that hold code are not
//! in the first level for writes, on no processor, so that every store to them comes to Rust.
//!
//! Vector, x87 and MMX instructions run natively while all register components that the host offers are
//! enabled and MXCSR and FCW mask all exceptions; otherwise each is interpreted from the run loop.
//!
//! Approximations: flags that are written before they are read may have any value while an exception or an
//! interrupt is taken between. FIP, FDP and FOP read as 0 after x87 instructions that have run natively: what
//! reads them is handlers of exceptions that are not masked. [`Vcpu::instructions`] counts interpreted instructions only. Code of the
//! running page that another processor changes runs on until this processor looks up from its blocks.

mod block;
mod cache;
mod classify;
mod compat;
mod counts;
mod emit;
mod fast_call;
mod first_level;
mod inspect;
mod library;
mod lower;
mod mode;
mod plan;
mod slow;
mod state;
mod stubs;
#[cfg(test)]
mod tests;

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use guest_memory::PageState;

pub use cache::Translator;
pub use counts::Totals;
pub use first_level::{FirstLevel, WritableFilter};
pub use inspect::Inspection;
pub use library::Library;
pub use state::Shared;

use crate::extension::{Host, MXCSR_MASKS};
use crate::fault::Fault;
use crate::memory::Class;
use crate::registers::{cr0, cr4, flag, gpr};
use crate::vcpu::Vcpu;

use cache::Found;
use mode::Mode;
use state::{Jump, Switch, loaded, reason};

/// All signals blocked for this thread, as long as this lives: generated code has no stack for a handler.
pub struct Signals(libc::sigset_t);

impl Signals {
    /// Blocks all signals.
    pub fn block() -> Self {
        let mut before = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: both sets are the thread's own; the calls fill them and change its mask only.
        unsafe {
            let mut all = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
            libc::sigfillset(all.as_mut_ptr());
            libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr());
            Self(before.assume_init())
        }
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        // SAFETY: the set is the one that the thread had.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.0, std::ptr::null_mut()) };
    }
}

/// Whether the host lets programs set the bases of FS and GS, which generated code lives on.
fn bases_can_be_set() -> bool {
    const HWCAP2_FSGSBASE: u64 = 1 << 1;
    // SAFETY: a query without side effects.
    unsafe { libc::getauxval(libc::AT_HWCAP2) & HWCAP2_FSGSBASE != 0 }
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

/// Number of the last page of 32-bit code, in which RIP might reach 4 GiB.
const LAST_PAGE: u64 = 0xf_ffff;

/// Runs generated code until it comes back with a reason.
///
/// # Safety
/// `way_in` is the stub of the translator to which the block at `code`, a way in with flags in `status`,
/// belongs; GS leads to the processor that it was made for, and nobody else uses either.
unsafe fn enter(way_in: u64, code: u64) -> u64 {
    // SAFETY: the stub was generated for this signature and keeps the ABI's registers.
    unsafe {
        let enter: unsafe extern "sysv64" fn(u64) -> u64 = std::mem::transmute(way_in as *const ());
        enter(code)
    }
}

impl Vcpu {
    /// As [`Self::execute`], with 64-bit code and most 32-bit code translated.
    pub fn execute_translated(&mut self) -> Result<(), Fault> {
        match self.with_translator(Self::run_translated) {
            Some(result) => result,
            None => self.execute(),
        }
    }

    /// Runs `f` with the translator, by pointer: what is called from generated code uses it too. `None` if
    /// the host does not allow one.
    fn with_translator<T>(&mut self, f: impl FnOnce(&mut Self, *mut Translator) -> T) -> Option<T> {
        let processors = self.shared.vps.len();
        let new = || Translator::new(processors, Arc::clone(&self.shared.inspection));
        // An error is told once, by `Translator::new`.
        let translator = Box::into_raw(self.translator.take().map_or_else(new, Ok).ok()?);
        let this = std::ptr::from_mut(self);
        set_gs_base(this.addr());
        self.generated.vcpu = this;
        self.generated.translator = translator;
        self.generated.attention = &raw const self.vp.attention;
        self.generated.writable = self.vp.writable.bits();
        let result = f(self, translator);
        // SAFETY: it came from a box above; nobody has kept the pointer.
        self.translator = Some(unsafe { Box::from_raw(translator) });
        Some(result)
    }

    fn run_translated(&mut self, translator: *mut Translator) -> Result<(), Fault> {
        // Why generated code came back the last time.
        let mut reason = reason::LOOK_UP;
        loop {
            if self.vp.attention.load(Ordering::Relaxed) != 0 || self.debugger_holds() {
                return Ok(());
            }
            if self.block_mode().is_none() {
                return self.execute();
            }
            // SAFETY: `translator` is alive, and generated code, which uses it too, does not run now.
            let known = unsafe { &mut *translator };
            let Some(found) = self.find_code(known, reason)? else { return self.execute_one() };
            if reason == reason::LINK && self.block_key(self.rip) == self.generated.code_key {
                let counts = self.rip >> 63 == 0;
                known.link_crossroad(self.generated.crossroad, self.generated.key, found, counts);
            }
            let way_in = self.prepare(known);
            self.generated.loaded_before = 0;
            // SAFETY: the block was just found, and `prepare` has set what it needs.
            reason = unsafe { enter(way_in, found.saved) };
            self.access_changed();
            // SAFETY: as above.
            unsafe { &mut *translator }.came_back(reason);
            match reason {
                reason::LOOK_UP | reason::STALE | reason::PLAIN => {}
                reason::MISS | reason::LINK | reason::CROSS => {
                    // SAFETY: as above.
                    self.finish_transfer(unsafe { &*translator }, reason)?;
                }
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

    /// From within generated code: where to go on at an RIP that is not behind the instruction. What
    /// [`slow::interpret`] answers.
    fn go_on_elsewhere(&mut self) -> u64 {
        if self.block_mode().is_none() || self.vp.attention.load(Ordering::Relaxed) != 0 {
            return slow::leave(reason::LOOK_UP);
        }
        // SAFETY: `run_translated` has set it and does not use it while generated code runs.
        let translator = unsafe { &mut *self.generated.translator };
        if translator.unlinked {
            return slow::leave(reason::LOOK_UP);
        }
        match self.find_code(translator, reason::LOOK_UP) {
            Ok(Some(found)) => {
                self.prepare(translator);
                if self.loaded_too_much() { slow::leave(reason::LOOK_UP) } else { found.saved }
            }
            Ok(None) => slow::leave(reason::LOOK_UP),
            Err(_) => slow::leave(reason::FAULT),
        }
    }

    /// Adds what has been counted to the registry.
    pub fn tell_counts(&mut self) {
        let (Some(totals), Some(translator)) = (&self.shared.totals, &mut self.translator) else { return };
        translator.counts.second_level = self.generated.second_level;
        translator.counts.look_ups = self.generated.look_ups;
        totals.add(&translator.counts, &mut translator.told);
    }

    /// Sets what generated code needs to know of RIP and the present mode. The stub that enters it.
    fn prepare(&mut self, translator: &mut Translator) -> u64 {
        self.refresh();
        self.generated.page = self.rip & !0xfff;
        self.generated.half = self.rip >> 63;
        self.generated.mode = self.block_mode().map_or(0, Mode::number);
        self.generated.code_key = self.block_key(self.rip);
        self.generated.key = translator.key(self.generated.code_key);
        self.generated.jumps = translator.jumps();
        self.generated.code_entries = self.mmu.code_entries(self.cpl == 3);
        translator.way_in()
    }

    /// Runs the translated block at RIP and nothing after it.
    pub fn run_one_block(&mut self) -> Result<BlockEnd, Fault> {
        let result = self.with_translator(Self::run_alone).unwrap_or(Ok(BlockEnd::Interpret));
        match self.pending_fault() {
            Some(fault) => Err(fault),
            None => result,
        }
    }

    fn run_alone(&mut self, translator: *mut Translator) -> Result<BlockEnd, Fault> {
        let (start, mut reason) = (self.rip, reason::MISS);
        loop {
            // SAFETY: as in `run_translated`.
            let known = unsafe { &mut *translator };
            known.unlinked = true;
            let Some(found) = self.find_code(known, reason)? else { return Ok(BlockEnd::Interpret) };
            let way_in = self.prepare(known);
            self.generated.loaded_before = 0;
            // Those of no entry of the jump cache.
            (self.generated.key, self.generated.half) = (0, u64::MAX);
            self.generated.fast_calls.close();
            // SAFETY: as in `run_translated`.
            reason = unsafe { enter(way_in, found.saved) };
            self.access_changed();
            return Ok(match reason {
                // Another block of the same instructions is needed.
                reason::STALE | reason::PLAIN if self.rip == start => continue,
                reason::STEP => BlockEnd::Interpret,
                reason::MISS | reason::LINK | reason::CROSS => {
                    // SAFETY: as in `run_translated`.
                    match self.finish_transfer(unsafe { &*translator }, reason) {
                        Ok(()) => BlockEnd::GoOn,
                        // The exception waits.
                        Err(_) => BlockEnd::Leave,
                    }
                }
                reason::LEAVE if self.wants_run_loop() => BlockEnd::Leave,
                reason::ATTENTION => BlockEnd::Leave,
                _ => BlockEnd::GoOn,
            });
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

    /// The extension registers whose instructions may run natively, a value of [`loaded`]: all of them are
    /// enabled, and none traps.
    fn may_load(&self) -> u8 {
        let host = Host::get().xcr0;
        let image = &self.extension.image;
        let vectors = self.cr0 & (cr0::TS | cr0::EM) == 0
            && self.cr4_has(cr4::OSFXSR | cr4::OSXSAVE)
            && self.xcr0 & host == host
            && image.mxcsr & MXCSR_MASKS == MXCSR_MASKS;
        match vectors {
            false => loaded::NONE,
            true if image.x87_masked() => loaded::X87,
            true => loaded::VECTORS,
        }
    }

    /// Whether generated code that is about to go on would load extension registers that it may not use any
    /// more.
    fn loaded_too_much(&self) -> bool {
        self.generated.loaded_before > self.generated.may_load
    }

    /// Finds the block at RIP, by way of the jump cache if that can be trusted; `why` generated code came
    /// back. `None` if the instruction cannot be translated where it is.
    fn find_code(&mut self, translator: &mut Translator, why: u64) -> Result<Option<Found>, Fault> {
        self.end_written_code(translator);
        if translator.renew_keys() {
            self.generated.fast_calls.close();
        }
        self.relieve_blocks();
        if self.debugger_holds() {
            return Ok(None);
        }
        let Some(mode) = self.block_mode() else { return Ok(None) };
        if !mode.long() && self.rip >> 12 >= LAST_PAGE {
            return Ok(None);
        }
        let (rip, key) = (self.rip, translator.key(self.block_key(self.rip)));
        if why == reason::LOOK_UP {
            let jump = translator.jump(rip);
            if jump.rip == rip && jump.key == key {
                return Ok(Some(Found { saved: jump.code, resume: jump.code }));
            }
        }
        let page = self.code_page(rip)?;
        if page.host.is_none() {
            return Ok(None);
        }
        let state = self.mark_code(page.gpa);
        let mut only = page.gpa & !0xfff | mode.number();
        let found = match translator.block(self, page.gpa, state, why == reason::PLAIN) {
            Some(found) => found,
            None => {
                let second = self.code_page((rip | 0xfff).wrapping_add(1))?;
                if second.host.is_none() {
                    return Ok(None);
                }
                let second = (second.gpa, self.mark_code(second.gpa));
                only = state::NO_PAGE;
                match translator.crossing(self, (page.gpa, state), second) {
                    Some(found) => found,
                    None => return Ok(None),
                }
            }
        };
        if why != reason::PLAIN {
            // The key may have changed since, by the fetch itself.
            let key = translator.key(self.block_key(rip));
            *translator.jump(rip) = Jump { rip, key, code: found.saved, page: only };
        }
        Ok(Some(found))
    }

    /// Bars the blocks of pages that have been written, and tells the other processors.
    fn end_written_code(&mut self, translator: &mut Translator) {
        let code = &self.shared.code;
        let ended = code.ended();
        self.generated.ended = ended;
        if translator.ended == ended {
            return;
        }
        let from = std::mem::replace(&mut translator.ended, ended);
        if !code.ended_between(from, ended, |gfn| translator.end_page(code, gfn)) {
            translator.end_pages(code);
        }
        self.call_others();
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
    /// generated code stores, on all processors; the word to remember.
    pub fn mark_code(&mut self, gpa: u64) -> PageState {
        let gfn = gpa >> 12;
        if self.shared.code.holds_code(gfn) {
            return self.shared.code.state(gfn);
        }
        let state = self.shared.code.mark(gfn);
        let host = self.mmu.host.pointer(gpa).addr() as u64;
        self.mmu.first_level.forbid_writes(host);
        self.forbid_writes_elsewhere(host);
        state
    }

    /// Waits until no other processor's generated code stores to the page at `host`.
    fn forbid_writes_elsewhere(&mut self, host: u64) {
        let shared = Arc::clone(&self.shared);
        let asked: Vec<_> = shared
            .vps
            .iter()
            .enumerate()
            .filter(|(index, vp)| *index != self.index as usize && vp.writable.contains(host))
            .map(|(_, vp)| (vp, vp.ask_forbid(host)))
            .collect();
        for (vp, number) in asked {
            vp.await_forbid(number, || self.forbid_asked_writes());
        }
    }

    /// Does what others have asked for by [`crate::partition::VpShared::ask_forbid`].
    pub fn forbid_asked_writes(&mut self) {
        let vp = Arc::clone(&self.vp);
        vp.carry_out_forbids(|host| match host {
            Some(host) => self.mmu.first_level.forbid_writes(host),
            None => self.mmu.first_level.forbid_all_writes(),
        });
    }

    /// Tells generated code where things are that may have moved: the tables of the present space and class,
    /// the vector registers.
    fn refresh(&mut self) {
        self.generated.image = &raw mut *self.extension.image;
        self.generated.may_load = u32::from(self.may_load());
        self.generated.time_offset = self.shared.clock.tsc_offset().wrapping_add(self.msrs.tsc_offset);
        self.generated.time_barred = u8::from(self.cpl != 0 && self.cr4_has(cr4::TSD));
        self.mmu.switch_first_level();
        self.generated.tables = self.mmu.first_level.tables(self.mmu.class());
        if self.cpl == 0 {
            let barred = if self.cr4_has(cr4::SMAP) { Class::Supervisor } else { Class::SupervisorAndUser };
            self.generated.stac = self.switch_to(Class::SupervisorAndUser);
            self.generated.clac = self.switch_to(barred);
        }
        self.check_fast_calls();
    }

    fn switch_to(&mut self, class: Class) -> Switch {
        Switch {
            tables: self.mmu.first_level.tables(class),
            entries: self.mmu.entries_of(class),
            class: class as u64,
        }
    }

    /// Generated code came back from a transfer: where it goes to.
    fn finish_transfer(&mut self, translator: &Translator, reason: u64) -> Result<(), Fault> {
        if reason != reason::MISS {
            let ahead = translator.crossing_target(self.generated.crossroad);
            if reason == reason::LINK {
                self.rip = self.generated.page.wrapping_add(ahead.target as u64);
                if !self.code_64() {
                    self.rip &= u64::from(u32::MAX);
                }
            }
            self.generated.transfer = lower::pack_transfer(ahead.start, ahead.release);
        }
        self.check_transfer()
    }

    /// A transfer to an address that is not canonical faults itself: what it has done is undone.
    fn check_transfer(&mut self) -> Result<(), Fault> {
        let (start, release) = (self.generated.transfer as u16, self.generated.transfer >> 16);
        if self.canonical(self.rip) || i32::from(start) == state::NO_CHECK {
            return Ok(());
        }
        self.rip = self.generated.page + u64::from(start);
        self.regs[gpr::RSP] = self.regs[gpr::RSP].wrapping_add(release as u64);
        Err(self.general_protection())
    }
}
