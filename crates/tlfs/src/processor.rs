//! Structures of a virtual processor: registers as wire formats, and the VP assist page.

use bitfield_struct::bitfield;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The form that SIMP, SIEFP, VP_ASSIST_PAGE, REFERENCE_TSC and HYPERCALL share: a guest page and whether
/// it is there.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct PageMsr {
    /// The page is there.
    pub enable: bool,
    /// HYPERCALL only: the register cannot be written any more. Preserved elsewhere.
    pub locked: bool,
    /// Preserved.
    #[bits(10)]
    pub reserved: u16,
    /// Number of the guest page.
    #[bits(52)]
    pub page_number: u64,
}

impl PageMsr {
    /// Guest physical address of the page.
    pub fn gpa(self) -> u64 {
        self.page_number() << 12
    }
}

/// HV_X64_SEGMENT_REGISTER.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SegmentRegister {
    /// Base address.
    pub base: u64,
    /// Limit in bytes.
    pub limit: u32,
    /// Selector.
    pub selector: u16,
    /// Type in bits 0–3, S 4, DPL 5–6, P 7, AVL 12, L 13, D/B 14, G 15.
    pub attributes: u16,
}

/// HV_X64_TABLE_REGISTER.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct TableRegister {
    /// Ignored.
    pub padding: [u16; 3],
    /// Last valid offset.
    pub limit: u16,
    /// Linear address.
    pub base: u64,
}

/// HV_INITIAL_VP_CONTEXT.
#[allow(missing_docs)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct InitialVpContext {
    pub rip: u64,
    pub rsp: u64,
    pub rflags: u64,
    pub cs: SegmentRegister,
    pub ds: SegmentRegister,
    pub es: SegmentRegister,
    pub fs: SegmentRegister,
    pub gs: SegmentRegister,
    pub ss: SegmentRegister,
    pub tr: SegmentRegister,
    pub ldtr: SegmentRegister,
    pub idtr: TableRegister,
    pub gdtr: TableRegister,
    pub efer: u64,
    pub cr0: u64,
    pub cr3: u64,
    pub cr4: u64,
    pub pat: u64,
}

/// HV_VIRTUAL_APIC_ASSIST: the first field of the VP assist page.
#[bitfield(u32)]
#[derive(PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct VirtualApicAssist {
    /// The interrupt in service may be ended by clearing this bit.
    pub no_eoi_required: bool,
    #[bits(31)]
    pub reserved: u32,
}

/// HV_VP_ASSIST_PAGE, as far as a hypervisor without VSM and nesting uses it.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct VpAssistPage {
    /// EOI assist.
    pub apic_assist: VirtualApicAssist,
    /// Zero: VSM, nested enlightenments, time-unhalted timer.
    pub reserved: [u32; 1023],
}

const _: () = assert!(size_of::<SegmentRegister>() == 16);
const _: () = assert!(size_of::<TableRegister>() == 16);
const _: () = assert!(size_of::<InitialVpContext>() == 224);
const _: () = assert!(size_of::<VpAssistPage>() == crate::PAGE_SIZE);
