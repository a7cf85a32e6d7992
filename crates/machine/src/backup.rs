//! Copies of a machine's disks while its guest runs.
//!
//! ```text
//! files are created ─▶ guest freezes ─▶ disks are copied, holes left out ─▶ guest thaws ─▶ files are brought to
//! stable storage
//! ```

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use integration::{AskError, Integration};
use storage::Disk;

/// Bytes that are copied at once; as many zeroes become a hole.
const PIECE: usize = 1 << 20;

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
    for copy in &copies {
        copy.fill().map_err(|reason| BackupError::Copy { disk: copy.name.clone(), reason })?;
    }
    frozen.thaw()?;

    for copy in &copies {
        copy.file.sync_all().map_err(|reason| BackupError::Copy { disk: copy.name.clone(), reason })?;
    }
    (made.0, made.1) = (Vec::new(), None);
    Ok(())
}

impl Copy {
    fn fill(&self) -> io::Result<()> {
        let size = self.disk.info().size;
        let mut buffer = vec![0; PIECE].into_boxed_slice();
        let mut at = 0;
        while at < size {
            let length = (size - at).min(PIECE as u64) as usize;
            let piece = &mut buffer[..length];
            self.disk.read_at(at, piece)?;
            if piece.iter().any(|&byte| byte != 0) {
                self.file.write_all_at(piece, at)?;
            }
            at += length as u64;
        }
        Ok(())
    }
}
