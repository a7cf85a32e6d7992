use super::*;

/// Remembers what it is written and answers with the low byte of the address.
#[derive(Default)]
struct Echo(Vec<(u64, Vec<u8>)>);

impl PortDevice for Echo {
    fn port_read(&mut self, port: u16, data: &mut [u8]) {
        data[0] = port as u8;
    }
    fn port_write(&mut self, port: u16, data: &[u8]) {
        self.0.push((port.into(), data.to_vec()));
    }
}

impl MmioDevice for Echo {
    fn memory_read(&mut self, offset: u64, data: &mut [u8]) {
        data[0] = offset as u8;
    }
    fn memory_write(&mut self, offset: u64, data: &[u8]) {
        self.0.push((offset, data.to_vec()));
    }
}

const SLOT: FunctionAddress = FunctionAddress::new(7, 1);

fn echo() -> Arc<Mutex<Echo>> {
    Arc::default()
}

fn port(buses: &Buses, port: u16) -> [u8; 2] {
    let mut data = [0; 2];
    buses.port_read(port, &mut data);
    data
}

fn memory(buses: &Buses, gpa: u64) -> [u8; 2] {
    let mut data = [0; 2];
    buses.memory_read(gpa, &mut data);
    data
}

fn mapping(space: Space, base: u64, size: u64) -> BarMapping {
    BarMapping { region: 4, space, base, size }
}

#[test]
fn a_device_answers_its_ports_and_its_exits_are_counted() {
    let (buses, device, counters) = (Buses::new(), echo(), DeviceCounters::default());
    buses.add_ports(device.clone(), &counters, &[(0x60, 1), (0x64, 1)]);
    assert_eq!([port(&buses, 0x60), port(&buses, 0x64)], [[0x60, 0xff], [0x64, 0xff]]);
    buses.port_write(0x64, &[0xfe]);
    assert_eq!(device.lock().unwrap().0, [(0x64, vec![0xfe])]);
    assert_eq!(counters.exits.value(), 3);
}

#[test]
fn unclaimed_ports_and_addresses_read_as_ones() {
    let buses = Buses::new();
    assert_eq!(port(&buses, 0xffff), [0xff; 2]);
    buses.port_write(0xffff, &[0; 4]);
    assert_eq!(memory(&buses, u64::MAX), [0xff; 2]);
    buses.memory_write(u64::MAX, &[0; 8]);
}

#[test]
fn the_first_claim_of_a_port_stands() {
    let (buses, first, second) = (Buses::new(), echo(), echo());
    let counters = DeviceCounters::default();
    buses.add_ports(first, &DeviceCounters::default(), &[(0x20, 2)]);
    buses.add_ports(second, &counters, &[(0x20, 4)]);
    port(&buses, 0x21);
    assert_eq!(counters.exits.value(), 0);
    port(&buses, 0x22);
    assert_eq!(counters.exits.value(), 1);
}

#[test]
fn addresses_are_told_to_devices_as_offsets() {
    let (buses, device) = (Buses::new(), echo());
    buses.add_memory(device.clone(), &DeviceCounters::default(), 0xfec0_0000, 0x1000);
    assert_eq!(memory(&buses, 0xfec0_0012), [0x12, 0xff]);
    assert_eq!(memory(&buses, 0xfec0_1000), [0xff, 0xff]);
    assert_eq!(memory(&buses, 0xfebf_ffff), [0xff, 0xff]);
    buses.memory_write(0xfec0_0fff, &[1]);
    assert_eq!(device.lock().unwrap().0, [(0xfff, vec![1])]);
}

#[test]
fn ports_follow_their_base_address_register() {
    let (buses, device) = (Buses::new(), echo());
    buses.add_port_region(SLOT, 4, device, &DeviceCounters::default());
    buses.bars_changed(SLOT, &[mapping(Space::Io, 0xc000, 16)]);
    assert_eq!(port(&buses, 0xc00f), [0x0f, 0xff]);
    buses.bars_changed(SLOT, &[mapping(Space::Io, 0xd000, 16)]);
    assert_eq!([port(&buses, 0xc001), port(&buses, 0xd001)], [[0xff; 2], [0x01, 0xff]]);
    buses.bars_changed(SLOT, &[]);
    assert_eq!(port(&buses, 0xd001), [0xff; 2]);
}

#[test]
fn a_base_address_register_takes_no_port_from_another_device() {
    let (buses, fixed, moving) = (Buses::new(), echo(), echo());
    let counters = DeviceCounters::default();
    buses.add_ports(fixed, &counters, &[(0x20, 2)]);
    buses.add_port_region(SLOT, 4, moving, &DeviceCounters::default());
    buses.bars_changed(SLOT, &[mapping(Space::Io, 0x20, 16)]);
    buses.bars_changed(SLOT, &[]);
    port(&buses, 0x20);
    assert_eq!(counters.exits.value(), 1);
}

#[test]
fn memory_follows_its_base_address_register_and_does_not_overlap() {
    let (buses, fixed, moving) = (Buses::new(), echo(), echo());
    let counters = DeviceCounters::default();
    buses.add_memory(fixed, &counters, 0xfec0_0000, 0x1000);
    buses.add_memory_region(SLOT, 4, moving, &DeviceCounters::default());
    buses.bars_changed(SLOT, &[mapping(Space::Memory, 0xfec0_0000, 0x2000)]);
    memory(&buses, 0xfec0_0000);
    assert_eq!(counters.exits.value(), 1);
    buses.bars_changed(SLOT, &[mapping(Space::Memory, 0xe000_0000, 0x2000)]);
    assert_eq!(memory(&buses, 0xe000_0007), [7, 0xff]);
    buses.bars_changed(SLOT, &[]);
    assert_eq!(memory(&buses, 0xe000_0007), [0xff, 0xff]);
}
