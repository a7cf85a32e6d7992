use std::sync::{Arc, Mutex};

use counters::DeviceCounters;

use crate::loopback::{Guest, GuestChannel};
use crate::protocol::*;
use crate::ring::OutgoingPacket;
use crate::{Busy, Channel, Device, Guid, Offer, OfferError, OpenError, UnknownConnection};

/// A device that keeps its channels until a test takes them.
struct Shelf {
    instance: Guid,
    channels: Mutex<Vec<Channel>>,
    counters: DeviceCounters,
    refuses: bool,
}

impl Shelf {
    fn new(number: u32) -> Arc<Self> {
        Self::with(number, false)
    }

    fn with(number: u32, refuses: bool) -> Arc<Self> {
        let instance = Guid::new(number, 0, 0, [0; 8]);
        Arc::new(Self { instance, channels: Mutex::default(), counters: DeviceCounters::default(), refuses })
    }

    fn take(&self) -> Channel {
        self.channels.lock().unwrap().remove(0)
    }
}

impl Device for Shelf {
    fn offer(&self) -> Offer {
        Offer {
            interface: Guid::new(0xf00d, 0, 0, [0; 8]),
            instance: self.instance,
            flags: offer_flags::ENUMERATE_DEVICE_INTERFACE,
            mmio_megabytes: 0,
            user_data: [7; USER_DATA_SIZE],
            counters: self.counters.clone(),
        }
    }

    fn open(&self, channel: Channel) -> Result<(), OpenError> {
        if self.refuses {
            return Err("no".into());
        }
        self.channels.lock().unwrap().push(channel);
        Ok(())
    }
}

/// A connected guest with one device.
fn guest() -> (Guest, Arc<Shelf>, OfferChannel) {
    let guest = Guest::new(4, 256);
    let device = Shelf::new(1);
    guest.server.offer(device.clone()).unwrap();
    guest.connect(Version::WIN10_V5_3);
    let offer = guest.request_offers()[0];
    (guest, device, offer)
}

fn opened() -> (Guest, Arc<Shelf>, GuestChannel) {
    let (mut guest, device, offer) = guest();
    let channel = guest.open(&offer, 4, 2).unwrap();
    (guest, device, channel)
}

#[test]
fn every_version_that_linux_knows_is_agreed_to() {
    for version in Version::SUPPORTED {
        let response = Guest::new(1, 16).connect(version);
        assert_eq!((response.supported, response.connection_state), (1, 0), "{version}");
        let expected = if version >= Version::WIN10_V5_0 { 4 } else { version.0 };
        assert_eq!(response.connection_id_or_version, expected, "{version}");
    }
}

#[test]
fn other_versions_are_refused_and_the_next_try_may_succeed() {
    let guest = Guest::new(1, 16);
    for version in [Version::WS2008, Version::WIN7, Version::new(6, 0), Version(0), Version(!0)] {
        assert_eq!(guest.connect(version).supported, 0, "{version}");
    }
    assert_eq!(guest.server.version(), None);
    assert_eq!(guest.connect(Version::WIN10_V5_2).supported, 1);
    assert_eq!(guest.server.version(), Some(Version::WIN10_V5_2));
}

#[test]
fn messages_go_to_the_processor_and_sint_that_the_guest_names() {
    let guest = Guest::new(2, 16);
    let contact = InitiateContact {
        version: Version::WIN10_V5_0,
        target_vp: 1,
        interrupt_page_or_target: 5,
        parent_to_child_monitor_page: 0,
        child_to_parent_monitor_page: 0,
    };
    guest.post(&contact, &[]).unwrap();
    let posted = guest.mailbox.message().unwrap();
    assert_eq!((posted.vp, posted.sint, posted.payload.len()), (1, 5, 16));
}

#[test]
fn a_trust_level_or_a_sint_that_is_not_there_is_refused() {
    let guest = Guest::new(1, 16);
    for target in [0x102, 16] {
        let contact = InitiateContact {
            version: Version::WIN10_V5_0,
            target_vp: 0,
            interrupt_page_or_target: target,
            parent_to_child_monitor_page: 0,
            child_to_parent_monitor_page: 0,
        };
        assert_eq!(guest.call::<_, VersionResponse>(&contact).supported, 0);
    }
}

#[test]
fn an_offer_has_no_monitor_and_a_connection_of_its_own() {
    let (_, device, offer) = guest();
    assert_eq!(offer.instance, device.instance);
    assert_eq!((offer.monitor_allocated, offer.dedicated_interrupt), (0, 1));
    assert_eq!(offer.connection_id, 0x2000 + offer.relid);
    assert_eq!((offer.subchannel_index, offer.user_data), (0, [7; USER_DATA_SIZE]));
}

#[test]
fn packets_and_signals_travel_both_ways() {
    let (guest, device, mut channel) = opened();
    let mut host = device.take();
    assert!(channel.send(&OutgoingPacket::in_band(42, b"question")));
    assert!(host.doorbell().answer());
    let mut batch = host.incoming.batch().unwrap();
    assert_eq!(batch.next_packet().unwrap().unwrap().transaction_id, 42);
    assert!(!batch.finish().unwrap());
    host.outgoing.write(&OutgoingPacket::completion(42, b"response")).unwrap();
    assert!(host.outgoing.commit());
    host.interrupt();
    assert_eq!(guest.mailbox.events(), [(2, DEFAULT_SINT, channel.relid as u16)]);
    assert_eq!(channel.receive().unwrap().data, b"response");
    assert_eq!((device.counters.exits.value(), device.counters.interrupts.value()), (1, 1));
}

#[test]
fn a_channel_moves_to_another_processor_and_5_3_acknowledges() {
    let (guest, device, channel) = opened();
    let host = device.take();
    let relid = channel.relid;
    let response: ModifyChannelResponse = guest.call(&ModifyChannel { relid, target_vp: 3 });
    assert_eq!((response.relid, response.status), (relid, STATUS_SUCCESS));
    host.interrupt();
    assert_eq!(guest.mailbox.events(), [(3, DEFAULT_SINT, relid as u16)]);
    let response: ModifyChannelResponse = guest.call(&ModifyChannel { relid, target_vp: 4 });
    assert_eq!(response.status, STATUS_INVALID_PARAMETER);
}

#[test]
fn before_5_3_moving_a_channel_has_no_answer() {
    let mut guest = Guest::new(4, 256);
    let device = Shelf::new(1);
    guest.server.offer(device.clone()).unwrap();
    guest.connect(Version::WIN10_V5_2);
    let offer = guest.request_offers()[0];
    let channel = guest.open(&offer, 4, 0).unwrap();
    guest.post(&ModifyChannel { relid: channel.relid, target_vp: 1 }, &[]).unwrap();
    assert_eq!(guest.mailbox.message(), None);
    device.take().interrupt();
    assert_eq!(guest.mailbox.events(), [(1, DEFAULT_SINT, channel.relid as u16)]);
}

#[test]
fn closing_asks_the_device_and_the_rings_come_back_after_it_has_let_go() {
    let (guest, device, channel) = opened();
    let host = device.take();
    host.doorbell().answer();
    let (relid, gpadl) = (channel.relid, channel.gpadl);
    guest.post(&CloseChannel { relid }, &[]).unwrap();
    assert!(host.closing() && host.doorbell().answer());
    guest.post(&GpadlTeardown { relid, gpadl }, &[]).unwrap();
    assert_eq!(guest.mailbox.message(), None);
    drop(host);
    assert_eq!(guest.expect::<GpadlTorndown>().gpadl, gpadl);
    assert_eq!(guest.server.event(channel.connection_id, 0), Err(UnknownConnection));
}

#[test]
fn a_closed_channel_can_be_opened_again() {
    let (mut guest, device, channel) = opened();
    drop(device.take());
    guest.close(channel);
    guest.post_header(MessageType::UNLOAD).unwrap();
    assert_eq!(guest.mailbox.message().unwrap().message_type(), MessageType::UNLOAD_RESPONSE);
    guest.connect(Version::WIN8);
    let offer = guest.request_offers()[0];
    assert!(guest.open(&offer, 2, 0).is_ok());
}

#[test]
fn a_device_that_refuses_is_told_to_the_guest() {
    let mut guest = Guest::new(1, 64);
    guest.server.offer(Shelf::with(1, true)).unwrap();
    guest.connect(Version::WIN10);
    let offer = guest.request_offers()[0];
    assert_eq!(guest.open(&offer, 2, 0).err(), Some(STATUS_UNSUCCESSFUL));
}

#[test]
fn bad_open_requests_are_refused() {
    let (mut guest, _, offer) = guest();
    let frames = guest.allocate(8);
    let (gpadl, status) = guest.establish_gpadl(offer.relid, &frames);
    assert_eq!(status, STATUS_SUCCESS);
    let request = OpenChannel {
        relid: offer.relid,
        open_id: 9,
        ring_gpadl: gpadl,
        target_vp: 0,
        downstream_page_offset: 4,
        user_data: [0; USER_DATA_SIZE],
    };
    let bad = [
        OpenChannel { ring_gpadl: gpadl + 1, ..request },
        OpenChannel { relid: offer.relid + 1, ..request },
        OpenChannel { target_vp: 4, ..request },
        OpenChannel { downstream_page_offset: 0, ..request },
        OpenChannel { downstream_page_offset: 1, ..request },
        OpenChannel { downstream_page_offset: 7, ..request },
        OpenChannel { downstream_page_offset: 9, ..request },
        OpenChannel { downstream_page_offset: !0, ..request },
    ];
    for request in bad {
        let result: OpenChannelResult = guest.call(&request);
        assert_eq!((result.relid, result.open_id), (request.relid, 9));
        assert_ne!(result.status, STATUS_SUCCESS, "{request:?}");
    }
    assert_eq!(guest.call::<_, OpenChannelResult>(&request).status, STATUS_SUCCESS);
    assert_ne!(guest.call::<_, OpenChannelResult>(&request).status, STATUS_SUCCESS, "open already");
}

#[test]
fn a_gpadl_may_take_many_messages() {
    let (mut guest, _, offer) = guest();
    let frames = guest.allocate(200);
    assert_eq!(guest.establish_gpadl(offer.relid, &frames).1, STATUS_SUCCESS);
}

#[test]
fn gpadls_beyond_memory_or_with_wrong_sizes_are_refused() {
    let (mut guest, _, offer) = guest();
    assert_eq!(guest.establish_gpadl(offer.relid, &[1, 256]).1, STATUS_INVALID_PARAMETER);
    assert_eq!(guest.establish_gpadl(offer.relid, &[!0]).1, STATUS_INVALID_PARAMETER);
    assert_eq!(guest.establish_gpadl(offer.relid + 1, &[1]).1, STATUS_INVALID_PARAMETER);
    let words = |words: &[u64]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<_>>();
    let cases: [(u16, u16, &[u64]); 5] = [
        (0, 1, &[]),
        (16, 0, &[4096, 1]),
        (16, 2, &[4096, 1]),
        (16, 1, &[8192, 1]),
        (16, 1, &[0x1000 << 32 | 1, 1]),
    ];
    for (range_bytes, range_count, ranges) in cases {
        let header = GpadlHeader { relid: offer.relid, gpadl: 5, range_bytes, range_count };
        guest.post(&header, &words(ranges)).unwrap();
        assert_eq!(guest.expect::<GpadlCreated>().status, STATUS_INVALID_PARAMETER);
    }
}

#[test]
fn unfinished_gpadls_are_bounded() {
    let (guest, _, offer) = guest();
    let mut refused = 0;
    for gpadl in 0..200 {
        let header = GpadlHeader { relid: offer.relid, gpadl, range_bytes: 0xfff8, range_count: 1 };
        guest.post(&header, &[]).unwrap();
        refused += u32::from(guest.mailbox.message().is_some());
    }
    // 2^20 words hold 128 GPADLs of 8191 words.
    assert_eq!(refused, 200 - 128);
}

#[test]
fn subchannels_come_on_request_and_go_with_the_primary_channel() {
    let (mut guest, device, primary) = opened();
    let host = device.take();
    host.offer_subchannels(2).unwrap();
    host.offer_subchannels(2).unwrap();
    let offers: [OfferChannel; 2] = [guest.expect(), guest.expect()];
    assert_eq!(guest.mailbox.message(), None);
    assert_eq!(offers.map(|offer| offer.subchannel_index), [1, 2]);
    assert_eq!(offers.map(|offer| offer.instance), [device.instance; 2]);
    let channel = guest.open(&offers[0], 2, 1).unwrap();
    let sub = device.take();
    assert_eq!((sub.subchannel_index(), host.subchannel_index()), (1, 0));
    drop(sub);
    guest.close(channel);
    drop(host);
    guest.post(&CloseChannel { relid: primary.relid }, &[]).unwrap();
    let rescinded: [RescindChannelOffer; 2] = [guest.expect(), guest.expect()];
    assert_eq!(rescinded.map(|rescind| rescind.relid), offers.map(|offer| offer.relid));
    for offer in offers {
        guest.post(&RelidReleased { relid: offer.relid }, &[]).unwrap();
    }
    guest.server.offer(Shelf::new(2)).unwrap();
    assert_eq!(guest.expect::<OfferChannel>().relid, offers[0].relid, "numbers are used anew");
}

#[test]
fn a_device_that_is_added_later_is_offered_at_once() {
    let (guest, ..) = guest();
    let late = Shelf::new(9);
    guest.server.offer(late.clone()).unwrap();
    assert_eq!(guest.expect::<OfferChannel>().instance, late.instance);
    assert_eq!(guest.server.offer(late.clone()), Err(OfferError::Duplicate(late.instance)));
}

#[test]
fn a_removed_device_is_rescinded_and_dropped_after_the_guest_has_forgotten_it() {
    let (guest, device, channel) = opened();
    let host = device.take();
    assert!(guest.server.rescind(device.instance));
    assert!(!guest.server.rescind(device.instance));
    assert_eq!(guest.expect::<RescindChannelOffer>().relid, channel.relid);
    assert!(host.closing());
    drop(host);
    assert_eq!(Arc::strong_count(&device), 2);
    guest.post(&RelidReleased { relid: channel.relid }, &[]).unwrap();
    assert_eq!(Arc::strong_count(&device), 1);
}

#[test]
fn unloading_waits_for_the_devices() {
    let (guest, device, _channel) = opened();
    guest.post_header(MessageType::UNLOAD).unwrap();
    assert_eq!(guest.mailbox.message(), None);
    drop(device.take());
    assert_eq!(guest.mailbox.message().unwrap().message_type(), MessageType::UNLOAD_RESPONSE);
    assert_eq!(guest.server.version(), None);
}

#[test]
fn a_guest_that_connects_anew_without_unloading_gets_an_answer_when_channels_are_closed() {
    let (guest, device, _channel) = opened();
    let contact = InitiateContact {
        version: Version::WIN10,
        target_vp: 3,
        interrupt_page_or_target: 0,
        parent_to_child_monitor_page: 0,
        child_to_parent_monitor_page: 0,
    };
    guest.post(&contact, &[]).unwrap();
    assert_eq!(guest.mailbox.message(), None);
    drop(device.take());
    assert_eq!(guest.mailbox.message().unwrap().vp, 3);
    assert_eq!(guest.request_offers().len(), 1);
}

#[test]
fn reset_takes_all_channels_back() {
    let (guest, device, _channel) = opened();
    let host = device.take();
    let server = guest.server.clone();
    let reset = std::thread::spawn(move || server.reset());
    while !host.closing() {
        std::thread::yield_now();
    }
    drop(host);
    reset.join().unwrap();
    assert_eq!(guest.server.version(), None);
    assert_eq!(guest.connect(Version::WIN10_V5_3).supported, 1);
}

#[test]
fn messages_wait_for_a_free_slot_and_a_guest_that_does_not_read_has_to_wait() {
    let (guest, ..) = guest();
    guest.mailbox.set_full(true);
    let request = GpadlHeader { relid: 99, gpadl: 1, range_bytes: 16, range_count: 1 };
    let refused = (0..1000).filter(|_| guest.post(&request, &[]) == Err(Busy)).count();
    assert_eq!(refused, 1000 - 256);
    guest.mailbox.set_full(false);
    guest.server.retry_messages();
    let answers = std::iter::from_fn(|| guest.mailbox.message()).count();
    assert_eq!(answers, 256);
}

#[test]
fn a_socket_connection_is_refused() {
    let (guest, ..) = guest();
    let (endpoint, service) = (Guid::new(1, 2, 3, [4; 8]), Guid::new(5, 6, 7, [8; 8]));
    let result: TlConnectResult = guest.call(&TlConnectRequest { endpoint, service });
    assert_eq!((result.endpoint, result.service), (endpoint, service));
    assert_eq!(result.status, STATUS_CONNECTION_REFUSED);
}

#[test]
fn nonsense_changes_nothing() {
    let (guest, ..) = guest();
    for message in [&[][..], &[3, 0, 0], &[99, 0, 0, 0, 0, 0, 0, 0], &[5, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0]] {
        guest.server.message(message).unwrap();
    }
    assert_eq!(guest.mailbox.message(), None);
    for id in [0, 1, 0x1fff, 0x2000, 0x2fff, !0] {
        assert_eq!(guest.server.event(id, 0), Err(UnknownConnection));
    }
}
