//! What a guest does to connections of Hyper-V sockets: requests for any service, and any packets on their channels. They
//! end, and the program of the host is hung up on.
#![no_main]

use std::io::Read;
use std::os::unix::net::UnixListener;
use std::sync::{Arc, LazyLock};
use std::thread;

use counters::DeviceCounters;
use fuzz::Input;
use libfuzzer_sys::fuzz_target;
use synthetic::socket::Sockets;
use tempfile::TempDir;
use vmbus::Guid;
use vmbus::loopback::Guest;
use vmbus::protocol::{MessageType, OfferChannel, TlConnectRequest, Version};
use vmbus::ring::OutgoingPacket;

const PAGES: u64 = 64;
const RING_PAGES: u64 = 4;
const PORT: u32 = 7;

fn service(port: u32) -> Guid {
    Guid::new(port, 0xfacb, 0x11e6, [0xbd, 0x58, 0x64, 0x00, 0x6a, 0x79, 0x86, 0xd3])
}

/// The sockets, and a program of the host that reads what comes to a port of it.
static SOCKETS: LazyLock<(Arc<Sockets>, TempDir)> = LazyLock::new(|| {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("vsock");
    let listener = UnixListener::bind(folder.path().join(format!("vsock_{PORT}"))).unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut all = Vec::new();
            // However it ends.
            let _ = stream.unwrap().read_to_end(&mut all);
        }
    });
    (Sockets::new(&path, DeviceCounters::default()).unwrap(), folder)
});

fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    let mut guest = Guest::new(1, PAGES);
    SOCKETS.0.attach(&guest.server);
    guest.connect(Version::WIN10_V5_3);
    // Offers go to those who have asked for them.
    assert!(guest.request_offers().is_empty());
    let port = if input.u8() & 7 == 0 { input.u32() } else { PORT };
    guest.post(&TlConnectRequest { endpoint: service(5), service: service(port) }, &[]).unwrap();
    let answer = guest.mailbox.wait_message();
    if answer.message_type() == MessageType::TL_CONNECT_RESULT {
        return;
    }
    let offer: OfferChannel = answer.body().unwrap();
    let mut channel = guest.open(&offer, RING_PAGES, 0).unwrap();
    while !input.is_empty() {
        let length = usize::from(input.u16() % 2048);
        let packet = match input.u8() & 3 {
            0 => input.slice(length).to_vec(),
            kind => {
                let data = input.slice(length);
                let said = if kind == 1 { input.u32() } else { data.len() as u32 };
                [&1_u32.to_le_bytes()[..], &said.to_le_bytes(), data].concat()
            }
        };
        // The host may have hung up, and reads no more then.
        if !channel.send(&OutgoingPacket::in_band(0, &packet)) {
            break;
        }
        while channel.receive().is_some() {}
    }
    guest.server.reset();
});
