//! What firmware reads from the configuration device.
//!
//! ```text
//! etc/e820                 where RAM is
//! bootorder                devices by their path, one per line, the first ones first
//! etc/acpi/…, etc/table-loader, etc/smbios/…      tables for the operating system
//! etc/show-boot-menu       whether there is a menu to wait for
//! pciVVVV,DDDD.rom         an expansion ROM
//! ```

use chipset::vga;

use super::Rom;
use crate::acpi::{self, Platform};
use crate::config::{BootDevice, BootOrder, MachineConfig};
use crate::disks::{Disks, Place};
use crate::memory_map;
use crate::smbios::{self, Identity};

/// No menu: what is booted from is told by the order.
const NO_MENU: u16 = 0;

/// A file by its name.
pub(crate) type File = (String, Vec<u8>);

/// The files for a machine that starts with `rom`.
pub(crate) fn files(
    rom: &Rom,
    config: &MachineConfig,
    platform: &Platform,
    identity: Identity,
    disks: &Disks,
) -> Vec<File> {
    let [anchor, tables] = smbios::files(identity);
    let mut files = vec![
        ("etc/e820".to_owned(), e820(config.memory.0)),
        ("bootorder".to_owned(), boot_order(&config.boot, &places(disks), platform.south_bridge)),
        ("etc/smbios/smbios-anchor".to_owned(), anchor),
        ("etc/smbios/smbios-tables".to_owned(), tables),
        ("etc/show-boot-menu".to_owned(), NO_MENU.to_le_bytes().to_vec()),
    ];
    if let Some(bios) = rom.video_bios() {
        files.push((format!("pci{:04x},{:04x}.rom", vga::VENDOR, vga::DEVICE), bios.to_vec()));
    }
    files.extend(acpi::script(platform).map(|(name, bytes)| (name.to_owned(), bytes)));
    files
}

fn e820(memory_size: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    for range in memory_map::ram(memory_size) {
        bytes.extend(range.start.to_le_bytes());
        bytes.extend(range.size.to_le_bytes());
        bytes.extend((range.kind as u32).to_le_bytes());
    }
    bytes
}

/// What firmware can boot from, and where it is.
fn places(disks: &Disks) -> Vec<(BootDevice, Place)> {
    let disc = disks.drive().map(|drive| (BootDevice::Cdrom, drive.place));
    disks.on_ide().into_iter().map(|disk| (BootDevice::Disk, disk.place)).chain(disc).collect()
}

fn boot_order(order: &BootOrder, places: &[(BootDevice, Place)], south: u8) -> Vec<u8> {
    let mut text = String::new();
    for device in &order.0 {
        for (_, place) in places.iter().filter(|(kind, _)| kind == device) {
            if let Place::Ide { position, .. } = place {
                let (channel, drive) = (position >> 1, position & 1);
                text += &format!("/pci@i0cf8/ide@{south:x},1/drive@{channel}/disk@{drive}\n");
            }
        }
    }
    text.push('\0');
    text.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ram_is_told_without_holes_for_firmware() {
        let bytes = e820(4 << 30);
        assert_eq!(bytes.len(), 40);
        assert_eq!(bytes[..20], [&[0; 11][..], &[0xc0, 0, 0, 0, 0, 1, 0, 0, 0]].concat());
        assert_eq!(bytes[20..28], (4_u64 << 30).to_le_bytes());
    }

    #[test]
    fn devices_are_tried_in_the_order_given() {
        let ide = |position| Place::Ide { position, synthetic: true };
        let places = [
            (BootDevice::Disk, ide(0)),
            (BootDevice::Disk, ide(3)),
            (BootDevice::Disk, Place::Scsi { lun: 0 }),
            (BootDevice::Cdrom, ide(2)),
        ];
        let text = |order: &str| String::from_utf8(boot_order(&order.parse().unwrap(), &places, 7)).unwrap();
        let (first, second) = ("/pci@i0cf8/ide@7,1/drive@0/disk@0\n", "/pci@i0cf8/ide@7,1/drive@1/disk@1\n");
        let disc = "/pci@i0cf8/ide@7,1/drive@1/disk@0\n";
        assert_eq!(text("disk,cdrom"), format!("{first}{second}{disc}\0"));
        assert_eq!(text("cdrom"), format!("{disc}\0"));
    }
}
