//! What is wrong with what a user gave.

use std::fmt::Display;
use std::path::Path;

use thiserror::Error;

/// An option that cannot be honoured, in one line: the option, what it was given, and why not.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("--{option}{}: {reason}", subject.as_ref().map(|text| format!(" {text}")).unwrap_or_default())]
pub struct InputError {
    option: &'static str,
    subject: Option<String>,
    reason: String,
}

impl InputError {
    /// `option` was given `subject`.
    pub fn new(option: &'static str, subject: impl Display, reason: impl Into<String>) -> Self {
        Self { option, subject: Some(subject.to_string()), reason: reason.into() }
    }

    /// `option` as a whole is wrong.
    pub fn bare(option: &'static str, reason: impl Into<String>) -> Self {
        Self { option, subject: None, reason: reason.into() }
    }

    /// `option` names a file that does not do.
    pub fn file(option: &'static str, file: &Path, reason: impl Into<String>) -> Self {
        Self::new(option, file.display(), reason)
    }

    /// `option` names a file with which the host reported an error.
    pub fn io(option: &'static str, file: &Path, error: &std::io::Error) -> Self {
        use std::io::ErrorKind;
        let reason = match error.kind() {
            ErrorKind::NotFound => "no such file".to_owned(),
            ErrorKind::PermissionDenied => "permission denied".to_owned(),
            ErrorKind::IsADirectory => "is a directory".to_owned(),
            _ => error.to_string(),
        };
        Self::file(option, file, reason)
    }

    /// The option, without dashes.
    pub fn option(&self) -> &'static str {
        self.option
    }
}
