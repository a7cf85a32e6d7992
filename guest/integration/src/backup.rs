//! Backup: file systems stand still while the host copies the disks.
//!
//! Linux `drivers/hv/hv_snapshot.c`. A message has 12 bytes, of which the first is the operation; in an answer the
//! first four are a status.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::device::Service;
use crate::fields::put_number;
use crate::freeze::{Freeze, freeze, thaw};
use crate::{FAILED, OK};

const LENGTH: usize = 12;
const REGISTER: u8 = 129;
const CHECK: u8 = 2;
const FREEZE: u8 = 5;
const THAW: u8 = 6;

/// Where it is noted what stands still, for a successor of a program that was killed meanwhile. No disk is behind it.
const NOTE: &str = "/run/bodhi-integration.frozen";
const MOUNTS: &str = "/proc/self/mounts";

/// The service.
pub struct Backup {
    /// What stands still, in the order in which it was frozen.
    frozen: Vec<(PathBuf, File)>,
}

impl Backup {
    /// The service. What a predecessor has left frozen goes on.
    ///
    /// # Errors
    /// When that cannot be done.
    pub fn new() -> Result<Self> {
        let mut frozen = Vec::new();
        if let Ok(note) = fs::read_to_string(NOTE) {
            for path in note.lines().map(PathBuf::from) {
                let file = File::open(&path).with_context(|| path.display().to_string())?;
                frozen.push((path, file));
            }
        }
        let mut backup = Self { frozen };
        backup.thaw()?;
        Ok(backup)
    }

    fn freeze(&mut self) -> Result<()> {
        // A second freeze would mix two backups.
        self.thaw()?;
        let mounts = fs::read_to_string(MOUNTS).context(MOUNTS)?;
        let mounts = mounts_to_freeze(&mounts, |device| is_on_loop(Path::new(device)));
        let mut files = Vec::new();
        for path in mounts {
            let file = File::open(&path).with_context(|| path.display().to_string())?;
            files.push((path, file));
        }
        let lines: String = files.iter().map(|(path, _)| format!("{}\n", path.display())).collect();
        fs::write(NOTE, lines).context(NOTE)?;
        for (path, file) in files {
            match freeze(&file).with_context(|| format!("{}: cannot be frozen", path.display()))? {
                Freeze::Frozen => self.frozen.push((path, file)),
                Freeze::Already => {}
                // FAT is one; what it is told is on its disk at least.
                Freeze::Unable => nix::unistd::syncfs(&file).with_context(|| path.display().to_string())?,
            }
        }
        Ok(())
    }

    fn thaw(&mut self) -> Result<()> {
        let mut result = Ok(());
        // The file system of / comes first, which was frozen last.
        for (path, file) in self.frozen.drain(..).rev() {
            if let Err(error) = thaw(&file).with_context(|| format!("{}: cannot be thawed", path.display())) {
                result = Err(error);
            }
        }
        match fs::remove_file(NOTE) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                result.and(Err(error).context(NOTE))
            }
            _ => result,
        }
    }
}

impl Service for Backup {
    const DEVICE: &'static str = "/dev/vmbus/hv_vss";

    fn registration(&self) -> Vec<u8> {
        let mut message = vec![0; LENGTH];
        message[0] = REGISTER;
        message
    }

    fn answer(&mut self, request: &[u8]) -> Option<Vec<u8>> {
        let mut answer = request.get(..LENGTH)?.to_vec();
        let done = match request.first()? {
            &CHECK => Ok(()),
            &FREEZE => self.freeze().inspect_err(|_| self.cut_off()),
            &THAW => self.thaw(),
            other => Err(anyhow::anyhow!("operation {other} is unknown")),
        };
        if let Err(error) = &done {
            eprintln!("bodhi-integration: {}: {error:#}", Self::DEVICE);
        }
        put_number(&mut answer, 0, if done.is_ok() { OK } else { FAILED });
        Some(answer)
    }

    fn cut_off(&mut self) {
        if let Err(error) = self.thaw() {
            eprintln!("bodhi-integration: {}: {error:#}", Self::DEVICE);
        }
    }
}

impl Drop for Backup {
    fn drop(&mut self) {
        self.cut_off();
    }
}

/// Where file systems are mounted that are to stand still, of the lines of /proc/mounts: those on local disks that may be
/// written. `is_loop` tells whether a device is a file of another one of them, which stands still with that.
/// The later ones may be mounted on the earlier ones, so they are first, and / is last.
fn mounts_to_freeze(mounts: &str, is_loop: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let mut seen = Vec::new();
    let mut found = Vec::new();
    for line in mounts.lines() {
        let mut words = line.split(' ');
        let (Some(device), Some(place), Some(options)) = (words.next(), words.next(), words.nth(1)) else {
            continue;
        };
        let writable = options.split(',').all(|option| option != "ro");
        if !device.starts_with("/dev/") || !writable {
            continue;
        }
        if seen.contains(&device) || is_loop(device) {
            continue;
        }
        seen.push(device);
        found.push(PathBuf::from(unescape(place)));
    }
    found.reverse();
    found.sort_by_key(|path| path == Path::new("/"));
    found
}

/// A word of /proc/mounts, in which blanks and the like are octal numbers behind a backslash.
fn unescape(word: &str) -> String {
    let mut text = Vec::new();
    let mut rest = word.as_bytes();
    while let Some((&first, behind)) = rest.split_first() {
        let octal = behind.get(..3).filter(|digits| first == b'\\' && digits.iter().all(u8::is_ascii_digit));
        let code = octal.and_then(|digits| u8::from_str_radix(str::from_utf8(digits).ok()?, 8).ok());
        text.push(code.unwrap_or(first));
        rest = if code.is_some() { &behind[3..] } else { behind };
    }
    String::from_utf8_lossy(&text).into_owned()
}

/// Whether a device is a loop device, or one made of such.
fn is_on_loop(device: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let Ok(about) = fs::metadata(device) else { return false };
    let (major, minor) = (nix::sys::stat::major(about.rdev()), nix::sys::stat::minor(about.rdev()));
    has_loop(Path::new(&format!("/sys/dev/block/{major}:{minor}")), 0)
}

fn has_loop(block: &Path, depth: u32) -> bool {
    // Device mappers hang on each other a few times at the most.
    if depth > 16 || block.join("loop").exists() {
        return depth <= 16;
    }
    let Ok(slaves) = fs::read_dir(block.join("slaves")) else { return false };
    slaves.flatten().any(|slave| has_loop(&slave.path(), depth + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_on_local_disks_and_written_stands_still_and_the_root_last() {
        let mounts = "sysfs /sys sysfs rw,nosuid 0 0\n\
                      /dev/sda3 / ext4 rw,relatime,errors=remount-ro 0 0\n\
                      tmpfs /run tmpfs rw 0 0\n\
                      /dev/sda2 /boot/efi vfat rw 0 0\n\
                      /dev/sdb1 /srv xfs rw 0 0\n\
                      /dev/sdb1 /mnt/bind xfs rw 0 0\n\
                      /dev/sdc /srv/my\\040disk ext4 rw 0 0\n\
                      /dev/loop0 /mnt/loop ext4 rw 0 0\n\
                      /dev/sr0 /media iso9660 ro 0 0\n\
                      server:/export /net nfs rw 0 0\n";
        let paths = mounts_to_freeze(mounts, |device| device == "/dev/loop0");
        assert_eq!(paths, ["/srv/my disk", "/srv", "/boot/efi", "/"].map(PathBuf::from));
    }

    #[test]
    fn octal_numbers_are_characters_and_other_backslashes_are_not() {
        assert_eq!(unescape(r"/a\040b\134\011\x9\99"), "/a b\\\t\\x9\\99");
    }

    #[test]
    fn requests_that_are_none_are_refused() {
        let mut backup = Backup { frozen: Vec::new() };
        assert_eq!(backup.answer(&[FREEZE]), None);
        let answer = backup.answer(&[77; LENGTH]).unwrap();
        assert_eq!(answer[..4], FAILED.to_le_bytes());
        assert_eq!(backup.answer(&[CHECK, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]).unwrap()[..4], [0; 4]);
        assert_eq!(backup.registration()[0], REGISTER);
    }
}
