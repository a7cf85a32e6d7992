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
//! host's stack. Arithmetic flags live in the host's flags.

use super::emit::{Emitter, Mem, host};
use super::state::{self, slow};

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
    let mut stubs = Stubs { enter: e.here(), ..Stubs::default() };
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
    e.mov(host::RAX, host::S0);
    leave(e);

    stubs.exit_flags_saved = e.here();
    spill(e, false);
    e.mov(host::RAX, host::S0);
    leave(e);

    stubs.interpret = e.here();
    spill(e, true);
    e.load(host::RDI, state::vcpu());
    e.mov(host::RSI, host::S0);
    e.mov(host::RDX, host::S1);
    e.bytes(&[0x48, 0x83, 0xec, 0x08]);
    call_rust(e, interpret);
    e.bytes(&[0x48, 0x83, 0xc4, 0x08]);
    // test eax, eax
    e.bytes(&[0x85, 0xc0]);
    let out = e.label();
    e.jump_if(super::emit::condition::NOT_EQUAL, out);
    reload(e);
    e.bytes(&[0xc3]);
    e.bind(out);
    // The reason is one more than in `reason`, so that 0 says "go on".
    e.lea(host::RAX, Mem::base(host::RAX, -1));
    leave(e);

    stubs.slow = e.here();
    spill(e, false);
    e.load(host::RDI, state::vcpu());
    e.mov(host::RSI, host::S0);
    e.mov(host::RDX, host::S1);
    e.bytes(&[0x48, 0x83, 0xec, 0x08]);
    call_rust(e, slow_path);
    e.bytes(&[0x48, 0x83, 0xc4, 0x08]);
    let (not_proceed, out) = (e.label(), e.label());
    e.bytes(&[0x85, 0xc0]);
    e.jump_if(super::emit::condition::NOT_EQUAL, not_proceed);
    reload(e);
    e.load(host::S0, state::pointer());
    e.bytes(&[0xc3]);
    e.bind(not_proceed);
    e.cmp_imm(host::RAX, slow::DONE as i32);
    e.jump_if(super::emit::condition::NOT_EQUAL, out);
    // add qword [rsp], 5: behind the jump that follows the call.
    e.bytes(&[0x48, 0x83, 0x04, 0x24, 0x05]);
    reload(e);
    e.bytes(&[0xc3]);
    e.bind(out);
    e.lea(host::RAX, Mem::base(host::RAX, -(slow::EXIT as i32)));
    leave(e);
    stubs
}
