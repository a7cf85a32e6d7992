//! x87, MMX, SSE to AVX-512, AES, SHA, BMI and the like: instructions that run natively on the guest's
//! register image through generated thunks, so that their semantics are the host's own.
//!
//! ```text
//! prepare ─▶ build: one thunk per distinct instruction ─▶ Arena
//! run     ─▶ enabled? aligned? operand in RAM ─▶ thunk on [operand], else on a bounce buffer
//! ```
//!
//! In Rust instead: the state-saving family (`xsave`), x87 control (`x87`), gathers, scatters and masked
//! byte stores (`gather`), the commonest moves (`moves`).
//!
//! Approximations: an x87 overflow or underflow that is unmasked delivers its masked result; FCS and FDS
//! read as 0; FERR# is not signalled, #MF is raised whatever CR0.NE.

mod arena;
mod build;
mod cpuid;
mod gather;
mod host;
mod image;
mod moves;
#[cfg(test)]
mod tests;
mod thunk;
mod x87;
mod xsave;

pub use arena::Arena;
pub use build::{NativeForm, native_form};
pub use cpuid::{View, cpuid, physical_bits};
#[cfg(test)]
pub use host::component;
pub use host::{Host, VectorWidth};
pub use image::{Image, MXCSR_MASKS, MXCSR_VALID, offset};

use std::collections::HashMap;

use iced_x86::{Code, CpuidFeature, FlowControl, Instruction, Mnemonic};

use crate::fault::Fault;
use crate::op::{Flow, Op};
use crate::vcpu::Vcpu;

use build::Traits;
use thunk::Entry;

/// Bytes of thunks that a processor keeps.
const ARENA_SIZE: usize = 4 << 20;
/// Thunks that a processor keeps.
const THUNKS: usize = 32 << 10;

/// The guest's extension registers, and the thunks that work on them.
pub struct ExtensionState {
    pub image: Box<Image>,
    thunks: Vec<Thunk>,
    known: HashMap<Box<[u8]>, u32>,
    arena: Option<Arena>,
    full: bool,
    /// How often the thunks have been forgotten.
    generation: u64,
}

#[derive(Clone, Copy)]
struct Thunk {
    entry: Entry,
    traits: Traits,
}

impl ExtensionState {
    /// The state after reset, no thunks.
    pub fn new() -> Box<Self> {
        let arena = Arena::new(ARENA_SIZE)
            .inspect_err(|error| tracing::error!("no executable memory for extension instructions: {error}"))
            .ok();
        Box::new(Self {
            image: Image::new(),
            thunks: Vec::new(),
            known: HashMap::new(),
            arena,
            full: false,
            generation: 0,
        })
    }

    /// Registers as after INIT: x87, SSE, AVX and masks keep their contents over INIT, not over a reset.
    pub fn reset(&mut self) {
        self.image = Image::new();
    }

    /// Whether there is no room for further thunks: [`Self::clear_thunks`] is due, together with every
    /// decoded block.
    pub fn is_full(&self) -> bool {
        self.full
    }

    /// Forgets all thunks. No [`Op`] that was prepared before may run any more.
    pub fn clear_thunks(&mut self) {
        self.thunks.clear();
        self.known.clear();
        self.full = false;
        self.generation += 1;
        if let Some(arena) = &mut self.arena {
            arena.clear();
        }
    }

    /// A number that is new whenever thunks have been forgotten.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    fn thunk(&mut self, instruction: &Instruction) -> Option<u32> {
        let built = build::build(instruction)?;
        // The same code may stand for instructions of different traits (alignment, length).
        let mut key = built.code.clone();
        key.extend_from_slice(format!("{:?}", built.traits).as_bytes());
        if let Some(&index) = self.known.get(key.as_slice()) {
            return Some(index);
        }
        let code = if self.thunks.len() < THUNKS {
            self.arena.as_mut().and_then(|arena| arena.add(&built.code))
        } else {
            None
        };
        let Some(code) = code else {
            self.full = true;
            return None;
        };
        let index = u32::try_from(self.thunks.len()).ok()?;
        self.thunks.push(Thunk { entry: Entry::new(code), traits: built.traits });
        self.known.insert(key.into_boxed_slice(), index);
        Some(index)
    }
}

/// Prepares an instruction that neither `execute` nor `system` knows: sets the handler and what it needs.
/// False if the instruction is not offered by CPUID or not known: it then raises #UD.
pub fn prepare(vcpu: &mut Vcpu, instruction: &Instruction, op: &mut Op) -> bool {
    let host = Host::get();
    let family = instruction.mnemonic();
    if let Some(handler) = special(instruction, op) {
        op.handler = handler;
        return instruction.cpuid_features().iter().all(|&feature| host.offers(feature))
            || matches!(
                family,
                Mnemonic::Fxsave | Mnemonic::Fxsave64 | Mnemonic::Fxrstor | Mnemonic::Fxrstor64
            );
    }
    if !instruction.cpuid_features().iter().all(|&feature| host.offers(feature))
        || !may_run_natively(instruction)
    {
        return false;
    }
    if let Some(handler) = moves::specialised(instruction, op) {
        op.handler = handler;
        return true;
    }
    if instruction.is_vsib()
        || matches!(family, Mnemonic::Maskmovdqu | Mnemonic::Vmaskmovdqu | Mnemonic::Maskmovq)
    {
        return gather::prepare(instruction, op);
    }
    if vcpu.extension.is_full() {
        // The caller forgets all blocks before long; until then the instruction is prepared at each run.
        (op.handler, op.imm) = (again, instruction.len() as u64);
        return true;
    }
    match vcpu.extension.thunk(instruction) {
        Some(index) => {
            op.handler = thunk::run;
            op.imm = u64::from(index);
            true
        }
        None if vcpu.extension.is_full() => {
            (op.handler, op.imm) = (again, instruction.len() as u64);
            true
        }
        None => false,
    }
}

/// Whether an instruction may become part of a thunk: one of an extension, which only computes. What others
/// leave over of the base instruction set (UD2 is an example) is never carried out on the host.
fn may_run_natively(instruction: &Instruction) -> bool {
    use CpuidFeature as F;
    let base = |feature: &F| {
        matches!(
            feature,
            F::INTEL8086
                | F::INTEL186
                | F::INTEL286
                | F::INTEL386
                | F::INTEL486
                | F::X64
                | F::CMOV
                | F::CX8
                | F::MSR
                | F::TSC
                | F::MULTIBYTENOP
                | F::PAUSE
        )
    };
    !instruction.cpuid_features().iter().all(base)
        && instruction.flow_control() == FlowControl::Next
        && !instruction.is_privileged()
}

/// Stands where a thunk found no room: leaves the block so that thunks and blocks are forgotten, and comes
/// back to the same instruction, whose length is in `imm`.
fn again(vcpu: &mut Vcpu, op: &Op) -> Result<Flow, Fault> {
    vcpu.rip = op.next_rip(vcpu).wrapping_sub(op.imm);
    Ok(Flow::Leave)
}

fn special(instruction: &Instruction, op: &mut Op) -> Option<crate::op::Handler> {
    use Mnemonic as M;
    let wide = if is_wide(instruction.code()) { xsave::WIDE } else { 0 };
    let handler: crate::op::Handler = match instruction.mnemonic() {
        M::Xsave | M::Xsave64 => xsave::xsave,
        M::Xsaveopt | M::Xsaveopt64 => xsave::xsaveopt,
        M::Xsavec | M::Xsavec64 => xsave::xsavec,
        M::Xsaves | M::Xsaves64 => xsave::xsaves,
        M::Xrstor | M::Xrstor64 => xsave::xrstor,
        M::Xrstors | M::Xrstors64 => xsave::xrstors,
        M::Fxsave | M::Fxsave64 => xsave::fxsave,
        M::Fxrstor | M::Fxrstor64 => xsave::fxrstor,
        M::Xgetbv => xsave::xgetbv,
        M::Xsetbv => xsave::xsetbv,
        M::Lfence | M::Mfence | M::Sfence | M::Serialize => fence,
        M::Prefetch
        | M::Prefetchnta
        | M::Prefetcht0
        | M::Prefetcht1
        | M::Prefetcht2
        | M::Prefetchw
        | M::Prefetchwt1 => nothing,
        M::Clflush | M::Clflushopt | M::Clwb => cache_line,
        _ => return x87::control(instruction, op).or_else(|| moves::control(instruction)),
    };
    op.imm = wide;
    Some(handler)
}

fn is_wide(code: Code) -> bool {
    matches!(
        code,
        Code::Xsave64_mem
            | Code::Xsaveopt64_mem
            | Code::Xsavec64_mem
            | Code::Xsaves64_mem
            | Code::Xrstor64_mem
            | Code::Xrstors64_mem
            | Code::Fxsave64_m512byte
            | Code::Fxrstor64_m512byte
    )
}

fn fence(_vcpu: &mut Vcpu, _op: &Op) -> Result<Flow, Fault> {
    std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
    Ok(Flow::Next)
}

fn nothing(_vcpu: &mut Vcpu, _op: &Op) -> Result<Flow, Fault> {
    Ok(Flow::Next)
}

/// CLFLUSH and its kin: caches are coherent, only the faults of a one-byte read remain.
fn cache_line(vcpu: &mut Vcpu, op: &Op) -> Result<Flow, Fault> {
    let offset = op.offset(vcpu);
    vcpu.host_pointer(op.seg, offset, 1, crate::memory::Access::Read)?;
    Ok(Flow::Next)
}
