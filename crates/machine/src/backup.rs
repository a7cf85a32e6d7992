//! Copies of a machine's disks while its guest runs.
//!
//! ```text
//! files are created ─▶ guest freezes ─▶ disks are copied, holes left out ─▶ guest thaws ─▶ files are brought to
//! stable storage
//! ```
//!
//! The guest waits meanwhile, so the copy is given up after a quarter of an hour.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use integration::{AskError, Integration};
use storage::Disk;

/// Bytes that are copied at once; as many zeroes become a hole.
const PIECE: usize = 1 << 20;
/// How long the guest's file systems stand still at the most: as long as Linux's driver waits for its program to make them
/// (`drivers/hv/hv_snapshot.c`).
const STANDSTILL: Duration = Duration::from_secs(15 * 60);

/// Why there is no copy. What had been made of it is gone again.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// There is nothing to copy.
    #[error("the machine has no disks")]
    NoDisks,
    /// A file or folder cannot be made.
    #[error("{}: {reason}", path.display())]
    Target {
        /// Which.
        path: PathBuf,
        /// What the host says.
        reason: io::Error,
    },
    /// A disk cannot be read, or its copy written.
    #[error("disk {disk} cannot be copied: {reason}")]
    Copy {
        /// Its name.
        disk: String,
        /// What the host says.
        reason: io::Error,
    },
    /// The guest would wait for too long.
    #[error("there is no copy of disk {disk} after {} minutes, and the guest does not wait any longer", STANDSTILL.as_secs() / 60)]
    Late {
        /// Its name.
        disk: String,
    },
    /// The guest does not stand still.
    #[error(transparent)]
    Guest(#[from] AskError),
}

/// A disk and the file of its copy.
struct Copy {
    name: String,
    disk: Arc<dyn Disk>,
    file: File,
}

/// What is removed unless the copy succeeds.
struct Made(Vec<PathBuf>, Option<PathBuf>);

impl Drop for Made {
    fn drop(&mut self) {
        let Self(files, folder) = self;
        let files = files.iter().map(fs::remove_file);
        for error in files.chain(folder.iter().map(fs::remove_dir)).filter_map(Result::err) {
            tracing::warn!(%error, "a part of a backup that failed stays");
        }
    }
}

/// Copies `disks`, with their names, to `target`: to a raw image if there is one, else to a folder with an image for
/// each. Neither may be there already.
pub(crate) fn back_up(
    disks: Vec<(String, Arc<dyn Disk>)>,
    target: &Path,
    integration: &Integration,
) -> Result<(), BackupError> {
    let single = match disks.len() {
        0 => return Err(BackupError::NoDisks),
        count => count == 1,
    };
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |reason| BackupError::Target { path, reason }
    };
    let mut made = Made(Vec::new(), None);
    if !single {
        fs::create_dir(target).map_err(failed(target))?;
        made.1 = Some(target.to_owned());
    }
    let mut copies = Vec::new();
    for (name, disk) in disks {
        let path = if single { target.to_owned() } else { target.join(name.replace(':', "-") + ".img") };
        let file = OpenOptions::new().write(true).create_new(true).open(&path).map_err(failed(&path))?;
        file.set_len(disk.info().size).map_err(failed(&path))?;
        made.0.push(path);
        copies.push(Copy { name, disk, file });
    }

    let frozen = integration.freeze()?;
    let end = Instant::now() + STANDSTILL;
    for copy in &copies {
        copy.fill(end)?;
    }
    frozen.thaw()?;

    for copy in &copies {
        copy.file.sync_all().map_err(copy.failed())?;
    }
    (made.0, made.1) = (Vec::new(), None);
    Ok(())
}

impl Copy {
    fn failed(&self) -> impl Fn(io::Error) -> BackupError {
        |reason| BackupError::Copy { disk: self.name.clone(), reason }
    }

    /// Copies the disk, if that is over by `end`.
    fn fill(&self, end: Instant) -> Result<(), BackupError> {
        let size = self.disk.info().size;
        let mut buffer = vec![0; PIECE].into_boxed_slice();
        let mut at = 0;
        while at < size {
            if Instant::now() > end {
                return Err(BackupError::Late { disk: self.name.clone() });
            }
            let length = (size - at).min(PIECE as u64) as usize;
            let piece = &mut buffer[..length];
            self.disk.read_at(at, piece).map_err(self.failed())?;
            if piece.iter().any(|&byte| byte != 0) {
                self.file.write_all_at(piece, at).map_err(self.failed())?;
            }
            at += length as u64;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use storage::OpenOptions;

    use super::*;

    #[test]
    fn a_copy_is_given_up_when_the_guest_would_wait_for_too_long() {
        let folder = tempfile::TempDir::new().unwrap();
        let (image, target) = (folder.path().join("image"), folder.path().join("copy"));
        let contents: Vec<u8> = (0..PIECE + 512).map(|n| ((n >> 9) + 1) as u8).collect();
        fs::write(&image, &contents).unwrap();
        let copy = Copy {
            name: "ide0".to_owned(),
            disk: storage::open(&image, &OpenOptions::default()).unwrap(),
            file: File::create(&target).unwrap(),
        };
        let late = copy.fill(Instant::now() - Duration::from_secs(1)).unwrap_err();
        assert!(late.to_string().starts_with("there is no copy of disk ide0 after 15 minutes"), "{late}");
        assert_eq!(fs::metadata(&target).unwrap().len(), 0);
        copy.fill(Instant::now() + STANDSTILL).unwrap();
        assert_eq!(fs::read(&target).unwrap(), contents);
    }
}
