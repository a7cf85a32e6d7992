//! The entry of the fuzz target: a guest that sends anything at any time, and hosts that are none.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, channel};

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::time::{Duration, Instant};
use smoltcp::wire::{IpProtocol, TcpControl, TcpPacket, TcpRepr, TcpSeqNumber};

use super::NatSettings;
use super::addresses::{self, FIRST_GUEST, MAC, PREFIX6};
use super::fake::FakeHost;
use super::fragments;
use super::host::{Event, Key};
use super::network::Network;
use super::packet::{ethertype_of, ip_frame, set_ethernet, udp_frame};
use crate::frame::{Checksum, Frame, HEADER, Mac, Segments, TcpOver};

/// More than what connections, flows and pings there can be at once from one input.
const OPEN: usize = 1024 + 1024 + 64 + 8;
/// Steps of one input.
const STEPS: usize = 256;

const GUEST: Mac = Mac([0, 0x15, 0x5d, 0, 0, 1]);

struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn u8(&mut self) -> u8 {
        self.slice(1).first().copied().unwrap_or(0)
    }

    fn u16(&mut self) -> u16 {
        u16::from_le_bytes([self.u8(), self.u8()])
    }

    fn slice(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        taken
    }
}

/// What the guest knows of its connections: what it sends is near to what is expected, so that it gets far.
struct Guest {
    sent: TcpSeqNumber,
    received: TcpSeqNumber,
    frames: Receiver<Frame>,
}

impl Guest {
    fn addresses(input: &mut Input<'_>) -> (IpAddr, IpAddr) {
        let choice = input.u8();
        let guest6 = Ipv6Addr::from(u128::from(PREFIX6) | 0x15);
        match choice % 8 {
            0 => (FIRST_GUEST.into(), addresses::GATEWAY.into()),
            1 => (FIRST_GUEST.into(), addresses::DNS.into()),
            2 => (guest6.into(), addresses::GATEWAY6.into()),
            3 => (guest6.into(), Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into()),
            4 => (Ipv4Addr::UNSPECIFIED.into(), Ipv4Addr::BROADCAST.into()),
            _ => (FIRST_GUEST.into(), Ipv4Addr::new(1, 2, 3, choice / 8).into()),
        }
    }

    fn segment(&mut self, input: &mut Input<'_>) -> Frame {
        let (guest, peer) = Self::addresses(input);
        let flags = input.u8();
        let control = match flags & 7 {
            0 | 1 => TcpControl::Syn,
            2 => TcpControl::Fin,
            3 => TcpControl::Rst,
            4 => TcpControl::Psh,
            _ => TcpControl::None,
        };
        let is_syn = control == TcpControl::Syn;
        let offset = |byte: u8| if byte < 128 { 0 } else { usize::from(byte - 128) };
        let seq_number = self.sent + offset(input.u8());
        let payload = vec![flags; if flags & 8 != 0 { usize::from(input.u16()) % 5000 } else { 0 }];
        let segment = TcpRepr {
            src_port: 1000 + u16::from(flags >> 6),
            dst_port: 400 + u16::from(input.u8() % 8),
            control,
            seq_number,
            ack_number: (flags & 7 != 0).then(|| self.received + offset(input.u8())),
            window_len: input.u16(),
            window_scale: (is_syn && flags & 16 != 0).then(|| input.u8() % 15),
            max_seg_size: is_syn.then(|| input.u16()),
            sack_permitted: is_syn,
            sack_ranges: [None; 3],
            timestamp: None,
            payload: &payload,
        };
        self.sent = seq_number + segment.segment_len();
        let data = ip_frame((guest, peer), IpProtocol::Tcp, 64, segment.buffer_len(), |room| {
            let room = &mut TcpPacket::new_unchecked(room);
            segment.emit(room, &guest.into(), &peer.into(), &ChecksumCapabilities::default());
        });
        self.frame(data, peer)
    }

    fn frame(&self, mut data: Vec<u8>, to: IpAddr) -> Frame {
        set_ethernet(&mut data, MAC, ethertype_of(to));
        data[6..12].copy_from_slice(&GUEST.0);
        Frame::new(data)
    }

    /// Looks at what has come.
    fn look(&mut self) {
        for frame in self.frames.try_iter() {
            let ip = frame.data.get(HEADER..).unwrap_or_default();
            let header = match ip.first() {
                Some(0x45) if ip.get(9) == Some(&6) => 20,
                Some(0x60) if ip.get(6) == Some(&6) => 40,
                _ => continue,
            };
            let segment = TcpPacket::new_checked(ip.get(header..).unwrap_or_default());
            let segment = segment.expect("what is sent is sound");
            self.received = segment.seq_number() + segment.segment_len();
            if segment.ack() {
                self.sent = segment.ack_number();
            }
            if let Some(Segments { size, header, .. }) = frame.segments {
                assert!(size != 0 && usize::from(header) < frame.data.len());
            }
        }
    }
}

fn raw(input: &mut Input<'_>) -> Frame {
    let (choice, len) = (input.u8(), input.u16());
    let mut data = input.slice(usize::from(len) % 2000).to_vec();
    if choice & 1 != 0 && data.len() >= HEADER {
        data[..6].copy_from_slice(&MAC.0);
        data[6..12].copy_from_slice(&GUEST.0);
    }
    let mut frame = Frame { verified: choice & 2 != 0, ..Frame::new(data) };
    spoil(&mut frame, choice, input);
    frame
}

fn spoil(frame: &mut Frame, choice: u8, input: &mut Input<'_>) {
    if choice & 4 != 0 {
        frame.checksum = Some(Checksum { start: input.u16(), offset: input.u16() });
    }
    if choice & 8 != 0 {
        let tcp = if choice & 16 != 0 { TcpOver::V6 } else { TcpOver::V4 };
        frame.segments = Some(Segments { tcp, size: input.u16().max(1), header: input.u16() });
    }
    if choice & 32 != 0 {
        let at = usize::from(input.u8());
        if let Some(byte) = frame.data.get_mut(at) {
            *byte = input.u8();
        }
    }
}

/// Sends what `data` says.
pub fn frames(data: &[u8]) {
    let mut input = Input(data);
    let (sender, frames) = channel();
    let forwards = ["tcp::2-:22", "udp::5-:5"].map(|forward| forward.parse().expect("a forward"));
    let settings =
        NatSettings { host_reachable: true, forwards: forwards.to_vec(), ..NatSettings::default() };
    // Nobody listens any more when the input has ended.
    let output = Box::new(move |frame| drop(sender.send(frame)));
    let mut network = Network::new(FakeHost::default(), &settings, 1, output).expect("nothing can fail");
    let mut guest = Guest { sent: TcpSeqNumber(1), received: TcpSeqNumber(1), frames };
    let (mut now, mut keys) = (Instant::ZERO, Vec::<Key>::new());
    let open = Arc::clone(&network.host().open);
    for _ in 0..STEPS {
        match input.u8() % 8 {
            0 => network.frame(now, raw(&mut input)),
            1..=3 => {
                let choice = input.u8();
                let mut frame = guest.segment(&mut input);
                spoil(&mut frame, choice, &mut input);
                network.frame(now, frame);
            }
            4 => {
                let (from, to) = Guest::addresses(&mut input);
                let ports = (input.u16(), if input.u8() & 1 == 0 { 67 } else { input.u16() });
                let len = usize::from(input.u16()) % 4000;
                let mut payload = input.slice(len % 600).to_vec();
                payload.resize(len, 0);
                let datagram = udp_frame((from, ports.0).into(), (to, ports.1).into(), &payload);
                for piece in fragments::cut(datagram, input.u8().into()) {
                    let mut frame = guest.frame(piece, to);
                    spoil(&mut frame, input.u8() & !8, &mut input);
                    network.frame(now, frame);
                }
            }
            5 => {
                keys.append(&mut network.host().keys);
                let choice = usize::from(input.u8());
                if let Some(&key) = keys.get(choice % keys.len().max(1)) {
                    network
                        .event(now, Event { key, readable: choice & 64 == 0, writable: choice & 128 == 0 });
                }
            }
            6 => {
                keys.append(&mut network.host().keys);
                for &key in &keys {
                    network.event(now, Event { key, readable: true, writable: true });
                }
            }
            _ => now += Duration::from_millis(1 << (input.u8() % 21)),
        }
        network.poll(now);
        guest.look();
        assert!(open.load(Ordering::Relaxed) <= OPEN, "too much is open");
        if input.0.is_empty() {
            break;
        }
    }
    // What nobody uses goes in the end: connections after the guest's silence, and what is left is one more of those.
    for _ in 0..8 {
        now += Duration::from_secs(1000);
        network.poll(now);
    }
    assert_eq!(network.flows(), (0, 0), "something stays");
    drop(network);
    assert_eq!(open.load(Ordering::Relaxed), 0);
}
