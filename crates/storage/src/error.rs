//! Why a disk cannot be had.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

/// Why a disk cannot be had. Every message names the file.
#[derive(Debug, Error)]
pub enum Error {
    /// There is no such file.
    #[error("disk image {}: no such file", .0.display())]
    Missing(PathBuf),
    /// It is a directory.
    #[error("disk image {}: is a directory", .0.display())]
    Directory(PathBuf),
    /// It is a pipe, a terminal, a socket.
    #[error("disk image {}: neither a regular file nor a block device", .0.display())]
    NotADisk(PathBuf),
    /// It may not be opened so.
    #[error("disk image {}: no permission to {access} it", path.display())]
    Permission {
        /// The file.
        path: PathBuf,
        /// `read` or `write`.
        access: &'static str,
    },
    /// Somebody else has it open in a way that does not go together with ours.
    #[error("disk image {}: in use by another virtual machine or program", .0.display())]
    InUse(PathBuf),
    /// It has not even one sector.
    #[error("disk image {}: smaller than one block of {block} bytes", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
        /// Bytes of a block.
        block: u32,
    },
    /// The host refused an operation.
    #[error("disk image {}: cannot {operation}", path.display())]
    Host {
        /// The file.
        path: PathBuf,
        /// What was tried.
        operation: &'static str,
        /// The host's reason.
        #[source]
        source: io::Error,
    },
    /// No queue can be had.
    #[error("cannot start a disk queue")]
    Queue(#[source] io::Error),
}
