//! The multiple APIC description table.

use acpi_tables::madt::{EnabledStatus, IoApic, LocalInterruptController, MADT, ProcessorLocalApic};
use acpi_tables::{Aml, AmlSink};
use zerocopy::byteorder::little_endian::{U16, U32};
use zerocopy::{Immutable, IntoBytes};

use super::{OEM, OEM_REVISION, OEM_TABLE, Platform};

const ALL_PROCESSORS: u8 = 0xff;
/// MPS INTI flags: polarity and trigger mode as the bus has them.
const CONFORMING: u16 = 0;
/// MPS INTI flags: active high, level triggered.
const HIGH_LEVEL: u16 = 0b1101;
/// The 8254's interrupt and the IOAPIC input that it comes in by.
const TIMER_IRQ: u8 = 0;
const TIMER_INPUT: u32 = 2;

/// Interrupt source override (section 5.2.12.5).
#[repr(C, packed)]
#[derive(Clone, Copy, IntoBytes, Immutable)]
struct SourceOverride {
    kind: u8,
    length: u8,
    bus: u8,
    source: u8,
    global: U32,
    flags: U16,
}

impl SourceOverride {
    fn new(source: u8, global: u32, flags: u16) -> Self {
        Self { kind: 2, length: 10, bus: 0, source, global: global.into(), flags: flags.into() }
    }
}

impl Aml for SourceOverride {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        sink.vec(self.as_bytes());
    }
}

/// Local APIC NMI (section 5.2.12.7).
#[repr(C, packed)]
#[derive(Clone, Copy, IntoBytes, Immutable)]
struct LocalApicNmi {
    kind: u8,
    length: u8,
    processor: u8,
    flags: U16,
    pin: u8,
}

impl Aml for LocalApicNmi {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        sink.vec(self.as_bytes());
    }
}

pub(super) fn table(platform: &Platform) -> WithPics {
    let controller = LocalInterruptController::Address(platform.local_apic as u32);
    let mut table = MADT::new(OEM, OEM_TABLE, OEM_REVISION, controller);
    for id in 0..platform.processors {
        // A machine has fewer processors than an 8-bit id can name.
        table.add_structure(ProcessorLocalApic::new(id as u8, id as u8, EnabledStatus::Enabled));
    }
    table.add_structure(IoApic::new(platform.ioapic_id, platform.ioapic as u32, 0));
    table.add_structure(SourceOverride::new(TIMER_IRQ, TIMER_INPUT, CONFORMING));
    table.add_structure(SourceOverride::new(platform.sci, u32::from(platform.sci), HIGH_LEVEL));
    table.add_structure(LocalApicNmi {
        kind: 4,
        length: 6,
        processor: ALL_PROCESSORS,
        flags: CONFORMING.into(),
        pin: 1,
    });
    WithPics(table)
}

/// The table with its PCAT_COMPAT flag, which says that there are 8259s too.
pub(super) struct WithPics(MADT);

impl Aml for WithPics {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        const CHECKSUM: usize = 9;
        const FLAGS: usize = 40;
        const PCAT_COMPAT: u8 = 1;
        let mut bytes = Vec::new();
        self.0.to_aml_bytes(&mut bytes);
        bytes[FLAGS] |= PCAT_COMPAT;
        bytes[CHECKSUM] = bytes[CHECKSUM].wrapping_sub(PCAT_COMPAT);
        sink.vec(&bytes);
    }
}
