//! What is to be told of translated code.

use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use processor_soft::Inspection;
use serde::{Deserialize, Serialize};

use super::InputError;

/// What is to be told of translated code: `none`, or a list of `map`, `count` and `dump=F`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Translator {
    /// `/tmp/perf-PID.map` names the code for `perf`.
    pub map: bool,
    /// Look-ups in the first level of the TLB are counted.
    pub count: bool,
    /// This file takes the blocks as text.
    pub dump: Option<PathBuf>,
}

impl Translator {
    /// Whether nothing is to be told.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// Makes the files.
    ///
    /// # Errors
    /// When one cannot be made.
    pub(crate) fn open(&self) -> Result<Inspection, InputError> {
        let make = |path: &Path| {
            // Not through what somebody else has put there.
            match std::fs::remove_file(path) {
                Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
                _ => OpenOptions::new().append(true).create_new(true).open(path),
            }
            .map_err(|error| InputError::io("translator", path, &error))
        };
        let map = PathBuf::from(format!("/tmp/perf-{}.map", std::process::id()));
        let map: Option<File> = self.map.then(|| make(&map)).transpose()?;
        let dump = self.dump.as_deref().map(make).transpose()?;
        Ok(Inspection { map, dump, count: self.count })
    }
}

impl FromStr for Translator {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut choice = Self::default();
        if text == "none" {
            return Ok(choice);
        }
        for word in text.split(',') {
            match word.split_once('=') {
                None if word == "map" => choice.map = true,
                None if word == "count" => choice.count = true,
                Some(("dump", file)) if !file.is_empty() => choice.dump = Some(file.into()),
                _ => return Err("must be none, or a list of map, count and dump=F".to_owned()),
            }
        }
        Ok(choice)
    }
}

impl TryFrom<String> for Translator {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Translator> for String {
    fn from(choice: Translator) -> Self {
        let words = [
            choice.map.then(|| "map".to_owned()),
            choice.count.then(|| "count".to_owned()),
            choice.dump.map(|file| format!("dump={}", file.display())),
        ];
        let words: Vec<_> = words.into_iter().flatten().collect();
        if words.is_empty() { "none".to_owned() } else { words.join(",") }
    }
}
