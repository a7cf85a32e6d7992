use std::sync::{Arc, Mutex};

use super::*;
use crate::PortDevice;

#[derive(Default)]
struct Recorder(Mutex<Vec<(FunctionAddress, Vec<BarMapping>)>>);

impl BarListener for Recorder {
    fn bars_changed(&self, address: FunctionAddress, mappings: &[BarMapping]) {
        self.0.lock().unwrap().push((address, mappings.to_vec()));
    }
}

struct Plain(ConfigSpace);

impl PciFunction for Plain {
    fn config_read(&mut self, register: u8) -> u32 {
        self.0.read(register)
    }
    fn config_write(&mut self, register: u8, value: u32, mask: u32) {
        self.0.write(register, value, mask);
    }
    fn bars(&self) -> Vec<BarMapping> {
        self.0.bars()
    }
}

const SLOT: FunctionAddress = FunctionAddress::new(3, 1);

fn bus() -> (PciBus, Arc<Recorder>) {
    let recorder = Arc::new(Recorder::default());
    let mut bus = PciBus::new(recorder.clone());
    let identity = Identity {
        vendor: 0x8086,
        device: 0x7111,
        class: 0x01_0180,
        multifunction: true,
        ..Identity::default()
    };
    let space = ConfigSpace::new(identity)
        .with_bar(4, BarKind::Io, 16)
        .with_bar(5, BarKind::Memory { prefetchable: false }, 0x1000)
        .with_interrupt_pin(1);
    bus.add(SLOT, Arc::new(Mutex::new(Plain(space))));
    (bus, recorder)
}

fn select(bus: &mut PciBus, register: u8) {
    let address =
        1 << 31 | u32::from(SLOT.device) << 11 | u32::from(SLOT.function) << 8 | u32::from(register);
    bus.port_write(CONFIG_ADDRESS, &address.to_le_bytes());
}

fn read(bus: &mut PciBus, register: u8) -> u32 {
    select(bus, register);
    let mut data = [0xff; 4];
    bus.port_read(CONFIG_DATA, &mut data);
    u32::from_le_bytes(data)
}

fn write(bus: &mut PciBus, register: u8, value: u32) {
    select(bus, register);
    bus.port_write(CONFIG_DATA, &value.to_le_bytes());
}

#[test]
fn the_address_port_reads_back_and_ignores_bytes() {
    let (mut bus, _) = bus();
    bus.port_write(CONFIG_ADDRESS, &0x8000_0000_u32.to_le_bytes());
    bus.port_write(CONFIG_ADDRESS, &[0x12]);
    let mut data = [0; 4];
    bus.port_read(CONFIG_ADDRESS, &mut data);
    assert_eq!(u32::from_le_bytes(data), 0x8000_0000);
}

#[test]
fn absent_functions_read_as_ones() {
    let (mut bus, _) = bus();
    bus.port_write(CONFIG_ADDRESS, &0x8000_f800_u32.to_le_bytes());
    let mut data = [0; 4];
    bus.port_read(CONFIG_DATA, &mut data);
    assert_eq!(data, [0xff; 4]);
}

#[test]
fn identity_and_header_type_are_in_their_places() {
    let (mut bus, _) = bus();
    assert_eq!(read(&mut bus, 0x00), 0x7111_8086);
    assert_eq!(read(&mut bus, 0x08), 0x0101_8000);
    select(&mut bus, 0x0c);
    let mut byte = [0];
    bus.port_read(CONFIG_DATA + 2, &mut byte);
    assert_eq!(byte[0], 0x80);
    assert_eq!(read(&mut bus, 0x3c) >> 8 & 0xff, 1);
}

#[test]
fn a_bar_written_with_ones_tells_its_size() {
    let (mut bus, _) = bus();
    write(&mut bus, 0x20, u32::MAX);
    assert_eq!(read(&mut bus, 0x20), 0xffff_fff1);
    write(&mut bus, 0x24, u32::MAX);
    assert_eq!(read(&mut bus, 0x24), 0xffff_f000);
    write(&mut bus, 0x10, u32::MAX);
    assert_eq!(read(&mut bus, 0x10), 0);
}

#[test]
fn the_listener_hears_only_of_changes_in_what_is_decoded() {
    let (mut bus, recorder) = bus();
    write(&mut bus, 0x20, 0xc000);
    assert!(recorder.0.lock().unwrap().is_empty());
    write(&mut bus, 0x04, 1);
    write(&mut bus, 0x04, 5);
    let mapping = BarMapping { region: 4, space: Space::Io, base: 0xc000, size: 16 };
    assert_eq!(recorder.0.lock().unwrap().split_off(0), [(SLOT, vec![mapping])]);
    write(&mut bus, 0x04, 0);
    assert_eq!(*recorder.0.lock().unwrap(), [(SLOT, vec![])]);
}

#[test]
fn a_bar_beyond_the_ports_decodes_nothing() {
    let (mut bus, recorder) = bus();
    write(&mut bus, 0x04, 1);
    write(&mut bus, 0x20, 0x1_0000);
    write(&mut bus, 0x20, u32::MAX);
    assert!(recorder.0.lock().unwrap().is_empty());
}

#[test]
fn byte_writes_touch_their_byte_only() {
    let (mut bus, _) = bus();
    write(&mut bus, 0x20, 0xc000);
    select(&mut bus, 0x20);
    bus.port_write(CONFIG_DATA + 1, &[0xd1]);
    assert_eq!(read(&mut bus, 0x20), 0xd101);
}

#[test]
fn the_data_port_is_dead_without_the_enable_bit() {
    let (mut bus, _) = bus();
    write(&mut bus, 0x20, 0xc000);
    bus.port_write(CONFIG_ADDRESS, &0x0000_1900_u32.to_le_bytes());
    let mut data = [0; 4];
    bus.port_read(CONFIG_DATA, &mut data);
    assert_eq!(data, [0xff; 4]);
}

mod bridges {
    use guest_memory::{Attributes, SHADOW_SEGMENTS};
    use interrupt::{Line, NotConnected};

    use super::*;
    use crate::line::tests::Probe;

    struct Bench {
        isa: Vec<Arc<Probe>>,
        ioapic: Vec<Arc<Probe>>,
        router: Arc<InterruptRouter>,
        bridge: IsaBridge,
    }

    fn bench() -> Bench {
        let isa: Vec<_> = (0..16).map(|_| Probe::new()).collect();
        let ioapic: Vec<_> = (0..4).map(|_| Probe::new()).collect();
        let line = |probe: &Arc<Probe>| -> Arc<dyn Line> { probe.clone() };
        let router = InterruptRouter::new(
            std::array::from_fn(|index| line(&isa[index])),
            std::array::from_fn(|index| line(&ioapic[index])),
        );
        let bridge = IsaBridge::new(router.clone());
        Bench { isa, ioapic, router, bridge }
    }

    #[test]
    fn a_pin_reaches_its_routed_interrupt_and_its_ioapic_input() {
        let bench = bench();
        let line = bench.router.line(FunctionAddress::new(5, 0), 1);
        line.set(true);
        assert!(bench.isa[10].is_high() && bench.ioapic[1].is_high());
        line.set(false);
        assert!(!bench.isa[10].is_high() && !bench.ioapic[1].is_high());
    }

    #[test]
    fn two_pirqs_share_an_interrupt() {
        let bench = bench();
        let (first, second) = (
            bench.router.line(FunctionAddress::new(5, 0), 0),
            bench.router.line(FunctionAddress::new(6, 0), 0),
        );
        first.set(true);
        second.set(true);
        first.set(false);
        assert!(bench.isa[10].is_high());
        second.set(false);
        assert!(!bench.isa[10].is_high());
    }

    #[test]
    fn rerouting_moves_a_level() {
        let mut bench = bench();
        bench.router.line(FunctionAddress::new(5, 0), 0).set(true);
        bench.bridge.config_write(0x60, 0x05, 0xff);
        assert!(!bench.isa[10].is_high() && bench.isa[5].is_high());
        bench.bridge.config_write(0x60, 0x80, 0xff);
        assert!(!bench.isa[5].is_high());
        assert_eq!(bench.bridge.config_read(0x60), 0x0b0b_0a80);
    }

    #[test]
    fn routes_to_reserved_interrupts_lead_nowhere() {
        let mut bench = bench();
        bench.router.line(FunctionAddress::new(5, 0), 0).set(true);
        bench.bridge.config_write(0x60, 0x08, 0xff);
        assert!(bench.isa.iter().all(|line| !line.is_high()));
    }

    #[derive(Default)]
    struct Segments(Mutex<Option<[Attributes; SHADOW_SEGMENTS]>>);

    impl Steering for Segments {
        fn steer(&self, segments: [Attributes; SHADOW_SEGMENTS]) {
            *self.0.lock().unwrap() = Some(segments);
        }
    }

    impl Segments {
        /// The segments of 16 KiB from 0xc0000 on, as letters: of which reads, writes, or both are RAM's.
        fn take(&self) -> Option<String> {
            let letter = |segment: Attributes| match (segment.read, segment.write) {
                (false, false) => '-',
                (true, false) => 'r',
                (false, true) => 'w',
                (true, true) => 'a',
            };
            Some(self.0.lock().unwrap().take()?.map(letter).iter().collect())
        }
    }

    #[test]
    fn the_memory_attribute_registers_steer_segments() {
        let segments = Arc::new(Segments::default());
        let mut bridge = HostBridge::for_firmware(segments.clone());
        assert_eq!((bridge.config_read(0x58), bridge.config_read(0x5c)), (0, 0));
        // PAM0: the last 64 KiB, by its high half.
        bridge.config_write(0x58, 0x0000_ff00, 0xff00);
        assert_eq!(bridge.config_read(0x58), 0x3000);
        assert_eq!(segments.take().unwrap(), "------------aaaa");
        // PAM1 and PAM2: two segments each, the low half first.
        bridge.config_write(0x58, 0x1203_0000, 0xffff_0000);
        assert_eq!(segments.take().unwrap(), "a-wr--------aaaa");
        bridge.config_write(0x5c, 0x3020_1001, u32::MAX);
        assert_eq!(segments.take().unwrap(), "a-wrr--r-w-aaaaa");
        // Other registers have nothing to do with it.
        bridge.config_write(0x70, u32::MAX, u32::MAX);
        assert_eq!(segments.take(), None);
        bridge.reset();
        assert_eq!(segments.take().unwrap(), "----------------");
        assert_eq!(bridge.config_read(0x5c), 0);
    }

    #[test]
    fn without_firmware_all_is_ram() {
        let segments = Arc::new(Segments::default());
        let mut bridge = HostBridge::new(segments.clone());
        assert_eq!((bridge.config_read(0x58), bridge.config_read(0x5c)), (0x3333_3000, 0x3333_3333));
        bridge.config_write(0x58, 0x1000, 0xff00);
        assert_eq!(segments.take().unwrap(), "aaaaaaaaaaaarrrr");
    }

    #[test]
    fn a_bios_meets_the_bridge_that_it_knows_until_it_is_done() {
        let identity = |bridge: &mut HostBridge| bridge.config_read(0x00);
        let steering = || Arc::new(Segments::default());
        let mut bridge = HostBridge::for_firmware(steering());
        assert_eq!(identity(&mut bridge), 0x1237_8086);
        bridge.config_write(0x58, 0x3000, 0xff00);
        assert_eq!(identity(&mut bridge), 0x1237_8086);
        bridge.config_write(0x58, 0x1000, 0xff00);
        assert_eq!((identity(&mut bridge), bridge.config_read(0x2c)), (0x7192_8086, 0x1100_1af4));
        bridge.config_write(0x58, 0x3000, 0xff00);
        assert_eq!(identity(&mut bridge), 0x7192_8086);
        bridge.reset();
        assert_eq!((identity(&mut bridge), bridge.config_read(0x2c)), (0x1237_8086, 0x1100_1af4));
        let mut bridge = HostBridge::for_uefi(steering());
        bridge.config_write(0x58, 0x1000, 0xff00);
        assert_eq!(identity(&mut bridge), 0x1237_8086);
        assert_eq!(identity(&mut HostBridge::new(steering())), 0x7192_8086);
    }

    proptest::proptest! {
        #[test]
        fn random_accesses_never_panic(
            accesses in proptest::collection::vec((0_u16..8, 0_usize..5, proptest::num::u32::ANY), 0..200),
        ) {
            let (mut bus, _) = bus();
            let lines: [Arc<dyn Line>; 16] = std::array::from_fn(|_| Arc::new(NotConnected) as Arc<dyn Line>);
            let pins: [Arc<dyn Line>; 4] = std::array::from_fn(|_| Arc::new(NotConnected) as Arc<dyn Line>);
            let router = InterruptRouter::new(lines, pins);
            bus.add(HOST_BRIDGE, Arc::new(Mutex::new(HostBridge::new(Arc::new(Segments::default())))));
            bus.add(isa_bridge(SOUTH_BRIDGE), Arc::new(Mutex::new(IsaBridge::new(router))));
            for (port, length, value) in accesses {
                match length {
                    0 => {
                        let function = if value & 0x100 == 0 { 0 } else { 0x3800 };
                        let address = 1 << 31 | function | value & 0xff;
                        bus.port_write(CONFIG_ADDRESS, &address.to_le_bytes());
                    }
                    3 => bus.port_read(CONFIG_ADDRESS + port, &mut [0; 4]),
                    length => bus.port_write(CONFIG_ADDRESS + port, &value.to_le_bytes()[..length]),
                }
            }
        }
    }
}
