//! The network as a whole: what becomes of a guest's frame, and of an event of the host.

use std::io;
use std::net::Ipv4Addr;

use smoltcp::time::Instant;
use smoltcp::wire::IpProtocol;

use super::NatSettings;
use super::addresses::{self, BROADCAST, GATEWAY, MAC};
use super::dhcp::{self, Leases};
use super::forward::{self, Listeners};
use super::fragments::{self, Outcome, Reassembly};
use super::host::{Event, Host, Key};
use super::icmp::Echo;
use super::link::{Link, Output};
use super::ndp;
use super::packet::{ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Packet, ethertype, udp_frame};
use super::tcp::Tcp;
use super::udp::Udp;
use crate::frame::{Frame, Mac};

/// The network behind the port.
pub(super) struct Network<H: Host> {
    host: H,
    host_reachable: bool,
    link: Link,
    reassembly: Reassembly,
    leases: Leases,
    echo: Echo<H::Datagrams>,
    udp: Udp<H::Datagrams>,
    tcp: Tcp<H::Stream>,
    listeners: Listeners<H::Listener>,
}

/// What a packet is about.
enum Concern {
    Dhcp,
    Neighbours,
    Tcp,
    Udp,
    Echo,
    /// A group of which the router is no member.
    Nobody,
    /// Whatever it is, it cannot be carried.
    Unknown,
}

impl<H: Host> Network<H> {
    /// A network that nobody has used yet, whose frames go to `output`. `seed` is not to be guessed.
    ///
    /// # Errors
    /// When a port of the host cannot be forwarded.
    pub fn new(mut host: H, settings: &NatSettings, seed: u64, output: Output) -> io::Result<Self> {
        let (listeners, sockets) = forward::open(&mut host, &settings.forwards)?;
        Ok(Self {
            host,
            host_reachable: settings.host_reachable,
            link: Link::new(settings.dropped.clone(), output),
            reassembly: Reassembly::new(),
            leases: Leases::new(settings.hostname.clone()),
            echo: Echo::new(),
            udp: Udp::new(sockets),
            tcp: Tcp::new(seed),
            listeners: Listeners::new(listeners),
        })
    }

    /// The host's side.
    pub fn host(&mut self) -> &mut H {
        &mut self.host
    }

    #[cfg(any(test, feature = "fuzzing"))]
    /// Connections of TCP and flows of UDP that there are.
    pub fn flows(&self) -> (usize, usize) {
        (self.tcp.len(), self.udp.len())
    }

    /// Takes a frame from the guests' side.
    pub fn frame(&mut self, now: Instant, frame: Frame) {
        let Some(mac) = frame.source() else { return self.link.dropped.count() };
        let Some(to) = frame.destination().filter(|to| *to == MAC || to.is_group()) else {
            // The switch did not know yet where another guest is.
            return;
        };
        match ethertype(&frame.data) {
            Some(ETHERTYPE_ARP) => self.link.arp(&frame),
            Some(ETHERTYPE_IPV4 | ETHERTYPE_IPV6) if fragments::is(&frame) => {
                match self.reassembly.take(now, &frame) {
                    Outcome::Whole(frame) => self.packet(now, mac, to, frame),
                    Outcome::Kept(given_up) => (0..given_up).for_each(|_| self.link.dropped.count()),
                    Outcome::Refused => self.link.dropped.count(),
                }
            }
            Some(ETHERTYPE_IPV4 | ETHERTYPE_IPV6) => self.packet(now, mac, to, frame),
            _ => self.link.dropped.count(),
        }
    }

    fn packet(&mut self, now: Instant, mac: Mac, to: Mac, frame: Frame) {
        let Some(packet) = Packet::parse(&frame) else { return self.link.dropped.count() };
        let concern = concern(&packet, to);
        if addresses::is_guest(packet.source) {
            self.link.learn(packet.source, mac);
        } else if !matches!(concern, Concern::Dhcp | Concern::Neighbours | Concern::Nobody) {
            return self.link.dropped.count();
        }
        let Self { host, link, host_reachable, .. } = self;
        match concern {
            Concern::Dhcp => self.dhcp(mac, &packet),
            Concern::Neighbours => ndp::packet(link, mac, &packet),
            Concern::Tcp => self.tcp.frame(now, host, link, *host_reachable, frame),
            Concern::Udp => self.udp.packet(now, host, link, *host_reachable, &packet),
            Concern::Echo => self.echo.packet(now, host, link, &packet),
            Concern::Nobody => {}
            Concern::Unknown => link.dropped.count(),
        }
    }

    fn dhcp(&mut self, mac: Mac, packet: &Packet<'_>) {
        let answer = packet.udp().and_then(|datagram| self.leases.answer(mac, datagram.payload()));
        let Some(answer) = answer else { return self.link.dropped.count() };
        let from = (GATEWAY, dhcp::SERVER_PORT).into();
        let data = udp_frame(from, (answer.to, dhcp::CLIENT_PORT).into(), &answer.data);
        self.link.send_to(answer.mac, ETHERTYPE_IPV4, Frame::new(data));
    }

    /// Something can be done on the host's side.
    pub fn event(&mut self, now: Instant, event: Event) {
        match event.key {
            Key::Tcp(number) => self.tcp.ready(number, event.readable, event.writable),
            Key::Udp(number) => self.udp.ready(now, &mut self.host, &mut self.link, number),
            Key::Echo(number) => self.echo.ready(now, &mut self.link, number),
            Key::Listener(index) => self.listeners.ready(index),
            Key::Forward(index) => self.udp.forward(now, &mut self.link, index),
            Key::Port | Key::Stop => {}
        }
    }

    /// Carries on whatever can be carried on, and says when it wants to be asked again.
    pub fn poll(&mut self, now: Instant) -> Option<Instant> {
        let Self { host, link, tcp, udp, echo, listeners, .. } = self;
        let times =
            [listeners.poll(now, host, link, tcp), tcp.poll(now, link), udp.poll(now), echo.poll(now)];
        times.into_iter().flatten().min()
    }
}

fn concern(packet: &Packet<'_>, to: Mac) -> Concern {
    let port = || packet.payload.get(2..)?.first_chunk().copied().map(u16::from_be_bytes);
    let is_dhcp = packet.protocol == IpProtocol::Udp && port() == Some(dhcp::SERVER_PORT);
    match packet.destination {
        std::net::IpAddr::V4(Ipv4Addr::BROADCAST | BROADCAST | GATEWAY) if is_dhcp => Concern::Dhcp,
        std::net::IpAddr::V6(_) if ndp::is(packet) => Concern::Neighbours,
        // Only the router can be meant by what everybody gets.
        _ if to != MAC => Concern::Nobody,
        destination if destination.is_multicast() => Concern::Nobody,
        destination => match (packet.protocol, destination) {
            (IpProtocol::Tcp, _) => Concern::Tcp,
            (IpProtocol::Udp, _) => Concern::Udp,
            (IpProtocol::Icmp, std::net::IpAddr::V4(_)) => Concern::Echo,
            (IpProtocol::Icmpv6, std::net::IpAddr::V6(_)) => Concern::Echo,
            _ => Concern::Unknown,
        },
    }
}
