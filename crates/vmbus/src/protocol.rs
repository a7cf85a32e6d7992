//! The messages by which guest and host set up channels, as they travel in SynIC message payloads.
//!
//! There is no public specification; the guest's side is Linux' `include/linux/hyperv.h` and
//! `drivers/hv`. All fields are little-endian; a message is at most 240 bytes.

use std::fmt;
use std::ops::RangeInclusive;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::Guid;

/// The most bytes a message can have: the payload of a SynIC message.
pub const MAX_MESSAGE_SIZE: usize = 240;
/// The SynIC message type of every message of this protocol (HvMessageTypeChannel, "port" 1).
pub const SYNIC_MESSAGE_TYPE: u32 = 1;
/// The connection id for messages of protocols before 5.0.
pub const MESSAGE_CONNECTION_ID: u32 = 1;
/// The connection id for messages of protocol 5.0 and later.
pub const MESSAGE_CONNECTION_ID_5: u32 = 4;
/// Channels have numbers below this: as many as a SINT has event flags.
pub const MAX_RELIDS: u32 = 2048;
/// The connection ids by which guests signal channels 1 to [`MAX_RELIDS`] − 1.
pub const CHANNEL_CONNECTION_IDS: RangeInclusive<u32> = 0x2001..=0x2000 + MAX_RELIDS - 1;
/// The SINT of messages and channel interrupts, unless protocol 5.0 names another.
pub const DEFAULT_SINT: u8 = 2;
/// Bytes that an offer or an open request carries for the device.
pub const USER_DATA_SIZE: usize = 120;
/// Status in a response: done.
pub const STATUS_SUCCESS: u32 = 0;
/// Status in a response: the request was refused (STATUS_UNSUCCESSFUL).
pub const STATUS_UNSUCCESSFUL: u32 = 0xc000_0001;
/// Status in a response: the request makes no sense (STATUS_INVALID_PARAMETER).
pub const STATUS_INVALID_PARAMETER: u32 = 0xc000_000d;
/// Status in a response: a bound on resources was hit (STATUS_INSUFFICIENT_RESOURCES).
pub const STATUS_INSUFFICIENT_RESOURCES: u32 = 0xc000_009a;

/// Status in a response: nobody serves that (STATUS_CONNECTION_REFUSED).
pub const STATUS_CONNECTION_REFUSED: u32 = 0xc000_0236;

/// A protocol version: major in the upper half, minor in the lower.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(transparent)]
pub struct Version(pub u32);

impl Version {
    /// Windows Server 2008.
    pub const WS2008: Self = Self::new(0, 13);
    /// Windows 7, Server 2008 R2.
    pub const WIN7: Self = Self::new(1, 1);
    /// Windows 8: a channel interrupts a processor of the guest's choice by its own event flag.
    pub const WIN8: Self = Self::new(2, 4);
    /// Windows 8.1: connections can be unloaded and set up again.
    pub const WIN8_1: Self = Self::new(3, 0);
    /// Windows 10.
    pub const WIN10: Self = Self::new(4, 0);
    /// Windows 10: channels can be moved to another processor.
    pub const WIN10_V4_1: Self = Self::new(4, 1);
    /// Windows 10: messages by connection 4, the guest names the SINT.
    pub const WIN10_V5_0: Self = Self::new(5, 0);
    /// Windows 10 RS4.
    pub const WIN10_V5_1: Self = Self::new(5, 1);
    /// Windows Server 2019.
    pub const WIN10_V5_2: Self = Self::new(5, 2);
    /// Windows Server 2022: moving a channel is acknowledged.
    pub const WIN10_V5_3: Self = Self::new(5, 3);

    /// The versions that the server agrees to. Those before 2.4 want interrupts by a shared page.
    pub const SUPPORTED: [Self; 8] = [
        Self::WIN8,
        Self::WIN8_1,
        Self::WIN10,
        Self::WIN10_V4_1,
        Self::WIN10_V5_0,
        Self::WIN10_V5_1,
        Self::WIN10_V5_2,
        Self::WIN10_V5_3,
    ];

    /// The version `major.minor`.
    pub const fn new(major: u16, minor: u16) -> Self {
        Self((major as u32) << 16 | minor as u32)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0 >> 16, self.0 & 0xffff)
    }
}

impl fmt::Debug for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What a message is. Any value can come from the guest.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(transparent)]
pub struct MessageType(pub u32);

impl MessageType {
    /// Host: a channel is there.
    pub const OFFER_CHANNEL: Self = Self(1);
    /// Host: a channel is no more.
    pub const RESCIND_CHANNEL_OFFER: Self = Self(2);
    /// Guest: asks for all offers.
    pub const REQUEST_OFFERS: Self = Self(3);
    /// Host: that was all.
    pub const ALL_OFFERS_DELIVERED: Self = Self(4);
    /// Guest: opens a channel.
    pub const OPEN_CHANNEL: Self = Self(5);
    /// Host: the answer.
    pub const OPEN_CHANNEL_RESULT: Self = Self(6);
    /// Guest: closes a channel; there is no answer.
    pub const CLOSE_CHANNEL: Self = Self(7);
    /// Guest: describes memory that the host may use.
    pub const GPADL_HEADER: Self = Self(8);
    /// Guest: more pages of such memory.
    pub const GPADL_BODY: Self = Self(9);
    /// Host: the answer once all pages are known.
    pub const GPADL_CREATED: Self = Self(10);
    /// Guest: takes the memory back.
    pub const GPADL_TEARDOWN: Self = Self(11);
    /// Host: the memory is the guest's again.
    pub const GPADL_TORNDOWN: Self = Self(12);
    /// Guest: a channel's number may be used anew.
    pub const RELID_RELEASED: Self = Self(13);
    /// Guest: the first message.
    pub const INITIATE_CONTACT: Self = Self(14);
    /// Host: the answer.
    pub const VERSION_RESPONSE: Self = Self(15);
    /// Guest: ends the connection.
    pub const UNLOAD: Self = Self(16);
    /// Host: the answer.
    pub const UNLOAD_RESPONSE: Self = Self(17);
    /// Guest: connects a Hyper-V socket.
    pub const TL_CONNECT_REQUEST: Self = Self(21);
    /// Guest: moves the interrupt of a channel to another processor.
    pub const MODIFY_CHANNEL: Self = Self(22);
    /// Host: the answer to [`Self::TL_CONNECT_REQUEST`].
    pub const TL_CONNECT_RESULT: Self = Self(23);
    /// Host: the answer to [`Self::MODIFY_CHANNEL`] from protocol 5.3 on.
    pub const MODIFY_CHANNEL_RESPONSE: Self = Self(24);
}

/// The structs after the message header, each with its size on the wire and its message type.
macro_rules! messages {
    ($($(#[$doc:meta])* $name:ident = $kind:ident, $size:literal {
        $($(#[$field_doc:meta])* $field:ident: $ty:ty,)*
    })*) => { $(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
        #[repr(C)]
        pub struct $name { $($(#[$field_doc])* pub $field: $ty,)* }
        const _: () = assert!(size_of::<$name>() == $size);
        impl Message for $name { const TYPE: MessageType = MessageType::$kind; }
    )* };
}

/// A message body.
pub trait Message: IntoBytes + FromBytes + Immutable + KnownLayout {
    /// The type in the header before it.
    const TYPE: MessageType;
}

/// What every message begins with.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Header {
    /// What follows.
    pub message_type: MessageType,
    /// Zero.
    pub padding: u32,
}
const _: () = assert!(size_of::<Header>() == 8);

messages! {
    /// The first message of a guest.
    InitiateContact = INITIATE_CONTACT, 32 {
        /// The version the guest wants.
        version: Version,
        /// The virtual processor that messages are to go to.
        target_vp: u32,
        /// Before 5.0 the address of the interrupt page; from then on the SINT (byte 0) and the trust
        /// level (byte 1) that messages are to go to.
        interrupt_page_or_target: u64,
        /// Monitor page of the host, if any.
        parent_to_child_monitor_page: u64,
        /// Monitor page of the guest, if any.
        child_to_parent_monitor_page: u64,
    }

    /// The answer to the first message.
    VersionResponse = VERSION_RESPONSE, 8 {
        /// Nonzero if the guest may go on.
        supported: u8,
        /// Zero: no trouble.
        connection_state: u8,
        /// Zero.
        padding: u16,
        /// From 5.0 on the connection id for further messages; before that the version agreed on.
        connection_id_or_version: u32,
    }

    /// A channel is there.
    OfferChannel = OFFER_CHANNEL, 188 {
        /// What kind of device it is.
        interface: Guid,
        /// Which device it is.
        instance: Guid,
        /// Zero.
        reserved: [u32; 4],
        /// See [`offer_flags`].
        flags: u16,
        /// MMIO space that the device wants.
        mmio_megabytes: u16,
        /// For the device's driver.
        user_data: [u8; USER_DATA_SIZE],
        /// Zero for the primary channel of a device.
        subchannel_index: u16,
        /// MMIO space that the device could use.
        mmio_megabytes_optional: u16,
        /// The number of the channel.
        relid: u32,
        /// The channel's place in the monitor pages.
        monitor_id: u8,
        /// Bit 0: the place is allocated.
        monitor_allocated: u8,
        /// Bit 0: the guest signals by `connection_id` alone, without a bit in the interrupt page.
        dedicated_interrupt: u16,
        /// What the guest signals.
        connection_id: u32,
    }

    /// A channel is no more.
    RescindChannelOffer = RESCIND_CHANNEL_OFFER, 4 {
        /// The channel.
        relid: u32,
    }

    /// Opens a channel.
    OpenChannel = OPEN_CHANNEL, 140 {
        /// The channel.
        relid: u32,
        /// Comes back in the answer.
        open_id: u32,
        /// The memory of the two rings, the guest's outgoing one first.
        ring_gpadl: u32,
        /// The virtual processor that the channel interrupts.
        target_vp: u32,
        /// The first page of the guest's incoming ring in `ring_gpadl`.
        downstream_page_offset: u32,
        /// For the device.
        user_data: [u8; USER_DATA_SIZE],
    }

    /// Whether a channel is open.
    OpenChannelResult = OPEN_CHANNEL_RESULT, 12 {
        /// The channel.
        relid: u32,
        /// From the request.
        open_id: u32,
        /// Zero or an NTSTATUS.
        status: u32,
    }

    /// Closes a channel.
    CloseChannel = CLOSE_CHANNEL, 4 {
        /// The channel.
        relid: u32,
    }

    /// Describes memory; ranges follow: byte count and byte offset (32 bits each), page frame numbers.
    GpadlHeader = GPADL_HEADER, 12 {
        /// The channel it is for.
        relid: u32,
        /// The guest's handle.
        gpadl: u32,
        /// Bytes of all ranges, those in later messages included.
        range_bytes: u16,
        /// Number of ranges.
        range_count: u16,
    }

    /// More of the ranges; 64-bit words follow.
    GpadlBody = GPADL_BODY, 8 {
        /// Which of the bodies it is. Linux leaves it zero.
        message_number: u32,
        /// The guest's handle.
        gpadl: u32,
    }

    /// Whether memory is known.
    GpadlCreated = GPADL_CREATED, 12 {
        /// From the request.
        relid: u32,
        /// From the request.
        gpadl: u32,
        /// Zero or an NTSTATUS.
        status: u32,
    }

    /// Takes memory back.
    GpadlTeardown = GPADL_TEARDOWN, 8 {
        /// The channel it was for.
        relid: u32,
        /// The guest's handle.
        gpadl: u32,
    }

    /// Memory is the guest's again.
    GpadlTorndown = GPADL_TORNDOWN, 4 {
        /// The guest's handle.
        gpadl: u32,
    }

    /// The guest knows that a channel is no more.
    RelidReleased = RELID_RELEASED, 4 {
        /// The channel.
        relid: u32,
    }

    /// Connects a Hyper-V socket.
    TlConnectRequest = TL_CONNECT_REQUEST, 32 {
        /// The guest's end.
        endpoint: Guid,
        /// The host's service.
        service: Guid,
    }

    /// The answer to [`TlConnectRequest`].
    TlConnectResult = TL_CONNECT_RESULT, 36 {
        /// From the request.
        endpoint: Guid,
        /// From the request.
        service: Guid,
        /// Zero or an NTSTATUS.
        status: u32,
    }

    /// Moves the interrupt of a channel.
    ModifyChannel = MODIFY_CHANNEL, 8 {
        /// The channel.
        relid: u32,
        /// The virtual processor that it interrupts from now on.
        target_vp: u32,
    }

    /// The answer to [`ModifyChannel`].
    ModifyChannelResponse = MODIFY_CHANNEL_RESPONSE, 8 {
        /// From the request.
        relid: u32,
        /// Zero or an NTSTATUS.
        status: u32,
    }
}

/// Flags of [`OfferChannel::flags`].
pub mod offer_flags {
    /// The device shows up as a device interface (Windows guests).
    pub const ENUMERATE_DEVICE_INTERFACE: u16 = 1;
    /// Packets begin with a pipe header.
    pub const NAMED_PIPE_MODE: u16 = 0x10;
    /// It is a connection of a Hyper-V socket.
    pub const SOCKET: u16 = 0x2000;
}

/// The largest message that the host sends, with its header: an offer.
pub const MAX_HOST_MESSAGE_SIZE: usize = size_of::<Header>() + size_of::<OfferChannel>();

/// A message to the guest, complete.
#[derive(Clone, Copy)]
pub struct Encoded {
    bytes: [u8; MAX_HOST_MESSAGE_SIZE],
    len: usize,
}

impl Encoded {
    /// The message with `body`.
    pub fn new<M: Message>(body: &M) -> Self {
        let mut encoded = Self::without_body(M::TYPE);
        let end = size_of::<Header>() + size_of::<M>();
        encoded.bytes[size_of::<Header>()..end].copy_from_slice(body.as_bytes());
        encoded.len = end;
        encoded
    }

    /// A message that is only a header.
    pub fn without_body(message_type: MessageType) -> Self {
        let mut bytes = [0; MAX_HOST_MESSAGE_SIZE];
        let header = Header { message_type, padding: 0 };
        bytes[..size_of::<Header>()].copy_from_slice(header.as_bytes());
        Self { bytes, len: size_of::<Header>() }
    }

    /// The bytes to send.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl fmt::Debug for Encoded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Encoded").field(&self.bytes()).finish()
    }
}

/// Takes a message apart: its type and what follows the header. `None` if it has no whole header.
pub fn decode(message: &[u8]) -> Option<(MessageType, &[u8])> {
    let (header, body) = Header::read_from_prefix(message).ok()?;
    Some((header.message_type, body))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offer_has_the_layout_that_linux_reads() {
        let offer = OfferChannel {
            interface: Guid::default(),
            instance: Guid::default(),
            reserved: [0; 4],
            flags: 0x1234,
            mmio_megabytes: 0,
            user_data: [0; USER_DATA_SIZE],
            subchannel_index: 0x5678,
            mmio_megabytes_optional: 0,
            relid: 0x9abc_def0,
            monitor_id: 0xff,
            monitor_allocated: 0,
            dedicated_interrupt: 1,
            connection_id: 0x2001,
        };
        let message = Encoded::new(&offer);
        let bytes = message.bytes();
        assert_eq!(bytes.len(), 196);
        assert_eq!(bytes[..8], [1, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(bytes[56..58], [0x34, 0x12]);
        assert_eq!(bytes[180..182], [0x78, 0x56]);
        assert_eq!(bytes[184..196], [0xf0, 0xde, 0xbc, 0x9a, 0xff, 0, 1, 0, 1, 0x20, 0, 0]);
    }

    #[test]
    fn a_message_without_a_whole_header_is_none() {
        assert!(decode(&[14, 0, 0, 0]).is_none());
        assert_eq!(decode(&[16, 0, 0, 0, 0, 0, 0, 0, 7]), Some((MessageType::UNLOAD, &[7_u8][..])));
    }
}
