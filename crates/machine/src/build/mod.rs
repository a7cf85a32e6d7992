//! From a configuration to a board: everything that lives from power-on to the next reset.

mod chipset;
mod hypervisor;
mod integration;
mod legacy_network;
mod memory;
mod network;
mod output;
mod processors;
mod rom;
mod set_up;
mod shadow;
mod storage;
mod test_devices;
mod wiring;

#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, PoisonError, Weak};

use ::chipset::acpi_pm::{self, PowerManagement};
use ::chipset::apic::ApicBus;
use ::chipset::i8042::I8042;
use ::chipset::pci;
use ::chipset::serial::Serial;
use ::chipset::vga::Vga;
use ::integration::{Integration, Services};
use clock::{Clock, TimerQueue, Timers, VmClock};
use counters::Registry;
use display::Key;
use enlightenment::Enlightenment;
#[cfg(test)]
use guest_memory::CodePages;
use guest_memory::{GuestMemory, Shadow};
use interrupt::ProcessorSignal;
use processor::{Partition, Processor};
use processor_soft::{Inspection, SoftPartition};
use synthetic::socket::Sockets;
use vm_memory::{Bytes, GuestAddress};
use vmbus::Server;

use crate::Error;
use crate::acpi::{self, PciRouting, Platform};
use crate::boot::BootSource;
use crate::buses::Buses;
use crate::config::MachineConfig;
use crate::control::Control;
use crate::debug::{Access, Memory};
use crate::disks::Disks;
use crate::firmware;
use crate::memory_map::{
    self, ACPI_TABLES, ACPI_TABLES_SIZE, IOAPIC, LOCAL_APIC, PCI_WINDOW, SMBIOS_TABLES, VIDEO_WINDOW,
    VMBUS_WINDOW, VMBUS_WINDOW_UEFI, pci_window_uefi,
};
use crate::networks::Networks;
use crate::run::SerialOutput;
use crate::smbios;
use chipset::{Chipset, Surroundings};
use legacy_network::LegacyAdapters;
pub(crate) use network::NetworkBus;
pub(crate) use processors::Engine;
use processors::{Processors, Setting};
use wiring::{Interrupts, WeakSignal};

/// What a board is made of.
pub(crate) struct Parts<'a> {
    pub config: &'a MachineConfig,
    pub engine: &'a Engine,
    pub control: Arc<Control>,
    pub registry: Arc<Registry>,
    pub inspection: Arc<Inspection>,
    pub disks: &'a Arc<Disks>,
    pub networks: &'a Arc<Networks>,
    pub sockets: Option<&'a Sockets>,
    /// Which integration services are offered.
    pub services: Services,
    pub source: &'a mut BootSource,
    pub serial: SerialOutput,
}

/// A board with its processors, ready to run from power-on.
pub(crate) struct Board {
    partition: Arc<dyn Partition>,
    processors: Vec<Box<dyn Processor>>,
    /// The way from the local APICs to the processors, to which the APICs refer weakly.
    signals: Vec<Arc<dyn ProcessorSignal>>,
    /// The way from the IOAPIC, and from each local APIC, to all local APICs, to which they refer weakly.
    apics: Option<Arc<ApicBus>>,
    enlightenment: Option<Arc<Enlightenment>>,
    vmbus: Option<Bus>,
    /// The emulated network adapters, at work for as long as they live.
    legacy_adapters: LegacyAdapters,
    /// Serves the timers of all devices for as long as it lives.
    timers: Arc<TimerQueue>,
    panel: Arc<Panel>,
    disks: Arc<Disks>,
    networks: Arc<Networks>,
    clock: Arc<VmClock>,
    memory: GuestMemory,
    shadow: Arc<Shadow>,
    /// To see in tests whether all of the board goes with it.
    #[cfg(test)]
    code: Arc<CodePages>,
}

/// The outside of a board: buttons, connectors, lights.
pub(crate) struct Panel {
    serial: Arc<Mutex<Serial>>,
    power_management: Arc<Mutex<PowerManagement>>,
    keyboard: Arc<Mutex<I8042>>,
    vga: Option<Arc<Mutex<Vga>>>,
    partition: Weak<dyn Partition>,
    vmbus: Option<Bus>,
}

/// The VMBus, and those of its devices that are reached from outside.
#[derive(Clone)]
pub(crate) struct Bus {
    pub server: Server,
    pub integration: Arc<Integration>,
}

impl Board {
    /// Builds a board; with a kernel, loads it and leaves the boot processor at its entry.
    pub fn build(parts: Parts<'_>) -> Result<Self, Error> {
        let Parts {
            config,
            engine,
            control,
            registry,
            inspection,
            disks,
            networks,
            sockets,
            services,
            source,
            serial,
        } = parts;
        disks.reset();
        networks.reset();
        let rom = source.firmware().map_or(0..0, |rom| rom.base()..rom.base() + rom.bios().len() as u64);
        let vmbus_exists = config.has_vmbus()?;
        let uefi = source.firmware().is_some_and(firmware::Rom::is_uefi);
        let layout = memory::layout(config, uefi, rom);
        let (memory, code) = guest_memory::allocate_as(&layout)?;
        let platform = platform(config, vmbus_exists, source.has_screen(), uefi);
        let identity = if disks.taken_over() { smbios::HYPER_V } else { smbios::PLAIN };
        // Firmware finds its own way from the reset vector.
        let start = match source {
            BootSource::Kernel(files) => {
                write_tables(&memory, &acpi::tables(&platform, ACPI_TABLES))?;
                let written = memory.write_slice(&smbios::tables(identity), GuestAddress(SMBIOS_TABLES));
                written.map_err(|_| Error::Smbios)?;
                Some(files.load(&memory, config.memory.0, ACPI_TABLES)?)
            }
            BootSource::Firmware(_) => None,
        };
        let (firmware, screen) = (source.firmware(), source.has_screen());
        let rom = firmware.map(|rom| guest_memory::rom(rom.base(), rom.bios())).transpose()?;
        let shadow = shadow::of(firmware)?;
        let switch = shadow::Switch::new(Arc::clone(&shadow));

        let vm_clock = VmClock::new();
        let clock: Arc<dyn Clock> = Arc::clone(&vm_clock) as Arc<_>;
        let timers = TimerQueue::start(Arc::clone(&clock)).map_err(Error::Timers)?;
        let processors = Processors::new(
            engine,
            Setting {
                config,
                memory: &memory,
                rom,
                shadow: Arc::clone(&shadow),
                code: &code,
                clock: &vm_clock,
                inspection,
                registry: &registry,
                hypervisor: !config.features()?.is_empty(),
            },
        )?;
        let (interrupts, signals) = match &processors {
            Processors::Soft(partition) => {
                let interrupts = Interrupts::new(config.cpus, &clock, &*timers);
                let signals = connect_processors(partition, &interrupts);
                (interrupts, signals)
            }
            Processors::Kvm(partition, _) => {
                let target = partition.message_target();
                let interrupts = Interrupts::before(partition.interrupt_line(), Arc::downgrade(&target));
                Processors::attach_controllers(partition, &interrupts);
                (interrupts, Vec::new())
            }
        };

        let buses = Buses::new();
        let around = Surroundings {
            clock: &clock,
            timers: &*timers,
            interrupts: &interrupts,
            buses: &buses,
            registry: &registry,
            control: &control,
            memory_size: config.memory.0,
            cpus: config.cpus,
            firmware,
            south_bridge: platform.south_bridge,
            screen,
            steering: Arc::clone(&switch) as Arc<_>,
        };
        let files = firmware.map(|rom| firmware::files(rom, config, &platform, identity, disks));
        let chipset = Chipset::new(&around, &memory, serial, files.unwrap_or_default())?;
        storage::ide(&chipset, &around, &memory, disks);
        let legacy_adapters = LegacyAdapters::new(&chipset, &around, &memory, networks)?;
        shadow::add(&around, &memory, &shadow);
        match firmware {
            Some(rom) => rom::add(&around, rom),
            None => set_up::functions(&*buses, legacy_adapters.addresses()),
        }
        if config.test_devices {
            test_devices::add(&around);
        }
        processors.attach_bus(Arc::clone(&buses) as Arc<_>);
        switch.connect(&processors.partition());
        processors.describe(&registry, engine);

        let shared_timers: Arc<dyn Timers> = Arc::clone(&timers) as Arc<_>;
        let around = hypervisor::Surroundings {
            config,
            memory: &memory,
            code: &code,
            clock: &clock,
            timers: &shared_timers,
            interrupts: &interrupts,
            processors: &processors,
            registry: &registry,
            control: &control,
        };
        let enlightenment = hypervisor::enlightenment(&around)?;
        let mut vmbus = None;
        if let Some(enlightenment) = &enlightenment {
            processors.attach_hypervisor(Arc::clone(enlightenment) as Arc<_>);
            if config.test_devices {
                test_devices::add_synic(&buses, &registry, enlightenment);
            }
            if vmbus_exists {
                let server = hypervisor::vmbus(&around, enlightenment);
                storage::offer(&server, config, disks, &registry)?;
                memory::offer(&server, config, &memory, &processors, &registry)?;
                networks.connect(NetworkBus::new(server.clone(), Arc::clone(&registry)))?;
                if let Some(sockets) = sockets {
                    sockets.attach(&server);
                }
                let partition = processors.partition();
                let integration = integration::new(&clock, &partition, enlightenment, &registry)?;
                for service in services.iter() {
                    integration.enable(service, &server)?;
                }
                vmbus = Some(Bus { server, integration });
            }
        }

        let partition = processors.partition();
        let mut processors = (0..config.cpus)
            .map(|index| partition.processor(index))
            .collect::<Result<Vec<_>, processor::Error>>()?;
        if let Some(start) = start {
            processors.iter_mut().try_for_each(|processor| processor.leave_as_firmware_does())?;
            if let Some(boot) = processors.first_mut() {
                boot.start_at(&start)?;
            }
        }
        let panel = Arc::new(Panel {
            serial: chipset.serial,
            power_management: chipset.power_management,
            keyboard: chipset.keyboard,
            vga: chipset.vga,
            partition: Arc::downgrade(&partition),
            vmbus: vmbus.clone(),
        });
        Ok(Self {
            partition,
            processors,
            signals,
            apics: interrupts.apics.clone(),
            enlightenment,
            vmbus,
            legacy_adapters,
            timers,
            panel,
            disks: Arc::clone(disks),
            networks: Arc::clone(networks),
            clock: vm_clock,
            memory,
            shadow,
            #[cfg(test)]
            code,
        })
    }

    /// The outside of the board.
    pub fn panel(&self) -> Arc<Panel> {
        Arc::clone(&self.panel)
    }

    /// The processors, by index; each belongs on a thread of its own.
    pub fn take_processors(&mut self) -> Vec<Box<dyn Processor>> {
        std::mem::take(&mut self.processors)
    }

    /// Whether a debugger can look into all processors.
    pub fn can_be_debugged(&mut self) -> bool {
        self.processors.iter_mut().all(|processor| processor.debug().is_some())
    }

    /// What a debugger works on.
    pub fn debug_access(&self) -> Access {
        Access {
            partition: Arc::clone(&self.partition) as Arc<_>,
            clock: Arc::clone(&self.clock),
            memory: Memory { ram: self.memory.clone(), shadow: Arc::clone(&self.shadow) },
        }
    }

    /// Makes the processors stop.
    pub fn stop(&self) {
        self.partition.stop();
    }

    /// Takes the board apart, with its processors stopped: channels are closed and their requests carried
    /// out.
    pub fn shut_down(self) {
        if let Some(vmbus) = &self.vmbus {
            vmbus.server.reset();
        }
        self.disks.reset();
        self.networks.reset();
        if let Some(enlightenment) = &self.enlightenment {
            enlightenment.detach();
        }
        drop(self.legacy_adapters);
        drop(self.signals);
        drop(self.apics);
        drop(self.timers);
    }
}

impl Panel {
    pub fn power_button(&self) {
        if !lock(&self.power_management).power_button() {
            tracing::info!("the guest does not listen to the power button");
        }
    }

    pub fn serial_input(&self, bytes: &[u8]) -> usize {
        lock(&self.serial).receive(bytes)
    }

    /// A key goes down or up. False if the guest did not take it.
    pub fn key(&self, key: Key, pressed: bool) -> bool {
        lock(&self.keyboard).key(key.0, pressed)
    }

    pub fn keyboard_idle(&self) -> bool {
        lock(&self.keyboard).keyboard_idle()
    }

    pub fn vga(&self) -> Option<&Mutex<Vga>> {
        self.vga.as_deref()
    }

    /// The VMBus, if there is one.
    pub fn bus(&self) -> Option<&Bus> {
        self.vmbus.as_ref()
    }

    pub fn instructions(&self) -> Option<u64> {
        self.partition.upgrade().and_then(|partition| partition.instructions())
    }

    pub fn vmbus_version(&self) -> Option<String> {
        self.vmbus.as_ref().and_then(|bus| bus.server.version()).map(|version| version.to_string())
    }
}

fn lock<T: ?Sized>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the ACPI tables say of a board.
fn platform(config: &MachineConfig, vmbus: bool, video: bool, uefi: bool) -> Platform {
    let (south_bridge, pci_window, vmbus_window) = match uefi {
        true => (pci::SOUTH_BRIDGE_OF_QEMU, pci_window_uefi(config.memory.0), VMBUS_WINDOW_UEFI),
        false => (pci::SOUTH_BRIDGE, PCI_WINDOW, VMBUS_WINDOW),
    };
    Platform {
        processors: config.cpus,
        local_apic: LOCAL_APIC,
        ioapic: IOAPIC,
        ioapic_id: 0,
        pm_base: acpi_pm::PM_BASE,
        sci: acpi_pm::SCI,
        smi_command: (acpi_pm::SMI_COMMAND, acpi_pm::ACPI_ENABLE, acpi_pm::ACPI_DISABLE),
        south_bridge,
        pci_window,
        pci_routing: PciRouting { line: pci::pirq_of, ioapic: pci::IOAPIC_PINS, pic: pci::FIRMWARE_ROUTES },
        ram: memory_map::ram(config.memory.0),
        growth: memory::layout(config, uefi, 0..0).more,
        vmbus_window: vmbus.then_some(vmbus_window),
        video_window: video.then_some(VIDEO_WINDOW),
    }
}

fn write_tables(memory: &GuestMemory, tables: &[u8]) -> Result<(), Error> {
    let fits = tables.len() as u64 <= ACPI_TABLES_SIZE;
    let written = memory.write_slice(tables, GuestAddress(ACPI_TABLES));
    if !fits || written.is_err() {
        return Err(Error::AcpiTables(tables.len()));
    }
    Ok(())
}

fn connect_processors(partition: &SoftPartition, interrupts: &Interrupts) -> Vec<Arc<dyn ProcessorSignal>> {
    let connect = |(index, apic): (u32, &Arc<::chipset::apic::Apic>)| {
        let signal = partition.signal(index);
        apic.connect_processor(Arc::new(WeakSignal(Arc::downgrade(&signal))));
        partition.attach_apic(index, Arc::clone(apic) as Arc<_>);
        signal
    };
    (0..).zip(interrupts.apics.iter().flat_map(|bus| bus.apics())).map(connect).collect()
}
