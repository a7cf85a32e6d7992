//! What a guest says about its memory. Whatever it is, only its own memory changes, and the channel can be closed.
#![no_main]

use std::error::Error;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use counters::DeviceCounters;
use fuzz::Input;
use libfuzzer_sys::fuzz_target;
use synthetic::memory::protocol::{PageRange, encode, message};
use synthetic::memory::{DynamicMemory, MemorySettings, MoreMemory, Provider};
use vmbus::loopback::{Guest, GuestChannel};
use vmbus::protocol::Version;
use vmbus::ring::OutgoingPacket;

const PAGES: u64 = 1 << 13;
const RING_PAGES: u64 = 4;
/// Messages for one input.
const MESSAGES: usize = 64;

/// What can be added: so many parts of 128 MiB above the memory.
struct Parts(AtomicU64);

const PART: u64 = 1 << 15;
const PARTS: u64 = 16;

impl MoreMemory for Parts {
    fn next(&self) -> Option<Range<u64>> {
        let start = (PARTS - self.0.load(Ordering::SeqCst) + 1) * PART;
        (self.absent() > 0).then(|| start..start + PART)
    }

    fn add(&self) -> Result<(), Box<dyn Error + Send + Sync>> {
        self.0.fetch_sub(1, Ordering::SeqCst);
        Ok(())
    }

    fn absent(&self) -> u64 {
        self.0.load(Ordering::SeqCst) * PART
    }
}

fn send(channel: &mut GuestChannel, data: &[u8]) {
    while !channel.send(&OutgoingPacket::in_band(0, data)) {
        // The host makes no room before the guest does.
        channel.receive();
        thread::yield_now();
    }
}

fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    let mut guest = Guest::new(1, PAGES);
    let settings = MemorySettings {
        size: PAGES << 12,
        least: 1 << 20,
        top: (PARTS + 1) * PART << 12,
        more: Box::new(Parts(AtomicU64::new(PARTS))),
        counters: DeviceCounters::default(),
    };
    let memory = DynamicMemory::new(settings);
    guest.server.offer(Arc::new(Provider(Arc::clone(&memory)))).unwrap();
    guest.connect(Version::WIN10_V5_3);
    let offer = guest.request_offers()[0];
    let mut channel = guest.open(&offer, RING_PAGES, 0).unwrap();
    if input.u8() & 3 != 0 {
        send(&mut channel, &encode(message::VERSION_REQUEST, 1, &[0x2_0000, 0]));
        send(&mut channel, &encode(message::CAPABILITIES_REPORT, 2, &[3 | 7 << 2, 0, 0, 0, 0, 0]));
    }
    for _ in 0..MESSAGES {
        let message_type = u16::from(input.u8() % 14);
        let words: Vec<u32> = match message_type {
            message::STATUS_REPORT => {
                let committed = u64::from(input.u16()) << (input.u8() % 50);
                vec![0, 0, committed as u32, (committed >> 32) as u32, 0, 0, 0, 0, 0, 0]
            }
            message::BALLOON_RESPONSE => {
                let count = u32::from(input.u8() % 16);
                let mut words = vec![0, count << 1 | u32::from(input.u8() & 1)];
                for _ in 0..count {
                    // Behind the rings, which are the test's own; some beyond memory.
                    let start = 64 + u64::from(input.u16()) % (PAGES - 32);
                    let range = PageRange { start, count: u64::from(input.u8()) << (input.u8() % 16) };
                    words.extend([range.pack() as u32, (range.pack() >> 32) as u32]);
                }
                words
            }
            _ => (0..input.u8() % 8).map(|_| input.u32()).collect(),
        };
        let message = encode(message_type, input.u32(), &words);
        let cut = usize::from(input.u8());
        send(&mut channel, if cut < 16 { &message[..cut.min(message.len())] } else { &message });
        while channel.receive().is_some() {}
        if input.is_empty() {
            break;
        }
    }
    guest.close(channel);
    let assigned = memory.assigned() >> 12;
    assert!((PAGES..=PAGES + PARTS * PART).contains(&assigned), "{assigned}");
});
