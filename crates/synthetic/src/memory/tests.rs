//! The balloon with a guest that a test writes, and the device on a bus.

use std::error::Error;
use std::ops::Range;
use std::sync::Mutex;

use counters::DeviceCounters;
use vm_memory::{Bytes, GuestAddress};
use vmbus::loopback::{Guest, GuestChannel};
use vmbus::protocol::Version;
use vmbus::ring::OutgoingPacket;

use super::balloon::Balloon;
use super::protocol::*;
use super::*;

/// 1 GiB, of which the guest keeps 256 MiB.
const TOTAL: u64 = 1 << 18;
const LEAST: u64 = 1 << 16;

/// Frames that a machine gets part by part, unless the host refuses.
struct Parts {
    left: Mutex<Vec<Range<u64>>>,
    refuses: bool,
}

impl Parts {
    fn new(parts: &[Range<u64>]) -> Self {
        Self { left: Mutex::new(parts.iter().rev().cloned().collect()), refuses: false }
    }
}

impl MoreMemory for Parts {
    fn next(&self) -> Option<Range<u64>> {
        self.left.lock().unwrap().last().cloned()
    }

    fn add(&self) -> Result<(), Box<dyn Error + Send + Sync>> {
        if self.refuses {
            return Err("the host refuses".into());
        }
        self.left.lock().unwrap().pop();
        Ok(())
    }

    fn absent(&self) -> u64 {
        self.left.lock().unwrap().iter().map(|part| part.end - part.start).sum()
    }
}

fn none() -> Parts {
    Parts::new(&[])
}

fn ready() -> Balloon {
    let mut balloon = Balloon::new(TOTAL, LEAST, TOTAL);
    balloon.open();
    let accepted = balloon.receive(&encode(message::VERSION_REQUEST, 7, &[0x2_0000, 0]), &mut |_| {});
    assert_eq!(accepted, Some(encode(message::VERSION_RESPONSE, 7, &[1, 0])));
    let accepted =
        balloon.receive(&encode(message::CAPABILITIES_REPORT, 8, &[3, 0, 0, 0, 0, 0]), &mut |_| {});
    assert_eq!(accepted, Some(encode(message::CAPABILITIES_RESPONSE, 8, &[1, 0])));
    balloon
}

fn status(balloon: &mut Balloon, committed: u64) {
    let words = [1000, 0, committed as u32, (committed >> 32) as u32, 0, 0, 0, 0, 0, 0];
    assert_eq!(balloon.receive(&encode(message::STATUS_REPORT, 0, &words), &mut |_| {}), None);
}

fn response(more: bool, ranges: &[PageRange]) -> Vec<u8> {
    let mut words = vec![0, u32::from(more) | (ranges.len() as u32) << 1];
    words.extend(ranges.iter().flat_map(|range| [range.pack() as u32, (range.pack() >> 32) as u32]));
    encode(message::BALLOON_RESPONSE, 0, &words)
}

fn asked(message: Option<Vec<u8>>) -> Option<u64> {
    let message = message?;
    let (message_type, _, body) = decode(&message)?;
    (message_type == message::BALLOON_REQUEST).then(|| word(body, 0).unwrap().into())
}

/// Gives the guest's pages from `from` on until it is not asked any more.
fn give(balloon: &mut Balloon, mut from: u64) -> u64 {
    let mut freed = 0;
    while let Some(count) = asked(balloon.next(&none())) {
        let range = PageRange { start: from, count };
        balloon.receive(&response(false, &[range]), &mut |range| freed += range.count);
        from += count;
    }
    freed
}

#[test]
fn the_version_is_one_that_both_know() {
    let mut balloon = Balloon::new(TOTAL, LEAST, TOTAL);
    balloon.open();
    let refused = balloon.receive(&encode(message::VERSION_REQUEST, 1, &[0x9_0000, 0]), &mut |_| {});
    assert_eq!(refused, Some(encode(message::VERSION_RESPONSE, 1, &[0, 0])));
    assert_eq!(balloon.receive(&encode(message::CAPABILITIES_REPORT, 2, &[0; 6]), &mut |_| {}), None);
    let accepted = balloon.receive(&encode(message::VERSION_REQUEST, 3, &[3, 1]), &mut |_| {});
    assert_eq!(accepted, Some(encode(message::VERSION_RESPONSE, 3, &[1, 0])));
}

#[test]
fn a_guest_gives_what_it_does_not_need_and_a_fifth_of_that() {
    let mut balloon = ready();
    assert_eq!(balloon.next(&none()), None);
    status(&mut balloon, 100_000);
    assert_eq!(give(&mut balloon, 0), TOTAL - 120_000);
    assert_eq!(balloon.count(), TOTAL - 120_000);
    // What has been given counts as committed in the guest.
    let held = balloon.count();
    status(&mut balloon, 100_000 + held);
    assert_eq!(balloon.next(&none()), None);
    // It is never left with less than the least.
    let held = balloon.count();
    status(&mut balloon, held);
    give(&mut balloon, held);
    assert_eq!(balloon.count(), TOTAL - LEAST);
}

#[test]
fn a_guest_in_need_gets_its_pages_back() {
    let mut balloon = ready();
    status(&mut balloon, 0);
    give(&mut balloon, 1000);
    let held = balloon.count();
    status(&mut balloon, TOTAL + held);
    let mut back = 0;
    while let Some(message) = balloon.next(&none()) {
        let (message_type, _, body) = decode(&message).unwrap();
        assert_eq!((message_type, word(body, 0)), (message::UNBALLOON_REQUEST, Some(0)));
        assert!(message.len() <= LONGEST);
        assert_eq!(balloon.next(&none()), None);
        for index in 0..word(body, 4).unwrap() as usize {
            let range = PageRange::unpack(long(body, 8 + 8 * index).unwrap());
            assert!(range.start >= 1000 && range.count <= 4096);
            back += range.count;
        }
        balloon.receive(&encode(message::UNBALLOON_RESPONSE, 0, &[]), &mut |_| {});
    }
    assert_eq!((back, balloon.count()), (TOTAL - LEAST, 0));
}

#[test]
fn a_guest_that_gives_less_is_left_in_peace_for_a_while() {
    let mut balloon = ready();
    status(&mut balloon, 0);
    assert!(asked(balloon.next(&none())).is_some());
    balloon.receive(&response(true, &[PageRange { start: 0, count: 512 }]), &mut |_| {});
    assert_eq!(balloon.next(&none()), None);
    balloon.receive(&response(false, &[]), &mut |_| {});
    for _ in 0..9 {
        status(&mut balloon, 512);
        assert_eq!(balloon.next(&none()), None);
    }
    status(&mut balloon, 512);
    assert!(asked(balloon.next(&none())).is_some());
}

#[test]
fn pages_that_do_not_exist_or_come_twice_are_not_counted() {
    let mut balloon = ready();
    status(&mut balloon, 0);
    balloon.next(&none());
    let mut freed = Vec::new();
    let ranges = [
        PageRange { start: TOTAL - 1, count: 100 },
        PageRange { start: (1 << 40) - 1, count: (1 << 24) - 1 },
        PageRange { start: 5, count: 0 },
        PageRange { start: TOTAL - 2, count: 2 },
    ];
    balloon.receive(&response(false, &ranges), &mut |range| freed.push(range));
    assert_eq!(balloon.count(), 2);
    assert!(freed.iter().all(|range| range.start + range.count <= TOTAL));
}

#[test]
fn what_makes_no_sense_is_counted_and_ignored() {
    let mut balloon = ready();
    let huge = encode(message::BALLOON_RESPONSE, 0, &[0, u32::MAX]);
    for noise in [&[][..], &[1; 7], &huge, &encode(message::UNBALLOON_RESPONSE, 0, &[]), &encode(99, 0, &[])]
    {
        assert_eq!(balloon.receive(noise, &mut |_| {}), None);
    }
    assert_eq!(balloon.strays, 5);
    status(&mut balloon, 0);
    balloon.next(&none());
    balloon.receive(&huge, &mut |_| {});
    assert_eq!((balloon.strays, balloon.count()), (6, 0));
}

/// 128 MiB.
const PART: u64 = 1 << 15;

/// Parts from 4 GiB on.
fn parts(count: u64) -> Parts {
    let start = 1 << 20;
    Parts::new(&(0..count).map(|n| start + n * PART..start + (n + 1) * PART).collect::<Vec<_>>())
}

/// A guest that takes memory aligned to 128 MiB.
fn growing() -> Balloon {
    let mut balloon = Balloon::new(TOTAL, TOTAL, (1 << 20) + 64 * PART);
    balloon.open();
    balloon.receive(&encode(message::VERSION_REQUEST, 7, &[0x2_0000, 0]), &mut |_| {});
    let caps = 1 | 2 | 7 << 2;
    balloon.receive(&encode(message::CAPABILITIES_REPORT, 8, &[caps, 0, 0, 0, 0, 0]), &mut |_| {});
    balloon
}

fn added(message: Option<Vec<u8>>) -> Option<PageRange> {
    let message = message?;
    let (message_type, _, body) = decode(&message)?;
    assert_eq!((message_type, message.len()), (message::HOT_ADD_REQUEST, HEADER + 16));
    assert_eq!(long(body, 0), long(body, 8), "all of the region is added");
    Some(PageRange::unpack(long(body, 0)?))
}

fn taken(balloon: &mut Balloon, count: u64, result: u32) {
    let answer = encode(message::HOT_ADD_RESPONSE, 0, &[count as u32, result]);
    assert_eq!(balloon.receive(&answer, &mut |_| {}), None);
}

#[test]
fn a_guest_in_need_gets_more_than_it_started_with_and_gives_it_back() {
    let (mut balloon, more) = (growing(), parts(8));
    status(&mut balloon, TOTAL / 2);
    assert_eq!(balloon.next(&more), None);
    status(&mut balloon, TOTAL);
    let range = added(balloon.next(&more)).unwrap();
    assert_eq!(range.start, 1 << 20);
    assert!(range.count.is_multiple_of(PART) && range.count > TOTAL / 5);
    assert_eq!((more.absent() + range.count, balloon.total()), (8 * PART, TOTAL));
    assert_eq!(balloon.next(&more), None, "one request at a time");
    taken(&mut balloon, range.count, 1);
    assert_eq!(balloon.total(), TOTAL + range.count);
    // Then it needs nothing.
    status(&mut balloon, 0);
    let count = asked(balloon.next(&more)).unwrap();
    assert_eq!(count, PART, "as much as is asked for at once");
    balloon.receive(&response(false, &[PageRange { start: 1 << 20, count }]), &mut |_| {});
    assert_eq!((balloon.count(), balloon.total()), (count, TOTAL + range.count));
}

#[test]
fn memory_is_added_until_there_is_no_more() {
    let (mut balloon, more) = (growing(), parts(11));
    let mut next = 1 << 20;
    for count in [8 * PART, 3 * PART] {
        status(&mut balloon, u64::MAX);
        assert_eq!(added(balloon.next(&more)), Some(PageRange { start: next, count }));
        taken(&mut balloon, count, 1);
        next += count;
    }
    status(&mut balloon, u64::MAX);
    assert_eq!((balloon.next(&more), more.absent()), (None, 0));
    assert_eq!(balloon.total(), TOTAL + 11 * PART);
}

#[test]
fn a_guest_that_fails_for_now_is_asked_again_with_the_same_memory_and_one_at_its_limit_is_not() {
    let (mut balloon, more) = (growing(), parts(8));
    status(&mut balloon, TOTAL);
    let range = added(balloon.next(&more)).unwrap();
    taken(&mut balloon, 0, 0);
    for _ in 0..9 {
        status(&mut balloon, TOTAL);
        assert_eq!(balloon.next(&more), None);
    }
    status(&mut balloon, TOTAL);
    assert_eq!(added(balloon.next(&more)), Some(range));
    assert_eq!(more.absent() + range.count, 8 * PART, "nothing else has been added");
    taken(&mut balloon, PART, 1);
    assert_eq!(balloon.total(), TOTAL + PART);
    for _ in 0..20 {
        status(&mut balloon, 2 * TOTAL);
        assert_eq!(balloon.next(&more), None);
    }
}

#[test]
fn nothing_is_added_to_a_guest_that_cannot_take_it() {
    // No hot add at all; one that needs 1 GiB at once.
    for caps in [1, 1 | 2 | 10 << 2] {
        let (mut balloon, more) = (growing(), parts(8));
        balloon.receive(&encode(message::VERSION_REQUEST, 7, &[0x2_0000, 0]), &mut |_| {});
        balloon.receive(&encode(message::CAPABILITIES_REPORT, 8, &[caps, 0, 0, 0, 0, 0]), &mut |_| {});
        status(&mut balloon, 2 * TOTAL);
        assert_eq!((balloon.next(&more), more.absent()), (None, 8 * PART));
    }
    let (mut balloon, more) = (growing(), Parts { refuses: true, ..parts(8) });
    status(&mut balloon, 2 * TOTAL);
    assert_eq!((balloon.next(&more), balloon.next(&more)), (None, None));
}

#[test]
fn a_guest_that_lies_of_what_it_has_taken_gets_no_more_for_it() {
    let (mut balloon, more) = (growing(), parts(2));
    taken(&mut balloon, 5, 1);
    assert_eq!((balloon.strays, balloon.total()), (1, TOTAL));
    status(&mut balloon, TOTAL);
    let range = added(balloon.next(&more)).unwrap();
    taken(&mut balloon, u64::from(u32::MAX), 1);
    assert_eq!((balloon.strays, balloon.total()), (2, TOTAL + range.count));
    taken(&mut balloon, 1, 1);
    assert_eq!((balloon.strays, balloon.total()), (3, TOTAL + range.count));
    // Short ones.
    assert_eq!(balloon.receive(&encode(message::HOT_ADD_RESPONSE, 0, &[1]), &mut |_| {}), None);
    assert_eq!(balloon.strays, 4);
}

#[test]
fn the_host_gets_what_is_behind_pages_that_the_guest_gives() {
    const PAGES: u64 = 1 << 15;
    let mut guest = Guest::new(1, PAGES);
    let settings = MemorySettings {
        size: PAGES << 12,
        least: 32 << 20,
        top: PAGES << 12,
        more: Box::new(none()),
        counters: DeviceCounters::default(),
    };
    let memory = DynamicMemory::new(settings);
    guest.server.offer(std::sync::Arc::new(Provider(std::sync::Arc::clone(&memory)))).unwrap();
    guest.connect(Version::WIN10_V5_3);
    let offer = guest.request_offers()[0];
    assert_eq!(memory.state().text, "no driver");
    let mut channel = guest.open(&offer, 4, 0).unwrap();
    let send = |channel: &mut GuestChannel, data: &[u8]| {
        assert!(channel.send(&OutgoingPacket::in_band(0, data)));
    };
    send(&mut channel, &encode(message::VERSION_REQUEST, 1, &[0x2_0000, 0]));
    assert_eq!(channel.wait_receive().data, encode(message::VERSION_RESPONSE, 1, &[1, 0]));
    send(&mut channel, &encode(message::CAPABILITIES_REPORT, 2, &[1, 0, 0, 0, 0, 0]));
    channel.wait_receive();
    let at = GuestAddress(20_000 << 12);
    guest.memory.write_obj(1_u8, at).unwrap();
    send(&mut channel, &encode(message::STATUS_REPORT, 3, &[0; 10]));
    let count = asked(Some(channel.wait_receive().data)).unwrap();
    assert_eq!(count, PAGES - (32 << 8));
    send(&mut channel, &response(false, &[PageRange { start: 20_000, count: 1 }]));
    while guest.memory.read_obj::<u8>(at).unwrap() != 0 {
        std::thread::yield_now();
    }
    guest.close(channel);
    assert_eq!(memory.assigned(), PAGES << 12);
}
