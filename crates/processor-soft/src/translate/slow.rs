//! What generated code calls: an instruction of the interpreter, and accesses that no level of the TLB knows.

use iced_x86::{Instruction, Mnemonic};

use super::block::PAGE;
use super::counts::Counts;
use super::lower::Instructed;
use super::state::{Site, reason, slow};
use crate::execute::decode_one;
use crate::op::{Flow, Op};
use crate::vcpu::Vcpu;

/// An instruction that generated code leaves to the interpreter.
pub struct Interpreted {
    pub instruction: Instructed,
    /// Made when it runs first.
    ops: Box<[Op]>,
    /// [`crate::extension::ExtensionState::generation`] for which `ops` are good.
    thunks: Option<u64>,
    /// How often it has run.
    pub runs: u64,
}

impl Interpreted {
    pub fn new(instruction: Instructed) -> Self {
        Self { instruction, ops: Box::default(), thunks: None, runs: 0 }
    }

    /// What the interpreter runs.
    fn ops(&mut self, cpu: &mut Vcpu) -> &[Op] {
        if self.thunks != Some(cpu.extension.generation()) {
            cpu.relieve_blocks();
            self.ops = decode_one(cpu, self.instruction.code()).unwrap_or_default();
            self.thunks = Some(cpu.extension.generation());
        }
        &self.ops
    }
}

/// Whether an instruction is [`Instructed::quiet`]: those that are interpreted often.
pub fn is_quiet(instruction: &Instruction) -> bool {
    use Mnemonic as M;
    matches!(
        instruction.mnemonic(),
        M::Stosb
            | M::Stosd
            | M::Stosq
            | M::Movsb
            | M::Movsq
            | M::Cmpsb
            | M::Scasb
            | M::Bt
            | M::Bts
            | M::Btr
            | M::Btc
            | M::Rdtscp
    )
}

/// What [`interpret`] answers to go on behind the instruction.
const GO_ON: u64 = 0;

/// What it answers to leave generated code; anything from [`super::stubs::ADDRESSES`] on is where to go on.
pub fn leave(reason: u64) -> u64 {
    reason + 1
}

impl Vcpu {
    /// # Safety
    /// `interpreted` belongs to the translator that runs.
    unsafe fn interpret(&mut self, interpreted: *mut Interpreted, site: Site) -> u64 {
        let start = self.generated.page + u64::from(site.start);
        // SAFETY: it lives until the translator forgets its blocks, at the earliest in the look-up below, before
        // which this reference ends.
        let interpreted = unsafe { &mut *interpreted };
        let Instructed { mnemonic, quiet, .. } = interpreted.instruction;
        interpreted.runs += 1;
        self.translator_counts().interpreted += 1;
        self.instructions += 1;
        let ops = interpreted.ops(self);
        let result = self.run_ops(ops, start);
        match result {
            Err(_) => return leave(reason::FAULT),
            Ok(Flow::Leave) if self.wants_run_loop() => return leave(reason::LEAVE),
            Ok(_) => {}
        }
        let goes_on = self.rip == self.generated.page + u64::from(site.next)
            && self.block_key(self.rip) == self.generated.code_key
            && self.shared.code.ended() == self.generated.ended;
        if !goes_on {
            let answer = self.go_on_elsewhere();
            if matches!(mnemonic, Mnemonic::Syscall | Mnemonic::Sysretq) && answer >= super::stubs::ADDRESSES
            {
                self.open_fast_calls();
            }
            return answer;
        }
        if quiet {
            return GO_ON;
        }
        self.refresh();
        if self.loaded_too_much() { leave(reason::LOOK_UP) } else { GO_ON }
    }

    /// Of the translator that runs.
    fn translator_counts(&mut self) -> &mut Counts {
        // SAFETY: `run_translated` has set it and does not use it while generated code runs.
        unsafe { &mut (*self.generated.translator).counts }
    }

    fn access(&mut self, linear: u64, site: Site) -> u64 {
        self.access_changed();
        let (size, write) = (usize::from(site.size), site.write);
        self.rip = self.generated.page + u64::from(site.start);
        if self.execute_one().is_err() {
            self.translator_counts().faults += 1;
            return slow::EXIT + reason::FAULT;
        }
        if self.shared.code.ended() != self.generated.ended {
            self.translator_counts().code_writes += 1;
            return slow::EXIT + reason::LOOK_UP;
        }
        if self.rip != self.generated.page + u64::from(site.next) {
            return slow::EXIT + reason::LOOK_UP;
        }
        let filled = self.mmu.promote(linear, size, write);
        let counts = self.translator_counts();
        if filled {
            counts.filled += 1;
        } else if (linear & 0xfff) as usize + size > PAGE {
            counts.split += 1;
        } else {
            counts.uncached += 1;
        }
        self.refresh();
        if self.loaded_too_much() { slow::EXIT + reason::LOOK_UP } else { slow::DONE }
    }
}

/// Carries out an instruction. [`GO_ON`], what [`leave`] says, or the address of the block at the new RIP.
///
/// # Safety
/// Called by generated code only, which has spilled all registers: `vcpu` is the processor that runs it and
/// `interpreted` belongs to its translator.
pub unsafe extern "sysv64" fn interpret(vcpu: *mut Vcpu, interpreted: *mut Interpreted, site: u64) -> u64 {
    // SAFETY: the caller's promise; while generated code runs nobody else uses either.
    unsafe { (*vcpu).interpret(interpreted, Site::unpack(site)) }
}

/// An access that the TLB does not know: a value of [`slow`].
///
/// # Safety
/// As for [`interpret`].
pub unsafe extern "sysv64" fn access(vcpu: *mut Vcpu, linear: u64, site: u64) -> u64 {
    // SAFETY: as for `interpret`.
    let vcpu = unsafe { &mut *vcpu };
    vcpu.access(linear, Site::unpack(site))
}
