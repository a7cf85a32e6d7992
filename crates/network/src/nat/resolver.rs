//! The host's name servers, from `resolv.conf(5)`.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How long what was read is good for.
const FRESH: Duration = Duration::from_secs(2);
/// A longer file is not read to its end.
const LONGEST: u64 = 64 << 10;
/// More name servers than that are not asked, as by the C library (`MAXNS`).
const SERVERS: usize = 3;

/// The host's name servers, and which of them is asked.
pub(super) struct Resolver {
    file: PathBuf,
    read: Option<Instant>,
    servers: Vec<SocketAddr>,
    asked: usize,
}

impl Default for Resolver {
    fn default() -> Self {
        Self { file: PathBuf::from("/etc/resolv.conf"), read: None, servers: vec![], asked: 0 }
    }
}

impl Resolver {
    /// Where the name server is that is asked: the first one of the file, which changes when the host moves to another
    /// network, unless [`Self::next`] has gone on.
    pub fn address(&mut self) -> Option<SocketAddr> {
        let now = Instant::now();
        if self.read.is_none_or(|when| now.duration_since(when) >= FRESH) {
            self.read = Some(now);
            let servers = self.read();
            if servers != self.servers {
                (self.servers, self.asked) = (servers, 0);
            }
        }
        self.servers.get(self.asked).copied()
    }

    /// Goes on to the next one; after the last one comes the first.
    pub fn next(&mut self) {
        self.asked = (self.asked + 1) % self.servers.len().max(1);
        if self.servers.len() > 1 {
            tracing::debug!(server = ?self.servers.get(self.asked), "the host's next name server is asked");
        }
    }

    fn read(&self) -> Vec<SocketAddr> {
        let mut text = String::new();
        let read = std::fs::File::open(&self.file).and_then(|file| {
            std::io::Read::read_to_string(&mut std::io::Read::take(file, LONGEST), &mut text)
        });
        if let Err(error) = read {
            tracing::debug!(file = %self.file.display(), %error, "the host's name server is not known");
        }
        servers(&text)
    }
}

/// The name servers in `text` with an address that needs no interface.
fn servers(text: &str) -> Vec<SocketAddr> {
    let server = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        let address: IpAddr =
            words.next().filter(|word| *word == "nameserver").and(words.next())?.parse().ok()?;
        Some((address, super::DNS_PORT).into())
    };
    text.lines().filter_map(server).take(SERVERS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_servers_are_found() {
        let text = "# nameserver 1.1.1.1\nsearch a b\n nameserver fe80::1%eth0\nnameserver\t127.0.0.53 # x\nnameserver ::1";
        assert_eq!(servers(text), ["127.0.0.53:53".parse().unwrap(), "[::1]:53".parse().unwrap()]);
        assert_eq!(servers("nameserver\n"), []);
        assert_eq!(servers(&"nameserver 1.1.1.1\n".repeat(9)).len(), SERVERS);
    }

    #[test]
    fn a_file_that_changes_is_read_again() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut resolver = Resolver { file: file.path().into(), ..Resolver::default() };
        let address = |resolver: &mut Resolver| resolver.address().map(|address| address.ip().to_string());
        std::fs::write(&file, "nameserver 10.0.0.1\nnameserver 10.0.0.2").unwrap();
        assert_eq!(address(&mut resolver).unwrap(), "10.0.0.1");
        resolver.next();
        assert_eq!(address(&mut resolver).unwrap(), "10.0.0.2");
        // Unless it says what it said.
        let later = |resolver: &mut Resolver| {
            resolver.read = resolver.read.map(|when| when - FRESH);
            address(resolver)
        };
        assert_eq!(later(&mut resolver).unwrap(), "10.0.0.2");
        std::fs::write(&file, "nameserver 10.0.0.3\nnameserver 10.0.0.4").unwrap();
        assert_eq!(address(&mut resolver).unwrap(), "10.0.0.2");
        assert_eq!(later(&mut resolver).unwrap(), "10.0.0.3");
        resolver.next();
        resolver.next();
        assert_eq!(address(&mut resolver).unwrap(), "10.0.0.3");
        drop(file);
        assert_eq!(later(&mut resolver), None);
        resolver.next();
    }
}
