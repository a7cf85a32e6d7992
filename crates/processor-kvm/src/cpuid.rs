//! The guest's CPUID: what KVM supports, with the machine's processors in place of the host's, and the hypervisor
//! interface (SDM volume 2, CPUID; AMD64 APM volume 3, appendix E).
//!
//! Not offered: nested virtualization, KVM's own paravirtual leaves, the host's caches beyond one processor.

use kvm_bindings::{CpuId, kvm_cpuid_entry2};
use tlfs::cpuid as hypervisor;

const FEATURES: u32 = 1;
const CACHES: u32 = 4;
const TOPOLOGY: u32 = 0xb;
const TOPOLOGY_V2: u32 = 0x1f;
const EXTENDED_FEATURES: u32 = 0x8000_0001;
const ADDRESS_SIZES: u32 = 0x8000_0008;
const AMD_CACHES: u32 = 0x8000_001d;
const AMD_TOPOLOGY: u32 = 0x8000_001e;
/// Leaves that hypervisors use.
const HYPERVISORS: std::ops::RangeInclusive<u32> = 0x4000_0000..=0x4fff_ffff;

const ECX_VMX: u32 = 1 << 5;
const ECX_X2APIC: u32 = 1 << 21;
const ECX_TSC_DEADLINE: u32 = 1 << 24;
const ECX_HYPERVISOR: u32 = 1 << 31;
const EDX_HTT: u32 = 1 << 28;
const EXTENDED_ECX_CMP_LEGACY: u32 = 1 << 1;
const EXTENDED_ECX_SVM: u32 = 1 << 2;
/// Levels of the topology leaves.
const LEVEL_SMT: u32 = 1 << 8;
const LEVEL_CORE: u32 = 2 << 8;

/// What the answers depend on.
pub struct View<'a> {
    /// Index and APIC id of the processor.
    pub vp: u32,
    /// How many there are.
    pub processors: u32,
    /// Whether the local APIC's timer has the TSC-deadline mode.
    pub tsc_deadline: bool,
    /// The leaves of the hypervisor interface; none if there is none.
    pub hypervisor: &'a [kvm_cpuid_entry2],
}

/// The leaves that a processor gets, from those that KVM supports.
pub fn leaves(supported: &CpuId, view: &View<'_>) -> Vec<kvm_cpuid_entry2> {
    let mut leaves: Vec<_> = supported
        .as_slice()
        .iter()
        .filter(|leaf| !HYPERVISORS.contains(&leaf.function))
        .filter(|leaf| !matches!(leaf.function, TOPOLOGY | TOPOLOGY_V2))
        .map(|leaf| adapted(*leaf, view))
        .collect();
    let highest = leaves.iter().find(|leaf| leaf.function == 0).map_or(0, |leaf| leaf.eax);
    for function in [TOPOLOGY, TOPOLOGY_V2].into_iter().filter(|leaf| *leaf <= highest) {
        leaves.extend(topology(function, view));
    }
    leaves.extend(view.hypervisor);
    leaves
}

fn adapted(mut leaf: kvm_cpuid_entry2, view: &View<'_>) -> kvm_cpuid_entry2 {
    let last = view.processors - 1;
    match leaf.function {
        FEATURES => {
            leaf.ebx = leaf.ebx & 0xffff | view.vp << 24 | view.processors.min(0xff) << 16;
            leaf.ecx = leaf.ecx & !(ECX_VMX | ECX_HYPERVISOR | ECX_TSC_DEADLINE) | ECX_X2APIC;
            leaf.ecx |= if view.tsc_deadline { ECX_TSC_DEADLINE } else { 0 };
            leaf.ecx |= if view.hypervisor.is_empty() { 0 } else { ECX_HYPERVISOR };
            leaf.edx = leaf.edx & !EDX_HTT | if last > 0 { EDX_HTT } else { 0 };
        }
        // Every processor has its own caches; the processors are cores of one package.
        CACHES if leaf.eax & 0x1f != 0 => leaf.eax = leaf.eax & 0x3fff | last.min(0x3f) << 26,
        EXTENDED_FEATURES => {
            leaf.ecx &= !(EXTENDED_ECX_SVM | EXTENDED_ECX_CMP_LEGACY);
            leaf.ecx |= if last > 0 { EXTENDED_ECX_CMP_LEGACY } else { 0 };
        }
        ADDRESS_SIZES => leaf.ecx = last & 0xff | id_bits(view.processors) << 12,
        AMD_CACHES => leaf.eax &= 0x3fff,
        AMD_TOPOLOGY => (leaf.eax, leaf.ebx, leaf.ecx) = (view.vp, view.vp, 0),
        _ => {}
    }
    leaf
}

/// Bits of an APIC id that tell `processors` processors apart.
fn id_bits(processors: u32) -> u32 {
    processors.next_power_of_two().trailing_zeros()
}

/// One thread a core, all cores in one package.
fn topology(function: u32, view: &View<'_>) -> [kvm_cpuid_entry2; 3] {
    let level = |index, eax, ebx, kind: u32| kvm_cpuid_entry2 {
        function,
        index,
        flags: kvm_bindings::KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
        eax,
        ebx,
        ecx: kind | index,
        edx: view.vp,
        ..kvm_cpuid_entry2::default()
    };
    [
        level(0, 0, 1, LEVEL_SMT),
        level(1, id_bits(view.processors), view.processors, LEVEL_CORE),
        level(2, 0, 0, 0),
    ]
}

/// The leaves of the hypervisor interface: what `offered` says, without what `supported` lacks.
pub fn hypervisor_leaves(
    offered: impl Fn(u32) -> [u32; 4],
    supported: impl Fn(u32) -> [u32; 4],
) -> Vec<kvm_cpuid_entry2> {
    let [last, ..] = offered(hypervisor::VENDOR_AND_MAX_FUNCTION);
    if !HYPERVISORS.contains(&last) {
        return Vec::new();
    }
    (hypervisor::VENDOR_AND_MAX_FUNCTION..=last.min(hypervisor::VENDOR_AND_MAX_FUNCTION + 0xff))
        .map(|function| {
            let [mut eax, mut ebx, mut ecx, mut edx] = offered(function);
            let [eax_there, ebx_there, ecx_there, edx_there] = supported(function);
            match function {
                hypervisor::FEATURES => {
                    eax &= eax_there;
                    ebx &= ebx_there;
                    ecx &= ecx_there;
                    edx &= edx_there;
                }
                // EBX is a number of spins.
                hypervisor::RECOMMENDATIONS => eax &= eax_there,
                _ => {}
            }
            kvm_cpuid_entry2 { function, eax, ebx, ecx, edx, ..kvm_cpuid_entry2::default() }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn supported() -> CpuId {
        let leaf = |function, eax, ebx, ecx, edx| kvm_cpuid_entry2 {
            function,
            eax,
            ebx,
            ecx,
            edx,
            ..kvm_cpuid_entry2::default()
        };
        let leaves = [
            leaf(0, 0xb, 1, 2, 3),
            leaf(1, 0x800f12, 0x0742_0800, ECX_VMX | 1, EDX_HTT),
            leaf(0xb, 9, 9, 9, 9),
            leaf(0x4000_0000, 1, 0x4b4d_564b, 0, 0),
            leaf(EXTENDED_FEATURES, 0, 0, EXTENDED_ECX_SVM | EXTENDED_ECX_CMP_LEGACY | 1, 0),
        ];
        CpuId::from_entries(&leaves).unwrap()
    }

    fn view(vp: u32, processors: u32, hypervisor: &[kvm_cpuid_entry2]) -> View<'_> {
        View { vp, processors, tsc_deadline: true, hypervisor }
    }

    fn find(leaves: &[kvm_cpuid_entry2], function: u32, index: u32) -> kvm_cpuid_entry2 {
        *leaves.iter().find(|leaf| leaf.function == function && leaf.index == index).unwrap()
    }

    #[test]
    fn a_processor_has_its_own_id_and_no_nested_virtualization() {
        let leaves = leaves(&supported(), &view(2, 3, &[]));
        let features = find(&leaves, 1, 0);
        assert_eq!((features.ebx, features.edx), (2 << 24 | 3 << 16 | 0x0800, EDX_HTT));
        assert_eq!(features.ecx, ECX_X2APIC | ECX_TSC_DEADLINE | 1);
        assert_eq!(find(&leaves, EXTENDED_FEATURES, 0).ecx, EXTENDED_ECX_CMP_LEGACY | 1);
    }

    #[test]
    fn the_topology_is_one_package_of_cores() {
        let leaves = leaves(&supported(), &view(1, 3, &[]));
        let core = find(&leaves, TOPOLOGY, 1);
        assert_eq!((core.eax, core.ebx, core.ecx, core.edx), (2, 3, 0x201, 1));
        assert!(!leaves.iter().any(|leaf| leaf.function == TOPOLOGY_V2), "beyond the highest leaf");
    }

    #[test]
    fn without_an_interface_no_hypervisor_is_seen() {
        let leaves = leaves(&supported(), &view(0, 1, &[]));
        assert!(!leaves.iter().any(|leaf| HYPERVISORS.contains(&leaf.function)));
        assert_eq!(find(&leaves, 1, 0).ecx & ECX_HYPERVISOR, 0);
    }

    #[test]
    fn what_kvm_lacks_is_not_offered() {
        let offered = |leaf| match leaf {
            0x4000_0000 => [0x4000_0005, 1, 2, 3],
            0x4000_0003 => [0xff, 0xf0, 0, 0x9],
            0x4000_0004 => [0x0f, 0xfff, 0, 0],
            _ => [7; 4],
        };
        let there = |leaf| if leaf == 0x4000_0003 { [0x3f, 0x10, 0, 1] } else { [0x0c, 0, 0, 0] };
        let hypervisor = hypervisor_leaves(offered, there);
        let values = |function| {
            let leaf = find(&hypervisor, function, 0);
            [leaf.eax, leaf.ebx, leaf.ecx, leaf.edx]
        };
        assert_eq!(values(0x4000_0000), [0x4000_0005, 1, 2, 3]);
        assert_eq!(values(0x4000_0003), [0x3f, 0x10, 0, 1]);
        assert_eq!(values(0x4000_0004), [0x0c, 0xfff, 0, 0]);
        assert_eq!(values(0x4000_0005), [7; 4]);
        let all = leaves(&supported(), &view(0, 1, &hypervisor));
        assert_ne!(find(&all, 1, 0).ecx & ECX_HYPERVISOR, 0);
    }
}
