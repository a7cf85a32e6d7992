//! ICMP (RFC 792) and ICMPv6 (RFC 4443): echoes, answered by the router and the name server themselves and by others
//! where the host lets everybody send them (`net.ipv4.ping_group_range`), and errors to guests. Errors from outside do
//! not get in but as what the host's sockets make of them.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::time::{Duration, Instant};
use smoltcp::wire::{
    Icmpv4DstUnreachable, Icmpv4Message, Icmpv4Packet, Icmpv4Repr, Icmpv6DstUnreachable, Icmpv6Message,
    Icmpv6Packet, Icmpv6Repr, IpProtocol, Ipv4Repr, Ipv6Repr,
};

use super::addresses::{self, Destination};
use super::host::{Datagrams, Host, Key, is_idle};
use super::link::Link;
use super::packet::{Packet, ip_frame};

/// Pings of guests to outside at the most; one more ends the one that is quiet for the longest time.
const FLOWS: usize = 64;
/// After that a ping is forgotten.
const QUIET: Duration = Duration::from_secs(15);
/// Bytes of a packet that come back with an error.
const RETURNED: usize = 64;
/// Messages that are taken at a time.
const BATCH: usize = 32;
/// An echo's header.
const ECHO_HEADER: usize = 8;

/// Why a packet has not arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reason {
    /// There is no way to its destination.
    Host,
    /// Nobody is at that port.
    Port,
}

/// Tells a guest that its packet has not arrived.
pub(super) fn unreachable(link: &mut Link, packet: &Packet<'_>, reason: Reason) {
    let data = packet.payload.get(..RETURNED).unwrap_or(packet.payload);
    let addresses = (packet.source, packet.destination);
    error(link, addresses, packet.protocol, (packet.hop_limit, packet.payload.len()), data, reason);
}

/// The same for a datagram of UDP that has been sent earlier.
pub(super) fn unreachable_datagram(link: &mut Link, guest: SocketAddr, peer: SocketAddr, reason: Reason) {
    const LEN: u16 = 8;
    let mut header = [0; LEN as usize];
    header[..2].copy_from_slice(&guest.port().to_be_bytes());
    header[2..4].copy_from_slice(&peer.port().to_be_bytes());
    header[4..6].copy_from_slice(&LEN.to_be_bytes());
    error(link, (guest.ip(), peer.ip()), IpProtocol::Udp, (64, header.len()), &header, reason);
}

fn error(
    link: &mut Link,
    (guest, peer): (IpAddr, IpAddr),
    protocol: IpProtocol,
    (hop_limit, payload_len): (u8, usize),
    data: &[u8],
    reason: Reason,
) {
    // A port is missed by its host, a host by the router.
    let from = if reason == Reason::Port { peer } else { addresses::gateway_of(peer) };
    let checksums = ChecksumCapabilities::default();
    let frame = match (guest, peer, from) {
        (IpAddr::V4(src_addr), IpAddr::V4(dst_addr), _) => {
            let header = Ipv4Repr { src_addr, dst_addr, next_header: protocol, payload_len, hop_limit };
            let reason = match reason {
                Reason::Host => Icmpv4DstUnreachable::HostUnreachable,
                Reason::Port => Icmpv4DstUnreachable::PortUnreachable,
            };
            let message = Icmpv4Repr::DstUnreachable { reason, header, data };
            ip_frame((from, guest), IpProtocol::Icmp, 64, message.buffer_len(), |room| {
                message.emit(&mut Icmpv4Packet::new_unchecked(room), &checksums);
            })
        }
        (IpAddr::V6(src_addr), IpAddr::V6(dst_addr), IpAddr::V6(from6)) => {
            let header = Ipv6Repr { src_addr, dst_addr, next_header: protocol, payload_len, hop_limit };
            let reason = match reason {
                Reason::Host => Icmpv6DstUnreachable::AddrUnreachable,
                Reason::Port => Icmpv6DstUnreachable::PortUnreachable,
            };
            let message = Icmpv6Repr::DstUnreachable { reason, header, data };
            ip_frame((from, guest), IpProtocol::Icmpv6, 64, message.buffer_len(), |room| {
                message.emit(&from6, &src_addr, &mut Icmpv6Packet::new_unchecked(room), &checksums);
            })
        }
        _ => return,
    };
    link.send_packet(guest, frame);
}

/// The identifier of an echo request; `None` if `packet` is none or damaged.
fn request(packet: &Packet<'_>) -> Option<u16> {
    match (packet.source, packet.destination) {
        (IpAddr::V4(_), IpAddr::V4(_)) => {
            let message = Icmpv4Packet::new_checked(packet.payload).ok()?;
            let is = message.msg_type() == Icmpv4Message::EchoRequest && message.verify_checksum();
            is.then(|| message.echo_ident())
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let message = Icmpv6Packet::new_checked(packet.payload).ok()?;
            let is = message.msg_type() == Icmpv6Message::EchoRequest;
            (is && message.verify_checksum(&source, &destination)).then(|| message.echo_ident())
        }
        _ => None,
    }
}

/// Sends a guest an echo reply; of `message` what follows the header's identifier is taken.
fn reply(link: &mut Link, from: IpAddr, guest: IpAddr, identifier: u16, message: &[u8]) {
    let protocol = if guest.is_ipv4() { IpProtocol::Icmp } else { IpProtocol::Icmpv6 };
    let frame = ip_frame((from, guest), protocol, 64, message.len(), |room| {
        room.copy_from_slice(message);
        match (from, guest) {
            (IpAddr::V6(from), IpAddr::V6(guest)) => {
                let mut reply = Icmpv6Packet::new_unchecked(room);
                reply.set_msg_type(Icmpv6Message::EchoReply);
                reply.set_echo_ident(identifier);
                reply.fill_checksum(&from, &guest);
            }
            _ => {
                let mut reply = Icmpv4Packet::new_unchecked(room);
                reply.set_msg_type(Icmpv4Message::EchoReply);
                reply.set_echo_ident(identifier);
                reply.fill_checksum();
            }
        }
    });
    link.send_packet(guest, frame);
}

struct Flow<D> {
    guest: IpAddr,
    peer: IpAddr,
    identifier: u16,
    socket: D,
    used: Instant,
}

/// Echoes of guests to outside.
pub(super) struct Echo<D> {
    flows: HashMap<u64, Flow<D>>,
    next: u64,
    /// Whether it has been said that the host does not allow them.
    told: bool,
}

impl<D: Datagrams> Echo<D> {
    /// None yet.
    pub fn new() -> Self {
        Self { flows: HashMap::new(), next: 0, told: false }
    }

    /// Takes a packet from a guest.
    pub fn packet<H: Host<Datagrams = D>>(
        &mut self,
        now: Instant,
        host: &mut H,
        link: &mut Link,
        packet: &Packet<'_>,
    ) {
        let Some(identifier) = request(packet) else { return link.dropped.count() };
        let (guest, peer) = (packet.source, packet.destination);
        match addresses::destination(peer) {
            Destination::Gateway | Destination::Resolver => {
                reply(link, peer, guest, identifier, packet.payload);
            }
            Destination::Outside(_) => {
                let Some(number) = self.flow(now, host, (guest, peer, identifier)) else {
                    return link.dropped.count();
                };
                let Some(flow) = self.flows.get_mut(&number) else { return };
                flow.used = now;
                match flow.socket.send(packet.payload) {
                    Ok(_) => {}
                    Err(error) if is_idle(&error) => link.dropped.count(),
                    Err(_) => unreachable(link, packet, Reason::Host),
                }
            }
            Destination::Nowhere => link.dropped.count(),
        }
    }

    fn flow<H: Host<Datagrams = D>>(
        &mut self,
        now: Instant,
        host: &mut H,
        (guest, peer, identifier): (IpAddr, IpAddr, u16),
    ) -> Option<u64> {
        self.flows.retain(|_, flow| flow.used + QUIET > now);
        let same = |flow: &Flow<D>| (flow.guest, flow.peer, flow.identifier) == (guest, peer, identifier);
        if let Some((&number, _)) = self.flows.iter().find(|(_, flow)| same(flow)) {
            return Some(number);
        }
        if self.flows.len() >= FLOWS {
            let quiet = self.flows.iter().min_by_key(|(_, flow)| flow.used).map(|(number, _)| *number);
            quiet.and_then(|number| self.flows.remove(&number));
        }
        self.next += 1;
        match host.echo(peer, Key::Echo(self.next)) {
            Ok(socket) => {
                self.flows.insert(self.next, Flow { guest, peer, identifier, socket, used: now });
                Some(self.next)
            }
            Err(error) => {
                if !std::mem::replace(&mut self.told, true) {
                    tracing::info!(
                        %error,
                        "guests cannot ping outside: see net.ipv4.ping_group_range of the host"
                    );
                }
                None
            }
        }
    }

    /// The host has replies.
    pub fn ready(&mut self, now: Instant, link: &mut Link, number: u64) {
        let Some(flow) = self.flows.get_mut(&number) else { return };
        let mut data = [0; 2048];
        for _ in 0..BATCH {
            match flow.socket.receive(&mut data) {
                Ok(len) => {
                    flow.used = now;
                    match data.get(..len) {
                        Some(message) if len >= ECHO_HEADER => {
                            reply(link, flow.peer, flow.guest, flow.identifier, message);
                        }
                        _ => link.dropped.count(),
                    }
                }
                // An error is one of the peer or on the way, and told by what does not come.
                Err(_) => break,
            }
        }
    }

    /// Forgets what is quiet, and says when it wants to be asked again.
    pub fn poll(&mut self, now: Instant) -> Option<Instant> {
        self.flows.retain(|_, flow| flow.used + QUIET > now);
        self.flows.values().map(|flow| flow.used + QUIET).min()
    }
}
