//! Amounts of memory.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// An amount of memory in bytes, written as a number with `K`, `M`, `G` or `T` (powers of 1024); a number
/// alone counts MiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "Written")]
pub struct MemorySize(pub u64);

const UNITS: [(char, u32); 4] = [('T', 40), ('G', 30), ('M', 20), ('K', 10)];

impl FromStr for MemorySize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let no_size = || "must be a size such as 512M or 4G".to_owned();
        let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let number: u64 = digits.parse().map_err(|_| no_size())?;
        let shift = match text[digits.len()..].to_ascii_uppercase().as_str() {
            "" => 20,
            unit => UNITS
                .iter()
                .find(|(name, _)| unit.strip_suffix("IB").unwrap_or(unit) == name.to_string())
                .map(|&(_, shift)| shift)
                .ok_or_else(|| "the unit must be K, M, G or T".to_owned())?,
        };
        let bytes = number.checked_mul(1 << shift).ok_or_else(|| "is too large".to_owned())?;
        if !bytes.is_multiple_of(4096) {
            return Err("must be a multiple of 4K".to_owned());
        }
        Ok(Self(bytes))
    }
}

impl fmt::Display for MemorySize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, shift) in UNITS {
            if self.0 != 0 && self.0.is_multiple_of(1 << shift) {
                return write!(f, "{}{name}", self.0 >> shift);
            }
        }
        write!(f, "{} bytes", self.0)
    }
}

impl From<MemorySize> for String {
    fn from(size: MemorySize) -> Self {
        size.to_string()
    }
}

/// The two ways to write a size in a file.
#[derive(Deserialize)]
#[serde(untagged)]
enum Written {
    MebiBytes(u64),
    Text(String),
}

impl TryFrom<Written> for MemorySize {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, String> {
        match written {
            Written::MebiBytes(number) => number.to_string().parse(),
            Written::Text(text) => text.parse(),
        }
    }
}

/// What `--memory` says: how much there is at the start, and how little and how much there may be later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryOption {
    /// At the start.
    pub size: MemorySize,
    /// At the least.
    pub min: Option<MemorySize>,
    /// At the most.
    pub max: Option<MemorySize>,
}

impl FromStr for MemoryOption {
    type Err = String;

    /// `SIZE[,min=SIZE][,max=SIZE]`.
    fn from_str(text: &str) -> Result<Self, String> {
        let mut words = text.split(',');
        let size = words.next().unwrap_or_default().parse()?;
        let mut option = Self { size, min: None, max: None };
        for word in words {
            let (place, size) = match word.split_once('=') {
                Some(("min", size)) => (&mut option.min, size),
                Some(("max", size)) => (&mut option.max, size),
                _ => return Err(format!("{word}: no such option of the memory")),
            };
            *place = Some(size.parse().map_err(|reason| format!("{word}: {reason}"))?);
        }
        Ok(option)
    }
}
