//! File copy: the host puts a file here.
//!
//! Linux `drivers/hv/hv_fcopy.c`, `include/uapi/linux/hyperv.h` (`hv_start_fcopy`, `hv_do_fcopy`). An answer is a status
//! of four bytes.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};

use crate::device::Service;
use crate::fields::{long_number, number, until_zero};
use crate::{FAILED, OK};

/// The version of the driver's protocol.
const VERSION: u32 = 1;

/// Operations, and where what belongs to them is, behind an operation and two identifiers that nobody uses.
const START: u32 = 0;
const NAME: usize = 36;
const FOLDER: usize = NAME + 2 * PATH;
const FLAGS: usize = FOLDER + 2 * PATH;
const SIZE: usize = FLAGS + 4;
/// Half the bytes of a field for a name, of which the driver uses no more.
const PATH: usize = 260;
const WRITE: u32 = 1;
const OFFSET: usize = 40;
const LENGTH: usize = 48;
const DATA: usize = 52;
const COMPLETE: u32 = 2;
const CANCEL: u32 = 3;

const OVERWRITE: u32 = 1;
const CREATE_FOLDERS: u32 = 2;

const EXISTS: u32 = 0x8007_0050;
const DISK_FULL: u32 = 0x8007_0070;

/// A file that comes: written beside its place, and moved there when it is whole.
struct Coming {
    file: File,
    partial: PathBuf,
    target: PathBuf,
    overwrite: bool,
    size: u64,
    written: u64,
}

impl Drop for Coming {
    fn drop(&mut self) {
        match fs::remove_file(&self.partial) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                eprintln!("bodhi-integration: {}: {error}", self.partial.display());
            }
            _ => {}
        }
    }
}

/// The service.
#[derive(Default)]
pub struct FileCopy {
    coming: Option<Coming>,
}

/// Why a request fails: what the host is told, and what the log is.
struct Refusal(u32, String);

impl Refusal {
    fn of(path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |error| {
            let status = match error.kind() {
                ErrorKind::StorageFull | ErrorKind::QuotaExceeded => DISK_FULL,
                ErrorKind::AlreadyExists => EXISTS,
                _ => FAILED,
            };
            Self(status, format!("{}: {error}", path.display()))
        }
    }

    fn unsound(what: &str) -> Self {
        Self(FAILED, what.to_owned())
    }
}

impl FileCopy {
    fn start(&mut self, request: &[u8]) -> Result<(), Refusal> {
        // One that was not brought to its end is gone.
        self.coming = None;
        let short = || Refusal::unsound("a start is too short");
        let text = |at: usize| request.get(at..at + PATH).map(until_zero).ok_or_else(short);
        let (name, folder) = (text(NAME)?, text(FOLDER)?);
        let flags = number(request, FLAGS).ok_or_else(short)?;
        let size = long_number(request, SIZE).ok_or_else(short)?;
        if name.is_empty()
            || name.contains(&b'/')
            || name == b"."
            || name == b".."
            || !folder.starts_with(b"/")
        {
            return Err(Refusal::unsound("a start names no absolute path"));
        }
        let folder = Path::new(std::ffi::OsStr::from_bytes(folder));
        let target = folder.join(std::ffi::OsStr::from_bytes(name));
        let overwrite = flags & OVERWRITE != 0;
        if flags & CREATE_FOLDERS != 0 {
            fs::create_dir_all(folder).map_err(Refusal::of(folder))?;
        }
        let before = match fs::metadata(&target) {
            Ok(about) if !about.is_file() => return Err(Refusal::unsound("the target is no file")),
            Ok(_) if !overwrite => return Err(Refusal(EXISTS, format!("{} exists", target.display()))),
            Ok(about) => Some(about),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => return Err(Refusal::of(&target)(error)),
        };
        // A link stays one, and what it leads to is what is overwritten.
        let target = match before {
            Some(_) => fs::canonicalize(&target).map_err(Refusal::of(&target))?,
            None => target,
        };
        // A short name, as the file's own may be as long as names can be.
        let partial = target.with_file_name(format!(".bodhi-{}", std::process::id()));
        let mut options = File::options();
        options.write(true).create_new(true).mode(0o600);
        let file = options.open(&partial).map_err(Refusal::of(&partial))?;
        let coming = Coming { file, partial, target, overwrite, size, written: 0 };
        let owned = match &before {
            Some(about) => fchown(&coming.file, Some(about.uid()), Some(about.gid())),
            None => Ok(()),
        };
        let mode = before.map_or(0o644, |about| about.mode() & 0o7777);
        let set = owned.and_then(|()| coming.file.set_permissions(fs::Permissions::from_mode(mode)));
        set.map_err(Refusal::of(&coming.partial))?;
        self.coming = Some(coming);
        Ok(())
    }

    fn write(&mut self, request: &[u8]) -> Result<(), Refusal> {
        let coming = self.coming.as_mut().ok_or_else(|| Refusal::unsound("data without a start"))?;
        let data = || {
            let (offset, length) = (long_number(request, OFFSET)?, number(request, LENGTH)?);
            Some((offset, request.get(DATA..)?.get(..usize::try_from(length).ok()?)?))
        };
        let (offset, data) = data().ok_or_else(|| Refusal::unsound("data are longer than their message"))?;
        let end = offset.checked_add(data.len() as u64);
        if end.is_none_or(|end| end > coming.size) {
            return Err(Refusal::unsound("data are beyond the end of the file"));
        }
        coming.file.write_all_at(data, offset).map_err(Refusal::of(&coming.target))?;
        coming.written += data.len() as u64;
        Ok(())
    }

    fn complete(&mut self) -> Result<(), Refusal> {
        let coming = self.coming.take().ok_or_else(|| Refusal::unsound("an end without a start"))?;
        let Coming { file, partial, target, overwrite, size, written } = &coming;
        if written != size {
            return Err(Refusal(FAILED, format!("{}: {written} of {size} bytes came", target.display())));
        }
        file.sync_all().map_err(Refusal::of(target))?;
        let flags = if *overwrite { RenameFlags::empty() } else { RenameFlags::RENAME_NOREPLACE };
        let moved = match renameat2(AT_FDCWD, partial, AT_FDCWD, target, flags) {
            // Some file systems do not know how to; the target was not there a moment ago.
            Err(nix::errno::Errno::EINVAL) => fs::rename(partial, target),
            moved => moved.map_err(io::Error::from),
        };
        moved.map_err(Refusal::of(target))
    }
}

impl Service for FileCopy {
    const DEVICE: &'static str = "/dev/vmbus/hv_fcopy";

    fn registration(&self) -> Vec<u8> {
        VERSION.to_le_bytes().into()
    }

    fn answer(&mut self, request: &[u8]) -> Option<Vec<u8>> {
        let done = match number(request, 0)? {
            START => self.start(request),
            WRITE => self.write(request),
            COMPLETE => self.complete(),
            CANCEL => {
                self.coming = None;
                Ok(())
            }
            other => Err(Refusal(FAILED, format!("operation {other} is unknown"))),
        };
        let status = match done {
            Ok(()) => OK,
            Err(Refusal(status, reason)) => {
                eprintln!("bodhi-integration: {}: {reason}", Self::DEVICE);
                status
            }
        };
        Some(status.to_le_bytes().into())
    }

    fn cut_off(&mut self) {
        self.coming = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(operation: u32) -> Vec<u8> {
        let mut message = operation.to_le_bytes().to_vec();
        message.resize(NAME, 0);
        message
    }

    fn start(folder: &Path, name: &str, flags: u32, size: u64) -> Vec<u8> {
        let mut request = message(START);
        request.resize(SIZE + 8, 0);
        request[NAME..NAME + name.len()].copy_from_slice(name.as_bytes());
        let folder = folder.as_os_str().as_bytes();
        request[FOLDER..FOLDER + folder.len()].copy_from_slice(folder);
        request[FLAGS..FLAGS + 4].copy_from_slice(&flags.to_le_bytes());
        request[SIZE..SIZE + 8].copy_from_slice(&size.to_le_bytes());
        request
    }

    fn data(offset: u64, length: u32, data: &[u8]) -> Vec<u8> {
        let mut request = message(WRITE);
        request.resize(OFFSET, 0);
        request.extend(offset.to_le_bytes());
        request.extend(length.to_le_bytes());
        request.extend(data);
        request
    }

    fn status(service: &mut FileCopy, request: &[u8]) -> u32 {
        number(&service.answer(request).unwrap(), 0).unwrap()
    }

    fn files(folder: &Path) -> usize {
        fs::read_dir(folder).unwrap().count()
    }

    #[test]
    fn a_file_is_there_when_it_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        let (path, target) = (folder.path().join("a/b"), folder.path().join("a/b/c"));
        let mut service = FileCopy::default();
        assert_eq!(status(&mut service, &start(&path, "c", CREATE_FOLDERS, 4)), OK);
        assert_eq!(status(&mut service, &data(0, 3, b"onexx")), OK);
        assert!(!target.exists());
        assert_eq!(status(&mut service, &data(3, 1, b"!")), OK);
        assert_eq!(status(&mut service, &message(COMPLETE)), OK);
        assert_eq!(fs::read(&target).unwrap(), b"one!");
        assert_eq!((fs::metadata(&target).unwrap().permissions().mode() & 0o777, files(&path)), (0o644, 1));

        assert_eq!(status(&mut service, &start(&path, "c", 0, 0)), EXISTS);
        fs::set_permissions(&target, fs::Permissions::from_mode(0o750)).unwrap();
        assert_eq!(status(&mut service, &start(&path, "c", OVERWRITE, 0)), OK);
        assert_eq!(fs::read(&target).unwrap(), b"one!");
        assert_eq!(status(&mut service, &message(COMPLETE)), OK);
        assert_eq!(fs::read(&target).unwrap(), b"");
        assert_eq!(fs::metadata(&target).unwrap().permissions().mode() & 0o777, 0o750);
    }

    #[test]
    fn nothing_stays_of_a_file_that_is_cancelled_cut_off_or_not_whole() {
        let folder = tempfile::tempdir().unwrap();
        let mut service = FileCopy::default();
        for end in [message(CANCEL), message(COMPLETE)] {
            assert_eq!(status(&mut service, &start(folder.path(), "c", 0, 9)), OK);
            assert_eq!(status(&mut service, &data(0, 3, b"one")), OK);
            service.answer(&end).unwrap();
            assert_eq!(files(folder.path()), 0);
        }
        assert_eq!(status(&mut service, &start(folder.path(), "c", 0, 9)), OK);
        service.cut_off();
        assert_eq!(files(folder.path()), 0);
    }

    #[test]
    fn what_came_meanwhile_is_not_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let mut service = FileCopy::default();
        assert_eq!(status(&mut service, &start(folder.path(), "c", 0, 0)), OK);
        fs::write(folder.path().join("c"), "meanwhile").unwrap();
        assert_eq!(status(&mut service, &message(COMPLETE)), EXISTS);
        assert_eq!(
            (fs::read(folder.path().join("c")).unwrap(), files(folder.path())),
            (b"meanwhile".into(), 1)
        );
    }

    #[test]
    fn unsound_requests_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let mut service = FileCopy::default();
        for request in [
            data(0, 1, b"a"),
            message(COMPLETE),
            message(9),
            message(START),
            start(Path::new("relative"), "c", 0, 1),
            start(folder.path(), "a/b", 0, 1),
            start(folder.path(), "..", 0, 1),
            start(folder.path(), "", 0, 1),
            start(&folder.path().join("missing"), "c", 0, 1),
        ] {
            assert_eq!(status(&mut service, &request), FAILED, "{request:?}");
        }
        assert_eq!(status(&mut service, &start(folder.path(), "c", 0, 2)), OK);
        assert_eq!(status(&mut service, &data(0, 4, b"abc")), FAILED);
        assert_eq!(status(&mut service, &data(0, 3, b"abc")), FAILED);
        assert_eq!(status(&mut service, &data(u64::MAX, 1, b"a")), FAILED);
        assert_eq!((service.answer(&[]), service.answer(&[0; 3])), (None, None));
    }
}
