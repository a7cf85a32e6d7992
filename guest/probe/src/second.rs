//! The second processor, which takes interrupts and posts messages.

use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use tlfs::HvStatus;
use tlfs::hypercall::CallCode;

use crate::entry::{TRAMPOLINE, trampoline, trampoline_end};
use crate::machine::{cpuid, cycles, enable_interrupts};
use crate::{hypervisor, interrupts};

/// APIC id of the second processor.
pub const SECOND: u32 = 1;
const PATIENCE: u64 = 1_000_000_000;

/// Messages that it is to post, by the page of parameters.
pub static TO_POST: AtomicU32 = AtomicU32::new(0);
/// Messages that the hypervisor has refused for good.
pub static REFUSED: AtomicU32 = AtomicU32::new(0);

static STARTED: AtomicBool = AtomicBool::new(false);

/// The APIC id of the calling processor.
pub fn apic_id() -> u32 {
    cpuid(1)[1] >> 24
}

/// Starts the second processor; false if there is none.
pub fn start() -> bool {
    let (from, to) = (&raw const trampoline, TRAMPOLINE as *mut u8);
    let len = (&raw const trampoline_end).addr() - from.addr();
    for index in 0..len {
        // SAFETY: from the guest's own code to a page of RAM that nobody uses.
        unsafe { to.add(index).write_volatile(from.add(index).read()) };
    }
    interrupts::start(SECOND, TRAMPOLINE);
    let start = cycles();
    while !STARTED.load(Ordering::SeqCst) && cycles() - start < PATIENCE {
        core::hint::spin_loop();
    }
    STARTED.load(Ordering::SeqCst)
}

/// The second processor's work.
#[unsafe(no_mangle)]
extern "C" fn second_main() -> ! {
    interrupts::use_table();
    STARTED.store(true, Ordering::SeqCst);
    enable_interrupts();
    loop {
        if TO_POST.load(Ordering::SeqCst) > 0 {
            post();
        }
        core::hint::spin_loop();
    }
}

fn post() {
    match HvStatus(hypervisor::slow(CallCode::POST_MESSAGE, 0) as u16) {
        HvStatus::SUCCESS => TO_POST.fetch_sub(1, Ordering::SeqCst),
        // The first processor has to read before there is room.
        HvStatus::INSUFFICIENT_BUFFERS => 0,
        _ => {
            TO_POST.fetch_sub(1, Ordering::SeqCst);
            REFUSED.fetch_add(1, Ordering::SeqCst)
        }
    };
}
