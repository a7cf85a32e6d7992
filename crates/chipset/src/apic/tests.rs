use std::sync::atomic::{AtomicBool, AtomicU32};

use clock::{FakeClock, FakeTimers};
use interrupt::{EoiListener, ExternalInterrupts, GeneralProtection, Message, MessageTarget};
use proptest::prelude::*;

use super::*;

#[derive(Default)]
struct Processor {
    interrupts: AtomicU32,
    others: Mutex<Vec<String>>,
}

impl ProcessorSignal for Processor {
    fn interrupt(&self) {
        self.interrupts.fetch_add(1, Ordering::SeqCst);
    }
    fn nmi(&self) {
        lock(&self.others).push("NMI".to_owned());
    }
    fn init(&self) {
        lock(&self.others).push("INIT".to_owned());
    }
    fn startup(&self, vector: u8) {
        lock(&self.others).push(format!("SIPI {vector:#x}"));
    }
}

impl Processor {
    fn woken(&self) -> bool {
        self.interrupts.swap(0, Ordering::SeqCst) != 0
    }

    fn others(&self) -> Vec<String> {
        lock(&self.others).split_off(0)
    }
}

#[derive(Default)]
struct Ends(Mutex<Vec<u8>>);

impl EoiListener for Ends {
    fn end_of_interrupt(&self, vector: u8) {
        lock(&self.0).push(vector);
    }
}

#[derive(Default)]
struct Pic8259(AtomicBool);

impl ExternalInterrupts for Pic8259 {
    fn pending(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
    fn acknowledge(&self) -> u8 {
        self.0.store(false, Ordering::SeqCst);
        0x30
    }
}

/// A VP assist page.
#[derive(Default)]
struct Assist {
    offered: AtomicBool,
    cleared: AtomicBool,
    ended: Mutex<Vec<u8>>,
}

const SELF_ENDING: u8 = 0xf3;

impl ApicAssist for Assist {
    fn auto_eoi(&self, vector: u8) -> bool {
        vector == SELF_ENDING
    }
    fn offer_skipped_eoi(&self, offer: bool) -> bool {
        self.offered.store(offer, Ordering::SeqCst);
        true
    }
    fn take_skipped_eoi(&self) -> bool {
        self.cleared.swap(false, Ordering::SeqCst)
    }
    fn ended(&self, vector: u8) {
        lock(&self.ended).push(vector);
    }
}

impl Assist {
    /// What a guest does at the end of an interrupt: true if it needs no EOI.
    fn skip(&self) -> bool {
        let skips = self.offered.swap(false, Ordering::SeqCst);
        if skips {
            self.cleared.store(true, Ordering::SeqCst);
        }
        skips
    }
}

struct Bench {
    bus: Arc<ApicBus>,
    timers: Arc<FakeTimers>,
    processors: Vec<Arc<Processor>>,
    ends: Arc<Ends>,
    pic: Arc<Pic8259>,
}

impl Bench {
    fn with_ids(ids: &[u32]) -> Self {
        let clock = FakeClock::new();
        let timers = FakeTimers::new(clock.clone());
        let shared: Arc<dyn Clock> = clock;
        let bus = ApicBus::new(ids, &shared, &*timers);
        let (ends, pic) = (Arc::new(Ends::default()), Arc::new(Pic8259::default()));
        bus.connect_eoi_listener(ends.clone());
        bus.connect_external(pic.clone());
        let processors: Vec<_> = ids.iter().map(|_| Arc::new(Processor::default())).collect();
        for (apic, processor) in bus.apics().iter().zip(&processors) {
            apic.connect_processor(processor.clone());
            apic.write(SPURIOUS_VECTOR, 0x1ff);
        }
        Self { bus, timers, processors, ends, pic }
    }

    fn new() -> Self {
        Self::with_ids(&[0])
    }

    fn apic(&self, index: usize) -> &Arc<Apic> {
        self.bus.apic(index).unwrap()
    }

    fn assist(&self) -> Arc<Assist> {
        let assist = Arc::new(Assist::default());
        self.apic(0).connect_assist(assist.clone());
        assist
    }

    fn enter_x2apic(&self) {
        for apic in self.bus.apics() {
            apic.set_base(apic.base() | 1 << 10).unwrap();
        }
    }

    /// Which processors have `vector` requested; forgets it.
    fn who_got(&self, vector: u8) -> Vec<usize> {
        let requested = |apic: &Apic| {
            let mut state = apic.locked();
            let had = state.request.contains(vector);
            state.request.remove(vector);
            had
        };
        self.bus
            .apics()
            .iter()
            .enumerate()
            .filter(|(_, apic)| requested(apic))
            .map(|(index, _)| index)
            .collect()
    }
}

fn msi(destination: u64, flags: u64, data: u32) -> Message {
    Message { address: 0xfee0_0000 | destination << 12 | flags, data }
}

const LOGICAL: u64 = 4;

#[test]
fn identity_and_version() {
    let bench = Bench::with_ids(&[0, 5]);
    assert_eq!(bench.apic(1).read(ID), 5 << 24);
    assert_eq!(bench.apic(1).read(VERSION), 0x0005_0014);
    assert_eq!(bench.apic(0).base(), 0xfee0_0900);
    assert_eq!(bench.apic(1).base(), 0xfee0_0800);
}

#[test]
fn a_request_is_acknowledged_and_ended() {
    let bench = Bench::new();
    let apic = bench.apic(0);
    apic.request(0x41, Trigger::Edge);
    assert!(bench.processors[0].woken() && apic.pending());
    assert_eq!(apic.read(REQUEST + 0x20), 2);
    assert_eq!(apic.acknowledge(), Some(0x41));
    assert_eq!((apic.read(REQUEST + 0x20), apic.read(IN_SERVICE + 0x20)), (0, 2));
    assert_eq!(apic.read(PROCESSOR_PRIORITY), 0x40);
    apic.write(END_OF_INTERRUPT, 0);
    assert_eq!(apic.read(IN_SERVICE + 0x20), 0);
    assert!(!apic.pending());
    assert_eq!(apic.acknowledge(), None);
}

#[test]
fn a_higher_class_interrupts_and_the_same_class_waits() {
    let bench = Bench::new();
    let apic = bench.apic(0);
    apic.request(0x41, Trigger::Edge);
    apic.acknowledge();
    apic.request(0x4f, Trigger::Edge);
    assert!(!apic.pending());
    apic.request(0x51, Trigger::Edge);
    assert_eq!(apic.acknowledge(), Some(0x51));
    apic.end_of_interrupt();
    assert!(!apic.pending());
    apic.end_of_interrupt();
    assert_eq!(apic.acknowledge(), Some(0x4f));
}

#[test]
fn lowering_the_task_priority_wakes_the_processor() {
    let bench = Bench::new();
    let apic = bench.apic(0);
    apic.set_cr8(5);
    apic.request(0x55, Trigger::Edge);
    assert!(!apic.pending());
    bench.processors[0].woken();
    apic.set_cr8(4);
    assert!(bench.processors[0].woken() && apic.pending());
    assert_eq!(apic.read(TASK_PRIORITY), 0x40);
}

#[test]
fn the_end_of_a_level_interrupt_is_broadcast_and_of_an_edge_not() {
    let bench = Bench::new();
    bench.bus.send(msi(0, 0, 0xc041));
    bench.bus.send(msi(0, 0, 0x0052));
    assert_eq!(bench.apic(0).acknowledge(), Some(0x52));
    bench.apic(0).end_of_interrupt();
    assert!(lock(&bench.ends.0).is_empty());
    assert_eq!(bench.apic(0).acknowledge(), Some(0x41));
    bench.apic(0).end_of_interrupt();
    assert_eq!(*lock(&bench.ends.0), [0x41]);
}

#[test]
fn a_software_disabled_apic_takes_no_requests_and_masks_its_table() {
    let bench = Bench::new();
    let apic = bench.apic(0);
    apic.write(LVT_FIRST, 0x40);
    apic.write(SPURIOUS_VECTOR, 0xff);
    assert_eq!(apic.read(LVT_FIRST), 0x1_0040);
    apic.write(LVT_FIRST, 0x40);
    assert_eq!(apic.read(LVT_FIRST), 0x1_0040);
    apic.request(0x41, Trigger::Edge);
    assert!(!apic.pending());
}

#[test]
fn physical_destinations_and_broadcast() {
    let bench = Bench::with_ids(&[0, 1, 2]);
    bench.bus.send(msi(1, 0, 0x41));
    assert_eq!(bench.who_got(0x41), [1]);
    bench.bus.send(msi(0xff, 0, 0x41));
    assert_eq!(bench.who_got(0x41), [0, 1, 2]);
    bench.bus.send(msi(9, 0, 0x41));
    assert!(bench.who_got(0x41).is_empty());
}

#[test]
fn logical_flat_destinations() {
    let bench = Bench::with_ids(&[0, 1, 2]);
    (0..3).for_each(|index| bench.apic(index).write(LOGICAL_DESTINATION, 1 << (24 + index)));
    bench.bus.send(msi(5, LOGICAL, 0x41));
    assert_eq!(bench.who_got(0x41), [0, 2]);
}

#[test]
fn logical_cluster_destinations() {
    let bench = Bench::with_ids(&[0, 1, 2]);
    for (index, logical) in [0x11_u32, 0x12, 0x21].into_iter().enumerate() {
        bench.apic(index).write(DESTINATION_FORMAT, 0);
        bench.apic(index).write(LOGICAL_DESTINATION, logical << 24);
    }
    bench.bus.send(msi(0x13, LOGICAL, 0x41));
    assert_eq!(bench.who_got(0x41), [0, 1]);
    bench.bus.send(msi(0x21, LOGICAL, 0x41));
    assert_eq!(bench.who_got(0x41), [2]);
}

#[test]
fn x2apic_logical_destinations_follow_the_id() {
    let bench = Bench::with_ids(&[0, 1, 17]);
    bench.enter_x2apic();
    assert_eq!(bench.apic(2).read_msr(0x80d), Ok(0x0001_0002));
    bench.apic(0).write_msr(0x830, 0x0001_0002 << 32 | 0x0841).unwrap();
    assert_eq!(bench.who_got(0x41), [2]);
    bench.apic(0).write_msr(0x830, 0x0000_0003 << 32 | 0x0841).unwrap();
    assert_eq!(bench.who_got(0x41), [0, 1]);
    bench.apic(0).write_msr(0x830, 0xffff_ffff << 32 | 0x0041).unwrap();
    assert_eq!(bench.who_got(0x41), [0, 1, 2]);
}

#[test]
fn x2apic_ids_beyond_8_bits_are_reached_by_the_upper_address() {
    let bench = Bench::with_ids(&[0, 0x123]);
    bench.enter_x2apic();
    bench.bus.send(Message { address: 0x0000_0100_fee2_3000, data: 0x41 });
    assert_eq!(bench.who_got(0x41), [1]);
}

#[test]
fn shorthands() {
    let bench = Bench::with_ids(&[0, 1, 2]);
    bench.apic(1).write(COMMAND_LOW, 0x4_0041);
    assert_eq!(bench.who_got(0x41), [1]);
    bench.apic(1).write(COMMAND_LOW, 0x8_0041);
    assert_eq!(bench.who_got(0x41), [0, 1, 2]);
    bench.apic(1).write(COMMAND_LOW, 0xc_0041);
    assert_eq!(bench.who_got(0x41), [0, 2]);
}

#[test]
fn the_command_register_sends_to_its_destination_field() {
    let bench = Bench::with_ids(&[0, 1]);
    bench.apic(0).write(COMMAND_HIGH, 1 << 24);
    bench.apic(0).write(COMMAND_LOW, 0x4041);
    assert_eq!(bench.who_got(0x41), [1]);
    assert_eq!(bench.apic(0).interrupt_command(), 1 << 56 | 0x4041);
    bench.apic(0).set_interrupt_command(0x42);
    assert_eq!(bench.who_got(0x42), [0]);
}

#[test]
fn lowest_priority_goes_to_the_least_busy_and_equals_take_turns() {
    let bench = Bench::with_ids(&[0, 1, 2]);
    (0..3).for_each(|index| bench.apic(index).write(LOGICAL_DESTINATION, 1 << (24 + index)));
    bench.apic(0).set_task_priority(0x80);
    bench.apic(2).set_task_priority(0x20);
    bench.bus.send(msi(0xff, LOGICAL, 0x0141));
    assert_eq!(bench.who_got(0x41), [1]);
    bench.apic(2).set_task_priority(0);
    bench.apic(0).set_task_priority(0);
    let mut served: Vec<_> = (0..3)
        .flat_map(|_| {
            bench.bus.send(msi(0xff, LOGICAL, 0x0141));
            bench.who_got(0x41)
        })
        .collect();
    served.sort_unstable();
    assert_eq!(served, [0, 1, 2]);
}

#[test]
fn nmi_init_and_startup_go_to_the_processor() {
    let bench = Bench::with_ids(&[0, 1]);
    let icr = |value| {
        bench.apic(0).write(COMMAND_HIGH, 1 << 24);
        bench.apic(0).write(COMMAND_LOW, value);
    };
    icr(0x0_c500);
    icr(0x0_8500);
    icr(0x0_4699);
    icr(0x0_4400);
    assert_eq!(bench.processors[1].others(), ["INIT", "SIPI 0x99", "NMI"]);
    assert!(bench.processors[0].others().is_empty());
}

#[test]
fn illegal_vectors_are_told_in_the_error_status() {
    let bench = Bench::new();
    let apic = bench.apic(0);
    apic.write(LVT_LAST, 0xfe);
    apic.write(COMMAND_LOW, 0x4_0004);
    assert_eq!(apic.acknowledge(), Some(0xfe));
    bench.bus.send(msi(0, 0, 0x05));
    assert_eq!(apic.read(ERROR_STATUS), 0);
    apic.write(ERROR_STATUS, 0);
    assert_eq!(apic.read(ERROR_STATUS), ERROR_SEND_ILLEGAL_VECTOR | ERROR_RECEIVE_ILLEGAL_VECTOR);
    apic.write(ERROR_STATUS, 0);
    assert_eq!(apic.read(ERROR_STATUS), 0);
}

#[test]
fn one_shot_timer_counts_down_and_fires_once() {
    let bench = Bench::new();
    let apic = bench.apic(0);
    apic.write(LVT_FIRST, 0x40);
    apic.write(DIVIDE_CONFIGURATION, 0x3); // by 16: 80 ns a count
    apic.write(INITIAL_COUNT, 1000);
    bench.timers.advance(40_000);
    assert_eq!(apic.read(CURRENT_COUNT), 500);
    assert!(!apic.pending());
    bench.timers.advance(40_000);
    assert_eq!(apic.acknowledge(), Some(0x40));
    assert_eq!(apic.read(CURRENT_COUNT), 0);
    assert_eq!(bench.timers.next_deadline(), None);
}

#[test]
fn periodic_timer_fires_again_and_again_until_its_count_is_0() {
    let bench = Bench::new();
    let apic = bench.apic(0);
    apic.write(LVT_FIRST, 0x2_0040);
    apic.write(DIVIDE_CONFIGURATION, 0xb); // by 1
    apic.write(INITIAL_COUNT, 200_000);
    for _ in 0..3 {
        bench.timers.advance(1_000_000);
        assert_eq!(apic.acknowledge(), Some(0x40));
        apic.end_of_interrupt();
    }
    apic.write(INITIAL_COUNT, 0);
    bench.timers.advance(5_000_000);
    assert!(!apic.pending());
}

#[test]
fn a_period_of_one_count_does_not_keep_the_host_busy() {
    let bench = Bench::new();
    bench.apic(0).write(LVT_FIRST, 0x2_0040);
    bench.apic(0).write(INITIAL_COUNT, 1);
    bench.timers.advance(10);
    assert_eq!(bench.timers.next_deadline(), Some(10 + SHORTEST_PERIOD));
}

#[test]
fn a_masked_timer_counts_silently() {
    let bench = Bench::new();
    bench.apic(0).write(LVT_FIRST, 0x1_0040);
    bench.apic(0).write(INITIAL_COUNT, 100);
    bench.timers.advance(10_000);
    assert!(!bench.apic(0).pending());
    assert_eq!(bench.apic(0).read(CURRENT_COUNT), 0);
}

#[test]
fn a_change_of_the_divider_keeps_the_count() {
    let bench = Bench::new();
    let apic = bench.apic(0);
    apic.write(LVT_FIRST, 0x40);
    apic.write(DIVIDE_CONFIGURATION, 0xb);
    apic.write(INITIAL_COUNT, 1000);
    bench.timers.advance(2500);
    apic.write(DIVIDE_CONFIGURATION, 0x0); // by 2
    assert_eq!(apic.read(CURRENT_COUNT), 500);
    bench.timers.advance(4999);
    assert!(!apic.pending());
    bench.timers.advance(1);
    assert!(apic.pending());
}

#[test]
fn tsc_deadline_fires_when_the_tsc_gets_there_and_clears_itself() {
    let bench = Bench::new();
    let apic = bench.apic(0);
    apic.set_tsc_deadline(77);
    assert_eq!(apic.tsc_deadline(), 0);
    apic.write(LVT_FIRST, 0x4_0040);
    apic.set_tsc_deadline(5000);
    assert_eq!(apic.tsc_deadline(), 5000);
    bench.timers.advance(4999);
    assert!(!apic.pending());
    bench.timers.advance(1);
    assert_eq!(apic.acknowledge(), Some(0x40));
    assert_eq!(apic.tsc_deadline(), 0);
    apic.end_of_interrupt();
    apic.set_tsc_deadline(1);
    assert_eq!(apic.acknowledge(), Some(0x40));
}

#[test]
fn leaving_tsc_deadline_mode_disarms() {
    let bench = Bench::new();
    bench.apic(0).write(LVT_FIRST, 0x4_0040);
    bench.apic(0).set_tsc_deadline(5000);
    bench.apic(0).write(LVT_FIRST, 0x40);
    assert_eq!(bench.timers.next_deadline(), None);
}

#[test]
fn external_interrupts_come_through_lint0_in_virtual_wire_mode() {
    let bench = Bench::new();
    let apic = bench.apic(0);
    // The kernel's own setting; the one of reset ended when the guest enabled the APIC by software.
    apic.write(0x350, 0x700);
    bench.pic.0.store(true, Ordering::SeqCst);
    apic.lint(0).set(true);
    assert!(bench.processors[0].woken() && apic.pending());
    assert_eq!(apic.acknowledge(), Some(0x30));
    apic.lint(0).set(false);
    assert!(!apic.pending());
    apic.write(0x350, 0x1_0700);
    apic.lint(0).set(true);
    assert!(!apic.pending());
}

#[test]
fn external_interrupts_reach_the_boot_processor_after_reset() {
    let bench = Bench::with_ids(&[0, 1]);
    bench.apic(0).reset();
    bench.apic(1).reset();
    bench.apic(0).set_lint(0, true);
    bench.apic(1).set_lint(0, true);
    assert!(bench.apic(0).pending());
    assert!(!bench.apic(1).pending());
}

#[test]
fn lint1_delivers_nmi_on_its_edge() {
    let bench = Bench::new();
    bench.apic(0).write(0x360, 0x400);
    bench.apic(0).lint(1).set(true);
    bench.apic(0).lint(1).set(true);
    assert_eq!(bench.processors[0].others(), ["NMI"]);
}

#[test]
fn a_level_lint_is_delivered_again_after_its_end() {
    let bench = Bench::new();
    let apic = bench.apic(0);
    apic.write(0x350, 0x8041);
    apic.set_lint(0, true);
    assert_eq!(apic.acknowledge(), Some(0x41));
    assert_eq!(apic.read(0x350), 0xc041);
    assert!(!apic.pending());
    apic.end_of_interrupt();
    assert!(apic.pending());
}

#[test]
fn modes_change_only_along_the_allowed_ways() {
    let bench = Bench::new();
    let apic = bench.apic(0);
    let (disabled, xapic, x2apic) = (0xfee0_0100, 0xfee0_0900, 0xfee0_0d00);
    assert_eq!(apic.set_base(0xfee0_0500), Err(GeneralProtection));
    assert_eq!(apic.set_base(xapic | 1), Err(GeneralProtection));
    assert_eq!(apic.read_msr(0x802), Err(GeneralProtection));
    apic.set_base(x2apic).unwrap();
    assert_eq!(apic.set_base(xapic), Err(GeneralProtection));
    apic.set_base(disabled).unwrap();
    assert_eq!(apic.set_base(x2apic), Err(GeneralProtection));
    apic.set_base(xapic).unwrap();
    assert_eq!(apic.read(SPURIOUS_VECTOR), 0xff);
}

#[test]
fn x2apic_registers_reserve_their_bits() {
    let bench = Bench::new();
    bench.enter_x2apic();
    let apic = bench.apic(0);
    for (msr, value) in
        [(0x808, 0x100), (0x80b, 1), (0x828, 1), (0x802, 0), (0x80e, 0), (0x832, 1 << 20), (0x839, 0)]
    {
        assert_eq!(apic.write_msr(msr, value), Err(GeneralProtection), "{msr:#x}");
    }
    for msr in [0x80e, 0x831, 0x80b, 0x83f, 0x8ff] {
        assert_eq!(apic.read_msr(msr), Err(GeneralProtection), "{msr:#x}");
    }
    apic.write_msr(0x83f, 0x41).unwrap();
    assert_eq!(apic.acknowledge(), Some(0x41));
    apic.write_msr(0x80b, 0).unwrap();
    assert_eq!(apic.read_msr(0x812), Ok(0));
}

#[test]
fn init_keeps_id_base_and_mode() {
    let bench = Bench::with_ids(&[0, 7]);
    bench.enter_x2apic();
    let apic = bench.apic(1);
    apic.request(0x41, Trigger::Edge);
    apic.init();
    assert_eq!((apic.id(), apic.base()), (7, 0xfee0_0c00));
    assert_eq!(apic.read_msr(0x80f), Ok(0xff));
    assert!(!apic.pending());
}

#[test]
fn an_auto_eoi_vector_is_never_in_service() {
    let bench = Bench::new();
    let assist = bench.assist();
    let apic = bench.apic(0);
    apic.request(SELF_ENDING, Trigger::Edge);
    assert_eq!(apic.acknowledge(), Some(SELF_ENDING));
    assert_eq!(apic.read(IN_SERVICE + 0x70), 0);
    assert_eq!(*lock(&assist.ended), [SELF_ENDING]);
    apic.request(0x41, Trigger::Edge);
    assert!(apic.pending());
}

#[test]
fn a_skipped_eoi_ends_the_interrupt() {
    let bench = Bench::new();
    let assist = bench.assist();
    let apic = bench.apic(0);
    apic.request(0x41, Trigger::Edge);
    apic.acknowledge();
    assert!(assist.skip());
    bench.processors[0].woken();
    apic.request(0x40, Trigger::Edge);
    assert!(bench.processors[0].woken());
    assert!(apic.pending());
    assert_eq!(*lock(&assist.ended), [0x41]);
    assert_eq!(apic.acknowledge(), Some(0x40));
}

#[test]
fn an_offer_is_withdrawn_when_another_interrupt_waits_for_the_end() {
    let bench = Bench::new();
    let assist = bench.assist();
    let apic = bench.apic(0);
    apic.request(0x41, Trigger::Edge);
    apic.acknowledge();
    apic.request(0x40, Trigger::Edge);
    assert!(bench.processors[0].woken() && !apic.pending());
    assert!(!assist.skip());
    apic.end_of_interrupt();
    assert_eq!(apic.acknowledge(), Some(0x40));
}

#[test]
fn no_offer_for_levels_or_while_others_wait() {
    let bench = Bench::new();
    let assist = bench.assist();
    let apic = bench.apic(0);
    apic.request(0x41, Trigger::Level);
    apic.acknowledge();
    assert!(!assist.skip());
    apic.end_of_interrupt();
    apic.request(0x41, Trigger::Edge);
    apic.request(0x40, Trigger::Edge);
    apic.acknowledge();
    assert!(!assist.skip());
}

#[test]
fn an_explicit_eoi_after_an_unused_offer_ends_one_interrupt_only() {
    let bench = Bench::new();
    let assist = bench.assist();
    let apic = bench.apic(0);
    apic.request(0x41, Trigger::Edge);
    apic.acknowledge();
    apic.request(0x51, Trigger::Edge);
    apic.acknowledge();
    apic.end_of_interrupt();
    assert_eq!(*lock(&assist.ended), [0x51]);
    assert!(!assist.skip());
    apic.end_of_interrupt();
    assert_eq!(*lock(&assist.ended), [0x51, 0x41]);
}

proptest! {
    #[test]
    fn random_accesses_never_panic(
        accesses in prop::collection::vec((0_u8..12, any::<u32>(), any::<u64>()), 0..200),
    ) {
        let bench = Bench::with_ids(&[0, 1, 300]);
        bench.assist();
        for (what, place, value) in accesses {
            let apic = bench.apic(place as usize % 3);
            match what {
                0 | 1 => apic.write(place >> 8 & 0xff0, value as u32),
                2 => { apic.read(place >> 8 & 0xfff); }
                3 => { let _ = apic.write_msr(0x800 + (place >> 8 & 0xff), value); }
                4 => { let _ = apic.read_msr(0x800 + (place >> 8 & 0xff)); }
                5 => { let _ = apic.set_base(0xfee0_0000 | value & 0xfff); }
                6 => apic.set_tsc_deadline(value >> (place >> 8 & 63)),
                7 => bench.bus.send(Message { address: u64::from(place), data: value as u32 }),
                8 => bench.timers.advance(value & 0xffff),
                9 => apic.set_lint(place as usize >> 8 & 3, value & 1 != 0),
                10 => apic.set_interrupt_command(value),
                _ => {
                    let pending = apic.pending();
                    let external = apic.locked().external_ready();
                    prop_assert!(apic.acknowledge().is_some() == pending || external);
                    apic.end_of_interrupt();
                }
            }
        }
    }
}
