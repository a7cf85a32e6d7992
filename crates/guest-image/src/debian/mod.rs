//! Debian: GRUB for both kinds of firmware, its own kernel and initramfs, systemd, consoles on the screen and the first
//! serial port, a user who may use sudo, SSH with host keys made at the first boot, the network by DHCP.
//!
//! A password that was not chosen is not accepted over the network.

mod archive;
mod build;
mod recipe;

pub use build::build;
pub use recipe::Recipe;
