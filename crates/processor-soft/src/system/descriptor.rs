//! Segment descriptors and the loading of segment registers (SDM volume 3, sections 3.4, 3.5, 6.5–6.12).

use processor::{Segment, SegmentAttributes};

use crate::fault::{Fault, vector};
use crate::registers::{Seg, attribute, real_mode_segment};
use crate::vcpu::Vcpu;

/// Bits of a selector.
pub const RPL: u16 = 3;
const TABLE_INDICATOR: u16 = 4;

/// Types of system descriptors.
pub mod kind {
    pub const TSS_16: u32 = 1;
    pub const LDT: u32 = 2;
    pub const TSS_16_BUSY: u32 = 3;
    pub const CALL_GATE_16: u32 = 4;
    pub const TASK_GATE: u32 = 5;
    pub const INTERRUPT_GATE_16: u32 = 6;
    pub const TRAP_GATE_16: u32 = 7;
    pub const TSS_32: u32 = 9;
    pub const TSS_32_BUSY: u32 = 11;
    pub const CALL_GATE_32: u32 = 12;
    pub const INTERRUPT_GATE_32: u32 = 14;
    pub const TRAP_GATE_32: u32 = 15;
    /// Distinguishes busy task state segments from available ones.
    pub const BUSY: u32 = 2;
}

/// An entry of a descriptor table, 8 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Descriptor(pub u64);

impl Descriptor {
    /// Attributes in the layout of [`SegmentAttributes`].
    pub fn attributes(self) -> u32 {
        (self.0 >> 40) as u32 & 0xf0ff
    }

    pub fn has(self, bits: u32) -> bool {
        self.attributes() & bits == bits
    }

    pub fn base(self) -> u64 {
        self.0 >> 16 & 0xff_ffff | self.0 >> 56 << 24
    }

    pub fn limit(self) -> u32 {
        let limit = (self.0 & 0xffff | self.0 >> 32 & 0xf_0000) as u32;
        if self.has(attribute::GRANULARITY) { limit << 12 | 0xfff } else { limit }
    }

    pub fn dpl(self) -> u8 {
        (self.attributes() >> attribute::DPL_SHIFT & 3) as u8
    }

    pub fn present(self) -> bool {
        self.has(attribute::PRESENT)
    }

    /// Type of a system descriptor; `None` for code and data.
    pub fn system_kind(self) -> Option<u32> {
        (!self.has(attribute::CODE_OR_DATA)).then_some(self.attributes() & attribute::TYPE)
    }

    pub fn is_code(self) -> bool {
        self.has(attribute::CODE_OR_DATA | attribute::CODE)
    }

    pub fn is_conforming(self) -> bool {
        self.has(attribute::EXPAND_DOWN_OR_CONFORMING)
    }

    pub fn is_writable_data(self) -> bool {
        self.has(attribute::CODE_OR_DATA | attribute::WRITABLE_OR_READABLE) && !self.has(attribute::CODE)
    }

    /// The hidden part of a segment register that is loaded with this.
    pub fn segment(self, selector: u16) -> Segment {
        Segment {
            selector,
            base: self.base(),
            limit: self.limit(),
            attributes: SegmentAttributes(self.attributes()),
        }
    }

    /// Gate: offset (32 bits; 16 in 16-bit gates).
    pub fn gate_offset(self) -> u32 {
        (self.0 & 0xffff | self.0 >> 32 & 0xffff_0000) as u32
    }

    /// Gate: selector.
    pub fn gate_selector(self) -> u16 {
        (self.0 >> 16) as u16
    }

    /// Gate: number of parameters.
    pub fn gate_parameters(self) -> u8 {
        (self.0 >> 32) as u8 & 0x1f
    }

    /// Gate: interrupt stack table index.
    pub fn gate_stack(self) -> u8 {
        (self.0 >> 32) as u8 & 7
    }
}

/// A descriptor and where it stands.
#[derive(Debug, Clone, Copy)]
pub struct Found {
    pub descriptor: Descriptor,
    /// Linear address.
    pub address: u64,
}

/// A segment register that holds a null selector.
pub fn null_segment(selector: u16) -> Segment {
    Segment { selector, base: 0, limit: 0, attributes: SegmentAttributes(attribute::UNUSABLE) }
}

/// Whether a selector is null.
pub fn is_null(selector: u16) -> bool {
    selector & !RPL == 0
}

/// The error code that names a selector.
pub fn code(selector: u16) -> u32 {
    u32::from(selector & !RPL)
}

impl Vcpu {
    /// Base and limit of the table that `selector` points into; `None` without an LDT.
    fn table(&self, selector: u16) -> Option<(u64, u32)> {
        if selector & TABLE_INDICATOR == 0 {
            return Some((self.gdtr.base, u32::from(self.gdtr.limit)));
        }
        (self.ldtr.attributes.0 & attribute::UNUSABLE == 0).then_some((self.ldtr.base, self.ldtr.limit))
    }

    /// The descriptor of `selector`; `None` beyond the table's limit.
    pub fn find_descriptor(&mut self, selector: u16) -> Result<Option<Found>, Fault> {
        let offset = u32::from(selector & !7);
        match self.table(selector) {
            Some((base, limit)) if offset + 7 <= limit => {
                let address = base.wrapping_add(u64::from(offset));
                let descriptor = Descriptor(self.read_system(address)?);
                Ok(Some(Found { descriptor, address }))
            }
            _ => Ok(None),
        }
    }

    /// The descriptor of `selector`, or a fault of `vector` that names it.
    pub fn descriptor(&mut self, selector: u16, vector: u8) -> Result<Found, Fault> {
        match self.find_descriptor(selector)? {
            Some(found) => Ok(found),
            None => Err(self.raise_code(vector, code(selector))),
        }
    }

    /// The upper half of a system descriptor in IA-32e mode: base bits 32–63. #GP if it is beyond the limit
    /// or not of type 0.
    pub fn descriptor_high(&mut self, selector: u16, found: &Found, vector: u8) -> Result<u64, Fault> {
        let end = u32::from(selector & !7) + 15;
        let within = self.table(selector).is_some_and(|(_, limit)| end <= limit);
        let high: u64 = if within { self.read_system(found.address.wrapping_add(8))? } else { u64::MAX };
        if high >> 40 & 0x1f != 0 {
            return Err(self.raise_code(vector, code(selector)));
        }
        Ok(high & 0xffff_ffff)
    }

    /// Sets the accessed bit of a descriptor, if it is not set.
    pub fn set_accessed(&mut self, found: &mut Found) -> Result<(), Fault> {
        if !found.descriptor.has(attribute::ACCESSED) {
            self.set_system_bits(found.address.wrapping_add(4), 1 << 8, !0)?;
            found.descriptor.0 |= 1 << 40;
        }
        Ok(())
    }

    /// Sets or clears the busy bit of a TSS descriptor.
    pub fn set_busy(&mut self, address: u64, busy: bool) -> Result<(), Fault> {
        let bit = kind::BUSY << 8;
        self.set_system_bits(address.wrapping_add(4), if busy { bit } else { 0 }, !bit)
    }

    /// Loads ES, SS, DS, FS or GS as MOV, POP and LDS do.
    pub fn load_segment(&mut self, seg: Seg, selector: u16) -> Result<(), Fault> {
        if self.real_mode() || self.virtual_8086() {
            self.load_real_segment(seg, selector);
        } else if seg == Seg::Ss {
            let segment = self.stack_segment(selector, self.cpl, vector::GENERAL_PROTECTION)?;
            self.segments[Seg::Ss as usize] = segment;
        } else {
            let segment = self.data_segment(selector, vector::GENERAL_PROTECTION)?;
            self.segments[seg as usize] = segment;
        }
        self.segments_changed();
        Ok(())
    }

    /// Loads a segment register as real and virtual-8086 mode do. In real mode limit and type stay.
    pub fn load_real_segment(&mut self, seg: Seg, selector: u16) {
        let segment = &mut self.segments[seg as usize];
        if segment.attributes.0 & attribute::UNUSABLE != 0 {
            *segment = real_mode_segment(selector, seg == Seg::Cs);
        }
        segment.selector = selector;
        segment.base = u64::from(selector) << 4;
    }

    /// What ES, DS, FS or GS hold after they are loaded with `selector`.
    pub fn data_segment(&mut self, selector: u16, fault: u8) -> Result<Segment, Fault> {
        if is_null(selector) {
            return Ok(null_segment(selector));
        }
        let mut found = self.descriptor(selector, fault)?;
        let descriptor = found.descriptor;
        let readable = descriptor.has(attribute::CODE_OR_DATA)
            && (!descriptor.is_code() || descriptor.has(attribute::WRITABLE_OR_READABLE));
        let conforming = descriptor.is_code() && descriptor.is_conforming();
        let privilege = self.cpl.max((selector & RPL) as u8);
        if !readable || (!conforming && privilege > descriptor.dpl()) {
            return Err(self.raise_code(fault, code(selector)));
        }
        if !descriptor.present() {
            return Err(self.raise_code(vector::SEGMENT_NOT_PRESENT, code(selector)));
        }
        self.set_accessed(&mut found)?;
        Ok(found.descriptor.segment(selector))
    }

    /// What SS holds after it is loaded with `selector` at privilege level `cpl`. `fault` is #GP, or #TS
    /// when the selector comes from a TSS.
    pub fn stack_segment(&mut self, selector: u16, cpl: u8, fault: u8) -> Result<Segment, Fault> {
        let rpl = (selector & RPL) as u8;
        if is_null(selector) {
            if self.code_64() && cpl < 3 && rpl == cpl {
                return Ok(null_stack(selector, cpl));
            }
            return Err(self.raise_code(fault, 0));
        }
        let mut found = self.descriptor(selector, fault)?;
        let descriptor = found.descriptor;
        if rpl != cpl || !descriptor.is_writable_data() || descriptor.dpl() != cpl {
            return Err(self.raise_code(fault, code(selector)));
        }
        if !descriptor.present() {
            return Err(self.raise_code(vector::STACK_FAULT, code(selector)));
        }
        self.set_accessed(&mut found)?;
        Ok(found.descriptor.segment(selector))
    }

    /// LLDT.
    pub fn load_ldt(&mut self, selector: u16) -> Result<(), Fault> {
        self.ldtr = self.ldt_segment(selector, vector::GENERAL_PROTECTION)?;
        Ok(())
    }

    /// What LDTR holds after it is loaded with `selector`.
    pub fn ldt_segment(&mut self, selector: u16, fault: u8) -> Result<Segment, Fault> {
        if is_null(selector) {
            return Ok(null_segment(selector));
        }
        if selector & TABLE_INDICATOR != 0 {
            return Err(self.raise_code(fault, code(selector)));
        }
        let found = self.descriptor(selector, fault)?;
        if found.descriptor.system_kind() != Some(kind::LDT) {
            return Err(self.raise_code(fault, code(selector)));
        }
        let mut segment = found.descriptor.segment(selector);
        if self.long_mode_active() {
            segment.base |= self.descriptor_high(selector, &found, fault)? << 32;
        }
        if !found.descriptor.present() {
            return Err(self.raise_code(vector::SEGMENT_NOT_PRESENT, code(selector)));
        }
        if !self.canonical(segment.base) && self.long_mode_active() {
            return Err(self.raise_code(fault, code(selector)));
        }
        Ok(segment)
    }

    /// LTR.
    pub fn load_task_register(&mut self, selector: u16) -> Result<(), Fault> {
        if is_null(selector) {
            return Err(self.general_protection());
        }
        let gp = vector::GENERAL_PROTECTION;
        if selector & TABLE_INDICATOR != 0 {
            return Err(self.raise_code(gp, code(selector)));
        }
        let found = self.descriptor(selector, gp)?;
        let long = self.long_mode_active();
        match found.descriptor.system_kind() {
            Some(kind::TSS_32) => {}
            Some(kind::TSS_16) if !long => {}
            _ => return Err(self.raise_code(gp, code(selector))),
        }
        if !found.descriptor.present() {
            return Err(self.raise_code(vector::SEGMENT_NOT_PRESENT, code(selector)));
        }
        let mut segment = found.descriptor.segment(selector);
        if long {
            segment.base |= self.descriptor_high(selector, &found, gp)? << 32;
            if !self.canonical(segment.base) {
                return Err(self.raise_code(gp, code(selector)));
            }
        }
        self.set_busy(found.address, true)?;
        segment.attributes.0 |= kind::BUSY;
        self.tr = segment;
        Ok(())
    }

    /// The descriptor of `selector` if LAR, LSL, VERR or VERW may see it, without any fault but those of the
    /// table's memory.
    pub fn visible_descriptor(&mut self, selector: u16) -> Result<Option<Descriptor>, Fault> {
        if is_null(selector) {
            return Ok(None);
        }
        let Some(Found { descriptor, .. }) = self.find_descriptor(selector)? else { return Ok(None) };
        let conforming = descriptor.is_code() && descriptor.is_conforming();
        let privilege = self.cpl.max((selector & RPL) as u8);
        Ok((conforming || privilege <= descriptor.dpl()).then_some(descriptor))
    }
}

/// SS with the null selector that 64-bit mode allows.
pub fn null_stack(selector: u16, cpl: u8) -> Segment {
    let attributes = attribute::UNUSABLE | u32::from(cpl) << attribute::DPL_SHIFT;
    Segment { selector, base: 0, limit: 0, attributes: SegmentAttributes(attributes) }
}
