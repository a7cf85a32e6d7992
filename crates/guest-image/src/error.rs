//! What may go wrong.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

/// Why there is no image.
#[derive(Debug, Error)]
pub enum Error {
    /// An option that cannot be honoured.
    #[error("--{option} {value}: {reason}")]
    Input {
        /// Its name, without dashes.
        option: &'static str,
        /// What was given.
        value: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A program that the host does not have.
    #[error("{program} is missing: install the package {package}")]
    Missing {
        /// Its name.
        program: &'static str,
        /// Debian's package with it.
        package: &'static str,
    },
    /// A host that lets only root be root in a namespace.
    #[error("without root this takes user namespaces, which {switch} switches off: it is {value}")]
    Namespaces {
        /// The kernel's switch.
        switch: &'static str,
        /// What it is.
        value: &'static str,
    },
    /// A user without ids besides its own.
    #[error(
        "{user} has no 65536 ids in {file}, which this takes without root: as root, `usermod --add-subuids \
         100000-165535 --add-subgids 100000-165535 {user}`, with numbers that nobody else has there"
    )]
    Subordinate {
        /// Who.
        user: String,
        /// Where they would be.
        file: &'static str,
    },
    /// A program that did not succeed.
    #[error("{program} failed: {said}; all it said is in {}", .log.display())]
    Failed {
        /// Its name.
        program: &'static str,
        /// Its last complaint.
        said: String,
        /// The file with all that it printed.
        log: PathBuf,
    },
    /// A file that could not be read or written.
    #[error("{}: {source}", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the host reported.
        source: io::Error,
    },
    /// A partition table that could not be written.
    #[error("the partition table: {0}")]
    Partitions(#[from] gpt::GptError),
    /// A first sector that could not be written.
    #[error("the first sector: {0}")]
    FirstSector(#[from] gpt::mbr::MBRError),
    /// GRUB's images are not what is expected of them.
    #[error("GRUB's {image}: {reason}")]
    Grub {
        /// Which of them.
        image: &'static str,
        /// What is wrong.
        reason: &'static str,
    },
}

impl Error {
    pub(crate) fn file(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File { path, source }
    }
}
