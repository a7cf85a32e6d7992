//! The second processor, which does nothing but take interrupts.

use core::sync::atomic::{AtomicBool, Ordering};

use crate::entry::{TRAMPOLINE, trampoline, trampoline_end};
use crate::interrupts;
use crate::machine::{cpuid, cycles, enable_interrupts};

/// APIC id of the second processor.
pub const SECOND: u32 = 1;
const PATIENCE: u64 = 1_000_000_000;

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
        core::hint::spin_loop();
    }
}
