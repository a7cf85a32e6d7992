//! Where a debugger finds the machine.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Where a debugger may connect: `HOST:PORT`, `:PORT` on this host only, or `unix:F`; and after `,nowait` the
/// machine runs before one does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Gdb {
    /// Where.
    pub endpoint: GdbEndpoint,
    /// The processors wait at their first instruction until a debugger lets them run.
    pub wait: bool,
}

/// What is listened at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GdbEndpoint {
    /// A host, by name or address, and a TCP port.
    Tcp(String, u16),
    /// A Unix socket that is made.
    Unix(PathBuf),
}

const FORM: &str = "must be HOST:PORT, :PORT or unix:F, with ,nowait behind it or not";

impl FromStr for Gdb {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (place, wait) = match text.split_once(',') {
            None => (text, true),
            Some((place, "wait")) => (place, true),
            Some((place, "nowait")) => (place, false),
            Some(_) => return Err(FORM.to_owned()),
        };
        let endpoint = match place.rsplit_once(':') {
            _ if place.starts_with("unix:") => match &place["unix:".len()..] {
                "" => return Err(FORM.to_owned()),
                path => GdbEndpoint::Unix(path.into()),
            },
            Some((host, port)) => {
                let digits = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
                let port: u16 = port.parse().ok().filter(|&port| digits && port != 0).ok_or(FORM)?;
                let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
                let host = if host.is_empty() { "127.0.0.1" } else { host };
                GdbEndpoint::Tcp(host.to_owned(), port)
            }
            None => return Err(FORM.to_owned()),
        };
        Ok(Self { endpoint, wait })
    }
}

impl fmt::Display for GdbEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(host, port) if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp(host, port) => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl TryFrom<String> for Gdb {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Gdb> for String {
    fn from(gdb: Gdb) -> Self {
        format!("{}{}", gdb.endpoint, if gdb.wait { "" } else { ",nowait" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read_and_written_alike() {
        for text in ["127.0.0.1:1234", "[::1]:1", "localhost:65535,nowait", "unix:/run/a:b,nowait"] {
            assert_eq!(String::from(text.parse::<Gdb>().unwrap()), text);
        }
        let short: Gdb = ":1234".parse().unwrap();
        assert_eq!(short, Gdb { endpoint: GdbEndpoint::Tcp("127.0.0.1".to_owned(), 1234), wait: true });
    }

    #[test]
    fn what_is_no_place_is_refused() {
        for text in ["", "1234", ":", ":0", ":65536", ":+1", "unix:", "host", ":1,later", "unix:f,"] {
            assert_eq!(text.parse::<Gdb>(), Err(FORM.to_owned()), "{text}");
        }
    }
}
