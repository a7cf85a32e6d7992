//! The optical drive of a machine.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::disk::split_name;

/// How a drive without a disc is written; a file of this name is `./empty`.
const EMPTY: &str = "empty";

/// An optical drive, as a user describes it: `F.iso[,bus=ide|scsi]` or `empty[,bus=ide|scsi]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct CdromConfig {
    /// The ISO image in the drive; none if it is empty.
    pub file: Option<PathBuf>,
    /// How the guest reaches the drive.
    pub bus: CdromBus,
}

/// How a guest reaches an optical drive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CdromBus {
    /// An ATAPI drive of the emulated IDE controller.
    #[default]
    Ide,
    /// A unit of the synthetic SCSI controller.
    Scsi,
}

impl FromStr for CdromConfig {
    type Err = String;

    /// A comma in the name is doubled.
    fn from_str(text: &str) -> Result<Self, String> {
        let (file, options) = split_name(text);
        if file.is_empty() {
            return Err("must be an ISO image, or empty".to_owned());
        }
        let mut bus = CdromBus::Ide;
        for option in options.split(',').filter(|_| !options.is_empty()) {
            bus = match option {
                "bus=ide" => CdromBus::Ide,
                "bus=scsi" => CdromBus::Scsi,
                _ if option.starts_with("bus=") => {
                    return Err(format!("{option}: the bus must be ide or scsi"));
                }
                _ => return Err(format!("{option}: no such CD-ROM option")),
            };
        }
        Ok(Self { file: (file != EMPTY).then(|| file.into()), bus })
    }
}

impl fmt::Display for CdromConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.file {
            Some(file) => f.write_str(&file.display().to_string().replace(',', ",,"))?,
            None => f.write_str(EMPTY)?,
        }
        match self.bus {
            CdromBus::Ide => Ok(()),
            CdromBus::Scsi => f.write_str(",bus=scsi"),
        }
    }
}

impl TryFrom<String> for CdromConfig {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<CdromConfig> for String {
    fn from(cdrom: CdromConfig) -> Self {
        cdrom.to_string()
    }
}
