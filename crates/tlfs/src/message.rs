//! Messages of the synthetic interrupt controller (TLFS, "Inter-Partition Communication").

use bitfield_struct::bitfield;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Most bytes that a message carries.
pub const PAYLOAD_BYTES: usize = 240;
/// Size of a message slot.
pub const SLOT_BYTES: usize = 256;

/// HV_MESSAGE_TYPE.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(transparent)]
pub struct MessageType(pub u32);

impl MessageType {
    /// The slot is free.
    pub const NONE: Self = Self(0);
    /// A VMBus channel message. (Not the hypervisor's: VMBus posts with this type.)
    pub const VMBUS_CHANNEL: Self = Self(1);
    /// Access to a guest physical address that is not mapped.
    pub const UNMAPPED_GPA: Self = Self(0x8000_0000);
    /// Access to a guest physical address that is not permitted.
    pub const GPA_INTERCEPT: Self = Self(0x8000_0001);
    /// A synthetic timer has expired; the payload is [`TimerPayload`].
    pub const TIMER_EXPIRED: Self = Self(0x8000_0010);
    /// A register had a value that is not valid.
    pub const INVALID_VP_REGISTER_VALUE: Self = Self(0x8000_0020);
    /// Triple fault.
    pub const UNRECOVERABLE_EXCEPTION: Self = Self(0x8000_0021);
    /// Use of a feature that is not supported.
    pub const UNSUPPORTED_FEATURE: Self = Self(0x8000_0022);

    /// Whether only the hypervisor may send it.
    pub const fn is_hypervisor(self) -> bool {
        self.0 & 0x8000_0000 != 0
    }
}

/// HV_MESSAGE_FLAGS.
#[bitfield(u8)]
#[derive(PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct MessageFlags {
    /// More messages wait for the slot: the guest must write EOM.
    pub message_pending: bool,
    #[bits(7)]
    pub reserved: u8,
}

/// Header of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct MessageHeader {
    /// What it is; [`MessageType::NONE`] in a free slot.
    pub message_type: MessageType,
    /// Bytes of payload that count.
    pub payload_size: u8,
    /// Whether more wait.
    pub flags: MessageFlags,
    /// Zero.
    pub reserved: [u8; 2],
    /// Sender's partition, or the port.
    pub sender: u64,
}

/// HV_MESSAGE: a slot of the message page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Message {
    /// Header.
    pub header: MessageHeader,
    /// Payload.
    pub payload: [u8; PAYLOAD_BYTES],
}

impl Message {
    /// A message, or `None` if the payload is too long.
    pub fn new(message_type: MessageType, payload: &[u8]) -> Option<Self> {
        let mut message = Self {
            header: MessageHeader {
                message_type,
                payload_size: u8::try_from(payload.len()).ok()?,
                flags: MessageFlags::new(),
                reserved: [0; 2],
                sender: 0,
            },
            payload: [0; PAYLOAD_BYTES],
        };
        message.payload.get_mut(..payload.len())?.copy_from_slice(payload);
        Some(message)
    }

    /// A message with a structure for payload, which must fit.
    pub fn with<T: IntoBytes + Immutable>(message_type: MessageType, payload: &T) -> Self {
        const { assert!(size_of::<T>() <= PAYLOAD_BYTES) };
        let bytes = payload.as_bytes();
        let mut message = Self {
            header: MessageHeader {
                message_type,
                payload_size: size_of::<T>() as u8,
                flags: MessageFlags::new(),
                reserved: [0; 2],
                sender: 0,
            },
            payload: [0; PAYLOAD_BYTES],
        };
        message.payload[..bytes.len()].copy_from_slice(bytes);
        message
    }
}

/// HV_TIMER_MESSAGE_PAYLOAD.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct TimerPayload {
    /// Which timer, 0–3.
    pub timer_index: u32,
    /// Zero.
    pub reserved: u32,
    /// Reference time at which it was to expire.
    pub expiration_time: u64,
    /// Reference time at which the message was put into its slot.
    pub delivery_time: u64,
}

const _: () = assert!(size_of::<MessageHeader>() == 16);
const _: () = assert!(size_of::<Message>() == SLOT_BYTES);
const _: () = assert!(size_of::<TimerPayload>() == 24);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_of_more_than_240_bytes_cannot_be() {
        assert!(Message::new(MessageType(1), &[0; 240]).is_some());
        assert!(Message::new(MessageType(1), &[0; 241]).is_none());
        assert!(Message::new(MessageType(1), &[0; 256]).is_none());
    }
}
