//! Raw images: regular files and block devices whose bytes are the guest's bytes.
//!
//! - The image is locked as a whole by an open-file-description lock (Linux `fcntl(2)`, F_OFD_SETLK):
//!   exclusively for a writer, shared for readers. QEMU's tools honour it. A block device is opened O_EXCL
//!   too, so that a mounted one is refused.
//! - A size that is no multiple of the block is rounded down, with a warning: the guest never sees padding
//!   and the file never grows.
//! - I/O goes through the host's page cache. Flush is `fdatasync`, FUA is RWF_DSYNC, discard is
//!   FALLOC_FL_PUNCH_HOLE, which block devices understand as well.
//!
//! Not here: direct I/O, resizing while open.

mod open;
mod uring;

pub use open::{OpenOptions, open};

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;

use guest_memory::GuestMemory;

use crate::disk::check_range;
use crate::memory::{self, Segment};
use crate::{Disk, DiskInfo, DiskQueue, Error, SubmitError};

/// Most pieces that the kernel takes in one call (UIO_MAXIOV).
pub(crate) const MOST_PIECES: usize = 1024;
/// What ranges are filled with where the host has no better way to zero them.
pub(crate) static ZEROES: [u8; 64 * 1024] = [0; 64 * 1024];

/// A raw image.
pub(crate) struct RawDisk {
    file: Arc<File>,
    info: DiskInfo,
}

impl RawDisk {
    fn descriptor(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    fn check(&self, offset: u64, len: u64, write: bool) -> io::Result<()> {
        check_range(&self.info, offset, len)?;
        if write && self.info.read_only {
            return Err(SubmitError::ReadOnly.into());
        }
        Ok(())
    }
}

impl Disk for RawDisk {
    fn info(&self) -> &DiskInfo {
        &self.info
    }

    fn read(&self, offset: u64, segments: &[Segment<'_>]) -> io::Result<()> {
        self.check(offset, memory::total(segments), false)?;
        read_file(&self.file, offset, segments)
    }

    fn write(&self, offset: u64, segments: &[Segment<'_>], fua: bool) -> io::Result<()> {
        self.check(offset, memory::total(segments), true)?;
        write_file(&self.file, offset, segments, fua)
    }

    fn flush(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn write_zeroes(&self, offset: u64, len: u64, unmap: bool, fua: bool) -> io::Result<()> {
        self.check(offset, len, true)?;
        if len == 0 {
            return Ok(());
        }
        let mode = zero_mode(&self.info, unmap);
        // SAFETY: plain system call on a descriptor that is open.
        let result = unsafe { libc::fallocate64(self.descriptor(), mode, offset as i64, len as i64) };
        if result == 0 {
            return if fua { self.file.sync_data() } else { Ok(()) };
        }
        let error = io::Error::last_os_error();
        if !lacks_operation(error.raw_os_error()) {
            return Err(error);
        }
        let mut at = offset;
        while at < offset + len {
            let piece = ZEROES.len().min((offset + len - at) as usize);
            write_file(&self.file, at, &[Segment::for_writing(&ZEROES[..piece])], fua)?;
            at += piece as u64;
        }
        Ok(())
    }

    fn queue(self: Arc<Self>, depth: usize, memory: &GuestMemory) -> Result<Box<dyn DiskQueue>, Error> {
        let (file, info) = (Arc::clone(&self.file), self.info.clone());
        match uring::UringQueue::new(file, info, depth, memory.clone()) {
            Ok(queue) => Ok(Box::new(queue)),
            Err(error) => {
                tracing::info!(%error, "no io_uring on this host: disk queues use threads");
                (self as Arc<dyn Disk>).thread_queue(depth, memory)
            }
        }
    }
}

/// How to zero a range: by a hole where that is asked for and possible, else by unwritten extents.
pub(crate) fn zero_mode(info: &DiskInfo, unmap: bool) -> libc::c_int {
    let kind = if unmap && info.discard_granularity != 0 {
        libc::FALLOC_FL_PUNCH_HOLE
    } else {
        libc::FALLOC_FL_ZERO_RANGE
    };
    kind | libc::FALLOC_FL_KEEP_SIZE
}

/// Whether an error of `fallocate` says that the file system or device has no such operation, or not for
/// such a range, so that zeroes must be written.
pub(crate) fn lacks_operation(code: Option<i32>) -> bool {
    matches!(code, Some(libc::EOPNOTSUPP | libc::ENOSYS | libc::EINVAL | libc::ENODEV))
}

/// Fills `segments` from `offset` of `file`.
pub(crate) fn read_file(file: &File, offset: u64, segments: &[Segment<'_>]) -> io::Result<()> {
    transfer(segments, offset, |iovecs, at| {
        // SAFETY: the segments are memory that may be written, by their contract; their number fits.
        unsafe { libc::preadv64(file.as_raw_fd(), iovecs.as_ptr(), iovecs.len() as i32, at as i64) }
    })
}

/// Writes `segments` to `offset` of `file`; to stable storage with `fua`.
pub(crate) fn write_file(file: &File, offset: u64, segments: &[Segment<'_>], fua: bool) -> io::Result<()> {
    let flags = if fua { libc::RWF_DSYNC } else { 0 };
    transfer(segments, offset, |iovecs, at| {
        // SAFETY: the segments are memory that may be read, by their contract; their number fits.
        unsafe { libc::pwritev2(file.as_raw_fd(), iovecs.as_ptr(), iovecs.len() as i32, at as i64, flags) }
    })
}

/// Repeats `call` until all segments are through.
fn transfer(
    segments: &[Segment<'_>],
    offset: u64,
    call: impl Fn(&[libc::iovec], u64) -> isize,
) -> io::Result<()> {
    let (mut index, mut skip, mut at) = (0, 0, offset);
    while let Some(first) = segments.get(index) {
        if skip == first.len() {
            (index, skip) = (index + 1, 0);
            continue;
        }
        let rest = [first.part(skip, usize::MAX)];
        let batch = match skip {
            0 => &segments[index..segments.len().min(index + MOST_PIECES)],
            _ => &rest,
        };
        let mut moved = match call(Segment::as_iovecs(batch), at) {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            moved if moved > 0 => moved as usize,
            _ => match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::Interrupted => continue,
                error => return Err(error),
            },
        };
        at += moved as u64;
        for segment in &segments[index..] {
            let rest = segment.len() - skip;
            if moved < rest {
                skip += moved;
                break;
            }
            moved -= rest;
            (index, skip) = (index + 1, 0);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
