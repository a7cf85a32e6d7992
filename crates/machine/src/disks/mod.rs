//! The disks of a machine and its optical drive: opened and locked once, whatever happens to the machine around
//! them, where each of them hangs, and how they come and go while the guest runs.
//!
//! ```text
//! attach ─▶ opened, locked ─▶ unit of the SCSI controller ─▶ the guest is told
//! detach ─▶ the guest is told, its requests end ─▶ flushed ─▶ unlocked
//! reset  ─▶ the next board gets what is present
//! ```
//!
//! Lock order: the list of disks, then the drive's disc, then the units. None of them is held while requests
//! of the guest are waited for.

mod drive;
mod place;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use storage::scsi::DiskUnit;
use storage::{Disk, OpenOptions, Owner, SharedDisk};
use synthetic::storage::Controller;
use thiserror::Error;

use crate::config::{CdromConfig, DiskBus, DiskConfig, DiskFormat, InputError, MAX_DISKS, MachineConfig};
use crate::control::Failure;
pub(crate) use drive::Drive;
pub(crate) use place::Place;

/// How long requests that the guest has begun may keep a disk that is detached.
const RELEASE: Duration = Duration::from_secs(10);
/// How often is looked whether they are done.
const LOOK: Duration = Duration::from_millis(1);

/// Why a running machine's disks stay as they are.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ChangeError {
    /// What the user gave does not do.
    #[error("{0}")]
    Input(String),
    /// The machine, or the guest in it, does not allow it now.
    #[error("{0}")]
    Refused(String),
}

/// A disk that is present.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskStatus {
    /// What it is called: `ide0` for the first IDE position, `scsi0:1` for unit 1 of the SCSI controller.
    pub name: String,
    /// Its size.
    pub bytes: u64,
    /// What it was made of.
    pub config: DiskConfig,
}

/// An optical drive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DriveStatus {
    /// What it is called, as disks are.
    pub name: String,
    /// Its bus, and the disc in it.
    pub config: CdromConfig,
    /// Whether its tray is open.
    pub tray_open: bool,
    /// Whether the guest prevents that the disc is taken out.
    pub locked: bool,
}

/// A disk that is open.
#[derive(Clone)]
pub(crate) struct AttachedDisk {
    pub config: DiskConfig,
    pub disk: SharedDisk,
    pub place: Place,
}

#[derive(Default)]
struct State {
    disks: Vec<AttachedDisk>,
    /// The SCSI controller of the present board: none between two boards.
    controller: Option<Arc<Controller>>,
    /// Number of the newest unit.
    last_lun: Option<u8>,
    ended: bool,
}

/// All disks of a machine.
pub(crate) struct Disks {
    state: Mutex<State>,
    drive: Option<Arc<Drive>>,
    /// Whether boards have a SCSI controller.
    has_controller: bool,
}

impl Disks {
    /// Opens all disks of `config`.
    pub fn open(config: &MachineConfig) -> Result<Self, InputError> {
        let has_controller = config.has_vmbus()?;
        let mut disks = Vec::new();
        let places = place::of_disks(config, has_controller);
        for (disk, place) in config.disks.iter().zip(places.iter().copied()) {
            let opened = open_image(&disk.file, &options(disk))
                .map_err(|reason| InputError::file("disk", &disk.file, reason))?;
            disks.push(AttachedDisk { config: disk.clone(), disk: SharedDisk::new(opened), place });
        }
        let drive = |cdrom: &CdromConfig| Drive::open(cdrom, place::of_cdrom(cdrom.bus, &places));
        let drive = config.cdrom.as_ref().map(drive).transpose();
        let drive = drive.map_err(|(file, reason)| InputError::file("cdrom", &file, reason))?.map(Arc::new);
        let luns = places.iter().copied().chain(drive.as_ref().map(|drive| drive.place));
        let last_lun = luns.filter_map(Place::lun).max();
        let state = Mutex::new(State { disks, last_lun, ..State::default() });
        Ok(Self { state, drive, has_controller })
    }

    /// The disks on the IDE buses, which stay as they are.
    pub fn on_ide(&self) -> Vec<AttachedDisk> {
        let state = self.lock();
        state.disks.iter().filter(|disk| disk.place.lun().is_none()).cloned().collect()
    }

    /// The optical drive.
    pub fn drive(&self) -> Option<&Arc<Drive>> {
        self.drive.as_ref()
    }

    /// Whether the guest is to leave its IDE disks to the synthetic driver.
    pub fn taken_over(&self) -> bool {
        let taken_over = |disk: &AttachedDisk| matches!(disk.place, Place::Ide { synthetic: true, .. });
        self.lock().disks.iter().any(taken_over)
    }

    /// A board has a SCSI controller: it gets the units that are present, and those to come.
    pub fn connect(&self, controller: &Arc<Controller>) {
        let mut state = self.lock();
        for disk in &state.disks {
            if let Some(lun) = disk.place.lun() {
                controller.attach(lun, Arc::new(DiskUnit::new(Arc::clone(&disk.disk.disk))));
            }
        }
        if let Some((lun, drive)) = self.drive().and_then(|drive| Some((drive.place.lun()?, drive))) {
            controller.attach(lun, Arc::clone(&drive.unit) as Arc<_>);
        }
        state.controller = Some(Arc::clone(controller));
    }

    /// The board is gone, or about to: disks leave its controller and fall to the emulated side of the next one.
    pub fn reset(&self) {
        let mut state = self.lock();
        if let Some(controller) = state.controller.take() {
            for lun in controller.luns() {
                controller.detach(lun);
            }
        }
        for disk in &state.disks {
            disk.disk.ownership.take(Owner::Emulated);
        }
        if let Some(drive) = self.drive() {
            storage::scsi::LogicalUnit::reset(&*drive.unit);
        }
    }

    /// The machine has come to its end: brings what the guest has written to stable storage, and nothing
    /// comes or goes any more.
    pub fn end(&self) -> Result<(), Failure> {
        let mut state = self.lock();
        state.ended = true;
        let mut result = Ok(());
        for AttachedDisk { config, disk, .. } in &state.disks {
            if let Err(source) = flush(&*disk.disk) {
                result = Err(Failure::Flush { disk: config.file.display().to_string(), source });
            }
        }
        result
    }

    /// What the disks that are present are made of, by name.
    pub fn media(&self) -> Vec<(String, Arc<dyn Disk>)> {
        let medium = |disk: &AttachedDisk| (disk.place.to_string(), Arc::clone(&disk.disk.disk));
        self.lock().disks.iter().map(medium).collect()
    }

    /// The disks that are present.
    pub fn status(&self) -> Vec<DiskStatus> {
        let status = |disk: &AttachedDisk| DiskStatus {
            name: disk.place.to_string(),
            bytes: disk.disk.disk.info().size,
            config: disk.config.clone(),
        };
        self.lock().disks.iter().map(status).collect()
    }

    /// The optical drive as it is.
    pub fn drive_status(&self) -> Option<DriveStatus> {
        self.drive().map(|drive| DriveStatus {
            name: drive.place.to_string(),
            config: drive.config(),
            tray_open: drive.unit.tray_open(),
            locked: drive.unit.locked(),
        })
    }

    /// `config` with the disks and the disc that are present.
    pub fn present(&self, config: &MachineConfig) -> MachineConfig {
        let disks = self.lock().disks.iter().map(|disk| disk.config.clone()).collect();
        MachineConfig { disks, cdrom: self.drive().map(|drive| drive.config()), ..config.clone() }
    }

    /// Opens and locks a disk and puts it on the SCSI controller. Returns its name.
    pub fn attach(&self, config: &DiskConfig) -> Result<String, ChangeError> {
        let input = |reason: &str| ChangeError::Input(format!("{}: {reason}", config.file.display()));
        let refused = |reason: &str| ChangeError::Refused(format!("{}: {reason}", config.file.display()));
        if config.bus == DiskBus::Ide {
            return Err(input(
                "bus=ide: a running machine takes disks on its SCSI controller only, bus=scsi",
            ));
        }
        let mut state = self.running()?;
        if !self.has_controller {
            return Err(refused(
                "the machine has no synthetic SCSI controller: --synthetic or --enlightenments leave it out",
            ));
        }
        if let Some(same) = state.disks.iter().find(|disk| is_same(&disk.config.file, &config.file)) {
            return Err(refused(&format!("is attached already, as {}", same.place)));
        }
        let places = state.disks.iter().map(|disk| disk.place).chain(self.drive().map(|drive| drive.place));
        let lun = place::next_lun(state.last_lun, places).filter(|_| state.disks.len() < MAX_DISKS);
        let lun = lun.ok_or_else(|| refused(&format!("a machine has at most {MAX_DISKS} disks")))?;
        let disk = open_image(&config.file, &options(config)).map_err(|reason| input(&reason))?;
        if let Some(controller) = &state.controller {
            controller.attach(lun, Arc::new(DiskUnit::new(Arc::clone(&disk))));
        }
        state.last_lun = Some(lun);
        let place = Place::Scsi { lun };
        let config = DiskConfig { bus: DiskBus::Scsi, ..config.clone() };
        state.disks.push(AttachedDisk { config, disk: SharedDisk::new(disk), place });
        Ok(place.to_string())
    }

    /// Takes the disk called `which`, or with that file, from the SCSI controller. On return it is flushed and
    /// its image is free.
    pub fn detach(&self, which: &str) -> Result<(), ChangeError> {
        let (disk, file) = {
            let mut state = self.running()?;
            let is_it = |disk: &AttachedDisk| {
                disk.place.to_string() == which || is_same(&disk.config.file, Path::new(which))
            };
            let found = state.disks.iter().position(is_it);
            let index = found.ok_or_else(|| ChangeError::Input(format!("{which}: no such disk")))?;
            let place = state.disks[index].place;
            let Some(lun) = place.lun() else {
                let reason = format!("{place} is an IDE disk, which a running machine keeps");
                return Err(ChangeError::Refused(reason));
            };
            if let Some(controller) = &state.controller {
                controller.detach(lun);
            }
            let AttachedDisk { config, disk, .. } = state.disks.remove(index);
            (disk.disk, config.file)
        };
        release(disk, &file)
    }

    /// Puts the disc in `file` into the optical drive, in place of what is there.
    pub fn insert(&self, file: &Path) -> Result<(), ChangeError> {
        let (drive, controller) = self.running_drive()?;
        let before = drive.config().file;
        let medium = drive.insert(file)?;
        medium_changed(controller.as_deref());
        medium.map_or(Ok(()), |medium| release(medium, before.as_deref().unwrap_or(file)))
    }

    /// Takes the disc out of the optical drive; with `force` also when the guest prevents it.
    pub fn eject(&self, force: bool) -> Result<(), ChangeError> {
        let (drive, controller) = self.running_drive()?;
        let before = drive.config().file.unwrap_or_default();
        let medium = drive.eject(force)?;
        medium_changed(controller.as_deref());
        release(medium, &before)
    }

    fn running_drive(&self) -> Result<(&Arc<Drive>, Option<Arc<Controller>>), ChangeError> {
        let state = self.running()?;
        let drive = self.drive().ok_or_else(|| {
            ChangeError::Refused("the machine has no optical drive: --cdrom gives it one".to_owned())
        })?;
        let controller = state.controller.clone().filter(|_| drive.place.lun().is_some());
        Ok((drive, controller))
    }

    fn running(&self) -> Result<MutexGuard<'_, State>, ChangeError> {
        let state = self.lock();
        if state.ended {
            return Err(ChangeError::Refused("the machine has come to its end".to_owned()));
        }
        Ok(state)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What serves a drive on the SCSI controller lets go of the old medium.
fn medium_changed(controller: Option<&Controller>) {
    if let Some(controller) = controller {
        controller.medium_changed();
    }
}

/// Waits until nobody else has `disk`, and flushes it: with the end of this its image is free.
fn release(disk: Arc<dyn Disk>, file: &Path) -> Result<(), ChangeError> {
    let deadline = Instant::now() + RELEASE;
    while Arc::strong_count(&disk) > 1 && Instant::now() < deadline {
        thread::sleep(LOOK);
    }
    let flushed = flush(&*disk);
    let refused = |reason: &str| ChangeError::Refused(format!("{}: {reason}", file.display()));
    flushed.map_err(|error| refused(&format!("is detached and cannot be flushed: {error}")))?;
    if Arc::strong_count(&disk) > 1 {
        return Err(refused("is detached and in use until the guest's requests are done"));
    }
    Ok(())
}

fn flush(disk: &dyn Disk) -> std::io::Result<()> {
    if disk.info().read_only { Ok(()) } else { disk.flush() }
}

/// Whether two paths lead to the same file.
fn is_same(one: &Path, other: &Path) -> bool {
    let resolved = |path: &Path| path.canonicalize().unwrap_or_else(|_| PathBuf::from(path));
    one == other || resolved(one) == resolved(other)
}

fn options(disk: &DiskConfig) -> OpenOptions {
    match disk.format {
        DiskFormat::Raw => {
            OpenOptions { read_only: disk.readonly, snapshot: disk.snapshot, ..OpenOptions::default() }
        }
    }
}

/// Opens an image, or says in a few words why not.
fn open_image(file: &Path, options: &OpenOptions) -> Result<Arc<dyn Disk>, String> {
    use storage::Error;
    storage::open(file, options).map_err(|error| match error {
        Error::Missing(_) => "no such file".to_owned(),
        Error::Directory(_) => "is a directory".to_owned(),
        Error::NotADisk(_) => "is neither a regular file nor a block device".to_owned(),
        Error::Permission { access, .. } => format!("no permission to {access} it"),
        Error::InUse(_) => "in use by another virtual machine or program".to_owned(),
        Error::Empty { block, .. } => format!("is smaller than one block of {block} bytes"),
        Error::Host { operation, source, .. } => format!("cannot {operation}: {source}"),
        other => other.to_string(),
    })
}
