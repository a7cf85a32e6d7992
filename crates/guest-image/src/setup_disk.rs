//! The setup disk: an ISO image with what a Linux guest without integration services needs to have them.
//!
//! ISO 9660 with Rock Ridge and Joliet, made by `xorriso`. On it: the guest's program (`guest/integration`), its units,
//! `install.sh` and what is said of them (`guest/setup-disk`), and the sums of all.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use sha2::{Digest, Sha256};

use crate::Error;
use crate::cache::Cache;
use crate::program::Program;

const XORRISO: Program = Program { name: "xorriso", package: "xorriso" };
/// The name that guests show.
const VOLUME: &str = "BODHI_SETUP";

/// A file on the disc: its name, whether it is a program, and what is in it.
type Entry<'a> = (&'static str, bool, &'a [u8]);

const ENTRIES: [Entry<'static>; 7] = [
    (
        "70-bodhi-integration.rules",
        false,
        include_bytes!("../../../guest/setup-disk/70-bodhi-integration.rules"),
    ),
    ("README.txt", false, include_bytes!("../../../guest/setup-disk/README.txt")),
    ("bodhi-backup.service", false, include_bytes!("../../../guest/setup-disk/bodhi-backup.service")),
    ("bodhi-file-copy.service", false, include_bytes!("../../../guest/setup-disk/bodhi-file-copy.service")),
    ("bodhi-integration", true, include_bytes!(concat!(env!("OUT_DIR"), "/bodhi-integration"))),
    ("bodhi-key-value.service", false, include_bytes!("../../../guest/setup-disk/bodhi-key-value.service")),
    ("install.sh", true, include_bytes!("../../../guest/setup-disk/install.sh")),
];

/// The disc, from `cache` or made now.
///
/// # Errors
/// When `xorriso` is missing or fails, or files cannot be written.
pub fn build(cache: &Cache) -> Result<PathBuf, Error> {
    cache.image(("setup-disk", "iso"), &sums(), disc)
}

/// As `sha256sum` writes and checks them.
fn sums() -> String {
    ENTRIES.iter().fold(String::new(), |mut sums, (name, _, contents)| {
        for byte in Sha256::digest(contents) {
            // Writing to a string does not fail.
            let _ = write!(sums, "{byte:02x}");
        }
        sums + "  " + name + "\n"
    })
}

fn disc(work: &Path, log: &Path) -> Result<PathBuf, Error> {
    let mut command = Command::new(XORRISO.find()?);
    let (folder, disc) = (work.join("disc"), work.join("disc.iso"));
    fs::create_dir(&folder).map_err(Error::file(&folder))?;
    let sums = sums();
    for (name, is_program, contents) in ENTRIES.into_iter().chain([("SHA256SUMS", false, sums.as_bytes())]) {
        let path = folder.join(name);
        let mode = fs::Permissions::from_mode(if is_program { 0o755 } else { 0o644 });
        fs::write(&path, contents)
            .and_then(|()| fs::set_permissions(&path, mode))
            .map_err(Error::file(&path))?;
    }
    // Owned by root, for everybody to read.
    command.args(["-as", "mkisofs", "-quiet", "-r", "-J", "-joliet-long", "-V", VOLUME, "-o"]);
    command.arg(&disc).arg(&folder);
    XORRISO.run(&mut command, log)?;
    Ok(disc)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_disc_has_every_file_and_its_sum() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(folder.path().join("cache")).unwrap();
        let disc = build(&cache).unwrap();
        assert_eq!(disc.extension().unwrap(), "iso");
        let all = folder.path().join("all");
        let mut command = Command::new(XORRISO.find().unwrap());
        command.args(["-osirrox", "on", "-indev"]).arg(&disc).args(["-extract", "/"]).arg(&all);
        XORRISO.run(&mut command, &folder.path().join("log")).unwrap();
        let sums = fs::read_to_string(all.join("SHA256SUMS")).unwrap();
        assert_eq!(sums.lines().count(), ENTRIES.len());
        for (name, is_program, contents) in ENTRIES {
            let path = all.join(name);
            assert_eq!(fs::read(&path).unwrap(), contents, "{name}");
            let mode = fs::metadata(&path).unwrap().permissions().mode();
            assert_eq!(mode & 0o111 != 0, is_program, "{name}");
            assert!(sums.contains(&format!("  {name}\n")), "{name}");
        }
        let check =
            Command::new("sha256sum").args(["--quiet", "-c", "SHA256SUMS"]).current_dir(&all).status();
        assert!(check.unwrap().success());
    }

    #[test]
    fn the_program_needs_nothing_but_the_kernel() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("program");
        let (_, _, contents) = ENTRIES.iter().find(|(name, ..)| *name == "bodhi-integration").unwrap();
        fs::write(&program, contents).unwrap();
        // A program header of type PT_INTERP names a loader.
        let (entries, size) = (u16::from_le_bytes([contents[56], contents[57]]), 56);
        let headers = (0..usize::from(entries)).map(|index| &contents[64 + size * index..][..4]);
        assert!(headers.clone().count() > 0 && headers.into_iter().all(|kind| kind != 3_u32.to_le_bytes()));
    }
}
