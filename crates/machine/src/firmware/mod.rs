//! Starting with firmware: a BIOS or UEFI image as ROM, and what it is told of the machine by the configuration device.
//!
//! ```text
//! 4 GiB − size ┬ the whole image: ROM; the processor starts in its last 16 bytes
//! 0xc0000      ┴ its last 256 KiB again: RAM, into which the chipset has shadowed them
//! ```
//!
//! UEFI firmware is not shadowed; below its image is flash memory with its variables.
//!
//! SeaBIOS asks for a configuration device if the host bridge's subsystem says that it is in a virtual machine, and
//! switches the bridge's shadow RAM only where it knows the bridge by its number, that of a 440FX. Ours is a 440BX:
//! SeaBIOS takes the memory for writable, which it is. So both want the same. It also leaves the interrupt lines of
//! PCI functions open on a bridge that it does not know; operating systems take them from the ACPI tables.
//!
//! Not done: writes to the shadow are not refused after the firmware has finished; system management mode.

mod files;
mod image;
mod variables;
mod volume;

pub(crate) use files::{File, files};
pub use image::Rom;
