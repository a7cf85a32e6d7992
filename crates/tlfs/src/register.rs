//! Names of the registers of a virtual processor (HV_REGISTER_NAME), as HvCallGetVpRegisters and
//! HvCallSetVpRegisters take them.
#![allow(missing_docs)]

/// HV_REGISTER_NAME.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RegisterName(pub u32);

impl RegisterName {
    pub const HYPERVISOR_VERSION: Self = Self(0x0000_0100);
    pub const PRIVILEGES_AND_FEATURES_INFO: Self = Self(0x0000_0200);
    pub const FEATURES_INFO: Self = Self(0x0000_0201);
    pub const IMPLEMENTATION_LIMITS_INFO: Self = Self(0x0000_0202);
    pub const HARDWARE_FEATURES_INFO: Self = Self(0x0000_0203);
    pub const GUEST_CRASH_P0: Self = Self(0x0000_0210);
    pub const GUEST_CRASH_P4: Self = Self(0x0000_0214);
    pub const GUEST_CRASH_CTL: Self = Self(0x0000_0215);
    pub const PROCESSOR_CLOCK_FREQUENCY: Self = Self(0x0000_0240);
    pub const INTERRUPT_CLOCK_FREQUENCY: Self = Self(0x0000_0241);

    pub const RAX: Self = Self(0x0002_0000);
    pub const R15: Self = Self(0x0002_000f);
    pub const RIP: Self = Self(0x0002_0010);
    pub const RFLAGS: Self = Self(0x0002_0011);
    pub const XMM0: Self = Self(0x0003_0000);
    pub const XMM5: Self = Self(0x0003_0005);
    pub const CR0: Self = Self(0x0004_0000);
    pub const CR3: Self = Self(0x0004_0002);
    pub const CR4: Self = Self(0x0004_0003);
    pub const CR8: Self = Self(0x0004_0004);
    pub const ES: Self = Self(0x0006_0000);
    pub const GS: Self = Self(0x0006_0005);
    pub const LDTR: Self = Self(0x0006_0006);
    pub const TR: Self = Self(0x0006_0007);
    pub const IDTR: Self = Self(0x0007_0000);
    pub const GDTR: Self = Self(0x0007_0001);
    pub const TSC: Self = Self(0x0008_0000);
    pub const EFER: Self = Self(0x0008_0001);
    pub const APIC_BASE: Self = Self(0x0008_0003);
    pub const PAT: Self = Self(0x0008_0004);
    pub const INITIAL_APIC_ID: Self = Self(0x0008_000c);

    pub const VP_RUNTIME: Self = Self(0x0009_0000);
    pub const HYPERCALL: Self = Self(0x0009_0001);
    pub const GUEST_OS_ID: Self = Self(0x0009_0002);
    pub const VP_INDEX: Self = Self(0x0009_0003);
    pub const TIME_REF_COUNT: Self = Self(0x0009_0004);
    pub const EOI: Self = Self(0x0009_0010);
    pub const ICR: Self = Self(0x0009_0011);
    pub const TPR: Self = Self(0x0009_0012);
    pub const VP_ASSIST_PAGE: Self = Self(0x0009_0013);
    pub const REFERENCE_TSC: Self = Self(0x0009_0017);
    pub const SINT0: Self = Self(0x000a_0000);
    pub const SINT15: Self = Self(0x000a_000f);
    pub const SCONTROL: Self = Self(0x000a_0010);
    pub const SVERSION: Self = Self(0x000a_0011);
    pub const SIEFP: Self = Self(0x000a_0012);
    pub const SIMP: Self = Self(0x000a_0013);
    pub const EOM: Self = Self(0x000a_0014);
    pub const STIMER0_CONFIG: Self = Self(0x000b_0000);
    pub const STIMER3_COUNT: Self = Self(0x000b_0007);
}
