//! Sense data (SPC-4, section 4.5).

use std::io;

/// What kind of trouble there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
#[allow(missing_docs)]
pub enum SenseKey {
    NoSense = 0x0,
    RecoveredError = 0x1,
    NotReady = 0x2,
    MediumError = 0x3,
    HardwareError = 0x4,
    IllegalRequest = 0x5,
    UnitAttention = 0x6,
    DataProtect = 0x7,
    AbortedCommand = 0xb,
}

/// Sense key, additional sense code with qualifier, and the block it is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sense {
    /// The kind of trouble.
    pub key: SenseKey,
    /// Additional sense code.
    pub asc: u8,
    /// Additional sense code qualifier.
    pub ascq: u8,
    /// The logical block that the trouble is with.
    pub block: Option<u64>,
}

#[allow(missing_docs)]
impl Sense {
    pub const NO_SENSE: Self = Self::new(SenseKey::NoSense, 0x00, 0x00);
    pub const NO_MEDIUM: Self = Self::new(SenseKey::NotReady, 0x3a, 0x01);
    pub const TRAY_OPEN: Self = Self::new(SenseKey::NotReady, 0x3a, 0x02);
    pub const UNRECOVERED_READ: Self = Self::new(SenseKey::MediumError, 0x11, 0x00);
    pub const WRITE_ERROR: Self = Self::new(SenseKey::MediumError, 0x0c, 0x00);
    pub const INTERNAL_FAILURE: Self = Self::new(SenseKey::HardwareError, 0x44, 0x00);
    pub const PARAMETER_LIST_LENGTH: Self = Self::new(SenseKey::IllegalRequest, 0x1a, 0x00);
    pub const INVALID_OPCODE: Self = Self::new(SenseKey::IllegalRequest, 0x20, 0x00);
    pub const LBA_OUT_OF_RANGE: Self = Self::new(SenseKey::IllegalRequest, 0x21, 0x00);
    pub const INVALID_FIELD_IN_CDB: Self = Self::new(SenseKey::IllegalRequest, 0x24, 0x00);
    pub const INVALID_UNIT: Self = Self::new(SenseKey::IllegalRequest, 0x25, 0x00);
    pub const INVALID_FIELD_IN_PARAMETERS: Self = Self::new(SenseKey::IllegalRequest, 0x26, 0x00);
    pub const INCOMPATIBLE_FORMAT: Self = Self::new(SenseKey::IllegalRequest, 0x30, 0x02);
    pub const SAVING_NOT_SUPPORTED: Self = Self::new(SenseKey::IllegalRequest, 0x39, 0x00);
    pub const REMOVAL_PREVENTED: Self = Self::new(SenseKey::IllegalRequest, 0x53, 0x02);
    pub const ILLEGAL_TRACK_MODE: Self = Self::new(SenseKey::IllegalRequest, 0x64, 0x00);
    pub const MEDIUM_CHANGED: Self = Self::new(SenseKey::UnitAttention, 0x28, 0x00);
    pub const RESET: Self = Self::new(SenseKey::UnitAttention, 0x29, 0x00);
    pub const WRITE_PROTECTED: Self = Self::new(SenseKey::DataProtect, 0x27, 0x00);
    pub const NO_SPACE: Self = Self::new(SenseKey::DataProtect, 0x27, 0x07);
}

impl Sense {
    /// Sense without a block.
    pub const fn new(key: SenseKey, asc: u8, ascq: u8) -> Self {
        Self { key, asc, ascq, block: None }
    }

    /// The same, about `block`.
    pub const fn at(self, block: u64) -> Self {
        Self { block: Some(block), ..self }
    }

    /// What an error of the medium is to the guest; `write` for whatever changes it, `block` is the first of
    /// the request.
    pub fn of_error(error: &io::Error, write: bool, block: Option<u64>) -> Self {
        let sense = match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::NO_SPACE,
            io::ErrorKind::ReadOnlyFilesystem => Self::WRITE_PROTECTED,
            io::ErrorKind::InvalidInput => Self::LBA_OUT_OF_RANGE,
            _ if write => Self::WRITE_ERROR,
            _ => Self::UNRECOVERED_READ,
        };
        Self { block, ..sense }
    }

    /// Fixed format, response code 0x70: 18 bytes.
    pub fn fixed(&self) -> [u8; 18] {
        let mut data = [0; 18];
        data[0] = 0x70;
        data[2] = self.key as u8;
        if let Some(block) = self.block.and_then(|block| u32::try_from(block).ok()) {
            data[0] |= 0x80;
            data[3..7].copy_from_slice(&block.to_be_bytes());
        }
        data[7] = 10;
        data[12] = self.asc;
        data[13] = self.ascq;
        data
    }

    /// Descriptor format, response code 0x72, with an information descriptor: 20 bytes.
    pub fn descriptor(&self) -> [u8; 20] {
        let mut data = [0; 20];
        data[..4].copy_from_slice(&[0x72, self.key as u8, self.asc, self.ascq]);
        data[7] = 12;
        data[9] = 10;
        if let Some(block) = self.block {
            data[10] = 0x80;
            data[12..].copy_from_slice(&block.to_be_bytes());
        }
        data
    }
}
