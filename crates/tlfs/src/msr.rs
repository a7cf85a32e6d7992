//! Numbers of the synthetic model-specific registers.

/// First number of the range that belongs to the hypervisor.
pub const FIRST: u32 = 0x4000_0000;
/// Last number of the range that belongs to the hypervisor.
pub const LAST: u32 = 0x4000_ffff;

/// Identity of the guest's operating system; partition-wide.
pub const GUEST_OS_ID: u32 = 0x4000_0000;
/// Place of the hypercall page; partition-wide.
pub const HYPERCALL: u32 = 0x4000_0001;
/// Index of the processor.
pub const VP_INDEX: u32 = 0x4000_0002;
/// Resets the machine.
pub const RESET: u32 = 0x4000_0003;
/// Time the processor has run, in 100 ns.
pub const VP_RUNTIME: u32 = 0x4000_0010;
/// Partition reference time, in 100 ns.
pub const TIME_REF_COUNT: u32 = 0x4000_0020;
/// Place of the reference TSC page; partition-wide.
pub const REFERENCE_TSC: u32 = 0x4000_0021;
/// Frequency of the TSC in Hz.
pub const TSC_FREQUENCY: u32 = 0x4000_0022;
/// Frequency of the local APIC's timer in Hz.
pub const APIC_FREQUENCY: u32 = 0x4000_0023;
/// End of interrupt.
pub const EOI: u32 = 0x4000_0070;
/// Interrupt command.
pub const ICR: u32 = 0x4000_0071;
/// Task priority.
pub const TPR: u32 = 0x4000_0072;
/// Place of the VP assist page.
pub const VP_ASSIST_PAGE: u32 = 0x4000_0073;
/// SynIC control.
pub const SCONTROL: u32 = 0x4000_0080;
/// SynIC version.
pub const SVERSION: u32 = 0x4000_0081;
/// Place of the event flags page.
pub const SIEFP: u32 = 0x4000_0082;
/// Place of the message page.
pub const SIMP: u32 = 0x4000_0083;
/// End of message.
pub const EOM: u32 = 0x4000_0084;
/// The first of the sixteen synthetic interrupt sources.
pub const SINT0: u32 = 0x4000_0090;
/// The last of them.
pub const SINT15: u32 = 0x4000_009f;
/// Configuration of synthetic timer 0; the count follows, then the other timers.
pub const STIMER0_CONFIG: u32 = 0x4000_00b0;
/// Count of synthetic timer 0.
pub const STIMER0_COUNT: u32 = 0x4000_00b1;
/// Count of synthetic timer 3, the last of these registers.
pub const STIMER3_COUNT: u32 = 0x4000_00b7;
/// A read makes the processor idle.
pub const GUEST_IDLE: u32 = 0x4000_00f0;
/// Crash parameter 0; partition-wide, as the other four.
pub const CRASH_P0: u32 = 0x4000_0100;
/// Crash parameter 4.
pub const CRASH_P4: u32 = 0x4000_0104;
/// Crash control.
pub const CRASH_CTL: u32 = 0x4000_0105;
/// Reenlightenment control.
pub const REENLIGHTENMENT_CONTROL: u32 = 0x4000_0106;
/// TSC emulation control.
pub const TSC_EMULATION_CONTROL: u32 = 0x4000_0107;
/// TSC emulation status.
pub const TSC_EMULATION_STATUS: u32 = 0x4000_0108;
/// Invariant TSC control.
pub const TSC_INVARIANT_CONTROL: u32 = 0x4000_0118;
