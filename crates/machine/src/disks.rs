//! The disks of a machine: opened and locked once, whatever happens to the machine around them, and where
//! each of them hangs.

use std::path::{Path, PathBuf};

use storage::{OpenOptions, Owner, SharedDisk};

use crate::config::{DiskBus, DiskConfig, DiskFormat, InputError, MAX_IDE_DISKS, MachineConfig};
use crate::control::Failure;

/// The secondary master, where firmware and users look for it.
const CDROM_POSITION: u8 = 2;

/// Where a disk hangs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Attachment {
    /// Position on the IDE buses: 0 primary master, 1 primary slave, 2 secondary master, 3 secondary slave.
    pub ide: Option<u8>,
    /// Whether the guest reaches it through VMBus: by an IDE-type channel if there is an IDE position too,
    /// by the SCSI controller if not.
    pub synthetic: bool,
    /// Whether it is an optical drive.
    pub optical: bool,
}

/// A disk that is open.
#[derive(Clone)]
pub(crate) struct AttachedDisk {
    pub file: PathBuf,
    pub disk: SharedDisk,
    pub at: Attachment,
}

/// Opens all disks of `config`.
pub(crate) fn open(config: &MachineConfig) -> Result<Vec<AttachedDisk>, InputError> {
    let mut attached = Vec::new();
    for (disk, at) in config.disks.iter().zip(attachments(config, config.has_vmbus()?)) {
        attached.push(open_one("disk", &disk.file, &options(disk), at)?);
    }
    if let Some(file) = &config.cdrom {
        let at = Attachment { ide: Some(CDROM_POSITION), synthetic: false, optical: true };
        attached.push(open_one("cdrom", file, &OpenOptions::optical(), at)?);
    }
    Ok(attached)
}

fn options(disk: &DiskConfig) -> OpenOptions {
    match disk.format {
        DiskFormat::Raw => {
            OpenOptions { read_only: disk.readonly, snapshot: disk.snapshot, ..OpenOptions::default() }
        }
    }
}

fn open_one(
    option: &'static str,
    file: &Path,
    options: &OpenOptions,
    at: Attachment,
) -> Result<AttachedDisk, InputError> {
    let disk = storage::open(file, options).map_err(|error| refusal(option, file, &error))?;
    Ok(AttachedDisk { file: file.to_owned(), disk: SharedDisk::new(disk), at })
}

fn refusal(option: &'static str, file: &Path, error: &storage::Error) -> InputError {
    use storage::Error;
    let reason = match error {
        Error::Missing(_) => "no such file".to_owned(),
        Error::Directory(_) => "is a directory".to_owned(),
        Error::NotADisk(_) => "is neither a regular file nor a block device".to_owned(),
        Error::Permission { access, .. } => format!("no permission to {access} it"),
        Error::InUse(_) => "in use by another virtual machine or program".to_owned(),
        Error::Empty { block, .. } => format!("is smaller than one block of {block} bytes"),
        Error::Host { operation, source, .. } => format!("cannot {operation}: {source}"),
        other => other.to_string(),
    };
    InputError::file(option, file, reason)
}

/// Where each disk of `config` hangs. Disks that may choose take IDE positions while there are any, but not
/// beside disks that are on IDE only: a guest either leaves all IDE disks to its synthetic driver or none.
fn attachments(config: &MachineConfig, synthetic: bool) -> Vec<Attachment> {
    let needs_ide = |disk: &DiskConfig| disk.bus == DiskBus::Ide || !synthetic;
    let takeover = !config.disks.iter().any(needs_ide);
    let mut positions =
        (0..MAX_IDE_DISKS as u8).filter(|&position| config.cdrom.is_none() || position != CDROM_POSITION);
    config
        .disks
        .iter()
        .map(|disk| {
            let wants_ide = needs_ide(disk) || (disk.bus == DiskBus::Auto && takeover);
            let ide = if wants_ide { positions.next() } else { None };
            Attachment { ide, synthetic: synthetic && disk.bus != DiskBus::Ide, optical: false }
        })
        .collect()
}

/// Whether the guest is to leave its IDE disks to the synthetic driver.
pub(crate) fn taken_over(disks: &[AttachedDisk]) -> bool {
    disks.iter().any(|disk| disk.at.synthetic && disk.at.ide.is_some())
}

/// Gives all disks back to their emulated side: the machine has been reset.
pub(crate) fn reset(disks: &[AttachedDisk]) {
    for disk in disks {
        disk.disk.ownership.take(Owner::Emulated);
    }
}

/// Brings what the guest has written to stable storage.
pub(crate) fn flush(disks: &[AttachedDisk]) -> Result<(), Failure> {
    let mut result = Ok(());
    for disk in disks.iter().filter(|disk| !disk.disk.disk.info().read_only) {
        if let Err(source) = disk.disk.disk.flush() {
            result = Err(Failure::Flush { disk: disk.file.display().to_string(), source });
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(disks: &[&str], cdrom: bool, synthetic: bool) -> Vec<(Option<u8>, bool)> {
        let config = MachineConfig {
            disks: disks.iter().map(|disk| disk.parse().unwrap()).collect(),
            cdrom: cdrom.then(|| "cd.iso".into()),
            ..MachineConfig::default()
        };
        attachments(&config, synthetic).iter().map(|at| (at.ide, at.synthetic)).collect()
    }

    #[test]
    fn a_disk_by_itself_is_on_both_sides() {
        assert_eq!(places(&["a"], false, true), [(Some(0), true)]);
        assert_eq!(places(&["a"], false, false), [(Some(0), false)]);
        assert_eq!(places(&["a,bus=ide"], false, true), [(Some(0), false)]);
        assert_eq!(places(&["a,bus=scsi"], false, true), [(None, true)]);
    }

    #[test]
    fn the_cdrom_takes_the_secondary_master() {
        let places = places(&["a", "b", "c", "d"], true, true);
        assert_eq!(places, [(Some(0), true), (Some(1), true), (Some(3), true), (None, true)]);
    }

    #[test]
    fn beside_disks_for_ide_only_those_that_may_choose_are_on_scsi() {
        let places = places(&["a", "b,bus=ide", "c,bus=scsi"], false, true);
        assert_eq!(places, [(None, true), (Some(0), false), (None, true)]);
    }
}
