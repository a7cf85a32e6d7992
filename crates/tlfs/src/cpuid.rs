//! CPUID leaves (TLFS, "Feature and Interface Discovery").

use bitfield_struct::bitfield;

/// Highest leaf and vendor.
pub const VENDOR_AND_MAX_FUNCTION: u32 = 0x4000_0000;
/// Interface signature.
pub const INTERFACE: u32 = 0x4000_0001;
/// Version of the hypervisor.
pub const VERSION: u32 = 0x4000_0002;
/// Privileges of the partition and features.
pub const FEATURES: u32 = 0x4000_0003;
/// Recommendations to the guest.
pub const RECOMMENDATIONS: u32 = 0x4000_0004;
/// Limits of the implementation.
pub const LIMITS: u32 = 0x4000_0005;
/// Hardware features in use by the hypervisor.
pub const HARDWARE_FEATURES: u32 = 0x4000_0006;
/// Processor-management features, for the root partition.
pub const PROCESSOR_MANAGEMENT: u32 = 0x4000_0007;
/// Shared virtual memory features.
pub const SHARED_VIRTUAL_MEMORY: u32 = 0x4000_0008;
/// Features of a hypervisor that runs nested.
pub const NESTED_HYPERVISOR: u32 = 0x4000_0009;
/// Nested-virtualization optimizations.
pub const NESTED_VIRTUALIZATION: u32 = 0x4000_000a;
/// Last leaf of the range that hypervisors share.
pub const LAST: u32 = 0x4fff_ffff;

/// "Microsoft Hv", as EBX, ECX and EDX of [`VENDOR_AND_MAX_FUNCTION`].
pub const VENDOR: [u32; 3] =
    [u32::from_le_bytes(*b"Micr"), u32::from_le_bytes(*b"osof"), u32::from_le_bytes(*b"t Hv")];
/// "Hv#1", EAX of [`INTERFACE`].
pub const INTERFACE_SIGNATURE: u32 = u32::from_le_bytes(*b"Hv#1");
/// EBX of [`RECOMMENDATIONS`]: never tell the hypervisor of long spins.
pub const NEVER_NOTIFY_SPINS: u32 = u32::MAX;

/// HV_PARTITION_PRIVILEGE_MASK: EAX and EBX of [`FEATURES`].
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct Privileges {
    /// MSR VP_RUNTIME.
    pub access_vp_runtime: bool,
    /// MSR TIME_REF_COUNT.
    pub access_partition_reference_counter: bool,
    /// The SynIC's MSRs.
    pub access_synic: bool,
    /// The synthetic timers' MSRs.
    pub access_synthetic_timers: bool,
    /// MSRs EOI, ICR, TPR and VP_ASSIST_PAGE.
    pub access_interrupt_control: bool,
    /// MSRs GUEST_OS_ID and HYPERCALL.
    pub access_hypercall: bool,
    /// MSR VP_INDEX.
    pub access_vp_index: bool,
    /// MSR RESET.
    pub access_reset: bool,
    /// MSRs of the statistics pages.
    pub access_statistics: bool,
    /// MSR REFERENCE_TSC.
    pub access_partition_reference_tsc: bool,
    /// MSR GUEST_IDLE.
    pub access_guest_idle: bool,
    /// MSRs TSC_FREQUENCY and APIC_FREQUENCY.
    pub access_frequencies: bool,
    /// MSRs of the synthetic debugger.
    pub access_debug: bool,
    /// MSRs of reenlightenment.
    pub access_reenlightenment: bool,
    #[bits(1)]
    __: u8,
    /// MSR TSC_INVARIANT_CONTROL.
    pub access_tsc_invariant: bool,
    #[bits(16)]
    __: u16,
    /// HvCallCreatePartition.
    pub create_partitions: bool,
    /// HvCallGetPartitionId.
    pub access_partition_id: bool,
    /// Memory-pool hypercalls.
    pub access_memory_pool: bool,
    #[bits(1)]
    __: u8,
    /// HvCallPostMessage.
    pub post_messages: bool,
    /// HvCallSignalEvent.
    pub signal_events: bool,
    /// HvCallCreatePort.
    pub create_port: bool,
    /// HvCallConnectPort.
    pub connect_port: bool,
    /// Statistics hypercalls.
    pub access_stats: bool,
    #[bits(2)]
    __: u8,
    /// Debug-data hypercalls.
    pub debugging: bool,
    /// Processor-management hypercalls: the root partition.
    pub cpu_management: bool,
    #[bits(3)]
    __: u8,
    /// Virtual secure mode.
    pub access_vsm: bool,
    /// HvCallGetVpRegisters and HvCallSetVpRegisters.
    pub access_vp_registers: bool,
    #[bits(2)]
    __: u8,
    /// Extended hypercalls.
    pub enable_extended_hypercalls: bool,
    /// HvCallStartVirtualProcessor.
    pub start_virtual_processor: bool,
    #[bits(10)]
    __: u16,
}

/// EDX of [`FEATURES`].
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Features {
    #[bits(1)]
    __: u8,
    /// Guest debugging.
    pub guest_debugging: bool,
    /// Performance monitor.
    pub performance_monitor: bool,
    /// Dynamic partitioning of processors.
    pub dynamic_partitioning: bool,
    /// Fast hypercalls may pass input in XMM registers.
    pub xmm_hypercall_input: bool,
    /// MSR GUEST_IDLE.
    pub guest_idle: bool,
    /// Hypervisor sleep state.
    pub hypervisor_sleep: bool,
    /// NUMA distances.
    pub numa_distances: bool,
    /// MSRs TSC_FREQUENCY and APIC_FREQUENCY.
    pub timer_frequencies: bool,
    /// Synthetic machine checks.
    pub synthetic_machine_check: bool,
    /// MSRs CRASH_P0 to CRASH_CTL.
    pub guest_crash: bool,
    /// Debug MSRs.
    pub debug: bool,
    /// Prevention of non-privileged instructions.
    pub npiep: bool,
    /// The hypervisor can be disabled.
    pub disable_hypervisor: bool,
    /// Extended ranges in HvCallFlushVirtualAddressList.
    pub extended_gva_ranges: bool,
    /// Fast hypercalls may return output in registers.
    pub xmm_hypercall_output: bool,
    #[bits(1)]
    __: u8,
    /// The polling bit of SINTx.
    pub sint_polling: bool,
    /// The locked bit of MSR HYPERCALL.
    pub hypercall_lock: bool,
    /// Synthetic timers may interrupt without a message.
    pub direct_synthetic_timers: bool,
    #[bits(12)]
    __: u16,
}

/// EAX of [`RECOMMENDATIONS`].
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Recommendations {
    /// Switch address spaces by hypercall.
    pub address_space_switch: bool,
    /// Flush the own TLB by hypercall.
    pub local_tlb_flush: bool,
    /// Flush other processors' TLBs by hypercall.
    pub remote_tlb_flush: bool,
    /// Reach the APIC by MSRs.
    pub apic_msrs: bool,
    /// Reset by MSR.
    pub reset_msr: bool,
    /// No watchdogs that rely on timely interrupts.
    pub relaxed_timing: bool,
    /// DMA remapping.
    pub dma_remapping: bool,
    /// Interrupt remapping.
    pub interrupt_remapping: bool,
    #[bits(1)]
    __: u8,
    /// Do not use AutoEOI.
    pub deprecate_auto_eoi: bool,
    /// Send IPIs by hypercall.
    pub cluster_ipi: bool,
    /// Use the hypercalls that take sparse processor sets.
    pub ex_processor_masks: bool,
    /// The hypervisor runs nested.
    pub nested: bool,
    /// System calls by INT where MBEC is used.
    pub int_for_mbec: bool,
    /// The enlightened VMCS.
    pub enlightened_vmcs: bool,
    /// Use the root partition's time bias.
    pub synced_timeline: bool,
    #[bits(1)]
    __: u8,
    /// Flush the local TLB by CR4.PGE.
    pub direct_local_flush: bool,
    /// Cores are shared as the topology says.
    pub no_non_architectural_core_sharing: bool,
    #[bits(13)]
    __: u16,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_have_the_specified_numbers() {
        assert_eq!(VENDOR, [0x7263_694d, 0x666f_736f, 0x7648_2074]);
        assert_eq!(INTERFACE_SIGNATURE, 0x3123_7648);
    }

    #[test]
    fn privileges_are_where_the_specification_has_them() {
        assert_eq!(Privileges::new().with_access_tsc_invariant(true).into_bits(), 1 << 15);
        assert_eq!(Privileges::new().with_post_messages(true).into_bits(), 1 << (32 + 4));
        assert_eq!(Privileges::new().with_debugging(true).into_bits(), 1 << (32 + 11));
        assert_eq!(Privileges::new().with_access_vsm(true).into_bits(), 1 << (32 + 16));
        assert_eq!(Privileges::new().with_start_virtual_processor(true).into_bits(), 1 << (32 + 21));
    }

    #[test]
    fn features_and_recommendations_are_where_the_specification_has_them() {
        assert_eq!(Features::new().with_guest_crash(true).into_bits(), 1 << 10);
        assert_eq!(Features::new().with_xmm_hypercall_output(true).into_bits(), 1 << 15);
        assert_eq!(Features::new().with_direct_synthetic_timers(true).into_bits(), 1 << 19);
        assert_eq!(Recommendations::new().with_ex_processor_masks(true).into_bits(), 1 << 11);
        assert_eq!(Recommendations::new().with_no_non_architectural_core_sharing(true).into_bits(), 1 << 18);
    }
}
