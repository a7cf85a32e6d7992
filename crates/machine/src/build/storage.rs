//! The disks on their controllers.
//!
//! ```text
//! disk ─┬─▶ emulated IDE, position 0–3
//!       └─▶ VMBus: an IDE-type channel of the same disk, or a unit of the SCSI controller
//! ```

use std::sync::Arc;

use counters::{Kind, Registry};
use storage::scsi::DiskUnit;
use synthetic::storage::{Controller, ScsiSettings, scsi_instance};
use vmbus::Server;

use crate::Error;
use crate::config::MachineConfig;
use crate::disks::AttachedDisk;

/// Offers the synthetic sides of `disks` on `bus`.
pub(super) fn offer(
    bus: &Server,
    config: &MachineConfig,
    disks: &[AttachedDisk],
    registry: &Registry,
) -> Result<(), Error> {
    let on_ide = disks.iter().filter(|disk| disk.at.synthetic);
    for (disk, position) in on_ide.filter_map(|disk| Some((disk, disk.at.ide?))) {
        let name = format!("storvsc-ide{position}");
        let controller = registered(registry, &name, |counters| {
            Controller::ide(&name, position >> 1, position & 1, disk.disk.clone(), counters)
        });
        bus.offer(controller)?;
    }
    let units: Vec<_> = disks.iter().filter(|disk| disk.at.synthetic && disk.at.ide.is_none()).collect();
    if units.is_empty() {
        return Ok(());
    }
    let controller = registered(registry, "scsi0", |counters| {
        Controller::scsi(ScsiSettings {
            name: "scsi0".to_owned(),
            instance: scsi_instance(0),
            subchannels: (config.cpus - 1) as u16,
            counters,
        })
    });
    for (lun, disk) in (0..).zip(units) {
        controller.attach(lun, Arc::new(DiskUnit::new(Arc::clone(&disk.disk.disk))));
    }
    bus.offer(controller)?;
    Ok(())
}

/// A controller with its row in the device table, each of which needs the other.
fn registered(
    registry: &Registry,
    name: &str,
    make: impl FnOnce(counters::DeviceCounters) -> Arc<Controller>,
) -> Arc<Controller> {
    let slot = Arc::new(std::sync::OnceLock::<std::sync::Weak<Controller>>::new());
    let state = Arc::clone(&slot);
    let counters = registry.device(name, Kind::Synthetic, move || {
        let controller = state.get().and_then(std::sync::Weak::upgrade);
        controller.map_or_else(|| "gone".to_owned(), |controller| controller.state())
    });
    let controller = make(counters);
    slot.get_or_init(|| Arc::downgrade(&controller));
    controller
}
