//! What CPUID offers of the hypervisor interface against what is served: each register and each harmless hypercall is
//! tried, whatever is offered.

use tlfs::hypercall::CallCode;
use tlfs::{HvStatus, cpuid as leaves, msr};

use crate::hypervisor::{self, PARTITION_SELF};
use crate::interrupts;
use crate::machine::{self, cpuid};
use crate::second;

/// Bits of EAX, and of EBX, of the leaf of features that offer a register or a hypercall.
const REGISTERS: [(&str, u32, u32); 9] = [
    ("vp-runtime", 0, msr::VP_RUNTIME),
    ("reference-counter", 1, msr::TIME_REF_COUNT),
    ("synic", 2, msr::SCONTROL),
    ("synthetic-timers", 3, msr::STIMER0_CONFIG),
    ("apic-msrs", 4, msr::TPR),
    ("vp-index", 6, msr::VP_INDEX),
    ("reset", 7, msr::RESET),
    ("reference-tsc", 9, msr::REFERENCE_TSC),
    ("frequencies", 11, msr::TSC_FREQUENCY),
];
const GUEST_IDLE: u32 = 10;
const VP_REGISTERS: u32 = 17;
const EXTENDED: u32 = 20;
const START: u32 = 21;
/// Bits of EDX.
const GUEST_CRASH: u32 = 10;
const XMM_OUTPUT: u32 = 15;

/// A processor that no machine has.
const NO_VP: u64 = 0xffff;
const VP_SELF: u64 = 0xffff_fffe;
const VP_INDEX_REGISTER: u32 = 0x0009_0003;

fn line(name: &str, offered: bool, served: bool) {
    let word = |yes| if yes { "yes" } else { "no" };
    say!("probe: offer {name:<24} {:<3} {}", word(offered), word(served));
}

/// Prints a line for each of them: whether it is offered, and whether it is served.
pub fn print() {
    let [privileges, more_privileges, _, features] = cpuid(leaves::FEATURES);
    let has = |word: u32, bit: u32| word >> bit & 1 != 0;
    for (name, bit, register) in REGISTERS {
        line(name, has(privileges, bit), interrupts::try_read_msr(register).is_some());
    }
    line("crash", has(features, GUEST_CRASH), interrupts::try_read_msr(msr::CRASH_CTL).is_some());

    // It waits for an interrupt, which is there already.
    machine::disable_interrupts();
    interrupts::send(second::apic_id(), interrupts::SELF);
    let idle = interrupts::try_read_msr(msr::GUEST_IDLE).is_some();
    machine::enable_interrupts();
    line("guest-idle", has(privileges, GUEST_IDLE), idle);

    // The partition, the processor and the register.
    hypervisor::parameters(&[PARTITION_SELF, VP_SELF, VP_INDEX_REGISTER.into()]);
    hypervisor::clear_output();
    let status = hypervisor::slow_with_output(CallCode::GET_VP_REGISTERS, 1);
    line("vp-registers", has(more_privileges, VP_REGISTERS), status & 0xffff == 0);
    let (status, index) = hypervisor::register_by_xmm(VP_INDEX_REGISTER, VP_SELF);
    line("xmm-output", has(features, XMM_OUTPUT), status & 0xffff == 0 && index == 0);

    // It is told that there is no such processor, if it is asked.
    hypervisor::parameters(&[PARTITION_SELF, NO_VP]);
    let status = hypervisor::slow(CallCode::START_VIRTUAL_PROCESSOR, 0);
    line("start-processor", has(more_privileges, START), status as u16 == HvStatus::INVALID_VP_INDEX.0);

    hypervisor::clear_output();
    let status = hypervisor::slow_with_output(CallCode::EXT_QUERY_CAPABILITIES, 0);
    line("extended-hypercalls", has(more_privileges, EXTENDED), status & 0xffff == 0);
}
