//! Hypercalls: codes, the input and result values, and parameter blocks (TLFS, "Hypercall Interface" and
//! "Hypercall Reference").

use bitfield_struct::bitfield;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{HvStatus, InitialVpContext, message};

/// The code of a hypercall.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CallCode(pub u16);

#[allow(missing_docs)]
impl CallCode {
    pub const FLUSH_VIRTUAL_ADDRESS_SPACE: Self = Self(0x0002);
    pub const FLUSH_VIRTUAL_ADDRESS_LIST: Self = Self(0x0003);
    pub const NOTIFY_LONG_SPIN_WAIT: Self = Self(0x0008);
    pub const SEND_SYNTHETIC_CLUSTER_IPI: Self = Self(0x000b);
    pub const FLUSH_VIRTUAL_ADDRESS_SPACE_EX: Self = Self(0x0013);
    pub const FLUSH_VIRTUAL_ADDRESS_LIST_EX: Self = Self(0x0014);
    pub const SEND_SYNTHETIC_CLUSTER_IPI_EX: Self = Self(0x0015);
    pub const GET_VP_REGISTERS: Self = Self(0x0050);
    pub const SET_VP_REGISTERS: Self = Self(0x0051);
    pub const POST_MESSAGE: Self = Self(0x005c);
    pub const SIGNAL_EVENT: Self = Self(0x005d);
    pub const START_VIRTUAL_PROCESSOR: Self = Self(0x0099);
    pub const GET_VP_INDEX_FROM_APIC_ID: Self = Self(0x009a);
    pub const EXT_QUERY_CAPABILITIES: Self = Self(0x8001);
}

/// Bytes that a fast hypercall carries in general registers.
pub const FAST_GENERAL_BYTES: usize = 16;
/// XMM registers that a fast hypercall may use.
pub const FAST_XMM_REGISTERS: usize = 6;
/// Bytes that a fast hypercall carries in general and XMM registers.
pub const FAST_BYTES: usize = FAST_GENERAL_BYTES + 16 * FAST_XMM_REGISTERS;

/// The hypercall input value.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct Input {
    /// Which hypercall.
    pub code: u16,
    /// Parameters are in registers.
    pub fast: bool,
    /// Size of the variable header in units of 8 bytes.
    #[bits(10)]
    pub variable_header: usize,
    #[bits(5)]
    pub reserved0: u8,
    /// Number of list elements in all.
    #[bits(12)]
    pub rep_count: usize,
    #[bits(4)]
    pub reserved1: u8,
    /// First list element that is to be processed.
    #[bits(12)]
    pub rep_start: usize,
    #[bits(4)]
    pub reserved2: u8,
}

/// The hypercall result value.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct Output {
    /// HV_STATUS.
    pub status: u16,
    __: u16,
    /// Number of list elements that have been processed, from the start of the list.
    #[bits(12)]
    pub reps_completed: usize,
    #[bits(20)]
    __: u32,
}

impl Output {
    /// A result value.
    pub fn of(status: HvStatus, reps_completed: usize) -> Self {
        Self::new().with_status(status.0).with_reps_completed(reps_completed)
    }
}

/// HV_INPUT_VTL: the virtual trust level that a hypercall addresses.
#[bitfield(u8)]
#[derive(PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct InputVtl {
    /// The level.
    #[bits(4)]
    pub target_vtl: u8,
    /// Whether `target_vtl` counts; the caller's own level if not.
    pub use_target_vtl: bool,
    #[bits(3)]
    pub reserved: u8,
}

/// HV_FLUSH_FLAGS.
#[bitfield(u64)]
#[derive(PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct FlushFlags {
    /// All processors, whatever the mask says.
    pub all_processors: bool,
    /// All address spaces, whatever the address space says.
    pub all_virtual_address_spaces: bool,
    /// Global mappings may stay.
    pub non_global_mappings_only: bool,
    /// List elements have the extended format.
    pub use_extended_range_format: bool,
    #[bits(60)]
    pub reserved: u64,
}

/// Header of HvCallFlushVirtualAddressSpace and HvCallFlushVirtualAddressList.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct FlushVirtualAddress {
    /// CR3 of the address space.
    pub address_space: u64,
    /// What is flushed.
    pub flags: FlushFlags,
    /// One bit for each of the processors 0–63.
    pub processor_mask: u64,
}

/// Fixed header of HvCallFlushVirtualAddressSpaceEx and HvCallFlushVirtualAddressListEx. The banks of the
/// set follow as the variable header.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct FlushVirtualAddressEx {
    /// CR3 of the address space.
    pub address_space: u64,
    /// What is flushed.
    pub flags: FlushFlags,
    /// Whose TLBs.
    pub processor_set: VpSetHeader,
}

/// A list element of the flush hypercalls: a page and how many follow it.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct GvaRange {
    /// Pages behind the first one.
    #[bits(12)]
    pub additional_pages: u64,
    /// Number of the first page.
    #[bits(52)]
    pub page_number: u64,
}

/// The fixed part of HV_VP_SET.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct VpSetHeader {
    /// [`Self::SPARSE`] or [`Self::ALL`].
    pub format: u64,
    /// One bit for each bank of 64 processors whose mask follows.
    pub valid_bank_mask: u64,
}

impl VpSetHeader {
    /// The banks say who is in the set.
    pub const SPARSE: u64 = 0;
    /// Every processor is in the set.
    pub const ALL: u64 = 1;
}

/// Parameters of HvCallSendSyntheticClusterIpi.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SendSyntheticClusterIpi {
    /// Interrupt vector.
    pub vector: u32,
    /// Virtual trust level.
    pub target_vtl: InputVtl,
    /// Ignored.
    pub padding: [u8; 3],
    /// One bit for each of the processors 0–63.
    pub processor_mask: u64,
}

/// Fixed header of HvCallSendSyntheticClusterIpiEx.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SendSyntheticClusterIpiEx {
    /// Interrupt vector.
    pub vector: u32,
    /// Virtual trust level.
    pub target_vtl: InputVtl,
    /// Ignored.
    pub padding: [u8; 3],
    /// To whom.
    pub processor_set: VpSetHeader,
}

/// Parameters of HvCallNotifyLongSpinWait.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct NotifyLongSpinWait {
    /// How often the caller has spun.
    pub spin_count: u32,
    /// Zero.
    pub reserved: u32,
}

/// Parameters of HvCallPostMessage.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct PostMessage {
    /// Which connection.
    pub connection_id: u32,
    /// Zero.
    pub reserved: u32,
    /// Type of the message; the hypervisor's own have the highest bit set.
    pub message_type: u32,
    /// Bytes of `payload` that count.
    pub payload_size: u32,
    /// The message.
    pub payload: [u8; message::PAYLOAD_BYTES],
}

/// Parameters of HvCallSignalEvent.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SignalEvent {
    /// Which connection.
    pub connection_id: u32,
    /// Which of the port's flags.
    pub flag_number: u16,
    /// Zero.
    pub reserved: u16,
}

/// Bits of a connection id that count; the others are zero.
pub const CONNECTION_ID_MASK: u32 = 0x00ff_ffff;

/// Header of HvCallGetVpRegisters and HvCallSetVpRegisters.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct VpRegisters {
    /// Which partition.
    pub partition_id: u64,
    /// Which processor.
    pub vp_index: u32,
    /// Virtual trust level.
    pub target_vtl: InputVtl,
    /// Zero.
    pub reserved: [u8; 3],
}

/// A list element of HvCallSetVpRegisters.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RegisterAssociation {
    /// Which register.
    pub name: u32,
    /// Zero.
    pub reserved: [u32; 3],
    /// Its new value, 128 bits.
    pub value: [u64; 2],
}

/// Parameters of HvCallStartVirtualProcessor.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct StartVirtualProcessor {
    /// Which partition.
    pub partition_id: u64,
    /// Which processor.
    pub vp_index: u32,
    /// Virtual trust level.
    pub target_vtl: u8,
    /// Zero.
    pub reserved: [u8; 3],
    /// The registers it starts with.
    pub context: InitialVpContext,
}

/// Header of HvCallGetVpIndexFromApicId. Both lists consist of 32-bit numbers.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct GetVpIndexFromApicId {
    /// Which partition.
    pub partition_id: u64,
    /// Virtual trust level.
    pub target_vtl: u8,
    /// Ignored.
    pub padding: [u8; 7],
}

const _: () = assert!(size_of::<FlushVirtualAddress>() == 24);
const _: () = assert!(size_of::<FlushVirtualAddressEx>() == 32);
const _: () = assert!(size_of::<SendSyntheticClusterIpi>() == 16);
const _: () = assert!(size_of::<SendSyntheticClusterIpiEx>() == 24);
const _: () = assert!(size_of::<NotifyLongSpinWait>() == 8);
const _: () = assert!(size_of::<PostMessage>() == 256);
const _: () = assert!(size_of::<SignalEvent>() == 8);
const _: () = assert!(size_of::<VpRegisters>() == 16);
const _: () = assert!(size_of::<RegisterAssociation>() == 32);
const _: () = assert!(size_of::<StartVirtualProcessor>() == 240);
const _: () = assert!(size_of::<GetVpIndexFromApicId>() == 16);
const _: () = assert!(FAST_BYTES == 112);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_input_value_has_its_fields_where_they_belong() {
        let input = Input::from_bits(0x0005_000a_0003_0014);
        assert_eq!((input.code(), input.fast(), input.variable_header()), (0x14, true, 1));
        assert_eq!((input.rep_count(), input.rep_start()), (10, 5));
        assert_eq!(Input::from_bits(1 << 27).reserved0(), 1);
        assert_eq!(Input::from_bits(1 << 44).reserved1(), 1);
        assert_eq!(Input::from_bits(1 << 60).reserved2(), 1);
    }

    #[test]
    fn the_result_value_has_its_fields_where_they_belong() {
        assert_eq!(Output::of(HvStatus::INVALID_PARAMETER, 7).into_bits(), 0x0000_0007_0000_0005);
    }
}
