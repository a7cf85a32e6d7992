//! The two tiers in lock step, for tests: blocks run interpreted and translated, and the first difference ends
//! the machine.
//!
//! ```text
//! registers, flags ─┬─▶ interpreter, instruction by instruction ──▶ states, stores (journal)
//!                   │                                                   │ undo
//!                   └─▶ the translated block, alone ──▶ state, memory ──┴─▶ equal?
//! ```
//!
//! The interpreter goes ahead along the straight line from RIP. The translated block may end anywhere on that
//! line: what counts is the interpreter's state there. While the interpreter goes ahead every access takes
//! the slow path, where stores are noted ([`Journal`]); what it has stored is undone before the translated
//! block runs. The machine goes on with what the translated block has left.
//!
//! What cannot be done twice (devices, time, system instructions) is done once, by the interpreter, and the
//! instructions of the same straight line before it are not compared. A block that has been compared often
//! is compared now and then only.
//!
//! A difference counts if it is there again with an empty TLB: otherwise a page table was about to change, and
//! one level of the TLB knew.
//!
//! Not seen: 32-bit code; stores of the translator to places where the interpreter stores nothing; accessed and dirty
//! bits; flags that are not read by the instructions that follow. Devices that access RAM by themselves at
//! the same time (the synthetic ones) would see stores undone: this is for machines without them, and with
//! one processor.

mod journal;
#[cfg(test)]
mod tests;

use std::fmt::Write;
use std::sync::atomic::Ordering;

use iced_x86::{Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic, OpKind, RflagsBits};

pub use journal::Journal;

use crate::extension::Image;
use crate::fault::{Exception, Fault};
use crate::registers::flag;
use crate::translate::BlockEnd;
use crate::vcpu::Vcpu;

/// Instructions that the interpreter goes ahead at most: no block is longer.
const AHEAD: usize = 64;
/// How often a block is compared before that becomes rare.
const OFTEN: u32 = 32;
/// How rare: one time in so many.
const RARELY: u32 = 64;
/// Blocks whose runs are counted at a time.
const SLOTS: usize = 1 << 18;
/// Instructions behind a block that are looked at for the flags they read.
const LOOK_AHEAD: usize = 16;

/// What a processor in lock step remembers.
pub struct LockStep {
    /// How often the block at a guest physical address has run; of two that share a slot the last one.
    runs: Vec<(u64, u32)>,
    /// Blocks that have been compared, could not be, and all.
    pub compared: u64,
    pub once_only: u64,
    /// Comparisons that came out right when the TLB was empty.
    pub retried: u64,
    pub blocks: u64,
}

impl Default for LockStep {
    fn default() -> Self {
        Self { runs: vec![(u64::MAX, 0); SLOTS], compared: 0, once_only: 0, retried: 0, blocks: 0 }
    }
}

impl LockStep {
    /// Counts a run of the block at `gpa`, and tells whether it is to be compared.
    fn counts(&mut self, gpa: u64) -> bool {
        self.blocks += 1;
        let slot = gpa.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - SLOTS.trailing_zeros());
        let (of, runs) = &mut self.runs[slot as usize];
        *runs = if *of == gpa { runs.saturating_add(1) } else { 1 };
        *of = gpa;
        *runs <= OFTEN || runs.is_multiple_of(RARELY)
    }
}

impl Drop for LockStep {
    fn drop(&mut self) {
        let Self { compared, once_only, retried, blocks, .. } = self;
        tracing::info!(blocks, compared, once_only, retried, "lock step ends");
    }
}

/// Registers that instructions in lock step change.
#[derive(Clone)]
struct State {
    general: [u64; 16],
    rip: u64,
    flags: u64,
    status: u32,
    instructions: u64,
    image: Box<Image>,
}

/// Where the interpreter has come to.
struct Step {
    state: State,
    /// Places stored to so far.
    stores: usize,
}

/// How the interpreter's way ended.
enum End {
    /// The line does.
    Line,
    Fault(Exception),
    /// The next instruction cannot be done twice.
    OnceOnly,
}

impl Vcpu {
    /// As [`Self::execute_translated`], with blocks compared. `Err` tells a difference.
    pub fn execute_in_lock_step(&mut self) -> Result<Result<(), Fault>, String> {
        let mut lock_step = self.lock_step.take().unwrap_or_default();
        let result = self.run_in_lock_step(&mut lock_step);
        self.lock_step = Some(lock_step);
        result
    }

    fn run_in_lock_step(&mut self, lock_step: &mut LockStep) -> Result<Result<(), Fault>, String> {
        loop {
            if self.vp.attention.load(Ordering::Relaxed) != 0 || self.debugger_holds() {
                return Ok(Ok(()));
            }
            if !self.code_64() {
                return Ok(self.execute());
            }
            let gpa = match self.code_page(self.rip) {
                Ok(page) => page.gpa,
                Err(fault) => return Ok(Err(fault)),
            };
            let result =
                if lock_step.counts(gpa) { self.compare_block(lock_step)? } else { self.run_one_block() };
            match result {
                Ok(BlockEnd::GoOn) => {}
                Ok(BlockEnd::Interpret) => return Ok(self.execute_one()),
                Ok(BlockEnd::Leave) => return Ok(Ok(())),
                Err(fault) => return Ok(Err(fault)),
            }
        }
    }

    fn compare_block(&mut self, lock_step: &mut LockStep) -> Result<Result<BlockEnd, Fault>, String> {
        let start = self.lock_step_state();
        let mut retried = false;
        loop {
            let (steps, end, mut journal) = self.go_ahead(start.clone());
            if matches!(end, End::OnceOnly) {
                lock_step.once_only += 1;
                return Ok(Ok(BlockEnd::Interpret));
            }
            journal.undo(&self.mmu.host);
            self.set_lock_step_state(&start);
            let result = self.run_one_block();
            let found = self.lock_step_state();
            let difference = self.difference(&steps, &end, &journal, &found, result.is_err());
            let Some(difference) = difference else {
                lock_step.compared += 1;
                return Ok(result);
            };
            journal.undo(&self.mmu.host);
            let exception = self.exception.take();
            self.set_lock_step_state(&start);
            if !retried {
                // The levels of the TLB may have known different states of a page table that changes.
                self.mmu.flush_all();
                lock_step.retried += 1;
                retried = true;
                continue;
            }
            let mut text = format!("the translated block at {:#x} differs: {difference}\n", start.rip);
            let code = self.code_bytes();
            let _infallible = writeln!(text, "code {code:02x?}\nbefore:\n{}", Registers(&start));
            let _infallible = writeln!(text, "translated, exception {exception:x?}:\n{}", Registers(&found));
            for step in &steps {
                let _infallible = writeln!(text, "interpreted:\n{}", Registers(&step.state));
            }
            return Err(text + &self.describe());
        }
    }

    /// Lets the interpreter go ahead, with its stores noted. It is left where it has come to.
    fn go_ahead(&mut self, start: State) -> (Vec<Step>, End, Box<Journal>) {
        self.journal = Some(Box::default());
        self.access_changed();
        let mut steps = vec![Step { state: start, stores: 0 }];
        let end = loop {
            let Some(instruction) = self.instruction_ahead() else { break End::OnceOnly };
            if only_once(&instruction) {
                break End::OnceOnly;
            }
            let result = self.execute_one();
            let journal = self.journal.as_mut().expect("it is there until the end");
            if std::mem::take(&mut journal.met_device) {
                self.exception = None;
                break End::OnceOnly;
            }
            let stores = journal.settle();
            // A repetition has come some way before its fault.
            steps.push(Step { state: self.lock_step_state(), stores });
            if result.is_err() {
                break self.exception.take().map_or(End::Line, End::Fault);
            }
            // A repetition that is not done ends the line, and a block.
            let straight = self.rip == instruction.next_ip();
            if !straight || steps.len() > AHEAD || !self.code_64() {
                break End::Line;
            }
        };
        let journal = self.journal.take().unwrap_or_default();
        self.access_changed();
        (steps, end, journal)
    }

    /// What differs between the interpreter's way and the state that the translated block has left.
    fn difference(
        &self,
        steps: &[Step],
        end: &End,
        journal: &Journal,
        found: &State,
        faulted: bool,
    ) -> Option<String> {
        let live = self.flags_read_ahead();
        let mut first = None;
        for (index, step) in steps.iter().enumerate().filter(|(_, step)| step.state.rip == found.rip) {
            let fault = match end {
                End::Fault(exception) if faulted && index + 1 == steps.len() => Some(*exception),
                _ => None,
            };
            let difference = if faulted && fault != self.exception {
                Some(format!("the exception is {:x?}, interpreted {fault:x?}", self.exception))
            } else {
                // Flags may be anything while an exception is taken before they are written.
                let live = if faulted { 0 } else { live };
                differs(&step.state, found, live).or_else(|| journal.check(step.stores).err())
            };
            first.get_or_insert(difference?);
        }
        Some(
            first.unwrap_or_else(|| {
                format!("it ends at {:#x}, where the interpreter has not been", found.rip)
            }),
        )
    }

    fn lock_step_state(&self) -> State {
        let mut general = [0; 16];
        general.copy_from_slice(&self.regs[..16]);
        State {
            general,
            rip: self.rip,
            flags: self.flags,
            status: self.status,
            instructions: self.instructions,
            image: self.extension.image.clone(),
        }
    }

    fn set_lock_step_state(&mut self, state: &State) {
        self.regs[..16].copy_from_slice(&state.general);
        (self.rip, self.flags, self.status) = (state.rip, state.flags, state.status);
        self.instructions = state.instructions;
        // In place: generated code and thunks know where it is.
        *self.extension.image = (*state.image).clone();
        self.access_changed();
    }

    /// Up to 15 bytes of code at RIP; fewer at the end of a page whose successor is not there.
    fn code_bytes(&mut self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(15);
        let (rip, waiting) = (self.rip, self.exception);
        while bytes.len() < 15 {
            let at = rip.wrapping_add(bytes.len() as u64);
            let Some(host) = self.code_page(at).ok().and_then(|page| page.host) else { break };
            let mut piece = vec![0; (15 - bytes.len()).min(0x1000 - (at & 0xfff) as usize)];
            // SAFETY: the page is RAM, and the piece lies in it.
            unsafe { crate::memory::host::load_bytes(host.as_ptr(), &mut piece) };
            bytes.extend_from_slice(&piece);
        }
        self.exception = waiting;
        bytes
    }

    /// The instruction at RIP, if there is one.
    fn instruction_ahead(&mut self) -> Option<Instruction> {
        let bytes = self.code_bytes();
        let instruction = Decoder::with_ip(64, &bytes, self.rip, DecoderOptions::NONE).decode();
        (!instruction.is_invalid()).then_some(instruction)
    }

    /// The flags that the next instructions read before they write them, whichever way they go.
    fn flags_read_ahead(&self) -> u32 {
        let Some((_, host)) = self.mmu.code_look_up(self.rip, self.cpl == 3) else { return 0 };
        if host.is_null() {
            return 0;
        }
        let mut bytes = vec![0; (0x1000 - (self.rip & 0xfff) as usize).min(15 * LOOK_AHEAD)];
        // SAFETY: the page is RAM, and the bytes lie in it.
        unsafe { crate::memory::host::load_bytes(host, &mut bytes) };
        let (mut read, mut written) = (0, 0);
        for instruction in
            Decoder::with_ip(64, &bytes, self.rip, DecoderOptions::NONE).into_iter().take(LOOK_AHEAD)
        {
            if instruction.is_invalid() {
                break;
            }
            read |= instruction.rflags_read() & !written;
            written |= instruction.rflags_modified();
            if instruction.flow_control() != FlowControl::Next {
                break;
            }
        }
        read
    }
}

/// Whether an instruction depends on more than registers and RAM, or changes more.
fn only_once(instruction: &Instruction) -> bool {
    use Mnemonic as M;
    let op_code = instruction.op_code();
    let far = instruction.is_jmp_far_indirect() || instruction.is_call_far_indirect();
    let segment = (0..instruction.op_count()).any(|n| {
        instruction.op_kind(n) == OpKind::Register && instruction.op_register(n).is_segment_register()
    });
    op_code.is_privileged()
        || op_code.is_input_output()
        || far
        || segment
        || matches!(instruction.flow_control(), FlowControl::Interrupt | FlowControl::XbeginXabortXend)
        || matches!(
            instruction.mnemonic(),
            M::Cli
                | M::Sti
                | M::Clac
                | M::Stac
                | M::Popf
                | M::Popfd
                | M::Popfq
                | M::Cpuid
                | M::Hlt
                | M::Iret
                | M::Iretd
                | M::Iretq
                | M::Lfs
                | M::Lgs
                | M::Lss
                | M::Monitor
                | M::Mwait
                | M::Pause
                | M::Rdpid
                | M::Rdpmc
                | M::Rdrand
                | M::Rdseed
                | M::Rdtsc
                | M::Rdtscp
                | M::Retf
                | M::Swapgs
                | M::Syscall
                | M::Sysenter
                | M::Sysexit
                | M::Sysexitq
                | M::Sysret
                | M::Sysretq
                | M::Tpause
                | M::Umonitor
                | M::Umwait
                | M::Vmcall
                | M::Vmmcall
                | M::Wrfsbase
                | M::Wrgsbase
        )
}

/// The arithmetic flags of `read`, as [`Vcpu::status`] has them.
fn status_mask(read: u32) -> u32 {
    [
        (RflagsBits::OF, 1),
        (RflagsBits::CF, 1 << 8),
        (RflagsBits::PF, 1 << 10),
        (RflagsBits::AF, 1 << 12),
        (RflagsBits::ZF, 1 << 14),
        (RflagsBits::SF, 1 << 15),
    ]
    .into_iter()
    .filter(|(bit, _)| read & bit != 0)
    .fold(0, |mask, (_, bit)| mask | bit)
}

/// The first register that differs, of the flags those that are `live`.
fn differs(expected: &State, found: &State, live: u32) -> Option<String> {
    if let Some(n) = (0..16).find(|&n| expected.general[n] != found.general[n]) {
        return Some(format!(
            "register {n} is {:#x}, interpreted {:#x}",
            found.general[n], expected.general[n]
        ));
    }
    // RF is the run loop's.
    if (expected.flags ^ found.flags) & !flag::RF != 0 {
        return Some(format!("flags are {:#x}, interpreted {:#x}", found.flags, expected.flags));
    }
    let mask = status_mask(live);
    if (expected.status ^ found.status) & mask != 0 {
        let (found, expected) = (found.status & mask, expected.status & mask);
        return Some(format!("arithmetic flags are {found:#06x}, interpreted {expected:#06x}"));
    }
    let (ours, theirs) = (&expected.image, &found.image);
    if let Some(n) = (0..32).find(|&n| ours.vectors[n] != theirs.vectors[n]) {
        return Some(format!(
            "vector {n} is {:02x?}, interpreted {:02x?}",
            theirs.vectors[n], ours.vectors[n]
        ));
    }
    if ours.masks != theirs.masks || ours.mxcsr != theirs.mxcsr {
        return Some("mask registers or MXCSR differ".to_owned());
    }
    // Not the addresses of the last instruction and its operand.
    let x87 = |image: &Image| (image.x87[..6].to_vec(), image.x87[32..160].to_vec());
    (x87(ours) != x87(theirs)).then(|| "the x87 registers differ".to_owned())
}

/// A state as text.
struct Registers<'a>(&'a State);

impl std::fmt::Display for Registers<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let State { general, rip, flags, status, .. } = self.0;
        write!(f, "  rip {rip:x} flags {flags:x} status {status:x}")?;
        general.iter().enumerate().try_for_each(|(n, value)| write!(f, " r{n} {value:x}"))
    }
}
