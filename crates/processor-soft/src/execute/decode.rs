//! From bytes to [`Op`]s.
//!
//! Everything that can be known before an instruction runs is settled here: operand size, addressing,
//! segment, whether the instruction exists at all. Ops do not depend on where the code is mapped: what is
//! relative to RIP is told relative to the start of the block.

use std::sync::OnceLock;

use iced_x86::{Decoder, DecoderError, DecoderOptions, FlowControl, Instruction, Mnemonic, OpKind, Register};

use super::dispatch::{end, far_operand, gate, too_long, undefined};
use super::liveness::Effects;
use super::{
    alu, bcd, bits, branch, conditional, convert, exchange, flags, hint, moves, multiply, shift, stack,
    string,
};
use crate::op::{Handler, Op};
use crate::registers::{Seg, gpr};
use crate::vcpu::Vcpu;
use crate::{extension, system};

/// The longest instruction (SDM volume 2, section 2.3.11).
pub const LONGEST: usize = 15;
/// A block has at most that many instructions.
pub const BLOCK_LIMIT: u16 = 48;

/// How code is decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Mode {
    Bits16 = 0,
    Bits32 = 1,
    Bits64 = 2,
}

impl Mode {
    /// The mode of the present code segment.
    #[inline(always)]
    pub fn of(cpu: &Vcpu) -> Self {
        if cpu.code_64() {
            Self::Bits64
        } else if cpu.code_32() {
            Self::Bits32
        } else {
            Self::Bits16
        }
    }
}

/// Where and how a block is decoded.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    pub mode: Mode,
    /// Offset of its first byte in the page.
    pub offset: u16,
    /// Whether it may hand over to other blocks.
    pub linked: bool,
}

/// What an instruction's operands are, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    None,
    Reg,
    Mem,
    Imm,
    RegReg,
    RegImm,
    RegMem,
    MemReg,
    MemImm,
    RegRegReg,
    RegRegImm,
    RegRegMem,
    RegMemReg,
    RegMemImm,
    MemRegReg,
    MemRegImm,
    Other,
}

/// What the host has of the instructions that run natively.
#[derive(Debug, Clone, Copy)]
pub struct Host {
    pub bmi1: bool,
    pub bmi2: bool,
    pub adx: bool,
    pub movbe: bool,
    pub crc32: bool,
    pub popcnt: bool,
    pub rdrand: bool,
    pub rdseed: bool,
}

impl Host {
    fn get() -> &'static Self {
        static HOST: OnceLock<Host> = OnceLock::new();
        HOST.get_or_init(|| Self {
            bmi1: is_x86_feature_detected!("bmi1"),
            bmi2: is_x86_feature_detected!("bmi2"),
            adx: is_x86_feature_detected!("adx"),
            movbe: is_x86_feature_detected!("movbe"),
            crc32: is_x86_feature_detected!("sse4.2"),
            popcnt: is_x86_feature_detected!("popcnt"),
            rdrand: is_x86_feature_detected!("rdrand"),
            rdseed: is_x86_feature_detected!("rdseed"),
        })
    }
}

/// An instruction as the modules see it that choose its handler.
pub struct Form<'a> {
    pub mnemonic: Mnemonic,
    pub shape: Shape,
    /// Size of the first operand in bytes; of the second if there is but a pushed or tested one.
    pub size: usize,
    /// Size of the second operand.
    pub source_size: usize,
    /// The third operand, if it is a general register.
    pub third: u8,
    pub lock: bool,
    pub mode: Mode,
    pub place: Place,
    pub host: &'static Host,
    pub instruction: &'a Instruction,
}

/// What became of the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decoded {
    /// That many bytes and instructions.
    Block { length: u16, count: u16 },
    /// The first instruction goes on behind the bytes.
    Truncated,
}

/// Decodes up to `limit` instructions from `bytes` and appends their ops to `ops`. Ends before an
/// instruction of which only a part is there.
pub fn decode(cpu: &mut Vcpu, place: Place, bytes: &[u8], limit: u16, ops: &mut Vec<Op>) -> Decoded {
    let first = ops.len();
    let mut effects = Effects::new();
    let decoded = decode_loud(cpu, place, bytes, limit, ops, &mut effects);
    effects.silence(&mut ops[first..]);
    decoded
}

/// As [`decode`], with every instruction computing its flags.
fn decode_loud(
    cpu: &mut Vcpu,
    place: Place,
    bytes: &[u8],
    limit: u16,
    ops: &mut Vec<Op>,
    effects: &mut Effects,
) -> Decoded {
    let bitness = match place.mode {
        Mode::Bits16 => 16,
        Mode::Bits32 => 32,
        Mode::Bits64 => 64,
    };
    let mut decoder = Decoder::with_ip(bitness, bytes, 0, DecoderOptions::NONE);
    let (mut instruction, mut previous) = (Instruction::default(), Instruction::default());
    let (first, mut count, mut start) = (ops.len(), 0, 0);
    while count < limit && start < bytes.len() {
        decoder.decode_out(&mut instruction);
        if instruction.is_invalid() {
            let (handler, next): (Handler, _) = match decoder.last_error() {
                DecoderError::NoMoreBytes if count == 0 => return Decoded::Truncated,
                DecoderError::NoMoreBytes => break,
                _ if is_too_long(bitness, &bytes[start..]) => (too_long, (start + LONGEST).min(bytes.len())),
                _ => (undefined, decoder.position().max(start + 1)),
            };
            // All bytes that make it wrong belong to it: while they are the same, so is the fault.
            let next = next as u16;
            ops.push(Op { handler, next, ..blank() });
            return Decoded::Block { length: next, count: count + 1 };
        }
        let mut op = Op { next: decoder.position() as u16, ..blank() };
        if let Some(far) = memory_operand(&instruction, place.mode, &mut op) {
            ops.push(Op { handler: far_operand, imm: far, next: start as u16, ..blank() });
        }
        let form = form(&instruction, place, &mut op);
        let last = translate(cpu, &form, start as u16, op, ops);
        effects.note(&form, &ops[ops.len() - 1], ops.len() - 1 - first);
        if let Some(condition) = branch::linked_condition(&form) {
            fuse(&previous, place, condition, ops);
        }
        previous = instruction;
        start = decoder.position();
        count += 1;
        if last {
            // The chain must end even if a handler of another folder says that it goes on (INTO, XABORT).
            ops.push(Op { handler: end, next: start as u16, ..blank() });
            return Decoded::Block { length: start as u16, count };
        }
    }
    ops.push(branch::end(place, start as u16));
    Decoded::Block { length: start as u16, count }
}

/// Joins the linked jump that is the last op with the instruction before it, if that is a comparison.
fn fuse(previous: &Instruction, place: Place, condition: u8, ops: &mut [Op]) {
    if !matches!(previous.mnemonic(), Mnemonic::Cmp | Mnemonic::Test) {
        return;
    }
    let form = form(previous, place, &mut blank());
    if let ([.., comparison, _], Some(handler)) = (ops, alu::select_fused(&form, condition)) {
        comparison.handler = handler;
    }
}

/// Whether an instruction that the decoder refuses is so because it would need more bytes than there may
/// be: then one byte fewer does not tell that it is wrong.
fn is_too_long(bitness: u32, bytes: &[u8]) -> bool {
    let Some(bytes) = bytes.get(..LONGEST - 1) else { return false };
    let mut decoder = Decoder::new(bitness, bytes, DecoderOptions::NONE);
    let _ = decoder.decode();
    decoder.last_error() == DecoderError::NoMoreBytes
}

pub fn blank() -> Op {
    Op {
        handler: undefined,
        imm: 0,
        disp: 0,
        next: 0,
        reg: gpr::ZERO as u8,
        rm: gpr::ZERO as u8,
        base: gpr::ZERO as u8,
        index: gpr::ZERO as u8,
        scale: 0,
        seg: Seg::Flat,
    }
}

/// Appends the ops of one instruction that begins at `start`. True if the block ends with it.
fn translate(cpu: &mut Vcpu, form: &Form, start: u16, mut op: Op, ops: &mut Vec<Op>) -> bool {
    let instruction = form.instruction;
    if let Some(handler) = select(form, &mut op) {
        op.handler = handler;
    } else if system::prepare(cpu, instruction, &mut op) || extension::prepare(cpu, instruction, &mut op) {
        ops.push(Op { handler: gate, next: start, ..blank() });
    } else if let Some(handler) = hint::fallback(form) {
        op.handler = handler;
    } else {
        op.handler = undefined;
        ops.push(op);
        return true;
    }
    ops.push(op);
    !matches!(instruction.flow_control(), FlowControl::Next)
}

fn select(form: &Form, op: &mut Op) -> Option<Handler> {
    moves::select(form, op)
        .or_else(|| alu::select(form, op))
        .or_else(|| branch::select(form, op))
        .or_else(|| stack::select(form, op))
        .or_else(|| shift::select(form, op))
        .or_else(|| conditional::select(form, op))
        .or_else(|| convert::select(form, op))
        .or_else(|| multiply::select(form, op))
        .or_else(|| bits::select(form, op))
        .or_else(|| string::select(form, op))
        .or_else(|| exchange::select(form, op))
        .or_else(|| flags::select(form, op))
        .or_else(|| bcd::select(form, op))
        .or_else(|| hint::select(form))
}

/// The index of a general register as [`Op`] holds it.
pub fn register(register: Register) -> Option<u8> {
    if !register.is_gpr() {
        return None;
    }
    let number = (register.full_register() as u32 - Register::RAX as u32) as u8;
    let high = matches!(register, Register::AH | Register::CH | Register::DH | Register::BH);
    Some(if high { number | 0x20 } else { number })
}

/// Fills the memory operand of `op`. Answers the distance from the block's start of an address that
/// `disp` cannot hold, which a [`far_operand`] has to compute.
fn memory_operand(instruction: &Instruction, mode: Mode, op: &mut Op) -> Option<u64> {
    if !(0..instruction.op_count()).any(|index| instruction.op_kind(index) == OpKind::Memory) {
        return None;
    }
    let (base, index) = (instruction.memory_base(), instruction.memory_index());
    let size = [base, index]
        .into_iter()
        .find(|register| register.is_gpr() && register.size() > 1 || register.is_ip())
        .map_or(instruction.memory_displ_size() as usize, |register| register.size());
    let size_code = match size {
        2 => 2,
        4 => 1,
        _ => 0,
    };
    op.seg = segment(instruction.memory_segment(), mode, base);
    op.scale = instruction.memory_index_scale().trailing_zeros() as u8 | size_code << 2;
    // XLAT's AL is added by its handler.
    op.index = register(index).filter(|_| index.size() > 1).unwrap_or(gpr::ZERO as u8);
    op.base = register(base).unwrap_or(gpr::ZERO as u8);
    let displacement = instruction.memory_displacement64();
    op.disp = displacement as i32;
    if base == Register::RIP {
        if i64::from(op.disp) != displacement as i64 {
            (op.base, op.disp) = (gpr::FAR as u8, 0);
            return Some(displacement);
        }
        op.base = gpr::BLOCK_RIP as u8;
    } else if base == Register::EIP {
        op.base = gpr::BLOCK_RIP as u8;
    }
    None
}

/// The segment of an operand with base register `base`.
pub fn segment(register: Register, mode: Mode, base: Register) -> Seg {
    match register {
        Register::FS => Seg::Fs,
        Register::GS => Seg::Gs,
        _ if mode == Mode::Bits64 => match base {
            Register::RSP | Register::RBP | Register::ESP | Register::EBP => Seg::FlatStack,
            _ => Seg::Flat,
        },
        Register::ES => Seg::Es,
        Register::CS => Seg::Cs,
        Register::SS => Seg::Ss,
        _ => Seg::Ds,
    }
}

/// Describes the operands, and fills `reg`, `rm` and `imm` of `op`.
fn form<'a>(instruction: &'a Instruction, place: Place, op: &mut Op) -> Form<'a> {
    #[derive(Clone, Copy, PartialEq)]
    enum Kind {
        None,
        Reg,
        Mem,
        Imm,
        Other,
    }
    let mut kinds = [Kind::None; 3];
    let mut sizes = [0; 3];
    let mut registers = [None; 3];
    for (index, kind) in kinds.iter_mut().enumerate().take(instruction.op_count().min(3) as usize) {
        let number = index as u32;
        *kind = match instruction.op_kind(number) {
            OpKind::Register => {
                let operand = instruction.op_register(number);
                registers[index] = register(operand);
                sizes[index] = operand.size();
                if registers[index].is_some() { Kind::Reg } else { Kind::Other }
            }
            OpKind::Memory => {
                sizes[index] = instruction.memory_size().size();
                Kind::Mem
            }
            OpKind::Immediate8
            | OpKind::Immediate8_2nd
            | OpKind::Immediate16
            | OpKind::Immediate32
            | OpKind::Immediate64
            | OpKind::Immediate8to16
            | OpKind::Immediate8to32
            | OpKind::Immediate8to64
            | OpKind::Immediate32to64 => {
                op.imm = instruction.immediate(number);
                Kind::Imm
            }
            OpKind::NearBranch16 | OpKind::NearBranch32 | OpKind::NearBranch64 => {
                op.imm = instruction.near_branch_target();
                Kind::Other
            }
            _ => Kind::Other,
        };
    }
    let mut found = registers.iter().flatten();
    op.reg = found.next().copied().unwrap_or(gpr::ZERO as u8);
    op.rm = found.next().copied().unwrap_or(gpr::ZERO as u8);
    let shape = match kinds {
        [Kind::None, ..] => Shape::None,
        [Kind::Reg, Kind::None, _] => Shape::Reg,
        [Kind::Mem, Kind::None, _] => Shape::Mem,
        [Kind::Imm, Kind::None, _] => Shape::Imm,
        [Kind::Reg, Kind::Reg, Kind::None] => Shape::RegReg,
        [Kind::Reg, Kind::Imm, Kind::None] => Shape::RegImm,
        [Kind::Reg, Kind::Mem, Kind::None] => Shape::RegMem,
        [Kind::Mem, Kind::Reg, Kind::None] => Shape::MemReg,
        [Kind::Mem, Kind::Imm, Kind::None] => Shape::MemImm,
        [Kind::Reg, Kind::Reg, Kind::Reg] => Shape::RegRegReg,
        [Kind::Reg, Kind::Reg, Kind::Imm] => Shape::RegRegImm,
        [Kind::Reg, Kind::Reg, Kind::Mem] => Shape::RegRegMem,
        [Kind::Reg, Kind::Mem, Kind::Reg] => Shape::RegMemReg,
        [Kind::Reg, Kind::Mem, Kind::Imm] => Shape::RegMemImm,
        [Kind::Mem, Kind::Reg, Kind::Reg] => Shape::MemRegReg,
        [Kind::Mem, Kind::Reg, Kind::Imm] => Shape::MemRegImm,
        _ => Shape::Other,
    };
    Form {
        mnemonic: instruction.mnemonic(),
        shape,
        size: sizes[0],
        source_size: sizes[1],
        third: registers[2].unwrap_or(gpr::ZERO as u8),
        lock: instruction.has_lock_prefix(),
        mode: place.mode,
        place,
        host: Host::get(),
        instruction,
    }
}
