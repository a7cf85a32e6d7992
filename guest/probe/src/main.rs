//! A guest that measures what leaving it costs: boots in milliseconds, prints a table on the first serial port, and
//! ends the machine by the debug-exit port (`bodhi run --test-devices`; QEMU: `-device isa-debug-exit,iobase=0xf4`)
//! with exit code 33.
//!
//! ```text
//! PVH entry (entry) ─▶ interrupts ─▶ hypervisor interface ─▶ second processor ─▶ rows ─▶ debug exit
//! ```
//!
//! Rows of what a machine does not offer have dashes. Every line begins with `probe:`; figures are cycles of the
//! TSC, least and mean. Behind the table a line for each part of the hypervisor interface says whether it is offered and
//! whether it is served.
#![no_std]
#![no_main]

#[macro_use]
mod serial;
mod entry;
mod hypervisor;
mod interrupts;
mod machine;
mod offers;
mod rows;
mod second;

use core::panic::PanicInfo;

use machine::{cycles, enable_interrupts, halt, out32};

const DEBUG_EXIT: u16 = 0xf4;
/// Makes exit code 33.
const DONE: u32 = 0x10;
/// Makes exit code 255.
const FAILED: u32 = 0x7f;

#[unsafe(no_mangle)]
extern "C" fn probe_main() -> ! {
    interrupts::set_up();
    enable_interrupts();
    let offered = hypervisor::discover();
    if offered.hypercalls {
        hypervisor::set_up(offered);
    }
    let second = second::start();
    say!("probe: begins, {} processors", 1 + u32::from(second));
    rows::print(offered, second);
    if offered.hypercalls {
        offers::print();
    }
    say!("probe: done");
    end(DONE)
}

/// Ends the machine.
pub fn end(value: u32) -> ! {
    out32(DEBUG_EXIT, value);
    // The machine may take a moment to end.
    pause(5_000_000_000);
    say!("probe: the machine has no debug-exit port and waits");
    halt()
}

/// Waits for so many cycles.
pub fn pause(wait: u64) {
    let start = cycles();
    while cycles() - start < wait {
        core::hint::spin_loop();
    }
}

#[panic_handler]
fn panic(information: &PanicInfo<'_>) -> ! {
    say!("probe: {information}");
    end(FAILED)
}

/// Named by the precompiled core library, which never unwinds here.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}
