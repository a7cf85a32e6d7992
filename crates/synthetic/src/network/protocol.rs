//! Messages between hv_netvsc and NetVSP (NVSP). No public specification; the guest's side is Linux'
//! `drivers/net/hyperv/hyperv_net.h`.

use vmbus::Guid;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The interface of a network adapter.
pub const INTERFACE: Guid =
    Guid::new(0xf861_5163, 0xdf3e, 0x46c5, [0x91, 0x3f, 0xf2, 0xd2, 0xf9, 0x65, 0xed, 0x0e]);

/// The protocols that there are.
pub const VERSIONS: [u32; 6] = [2, 0x3_0002, 0x4_0000, 0x5_0000, 0x6_0000, 0x6_0001];

/// Types of messages.
pub mod kind {
    /// Guest: the first message: which versions it knows.
    pub const INIT: u32 = 1;
    /// Host: the answer.
    pub const INIT_COMPLETE: u32 = 2;
    /// Guest: its version of NDIS.
    pub const SEND_NDIS_VERSION: u32 = 100;
    /// Guest: memory for what comes.
    pub const SEND_RECEIVE_BUFFER: u32 = 101;
    /// Host: the answer.
    pub const SEND_RECEIVE_BUFFER_COMPLETE: u32 = 102;
    /// Guest: wants that memory back.
    pub const REVOKE_RECEIVE_BUFFER: u32 = 103;
    /// Guest: memory for what goes.
    pub const SEND_SEND_BUFFER: u32 = 104;
    /// Host: the answer.
    pub const SEND_SEND_BUFFER_COMPLETE: u32 = 105;
    /// Guest: wants that memory back.
    pub const REVOKE_SEND_BUFFER: u32 = 106;
    /// Both: an RNDIS message.
    pub const SEND_RNDIS_PACKET: u32 = 107;
    /// Both: the answer.
    pub const SEND_RNDIS_PACKET_COMPLETE: u32 = 108;
    /// Guest, since 3.2: what it wants.
    pub const SEND_NDIS_CONFIG: u32 = 125;
    /// Guest, since 4.0: through which adapter packets go.
    pub const SWITCH_DATA_PATH: u32 = 129;
    /// Guest, since 5.0: wants subchannels.
    pub const SUBCHANNEL: u32 = 133;
}

/// Values of a `status`.
pub mod status {
    /// Done.
    pub const SUCCESS: u32 = 1;
    /// Not done.
    pub const FAIL: u32 = 2;
    /// The guest knows newer versions only.
    pub const PROTOCOL_TOO_NEW: u32 = 3;
    /// The guest knows older versions only.
    pub const PROTOCOL_TOO_OLD: u32 = 4;
    /// Not an RNDIS packet.
    pub const INVALID_RNDIS_PACKET: u32 = 5;
}

/// Bytes of every answer to a message that is no RNDIS packet. Linux copies as much, whatever the answer is.
pub const ANSWER: usize = 48;
/// [`SendRndisPacket::channel`] of RNDIS messages that carry a packet, and of all others.
pub const DATA: u32 = 0;
/// See [`DATA`].
pub const CONTROL: u32 = 1;
/// [`SendRndisPacket::section`] of messages that do not use the send buffer.
pub const NO_SECTION: u32 = u32::MAX;
/// Pieces of guest memory that a message of the guest may have.
pub const MAX_PIECES: u32 = 34;
/// Bytes of a section of the send buffer.
pub const SEND_SECTION: u32 = 6144;

/// The first version in which the guest may put segments of TCP together.
pub const COALESCING_VERSION: u32 = 0x6_0001;
/// In [`NdisConfig::capabilities`]: the guest can do that.
pub const CAN_COALESCE: u32 = 1 << 7;
/// [`Subchannels::operation`] of the guest.
pub const ALLOCATE: u32 = 1;

/// Body of [`kind::INIT`].
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Init {
    /// The oldest version that the guest knows.
    pub oldest: u32,
    /// The newest.
    pub newest: u32,
}

/// Body of [`kind::INIT_COMPLETE`].
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct InitComplete {
    /// The version.
    pub version: u32,
    /// [`MAX_PIECES`].
    pub max_pieces: u32,
    /// See [`status`].
    pub status: u32,
}

/// Body of [`kind::SEND_RECEIVE_BUFFER`] and [`kind::SEND_SEND_BUFFER`]. The guest may leave out what follows.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, packed)]
pub struct SendBuffer {
    /// The memory.
    pub gpadl: u32,
    /// By what number the guest knows it.
    pub id: u16,
}

/// Body of [`kind::SEND_RECEIVE_BUFFER_COMPLETE`]: one kind of sections.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ReceiveBufferComplete {
    /// See [`status`].
    pub status: u32,
    /// Number of kinds of sections: 1.
    pub kinds: u32,
    /// Where the first section is.
    pub offset: u32,
    /// Bytes of a section.
    pub size: u32,
    /// Number of sections.
    pub count: u32,
    /// Where the last one ends.
    pub end: u32,
}

/// Body of [`kind::SEND_SEND_BUFFER_COMPLETE`].
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SendBufferComplete {
    /// See [`status`].
    pub status: u32,
    /// Bytes of a section.
    pub section: u32,
}

/// Body of [`kind::SEND_RNDIS_PACKET`].
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SendRndisPacket {
    /// [`DATA`] or [`CONTROL`].
    pub channel: u32,
    /// Which section of the send buffer the message begins in, or [`NO_SECTION`].
    pub section: u32,
    /// Bytes of it.
    pub size: u32,
}

/// Body of [`kind::SEND_NDIS_CONFIG`].
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct NdisConfig {
    /// Bytes of the longest frame.
    pub mtu: u32,
    /// Zero.
    pub reserved: u32,
    /// What the guest can do: in the first word, [`CAN_COALESCE`] and others.
    pub capabilities: [u32; 2],
}

/// Body of [`kind::SUBCHANNEL`], both ways.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Subchannels {
    /// Of the guest [`ALLOCATE`]; of the host a [`status`].
    pub operation: u32,
    /// How many.
    pub count: u32,
}
