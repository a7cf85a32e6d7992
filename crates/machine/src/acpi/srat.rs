//! The system resource affinity table (section 5.2.16): where RAM may be added. All of it is in one proximity domain.
//!
//! An operating system that knows the highest address in advance makes what it needs for devices that reach 4 GiB only.

use acpi_tables::srat::{MemoryAffinity, SRAT};
use acpi_tables::{Aml, AmlSink};
use zerocopy::byteorder::little_endian::U32;
use zerocopy::{Immutable, IntoBytes};

use super::{CHECKSUM, OEM, OEM_REVISION, OEM_TABLE, Platform, checksum};

const DOMAIN: u32 = 0;
const LENGTH: usize = 4;

/// Processor local APIC affinity (section 5.2.16.1).
#[repr(C, packed)]
#[derive(Clone, Copy, IntoBytes, Immutable)]
struct ProcessorAffinity {
    kind: u8,
    length: u8,
    domain_low: u8,
    apic: u8,
    flags: U32,
    sapic: u8,
    domain_high: [u8; 3],
    clock_domain: U32,
}

const ENABLED: u32 = 1;

/// The table with its processors, which its crate has not.
pub(super) struct Table {
    memory: SRAT,
    processors: u32,
}

/// The table, if RAM may grow.
pub(super) fn table(platform: &Platform) -> Option<Table> {
    if platform.growth.is_empty() {
        return None;
    }
    let mut memory = SRAT::new(OEM, OEM_TABLE, OEM_REVISION);
    for range in &platform.ram {
        memory.add_memory_affinity(MemoryAffinity::new(DOMAIN, range.start, range.size).enabled());
    }
    for range in &platform.growth {
        let size = range.end - range.start;
        memory.add_memory_affinity(MemoryAffinity::new(DOMAIN, range.start, size).enabled().hotpluggable());
    }
    Some(Table { memory, processors: platform.processors })
}

impl Aml for Table {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        let mut bytes = Vec::new();
        self.memory.to_aml_bytes(&mut bytes);
        for apic in 0..self.processors {
            let affinity = ProcessorAffinity {
                kind: 0,
                length: size_of::<ProcessorAffinity>() as u8,
                domain_low: DOMAIN as u8,
                // A machine has fewer processors than an 8-bit id can name.
                apic: apic as u8,
                flags: ENABLED.into(),
                sapic: 0,
                domain_high: [0; 3],
                clock_domain: 0.into(),
            };
            bytes.extend_from_slice(affinity.as_bytes());
        }
        let length = (bytes.len() as u32).to_le_bytes();
        bytes[LENGTH..LENGTH + length.len()].copy_from_slice(&length);
        bytes[CHECKSUM] = 0;
        bytes[CHECKSUM] = checksum(&bytes);
        sink.vec(&bytes);
    }
}
