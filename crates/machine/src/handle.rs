//! How others reach a machine that runs.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use chipset::vga::Vga;
use counters::{DeviceRow, Kind, Registry};
use display::Key;
use gdb::Debuggee;
use integration::{AskError, KeyValues, ServiceKind, ServiceStatus, Services, Shutdown};
use processor_soft::Inspection;
use serde::{Deserialize, Serialize};
use synthetic::socket::Sockets;

use crate::backup::{self, BackupError};
use crate::build::{Bus, Engine, Panel};
use crate::config::{DiskConfig, MachineConfig, NetConfig};
use crate::control::{Control, End, Wish};
use crate::debug::Debug;
use crate::disks::{ChangeError, DiskStatus, Disks, DriveStatus};
use crate::networks::{NetStatus, Networks};

/// How a machine is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Its name.
    pub name: String,
    /// Number of processors.
    pub cpus: u32,
    /// Bytes of RAM.
    pub memory: u64,
    /// What carries out its instructions.
    pub processor: String,
    /// Milliseconds since it was started.
    pub uptime_ms: u64,
    /// How often it has been reset.
    pub resets: u64,
    /// Guest instructions carried out since the last reset, if they are counted.
    pub instructions: Option<u64>,
    /// The VMBus version that the guest speaks, while it is connected.
    pub vmbus: Option<String>,
    /// Whether it has come to its end.
    pub ended: bool,
}

/// Why an integration service does not serve.
#[derive(Debug, thiserror::Error)]
pub enum IntegrationError {
    /// There is no VMBus.
    #[error("the machine has no integration services: --synthetic or --enlightenments leave them out")]
    None,
    /// It is enabled, or disabled, already.
    #[error("the service \"{0}\" is {1} already")]
    Already(ServiceKind, &'static str),
    /// It cannot be offered.
    #[error("the service \"{0}\" cannot be enabled now: the guest still lets go of it")]
    Busy(ServiceKind),
    /// A file of the host cannot be read.
    #[error("{0}: {1}")]
    File(String, String),
    /// The guest does not do it.
    #[error(transparent)]
    Guest(#[from] AskError),
    /// There is no backup.
    #[error(transparent)]
    Backup(#[from] BackupError),
}

/// The integration services of a machine, as its guest uses them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct IntegrationStatus {
    /// How many of the enabled services work: none, some or all.
    pub components: Components,
    /// Each service.
    pub services: Vec<ServiceStatus>,
    /// Each synthetic device but the services.
    #[serde(default)]
    pub devices: Vec<SyntheticDevice>,
    /// The key-value pairs, if the guest's program tells them.
    pub key_values: Option<KeyValues>,
}

/// A synthetic device, as the guest uses it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct SyntheticDevice {
    /// Its name in the device table.
    pub device: String,
    /// Whether a driver of the guest has it.
    pub driver: bool,
    /// What else it says of itself.
    pub state: String,
}

/// How much of the integration components a guest has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Components {
    /// Nothing.
    None,
    /// Some of the services that are enabled.
    Partial,
    /// All of them.
    Full,
}

/// Why a screen cannot be seen.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScreenError {
    /// There is no video adapter.
    #[error("the machine has no screen: one that starts with firmware or a multiboot kernel has")]
    None,
    /// It shows no text.
    #[error("the screen shows graphics ({0}), not text")]
    Graphics(String),
    /// It has no pixels.
    #[error("the screen has not been set up yet")]
    Blank,
    /// The machine is not there any more.
    #[error("the machine has come to its end")]
    Ended,
}

pub(crate) struct Shared {
    pub config: MachineConfig,
    pub engine: Engine,
    pub disks: Arc<Disks>,
    pub networks: Arc<Networks>,
    /// Sockets between host and guest, if there are to be any.
    pub sockets: Option<Arc<Sockets>>,
    /// The integration services that the guest is offered.
    pub services: Mutex<Services>,
    pub control: Arc<Control>,
    pub registry: Arc<Registry>,
    pub inspection: Arc<Inspection>,
    pub panel: Mutex<Option<Arc<Panel>>>,
    /// The device table as it was at the end.
    pub last_table: Mutex<Option<Vec<DeviceRow>>>,
    pub resets: AtomicU64,
    pub started: Instant,
    /// The way of a debugger, if there may be one.
    pub debug: Option<Arc<Debug>>,
}

/// A machine that runs, as others may have it: its buttons, its serial port, its counts.
#[derive(Clone)]
pub struct MachineHandle {
    pub(crate) shared: Arc<Shared>,
}

impl MachineHandle {
    /// Presses the power button: the guest is asked to power off.
    pub fn power_button(&self) {
        if let Some(panel) = self.panel() {
            panel.power_button();
        }
    }

    /// Presses the reset button.
    pub fn reset(&self) {
        self.shared.control.wish(Wish::Reset);
    }

    /// Pulls the plug; what the guest has written is brought to stable storage.
    pub fn stop(&self) {
        self.shared.control.wish(Wish::End(End::Stopped));
    }

    /// Gives bytes to the serial port. Returns how many it took; 0 if it has no room at present.
    pub fn serial_input(&self, bytes: &[u8]) -> usize {
        self.panel().map_or(0, |panel| panel.serial_input(bytes))
    }

    fn bus<T>(&self, f: impl FnOnce(&Bus) -> Result<T, IntegrationError>) -> Result<T, IntegrationError> {
        f(self.panel().as_ref().and_then(|panel| panel.bus()).ok_or(IntegrationError::None)?)
    }

    /// How the integration services are. Asks the guest for its key-value pairs, which takes seconds if it does not
    /// answer.
    ///
    /// # Errors
    /// When the machine has none.
    pub fn integration(&self) -> Result<IntegrationStatus, IntegrationError> {
        let enabled = *self.shared.services.lock().unwrap_or_else(PoisonError::into_inner);
        self.bus(|bus| {
            let services = bus.integration.status(enabled);
            let of = |state| services.iter().filter(|service| service.state == state).count();
            let components = match of(integration::State::Ok) {
                0 => Components::None,
                working if working == enabled.iter().count() => Components::Full,
                _ => Components::Partial,
            };
            let talks = |service: &ServiceStatus| {
                service.service == ServiceKind::KeyValue && service.state == integration::State::Ok
            };
            let key_values =
                if services.iter().any(talks) { bus.integration.key_values().ok() } else { None };
            let is_service =
                |row: &DeviceRow| services.iter().any(|service| service.service.name() == row.name);
            let synthetic = |row: &DeviceRow| row.kind == Kind::Synthetic && !is_service(row);
            let rows = self.shared.registry.table().into_iter().filter(synthetic);
            let device = |DeviceRow { name: device, driver, state, .. }| {
                Some(SyntheticDevice { device, driver: driver?, state })
            };
            let devices = rows.filter_map(device).collect();
            Ok(IntegrationStatus { components, services, devices, key_values })
        })
    }

    /// Asks the guest's system to power off, restart or hibernate. On return it has said that it will.
    ///
    /// # Errors
    /// When it has no driver for that, refuses or does not answer.
    pub fn shut_down(&self, what: Shutdown, force: bool) -> Result<(), IntegrationError> {
        self.bus(|bus| Ok(bus.integration.shut_down(what, force)?))
    }

    /// Leaves a key-value pair for the guest.
    ///
    /// # Errors
    /// When it is too long, or the guest has no program for it, refuses or does not answer.
    pub fn set_key(&self, key: &str, value: &str) -> Result<(), IntegrationError> {
        self.bus(|bus| Ok(bus.integration.set_key(key, value)?))
    }

    /// Takes a key-value pair back that was left for the guest.
    ///
    /// # Errors
    /// When there is none, or the guest has no program for it, refuses or does not answer.
    pub fn delete_key(&self, key: &str) -> Result<(), IntegrationError> {
        self.bus(|bus| Ok(bus.integration.delete_key(key)?))
    }

    /// Puts the host's file `from` into the guest as `to`, an absolute path. Folders that are missing are made there.
    ///
    /// # Errors
    /// When the file cannot be read, or the guest has no program for it, has the file already and `overwrite` is false,
    /// has no room, refuses or does not answer.
    pub fn copy_file(&self, from: &Path, to: &str, overwrite: bool) -> Result<(), IntegrationError> {
        let open = || {
            let file = File::open(from)?;
            let about = file.metadata()?;
            if !about.is_file() {
                return Err(io::Error::other("is no regular file"));
            }
            Ok((file, about.len()))
        };
        let (file, size) =
            open().map_err(|error| IntegrationError::File(from.display().to_string(), error.to_string()))?;
        self.bus(|bus| {
            let contents = Box::new(file);
            let file = integration::File { path: to.to_owned(), size, contents, overwrite };
            Ok(bus.integration.copy_file(file)?)
        })
    }

    /// Copies all disks while the guest's file systems stand still: to a raw image if there is one disk, else to a
    /// folder of images. What is there already is left alone.
    ///
    /// # Errors
    /// When the copies cannot be made or the guest does not stand still. Nothing is left of them then.
    pub fn back_up(&self, target: &Path) -> Result<(), IntegrationError> {
        self.bus(|bus| Ok(backup::back_up(self.shared.disks.media(), target, &bus.integration)?))
    }

    /// Offers an integration service to the guest, or takes it away, now and after resets.
    ///
    /// # Errors
    /// When that is so already, or the guest has not let go of what was taken away before.
    pub fn enable_service(&self, service: ServiceKind, on: bool) -> Result<(), IntegrationError> {
        let mut enabled = self.shared.services.lock().unwrap_or_else(PoisonError::into_inner);
        if enabled.contains(service) == on {
            return Err(IntegrationError::Already(service, if on { "enabled" } else { "disabled" }));
        }
        self.bus(|bus| {
            if on {
                let offered = bus.integration.enable(service, &bus.server);
                offered.map_err(|_| IntegrationError::Busy(service))?;
                *enabled = enabled.with(service);
            } else {
                bus.integration.disable(service, &bus.server);
                *enabled = enabled.without(service);
            }
            Ok(())
        })
    }

    /// The screen as a PNG file.
    ///
    /// # Errors
    /// When there is no screen, or nothing on it.
    pub fn screenshot(&self) -> Result<Vec<u8>, ScreenError> {
        let frame = self.with_vga(|vga| Ok(vga.frame()))?;
        frame.png().map_err(|_| ScreenError::Blank)
    }

    /// The screen's text.
    ///
    /// # Errors
    /// When there is no screen, or it shows graphics.
    pub fn screen_text(&self) -> Result<String, ScreenError> {
        self.with_vga(|vga| {
            vga.text().map(|text| text.text()).ok_or_else(|| ScreenError::Graphics(vga.mode()))
        })
    }

    fn with_vga<T>(&self, look: impl FnOnce(&Vga) -> Result<T, ScreenError>) -> Result<T, ScreenError> {
        let panel = self.panel().ok_or(ScreenError::Ended)?;
        let vga = panel.vga().ok_or(ScreenError::None)?;
        look(&vga.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A key of the keyboard goes down or up. False if the guest did not take it: it does not listen, or not fast
    /// enough.
    pub fn key(&self, key: Key, pressed: bool) -> bool {
        self.panel().is_some_and(|panel| panel.key(key, pressed))
    }

    /// Whether the guest has taken all that the keyboard had to say.
    pub fn keyboard_idle(&self) -> bool {
        self.panel().is_some_and(|panel| panel.keyboard_idle())
    }

    /// The machine as a debugger sees it, if its configuration lets one come.
    pub fn debuggee(&self) -> Option<Arc<dyn Debuggee>> {
        self.shared.debug.clone().map(|debug| debug as Arc<_>)
    }

    /// Whether the machine has come to its end.
    pub fn ended(&self) -> bool {
        self.shared.control.ended()
    }

    /// The device table; of a machine that has ended, as it was then.
    pub fn devices(&self) -> Vec<DeviceRow> {
        let last = self.shared.last_table.lock().unwrap_or_else(PoisonError::into_inner).clone();
        last.unwrap_or_else(|| self.shared.registry.table())
    }

    /// The counts that belong to no device.
    pub fn counts(&self) -> Vec<(String, u64)> {
        self.shared.registry.named_values()
    }

    /// The configuration, with the disks, the disc and the network adapters that are present now.
    pub fn config(&self) -> MachineConfig {
        let config = self.shared.disks.present(&self.shared.config);
        MachineConfig { nets: self.shared.networks.present(), ..config }
    }

    /// The disks that are present.
    pub fn disks(&self) -> Vec<DiskStatus> {
        self.shared.disks.status()
    }

    /// The optical drive, if there is one.
    pub fn drive(&self) -> Option<DriveStatus> {
        self.shared.disks.drive_status()
    }

    /// Opens and locks a disk and puts it on the synthetic SCSI controller, where it also is after a reset.
    /// Returns its name.
    ///
    /// # Errors
    /// When the disk does not do or the machine takes none. Nothing has been changed then.
    pub fn attach_disk(&self, disk: &DiskConfig) -> Result<String, ChangeError> {
        self.shared.disks.attach(disk)
    }

    /// Takes the disk called `which`, or with that file, from the synthetic SCSI controller, as if it had been
    /// pulled out. On return it is flushed and its image is free.
    ///
    /// # Errors
    /// When there is no such disk or it cannot be detached; after it has been, when it cannot be flushed.
    pub fn detach_disk(&self, which: &str) -> Result<(), ChangeError> {
        self.shared.disks.detach(which)
    }

    /// Puts an ISO image into the optical drive, in place of what is there.
    ///
    /// # Errors
    /// When there is no drive, the image does not do or the guest holds the disc that is there.
    pub fn insert_disc(&self, file: &Path) -> Result<(), ChangeError> {
        self.shared.disks.insert(file)
    }

    /// Takes the disc out of the optical drive; with `force` also when the guest holds it.
    ///
    /// # Errors
    /// When there is no drive or no disc, or the guest holds it.
    pub fn eject_disc(&self, force: bool) -> Result<(), ChangeError> {
        self.shared.disks.eject(force)
    }

    /// The network adapters that are present.
    pub fn nets(&self) -> Vec<NetStatus> {
        self.shared.networks.status()
    }

    /// Makes a network and gives the guest a synthetic adapter, which it also has after a reset. Returns its name.
    ///
    /// # Errors
    /// When the host does not allow it, or the machine takes none. Nothing has been changed then.
    pub fn attach_net(&self, net: &NetConfig) -> Result<String, ChangeError> {
        self.shared.networks.attach(net)
    }

    /// Takes the synthetic adapter called `name` away, as if it had been pulled out.
    ///
    /// # Errors
    /// When there is no such adapter, or it cannot be detached.
    pub fn detach_net(&self, name: &str) -> Result<(), ChangeError> {
        self.shared.networks.detach(name)
    }

    /// Plugs in the cable of the adapter called `name`, or pulls it out.
    ///
    /// # Errors
    /// When there is no such adapter.
    pub fn set_link(&self, name: &str, up: bool) -> Result<(), ChangeError> {
        self.shared.networks.set_link(name, up)
    }

    /// How the machine is.
    pub fn status(&self) -> Status {
        let (shared, panel) = (&self.shared, self.panel());
        Status {
            name: shared.config.name.clone(),
            cpus: shared.config.cpus,
            memory: shared.config.memory.0,
            processor: shared.engine.to_string(),
            uptime_ms: u64::try_from(shared.started.elapsed().as_millis()).unwrap_or(u64::MAX),
            resets: shared.resets.load(Ordering::Relaxed),
            instructions: panel.as_ref().and_then(|panel| panel.instructions()),
            vmbus: panel.as_ref().and_then(|panel| panel.vmbus_version()),
            ended: self.ended(),
        }
    }

    fn panel(&self) -> Option<Arc<Panel>> {
        self.shared.panel.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
