//! A module of a multiboot kernel.

use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::disk::split_name;

/// A module, as a user describes it: `F[,WORDS]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct ModuleConfig {
    /// The file.
    pub file: PathBuf,
    /// What the kernel is told of it; its name, if nothing is said.
    pub words: Option<String>,
}

impl FromStr for ModuleConfig {
    type Err = String;

    /// A comma in the name is doubled.
    fn from_str(text: &str) -> Result<Self, String> {
        let (file, words) = split_name(text);
        if file.is_empty() {
            return Err("must be a file".to_owned());
        }
        if words.contains(['\0', '\n']) {
            return Err("what the kernel is told is one line without NUL".to_owned());
        }
        Ok(Self { file: file.into(), words: (!words.is_empty()).then(|| words.to_owned()) })
    }
}

impl TryFrom<String> for ModuleConfig {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<ModuleConfig> for String {
    fn from(module: ModuleConfig) -> Self {
        let file = module.file.display().to_string().replace(',', ",,");
        module.words.map_or(file.clone(), |words| format!("{file},{words}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_are_behind_the_first_single_comma() {
        let module: ModuleConfig = "a,,b,root=x,y".parse().unwrap();
        assert_eq!((module.file.to_str(), module.words.as_deref()), (Some("a,b"), Some("root=x,y")));
        assert_eq!(String::from(module), "a,,b,root=x,y");
        assert!("".parse::<ModuleConfig>().is_err());
    }
}
