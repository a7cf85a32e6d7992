//! Which services there are, and sets of them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::conversation::State;

/// A service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ServiceKind {
    /// Power off, restart, hibernate.
    Shutdown,
    /// The time of day.
    TimeSync,
    /// Whether the guest is alive.
    Heartbeat,
    /// Strings for each other.
    KeyValue,
    /// File systems that stand still for a copy of the disks.
    Backup,
    /// Files for the guest.
    FileCopy,
}

impl ServiceKind {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Shutdown, Self::TimeSync, Self::Heartbeat, Self::KeyValue, Self::Backup, Self::FileCopy];

    /// The name, as users write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Shutdown => "shutdown",
            Self::TimeSync => "time-sync",
            Self::Heartbeat => "heartbeat",
            Self::KeyValue => "key-value",
            Self::Backup => "backup",
            Self::FileCopy => "file-copy",
        }
    }
}

impl fmt::Display for ServiceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A name that no service has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "there is no service \"{0}\": there are shutdown, time-sync, heartbeat, key-value, backup and file-copy"
)]
pub struct UnknownService(String);

impl FromStr for ServiceKind {
    type Err = UnknownService;

    fn from_str(text: &str) -> Result<Self, UnknownService> {
        let found = Self::ALL.into_iter().find(|service| service.name() == text);
        found.ok_or_else(|| UnknownService(text.to_owned()))
    }
}

/// A set of services.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Services(u8);

impl Services {
    /// All of them.
    pub const ALL: Self = Self((1 << ServiceKind::ALL.len()) - 1);
    /// None of them.
    pub const NONE: Self = Self(0);

    /// Whether `service` is one of them.
    pub const fn contains(self, service: ServiceKind) -> bool {
        self.0 & 1 << service as u8 != 0
    }

    /// These and `service`.
    pub const fn with(self, service: ServiceKind) -> Self {
        Self(self.0 | 1 << service as u8)
    }

    /// These without `service`.
    pub const fn without(self, service: ServiceKind) -> Self {
        Self(self.0 & !(1 << service as u8))
    }

    /// Each of them.
    pub fn iter(self) -> impl Iterator<Item = ServiceKind> {
        ServiceKind::ALL.into_iter().filter(move |&service| self.contains(service))
    }
}

impl Default for Services {
    fn default() -> Self {
        Self::ALL
    }
}

impl FromStr for Services {
    type Err = UnknownService;

    fn from_str(text: &str) -> Result<Self, UnknownService> {
        match text {
            "all" => Ok(Self::ALL),
            "none" => Ok(Self::NONE),
            list => {
                list.split(',').try_fold(Self::NONE, |services, name| Ok(services.with(name.trim().parse()?)))
            }
        }
    }
}

impl fmt::Display for Services {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::ALL => f.write_str("all"),
            Self::NONE => f.write_str("none"),
            some => f.write_str(&some.iter().map(ServiceKind::name).collect::<Vec<_>>().join(",")),
        }
    }
}

impl TryFrom<String> for Services {
    type Error = UnknownService;

    fn try_from(text: String) -> Result<Self, UnknownService> {
        text.parse()
    }
}

impl From<Services> for String {
    fn from(services: Services) -> Self {
        services.to_string()
    }
}

impl State {
    /// In words.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Disabled => "disabled",
            Self::NoContact => "no contact",
            Self::Negotiating => "negotiating",
            Self::Refused => "refused by the guest",
            Self::Ok => "ok",
            Self::Lost => "lost contact",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_are_written_as_they_are_read() {
        for text in ["all", "none", "shutdown", "time-sync,key-value"] {
            assert_eq!(text.parse::<Services>().unwrap().to_string(), text);
        }
        assert_eq!("heartbeat, shutdown".parse::<Services>().unwrap().to_string(), "shutdown,heartbeat");
        assert!("heart".parse::<Services>().unwrap_err().to_string().contains("\"heart\""));
    }

    #[test]
    fn services_come_and_go_one_by_one() {
        let set = Services::ALL.without(ServiceKind::Heartbeat);
        assert!(!set.contains(ServiceKind::Heartbeat) && set.contains(ServiceKind::KeyValue));
        assert_eq!(set.with(ServiceKind::Heartbeat), Services::ALL);
    }
}
