//! The guest that leaves itself in every way, and the devices of `--test-devices` that it does so by.

use guests::Probe;

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
/// What takes two.
const TOGETHER: [&str; 3] = ["stimer beside messages", FLUSHES[0], FLUSHES[1]];
const FLUSHES: [&str; 2] = ["flush: INVLPG and IPI", "flush: hypercall"];

fn names(probe: &Probe) -> Vec<&str> {
    probe.rows.iter().map(|row| row.name.as_str()).collect()
}

fn leaves_in_every_way(processor: &str) {
    let one = Probe::bodhi(1, &["--processor", processor]);
    assert_eq!((one.processors, one.failed.as_slice()), (1, &[][..]));
    assert_eq!(names(&one), WAYS);
    let two = Probe::bodhi(2, &["--processor", processor]);
    assert_eq!((two.processors, two.failed.as_slice()), (2, &[][..]));
    assert_eq!(names(&two), [&WAYS[..], &TOGETHER].concat());
    [one, two].iter().for_each(assert_serves_what_it_offers);
}

fn assert_serves_what_it_offers(probe: &Probe) {
    assert!(!probe.offers.is_empty());
    for offer in &probe.offers {
        assert_eq!(offer.served, offer.offered, "{offer:?}");
    }
}

/// Of what the probe tries, that which may be left out alone.
const CHOICES: [&str; 7] = [
    "vp-runtime",
    "reset",
    "guest-idle",
    "vp-registers",
    "xmm-output",
    "start-processor",
    "extended-hypercalls",
];

fn serves_what_it_offers_if_little_is_offered(processor: &str) {
    let without: String = CHOICES.iter().map(|name| format!(",-{name}")).collect();
    let enlightenments = format!("all{without}");
    let probe = Probe::bodhi(2, &["--processor", processor, "--enlightenments", &enlightenments]);
    assert_eq!(probe.failed, [""; 0]);
    assert_serves_what_it_offers(&probe);
    assert!(!CHOICES.iter().any(|name| probe.offered().contains(name)), "{probe:?}");
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
fn a_translator_that_offers_little_serves_no_more() {
    serves_what_it_offers_if_little_is_offered("translator");
}

/// In the nested host only: see `nested.rs`.
mod on_kvm {
    use super::*;

    /// What KVM of Linux 6.1 lacks (docs/processors.md).
    const LACKS: [&str; 5] =
        ["guest-idle", "vp-registers", "xmm-output", "start-processor", "extended-hypercalls"];

    #[test]
    fn the_probe_leaves_in_every_way_and_what_kvm_lacks_is_not_offered() {
        leaves_in_every_way("kvm");
        let probe = Probe::bodhi(1, &["--processor", "kvm"]);
        assert!(!LACKS.iter().any(|name| probe.offered().contains(name)), "{probe:?}");
        serves_what_it_offers_if_little_is_offered("kvm");
    }

    /// Without direct timers the kernel's messages and the machine's share a slot, whose second writer waits.
    #[test]
    fn no_message_is_lost_beside_those_of_timers() {
        let enlightenments = "all,-direct-timers";
        let probe = Probe::bodhi(2, &["--processor", "kvm", "--enlightenments", enlightenments]);
        assert_eq!(probe.failed, [""; 0]);
        assert!(probe.row("stimer beside messages").is_some(), "{probe:?}");
    }

    #[test]
    fn without_enlightenments_the_probe_sees_no_hypervisor() {
        let options = ["--processor", "kvm", "--enlightenments", "none"];
        let probe = Probe::bodhi(2, &options);
        assert_eq!((probe.failed.as_slice(), probe.offers.as_slice()), (&[][..], &[][..]));
        assert!(probe.row("mmio write").is_some(), "{probe:?}");
    }
}

#[test]
fn what_is_not_offered_is_not_there_on_the_interpreter() {
    let options = ["--processor", "interpreter", "--enlightenments", "none"];
    let probe = Probe::bodhi(2, &options);
    assert_eq!(probe.failed, [""; 0]);
    let gone = ["msr read (reference)", "hypercall", "signal event", "post message", "stimer", FLUSHES[1]];
    assert!(gone.iter().all(|name| probe.row(name).is_none()), "{probe:?}");
    assert!(probe.row(FLUSHES[0]).is_some() && probe.row("mmio write").is_some(), "{probe:?}");
}
