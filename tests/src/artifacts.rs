//! Where the guests and programs are.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A Debian kernel with its initramfs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kernel {
    /// Debian 12's kernel for any machine.
    Generic,
    /// Debian 12's kernel for virtual machines.
    Cloud,
    /// The newest kernel offered for Debian 12.
    Backports,
    /// Debian 11's kernel for any machine.
    Bullseye,
    /// Debian 13's.
    Trixie,
    /// Debian 12's kernel for 32-bit processors, without physical address extension.
    I386,
    /// The same with it.
    I386Pae,
    /// The same as an ELF file, which starts by PVH.
    I386Pvh,
}

impl Kernel {
    /// The name `scripts/guest` knows it by.
    pub fn name(self) -> &'static str {
        match self {
            Self::Generic => "generic",
            Self::Cloud => "cloud",
            Self::Backports => "backports",
            Self::Bullseye => "bullseye",
            Self::Trixie => "trixie",
            Self::I386 => "i386",
            Self::I386Pae | Self::I386Pvh => "i386-pae",
        }
    }

    /// The kernel image, as Debian ships it or as what is packed in that.
    pub fn image(self) -> PathBuf {
        let file = if self == Self::I386Pvh { "vmlinux" } else { "vmlinuz" };
        made(&format!("guest/{}/{file}", self.name()))
    }

    /// The initramfs.
    pub fn initrd(self) -> PathBuf {
        made(&format!("guest/{}/initrd", self.name()))
    }

    /// What `uname -r` says.
    pub fn release(self) -> String {
        let file = made(&format!("guest/{}/release", self.name()));
        std::fs::read_to_string(file).expect("the kernel's release").trim().to_owned()
    }
}

/// The guest that measures its exits.
pub fn probe() -> PathBuf {
    made("guest/probe/probe")
}

/// The Xen hypervisor.
pub fn xen() -> PathBuf {
    made("guest/xen/xen.gz")
}

/// The root file system that every guest starts from.
pub fn root_image() -> PathBuf {
    made("guest/root.img")
}

/// The disk with an installed Debian.
pub fn installed_image() -> PathBuf {
    made("guest/debian.img")
}

/// What firmware boots: a file of `scripts/guest media` or `scripts/guest installer`.
pub fn medium(name: &str) -> PathBuf {
    made(&format!("media/{name}"))
}

/// The root file system with the jobs of the benchmarks: a disk image, and the same as a tree for a chroot.
pub fn bench_system() -> (PathBuf, PathBuf) {
    (made("guest/bench/root.img"), made("guest/bench/root"))
}

pub(crate) fn cache() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").join(".cache")
}

fn made(path: &str) -> PathBuf {
    let file = cache().join(path);
    assert!(file.exists(), "{} is missing: `scripts/guest` makes it", file.display());
    file
}

/// Builds the setup disk, for hosts where nothing can be built.
///
/// # Panics
/// If that fails.
pub fn build_setup_disk() {
    let mut build = Command::new(bodhi());
    build.args(["image", "build", "setup-disk", "--cache"]).arg(cache().join("images"));
    let built = build.output().expect("bodhi runs");
    assert!(built.status.success(), "{built:?}");
}

/// The release build of `bodhi`, in the target folder that this program runs from.
pub(crate) fn bodhi() -> PathBuf {
    let own = std::env::current_exe().expect("this program's path");
    let target = own.ancestors().find(|folder| folder.join("release").is_dir()).expect("a target folder");
    let program = target.join("release/bodhi");
    assert!(program.exists(), "{} is missing: `make build` makes it", program.display());
    program
}

/// QEMU and the path of its libraries, if it is the one unpacked by `scripts/guest qemu`.
pub(crate) fn qemu() -> (PathBuf, Option<OsString>) {
    let unpacked = cache().join("qemu/usr/bin/qemu-system-x86_64");
    if unpacked.exists() {
        let folders =
            ["qemu/lib/x86_64-linux-gnu", "qemu/usr/lib/x86_64-linux-gnu"].map(|path| cache().join(path));
        (unpacked, Some(std::env::join_paths(folders).expect("no colon in the project's path")))
    } else {
        ("qemu-system-x86_64".into(), None)
    }
}
