//! HvCallFlushVirtualAddressSpace, HvCallFlushVirtualAddressList and their Ex forms.

use processor::{TlbFlush, TlbRange};
use tlfs::HvStatus;
use tlfs::hypercall::{CallCode, FlushFlags, FlushVirtualAddress, FlushVirtualAddressEx, GvaRange};

use super::call::{Call, Hypercall, List};
use super::vp_set;
use crate::features::Feature;

/// Ranges that are flushed at once, between two looks at the clock.
const BATCH: usize = 128;
/// Bits of CR3 that name an address space: without PCID and flags.
const ADDRESS_SPACE: u64 = !0xfff;
/// Pages of the linear address space.
const PAGES: u64 = 1 << 52;

pub(super) const SPACE: Hypercall = Hypercall {
    code: CallCode::FLUSH_VIRTUAL_ADDRESS_SPACE,
    name: "flush_virtual_address_space",
    needs: &[Feature::TlbFlush],
    header: size_of::<FlushVirtualAddress>(),
    variable: false,
    output: 0,
    list: None,
    run: |call| {
        let target = Target::new(call)?;
        target.flush(call, Vec::new());
        Ok(())
    },
};

pub(super) const LIST: Hypercall = Hypercall {
    code: CallCode::FLUSH_VIRTUAL_ADDRESS_LIST,
    name: "flush_virtual_address_list",
    needs: &[Feature::TlbFlush],
    header: size_of::<FlushVirtualAddress>(),
    variable: false,
    output: 0,
    list: Some(List { input: size_of::<u64>(), output: 0 }),
    run: |call| flush_list(call, Target::new),
};

pub(super) const SPACE_EX: Hypercall = Hypercall {
    code: CallCode::FLUSH_VIRTUAL_ADDRESS_SPACE_EX,
    name: "flush_virtual_address_space_ex",
    needs: &[Feature::TlbFlush, Feature::ExProcessorMasks],
    header: size_of::<FlushVirtualAddressEx>(),
    variable: true,
    output: 0,
    list: None,
    run: |call| {
        let target = Target::new_ex(call)?;
        target.flush(call, Vec::new());
        Ok(())
    },
};

pub(super) const LIST_EX: Hypercall = Hypercall {
    code: CallCode::FLUSH_VIRTUAL_ADDRESS_LIST_EX,
    name: "flush_virtual_address_list_ex",
    needs: &[Feature::TlbFlush, Feature::ExProcessorMasks],
    header: size_of::<FlushVirtualAddressEx>(),
    variable: true,
    output: 0,
    list: Some(List { input: size_of::<u64>(), output: 0 }),
    run: |call| flush_list(call, Target::new_ex),
};

/// Whose TLBs are flushed of what.
struct Target {
    processors: Vec<u32>,
    address_space: Option<u64>,
    keep_global: bool,
}

impl Target {
    fn new(call: &Call<'_>) -> Result<Self, HvStatus> {
        let header: FlushVirtualAddress = call.header()?;
        check(header.flags)?;
        let processors = match header.flags.all_processors() {
            true => vp_set::all(call),
            false => vp_set::of_mask(call, header.processor_mask),
        };
        Ok(Self::of(processors, header.address_space, header.flags))
    }

    fn new_ex(call: &Call<'_>) -> Result<Self, HvStatus> {
        let header: FlushVirtualAddressEx = call.header()?;
        check(header.flags)?;
        let processors = match header.flags.all_processors() {
            true => vp_set::all(call),
            false => vp_set::of_header(call, header.processor_set)?,
        };
        Ok(Self::of(processors, header.address_space, header.flags))
    }

    fn of(processors: Vec<u32>, address_space: u64, flags: FlushFlags) -> Self {
        let all = flags.all_virtual_address_spaces();
        Self {
            processors,
            address_space: (!all).then_some(address_space & ADDRESS_SPACE),
            keep_global: flags.non_global_mappings_only(),
        }
    }

    fn flush(&self, call: &Call<'_>, ranges: Vec<TlbRange>) {
        if self.processors.is_empty() {
            return;
        }
        let flush = TlbFlush { address_space: self.address_space, ranges, keep_global: self.keep_global };
        call.enlightenment.flush_tlb(call.vp, &self.processors, &flush);
    }
}

fn check(flags: FlushFlags) -> Result<(), HvStatus> {
    // The extended range format is not offered.
    match flags.reserved() == 0 && !flags.use_extended_range_format() {
        true => Ok(()),
        false => Err(HvStatus::INVALID_PARAMETER),
    }
}

fn flush_list(
    call: &mut Call<'_>,
    target: fn(&Call<'_>) -> Result<Target, HvStatus>,
) -> Result<(), HvStatus> {
    let target = target(call)?;
    // A list is not limited to mappings that are not global.
    if target.keep_global {
        return Err(HvStatus::INVALID_PARAMETER);
    }
    while call.unfinished() {
        let remaining = call.remaining();
        let batch = remaining.start..remaining.end.min(remaining.start + BATCH);
        let end = batch.end;
        let ranges = batch.map(|index| call.element(index).map(range)).collect::<Result<_, _>>()?;
        target.flush(call, ranges);
        call.complete(end);
        if call.out_of_time() {
            break;
        }
    }
    Ok(())
}

fn range(element: u64) -> TlbRange {
    let range = GvaRange::from_bits(element);
    let pages = (range.additional_pages() + 1).min(PAGES - range.page_number());
    TlbRange { start: range.page_number() << 12, pages }
}
