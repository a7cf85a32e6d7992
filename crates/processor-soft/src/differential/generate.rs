//! Random instructions: every instruction that iced-x86 knows, with random operands.

use iced_x86::{
    Code, CpuidFeature, Decoder, DecoderOptions, Encoder, FlowControl, Instruction, Mnemonic,
    OpCodeOperandKind as K, OpKind, Register,
};

use crate::extension::Host;

use super::native::{CODE, DATA, PAGE};
use super::state::{Random, State};

/// Base of GS in 32-bit code.
pub const GS_BASE: u64 = 0x1234;

/// An instruction and where it stands.
pub struct Case {
    pub instruction: Instruction,
    pub bytes: Vec<u8>,
    pub rip: u64,
}

/// Instructions whose answer differs from run to run or from machine to machine, which are the operating
/// system's business, or which have tests of their own.
fn excluded(code: Code, bits: u32) -> bool {
    use Mnemonic as M;
    let instruction = {
        let mut instruction = Instruction::default();
        instruction.set_code(code);
        instruction
    };
    let op_code = code.op_code();
    let flow = instruction.flow_control();
    !(if bits == 64 { op_code.mode64() } else { op_code.mode32() })
        || op_code.is_privileged()
        || op_code.is_reserved_nop()
        || op_code.is_input_output()
        || instruction.is_call_far_indirect()
        || instruction.is_jmp_far_indirect()
        || matches!(flow, FlowControl::Interrupt | FlowControl::XbeginXabortXend | FlowControl::Exception)
        || instruction.cpuid_features().iter().any(|&f| {
            !Host::get().offers(f)
                || matches!(f, CpuidFeature::INTEL8086_ONLY | CpuidFeature::RDRAND | CpuidFeature::RDSEED)
        })
        || matches!(
            instruction.mnemonic(),
            M::Syscall
                | M::Sysenter
                | M::Sysret
                | M::Sysretq
                | M::Rdtsc
                | M::Rdtscp
                | M::Rdpmc
                | M::Cpuid
                | M::Xgetbv
                | M::Xsave
                | M::Xsave64
                | M::Xsavec
                | M::Xsavec64
                | M::Xsaveopt
                | M::Xsaveopt64
                | M::Xrstor
                | M::Xrstor64
                | M::Fxsave
                | M::Fxsave64
                | M::Fxrstor
                | M::Fxrstor64
                | M::Sgdt
                | M::Sidt
                | M::Sldt
                | M::Str
                | M::Smsw
                | M::Lar
                | M::Lsl
                | M::Verr
                | M::Verw
                | M::Lss
                | M::Lfs
                | M::Lgs
                | M::Lds
                | M::Les
                | M::Rdpid
                | M::Fnstenv
                | M::Fstenv
                | M::Fnsave
                | M::Fsave
                | M::Fldenv
                | M::Frstor
                | M::Int1
                | M::Pushf
                | M::Pushfq
                | M::Popf
                | M::Popfq
                | M::Enter
                | M::Bound
                | M::Arpl
                | M::Iret
                | M::Iretd
                | M::Iretq
                | M::Retf
                | M::Wrfsbase
                | M::Wrgsbase
                | M::Rdfsbase
                | M::Rdgsbase
                | M::Clzero
                | M::Vmcall
                | M::Vmmcall
                | M::Monitor
                | M::Mwait
                | M::Undoc
                | M::Loadall
                | M::Sti
                | M::Cli
                | M::Hlt
                | M::Ud0
                | M::Ud1
                | M::Ud2
                | M::Db
                | M::Dw
                | M::Dd
                | M::Dq
                | M::Jmpe
                | M::Umov
                | M::Xlatb
        )
        || code == Code::INVALID
        || (0..op_code.op_count()).any(|n| {
            matches!(
                op_code.op_kind(n),
                K::seg_reg
                    | K::cr_reg
                    | K::dr_reg
                    | K::tr_reg
                    | K::farbr2_2
                    | K::farbr4_2
                    | K::bnd_reg
                    | K::tmm_reg
                    | K::tmm_rm
                    | K::tmm_vvvv
                    | K::sibmem
                    | K::es
                    | K::cs
                    | K::ss
                    | K::ds
                    | K::fs
                    | K::gs
            )
        })
}

/// All codes of 64-bit or 32-bit code that are compared.
pub fn codes(bits: u32) -> Vec<Code> {
    Code::values().filter(|&code| !excluded(code, bits)).collect()
}

/// Those of them on general registers alone.
pub fn integer_codes(bits: u32) -> Vec<Code> {
    let of_others = |instruction: &Instruction, code: Code| {
        (0..code.op_code().op_count()).any(|n| {
            matches!(
                code.op_code().op_kind(n),
                K::st0
                    | K::sti_opcode
                    | K::mm_reg
                    | K::mm_rm
                    | K::mm_or_mem
                    | K::xmm_reg
                    | K::xmm_rm
                    | K::xmm_vvvv
                    | K::xmm_or_mem
                    | K::ymm_reg
                    | K::ymm_vvvv
                    | K::zmm_reg
                    | K::zmm_vvvv
                    | K::k_reg
                    | K::k_rm
                    | K::k_vvvv
                    | K::k_or_mem
            )
        }) || instruction.is_vsib()
            || instruction.cpuid_features().contains(&CpuidFeature::FPU)
    };
    codes(bits)
        .into_iter()
        .filter(|&code| {
            let mut instruction = Instruction::default();
            instruction.set_code(code);
            !of_others(&instruction, code)
        })
        .collect()
}

/// One of the registers that code of so many bits has.
fn general(random: &mut Random, first: Register, bits: u32) -> Register {
    first + random.below(u64::from(bits / 4)) as u32
}

/// A register operand for `kind`, or `None` if it stands for something else.
fn register(random: &mut Random, kind: K, high8: bool, bits: u32) -> Option<Register> {
    let zmm = Host::get().width == crate::extension::VectorWidth::Zmm;
    let count = match (bits, zmm) {
        (32, _) => 8,
        (_, true) => 32,
        _ => 16,
    };
    let vectors = |random: &mut Random| random.below(count) as u32;
    Some(match kind {
        K::r8_or_mem | K::r8_reg | K::r8_opcode => {
            if bits == 32 {
                Register::AL + random.below(8) as u32
            } else if high8 {
                [Register::AH, Register::BH, Register::CH, Register::DH][random.below(4) as usize]
            } else {
                let n = random.below(16) as u32;
                if n < 4 { Register::AL + n } else { Register::SPL + (n - 4) }
            }
        }
        K::r16_or_mem | K::r16_reg | K::r16_reg_mem | K::r16_rm | K::r16_opcode => {
            general(random, Register::AX, bits)
        }
        K::r32_or_mem | K::r32_reg | K::r32_reg_mem | K::r32_rm | K::r32_opcode | K::r32_vvvv => {
            general(random, Register::EAX, bits)
        }
        K::r64_or_mem | K::r64_reg | K::r64_reg_mem | K::r64_rm | K::r64_opcode | K::r64_vvvv => {
            general(random, Register::RAX, bits)
        }
        K::k_or_mem | K::k_reg | K::k_rm | K::k_vvvv => Register::K0 + random.below(8) as u32,
        K::kp1_reg => Register::K0 + (random.below(4) * 2) as u32,
        K::mm_reg | K::mm_rm | K::mm_or_mem => Register::MM0 + random.below(8) as u32,
        K::xmm_reg | K::xmm_rm | K::xmm_vvvv | K::xmm_is4 | K::xmm_is5 | K::xmm_or_mem => {
            Register::XMM0 + vectors(random)
        }
        K::xmmp3_vvvv => Register::XMM0 + (vectors(random) & !3),
        K::ymm_reg | K::ymm_rm | K::ymm_vvvv | K::ymm_is4 | K::ymm_is5 | K::ymm_or_mem => {
            Register::YMM0 + vectors(random)
        }
        K::zmm_reg | K::zmm_rm | K::zmm_vvvv | K::zmm_or_mem => Register::ZMM0 + vectors(random),
        K::zmmp3_vvvv => Register::ZMM0 + (vectors(random) & !3),
        K::al => Register::AL,
        K::cl => Register::CL,
        K::ax => Register::AX,
        K::dx => Register::DX,
        K::eax => Register::EAX,
        K::rax => Register::RAX,
        K::st0 => Register::ST0,
        K::sti_opcode => Register::ST0 + random.below(8) as u32,
        _ => return None,
    })
}

pub fn is_memory_kind(kind: K) -> bool {
    matches!(
        kind,
        K::mem
            | K::mem_mib
            | K::r8_or_mem
            | K::r16_or_mem
            | K::r32_or_mem
            | K::r64_or_mem
            | K::mm_or_mem
            | K::xmm_or_mem
            | K::ymm_or_mem
            | K::zmm_or_mem
            | K::k_or_mem
    )
}

fn vsib_index(kind: K) -> Option<Register> {
    Some(match kind {
        K::mem_vsib32x | K::mem_vsib64x => Register::XMM0,
        K::mem_vsib32y | K::mem_vsib64y => Register::YMM0,
        K::mem_vsib32z | K::mem_vsib64z => Register::ZMM0,
        _ => return None,
    })
}

/// Gives operand `n` a random immediate; false if `kind` is none.
fn immediate(random: &mut Random, instruction: &mut Instruction, n: u32, kind: K) -> bool {
    let value = random.value();
    let second = (0..n).any(|earlier| instruction.op_kind(earlier) == OpKind::Immediate8);
    match kind {
        K::imm8 | K::imm4_m2z if second => {
            instruction.set_op_kind(n, OpKind::Immediate8_2nd);
            instruction.set_immediate8_2nd(value as u8);
        }
        K::imm8 => {
            instruction.set_op_kind(n, OpKind::Immediate8);
            instruction.set_immediate8(value as u8);
        }
        K::imm8_const_1 => {
            instruction.set_op_kind(n, OpKind::Immediate8);
            instruction.set_immediate8(1);
        }
        K::imm8sex16 => {
            instruction.set_op_kind(n, OpKind::Immediate8to16);
            instruction.set_immediate8to16(i16::from(value as i8));
        }
        K::imm8sex32 => {
            instruction.set_op_kind(n, OpKind::Immediate8to32);
            instruction.set_immediate8to32(i32::from(value as i8));
        }
        K::imm8sex64 => {
            instruction.set_op_kind(n, OpKind::Immediate8to64);
            instruction.set_immediate8to64(i64::from(value as i8));
        }
        K::imm16 => {
            instruction.set_op_kind(n, OpKind::Immediate16);
            instruction.set_immediate16(value as u16);
        }
        K::imm32 => {
            instruction.set_op_kind(n, OpKind::Immediate32);
            instruction.set_immediate32(value as u32);
        }
        K::imm32sex64 => {
            instruction.set_op_kind(n, OpKind::Immediate32to64);
            instruction.set_immediate32to64(i64::from(value as i32));
        }
        K::imm64 => {
            instruction.set_op_kind(n, OpKind::Immediate64);
            instruction.set_immediate64(value);
        }
        _ => return false,
    }
    true
}

/// Puts a memory operand into `instruction` that lies, most of the time, in the data pages.
fn memory(random: &mut Random, instruction: &mut Instruction, state: &mut State, (size, bits): (u64, u32)) {
    // Near the start, across the page boundary, at the end of what is writable, at the end of all.
    let around = match random.below(8) {
        0 | 1 => PAGE as u64 - random.below(size + 1),
        2 => 2 * PAGE as u64 - random.below(size + 1),
        3 => 3 * PAGE as u64 - random.below(size + 1),
        4 => random.below(2 * PAGE as u64 - 64) & !63,
        _ => random.below(2 * PAGE as u64 - 64),
    };
    let mut target = DATA + around;
    if bits == 32 && random.chance(6) {
        instruction.set_segment_prefix(Register::GS);
        target -= GS_BASE;
    }
    if random.chance(8) {
        if bits == 64 {
            instruction.set_memory_base(Register::RIP);
        }
        instruction.set_memory_displacement64(target);
        instruction.set_memory_displ_size(bits / 8);
        return;
    }
    let first = if bits == 64 { Register::RAX } else { Register::EAX };
    let base = general(random, first, bits);
    let mut rest = target;
    if random.chance(3) {
        let index = general(random, first, bits);
        if index.number() != 4 && index != base {
            let scale = 1 << random.below(4);
            let value = random.below(4096).wrapping_sub(2048);
            state.general[index.number()] = value;
            rest = rest.wrapping_sub(value.wrapping_mul(scale));
            instruction.set_memory_index(index);
            instruction.set_memory_index_scale(scale as u32);
        }
    }
    let displacement = match random.below(3) {
        0 => 0,
        1 => random.next() as i8 as i64,
        _ => i64::from(random.next() as i16),
    };
    let mask = if bits == 64 { u64::MAX } else { 0xffff_ffff };
    instruction.set_memory_displacement64(displacement as u64 & mask);
    instruction.set_memory_displ_size(if displacement == 0 { 0 } else { bits / 8 });
    instruction.set_memory_base(base);
    state.general[base.number()] = rest.wrapping_sub(displacement as u64);
}

/// A random instruction of `code` as 64-bit or 32-bit code, with the registers of its memory operand set in
/// `state`.
pub fn case(random: &mut Random, code: Code, state: &mut State, bits: u32) -> Option<Case> {
    case_with(random, code, state, bits, |random, instruction, state, size| {
        memory(random, instruction, state, (size, bits));
    })
}

/// As [`case`], with the memory operand put in by `memory`, which is told its size.
pub fn case_with(
    random: &mut Random,
    code: Code,
    state: &mut State,
    bits: u32,
    mut memory: impl FnMut(&mut Random, &mut Instruction, &mut State, u64),
) -> Option<Case> {
    let op_code = code.op_code();
    let mut instruction = Instruction::default();
    instruction.set_code(code);
    let high8 = random.chance(4);
    let wants_memory = random.chance(2);
    let mut has_memory = false;
    for n in 0..op_code.op_count() {
        let kind = op_code.op_kind(n);
        let either = is_memory_kind(kind) && register(random, kind, high8, bits).is_some();
        if is_memory_kind(kind) && (!either || wants_memory) {
            instruction.set_op_kind(n, OpKind::Memory);
            let size = (instruction.memory_size().size() as u64).max(1);
            memory(random, &mut instruction, state, size);
            has_memory = true;
        } else if let Some(index) = vsib_index(kind) {
            instruction.set_op_kind(n, OpKind::Memory);
            instruction.set_memory_base(if bits == 64 { Register::RBX } else { Register::EBX });
            state.general[3] = DATA + random.below(4096);
            instruction.set_memory_index(index + random.below(u64::from(bits / 4)) as u32);
            instruction.set_memory_index_scale(1);
            has_memory = true;
        } else if let Some(register) = register(random, kind, high8, bits) {
            instruction.set_op_kind(n, OpKind::Register);
            instruction.set_op_register(n, register);
        } else {
            match kind {
                K::br64_1 | K::br64_4 => {
                    instruction.set_op_kind(n, OpKind::NearBranch64);
                    instruction.set_near_branch64(CODE + 256 + random.below(64));
                }
                K::br32_1 | K::br32_4 => {
                    instruction.set_op_kind(n, OpKind::NearBranch32);
                    instruction.set_near_branch32((CODE + 256 + random.below(64)) as u32);
                }
                K::mem_offs if bits == 32 => {
                    instruction.set_op_kind(n, OpKind::Memory);
                    instruction.set_memory_displacement64(DATA + random.below(4096));
                    instruction.set_memory_displ_size(4);
                }
                K::seg_rSI if bits == 32 => instruction.set_op_kind(n, OpKind::MemorySegESI),
                K::es_rDI if bits == 32 => instruction.set_op_kind(n, OpKind::MemoryESEDI),
                K::seg_rDI if bits == 32 => instruction.set_op_kind(n, OpKind::MemorySegEDI),
                K::seg_rSI => instruction.set_op_kind(n, OpKind::MemorySegRSI),
                K::es_rDI => instruction.set_op_kind(n, OpKind::MemoryESRDI),
                K::seg_rDI => instruction.set_op_kind(n, OpKind::MemorySegRDI),
                _ if immediate(random, &mut instruction, n, kind) => {}
                _ => return None,
            }
        }
    }
    if op_code.can_use_op_mask_register() && (op_code.require_op_mask_register() || random.chance(2)) {
        instruction.set_op_mask(Register::K1 + random.below(7) as u32);
        let broadcast = format!("{code:?}").contains("broadcast");
        if broadcast {
            // Which elements of a repeated operand count is told by several bits each.
            instruction.set_op_mask(Register::None);
        } else if op_code.can_use_zeroing_masking()
            && !(has_memory && instruction.op0_kind() == OpKind::Memory)
        {
            instruction.set_zeroing_masking(random.chance(2));
        }
    }
    if op_code.can_broadcast() && has_memory {
        instruction.set_is_broadcast(random.chance(3));
    }
    if op_code.can_use_rounding_control() && !has_memory && random.chance(3) {
        instruction.set_rounding_control(iced_x86::RoundingControl::RoundUp);
    }
    if op_code.can_use_lock_prefix() && instruction.op0_kind() == OpKind::Memory {
        instruction.set_has_lock_prefix(random.chance(3));
    }
    let string = (0..instruction.op_count()).any(|n| {
        use OpKind as O;
        matches!(
            instruction.op_kind(n),
            O::MemorySegRSI
                | O::MemoryESRDI
                | O::MemorySegRDI
                | O::MemorySegESI
                | O::MemoryESEDI
                | O::MemorySegEDI
        )
    });
    if string {
        state.general[6] = DATA + 1024 + random.below(PAGE as u64);
        state.general[7] = DATA + 1024 + random.below(PAGE as u64);
        state.general[1] = random.below(40);
        if op_code.can_use_rep_prefix() || op_code.can_use_repne_prefix() {
            let repne = random.chance(2) && op_code.can_use_repne_prefix();
            instruction.set_has_repne_prefix(repne);
            instruction.set_has_rep_prefix(!repne && random.chance(2));
        }
    }
    // Mostly in the middle of a page, sometimes across two.
    let rip = if random.chance(8) { CODE + PAGE as u64 - 1 - random.below(6) } else { CODE + 64 };
    let mut encoder = Encoder::new(bits);
    encoder.encode(&instruction, rip).ok()?;
    let bytes = encoder.take_buffer();
    let mut decoder = Decoder::with_ip(bits, &bytes, rip, DecoderOptions::NONE);
    let decoded = decoder.decode();
    if decoded.is_invalid() || decoded.len() != bytes.len() {
        return None;
    }
    // A near branch of 64-bit code with an operand-size prefix: Intel's processors and some of AMD's ignore the prefix.
    if decoded.code() != code && decoded.flow_control() != FlowControl::Next {
        return None;
    }
    // How much of memory this one reads is up to the processor.
    if code == Code::Movsxd_r16_rm16 {
        return None;
    }
    Some(Case { instruction: decoded, bytes, rip })
}
