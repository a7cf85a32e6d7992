//! A network that needs no privileges: user-mode NAT behind a port of a switch.
//!
//! ```text
//!   Switch ── Port ─▶ Network ─┬─ ARP, NDP, DHCP, echoes: answered here
//!                              ├─ UDP: a socket of the host for each flow
//!                              └─ TCP: a connection of the host for each of the guest
//! ```
//!
//! Guests find the network that QEMU's user network is:
//!
//! | | IPv4 | IPv6 |
//! |---|---|---|
//! | network | 10.0.2.0/24 | fd00::/64 |
//! | router, and the host if it is reachable | 10.0.2.2 | fd00::2, fe80::2 |
//! | name server, which is one of the host's | 10.0.2.3 | fd00::3 |
//! | guests, by DHCP or router advertisement | from 10.0.2.15 on | fd00::… |
//!
//! Whatever has an address outside is reached as the host reaches it; the host's loopback by the router's address only,
//! link-local and multicast addresses not at all. The host's other addresses are outside like any: what listens there can
//! be reached by guests whatever [`NatSettings::host_reachable`] says. One thread does everything, and waits for nothing but all at once.
//!
//! What a guest sends is never trusted; what it can hold is bounded: connections and flows have limits, and time limits.
//! Packets of IPv6 with extension headers, but fragments, are dropped and counted.

mod addresses;
mod dhcp;
#[cfg(any(test, feature = "fuzzing"))]
mod fake;
mod forward;
mod fragments;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod host;
mod icmp;
mod link;
mod ndp;
mod network;
mod packet;
mod resolver;
mod tcp;
#[cfg(test)]
mod tests;
mod udp;

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use counters::Counter;
use doorbell::Doorbell;
use rustix::event::epoll::EventFlags;
use smoltcp::time::Instant;

pub use forward::{Forward, ForwardError, Protocol};

use crate::port::Port;
use host::{Key, Sockets};
use network::Network;

const DNS_PORT: u16 = 53;
/// Frames that are taken before others get a turn.
const BATCH: usize = 256;

/// What a NAT is made of.
#[derive(Debug, Clone, Default)]
pub struct NatSettings {
    /// What it is called in logs and by its thread.
    pub name: String,
    /// What guests are told by DHCP that they are called, 255 bytes at the most.
    pub hostname: Option<String>,
    /// Whether the router's address leads to the host's loopback.
    pub host_reachable: bool,
    /// Ports of the host that lead to guests.
    pub forwards: Vec<Forward>,
    /// Counts frames that there was no use, no room or no permission for.
    pub dropped: Counter,
}

/// A user-mode NAT at work. Dropping it closes all of its connections.
pub struct Nat {
    stop: Arc<Doorbell>,
    thread: Option<JoinHandle<()>>,
}

impl Nat {
    /// Begins to serve the guests that `port` leads to. The process may have as many descriptors from now on as it may
    /// allow itself.
    ///
    /// # Errors
    /// When a port cannot be forwarded, the name is too long, or the host gives no event loop or thread.
    pub fn start(port: Port, settings: NatSettings) -> io::Result<Self> {
        if settings.hostname.as_ref().is_some_and(|name| name.len() > dhcp::LONGEST_NAME) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "the guest's name has more than 255 bytes",
            ));
        }
        let (port, stop) = (Arc::new(port), Arc::new(Doorbell::new()?));
        let sockets = Sockets::new()?;
        sockets.watch(port.doorbell().as_fd(), Key::Port, EventFlags::IN)?;
        sockets.watch(stop.as_fd(), Key::Stop, EventFlags::IN)?;
        let output = Arc::clone(&port);
        let seed = RandomState::new().hash_one(0);
        let network = Network::new(
            sockets,
            &settings,
            seed,
            Box::new(move |frame| {
                output.send(frame);
            }),
        )?;
        let thread = std::thread::Builder::new().name(format!("nat {}", settings.name)).spawn(move || {
            if let Err(error) = run(&port, network) {
                tracing::error!(%error, name = %settings.name, "network has stopped");
            }
        })?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Nat {
    fn drop(&mut self) {
        self.stop.ring();
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the network's thread has panicked");
        }
    }
}

fn run(port: &Port, mut network: Network<Sockets>) -> io::Result<()> {
    let start = std::time::Instant::now();
    let now = || Instant::from_micros(i64::try_from(start.elapsed().as_micros()).unwrap_or(i64::MAX));
    let mut events = vec![];
    // Frames may have come before the doorbell was watched.
    let mut frames = true;
    loop {
        let time = now();
        if frames {
            frames = false;
            for count in 1..=BATCH {
                let Some(frame) = port.receive() else { break };
                network.frame(time, frame);
                frames = count == BATCH;
            }
        }
        let next = network.poll(time);
        let left = |next: Instant| u64::try_from((next.total_micros() - now().total_micros()).max(0));
        let timeout = next.map(|next| left(next).map_or(Duration::MAX, Duration::from_micros));
        let timeout = if frames { Some(Duration::ZERO) } else { timeout };
        events.clear();
        network.host().wait(timeout, &mut events)?;
        let time = now();
        for event in events.drain(..) {
            match event.key {
                Key::Stop => return Ok(()),
                Key::Port => frames |= port.doorbell().answer(),
                _ => network.event(time, event),
            }
        }
    }
}
