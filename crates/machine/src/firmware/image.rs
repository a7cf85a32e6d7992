//! The ROM images.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use chipset::flash::FlashImage;

use super::{variables, volume};
use crate::config::{Firmware, InputError, MachineConfig};

/// Debian's package with the images of a BIOS.
const BIOS_PACKAGE: &str = "seabios";
/// Where it puts them.
const BIOS: &str = "/usr/share/seabios/bios-256k.bin";
const VIDEO_BIOS: &str = "/usr/share/seabios/vgabios-stdvga.bin";

/// Debian's package with UEFI firmware.
const UEFI_PACKAGE: &str = "ovmf";
/// Where it puts its code, and what its variables are at first: two parts of one flash chip, the variables first.
const UEFI_CODE: &str = "/usr/share/OVMF/OVMF_CODE_4M.fd";
const UEFI_VARIABLES: &str = "/usr/share/OVMF/OVMF_VARS_4M.fd";

/// The sizes that a BIOS image may have.
const LEAST: u64 = 64 << 10;
const PAGE: u64 = 4 << 10;
const MOST: u64 = 4 << 20;
/// A video BIOS is at most as large as its place.
const VIDEO_MOST: u64 = 64 << 10;
/// What an option ROM begins with.
const OPTION_ROM: [u8; 2] = [0x55, 0xaa];
const END: u64 = 1 << 32;

/// The firmware of a machine.
#[derive(Debug, Clone)]
pub struct Rom {
    bios: Vec<u8>,
    video_bios: Option<Vec<u8>>,
    /// The flash memory below the image, which UEFI firmware has.
    variables: Option<Arc<Mutex<FlashImage>>>,
}

impl Rom {
    /// Reads what `config` names.
    ///
    /// # Errors
    /// When an image is missing or is none.
    pub fn open(config: &MachineConfig) -> Result<Self, InputError> {
        match config.firmware.clone().unwrap_or_default() {
            Firmware::Bios => {
                let bios = bios(&installed("bios", BIOS, BIOS_PACKAGE)?, LEAST)?;
                Ok(Self { bios, video_bios: Some(video_bios(Path::new(VIDEO_BIOS))?), variables: None })
            }
            Firmware::Uefi { vars } => {
                let code = bios(&installed("uefi", UEFI_CODE, UEFI_PACKAGE)?, PAGE)?;
                let template = bios(&installed("uefi", UEFI_VARIABLES, UEFI_PACKAGE)?, PAGE)?;
                let variables = Some(variables::open(template, vars.as_deref())?);
                Ok(Self { bios: code, video_bios: None, variables })
            }
            Firmware::File { path, vars } => Self::own(&path, vars.as_deref()),
        }
    }

    /// The image of a BIOS or of UEFI firmware in the file `path`. UEFI firmware has its variables in the same file, in
    /// front, or in the file `vars`.
    fn own(path: &Path, vars: Option<&Path>) -> Result<Self, InputError> {
        let bytes = read(path, MOST)?;
        let refused = |reason: &str| Err(InputError::file("firmware", path, reason));
        if !volume::is_one(&bytes) {
            if vars.is_some() {
                return refused("is no UEFI firmware, so it has no variables to keep");
            }
            let video = Path::new(VIDEO_BIOS);
            let video_bios = video.exists().then(|| video_bios(video)).transpose()?;
            return Ok(Self { bios: whole(bytes, path, LEAST)?, video_bios, variables: None });
        }
        let mut bytes = whole(bytes, path, PAGE)?;
        let variables = match volume::variables(&bytes) {
            Some(size) if size < bytes.len() => {
                let code = bytes.split_off(size);
                variables::open(std::mem::replace(&mut bytes, code), vars)?
            }
            Some(_) => return refused("has the variables of UEFI firmware only, and no code"),
            // Which size they have, and what is in them at first, is between the code and them.
            None => match vars.filter(|vars| vars.exists()) {
                Some(vars) => variables::open(bios(vars, PAGE)?, Some(vars))?,
                None => {
                    return refused(
                        "is UEFI firmware without its variables: name a file that has them, as F,vars=F",
                    );
                }
            },
        };
        Ok(Self { bios: bytes, video_bios: None, variables: Some(variables) })
    }

    /// The image.
    pub fn bios(&self) -> &[u8] {
        &self.bios
    }

    /// Whether it is UEFI firmware.
    pub fn is_uefi(&self) -> bool {
        self.variables.is_some()
    }

    /// The flash memory with the variables of UEFI firmware, and its first address.
    pub fn variables(&self) -> Option<(Arc<Mutex<FlashImage>>, u64, u64)> {
        let image = Arc::clone(self.variables.as_ref()?);
        let size = image.lock().unwrap_or_else(PoisonError::into_inner).bytes().len() as u64;
        Some((image, self.base() - size, size))
    }

    /// The first address of the image in ROM.
    pub fn base(&self) -> u64 {
        END - self.bios.len() as u64
    }

    /// The BIOS of the video adapter, if there is one.
    pub fn video_bios(&self) -> Option<&[u8]> {
        self.video_bios.as_deref()
    }
}

fn installed(firmware: &str, path: &str, package: &str) -> Result<PathBuf, InputError> {
    let path = PathBuf::from(path);
    if !path.exists() {
        let reason =
            format!("{} is missing: install the package {package}, or name a ROM image", path.display());
        return Err(InputError::new("firmware", firmware, reason));
    }
    Ok(path)
}

/// An image of whole `unit`s.
fn bios(path: &Path, unit: u64) -> Result<Vec<u8>, InputError> {
    whole(read(path, MOST)?, path, unit)
}

/// `bytes` of the file `path`, if they are whole `unit`s.
fn whole(bytes: Vec<u8>, path: &Path, unit: u64) -> Result<Vec<u8>, InputError> {
    let size = bytes.len() as u64;
    if size == 0 || !size.is_multiple_of(unit) {
        let reason =
            format!("is no firmware image: it has {size} bytes, not a multiple of {} KiB", unit >> 10);
        return Err(InputError::file("firmware", path, reason));
    }
    Ok(bytes)
}

fn video_bios(path: &Path) -> Result<Vec<u8>, InputError> {
    let bytes = read(path, VIDEO_MOST)?;
    if !bytes.starts_with(&OPTION_ROM) {
        return Err(InputError::file("firmware", path, "is no video BIOS"));
    }
    Ok(bytes)
}

/// The file, which is not larger than `most`.
fn read(path: &Path, most: u64) -> Result<Vec<u8>, InputError> {
    let io = |error: std::io::Error| InputError::io("firmware", path, &error);
    let size = std::fs::metadata(path).map_err(io)?.len();
    if size > most {
        let reason = format!("is no firmware: it has {size} bytes, more than {} KiB", most >> 10);
        return Err(InputError::file("firmware", path, reason));
    }
    std::fs::read(path).map_err(io)
}

#[cfg(test)]
mod tests {
    use super::super::volume::tests::header;
    use super::*;

    /// Opens an image of `size` bytes that begins with `start`, with a file of variables of `vars` bytes.
    fn open(start: &[u8], size: u64, vars: Option<u64>) -> Result<Rom, String> {
        let directory = tempfile::TempDir::new().unwrap();
        let (path, vars_path) = (directory.path().join("rom"), directory.path().join("vars"));
        std::fs::write(&path, start).unwrap();
        std::fs::File::options().write(true).open(&path).unwrap().set_len(size).unwrap();
        if let Some(size) = vars {
            std::fs::File::create(&vars_path).unwrap().set_len(size).unwrap();
        }
        let vars = vars.map(|_| vars_path);
        let config =
            MachineConfig { firmware: Some(Firmware::File { path, vars }), ..MachineConfig::default() };
        Rom::open(&config).map_err(|error| {
            let error = error.to_string();
            error.split_once("rom: ").map_or(error.clone(), |(_, reason)| reason.to_owned())
        })
    }

    fn refusal(size: u64) -> String {
        open(&[], size, None).unwrap_err()
    }

    #[test]
    fn an_own_image_of_uefi_firmware_is_told_from_a_bios() {
        let (code, both) = (header(false, 0x3000), header(true, 0x2000));
        assert!(!open(&[], 64 << 10, None).unwrap().is_uefi());
        let rom = open(&both, 0x5000, None).unwrap();
        assert_eq!((rom.is_uefi(), rom.bios().len(), rom.base()), (true, 0x3000, 0xffff_d000));
        let (_, base, size) = rom.variables().unwrap();
        assert_eq!((base, size), (0xffff_b000, 0x2000));
        let (_, base, size) = open(&code, 0x3000, Some(0x1000)).unwrap().variables().unwrap();
        assert_eq!((base, size), (0xffff_c000, 0x1000));
        let refusal = |start: &[u8], size, vars| open(start, size, vars).unwrap_err();
        assert!(refusal(&code, 0x3000, None).starts_with("is UEFI firmware without its variables"));
        assert!(refusal(&both, 0x2000, None).starts_with("has the variables of UEFI firmware only"));
        assert!(refusal(&both, 0x5000, Some(0x1000)).ends_with("has 4096 bytes; variables have 8192"));
        assert!(refusal(&[], 64 << 10, Some(0x1000)).starts_with("is no UEFI firmware"));
    }

    #[test]
    fn images_of_wrong_sizes_are_refused() {
        assert_eq!(refusal(1000), "is no firmware image: it has 1000 bytes, not a multiple of 64 KiB");
        assert_eq!(refusal(0), "is no firmware image: it has 0 bytes, not a multiple of 64 KiB");
        assert_eq!(refusal(100 << 20), "is no firmware: it has 104857600 bytes, more than 4096 KiB");
    }
}
