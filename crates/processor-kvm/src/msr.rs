//! Model-specific registers: which accesses KVM sends here, and those that firmware sets.

use std::io;

use kvm_bindings::{
    KVM_CAP_X86_USER_SPACE_MSR, KVM_MSR_EXIT_REASON_FILTER, KVM_MSR_EXIT_REASON_INVAL,
    KVM_MSR_EXIT_REASON_UNKNOWN, Msrs, kvm_enable_cap, kvm_msr_entry,
};
use kvm_ioctls::{MsrFilterDefaultAction, MsrFilterRange, MsrFilterRangeFlags, VcpuFd, VmFd};
use tlfs::msr;

const PAT: u32 = 0x277;
const MTRR_PHYSICAL_BASE_0: u32 = 0x200;
const MTRR_PHYSICAL_MASK_0: u32 = 0x201;
const MTRR_DEFAULT_TYPE: u32 = 0x2ff;
const MTRR_FIXED: [u32; 11] = [0x250, 0x258, 0x259, 0x268, 0x269, 0x26a, 0x26b, 0x26c, 0x26d, 0x26e, 0x26f];
/// Write-back, for each of a register's eight ranges.
const ALL_WRITE_BACK: u64 = 0x0606_0606_0606_0606;
/// Enabled, fixed ranges enabled, write-back.
const ENABLED_WRITE_BACK: u64 = 1 << 11 | 1 << 10 | 6;
const VALID: u64 = 1 << 11;

/// Registers of the hypervisor interface that come here when the guest writes them: first and number. KVM keeps the
/// guest's identity too; it knows of a crash, but not of the log that comes with it; a guest that writes EOM has
/// made room for messages, and those are ours.
const WRITES: [(u32, u32); 4] =
    [(msr::GUEST_OS_ID, 1), (msr::RESET, 1), (msr::EOM, 1), (msr::CRASH_P0, CRASH_REGISTERS)];
/// The same for reads.
const READS: [(u32, u32); 2] = [(msr::RESET, 1), (msr::CRASH_P0, CRASH_REGISTERS)];
const CRASH_REGISTERS: u32 = msr::CRASH_CTL - msr::CRASH_P0 + 1;

/// Sends here what KVM does not know or not allow and, with `hypervisor`, those registers of the interface that are
/// ours.
pub fn filter(vm: &VmFd, hypervisor: bool) -> io::Result<()> {
    let mut reasons = KVM_MSR_EXIT_REASON_UNKNOWN | KVM_MSR_EXIT_REASON_INVAL;
    if hypervisor {
        reasons |= KVM_MSR_EXIT_REASON_FILTER;
    }
    let capability = kvm_enable_cap {
        cap: KVM_CAP_X86_USER_SPACE_MSR,
        args: [reasons.into(), 0, 0, 0],
        ..kvm_enable_cap::default()
    };
    vm.enable_cap(&capability).map_err(io::Error::from)?;
    if !hypervisor {
        return Ok(());
    }
    // A bit that is clear sends the access here.
    let bitmap = [0];
    let range = |&(base, msr_count), flags| MsrFilterRange { flags, base, msr_count, bitmap: &bitmap };
    let writes = WRITES.iter().map(|registers| range(registers, MsrFilterRangeFlags::WRITE));
    let reads = READS.iter().map(|registers| range(registers, MsrFilterRangeFlags::READ));
    let ranges: Vec<_> = writes.chain(reads).collect();
    vm.set_msr_filter(MsrFilterDefaultAction::ALLOW, &ranges).map_err(io::Error::from)
}

/// Writes `values` on behalf of the machine.
pub fn set(vcpu: &VcpuFd, values: &[(u32, u64)]) -> io::Result<()> {
    let entries: Vec<_> = values
        .iter()
        .map(|&(index, data)| kvm_msr_entry { index, data, ..kvm_msr_entry::default() })
        .collect();
    let msrs = Msrs::from_entries(&entries).map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
    let written = vcpu.set_msrs(&msrs).map_err(io::Error::from)?;
    match values.get(written) {
        None => Ok(()),
        Some((index, value)) => Err(io::Error::other(format!("MSR {index:#x} does not take {value:#x}"))),
    }
}

/// The value of MSR `index`; `None` if the processor does not have it.
pub fn get(vcpu: &VcpuFd, index: u32) -> io::Result<Option<u64>> {
    let entry = kvm_msr_entry { index, ..kvm_msr_entry::default() };
    let msrs = Msrs::from_entries(&[entry]);
    let mut msrs = msrs.map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
    let read = vcpu.get_msrs(&mut msrs).map_err(io::Error::from)?;
    Ok(msrs.as_slice().first().filter(|_| read == 1).map(|entry| entry.data))
}

/// The page attribute table.
pub fn set_pat(vcpu: &VcpuFd, value: u64) -> io::Result<()> {
    set(vcpu, &[(PAT, value)])
}

/// Memory types as firmware leaves them: all memory write-back, the device hole below 4 GiB uncached.
pub fn set_memory_types(vcpu: &VcpuFd, physical_bits: u32) -> io::Result<()> {
    let size = guest_memory::DEVICE_HOLE_END - guest_memory::DEVICE_HOLE_START;
    let mask = ((1_u64 << physical_bits.clamp(32, 52)) - size) | VALID;
    let mut values =
        vec![(MTRR_PHYSICAL_BASE_0, guest_memory::DEVICE_HOLE_START), (MTRR_PHYSICAL_MASK_0, mask)];
    values.extend(MTRR_FIXED.map(|index| (index, ALL_WRITE_BACK)));
    values.push((MTRR_DEFAULT_TYPE, ENABLED_WRITE_BACK));
    set(vcpu, &values)
}
