//! x87 control: the words, the environment and the whole state (SDM volume 1, sections 8.1.3 to 8.1.11).

use iced_x86::{Code, Instruction, Mnemonic, Register};

use crate::fault::{Fault, vector};
use crate::op::{Flow, Handler, Op};
use crate::registers::{cr0, gpr};
use crate::vcpu::Vcpu;

use super::image::Image;

/// The handler of an x87 control instruction.
pub fn control(instruction: &Instruction, op: &mut Op) -> Option<Handler> {
    use Mnemonic as M;
    // The 14-byte forms serve 16-bit operand size.
    let short = matches!(
        instruction.code(),
        Code::Fldenv_m14byte
            | Code::Fnstenv_m14byte
            | Code::Fstenv_m14byte
            | Code::Fnsave_m94byte
            | Code::Fsave_m94byte
            | Code::Frstor_m94byte
    );
    let handler: Handler = match instruction.mnemonic() {
        M::Wait => fwait,
        M::Fninit | M::Finit => fninit,
        M::Fnclex | M::Fclex => fnclex,
        M::Fldcw => fldcw,
        M::Fnstcw | M::Fstcw => fnstcw,
        M::Fnstsw | M::Fstsw if instruction.op0_register() == Register::AX => fnstsw_ax,
        M::Fnstsw | M::Fstsw => fnstsw,
        M::Fldenv => fldenv,
        M::Fnstenv | M::Fstenv => fnstenv,
        M::Fnsave | M::Fsave => fnsave,
        M::Frstor => frstor,
        M::Fneni | M::Feni | M::Fndisi | M::Fdisi | M::Fnsetpm | M::Fsetpm => ignored,
        _ => return None,
    };
    op.imm = u64::from(short);
    Some(handler)
}

impl Vcpu {
    fn x87_available(&mut self) -> Result<(), Fault> {
        if self.cr0 & (cr0::EM | cr0::TS) != 0 {
            return Err(self.raise(vector::DEVICE_NOT_AVAILABLE));
        }
        Ok(())
    }

    fn x87_waiting(&mut self) -> Result<(), Fault> {
        self.x87_available()?;
        if self.extension.image.x87_pending() {
            return Err(self.raise(vector::FLOATING_POINT));
        }
        Ok(())
    }
}

/// FSW as software sees it: ES and B follow from the flags and masks.
fn status_word(image: &Image) -> u16 {
    if image.x87_pending() { image.fsw() | 0x8080 } else { image.fsw() & !0x8080 }
}

fn ignored(vcpu: &mut Vcpu, _op: &Op) -> Result<Flow, Fault> {
    vcpu.x87_available().map(|()| Flow::Next)
}

fn fwait(vcpu: &mut Vcpu, _op: &Op) -> Result<Flow, Fault> {
    if vcpu.cr0 & (cr0::MP | cr0::TS) == cr0::MP | cr0::TS {
        return Err(vcpu.raise(vector::DEVICE_NOT_AVAILABLE));
    }
    if vcpu.extension.image.x87_pending() {
        return Err(vcpu.raise(vector::FLOATING_POINT));
    }
    Ok(Flow::Next)
}

fn fninit(vcpu: &mut Vcpu, _op: &Op) -> Result<Flow, Fault> {
    vcpu.x87_available()?;
    let image = &mut vcpu.extension.image;
    // The registers keep their contents; they are only tagged empty.
    image.set_x87_top(0);
    image.x87[..24].fill(0);
    image.set_fcw(super::image::FCW_INIT);
    Ok(Flow::Next)
}

fn fnclex(vcpu: &mut Vcpu, _op: &Op) -> Result<Flow, Fault> {
    vcpu.x87_available()?;
    let fsw = vcpu.extension.image.fsw() & 0x7f00;
    vcpu.extension.image.set_fsw(fsw);
    Ok(Flow::Next)
}

fn fldcw(vcpu: &mut Vcpu, op: &Op) -> Result<Flow, Fault> {
    vcpu.x87_waiting()?;
    let value: u16 = vcpu.read(op.seg, op.offset(vcpu))?;
    vcpu.extension.image.set_fcw(value & 0x1f3f | 0x40);
    Ok(Flow::Next)
}

fn fnstcw(vcpu: &mut Vcpu, op: &Op) -> Result<Flow, Fault> {
    vcpu.x87_available()?;
    let value = vcpu.extension.image.fcw();
    vcpu.write(op.seg, op.offset(vcpu), value)?;
    Ok(Flow::Next)
}

fn fnstsw_ax(vcpu: &mut Vcpu, _op: &Op) -> Result<Flow, Fault> {
    vcpu.x87_available()?;
    let value = status_word(&vcpu.extension.image);
    vcpu.regs[gpr::RAX] = vcpu.regs[gpr::RAX] & !0xffff | u64::from(value);
    Ok(Flow::Next)
}

fn fnstsw(vcpu: &mut Vcpu, op: &Op) -> Result<Flow, Fault> {
    vcpu.x87_available()?;
    let value = status_word(&vcpu.extension.image);
    vcpu.write(op.seg, op.offset(vcpu), value)?;
    Ok(Flow::Next)
}

/// The two-bit tags: valid 0, zero 1, special 2, empty 3.
fn full_tags(image: &Image) -> u16 {
    let top = usize::from(image.fsw() >> 11 & 7);
    (0..8).fold(0, |tags, physical| {
        let tag = if image.x87[4] >> physical & 1 == 0 {
            3
        } else {
            // Register slots are in stack order.
            let slot = (physical + 8 - top) % 8;
            let value = &image.x87[32 + slot * 16..42 + slot * 16];
            let exponent = u16::from_le_bytes([value[8], value[9]]) & 0x7fff;
            let zero = value[..8].iter().all(|&byte| byte == 0);
            match exponent {
                0 if zero => 1,
                0 | 0x7fff => 2,
                _ if value[7] & 0x80 == 0 => 2,
                _ => 0,
            }
        };
        tags | tag << (physical * 2)
    })
}

fn abridged_tags(tags: u16) -> u8 {
    (0..8).filter(|n| tags >> (n * 2) & 3 != 3).fold(0, |abridged, n| abridged | 1 << n)
}

/// The environment in its protected-mode form; real-mode software sees the 32-bit offsets in it too.
fn environment(image: &Image, short: bool) -> ([u8; 28], usize) {
    let words = [image.fcw(), status_word(image), full_tags(image)];
    let [rip, data] = image.x87_pointers();
    let opcode = u16::from_le_bytes([image.x87[6], image.x87[7]]) & 0x7ff;
    let mut bytes = [0; 28];
    if short {
        let fields = [words[0], words[1], words[2], rip as u16, 0, data as u16, 0];
        for (n, field) in fields.into_iter().enumerate() {
            bytes[n * 2..n * 2 + 2].copy_from_slice(&field.to_le_bytes());
        }
        return (bytes, 14);
    }
    let upper = 0xffff_0000;
    let fields = [
        upper | u32::from(words[0]),
        upper | u32::from(words[1]),
        upper | u32::from(words[2]),
        rip as u32,
        u32::from(opcode) << 16,
        data as u32,
        upper,
    ];
    for (n, field) in fields.into_iter().enumerate() {
        bytes[n * 4..n * 4 + 4].copy_from_slice(&field.to_le_bytes());
    }
    (bytes, 28)
}

fn set_environment(image: &mut Image, bytes: &[u8], short: bool) {
    let step = if short { 2 } else { 4 };
    let word = |n: usize| u16::from_le_bytes([bytes[n * step], bytes[n * step + 1]]);
    let pointer = |n: usize| {
        let at = n * step;
        if short {
            u64::from(u16::from_le_bytes([bytes[at], bytes[at + 1]]))
        } else {
            u64::from(u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]))
        }
    };
    let (rip, data) = (pointer(3), pointer(5));
    image.set_fcw(word(0) & 0x1f3f | 0x40);
    image.set_x87_top(word(1) >> 11 & 7);
    image.set_fsw(word(1));
    image.x87[4] = abridged_tags(word(2));
    image.x87[5] = 0;
    if !short {
        let opcode = u16::from_le_bytes([bytes[18], bytes[19]]) & 0x7ff;
        image.x87[6..8].copy_from_slice(&opcode.to_le_bytes());
    }
    image.set_x87_pointers(rip, Some(data));
}

fn fnstenv(vcpu: &mut Vcpu, op: &Op) -> Result<Flow, Fault> {
    vcpu.x87_available()?;
    let (bytes, size) = environment(&vcpu.extension.image, op.imm != 0);
    vcpu.write_bytes(op.seg, op.offset(vcpu), &bytes[..size])?;
    // All exceptions are masked afterwards.
    let fcw = vcpu.extension.image.fcw() | 0x3f;
    vcpu.extension.image.set_fcw(fcw);
    Ok(Flow::Next)
}

fn fldenv(vcpu: &mut Vcpu, op: &Op) -> Result<Flow, Fault> {
    vcpu.x87_waiting()?;
    let short = op.imm != 0;
    let mut bytes = [0; 28];
    vcpu.read_bytes(op.seg, op.offset(vcpu), &mut bytes[..if short { 14 } else { 28 }])?;
    set_environment(&mut vcpu.extension.image, &bytes, short);
    Ok(Flow::Next)
}

fn fnsave(vcpu: &mut Vcpu, op: &Op) -> Result<Flow, Fault> {
    vcpu.x87_available()?;
    let image = &vcpu.extension.image;
    let (environment, size) = environment(image, op.imm != 0);
    let mut bytes = [0; 108];
    bytes[..size].copy_from_slice(&environment[..size]);
    for n in 0..8 {
        let to = size + n * 10;
        bytes[to..to + 10].copy_from_slice(&image.x87[32 + n * 16..42 + n * 16]);
    }
    vcpu.write_bytes(op.seg, op.offset(vcpu), &bytes[..size + 80])?;
    fninit(vcpu, op)
}

fn frstor(vcpu: &mut Vcpu, op: &Op) -> Result<Flow, Fault> {
    vcpu.x87_waiting()?;
    let short = op.imm != 0;
    let size = if short { 14 } else { 28 };
    let mut bytes = [0; 108];
    vcpu.read_bytes(op.seg, op.offset(vcpu), &mut bytes[..size + 80])?;
    let image = &mut vcpu.extension.image;
    set_environment(image, &bytes, short);
    for n in 0..8 {
        let from = size + n * 10;
        image.x87[32 + n * 16..42 + n * 16].copy_from_slice(&bytes[from..from + 10]);
        image.x87[42 + n * 16..48 + n * 16].fill(0);
    }
    Ok(Flow::Next)
}
