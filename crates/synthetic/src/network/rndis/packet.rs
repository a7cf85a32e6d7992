//! Messages with a frame.

use std::ops::Range;

use network::{Checksum, Frame, HEADER as ETHERNET, Segments, TcpOver};

use super::{HEADER, Message, Source, bytes, kind, part, word, words};

/// Bytes of a VLAN tag.
const TAG: u16 = 4;
/// Bytes of a packet message's fields behind type and length.
const FIELDS: usize = 36;
/// Kinds of information about a packet.
const INFO_CHECKSUM: u32 = 0;
const INFO_LARGE_SEND: u32 = 2;
const INFO_VLAN: u32 = 6;
/// Of those that are Hyper-V's own: which part of a packet it is.
const INFO_PART: u32 = 1 << 31 | 1;
/// Bytes of such an information's header, and with a word behind it.
const INFO: usize = 12;
const INFO_WITH_WORD: usize = INFO + 4;
/// Bytes of all the information about a packet: more than all kinds together have.
const LONGEST_INFO: usize = 1024;
/// Bytes that a message has beside its frame at the most, as it is written here.
pub const OVERHEAD: usize = HEADER + FIELDS + 2 * INFO_WITH_WORD;

/// The frame in a packet message. `None` if there is none.
pub fn frame(source: &(impl Source + ?Sized), message: &Message) -> Option<Frame> {
    let Range { start, end } = message.body;
    let [offset, length, _, _, _, info_offset, info_length] = words(source, start)?;
    let within = |offset: u32, length: u32| {
        let from = start.checked_add(usize::try_from(offset).ok()?)?;
        let to = from.checked_add(usize::try_from(length).ok()?)?;
        (to <= end).then_some(from..to)
    };
    let data = within(offset, length).filter(|data| data.len() >= ETHERNET)?;
    let info = within(info_offset, info_length).filter(|info| info.len() <= LONGEST_INFO)?;
    let mut frame = Frame::new(bytes(source, data)?);
    let mut info_bytes = [0; LONGEST_INFO];
    let mut infos = info_bytes.get_mut(..info.len())?;
    source.read(info.start, infos)?;
    let mut infos = &*std::mem::take(&mut infos);
    let mut tag = None;
    // The length of each is that of its header at the least, so this ends.
    while let Some(size) = word(infos, 0).filter(|&size| size as usize >= INFO) {
        let info = part(infos, 0, size)?;
        let value = word(info, word(info, 8)? as usize);
        match word(info, 4)? {
            INFO_CHECKSUM => frame.checksum = checksum(value?),
            INFO_LARGE_SEND => large_send(value?, &mut frame)?,
            INFO_VLAN => tag = Some(value?),
            _ => {}
        }
        infos = infos.get(size as usize..)?;
    }
    if let Some(tag) = tag {
        insert_tag(&mut frame, tag)?;
    }
    Some(frame)
}

/// What NDIS_TCP_IP_CHECKSUM_NET_BUFFER_LIST_INFO says of a frame that is sent.
fn checksum(value: u32) -> Option<Checksum> {
    let start = (value >> 16 & 0x3ff) as u16;
    match value >> 2 & 3 {
        0 => None,
        1 => Some(Checksum { start, offset: 16 }),
        _ => Some(Checksum { start, offset: 6 }),
    }
}

/// NDIS_TCP_LARGE_SEND_OFFLOAD_NET_BUFFER_LIST_INFO, of both versions.
fn large_send(value: u32, frame: &mut Frame) -> Option<()> {
    let start = (value >> 20 & 0x3ff) as u16;
    let size = u16::try_from(value & 0xf_ffff).ok().filter(|&size| size > 0)?;
    let words = frame.data.get(usize::from(start) + 12)? >> 4;
    let tcp = if value >> 31 == 0 { TcpOver::V4 } else { TcpOver::V6 };
    frame.checksum = Some(Checksum { start, offset: 16 });
    frame.segments = Some(Segments { tcp, size, header: start + 4 * u16::from(words) });
    Some(())
}

/// Puts a VLAN tag into the frame: priority in bits 0 to 2, DEI in bit 3, VLAN in bits 4 to 15.
fn insert_tag(frame: &mut Frame, value: u32) -> Option<()> {
    let control = (value & 7) << 13 | (value >> 3 & 1) << 12 | value >> 4 & 0xfff;
    let at = 12;
    frame.data.splice(at..at, [0x81, 0x00].into_iter().chain((control as u16).to_be_bytes()));
    if let Some(checksum) = &mut frame.checksum {
        checksum.start = checksum.start.checked_add(TAG)?;
    }
    if let Some(segments) = &mut frame.segments {
        segments.header = segments.header.checked_add(TAG)?;
    }
    Some(())
}

/// Which part of a packet a message of the host carries. The guest puts the parts together; all are in ranges of one
/// transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// The first one.
    pub first: bool,
    /// The last one.
    pub last: bool,
}

impl Part {
    /// A packet in one piece.
    pub const WHOLE: Self = Self { first: true, last: true };

    /// struct rndis_pktinfo_id: version, flags, number of the packet.
    fn value(self) -> u32 {
        const VERSION: u32 = 1;
        const PART: u32 = 1 << 8;
        const FIRST: u32 = 1 << 9;
        const LAST: u32 = 1 << 10;
        VERSION | PART | if self.first { FIRST } else { 0 } | if self.last { LAST } else { 0 }
    }
}

/// What comes before `length` bytes of a frame of which nothing is left to be done, by which the guest gets them.
pub fn header(length: usize, verified: bool, piece: Part) -> impl AsRef<[u8]> {
    const IP_TCP_UDP_ARE_RIGHT: u32 = 0b11_1000;
    let mut info = [0; 8];
    let mut used = 0;
    let mut add = |kind: u32, value: u32| {
        for word in [INFO_WITH_WORD as u32, kind, INFO as u32, value] {
            if let Some(slot) = info.get_mut(used) {
                *slot = word;
            }
            used += 1;
        }
    };
    if verified && piece.first {
        add(INFO_CHECKSUM, IP_TCP_UDP_ARE_RIGHT);
    }
    if piece != Part::WHOLE {
        add(INFO_PART, piece.value());
    }
    let info_length = 4 * used;
    let (offset, info_offset) = (FIELDS + info_length, if used == 0 { 0 } else { FIELDS });
    let total = HEADER + offset + length;
    let fields = [kind::PACKET as usize, total, offset, length, 0, 0, 0, info_offset, info_length, 0, 0];
    let mut bytes = [[0; 4]; OVERHEAD / 4];
    let words = fields.iter().map(|&field| field as u32).chain(info);
    bytes.iter_mut().zip(words).for_each(|(to, word)| *to = word.to_le_bytes());
    Head { bytes, length: HEADER + offset }
}

/// See [`header`].
struct Head {
    bytes: [[u8; 4]; OVERHEAD / 4],
    length: usize,
}

impl AsRef<[u8]> for Head {
    fn as_ref(&self) -> &[u8] {
        self.bytes.as_flattened().get(..self.length).unwrap_or_default()
    }
}
