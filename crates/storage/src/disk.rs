//! What a disk is to the devices that present it.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use guest_memory::GuestMemory;
use thiserror::Error;

use crate::memory::{self, GuestRange, Segment};
use crate::{Error, thread_queue};

/// What a guest may know of a disk. Fixed while the disk is open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskInfo {
    /// Bytes; a multiple of the logical block.
    pub size: u64,
    /// Bytes of a logical block: 512 for disks, 2048 for optical media.
    pub logical_block: u32,
    /// Bytes that the medium below writes at once; a power of two, not less than the logical block.
    pub physical_block: u32,
    /// Whether writes are refused.
    pub read_only: bool,
    /// Bytes in which space can be given back; 0 where the host cannot.
    pub discard_granularity: u32,
    /// Identifies this disk among all others; the same at every start.
    pub identity: [u8; 16],
    /// Serial number: at most 20 printable ASCII characters.
    pub serial: String,
}

/// A disk. Offsets and lengths are in bytes and must be multiples of [`DiskInfo::logical_block`] and lie
/// within [`DiskInfo::size`]; anything else is refused with [`io::ErrorKind::InvalidInput`].
///
/// Requests may come from several threads at once. Those that overlap in time are not ordered, as on a
/// disk with a command queue.
pub trait Disk: Send + Sync {
    /// What a guest may know of this disk.
    fn info(&self) -> &DiskInfo;

    /// Fills `segments` from `offset`, wholly or with an error.
    fn read(&self, offset: u64, segments: &[Segment<'_>]) -> io::Result<()>;

    /// Writes `segments` to `offset`, wholly or with an error. With `fua` the data is on stable storage on
    /// return.
    fn write(&self, offset: u64, segments: &[Segment<'_>], fua: bool) -> io::Result<()>;

    /// Brings all writes that have completed to stable storage.
    fn flush(&self) -> io::Result<()>;

    /// Makes a range read as zeroes; with `unmap` its space is given back where the host can do that.
    fn write_zeroes(&self, offset: u64, len: u64, unmap: bool, fua: bool) -> io::Result<()>;

    /// Gives the space of a range back. It reads as zeroes afterwards, also where the host cannot give back
    /// anything.
    fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        self.write_zeroes(offset, len, true, false)
    }

    /// A queue of `depth` requests over this disk, with data in `memory`.
    ///
    /// # Errors
    /// When the host refuses a thread or a descriptor.
    fn queue(self: Arc<Self>, depth: usize, memory: &GuestMemory) -> Result<Box<dyn DiskQueue>, Error>;
}

impl dyn Disk + '_ {
    /// Reads into a buffer of the host's.
    ///
    /// # Errors
    /// As [`Disk::read`].
    pub fn read_at(&self, offset: u64, data: &mut [u8]) -> io::Result<()> {
        self.read(offset, &[Segment::from(data)])
    }

    /// Writes from a buffer of the host's.
    ///
    /// # Errors
    /// As [`Disk::write`].
    pub fn write_at(&self, offset: u64, data: &[u8], fua: bool) -> io::Result<()> {
        self.write(offset, &[Segment::for_writing(data)], fua)
    }

    /// Reads into guest RAM and marks what has been written there.
    ///
    /// # Errors
    /// As [`Disk::read`]; [`io::ErrorKind::InvalidInput`] if a range is not RAM.
    pub fn read_guest(&self, offset: u64, memory: &GuestMemory, ranges: &[GuestRange]) -> io::Result<()> {
        let segments = memory::segments(memory, ranges)?;
        let result = self.read(offset, &segments);
        memory::mark_written(memory, ranges);
        result
    }

    /// Writes from guest RAM.
    ///
    /// # Errors
    /// As [`Disk::write`]; [`io::ErrorKind::InvalidInput`] if a range is not RAM.
    pub fn write_guest(
        &self,
        offset: u64,
        memory: &GuestMemory,
        ranges: &[GuestRange],
        fua: bool,
    ) -> io::Result<()> {
        self.write(offset, &memory::segments(memory, ranges)?, fua)
    }
}

impl dyn Disk {
    /// A queue served by a thread that uses the synchronous methods: for hosts and formats without a better
    /// one.
    ///
    /// # Errors
    /// When the host refuses a thread or a descriptor.
    pub fn thread_queue(
        self: Arc<Self>,
        depth: usize,
        memory: &GuestMemory,
    ) -> Result<Box<dyn DiskQueue>, Error> {
        thread_queue::ThreadQueue::start(self, depth, memory.clone())
    }
}

/// What a request does. The same rules as for [`Disk`] hold for offsets and lengths; the length of a
/// transfer is the sum of its ranges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op<'a> {
    /// From the disk into guest RAM.
    Read {
        /// Byte on the disk.
        offset: u64,
        /// Where the data goes.
        ranges: &'a [GuestRange],
    },
    /// From guest RAM to the disk.
    Write {
        /// Byte on the disk.
        offset: u64,
        /// Where the data comes from.
        ranges: &'a [GuestRange],
        /// Complete only when the data is on stable storage.
        fua: bool,
    },
    /// Completed when all writes completed before its submission are on stable storage.
    Flush,
    /// [`Disk::discard`].
    Discard {
        /// First byte.
        offset: u64,
        /// Bytes.
        len: u64,
    },
    /// [`Disk::write_zeroes`].
    WriteZeroes {
        /// First byte.
        offset: u64,
        /// Bytes.
        len: u64,
        /// Give the space back where the host can.
        unmap: bool,
        /// Complete only when this is on stable storage.
        fua: bool,
    },
}

/// A request to a [`DiskQueue`]. `ranges` are borrowed during the call only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request<'a> {
    /// Comes back with the completion.
    pub token: u64,
    /// What to do.
    pub op: Op<'a>,
}

/// Why a queue does not take a request. Nothing has been done and no completion will come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum SubmitError {
    /// As many requests as the queue has room for are in flight.
    #[error("disk queue full")]
    Full,
    /// The range is not on the disk or not made of whole blocks.
    #[error("request beyond the end of the disk or not in whole blocks")]
    Range,
    /// A range of guest addresses is not RAM.
    #[error("request outside guest memory")]
    Memory,
    /// A write to a disk that is read-only.
    #[error("disk is read-only")]
    ReadOnly,
}

/// Requests in flight over one disk, for one thread. Any number of queues may be made of a disk.
///
/// The thread sleeps on [`Self::event`]; when that becomes readable it calls [`Self::complete`]. Dropping
/// the queue waits for what is in flight.
pub trait DiskQueue: Send {
    /// Takes a request. It starts at the next [`Self::kick`] at the latest.
    ///
    /// # Errors
    /// When the request cannot be taken.
    fn submit(&mut self, request: Request<'_>) -> Result<(), SubmitError>;

    /// Starts everything submitted so far. Call once per batch.
    ///
    /// # Errors
    /// When the host refuses; the requests stay submitted and the next call tries again.
    fn kick(&mut self) -> io::Result<()>;

    /// Hands out the completions there are, in any order: token and bytes transferred (0 for requests that
    /// transfer nothing). By then guest RAM has been written and [`guest_memory::CodePages`] told. Returns
    /// how many there were.
    fn complete(&mut self, done: &mut dyn FnMut(u64, io::Result<usize>)) -> usize;

    /// An eventfd that is readable when there may be completions; [`Self::complete`] resets it.
    fn event(&self) -> BorrowedFd<'_>;

    /// Requests submitted and not yet handed out by [`Self::complete`].
    fn in_flight(&self) -> usize;
}

/// Checks `offset` and `len` against the disk.
pub(crate) fn check_range(info: &DiskInfo, offset: u64, len: u64) -> Result<(), SubmitError> {
    let block = u64::from(info.logical_block);
    let end = offset.checked_add(len).ok_or(SubmitError::Range)?;
    if end > info.size || !offset.is_multiple_of(block) || !len.is_multiple_of(block) {
        return Err(SubmitError::Range);
    }
    Ok(())
}

impl From<SubmitError> for io::Error {
    fn from(error: SubmitError) -> Self {
        let kind = match error {
            SubmitError::Full => io::ErrorKind::WouldBlock,
            SubmitError::Range | SubmitError::Memory => io::ErrorKind::InvalidInput,
            SubmitError::ReadOnly => io::ErrorKind::ReadOnlyFilesystem,
        };
        Self::new(kind, error)
    }
}
