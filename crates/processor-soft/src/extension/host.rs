//! What the host's processor can do: the instruction-set extensions that the guest may be offered, since
//! they run natively.

use std::arch::x86_64::{__cpuid_count, CpuidResult};
use std::collections::BTreeMap;
use std::sync::{Mutex, OnceLock, PoisonError};

use iced_x86::CpuidFeature;

/// Answers of CPUID that are kept.
const ANSWERS: usize = 256;

/// CPUID of the host; zero beyond its highest leaf. The answers are kept: where the host is a virtual machine
/// itself the instruction takes tens of microseconds, and every program of a guest begins with a dozen.
pub fn cpuid(leaf: u32, subleaf: u32) -> CpuidResult {
    static KNOWN: Mutex<BTreeMap<(u32, u32), CpuidResult>> = Mutex::new(BTreeMap::new());
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(answer) = known.get(&(leaf, subleaf)) {
        return *answer;
    }
    let answer = ask(leaf, subleaf);
    if known.len() < ANSWERS {
        known.insert((leaf, subleaf), answer);
    }
    answer
}

fn ask(leaf: u32, subleaf: u32) -> CpuidResult {
    let highest = __cpuid_count(leaf & 0x8000_0000, 0).eax;
    if leaf > highest {
        return CpuidResult { eax: 0, ebx: 0, ecx: 0, edx: 0 };
    }
    __cpuid_count(leaf, subleaf)
}

/// Width of the widest vector registers that host and guest have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum VectorWidth {
    Xmm,
    Ymm,
    Zmm,
}

/// The host's feature words, with what its operating system enables taken into account.
#[derive(Debug, Clone, Copy)]
pub struct Host {
    /// Of AMD or Hygon.
    pub amd: bool,
    pub width: VectorWidth,
    /// Extended-state components of the guest: the host's XCR0 cut to what is supported here.
    pub xcr0: u64,
    pub leaf1_ecx: u32,
    pub leaf7_ebx: u32,
    pub leaf7_ecx: u32,
    pub leaf7_edx: u32,
    pub leaf7_1_eax: u32,
    pub ext1_ecx: u32,
}

/// Extended-state component bits (SDM volume 1, section 13.1).
pub mod component {
    pub const X87: u64 = 1 << 0;
    pub const SSE: u64 = 1 << 1;
    pub const AVX: u64 = 1 << 2;
    pub const OPMASK: u64 = 1 << 5;
    pub const ZMM_HI256: u64 = 1 << 6;
    pub const HI16_ZMM: u64 = 1 << 7;
    pub const AVX512: u64 = OPMASK | ZMM_HI256 | HI16_ZMM;
}

/// The bits of leaf 7 that need AVX-512: F, DQ, IFMA, CD, BW, VL in EBX.
const LEAF7_EBX_AVX512: u32 = 1 << 16 | 1 << 17 | 1 << 21 | 1 << 28 | 1 << 30 | 1 << 31;
/// VBMI, VBMI2, VNNI, BITALG, VPOPCNTDQ in ECX.
const LEAF7_ECX_AVX512: u32 = 1 << 1 | 1 << 6 | 1 << 11 | 1 << 12 | 1 << 14;
/// FP16 in EDX.
const LEAF7_EDX_AVX512: u32 = 1 << 23;

impl Host {
    /// The host, looked at once.
    pub fn get() -> &'static Self {
        static HOST: OnceLock<Host> = OnceLock::new();
        HOST.get_or_init(Self::detect)
    }

    fn detect() -> Self {
        let leaf1 = cpuid(1, 0);
        let osxsave = leaf1.ecx & 1 << 27 != 0;
        // SAFETY: XGETBV with ECX = 0 is defined where CPUID says OSXSAVE.
        let host_xcr0 = if osxsave { unsafe { read_xcr0() } } else { component::X87 | component::SSE };
        let leaf7 = cpuid(7, 0);
        let avx = leaf1.ecx & 1 << 28 != 0 && host_xcr0 & 6 == 6;
        // One set of rules for vector lengths: AVX-512 is offered with VL, BW and DQ or not at all.
        let avx512 = avx
            && host_xcr0 & component::AVX512 == component::AVX512
            && leaf7.ebx & (1 << 16 | 1 << 17 | 1 << 30 | 1 << 31) == 1 << 16 | 1 << 17 | 1 << 30 | 1 << 31;
        let width = match (avx, avx512) {
            (_, true) => VectorWidth::Zmm,
            (true, false) => VectorWidth::Ymm,
            (false, false) => VectorWidth::Xmm,
        };
        let xcr0 = match width {
            VectorWidth::Xmm => component::X87 | component::SSE,
            VectorWidth::Ymm => component::X87 | component::SSE | component::AVX,
            VectorWidth::Zmm => component::X87 | component::SSE | component::AVX | component::AVX512,
        };
        let no512 = !avx512;
        let vendor = cpuid(0, 0);
        let amd = [(*b"Auth", *b"cAMD"), (*b"Hygo", *b"uine")].iter().any(|&(first, last)| {
            (vendor.ebx, vendor.ecx) == (u32::from_le_bytes(first), u32::from_le_bytes(last))
        });
        let cut = |word: u32, bits: u32, when: bool| if when { word & !bits } else { word };
        Self {
            amd,
            width,
            xcr0,
            // FMA, AVX, F16C need the YMM state.
            leaf1_ecx: cut(leaf1.ecx, 1 << 12 | 1 << 28 | 1 << 29, !avx),
            leaf7_ebx: cut(cut(leaf7.ebx, LEAF7_EBX_AVX512, no512), 1 << 5, !avx),
            // VAES and VPCLMULQDQ need the YMM state.
            leaf7_ecx: cut(cut(leaf7.ecx, LEAF7_ECX_AVX512, no512), 1 << 9 | 1 << 10, !avx),
            leaf7_edx: cut(leaf7.edx, LEAF7_EDX_AVX512, no512),
            leaf7_1_eax: cut(cut(cpuid(7, 1).eax, 1 << 5, no512), 1 << 4, !avx),
            ext1_ecx: cpuid(0x8000_0001, 0).ecx,
        }
    }

    /// Whether an instruction that needs `feature` is offered to the guest.
    pub fn offers(&self, feature: CpuidFeature) -> bool {
        use CpuidFeature as F;
        let bit = |word: u32, n: u32| word >> n & 1 != 0;
        match feature {
            F::INTEL8086 | F::INTEL186 | F::INTEL286 | F::INTEL386 | F::INTEL486 | F::X64 => true,
            F::FPU | F::FPU287 | F::FPU387 | F::CMOV | F::CX8 | F::MSR | F::TSC => true,
            F::MMX | F::SSE | F::SSE2 | F::FXSR | F::CLFSH | F::MULTIBYTENOP | F::PAUSE => true,
            F::SSE3 => bit(self.leaf1_ecx, 0),
            F::PCLMULQDQ => bit(self.leaf1_ecx, 1),
            F::SSSE3 => bit(self.leaf1_ecx, 9),
            F::FMA => bit(self.leaf1_ecx, 12),
            F::CMPXCHG16B => bit(self.leaf1_ecx, 13),
            F::SSE4_1 => bit(self.leaf1_ecx, 19),
            F::SSE4_2 => bit(self.leaf1_ecx, 20),
            F::MOVBE => bit(self.leaf1_ecx, 22),
            F::POPCNT => bit(self.leaf1_ecx, 23),
            F::AES => bit(self.leaf1_ecx, 25),
            F::XSAVE | F::XSAVEOPT | F::XSAVEC | F::XSAVES => bit(self.leaf1_ecx, 27),
            F::AVX => bit(self.leaf1_ecx, 28),
            F::F16C => bit(self.leaf1_ecx, 29),
            F::RDRAND => bit(self.leaf1_ecx, 30),
            F::BMI1 => bit(self.leaf7_ebx, 3),
            F::AVX2 => bit(self.leaf7_ebx, 5),
            F::BMI2 => bit(self.leaf7_ebx, 8),
            F::AVX512F => bit(self.leaf7_ebx, 16),
            F::AVX512DQ => bit(self.leaf7_ebx, 17),
            F::RDSEED => bit(self.leaf7_ebx, 18),
            F::ADX => bit(self.leaf7_ebx, 19),
            F::AVX512_IFMA => bit(self.leaf7_ebx, 21),
            F::CLFLUSHOPT => bit(self.leaf7_ebx, 23),
            F::CLWB => bit(self.leaf7_ebx, 24),
            F::AVX512CD => bit(self.leaf7_ebx, 28),
            F::SHA => bit(self.leaf7_ebx, 29),
            F::AVX512BW => bit(self.leaf7_ebx, 30),
            F::AVX512VL => bit(self.leaf7_ebx, 31),
            F::AVX512_VBMI => bit(self.leaf7_ecx, 1),
            F::AVX512_VBMI2 => bit(self.leaf7_ecx, 6),
            F::GFNI => bit(self.leaf7_ecx, 8),
            F::VAES => bit(self.leaf7_ecx, 9),
            F::VPCLMULQDQ => bit(self.leaf7_ecx, 10),
            F::AVX512_VNNI => bit(self.leaf7_ecx, 11),
            F::AVX512_BITALG => bit(self.leaf7_ecx, 12),
            F::AVX512_VPOPCNTDQ => bit(self.leaf7_ecx, 14),
            F::AVX512_FP16 => bit(self.leaf7_edx, 23),
            F::SERIALIZE => bit(self.leaf7_edx, 14),
            F::AVX_VNNI => bit(self.leaf7_1_eax, 4),
            F::AVX512_BF16 => bit(self.leaf7_1_eax, 5),
            F::LZCNT => bit(self.ext1_ecx, 5),
            F::PREFETCHW => bit(self.ext1_ecx, 8),
            _ => false,
        }
    }
}

/// Reads XCR0.
///
/// # Safety
/// CPUID.1:ECX.OSXSAVE must be set.
unsafe fn read_xcr0() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: as this function's contract says; the instruction touches nothing but EDX:EAX.
    unsafe {
        std::arch::asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") high, options(nomem, nostack));
    }
    u64::from(high) << 32 | u64::from(low)
}
