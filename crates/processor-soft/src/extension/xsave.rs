//! Save and restore of the extended state: FXSAVE, FXRSTOR and the XSAVE family (SDM volume 1, chapter 13).
//!
//! The area in guest memory is composed from and taken apart into the [`Image`]; the offsets are those that
//! CPUID leaf 0xD tells the guest. A component is "in use" when it differs from its initial state.

use crate::fault::{Fault, vector};
use crate::memory::Access;
use crate::op::{Flow, Op};
use crate::registers::{Seg, cr0, cr4, gpr};
use crate::vcpu::Vcpu;

use super::host::{Host, component};
use super::image::{FCW_INIT, Image, MXCSR_RESET, MXCSR_VALID};

/// Where the extended components begin.
const EXTENDED: u32 = 576;
/// Offset of the header.
const HEADER: usize = 512;
/// XCOMP_BV bit that says "compacted".
const COMPACTED: u64 = 1 << 63;

/// Offset and size of component `index` (2, 5, 6, 7) in the standard format, as Intel's processors have
/// them.
pub fn location(index: u32) -> (u32, u32) {
    match index {
        2 => (576, 256),
        5 => (1088, 64),
        6 => (1152, 512),
        7 => (1664, 1024),
        _ => (0, 0),
    }
}

const EXTENDED_COMPONENTS: [u32; 4] = [2, 5, 6, 7];

/// Size of an area in the standard format.
pub fn standard_size(components: u64) -> u32 {
    EXTENDED_COMPONENTS
        .iter()
        .filter(|&&index| components >> index & 1 != 0)
        .map(|&index| location(index).0 + location(index).1)
        .max()
        .unwrap_or(EXTENDED)
}

/// Size of an area in the compacted format.
pub fn compact_size(components: u64) -> u32 {
    EXTENDED
        + EXTENDED_COMPONENTS
            .iter()
            .filter(|&&index| components >> index & 1 != 0)
            .map(|&index| location(index).1)
            .sum::<u32>()
}

/// Largest area.
const LARGEST: usize = 1664 + 1024;

fn compact_offset(components: u64, index: u32) -> u32 {
    compact_size(components & ((1 << index) - 1))
}

fn put(image: &Image, index: u32, area: &mut [u8]) {
    match index {
        2 => (0..16).for_each(|n| area[n * 16..n * 16 + 16].copy_from_slice(&image.vectors[n][16..32])),
        5 => (0..8).for_each(|n| area[n * 8..n * 8 + 8].copy_from_slice(&image.masks[n].to_le_bytes())),
        6 => (0..16).for_each(|n| area[n * 32..n * 32 + 32].copy_from_slice(&image.vectors[n][32..])),
        _ => (0..16).for_each(|n| area[n * 64..n * 64 + 64].copy_from_slice(&image.vectors[n + 16])),
    }
}

fn take(image: &mut Image, index: u32, area: &[u8]) {
    match index {
        2 => (0..16).for_each(|n| image.vectors[n][16..32].copy_from_slice(&area[n * 16..n * 16 + 16])),
        5 => {
            for n in 0..8 {
                let mut bytes = [0; 8];
                bytes.copy_from_slice(&area[n * 8..n * 8 + 8]);
                image.masks[n] = u64::from_le_bytes(bytes);
            }
        }
        6 => (0..16).for_each(|n| image.vectors[n][32..].copy_from_slice(&area[n * 32..n * 32 + 32])),
        _ => (0..16).for_each(|n| image.vectors[n + 16].copy_from_slice(&area[n * 64..n * 64 + 64])),
    }
}

fn in_use(image: &Image) -> u64 {
    let zero = |bytes: &[u8]| bytes.iter().all(|&byte| byte == 0);
    let mut used = 0;
    if image.fcw() != FCW_INIT || !zero(&image.x87[2..24]) || !zero(&image.x87[32..160]) {
        used |= component::X87;
    }
    if image.vectors[..16].iter().any(|v| !zero(&v[..16])) {
        used |= component::SSE;
    }
    if image.vectors[..16].iter().any(|v| !zero(&v[16..32])) {
        used |= component::AVX;
    }
    if image.masks.iter().any(|&mask| mask != 0) {
        used |= component::OPMASK;
    }
    if image.vectors[..16].iter().any(|v| !zero(&v[32..])) {
        used |= component::ZMM_HI256;
    }
    if image.vectors[16..].iter().any(|v| !zero(v)) {
        used |= component::HI16_ZMM;
    }
    used
}

fn init_component(image: &mut Image, index: u32) {
    match index {
        0 => image.init_x87(),
        1 => image.vectors[..16].iter_mut().for_each(|v| v[..16].fill(0)),
        2 => image.vectors[..16].iter_mut().for_each(|v| v[16..32].fill(0)),
        5 => image.masks = [0; 8],
        6 => image.vectors[..16].iter_mut().for_each(|v| v[32..].fill(0)),
        _ => image.vectors[16..].iter_mut().for_each(|v| v.fill(0)),
    }
}

/// Which instruction of the family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    Plain,
    Optimized,
    Compact,
    Supervisor,
}

/// MXCSR_MASK of the FXSAVE area.
fn legacy_area(image: &Image, area: &mut [u8], wide_pointers: bool) {
    area[..24].copy_from_slice(&image.x87[..24]);
    if !wide_pointers {
        // FIP and FDP of 32 bits; FCS and FDS are deprecated and read as 0.
        area[12..16].fill(0);
        area[20..24].fill(0);
    }
    area[32..160].copy_from_slice(&image.x87[32..160]);
}

fn fix_status_word(image: &Image, area: &mut [u8]) {
    let mut fsw = image.fsw();
    fsw = if image.x87_pending() { fsw | 0x8080 } else { fsw & !0x8080 };
    area[2..4].copy_from_slice(&fsw.to_le_bytes());
}

fn sse_area(image: &Image, area: &mut [u8], count: usize) {
    for n in 0..count {
        area[160 + n * 16..176 + n * 16].copy_from_slice(&image.vectors[n][..16]);
    }
}

impl Vcpu {
    fn xsave_enabled(&mut self) -> Result<(), Fault> {
        if !self.cr4_has(cr4::OSXSAVE) {
            return Err(self.invalid_opcode());
        }
        if self.cr0 & cr0::TS != 0 {
            return Err(self.raise(vector::DEVICE_NOT_AVAILABLE));
        }
        Ok(())
    }

    fn requested(&self) -> u64 {
        let low = self.regs[gpr::RAX] & 0xffff_ffff;
        low | self.regs[gpr::RDX] << 32
    }

    fn area_aligned(&mut self, op: &Op, alignment: u64) -> Result<u64, Fault> {
        let offset = op.offset(self);
        let linear = self.segments[op.seg as usize].base.wrapping_add(offset);
        if !linear.is_multiple_of(alignment) {
            return Err(self.general_protection());
        }
        Ok(offset)
    }

    /// Faults of a write of `len` bytes, before anything is written.
    fn probe(&mut self, seg: Seg, offset: u64, len: u64) -> Result<(), Fault> {
        let mut at = 0;
        while at < len {
            self.host_pointer(seg, offset.wrapping_add(at), 1, Access::Write)?;
            at += 4096;
        }
        self.host_pointer(seg, offset.wrapping_add(len - 1), 1, Access::Write)?;
        Ok(())
    }

    fn xmm_count(&self) -> usize {
        if self.code_64() { 16 } else { 8 }
    }

    fn save(&mut self, op: &Op, form: Form) -> Result<Flow, Fault> {
        self.xsave_enabled()?;
        if form == Form::Supervisor && self.cpl != 0 {
            return Err(self.general_protection());
        }
        let offset = self.area_aligned(op, 64)?;
        let mask = self.requested() & self.xcr0;
        let seg = op.seg;
        let used = in_use(&self.extension.image);
        let image = &self.extension.image;
        // MXCSR counts as part of SSE for the in-use bit of XSAVEC and XSAVES.
        let used = if image.mxcsr != MXCSR_RESET { used | component::SSE } else { used };
        let compact = matches!(form, Form::Compact | Form::Supervisor);
        let skip_init = form != Form::Plain;
        let writes = |bit: u64| mask & bit != 0 && (!skip_init || used & bit != 0);

        let mut area = [0_u8; LARGEST];
        let count = self.xmm_count();
        let image = &self.extension.image;
        legacy_area(image, &mut area, op.imm & WIDE != 0);
        fix_status_word(image, &mut area);
        sse_area(image, &mut area, count);
        area[24..28].copy_from_slice(&image.mxcsr.to_le_bytes());
        area[28..32].copy_from_slice(&MXCSR_VALID.to_le_bytes());
        let mut pieces: [(usize, usize); 9] = [(0, 0); 9];
        let mut number = 0;
        let mut piece = |from: usize, len: usize| {
            pieces[number] = (from, len);
            number += 1;
        };
        if writes(component::X87) {
            piece(0, 24);
            piece(32, 128);
        }
        let mxcsr =
            if compact { writes(component::SSE) } else { mask & (component::SSE | component::AVX) != 0 };
        if mxcsr {
            piece(24, 8);
        }
        if writes(component::SSE) {
            piece(160, count * 16);
        }
        for index in EXTENDED_COMPONENTS {
            if writes(1 << index) {
                let (standard, size) = location(index);
                let from = if compact { compact_offset(mask, index) } else { standard } as usize;
                put(image, index, &mut area[from..from + size as usize]);
                piece(from, size as usize);
            }
        }
        let total = if compact { compact_size(mask) } else { standard_size(mask) };
        self.probe(seg, offset, u64::from(total))?;
        // The header: XSTATE_BV of components not asked for stays as it is in the standard format.
        if compact {
            let state = used & mask;
            self.write(seg, offset.wrapping_add(HEADER as u64), state)?;
            self.write(seg, offset.wrapping_add(HEADER as u64 + 8), mask | COMPACTED)?;
        } else {
            let old: u64 = self.read(seg, offset.wrapping_add(HEADER as u64))?;
            let state = used & mask | old & !mask;
            self.write(seg, offset.wrapping_add(HEADER as u64), state)?;
        }
        for &(from, len) in &pieces[..number] {
            self.write_bytes(seg, offset.wrapping_add(from as u64), &area[from..from + len])?;
        }
        Ok(Flow::Next)
    }

    fn restore(&mut self, op: &Op, supervisor: bool) -> Result<Flow, Fault> {
        self.xsave_enabled()?;
        if supervisor && self.cpl != 0 {
            return Err(self.general_protection());
        }
        let offset = self.area_aligned(op, 64)?;
        let seg = op.seg;
        let mut header = [0_u8; 64];
        self.read_bytes(seg, offset.wrapping_add(HEADER as u64), &mut header)?;
        let word = |n: usize| u64::from_le_bytes(std::array::from_fn(|i| header[n * 8 + i]));
        let (state, compaction) = (word(0), word(1));
        let compact = compaction & COMPACTED != 0;
        let bad = if compact {
            let format = compaction & !COMPACTED;
            format & !self.xcr0 != 0 || state & !format != 0 || header[16..].iter().any(|&b| b != 0)
        } else {
            supervisor || state & !self.xcr0 != 0 || header[8..24].iter().any(|&b| b != 0)
        };
        if bad {
            return Err(self.general_protection());
        }
        let mask = self.requested() & self.xcr0;
        let load = mask & state;
        let mut area = [0_u8; LARGEST];
        let count = self.xmm_count();
        let mxcsr_loaded =
            if compact { load & component::SSE != 0 } else { mask & (component::SSE | component::AVX) != 0 };
        if load & component::X87 != 0 {
            self.read_bytes(seg, offset, &mut area[..160])?;
        }
        if load & component::SSE != 0 {
            self.read_bytes(seg, offset.wrapping_add(160), &mut area[160..160 + count * 16])?;
        }
        let mut mxcsr = MXCSR_RESET;
        if mxcsr_loaded {
            mxcsr = self.read(seg, offset.wrapping_add(24))?;
            if mxcsr & !MXCSR_VALID != 0 {
                return Err(self.general_protection());
            }
        }
        let format = compaction & !COMPACTED;
        for index in EXTENDED_COMPONENTS {
            if load >> index & 1 != 0 {
                let (standard, size) = location(index);
                let from = if compact { compact_offset(format, index) } else { standard };
                let to = &mut area[standard as usize..(standard + size) as usize];
                self.read_bytes(seg, offset.wrapping_add(u64::from(from)), to)?;
            }
        }
        // From here nothing faults.
        let wide = op.imm & WIDE != 0;
        let image = &mut self.extension.image;
        for index in [0, 1].into_iter().chain(EXTENDED_COMPONENTS) {
            if mask >> index & 1 != 0 && load >> index & 1 == 0 {
                init_component(image, index);
            }
        }
        if mxcsr_loaded || mask & component::SSE != 0 {
            image.mxcsr = mxcsr;
        }
        if load & component::X87 != 0 {
            load_x87(image, &area, wide);
        }
        if load & component::SSE != 0 {
            load_xmm(image, &area, count);
        }
        for index in EXTENDED_COMPONENTS {
            if load >> index & 1 != 0 {
                let (standard, size) = location(index);
                take(image, index, &area[standard as usize..(standard + size) as usize]);
            }
        }
        Ok(Flow::Next)
    }

    fn fxsave_enabled(&mut self) -> Result<(), Fault> {
        if self.cr0 & (cr0::TS | cr0::EM) != 0 {
            return Err(self.raise(vector::DEVICE_NOT_AVAILABLE));
        }
        Ok(())
    }
}

/// Flag in `Op::imm`: REX.W, pointers of 64 bits.
pub const WIDE: u64 = 1;

fn load_x87(image: &mut Image, area: &[u8], wide: bool) {
    image.x87[..24].copy_from_slice(&area[..24]);
    // Reserved bits of FCW read as they do on the processor: bit 6 set, 7, 13–15 clear.
    let fcw = image.fcw();
    image.set_fcw(fcw & 0x1f3f | 0x40);
    image.x87[5] = 0;
    image.x87[7] &= 7;
    if !wide {
        image.x87[12..16].fill(0);
        image.x87[20..24].fill(0);
    }
    image.x87[32..160].copy_from_slice(&area[32..160]);
    // The upper 48 bits of each register slot are reserved.
    for n in 0..8 {
        image.x87[32 + n * 16 + 10..48 + n * 16].fill(0);
    }
}

fn load_xmm(image: &mut Image, area: &[u8], count: usize) {
    for n in 0..count {
        image.vectors[n][..16].copy_from_slice(&area[160 + n * 16..176 + n * 16]);
    }
}

/// XSAVE and XSAVE64.
pub fn xsave(vcpu: &mut Vcpu, op: &Op) -> Result<Flow, Fault> {
    vcpu.save(op, Form::Plain)
}

/// XSAVEOPT and XSAVEOPT64.
pub fn xsaveopt(vcpu: &mut Vcpu, op: &Op) -> Result<Flow, Fault> {
    vcpu.save(op, Form::Optimized)
}

/// XSAVEC and XSAVEC64.
pub fn xsavec(vcpu: &mut Vcpu, op: &Op) -> Result<Flow, Fault> {
    vcpu.save(op, Form::Compact)
}

/// XSAVES and XSAVES64.
pub fn xsaves(vcpu: &mut Vcpu, op: &Op) -> Result<Flow, Fault> {
    vcpu.save(op, Form::Supervisor)
}

/// XRSTOR and XRSTOR64.
pub fn xrstor(vcpu: &mut Vcpu, op: &Op) -> Result<Flow, Fault> {
    vcpu.restore(op, false)
}

/// XRSTORS and XRSTORS64.
pub fn xrstors(vcpu: &mut Vcpu, op: &Op) -> Result<Flow, Fault> {
    vcpu.restore(op, true)
}

/// FXSAVE and FXSAVE64.
pub fn fxsave(vcpu: &mut Vcpu, op: &Op) -> Result<Flow, Fault> {
    vcpu.fxsave_enabled()?;
    let offset = vcpu.area_aligned(op, 16)?;
    let mut area = [0_u8; 416];
    let count = vcpu.xmm_count();
    let image = &vcpu.extension.image;
    legacy_area(image, &mut area, op.imm & WIDE != 0);
    fix_status_word(image, &mut area);
    area[24..28].copy_from_slice(&image.mxcsr.to_le_bytes());
    area[28..32].copy_from_slice(&MXCSR_VALID.to_le_bytes());
    sse_area(image, &mut area, count);
    vcpu.write_bytes(op.seg, offset, &area[..160 + count * 16])?;
    Ok(Flow::Next)
}

/// FXRSTOR and FXRSTOR64.
pub fn fxrstor(vcpu: &mut Vcpu, op: &Op) -> Result<Flow, Fault> {
    vcpu.fxsave_enabled()?;
    let offset = vcpu.area_aligned(op, 16)?;
    let mut area = [0_u8; 416];
    let count = vcpu.xmm_count();
    vcpu.read_bytes(op.seg, offset, &mut area)?;
    let mxcsr = u32::from_le_bytes([area[24], area[25], area[26], area[27]]);
    if mxcsr & !MXCSR_VALID != 0 {
        return Err(vcpu.general_protection());
    }
    let image = &mut vcpu.extension.image;
    load_x87(image, &area, op.imm & WIDE != 0);
    load_xmm(image, &area, count);
    image.mxcsr = mxcsr;
    Ok(Flow::Next)
}

/// XGETBV.
pub fn xgetbv(vcpu: &mut Vcpu, _op: &Op) -> Result<Flow, Fault> {
    if !vcpu.cr4_has(cr4::OSXSAVE) {
        return Err(vcpu.invalid_opcode());
    }
    let value = match vcpu.regs[gpr::RCX] as u32 {
        0 => vcpu.xcr0,
        1 => {
            let image = &vcpu.extension.image;
            let mxcsr = if image.mxcsr != MXCSR_RESET { component::SSE } else { 0 };
            vcpu.xcr0 & (in_use(image) | mxcsr)
        }
        _ => return Err(vcpu.general_protection()),
    };
    vcpu.regs[gpr::RAX] = value & 0xffff_ffff;
    vcpu.regs[gpr::RDX] = value >> 32;
    Ok(Flow::Next)
}

/// XSETBV.
pub fn xsetbv(vcpu: &mut Vcpu, op: &Op) -> Result<Flow, Fault> {
    if !vcpu.cr4_has(cr4::OSXSAVE) {
        return Err(vcpu.invalid_opcode());
    }
    let value = vcpu.requested();
    let all512 = value & component::AVX512;
    let valid = vcpu.cpl == 0
        && vcpu.regs[gpr::RCX] as u32 == 0
        && value & component::X87 != 0
        && value & !Host::get().xcr0 == 0
        && (value & component::AVX == 0 || value & component::SSE != 0)
        && (all512 == 0 || all512 == component::AVX512 && value & component::AVX != 0);
    if !valid {
        return Err(vcpu.general_protection());
    }
    vcpu.xcr0 = value;
    vcpu.rip = op.next_rip(vcpu);
    Ok(Flow::Leave)
}
