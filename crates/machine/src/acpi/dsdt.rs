//! The differentiated system description table: the devices that an operating system cannot find by
//! itself.

use acpi_tables::aml::{
    AddressSpace, AddressSpaceCacheable, Arg, Device, EISAName, Else, IO, If, Interrupt, Method, Name,
    Package, PackageBuilder, Path, ResourceTemplate, Return, Scope, Store, ZERO,
};
use acpi_tables::sdt::Sdt;
use acpi_tables::{Aml, AmlSink};

use super::{OEM, OEM_REVISION, OEM_TABLE, PciRouting, Platform};
use crate::memory_map::Window;

const HEADER: u32 = 36;
const REVISION: u8 = 6;
const PCI_DEVICES: u8 = 32;
/// PIIX4: the sleep type of soft off is 0.
const SOFT_OFF: u8 = 0;

pub(super) fn table(platform: &Platform) -> Sdt {
    let mut table = Sdt::new(*b"DSDT", HEADER, REVISION, OEM, OEM_TABLE, OEM_REVISION);
    let mut aml = Vec::new();
    interrupt_mode(&mut aml);
    soft_off(&mut aml);
    system_bus(platform, &mut aml);
    table.append_slice(&aml);
    table
}

fn path(name: &str) -> Path {
    Path::new(name)
}

/// `\PICM`: 1 once the operating system says, by `\_PIC`, that it uses the IOAPIC.
fn interrupt_mode(sink: &mut dyn AmlSink) {
    Name::new(path("PICM"), &ZERO).to_aml_bytes(sink);
    let mode = path("PICM");
    let store = Store::new(&mode, &Arg(0));
    Method::new(path("_PIC"), 1, false, vec![&store]).to_aml_bytes(sink);
}

fn soft_off(sink: &mut dyn AmlSink) {
    let values = Package::new(vec![&SOFT_OFF, &SOFT_OFF, &ZERO, &ZERO]);
    Name::new(path("_S5_"), &values).to_aml_bytes(sink);
}

fn system_bus(platform: &Platform, sink: &mut dyn AmlSink) {
    let mut children = Vec::new();
    pci_root(platform, &mut children);
    power_management_ports(platform, &mut children);
    if let Some(window) = platform.vmbus_window {
        vmbus(window, &mut children);
    }
    sink.vec(&Scope::raw(path("\\_SB_"), children));
}

fn pci_root(platform: &Platform, sink: &mut dyn AmlSink) {
    let id = Name::new(path("_HID"), &EISAName::new("PNP0A03"));
    let unique = Name::new(path("_UID"), &ZERO);
    let buses = AddressSpace::new_bus_number(0_u16, 0_u16);
    let configuration = IO::new(0xcf8, 0xcf8, 1, 8);
    let low_ports = AddressSpace::new_io(0_u16, 0xcf7, None);
    let high_ports = AddressSpace::new_io(0xd00_u16, 0xffff, None);
    let windows: Vec<_> =
        platform.video_window.into_iter().chain([platform.pci_window]).map(memory).collect();
    let mut resources: Vec<&dyn Aml> = vec![&buses, &configuration, &low_ports, &high_ports];
    resources.extend(windows.iter().map(|window| window as &dyn Aml));
    let resources = Name::new(path("_CRS"), &ResourceTemplate::new(resources));
    let routing = routing_method(&platform.pci_routing);
    let isa = isa_bridge(platform.south_bridge);
    let (routing, isa) = (Raw(&routing), Raw(&isa));
    Device::new(path("PCI0"), vec![&id, &unique, &resources, &routing, &isa]).to_aml_bytes(sink);
}

fn memory(window: Window) -> AddressSpace<u32> {
    // Windows lie below 4 GiB.
    let (first, last) = (window.start as u32, (window.end - 1) as u32);
    AddressSpace::new_memory(AddressSpaceCacheable::NotCacheable, true, first, last, None)
}

/// `_PRT`: the IOAPIC's inputs, or the 8259s' for an operating system that knows no more.
fn routing_method(routing: &PciRouting) -> Vec<u8> {
    let ioapic = routing_table(routing, routing.ioapic);
    let pic = routing_table(routing, routing.pic);
    let (ioapic, pic) = (Return::new(&ioapic), Return::new(&pic));
    let mode = path("PICM");
    let with_ioapic = If::new(&mode, vec![&ioapic]);
    let without = Else::new(vec![&pic]);
    bytes(&Method::new(path("_PRT"), 0, false, vec![&with_ioapic, &without]))
}

fn routing_table(routing: &PciRouting, inputs: [u8; 4]) -> PackageBuilder {
    let mut table = PackageBuilder::new();
    for device in 0..PCI_DEVICES {
        for pin in 0..4_u8 {
            let address = u32::from(device) << 16 | 0xffff;
            let input = inputs[usize::from((routing.line)(device, pin) & 3)];
            table.add_element(&Package::new(vec![&address, &pin, &ZERO, &input]));
        }
    }
    table
}

fn isa_bridge(device: u8) -> Vec<u8> {
    let address = u32::from(device) << 16;
    let address = Name::new(path("_ADR"), &address);
    let serial = isa_device("COM1", "PNP0501", Some(1), &[(0x3f8, 8)], 4);
    let clock = isa_device("RTC_", "PNP0B00", None, &[(0x70, 2)], 8);
    let keyboard = isa_device("KBD_", "PNP0303", None, &[(0x60, 1), (0x64, 1)], 1);
    let mouse = isa_device("MOU_", "PNP0F13", None, &[], 12);
    let children = [&serial, &clock, &keyboard, &mouse].map(|device| Raw(device));
    let [serial, clock, keyboard, mouse] = &children;
    bytes(&Device::new(path("ISA_"), vec![&address, serial, clock, keyboard, mouse]))
}

fn isa_device(name: &str, id: &str, unique: Option<u8>, ports: &[(u16, u8)], irq: u8) -> Vec<u8> {
    let id = Name::new(path("_HID"), &EISAName::new(id));
    let unique = unique.map(|unique| Name::new(path("_UID"), &unique));
    let ports: Vec<_> = ports.iter().map(|&(port, len)| IO::new(port, port, 1, len)).collect();
    let interrupt = Interrupt::new(true, true, false, false, u32::from(irq));
    let mut resources: Vec<&dyn Aml> = ports.iter().map(|port| port as &dyn Aml).collect();
    resources.push(&interrupt);
    let resources = Name::new(path("_CRS"), &ResourceTemplate::new(resources));
    let mut children: Vec<&dyn Aml> = vec![&id];
    children.extend(unique.as_ref().map(|unique| unique as &dyn Aml));
    children.push(&resources);
    bytes(&Device::new(path(name), children))
}

/// The ports that no device of its own describes, lest they be given to another.
fn power_management_ports(platform: &Platform, sink: &mut dyn AmlSink) {
    let id = Name::new(path("_HID"), &EISAName::new("PNP0C02"));
    let unique = Name::new(path("_UID"), &ZERO);
    let ports = IO::new(platform.pm_base, platform.pm_base, 1, 64);
    let resources = Name::new(path("_CRS"), &ResourceTemplate::new(vec![&ports]));
    Device::new(path("PMIO"), vec![&id, &unique, &resources]).to_aml_bytes(sink);
}

/// The VMBus in a module device that holds its memory: guests look for memory at the bus's ancestors.
fn vmbus(window: Window, sink: &mut dyn AmlSink) {
    let id = Name::new(path("_HID"), &"VMBus");
    let unique = Name::new(path("_UID"), &ZERO);
    let status = Name::new(path("_STA"), &0x0f_u8);
    let resources = Name::new(path("_CRS"), &ResourceTemplate::new(vec![]));
    let bus = bytes(&Device::new(path("VMBS"), vec![&id, &unique, &status, &resources]));
    let bus = Raw(&bus);

    let id = Name::new(path("_HID"), &"ACPI0004");
    let memory = memory(window);
    let resources = Name::new(path("_CRS"), &ResourceTemplate::new(vec![&memory]));
    Device::new(path("VMOD"), vec![&id, &unique, &resources, &bus]).to_aml_bytes(sink);
}

fn bytes(object: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    object.to_aml_bytes(&mut bytes);
    bytes
}

/// AML made before.
struct Raw<'a>(&'a [u8]);

impl Aml for Raw<'_> {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        sink.vec(self.0);
    }
}
