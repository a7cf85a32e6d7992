//! HvCallStartVirtualProcessor, HvCallGetVpIndexFromApicId, HvCallNotifyLongSpinWait and
//! HvExtCallQueryCapabilities. There is one virtual trust level, 0.

use processor::{
    DescriptorTable, GeneralRegister, Segment, SegmentAttributes, StartRegisters, attribute, cr0, cr4, efer,
};
use tlfs::hypercall::{CallCode, GetVpIndexFromApicId, InputVtl, NotifyLongSpinWait, StartVirtualProcessor};
use tlfs::{HvStatus, InitialVpContext, PARTITION_ID_SELF, SegmentRegister, TableRegister, VP_INDEX_SELF};

use super::call::{Call, Hypercall, List};
use crate::features::Feature;

pub(super) const NOTIFY_LONG_SPIN_WAIT: Hypercall = Hypercall {
    code: CallCode::NOTIFY_LONG_SPIN_WAIT,
    name: "notify_long_spin_wait",
    needs: &[Feature::SpinWait],
    header: size_of::<NotifyLongSpinWait>(),
    variable: false,
    output: 0,
    list: None,
    run: |call| {
        // Whatever the count is, the caller waits.
        call.enlightenment.yield_now(call.vp);
        Ok(())
    },
};

pub(super) const START: Hypercall = Hypercall {
    code: CallCode::START_VIRTUAL_PROCESSOR,
    name: "start_virtual_processor",
    needs: &[Feature::StartProcessor],
    header: size_of::<StartVirtualProcessor>(),
    variable: false,
    output: 0,
    list: None,
    run: start,
};

pub(super) const INDEX_FROM_APIC_ID: Hypercall = Hypercall {
    code: CallCode::GET_VP_INDEX_FROM_APIC_ID,
    name: "get_vp_index_from_apic_id",
    needs: &[Feature::StartProcessor],
    header: size_of::<GetVpIndexFromApicId>(),
    variable: false,
    output: 0,
    list: Some(List { input: size_of::<u32>(), output: size_of::<u32>() }),
    run: index_from_apic_id,
};

pub(super) const QUERY_CAPABILITIES: Hypercall = Hypercall {
    code: CallCode::EXT_QUERY_CAPABILITIES,
    name: "ext_query_capabilities",
    needs: &[Feature::ExtendedHypercalls],
    header: 0,
    variable: false,
    output: size_of::<u64>(),
    list: None,
    // One bit for each extended hypercall that exists; there is none but this.
    run: |call| call.set_output(&0_u64),
};

/// Checks that `id` is the caller's partition.
pub(super) fn own_partition(id: u64) -> Result<(), HvStatus> {
    match id {
        PARTITION_ID_SELF => Ok(()),
        _ => Err(HvStatus::INVALID_PARTITION_ID),
    }
}

/// Checks that `vtl` is the caller's trust level.
pub(super) fn own_vtl(vtl: InputVtl) -> Result<(), HvStatus> {
    match vtl.reserved() == 0 && (!vtl.use_target_vtl() || vtl.target_vtl() == 0) {
        true => Ok(()),
        false => Err(HvStatus::INVALID_PARAMETER),
    }
}

/// The processor that `index` names.
pub(super) fn existing_vp(call: &Call<'_>, index: u32) -> Result<u32, HvStatus> {
    let vp = if index == VP_INDEX_SELF { call.vp } else { index };
    match vp < call.enlightenment.processor_count() {
        true => Ok(vp),
        false => Err(HvStatus::INVALID_VP_INDEX),
    }
}

fn start(call: &mut Call<'_>) -> Result<(), HvStatus> {
    let header: StartVirtualProcessor = call.header()?;
    own_partition(header.partition_id)?;
    let vp = existing_vp(call, header.vp_index)?;
    if header.target_vtl != 0 {
        return Err(HvStatus::INVALID_VTL_STATE);
    }
    if header.reserved != [0; 3] {
        return Err(HvStatus::INVALID_PARAMETER);
    }
    if vp == call.vp {
        return Err(HvStatus::INVALID_VP_STATE);
    }
    let state = start_registers(&header.context)?;
    match call.enlightenment.start_processor(vp, &state) {
        true => Ok(()),
        false => Err(HvStatus::INVALID_VP_STATE),
    }
}
const RFLAGS_RESERVED: u64 = !0x003f_7fd7;

/// The registers, if they go together: what MOV to CR and WRMSR would refuse is refused here.
fn start_registers(context: &InitialVpContext) -> Result<StartRegisters, HvStatus> {
    let InitialVpContext { rip, rsp, rflags, efer, cr0, cr3, cr4, pat, .. } = *context;
    let has = |value: u64, bits: u64| value & bits == bits;
    let paging = !has(cr0, cr0::PG) || has(cr0, cr0::PE);
    let cache = !has(cr0, cr0::NW) || has(cr0, cr0::CD);
    let long = has(cr0, cr0::PG) && has(efer, efer::LME);
    let long_mode = has(efer, efer::LMA) == long && (!long || has(cr4, cr4::PAE));
    let widths = cr0 >> 32 == 0 && cr4 >> 32 == 0 && cr3 >> 52 == 0 && rflags & RFLAGS_RESERVED == 0;
    let canonical = match long {
        // Sign-extended from bit 56, the widest that processors have.
        true => ((rip as i64) << 7) >> 7 == rip as i64,
        false => rip >> 32 == 0,
    };
    let types = pat.to_le_bytes().iter().all(|kind| matches!(kind, 0 | 1 | 4..=7));
    if !(paging && cache && long_mode && widths && canonical && types) {
        return Err(HvStatus::INVALID_REGISTER_VALUE);
    }
    let mut general = [0; 16];
    general[GeneralRegister::Rsp as usize] = rsp;
    Ok(StartRegisters {
        rip,
        rflags,
        general,
        segments: [context.es, context.cs, context.ss, context.ds, context.fs, context.gs].map(segment),
        tr: segment(context.tr),
        ldtr: segment(context.ldtr),
        gdtr: table(context.gdtr),
        idtr: table(context.idtr),
        cr0,
        cr3,
        cr4,
        efer,
        pat: Some(pat),
    })
}

const PRESENT: u16 = 1 << 7;

fn segment(register: SegmentRegister) -> Segment {
    let unusable = if register.attributes & PRESENT == 0 { attribute::UNUSABLE } else { 0 };
    Segment {
        selector: register.selector,
        base: register.base,
        limit: register.limit,
        attributes: SegmentAttributes(u32::from(register.attributes & 0xf0ff) | unusable),
    }
}

fn table(register: TableRegister) -> DescriptorTable {
    DescriptorTable { base: register.base, limit: register.limit }
}

fn index_from_apic_id(call: &mut Call<'_>) -> Result<(), HvStatus> {
    let header: GetVpIndexFromApicId = call.header()?;
    own_partition(header.partition_id)?;
    if header.target_vtl != 0 {
        return Err(HvStatus::INVALID_PARAMETER);
    }
    for index in call.remaining() {
        let id: u32 = call.element(index)?;
        let vp = call.enlightenment.vp_of_apic_id(id).ok_or(HvStatus::INVALID_PARAMETER)?;
        call.set_element(index, &vp)?;
        call.complete(index + 1);
        if call.out_of_time() {
            break;
        }
    }
    Ok(())
}
