//! The firmware that a machine starts with, and what it boots from.

use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

const BIOS: &str = "bios";
const UEFI: &str = "uefi";

/// The firmware, as a user names it: `bios`, `uefi[,vars=F]`, or a file with the image of either, `F[,vars=F]`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Firmware {
    /// The BIOS that is installed on this host.
    #[default]
    Bios,
    /// The UEFI firmware that is installed on this host.
    Uefi {
        /// The file in which its variables are kept; without one they live as long as the machine.
        vars: Option<PathBuf>,
    },
    /// An image of a BIOS or of UEFI firmware.
    File {
        /// The image.
        path: PathBuf,
        /// The file in which the variables of UEFI firmware are kept.
        vars: Option<PathBuf>,
    },
}

impl FromStr for Firmware {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(options) = text.strip_prefix(UEFI).filter(|rest| rest.is_empty() || rest.starts_with(','))
        {
            return match options.strip_prefix(",vars=") {
                None if options.is_empty() => Ok(Self::Uefi { vars: None }),
                Some(file) if !file.is_empty() => Ok(Self::Uefi { vars: Some(file.into()) }),
                _ => Err("uefi takes one option: vars=F".to_owned()),
            };
        }
        match text {
            BIOS => Ok(Self::Bios),
            "" => Err("must be bios, uefi or a file with a ROM image".to_owned()),
            file => Ok(match file.split_once(",vars=") {
                Some((_, "")) => return Err("vars names no file".to_owned()),
                Some((image, vars)) => Self::File { path: image.into(), vars: Some(vars.into()) },
                None => Self::File { path: file.into(), vars: None },
            }),
        }
    }
}

impl TryFrom<String> for Firmware {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Firmware> for String {
    fn from(firmware: Firmware) -> Self {
        match firmware {
            Firmware::Bios => BIOS.to_owned(),
            Firmware::Uefi { vars: None } => UEFI.to_owned(),
            Firmware::Uefi { vars: Some(file) } => format!("{UEFI},vars={}", file.display()),
            Firmware::File { path, vars: None } => path.display().to_string(),
            Firmware::File { path, vars: Some(file) } => {
                format!("{},vars={}", path.display(), file.display())
            }
        }
    }
}

/// A kind of device that firmware may boot from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BootDevice {
    /// The optical drive.
    Cdrom,
    /// The disks, in their order.
    Disk,
}

/// What firmware tries, in this order: `cdrom,disk`, as on Hyper-V, unless something else is said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct BootOrder(pub Vec<BootDevice>);

impl Default for BootOrder {
    fn default() -> Self {
        Self(vec![BootDevice::Cdrom, BootDevice::Disk])
    }
}

impl FromStr for BootOrder {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut order = Vec::new();
        for name in text.split(',') {
            let device = match name.trim() {
                "cdrom" => BootDevice::Cdrom,
                "disk" => BootDevice::Disk,
                _ => return Err("must be a list of cdrom and disk".to_owned()),
            };
            if order.contains(&device) {
                return Err(format!("{} is given twice", name.trim()));
            }
            order.push(device);
        }
        Ok(Self(order))
    }
}

impl TryFrom<String> for BootOrder {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<BootOrder> for String {
    fn from(order: BootOrder) -> Self {
        let name = |device: &BootDevice| match device {
            BootDevice::Cdrom => "cdrom",
            BootDevice::Disk => "disk",
        };
        order.0.iter().map(name).collect::<Vec<_>>().join(",")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, vars: Option<&str>) -> Firmware {
        Firmware::File { path: path.into(), vars: vars.map(Into::into) }
    }

    #[test]
    fn uefi_may_have_a_file_for_its_variables() {
        assert_eq!("uefi".parse(), Ok(Firmware::Uefi { vars: None }));
        let kept = Firmware::Uefi { vars: Some("a.vars".into()) };
        assert_eq!("uefi,vars=a.vars".parse(), Ok(kept.clone()));
        assert_eq!(String::from(kept), "uefi,vars=a.vars");
        assert_eq!("uefi.rom".parse(), Ok(file("uefi.rom", None)));
        for wrong in ["uefi,", "uefi,vars=", "uefi,size=1"] {
            assert_eq!(wrong.parse::<Firmware>(), Err("uefi takes one option: vars=F".to_owned()));
        }
    }

    #[test]
    fn firmware_is_bios_or_a_file() {
        assert_eq!("bios".parse(), Ok(Firmware::Bios));
        assert_eq!("./bios".parse(), Ok(file("./bios", None)));
        assert_eq!("a.fd,vars=b".parse(), Ok(file("a.fd", Some("b"))));
        assert_eq!(String::from(file("a.fd", Some("b"))), "a.fd,vars=b");
        for wrong in ["", "a.fd,vars="] {
            assert!(wrong.parse::<Firmware>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_boot_order_names_each_kind_once() {
        assert_eq!("disk,cdrom".parse(), Ok(BootOrder(vec![BootDevice::Disk, BootDevice::Cdrom])));
        assert_eq!(String::from(BootOrder::default()), "cdrom,disk");
        assert_eq!("disk,disk".parse::<BootOrder>(), Err("disk is given twice".to_owned()));
        assert!("floppy".parse::<BootOrder>().is_err());
    }
}
