//! The ACPI tables (Advanced Configuration and Power Interface Specification 6.5, chapter 5): what an
//! operating system learns of a PIIX4 board with one IOAPIC and, if there is one, of the VMBus.
//!
//! ```text
//! RSDP ─▶ XSDT ─┬▶ FADT ─┬▶ FACS
//!               │        └▶ DSDT (AML)
//!               └▶ MADT
//! ```
//!
//! Not described: HPET (there is none), PCI memory-mapped configuration (PIIX4 has none), processor power
//! and performance states, hot-plug.

mod dsdt;
mod fadt;
mod madt;

#[cfg(test)]
mod tests;

use acpi_tables::Aml;
use acpi_tables::facs::FACS;
use acpi_tables::rsdp::Rsdp;
use acpi_tables::xsdt::XSDT;

use crate::memory_map::Window;

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
    /// Memory of PCI devices.
    pub pci_window: Window,
    /// Where the INTA–INTD pins of PCI devices lead.
    pub pci_routing: PciRouting,
    /// Memory of VMBus devices, if there is a VMBus.
    pub vmbus_window: Option<Window>,
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

/// The tables as they lie in memory from `base`, the RSDP first.
pub fn tables(platform: &Platform, base: u64) -> Vec<u8> {
    let mut image = Image { base, bytes: Vec::new() };
    // The RSDP comes first but is known last.
    image.bytes.resize(Rsdp::len(), 0);
    let facs = image.append(64, &FACS::new());
    let dsdt = image.append(8, &dsdt::table(platform));
    let fadt = image.append(8, &fadt::table(platform, facs, dsdt));
    let madt = image.append(8, &madt::table(platform));
    let mut xsdt = XSDT::new(OEM, OEM_TABLE, OEM_REVISION);
    xsdt.add_entry(fadt);
    xsdt.add_entry(madt);
    let xsdt = image.append(8, &xsdt);
    let mut rsdp = Vec::new();
    Rsdp::new(OEM, xsdt).to_aml_bytes(&mut rsdp);
    image.bytes[..rsdp.len()].copy_from_slice(&rsdp);
    image.bytes
}

/// Tables one behind the other.
struct Image {
    base: u64,
    bytes: Vec<u8>,
}

impl Image {
    /// Appends `table` at a multiple of `alignment`; returns its address.
    fn append(&mut self, alignment: usize, table: &dyn Aml) -> u64 {
        self.bytes.resize(self.bytes.len().next_multiple_of(alignment), 0);
        let address = self.base + self.bytes.len() as u64;
        table.to_aml_bytes(&mut self.bytes);
        address
    }
}
