//! Ports of the host that lead into the network.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;

use smoltcp::time::{Duration, Instant};

use super::addresses::{self, FIRST_GUEST};
use super::host::{Host, Key};
use super::link::Link;
use super::tcp::Tcp;

/// A protocol with ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// A port of the host that leads to one of a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forward {
    /// For which protocol.
    pub protocol: Protocol,
    /// Where the host listens.
    pub host: SocketAddr,
    /// Where that leads.
    pub guest: SocketAddr,
}

/// Text that is no forward.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text} is no port to forward: {what}; tcp:127.0.0.1:2222-10.0.2.15:22 is one, as is tcp::2222-:22")]
pub struct ForwardError {
    text: String,
    what: &'static str,
}

/// An address, which may be left out, and a port.
fn end(text: &str, default: Ipv4Addr) -> Result<SocketAddr, &'static str> {
    let (address, port) = text.rsplit_once(':').ok_or("there is an address without a port")?;
    let port = port.parse().ok().filter(|port| *port != 0).ok_or("a port is a number from 1 to 65535")?;
    let bracketed = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let address = match (address, bracketed) {
        ("", _) => IpAddr::from(default),
        (_, Some(v6)) => IpAddr::V6(v6.parse().map_err(|_| "an IPv6 address is wrong")?),
        (v4, None) => IpAddr::V4(v4.parse().map_err(|_| "an address is wrong")?),
    };
    Ok((address, port).into())
}

fn parse(text: &str) -> Result<Forward, &'static str> {
    let (protocol, ends) = text.split_once(':').ok_or("the protocol is missing")?;
    let protocol = match protocol {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        _ => return Err("the protocol is neither tcp nor udp"),
    };
    let (host, guest) = ends.split_once('-').ok_or("there is no hyphen before the guest's port")?;
    let (host, guest) = (end(host, Ipv4Addr::LOCALHOST)?, end(guest, FIRST_GUEST)?);
    if !addresses::is_guest(guest.ip()) {
        return Err("guests have no such address");
    }
    Ok(Forward { protocol, host, guest })
}

impl FromStr for Forward {
    type Err = ForwardError;

    /// `tcp:[HOSTADDR]:PORT-[GUESTADDR]:PORT`, or `udp:…`. IPv6 addresses stand in brackets. Without addresses it is the
    /// host's loopback, unlike QEMU's, and the first guest.
    fn from_str(text: &str) -> Result<Self, ForwardError> {
        parse(text).map_err(|what| ForwardError { text: text.to_owned(), what })
    }
}

impl fmt::Display for Forward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}-{}", self.protocol, self.host, self.guest)
    }
}

/// After which a listener is asked again when the host had no room for a connection.
const AGAIN: Duration = Duration::from_millis(100);
/// Connections that are taken at a time.
const BATCH: usize = 64;

struct Listener<L> {
    socket: L,
    guest: SocketAddr,
    /// Whether connections may wait.
    waits: bool,
}

/// What listens for TCP.
pub(super) struct Listeners<L>(Vec<Listener<L>>);

impl<L> Listeners<L> {
    /// Those of `sockets`, whose keys are their places in the list, and where they lead.
    pub fn new(sockets: Vec<(L, SocketAddr)>) -> Self {
        let listener = |(socket, guest)| Listener { socket, guest, waits: false };
        Self(sockets.into_iter().map(listener).collect())
    }

    /// Connections wait at a listener.
    pub fn ready(&mut self, index: u64) {
        if let Some(listener) = self.0.get_mut(index as usize) {
            listener.waits = true;
        }
    }

    /// Takes what waits, and says when it wants to be asked again.
    pub fn poll<H: Host<Listener = L>>(
        &mut self,
        now: Instant,
        host: &mut H,
        link: &Link,
        tcp: &mut Tcp<H::Stream>,
    ) -> Option<Instant> {
        let mut again = None;
        for listener in self.0.iter_mut().filter(|listener| listener.waits) {
            again = Some(now);
            for _ in 0..BATCH {
                match tcp.forward(now, host, link, &listener.socket, listener.guest) {
                    Ok(true) => {}
                    Ok(false) => {
                        listener.waits = false;
                        break;
                    }
                    Err(error) => {
                        tracing::warn!(%error, "a connection to a forwarded port waits");
                        again = Some(now + AGAIN);
                        break;
                    }
                }
            }
        }
        again
    }
}

/// The host's side of forwards, and where each leads.
pub(super) type Open<H> =
    (Vec<(<H as Host>::Listener, SocketAddr)>, Vec<(<H as Host>::Datagrams, SocketAddr)>);

/// Opens the host's side of `forwards`: listeners, and sockets of UDP.
pub(super) fn open<H: Host>(host: &mut H, forwards: &[Forward]) -> std::io::Result<Open<H>> {
    let (mut listeners, mut sockets) = (vec![], vec![]);
    for forward in forwards {
        let context = |error: std::io::Error| {
            let at = forward.host;
            std::io::Error::new(error.kind(), format!("port {at} cannot be forwarded ({forward}): {error}"))
        };
        match forward.protocol {
            Protocol::Tcp => {
                let key = Key::Listener(listeners.len() as u64);
                listeners.push((host.listen(forward.host, key).map_err(context)?, forward.guest));
            }
            Protocol::Udp => {
                let key = Key::Forward(sockets.len() as u64);
                sockets.push((host.bind(forward.host, key).map_err(context)?, forward.guest));
            }
        }
    }
    Ok((listeners, sockets))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forwards_are_read_as_they_are_written() {
        for (text, full) in [
            ("tcp::2222-:22", "tcp:127.0.0.1:2222-10.0.2.15:22"),
            ("udp:0.0.0.0:53-10.0.2.16:53", "udp:0.0.0.0:53-10.0.2.16:53"),
            ("tcp:[::1]:80-[fd00::15]:8080", "tcp:[::1]:80-[fd00::15]:8080"),
        ] {
            let forward: Forward = text.parse().unwrap();
            assert_eq!(forward.to_string(), full);
            assert_eq!(full.parse(), Ok(forward));
        }
    }

    #[test]
    fn a_forward_that_is_wrong_says_what_is_wrong() {
        for (text, what) in [
            ("", "protocol is missing"),
            ("sctp::1-:2", "neither tcp nor udp"),
            ("tcp:2222:22", "no hyphen"),
            ("tcp:2222-:22", "without a port"),
            ("tcp::0-:22", "from 1 to 65535"),
            ("tcp::65536-:22", "from 1 to 65535"),
            ("tcp:localhost:1-:22", "an address is wrong"),
            ("tcp:[1.2.3.4]:1-:22", "IPv6 address is wrong"),
            ("tcp::1-1.2.3.4:22", "guests have no such address"),
            ("tcp::1-10.0.2.2:22", "guests have no such address"),
        ] {
            let error = text.parse::<Forward>().unwrap_err().to_string();
            assert!(error.contains(what), "{text}: {error}");
        }
    }
}
