//! The hypervisor interface as this guest uses it (TLFS): identity, hypercall page, SynIC pages.

use core::arch::asm;
use core::ptr::addr_of_mut;
use core::sync::atomic::{AtomicU32, Ordering};

use tlfs::hypercall::{CallCode, Input};
use tlfs::{PAGE_SIZE, Scontrol, Sint, StimerConfig, cpuid as leaves, msr};

use crate::interrupts;
use crate::machine::{cpuid, write_msr};

/// An open-source system of nobody's (TLFS, "Reporting the Guest OS Identity").
const GUEST_OS_ID: u64 = 0x8200_0000_0000_0001;
const ENABLE: u64 = 1;
/// The source of the timer, and those of messages and events.
pub const TIMER_SINT: u8 = 2;
/// Messages that come back.
pub const MESSAGE_SINT: u8 = 3;
/// Events, noted only.
pub const EVENT_SINT: u8 = 4;
/// Events that interrupt.
pub const INTERRUPT_SINT: u8 = 5;

#[repr(C, align(4096))]
struct Page([u8; PAGE_SIZE]);

#[unsafe(no_mangle)]
static mut HYPERCALL: Page = Page([0; PAGE_SIZE]);
static mut MESSAGES: Page = Page([0; PAGE_SIZE]);
static mut EVENTS: Page = Page([0; PAGE_SIZE]);
static mut PARAMETERS: Page = Page([0; PAGE_SIZE]);
static mut OUTPUT: Page = Page([0; PAGE_SIZE]);

/// The caller's own partition.
pub const PARTITION_SELF: u64 = u64::MAX;
/// The type of a timer's message.
pub const TIMER_EXPIRED: u32 = 0x8000_0010;

/// What the hypervisor offers of what this guest measures.
#[derive(Debug, Clone, Copy, Default)]
pub struct Offered {
    /// Hypercalls.
    pub hypercalls: bool,
    /// The reference counter.
    pub reference_counter: bool,
    /// The SynIC.
    pub synic: bool,
    /// Synthetic timers.
    pub timers: bool,
    /// HvCallPostMessage.
    pub messages: bool,
    /// HvCallSignalEvent.
    pub events: bool,
    /// The hypercalls that flush TLBs.
    pub flush: bool,
}

/// Looks for the interface. Leaves that are not there may have any contents.
pub fn discover() -> Offered {
    const HYPERVISOR_PRESENT: u32 = 1 << 31;
    let present = cpuid(1)[2] & HYPERVISOR_PRESENT != 0;
    if !present || cpuid(leaves::INTERFACE)[0] != leaves::INTERFACE_SIGNATURE {
        return Offered::default();
    }
    let [privileges, more_privileges, ..] = cpuid(leaves::FEATURES);
    let recommended = cpuid(leaves::RECOMMENDATIONS)[0];
    let has = |word: u32, bit: u32| word >> bit & 1 != 0;
    Offered {
        reference_counter: has(privileges, 1),
        synic: has(privileges, 2),
        timers: has(privileges, 3),
        hypercalls: has(privileges, 5),
        messages: has(more_privileges, 4),
        events: has(more_privileges, 5),
        flush: has(recommended, 2),
    }
}

/// Makes the interface ready for this processor.
pub fn set_up(offered: Offered) {
    let at = |page: *mut Page| page.addr() as u64 | ENABLE;
    // SAFETY: the pages are the hypervisor's from now on, and looked at by atomics and assembly only.
    unsafe {
        write_msr(msr::GUEST_OS_ID, GUEST_OS_ID);
        if offered.hypercalls {
            write_msr(msr::HYPERCALL, at(addr_of_mut!(HYPERCALL)));
        }
        if offered.synic {
            write_msr(msr::SIMP, at(addr_of_mut!(MESSAGES)));
            write_msr(msr::SIEFP, at(addr_of_mut!(EVENTS)));
            write_msr(msr::SCONTROL, Scontrol::new().with_enable(true).into_bits());
            // Those of messages are unmasked although they are polled: some hypervisors deliver to no other.
            let polled = Sint::new().with_vector(interrupts::SYNIC);
            for sint in [TIMER_SINT, MESSAGE_SINT] {
                write_msr(msr::SINT0 + u32::from(sint), polled.into_bits());
            }
            write_msr(msr::SINT0 + u32::from(EVENT_SINT), polled.with_masked(true).into_bits());
            let interrupting = Sint::new().with_vector(interrupts::SYNIC);
            write_msr(msr::SINT0 + u32::from(INTERRUPT_SINT), interrupting.into_bits());
        }
    }
}

/// A hypercall; its result value.
fn hypercall(input: Input, first: u64, second: u64) -> u64 {
    let result;
    // SAFETY: the page has been enabled and holds code that returns. It may change what is named; parameters
    // are in registers or in a page of their own.
    unsafe {
        asm!("call r11", in("r11") addr_of_mut!(HYPERCALL), in("rcx") input.into_bits(), in("rdx") first,
            inout("r8") second => _, lateout("rax") result, clobber_abi("sysv64"));
    }
    result
}

/// A hypercall with its parameters in registers; its result value.
pub fn fast(code: CallCode, first: u64, second: u64) -> u64 {
    hypercall(Input::new().with_code(code.0).with_fast(true), first, second)
}

/// A hypercall with its parameters in memory and `elements` list elements; its result value.
pub fn slow(code: CallCode, elements: usize) -> u64 {
    let input = Input::new().with_code(code.0).with_rep_count(elements);
    hypercall(input, addr_of_mut!(PARAMETERS).addr() as u64, 0)
}

/// As [`slow`], with output in a page of its own.
pub fn slow_with_output(code: CallCode, elements: usize) -> u64 {
    let input = Input::new().with_code(code.0).with_rep_count(elements);
    hypercall(input, addr_of_mut!(PARAMETERS).addr() as u64, addr_of_mut!(OUTPUT).addr() as u64)
}

/// Makes the page of output zero.
pub fn clear_output() {
    // SAFETY: only hypercalls look at the page.
    unsafe { addr_of_mut!(OUTPUT).cast::<u8>().write_bytes(0, PAGE_SIZE) };
}

/// HvCallGetVpRegisters for register `name` of processor `vp`, with parameters and output in registers: the result value,
/// and the register's value.
pub fn register_by_xmm(name: u32, vp: u64) -> (u64, u64) {
    let input = Input::new().with_code(CallCode::GET_VP_REGISTERS.0).with_fast(true).with_rep_count(1);
    let (result, value);
    // SAFETY: as for `hypercall`. The register's name is in the first XMM register, its value comes in the second.
    unsafe {
        asm!("movd xmm0, {name:e}", "pcmpeqd xmm1, xmm1", "call r11", "movq r10, xmm1", name = in(reg) name,
            lateout("r10") value, in("r11") addr_of_mut!(HYPERCALL), in("rcx") input.into_bits(),
            in("rdx") PARTITION_SELF, inout("r8") vp => _, lateout("rax") result, clobber_abi("sysv64"));
    }
    (result, value)
}

/// Puts `words` into the page of parameters.
pub fn parameters(words: &[u64]) {
    for (index, word) in words.iter().enumerate().take(PAGE_SIZE / 8) {
        // SAFETY: within the page, which only hypercalls look at.
        unsafe { addr_of_mut!(PARAMETERS).cast::<u64>().add(index).write_volatile(*word) };
    }
}

fn word(page: *mut Page, offset: usize) -> &'static AtomicU32 {
    // SAFETY: callers stay within the page, which lives for ever and is shared with the hypervisor by atomics.
    unsafe { AtomicU32::from_ptr(page.cast::<u8>().add(offset).cast()) }
}

/// Whether a message waits in the slot of `sint`; if so it is taken.
pub fn take_message(sint: u8) -> bool {
    take_message_type(sint) != 0
}

/// The type of the message in the slot of `sint`, which is taken; 0 if there is none. If another waits behind it, it is
/// let in.
pub fn take_message_type(sint: u8) -> u32 {
    const SLOT: usize = 256;
    const PENDING: u32 = 1 << 8;
    let slot = usize::from(sint & 15) * SLOT;
    let kind = word(addr_of_mut!(MESSAGES), slot).swap(0, Ordering::SeqCst);
    // The flag is looked at after the slot has been freed (TLFS, "Message Flags").
    if kind != 0 && word(addr_of_mut!(MESSAGES), slot + 4).load(Ordering::SeqCst) & PENDING != 0 {
        end_of_message();
    }
    kind
}

/// Whether event flag `flag` of `sint` is set; if so it is cleared.
pub fn take_event(sint: u8, flag: u8) -> bool {
    const FLAGS: usize = 256;
    let place = usize::from(sint & 15) * FLAGS + usize::from(flag / 32) * 4;
    let bit = 1 << (flag % 32);
    word(addr_of_mut!(EVENTS), place).fetch_and(!bit, Ordering::SeqCst) & bit != 0
}

/// Says that messages have been taken.
pub fn end_of_message() {
    // SAFETY: the hypervisor may write the next one into its page.
    unsafe { write_msr(msr::EOM, 0) };
}

/// Lets the first timer expire at reference time `at`, with a message.
pub fn arm_timer(at: u64) {
    let config = StimerConfig::new().with_enable(true).with_sint(TIMER_SINT.into());
    // SAFETY: as for `end_of_message`.
    unsafe {
        write_msr(msr::STIMER0_COUNT, at);
        write_msr(msr::STIMER0_CONFIG, config.into_bits());
    }
}
