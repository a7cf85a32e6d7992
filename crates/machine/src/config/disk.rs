//! One disk of a machine.

use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A disk, as a user describes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskConfig {
    /// The image file or block device.
    pub file: PathBuf,
    /// How the image stores the disk.
    #[serde(default)]
    pub format: DiskFormat,
    /// The guest sees a write-protected disk.
    #[serde(default)]
    pub readonly: bool,
    /// What the guest writes is dropped at the end; the image stays as it is.
    #[serde(default)]
    pub snapshot: bool,
    /// How the guest reaches the disk.
    #[serde(default)]
    pub bus: DiskBus,
}

/// How an image stores a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DiskFormat {
    /// Byte for byte.
    #[default]
    Raw,
}

/// How a guest reaches a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DiskBus {
    /// An IDE disk that guests with synthetic drivers reach by its VMBus channel. Disks for which the IDE
    /// buses have no room, and all of them beside a disk for IDE only, go to the synthetic SCSI controller.
    #[default]
    Auto,
    /// An emulated IDE disk only.
    Ide,
    /// A disk of the synthetic SCSI controller only.
    Scsi,
}

impl FromStr for DiskConfig {
    type Err = String;

    /// `F[,format=raw][,readonly][,snapshot][,bus=auto|ide|scsi]`; a comma in the name is doubled.
    fn from_str(text: &str) -> Result<Self, String> {
        let (file, options) = split_name(text);
        if file.is_empty() {
            return Err("a disk needs a file".to_owned());
        }
        let mut disk = Self {
            file: file.into(),
            format: DiskFormat::Raw,
            readonly: false,
            snapshot: false,
            bus: DiskBus::Auto,
        };
        for option in options.split(',').filter(|_| !options.is_empty()) {
            match option.split_once('=').map_or((option, None), |(key, value)| (key, Some(value))) {
                ("format", Some("raw")) => disk.format = DiskFormat::Raw,
                ("format", _) => return Err(format!("{option}: the format must be raw")),
                ("readonly", None) => disk.readonly = true,
                ("snapshot", None) => disk.snapshot = true,
                ("bus", Some("auto")) => disk.bus = DiskBus::Auto,
                ("bus", Some("ide")) => disk.bus = DiskBus::Ide,
                ("bus", Some("scsi")) => disk.bus = DiskBus::Scsi,
                ("bus", _) => return Err(format!("{option}: the bus must be auto, ide or scsi")),
                _ => return Err(format!("{option}: no such disk option")),
            }
        }
        Ok(disk)
    }
}

/// The name up to the first single comma, with doubled commas made single, and what follows that comma.
pub(super) fn split_name(text: &str) -> (String, &str) {
    let mut name = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(',') {
        name.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        match rest.strip_prefix(',') {
            Some(behind) => {
                name.push(',');
                rest = behind;
            }
            None => return (name, rest),
        }
    }
    name.push_str(rest);
    (name, "")
}
