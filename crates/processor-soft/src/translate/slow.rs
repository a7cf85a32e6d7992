//! What generated code calls: an instruction of the interpreter, and accesses that the first level of the
//! TLB does not know.

use guest_memory::CodePages;
use iced_x86::Mnemonic;

use super::state::{Site, reason, slow};
use crate::op::{Flow, Op};
use crate::vcpu::Vcpu;

/// An instruction that generated code leaves to the interpreter.
pub struct Interpreted {
    pub ops: Box<[Op]>,
    /// [`crate::extension::ExtensionState::generation`] for which `ops` are good.
    pub thunks: u64,
    pub mnemonic: Mnemonic,
    /// How often it has run.
    pub runs: u64,
}

impl Vcpu {
    fn interpret(&mut self, interpreted: &mut Interpreted, site: Site) -> u64 {
        let start = self.generated.page + u64::from(site.start);
        if interpreted.thunks != self.extension.generation() {
            self.rip = start;
            return reason::LOOK_UP + 1;
        }
        interpreted.runs += 1;
        self.instructions += 1;
        let ended = CodePages::ended();
        let ready = self.generated.vectors_ready;
        let result = self.run_ops(&interpreted.ops, start);
        match result {
            Err(_) => return reason::FAULT + 1,
            Ok(Flow::Leave) if self.wants_run_loop() => return reason::LEAVE + 1,
            Ok(_) => {}
        }
        let goes_on = self.rip == self.generated.page + u64::from(site.next)
            && self.code_64()
            && self.code_key(self.rip) == self.generated.code_key
            && ended == CodePages::ended();
        if !goes_on {
            return reason::LOOK_UP + 1;
        }
        self.refresh();
        if ready > self.generated.vectors_ready { reason::LOOK_UP + 1 } else { 0 }
    }

    fn access(&mut self, linear: u64, site: Site) -> u64 {
        let (size, write) = (usize::from(site.size), site.write);
        if let Some(pointer) = self.mmu.promote(linear, size, write) {
            self.generated.pointer = pointer;
            return slow::PROCEED;
        }
        let ended = CodePages::ended();
        self.rip = self.generated.page + u64::from(site.start);
        if self.execute_one().is_err() {
            return slow::EXIT + reason::FAULT;
        }
        if ended != CodePages::ended() || self.rip != self.generated.page + u64::from(site.next) {
            return slow::EXIT + reason::LOOK_UP;
        }
        self.mmu.promote(linear, size, write);
        self.refresh();
        slow::DONE
    }
}

/// Carries out an instruction. 0 to go on behind it, else a reason plus 1.
///
/// # Safety
/// Called by generated code only, which has spilled all registers: `vcpu` is the processor that runs it and
/// `interpreted` belongs to its translator.
pub unsafe extern "sysv64" fn interpret(vcpu: *mut Vcpu, interpreted: *mut Interpreted, site: u64) -> u64 {
    // SAFETY: the caller's promise; while generated code runs nobody else uses either.
    let (vcpu, interpreted) = unsafe { (&mut *vcpu, &mut *interpreted) };
    vcpu.interpret(interpreted, Site::unpack(site))
}

/// An access that the first level does not know: a value of [`slow`].
///
/// # Safety
/// As for [`interpret`].
pub unsafe extern "sysv64" fn access(vcpu: *mut Vcpu, linear: u64, site: u64) -> u64 {
    // SAFETY: as for `interpret`.
    let vcpu = unsafe { &mut *vcpu };
    vcpu.access(linear, Site::unpack(site))
}
