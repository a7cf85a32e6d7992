//! What has been built is kept.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{FlockOperation, flock};
use tempfile::TempDir;

use crate::Error;
use crate::program::Program;

/// What the names of unfinished work begin with.
const WORK: &str = "building-";
const CP: Program = Program { name: "cp", package: "coreutils" };

/// A folder of images, each beside the words that say of what it was built. One process at a time works there.
#[derive(Debug)]
pub struct Cache {
    folder: PathBuf,
    /// Locked for as long as it is open. None where nobody can write.
    _lock: Option<File>,
}

impl Cache {
    /// The folder that is used unless another one is named: `bodhi` in `XDG_CACHE_HOME`, or in `~/.cache`.
    pub fn usual() -> Option<PathBuf> {
        let named =
            |name| std::env::var_os(name).filter(|value: &OsString| !value.is_empty()).map(PathBuf::from);
        let parent = named("XDG_CACHE_HOME").or_else(|| named("HOME").map(|home| home.join(".cache")));
        parent.map(|parent| parent.join("bodhi"))
    }

    /// The images in `folder`, which is made if there is none. Waits for another process that works there. On a file system
    /// that is read only, what has been built can be had.
    ///
    /// # Errors
    /// When it cannot be made or locked.
    pub fn open(folder: PathBuf) -> Result<Self, Error> {
        fs::create_dir_all(&folder).map_err(Error::file(&folder))?;
        let path = folder.join("lock");
        let lock = match File::create(&path) {
            Ok(lock) => lock,
            Err(error) if error.kind() == ErrorKind::ReadOnlyFilesystem => {
                return Ok(Self { folder, _lock: None });
            }
            Err(error) => return Err(Error::file(&path)(error)),
        };
        flock(&lock, FlockOperation::LockExclusive).map_err(|error| Error::file(&path)(error.into()))?;
        let cache = Self { folder, _lock: Some(lock) };
        cache.sweep()?;
        Ok(cache)
    }

    /// The image named `name`, as a file that ends with `end`, and built of what `recipe` says: as it was built before, or by `build` now, which gets a
    /// folder for its work and a file for what its programs print, and returns the image's path in that folder.
    ///
    /// # Errors
    /// Those of `build`, and when files cannot be written.
    pub fn image(
        &self,
        (name, end): (&str, &str),
        recipe: &str,
        build: impl FnOnce(&Path, &Path) -> Result<PathBuf, Error>,
    ) -> Result<PathBuf, Error> {
        let stem = format!("{name}-{:08x}", crc32fast::hash(recipe.as_bytes()));
        let [image, words, log] = [end, "recipe", "log"].map(|end| self.folder.join(format!("{stem}.{end}")));
        let is_there = image.exists() && fs::read_to_string(&words).is_ok_and(|words| words == recipe);
        if is_there {
            return Ok(image);
        }
        match fs::remove_file(&log) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(Error::file(&log)(error));
            }
            _ => {}
        }
        let work = tempfile::Builder::new().prefix(WORK).tempdir_in(&self.folder);
        let work: TempDir = work.map_err(Error::file(&self.folder))?;
        let built = build(work.path(), &log)?;
        fs::rename(&built, &image).map_err(Error::file(&image))?;
        fs::write(&words, recipe).map_err(Error::file(&words))?;
        Ok(image)
    }

    /// Copies `image` to `target`: holes stay holes, and blocks are shared where the file system can.
    ///
    /// # Errors
    /// When it cannot be copied.
    pub fn copy(&self, image: &Path, target: &Path) -> Result<(), Error> {
        let mut command = Command::new(CP.find()?);
        command.args(["--sparse=always", "--reflink=auto", "--"]).args([image, target]);
        CP.run(&mut command, &self.folder.join("copy.log"))
    }

    /// Removes what a process that was killed has left.
    fn sweep(&self) -> Result<(), Error> {
        for entry in fs::read_dir(&self.folder).map_err(Error::file(&self.folder))? {
            let entry = entry.map_err(Error::file(&self.folder))?;
            if entry.file_name().to_string_lossy().starts_with(WORK) {
                fs::remove_dir_all(entry.path()).map_err(Error::file(&entry.path()))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache(folder: &TempDir) -> Cache {
        Cache::open(folder.path().join("images")).unwrap()
    }

    fn built(work: &Path, text: &str) -> Result<PathBuf, Error> {
        let path = work.join("any");
        fs::write(&path, text).unwrap();
        Ok(path)
    }

    #[test]
    fn an_image_is_built_once_for_a_recipe() {
        let folder = TempDir::new().unwrap();
        let cache = cache(&folder);
        let first = cache.image(("a", "img"), "size=1", |work, _| built(work, "one")).unwrap();
        let again = cache.image(("a", "img"), "size=1", |_, _| panic!("it is there")).unwrap();
        assert_eq!((&first, fs::read_to_string(&first).unwrap().as_str()), (&again, "one"));
        let other = cache.image(("a", "img"), "size=2", |work, _| built(work, "two")).unwrap();
        assert_ne!(first, other);
        let target = folder.path().join("copy");
        cache.copy(&other, &target).unwrap();
        assert_eq!(fs::read_to_string(target).unwrap(), "two");
    }

    #[test]
    fn what_failed_is_not_kept_and_what_was_left_is_swept() {
        let folder = TempDir::new().unwrap();
        let failed = |work: &Path, _: &Path| Err(Error::file(work)(ErrorKind::Other.into()));
        cache(&folder).image(("a", "img"), "x", failed).unwrap_err();
        let left = folder.path().join("images/building-x");
        fs::create_dir(&left).unwrap();
        let cache = cache(&folder);
        assert!(!left.exists());
        let image = cache.image(("a", "img"), "x", |work, _| built(work, "now")).unwrap();
        assert_eq!(fs::read_to_string(image).unwrap(), "now");
    }
}
