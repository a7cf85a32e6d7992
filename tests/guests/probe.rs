//! The guest that leaves itself in every way, and the devices of `--test-devices` that it does so by.

use guests::{Probe, Program};

/// Every way that one processor knows.
const WAYS: [&str; 17] = [
    "nothing",
    "cpuid",
    "msr read",
    "msr read (reference)",
    "msr write (EOM)",
    "pio read",
    "pio write",
    "mmio read (apic)",
    "mmio read",
    "mmio write",
    "interrupt to itself",
    "hypercall",
    "signal event",
    "signal event, interrupt",
    "sint by the test port",
    "post message",
    "stimer",
];
const FLUSHES: [&str; 2] = ["flush: INVLPG and IPI", "flush: hypercall"];

fn names(probe: &Probe) -> Vec<&str> {
    probe.rows.iter().map(|row| row.name.as_str()).collect()
}

fn leaves_in_every_way(processor: &str) {
    let one = Probe::run(Program::Bodhi, 1, &["--processor", processor]);
    assert_eq!((one.processors, one.failed.as_slice()), (1, &[][..]));
    assert_eq!(names(&one), WAYS);
    let two = Probe::run(Program::Bodhi, 2, &["--processor", processor]);
    assert_eq!((two.processors, two.failed.as_slice()), (2, &[][..]));
    assert_eq!(names(&two), [&WAYS[..], &FLUSHES].concat());
}

#[test]
fn the_probe_leaves_in_every_way_on_the_translator() {
    leaves_in_every_way("translator");
}

#[test]
fn the_probe_leaves_in_every_way_on_the_interpreter() {
    leaves_in_every_way("interpreter");
}

#[test]
fn what_is_not_offered_is_not_there_for_the_probe() {
    let options = ["--processor", "interpreter", "--enlightenments", "none"];
    let probe = Probe::run(Program::Bodhi, 2, &options);
    assert_eq!(probe.failed, [""; 0]);
    let gone = ["msr read (reference)", "hypercall", "signal event", "post message", "stimer", FLUSHES[1]];
    assert!(gone.iter().all(|name| probe.row(name).is_none()), "{probe:?}");
    assert!(probe.row(FLUSHES[0]).is_some() && probe.row("mmio write").is_some(), "{probe:?}");
}
