//! Gathers, scatters and byte-masked stores: one element after the other, in Rust.

use iced_x86::{EncodingKind, Instruction, Mnemonic, Register};

use crate::fault::Fault;
use crate::op::{Flow, Op};
use crate::registers::{Seg, gpr};
use crate::vcpu::Vcpu;

use super::build::Class;
use super::host::{Host, VectorWidth};

/// What a gather or scatter does, packed into `Op::imm`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Plan {
    data: u8,
    index: u8,
    /// Vector register (VEX) or opmask register (EVEX) that holds the mask.
    mask: u8,
    vex: bool,
    scatter: bool,
    /// Elements have 8 bytes, not 4.
    wide_data: bool,
    wide_index: bool,
    /// log2 of the scale.
    scale: u8,
    count: u8,
}

impl Plan {
    fn pack(self) -> u64 {
        let bits = [
            (u64::from(self.data), 5),
            (u64::from(self.index), 5),
            (u64::from(self.mask), 5),
            (u64::from(self.vex), 1),
            (u64::from(self.scatter), 1),
            (u64::from(self.wide_data), 1),
            (u64::from(self.wide_index), 1),
            (u64::from(self.scale), 2),
            (u64::from(self.count), 5),
        ];
        bits.into_iter().rev().fold(0, |packed, (value, width)| packed << width | value)
    }

    fn unpack(mut packed: u64) -> Self {
        let mut take = |width: u32| {
            let value = packed & ((1 << width) - 1);
            packed >>= width;
            value as u8
        };
        Self {
            data: take(5),
            index: take(5),
            mask: take(5),
            vex: take(1) != 0,
            scatter: take(1) != 0,
            wide_data: take(1) != 0,
            wide_index: take(1) != 0,
            scale: take(2),
            count: take(5),
        }
    }
}

/// Prepares a gather, scatter or byte-masked store.
pub fn prepare(instruction: &Instruction, op: &mut Op) -> bool {
    use Mnemonic as M;
    op.index = gpr::ZERO as u8;
    let (wide_index, wide_data) = match instruction.mnemonic() {
        M::Maskmovdqu | M::Vmaskmovdqu | M::Maskmovq => {
            return prepare_masked_bytes(instruction, op);
        }
        M::Vgatherdps | M::Vpgatherdd | M::Vscatterdps | M::Vpscatterdd => (false, false),
        M::Vgatherdpd | M::Vpgatherdq | M::Vscatterdpd | M::Vpscatterdq => (false, true),
        M::Vgatherqps | M::Vpgatherqd | M::Vscatterqps | M::Vpscatterqd => (true, false),
        M::Vgatherqpd | M::Vpgatherqq | M::Vscatterqpd | M::Vpscatterqq => (true, true),
        _ => return false,
    };
    let vex = instruction.encoding() == EncodingKind::VEX;
    let name = format!("{:?}", instruction.mnemonic());
    let scatter = name.contains("scatter");
    let data = instruction.op_register(if scatter { 1 } else { 0 });
    let index = instruction.memory_index();
    let mask = if vex { instruction.op2_register() } else { instruction.op_mask() };
    let index_count = index.size() / if wide_index { 8 } else { 4 };
    let data_count = data.size() / if wide_data { 8 } else { 4 };
    let plan = Plan {
        data: data.number() as u8,
        index: index.number() as u8,
        mask: if mask == Register::None { 0 } else { mask.number() as u8 },
        vex,
        scatter,
        wide_data,
        wide_index,
        scale: instruction.memory_index_scale().trailing_zeros() as u8,
        count: index_count.min(data_count) as u8,
    };
    // A gather wants its registers distinct, an EVEX one a real mask.
    let distinct = plan.data != plan.index && (!vex || plan.mask != plan.data && plan.mask != plan.index);
    if !scatter && !distinct || !vex && plan.mask == 0 {
        return false;
    }
    op.scale &= !3;
    op.imm = plan.pack();
    op.handler = run;
    true
}

fn run(vcpu: &mut Vcpu, op: &Op) -> Result<Flow, Fault> {
    let plan = Plan::unpack(op.imm);
    vcpu.extension_enabled(if plan.vex { Class::Avx } else { Class::Avx512 })?;
    let base = op.offset(vcpu);
    let width = if plan.wide_data { 8 } else { 4 };
    if plan.vex {
        widen_mask(vcpu, &plan, width);
    }
    let address_mask = match op.scale >> 2 {
        0 => u64::MAX,
        1 => 0xffff_ffff,
        _ => 0xffff,
    };
    for n in 0..usize::from(plan.count) {
        if !enabled(vcpu, &plan, n, width) {
            continue;
        }
        let distance = element_index(vcpu, &plan, n) << plan.scale;
        let offset = base.wrapping_add(distance) & address_mask;
        let at = n * width..(n + 1) * width;
        let data = usize::from(plan.data & 31);
        let mut bytes = [0; 8];
        if plan.scatter {
            bytes[..width].copy_from_slice(&vcpu.extension.image.vectors[data][at]);
            vcpu.write_bytes(op.seg, offset, &bytes[..width])?;
        } else {
            vcpu.read_bytes(op.seg, offset, &mut bytes[..width])?;
            vcpu.extension.image.vectors[data][at].copy_from_slice(&bytes[..width]);
        }
        // An element that is done is done: a later fault restarts behind it.
        disable(vcpu, &plan, n, width);
    }
    finish(vcpu, &plan, width);
    Ok(Flow::Next)
}

fn enabled(vcpu: &Vcpu, plan: &Plan, n: usize, width: usize) -> bool {
    let image = &vcpu.extension.image;
    if plan.vex {
        image.vectors[usize::from(plan.mask & 31)][n * width + width - 1] & 0x80 != 0
    } else {
        image.masks[usize::from(plan.mask & 7)] >> n & 1 != 0
    }
}

/// Every element of a VEX mask becomes all ones or all zeroes, and what is beyond the elements zero.
fn widen_mask(vcpu: &mut Vcpu, plan: &Plan, width: usize) {
    let count = usize::from(plan.count);
    let wide: u64 = (0..count).filter(|&n| enabled(vcpu, plan, n, width)).fold(0, |mask, n| mask | 1 << n);
    let vector = &mut vcpu.extension.image.vectors[usize::from(plan.mask & 31)];
    *vector = [0; 64];
    for n in (0..count).filter(|n| wide >> n & 1 != 0) {
        vector[n * width..(n + 1) * width].fill(0xff);
    }
}

fn disable(vcpu: &mut Vcpu, plan: &Plan, n: usize, width: usize) {
    let image = &mut vcpu.extension.image;
    if plan.vex {
        image.vectors[usize::from(plan.mask & 31)][n * width..(n + 1) * width].fill(0);
    } else {
        image.masks[usize::from(plan.mask & 7)] &= !(1 << n);
    }
}

fn element_index(vcpu: &Vcpu, plan: &Plan, n: usize) -> u64 {
    let vector = &vcpu.extension.image.vectors[usize::from(plan.index & 31)];
    if plan.wide_index {
        u64::from_le_bytes(std::array::from_fn(|i| vector[n * 8 + i]))
    } else {
        i32::from_le_bytes(std::array::from_fn(|i| vector[n * 4 + i])) as i64 as u64
    }
}

/// The mask is zero at the end, and so are the destination's upper bits.
fn finish(vcpu: &mut Vcpu, plan: &Plan, width: usize) {
    let image = &mut vcpu.extension.image;
    if plan.vex {
        image.vectors[usize::from(plan.mask & 31)] = [0; 64];
    } else {
        image.masks[usize::from(plan.mask & 7)] = 0;
    }
    if !plan.scatter {
        let end = (usize::from(plan.count) * width).min(64);
        // The destination is at least an XMM register, of which a short gather fills half.
        image.vectors[usize::from(plan.data & 31)][end..].fill(0);
    }
}

/// MASKMOVQ, MASKMOVDQU: bytes to [rDI] as the mask's sign bits say. `imm`: source, mask, MMX, VEX.
fn prepare_masked_bytes(instruction: &Instruction, op: &mut Op) -> bool {
    if instruction.encoding() == EncodingKind::VEX && Host::get().width < VectorWidth::Ymm {
        return false;
    }
    let mmx = instruction.mnemonic() == Mnemonic::Maskmovq;
    let vex = instruction.encoding() == EncodingKind::VEX;
    let (source, mask) = (instruction.op1_register().number(), instruction.op2_register().number());
    op.imm = source as u64 | (mask as u64) << 8 | u64::from(mmx) << 16 | u64::from(vex) << 17;
    op.base = gpr::RDI as u8;
    op.disp = 0;
    op.seg = match instruction.memory_segment() {
        Register::FS => Seg::Fs,
        Register::GS => Seg::Gs,
        _ => op.seg,
    };
    op.handler = masked_bytes;
    true
}

fn masked_bytes(vcpu: &mut Vcpu, op: &Op) -> Result<Flow, Fault> {
    let (mmx, vex) = (op.imm >> 16 & 1 != 0, op.imm >> 17 & 1 != 0);
    vcpu.extension_enabled(match (mmx, vex) {
        (true, _) => Class::Mmx,
        (_, true) => Class::Avx,
        _ => Class::Sse,
    })?;
    let (source, mask) = ((op.imm & 31) as usize, (op.imm >> 8 & 31) as usize);
    if mmx {
        vcpu.extension.image.enter_mmx();
    }
    let image = &vcpu.extension.image;
    let register = |n: usize| -> [u8; 16] {
        if mmx {
            let mut bytes = [0; 16];
            bytes[..8].copy_from_slice(&image.x87[32 + (n & 7) * 16..40 + (n & 7) * 16]);
            bytes
        } else {
            std::array::from_fn(|i| image.vectors[n][i])
        }
    };
    let (source, mask) = (register(source), register(mask));
    let offset = op.offset(vcpu);
    for n in (0..16).filter(|&n| mask[n] & 0x80 != 0) {
        vcpu.write_bytes(op.seg, offset.wrapping_add(n as u64), &source[n..=n])?;
    }
    Ok(Flow::Next)
}
