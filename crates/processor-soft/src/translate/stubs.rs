//! The code around translated blocks: the way in, the ways out, and the calls into Rust.
//!
//! ```text
//! Rust ── enter ──▶ blocks ──▶ exit ──▶ Rust          a reason
//!                    │  ▲
//!                    ├──┤ interpret: one instruction by the interpreter's handler
//!                    └──┘ slow: an access that the first level of the TLB does not know
//! ```
//!
//! Guest registers live in the host registers of the same number, but for RSP (host R15) and R13 to R15,
//! which stay in [`Vcpu::regs`](crate::vcpu::Vcpu::regs): host R13 and R14 are scratch, host RSP is the
//! host's stack. Arithmetic flags live in the host's flags. Vector and mask registers are loaded whole by the
//! first block that uses them, and saved by the next call into Rust.

use iced_x86::{Code, Encoder, Instruction, MemoryOperand, Register};

use super::emit::{Emitter, Mem, condition, host};
use super::state::{self, slow};
use crate::extension::{Host, VectorWidth, offset};

/// General registers that live in the host register of the same number.
pub const RESIDENT: [u8; 12] = [0, 1, 2, 3, 5, 6, 7, 8, 9, 10, 11, 12];

/// Addresses of the stubs.
#[derive(Debug, Clone, Copy, Default)]
pub struct Stubs {
    /// `extern "sysv64" fn(entry) -> reason`.
    pub enter: u64,
    /// Jump here with a reason in S0: flags are in the host's flags.
    pub exit: u64,
    /// The same with flags in `status` already.
    pub exit_flags_saved: u64,
    /// Call here with the ops in S0 and a packed [`state::Site`] in S1.
    pub interpret: u64,
    /// Call here with the linear address in S0 and a packed [`state::Site`] in S1. Comes back with the host
    /// address in S0, or 5 bytes behind the return address if the instruction is done.
    pub slow: u64,
    /// Call here to load the guest's vector registers, with the address of the image in S0.
    pub load_vectors: u64,
    /// The opposite, with the address in RAX.
    save_vectors: u64,
}

/// `lahf; seto al`.
const FLAGS_TO_AX: [u8; 4] = [0x9f, 0x0f, 0x90, 0xc0];
/// `and al, 1; add al, 0x7f; sahf`.
const AX_TO_FLAGS: [u8; 5] = [0x24, 0x01, 0x04, 0x7f, 0x9e];

/// Saves the host's flags into `status`, by way of S1.
pub fn save_flags(e: &mut Emitter) {
    e.mov(host::S1, host::RAX);
    e.bytes(&FLAGS_TO_AX);
    e.store_32(state::status(), host::RAX);
    e.mov(host::RAX, host::S1);
}

/// Loads the host's flags from `status`, by way of S1.
pub fn restore_flags(e: &mut Emitter) {
    e.mov(host::S1, host::RAX);
    e.load_32(host::RAX, state::status());
    e.bytes(&AX_TO_FLAGS);
    e.mov(host::RAX, host::S1);
}

/// The moves between the image at `base` and the host's vector and mask registers, whole.
fn vectors(e: &mut Emitter, base: Register, load: bool) {
    let (code, count, size) = match (Host::get().width, load) {
        (VectorWidth::Zmm, true) => (Code::EVEX_Vmovups_zmm_k1z_zmmm512, 32, 64),
        (VectorWidth::Zmm, false) => (Code::EVEX_Vmovups_zmmm512_k1z_zmm, 32, 64),
        (VectorWidth::Ymm, true) => (Code::VEX_Vmovups_ymm_ymmm256, 16, 32),
        (VectorWidth::Ymm, false) => (Code::VEX_Vmovups_ymmm256_ymm, 16, 32),
        (VectorWidth::Xmm, true) => (Code::Movups_xmm_xmmm128, 16, 16),
        (VectorWidth::Xmm, false) => (Code::Movups_xmmm128_xmm, 16, 16),
    };
    let first = match size {
        64 => Register::ZMM0,
        32 => Register::YMM0,
        _ => Register::XMM0,
    };
    let mut encoder = Encoder::new(64);
    let mut put = |e: &mut Emitter, code: Code, register: Register, at: usize| {
        let memory = MemoryOperand::with_base_displ(base, at as i64);
        let made = if load {
            Instruction::with2(code, register, memory)
        } else {
            Instruction::with2(code, memory, register)
        };
        if made.is_ok_and(|instruction| encoder.encode(&instruction, 0).is_ok()) {
            e.bytes(&encoder.take_buffer());
        } else {
            unreachable!("a move of a register and memory has an encoding");
        }
    };
    for n in 0..count {
        // Registers are 64 bytes apart whatever their width.
        put(e, code, first + n, offset::VECTORS + 64 * n as usize);
    }
    if size == 64 {
        let code = if load { Code::VEX_Kmovq_kr_km64 } else { Code::VEX_Kmovq_m64_kr };
        for n in 0..8 {
            put(e, code, Register::K0 + n, offset::MASKS + 8 * n as usize);
        }
    }
}

/// `ldmxcsr [base + at]` or `stmxcsr`.
fn mxcsr(e: &mut Emitter, base: Register, at: usize, load: bool) {
    let code = if load { Code::Ldmxcsr_m32 } else { Code::Stmxcsr_m32 };
    let memory = MemoryOperand::with_base_displ(base, at as i64);
    let mut encoder = Encoder::new(64);
    match Instruction::with1(code, memory).and_then(|instruction| encoder.encode(&instruction, 0)) {
        Ok(_) => e.bytes(&encoder.take_buffer()),
        Err(_) => unreachable!("the instruction has an encoding"),
    }
}

/// Puts the guest's vector registers into the image if they are in the host's. All else has been spilled.
fn spill_vectors(e: &mut Emitter, save: u64) {
    let skip = e.label();
    e.cmp_mem_imm_32(state::vectors(), 0);
    e.jump_if(condition::EQUAL, skip);
    e.load(host::RAX, state::image());
    e.call_to(save);
    e.bind(skip);
}

/// Loads them again if they were in the host's before the call. All else is loaded afterwards.
fn reload_vectors(e: &mut Emitter, load: u64) {
    let skip = e.label();
    e.cmp_mem_imm_32(state::vectors_before(), 0);
    e.jump_if(condition::EQUAL, skip);
    e.load(host::S0, state::image());
    e.call_to(load);
    e.bind(skip);
}

fn spill(e: &mut Emitter, flags: bool) {
    for n in RESIDENT {
        e.store(state::register(usize::from(n)), n);
    }
    e.store(state::register(usize::from(host::RSP)), host::GUEST_RSP);
    if flags {
        e.bytes(&FLAGS_TO_AX);
        e.store_32(state::status(), host::RAX);
    }
}

fn reload(e: &mut Emitter) {
    e.load_32(host::RAX, state::status());
    e.bytes(&AX_TO_FLAGS);
    for n in RESIDENT {
        e.load(n, state::register(usize::from(n)));
    }
    e.load(host::GUEST_RSP, state::register(usize::from(host::RSP)));
}

/// RBX, RBP, R12–R15 of the caller.
const SAVED: [u8; 6] = [3, 5, 12, 13, 14, 15];

fn push(e: &mut Emitter, register: u8) {
    if register >= 8 {
        e.bytes(&[0x41]);
    }
    e.bytes(&[0x50 | register & 7]);
}

fn pop(e: &mut Emitter, register: u8) {
    if register >= 8 {
        e.bytes(&[0x41]);
    }
    e.bytes(&[0x58 | register & 7]);
}

/// `mov rax, target; call rax`.
fn call_rust(e: &mut Emitter, target: u64) {
    e.mov_imm(host::RAX, target);
    e.bytes(&[0xff, 0xd0]);
}

/// Back to Rust with the reason in RAX.
fn leave(e: &mut Emitter) {
    e.load(host::RSP, state::host_rsp());
    // add rsp, 8
    e.bytes(&[0x48, 0x83, 0xc4, 0x08]);
    for register in SAVED.into_iter().rev() {
        pop(e, register);
    }
    e.bytes(&[0xc3]);
}

/// Writes the stubs. `interpret` and `slow` are the addresses of the Rust functions behind them.
pub fn write(e: &mut Emitter, interpret: u64, slow_path: u64) -> Stubs {
    let mut stubs = Stubs { load_vectors: e.here(), ..Stubs::default() };
    let image = Register::RAX + u32::from(host::S0);
    mxcsr(e, image, offset::MXCSR, true);
    vectors(e, image, true);
    e.store_imm_32(state::vectors(), 1);
    e.store_imm_32(state::vectors_before(), 0);
    e.bytes(&[0xc3]);

    stubs.save_vectors = e.here();
    vectors(e, Register::RAX, false);
    mxcsr(e, Register::RAX, offset::MXCSR, false);
    mxcsr(e, Register::RAX, offset::HOST_MXCSR, true);
    e.store_imm_32(state::vectors(), 0);
    e.store_imm_32(state::vectors_before(), 1);
    e.bytes(&[0xc3]);

    stubs.enter = e.here();
    for register in SAVED {
        push(e, register);
    }
    // sub rsp, 8: calls out of blocks find the stack as the ABI wants it.
    e.bytes(&[0x48, 0x83, 0xec, 0x08]);
    e.store(state::host_rsp(), host::RSP);
    e.store(state::entry(), host::RDI);
    reload(e);
    e.jump_mem(state::entry());

    stubs.exit = e.here();
    spill(e, true);
    spill_vectors(e, stubs.save_vectors);
    e.mov(host::RAX, host::S0);
    leave(e);

    stubs.exit_flags_saved = e.here();
    spill(e, false);
    spill_vectors(e, stubs.save_vectors);
    e.mov(host::RAX, host::S0);
    leave(e);

    stubs.interpret = e.here();
    spill(e, true);
    spill_vectors(e, stubs.save_vectors);
    e.load(host::RDI, state::vcpu());
    e.mov(host::RSI, host::S0);
    e.mov(host::RDX, host::S1);
    e.bytes(&[0x48, 0x83, 0xec, 0x08]);
    call_rust(e, interpret);
    e.bytes(&[0x48, 0x83, 0xc4, 0x08]);
    // test eax, eax
    e.bytes(&[0x85, 0xc0]);
    let out = e.label();
    e.jump_if(condition::NOT_EQUAL, out);
    reload_vectors(e, stubs.load_vectors);
    reload(e);
    e.bytes(&[0xc3]);
    e.bind(out);
    // The reason is one more than in `reason`, so that 0 says "go on".
    e.lea(host::RAX, Mem::base(host::RAX, -1));
    leave(e);

    stubs.slow = e.here();
    spill(e, false);
    spill_vectors(e, stubs.save_vectors);
    e.load(host::RDI, state::vcpu());
    e.mov(host::RSI, host::S0);
    e.mov(host::RDX, host::S1);
    e.bytes(&[0x48, 0x83, 0xec, 0x08]);
    call_rust(e, slow_path);
    e.bytes(&[0x48, 0x83, 0xc4, 0x08]);
    let (not_proceed, out) = (e.label(), e.label());
    e.bytes(&[0x85, 0xc0]);
    e.jump_if(condition::NOT_EQUAL, not_proceed);
    reload_vectors(e, stubs.load_vectors);
    reload(e);
    e.load(host::S0, state::pointer());
    e.bytes(&[0xc3]);
    e.bind(not_proceed);
    e.cmp_imm(host::RAX, slow::DONE as i32);
    e.jump_if(condition::NOT_EQUAL, out);
    // add qword [rsp], 5: behind the jump that follows the call.
    e.bytes(&[0x48, 0x83, 0x04, 0x24, 0x05]);
    reload_vectors(e, stubs.load_vectors);
    reload(e);
    e.bytes(&[0xc3]);
    e.bind(out);
    e.lea(host::RAX, Mem::base(host::RAX, -(slow::EXIT as i32)));
    leave(e);
    stubs
}
