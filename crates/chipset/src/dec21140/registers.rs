//! Registers and descriptors, named as in the manual.

use bitfield_struct::bitfield;

/// CSR0, bus mode.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub(super) struct BusMode {
    /// SWR.
    pub software_reset: bool,
    /// BAR.
    pub bus_arbitration: bool,
    /// DSL: longwords between two descriptors of a ring.
    #[bits(5)]
    pub skip: u32,
    /// BLE: the bytes of buffers are swapped.
    pub big_endian_buffers: bool,
    /// PBL.
    #[bits(6)]
    pub burst_length: u8,
    /// CAL.
    #[bits(2)]
    pub cache_alignment: u8,
    __: bool,
    /// TAP: how often a suspended transmit process looks at its descriptor by itself.
    #[bits(3)]
    pub automatic_polling: u8,
    /// DBO: the bytes of descriptors are swapped.
    pub big_endian_descriptors: bool,
    /// RME.
    pub read_multiple: bool,
    __: bool,
    /// RLE.
    pub read_line: bool,
    /// WIE.
    pub write_and_invalidate: bool,
    #[bits(7)]
    __: u8,
}

/// CSR5, status, and the same bits in CSR7, the interrupt mask.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub(super) struct Status {
    /// TI: a frame with the interrupt bit has been sent.
    pub transmit_interrupt: bool,
    /// TPS.
    pub transmit_stopped: bool,
    /// TU: the next descriptor is the host's.
    pub transmit_unavailable: bool,
    /// TJT: a frame had no end.
    pub jabber: bool,
    __: bool,
    /// UNF.
    pub underflow: bool,
    /// RI: a frame has been received.
    pub receive_interrupt: bool,
    /// RU: the next descriptor is the host's.
    pub receive_unavailable: bool,
    /// RPS.
    pub receive_stopped: bool,
    /// RWT: somebody else's frame had no end.
    pub receive_watchdog: bool,
    /// ETI.
    pub early_transmit: bool,
    /// GTE.
    pub timer: bool,
    __: bool,
    /// FBE.
    pub bus_error: bool,
    /// ERI.
    pub early_receive: bool,
    /// AIS.
    pub abnormal: bool,
    /// NIS.
    pub normal: bool,
    /// RS.
    #[bits(3)]
    pub receive_process: u8,
    /// TS.
    #[bits(3)]
    pub transmit_process: u8,
    /// EB: which error was the fatal one.
    #[bits(3)]
    pub error: u8,
    #[bits(6)]
    __: u8,
}

/// What NIS tells of: TI, TU, RI, ERI.
pub(super) const NORMAL: u32 = 0x4045;
/// What AIS tells of: TPS, TJT, UNF, RU, RPS, RWT, ETI, GTE, FBE.
pub(super) const ABNORMAL: u32 = 0x2faa;
/// The bits of CSR5 that are events.
pub(super) const EVENTS: u32 = NORMAL | ABNORMAL;
/// The bits of CSR7 that there are.
pub(super) const MASKABLE: u32 = EVENTS | 1 << 15 | 1 << 16;
/// EB of an address that nothing answers.
pub(super) const MASTER_ABORT: u8 = 0b001;

/// CSR6, operation mode.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub(super) struct OperationMode {
    /// HP: group addresses go by the hash table, one other address is the adapter's. Read-only.
    pub hash_perfect: bool,
    /// SR.
    pub receive: bool,
    /// HO: all addresses go by the hash table. Read-only.
    pub hash_only: bool,
    /// PB.
    pub pass_bad_frames: bool,
    /// IF: all addresses but those of the table. Read-only.
    pub inverse: bool,
    /// SB.
    pub backoff_counter: bool,
    /// PR.
    pub promiscuous: bool,
    /// PM.
    pub all_multicast: bool,
    __: bool,
    /// FD.
    pub full_duplex: bool,
    /// OM: 0 on the wire, else frames go back to the sender.
    #[bits(2)]
    pub loopback: u8,
    /// FC.
    pub force_collision: bool,
    /// ST.
    pub transmit: bool,
    /// TR.
    #[bits(2)]
    pub threshold: u8,
    __: bool,
    /// CA.
    pub capture_effect: bool,
    /// PS: the MII port.
    pub port_select: bool,
    /// HBD.
    pub heartbeat_disable: bool,
    __: bool,
    /// SF.
    pub store_and_forward: bool,
    /// TTM: 10 Mbit/s on the MII port.
    pub ten_megabits: bool,
    /// PCS.
    pub pcs: bool,
    /// SCR.
    pub scrambler: bool,
    #[bits(5)]
    __: u8,
    /// RA: what the filter does not want comes as well, and is marked.
    pub receive_all: bool,
    /// SC.
    pub special_capture_effect: bool,
}

/// Those bits of CSR6 that tell how the last setup frame wants addresses to be filtered.
pub(super) const FILTER_KIND: u32 = 0b1_0101;
/// CSR6 after a reset: promiscuous until there is a filter.
pub(super) const MODE_AFTER_RESET: u32 = 0x40;

/// CSR9, boot ROM, serial ROM and MII management.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub(super) struct Serial {
    /// The serial ROM's chip select.
    pub rom_select: bool,
    /// Its clock.
    pub rom_clock: bool,
    /// What it is told.
    pub rom_in: bool,
    /// What it says.
    pub rom_out: bool,
    #[bits(6)]
    __: u8,
    /// REG.
    pub external_register: bool,
    /// SR: the pins are the serial ROM's.
    pub serial_rom: bool,
    /// BR.
    pub boot_rom: bool,
    /// WR.
    pub write: bool,
    /// RD.
    pub read: bool,
    __: bool,
    /// MDC.
    pub mii_clock: bool,
    /// MDO.
    pub mii_out: bool,
    /// MII: the adapter listens.
    pub mii_read: bool,
    /// MDI.
    pub mii_in: bool,
    #[bits(12)]
    __: u16,
}

/// CSR15, watchdog timer.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub(super) struct Watchdog {
    /// JBD.
    pub jabber_disable: bool,
    /// HUJ.
    pub host_unjab: bool,
    /// JCK.
    pub jabber_clock: bool,
    __: bool,
    /// RWD.
    pub receive_disable: bool,
    /// RWR.
    pub receive_release: bool,
    #[bits(26)]
    __: u32,
}

/// OWN, in the first longword of every descriptor: it is the adapter's.
pub(super) const OWN: u32 = 1 << 31;

/// TDES0 of a setup frame that has been taken.
pub(super) const SETUP_TAKEN: u32 = 0x7fff_ffff;

/// TDES0, as the adapter leaves it.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub(super) struct TransmitStatus {
    #[bits(10)]
    __: u16,
    /// NC.
    pub no_carrier: bool,
    /// LO.
    pub loss_of_carrier: bool,
    #[bits(2)]
    __: u8,
    /// TO.
    pub jabber: bool,
    /// ES.
    pub error: bool,
    #[bits(16)]
    __: u16,
}

/// TDES1.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub(super) struct TransmitControl {
    /// TBS1.
    #[bits(11)]
    pub size_1: u16,
    /// TBS2.
    #[bits(11)]
    pub size_2: u16,
    /// FT0.
    pub filter_0: bool,
    /// DPD.
    pub no_padding: bool,
    /// TCH: the second address is the next descriptor's.
    pub chained: bool,
    /// TER.
    pub end_of_ring: bool,
    /// AC: the frame has its check sequence already.
    pub no_check_sequence: bool,
    /// SET.
    pub setup: bool,
    /// FT1.
    pub filter_1: bool,
    /// FS.
    pub first: bool,
    /// LS.
    pub last: bool,
    /// IC.
    pub interrupt: bool,
}

/// RDES0, as the adapter leaves it.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub(super) struct ReceiveStatus {
    #[bits(5)]
    __: u8,
    /// FT: the field behind the addresses is a type.
    pub frame_type: bool,
    __: bool,
    /// TL.
    pub too_long: bool,
    /// LS.
    pub last: bool,
    /// FS.
    pub first: bool,
    /// MF.
    pub multicast: bool,
    __: bool,
    /// DT: 0 for a frame of the wire, 1 for one that came back inside.
    #[bits(2)]
    pub data_type: u8,
    /// DE: there was no descriptor for the rest.
    pub truncated: bool,
    /// ES.
    pub error: bool,
    /// FL: bytes, the check sequence included.
    #[bits(14)]
    pub length: u16,
    /// FF: the filter did not want it.
    pub filtering_fail: bool,
    __: bool,
}

/// RDES1.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub(super) struct ReceiveControl {
    /// RBS1.
    #[bits(11)]
    pub size_1: u16,
    /// RBS2.
    #[bits(11)]
    pub size_2: u16,
    #[bits(2)]
    __: u8,
    /// RCH: the second address is the next descriptor's.
    pub chained: bool,
    /// RER.
    pub end_of_ring: bool,
    #[bits(6)]
    __: u8,
}
