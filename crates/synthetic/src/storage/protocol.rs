//! Packets between hv_storvsc and StorVSP. No public specification; the guest's side is Linux'
//! `drivers/scsi/storvsc_drv.c`. A packet is 64 bytes, 48 before protocol 5.1.

use vmbus::Guid;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The interface of a SCSI controller.
pub const SCSI_INTERFACE: Guid =
    Guid::new(0xba61_63d9, 0x04a1, 0x4d29, [0xb6, 0x05, 0x72, 0xe2, 0xff, 0xb1, 0xdc, 0x7f]);
/// The interface of a disk on the emulated IDE controller.
pub const IDE_INTERFACE: Guid =
    Guid::new(0x3241_2632, 0x86cb, 0x44a2, [0x9b, 0x5c, 0x50, 0xd1, 0x41, 0x73, 0x54, 0xf5]);

/// The protocols that there are: major in the upper byte, minor in the lower.
pub const VERSIONS: [u16; 5] = [0x0200, 0x0402, VERSION_WIN8, 0x0600, 0x0602];
/// Windows 8: longer packets, subchannels.
pub const VERSION_WIN8: u16 = 0x0501;

/// What a packet is. Any value can come from the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(transparent)]
pub struct Operation(pub u32);

impl Operation {
    /// Host: the answer to any packet.
    pub const COMPLETE_IO: Self = Self(1);
    /// Host: a unit has gone.
    pub const REMOVE_DEVICE: Self = Self(2);
    /// Guest: a SCSI command.
    pub const EXECUTE_SRB: Self = Self(3);
    /// Guest: resets a unit.
    pub const RESET_LUN: Self = Self(4);
    /// Guest: resets the controller.
    pub const RESET_ADAPTER: Self = Self(5);
    /// Guest: resets all units of a path.
    pub const RESET_BUS: Self = Self(6);
    /// Guest: the first packet.
    pub const BEGIN_INITIALIZATION: Self = Self(7);
    /// Guest: commands follow.
    pub const END_INITIALIZATION: Self = Self(8);
    /// Guest: is this version known?
    pub const QUERY_PROTOCOL_VERSION: Self = Self(9);
    /// Guest: what can the controller do?
    pub const QUERY_PROPERTIES: Self = Self(10);
    /// Host: look for units.
    pub const ENUMERATE_BUS: Self = Self(11);
    /// Guest: names of a Fibre Channel adapter.
    pub const FCHBA_DATA: Self = Self(12);
    /// Guest: wants subchannels.
    pub const CREATE_SUB_CHANNELS: Self = Self(13);
}

/// NTSTATUS values of [`Packet::status`].
pub mod status {
    /// Done.
    pub const SUCCESS: u32 = 0;
    /// A parameter is out of range.
    pub const INVALID_PARAMETER: u32 = 0xc000_000d;
    /// No such operation here.
    pub const INVALID_DEVICE_REQUEST: u32 = 0xc000_0010;
    /// Not a known version.
    pub const REVISION_MISMATCH: u32 = 0xc000_0059;
    /// Not now.
    pub const INVALID_DEVICE_STATE: u32 = 0xc000_0184;
    /// A bound on resources was hit.
    pub const INSUFFICIENT_RESOURCES: u32 = 0xc000_009a;
}

/// Length of a packet's payload.
pub const PAYLOAD: usize = 52;

/// A packet.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Packet {
    /// What it is.
    pub operation: Operation,
    /// Bit 0: an answer is wanted.
    pub flags: u32,
    /// In an answer: an NTSTATUS.
    pub status: u32,
    /// What the operation says.
    pub payload: [u8; PAYLOAD],
}
/// Length of a packet.
pub const PACKET: usize = 64;
/// Length of a packet before [`VERSION_WIN8`].
pub const PACKET_WIN7: usize = 48;
const _: () = assert!(size_of::<Packet>() == PACKET);

/// A SCSI request block: the payload of [`Operation::EXECUTE_SRB`] and of its answer.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ScsiRequest {
    /// Of this struct.
    pub length: u16,
    /// In an answer: see [`srb_status`].
    pub srb_status: u8,
    /// In an answer: the SCSI status.
    pub scsi_status: u8,
    /// The guest's number of the controller.
    pub port: u8,
    /// The bus.
    pub path: u8,
    /// The target on it.
    pub target: u8,
    /// The unit of it.
    pub lun: u8,
    /// Length of the command.
    pub cdb_length: u8,
    /// Room for sense data; in an answer how much there is.
    pub sense_length: u8,
    /// 0 to the device, 1 from it, 2 no data.
    pub data_in: u8,
    /// Zero.
    pub reserved: u8,
    /// Length of the data; in an answer how much was transferred.
    pub data_length: u32,
    /// The command (16 bytes); in an answer sense data (20 bytes).
    pub cdb_or_sense: [u8; 20],
    /// From here on since [`VERSION_WIN8`]. Zero.
    pub reserved2: u16,
    /// Queue tag.
    pub queue_tag: u8,
    /// Queue action.
    pub queue_action: u8,
    /// See [`SRB_FLAG_DISABLE_AUTOSENSE`].
    pub srb_flags: u32,
    /// Seconds that the guest gives the command.
    pub timeout: u32,
    /// For sorting.
    pub queue_sort_key: u32,
}
const _: () = assert!(size_of::<ScsiRequest>() == PAYLOAD);

/// The guest asks for sense data by a command.
pub const SRB_FLAG_DISABLE_AUTOSENSE: u32 = 0x20;
/// SCSI status: done.
pub const SCSI_GOOD: u8 = 0x00;
/// SCSI status: there is sense data.
pub const SCSI_CHECK_CONDITION: u8 = 0x02;
/// SCSI status: try later.
pub const SCSI_BUSY: u8 = 0x08;

/// Values of [`ScsiRequest::srb_status`].
pub mod srb_status {
    /// Done.
    pub const SUCCESS: u8 = 0x01;
    /// Done with an error.
    pub const ERROR: u8 = 0x04;
    /// The unit is busy.
    pub const BUSY: u8 = 0x05;
    /// The request makes no sense.
    pub const INVALID_REQUEST: u8 = 0x06;
    /// The command moves more data than there is room for.
    pub const DATA_OVERRUN: u8 = 0x12;
    /// No such unit.
    pub const INVALID_LUN: u8 = 0x20;
    /// There is sense data in the answer.
    pub const AUTOSENSE_VALID: u8 = 0x80;
}

/// What the controller can do: the payload of the answer to [`Operation::QUERY_PROPERTIES`].
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ChannelProperties {
    /// Zero.
    pub reserved: u32,
    /// Subchannels that the guest may ask for.
    pub max_subchannels: u16,
    /// Zero.
    pub reserved2: u16,
    /// See [`SUPPORTS_MULTI_CHANNEL`].
    pub flags: u32,
    /// The longest transfer.
    pub max_transfer: u32,
    /// Zero.
    pub reserved3: [u32; 2],
}
const _: () = assert!(size_of::<ChannelProperties>() == 24);

/// Flag of [`ChannelProperties::flags`]: subchannels are to be had.
pub const SUPPORTS_MULTI_CHANNEL: u32 = 1;

/// What an IDE disk's offer says to old Windows drivers; others look at the instance.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct OfferProperties {
    /// Zero.
    pub reserved: u16,
    /// The IDE channel.
    pub path: u8,
    /// The device on it.
    pub target: u8,
    /// Zero.
    pub reserved2: u32,
    /// [`OFFER_IDE_DEVICE`].
    pub flags: u32,
    /// Zero.
    pub reserved3: [u32; 3],
}
const _: () = assert!(size_of::<OfferProperties>() == 24);

/// Flag of [`OfferProperties::flags`].
pub const OFFER_IDE_DEVICE: u32 = 2;
