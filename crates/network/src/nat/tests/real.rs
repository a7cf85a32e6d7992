//! Guests, the network's thread, and peers on the host's loopback.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use doorbell::Doorbell;
use rustix::event::epoll::EventFlags;
use smoltcp::socket::tcp::State;
use smoltcp::socket::{dhcpv4, icmp, udp};
use smoltcp::wire::{Icmpv4Packet, Icmpv4Repr, IpAddress, IpEndpoint};

use super::guest::{GATEWAY, Guest};
use crate::nat::host::{Host, Key, Sockets, is_idle};
use crate::nat::{Forward, Nat, NatSettings};
use crate::port::PortSettings;
use crate::switch::Switch;

const MIB: usize = 1 << 20;

fn start(settings: NatSettings) -> (Switch, Nat) {
    let switch = Switch::new();
    let port = switch.port(PortSettings::default()).unwrap();
    let nat = Nat::start(port, settings).unwrap();
    (switch, nat)
}

fn reachable() -> NatSettings {
    NatSettings { name: "test".to_owned(), host_reachable: true, ..NatSettings::default() }
}

/// A listener, and its port as the guest sees it.
fn listen() -> (TcpListener, (Ipv4Addr, u16)) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, (GATEWAY, port))
}

/// A port on which nobody listens.
fn free_port() -> u16 {
    listen().1.1
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at ^ at >> 8 ^ at >> 16) as u8).collect()
}

#[test]
fn a_guest_gets_an_address_and_reaches_the_router() {
    let (switch, _nat) = start(reachable());
    for (number, address) in [(1, [10, 0, 2, 15]), (2, [10, 0, 2, 16]), (1, [10, 0, 2, 15])] {
        let mut guest = Guest::new(&switch, number, false);
        let handle = guest.sockets.add(dhcpv4::Socket::new());
        guest.until("an address", |guest| {
            let socket = guest.sockets.get_mut::<dhcpv4::Socket>(handle);
            let Some(dhcpv4::Event::Configured(config)) = socket.poll() else { return false };
            assert_eq!(config.address.address(), Ipv4Addr::from(address));
            assert_eq!((config.address.prefix_len(), config.router), (24, Some(GATEWAY)));
            assert_eq!(config.dns_servers.as_slice(), [Ipv4Addr::new(10, 0, 2, 3)]);
            true
        });
        guest.set_address(address.into());
        let buffer = || icmp::PacketBuffer::new(vec![icmp::PacketMetadata::EMPTY; 4], vec![0; 4096]);
        let mut socket = icmp::Socket::new(buffer(), buffer());
        socket.bind(icmp::Endpoint::Ident(77)).unwrap();
        let handle = guest.sockets.add(socket);
        let request = Icmpv4Repr::EchoRequest { ident: 77, seq_no: 1, data: &[5; 600] };
        let socket = guest.sockets.get_mut::<icmp::Socket>(handle);
        let room = socket.send(request.buffer_len(), IpAddress::Ipv4(GATEWAY)).unwrap();
        request.emit(&mut Icmpv4Packet::new_unchecked(room), &Default::default());
        guest.until("a reply", |guest| {
            let Ok((data, from)) = guest.sockets.get_mut::<icmp::Socket>(handle).recv() else { return false };
            let reply = Icmpv4Packet::new_checked(data).unwrap();
            let reply = Icmpv4Repr::parse(&reply, &Default::default()).unwrap();
            assert_eq!(reply, Icmpv4Repr::EchoReply { ident: 77, seq_no: 1, data: &[5; 600] });
            assert_eq!(from, IpAddress::Ipv4(GATEWAY));
            true
        });
    }
}

#[test]
fn datagrams_come_back() {
    let (switch, _nat) = start(reachable());
    let peer = UdpSocket::bind("127.0.0.1:0").unwrap();
    let to = IpEndpoint::new(IpAddress::Ipv4(GATEWAY), peer.local_addr().unwrap().port());
    let mut guest = Guest::with_address(&switch, false);
    let buffer = || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; 8], vec![0; 8192]);
    let mut socket = udp::Socket::new(buffer(), buffer());
    socket.bind(5000).unwrap();
    let handle = guest.sockets.add(socket);
    peer.set_nonblocking(true).unwrap();
    for round in 0..3 {
        guest.sockets.get_mut::<udp::Socket>(handle).send_slice(&[round; 1000], to).unwrap();
        guest.until("a datagram back", |guest| {
            let mut data = [0; 2000];
            if let Ok((len, from)) = peer.recv_from(&mut data) {
                assert_eq!(peer.send_to(&data[..len], from).unwrap(), 1000);
            }
            let received = guest.sockets.get_mut::<udp::Socket>(handle).recv();
            received.is_ok_and(|(data, meta)| {
                assert_eq!((data, meta.endpoint), (&[round; 1000][..], to));
                true
            })
        });
    }
}

/// The guest sends what it gets back, changed nowhere.
fn echoes(offload: bool) -> (usize, usize) {
    let (switch, _nat) = start(reachable());
    let (listener, to) = listen();
    let peer = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        std::io::copy(&mut stream.try_clone().unwrap(), &mut stream).unwrap();
    });
    let mut guest = Guest::with_address(&switch, offload);
    let handle = guest.connect(to, 256 << 10);
    let (data, mut sent, mut received) = (pattern(MIB), 0, vec![]);
    guest.until("an echo", |guest| {
        let socket = guest.tcp(handle);
        if socket.can_send() && sent < data.len() {
            sent += socket.send_slice(&data[sent..]).unwrap();
        } else if sent == data.len() {
            socket.close();
        }
        guest.take(handle, &mut received);
        received.len() == data.len() && !guest.tcp(handle).may_recv()
    });
    assert!(received == data);
    peer.join().unwrap();
    guest.nic.large
}

#[test]
fn a_connection_carries_a_mebibyte_each_way() {
    let (received, sent) = echoes(false);
    assert!(received > 0 && sent == 0);
}

#[test]
fn a_connection_carries_a_mebibyte_each_way_in_frames_to_be_cut() {
    let (received, sent) = echoes(true);
    assert!(received > 0 && sent > 0);
}

#[test]
fn a_connection_that_the_host_refuses_is_refused() {
    let (switch, _nat) = start(reachable());
    let mut guest = Guest::with_address(&switch, false);
    let handle = guest.connect((GATEWAY, free_port()), 4096);
    guest.until("a refusal", |guest| guest.state(handle) == State::Closed);
}

#[test]
fn the_host_is_not_reached_unless_it_is_to_be() {
    let (switch, _nat) = start(NatSettings { host_reachable: false, ..reachable() });
    let (listener, to) = listen();
    let mut guest = Guest::with_address(&switch, false);
    let handle = guest.connect(to, 4096);
    guest.until("a refusal", |guest| guest.state(handle) == State::Closed);
    listener.set_nonblocking(true).unwrap();
    assert!(listener.accept().is_err());
}

#[test]
fn the_host_answers_after_the_guest_has_ended() {
    let (switch, _nat) = start(reachable());
    let (listener, to) = listen();
    let peer = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut data = vec![];
        stream.read_to_end(&mut data).unwrap();
        stream.write_all(&[&data[..], &pattern(300_000)].concat()).unwrap();
    });
    let mut guest = Guest::with_address(&switch, false);
    let handle = guest.connect(to, 65536);
    guest.until("a connection", |guest| guest.tcp(handle).may_send());
    guest.tcp(handle).send_slice(b"question").unwrap();
    guest.tcp(handle).close();
    let mut received = vec![];
    guest.until("an answer", |guest| {
        guest.take(handle, &mut received);
        !guest.tcp(handle).may_recv()
    });
    assert!(received == [&b"question"[..], &pattern(300_000)].concat());
    peer.join().unwrap();
}

#[test]
fn the_guest_answers_after_the_host_has_ended() {
    let (switch, _nat) = start(reachable());
    let (listener, to) = listen();
    let peer = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(b"question").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut data = vec![];
        stream.read_to_end(&mut data).unwrap();
        data
    });
    let mut guest = Guest::with_address(&switch, false);
    let handle = guest.connect(to, 65536);
    let mut received = vec![];
    guest.until("a question", |guest| {
        guest.take(handle, &mut received);
        guest.state(handle) == State::CloseWait
    });
    assert_eq!(received, b"question");
    let (data, mut sent) = (pattern(300_000), 0);
    guest.until("the end", |guest| {
        let socket = guest.tcp(handle);
        if socket.can_send() && sent < data.len() {
            sent += socket.send_slice(&data[sent..]).unwrap();
        } else if sent == data.len() {
            socket.close();
        }
        socket.state() == State::Closed
    });
    assert!(peer.join().unwrap() == data);
}

#[test]
fn resets_get_through_both_ways() {
    let (switch, _nat) = start(reachable());
    let (listener, to) = listen();
    let mut guest = Guest::with_address(&switch, false);
    let handle = guest.connect(to, 4096);
    guest.until("a connection", |guest| guest.tcp(handle).may_send());
    let (mut stream, _) = listener.accept().unwrap();
    guest.tcp(handle).abort();
    guest.until("the end", |guest| guest.state(handle) == State::Closed);
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    assert_eq!(stream.read(&mut [0; 8]).unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);

    let handle = guest.connect(to, 4096);
    guest.until("a connection", |guest| guest.tcp(handle).may_send());
    let (stream, _) = listener.accept().unwrap();
    rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).unwrap();
    drop(stream);
    guest.until("a reset", |guest| guest.state(handle) == State::Closed);
}

#[test]
fn forwarded_ports_lead_to_the_guest() {
    let (tcp, udp) = (free_port(), free_port());
    let forwards: Vec<Forward> =
        vec![format!("tcp::{tcp}-:22").parse().unwrap(), format!("udp::{udp}-:53").parse().unwrap()];
    let (switch, nat) = start(NatSettings { forwards: forwards.clone(), ..reachable() });
    let mut guest = Guest::with_address(&switch, false);
    let handle = guest.socket(65536);
    guest.tcp(handle).listen(22).unwrap();
    let client = thread::spawn(move || {
        let mut stream = TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], tcp))).unwrap();
        stream.write_all(b"hello").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut data = vec![];
        stream.read_to_end(&mut data).unwrap();
        data
    });
    let mut received = vec![];
    guest.until("a greeting", |guest| {
        guest.take(handle, &mut received);
        received == b"hello"
    });
    guest.tcp(handle).send_slice(b"good bye").unwrap();
    guest.tcp(handle).close();
    guest.until("the end", |guest| guest.state(handle) == State::Closed);
    assert_eq!(client.join().unwrap(), b"good bye");

    let buffer = || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; 8], vec![0; 8192]);
    let mut socket = udp::Socket::new(buffer(), buffer());
    socket.bind(53).unwrap();
    let handle = guest.sockets.add(socket);
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.set_nonblocking(true).unwrap();
    client.send_to(b"who?", ("127.0.0.1", udp)).unwrap();
    guest.until("an answer", |guest| {
        let socket = guest.sockets.get_mut::<udp::Socket>(handle);
        if let Ok((data, meta)) = socket.recv() {
            assert_eq!((data, meta.endpoint.addr), (&b"who?"[..], IpAddress::Ipv4(GATEWAY)));
            socket.send_slice(b"me", meta.endpoint).unwrap();
        }
        let mut data = [0; 8];
        client.recv(&mut data).is_ok_and(|len| data[..len] == *b"me")
    });

    let taken =
        Nat::start(switch.port(PortSettings::default()).unwrap(), NatSettings { forwards, ..reachable() });
    let error = taken.err().unwrap().to_string();
    assert!(error.contains(&format!("127.0.0.1:{tcp}")), "{error}");
    drop(nat);
    assert!(TcpListener::bind(("127.0.0.1", tcp)).is_ok());
}

/// Sends back what comes, on any number of connections, in one thread. `stop` ends it.
fn echo_server(listener: TcpListener, stop: Arc<Doorbell>) {
    let mut sockets = Sockets::new().unwrap();
    listener.set_nonblocking(true).unwrap();
    let flags = EventFlags::IN;
    sockets.watch(listener.as_fd(), Key::Port, flags).unwrap();
    sockets.watch(stop.as_fd(), Key::Stop, flags).unwrap();
    let (mut streams, mut events, mut next) = (HashMap::new(), vec![], 0);
    loop {
        sockets.wait(None, &mut events).unwrap();
        for event in events.drain(..) {
            match event.key {
                Key::Stop => return,
                Key::Port => {
                    while let Ok(stream) = sockets.accept(&listener, Key::Tcp(next)) {
                        streams.insert(next, stream);
                        next += 1;
                    }
                }
                Key::Tcp(number) => {
                    let mut data = [0; 4096];
                    let Some(stream) = streams.get_mut(&number) else { continue };
                    loop {
                        match Read::read(stream, &mut data) {
                            Ok(0) => {
                                streams.remove(&number);
                                break;
                            }
                            Ok(len) => Write::write_all(stream, &data[..len]).unwrap(),
                            Err(error) => {
                                assert!(is_idle(&error), "{error}");
                                break;
                            }
                        }
                    }
                }
                key => panic!("{key:?}"),
            }
        }
    }
}

#[test]
fn many_connections_are_open_at_once() {
    const COUNT: usize = 2000;
    let (switch, nat) = start(reachable());
    let (listener, to) = listen();
    let stop = Arc::new(Doorbell::new().unwrap());
    let server = {
        let stop = Arc::clone(&stop);
        thread::spawn(move || echo_server(listener, stop))
    };
    let mut guest = Guest::with_address(&switch, false);
    let mut handles = vec![];
    for batch in 0..COUNT / 100 {
        handles.extend((0..100).map(|_| guest.connect(to, 2048)));
        let new = handles[batch * 100..].to_vec();
        guest.until("connections", |guest| new.iter().all(|handle| guest.tcp(*handle).may_send()));
    }
    for (number, handle) in handles.iter().enumerate() {
        guest.tcp(*handle).send_slice(&number.to_le_bytes()).unwrap();
    }
    guest.until("echoes", |guest| handles.iter().all(|handle| guest.tcp(*handle).recv_queue() == 8));
    for (number, handle) in handles.iter().enumerate() {
        let mut data = [0; 8];
        assert_eq!(guest.tcp(*handle).recv_slice(&mut data), Ok(8));
        assert_eq!(data, number.to_le_bytes());
        guest.tcp(*handle).close();
    }
    guest.until("the end", |guest| {
        handles.iter().all(|handle| matches!(guest.state(*handle), State::TimeWait | State::Closed))
    });
    drop(nat);
    stop.ring();
    server.join().unwrap();
}

/// What it costs.
#[test]
#[ignore = "a measurement: cargo test --release -p network times -- --ignored --nocapture"]
fn times() {
    const LEN: usize = 256 * MIB;
    for offload in [false, true] {
        let (switch, _nat) = start(reachable());
        let (listener, to) = listen();
        let peer = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut data = vec![0; MIB];
            let mut received = 0;
            while received < LEN {
                received += stream.read(&mut data).unwrap();
            }
            for _ in 0..LEN / MIB {
                stream.write_all(&data).unwrap();
            }
        });
        let mut guest = Guest::with_address(&switch, offload);
        let handle = guest.connect(to, MIB);
        guest.until("a connection", |guest| guest.tcp(handle).may_send());
        let (data, mut sent, mut received) = (vec![1; MIB], 0, 0);
        let begin = Instant::now();
        guest.until("all sent", |guest| {
            while sent < LEN && guest.tcp(handle).can_send() {
                let left = data.len().min(LEN - sent);
                sent += guest.tcp(handle).send_slice(&data[..left]).unwrap();
            }
            sent >= LEN && guest.tcp(handle).send_queue() == 0
        });
        let up = begin.elapsed();
        let begin = Instant::now();
        guest.until("all received", |guest| {
            while guest.tcp(handle).can_recv() {
                received += guest.tcp(handle).recv(|data| (data.len(), data.len())).unwrap();
            }
            received >= LEN
        });
        let down = begin.elapsed();
        let rate = |time: Duration| LEN as f64 / time.as_secs_f64() / 1e6;
        println!("offload {offload}: {:.0} MB/s to the host, {:.0} MB/s from it", rate(up), rate(down));
        peer.join().unwrap();
    }
}
