//! RNDIS: the messages in NVSP's that carry frames, and by which the guest asks and sets what an adapter is.
//!
//! Remote NDIS Specification 5.0; NDIS 6.30 for what is asked; Linux `drivers/net/hyperv/rndis_filter.c`.

use network::{Checksum, Frame, HEADER as ETHERNET, Mac, Segments, TcpOver};

/// Types of messages.
mod kind {
    pub const PACKET: u32 = 1;
    pub const INITIALIZE: u32 = 2;
    pub const HALT: u32 = 3;
    pub const QUERY: u32 = 4;
    pub const SET: u32 = 5;
    pub const RESET: u32 = 6;
    pub const INDICATE: u32 = 7;
    pub const KEEPALIVE: u32 = 8;
    pub const COMPLETION: u32 = 0x8000_0000;
}

/// Values of a `status`.
mod status {
    pub const SUCCESS: u32 = 0;
    pub const MEDIA_CONNECT: u32 = 0x4001_000b;
    pub const MEDIA_DISCONNECT: u32 = 0x4001_000c;
    pub const NOT_SUPPORTED: u32 = 0xc000_00bb;
    pub const INVALID_DATA: u32 = 0xc001_0015;
}

/// Objects that are asked for and set.
mod oid {
    pub const SUPPORTED_LIST: u32 = 0x0001_0101;
    pub const HARDWARE_STATUS: u32 = 0x0001_0102;
    pub const MEDIA_SUPPORTED: u32 = 0x0001_0103;
    pub const MEDIA_IN_USE: u32 = 0x0001_0104;
    pub const MAXIMUM_FRAME_SIZE: u32 = 0x0001_0106;
    pub const LINK_SPEED: u32 = 0x0001_0107;
    pub const VENDOR_ID: u32 = 0x0001_010c;
    pub const VENDOR_DESCRIPTION: u32 = 0x0001_010d;
    pub const PACKET_FILTER: u32 = 0x0001_010e;
    pub const LOOKAHEAD: u32 = 0x0001_010f;
    pub const MAXIMUM_TOTAL_SIZE: u32 = 0x0001_0111;
    pub const MEDIA_CONNECT_STATUS: u32 = 0x0001_0114;
    pub const RECEIVE_SCALE_CAPABILITIES: u32 = 0x0001_0203;
    pub const CONFIG_PARAMETER: u32 = 0x0001_021b;
    pub const FRIENDLY_NAME: u32 = 0x0002_0216;
    pub const PERMANENT_ADDRESS: u32 = 0x0101_0101;
    pub const CURRENT_ADDRESS: u32 = 0x0101_0102;
    pub const MULTICAST_LIST: u32 = 0x0101_0103;
    pub const MAXIMUM_LIST_SIZE: u32 = 0x0101_0104;
    pub const OFFLOAD_PARAMETERS: u32 = 0xfc01_020c;
    pub const OFFLOAD_CAPABILITIES: u32 = 0xfc01_020d;
}

/// Those that may be asked for.
const SUPPORTED: [u32; 17] = [
    oid::SUPPORTED_LIST,
    oid::HARDWARE_STATUS,
    oid::MEDIA_SUPPORTED,
    oid::MEDIA_IN_USE,
    oid::MAXIMUM_FRAME_SIZE,
    oid::LINK_SPEED,
    oid::VENDOR_ID,
    oid::VENDOR_DESCRIPTION,
    oid::PACKET_FILTER,
    oid::MAXIMUM_TOTAL_SIZE,
    oid::MEDIA_CONNECT_STATUS,
    oid::RECEIVE_SCALE_CAPABILITIES,
    oid::FRIENDLY_NAME,
    oid::PERMANENT_ADDRESS,
    oid::CURRENT_ADDRESS,
    oid::MAXIMUM_LIST_SIZE,
    oid::OFFLOAD_CAPABILITIES,
];

/// Bytes of the longest payload of a frame.
pub const MTU: u32 = 9000;
/// Bytes of a VLAN tag.
const TAG: u16 = 4;
/// Units of 100 bits a second: 10 Gbit/s.
const LINK_SPEED: u32 = 100_000_000;
/// Frames that a message of the guest may carry, and at what multiple of 2^n bytes each begins.
const PACKETS: u32 = 8;
const ALIGNMENT_SHIFT: u32 = 3;
/// Bytes of a message of the guest.
const LONGEST: u32 = 128 << 10;
/// Bytes of type and length.
const HEADER: usize = 8;
/// Bytes of a packet message's fields behind those.
const PACKET: usize = 36;
/// Kinds of information about a packet.
const INFO_CHECKSUM: u32 = 0;
const INFO_LARGE_SEND: u32 = 2;
const INFO_VLAN: u32 = 6;
/// Bytes of such an information's header.
const INFO: usize = 12;
/// Bytes that a message has beside its frame at the most, as it is written here.
pub const OVERHEAD: usize = HEADER + PACKET + INFO + 4;
/// Filters: which frames the guest wants.
const FILTER_MULTICAST: u32 = 0x02;
const FILTER_ALL_MULTICAST: u32 = 0x04;
const FILTER_BROADCAST: u32 = 0x08;
const FILTER_PROMISCUOUS: u32 = 0x20;

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// `length` bytes at `offset`, both from the guest.
fn part(bytes: &[u8], offset: u32, length: u32) -> Option<&[u8]> {
    let start = usize::try_from(offset).ok()?;
    bytes.get(start..start.checked_add(usize::try_from(length).ok()?)?)
}

/// A message of the host: type, length and `words` with `tail` behind them.
fn message(kind: u32, words: &[u32], tail: &[u8]) -> Vec<u8> {
    let length = HEADER + 4 * words.len() + tail.len();
    let header = [kind, length as u32];
    let words = header.iter().chain(words).flat_map(|word| word.to_le_bytes());
    words.chain(tail.iter().copied()).collect()
}

/// The messages in `bytes`, one behind the other: type, and what follows type and length.
pub fn messages(mut bytes: &[u8]) -> impl Iterator<Item = (u32, &[u8])> {
    std::iter::from_fn(move || {
        let (kind, length) = (word(bytes, 0)?, usize::try_from(word(bytes, 4)?).ok()?);
        let body = bytes.get(HEADER..length)?;
        bytes = bytes.get(length..)?;
        Some((kind, body))
    })
}

/// Whether a message carries a frame.
pub fn is_packet(kind: u32) -> bool {
    kind == kind::PACKET
}

/// The frame in the body of a packet message. `None` if there is none.
pub fn frame(body: &[u8]) -> Option<Frame> {
    let data = part(body, word(body, 0)?, word(body, 4)?)?;
    if data.len() < ETHERNET {
        return None;
    }
    let mut frame = Frame::new(data.to_vec());
    let mut infos = part(body, word(body, 20)?, word(body, 24)?)?;
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

/// The message by which the guest gets a frame of which nothing is left to be done.
pub fn packet(frame: &Frame) -> Vec<u8> {
    const IP_TCP_UDP_ARE_RIGHT: u32 = 0b11_1000;
    let infos: &[u32] = if frame.verified {
        &[INFO as u32 + 4, INFO_CHECKSUM, INFO as u32, IP_TCP_UDP_ARE_RIGHT]
    } else {
        &[]
    };
    let information = 4 * infos.len();
    let offset = PACKET + information;
    let fields = [offset, frame.data.len(), 0, 0, 0, PACKET, information, 0, 0].map(|value| value as u32);
    let mut words = fields.to_vec();
    if infos.is_empty() {
        words[5] = 0;
    }
    words.extend(infos);
    message(kind::PACKET, &words, &frame.data)
}

/// What of an adapter the guest asks and sets.
#[derive(Debug, Clone)]
pub struct Adapter {
    permanent: Mac,
    mac: Mac,
    filter: u32,
    initialized: bool,
    /// What the guest has been told of the link.
    link: bool,
}

impl Adapter {
    /// An adapter that nobody uses yet. The guest has chosen the address `mac` in place of `permanent`, or the two are
    /// the same.
    pub fn new(permanent: Mac, mac: Mac) -> Self {
        Self { permanent, mac, filter: 0, initialized: false, link: true }
    }

    /// Its address now. It outlasts the driver, which starts anew for other changes and does not say it again.
    pub fn mac(&self) -> Mac {
        self.mac
    }

    /// Whether the guest's driver has begun to use it.
    pub fn is_ready(&self) -> bool {
        self.initialized && self.filter != 0
    }

    /// Whether the guest wants a frame for `to`.
    pub fn wants(&self, to: Mac) -> bool {
        let filter = self.filter;
        match to {
            _ if filter & FILTER_PROMISCUOUS != 0 => true,
            Mac::BROADCAST => filter & FILTER_BROADCAST != 0,
            to if to.is_group() => filter & (FILTER_MULTICAST | FILTER_ALL_MULTICAST) != 0,
            to => filter != 0 && to == self.mac,
        }
    }

    /// The message to the guest if the link is not what it has been told.
    pub fn link_changed(&mut self, link: bool) -> Option<Vec<u8>> {
        if !self.initialized || self.link == link {
            return None;
        }
        self.link = link;
        let status = if link { status::MEDIA_CONNECT } else { status::MEDIA_DISCONNECT };
        Some(message(kind::INDICATE, &[status, 0, 0], &[]))
    }

    /// Takes a message that carries no frame, `link` being the state of the link; the answer, if there is one.
    pub fn receive(&mut self, kind: u32, body: &[u8], link: bool) -> Option<Vec<u8>> {
        let request = word(body, 0)?;
        let completion = kind | kind::COMPLETION;
        match kind {
            kind::INITIALIZE => {
                (self.initialized, self.link) = (true, link);
                let words = [request, status::SUCCESS, 1, 0, 1, 0, PACKETS, LONGEST, ALIGNMENT_SHIFT, 0, 0];
                Some(message(completion, &words, &[]))
            }
            kind::HALT => {
                *self = Self::new(self.permanent, self.mac);
                None
            }
            kind::QUERY => {
                let answer = self.query(word(body, 4)?, link);
                let status = if answer.is_some() { status::SUCCESS } else { status::NOT_SUPPORTED };
                let answer = answer.unwrap_or_default();
                // The answer begins behind these four words.
                Some(message(completion, &[request, status, answer.len() as u32, 16], &answer))
            }
            kind::SET => {
                let value = part(body, word(body, 12)?, word(body, 8)?);
                let status = value.map_or(status::INVALID_DATA, |value| self.set(word(body, 4), value));
                Some(message(completion, &[request, status], &[]))
            }
            kind::RESET => Some(message(completion, &[status::SUCCESS, 0], &[])),
            kind::KEEPALIVE => Some(message(completion, &[request, status::SUCCESS], &[])),
            _ => {
                tracing::debug!(kind, "guest sends an RNDIS message that is not known");
                None
            }
        }
    }

    fn query(&self, oid: u32, link: bool) -> Option<Vec<u8>> {
        let number = |value: u32| Some(value.to_le_bytes().to_vec());
        match oid {
            oid::SUPPORTED_LIST => Some(SUPPORTED.iter().flat_map(|oid| oid.to_le_bytes()).collect()),
            oid::HARDWARE_STATUS | oid::MEDIA_SUPPORTED | oid::MEDIA_IN_USE => number(0),
            oid::MAXIMUM_FRAME_SIZE => number(MTU),
            oid::MAXIMUM_TOTAL_SIZE => number(MTU + ETHERNET as u32),
            oid::LINK_SPEED => number(LINK_SPEED),
            oid::VENDOR_ID => number(0x005d_1500),
            oid::VENDOR_DESCRIPTION => Some(b"bodhi\0".to_vec()),
            oid::PACKET_FILTER => number(self.filter),
            oid::MEDIA_CONNECT_STATUS => number(u32::from(!link)),
            // What Hyper-V calls every adapter, which guests take for none.
            oid::FRIENDLY_NAME => Some("Network Adapter".encode_utf16().flat_map(u16::to_le_bytes).collect()),
            oid::PERMANENT_ADDRESS => Some(self.permanent.0.to_vec()),
            oid::CURRENT_ADDRESS => Some(self.mac.0.to_vec()),
            oid::MAXIMUM_LIST_SIZE => number(64),
            oid::RECEIVE_SCALE_CAPABILITIES => Some(receive_scale()),
            oid::OFFLOAD_CAPABILITIES => Some(offloads()),
            _ => {
                tracing::debug!(oid, "guest asks an adapter for what it does not know");
                None
            }
        }
    }

    fn set(&mut self, oid: Option<u32>, value: &[u8]) -> u32 {
        match oid {
            Some(oid::PACKET_FILTER) => match word(value, 0) {
                Some(filter) => {
                    self.filter = filter;
                    status::SUCCESS
                }
                None => status::INVALID_DATA,
            },
            Some(oid::CONFIG_PARAMETER) => match network_address(value) {
                Some(mac) if !mac.is_group() => {
                    self.mac = mac;
                    status::SUCCESS
                }
                _ => status::INVALID_DATA,
            },
            // All that is offered may be used or not; groups are not told apart.
            Some(oid::OFFLOAD_PARAMETERS | oid::LOOKAHEAD | oid::MULTICAST_LIST) => status::SUCCESS,
            _ => {
                tracing::debug!(oid, "guest sets what an adapter does not know");
                status::NOT_SUPPORTED
            }
        }
    }
}

/// The address in an OID_GEN_RNDIS_CONFIG_PARAMETER: `NetworkAddress`, in hexadecimal, all in UTF-16.
fn network_address(value: &[u8]) -> Option<Mac> {
    let text = |offset: u32, length: u32| {
        let units = part(value, offset, length)?.chunks_exact(2);
        let units = units.map(|unit| u16::from_le_bytes([unit[0], unit[1]])).take_while(|&unit| unit != 0);
        char::decode_utf16(units).collect::<Result<String, _>>().ok()
    };
    if text(word(value, 0)?, word(value, 4)?)? != "NetworkAddress" {
        return None;
    }
    let digits = text(word(value, 12)?, word(value, 16)?)?;
    if digits.len() != 12 || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let number = u64::from_str_radix(&digits, 16).ok()?.to_be_bytes();
    number.get(2..)?.first_chunk().copied().map(Mac)
}

/// NDIS_RECEIVE_SCALE_CAPABILITIES, revision 2: one queue.
fn receive_scale() -> Vec<u8> {
    let mut object = vec![0x88, 2, 18, 0];
    object.extend([0_u32, 1, 1].iter().flat_map(|word| word.to_le_bytes()));
    object.extend(128_u16.to_le_bytes());
    object
}

/// NDIS_OFFLOAD of NDIS 6.1: checksums of TCP and UDP, and large sends (version 2), over both versions of IP.
fn offloads() -> Vec<u8> {
    /// Frames with an Ethernet header.
    const ETHERNET: u32 = 2;
    const IP4: u32 = 0x155;
    const IP6: u32 = 0x55;
    const LARGEST: u32 = 62_000;
    const FEWEST: u32 = 2;
    const IP6_OPTIONS: u32 = 0x5;
    const SIZE: usize = 144;
    let mut words = vec![ETHERNET, IP4, ETHERNET, IP4, ETHERNET, IP6, ETHERNET, IP6];
    // Large sends of version 1, and IPsec: none.
    words.extend([0; 4 + 7]);
    words.extend([ETHERNET, LARGEST, FEWEST, ETHERNET, LARGEST, FEWEST, IP6_OPTIONS]);
    let mut object = vec![0xa7, 2, SIZE as u8, 0];
    object.extend(words.iter().flat_map(|word| word.to_le_bytes()));
    // Flags, and IPsec of version 2: none.
    object.resize(SIZE, 0);
    object
}
