//! Starting with firmware: a BIOS or UEFI image as ROM, and what it is told of the machine by the configuration device.
//!
//! ```text
//! 4 GiB − size ┬ the whole image: ROM; the processor starts in its last 16 bytes
//! 0xe0000      ┴ its last 128 KiB again, until the firmware has RAM there (`guest_memory::Shadow`)
//! ```
//!
//! Below the image of UEFI firmware is flash memory with its variables.
//!
//! SeaBIOS asks for a configuration device if the host bridge's subsystem says that it is in a virtual machine. It has RAM
//! in the place of its ROM, and makes it read-only when it is done, only where it knows the host bridge by its number, that
//! of a 440FX; so does OVMF for the little that it has there. To a BIOS, the bridge is one until then
//! (`chipset::pci::HostBridge`), and the 440BX that operating systems expect of Hyper-V from then on.
//!
//! Not done: system management mode.

mod files;
mod image;
mod variables;
mod volume;

pub(crate) use files::{File, files};
pub use image::Rom;
