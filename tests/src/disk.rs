//! Disk images of one test.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::artifacts::{cache, root_image};

/// An image that belongs to one test and goes with it.
pub struct Image {
    folder: TempDir,
    path: PathBuf,
}

impl Image {
    /// A copy of the root file system.
    pub fn root() -> Self {
        let image = Self::empty(0);
        // cp keeps the holes, and shares the blocks where the file system can.
        let copied = Command::new("cp")
            .args(["--sparse=always", "--reflink=auto"])
            .args([root_image().as_path(), image.path()])
            .status()
            .expect("cp runs");
        assert!(copied.success(), "cp could not copy the root image");
        image
    }

    /// A disk of `bytes` zeroes.
    pub fn empty(bytes: u64) -> Self {
        let parent = cache().join("tests");
        fs::create_dir_all(&parent).expect("a folder for test disks");
        let folder = TempDir::new_in(parent).expect("a folder for this test's disk");
        let path = folder.path().join("disk.img");
        fs::File::create_new(&path).and_then(|file| file.set_len(bytes)).expect("an empty image");
        Self { folder, path }
    }

    /// The image file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A folder for other files of the test.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Checks the file system without changing it.
    ///
    /// # Panics
    /// If it is not clean: what `e2fsck` says.
    pub fn assert_clean(&self) {
        let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
        let check = Command::new("e2fsck")
            .arg("-fn")
            .arg(&self.path)
            .env("PATH", path)
            .output()
            .expect("e2fsck runs");
        let said = String::from_utf8_lossy(&check.stdout);
        assert!(check.status.success(), "the file system is not clean:\n{said}");
    }
}
