//! IN, OUT, INS, OUTS (SDM volume 1, chapter 19).

use std::sync::Arc;

use super::next;
use crate::fault::Fault;
use crate::memory::Access;
use crate::op::{Flow, Op};
use crate::registers::{Seg, attribute, flag, gpr};
use crate::vcpu::Vcpu;

/// Repetitions that are carried out before interrupts are looked at.
const REPETITIONS: u32 = 1024;

/// Bits of [`super::pack::Packed::number`] of INS and OUTS.
pub mod string {
    pub const REPEATED: u8 = 1 << 7;
    /// log2 of the address size in bytes.
    pub const ADDRESS_SHIFT: u8 = 0x3;
}

impl Vcpu {
    /// #GP(0) unless the privilege level or the TSS allows access to `size` ports from `port`.
    fn require_ports(&mut self, port: u16, size: u8) -> Result<(), Fault> {
        if self.real_mode() || (self.cpl <= self.iopl() && !self.virtual_8086()) {
            return Ok(());
        }
        // A 16-bit TSS has no bitmap.
        let wide = self.tr.attributes.0 & attribute::CODE != 0;
        if !wide || self.tr.attributes.0 & attribute::UNUSABLE != 0 || self.tr.limit < 103 {
            return Err(self.general_protection());
        }
        let base = u32::from(self.read_system::<u16>(self.tr.base.wrapping_add(102))?);
        let at = base + u32::from(port) / 8;
        if at + 1 > self.tr.limit {
            return Err(self.general_protection());
        }
        let map: u16 = self.read_system(self.tr.base.wrapping_add(u64::from(at)))?;
        let wanted = (1u16 << size) - 1;
        if map >> (port % 8) & wanted != 0 { Err(self.general_protection()) } else { Ok(()) }
    }

    fn port_read(&mut self, port: u16, size: u8) -> u32 {
        let mut data = [0; 4];
        self.bus.port_read(port, &mut data[..usize::from(size)]);
        u32::from_le_bytes(data)
    }

    fn port_write(&mut self, port: u16, size: u8, value: u32) {
        self.bus.port_write(port, &value.to_le_bytes()[..usize::from(size)]);
    }
}

/// The port: the immediate, or DX.
fn port(vcpu: &Vcpu, op: &Op) -> u16 {
    if op.packed().memory() { vcpu.regs[gpr::RDX] as u16 } else { op.packed().value() as u16 }
}

/// IN. "In memory" says that the port is in DX.
pub fn input(vcpu: &mut Vcpu, op: &Op) -> Result<Flow, Fault> {
    let (size, port) = (op.packed().size(), port(vcpu, op));
    vcpu.require_ports(port, size)?;
    let value = vcpu.port_read(port, size);
    vcpu.set_register(gpr::RAX as u8, size, u64::from(value));
    Ok(Flow::Next)
}

/// OUT.
pub fn output(vcpu: &mut Vcpu, op: &Op) -> Result<Flow, Fault> {
    let (size, port) = (op.packed().size(), port(vcpu, op));
    vcpu.require_ports(port, size)?;
    vcpu.port_write(port, size, vcpu.regs[gpr::RAX] as u32);
    vcpu.rip = next(vcpu, op);
    // What was written may have stopped, reset or interrupted the machine.
    Ok(Flow::Jump)
}

/// INS with and without REP.
pub fn input_string(vcpu: &mut Vcpu, op: &Op) -> Result<Flow, Fault> {
    string(vcpu, op, gpr::RDI, input_one, |vcpu, place, port, size, bytes| {
        let bus = Arc::clone(&vcpu.bus);
        vcpu.write_block(place, bytes, |data| bus.port_read_string(port, size.into(), data))
    })
}

fn input_one(vcpu: &mut Vcpu, (seg, offset): (Seg, u64), port: u16, size: u8) -> Result<(), Fault> {
    // The target is checked before the port is read, whose value would be lost.
    vcpu.host_pointer(seg, offset, usize::from(size), Access::Write)?;
    let value = vcpu.port_read(port, size);
    match size {
        1 => vcpu.write(seg, offset, value as u8),
        2 => vcpu.write(seg, offset, value as u16),
        _ => vcpu.write(seg, offset, value),
    }
}

/// OUTS with and without REP.
pub fn output_string(vcpu: &mut Vcpu, op: &Op) -> Result<Flow, Fault> {
    string(vcpu, op, gpr::RSI, output_one, |vcpu, place, port, size, bytes| {
        let bus = Arc::clone(&vcpu.bus);
        vcpu.read_block(place, bytes, |data| bus.port_write_string(port, size.into(), data))
    })
}

fn output_one(vcpu: &mut Vcpu, (seg, offset): (Seg, u64), port: u16, size: u8) -> Result<(), Fault> {
    let value = match size {
        1 => u32::from(vcpu.read::<u8>(seg, offset)?),
        2 => u32::from(vcpu.read::<u16>(seg, offset)?),
        _ => vcpu.read::<u32>(seg, offset)?,
    };
    vcpu.port_write(port, size, value);
    Ok(())
}

/// Repetitions upwards go to the bus as one call for all that lies in a page; what `many` does not take, and a single
/// step, goes one by one, so that a fault in the middle finds the registers of the element that it belongs to.
fn string(
    vcpu: &mut Vcpu,
    op: &Op,
    pointer: usize,
    one: impl Fn(&mut Vcpu, (Seg, u64), u16, u8) -> Result<(), Fault>,
    many: impl Fn(&mut Vcpu, (Seg, u64), u16, u8, usize) -> Result<bool, Fault>,
) -> Result<Flow, Fault> {
    let packed = op.packed();
    let (size, port) = (packed.size(), vcpu.regs[gpr::RDX] as u16);
    vcpu.require_ports(port, size)?;
    let address = 1u8 << (packed.number() as u8 & string::ADDRESS_SHIFT);
    let mask = if address == 8 { u64::MAX } else { (1 << (8 * address)) - 1 };
    let repeated = packed.number() as u8 & string::REPEATED != 0;
    let upwards = vcpu.flags & flag::DF == 0;
    let step = if upwards { u64::from(size) } else { u64::from(size).wrapping_neg() };
    let single = vcpu.flags & flag::TF != 0;
    let mut left = if single { 1 } else { REPETITIONS };
    loop {
        if repeated && vcpu.regs[gpr::RCX] & mask == 0 {
            return Ok(Flow::Next);
        }
        let offset = vcpu.regs[pointer] & mask;
        let place = (op.seg, offset);
        let mut done = 1;
        if repeated && upwards && !single {
            let linear = vcpu.segments[op.seg as usize].base.wrapping_add(offset);
            let room = (0x1000 - (linear & 0xfff)).min((mask - offset).saturating_add(1));
            let run = (vcpu.regs[gpr::RCX] & mask).min(room / u64::from(size));
            // What cannot be done at once may still be possible in part.
            let bytes = run as usize * usize::from(size);
            if run > 1 && many(vcpu, place, port, size, bytes).unwrap_or(false) {
                done = run;
            }
        }
        if done == 1 {
            one(vcpu, place, port, size)?;
        }
        let moved = offset.wrapping_add(step.wrapping_mul(done)) & mask;
        vcpu.set_register(pointer as u8, address, moved);
        if !repeated {
            return Ok(Flow::Next);
        }
        let count = (vcpu.regs[gpr::RCX] & mask).wrapping_sub(done) & mask;
        vcpu.set_register(gpr::RCX as u8, address, count);
        left = if done == 1 { left - 1 } else { 0 };
        if count != 0 && left == 0 {
            // The same instruction again, after a look at interrupts. Its length is the packed value.
            vcpu.rip = next(vcpu, op).wrapping_sub(u64::from(packed.value()));
            return Ok(Flow::Jump);
        }
    }
}

/// The segment of a string operand as the memory functions want it.
pub fn string_segment(seg: Seg, code_64: bool) -> Seg {
    match seg {
        Seg::Fs | Seg::Gs => seg,
        _ if code_64 => Seg::Flat,
        _ => seg,
    }
}
