//! Connections on a bus, with a guest's end that a test writes.

use std::net::Shutdown;

use tempfile::TempDir;
use vmbus::loopback::{Guest, GuestChannel};
use vmbus::protocol::{OfferChannel, TlConnectRequest, TlConnectResult, Version};
use vmbus::ring::OutgoingPacket;

use super::packet::{decode, encode};
use super::*;

struct Rig {
    guest: Guest,
    sockets: Arc<Sockets>,
    folder: TempDir,
}

fn rig() -> Rig {
    let folder = TempDir::new().unwrap();
    let sockets = Sockets::new(&folder.path().join("vsock"), DeviceCounters::default()).unwrap();
    let guest = Guest::new(1, 256);
    sockets.attach(&guest.server);
    guest.connect(Version::WIN10_V5_3);
    assert_eq!(guest.request_offers().len(), 0);
    Rig { guest, sockets, folder }
}

fn send(channel: &mut GuestChannel, data: &[u8]) {
    assert!(channel.send(&OutgoingPacket::in_band(0, &encode(data))));
}

fn receive(channel: &mut GuestChannel) -> Vec<u8> {
    decode(&channel.wait_receive().data).unwrap().to_vec()
}

fn read(stream: &mut UnixStream, length: usize) -> String {
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).unwrap();
    String::from_utf8(bytes).unwrap()
}

#[test]
fn a_program_of_the_host_talks_to_one_of_the_guest() {
    let mut rig = rig();
    let mut stream = UnixStream::connect(rig.folder.path().join("vsock")).unwrap();
    stream.write_all(b"CONNECT 1234\nhello").unwrap();
    let offer: OfferChannel = rig.guest.expect();
    assert_eq!((port(offer.interface), offer.user_data[4]), (Some(1234), 1));
    let mut channel = rig.guest.open(&offer, 4, 0).unwrap();
    assert_eq!(receive(&mut channel), b"hello");
    let own = port(offer.instance).unwrap();
    assert_eq!(read(&mut stream, 14), format!("OK {own}\n"));
    send(&mut channel, b"and to you");
    assert_eq!(read(&mut stream, 10), "and to you");
    assert_eq!(rig.sockets.state(), "1 connection");
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(receive(&mut channel), b"");
    send(&mut channel, b"the last");
    send(&mut channel, b"");
    let mut rest = String::new();
    stream.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "the last");
}

#[test]
fn a_program_of_the_guest_talks_to_one_of_the_host() {
    let mut rig = rig();
    let listener = UnixListener::bind(rig.folder.path().join("vsock_77")).unwrap();
    rig.guest.post(&TlConnectRequest { endpoint: service(5), service: service(77) }, &[]).unwrap();
    let offer: OfferChannel = rig.guest.expect();
    assert_eq!((port(offer.interface), port(offer.instance), offer.user_data[4]), (Some(77), Some(5), 0));
    let mut channel = rig.guest.open(&offer, 4, 0).unwrap();
    let (mut stream, _) = listener.accept().unwrap();
    // More than a ring holds.
    let sent: Vec<u8> = (0..100_000_u32).map(|n| (n >> 3) as u8).collect();
    let expected = sent.clone();
    let writer = thread::spawn(move || {
        stream.write_all(&sent).unwrap();
        stream
    });
    let mut got = Vec::new();
    while got.len() < expected.len() {
        got.extend(receive(&mut channel));
    }
    assert_eq!(got, expected);
    let mut stream = writer.join().unwrap();
    send(&mut channel, b"x");
    assert_eq!(read(&mut stream, 1), "x");
    send(&mut channel, b"");
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    drop(stream);
    assert_eq!(receive(&mut channel), b"");
    while rig.sockets.state() != "0 connections" {
        thread::yield_now();
    }
}

#[test]
fn nobody_there_and_other_services_are_refused() {
    let rig = rig();
    for service in [service(78), Guid::new(1, 2, 3, [4; 8])] {
        let request = TlConnectRequest { endpoint: super::service(5), service };
        let result: TlConnectResult = rig.guest.call(&request);
        assert_ne!(result.status, 0);
    }
}

#[test]
fn what_is_no_greeting_is_hung_up_on_and_the_file_goes_with_the_sockets() {
    let rig = rig();
    let path = rig.folder.path().join("vsock");
    for greeting in ["HELLO\n", "CONNECT x\n", &"CONNECT ".repeat(9)] {
        let mut stream = UnixStream::connect(&path).unwrap();
        stream.write_all(greeting.as_bytes()).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        // What has not been read of the line may reset the connection.
        assert!(matches!(stream.read(&mut [0]), Ok(0) | Err(_)));
    }
    rig.sockets.end();
    assert!(!path.exists());
}

#[test]
fn a_guest_that_sends_no_packets_is_hung_up_on() {
    let mut rig = rig();
    let listener = UnixListener::bind(rig.folder.path().join("vsock_77")).unwrap();
    rig.guest.post(&TlConnectRequest { endpoint: service(5), service: service(77) }, &[]).unwrap();
    let offer: OfferChannel = rig.guest.expect();
    let mut channel = rig.guest.open(&offer, 4, 0).unwrap();
    let (mut stream, _) = listener.accept().unwrap();
    assert!(channel.send(&OutgoingPacket::in_band(0, &[0xff; 64])));
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
}

#[test]
fn an_endpoint_that_is_in_use_is_refused_until_it_is_free() {
    let folder = tempfile::tempdir().unwrap();
    let sockets = Sockets::new(&folder.path().join("vsock"), DeviceCounters::default()).unwrap();
    let first = sockets.place(service(5));
    assert!(first.is_some() && sockets.place(service(6)).is_some());
    for _ in 0..2 {
        assert!(sockets.place(service(5)).is_none());
    }
    drop(first);
    assert!(sockets.place(service(5)).is_some());
}
