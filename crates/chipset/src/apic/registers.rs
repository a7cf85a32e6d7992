//! Registers of the local APIC, by the names of the Intel SDM.

use bitfield_struct::bitfield;

pub(super) const ID: u32 = 0x020;
pub(super) const VERSION: u32 = 0x030;
pub(super) const TASK_PRIORITY: u32 = 0x080;
pub(super) const ARBITRATION_PRIORITY: u32 = 0x090;
pub(super) const PROCESSOR_PRIORITY: u32 = 0x0a0;
pub(super) const END_OF_INTERRUPT: u32 = 0x0b0;
pub(super) const REMOTE_READ: u32 = 0x0c0;
pub(super) const LOGICAL_DESTINATION: u32 = 0x0d0;
pub(super) const DESTINATION_FORMAT: u32 = 0x0e0;
pub(super) const SPURIOUS_VECTOR: u32 = 0x0f0;
pub(super) const IN_SERVICE: u32 = 0x100;
pub(super) const TRIGGER_MODE: u32 = 0x180;
pub(super) const REQUEST: u32 = 0x200;
pub(super) const REQUEST_END: u32 = 0x280;
pub(super) const ERROR_STATUS: u32 = 0x280;
pub(super) const COMMAND_LOW: u32 = 0x300;
pub(super) const COMMAND_HIGH: u32 = 0x310;
pub(super) const LVT_FIRST: u32 = 0x320;
pub(super) const LVT_LAST: u32 = 0x370;
pub(super) const INITIAL_COUNT: u32 = 0x380;
pub(super) const CURRENT_COUNT: u32 = 0x390;
pub(super) const DIVIDE_CONFIGURATION: u32 = 0x3e0;
/// x2APIC mode only.
pub(super) const SELF_IPI: u32 = 0x3f0;

/// The entries of the local vector table in the order of their registers.
pub(super) const LVT_TIMER: usize = 0;
pub(super) const LVT_LINT0: usize = 3;
pub(super) const LVT_ERROR: usize = 5;
pub(super) const LVT_COUNT: usize = 6;

/// What a guest may write of each entry: timer, thermal, performance, LINT0, LINT1, error.
pub(super) const LVT_WRITABLE: [u32; LVT_COUNT] =
    [0x0007_00ff, 0x0001_07ff, 0x0001_07ff, 0x0001_a7ff, 0x0001_a7ff, 0x0001_00ff];
/// Delivery status and remote IRR: read-only, and not reserved.
pub(super) const LVT_READ_ONLY: u32 = 0x0000_5000;

/// Integrated APIC with 6 vector table entries.
pub(super) const VERSION_VALUE: u32 = (LVT_COUNT as u32 - 1) << 16 | 0x14;

pub(super) const ERROR_SEND_ILLEGAL_VECTOR: u32 = 1 << 5;
pub(super) const ERROR_RECEIVE_ILLEGAL_VECTOR: u32 = 1 << 6;
pub(super) const ERROR_ILLEGAL_REGISTER: u32 = 1 << 7;

/// IA32_APIC_BASE.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub(super) struct Base {
    __: u8,
    pub boot_processor: bool,
    __: bool,
    pub x2apic: bool,
    pub enabled: bool,
    #[bits(40)]
    pub frame: u64,
    #[bits(12)]
    pub reserved: u16,
}

impl Base {
    pub(super) fn in_x2apic_mode(self) -> bool {
        self.enabled() && self.x2apic()
    }
}

/// Delivery modes, of LVT entries, the ICR and messages alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DeliveryMode {
    Fixed,
    LowestPriority,
    Smi,
    Reserved,
    Nmi,
    Init,
    StartUp,
    External,
}

impl DeliveryMode {
    pub(super) const fn from_bits(bits: u8) -> Self {
        match bits & 7 {
            0 => Self::Fixed,
            1 => Self::LowestPriority,
            2 => Self::Smi,
            3 => Self::Reserved,
            4 => Self::Nmi,
            5 => Self::Init,
            6 => Self::StartUp,
            _ => Self::External,
        }
    }

    const fn into_bits(self) -> u8 {
        self as u8
    }
}

/// How the timer runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TimerMode {
    OneShot,
    Periodic,
    TscDeadline,
    Reserved,
}

impl TimerMode {
    const fn from_bits(bits: u8) -> Self {
        match bits & 3 {
            0 => Self::OneShot,
            1 => Self::Periodic,
            2 => Self::TscDeadline,
            _ => Self::Reserved,
        }
    }

    const fn into_bits(self) -> u8 {
        self as u8
    }
}

/// An entry of the local vector table.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub(super) struct Lvt {
    pub vector: u8,
    #[bits(3)]
    pub mode: DeliveryMode,
    __: bool,
    pub delivery_status: bool,
    pub active_low: bool,
    pub remote_irr: bool,
    pub level: bool,
    pub masked: bool,
    #[bits(2)]
    pub timer_mode: TimerMode,
    #[bits(13)]
    __: u32,
}

/// The interrupt command register.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub(super) struct Command {
    pub vector: u8,
    #[bits(3)]
    pub mode: DeliveryMode,
    pub logical: bool,
    /// Read-only; deliveries complete at once.
    pub delivery_status: bool,
    __: bool,
    pub assert: bool,
    pub level: bool,
    #[bits(2)]
    __: u8,
    #[bits(2)]
    pub shorthand: u8,
    #[bits(12)]
    __: u16,
    pub destination: u32,
}

/// What a guest may write of the command register's lower half.
pub(super) const COMMAND_WRITABLE: u32 = 0x000c_cfff;

/// 256 bits, one for each vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Vectors([u32; 8]);

impl Vectors {
    pub(super) fn insert(&mut self, vector: u8) {
        self.0[usize::from(vector >> 5)] |= 1 << (vector & 31);
    }

    pub(super) fn remove(&mut self, vector: u8) {
        self.0[usize::from(vector >> 5)] &= !(1 << (vector & 31));
    }

    pub(super) fn contains(&self, vector: u8) -> bool {
        self.0[usize::from(vector >> 5)] >> (vector & 31) & 1 != 0
    }

    pub(super) fn highest(&self) -> Option<u8> {
        let index = self.0.iter().rposition(|word| *word != 0)?;
        Some((32 * index as u32 + 31 - self.0[index].leading_zeros()) as u8)
    }

    /// The 32 bits of register `index` (0–7).
    pub(super) fn word(&self, index: usize) -> u32 {
        self.0.get(index).copied().unwrap_or(0)
    }
}
