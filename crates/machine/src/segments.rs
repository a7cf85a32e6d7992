//! Segment registers at a debugger's wish: from a selector to base, limit and rights, as the guest's own instruction
//! would load them (SDM volume 3, 3.4 and 3.5).

use processor::{Segment, SegmentAttributes, StartRegisters, attribute, cr0, efer, flag};
const CS: usize = 1;
const SS: usize = 2;
/// Bits of a selector: the table, and what is no index.
const LOCAL: u16 = 4;
const NO_INDEX: u16 = 7;

/// `new` with the hidden parts of the segments whose selectors are not those of `old`. `read` reads memory at a linear
/// address, and is false if it cannot.
///
/// # Errors
/// When a selector names nothing that the register could hold.
pub(crate) fn load(
    old: &StartRegisters,
    new: &StartRegisters,
    read: impl Fn(u64, &mut [u8]) -> bool,
) -> Result<StartRegisters, &'static str> {
    let mut loaded = new.clone();
    for (index, segment) in loaded.segments.iter_mut().enumerate() {
        let before = &old.segments[index];
        if segment.selector != before.selector {
            let base = (segment.base != before.base).then_some(segment.base);
            *segment = from_selector(old, index, segment.selector, &read)?;
            // Said by the debugger itself.
            segment.base = base.unwrap_or(segment.base);
        }
    }
    Ok(loaded)
}

fn from_selector(
    registers: &StartRegisters,
    index: usize,
    selector: u16,
    read: impl Fn(u64, &mut [u8]) -> bool,
) -> Result<Segment, &'static str> {
    if registers.cr0 & cr0::PE == 0 || registers.rflags & flag::VM != 0 {
        return Ok(Segment { selector, base: u64::from(selector) << 4, ..registers.segments[index] });
    }
    if selector & !3 == 0 {
        return match index {
            CS => Err("CS cannot be null"),
            SS if registers.efer & efer::LMA == 0 => Err("SS cannot be null outside long mode"),
            SS => Err("SS keeps its privilege level, which a null selector does not tell"),
            _ => Ok(Segment {
                selector,
                base: 0,
                limit: 0,
                attributes: SegmentAttributes(attribute::UNUSABLE),
            }),
        };
    }
    let (table, limit) = if selector & LOCAL != 0 {
        let usable =
            registers.ldtr.attributes.0 & (attribute::PRESENT | attribute::UNUSABLE) == attribute::PRESENT;
        (registers.ldtr.base, if usable { registers.ldtr.limit } else { 0 })
    } else {
        (registers.gdtr.base, registers.gdtr.limit.into())
    };
    if u32::from(selector | NO_INDEX) > limit {
        return Err("the selector is beyond its descriptor table");
    }
    let mut bytes = [0; 8];
    if !read(table.wrapping_add((selector & !NO_INDEX).into()), &mut bytes) {
        return Err("the selector's descriptor is not in memory");
    }
    let descriptor = u64::from_le_bytes(bytes);
    let (low, high) = (descriptor as u32, (descriptor >> 32) as u32);
    let attributes = high >> 8 & 0xf0ff;
    let wrong = match index {
        CS if attributes & attribute::CODE == 0 => Some("CS takes code only"),
        SS if attributes & (attribute::CODE | attribute::WRITABLE_OR_READABLE)
            != attribute::WRITABLE_OR_READABLE =>
        {
            Some("SS takes writable data only")
        }
        _ if index != CS
            && attributes & attribute::CODE != 0
            && attributes & attribute::WRITABLE_OR_READABLE == 0 =>
        {
            Some("the segment's code cannot be read")
        }
        _ => None,
    };
    if attributes & attribute::CODE_OR_DATA == 0 || attributes & attribute::PRESENT == 0 {
        return Err("the selector names neither code nor data that is present");
    }
    if let Some(why) = wrong {
        return Err(why);
    }
    let limit = low & 0xffff | high & 0x000f_0000;
    Ok(Segment {
        selector,
        base: u64::from(low >> 16 | high << 16 & 0x00ff_0000 | high & 0xff00_0000),
        limit: if attributes & attribute::GRANULARITY != 0 { limit << 12 | 0xfff } else { limit },
        attributes: SegmentAttributes(attributes | attribute::ACCESSED),
    })
}

#[cfg(test)]
mod tests {
    use processor::DescriptorTable;

    use super::*;

    const DS: usize = 3;
    const GDT: u64 = 0xffff_8000_0000_1000;

    /// Code at 8, data at 0x10, code that cannot be read at 0x18, a system segment at 0x20, absent data at 0x28.
    const DESCRIPTORS: [u64; 6] = [
        0,
        0x00af_9a00_0000_ffff,
        0x12cf_9234_5678_ffff,
        0x00cf_9800_0000_ffff,
        0x0000_8900_0000_0067,
        0x00cf_1200_0000_ffff,
    ];

    fn protected() -> StartRegisters {
        let mut registers = StartRegisters { cr0: cr0::PE, efer: efer::LMA, ..StartRegisters::default() };
        registers.gdtr = DescriptorTable { base: GDT, limit: 0x2f };
        registers.segments[CS] = Segment { selector: 0x33, ..Segment::default() };
        registers.segments[SS] = Segment { selector: 0x2b, ..Segment::default() };
        registers.segments[DS] =
            Segment { selector: 0x2b, base: 7, limit: 8, attributes: SegmentAttributes(0xf3) };
        registers
    }

    fn with(old: &StartRegisters, index: usize, selector: u16) -> Result<Segment, &'static str> {
        let mut new = old.clone();
        new.segments[index].selector = selector;
        let read = |gva: u64, data: &mut [u8]| {
            let word = gva.checked_sub(GDT).and_then(|at| DESCRIPTORS.get(at as usize / 8));
            word.is_some_and(|word| {
                data.copy_from_slice(&word.to_le_bytes());
                true
            })
        };
        load(old, &new, read).map(|registers| registers.segments[index])
    }

    #[test]
    fn a_selector_of_protected_mode_brings_its_descriptor() {
        let data = Segment {
            selector: 0x10,
            base: 0x1234_5678,
            limit: 0xffff_ffff,
            attributes: SegmentAttributes(0xc093),
        };
        assert_eq!(with(&protected(), DS, 0x10), Ok(data));
        assert_eq!(with(&protected(), CS, 8).map(|segment| segment.attributes.0), Ok(0xa09b));
    }

    #[test]
    fn a_selector_of_real_mode_is_the_base_and_the_rights_stay() {
        let mut real = protected();
        real.cr0 = 0;
        let segment = with(&real, DS, 0x1234).unwrap();
        assert_eq!((segment.base, segment.limit, segment.attributes.0), (0x1_2340, 8, 0xf3));
    }

    #[test]
    fn what_the_register_could_not_hold_is_refused() {
        let refused = |index, selector| with(&protected(), index, selector).unwrap_err();
        assert_eq!(refused(CS, 0), "CS cannot be null");
        assert_eq!(refused(CS, 0x10), "CS takes code only");
        assert_eq!(refused(SS, 8), "SS takes writable data only");
        assert_eq!(refused(DS, 0x18), "the segment's code cannot be read");
        assert_eq!(refused(DS, 0x20), "the selector names neither code nor data that is present");
        assert_eq!(refused(DS, 0x28), "the selector names neither code nor data that is present");
        assert_eq!(refused(DS, 0x30), "the selector is beyond its descriptor table");
        assert_eq!(refused(DS, 0xc), "the selector is beyond its descriptor table", "no local table");
    }

    #[test]
    fn a_null_selector_makes_a_data_segment_unusable() {
        assert_eq!(with(&protected(), DS, 3).unwrap().attributes.0, attribute::UNUSABLE);
    }

    #[test]
    fn a_base_that_is_said_too_counts_and_what_is_not_said_stays() {
        let old = protected();
        let mut new = old.clone();
        (new.segments[4].selector, new.segments[4].base) = (3, 0x1234);
        let loaded = load(&old, &new, |_, _| false).unwrap();
        assert_eq!(loaded.segments[4].base, 0x1234);
        assert_eq!(loaded.segments[DS], old.segments[DS]);
    }
}
