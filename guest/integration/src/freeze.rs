//! File systems that stand still.

#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use nix::errno::Errno;

mod requests {
    // Linux include/uapi/linux/fs.h: FIFREEZE and FITHAW.
    nix::ioctl_readwrite!(freeze, b'X', 119, i32);
    nix::ioctl_readwrite!(thaw, b'X', 120, i32);
}

/// What became of a freeze.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Freeze {
    /// It stands still.
    Frozen,
    /// It did so already, as one that is mounted in two places.
    Already,
    /// It does not know how to.
    Unable,
}

/// Makes the file system that `file` is on stand still, with all that programs have written on its disk.
///
/// # Errors
/// When it cannot.
pub(crate) fn freeze(file: &File) -> io::Result<Freeze> {
    let mut unused = 0;
    // SAFETY: the request reads no more than an i32, which lives as long as the call.
    match unsafe { requests::freeze(file.as_raw_fd(), &raw mut unused) } {
        Ok(_) => Ok(Freeze::Frozen),
        Err(Errno::EBUSY) => Ok(Freeze::Already),
        Err(Errno::EOPNOTSUPP) => Ok(Freeze::Unable),
        Err(error) => Err(error.into()),
    }
}

/// Lets the file system that `file` is on go on. False if it does so already.
///
/// # Errors
/// When it cannot.
pub(crate) fn thaw(file: &File) -> io::Result<bool> {
    let mut unused = 0;
    // SAFETY: as in `freeze`.
    match unsafe { requests::thaw(file.as_raw_fd(), &raw mut unused) } {
        Ok(_) => Ok(true),
        Err(Errno::EINVAL) => Ok(false),
        Err(error) => Err(error.into()),
    }
}
