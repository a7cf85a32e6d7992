//! CPUID leaves 0x40000000–0x4000000A, made from the features that are offered (TLFS, "Feature and
//! Interface Discovery"). A guest that is offered nothing sees no leaf at all.

use tlfs::cpuid;

use crate::features::{Feature, Features};

/// The last leaf.
const MAX_LEAF: u32 = cpuid::NESTED_VIRTUALIZATION;
/// The hypervisor version that this interface is modelled on: that of Windows Server 2022. The number
/// tells a guest the age of the interface; what there is, the other leaves say.
const BUILD: u32 = 20348;
const MAJOR_MINOR: u32 = 10 << 16;
/// Spins before a guest says that it waits for a lock.
const SPINS: u32 = 0xfff;

/// EAX, EBX, ECX and EDX of `leaf` for a partition with `processors` virtual processors.
pub(crate) fn leaf(features: Features, processors: u32, leaf: u32) -> [u32; 4] {
    if features.is_empty() {
        return [0; 4];
    }
    match leaf {
        cpuid::VENDOR_AND_MAX_FUNCTION => [MAX_LEAF, cpuid::VENDOR[0], cpuid::VENDOR[1], cpuid::VENDOR[2]],
        cpuid::INTERFACE => [cpuid::INTERFACE_SIGNATURE, 0, 0, 0],
        cpuid::VERSION => [BUILD, MAJOR_MINOR, 0, 0],
        cpuid::FEATURES => {
            let privileges = features.iter().fold(0, |bits, feature| bits | feature.privileges().into_bits());
            let edx = features.iter().fold(0, |bits, feature| bits | feature.features().into_bits());
            [privileges as u32, (privileges >> 32) as u32, 0, edx]
        }
        cpuid::RECOMMENDATIONS => {
            let eax = features.iter().fold(0, |bits, feature| bits | feature.recommendations().into_bits());
            let spins = match features.contains(Feature::SpinWait) {
                true => SPINS,
                false => cpuid::NEVER_NOTIFY_SPINS,
            };
            [eax, spins, 0, 0]
        }
        cpuid::LIMITS => [processors, processors, 0, 0],
        // No hardware assists, no processor management, no shared virtual memory, no nesting.
        _ => [0; 4],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_leaves_name_the_interface() {
        assert_eq!(leaf(Features::ALL, 2, 0x4000_0000), [0x4000_000a, 0x7263_694d, 0x666f_736f, 0x7648_2074]);
        assert_eq!(leaf(Features::ALL, 2, 0x4000_0001), [0x3123_7648, 0, 0, 0]);
        assert_eq!(leaf(Features::ALL, 2, 0x4000_0005), [2, 2, 0, 0]);
    }

    #[test]
    fn without_features_there_is_no_leaf() {
        for number in 0x4000_0000..0x4000_0100 {
            assert_eq!(leaf(Features::NONE, 2, number), [0; 4]);
        }
    }

    #[test]
    fn all_features_give_the_bits_that_linux_looks_for() {
        let [eax, ebx, ecx, edx] = leaf(Features::ALL, 1, 0x4000_0003);
        assert_eq!(eax, 0b1110_1111_1111 & !(1 << 8), "no statistics, no reenlightenment");
        assert_eq!(ebx, 1 << 4 | 1 << 5 | 1 << 17 | 1 << 20 | 1 << 21);
        assert_eq!(ecx, 0);
        assert_eq!(edx, 1 << 4 | 1 << 5 | 1 << 8 | 1 << 10 | 1 << 15 | 1 << 17 | 1 << 18 | 1 << 19);
        let [eax, ebx, ..] = leaf(Features::ALL, 1, 0x4000_0004);
        assert_eq!(eax, 1 << 2 | 1 << 3 | 1 << 5 | 1 << 9 | 1 << 10 | 1 << 11);
        assert_eq!(ebx, 0xfff);
    }

    #[test]
    fn one_feature_gives_its_bits_and_the_mandatory_ones() {
        let crash = "crash".parse().unwrap();
        let [eax, ebx, _, edx] = leaf(crash, 1, 0x4000_0003);
        assert_eq!((eax, ebx, edx), (1 << 5 | 1 << 6, 0, 1 << 10 | 1 << 18));
        assert_eq!(leaf(crash, 1, 0x4000_0004), [0, u32::MAX, 0, 0]);
    }

    #[test]
    fn leaves_beyond_the_last_are_zero() {
        assert_eq!(leaf(Features::ALL, 1, 0x4000_000b), [0; 4]);
        assert_eq!(leaf(Features::ALL, 1, 0x4000_0081), [0; 4]);
    }
}
