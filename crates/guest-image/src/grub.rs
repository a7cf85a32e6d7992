//! GRUB where a BIOS finds it.
//!
//! `boot.img` is the first sector of the disk; it loads one further sector, the first of `core.img`, whose own end is a
//! list of where the rest is. Both are told the places here, as `grub-bios-setup` would. GRUB 2.06,
//! `grub-core/boot/i386/pc/{boot,diskboot}.S` and `include/grub/i386/pc/boot.h` name the offsets.

use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::Error;
use crate::layout::SECTOR;

const SECTOR_BYTES: usize = SECTOR as usize;
/// What of the first sector is code; a partition table of the old kind follows.
const BOOT_CODE: usize = 440;
/// `boot.img`: the sector to load, 64 bits.
const KERNEL_SECTOR: usize = 0x5c;
/// `boot.img`: a jump over the correction of the drive's number; a hard disk wants the correction, as some BIOSes need it.
const DRIVE_CHECK: usize = 0x66;
const NO_OPERATION: u8 = 0x90;
/// The first sector of `core.img`: its list's first entry, of a sector (64 bits), a number of sectors and a segment.
const FIRST_BLOCK: usize = 0x1f4;
/// Where the sector after the first belongs: that of 0x8200.
const SEGMENT: u16 = 0x820;

/// What is written for a BIOS.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Embedded {
    /// The begin of the first sector.
    boot: [u8; BOOT_CODE],
    /// The first sector's place is `core_sector`.
    core: Vec<u8>,
    core_sector: u64,
}

impl Embedded {
    /// `boot.img`, and `core.img` for the `room` sectors at `core_sector`.
    ///
    /// # Errors
    /// When the images are not GRUB's, or too large.
    pub(crate) fn new(boot: &[u8], core: &[u8], core_sector: u64, room: u64) -> Result<Self, Error> {
        let sector = |image, bytes: &[u8]| {
            let first = bytes.first_chunk::<SECTOR_BYTES>().copied();
            first.ok_or(Error::Grub { image, reason: "has less than a sector" })
        };
        let mut first = sector("boot.img", boot)?;
        if first[510..] != [0x55, 0xaa] {
            return Err(Error::Grub { image: "boot.img", reason: "is no boot sector" });
        }
        first[KERNEL_SECTOR..][..8].copy_from_slice(&core_sector.to_le_bytes());
        first[DRIVE_CHECK..][..2].fill(NO_OPERATION);

        let mut loader = sector("core.img", core)?;
        let sectors = core.len().div_ceil(SECTOR_BYTES);
        let rest = u16::try_from(sectors - 1).ok().filter(|_| sectors as u64 <= room);
        let rest = rest.ok_or(Error::Grub { image: "core.img", reason: "is larger than its partition" })?;
        loader[FIRST_BLOCK..][..8].copy_from_slice(&(core_sector + 1).to_le_bytes());
        loader[FIRST_BLOCK + 8..][..2].copy_from_slice(&rest.to_le_bytes());
        loader[FIRST_BLOCK + 10..][..2].copy_from_slice(&SEGMENT.to_le_bytes());

        let mut whole = core.to_owned();
        whole[..SECTOR_BYTES].copy_from_slice(&loader);
        whole.resize(sectors * SECTOR_BYTES, 0);
        let boot = first.first_chunk().copied().expect("a sector has more bytes");
        Ok(Self { boot, core: whole, core_sector })
    }

    /// Writes both to the image `disk`, whose partition table is there already.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn write(&self, disk: &Path) -> Result<(), Error> {
        let file = std::fs::File::options().write(true).open(disk).map_err(Error::file(disk))?;
        file.write_all_at(&self.boot, 0).map_err(Error::file(disk))?;
        file.write_all_at(&self.core, self.core_sector * SECTOR).map_err(Error::file(disk))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn boot() -> Vec<u8> {
        let mut boot = vec![0; 512];
        boot[510..].copy_from_slice(&[0x55, 0xaa]);
        boot
    }

    #[test]
    fn the_images_are_told_where_the_core_is() {
        let embedded = Embedded::new(&boot(), &vec![7; 1300], 2048, 2048).unwrap();
        assert_eq!(embedded.boot[0x5c..0x64], 2048_u64.to_le_bytes());
        assert_eq!(embedded.boot[0x66..0x68], [0x90, 0x90]);
        assert_eq!(embedded.core.len(), 3 * 512);
        // From sector 2049, two sectors, to 0x820:0.
        assert_eq!(embedded.core[0x1f4..0x200], [1, 8, 0, 0, 0, 0, 0, 0, 2, 0, 0x20, 8]);
        assert_eq!(embedded.core[0x200], 7);
    }

    #[test]
    fn the_partition_table_in_the_first_sector_stays() {
        let folder = tempfile::TempDir::new().unwrap();
        let disk = folder.path().join("disk");
        std::fs::write(&disk, vec![0xee; 8192]).unwrap();
        Embedded::new(&boot(), &[7; 600], 4, 8).unwrap().write(&disk).unwrap();
        let bytes = std::fs::read(&disk).unwrap();
        assert_eq!((bytes[439], bytes[440], bytes[511]), (0, 0xee, 0xee));
        assert_eq!((bytes[4 * 512], bytes[5 * 512 + 100], bytes[6 * 512]), (7, 0, 0xee));
    }

    #[test]
    fn what_is_not_grubs_is_refused() {
        let reason = |boot: &[u8], core: &[u8]| Embedded::new(boot, core, 1, 2).unwrap_err().to_string();
        assert_eq!(reason(&[0; 512], &[0; 512]), "GRUB's boot.img: is no boot sector");
        assert_eq!(reason(&boot(), &[0; 5]), "GRUB's core.img: has less than a sector");
        assert_eq!(reason(&boot(), &[0; 1025]), "GRUB's core.img: is larger than its partition");
    }
}
