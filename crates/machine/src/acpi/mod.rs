//! The ACPI tables (Advanced Configuration and Power Interface Specification 6.5, chapter 5): what an
//! operating system learns of a PIIX4 board with one IOAPIC and, if there is one, of the VMBus.
//!
//! ```text
//! RSDP ─▶ XSDT, RSDT ─┬▶ FADT ─┬▶ FACS
//!                     │        └▶ DSDT (AML)
//!                     ├▶ MADT
//!                     └▶ SRAT, if RAM may grow
//! ```
//!
//! Without firmware they lie where we put them ([`tables`]); with firmware it places them, by a script ([`script`]).
//!
//! Not described: HPET (there is none), PCI memory-mapped configuration (PIIX4 has none), processor power
//! and performance states, hot-plug.

mod dsdt;
mod fadt;
mod madt;
mod script;
mod srat;

#[cfg(test)]
mod tests;

pub use script::{Script, script};

use acpi_tables::Aml;
use acpi_tables::facs::FACS;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;

use crate::memory_map::{Range, Window};

const OEM: [u8; 6] = *b"BODHI ";
const OEM_TABLE: [u8; 8] = *b"BODHIVM ";
const OEM_REVISION: u32 = 1;

/// What the tables describe.
#[derive(Debug, Clone)]
pub struct Platform {
    /// Number of processors, with APIC ids from 0.
    pub processors: u32,
    /// The local APICs' address.
    pub local_apic: u64,
    /// The IOAPIC's address.
    pub ioapic: u64,
    /// The IOAPIC's id.
    pub ioapic_id: u8,
    /// First port of the power management registers.
    pub pm_base: u16,
    /// The ISA interrupt of power management events.
    pub sci: u8,
    /// The port of the SMI command register with the values that switch ACPI mode on and off.
    pub smi_command: (u16, u8, u8),
    /// The device number of the south bridge on the PCI bus.
    pub south_bridge: u8,
    /// Memory of PCI devices.
    pub pci_window: Window,
    /// Where the INTA–INTD pins of PCI devices lead.
    pub pci_routing: PciRouting,
    /// The RAM that the machine starts with.
    pub ram: Vec<Range>,
    /// Where RAM may be added.
    pub growth: Vec<std::ops::Range<u64>>,
    /// Memory of VMBus devices, if there is a VMBus.
    pub vmbus_window: Option<Window>,
    /// The legacy window of the video adapter, if there is one.
    pub video_window: Option<Window>,
}

/// Where the four PCI interrupt lines lead.
#[derive(Debug, Clone, Copy)]
pub struct PciRouting {
    /// Which of the lines A–D (0–3) carries `pin` (0 for INTA) of `device`.
    pub line: fn(device: u8, pin: u8) -> u8,
    /// The IOAPIC input of each line.
    pub ioapic: [u8; 4],
    /// The 8259 input of each line.
    pub pic: [u8; 4],
}

/// Bytes of the RSDP.
pub const RSDP_LENGTH: usize = 36;
/// Bytes of the RSDP that its first checksum covers.
const RSDP_FIRST_PART: usize = 20;
/// Length of the header that tables have in common.
const HEADER: u32 = 36;
/// Where the header has its checksum.
const CHECKSUM: usize = 9;

/// The tables as they lie in memory from `base`, the RSDP first.
pub fn tables(platform: &Platform, base: u64) -> Vec<u8> {
    let mut image = Image::new(base);
    // The RSDP comes first but is known last.
    image.bytes.resize(RSDP_LENGTH, 0);
    let (rsdt, xsdt) = image.fill(platform);
    image.bytes[..RSDP_LENGTH].copy_from_slice(&rsdp(rsdt, xsdt));
    image.bytes
}

/// The root pointer to both root tables. They lie below 4 GiB.
fn rsdp(rsdt: u64, xsdt: u64) -> [u8; RSDP_LENGTH] {
    let mut bytes = [0; RSDP_LENGTH];
    let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
    put(0, b"RSD PTR ");
    put(9, &OEM);
    put(15, &[2]);
    put(16, &(rsdt as u32).to_le_bytes());
    put(20, &(RSDP_LENGTH as u32).to_le_bytes());
    put(24, &xsdt.to_le_bytes());
    bytes[8] = checksum(&bytes[..RSDP_FIRST_PART]);
    bytes[32] = checksum(&bytes);
    bytes
}

/// What makes the bytes add up to zero.
fn checksum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum: u8, byte| sum.wrapping_sub(*byte))
}

/// A field of a table that holds the address of another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Pointer {
    at: usize,
    size: u8,
}

/// Tables one behind the other.
struct Image {
    base: u64,
    bytes: Vec<u8>,
    /// The fields that would change with the base.
    pointers: Vec<Pointer>,
    /// The tables that have such fields: where they begin.
    pointing: Vec<usize>,
}

impl Image {
    fn new(base: u64) -> Self {
        Self { base, bytes: Vec::new(), pointers: Vec::new(), pointing: Vec::new() }
    }

    /// Appends all tables but the RSDP; returns the addresses of RSDT and XSDT.
    fn fill(&mut self, platform: &Platform) -> (u64, u64) {
        let facs = self.append(64, &FACS::new(), &[]);
        let dsdt = self.append(8, &dsdt::table(platform), &[]);
        let fadt = self.append(8, &fadt::table(platform, facs, dsdt), &fadt::POINTERS);
        let madt = self.append(8, &madt::table(platform), &[]);
        let mut xsdt = XSDT::new(OEM, OEM_TABLE, OEM_REVISION);
        // 32-bit software of old reads no other root table.
        let mut rsdt = Sdt::new(*b"RSDT", HEADER, 1, OEM, OEM_TABLE, OEM_REVISION);
        let srat = srat::table(platform).map(|table| self.append(8, &table, &[]));
        let listed: Vec<u64> = [fadt, madt].into_iter().chain(srat).collect();
        for &table in &listed {
            xsdt.add_entry(table);
            rsdt.append_slice(&(table as u32).to_le_bytes());
        }
        let entries = |size: u8| -> Vec<_> {
            let at = |index| HEADER as usize + index * usize::from(size);
            (0..listed.len()).map(|index| (at(index), size)).collect()
        };
        let rsdt = self.append(8, &rsdt, &entries(4));
        let xsdt = self.append(8, &xsdt, &entries(8));
        (rsdt, xsdt)
    }

    /// Appends `table` at a multiple of `alignment`; returns its address. `pointers` are offset and size of its
    /// fields with addresses of tables.
    fn append(&mut self, alignment: usize, table: &dyn Aml, pointers: &[(usize, u8)]) -> u64 {
        self.bytes.resize(self.bytes.len().next_multiple_of(alignment), 0);
        let start = self.bytes.len();
        table.to_aml_bytes(&mut self.bytes);
        self.pointers.extend(pointers.iter().map(|&(at, size)| Pointer { at: start + at, size }));
        if !pointers.is_empty() {
            self.pointing.push(start);
        }
        self.base + start as u64
    }
}
