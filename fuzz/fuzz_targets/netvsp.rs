//! What a guest says to its network adapter, and what comes to it from the network. Whatever it is, frames stay bounded,
//! the adapter goes on, and the channel can be closed.
#![no_main]

use std::sync::Arc;
use std::thread;

use counters::DeviceCounters;
use fuzz::Input;
use libfuzzer_sys::fuzz_target;
use network::{Checksum, Frame, Guards, Mac, PortSettings, Segments, Switch, TcpOver};
use synthetic::network::protocol::{ALLOCATE, CAN_COALESCE, DATA, NO_SECTION, kind};
use synthetic::network::{NetworkAdapter, NetworkSettings, network_instance};
use vm_memory::{Bytes, GuestAddress};
use vmbus::loopback::{Guest, GuestChannel};
use vmbus::protocol::{
    CloseChannel, GpadlTeardown, GpadlTorndown, OfferChannel, RescindChannelOffer, Version,
};
use vmbus::ring::OutgoingPacket;

const PAGES: u64 = 1 << 9;
const RING_PAGES: u64 = 4;
const BUFFER_PAGES: u64 = 16;
/// Steps for one input.
const STEPS: usize = 64;
const MAC: Mac = Mac([0x00, 0x15, 0x5d, 0, 0, 1]);

fn send(channel: &mut GuestChannel, packet: &OutgoingPacket<'_>) {
    while !channel.send(packet) {
        // The host makes no room before the guest does.
        channel.receive();
        thread::yield_now();
    }
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    let mut guest = Guest::new(1, PAGES);
    let switch = Switch::new();
    let guards = Guards { dhcp: true, router: true };
    let settings = PortSettings { queues: 2, guards, ..PortSettings::default() };
    let port = Arc::new(switch.port(settings).unwrap());
    let other = switch.port(PortSettings::default()).unwrap();
    let (name, counters) = ("network0".to_owned(), DeviceCounters::default());
    let instance = network_instance(0);
    let adapter = NetworkAdapter::new(NetworkSettings { name, instance, mac: MAC, port, counters });
    guest.server.offer(Arc::clone(&adapter) as Arc<_>).unwrap();
    guest.connect(Version::WIN10_V5_3);
    let offer = guest.request_offers()[0];
    let mut channel = guest.open(&offer, RING_PAGES, 0).unwrap();
    let memory = guest.memory.clone();
    let (receive, buffer) = (guest.allocate(BUFFER_PAGES), guest.allocate(BUFFER_PAGES));
    let gpadls = [guest.establish_gpadl(offer.relid, &receive).0, guest.establish_gpadl(offer.relid, &buffer).0];
    let say = |channel: &mut GuestChannel, kind: u32, body: &[u32]| {
        let message = [kind.to_le_bytes().to_vec(), words(body)].concat();
        let packet = OutgoingPacket { completion_requested: true, ..OutgoingPacket::in_band(1, &message) };
        send(channel, &packet);
    };
    if input.u8() & 3 != 0 {
        say(&mut channel, kind::INIT, &[0x6_0001, 0x6_0001]);
        say(&mut channel, kind::SEND_NDIS_CONFIG, &[1514, 0, CAN_COALESCE, 0]);
        say(&mut channel, kind::SEND_RECEIVE_BUFFER, &[gpadls[0], 1]);
        say(&mut channel, kind::SEND_SEND_BUFFER, &[gpadls[1], 0]);
    }
    let mut second = None;
    if input.u8() & 1 != 0 {
        say(&mut channel, kind::INIT, &[0x6_0001, 0x6_0001]);
        say(&mut channel, kind::SUBCHANNEL, &[ALLOCATE, 1]);
        let offer = guest.expect::<OfferChannel>();
        second = Some(guest.open(&offer, RING_PAGES, 0).unwrap());
    }
    for _ in 0..STEPS {
        // The two channels take turns if the input says so.
        if let Some(second) = second.as_mut().filter(|_| input.u8() & 3 == 0) {
            std::mem::swap(&mut channel, second);
        }
        match input.u8() % 8 {
            0 => {
                let body: Vec<u32> = (0..input.u8() % 6).map(|_| input.u32()).collect();
                say(&mut channel, u32::from(input.u8()), &body);
            }
            1 => {
                let kind = [kind::SEND_RECEIVE_BUFFER, kind::SEND_SEND_BUFFER, kind::REVOKE_RECEIVE_BUFFER];
                say(&mut channel, kind[usize::from(input.u8()) % 3], &[gpadls[usize::from(input.u8() & 1)], 1]);
            }
            2 => {
                let data = words(&[kind::SEND_RNDIS_PACKET_COMPLETE, 1]);
                send(&mut channel, &OutgoingPacket::completion(u64::from(input.u8()), &data));
            }
            3 => {
                let length = usize::from(input.u16() % 2000);
                let mut frame = Frame::new(MAC.0.iter().copied().cycle().take(length).collect());
                let (start, offset) = (input.u16() % 128, input.u16() % 64);
                frame.checksum = (input.u8() & 1 != 0).then_some(Checksum { start, offset });
                let tcp = if input.u8() & 1 != 0 { TcpOver::V4 } else { TcpOver::V6 };
                let (size, header) = (input.u16() % 512, input.u16() % 128);
                frame.segments = (input.u8() & 1 != 0).then_some(Segments { tcp, size, header });
                other.send(frame);
            }
            4 => {
                // A request: filter, addresses, anything.
                let oid =
                    [0x0001_010e, 0x0001_021b, 0xfc01_020d, 0x0101_0101, 0x0001_0204, 0xfc01_020c, input.u32()];
                let oid = oid[usize::from(input.u8()) % oid.len()];
                let (length, offset) = (u32::from(input.u8() % 64), u32::from(input.u8() % 64));
                let mut message = words(&[u32::from(input.u8() % 10), 64, 1, oid, length, offset, 0]);
                message.resize_with(64, || input.u8());
                memory.write_slice(&message, GuestAddress(buffer[0] << 12)).unwrap();
                say(&mut channel, kind::SEND_RNDIS_PACKET, &[1, 0, 64]);
            }
            _ => {
                let length = u32::from(input.u8());
                let infos = u32::from(input.u8() % 64);
                let (type_, size) = (u32::from(input.u8() % 8), u32::from(input.u8() % 32));
                let value = input.u32();
                let mut message =
                    words(&[1, 44 + infos + length, 36 + infos, length, 0, 0, 0, 36, infos, 0, 0, size, type_, 12, value]);
                message.resize_with((44 + infos + length).max(60) as usize, || input.u8());
                memory.write_slice(&message, GuestAddress(buffer[0] << 12)).unwrap();
                let section = if input.u8() & 7 == 0 { NO_SECTION } else { u32::from(input.u8() & 1) };
                let size = if input.u8() & 7 == 0 { input.u32() } else { message.len() as u32 };
                say(&mut channel, kind::SEND_RNDIS_PACKET, &[DATA, section, size]);
            }
        }
        while channel.receive().is_some() {}
        while second.as_mut().is_some_and(|second| second.receive().is_some()) {}
        while let Some(frame) = other.receive() {
            frame.finish().iter().for_each(|frame| assert!(frame.data.len() <= 1 << 17));
        }
        if input.is_empty() {
            break;
        }
    }
    match second {
        None => guest.close(channel),
        Some(mut second) => {
            // The primary channel goes last: the other one, which has been closed, vanishes then.
            if second.relid == offer.relid {
                std::mem::swap(&mut channel, &mut second);
            }
            guest.close(second);
            let (relid, gpadl) = (channel.relid, channel.gpadl);
            guest.post(&CloseChannel { relid }, &[]).unwrap();
            guest.expect::<RescindChannelOffer>();
            guest.call::<_, GpadlTorndown>(&GpadlTeardown { relid, gpadl });
        }
    }
    assert!(adapter.state().text.starts_with("no driver"));
});
