use proptest::prelude::*;

use super::*;
use crate::line::tests::Probe;

struct Bench {
    pic: Arc<Pic>,
    intr: Arc<Probe>,
}

impl Bench {
    /// Initialised as Linux does: vectors 0x30 and 0x38, ICW4 as given, nothing masked.
    fn new(icw4: u8) -> Self {
        let intr = Probe::new();
        let pic = Pic::new(intr.clone());
        for (port, base, wiring) in [(0x20, 0x30, 4), (0xa0, 0x38, 2)] {
            pic.write(port, 0x11);
            pic.write(port + 1, base);
            pic.write(port + 1, wiring);
            pic.write(port + 1, icw4);
            pic.write(port + 1, 0);
        }
        Self { pic, intr }
    }

    fn raise(&self, irq: u8) {
        self.pic.line(irq).set(true);
    }

    fn pulse(&self, irq: u8) {
        self.pic.line(irq).pulse();
    }

    fn in_service(&self, port: u16) -> u8 {
        self.pic.write(port, 0x0b);
        self.pic.read(port)
    }
}

const NORMAL: u8 = 0x01;
const AUTO_END: u8 = 0x03;

#[test]
fn the_mask_reads_back_as_the_probe_of_linux_expects() {
    let bench = Bench::new(NORMAL);
    bench.pic.write(0xa1, 0xff);
    bench.pic.write(0x21, 0xfb);
    assert_eq!(bench.pic.read(0x21), 0xfb);
    assert_eq!(bench.pic.read(0xa1), 0xff);
}

#[test]
fn an_edge_on_irq_0_raises_intr_and_gives_its_vector() {
    let bench = Bench::new(NORMAL);
    bench.raise(0);
    assert!(bench.intr.is_high() && bench.pic.pending());
    assert_eq!(bench.pic.acknowledge(), 0x30);
    assert!(!bench.intr.is_high());
    assert_eq!(bench.in_service(0x20), 0x01);
}

#[test]
fn a_slave_interrupt_needs_both_to_be_ended() {
    let bench = Bench::new(NORMAL);
    bench.pulse(12);
    assert_eq!(bench.pic.acknowledge(), 0x3c);
    assert_eq!((bench.in_service(0x20), bench.in_service(0xa0)), (0x04, 0x10));
    bench.pulse(14);
    assert!(!bench.intr.is_high());
    bench.pic.write(0xa0, 0x64);
    bench.pic.write(0x20, 0x62);
    assert!(bench.intr.is_high());
    assert_eq!(bench.pic.acknowledge(), 0x3e);
}

#[test]
fn a_higher_priority_interrupts_a_lower_one_and_not_the_reverse() {
    let bench = Bench::new(NORMAL);
    bench.pulse(4);
    assert_eq!(bench.pic.acknowledge(), 0x34);
    bench.pulse(5);
    assert!(!bench.intr.is_high());
    bench.pulse(1);
    assert_eq!(bench.pic.acknowledge(), 0x31);
    bench.pic.write(0x20, 0x20);
    assert_eq!(bench.in_service(0x20), 0x10);
}

#[test]
fn masked_requests_wait() {
    let bench = Bench::new(NORMAL);
    bench.pic.write(0x21, 0x10);
    bench.pulse(4);
    assert!(!bench.intr.is_high());
    bench.pic.write(0x21, 0);
    assert!(bench.intr.is_high());
}

#[test]
fn acknowledging_nothing_is_spurious() {
    let bench = Bench::new(NORMAL);
    assert_eq!(bench.pic.acknowledge(), 0x37);
    assert_eq!(bench.in_service(0x20), 0);
}

#[test]
fn a_level_line_requests_again_after_its_end() {
    let bench = Bench::new(NORMAL);
    bench.pic.write(0x4d1, 0xff);
    assert_eq!(bench.pic.read(0x4d1), 0xde);
    bench.raise(11);
    assert_eq!(bench.pic.acknowledge(), 0x3b);
    assert!(!bench.intr.is_high());
    bench.pic.write(0xa0, 0x20);
    bench.pic.write(0x20, 0x20);
    assert!(bench.intr.is_high());
    bench.pic.line(11).set(false);
    assert!(!bench.intr.is_high());
}

#[test]
fn automatic_end_leaves_nothing_in_service() {
    let bench = Bench::new(AUTO_END);
    bench.pulse(3);
    assert_eq!(bench.pic.acknowledge(), 0x33);
    assert_eq!(bench.in_service(0x20), 0);
}

#[test]
fn rotation_on_automatic_end_makes_the_served_input_last() {
    let bench = Bench::new(AUTO_END);
    bench.pic.write(0x20, 0x80);
    bench.pulse(3);
    bench.pic.acknowledge();
    bench.pulse(3);
    bench.pulse(4);
    assert_eq!(bench.pic.acknowledge(), 0x34);
}

#[test]
fn rotation_on_specific_end_and_set_priority() {
    let bench = Bench::new(NORMAL);
    bench.pic.write(0x20, 0xc3);
    bench.pulse(3);
    bench.pulse(5);
    assert_eq!(bench.pic.acknowledge(), 0x35);
    bench.pic.write(0x20, 0xe5);
    assert_eq!(bench.in_service(0x20), 0);
    bench.pulse(6);
    bench.pulse(5);
    assert_eq!(bench.pic.acknowledge(), 0x36);
}

#[test]
fn special_mask_mode_lets_lower_priorities_through() {
    let bench = Bench::new(NORMAL);
    bench.pulse(1);
    bench.pic.acknowledge();
    bench.pic.write(0x21, 0x02);
    bench.pulse(5);
    assert!(!bench.intr.is_high());
    bench.pic.write(0x20, 0x68);
    assert!(bench.intr.is_high());
}

#[test]
fn special_fully_nested_mode_lets_the_slave_interrupt_itself() {
    let bench = Bench::new(NORMAL | 0x10);
    bench.pulse(14);
    bench.pic.acknowledge();
    bench.pulse(8);
    assert_eq!(bench.pic.acknowledge(), 0x38);
}

#[test]
fn a_poll_acknowledges() {
    let bench = Bench::new(NORMAL);
    bench.pulse(6);
    bench.pic.write(0x20, 0x0c);
    assert_eq!(bench.pic.read(0x20), 0x86);
    assert_eq!(bench.in_service(0x20), 0x40);
    bench.pic.write(0x20, 0x0c);
    assert_eq!(bench.pic.read(0x20), 0);
}

#[test]
fn intr_falls_and_rises_between_two_requests() {
    let bench = Bench::new(AUTO_END);
    bench.pulse(3);
    bench.pulse(4);
    assert_eq!(bench.intr.take_edges(), 1);
    bench.pic.acknowledge();
    assert_eq!(bench.intr.take_edges(), 1);
}

#[test]
fn initialisation_drops_latched_edges_and_the_mask() {
    let bench = Bench::new(NORMAL);
    bench.pic.write(0x21, 0xff);
    bench.pulse(5);
    bench.pic.write(0x20, 0x11);
    assert!(!bench.intr.is_high());
    bench.pic.write(0x21, 0x40);
    bench.pic.write(0x21, 4);
    bench.pic.write(0x21, 1);
    assert_eq!(bench.pic.read(0x21), 0);
}

proptest! {
    #[test]
    fn random_accesses_never_panic(accesses in prop::collection::vec((0_u8..9, any::<u8>()), 0..200)) {
        let bench = Bench::new(NORMAL);
        for (what, value) in accesses {
            match what {
                0..6 => bench.pic.write([0x20, 0x21, 0xa0, 0xa1, 0x4d0, 0x4d1][usize::from(what)], value),
                6 => { bench.pic.read(0x20 | u16::from(value & 0x81)); }
                7 => bench.pic.line(value).set(value & 0x80 != 0),
                _ => { bench.pic.acknowledge(); }
            }
            prop_assert_eq!(bench.intr.is_high(), bench.pic.pending());
        }
    }
}
