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

static mut HYPERCALL: Page = Page([0; PAGE_SIZE]);
static mut MESSAGES: Page = Page([0; PAGE_SIZE]);
static mut EVENTS: Page = Page([0; PAGE_SIZE]);
static mut PARAMETERS: Page = Page([0; PAGE_SIZE]);

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
            // Those that are polled are unmasked all the same: some hypervisors deliver to no other.
            let polled = Sint::new().with_vector(interrupts::SYNIC).with_masked(true);
            for sint in [TIMER_SINT, MESSAGE_SINT, EVENT_SINT] {
                write_msr(msr::SINT0 + u32::from(sint), polled.into_bits());
            }
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
    const SLOT: usize = 256;
    let kind = word(addr_of_mut!(MESSAGES), usize::from(sint & 15) * SLOT);
    kind.swap(0, Ordering::SeqCst) != 0
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
