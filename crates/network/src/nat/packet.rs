//! IP packets in frames: the headers that a guest has written, and packets to it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{IpProtocol, IpRepr, TcpPacket, UDP_HEADER_LEN, UdpPacket, UdpRepr, checksum};

use super::addresses::MAC;
use super::fragments;
pub(super) use crate::frame::{ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6, IPV4_HEADER, IPV6_HEADER};
use crate::frame::{Frame, HEADER, Mac};

/// Bytes of a packet that go in a frame.
pub(super) const MTU: usize = 1500;

/// The type of what `data` carries.
pub(super) fn ethertype(data: &[u8]) -> Option<u16> {
    data.get(12..)?.first_chunk().copied().map(u16::from_be_bytes)
}

/// A packet of IP that is in a frame as a whole.
#[derive(Debug)]
pub(super) struct Packet<'a> {
    pub source: IpAddr,
    pub destination: IpAddr,
    pub protocol: IpProtocol,
    /// What IP's header says of the hops that are left.
    pub hop_limit: u8,
    /// IP's header and its options.
    pub header: &'a [u8],
    pub payload: &'a [u8],
    /// Whether the payload's checksum is right or not made yet.
    trusted: bool,
}

impl<'a> Packet<'a> {
    /// The packet in `frame`. `None` if there is none, if it is a part of one, or damaged.
    pub fn parse(frame: &'a Frame) -> Option<Self> {
        let data = frame.data.get(HEADER..)?;
        match ethertype(&frame.data)? {
            ETHERTYPE_IPV4 => Self::parse4(frame, data),
            ETHERTYPE_IPV6 => Self::parse6(frame, data),
            _ => None,
        }
    }

    fn parse4(frame: &Frame, data: &'a [u8]) -> Option<Self> {
        let fixed: &[u8; IPV4_HEADER] = data.first_chunk()?;
        let word = |at: usize| u16::from_be_bytes([fixed[at], fixed[at + 1]]);
        let header = usize::from(fixed[0] & 0xf) * 4;
        // What is to be cut may be longer than its length says, or say nothing.
        let total = if frame.segments.is_some() { data.len() } else { usize::from(word(2)) };
        if fixed[0] >> 4 != 4 || header < IPV4_HEADER || total > usize::from(u16::MAX) {
            return None;
        }
        let (header, payload) = data.get(..total)?.split_at_checked(header)?;
        let made = frame.verified || frame.segments.is_some();
        if fragments::is(frame) || !made && checksum::data(header) != !0 {
            return None;
        }
        let address =
            |at: usize| Ipv4Addr::new(fixed[at], fixed[at + 1], fixed[at + 2], fixed[at + 3]).into();
        Some(Self {
            source: address(12),
            destination: address(16),
            protocol: fixed[9].into(),
            hop_limit: fixed[8],
            header,
            payload,
            trusted: made || frame.checksum.is_some(),
        })
    }

    fn parse6(frame: &Frame, data: &'a [u8]) -> Option<Self> {
        let fixed: &[u8; IPV6_HEADER] = data.first_chunk()?;
        let said = usize::from(u16::from_be_bytes([fixed[4], fixed[5]]));
        let total = if frame.segments.is_some() { data.len() } else { IPV6_HEADER + said };
        if fixed[0] >> 4 != 6 || total - IPV6_HEADER > usize::from(u16::MAX) {
            return None;
        }
        let (header, payload) = data.get(..total)?.split_at_checked(IPV6_HEADER)?;
        let address = |at: usize| Some(Ipv6Addr::from(*fixed.get(at..)?.first_chunk::<16>()?).into());
        Some(Self {
            source: address(8)?,
            destination: address(24)?,
            protocol: fixed[6].into(),
            hop_limit: fixed[7],
            header,
            payload,
            trusted: frame.verified || frame.segments.is_some() || frame.checksum.is_some(),
        })
    }

    /// Bytes of the frame up to the packet's end; Ethernet pads short ones.
    pub fn frame_len(&self) -> usize {
        HEADER + self.header.len() + self.payload.len()
    }

    /// The segment of TCP in it, if it is sound.
    pub fn tcp(&self) -> Option<TcpPacket<&'a [u8]>> {
        let segment = TcpPacket::new_checked(self.payload).ok()?;
        let right = self.trusted || segment.verify_checksum(&self.source.into(), &self.destination.into());
        (right && segment.src_port() != 0 && segment.dst_port() != 0).then_some(segment)
    }

    /// The datagram of UDP in it, if it is sound.
    pub fn udp(&self) -> Option<UdpPacket<&'a [u8]>> {
        let datagram = UdpPacket::new_checked(self.payload).ok()?;
        let right = self.trusted || datagram.verify_checksum(&self.source.into(), &self.destination.into());
        (right && datagram.src_port() != 0 && datagram.dst_port() != 0).then_some(datagram)
    }
}

/// The version of IP in `frame`, by the packet's own header: frames to guests get Ethernet's last.
pub(super) fn version(frame: &[u8]) -> Option<u8> {
    frame.get(HEADER).map(|byte| byte >> 4)
}

/// Writes how long a packet is into its header: in what is to be cut it may be missing.
pub(super) fn set_length(frame: &mut [u8]) {
    let (at, len) = match version(frame) {
        Some(4) => (HEADER + 2, frame.len().saturating_sub(HEADER)),
        Some(6) => (HEADER + 4, frame.len().saturating_sub(HEADER + IPV6_HEADER)),
        _ => return,
    };
    if let (Some(field), Ok(len)) = (frame.get_mut(at..at + 2), u16::try_from(len)) {
        field.copy_from_slice(&len.to_be_bytes());
    }
}

/// Writes the Ethernet header of a frame from the router. Frames shorter than that stay as they are.
pub(super) fn set_ethernet(frame: &mut [u8], to: Mac, ethertype: u16) {
    if let Some(header) = frame.first_chunk_mut::<HEADER>() {
        header[..6].copy_from_slice(&to.0);
        header[6..12].copy_from_slice(&MAC.0);
        header[12..].copy_from_slice(&ethertype.to_be_bytes());
    }
}

/// The type of a frame with a packet to `address`.
pub(super) fn ethertype_of(address: IpAddr) -> u16 {
    if address.is_ipv4() { ETHERTYPE_IPV4 } else { ETHERTYPE_IPV6 }
}

/// A frame to nobody yet with a packet of IP; `fill` writes its `len` bytes of payload. The addresses are of one family.
pub(super) fn ip_frame(
    (source, destination): (IpAddr, IpAddr),
    protocol: IpProtocol,
    hop_limit: u8,
    len: usize,
    fill: impl FnOnce(&mut [u8]),
) -> Vec<u8> {
    let header = IpRepr::new(source.into(), destination.into(), protocol, len, hop_limit);
    let mut data = vec![0; HEADER + header.header_len() + len];
    header.emit(&mut data[HEADER..], &ChecksumCapabilities::default());
    fill(&mut data[HEADER + header.header_len()..]);
    data
}

/// The same with a datagram of UDP.
pub(super) fn udp_frame(from: SocketAddr, to: SocketAddr, payload: &[u8]) -> Vec<u8> {
    let header = UdpRepr { src_port: from.port(), dst_port: to.port() };
    let addresses = (from.ip(), to.ip());
    ip_frame(addresses, IpProtocol::Udp, 64, UDP_HEADER_LEN + payload.len(), |data| {
        header.emit(
            &mut UdpPacket::new_unchecked(data),
            &from.ip().into(),
            &to.ip().into(),
            payload.len(),
            |room| room.copy_from_slice(payload),
            &ChecksumCapabilities::default(),
        );
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{Segments, TcpOver};

    const GUEST: &str = "10.0.2.15:1000";
    const PEER: &str = "1.2.3.4:53";

    fn datagram(len: usize) -> Vec<u8> {
        let mut data = udp_frame(GUEST.parse().unwrap(), PEER.parse().unwrap(), &vec![7; len]);
        set_ethernet(&mut data, Mac::BROADCAST, ETHERTYPE_IPV4);
        data
    }

    #[test]
    fn a_packet_ends_where_it_says() {
        let mut data = datagram(3);
        data.resize(60, 0);
        let frame = Frame::new(data);
        let packet = Packet::parse(&frame).unwrap();
        assert_eq!((packet.source, packet.frame_len()), ("10.0.2.15".parse().unwrap(), 14 + 20 + 8 + 3));
        assert_eq!(packet.udp().unwrap().payload(), [7; 3]);
    }

    #[test]
    fn damage_is_seen_unless_the_checksum_is_to_be_made() {
        let mut data = datagram(3);
        *data.last_mut().unwrap() ^= 1;
        let mut frame = Frame::new(data);
        assert!(Packet::parse(&frame).unwrap().udp().is_none());
        frame.verified = true;
        assert!(Packet::parse(&frame).unwrap().udp().is_some());
        frame.data[HEADER + 8] ^= 1;
        assert!(Packet::parse(&frame).is_some());
        frame.verified = false;
        assert!(Packet::parse(&frame).is_none());
    }

    #[test]
    fn what_is_to_be_cut_is_as_long_as_its_frame() {
        let mut data = datagram(3000);
        data[HEADER + 2..HEADER + 4].fill(0);
        let segments = Some(Segments { tcp: TcpOver::V4, size: 1460, header: 54 });
        let mut frame = Frame { segments, ..Frame::new(data) };
        assert_eq!(Packet::parse(&frame).unwrap().payload.len(), 3008);
        set_length(&mut frame.data);
        frame.segments = None;
        frame.verified = true;
        assert_eq!(Packet::parse(&frame).unwrap().payload.len(), 3008);
        frame.data.resize(HEADER + 70_000, 0);
        frame.segments = segments;
        assert!(Packet::parse(&frame).is_none());
    }

    #[test]
    fn any_prefix_of_a_packet_is_none_at_all() {
        let data = datagram(3);
        for len in 0..data.len() {
            assert!(Packet::parse(&Frame::new(data[..len].to_vec())).is_none(), "{len}");
        }
    }
}
