//! What is measured: for every way out of the guest, round trips in cycles of the TSC.

use core::sync::atomic::Ordering;

use tlfs::hypercall::CallCode;
use tlfs::msr;

use crate::hypervisor::{self, EVENT_SINT, INTERRUPT_SINT, MESSAGE_SINT, Offered, TIMER_EXPIRED, TIMER_SINT};
use crate::machine::{cpuid, cycles, in8, in32, invalidate, load, out8, out32, read_msr, store, write_msr};
use crate::{interrupts, second};

/// Round trips of each kind.
const ROUNDS: usize = 1000;
/// Those that take long in any case.
const FEW: usize = 100;
/// How long something may take to come.
const PATIENCE: u64 = 10_000_000_000;

const SCRATCH: u16 = 0xe0;
const SYNIC_PORT: u16 = 0x3000;
const MEMORY: u64 = 0xff00_0000;
const APIC_ID: u64 = 0xfee0_0020;
const APIC_BASE: u32 = 0x1b;
/// A hypercall that is none.
const NO_CALL: CallCode = CallCode(0x0fff);
/// Connections to the test port.
const MESSAGES: u64 = 0x10;
const EVENTS: u64 = 0x20;
const INTERRUPTS: u64 = 0x21;

/// What one kind of round trip took.
struct Figures {
    least: u64,
    sum: u64,
    rounds: u64,
}

/// Measures `trip`, which says whether it came back as it should; `None` if one did not.
fn measure(rounds: usize, mut trip: impl FnMut() -> bool) -> Option<Figures> {
    let mut figures = Figures { least: u64::MAX, sum: 0, rounds: 0 };
    // The first ones make translations and caches.
    for round in 0..rounds + 8 {
        let start = cycles();
        let came = trip();
        let took = cycles() - start;
        if !came {
            return None;
        }
        if round >= 8 {
            figures.least = figures.least.min(took);
            figures.sum += took;
            figures.rounds += 1;
        }
    }
    Some(figures)
}

fn row(name: &str, figures: Option<Figures>) {
    match figures {
        Some(Figures { least, sum, rounds }) => {
            say!("probe: {name:<24} {rounds:>6} {least:>10} {:>10}", sum / rounds);
        }
        None => say!("probe: {name:<24} failed"),
    }
}

fn absent(name: &str) {
    say!("probe: {name:<24} {:>6} {:>10} {:>10}", "-", "-", "-");
}

fn row_if(there: bool, name: &str, rounds: usize, trip: impl FnMut() -> bool) {
    if there { row(name, measure(rounds, trip)) } else { absent(name) }
}

/// Waits until `came` is true.
fn wait(mut came: impl FnMut() -> bool) -> bool {
    let start = cycles();
    while !came() {
        if cycles() - start > PATIENCE {
            return false;
        }
        core::hint::spin_loop();
    }
    true
}

/// Whether the scratch port, and with it the test devices, are there.
fn test_devices() -> bool {
    out32(SCRATCH, 0x1357_9bdf);
    in32(SCRATCH) == 0x1357_9bdf
}

/// Prints the table. `second` says whether there is a second processor, which has started.
pub fn print(offered: Offered, second: bool) {
    let devices = test_devices();
    say!("probe: {:<24} {:>6} {:>10} {:>10}", "round trip", "count", "least", "mean");
    row("nothing", measure(ROUNDS, || true));
    row("cpuid", measure(ROUNDS, || cpuid(0x4000_0000)[0] != 1));
    row("msr read", measure(ROUNDS, || read_msr(APIC_BASE) != 0));
    row_if(offered.reference_counter, "msr read (reference)", ROUNDS, || read_msr(msr::TIME_REF_COUNT) != 0);
    row_if(offered.synic, "msr write (EOM)", ROUNDS, || {
        hypervisor::end_of_message();
        true
    });
    row("pio read", measure(ROUNDS, || in8(0x61) != 1));
    row_if(devices, "pio write", ROUNDS, || {
        out8(SCRATCH, 1);
        true
    });
    row("mmio read (apic)", measure(ROUNDS, || load(APIC_ID) != 1));
    row_if(devices, "mmio read", ROUNDS, || load(MEMORY) != 1);
    row_if(devices, "mmio write", ROUNDS, || {
        store(MEMORY + 64, 7);
        true
    });
    row(
        "interrupt to itself",
        measure(ROUNDS, || {
            let before = interrupts::count(interrupts::SELF);
            interrupts::send(second::apic_id(), interrupts::SELF);
            wait(|| interrupts::count(interrupts::SELF) != before)
        }),
    );
    hypercalls(offered, devices);
    shared_slot(offered, second && devices);
    flushes(offered, second);
}

fn synic_port(connection: u64, command: u32, sint: u8) {
    out32(SYNIC_PORT, (connection as u32) << 24 | command << 16 | u32::from(sint));
}

fn hypercalls(offered: Offered, devices: bool) {
    const INVALID_CODE: u64 = 2;
    row_if(offered.hypercalls, "hypercall", ROUNDS, || {
        hypervisor::fast(NO_CALL, 0, 0) & 0xffff == INVALID_CODE
    });
    let synic = offered.synic && devices && offered.hypercalls;
    if synic {
        synic_port(MESSAGES, 4, MESSAGE_SINT);
        synic_port(EVENTS, 6, EVENT_SINT);
        synic_port(INTERRUPTS, 6, INTERRUPT_SINT);
        synic_port(0, 1, INTERRUPT_SINT);
    }
    row_if(synic && offered.events, "signal event", ROUNDS, || {
        let status = hypervisor::fast(CallCode::SIGNAL_EVENT, EVENTS, 0);
        status == 0 && wait(|| hypervisor::take_event(EVENT_SINT, EVENTS as u8))
    });
    row_if(synic && offered.events, "signal event, interrupt", ROUNDS, || {
        let before = interrupts::count(interrupts::SYNIC);
        let status = hypervisor::fast(CallCode::SIGNAL_EVENT, INTERRUPTS, 0);
        let came = wait(|| interrupts::count(interrupts::SYNIC) != before);
        status == 0 && came && hypervisor::take_event(INTERRUPT_SINT, INTERRUPTS as u8)
    });
    row_if(synic, "sint by the test port", ROUNDS, || {
        let before = interrupts::count(interrupts::SYNIC);
        synic_port(0, 3, INTERRUPT_SINT);
        wait(|| interrupts::count(interrupts::SYNIC) != before)
    });
    // Connection id and reserved word, message type and size, payload.
    hypervisor::parameters(&[MESSAGES, 1 | 8 << 32, 0x1122]);
    row_if(synic && offered.messages, "post message", ROUNDS, || {
        let status = hypervisor::slow(CallCode::POST_MESSAGE, 0);
        status == 0 && wait(|| hypervisor::take_message(MESSAGE_SINT))
    });
    if synic {
        synic_port(MESSAGES, 5, MESSAGE_SINT);
        synic_port(EVENTS, 7, EVENT_SINT);
        synic_port(INTERRUPTS, 7, INTERRUPT_SINT);
        synic_port(0, 2, INTERRUPT_SINT);
    }
    row_if(offered.timers && offered.synic && offered.reference_counter, "stimer", FEW, || {
        hypervisor::arm_timer(read_msr(msr::TIME_REF_COUNT) + 1);
        wait(|| hypervisor::take_message(TIMER_SINT))
    });
}

/// Timers' messages, and messages that the second processor posts, in the same slot: none may be lost.
fn shared_slot(offered: Offered, there: bool) {
    const POSTS: u32 = 500;
    let there = there && offered.hypercalls && offered.synic && offered.messages;
    let name = "stimer beside messages";
    if !(there && offered.timers && offered.reference_counter) {
        return absent(name);
    }
    synic_port(MESSAGES, 4, TIMER_SINT);
    hypervisor::parameters(&[MESSAGES, 1 | 8 << 32, 0x1122]);
    second::TO_POST.store(POSTS, Ordering::SeqCst);
    let mut posted = 0;
    let mut round = 0;
    let mut take = |wanted: &dyn Fn(u32, u32) -> bool| {
        wait(|| {
            let kind = hypervisor::take_message_type(TIMER_SINT);
            posted += u32::from(kind != 0 && kind != TIMER_EXPIRED);
            wanted(kind, posted)
        })
    };
    let figures = measure(FEW, || {
        round += 1;
        hypervisor::arm_timer(read_msr(msr::TIME_REF_COUNT) + round % 37);
        take(&|kind, _| kind == TIMER_EXPIRED)
    });
    let all = take(&|_, posted| posted == POSTS && second::TO_POST.load(Ordering::SeqCst) == 0);
    let refused = second::REFUSED.load(Ordering::SeqCst);
    row(name, figures.filter(|_| all && refused == 0));
    synic_port(MESSAGES, 5, TIMER_SINT);
}

/// Drops a page from the TLBs of both processors.
fn flushes(offered: Offered, second: bool) {
    const PAGE: u64 = 0x40_0000;
    const BOTH: u64 = 3;
    interrupts::FLUSHED.store(PAGE, Ordering::SeqCst);
    row_if(second, "flush: INVLPG and IPI", ROUNDS, || {
        let before = interrupts::count(interrupts::FLUSH);
        interrupts::send(second::SECOND, interrupts::FLUSH);
        invalidate(PAGE);
        wait(|| interrupts::count(interrupts::FLUSH) != before)
    });
    // Address space, flags (all address spaces), processors; then one list element.
    const ALL_SPACES: u64 = 2;
    hypervisor::parameters(&[0, ALL_SPACES, BOTH, PAGE]);
    let there = second && offered.flush && offered.hypercalls;
    row_if(there, "flush: hypercall", ROUNDS, || {
        hypervisor::slow(CallCode::FLUSH_VIRTUAL_ADDRESS_LIST, 1) & 0xffff == 0
    });
    if offered.synic {
        // SAFETY: no more timers are armed; the SynIC's pages become memory again.
        unsafe { write_msr(msr::SCONTROL, 0) };
    }
}
