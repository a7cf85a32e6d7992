//! The adapter as a driver finds it, over a real bus and real rings.

use std::sync::Arc;
use std::time::{Duration, Instant};

use counters::DeviceCounters;
use guest_memory::PAGE_SIZE;
use network::{Checksum, Frame, Mac, Port, PortSettings, Segments, Switch, TcpOver};
use vm_memory::{Bytes, GuestAddress};
use vmbus::loopback::{Guest, GuestChannel, Received};
use vmbus::protocol::{OfferChannel, STATUS_SUCCESS, Version};
use vmbus::ring::{OutgoingPacket, PacketType};

use super::protocol::*;
use super::rndis::objects::{Adapter, Line};
use super::rndis::{self, Source, packet};
use super::{NetworkAdapter, NetworkSettings, network_instance};

const MAC: Mac = Mac([0x00, 0x15, 0x5d, 0, 0, 1]);
const OTHER: Mac = Mac([0x00, 0x15, 0x5d, 0, 0, 2]);
/// Pages of the buffers.
const BUFFER: u64 = 64;
/// Words of the header of a packet with one range, as the guest reads it: the ranges are in its data here.
const FILTER: u32 = 0x0001_010e;

struct Driver {
    guest: Guest,
    channel: GuestChannel,
    port: Arc<Port>,
    other: Port,
    adapter: Arc<NetworkAdapter>,
    counters: DeviceCounters,
    receive: Vec<u64>,
    send: Vec<u64>,
    /// What it says of itself.
    config: [u32; 4],
}

fn bytes(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn words(bytes: &[u8]) -> Vec<u32> {
    bytes.chunks_exact(4).map(|word| u32::from_le_bytes(word.try_into().unwrap())).collect()
}

fn frame(to: Mac, from: Mac, length: usize) -> Vec<u8> {
    let payload = (0..length).map(|n| (n * 7) as u8);
    to.0.into_iter().chain(from.0).chain([0x88, 0xb5]).chain(payload).collect()
}

impl Driver {
    /// A driver that has opened its channel.
    fn new() -> Self {
        let mut guest = Guest::new(1, 512);
        let switch = Switch::new();
        let port = Arc::new(switch.port(PortSettings { queues: 2, ..PortSettings::default() }).unwrap());
        let other = switch.port(PortSettings::default()).unwrap();
        let counters = DeviceCounters::default();
        let adapter = NetworkAdapter::new(NetworkSettings {
            name: "network0".to_owned(),
            instance: network_instance(0),
            mac: MAC,
            port: Arc::clone(&port),
            counters: counters.clone(),
        });
        guest.server.offer(Arc::clone(&adapter) as Arc<_>).unwrap();
        guest.connect(Version::WIN10_V5_3);
        let offer = guest.request_offers().remove(0);
        assert_eq!(offer.interface, INTERFACE);
        let channel = guest.open(&offer, 8, 0).unwrap();
        let receive = guest.allocate(BUFFER);
        let send = guest.allocate(BUFFER);
        let config = [1514, 0, 0, 0];
        Self { guest, channel, port, other, adapter, counters, receive, send, config }
    }

    fn say(&mut self, transaction: u64, kind: u32, body: &[u8], wanted: bool) {
        let mut data = kind.to_le_bytes().to_vec();
        data.extend(body);
        data.resize(40, 0);
        let packet =
            OutgoingPacket { completion_requested: wanted, ..OutgoingPacket::in_band(transaction, &data) };
        assert!(self.channel.send(&packet));
    }

    fn ask(&mut self, kind: u32, body: &[u8]) -> Vec<u32> {
        self.say(1, kind, body, true);
        let Received { kind, transaction_id, data } = self.channel.wait_receive();
        assert_eq!((kind, transaction_id), (PacketType::COMPLETION, 1));
        words(&data)
    }

    /// Negotiates and lends its buffers.
    fn begin(&mut self) {
        assert_eq!(
            self.ask(kind::INIT, &bytes(&[0x6_0001; 2]))[..4],
            [2, 0x6_0001, MAX_PIECES, status::SUCCESS]
        );
        self.say(0, kind::SEND_NDIS_CONFIG, &bytes(&self.config.clone()), false);
        for (frames, message, answer) in [
            (self.receive.clone(), kind::SEND_RECEIVE_BUFFER, &[102, 1, 1, 0, 1728, 151, 1728 * 151][..]),
            (self.send.clone(), kind::SEND_SEND_BUFFER, &[105, 1, SEND_SECTION]),
        ] {
            let (gpadl, status) = self.guest.establish_gpadl(self.channel.relid, &frames);
            assert_eq!(status, STATUS_SUCCESS);
            assert_eq!(self.ask(message, &bytes(&[gpadl, 0xcafe]))[..answer.len()], *answer);
        }
    }

    /// Sends RNDIS messages by the first section of the send buffer; the status.
    fn rndis(&mut self, channel: u32, message: &[u8]) -> u32 {
        self.guest.memory.write_slice(message, GuestAddress(self.send[0] * PAGE_SIZE)).unwrap();
        let body = bytes(&[channel, 0, message.len() as u32]);
        self.say(2, kind::SEND_RNDIS_PACKET, &body, true);
        let Received { kind, transaction_id, data } = self.channel.wait_receive();
        assert_eq!((kind, transaction_id), (PacketType::COMPLETION, 2));
        assert_eq!(words(&data)[0], kind::SEND_RNDIS_PACKET_COMPLETE);
        words(&data)[1]
    }

    /// What is in the receive buffer by the next packet, of which the loopback shows the data: sections are filled in
    /// order, so it is in the first one that has not been given back.
    fn receive(&mut self, section: u64) -> (u64, Vec<u8>) {
        let Received { kind, transaction_id, data } = self.channel.wait_receive();
        assert_eq!(kind, PacketType::TRANSFER_PAGES);
        assert_eq!(words(&data)[0], kind::SEND_RNDIS_PACKET);
        let mut message = vec![0; 1728];
        let address = self.receive[0] * PAGE_SIZE + section * 1728;
        self.guest.memory.read_slice(&mut message, GuestAddress(address)).unwrap();
        message.truncate(words(&message)[1] as usize);
        (transaction_id, message)
    }

    fn give_back(&mut self, transaction: u64) {
        let data = bytes(&[kind::SEND_RNDIS_PACKET_COMPLETE, status::SUCCESS]);
        assert!(self.channel.send(&OutgoingPacket::completion(transaction, &data)));
    }

    /// Asks by RNDIS; the answer.
    fn control(&mut self, message: &[u32]) -> Vec<u8> {
        let mut request = bytes(message);
        let length = (request.len() as u32).to_le_bytes();
        request[4..8].copy_from_slice(&length);
        assert_eq!(self.rndis(CONTROL, &request), status::SUCCESS);
        let (transaction, answer) = self.receive(0);
        self.give_back(transaction);
        answer
    }

    fn start(&mut self) {
        self.begin();
        assert_eq!(words(&self.control(&[2, 0, 7, 1, 0, 0x4000]))[..4], [0x8000_0002, 52, 7, 0]);
        assert_eq!(words(&self.control(&[5, 0, 8, FILTER, 4, 20, 0, 0xd])), [0x8000_0005, 16, 8, 0]);
    }

    fn wait(&self) -> Frame {
        let end = Instant::now() + Duration::from_secs(20);
        loop {
            if let Some(frame) = self.other.receive() {
                return frame;
            }
            assert!(Instant::now() < end, "no frame comes");
            std::thread::yield_now();
        }
    }
}

/// An RNDIS message with a frame and `infos` about it.
fn message(infos: &[u32], data: &[u8]) -> Vec<u8> {
    let infos = bytes(infos);
    let length = 44 + infos.len() + data.len();
    let header =
        [1, length, 36 + infos.len(), data.len(), 0, 0, 0, 36, infos.len(), 0, 0].map(|word| word as u32);
    [bytes(&header), infos, data.to_vec()].concat()
}

#[test]
fn frames_go_both_ways() {
    let mut driver = Driver::new();
    driver.start();
    // Two in one message.
    let sent = [frame(Mac::BROADCAST, MAC, 50), frame(OTHER, MAC, 1500)];
    let messages = [message(&[], &sent[0]), message(&[], &sent[1])].concat();
    assert_eq!(driver.rndis(DATA, &messages), status::SUCCESS);
    assert_eq!(driver.wait(), Frame::new(sent[0].clone()));
    assert_eq!(driver.wait(), Frame::new(sent[1].clone()));

    for length in [50, 1500] {
        let data = frame(MAC, OTHER, length);
        driver.other.send(Frame::new(data.clone()));
        let (transaction, message) = driver.receive(0);
        assert_eq!(words(&message)[..4], [1, message.len() as u32, 36, data.len() as u32]);
        assert_eq!(message[44..], data);
        driver.give_back(transaction);
    }
    // Not for this guest; longer than it takes.
    driver.other.send(Frame::new(frame(Mac([0, 0x15, 0x5d, 0, 0, 9]), OTHER, 50)));
    driver.other.send(Frame::new(frame(MAC, OTHER, 5000)));
    driver.other.send(Frame { verified: true, ..Frame::new(frame(MAC, OTHER, 60)) });
    let (_, message) = driver.receive(0);
    assert_eq!(words(&message)[11..15], [16, 0, 12, 0x38]);
    assert!(
        driver.adapter.state().text.ends_with("00:15:5d:00:00:01; 1 frames dropped"),
        "{}",
        driver.adapter.state().text
    );
}

/// TCP over IPv4 with so many bytes of data, whose segments have 1000.
fn long_frame(length: usize) -> Frame {
    let mut data = [MAC.0, OTHER.0].concat();
    data.extend([8, 0, 0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    data.extend([0, 1, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 0x10, 0, 0, 0, 0, 0, 0]);
    data.extend((0..length).map(|n| (n / 7) as u8));
    let segments = Some(Segments { tcp: TcpOver::V4, size: 1000, header: 54 });
    Frame { data, checksum: Some(Checksum { start: 34, offset: 16 }), segments, verified: false }
}

#[test]
fn segments_come_put_together_to_who_can_take_them() {
    let mut driver = Driver::new();
    driver.start();
    // The guest has not said that it can.
    driver.other.send(long_frame(2500));
    let mut transactions = Vec::new();
    while driver.counters.requests.value() < 3 {
        transactions.push(driver.channel.wait_receive().transaction_id);
    }
    transactions.into_iter().for_each(|transaction| driver.give_back(transaction));

    let mut driver = Driver::new();
    driver.config = [1514, 0, CAN_COALESCE, 0];
    driver.start();
    let mut offloads = [5, 0, 9, 0xfc01_020c, 24, 20, 0, 0, 0, 0, 0, 0, 0x0202_0000];
    assert_eq!(words(&driver.control(&offloads))[3], 0);
    let frame = long_frame(2500);
    driver.other.send(frame.clone());
    let (transaction, first) = driver.receive(0);
    // Sections are of 1728 bytes.
    let most = 1728 - rndis::packet::OVERHEAD;
    assert_eq!(words(&first)[..4], [1, 8 + 36 + 32 + most as u32, 36 + 32, most as u32]);
    assert_eq!(words(&first)[11..19], [16, 0, 12, 0x38, 16, 1 << 31 | 1, 12, 0x301]);
    // IP's length and checksum are there now.
    assert_eq!(first[76 + 16..76 + 18], (2540_u16).to_be_bytes());
    let mut second = vec![0; 1728];
    let address = driver.receive[0] * PAGE_SIZE + 1728;
    driver.guest.memory.read_slice(&mut second, GuestAddress(address)).unwrap();
    let rest = frame.data.len() - most;
    assert_eq!(words(&second)[2..4], [36 + 16, rest as u32]);
    assert_eq!(words(&second)[11..15], [16, 1 << 31 | 1, 12, 0x501]);
    assert_eq!([&first[76 + 54..], &second[60..60 + rest]].concat(), frame.data[54..]);
    driver.give_back(transaction);
    // Longer than a packet of IP can be.
    driver.other.send(long_frame(151 * 1728));
    let end = Instant::now() + Duration::from_secs(20);
    while !driver.adapter.state().text.ends_with("1 frames dropped") {
        assert!(Instant::now() < end, "no frame is dropped");
        std::thread::yield_now();
    }
    offloads[12] = 0x0101_0000;
    assert_eq!(words(&driver.control(&offloads))[3], 0);
    driver.other.send(long_frame(100));
    assert_eq!(words(&driver.receive(0).1)[3], 154);
}

#[test]
fn each_channel_has_the_frames_that_are_steered_to_it() {
    let mut driver = Driver::new();
    assert_eq!(driver.ask(kind::SUBCHANNEL, &bytes(&[ALLOCATE, 1]))[1], status::FAIL);
    driver.start();
    // There are two queues.
    assert_eq!(driver.ask(kind::SUBCHANNEL, &bytes(&[ALLOCATE, 7]))[1..3], [status::SUCCESS, 1]);
    let offer = driver.guest.expect::<OfferChannel>();
    assert_eq!((offer.interface, offer.subchannel_index), (INTERFACE, 1));
    let mut second = driver.guest.open(&offer, 8, 0).unwrap();
    // All to the second one.
    let table = [0x89 | 2 << 8 | 32 << 16, 0, 0x1701, 4, 32, 40, 36, 0, 1];
    let mut set = [&[5, 0, 9, 0x0001_0204, 76, 20, 0][..], &table, &[7; 10]].concat();
    assert_eq!(words(&driver.control(&set))[3], 0);
    driver.other.send(Frame::new(frame(MAC, OTHER, 60)));
    let received = second.wait_receive();
    assert_eq!(received.kind, PacketType::TRANSFER_PAGES);
    assert!(driver.channel.receive().is_none());
    assert!(driver.adapter.state().text.starts_with("driver bound, 2 channels;"));
    let data = bytes(&[kind::SEND_RNDIS_PACKET_COMPLETE, status::SUCCESS]);
    assert!(second.send(&OutgoingPacket::completion(received.transaction_id, &data)));
    // It sends, too, but does not negotiate.
    driver
        .guest
        .memory
        .write_slice(&message(&[], &frame(OTHER, MAC, 60)), GuestAddress(driver.send[0] << 12))
        .unwrap();
    let body = [bytes(&[kind::SEND_RNDIS_PACKET, DATA, 0, 118]), vec![0; 24]].concat();
    assert!(second.send(&OutgoingPacket { completion_requested: true, ..OutgoingPacket::in_band(3, &body) }));
    assert_eq!(words(&second.wait_receive().data)[1], status::SUCCESS);
    assert_eq!(driver.wait().data, frame(OTHER, MAC, 60));
    let body = bytes(&[kind::REVOKE_RECEIVE_BUFFER, 0xcafe]);
    assert!(second.send(&OutgoingPacket::in_band(4, &body)));
    // When it is closed, the first one has all.
    driver.guest.close(second);
    driver.other.send(Frame::new(frame(MAC, OTHER, 61)));
    let (transaction, _) = driver.receive(0);
    driver.give_back(transaction);
    set[1] = 0;
    assert_eq!(words(&driver.control(&set))[3], 0);
    driver.other.send(Frame::new(frame(MAC, OTHER, 61)));
    driver.channel.wait_receive();
}

#[test]
fn a_guest_that_gives_nothing_back_gets_nothing_more() {
    let mut driver = Driver::new();
    driver.start();
    for _ in 0..1000 {
        driver.other.send(Frame::new(frame(MAC, OTHER, 50)));
    }
    let delivered = |driver: &Driver| driver.counters.requests.value();
    let mut transactions = Vec::new();
    while delivered(&driver) < 151 {
        transactions.push(driver.channel.wait_receive().transaction_id);
    }
    while let Some(Received { transaction_id, .. }) = driver.channel.receive() {
        transactions.push(transaction_id);
    }
    assert_eq!(delivered(&driver), 151);
    transactions.iter().for_each(|&transaction| driver.give_back(transaction));
    driver.give_back(0xdead);
    driver.channel.wait_receive();
    assert!(delivered(&driver) > 151);
}

#[test]
fn an_adapter_is_told_which_queue_a_frame_goes_to() {
    let mut adapter = Adapter::new(MAC, MAC, 4);
    let mut set = |flags: u32, table: &[u32], key: usize| {
        let length = 4 * table.len() as u32;
        let header = [0x89 | 2 << 8 | 32 << 16, flags, 0x1701, length, 32, key as u32, 32 + length, 0];
        let value = [bytes(&header), bytes(table), vec![7; key]].concat();
        let request = [bytes(&[1, 0x0001_0204, value.len() as u32, 20, 0]), value].concat();
        let status = words(&say(&mut adapter, 5, &request).unwrap())[3];
        (status, adapter.steering().map(|steering| steering.table.clone()))
    };
    assert_eq!(set(0, &[0, 1, 2, 3], 40), (0, Some(vec![0, 1, 2, 3])));
    let before = Some(vec![0, 1, 2, 3]);
    // A queue that there is not; no power of two; no key.
    for (table, key) in [(&[0, 4][..], 40), (&[0, 1, 2], 40), (&[], 40), (&[0, 1], 39), (&[0; 256], 40)] {
        assert_eq!(set(0, table, key), (0xc001_0015, before.clone()));
    }
    assert_eq!(set(8, &[3, 2], 0), (0, Some(vec![3, 2])));
    assert_eq!(set(0x10, &[], 0), (0, None));
    assert_eq!(set(4, &[], 40), (0xc001_0015, None));
}

#[test]
fn what_the_guest_sends_is_read_from_where_it_lies() {
    let bytes: Vec<u8> = (0..20).collect();
    let mut two = [0; 2];
    assert_eq!((Source::read(&bytes[..], 18, &mut two), two), (Some(()), [18, 19]));
    assert_eq!(Source::read(&bytes[..], 19, &mut two), None);
    assert_eq!(Source::read(&bytes[..], usize::MAX, &mut two), None);
}

#[test]
fn the_link_is_told_of() {
    let mut driver = Driver::new();
    driver.start();
    for (up, status) in [(false, 0x4001_000c), (true, 0x4001_000b)] {
        driver.port.set_link(up);
        let (transaction, message) = driver.receive(0);
        assert_eq!(words(&message), [7, 20, status, 0, 0]);
        driver.give_back(transaction);
        assert_eq!(driver.adapter.state().text.contains("no link"), !up);
    }
}

#[test]
fn what_is_no_message_is_refused() {
    let mut driver = Driver::new();
    // Buffers before a version, a version of the future.
    assert_eq!(driver.ask(kind::SEND_SEND_BUFFER, &bytes(&[1, 2]))[1], status::FAIL);
    assert_eq!(driver.ask(kind::INIT, &bytes(&[0x7_0000; 2]))[3], status::PROTOCOL_TOO_NEW);
    assert_eq!(driver.ask(kind::INIT, &bytes(&[1; 2]))[3], status::PROTOCOL_TOO_OLD);
    driver.begin();
    assert_eq!(driver.ask(kind::SEND_RECEIVE_BUFFER, &bytes(&[0xbad, 1]))[1], status::FAIL);
    assert!(driver.ask(0xffff, &[]).is_empty());
    driver.begin();
    for message in [&[1, 0, 0, 0][..], &[1, 0, 0, 0, 7, 0, 0, 0], &[0xff; 60], &message(&[], &[0; 13])] {
        assert_eq!(driver.rndis(DATA, message), status::INVALID_RNDIS_PACKET);
    }
    driver.say(3, kind::SEND_RNDIS_PACKET, &bytes(&[DATA, 0xffff_fffe, 0xffff_ffff]), true);
    assert_eq!(words(&driver.channel.wait_receive().data)[1], status::INVALID_RNDIS_PACKET);
}

#[test]
fn what_is_left_to_be_done_of_a_frame_is_read() {
    let mut data = frame(OTHER, MAC, 200);
    data[34 + 12] = 0x80;
    let read = |infos: &[u32]| {
        let bytes = message(infos, &data);
        packet::frame(&bytes[..], &rndis::messages(&bytes[..]).next()?)
    };
    let checksum = |value| read(&[16, 0, 12, value]).unwrap().checksum.map(|sum| (sum.start, sum.offset));
    assert_eq!(checksum(34 << 16 | 0b101), Some((34, 16)));
    assert_eq!(checksum(34 << 16 | 0b1001), Some((34, 6)));
    assert_eq!(checksum(0b1), None);
    let large = read(&[16, 2, 12, 1448 | 34 << 20 | 1 << 30]).unwrap();
    let segments = large.segments.unwrap();
    assert_eq!((segments.tcp, segments.size, segments.header), (TcpOver::V4, 1448, 66));
    // Priority 5, VLAN 100: the tag comes into the frame, and what lies behind it moves.
    let tagged = read(&[16, 6, 12, 5 | 100 << 4, 16, 0, 12, 34 << 16 | 0b101]).unwrap();
    assert_eq!(tagged.data[12..18], [0x81, 0x00, 0xa0, 100, 0x88, 0xb5]);
    assert_eq!(tagged.checksum.unwrap().start, 38);
    for broken in
        [&[16, 2, 12, 34 << 20][..], &[17, 0, 12, 0], &[16, 0, 99, 1 << 2], &[0xffff_ffff, 0, 12, 0]]
    {
        assert!(read(broken).is_none(), "{broken:x?}");
    }
}

const LINE: Line = Line { link: true, sent: 7, received: (1 << 32) + 8, dropped: 9 };

fn say(adapter: &mut Adapter, kind: u32, body: &[u8]) -> Option<Vec<u8>> {
    let bytes = [bytes(&[kind, 8 + body.len() as u32]), body.to_vec()].concat();
    adapter.receive(&bytes[..], &rndis::messages(&bytes[..]).next()?, &LINE)
}

#[test]
fn an_adapter_tells_what_it_is() {
    let mut adapter = Adapter::new(MAC, MAC, 4);
    let mut ask = |oid: u32| {
        let answer = say(&mut adapter, 4, &bytes(&[9, oid, 0, 20, 0])).unwrap();
        (words(&answer)[3], answer[24..].to_vec())
    };
    assert_eq!(ask(0x0101_0101), (0, MAC.0.to_vec()));
    assert_eq!(ask(0x0001_0114), (0, vec![0; 4]));
    assert_eq!(ask(0xfc01_020d).1.len(), 144);
    assert_eq!(words(&ask(0x0001_0203).1)[1..4], [0x301, 4, 4]);
    // Frames sent, received, not sent, damaged, and dropped.
    let counts: Vec<_> = (0x0002_0101..=0x0002_0105).map(|oid| words(&ask(oid).1)[0]).collect();
    assert_eq!(counts, [7, 8, 0, 0, 9]);
    assert_eq!(ask(0x1234_5678), (0xc000_00bb, vec![]));
    // Another address.
    let text = |text: &str| text.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<_>>();
    let value = [bytes(&[20, 28, 2, 48, 24]), text("NetworkAddress"), text("00155d0000ff")].concat();
    let set = [bytes(&[1, 0x0001_021b, value.len() as u32, 20, 0]), value].concat();
    assert_eq!(words(&say(&mut adapter, 5, &set).unwrap())[3], 0);
    assert_eq!(words(&say(&mut adapter, 5, &bytes(&[1, FILTER, 4, 20, 0, 0xd])).unwrap())[3], 0);
    let other = Mac([0, 0x15, 0x5d, 0, 0, 0xff]);
    assert!(adapter.wants(other) && !adapter.wants(MAC));
    // Groups by name, then all of them.
    let group = Mac([1, 0, 0x5e, 0, 0, 1]);
    let groups = |count: u32| {
        let list: Vec<u8> = (0..count).flat_map(|n| [1, 0, 0x5e, 0, 0, n as u8]).collect();
        [bytes(&[1, 0x0101_0103, list.len() as u32, 20, 0]), list].concat()
    };
    assert_eq!(words(&say(&mut adapter, 5, &groups(2)).unwrap())[3], 0);
    assert_eq!(words(&say(&mut adapter, 5, &groups(65)).unwrap())[3], 0xc001_0009);
    for (filter, wanted) in [(0x9, [false, false]), (0xb, [true, false]), (0xd, [true, true])] {
        say(&mut adapter, 5, &bytes(&[1, FILTER, 4, 20, 0, filter])).unwrap();
        assert_eq!([group, Mac([1, 0, 0x5e, 0, 0, 9])].map(|group| adapter.wants(group)), wanted);
    }
    // Coalescing is offered to who can do it, and used by who wants it.
    let offloads = |v4: u8, v6: u8| {
        let mut value = vec![0; 32];
        value[22..24].copy_from_slice(&[v4, v6]);
        [bytes(&[1, 0xfc01_020c, 32, 20, 0]), value].concat()
    };
    let coalesces = |adapter: &Adapter| [TcpOver::V4, TcpOver::V6].map(|tcp| adapter.coalesces(tcp));
    say(&mut adapter, 5, &offloads(2, 2)).unwrap();
    assert_eq!(coalesces(&adapter), [false; 2]);
    adapter.allow_coalescing();
    let answer = say(&mut adapter, 4, &bytes(&[9, 0xfc01_020d, 0, 20, 0])).unwrap();
    assert_eq!((answer.len() - 24, &answer[24 + 144..24 + 146]), (156, &[1, 1][..]));
    say(&mut adapter, 5, &offloads(2, 2)).unwrap();
    assert_eq!(coalesces(&adapter), [true; 2]);
    say(&mut adapter, 5, &offloads(0, 1)).unwrap();
    assert_eq!(coalesces(&adapter), [true, false]);
    // It stays when the driver goes.
    say(&mut adapter, 3, &bytes(&[1]));
    assert!(adapter.mac() == other && !adapter.wants(other));
}
