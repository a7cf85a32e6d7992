//! What the guest asks and sets.

use network::{HEADER as ETHERNET, Mac, Steering, TcpOver};

use super::{Message, Source, bytes, kind, message as answer, part, word};

/// Values of a `status`.
mod status {
    pub const SUCCESS: u32 = 0;
    pub const MEDIA_CONNECT: u32 = 0x4001_000b;
    pub const MEDIA_DISCONNECT: u32 = 0x4001_000c;
    pub const NOT_SUPPORTED: u32 = 0xc000_00bb;
    pub const MULTICAST_FULL: u32 = 0xc001_0009;
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
    pub const RECEIVE_SCALE_PARAMETERS: u32 = 0x0001_0204;
    pub const CONFIG_PARAMETER: u32 = 0x0001_021b;
    pub const TRANSMIT_OK: u32 = 0x0002_0101;
    pub const RECEIVE_OK: u32 = 0x0002_0102;
    pub const TRANSMIT_ERROR: u32 = 0x0002_0103;
    pub const RECEIVE_ERROR: u32 = 0x0002_0104;
    pub const RECEIVE_NO_BUFFER: u32 = 0x0002_0105;
    pub const FRIENDLY_NAME: u32 = 0x0002_0216;
    pub const PERMANENT_ADDRESS: u32 = 0x0101_0101;
    pub const CURRENT_ADDRESS: u32 = 0x0101_0102;
    pub const MULTICAST_LIST: u32 = 0x0101_0103;
    pub const MAXIMUM_LIST_SIZE: u32 = 0x0101_0104;
    pub const OFFLOAD_PARAMETERS: u32 = 0xfc01_020c;
    pub const OFFLOAD_CAPABILITIES: u32 = 0xfc01_020d;
}

/// Those that may be asked for.
const SUPPORTED: [u32; 22] = [
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
    oid::TRANSMIT_OK,
    oid::RECEIVE_OK,
    oid::TRANSMIT_ERROR,
    oid::RECEIVE_ERROR,
    oid::RECEIVE_NO_BUFFER,
    oid::FRIENDLY_NAME,
    oid::PERMANENT_ADDRESS,
    oid::CURRENT_ADDRESS,
    oid::MAXIMUM_LIST_SIZE,
    oid::OFFLOAD_CAPABILITIES,
];

/// Bytes of the longest payload of a frame.
pub const MTU: u32 = 9000;
/// Units of 100 bits a second: 10 Gbit/s.
const LINK_SPEED: u32 = 100_000_000;
/// Frames that a message of the guest may carry, and at what multiple of 2^n bytes each begins.
const PACKETS: u32 = 8;
const ALIGNMENT_SHIFT: u32 = 3;
/// Bytes of a message of the guest.
const LONGEST: u32 = 128 << 10;
/// Groups that the guest may name.
const GROUPS: usize = 64;
/// Entries of the table by which frames go to queues.
const STEERING_TABLE: u16 = 128;
/// Filters: which frames the guest wants.
const FILTER_MULTICAST: u32 = 0x02;
const FILTER_ALL_MULTICAST: u32 = 0x04;
const FILTER_BROADCAST: u32 = 0x08;
const FILTER_PROMISCUOUS: u32 = 0x20;

/// What an adapter's connection is like.
#[derive(Debug, Clone, Copy, Default)]
pub struct Line {
    /// Whether there is a link.
    pub link: bool,
    /// Frames that the guest has sent.
    pub sent: u64,
    /// Frames that it has got.
    pub received: u64,
    /// Frames that there was no room or no permission for.
    pub dropped: u64,
}

/// What of an adapter the guest asks and sets.
#[derive(Debug, Clone)]
pub struct Adapter {
    permanent: Mac,
    mac: Mac,
    queues: u16,
    filter: u32,
    /// The groups whose frames the guest wants.
    groups: Vec<Mac>,
    initialized: bool,
    /// What the guest has been told of the link.
    link: bool,
    /// Whether the guest may take TCP's segments put together, and does, over IPv4 and IPv6.
    coalescing: bool,
    coalesces: [bool; 2],
    steering: Option<Steering>,
}

impl Adapter {
    /// An adapter with so many queues that nobody uses yet. The guest has chosen the address `mac` in place of
    /// `permanent`, or the two are the same.
    pub fn new(permanent: Mac, mac: Mac, queues: u16) -> Self {
        Self {
            permanent,
            mac,
            queues,
            filter: 0,
            groups: Vec::new(),
            initialized: false,
            link: true,
            coalescing: false,
            coalesces: [false; 2],
            steering: None,
        }
    }

    /// The guest may be told that it can have segments put together.
    pub fn allow_coalescing(&mut self) {
        self.coalescing = true;
    }

    /// Whether the guest takes segments of TCP put together.
    pub fn coalesces(&self, tcp: TcpOver) -> bool {
        let [v4, v6] = self.coalesces;
        match tcp {
            TcpOver::V4 => v4,
            TcpOver::V6 => v6,
        }
    }

    /// How frames go to queues.
    pub fn steering(&self) -> Option<&Steering> {
        self.steering.as_ref()
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
            to if to.is_group() && filter & FILTER_ALL_MULTICAST != 0 => true,
            to if to.is_group() => filter & FILTER_MULTICAST != 0 && self.groups.contains(&to),
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
        Some(answer(kind::INDICATE, &[status, 0, 0], &[]))
    }

    /// Takes a message that carries no frame; the answer, if there is one.
    pub fn receive(
        &mut self,
        source: &(impl Source + ?Sized),
        message: &Message,
        line: &Line,
    ) -> Option<Vec<u8>> {
        let kind = message.kind;
        let body = &*bytes(source, message.body.clone())?;
        let request = word(body, 0)?;
        let completion = kind | kind::COMPLETION;
        match kind {
            kind::INITIALIZE => {
                (self.initialized, self.link) = (true, line.link);
                let words = [request, status::SUCCESS, 1, 0, 1, 0, PACKETS, LONGEST, ALIGNMENT_SHIFT, 0, 0];
                Some(answer(completion, &words, &[]))
            }
            kind::HALT => {
                *self =
                    Self { coalescing: self.coalescing, ..Self::new(self.permanent, self.mac, self.queues) };
                None
            }
            kind::QUERY => {
                let object = self.query(word(body, 4)?, line);
                let status = if object.is_some() { status::SUCCESS } else { status::NOT_SUPPORTED };
                let object = object.unwrap_or_default();
                // The answer begins behind these four words.
                Some(answer(completion, &[request, status, object.len() as u32, 16], &object))
            }
            kind::SET => {
                let value = part(body, word(body, 12)?, word(body, 8)?);
                let status = value.map_or(status::INVALID_DATA, |value| self.set(word(body, 4), value));
                Some(answer(completion, &[request, status], &[]))
            }
            kind::RESET => Some(answer(completion, &[status::SUCCESS, 0], &[])),
            kind::KEEPALIVE => Some(answer(completion, &[request, status::SUCCESS], &[])),
            _ => {
                tracing::debug!(kind, "guest sends an RNDIS message that is not known");
                None
            }
        }
    }

    fn query(&self, oid: u32, line: &Line) -> Option<Vec<u8>> {
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
            oid::MEDIA_CONNECT_STATUS => number(u32::from(!line.link)),
            // RNDIS counts in 32 bits, which go round.
            oid::TRANSMIT_OK => number(line.sent as u32),
            oid::RECEIVE_OK => number(line.received as u32),
            oid::RECEIVE_NO_BUFFER => number(line.dropped as u32),
            // A wire that is none damages nothing.
            oid::TRANSMIT_ERROR | oid::RECEIVE_ERROR => number(0),
            // What Hyper-V calls every adapter, which guests take for none.
            oid::FRIENDLY_NAME => Some("Network Adapter".encode_utf16().flat_map(u16::to_le_bytes).collect()),
            oid::PERMANENT_ADDRESS => Some(self.permanent.0.to_vec()),
            oid::CURRENT_ADDRESS => Some(self.mac.0.to_vec()),
            oid::MAXIMUM_LIST_SIZE => number(GROUPS as u32),
            oid::RECEIVE_SCALE_CAPABILITIES => Some(receive_scale(self.queues)),
            oid::OFFLOAD_CAPABILITIES => Some(offloads(self.coalescing)),
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
            // What else is offered may be used or not.
            Some(oid::OFFLOAD_PARAMETERS) => {
                self.set_coalescing(value);
                status::SUCCESS
            }
            Some(oid::RECEIVE_SCALE_PARAMETERS) => match self.set_steering(value) {
                Some(()) => status::SUCCESS,
                None => status::INVALID_DATA,
            },
            Some(oid::MULTICAST_LIST) => {
                let addresses = value.as_chunks().0;
                if addresses.len() > GROUPS {
                    return status::MULTICAST_FULL;
                }
                self.groups = addresses.iter().copied().map(Mac).collect();
                status::SUCCESS
            }
            // It is always all of a frame.
            Some(oid::LOOKAHEAD) => status::SUCCESS,
            _ => {
                tracing::debug!(oid, "guest sets what an adapter does not know");
                status::NOT_SUPPORTED
            }
        }
    }

    /// Takes an NDIS_OFFLOAD_PARAMETERS; that of NDIS before 6.30 says nothing of coalescing.
    fn set_coalescing(&mut self, value: &[u8]) {
        const OFF: u8 = 1;
        const ON: u8 = 2;
        const AT: usize = 22;
        for (takes, &wanted) in self.coalesces.iter_mut().zip(value.get(AT..).unwrap_or_default()) {
            match wanted {
                OFF => *takes = false,
                ON => *takes = self.coalescing,
                _ => {}
            }
        }
    }

    /// Takes an NDIS_RECEIVE_SCALE_PARAMETERS. `None` if it is none.
    fn set_steering(&mut self, value: &[u8]) -> Option<()> {
        const TABLE_UNCHANGED: u16 = 0x04;
        const KEY_UNCHANGED: u16 = 0x08;
        const OFF: u16 = 0x10;
        let half = |at: usize| Some(u16::from_le_bytes(*value.get(at..)?.first_chunk()?));
        let flags = half(4)?;
        if flags & OFF != 0 {
            self.steering = None;
            return Some(());
        }
        let before = self.steering.as_ref();
        let table = if flags & TABLE_UNCHANGED != 0 {
            before?.table.clone()
        } else {
            let table = part(value, word(value, 16)?, half(12)?.into())?.chunks_exact(4);
            let queues = table.map(|entry| u8::try_from(word(entry, 0)?).ok());
            queues.collect::<Option<Vec<_>>>()?
        };
        let key = if flags & KEY_UNCHANGED != 0 {
            before?.key
        } else {
            part(value, word(value, 24)?, half(20)?.into())?.try_into().ok()?
        };
        let good = table.len().is_power_of_two() && table.len() <= usize::from(STEERING_TABLE);
        if !good || table.iter().any(|&queue| u16::from(queue) >= self.queues) {
            return None;
        }
        self.steering = Some(Steering { key, table });
        Some(())
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

/// NDIS_RECEIVE_SCALE_CAPABILITIES, revision 2.
fn receive_scale(queues: u16) -> Vec<u8> {
    const TOEPLITZ: u32 = 0x1;
    const TCP4_AND_TCP6: u32 = 0x300;
    let mut object = vec![0x88, 2, 18, 0];
    let queues = u32::from(queues);
    object.extend([TOEPLITZ | TCP4_AND_TCP6, queues, queues].iter().flat_map(|word| word.to_le_bytes()));
    object.extend(STEERING_TABLE.to_le_bytes());
    object
}

/// NDIS_OFFLOAD of NDIS 6.1: checksums of TCP and UDP, and large sends (version 2), over both versions of IP. That of NDIS
/// 6.30 if segments that have come may be put together.
fn offloads(coalescing: bool) -> Vec<u8> {
    /// Frames with an Ethernet header.
    const ETHERNET: u32 = 2;
    const IP4: u32 = 0x155;
    const IP6: u32 = 0x55;
    const LARGEST: u32 = 62_000;
    const FEWEST: u32 = 2;
    const IP6_OPTIONS: u32 = 0x5;
    const SIZE: usize = 144;
    const SIZE_6_30: usize = SIZE + 12;
    let mut words = vec![ETHERNET, IP4, ETHERNET, IP4, ETHERNET, IP6, ETHERNET, IP6];
    // Large sends of version 1, and IPsec: none.
    words.extend([0; 4 + 7]);
    words.extend([ETHERNET, LARGEST, FEWEST, ETHERNET, LARGEST, FEWEST, IP6_OPTIONS]);
    let (revision, size) = if coalescing { (3, SIZE_6_30) } else { (2, SIZE) };
    let mut object = vec![0xa7, revision, size as u8, 0];
    object.extend(words.iter().flat_map(|word| word.to_le_bytes()));
    // Flags, and IPsec of version 2: none.
    object.resize(SIZE, 0);
    if coalescing {
        object.extend([1, 1]);
    }
    // Encapsulations: none.
    object.resize(size, 0);
    object
}
