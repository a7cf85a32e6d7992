//! The network with a host that is none, and with a clock that goes as it is told.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use counters::Counter;
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::socket::{tcp::State, udp};
use smoltcp::time::{Duration, Instant};
use smoltcp::wire::{
    Icmpv4Message, Icmpv4Packet, Icmpv6Packet, Icmpv6Repr, IpAddress, IpCidr, IpEndpoint, IpProtocol,
    NdiscRepr, TcpControl, TcpPacket, TcpRepr, TcpSeqNumber,
};

use super::guest::{ADDRESS, GATEWAY, Guest};
use crate::frame::{Frame, HEADER, Mac};
use crate::nat::NatSettings;
use crate::nat::addresses::MAC;
use crate::nat::fake::FakeHost;
use crate::nat::fragments;
use crate::nat::host::{Event, Key};
use crate::nat::network::Network;
use crate::nat::packet::{ETHERTYPE_IPV4, Packet, ethertype_of, ip_frame, udp_frame};
use crate::port::{Port, PortSettings};
use crate::switch::Switch;

/// Somebody who sends back what it gets; who does not answer; who refuses; to whom there is no way.
const ECHO: (Ipv4Addr, u16) = (Ipv4Addr::new(1, 2, 3, 4), 400);
const REFUSES_LATER: (Ipv4Addr, u16) = (Ipv4Addr::new(1, 2, 3, 4), 401);
const REFUSES: (Ipv4Addr, u16) = (Ipv4Addr::new(1, 2, 3, 4), 402);
const UNREACHABLE: (Ipv4Addr, u16) = (Ipv4Addr::new(1, 2, 3, 4), 403);

struct Lab {
    switch: Switch,
    network: Network<FakeHost>,
    port: Arc<Port>,
    now: Instant,
    dropped: Counter,
    keys: Vec<Key>,
}

impl Lab {
    fn new(forwards: &[&str]) -> Self {
        let switch = Switch::new();
        let port = Arc::new(switch.port(PortSettings::default()).unwrap());
        let output = Arc::clone(&port);
        let forwards = forwards.iter().map(|forward| forward.parse().unwrap()).collect();
        let settings = NatSettings { host_reachable: true, forwards, ..NatSettings::default() };
        let dropped = settings.dropped.clone();
        let network = Network::new(
            FakeHost::default(),
            &settings,
            1,
            Box::new(move |frame| {
                output.send(frame);
            }),
        )
        .unwrap();
        Self { switch, network, port, now: Instant::ZERO, dropped, keys: vec![] }
    }

    /// Carries on what can be, for `time`. Whatever the host has is said to be ready when `ready`.
    fn step(&mut self, time: Duration, ready: bool) {
        while let Some(frame) = self.port.receive() {
            self.network.frame(self.now, frame);
        }
        self.keys.append(&mut self.network.host().keys);
        for key in self.keys.iter().filter(|_| ready) {
            self.network.event(self.now, Event { key: *key, readable: true, writable: true });
        }
        self.network.poll(self.now);
        self.now += time;
    }

    fn until(&mut self, guest: &mut Guest, what: &str, mut done: impl FnMut(&mut Guest) -> bool) {
        for _ in 0..2000 {
            guest.interface.poll(self.now, &mut guest.nic, &mut guest.sockets);
            if done(guest) {
                return;
            }
            self.step(Duration::from_millis(1), true);
        }
        panic!("{what} does not come");
    }

    fn open(&mut self) -> usize {
        self.network.host().open.load(Ordering::Relaxed)
    }
}

fn from_guest(mut data: Vec<u8>) -> Frame {
    data[..6].copy_from_slice(&MAC.0);
    data[6..12].copy_from_slice(&[0, 0x15, 0x5d, 0, 0, 9]);
    data[12..14].copy_from_slice(&ETHERTYPE_IPV4.to_be_bytes());
    Frame::new(data)
}

fn segment(from: u16, to: (Ipv4Addr, u16), control: TcpControl, ack: Option<TcpSeqNumber>) -> Frame {
    let segment = TcpRepr {
        src_port: from,
        dst_port: to.1,
        control,
        seq_number: TcpSeqNumber(1000),
        ack_number: ack,
        window_len: 8192,
        window_scale: None,
        max_seg_size: Some(1460),
        sack_permitted: false,
        sack_ranges: [None; 3],
        timestamp: None,
        payload: &[],
    };
    let (guest, peer) = (IpAddr::V4(ADDRESS), IpAddr::V4(to.0));
    from_guest(ip_frame((guest, peer), IpProtocol::Tcp, 64, segment.buffer_len(), |room| {
        let room = &mut TcpPacket::new_unchecked(room);
        segment.emit(room, &guest.into(), &peer.into(), &ChecksumCapabilities::default());
    }))
}

fn icmp_of(frame: &Frame) -> Option<(Icmpv4Message, u8)> {
    let ip = frame.data.get(HEADER..).filter(|ip| ip.first() == Some(&0x45) && ip[9] == 1)?;
    let message = Icmpv4Packet::new_checked(&ip[20..]).unwrap();
    assert!(message.verify_checksum());
    Some((message.msg_type(), message.msg_code()))
}

#[test]
fn what_became_of_a_connection_is_what_the_guest_is_told() {
    let mut lab = Lab::new(&[]);
    let mut guest = Guest::with_address(&lab.switch, false);
    for to in [REFUSES, REFUSES_LATER] {
        let handle = guest.connect(to, 4096);
        lab.until(&mut guest, "a refusal", |guest| guest.state(handle) == State::Closed);
    }
    let raw = lab.switch.port(PortSettings::default()).unwrap();
    raw.send(segment(77, UNREACHABLE, TcpControl::Syn, None));
    lab.step(Duration::from_millis(1), true);
    let answer = raw.receive().and_then(|frame| icmp_of(&frame));
    assert_eq!(answer, Some((Icmpv4Message::DstUnreachable, 1)));
    assert_eq!((lab.network.flows(), lab.open()), ((0, 0), 0));
}

#[test]
fn a_syn_waits_for_the_host() {
    let mut lab = Lab::new(&[]);
    let raw = lab.switch.port(PortSettings::default()).unwrap();
    for _ in 0..3 {
        raw.send(segment(77, ECHO, TcpControl::Syn, None));
        lab.step(Duration::from_secs(1), false);
    }
    assert_eq!((raw.receive(), lab.network.flows().0, lab.open()), (None, 1, 1));
    lab.step(Duration::from_millis(1), true);
    let answer = raw.receive().unwrap();
    let answer = TcpPacket::new_checked(&answer.data[HEADER + 20..]).unwrap();
    assert!(answer.syn() && answer.ack());
    assert_eq!(answer.options().len(), 4, "the MSS alone");
}

#[test]
fn a_flood_of_syns_holds_no_more_than_it_may_and_not_for_long() {
    let mut lab = Lab::new(&[]);
    let raw = lab.switch.port(PortSettings::default()).unwrap();
    for port in 1..=3000 {
        raw.send(segment(port, ECHO, TcpControl::Syn, None));
        lab.step(Duration::from_micros(10), false);
    }
    assert_eq!((lab.network.flows().0, lab.dropped.value()), (1024, 3000 - 1024));
    // Answered now, and never heard of again.
    lab.step(Duration::from_secs(31), true);
    lab.step(Duration::from_secs(31), true);
    lab.step(Duration::from_secs(31), true);
    assert_eq!((lab.network.flows().0, lab.open()), (0, 0));
    let mut guest = Guest::with_address(&lab.switch, false);
    let handle = guest.connect(ECHO, 4096);
    lab.until(&mut guest, "a connection", |guest| guest.tcp(handle).may_send());
}

#[test]
fn a_host_that_never_answers_is_given_up() {
    let mut lab = Lab::new(&[]);
    let raw = lab.switch.port(PortSettings::default()).unwrap();
    raw.send(segment(77, ECHO, TcpControl::Syn, None));
    lab.step(Duration::from_secs(74), false);
    assert_eq!(lab.network.flows().0, 1);
    lab.step(Duration::from_secs(2), false);
    lab.step(Duration::from_secs(2), false);
    assert_eq!((lab.network.flows().0, lab.open()), (0, 0));
}

#[test]
fn thousands_of_connections_leave_nothing_behind() {
    let mut lab = Lab::new(&[]);
    let mut guest = Guest::with_address(&lab.switch, false);
    for round in 0..3000 {
        let handle = guest.connect(ECHO, 4096);
        lab.until(&mut guest, "a connection", |guest| guest.tcp(handle).may_send());
        guest.tcp(handle).send_slice(b"hello").unwrap();
        if round % 2 == 0 {
            guest.tcp(handle).close();
            let mut received = vec![];
            lab.until(&mut guest, "an echo", |guest| {
                guest.take(handle, &mut received);
                !guest.tcp(handle).may_recv()
            });
            assert_eq!(received, b"hello");
        } else {
            guest.tcp(handle).abort();
            lab.until(&mut guest, "the end", |guest| guest.state(handle) == State::Closed);
        }
        lab.until(&mut guest, "the end", |_| true);
        guest.sockets.remove(handle);
        lab.step(Duration::from_millis(1), true);
        lab.keys.clear();
    }
    // The guest has forgotten some before it has acknowledged their ends.
    for _ in 0..40 {
        guest.interface.poll(lab.now, &mut guest.nic, &mut guest.sockets);
        lab.step(Duration::from_millis(100), true);
    }
    assert_eq!((lab.network.flows(), lab.open()), ((0, 0), 0));
}

#[test]
fn a_segment_of_no_connection_is_reset() {
    let mut lab = Lab::new(&[]);
    let raw = lab.switch.port(PortSettings::default()).unwrap();
    raw.send(segment(77, ECHO, TcpControl::None, Some(TcpSeqNumber(5))));
    lab.step(Duration::from_millis(1), true);
    let answer = raw.receive().unwrap();
    let answer = TcpPacket::new_checked(&answer.data[HEADER + 20..]).unwrap();
    assert!(answer.rst());
    assert_eq!(answer.seq_number(), TcpSeqNumber(5));
    raw.send(segment(77, ECHO, TcpControl::Rst, None));
    lab.step(Duration::from_millis(1), true);
    assert_eq!(raw.receive(), None);
}

#[test]
fn an_idle_connection_stays_and_that_of_a_guest_that_is_gone_does_not() {
    let mut lab = Lab::new(&[]);
    let mut guest = Guest::with_address(&lab.switch, false);
    let handle = guest.connect(ECHO, 4096);
    lab.until(&mut guest, "a connection", |guest| guest.tcp(handle).may_send());
    for _ in 0..4000 {
        guest.interface.poll(lab.now, &mut guest.nic, &mut guest.sockets);
        lab.step(Duration::from_secs(2), true);
    }
    assert_eq!(lab.network.flows().0, 1);
    for _ in 0..600 {
        lab.step(Duration::from_secs(2), true);
    }
    assert_eq!((lab.network.flows().0, lab.open()), (0, 0));
}

#[test]
fn a_guest_that_does_not_read_stops_the_peer() {
    let mut lab = Lab::new(&[]);
    let mut guest = Guest::with_address(&lab.switch, false);
    let handle = guest.connect(ECHO, 16384);
    let mut sent = 0;
    for _ in 0..3000 {
        guest.interface.poll(lab.now, &mut guest.nic, &mut guest.sockets);
        let socket = guest.tcp(handle);
        if socket.can_send() {
            sent += socket.send_slice(&[3; 8192]).unwrap();
        }
        lab.step(Duration::from_millis(1), true);
    }
    // Two buffers here, two of the guest, and the peer's.
    assert!(sent > 1 << 20 && sent < (1 << 20) + (100 << 10), "{sent}");
    let mut received = vec![];
    lab.until(&mut guest, "all of it", |guest| {
        guest.take(handle, &mut received);
        received.len() == sent
    });
}

#[test]
fn names_are_asked_for_at_the_hosts_name_server() {
    let mut lab = Lab::new(&[]);
    let raw = lab.switch.port(PortSettings::default()).unwrap();
    let (guest, dns): (SocketAddr, SocketAddr) =
        ((ADDRESS, 999).into(), (Ipv4Addr::new(10, 0, 2, 3), 53).into());
    raw.send(from_guest(udp_frame(guest, dns, b"name?")));
    lab.step(Duration::from_millis(1), true);
    lab.step(Duration::from_millis(1), true);
    let answer = raw.receive().unwrap();
    assert_eq!(answer.data[HEADER..], udp_frame(dns, guest, b"name?")[HEADER..]);
    assert_eq!(lab.network.flows().1, 1);
    lab.step(Duration::from_secs(20), true);
    lab.step(Duration::from_secs(5), true);
    lab.step(Duration::from_secs(5), true);
    assert_eq!((lab.network.flows().1, lab.open()), (0, 0));
}

#[test]
fn a_name_server_that_does_not_answer_is_left_for_the_next() {
    let mut lab = Lab::new(&[]);
    let raw = lab.switch.port(PortSettings::default()).unwrap();
    let dns: SocketAddr = (Ipv4Addr::new(10, 0, 2, 3), 53).into();
    let ask = |lab: &mut Lab, port: u16, answers: bool| {
        raw.send(from_guest(udp_frame((ADDRESS, port).into(), dns, b"name?")));
        lab.step(Duration::from_millis(500), false);
        lab.step(Duration::from_millis(500), answers);
        (lab.network.host().next_resolver, std::iter::from_fn(|| raw.receive()).count() > 0)
    };
    assert_eq!(ask(&mut lab, 1, true), (0, true));
    // The first answer was late; later questions are answered.
    assert_eq!(ask(&mut lab, 2, false), (0, false));
    assert_eq!(ask(&mut lab, 3, true), (0, true));
    // It is silent for two seconds, after which the same and other sockets ask the next.
    assert_eq!(ask(&mut lab, 3, false), (0, false));
    assert_eq!(ask(&mut lab, 3, false), (0, false));
    assert_eq!(ask(&mut lab, 3, true), (1, true));
    assert_eq!(ask(&mut lab, 4, true), (1, true));
}

#[test]
fn flows_are_bounded_and_the_oldest_goes() {
    let mut lab = Lab::new(&[]);
    let raw = lab.switch.port(PortSettings::default()).unwrap();
    for port in 1..=2000 {
        raw.send(from_guest(udp_frame((ADDRESS, port).into(), ECHO.into(), b"x")));
        lab.step(Duration::from_micros(10), false);
    }
    assert_eq!((lab.network.flows().1, lab.open()), (1024, 1024));
}

#[test]
fn datagrams_that_arrive_nowhere_are_answered_with_an_error() {
    let mut lab = Lab::new(&[]);
    let raw = lab.switch.port(PortSettings::default()).unwrap();
    for (to, code) in [(UNREACHABLE, 1), ((Ipv4Addr::new(10, 0, 2, 3), 54), 3)] {
        raw.send(from_guest(udp_frame((ADDRESS, 5).into(), to.into(), b"x")));
        lab.step(Duration::from_millis(1), false);
        let answer = raw.receive().and_then(|frame| icmp_of(&frame));
        assert_eq!(answer, Some((Icmpv4Message::DstUnreachable, code)));
    }
}

#[test]
fn a_long_datagram_comes_and_goes_in_fragments() {
    let mut lab = Lab::new(&[]);
    let raw = lab.switch.port(PortSettings::default()).unwrap();
    let guest6: Ipv6Addr = "fd00::15".parse().unwrap();
    let there6: Ipv6Addr = "2001:db8::1".parse().unwrap();
    let pairs: [(SocketAddr, SocketAddr); 2] =
        [((ADDRESS, 5).into(), ECHO.into()), ((guest6, 5).into(), (there6, ECHO.1).into())];
    for (guest, peer) in pairs {
        for piece in fragments::cut(udp_frame(guest, peer, &[7; 4000]), 1) {
            let mut frame = from_guest(piece);
            frame.data[12..14].copy_from_slice(&ethertype_of(peer.ip()).to_be_bytes());
            raw.send(frame);
        }
        lab.step(Duration::from_millis(1), true);
        lab.step(Duration::from_millis(1), true);
        let answer: Vec<_> = std::iter::from_fn(|| raw.receive()).filter(fragments::is).collect();
        assert_eq!(answer.len(), 3);
        let mut reassembly = fragments::Reassembly::new();
        let whole = answer.iter().find_map(|piece| match reassembly.take(lab.now, piece) {
            fragments::Outcome::Whole(frame) => Some(frame),
            _ => None,
        });
        let whole = whole.unwrap();
        assert_eq!(Packet::parse(&whole).unwrap().udp().unwrap().payload(), [7; 4000]);
    }
    assert_eq!(lab.dropped.value(), 0);
}

#[test]
fn what_is_forwarded_waits_until_the_guest_is_known() {
    // The listener has as many connections as its port's number.
    let mut lab = Lab::new(&["tcp::3-:22"]);
    let mut guest = Guest::with_address(&lab.switch, false);
    let handles: Vec<_> = (0..3).map(|_| guest.socket(4096)).collect();
    for handle in &handles {
        guest.tcp(*handle).listen(22).unwrap();
    }
    lab.until(&mut guest, "connections", |guest| handles.iter().all(|handle| guest.tcp(*handle).may_send()));
    assert_eq!(lab.network.flows().0, 3);
    assert_eq!(lab.dropped.value(), 0);
}

#[test]
fn a_forwarded_connection_to_nobody_is_given_up() {
    let mut lab = Lab::new(&["tcp::3-:22"]);
    lab.step(Duration::from_millis(1), true);
    assert_eq!((lab.network.flows().0, lab.open()), (3, 3));
    for _ in 0..40 {
        lab.step(Duration::from_secs(1), true);
    }
    assert_eq!((lab.network.flows().0, lab.open()), (0, 0));
}

#[test]
fn addresses_that_no_guest_may_have_send_nothing() {
    let mut lab = Lab::new(&[]);
    let raw = lab.switch.port(PortSettings::default()).unwrap();
    for from in [[10, 0, 2, 2], [1, 2, 3, 4], [10, 0, 2, 255], [0, 0, 0, 0]] {
        raw.send(from_guest(udp_frame((from, 5).into(), ECHO.into(), b"x")));
    }
    lab.step(Duration::from_millis(1), true);
    assert_eq!((lab.network.flows().1, lab.dropped.value()), (0, 4));
}

#[test]
fn the_router_says_where_it_is_and_nobody_else_is() {
    let lab = Lab::new(&[]);
    let mut guest = Guest::with_address(&lab.switch, false);
    let mut lab = lab;
    let buffer = || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; 8], vec![0; 8192]);
    let mut socket = udp::Socket::new(buffer(), buffer());
    socket.bind(5000).unwrap();
    let handle = guest.sockets.add(socket);
    let to = IpEndpoint::new(IpAddress::Ipv4(GATEWAY), 400);
    guest.sockets.get_mut::<udp::Socket>(handle).send_slice(b"x", to).unwrap();
    lab.until(&mut guest, "an echo", |guest| guest.sockets.get_mut::<udp::Socket>(handle).recv().is_ok());
    let nobody = IpEndpoint::new(IpAddress::Ipv4(Ipv4Addr::new(10, 0, 2, 77)), 400);
    guest.sockets.get_mut::<udp::Socket>(handle).send_slice(b"x", nobody).unwrap();
    for _ in 0..10 {
        guest.interface.poll(lab.now, &mut guest.nic, &mut guest.sockets);
        lab.step(Duration::from_millis(500), true);
    }
    assert!(guest.sockets.get_mut::<udp::Socket>(handle).recv().is_err());
    assert!(guest.nic.port.receive().is_none_or(|frame| frame.source() == Some(Mac(MAC.0))));
}

#[test]
fn ipv6_is_carried_as_ipv4_is() {
    let mut lab = Lab::new(&[]);
    let mut guest = Guest::with_address(&lab.switch, false);
    let address = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0x15);
    guest.interface.update_ip_addrs(|addresses| {
        addresses.push(IpCidr::new(IpAddress::Ipv6(address), 64)).unwrap();
    });
    guest.interface.routes_mut().add_default_ipv6_route(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 2)).unwrap();
    let there = IpAddress::Ipv6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1));

    let buffer = || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; 8], vec![0; 8192]);
    let mut socket = udp::Socket::new(buffer(), buffer());
    socket.bind(5000).unwrap();
    let handle = guest.sockets.add(socket);
    guest.sockets.get_mut::<udp::Socket>(handle).send_slice(b"x", IpEndpoint::new(there, 400)).unwrap();
    lab.until(&mut guest, "an echo", |guest| {
        let received = guest.sockets.get_mut::<udp::Socket>(handle).recv();
        received.is_ok_and(|(data, meta)| (data, meta.endpoint.addr) == (b"x", there))
    });

    for (port, state) in [(400, State::Established), (402, State::Closed)] {
        let handle = guest.socket(4096);
        let socket = guest.sockets.get_mut::<smoltcp::socket::tcp::Socket>(handle);
        socket.connect(guest.interface.context(), (there, port), 6000).unwrap();
        lab.until(&mut guest, "an answer", |guest| guest.state(handle) == state);
        if state == State::Established {
            guest.tcp(handle).send_slice(b"hello").unwrap();
            let mut received = vec![];
            lab.until(&mut guest, "an echo", |guest| {
                guest.take(handle, &mut received);
                received == b"hello"
            });
        }
    }
}

#[test]
fn a_router_is_advertised_to_who_asks() {
    let mut lab = Lab::new(&[]);
    let raw = lab.switch.port(PortSettings::default()).unwrap();
    let (from, to) = (Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 9), Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2));
    let message = Icmpv6Repr::Ndisc(NdiscRepr::RouterSolicit { lladdr: None });
    let data = ip_frame((from.into(), to.into()), IpProtocol::Icmpv6, 255, message.buffer_len(), |room| {
        let room = &mut Icmpv6Packet::new_unchecked(room);
        message.emit(&from, &to, room, &ChecksumCapabilities::default());
    });
    let mut frame = from_guest(data);
    frame.data[..6].copy_from_slice(&[0x33, 0x33, 0, 0, 0, 2]);
    frame.data[12..14].copy_from_slice(&[0x86, 0xdd]);
    raw.send(frame);
    lab.step(Duration::from_millis(1), true);
    let answer = raw.receive().unwrap();
    assert_eq!(answer.destination(), Some(Mac([0, 0x15, 0x5d, 0, 0, 9])));
    let router = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 2);
    let message = Icmpv6Packet::new_checked(&answer.data[HEADER + 40..]).unwrap();
    let message = Icmpv6Repr::parse(&router, &from, &message, &ChecksumCapabilities::default()).unwrap();
    let Icmpv6Repr::Ndisc(NdiscRepr::RouterAdvert { prefix_info: Some(prefix), .. }) = message else {
        panic!("{message:?}")
    };
    assert_eq!((prefix.prefix.to_string().as_str(), prefix.prefix_len), ("fd00::", 64));
}
