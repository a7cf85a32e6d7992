//! The host's name server, from `resolv.conf(5)`.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How long what was read is good for.
const FRESH: Duration = Duration::from_secs(2);
/// A longer file is not read to its end.
const LONGEST: u64 = 64 << 10;

/// The host's name server.
pub(super) struct Resolver {
    file: PathBuf,
    known: Option<(Instant, Option<SocketAddr>)>,
}

impl Default for Resolver {
    fn default() -> Self {
        Self { file: PathBuf::from("/etc/resolv.conf"), known: None }
    }
}

impl Resolver {
    /// Where the first name server of the file is; that changes when the host moves to another network.
    pub fn address(&mut self) -> Option<SocketAddr> {
        let now = Instant::now();
        match self.known {
            Some((when, address)) if now.duration_since(when) < FRESH => address,
            _ => {
                let address = self.read();
                self.known = Some((now, address));
                address
            }
        }
    }

    fn read(&self) -> Option<SocketAddr> {
        let mut text = String::new();
        let read = std::fs::File::open(&self.file).and_then(|file| {
            std::io::Read::read_to_string(&mut std::io::Read::take(file, LONGEST), &mut text)
        });
        if let Err(error) = read {
            tracing::debug!(file = %self.file.display(), %error, "the host's name server is not known");
        }
        first(&text)
    }
}

/// The first name server in `text` with an address that needs no interface.
fn first(text: &str) -> Option<SocketAddr> {
    text.lines().find_map(|line| {
        let mut words = line.split_ascii_whitespace();
        let address: IpAddr =
            words.next().filter(|word| *word == "nameserver").and(words.next())?.parse().ok()?;
        Some((address, super::DNS_PORT).into())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_name_server_is_taken() {
        let text = "# nameserver 1.1.1.1\nsearch a b\n nameserver fe80::1%eth0\nnameserver\t127.0.0.53 # x\nnameserver ::1";
        assert_eq!(first(text), Some("127.0.0.53:53".parse().unwrap()));
        assert_eq!(first("nameserver ::1\n"), Some("[::1]:53".parse().unwrap()));
        assert_eq!(first("nameserver\n"), None);
    }

    #[test]
    fn a_file_that_changes_is_read_again() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, "nameserver 10.0.0.1").unwrap();
        let mut resolver = Resolver { file: file.path().into(), known: None };
        assert_eq!(resolver.address(), Some("10.0.0.1:53".parse().unwrap()));
        std::fs::write(&file, "nameserver 10.0.0.2").unwrap();
        assert_eq!(resolver.address(), Some("10.0.0.1:53".parse().unwrap()));
        resolver.known = resolver.known.map(|(when, address)| (when - FRESH, address));
        assert_eq!(resolver.address(), Some("10.0.0.2:53".parse().unwrap()));
        drop(file);
        resolver.known = None;
        assert_eq!(resolver.address(), None);
    }
}
