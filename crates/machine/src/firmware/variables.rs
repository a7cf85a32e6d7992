//! The variables of UEFI firmware, in a file of the machine's own or only for as long as the machine lives.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Mutex};

use chipset::flash::{FlashImage, FlashStore};
use rustix::fs::{FlockOperation, flock};

use crate::config::InputError;

const OPTION: &str = "firmware";

/// What the flash chip has in it at first: that of `file` if there is one by that name, else `template`; what is written
/// goes to `file`, which is made at the first write.
///
/// # Errors
/// When `file` cannot be written, is in use, or is not as large as `template`.
pub(super) fn open(template: Vec<u8>, file: Option<&Path>) -> Result<Arc<Mutex<FlashImage>>, InputError> {
    let Some(path) = file else {
        return Ok(Arc::new(Mutex::new(FlashImage::new(template, None))));
    };
    let failed = |error: io::Error| InputError::io(OPTION, path, &error);
    let refused = |reason: String| InputError::file(OPTION, path, reason);
    let options = File::options().read(true).write(true).to_owned();
    match options.open(path) {
        Ok(file) => {
            lock(&file).map_err(|_| refused("is in use by another machine".to_owned()))?;
            let size = file.metadata().map_err(failed)?.len();
            if size != template.len() as u64 {
                return Err(refused(format!("has {size} bytes; variables have {}", template.len())));
            }
            let mut bytes = vec![0; template.len()];
            file.read_exact_at(&mut bytes, 0).map_err(failed)?;
            Ok(Arc::new(Mutex::new(FlashImage::new(bytes, Some(Box::new(Kept(file)))))))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
            if parent.is_some_and(|parent| !parent.is_dir()) {
                return Err(refused("there is no such directory".to_owned()));
            }
            let new = New { path: path.to_owned(), template: template.clone(), file: None };
            Ok(Arc::new(Mutex::new(FlashImage::new(template, Some(Box::new(new))))))
        }
        Err(error) => Err(failed(error)),
    }
}

fn lock(file: &File) -> io::Result<()> {
    Ok(flock(file, FlockOperation::NonBlockingLockExclusive)?)
}

/// A file that is there.
struct Kept(File);

impl FlashStore for Kept {
    fn store(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }
}

/// A file that is made when there is something to keep.
struct New {
    path: std::path::PathBuf,
    template: Vec<u8>,
    file: Option<Kept>,
}

impl FlashStore for New {
    fn store(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            None => {
                let file = File::options().read(true).write(true).create_new(true).open(&self.path)?;
                let written = lock(&file).and_then(|()| file.write_all_at(&self.template, 0));
                if let Err(error) = written {
                    // Half a file would be refused the next time.
                    std::fs::remove_file(&self.path)?;
                    return Err(error);
                }
                self.template = Vec::new();
                self.file.insert(Kept(file))
            }
        };
        file.store(offset, bytes)
    }
}

#[cfg(test)]
mod tests {
    use chipset::MmioDevice;
    use chipset::flash::Flash;

    use super::*;

    fn erase(image: &Arc<Mutex<FlashImage>>) {
        let mut flash = Flash::new(Arc::clone(image));
        flash.memory_write(0, &[0x20]);
        flash.memory_write(0, &[0xd0]);
    }

    #[test]
    fn what_is_written_is_there_the_next_time() {
        let folder = tempfile::TempDir::new().unwrap();
        let path = folder.path().join("vars");
        let first = open(vec![1; 8192], Some(&path)).unwrap();
        assert!(!path.exists(), "nothing has been written");
        erase(&first);
        // Two machines do not share it.
        let error = open(vec![1; 8192], Some(&path)).unwrap_err().to_string();
        assert!(error.ends_with("vars: is in use by another machine"), "{error}");
        drop(first);
        let again = open(vec![1; 8192], Some(&path)).unwrap();
        let bytes = again.lock().unwrap().bytes().to_vec();
        assert_eq!((bytes[0], bytes[4095], bytes[4096], bytes.len()), (0xff, 0xff, 1, 8192));
    }

    #[test]
    fn a_file_that_does_not_do_is_named() {
        let folder = tempfile::TempDir::new().unwrap();
        let path = folder.path().join("vars");
        std::fs::write(&path, [0; 100]).unwrap();
        let error = open(vec![1; 8192], Some(&path)).unwrap_err().to_string();
        assert!(error.ends_with("vars: has 100 bytes; variables have 8192"), "{error}");
        let error = open(vec![1; 8192], Some(&folder.path().join("no/vars"))).unwrap_err().to_string();
        assert!(error.ends_with("no/vars: there is no such directory"), "{error}");
    }
}
