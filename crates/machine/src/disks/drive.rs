//! The optical drive: the same one across resets, with the disc that lies in it.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use storage::scsi::DvdUnit;
use storage::{Disk, OpenOptions};

use super::place::Place;
use super::{ChangeError, open_image};
use crate::config::{CdromBus, CdromConfig};

/// The drive of a machine.
pub(crate) struct Drive {
    pub unit: Arc<DvdUnit>,
    pub place: Place,
    disc: Mutex<Option<PathBuf>>,
}

impl Drive {
    /// A drive as `config` says, at `place`; or the file and what is wrong with it.
    pub(super) fn open(config: &CdromConfig, place: Place) -> Result<Self, (PathBuf, String)> {
        let open = |file: &PathBuf| open_disc(file).map_err(|reason| (file.clone(), reason));
        let medium = config.file.as_ref().map(open).transpose()?;
        Ok(Self { unit: Arc::new(DvdUnit::new(medium)), place, disc: Mutex::new(config.file.clone()) })
    }

    /// The drive as it is now.
    pub fn config(&self) -> CdromConfig {
        let bus = if self.place.lun().is_some() { CdromBus::Scsi } else { CdromBus::Ide };
        CdromConfig { file: self.lock().clone(), bus }
    }

    /// Puts the disc in `file` into the drive. Returns what was there.
    pub(super) fn insert(&self, file: &Path) -> Result<Option<Arc<dyn Disk>>, ChangeError> {
        let mut disc = self.lock();
        // First, so that a wrong file changes nothing.
        let medium =
            open_disc(file).map_err(|reason| ChangeError::Input(format!("{}: {reason}", file.display())))?;
        self.check_unlocked(disc.as_deref())?;
        let before = self.unit.remove();
        self.unit.insert(medium);
        *disc = Some(file.to_owned());
        Ok(before)
    }

    /// Takes the disc out; against the guest's will if `force` says so. Returns it.
    pub(super) fn eject(&self, force: bool) -> Result<Arc<dyn Disk>, ChangeError> {
        let mut disc = self.lock();
        if !force {
            self.check_unlocked(disc.as_deref())?;
        }
        let before = self.unit.remove();
        *disc = None;
        before.ok_or_else(|| ChangeError::Refused(format!("{}: the drive is empty", self.place)))
    }

    /// A guest that holds its disc hears that somebody wants it.
    fn check_unlocked(&self, disc: Option<&Path>) -> Result<(), ChangeError> {
        let Some(disc) = disc.filter(|_| self.unit.locked()) else { return Ok(()) };
        self.unit.request_eject();
        let disc = disc.display();
        Err(ChangeError::Refused(format!("{disc}: the guest holds the disc and has been asked to let it go")))
    }

    fn lock(&self) -> MutexGuard<'_, Option<PathBuf>> {
        self.disc.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the device table says.
impl fmt::Display for Drive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.lock() {
            Some(disc) => write!(f, "optical drive, {}", disc.display())?,
            None => f.write_str("optical drive, empty")?,
        }
        if self.unit.tray_open() { f.write_str(", tray open") } else { Ok(()) }
    }
}

fn open_disc(file: &Path) -> Result<Arc<dyn Disk>, String> {
    open_image(file, &OpenOptions::optical())
}
