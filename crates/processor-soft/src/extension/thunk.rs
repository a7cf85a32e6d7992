//! Runs thunks: checks that the instruction is enabled, finds its memory operand, carries out the exceptions
//! that the native instruction must not raise on the host.

use std::ptr::NonNull;

use crate::fault::{Fault, vector};
use crate::memory::Access;
use crate::op::{Flow, Op};
use crate::registers::{cr0, cr4};
use crate::vcpu::Vcpu;

use super::build::{Class, Shape, Traits};
use super::host::component;
use super::image::{Image, MXCSR_FLAGS, MXCSR_MASKS};

/// The address of a thunk.
#[derive(Clone, Copy)]
pub struct Entry(NonNull<u8>);

// SAFETY: the address is that of immutable code in the arena that belongs to the same processor.
unsafe impl Send for Entry {}

/// Room for the largest operand, aligned as any operand may have to be.
#[repr(C, align(64))]
struct Bounce([u8; 64]);

impl Entry {
    /// The thunk at `code`, which [`super::build::build`] made.
    pub fn new(code: NonNull<u8>) -> Self {
        Self(code)
    }

    /// Calls the thunk. `memory` points to the operand, if there is one.
    fn call(self, image: &mut Image, regs: &mut [u64], memory: *mut u8) {
        // SAFETY: the code was generated for this signature, saves what the ABI wants saved and touches
        // the image, the 16 general registers and the operand's bytes only. The arena is not cleared while
        // an `Op` refers to the thunk.
        unsafe {
            let thunk: unsafe extern "sysv64" fn(*mut Image, *mut u64, *mut u8) =
                std::mem::transmute(self.0.as_ptr());
            thunk(image, regs.as_mut_ptr(), memory);
        }
    }
}

impl Vcpu {
    /// Raises what an instruction of `class` raises while it is not enabled (SDM volume 2, section 2.7).
    #[inline]
    pub fn extension_enabled(&mut self, class: Class) -> Result<(), Fault> {
        match class {
            Class::General => return Ok(()),
            Class::X87 | Class::Mmx => return self.x87_enabled(class),
            Class::Sse => {
                if self.cr0 & cr0::EM != 0 || !self.cr4_has(cr4::OSFXSR) {
                    return Err(self.invalid_opcode());
                }
            }
            Class::Avx | Class::Avx512 => {
                let mut needed = component::SSE | component::AVX;
                if class == Class::Avx512 {
                    needed |= component::AVX512;
                }
                let off = !self.cr4_has(cr4::OSXSAVE) || self.xcr0 & needed != needed;
                if off || self.real_mode() || self.virtual_8086() {
                    return Err(self.invalid_opcode());
                }
            }
        }
        if self.cr0 & cr0::TS != 0 {
            return Err(self.raise(vector::DEVICE_NOT_AVAILABLE));
        }
        Ok(())
    }

    #[cold]
    fn x87_enabled(&mut self, class: Class) -> Result<(), Fault> {
        if class == Class::Mmx && self.cr0 & cr0::EM != 0 {
            return Err(self.invalid_opcode());
        }
        if self.cr0 & (cr0::EM | cr0::TS) != 0 {
            return Err(self.raise(vector::DEVICE_NOT_AVAILABLE));
        }
        if self.extension.image.x87_pending() {
            return Err(self.raise(vector::FLOATING_POINT));
        }
        Ok(())
    }

    /// #GP(0) if the operand at `offset` is not aligned.
    #[inline]
    pub fn extension_aligned(&mut self, op: &Op, offset: u64, alignment: u8) -> Result<(), Fault> {
        let linear = self.segments[op.seg as usize].base.wrapping_add(offset);
        if linear & (u64::from(alignment) - 1) != 0 {
            return Err(self.general_protection());
        }
        Ok(())
    }
}

/// The handler of every instruction that has a thunk.
pub fn run(vcpu: &mut Vcpu, op: &Op) -> Result<Flow, Fault> {
    let Some(&super::Thunk { entry, traits }) = vcpu.extension.thunks.get(op.imm as usize) else {
        return Err(vcpu.invalid_opcode());
    };
    vcpu.extension_enabled(traits.class)?;
    if traits.x87 && !matches!(traits.class, Class::X87 | Class::Mmx) && vcpu.extension.image.x87_pending() {
        return Err(vcpu.raise(vector::FLOATING_POINT));
    }
    let (offset, operand) = operand(vcpu, op, &traits)?;
    let mut bounce = Bounce([0; 64]);
    let memory = match &operand {
        Operand::Direct(pointer) => pointer.as_ptr(),
        Operand::None => NonNull::dangling().as_ptr(),
        Operand::Bounced(bytes) => {
            bounce.0 = *bytes;
            bounce.0.as_mut_ptr()
        }
        Operand::Lanes(lanes) => {
            bounce.0 = lanes.bytes;
            bounce.0.as_mut_ptr()
        }
    };
    if traits.flags {
        vcpu.extension.image.status = vcpu.status;
    }
    let guarded = traits.x87 && vcpu.extension.image.fcw() & 0x3f != 0x3f
        || traits.mxcsr && vcpu.extension.image.mxcsr & MXCSR_MASKS != MXCSR_MASKS;
    if guarded {
        guarded_call(vcpu, entry, &traits, &operand, memory, &mut bounce)?;
    } else {
        entry.call(&mut vcpu.extension.image, &mut vcpu.regs, memory);
    }
    if traits.flags {
        vcpu.status = vcpu.extension.image.status;
    }
    if traits.class == Class::X87 {
        let rip = op.next_rip(vcpu).wrapping_sub(u64::from(traits.length));
        let data = if traits.memory { Some(offset) } else { None };
        vcpu.extension.image.set_x87_pointers(rip, data);
    }
    if traits.writes_memory {
        store(vcpu, op, offset, &traits, &operand, &bounce)?;
    }
    Ok(Flow::Next)
}

/// Where a thunk finds its memory operand.
enum Operand {
    None,
    /// In guest RAM.
    Direct(NonNull<u8>),
    /// A copy, to be written back as a whole if it was written.
    Bounced([u8; 64]),
    /// A copy of the enabled elements.
    Lanes(Lanes),
}

struct Lanes {
    bytes: [u8; 64],
    /// Bit n: element n is enabled.
    enabled: u64,
    element: u8,
}

fn operand(vcpu: &mut Vcpu, op: &Op, traits: &Traits) -> Result<(u64, Operand), Fault> {
    if !traits.memory {
        return Ok((0, Operand::None));
    }
    let offset = op.offset(vcpu);
    let masked = lanes(vcpu, traits);
    if traits.alignment > 1 && masked.is_none_or(|(enabled, _)| enabled != 0) {
        vcpu.extension_aligned(op, offset, traits.alignment)?;
    }
    let access = if traits.writes_memory { Access::Write } else { Access::Read };
    let size = usize::from(traits.size);
    let mut bytes = [0; 64];
    match vcpu.host_pointer(op.seg, offset, size, access) {
        Ok(Some(pointer)) => return Ok((offset, Operand::Direct(pointer))),
        Ok(None) if masked.is_none() || !traits.writes_memory => {
            if traits.reads_memory {
                vcpu.read_bytes(op.seg, offset, &mut bytes[..size])?;
            }
            return Ok((offset, Operand::Bounced(bytes)));
        }
        Ok(None) => {}
        Err(fault) if masked.is_none() || matches!(traits.shape, Shape::Opmask { lanes: false, .. }) => {
            return Err(fault);
        }
        // Elements that are not enabled do not fault.
        Err(_) => vcpu.exception = None,
    }
    let (enabled, element) = masked.unwrap_or((0, 1));
    Ok((offset, Operand::Lanes(read_lanes(vcpu, op, offset, traits, enabled, element)?)))
}

/// The elements of a masked operand that are accessed, and their size; `None` for a plain operand.
fn lanes(vcpu: &Vcpu, traits: &Traits) -> Option<(u64, u8)> {
    let image = &vcpu.extension.image;
    let count = |element: u8| u32::from(traits.size) / u32::from(element.max(1));
    let all = |element: u8| u64::MAX >> (64 - count(element).clamp(1, 64));
    match traits.shape {
        Shape::Plain => None,
        Shape::Opmask { lanes: false, .. } if !traits.writes_memory => None,
        Shape::Opmask { register, element, .. } => {
            Some((image.masks[usize::from(register & 7)] & all(element), element))
        }
        Shape::Repeated { register, count, element } => {
            let all = u64::MAX >> (64 - u32::from(count).clamp(1, 64));
            Some((u64::from(image.masks[usize::from(register & 7)] & all != 0), element))
        }
        Shape::Compressed { register, element } => {
            let number = (image.masks[usize::from(register & 7)] & all(element)).count_ones();
            Some((if number == 0 { 0 } else { u64::MAX >> (64 - number) }, element))
        }
        Shape::SignMask { register, element } => {
            let (vector, width) = (&image.vectors[usize::from(register & 31)], usize::from(element.max(1)));
            let enabled = (0..count(element) as usize)
                .filter(|n| vector.get(n * width + width - 1).is_some_and(|byte| byte & 0x80 != 0))
                .fold(0, |mask, n| mask | 1 << n);
            Some((enabled, element))
        }
    }
}

fn read_lanes(
    vcpu: &mut Vcpu,
    op: &Op,
    offset: u64,
    traits: &Traits,
    enabled: u64,
    element: u8,
) -> Result<Lanes, Fault> {
    let mut lanes = Lanes { bytes: [0; 64], enabled, element };
    for (at, range) in lanes.ranges() {
        let address = offset.wrapping_add(at);
        if traits.writes_memory {
            // Faults come before the first write.
            vcpu.host_pointer(op.seg, address, usize::from(element), Access::Write)?;
        }
        if traits.reads_memory {
            let mut bytes = [0; 8];
            let bytes = &mut bytes[..range.len().min(8)];
            vcpu.read_bytes(op.seg, address, bytes)?;
            if let Some(lane) = lanes.bytes.get_mut(range) {
                lane.copy_from_slice(bytes);
            }
        }
    }
    Ok(lanes)
}

impl Lanes {
    /// Offset in memory and place in `bytes` of every enabled element.
    fn ranges(&self) -> impl Iterator<Item = (u64, std::ops::Range<usize>)> + use<> {
        let (enabled, width) = (self.enabled, usize::from(self.element.clamp(1, 8)));
        (0..64 / width)
            .filter(move |n| enabled >> n & 1 != 0)
            .map(move |n| ((n * width) as u64, n * width..(n + 1) * width))
    }
}

fn store(
    vcpu: &mut Vcpu,
    op: &Op,
    offset: u64,
    traits: &Traits,
    operand: &Operand,
    bounce: &Bounce,
) -> Result<(), Fault> {
    match operand {
        Operand::None => Ok(()),
        Operand::Direct(_) => {
            vcpu.host_written();
            Ok(())
        }
        Operand::Bounced(_) => vcpu.write_bytes(op.seg, offset, &bounce.0[..usize::from(traits.size)]),
        Operand::Lanes(lanes) => {
            for (at, range) in lanes.ranges() {
                vcpu.write_bytes(op.seg, offset.wrapping_add(at), &bounce.0[range])?;
            }
            Ok(())
        }
    }
}

/// Runs a thunk while the guest has exceptions unmasked: masked, on copies, and then looks which exceptions
/// it would have raised.
fn guarded_call(
    vcpu: &mut Vcpu,
    entry: Entry,
    traits: &Traits,
    operand: &Operand,
    memory: *mut u8,
    bounce: &mut Bounce,
) -> Result<(), Fault> {
    let before = vcpu.extension.image.clone();
    let regs = vcpu.regs;
    // What the thunk writes to guest RAM is written to a copy first.
    let direct = matches!(operand, Operand::Direct(_)) && traits.writes_memory;
    let target = if direct {
        let size = usize::from(traits.size);
        // SAFETY: the operand's bytes were checked by `host_pointer` and no method of the processor ran
        // since; the bounce buffer has room for the largest operand.
        unsafe { std::ptr::copy_nonoverlapping(memory, bounce.0.as_mut_ptr(), size) };
        bounce.0.as_mut_ptr()
    } else {
        memory
    };
    let image = &mut vcpu.extension.image;
    image.mxcsr = before.mxcsr & !MXCSR_FLAGS | MXCSR_MASKS;
    image.set_fcw(before.fcw() | 0x3f);
    image.set_fsw(before.fsw() & !0x80ff);
    entry.call(image, &mut vcpu.regs, target);

    let simd = image.mxcsr & MXCSR_FLAGS;
    let simd_unmasked = simd & !(before.mxcsr >> 7) & MXCSR_FLAGS;
    if traits.mxcsr && simd_unmasked != 0 {
        vcpu.extension.image = before;
        vcpu.extension.image.mxcsr |= simd;
        vcpu.regs = regs;
        return Err(if vcpu.cr4_has(cr4::OSXMMEXCPT) {
            vcpu.raise(vector::SIMD_FLOATING_POINT)
        } else {
            vcpu.invalid_opcode()
        });
    }
    image.mxcsr = before.mxcsr | if traits.mxcsr { simd } else { 0 };
    let raised = image.fsw() & 0x7f;
    let unmasked = raised & !before.fcw() & 0x3f;
    image.set_fcw(before.fcw());
    image.set_fsw(image.fsw() | before.fsw() & 0x7f);
    // Invalid operand, denormal operand and division by zero are found before there is a result; a result
    // in memory is not stored whatever the exception but an inexact one.
    const BEFORE_RESULT: u16 = 1 | 2 | 4;
    const INEXACT: u16 = 0x20;
    if unmasked & BEFORE_RESULT != 0 || direct && unmasked & !INEXACT != 0 {
        let fsw = before.fsw() | raised;
        vcpu.extension.image = before;
        vcpu.extension.image.set_fsw(fsw);
        return Ok(());
    }
    if direct {
        // SAFETY: as above; the operand is writable guest RAM.
        unsafe { std::ptr::copy_nonoverlapping(target, memory, usize::from(traits.size)) };
    }
    Ok(())
}
