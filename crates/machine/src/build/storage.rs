//! The disks on their controllers.
//!
//! ```text
//! disk ─┬─▶ emulated IDE, position 0–3
//!       └─▶ VMBus: an IDE-type channel of the same disk, or a unit of the SCSI controller
//! ```

use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use chipset::ide::{self, Attachment, BUS_MASTER_REGION, CHANNEL_REGIONS, IdeController};
use chipset::{PortDevice, pci};
use counters::{Counter, DeviceCounters, Kind, Registry};
use guest_memory::GuestMemory;
use storage::{Owner, SharedDisk};
use synthetic::storage::{Controller, ScsiSettings, scsi_instance};
use vmbus::Server;

use super::chipset::{Chipset, Surroundings};
use crate::Error;
use crate::config::MachineConfig;
use crate::disks::{AttachedDisk, Disks, Place};

const CHANNELS: usize = 2;

/// Offers the synthetic sides of `disks` on `bus`.
pub(super) fn offer(
    bus: &Server,
    config: &MachineConfig,
    disks: &Disks,
    registry: &Registry,
) -> Result<(), Error> {
    for disk in disks.on_ide() {
        let Place::Ide { position, synthetic: true } = disk.place else { continue };
        let name = format!("storvsc-ide{position}");
        let controller = registered(registry, &name, |counters| {
            Controller::ide(&name, position >> 1, position & 1, disk.disk.clone(), counters)
        });
        bus.offer(controller)?;
    }
    // Also without units: some may come while the guest runs.
    let controller = registered(registry, "scsi0", |counters| {
        Controller::scsi(ScsiSettings {
            name: "scsi0".to_owned(),
            instance: scsi_instance(0),
            subchannels: (config.cpus - 1) as u16,
            counters,
        })
    });
    disks.connect(&controller);
    bus.offer(controller)?;
    Ok(())
}

/// A controller with its row in the device table.
fn registered(
    registry: &Registry,
    name: &str,
    make: impl FnOnce(DeviceCounters) -> Arc<Controller>,
) -> Arc<Controller> {
    let made: Result<_, Infallible> =
        registry.owner(name, Kind::Synthetic, Controller::state, |counters| Ok(make(counters)));
    let Ok(controller) = made;
    controller
}

/// The IDE controller with its drives.
pub(super) fn ide(chipset: &Chipset, around: &Surroundings<'_>, memory: &GuestMemory, disks: &Disks) {
    let lines = ide::CHANNEL_IRQS.map(|irq| around.interrupts.isa(irq));
    let mut controller = IdeController::new(lines, memory.clone());
    // The exits of a channel count for its first drive.
    let mut channels: [Option<DeviceCounters>; CHANNELS] = [None, None];
    let mut attach = |place: Place, attachment: Attachment, counters: DeviceCounters| {
        let Place::Ide { position, .. } = place else { return };
        let (channel, device) = (usize::from(position >> 1), usize::from(position & 1));
        controller.attach(channel, device, attachment, counters.clone());
        channels[channel].get_or_insert(counters);
    };
    for disk in disks.on_ide() {
        let counters = disk_row(around.registry, &disk);
        attach(disk.place, Attachment::Disk(disk.disk), counters);
    }
    if let Some(drive) = disks.drive().filter(|drive| drive.place.lun().is_none()) {
        let state = Arc::clone(drive);
        let name = drive.place.to_string();
        let counters = around.registry.device(name, Kind::Emulated, move || state.to_string());
        attach(drive.place, Attachment::Optical(Arc::clone(&drive.unit)), counters);
    }
    let mut names = ["ide-primary", "ide-secondary"].into_iter();
    let channels = channels.map(|counters| {
        let name = names.next().unwrap_or_default();
        counters.unwrap_or_else(|| around.registry.device(name, Kind::Emulated, || "no drive".to_owned()))
    });

    let controller = Arc::new(Mutex::new(controller));
    let address = pci::ide(around.south_bridge);
    for (region, counters) in CHANNEL_REGIONS.into_iter().zip(channels.iter().flat_map(|c| [c, c])) {
        around.buses.add_port_region(address, region, Arc::clone(&controller) as Arc<_>, counters);
    }
    let bus_master =
        BusMaster { controller: Arc::clone(&controller), exits: channels.map(|counters| counters.exits) };
    let uncounted = DeviceCounters::default();
    let bus_master = Arc::new(Mutex::new(bus_master));
    around.buses.add_port_region(address, BUS_MASTER_REGION, bus_master, &uncounted);
    chipset.add_function(address, controller);
}

/// The row of an IDE disk.
fn disk_row(registry: &Registry, disk: &AttachedDisk) -> DeviceCounters {
    let SharedDisk { ownership, .. } = disk.disk.clone();
    let name = disk.place.to_string();
    registry.device(name.clone(), Kind::Emulated, move || match ownership.owner() {
        Owner::Emulated => "disk".to_owned(),
        Owner::Synthetic => format!("taken over by storvsc-{name}"),
    })
}

/// The bus master's ports, eight for each channel, whose exits count for the channel.
struct BusMaster {
    controller: Arc<Mutex<IdeController>>,
    exits: [Counter; CHANNELS],
}

impl BusMaster {
    /// The range is aligned to its 16 ports.
    fn count(&self, port: u16) {
        self.exits[usize::from(port >> 3 & 1)].count();
    }
}

impl PortDevice for BusMaster {
    fn port_read(&mut self, port: u16, data: &mut [u8]) {
        self.count(port);
        super::lock(&self.controller).port_read(port, data);
    }

    fn port_write(&mut self, port: u16, data: &[u8]) {
        self.count(port);
        super::lock(&self.controller).port_write(port, data);
    }
}
