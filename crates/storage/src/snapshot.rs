//! Snapshot mode: an image that is only read, with the guest's writes in a temporary file that has no name
//! and ends with this process.
//!
//! The temporary file is sparse and as large as the image; a bitmap says which blocks of 4 KiB are in it.
//! A write of part of a block copies the rest of the block up first.
//!
//! Locks: `map` is held shared while a read works and exclusively while a write does.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use guest_memory::GuestMemory;

use crate::disk::check_range;
use crate::memory::{self, Segment};
use crate::raw::{RawDisk, read_file, write_file};
use crate::{Disk, DiskInfo, DiskQueue, Error};

/// Bytes that one bit of the map stands for.
const BLOCK: u64 = 4096;

/// Which blocks have been written.
struct Map(Vec<u64>);

impl Map {
    fn new(blocks: u64) -> Self {
        Self(vec![0; blocks.div_ceil(64) as usize])
    }

    fn contains(&self, block: u64) -> bool {
        self.0.get((block / 64) as usize).is_some_and(|word| word >> (block % 64) & 1 != 0)
    }

    fn insert(&mut self, block: u64) {
        if let Some(word) = self.0.get_mut((block / 64) as usize) {
            *word |= 1 << (block % 64);
        }
    }

    /// Where the run of blocks like `block` ends, at `end` at the latest.
    fn run_end(&self, block: u64, end: u64) -> u64 {
        let present = self.contains(block);
        (block + 1..end).find(|next| self.contains(*next) != present).unwrap_or(end)
    }
}

pub(crate) struct SnapshotDisk {
    base: RawDisk,
    file: File,
    map: RwLock<Map>,
    info: DiskInfo,
}

impl SnapshotDisk {
    /// Writes over `base`, the image at `path`, go to a temporary file in $TMPDIR or /var/tmp.
    pub(crate) fn over(base: RawDisk, path: &Path) -> Result<Self, Error> {
        let host = |source| Error::Host {
            path: path.to_owned(),
            operation: "create the temporary file of its snapshot",
            source,
        };
        let directory = std::env::var_os("TMPDIR").map_or_else(|| PathBuf::from("/var/tmp"), PathBuf::from);
        let file = tempfile::tempfile_in(directory).map_err(host)?;
        let size = base.info().size;
        file.set_len(size.next_multiple_of(BLOCK)).map_err(host)?;
        let info = DiskInfo { read_only: false, discard_granularity: BLOCK as u32, ..base.info().clone() };
        Ok(Self { base, file, map: RwLock::new(Map::new(size.div_ceil(BLOCK))), info })
    }

    /// Copies `block` up if a write of its bytes `from..to` leaves any of it as it was.
    fn copy_up(&self, map: &Map, block: u64, from: u64, to: u64) -> io::Result<()> {
        let start = block * BLOCK;
        let end = (start + BLOCK).min(self.info.size);
        if map.contains(block) || (from <= start && to >= end) {
            return Ok(());
        }
        let mut data = [0; BLOCK as usize];
        let data = &mut data[..(end - start) as usize];
        self.base.read(start, &[Segment::from(&mut *data)])?;
        write_file(&self.file, start, &[Segment::for_writing(data)], false)
    }

    /// Runs `write` with the blocks of the range copied up; they are in the map if it succeeds.
    fn written(&self, offset: u64, len: u64, write: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        check_range(&self.info, offset, len)?;
        if len == 0 {
            return Ok(());
        }
        let (first, last) = (offset / BLOCK, (offset + len - 1) / BLOCK);
        let mut map = self.map.write().unwrap_or_else(PoisonError::into_inner);
        self.copy_up(&map, first, offset, offset + len)?;
        self.copy_up(&map, last, offset, offset + len)?;
        write()?;
        (first..=last).for_each(|block| map.insert(block));
        Ok(())
    }
}

impl Disk for SnapshotDisk {
    fn info(&self) -> &DiskInfo {
        &self.info
    }

    fn read(&self, offset: u64, segments: &[Segment<'_>]) -> io::Result<()> {
        let len = memory::total(segments);
        check_range(&self.info, offset, len)?;
        let map = self.map.read().unwrap_or_else(PoisonError::into_inner);
        let end = (offset + len).div_ceil(BLOCK);
        let (mut at, mut rest) = (offset, segments.to_vec());
        while at < offset + len {
            let block = at / BLOCK;
            let to = (map.run_end(block, end) * BLOCK).min(offset + len);
            let (now, later) = split(&rest, (to - at) as usize);
            if map.contains(block) {
                read_file(&self.file, at, &now)?;
            } else {
                self.base.read(at, &now)?;
            }
            (at, rest) = (to, later);
        }
        Ok(())
    }

    fn write(&self, offset: u64, segments: &[Segment<'_>], _fua: bool) -> io::Result<()> {
        // Stable storage means nothing to a file that ends with the process.
        self.written(offset, memory::total(segments), || write_file(&self.file, offset, segments, false))
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }

    fn write_zeroes(&self, offset: u64, len: u64, _unmap: bool, _fua: bool) -> io::Result<()> {
        self.written(offset, len, || {
            let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
            // SAFETY: plain system call on an open descriptor.
            match unsafe { libc::fallocate64(self.file.as_raw_fd(), mode, offset as i64, len as i64) } {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            }
        })
    }

    fn queue(self: Arc<Self>, depth: usize, memory: &GuestMemory) -> Result<Box<dyn DiskQueue>, Error> {
        (self as Arc<dyn Disk>).thread_queue(depth, memory)
    }
}

/// Splits a list of segments after `len` bytes.
fn split<'a>(segments: &[Segment<'a>], len: usize) -> (Vec<Segment<'a>>, Vec<Segment<'a>>) {
    let (mut first, mut second, mut left) = (Vec::new(), Vec::new(), len);
    for segment in segments {
        let now = segment.len().min(left);
        if now > 0 {
            first.push(segment.part(0, now));
        }
        if now < segment.len() {
            second.push(segment.part(now, usize::MAX));
        }
        left -= now;
    }
    (first, second)
}
