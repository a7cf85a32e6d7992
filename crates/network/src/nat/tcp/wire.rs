//! The device between the TCP stack and frames: packets without Ethernet, whose checksums whoever needs them makes and
//! which whoever has to cuts.

use std::num::NonZeroUsize;

use smoltcp::phy::{
    ChecksumCapabilities, Device, DeviceCapabilities, Medium, PacketMeta, RxToken, SegmentationCapabilities,
    TxToken,
};
use smoltcp::time::Instant;
use smoltcp::wire::TcpPacket;

use super::super::packet::{IPV4_HEADER, IPV6_HEADER, MTU};
use crate::frame::{Checksum, Frame, HEADER, Segments, TcpOver};

/// Where TCP's header has its checksum.
const CHECKSUM: u16 = 16;
/// The longest packet, with its header.
const LONGEST: usize = u16::MAX as usize;

/// What comes in and goes out, each with room for Ethernet's header.
#[derive(Default)]
pub(super) struct Wire {
    pub incoming: Option<Vec<u8>>,
    pub outgoing: Vec<Outgoing>,
}

/// A packet that goes out.
pub(super) struct Outgoing {
    data: Vec<u8>,
    meta: PacketMeta,
}

impl Outgoing {
    /// The frame of it, without Ethernet's header.
    pub fn frame(mut self) -> Option<Frame> {
        // What is sent is told by IP's version; there is no header of Ethernet yet.
        let v4 = self.data.get(HEADER)? >> 4 == 4;
        let header = HEADER + if v4 { IPV4_HEADER } else { IPV6_HEADER };
        let len = self.data.len().checked_sub(header)?;
        let addresses = self.data.get(if v4 { header - 8 } else { header - 32 }..header)?;
        let sum = pseudo_header(addresses, len);
        let segment = self.data.get_mut(header..)?;
        let headers = {
            let mut segment = TcpPacket::new_checked(segment).ok()?;
            segment.set_checksum(sum);
            header + usize::from(segment.header_len())
        };
        let segments = self.meta.segmentation_offload_size.map(|size| Segments {
            tcp: if v4 { TcpOver::V4 } else { TcpOver::V6 },
            size: size.get(),
            header: headers as u16,
        });
        let checksum = Some(Checksum { start: header as u16, offset: CHECKSUM });
        Some(Frame { data: self.data, checksum, segments, verified: true })
    }
}

/// The sum over TCP's pseudo header (RFC 9293, section 3.1; RFC 8200, section 8.1), not inverted.
fn pseudo_header(addresses: &[u8], len: usize) -> u16 {
    const TCP: u32 = 6;
    let words = addresses.chunks_exact(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])));
    let mut sum = words.sum::<u32>() + TCP + len as u32;
    while sum > u32::from(u16::MAX) {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    sum as u16
}

/// A packet that comes in.
pub(super) struct Incoming(Vec<u8>);

impl RxToken for Incoming {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, take: F) -> R {
        take(self.0.get(HEADER..).unwrap_or_default())
    }
}

/// Room for a packet that goes out.
pub(super) struct Room<'a> {
    outgoing: &'a mut Vec<Outgoing>,
    meta: PacketMeta,
}

impl TxToken for Room<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, fill: F) -> R {
        let mut data = vec![0; HEADER + len];
        let result = fill(&mut data[HEADER..]);
        self.outgoing.push(Outgoing { data, meta: self.meta });
        result
    }

    fn set_meta(&mut self, meta: PacketMeta) {
        self.meta = meta;
    }
}

impl Device for Wire {
    type RxToken<'a> = Incoming;
    type TxToken<'a> = Room<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Incoming, Room<'_>)> {
        let room = Room { outgoing: &mut self.outgoing, meta: PacketMeta::default() };
        self.incoming.take().map(|data| (Incoming(data), room))
    }

    fn transmit(&mut self, _: Instant) -> Option<Room<'_>> {
        Some(Room { outgoing: &mut self.outgoing, meta: PacketMeta::default() })
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut segmentation = SegmentationCapabilities::default();
        segmentation.tcpv4 = NonZeroUsize::new(LONGEST);
        segmentation.tcpv6 = NonZeroUsize::new(LONGEST);
        let mut checksum = ChecksumCapabilities::ignored();
        checksum.ipv4 = smoltcp::phy::Checksum::Tx;
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = MTU;
        capabilities.checksum = checksum;
        capabilities.segmentation = segmentation;
        capabilities
    }
}
