//! The guest's CPUID (SDM volume 2, instruction CPUID): the host's identity with just those features that
//! the software processor carries out.
//!
//! Not offered: MONITOR/MWAIT, VMX, SVM, SMX, MPX, TSX, PKU, CET, AMX, SGX, performance monitoring, thermal
//! and power leaves, caches' way of sharing beyond one processor.

use super::host::{self, Host, component};
use super::xsave;

/// What the answer depends on besides the host.
#[derive(Debug, Clone, Copy)]
pub struct View {
    /// APIC id of the asking processor.
    pub apic_id: u32,
    /// Number of processors.
    pub processors: u32,
    /// CR4.OSXSAVE.
    pub osxsave: bool,
    /// Whether a hypervisor interface is attached and wants to be seen.
    pub hypervisor: bool,
    pub xcr0: u64,
    /// IA32_XSS.
    pub xss: u64,
    /// The local APIC is enabled in IA32_APIC_BASE.
    pub apic: bool,
    /// Frequency of the TSC in Hz.
    pub tsc_frequency: u64,
}

/// Highest basic leaf.
const HIGHEST: u32 = 0x1f;
/// Highest extended leaf, of Intel's processors and of AMD's.
const HIGHEST_EXTENDED: u32 = 0x8000_0008;
const HIGHEST_EXTENDED_AMD: u32 = 0x8000_0021;
/// Physical address bits offered, at most.
pub const PHYSICAL_BITS: u32 = 46;

mod leaf1 {
    pub const SSE3: u32 = 1 << 0;
    pub const PCLMULQDQ: u32 = 1 << 1;
    pub const SSSE3: u32 = 1 << 9;
    pub const FMA: u32 = 1 << 12;
    pub const CX16: u32 = 1 << 13;
    pub const PCID: u32 = 1 << 17;
    pub const SSE4_1: u32 = 1 << 19;
    pub const SSE4_2: u32 = 1 << 20;
    pub const X2APIC: u32 = 1 << 21;
    pub const MOVBE: u32 = 1 << 22;
    pub const POPCNT: u32 = 1 << 23;
    pub const TSC_DEADLINE: u32 = 1 << 24;
    pub const AES: u32 = 1 << 25;
    pub const XSAVE: u32 = 1 << 26;
    pub const OSXSAVE: u32 = 1 << 27;
    pub const AVX: u32 = 1 << 28;
    pub const F16C: u32 = 1 << 29;
    pub const RDRAND: u32 = 1 << 30;
    pub const HYPERVISOR: u32 = 1 << 31;
    /// What the host must have too.
    pub const NATIVE: u32 =
        SSE3 | PCLMULQDQ | SSSE3 | FMA | CX16 | SSE4_1 | SSE4_2 | MOVBE | POPCNT | AES | AVX | F16C | RDRAND;

    /// FPU VME DE PSE TSC MSR PAE MCE CX8 SEP MTRR PGE MCA CMOV PAT PSE36 CLFSH MMX FXSR SSE SSE2 SS.
    /// APIC (bit 9) follows IA32_APIC_BASE.
    pub const EDX: u32 = 0x0f8b_f9ff & !VME;
    const VME: u32 = 1 << 1;
    pub const EDX_APIC: u32 = 1 << 9;
    pub const EDX_HTT: u32 = 1 << 28;
}

mod leaf7 {
    pub const FSGSBASE: u32 = 1 << 0;
    pub const TSC_ADJUST: u32 = 1 << 1;
    pub const FDP_EXCPTN_ONLY: u32 = 1 << 6;
    pub const SMEP: u32 = 1 << 7;
    pub const ERMS: u32 = 1 << 9;
    pub const INVPCID: u32 = 1 << 10;
    pub const NO_FCS_FDS: u32 = 1 << 13;
    pub const SMAP: u32 = 1 << 20;
    /// BMI1 AVX2 BMI2 AVX512F AVX512DQ RDSEED ADX IFMA CLFLUSHOPT CLWB AVX512CD SHA AVX512BW AVX512VL.
    pub const EBX_NATIVE: u32 = 1 << 3
        | 1 << 5
        | 1 << 8
        | 1 << 16
        | 1 << 17
        | 1 << 18
        | 1 << 19
        | 1 << 21
        | 1 << 23
        | 1 << 24
        | 1 << 28
        | 1 << 29
        | 1 << 30
        | 1 << 31;
    /// VBMI VBMI2 GFNI VAES VPCLMULQDQ VNNI BITALG VPOPCNTDQ.
    pub const ECX_NATIVE: u32 = 1 << 1 | 1 << 6 | 1 << 8 | 1 << 9 | 1 << 10 | 1 << 11 | 1 << 12 | 1 << 14;
    pub const UMIP: u32 = 1 << 2;
    pub const LA57: u32 = 1 << 16;
    pub const RDPID: u32 = 1 << 22;
    pub const FSRM: u32 = 1 << 4;
    /// SERIALIZE, AVX512_FP16.
    pub const EDX_NATIVE: u32 = 1 << 14 | 1 << 23;
    /// IA32_ARCH_CAPABILITIES; IBRS, STIBP and SSBD, so that guests that insist find them. Processors of AMD have
    /// their own bits for them, in [`super::amd`].
    pub const EDX_SPECULATION: u32 = 1 << 26 | 1 << 27 | 1 << 29 | 1 << 31;
    /// BHI_CTRL, MCDT_NO: without the first Linux clears the branch history in software at every system call.
    pub const SUB2_EDX: u32 = 1 << 4 | 1 << 5;
    /// AVX_VNNI, AVX512_BF16.
    pub const SUB1_EAX_NATIVE: u32 = 1 << 4 | 1 << 5;
}

/// What processors of AMD say of errata and speculation (AMD64 APM volume 3, appendix E), as
/// IA32_ARCH_CAPABILITIES does for Intel's: [`crate::system::msr`] tells why there is nothing to guard.
mod amd {
    /// Leaf 0x8000_0008: RstrFpErrPtrs, as FXSAVE and XSAVE save the x87 pointers, always.
    const ERROR_POINTERS: u32 = 1 << 2;
    const IBPB: u32 = 1 << 12;
    const IBRS: u32 = 1 << 14;
    const STIBP: u32 = 1 << 15;
    const SSBD: u32 = 1 << 24;
    const SSB_NO: u32 = 1 << 26;
    const BTC_NO: u32 = 1 << 29;
    pub const EBX_8: u32 = ERROR_POINTERS | IBPB | IBRS | STIBP | SSBD | SSB_NO | BTC_NO;

    /// Leaf 0x8000_0021. LFENCE runs natively.
    pub const LFENCE_SERIALIZES: u32 = 1 << 2;
    const NULL_SELECTOR_CLEARS_BASE: u32 = 1 << 6;
    const AUTOMATIC_IBRS: u32 = 1 << 8;
    const SRSO_NO: u32 = 1 << 29;
    const SRSO_USER_KERNEL_NO: u32 = 1 << 30;
    pub const EAX_21: u32 = NULL_SELECTOR_CLEARS_BASE | AUTOMATIC_IBRS | SRSO_NO | SRSO_USER_KERNEL_NO;
    const TSA_SQ_NO: u32 = 1 << 1;
    const TSA_L1_NO: u32 = 1 << 2;
    pub const ECX_21: u32 = TSA_SQ_NO | TSA_L1_NO;
}

/// EAX, EBX, ECX, EDX for `leaf`. The leaves of the hypervisor interface are not known here.
pub fn cpuid(view: &View, leaf: u32, subleaf: u32) -> [u32; 4] {
    let host = Host::get();
    match leaf {
        0 => {
            let vendor = host::cpuid(0, 0);
            [HIGHEST, vendor.ebx, vendor.ecx, vendor.edx]
        }
        1 => features(view, host),
        2 => words(2, 0),
        4 => cache(view, subleaf),
        7 => structured(host, subleaf),
        0xb | 0x1f => topology(view, subleaf),
        0xd => extended_state(view, host, subleaf),
        0x15 => crystal(view),
        0x8000_0000 => {
            let vendor = host::cpuid(0x8000_0000, 0);
            let highest = if host.amd { HIGHEST_EXTENDED_AMD } else { HIGHEST_EXTENDED };
            [highest, vendor.ebx, vendor.ecx, vendor.edx]
        }
        0x8000_0001 => extended_features(host),
        0x8000_0002..=0x8000_0006 => words(leaf, 0),
        // Invariant TSC.
        0x8000_0007 => [0, 0, 0, 1 << 8],
        0x8000_0008 => [physical_bits() | 57 << 8, if host.amd { amd::EBX_8 } else { 0 }, 0, 0],
        0x8000_0021 if host.amd => {
            let lfence = host::cpuid(leaf, 0).eax & amd::LFENCE_SERIALIZES;
            [amd::EAX_21 | lfence, 0, amd::ECX_21, 0]
        }
        0x3 | 0x5..=0x1e | 0x8000_0009..=0xffff_ffff => [0; 4],
        // Beyond the basic leaves Intel's processors answer with the highest one.
        _ => cpuid(view, HIGHEST, subleaf),
    }
}

fn words(leaf: u32, subleaf: u32) -> [u32; 4] {
    let answer = host::cpuid(leaf, subleaf);
    [answer.eax, answer.ebx, answer.ecx, answer.edx]
}

/// Physical address bits of the guest.
pub fn physical_bits() -> u32 {
    match host::cpuid(0x8000_0008, 0).eax & 0xff {
        0 => 36,
        bits => bits.min(PHYSICAL_BITS),
    }
}

fn features(view: &View, host: &Host) -> [u32; 4] {
    let signature = host::cpuid(1, 0).eax;
    let logical = view.processors.next_power_of_two().min(255);
    // CLFLUSH line 64 bytes.
    let ebx = (view.apic_id & 0xff) << 24 | logical << 16 | 8 << 8;
    let mut ecx = host.leaf1_ecx & leaf1::NATIVE;
    ecx |= leaf1::PCID | leaf1::X2APIC | leaf1::TSC_DEADLINE | leaf1::XSAVE;
    if view.osxsave {
        ecx |= leaf1::OSXSAVE;
    }
    if view.hypervisor {
        ecx |= leaf1::HYPERVISOR;
    }
    let mut edx = leaf1::EDX;
    if view.apic {
        edx |= leaf1::EDX_APIC;
    }
    if view.processors > 1 {
        edx |= leaf1::EDX_HTT;
    }
    [signature, ebx, ecx, edx]
}

fn structured(host: &Host, subleaf: u32) -> [u32; 4] {
    match subleaf {
        0 => {
            let ebx = host.leaf7_ebx & leaf7::EBX_NATIVE
                | leaf7::FSGSBASE
                | leaf7::TSC_ADJUST
                | leaf7::FDP_EXCPTN_ONLY
                | leaf7::SMEP
                | leaf7::ERMS
                | leaf7::INVPCID
                | leaf7::NO_FCS_FDS
                | leaf7::SMAP;
            let ecx = host.leaf7_ecx & leaf7::ECX_NATIVE | leaf7::UMIP | leaf7::LA57 | leaf7::RDPID;
            let speculation = if host.amd { 0 } else { leaf7::EDX_SPECULATION };
            let edx = host.leaf7_edx & leaf7::EDX_NATIVE | leaf7::FSRM | speculation;
            [2, ebx, ecx, edx]
        }
        1 => [host.leaf7_1_eax & leaf7::SUB1_EAX_NATIVE, 0, 0, 0],
        2 => [0, 0, 0, leaf7::SUB2_EDX],
        _ => [0; 4],
    }
}

/// Deterministic cache parameters, with the caches private to a processor but for the last level.
fn cache(view: &View, subleaf: u32) -> [u32; 4] {
    let [eax, ebx, ecx, edx] = words(4, subleaf);
    if eax & 0x1f == 0 {
        return [0; 4];
    }
    let others = view.processors.next_power_of_two() - 1;
    let level = eax >> 5 & 7;
    let sharing = if level >= 3 { others.min(0xfff) } else { 0 };
    [eax & 0x3fff | sharing << 14 | others.min(63) << 26, ebx, ecx, edx]
}

/// One thread a core, all cores in one package.
fn topology(view: &View, subleaf: u32) -> [u32; 4] {
    let core_bits = view.processors.next_power_of_two().trailing_zeros();
    match subleaf {
        0 => [0, 1, 1 << 8, view.apic_id],
        1 => [core_bits, view.processors, 2 << 8 | 1, view.apic_id],
        _ => [0, 0, subleaf & 0xff, view.apic_id],
    }
}

fn extended_state(view: &View, host: &Host, subleaf: u32) -> [u32; 4] {
    match subleaf {
        0 => [
            host.xcr0 as u32,
            xsave::standard_size(view.xcr0),
            xsave::standard_size(host.xcr0),
            (host.xcr0 >> 32) as u32,
        ],
        // XSAVEOPT, XSAVEC, XGETBV with ECX = 1, XSAVES.
        1 => [0xf, xsave::compact_size(view.xcr0 | view.xss), 0, 0],
        2..=62 if host.xcr0 >> subleaf & 1 != 0 && 1 << subleaf != component::SSE => {
            let (offset, size) = xsave::location(subleaf);
            // ECX: user state; the compacted form needs no alignment to 64 bytes.
            [size, offset, 0, 0]
        }
        _ => [0; 4],
    }
}

/// TSC and crystal clock: a crystal of 1 Hz times the frequency would overflow no field, but a plausible
/// crystal keeps software's rounding small.
fn crystal(view: &View) -> [u32; 4] {
    const CRYSTAL: u64 = 25_000_000;
    // TSC = crystal * ebx / eax, in steps of 25 kHz.
    const DENOMINATOR: u64 = 1000;
    match u32::try_from(view.tsc_frequency * DENOMINATOR / CRYSTAL) {
        Ok(numerator) if numerator > 0 => [DENOMINATOR as u32, numerator, CRYSTAL as u32, 0],
        _ => [0; 4],
    }
}

fn extended_features(host: &Host) -> [u32; 4] {
    // LAHF, LZCNT, PREFETCHW of the host; SYSCALL NX PDPE1GB RDTSCP LM of ours.
    let ecx = host.ext1_ecx & (1 << 5 | 1 << 8) | 1;
    let edx = 1 << 11 | 1 << 20 | 1 << 26 | 1 << 27 | 1 << 29;
    // Processors of AMD repeat the basic features here.
    let (eax, repeated) = if host.amd { (host::cpuid(1, 0).eax, leaf1::EDX & 0x0183_f3ff) } else { (0, 0) };
    [eax, 0, ecx, edx | repeated]
}

#[cfg(test)]
mod tests {
    use super::*;

    const VIEW: View = View {
        apic_id: 3,
        processors: 4,
        osxsave: false,
        hypervisor: true,
        xcr0: component::X87,
        xss: 0,
        apic: true,
        tsc_frequency: 2_500_000_000,
    };

    #[test]
    fn osxsave_follows_cr4() {
        assert_eq!(cpuid(&VIEW, 1, 0)[2] & leaf1::OSXSAVE, 0);
        let with = View { osxsave: true, ..VIEW };
        assert_ne!(cpuid(&with, 1, 0)[2] & leaf1::OSXSAVE, 0);
    }

    #[test]
    fn what_is_not_carried_out_is_not_offered() {
        let [_, _, ecx, _] = cpuid(&VIEW, 1, 0);
        assert_eq!(ecx & (1 << 3 | 1 << 5 | 1 << 6), 0, "MONITOR, VMX, SMX");
        let [_, ebx, ecx, edx] = cpuid(&VIEW, 7, 0);
        assert_eq!(ebx & (1 << 2 | 1 << 4 | 1 << 11 | 1 << 14 | 1 << 25), 0, "SGX, HLE, RTM, MPX, PT");
        assert_eq!(ecx & (1 << 3 | 1 << 5 | 1 << 7), 0, "PKU, WAITPKG, CET");
        assert_eq!(edx & (1 << 22 | 1 << 24 | 1 << 25), 0, "AMX");
    }

    #[test]
    fn topology_gives_every_processor_its_apic_id() {
        assert_eq!(cpuid(&VIEW, 0xb, 1), [2, 4, 0x201, 3]);
    }

    #[test]
    fn the_tsc_frequency_is_told_to_25_khz() {
        let [denominator, numerator, crystal, _] = cpuid(&VIEW, 0x15, 0);
        assert_eq!(u64::from(crystal) * u64::from(numerator) / u64::from(denominator), VIEW.tsc_frequency);
    }
}
