//! The code around translated blocks: the way in, the ways out, and the calls into Rust.
//!
//! ```text
//! Rust ── enter ──▶ blocks ──▶ exit ──▶ Rust          a reason
//!                    │  ▲
//!                    ├──┤ interpret: one instruction by the interpreter's handler
//!                    └──┘ slow: an access that the first level of the TLB does not know
//! ```
//!
//! Guest registers live in the host registers of the same number, RSP among them, but for R13 and R14, which
//! stay in [`Vcpu::regs`](crate::vcpu::Vcpu::regs): host R13 and R14 are scratch. So there is no stack in
//! generated code: who calls a stub gives it the address to come back to in S1. GS leads to the processor's
//! state, FS to its present TLB tables. Arithmetic flags live in the host's flags. Vector and mask registers
//! are loaded whole by the first block that uses them, and saved by the next call into Rust; so is the x87
//! state.
//!
//! Signal handlers would find neither a stack nor Rust's FS: the thread has all signals blocked
//! ([`super::Signals`]).

use iced_x86::{Code, Encoder, Instruction, MemoryOperand, Register};

use super::emit::{Emitter, Label, Mem, condition, host};
use super::fast_call;
use super::first_level::{ENTRIES, FILTER, WRITE};
use super::state::{self, JUMPS, loaded, reason, slow};
use crate::extension::{Host, VectorWidth, offset};
use crate::memory::mmu_offset;
use crate::registers::flag;

/// General registers that live in the host register of the same number.
const RESIDENT: [u8; 14] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 15];
/// Answers of the Rust function behind [`Stubs::interpret`] from here on are addresses of code.
pub const ADDRESSES: u64 = 64;

/// Addresses of the stubs.
#[derive(Debug, Clone, Copy, Default)]
pub struct Stubs {
    /// `extern "sysv64" fn(entry) -> reason`.
    pub enter: u64,
    /// Jump here with an offset from the page and, in the lowest 8 bits, a reason in S0: flags are in the
    /// host's flags.
    pub exit: u64,
    /// The same with flags in `status` already.
    pub exit_flags_saved: u64,
    /// Jump here with the RIP of a transfer in S0 and its slot of the jump cache in S1: the slot is of another
    /// RIP or another address space. [`state::Shared::transfer`] is set, flags are in `status`.
    pub miss: u64,
    /// Jump here with a RIP in S0 to go there by way of the jump cache; [`state::Shared::crossroad`] is set,
    /// flags are in `status`.
    pub look_up: u64,
    /// Jump here with the number of a crossroad in S0; flags are in `status`.
    pub link: u64,
    /// Jump here with the ops in S0 and the way back in S1; the 8 bytes before that are the packed
    /// [`state::Site`].
    pub interpret: u64,
    /// The same with flags in `status` already.
    pub interpret_flags_saved: u64,
    /// [`Self::interpret_flags_saved`] for SYSCALL of 64-bit code at privilege level 3.
    pub syscall: u64,
    /// The same for SYSRET to 64-bit code, of 64-bit code at privilege level 0.
    pub sysret: u64,
    /// The same with the linear address in S0. Comes back with the host address in S0, or 5 bytes behind if the
    /// instruction is done.
    pub slow: u64,
    /// Jump here to load the guest's vector registers, with the address of the image in S0 and the way back
    /// in S1.
    pub load_vectors: u64,
    /// The same with the x87 state.
    pub load_x87: u64,
    /// The opposite of what has been done of them, with the address in RAX. RCX and RDX are overwritten.
    pub save_extensions: u64,
}

impl Stubs {
    /// Whether the stub at `address` wants a packed [`state::Site`] behind the jump that leads to it.
    pub fn takes_site(&self, address: u64) -> bool {
        [self.interpret, self.interpret_flags_saved, self.slow].contains(&address)
    }

    /// Each stub's name and address.
    pub fn named(self) -> impl Iterator<Item = (&'static str, u64)> {
        let Self {
            enter,
            exit,
            exit_flags_saved,
            miss,
            look_up,
            link,
            interpret,
            interpret_flags_saved,
            syscall,
            sysret,
            slow,
            load_vectors,
            load_x87,
            save_extensions,
        } = self;
        [
            ("enter", enter),
            ("exit", exit),
            ("exit-flags-saved", exit_flags_saved),
            ("miss", miss),
            ("look-up", look_up),
            ("link", link),
            ("interpret", interpret),
            ("interpret-flags-saved", interpret_flags_saved),
            ("syscall", syscall),
            ("sysret", sysret),
            ("slow", slow),
            ("load-vectors", load_vectors),
            ("load-x87", load_x87),
            ("save-extensions", save_extensions),
        ]
        .into_iter()
    }
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

/// Puts the arithmetic flags of `status`, as RFLAGS has them, into `to`; `scratch` and the host's flags are
/// overwritten.
pub fn flags_of_status(e: &mut Emitter, to: u8, scratch: u8) {
    e.load_32(scratch, state::status());
    e.mov_32(to, scratch);
    e.shr(to, 8);
    e.and_imm_32(to, (flag::ARITHMETIC & 0xff) as i32);
    e.and_imm_32(scratch, 1);
    e.shl_32(scratch, 11);
    e.lea(to, Mem::indexed(Some(to), scratch, 0, 0));
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

/// The x87 component alone in EDX:EAX, for XSAVE and XRSTOR.
fn choose_x87(e: &mut Emitter) {
    // mov eax, 1; xor edx, edx
    e.bytes(&[0xb8, 1, 0, 0, 0, 0x31, 0xd2]);
}

/// Loads MXCSR, vector and mask registers from the image that S0 leads to.
fn load_vectors(e: &mut Emitter) {
    let image = Register::RAX + u32::from(host::S0);
    mxcsr(e, image, offset::MXCSR, true);
    vectors(e, image, true);
}

/// [`Stubs::load_x87`].
fn load_x87(e: &mut Emitter) -> u64 {
    let start = e.here();
    let skip = e.label();
    e.cmp_mem_imm_32(state::loaded(), loaded::NONE);
    e.jump_if(condition::NOT_EQUAL, skip);
    load_vectors(e);
    e.bind(skip);
    // Their homes may hold the guest's values.
    e.store(state::lent(0), host::RAX);
    e.store(state::lent(1), host::RDX);
    choose_x87(e);
    e.restore_extended(Mem::base(host::S0, offset::X87 as i32));
    e.load(host::RAX, state::lent(0));
    e.load(host::RDX, state::lent(1));
    e.store_imm_32(state::loaded(), i32::from(loaded::X87));
    e.store_imm_32(state::loaded_before(), i32::from(loaded::NONE));
    e.jump_register(host::S1);
    start
}

/// [`Stubs::save_extensions`].
fn save_extensions(e: &mut Emitter) -> u64 {
    let start = e.here();
    let done = e.label();
    vectors(e, Register::RAX, false);
    mxcsr(e, Register::RAX, offset::MXCSR, false);
    mxcsr(e, Register::RAX, offset::HOST_MXCSR, true);
    e.load_32(host::RCX, state::loaded());
    e.store_32(state::loaded_before(), host::RCX);
    e.store_imm_32(state::loaded(), i32::from(loaded::NONE));
    e.cmp_imm(host::RCX, i32::from(loaded::X87));
    e.jump_if(condition::NOT_EQUAL, done);
    e.mov(host::RCX, host::RAX);
    choose_x87(e);
    let area = offset::X87 as i32;
    e.save_extended(Mem::base(host::RCX, area));
    // FOP, FIP and FDP would be the host's.
    e.and_mem_32(Mem::base(host::RCX, area + 4), 0xffff);
    e.store_imm(Mem::base(host::RCX, area + 8), 0);
    e.store_imm(Mem::base(host::RCX, area + 16), 0);
    // A state that the processor found to be the initial one is loaded all the same.
    e.store_imm(Mem::base(host::RCX, area + 512), 1);
    // FNINIT: Rust code wants an empty stack.
    e.bytes(&[0xdb, 0xe3]);
    e.bind(done);
    e.bytes(&[0xc3]);
    start
}

/// Puts the guest's extension registers into the image if they are in the host's. All else has been spilled.
fn spill_extensions(e: &mut Emitter, save: u64) {
    let skip = e.label();
    e.cmp_mem_imm_32(state::loaded(), loaded::NONE);
    e.jump_if(condition::EQUAL, skip);
    e.load(host::RAX, state::image());
    e.call_to(save);
    e.bind(skip);
}

/// Loads them again if they were in the host's before the call. All else is loaded afterwards.
fn reload_extensions(e: &mut Emitter, stubs: &Stubs) {
    let (skip, only_vectors) = (e.label(), e.label());
    e.cmp_mem_imm_32(state::loaded_before(), loaded::NONE);
    e.jump_if(condition::EQUAL, skip);
    e.load(host::S0, state::image());
    e.lea_label(host::S1, skip);
    e.cmp_mem_imm_32(state::loaded_before(), loaded::X87);
    e.jump_if(condition::NOT_EQUAL, only_vectors);
    e.jump_to(stubs.load_x87);
    e.bind(only_vectors);
    e.jump_to(stubs.load_vectors);
    e.bind(skip);
}

fn spill(e: &mut Emitter, registers: &[u8], flags: bool) {
    for &n in registers {
        e.store(state::register(usize::from(n)), n);
    }
    if flags {
        e.bytes(&FLAGS_TO_AX);
        e.store_32(state::status(), host::RAX);
    }
}

/// The stack and the FS of Rust code, once everything has been spilled.
fn rust_world(e: &mut Emitter) {
    e.load(host::RSP, state::host_rsp());
    e.load(host::RAX, state::host_fs());
    e.write_fs_base(host::RAX);
}

/// Everything as generated code wants it.
fn reload(e: &mut Emitter) {
    e.load(host::RAX, state::tables());
    e.write_fs_base(host::RAX);
    e.load_32(host::RAX, state::status());
    e.bytes(&AX_TO_FLAGS);
    for n in RESIDENT {
        e.load(n, state::register(usize::from(n)));
    }
}

/// Goes back to who called a stub.
fn back(e: &mut Emitter) {
    e.jump_mem(state::back());
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
    // add rsp, 8
    e.bytes(&[0x48, 0x83, 0xc4, 0x08]);
    for register in SAVED.into_iter().rev() {
        pop(e, register);
    }
    e.bytes(&[0xc3]);
}

fn exit(e: &mut Emitter, save_extensions: u64, flags: bool) -> u64 {
    let start = e.here();
    spill(e, &RESIDENT, flags);
    e.mov(host::RAX, host::S0);
    e.shr(host::RAX, 8);
    e.add_mem(host::RAX, state::page());
    e.store(state::rip(), host::RAX);
    rust_world(e);
    spill_extensions(e, save_extensions);
    // movzx eax, r13b
    e.bytes(&[0x41, 0x0f, 0xb6, 0xc5]);
    leave(e);
    start
}

/// Leaves with a reason; RIP is up to date, flags are in `status`.
fn exit_for(e: &mut Emitter, save_extensions: u64, reason: u64) {
    spill(e, &RESIDENT, false);
    rust_world(e);
    spill_extensions(e, save_extensions);
    e.mov_imm(host::RAX, reason);
    leave(e);
}

/// Goes to the RIP in S0 by way of the jump cache; flags are in `status`. The labels are where it goes if the
/// slot in S1 has another RIP, or the same one of another key.
pub fn look_up(e: &mut Emitter) -> (Label, Label) {
    let (label, other_key) = (e.label(), e.label());
    e.mov(host::S1, host::S0);
    e.shr(host::S1, 12);
    e.xor_32(host::S1, host::S0);
    e.and_imm_32(host::S1, JUMPS as i32 - 1);
    e.shl_32(host::S1, 5);
    e.add_mem(host::S1, state::jumps());
    e.cmp_mem(host::S0, Mem::base(host::S1, 0));
    e.jump_if(condition::NOT_EQUAL, label);
    e.and_imm(host::S0, -4096);
    e.store(state::page(), host::S0);
    e.load(host::S0, state::key());
    e.cmp_mem(host::S0, Mem::base(host::S1, 8));
    e.jump_if(condition::NOT_EQUAL, other_key);
    e.jump_mem(Mem::base(host::S1, 16));
    (label, other_key)
}

/// The RIP in S0 has not been found under the present key. If the slot in S1 is of the same RIP, of another
/// time or address space, and the same page is there now, it is good again.
fn miss(e: &mut Emitter, save_extensions: u64, reason: u64) -> u64 {
    let start = e.here();
    let (out, restore) = (e.label(), e.label());
    e.cmp_mem(host::S0, Mem::base(host::S1, 0));
    e.jump_if(condition::NOT_EQUAL, out);
    spill(e, &LENT, false);
    // The same half of the address space: the key says nothing of the other one.
    e.mov(host::RAX, host::S0);
    e.shr(host::RAX, 63);
    e.cmp_mem(host::RAX, state::half());
    e.jump_if(condition::NOT_EQUAL, restore);
    e.load(host::RAX, Mem::state_at(state::tags_offset(), host::RAX, 3));
    e.mov(host::RCX, host::S0);
    e.and_imm(host::RCX, -4096);
    e.lea(host::RAX, Mem::indexed(Some(host::RAX), host::RCX, 0, 0));
    e.mov(host::RDX, host::S0);
    e.shr(host::RDX, 12);
    e.and_imm_32(host::RDX, mmu_offset::CODE_ENTRIES as i32 - 1);
    e.shl_32(host::RDX, mmu_offset::CODE_ENTRY_SHIFT);
    e.add_mem(host::RDX, state::code_entries());
    e.cmp_mem(host::RAX, Mem::base(host::RDX, mmu_offset::CODE_TAG as i32));
    e.jump_if(condition::NOT_EQUAL, restore);
    e.load(host::RAX, Mem::base(host::RDX, mmu_offset::CODE_GPA as i32));
    e.or_mem(host::RAX, state::mode());
    e.cmp_mem(host::RAX, Mem::base(host::S1, 24));
    e.jump_if(condition::NOT_EQUAL, restore);
    e.load(host::RAX, state::key());
    e.store(Mem::base(host::S1, 8), host::RAX);
    e.store(state::page(), host::RCX);
    for n in LENT {
        e.load(n, state::register(usize::from(n)));
    }
    e.jump_mem(Mem::base(host::S1, 16));
    e.bind(restore);
    for n in LENT {
        e.load(n, state::register(usize::from(n)));
    }
    e.bind(out);
    e.store(state::rip(), host::S0);
    exit_for(e, save_extensions, reason);
    start
}

fn interpret(e: &mut Emitter, stubs: &Stubs, target: u64, flags: bool) -> u64 {
    let start = e.here();
    e.store(state::back(), host::S1);
    spill(e, &RESIDENT, flags);
    rust_world(e);
    spill_extensions(e, stubs.save_extensions);
    e.load(host::RDI, state::vcpu());
    e.mov(host::RSI, host::S0);
    e.load(host::RDX, Mem::base(host::S1, -8));
    call_rust(e, target);
    let (out, elsewhere) = (e.label(), e.label());
    e.cmp_imm(host::RAX, ADDRESSES as i32);
    e.jump_if(condition::ABOVE_OR_EQUAL, elsewhere);
    // test eax, eax
    e.bytes(&[0x85, 0xc0]);
    e.jump_if(condition::NOT_EQUAL, out);
    reload_extensions(e, stubs);
    reload(e);
    back(e);
    e.bind(elsewhere);
    e.store(state::back(), host::RAX);
    reload_extensions(e, stubs);
    reload(e);
    back(e);
    e.bind(out);
    // The reason is one more than in `reason`, so that 0 says "go on".
    e.lea(host::RAX, Mem::base(host::RAX, -1));
    leave(e);
    start
}

/// The registers that the way through the second level of the TLB uses.
const LENT: [u8; 3] = [host::RAX, host::RCX, host::RDX];

/// An access that the first level of the TLB does not know: the second level is asked here, which needs
/// neither Rust nor a stack.
///
/// ```text
/// RAX  tag, then the host address     RCX  entry of the second level, then of the first     RDX  scratch
/// ```
fn second_level(e: &mut Emitter, rust: Label) {
    e.store(state::back(), host::S1);
    spill(e, &LENT, false);
    e.load_byte(host::RCX, Mem::base(host::S1, -8));
    e.lea(host::RAX, Mem::indexed(Some(host::S0), host::RCX, 0, -1));
    e.and_imm(host::RAX, -4096);
    e.mov(host::RCX, host::S0);
    e.shr(host::RCX, 63);
    e.or_mem(host::RAX, Mem::state_at(state::tags_offset(), host::RCX, 3));
    e.mov(host::RCX, host::S0);
    e.shr(host::RCX, 12);
    e.mov(host::RDX, host::S0);
    e.shr(host::RDX, mmu_offset::FOLD);
    e.xor_32(host::RCX, host::RDX);
    e.and_imm_32(host::RCX, mmu_offset::ENTRIES as i32 - 1);
    e.shl_32(host::RCX, mmu_offset::ENTRY_SHIFT);
    e.add_mem(host::RCX, state::entries());
    let write = e.label();
    e.cmp_mem_8(Mem::base(host::S1, -7), 0);
    e.jump_if(condition::NOT_EQUAL, write);
    e.cmp_mem(host::RAX, Mem::base(host::RCX, mmu_offset::READ as i32));
    e.jump_if(condition::NOT_EQUAL, rust);
    e.load(host::RAX, Mem::base(host::RCX, mmu_offset::ADDEND as i32));
    e.lea(host::RAX, Mem::indexed(Some(host::RAX), host::S0, 0, 0));
    fill(e, 0);

    e.bind(write);
    e.cmp_mem(host::RAX, Mem::base(host::RCX, mmu_offset::WRITE as i32));
    e.jump_if(condition::NOT_EQUAL, rust);
    e.load(host::RAX, Mem::base(host::RCX, mmu_offset::ADDEND as i32));
    e.lea(host::RAX, Mem::indexed(Some(host::RAX), host::S0, 0, 0));
    // As `Mmu::promote`: first into the filter, then a look at the word.
    let known = e.label();
    e.mov(host::RDX, host::RAX);
    e.shr(host::RDX, 12);
    e.and_imm_32(host::RDX, FILTER as i32 - 1);
    e.load(host::S1, state::writable());
    e.bt(Mem::base(host::S1, 0), host::RDX);
    e.jump_if(condition::BELOW, known);
    e.lock_bts(Mem::base(host::S1, 0), host::RDX);
    e.bind(known);
    e.load(host::RDX, Mem::base(host::RCX, mmu_offset::WORD as i32));
    e.test_mem_8(Mem::base(host::RDX, 0), 1);
    e.jump_if(condition::NOT_EQUAL, rust);
    fill(e, WRITE);
}

/// Enters the page of the linear address in S0, whose host address is in RAX, into the first level.
fn fill(e: &mut Emitter, table: i32) {
    e.mov(host::RCX, host::S0);
    e.shr(host::RCX, 8);
    e.and_imm_32(host::RCX, (ENTRIES as i32 - 1) << 4);
    e.and_imm(host::S0, -4096);
    e.store(Mem::tables(host::RCX, table), host::S0);
    e.mov(host::S0, host::RAX);
    e.and_imm(host::RAX, -4096);
    e.store(Mem::tables(host::RCX, table + 8), host::RAX);
    for n in LENT {
        e.load(n, state::register(usize::from(n)));
    }
    e.increment(state::second_level());
    back(e);
}

/// Writes the stubs. `interpret` and `slow` are the addresses of the Rust functions behind them.
pub fn write(e: &mut Emitter, interpreter: u64, slow_path: u64) -> Stubs {
    let mut stubs = Stubs { load_vectors: e.here(), ..Stubs::default() };
    load_vectors(e);
    e.store_imm_32(state::loaded(), i32::from(loaded::VECTORS));
    e.store_imm_32(state::loaded_before(), i32::from(loaded::NONE));
    e.jump_register(host::S1);
    stubs.load_x87 = load_x87(e);
    stubs.save_extensions = save_extensions(e);

    stubs.enter = e.here();
    for register in SAVED {
        push(e, register);
    }
    // sub rsp, 8: calls find the stack as the ABI wants it.
    e.bytes(&[0x48, 0x83, 0xec, 0x08]);
    e.store(state::host_rsp(), host::RSP);
    e.read_fs_base(host::RAX);
    e.store(state::host_fs(), host::RAX);
    e.store(state::entry(), host::RDI);
    reload(e);
    e.jump_mem(state::entry());

    stubs.exit = exit(e, stubs.save_extensions, true);
    stubs.exit_flags_saved = exit(e, stubs.save_extensions, false);
    stubs.miss = miss(e, stubs.save_extensions, reason::MISS);
    let crossing_miss = miss(e, stubs.save_extensions, reason::CROSS);
    stubs.look_up = e.here();
    let (label, other_key) = look_up(e);
    e.bind(other_key);
    e.load(host::S0, Mem::base(host::S1, 0));
    e.bind(label);
    e.jump_to(crossing_miss);
    stubs.link = e.here();
    e.store(state::crossroad(), host::S0);
    exit_for(e, stubs.save_extensions, reason::LINK);
    stubs.interpret = interpret(e, &stubs, interpreter, true);
    stubs.interpret_flags_saved = interpret(e, &stubs, interpreter, false);
    stubs.syscall = fast_call::syscall(e, &stubs);
    stubs.sysret = fast_call::sysret(e, &stubs);

    stubs.slow = e.here();
    let rust = e.label();
    second_level(e, rust);
    e.bind(rust);
    let others: Vec<u8> = RESIDENT.into_iter().filter(|n| !LENT.contains(n)).collect();
    spill(e, &others, false);
    rust_world(e);
    spill_extensions(e, stubs.save_extensions);
    e.load(host::RDI, state::vcpu());
    e.mov(host::RSI, host::S0);
    e.load(host::RDX, state::back());
    e.load(host::RDX, Mem::base(host::RDX, -8));
    call_rust(e, slow_path);
    let out = e.label();
    e.cmp_imm(host::RAX, slow::DONE as i32);
    e.jump_if(condition::NOT_EQUAL, out);
    reload_extensions(e, &stubs);
    // Behind the jump at the way back.
    e.add_to_mem(state::back(), 5);
    reload(e);
    back(e);
    e.bind(out);
    e.lea(host::RAX, Mem::base(host::RAX, -(slow::EXIT as i32)));
    leave(e);
    stubs
}
