//! What is where on the disk.

use std::fs::File;
use std::io::{self, Cursor, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use fatfs::{FileSystem, FormatVolumeOptions, FsOptions};
use gpt::partition_types::{BIOS, EFI, LINUX_FS, Type};

use crate::Error;
use crate::grub::Embedded;

/// Bytes of a sector.
pub(crate) const SECTOR: u64 = 512;
const MIB: u64 = 1 << 20;

/// A partition; in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) start: u64,
    pub(crate) size: u64,
}

const BIOS_BOOT: Part = Part { start: MIB, size: MIB };
const EFI_SYSTEM: Part = Part { start: 2 * MIB, size: 64 * MIB };
const ROOT_START: u64 = EFI_SYSTEM.start + EFI_SYSTEM.size;
/// Kept free at the end, for the second copy of the partition table.
const TAIL: u64 = MIB;
/// What is looked at as a whole, in bytes.
const BLOCK: usize = 4096;

/// What a disk must have at least for a system to be on it, in bytes.
pub(crate) const LEAST: u64 = 2 << 30;

/// The system's partition on a disk of `size` bytes, at least [`LEAST`].
pub(crate) fn root(size: u64) -> Part {
    Part { start: ROOT_START, size: size / MIB * MIB - TAIL - ROOT_START }
}

/// Everything around the system: partition table, EFI system partition with the loader `efi` and the volume number
/// `esp_id`, GRUB for a BIOS out of `boot` and `core`.
///
/// # Errors
/// When it cannot be written, or GRUB's images are none.
pub(crate) fn write(
    disk: &Path,
    size: u64,
    esp_id: u32,
    efi: &[u8],
    boot: &[u8],
    core: &[u8],
) -> Result<(), Error> {
    let embedded = Embedded::new(boot, core, BIOS_BOOT.start / SECTOR, BIOS_BOOT.size / SECTOR)?;
    partition(disk, size)?;
    efi_system(disk, esp_id, efi).map_err(Error::file(disk))?;
    embedded.write(disk)
}

fn partition(disk: &Path, size: u64) -> Result<(), Error> {
    let mut file = File::options().read(true).write(true).open(disk).map_err(Error::file(disk))?;
    let protective =
        gpt::mbr::ProtectiveMBR::with_lb_size(u32::try_from(size / SECTOR - 1).unwrap_or(u32::MAX));
    protective.overwrite_lba0(&mut file)?;
    let mut table = gpt::GptConfig::new().writable(true).create_from_device(file, None)?;
    let parts: [(&str, Type, Part); 3] =
        [("BIOS boot", BIOS, BIOS_BOOT), ("EFI system", EFI, EFI_SYSTEM), ("root", LINUX_FS, root(size))];
    for (number, (name, kind, part)) in (1..).zip(parts) {
        table.add_partition_at(name, number, part.start / SECTOR, part.size / SECTOR, kind, 0)?;
    }
    table.write()?;
    Ok(())
}

/// A FAT file system is made in memory; what of it is not zero goes to the disk, which stays sparse.
fn efi_system(disk: &Path, id: u32, loader: &[u8]) -> io::Result<()> {
    let mut volume = Cursor::new(vec![0; EFI_SYSTEM.size as usize]);
    let options = FormatVolumeOptions::new().volume_id(id).volume_label(*b"EFI        ");
    fatfs::format_volume(&mut volume, options)?;
    let files = FileSystem::new(&mut volume, FsOptions::new())?;
    files.root_dir().create_dir("EFI")?.create_dir("BOOT")?.create_file("BOOTX64.EFI")?.write_all(loader)?;
    files.unmount()?;
    let file = File::options().write(true).open(disk)?;
    for (place, block) in (EFI_SYSTEM.start..).step_by(BLOCK).zip(volume.get_ref().chunks(BLOCK)) {
        if block.iter().any(|&byte| byte != 0) {
            file.write_all_at(block, place)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_has_three_partitions_and_grub_in_two_of_them() {
        let folder = tempfile::TempDir::new().unwrap();
        let disk = folder.path().join("disk.img");
        let size = 2 << 30;
        File::create(&disk).unwrap().set_len(size).unwrap();
        let mut boot = vec![0; 512];
        boot[510..].copy_from_slice(&[0x55, 0xaa]);
        write(&disk, size, 0x1234_abcd, b"a loader", &boot, &[3; 5000]).unwrap();

        let table = gpt::GptConfig::new().open(&disk).unwrap();
        let parts: Vec<_> = table.partitions().values().collect();
        let places: Vec<_> = parts.iter().map(|part| (part.first_lba, part.last_lba)).collect();
        assert_eq!(places, [(2048, 4095), (4096, 135_167), (135_168, 4_192_255)]);
        assert_eq!([&parts[0].part_type_guid, &parts[1].part_type_guid], [&BIOS, &EFI]);

        let bytes = std::fs::read(&disk).unwrap();
        assert_eq!((bytes[0x5c], bytes[0x5d], bytes[450]), (0, 8, 0xee));
        assert_eq!(bytes[(1 << 20) + 4999], 3);
        let part = &bytes[2 << 20..66 << 20];
        let files = FileSystem::new(Cursor::new(part.to_vec()), FsOptions::new()).unwrap();
        assert_eq!((files.volume_id(), files.volume_label().as_str()), (0x1234_abcd, "EFI"));
        let mut loader = String::new();
        let mut file = files.root_dir().open_file("EFI/BOOT/BOOTX64.EFI").unwrap();
        io::Read::read_to_string(&mut file, &mut loader).unwrap();
        assert_eq!(loader, "a loader");
        // The rest has never been written.
        let blocks = std::os::unix::fs::MetadataExt::blocks(&std::fs::metadata(&disk).unwrap());
        assert!(blocks * SECTOR < 2 << 20, "{blocks}");
    }

    #[test]
    fn the_system_has_the_rest_of_the_disk() {
        assert_eq!(root(4 << 30), Part { start: 66 << 20, size: (4096 - 67) << 20 });
        assert_eq!(root((4 << 30) + 5000), root(4 << 30));
    }
}
