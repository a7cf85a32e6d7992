//! Disks with an installed system, built from a distribution's packages.
//!
//! Debian's own programs do the work: `mmdebstrap` installs packages into a directory, without root where the host has
//! user namespaces, and `mke2fs` makes a file system of it. What is left is here: which packages, how the system is
//! set up ([`debian::Recipe`]), and a disk that both kinds of firmware boot from:
//!
//! ```text
//! sector 0     GRUB's first 440 bytes, and the partition table that protects the one behind it
//! 1 MiB        partition 1, BIOS boot: the rest of GRUB's core
//! 2 MiB        partition 2, EFI system, FAT: EFI/BOOT/BOOTX64.EFI, which is GRUB
//! 66 MiB       partition 3, ext4: the system, with GRUB's modules and menu in /boot/grub
//! the end      the second copy of the partition table
//! ```
//!
//! [`setup_disk`] is the disc that brings the integration services into a guest without them.
//!
//! No mount, no loop device: every part is written into the file where it belongs. What has been built is kept and
//! given out again while the recipe is the same ([`cache::Cache`]).
#![forbid(unsafe_code)]

pub mod cache;
pub mod debian;
mod error;
mod grub;
mod layout;
mod program;
pub mod setup_disk;
mod subordinate;

pub use error::Error;
