//! The emulated devices of the board.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use chipset::acpi_pm::{self, PowerManagement};
use chipset::debug_ports::{self, DebugPorts};
use chipset::fw_cfg::{self, FwCfg};
use chipset::i8042::{self, I8042};
use chipset::pci::{
    self, BarListener, BarMapping, FunctionAddress, HostBridge, IsaBridge, PciBus, PciFunction, Steering,
};
use chipset::port92::{self, Port92};
use chipset::power::PowerControl;
use chipset::reset_control::{self, ResetControl};
use chipset::serial::{self, Serial};
use chipset::vga::{self, LinearWindow, RegisterWindow, Vga};
use chipset::{PortDevice, ioapic, pic, pit, rtc};
use clock::{Clock, Timers};
use counters::{DeviceCounters, Kind, Registry};

use guest_memory::GuestMemory;

use super::output::{FirmwareLog, SharedOutput};
use super::wiring::Interrupts;
use crate::buses::Buses;
use crate::control::Control;
use crate::firmware::{File, Rom};
use crate::memory_map::{self, IOAPIC, VIDEO_WINDOW, Window};
use crate::run::SerialOutput;

/// Items of the firmware configuration device: bytes of RAM, processors at the start, processors at most.
const RAM_SIZE: u16 = 0x03;
const PROCESSORS: u16 = 0x05;
const MOST_PROCESSORS: u16 = 0x0f;

/// What the emulated devices are given.
pub(super) struct Surroundings<'a> {
    pub clock: &'a Arc<dyn Clock>,
    pub timers: &'a dyn Timers,
    pub interrupts: &'a Interrupts,
    pub buses: &'a Arc<Buses>,
    pub registry: &'a Registry,
    pub control: &'a Arc<Control>,
    pub memory_size: u64,
    pub cpus: u32,
    /// The firmware that the machine starts with, if it does not start with a kernel.
    pub firmware: Option<&'a Rom>,
    /// The device number of the south bridge on the PCI bus.
    pub south_bridge: u8,
    /// Whether there is a video adapter.
    pub screen: bool,
    /// Who carries out the host bridge's memory attributes.
    pub steering: Arc<dyn Steering>,
}

impl Surroundings<'_> {
    fn is_uefi(&self) -> bool {
        self.firmware.is_some_and(Rom::is_uefi)
    }

    /// A row of the device table for an emulated device that has nothing to say of itself.
    pub fn counters(&self, name: &str) -> DeviceCounters {
        self.registry.device(name, Kind::Emulated, || "on".to_owned())
    }

    fn power(&self) -> Arc<dyn PowerControl> {
        Arc::clone(self.control) as Arc<_>
    }

    fn ports(&self, device: impl PortDevice + 'static, counters: &DeviceCounters, ranges: &[(u16, u16)]) {
        self.buses.add_ports(Arc::new(Mutex::new(device)), counters, ranges);
    }
}

/// Those of the emulated devices that others want to reach later.
pub(super) struct Chipset {
    pub serial: Arc<Mutex<Serial>>,
    pub power_management: Arc<Mutex<PowerManagement>>,
    pub keyboard: Arc<Mutex<I8042>>,
    /// The video adapter, if there is one.
    pub vga: Option<Arc<Mutex<Vga>>>,
    pci: Arc<Mutex<PciBus>>,
}

impl Chipset {
    /// The devices, on the buses. `files` is what firmware is told.
    pub fn new(
        around: &Surroundings<'_>,
        memory: &GuestMemory,
        output: SerialOutput,
        files: Vec<File>,
    ) -> Result<Self, fw_cfg::Error> {
        interrupt_controllers(around);
        timer(around);
        real_time_clock(around);
        let keyboard = keyboard_controller(around);
        let serial = serial_port(around, output);
        small_ports(around);
        firmware_configuration(around, memory, files)?;
        let (pci, power_management) = pci(around);
        let chipset =
            Self { serial, power_management, keyboard, vga: around.screen.then(|| vga(around)), pci };
        if let Some(vga) = &chipset.vga {
            chipset.add_function(vga::ADDRESS, Arc::clone(vga) as Arc<_>);
        }
        Ok(chipset)
    }

    /// Puts a function on the PCI bus.
    pub fn add_function(&self, address: FunctionAddress, function: Arc<Mutex<dyn PciFunction>>) {
        self.pci.lock().unwrap_or_else(PoisonError::into_inner).add(address, function);
    }
}

fn interrupt_controllers(around: &Surroundings<'_>) {
    let counters = around.counters("pic");
    let ranges = [(pic::MASTER_PORT, 2), (pic::SLAVE_PORT, 2), (pic::ELCR_PORT, 2)];
    around.ports(Arc::clone(&around.interrupts.pic), &counters, &ranges);
    let counters = around.counters("ioapic");
    let ioapic = Arc::new(Mutex::new(Arc::clone(&around.interrupts.ioapic)));
    around.buses.add_memory(ioapic, &counters, IOAPIC, ioapic::LENGTH);
}

fn timer(around: &Surroundings<'_>) {
    let counters = around.counters("pit");
    let irq = around.interrupts.counted_isa(0, &counters);
    let pit = pit::Pit::new(Arc::clone(around.clock), around.timers, irq);
    around.buses.add_ports(pit, &counters, &[(pit::PORT, 4), (pit::CONTROL_PORT_B, 1)]);
}

fn real_time_clock(around: &Surroundings<'_>) {
    let counters = around.counters("rtc");
    let irq = around.interrupts.counted_isa(rtc::IRQ, &counters);
    let rtc = rtc::Rtc::new(Arc::clone(around.clock), around.timers, irq);
    let below_4g = memory_map::low_ram_end(around.memory_size);
    let above_4g = around.memory_size - below_4g;
    rtc.lock().unwrap_or_else(PoisonError::into_inner).set_memory_size(below_4g, above_4g);
    around.buses.add_ports(rtc, &counters, &[(rtc::PORT, 4)]);
}

fn keyboard_controller(around: &Surroundings<'_>) -> Arc<Mutex<I8042>> {
    let counters = around.counters("ps2");
    let keyboard = around.interrupts.counted_isa(i8042::KEYBOARD_IRQ, &counters);
    let mouse = around.interrupts.counted_isa(i8042::MOUSE_IRQ, &counters);
    let controller = Arc::new(Mutex::new(I8042::new(keyboard, mouse, around.power())));
    let ports = Arc::clone(&controller);
    around.buses.add_ports(ports, &counters, &[(i8042::DATA, 1), (i8042::COMMAND, 1)]);
    controller
}

fn vga(around: &Surroundings<'_>) -> Arc<Mutex<Vga>> {
    // UEFI firmware has a driver for that one.
    let identity = if around.is_uefi() { vga::BOCHS } else { (vga::VENDOR, vga::DEVICE) };
    let mut vga = Vga::with_identity(Arc::clone(around.clock), identity);
    if around.firmware.is_none() {
        vga.set_text_mode();
    }
    let vga = Arc::new(Mutex::new(vga));
    let state = Arc::downgrade(&vga);
    let counters = around.registry.device("vga", Kind::Emulated, move || {
        let vga = state.upgrade();
        vga.map_or_else(|| "gone".to_owned(), |vga| super::lock(&vga).mode())
    });
    let ports = [(vga::PORT, vga::PORTS), (vga::DISPI_PORT, vga::DISPI_PORTS)];
    around.buses.add_ports(Arc::clone(&vga) as Arc<_>, &counters, &ports);
    let Window { start, end } = VIDEO_WINDOW;
    around.buses.add_memory(Arc::clone(&vga) as Arc<_>, &counters, start, end - start);
    let linear = Arc::new(Mutex::new(LinearWindow::new(Arc::clone(&vga))));
    around.buses.add_memory_region(vga::ADDRESS, vga::LINEAR_REGION, linear, &counters);
    let registers = Arc::new(Mutex::new(RegisterWindow::new(Arc::clone(&vga))));
    around.buses.add_memory_region(vga::ADDRESS, vga::REGISTER_REGION, registers, &counters);
    vga
}

fn serial_port(around: &Surroundings<'_>, output: SerialOutput) -> Arc<Mutex<Serial>> {
    let counters = around.counters("serial0");
    let irq = around.interrupts.isa(serial::COM1_IRQ);
    let output = Box::new(SharedOutput(output));
    let serial = Arc::new(Mutex::new(Serial::new(serial::COM1, irq, output, counters.clone())));
    around.buses.add_ports(Arc::clone(&serial) as Arc<_>, &counters, &[(serial::COM1, serial::PORTS)]);
    serial
}

fn small_ports(around: &Surroundings<'_>) {
    let counters = around.counters("reset");
    around.ports(ResetControl::new(around.power()), &counters, &[(reset_control::PORT, 1)]);
    around.ports(Port92::new(around.power()), &counters, &[(port92::PORT, 1)]);
    let counters = around.counters("debug");
    let ports = [(debug_ports::DEBUG_CONSOLE, 1), (debug_ports::POST_CODE, 1)];
    around.ports(DebugPorts::new(Box::new(FirmwareLog::default())), &counters, &ports);
}

/// How firmware learns of the machine.
fn firmware_configuration(
    around: &Surroundings<'_>,
    memory: &GuestMemory,
    files: Vec<File>,
) -> Result<(), fw_cfg::Error> {
    let counters = around.counters("fw-cfg");
    let mut device = FwCfg::new(memory.clone());
    device.set_item(RAM_SIZE, around.memory_size.to_le_bytes().to_vec());
    let processors = around.cpus as u16;
    for selector in [PROCESSORS, MOST_PROCESSORS] {
        device.set_item(selector, processors.to_le_bytes().to_vec());
    }
    for (name, bytes) in files {
        device.add_file(&name, bytes)?;
    }
    around.ports(device, &counters, &[(fw_cfg::PORT, fw_cfg::PORTS)]);
    Ok(())
}

fn pci(around: &Surroundings<'_>) -> (Arc<Mutex<PciBus>>, Arc<Mutex<PowerManagement>>) {
    let counters = around.counters("acpi");
    let sci = around.interrupts.counted_isa(acpi_pm::SCI, &counters);
    let clock = Arc::clone(around.clock);
    let power_management = PowerManagement::new(clock, around.timers, sci, around.power());
    let ports = Arc::clone(&power_management);
    around.buses.add_ports(ports, &counters, &[(acpi_pm::SMI_COMMAND, 2)]);
    let ports = Arc::clone(&power_management);
    around.buses.add_port_region(
        pci::power_management(around.south_bridge),
        acpi_pm::PM_REGION,
        ports,
        &counters,
    );

    let mut bus = PciBus::new(Arc::new(WeakListener(Arc::downgrade(around.buses))));
    let steering = Arc::clone(&around.steering);
    let bridge = match around.firmware {
        Some(rom) if rom.is_uefi() => HostBridge::for_uefi(steering),
        Some(_) => HostBridge::for_firmware(steering),
        None => HostBridge::new(steering),
    };
    bus.add(pci::HOST_BRIDGE, Arc::new(Mutex::new(bridge)));
    bus.add(
        pci::isa_bridge(around.south_bridge),
        Arc::new(Mutex::new(IsaBridge::new(around.interrupts.router()))),
    );
    bus.add(pci::power_management(around.south_bridge), Arc::clone(&power_management) as Arc<_>);
    let bus = Arc::new(Mutex::new(bus));
    let counters = around.counters("pci");
    // Port 0xcf9 within is the reset control register's, which has claimed it before.
    around.buses.add_ports(Arc::clone(&bus) as Arc<_>, &counters, &[(pci::CONFIG_ADDRESS, 8)]);
    (bus, power_management)
}

/// The buses have the PCI bus, which tells them of changes in turn.
struct WeakListener(Weak<Buses>);

impl BarListener for WeakListener {
    fn bars_changed(&self, address: FunctionAddress, mappings: &[BarMapping]) {
        if let Some(buses) = self.0.upgrade() {
            buses.bars_changed(address, mappings);
        }
    }
}
