//! HvCallGetVpRegisters and HvCallSetVpRegisters, for the calling processor.
//!
//! Readable are the general registers, RIP, RFLAGS, XMM0–5, the control registers, segments and tables
//! that [`HypercallContext::snapshot`](processor::HypercallContext::snapshot) knows, and everything that
//! is also an MSR or a CPUID leaf of the interface. Writable are the general registers, XMM0–5, CR8 and
//! the MSRs that can be written. Other registers of the specification are not known here.

use interrupt::LocalApic;
use processor::{DescriptorTable, GeneralRegister, MsrOutcome, Segment};
use tlfs::hypercall::{CallCode, RegisterAssociation, VpRegisters};
use tlfs::register::RegisterName as Name;
use tlfs::{HvStatus, cpuid, msr};

use super::call::{Call, Hypercall, List};
use super::processors::{existing_vp, own_partition, own_vtl};
use crate::features::Feature;

pub(super) const GET: Hypercall = Hypercall {
    code: CallCode::GET_VP_REGISTERS,
    name: "get_vp_registers",
    needs: &[Feature::VpRegisters],
    header: size_of::<VpRegisters>(),
    variable: false,
    output: 0,
    list: Some(List { input: size_of::<u32>(), output: 16 }),
    run: |call| {
        check_target(call)?;
        for index in call.remaining() {
            let name = Name(call.element(index)?);
            let value = read(call, name)?;
            call.set_element(index, &value)?;
            call.complete(index + 1);
            if call.out_of_time() {
                break;
            }
        }
        Ok(())
    },
};

pub(super) const SET: Hypercall = Hypercall {
    code: CallCode::SET_VP_REGISTERS,
    name: "set_vp_registers",
    needs: &[Feature::VpRegisters],
    header: size_of::<VpRegisters>(),
    variable: false,
    output: 0,
    list: Some(List { input: size_of::<RegisterAssociation>(), output: 0 }),
    run: |call| {
        check_target(call)?;
        for index in call.remaining() {
            let association: RegisterAssociation = call.element(index)?;
            if association.reserved != [0; 3] {
                return Err(HvStatus::INVALID_PARAMETER);
            }
            write(call, Name(association.name), association.value)?;
            call.complete(index + 1);
            if call.out_of_time() {
                break;
            }
        }
        Ok(())
    },
};

/// A running processor can only be asked for itself.
fn check_target(call: &Call<'_>) -> Result<(), HvStatus> {
    let header: VpRegisters = call.header()?;
    own_partition(header.partition_id)?;
    own_vtl(header.target_vtl)?;
    if header.reserved != [0; 3] {
        return Err(HvStatus::INVALID_PARAMETER);
    }
    match existing_vp(call, header.vp_index)? == call.vp {
        true => Ok(()),
        false => Err(HvStatus::INVALID_VP_STATE),
    }
}

const GENERAL: [GeneralRegister; 16] = {
    use GeneralRegister::{R8, R9, R10, R11, R12, R13, R14, R15};
    use GeneralRegister::{Rax, Rbp, Rbx, Rcx, Rdi, Rdx, Rsi, Rsp};
    [Rax, Rcx, Rdx, Rbx, Rsp, Rbp, Rsi, Rdi, R8, R9, R10, R11, R12, R13, R14, R15]
};

fn general(name: Name) -> Option<GeneralRegister> {
    name.0.checked_sub(Name::RAX.0).and_then(|index| GENERAL.get(index as usize)).copied()
}

fn xmm(name: Name) -> Option<usize> {
    (Name::XMM0.0..=Name::XMM5.0).contains(&name.0).then(|| (name.0 - Name::XMM0.0) as usize)
}

fn read(call: &Call<'_>, name: Name) -> Result<[u64; 2], HvStatus> {
    if let Some(register) = general(name) {
        return Ok([call.context.register(register), 0]);
    }
    if let Some(index) = xmm(name) {
        let value = call.context.xmm(index);
        return Ok([value as u64, (value >> 64) as u64]);
    }
    if let Some(msr) = msr_of(name) {
        return match call.enlightenment.read(call.vp, msr) {
            MsrOutcome::Done(value) => Ok([value, 0]),
            _ => Err(HvStatus::INVALID_PARAMETER),
        };
    }
    if let Some(leaf) = leaf_of(name) {
        let [eax, ebx, ecx, edx] = call.enlightenment.leaf(leaf).map(u64::from);
        return Ok([ebx << 32 | eax, edx << 32 | ecx]);
    }
    if let Some(value) = read_apic(call, name) {
        return Ok([value, 0]);
    }
    read_state(call, name)
}

fn read_apic(call: &Call<'_>, name: Name) -> Option<u64> {
    let read: fn(&dyn LocalApic) -> u64 = match name {
        Name::CR8 => |apic| apic.cr8().into(),
        Name::APIC_BASE => |apic| apic.base(),
        Name::INITIAL_APIC_ID => |apic| apic.id().into(),
        _ => return None,
    };
    call.enlightenment.with_apic(call.vp, read)
}

fn read_state(call: &Call<'_>, name: Name) -> Result<[u64; 2], HvStatus> {
    let state = call.context.snapshot();
    Ok(match name {
        Name::RIP => [state.rip, 0],
        Name::RFLAGS => [state.rflags, 0],
        Name::CR0 => [state.cr0, 0],
        Name::CR3 => [state.cr3, 0],
        Name::CR4 => [state.cr4, 0],
        Name::EFER => [state.efer, 0],
        Name::PAT => [state.pat.ok_or(HvStatus::INVALID_PARAMETER)?, 0],
        Name::TSC => [call.enlightenment.clock.tsc(), 0],
        Name::LDTR => segment(state.ldtr),
        Name::TR => segment(state.tr),
        Name::IDTR => table(state.idtr),
        Name::GDTR => table(state.gdtr),
        Name(name) if (Name::ES.0..=Name::GS.0).contains(&name) => {
            let index = (name - Name::ES.0) as usize;
            segment(*state.segments.get(index).ok_or(HvStatus::INVALID_PARAMETER)?)
        }
        _ => return Err(HvStatus::INVALID_PARAMETER),
    })
}

/// HV_X64_SEGMENT_REGISTER as a register value.
fn segment(segment: Segment) -> [u64; 2] {
    let attributes = u64::from(segment.attributes.0 as u16);
    [segment.base, attributes << 48 | u64::from(segment.selector) << 32 | u64::from(segment.limit)]
}

/// HV_X64_TABLE_REGISTER as a register value.
fn table(table: DescriptorTable) -> [u64; 2] {
    [u64::from(table.limit) << 48, table.base]
}

fn write(call: &mut Call<'_>, name: Name, value: [u64; 2]) -> Result<(), HvStatus> {
    if let Some(index) = xmm(name) {
        call.context.set_xmm(index, u128::from(value[1]) << 64 | u128::from(value[0]));
        return Ok(());
    }
    if value[1] != 0 {
        return Err(HvStatus::INVALID_REGISTER_VALUE);
    }
    if let Some(register) = general(name) {
        call.context.set_register(register, value[0]);
        return Ok(());
    }
    if let Some(msr) = msr_of(name) {
        return match call.enlightenment.write(call.vp, msr, value[0]) {
            MsrOutcome::Done(()) => Ok(()),
            _ => Err(HvStatus::INVALID_REGISTER_VALUE),
        };
    }
    if name == Name::CR8 {
        let priority = u8::try_from(value[0]).ok().filter(|priority| *priority < 16);
        let priority = priority.ok_or(HvStatus::INVALID_REGISTER_VALUE)?;
        call.enlightenment.with_apic(call.vp, |apic| apic.set_cr8(priority));
        return Ok(());
    }
    Err(HvStatus::INVALID_PARAMETER)
}

/// The MSR that is the same register.
fn msr_of(name: Name) -> Option<u32> {
    let ranges = [
        (Name::GUEST_CRASH_P0, Name::GUEST_CRASH_CTL, msr::CRASH_P0),
        (Name::PROCESSOR_CLOCK_FREQUENCY, Name::INTERRUPT_CLOCK_FREQUENCY, msr::TSC_FREQUENCY),
        (Name::VP_RUNTIME, Name::VP_RUNTIME, msr::VP_RUNTIME),
        (Name::HYPERCALL, Name::HYPERCALL, msr::HYPERCALL),
        (Name::GUEST_OS_ID, Name::GUEST_OS_ID, msr::GUEST_OS_ID),
        (Name::VP_INDEX, Name::VP_INDEX, msr::VP_INDEX),
        (Name::TIME_REF_COUNT, Name::TIME_REF_COUNT, msr::TIME_REF_COUNT),
        (Name::EOI, Name::VP_ASSIST_PAGE, msr::EOI),
        (Name::REFERENCE_TSC, Name::REFERENCE_TSC, msr::REFERENCE_TSC),
        (Name::SINT0, Name::SINT15, msr::SINT0),
        (Name::SCONTROL, Name::EOM, msr::SCONTROL),
        (Name::STIMER0_CONFIG, Name::STIMER3_COUNT, msr::STIMER0_CONFIG),
    ];
    ranges
        .into_iter()
        .find(|(first, last, _)| (first.0..=last.0).contains(&name.0))
        .map(|(first, _, msr)| msr + (name.0 - first.0))
}

/// The CPUID leaf that says the same.
fn leaf_of(name: Name) -> Option<u32> {
    match name {
        Name::HYPERVISOR_VERSION => Some(cpuid::VERSION),
        Name::PRIVILEGES_AND_FEATURES_INFO => Some(cpuid::FEATURES),
        Name::FEATURES_INFO => Some(cpuid::RECOMMENDATIONS),
        Name::IMPLEMENTATION_LIMITS_INFO => Some(cpuid::LIMITS),
        Name::HARDWARE_FEATURES_INFO => Some(cpuid::HARDWARE_FEATURES),
        _ => None,
    }
}
