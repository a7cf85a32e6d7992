//! Flows of UDP (RFC 768, 4787): each pair of a guest's port and one outside has a socket of the host's that is connected
//! there, so that nobody else gets in.

use std::collections::HashMap;
use std::net::SocketAddr;

use smoltcp::time::{Duration, Instant};

use super::addresses::{self, Destination, Ports, Route};
use super::host::{Datagrams, Host, Key, is_idle, is_unreachable};
use super::icmp::{self, Reason};
use super::link::Link;
use super::packet::{Packet, udp_frame};

/// Flows at the most; one more ends the one that is quiet for the longest time.
const FLOWS: usize = 1024;
/// After that a flow is forgotten (RFC 4787, REQ-5).
const QUIET: Duration = Duration::from_secs(120);
/// The same for questions to the name server.
const QUIET_DNS: Duration = Duration::from_secs(20);
/// How long the name server may owe an answer before another one is asked.
const PATIENCE_DNS: Duration = Duration::from_secs(2);
/// How often quiet flows are looked for.
const SWEEP: Duration = Duration::from_secs(5);
/// Datagrams that are taken at a time.
const BATCH: usize = 64;
/// Bytes of the longest datagram, and one.
const LONGEST: usize = 1 << 16;

/// The host's side of a flow.
enum Side<D> {
    /// A socket of its own.
    Own(D),
    /// The forwarded port of that number, and who has sent to it.
    Forward(u64, SocketAddr),
}

struct Flow<D> {
    guest: SocketAddr,
    /// The other side, as the guest calls it.
    peer: SocketAddr,
    side: Side<D>,
    used: Instant,
}

impl<D> Flow<D> {
    /// Whether the other side is the network's name server.
    fn is_to_resolver(&self) -> bool {
        is_resolver(self.peer)
    }

    fn quiet(&self) -> Duration {
        if self.peer.port() == super::DNS_PORT { QUIET_DNS } else { QUIET }
    }
}

fn is_resolver(peer: SocketAddr) -> bool {
    peer.port() == super::DNS_PORT && addresses::destination(peer.ip()) == Destination::Resolver
}

/// The flows.
pub(super) struct Udp<D> {
    flows: HashMap<u64, Flow<D>>,
    /// By the guest's and the other side's address, as the guest sees them.
    numbers: HashMap<(SocketAddr, SocketAddr), u64>,
    /// Forwarded ports and where they lead.
    forwards: Vec<(D, SocketAddr)>,
    /// By forwarded port and who has sent to it.
    forwarded: HashMap<(u64, SocketAddr), u64>,
    next: u64,
    ports: Ports,
    /// Since when the name server owes an answer.
    owed: Option<Instant>,
    sweep: Option<Instant>,
    data: Vec<u8>,
}

impl<D: Datagrams> Udp<D> {
    /// No flows but those that come to `forwards`, whose keys are their places in the list.
    pub fn new(forwards: Vec<(D, SocketAddr)>) -> Self {
        Self {
            flows: HashMap::new(),
            numbers: HashMap::new(),
            forwards,
            forwarded: HashMap::new(),
            next: 0,
            ports: Ports::new(),
            owed: None,
            sweep: None,
            data: vec![0; LONGEST],
        }
    }

    #[cfg(any(test, feature = "fuzzing"))]
    /// Flows that there are.
    pub fn len(&self) -> usize {
        self.flows.len()
    }

    /// Takes a packet from a guest.
    pub fn packet<H: Host<Datagrams = D>>(
        &mut self,
        now: Instant,
        host: &mut H,
        link: &mut Link,
        host_reachable: bool,
        packet: &Packet<'_>,
    ) {
        let Some(datagram) = packet.udp() else { return link.dropped.count() };
        let guest = SocketAddr::new(packet.source, datagram.src_port());
        let peer = SocketAddr::new(packet.destination, datagram.dst_port());
        if is_resolver(peer) {
            if self.owed.is_some_and(|since| now >= since + PATIENCE_DNS) {
                self.leave_resolver(host);
                if let Some(&number) = self.numbers.get(&(guest, peer)) {
                    self.remove(number);
                }
            }
            self.owed.get_or_insert(now);
        }
        let number = match self.numbers.get(&(guest, peer)) {
            Some(&number) => number,
            None => {
                let to = match addresses::route(peer, host_reachable, || host.resolver()) {
                    Route::To(to) => to,
                    Route::Refused => return icmp::unreachable(link, packet, Reason::Port),
                    Route::Nowhere => return link.dropped.count(),
                };
                match host.datagrams(to, Key::Udp(self.next + 1)) {
                    Ok(socket) => self.insert(now, guest, peer, Side::Own(socket)),
                    Err(error) if is_unreachable(&error) => {
                        return icmp::unreachable(link, packet, Reason::Host);
                    }
                    Err(error) => {
                        tracing::debug!(%error, %to, "a guest's datagram is not sent");
                        return link.dropped.count();
                    }
                }
            }
        };
        let Some(flow) = self.flows.get_mut(&number) else { return };
        flow.used = now;
        let payload = datagram.payload();
        let send = || match &flow.side {
            Side::Own(socket) => socket.send(payload),
            Side::Forward(index, to) => match self.forwards.get(*index as usize) {
                Some((socket, _)) => socket.send_to(payload, *to),
                None => Ok(0),
            },
        };
        // The error may be what became of a datagram before this one.
        if let Err(error) = send().or_else(|_| send()) {
            if is_unreachable(&error) {
                icmp::unreachable(link, packet, Reason::Host);
            } else if error.kind() == std::io::ErrorKind::ConnectionRefused {
                icmp::unreachable(link, packet, Reason::Port);
            } else {
                link.dropped.count();
            }
        }
    }

    fn insert(&mut self, now: Instant, guest: SocketAddr, peer: SocketAddr, side: Side<D>) -> u64 {
        if self.flows.len() >= FLOWS {
            let quiet = self.flows.iter().min_by_key(|(_, flow)| flow.used).map(|(number, _)| *number);
            if let Some(number) = quiet {
                self.remove(number);
            }
        }
        self.next += 1;
        if let Side::Forward(index, from) = side {
            self.forwarded.insert((index, from), self.next);
        }
        self.numbers.insert((guest, peer), self.next);
        self.flows.insert(self.next, Flow { guest, peer, side, used: now });
        self.sweep.get_or_insert(now + SWEEP);
        self.next
    }

    fn remove(&mut self, number: u64) {
        if let Some(flow) = self.flows.remove(&number) {
            self.numbers.remove(&(flow.guest, flow.peer));
            if let Side::Forward(index, from) = flow.side {
                self.forwarded.remove(&(index, from));
            }
        }
    }

    /// Questions go to another name server from now on; answers of this one are still taken.
    fn leave_resolver<H: Host>(&mut self, host: &mut H) {
        host.next_resolver();
        self.owed = None;
    }

    /// The host has answers for a flow.
    pub fn ready<H: Host>(&mut self, now: Instant, host: &mut H, link: &mut Link, number: u64) {
        let mut refused = false;
        let Some(flow) = self.flows.get_mut(&number) else { return };
        let Side::Own(socket) = &flow.side else { return };
        for _ in 0..BATCH {
            match socket.receive(&mut self.data) {
                Ok(len) => {
                    flow.used = now;
                    if flow.is_to_resolver() {
                        self.owed = None;
                    }
                    let payload = self.data.get(..len).unwrap_or_default();
                    link.send_packet(flow.guest.ip(), udp_frame(flow.peer, flow.guest, payload));
                }
                Err(error) if is_idle(&error) => break,
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
                    refused = flow.is_to_resolver();
                    icmp::unreachable_datagram(link, flow.guest, flow.peer, Reason::Port);
                }
                Err(error) => {
                    if is_unreachable(&error) {
                        icmp::unreachable_datagram(link, flow.guest, flow.peer, Reason::Host);
                    }
                    break;
                }
            }
        }
        if refused {
            self.leave_resolver(host);
            self.remove(number);
        }
    }

    /// The host has datagrams at a forwarded port.
    pub fn forward(&mut self, now: Instant, link: &mut Link, index: u64) {
        for _ in 0..BATCH {
            let Some((socket, guest)) = self.forwards.get(index as usize) else { return };
            let guest = *guest;
            // An error is that of somebody to whom the guest has answered.
            let Ok((len, from)) = socket.receive_from(&mut self.data) else { return };
            let number = match self.forwarded.get(&(index, from)) {
                Some(&number) => number,
                None => {
                    let peer = self.ports.free(guest, |key| self.numbers.contains_key(key));
                    let Some(peer) = peer else { return link.dropped.count() };
                    self.insert(now, guest, peer, Side::Forward(index, from))
                }
            };
            let Some(flow) = self.flows.get_mut(&number) else { return };
            flow.used = now;
            let payload = self.data.get(..len).unwrap_or_default();
            link.send_packet(guest.ip(), udp_frame(flow.peer, guest, payload));
        }
    }

    /// Forgets what is quiet, and says when it wants to be asked again.
    pub fn poll(&mut self, now: Instant) -> Option<Instant> {
        if self.sweep.is_some_and(|when| when <= now) {
            let quiet = self.flows.iter().filter(|(_, flow)| flow.used + flow.quiet() <= now);
            for number in quiet.map(|(number, _)| *number).collect::<Vec<_>>() {
                self.remove(number);
            }
            self.sweep = (!self.flows.is_empty()).then_some(now + SWEEP);
        }
        self.sweep
    }
}
