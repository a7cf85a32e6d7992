//! Messages of dynamic memory, as Linux `drivers/hv/hv_balloon.c` has them.

use vmbus::Guid;

/// What Linux calls HV_DM_GUID.
pub const INTERFACE: Guid =
    Guid::new(0x5250_74dc, 0x8985, 0x46e2, [0x80, 0x57, 0xa3, 0x07, 0xdc, 0x18, 0xa5, 0x02]);
/// The only device of its kind.
pub const INSTANCE: Guid =
    Guid::new(0x1eccfd72, 0x4b41, 0x45ef, [0xb7, 0x3a, 0x4a, 0x6e, 0x44, 0xc1, 0x29, 0x24]);

/// Protocol versions, major in the upper half.
pub const VERSIONS: [u32; 3] = [0x2_0000, 0x1_0000, 0x3];

/// Types of messages.
pub mod message {
    /// The guest proposes a version.
    pub const VERSION_REQUEST: u16 = 1;
    /// Whether it is accepted.
    pub const VERSION_RESPONSE: u16 = 2;
    /// What the guest can do.
    pub const CAPABILITIES_REPORT: u16 = 3;
    /// Whether that does.
    pub const CAPABILITIES_RESPONSE: u16 = 4;
    /// How much memory the guest needs; every second.
    pub const STATUS_REPORT: u16 = 5;
    /// The guest is to give pages.
    pub const BALLOON_REQUEST: u16 = 6;
    /// Those pages.
    pub const BALLOON_RESPONSE: u16 = 7;
    /// Pages for the guest.
    pub const UNBALLOON_REQUEST: u16 = 8;
    /// It has them.
    pub const UNBALLOON_RESPONSE: u16 = 9;
    /// Memory that the guest did not start with.
    pub const HOT_ADD_REQUEST: u16 = 10;
    /// How much of it the guest has taken.
    pub const HOT_ADD_RESPONSE: u16 = 11;
}

/// What a guest can do, as its capabilities report says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities(pub u32);

impl Capabilities {
    /// It takes memory that it did not start with.
    pub fn hot_add(self) -> bool {
        self.0 & 2 != 0
    }

    /// What such memory is to be aligned to, in pages.
    pub fn hot_add_alignment(self) -> u64 {
        1 << ((self.0 >> 2 & 0xf) + 20 - guest_memory::PAGE_SHIFT)
    }
}

/// Bytes of the header: type, size, transaction.
pub const HEADER: usize = 8;
/// The longest message, what a guest has room for.
pub const LONGEST: usize = 4096;

/// A run of pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageRange {
    /// Frame number of the first, below 2^40.
    pub start: u64,
    /// How many, below 2^24.
    pub count: u64,
}

impl PageRange {
    /// As it is in a message.
    pub fn pack(self) -> u64 {
        self.start | self.count << 40
    }

    /// What a message has.
    pub fn unpack(packed: u64) -> Self {
        Self { start: packed & ((1 << 40) - 1), count: packed >> 40 }
    }
}

/// A message with `words` of 32 bits behind its header.
pub fn encode(message_type: u16, transaction: u32, words: &[u32]) -> Vec<u8> {
    let size = (HEADER + 4 * words.len()) as u16;
    let mut data = [message_type.to_le_bytes(), size.to_le_bytes()].concat();
    data.extend([&[transaction][..], words].concat().into_iter().flat_map(u32::to_le_bytes));
    data
}

/// Type, transaction and body of a message; `None` if it has no header.
pub fn decode(data: &[u8]) -> Option<(u16, u32, &[u8])> {
    let (header, body) = data.split_at_checked(HEADER)?;
    let message_type = u16::from_le_bytes(*header.first_chunk()?);
    let transaction = u32::from_le_bytes(*header.last_chunk()?);
    Some((message_type, transaction, body))
}

/// The 32 bits at `at` in a body.
pub fn word(body: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*body.get(at..)?.first_chunk()?))
}

/// The 64 bits at `at` in a body.
pub fn long(body: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*body.get(at..)?.first_chunk()?))
}
