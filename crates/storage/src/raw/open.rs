//! Opening and locking raw images.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::RawDisk;
use crate::snapshot::SnapshotDisk;
use crate::{Disk, DiskInfo, Error};

/// How long a lock that another holds is asked for again.
const LOCK_PATIENCE: Duration = Duration::from_secs(1);
/// How often.
const LOCK_RETRY: Duration = Duration::from_millis(10);

/// How to open a disk image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenOptions {
    /// Refuse writes; the file is only read and may be shared with other readers.
    pub read_only: bool,
    /// Writes go to a temporary file that ends with this process; the image is only read.
    pub snapshot: bool,
    /// Bytes of a logical block: 512, or 2048 for optical media.
    pub logical_block: u32,
    /// Identity of the disk; `None` derives it from the file's canonical path.
    pub identity: Option<[u8; 16]>,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self { read_only: false, snapshot: false, logical_block: 512, identity: None }
    }
}

impl OpenOptions {
    /// For an optical medium: blocks of 2048 bytes, read-only.
    pub fn optical() -> Self {
        Self { read_only: true, logical_block: 2048, ..Self::default() }
    }
}

/// Opens the raw image or block device at `path` and locks it.
///
/// # Errors
/// One that names the file, when it cannot be opened as `options` say or is in use. Nothing has been
/// created or changed then.
pub fn open(path: &Path, options: &OpenOptions) -> Result<Arc<dyn Disk>, Error> {
    let raw = open_raw(path, options)?;
    if options.snapshot && !options.read_only {
        return Ok(Arc::new(SnapshotDisk::over(raw, path)?));
    }
    Ok(Arc::new(raw))
}

fn open_raw(path: &Path, options: &OpenOptions) -> Result<RawDisk, Error> {
    let write = !options.read_only && !options.snapshot;
    let host = |operation| move |source| Error::Host { path: path.to_owned(), operation, source };
    // What it is comes first: opening a pipe or a tape may block or have effects.
    let metadata = std::fs::metadata(path).map_err(|error| refused(path, false, error))?;
    let kind = metadata.file_type();
    if kind.is_dir() {
        return Err(Error::Directory(path.to_owned()));
    }
    if !kind.is_file() && !kind.is_block_device() {
        return Err(Error::NotADisk(path.to_owned()));
    }
    let exclusive = if write && kind.is_block_device() { libc::O_EXCL } else { 0 };
    let file = std::fs::OpenOptions::new()
        .read(true)
        .write(write)
        .custom_flags(libc::O_NONBLOCK | exclusive)
        .open(path)
        .map_err(|error| refused(path, write, error))?;
    lock(&file, path, write)?;

    let geometry = if kind.is_block_device() {
        device_geometry(&file, metadata.rdev()).map_err(host("read the size of"))?
    } else {
        let size = file.metadata().map_err(host("read the size of"))?.len();
        let block = power_of_two(metadata.blksize());
        Geometry { size, block, punches_holes: write && punches_holes(&file, size) }
    };
    let block = options.logical_block.max(512).next_power_of_two();
    let size = geometry.size - geometry.size % u64::from(block);
    if size == 0 {
        return Err(Error::Empty { path: path.to_owned(), block });
    }
    if size != geometry.size {
        tracing::warn!(
            "disk image {}: the last {} bytes are not a whole block of {block} and stay hidden from the guest",
            path.display(),
            geometry.size - size
        );
    }
    let identity = options.identity.unwrap_or_else(|| identity_of(path));
    let info = DiskInfo {
        size,
        logical_block: block,
        physical_block: geometry.block.clamp(block, 64 * 1024),
        read_only: !write,
        discard_granularity: if geometry.punches_holes { geometry.block.max(block) } else { 0 },
        identity,
        serial: serial_of(&identity),
    };
    Ok(RawDisk { file: Arc::new(file), info })
}

fn refused(path: &Path, write: bool, error: io::Error) -> Error {
    let path = path.to_owned();
    match error.raw_os_error() {
        Some(libc::ENOENT | libc::ENOTDIR | libc::ENXIO | libc::ENODEV) => Error::Missing(path),
        Some(libc::EISDIR) => Error::Directory(path),
        Some(libc::EBUSY | libc::ETXTBSY) => Error::InUse(path),
        Some(libc::EACCES | libc::EPERM | libc::EROFS) => {
            Error::Permission { path, access: if write { "write" } else { "read" } }
        }
        _ => Error::Host { path, operation: "open it", source: error },
    }
}

/// Locks the whole file against other opens, those of this process included.
///
/// A process that was killed may leave requests with the kernel, which keep the file open, and locked, until they
/// are done; nobody may write before them. So a lock that is held is asked for again for a moment.
fn lock(file: &File, path: &Path, write: bool) -> Result<(), Error> {
    let deadline = Instant::now() + LOCK_PATIENCE;
    loop {
        let source = match try_lock(file, write) {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        let held = matches!(source.raw_os_error(), Some(libc::EAGAIN | libc::EACCES));
        if !held {
            return Err(Error::Host { path: path.to_owned(), operation: "lock it", source });
        }
        if Instant::now() >= deadline {
            return Err(Error::InUse(path.to_owned()));
        }
        std::thread::sleep(LOCK_RETRY);
    }
}

fn try_lock(file: &File, write: bool) -> io::Result<()> {
    // SAFETY: all zeroes is a valid `flock`: the whole file, and process 0 as OFD locks want it.
    let mut range: libc::flock = unsafe { std::mem::zeroed() };
    range.l_type = if write { libc::F_WRLCK } else { libc::F_RDLCK } as libc::c_short;
    range.l_whence = libc::SEEK_SET as libc::c_short;
    // SAFETY: the descriptor is open and `range` lives through the call.
    match unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &range) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

struct Geometry {
    size: u64,
    block: u32,
    punches_holes: bool,
}

fn power_of_two(block: u64) -> u32 {
    u32::try_from(block).ok().filter(|block| block.is_power_of_two()).unwrap_or(4096)
}

/// Whether holes can be punched, tried beyond the end, where there is nothing to lose.
fn punches_holes(file: &File, size: u64) -> bool {
    let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    let beyond = size.next_multiple_of(1 << 20) as i64;
    // SAFETY: plain system call on an open descriptor; with KEEP_SIZE it changes nothing beyond the end.
    unsafe { libc::fallocate64(file.as_raw_fd(), mode, beyond, 4096) == 0 }
}

fn device_geometry(file: &File, device: u64) -> io::Result<Geometry> {
    // <linux/fs.h>: BLKGETSIZE64 and BLKPBSZGET.
    const BLKGETSIZE64: libc::c_ulong = 0x8008_1272;
    const BLKPBSZGET: libc::c_ulong = 0x127b;
    let (mut size, mut block) = (0_u64, 0_u32);
    // SAFETY: the request writes a u64 to the address given.
    if unsafe { libc::ioctl(file.as_raw_fd(), BLKGETSIZE64, &mut size) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the request writes an unsigned int to the address given.
    if unsafe { libc::ioctl(file.as_raw_fd(), BLKPBSZGET, &mut block) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(Geometry { size, block: power_of_two(block.into()), punches_holes: device_unmaps(device) })
}

/// Whether a block device can make a range zero by giving its space back, as sysfs says. A partition has
/// the queue of its disk.
fn device_unmaps(device: u64) -> bool {
    let directory = PathBuf::from(format!("/sys/dev/block/{}:{}", libc::major(device), libc::minor(device)));
    let limit = |name: &str| {
        let read = |path: PathBuf| std::fs::read_to_string(path).ok();
        read(directory.join("queue").join(name))
            .or_else(|| read(directory.join("../queue").join(name)))
            .and_then(|text| text.trim().parse::<u64>().ok())
            .unwrap_or(0)
    };
    limit("discard_max_bytes") > 0 && limit("write_zeroes_max_bytes") > 0
}

/// A stable identity for the file at `path`: FNV-1a of its canonical path, marked as a name-based UUID.
fn identity_of(path: &Path) -> [u8; 16] {
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
    const BASIS: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    let canonical = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let hash = canonical
        .as_os_str()
        .as_encoded_bytes()
        .iter()
        .fold(BASIS, |hash, byte| (hash ^ u128::from(*byte)).wrapping_mul(PRIME));
    let mut identity = hash.to_be_bytes();
    identity[6] = identity[6] & 0x0f | 0x80;
    identity[8] = identity[8] & 0x3f | 0x80;
    identity
}

/// A serial number of 20 characters from an identity.
fn serial_of(identity: &[u8; 16]) -> String {
    identity.iter().take(10).map(|byte| format!("{byte:02x}")).collect()
}
