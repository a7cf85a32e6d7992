//! What a guest answers to the integration services: anything, at any time. Whatever it is, who waits is answered, and
//! the channel can be closed.
#![no_main]

use std::sync::Arc;
use std::thread;

use clock::{Clock, FakeClock};
use counters::Registry;
use fuzz::Input;
use integration::{Addresses, File, Integration, ServiceKind, Services, Shutdown, State, TimeSource};
use libfuzzer_sys::fuzz_target;
use vmbus::Guid;
use vmbus::loopback::{Guest, GuestChannel};
use vmbus::protocol::Version;
use vmbus::ring::OutgoingPacket;

const PAGES: u64 = 64;
const RING_PAGES: u64 = 4;
/// Messages of the guest for one input.
const MESSAGES: usize = 64;
/// Where an answer's status, flags and body are.
const STATUS: usize = 20;
const FLAGS: usize = 25;
const BODY: usize = 28;
/// A response of a transaction.
const RESPONSE: u8 = 5;

struct Times;

impl TimeSource for Times {
    fn wall(&self) -> u64 {
        1
    }

    fn reference(&self) -> u64 {
        2
    }
}

/// Sends `data`; a host that reads makes room.
fn send(channel: &mut GuestChannel, data: &[u8]) {
    while !channel.send(&OutgoingPacket::in_band(0, data)) {
        thread::yield_now();
    }
}

/// The versions that a guest like Linux chooses: the first of each kind.
fn choose(answer: &mut [u8]) {
    let frameworks = usize::from(answer[BODY]);
    let service = BODY + 8 + 4 * frameworks;
    answer.copy_within(service..service + 4, BODY + 12);
    answer[BODY..BODY + 4].copy_from_slice(&[1, 0, 1, 0]);
}

fn want(integration: &Integration, service: ServiceKind) {
    match service {
        ServiceKind::Shutdown => drop(integration.shut_down(Shutdown::Restart, true)),
        ServiceKind::KeyValue => {
            let _ = integration.set_key("key", "value");
            let _ = integration.key_values();
            let _ = integration.addresses("00:15:5d:00:00:01");
            let wanted = Addresses { dhcp: true, ..Addresses::default() };
            let _ = integration.set_addresses(Guid::default(), &wanted);
        }
        ServiceKind::Backup => drop(integration.freeze()),
        ServiceKind::FileCopy => {
            let (size, contents) = (20_000, Box::new(std::io::repeat(7)));
            drop(integration.copy_file(File { path: "/a/b".to_owned(), size, contents, overwrite: true }));
        }
        ServiceKind::TimeSync | ServiceKind::Heartbeat => {}
    }
}

fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    let service = ServiceKind::ALL[usize::from(input.u8()) % ServiceKind::ALL.len()];
    let mut guest = Guest::new(1, PAGES);
    let clock = FakeClock::new();
    let shared: Arc<dyn Clock> = Arc::clone(&clock) as Arc<_>;
    let integration = Arc::new(Integration::new(&shared, Arc::new(Times), &Registry::new()).unwrap());
    integration.enable(service, &guest.server).unwrap();
    guest.connect(Version::WIN10_V5_3);
    let offer = guest.request_offers()[0];
    let mut channel = guest.open(&offer, RING_PAGES, 0).unwrap();
    let mut last = channel.wait_receive().data;
    let sane = input.u8() & 1 == 0;
    let mut asker = None;
    for message in 0..MESSAGES {
        while let Some(received) = channel.receive() {
            last = received.data;
        }
        let choice = input.u8();
        if choice & 3 == 3 {
            let length = usize::from(input.u8());
            send(&mut channel, input.slice(length));
        } else {
            let mut answer = last.clone();
            answer[FLAGS] = RESPONSE;
            answer[STATUS..STATUS + 4].copy_from_slice(&(u32::from(choice >> 6) * 0x4005).to_le_bytes());
            let changed = input.slice(usize::from(choice >> 2 & 15));
            let at = BODY + usize::from(input.u8() % 32);
            for (byte, change) in answer.iter_mut().skip(at).zip(changed) {
                *byte = *change;
            }
            if message == 0 && sane {
                answer = last.clone();
                answer[FLAGS] = RESPONSE;
                choose(&mut answer);
            }
            let length = if choice & 3 == 2 { usize::from(input.u16()) } else { answer.len() };
            send(&mut channel, &answer[..length.min(answer.len())]);
        }
        clock.advance(u64::from(input.u8()) << 24);
        let ok = integration.status(Services::ALL).iter().any(|status| status.state == State::Ok);
        if ok && asker.is_none() {
            let integration = Arc::clone(&integration);
            asker = Some(thread::spawn(move || want(&integration, service)));
        }
        if input.is_empty() {
            break;
        }
    }
    guest.close(channel);
    if let Some(asker) = asker {
        asker.join().expect("who waits is answered");
    }
});
