//! The balloon with a guest that a test writes, and the device on a bus.

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
    while let Some(count) = asked(balloon.next()) {
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
    assert_eq!(balloon.next(), None);
    status(&mut balloon, 100_000);
    assert_eq!(give(&mut balloon, 0), TOTAL - 120_000);
    assert_eq!(balloon.count(), TOTAL - 120_000);
    // What has been given counts as committed in the guest.
    let held = balloon.count();
    status(&mut balloon, 100_000 + held);
    assert_eq!(balloon.next(), None);
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
    while let Some(message) = balloon.next() {
        let (message_type, _, body) = decode(&message).unwrap();
        assert_eq!((message_type, word(body, 0)), (message::UNBALLOON_REQUEST, Some(0)));
        assert!(message.len() <= LONGEST);
        assert_eq!(balloon.next(), None);
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
    assert!(asked(balloon.next()).is_some());
    balloon.receive(&response(true, &[PageRange { start: 0, count: 512 }]), &mut |_| {});
    assert_eq!(balloon.next(), None);
    balloon.receive(&response(false, &[]), &mut |_| {});
    for _ in 0..9 {
        status(&mut balloon, 512);
        assert_eq!(balloon.next(), None);
    }
    status(&mut balloon, 512);
    assert!(asked(balloon.next()).is_some());
}

#[test]
fn pages_that_do_not_exist_or_come_twice_are_not_counted() {
    let mut balloon = ready();
    status(&mut balloon, 0);
    balloon.next();
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
    balloon.next();
    balloon.receive(&huge, &mut |_| {});
    assert_eq!((balloon.strays, balloon.count()), (6, 0));
}

#[test]
fn the_host_gets_what_is_behind_pages_that_the_guest_gives() {
    const PAGES: u64 = 1 << 15;
    let mut guest = Guest::new(1, PAGES);
    let settings = MemorySettings { size: PAGES << 12, least: 32 << 20, counters: DeviceCounters::default() };
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
