//! The SMBIOS tables (System Management BIOS Reference Specification 2.8): who made the machine.
//!
//! Linux's `ata_piix` leaves IDE disks to the synthetic driver where it reads the names of a Hyper-V machine
//! here. So a machine bears them if, and only if, its IDE disks have a synthetic side.
//!
//! Only the structures that the specification asks of every machine with nothing to enumerate are there: BIOS,
//! system and chassis. Not described: processors, memory devices, slots, ports.

use crate::memory_map::{SMBIOS_TABLES, SMBIOS_TABLES_SIZE};

/// Whose machine it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    manufacturer: &'static str,
    product: &'static str,
    version: &'static str,
}

/// A machine whose IDE disks the synthetic driver takes over.
pub const HYPER_V: Identity =
    Identity { manufacturer: "Microsoft Corporation", product: "Virtual Machine", version: "7.0" };
/// A machine whose IDE disks are for the IDE driver.
pub const PLAIN: Identity =
    Identity { manufacturer: "bodhi", product: "bodhi", version: env!("CARGO_PKG_VERSION") };

/// The entry point comes first, on a 16-byte boundary between 0xF0000 and 0xFFFFF (section 5.2.1).
const ENTRY_LENGTH: usize = 0x1f;
/// The tables follow it.
const TABLES_OFFSET: usize = 0x20;
/// Revision 2.8.
const REVISION: (u8, u8) = (2, 8);

/// The entry point and the tables as they lie in memory from [`SMBIOS_TABLES`].
pub fn tables(identity: Identity) -> Vec<u8> {
    let mut tables = Tables::default();
    let Identity { manufacturer, product, version } = identity;
    // Type 0, BIOS: vendor, version, address segment, date, ROM size, characteristics ("not supported", and in the
    // second extension byte "the machine is virtual"), release.
    let mut bios = vec![1, 2, 0x00, 0xf0, 3, 0];
    bios.extend_from_slice(&(1u64 << 3).to_le_bytes());
    bios.extend_from_slice(&[0, 1 << 4, 0xff, 0xff, 0xff, 0xff]);
    tables.add(0, &bios, &["bodhi", env!("CARGO_PKG_VERSION"), "01/01/2026"]);
    // Type 1, system: manufacturer, product, version, no serial number, no UUID, power switch, no SKU, no family.
    let mut system = vec![1, 2, 3, 0];
    system.extend_from_slice(&[0; 16]);
    system.extend_from_slice(&[6, 0, 0]);
    tables.add(1, &system, &[manufacturer, product, version]);
    // Type 3, chassis: manufacturer, "desktop", no version, serial number or asset tag, states "safe", no
    // security, no OEM value, height and power cords unknown, no contained elements.
    let chassis = [1, 3, 0, 0, 0, 3, 3, 3, 2, 0, 0, 0, 0, 0, 0, 0, 0];
    tables.add(3, &chassis, &[manufacturer]);
    // Type 127, end of table.
    tables.add(127, &[], &[]);

    let mut image = entry_point(&tables);
    image.resize(TABLES_OFFSET, 0);
    image.extend_from_slice(&tables.bytes);
    debug_assert!(image.len() as u64 <= SMBIOS_TABLES_SIZE);
    image
}

/// The entry point and the tables as two files for firmware, which finds a place for the tables itself.
pub fn files(identity: Identity) -> [Vec<u8>; 2] {
    let mut entry = tables(identity);
    let tables = entry.split_off(TABLES_OFFSET);
    entry.truncate(ENTRY_LENGTH);
    [entry, tables]
}

/// Structures one behind the other, with what the entry point tells of them.
#[derive(Default)]
struct Tables {
    bytes: Vec<u8>,
    count: u16,
    largest: u16,
}

impl Tables {
    /// Adds a structure: a header, the formatted part, and the strings that it names by number from 1.
    fn add(&mut self, kind: u8, formatted: &[u8], strings: &[&str]) {
        let start = self.bytes.len();
        let handle = self.count.to_le_bytes();
        self.bytes.extend_from_slice(&[kind, formatted.len() as u8 + 4, handle[0], handle[1]]);
        self.bytes.extend_from_slice(formatted);
        for string in strings {
            self.bytes.extend_from_slice(string.as_bytes());
            self.bytes.push(0);
        }
        if strings.is_empty() {
            self.bytes.push(0);
        }
        self.bytes.push(0);
        self.count += 1;
        self.largest = self.largest.max((self.bytes.len() - start) as u16);
    }
}

/// Section 5.2.1, with the intermediate entry point in its second half.
fn entry_point(tables: &Tables) -> Vec<u8> {
    let mut entry = Vec::with_capacity(ENTRY_LENGTH);
    entry.extend_from_slice(b"_SM_");
    entry.extend_from_slice(&[0, ENTRY_LENGTH as u8, REVISION.0, REVISION.1]);
    entry.extend_from_slice(&tables.largest.to_le_bytes());
    entry.extend_from_slice(&[0; 6]);
    entry.extend_from_slice(b"_DMI_");
    entry.push(0);
    entry.extend_from_slice(&(tables.bytes.len() as u16).to_le_bytes());
    entry.extend_from_slice(&(SMBIOS_TABLES as u32 + TABLES_OFFSET as u32).to_le_bytes());
    entry.extend_from_slice(&tables.count.to_le_bytes());
    entry.push(REVISION.0 << 4 | REVISION.1);
    entry[0x15] = checksum(&entry[0x10..]);
    entry[0x04] = checksum(&entry);
    entry
}

/// What makes the bytes add up to zero.
fn checksum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum: u8, byte| sum.wrapping_sub(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Type, formatted part with header, strings.
    fn parse(image: &[u8]) -> Vec<(u8, Vec<u8>, Vec<String>)> {
        let mut rest = &image[TABLES_OFFSET..];
        let mut found = Vec::new();
        while !rest.is_empty() {
            let (formatted, strings) = rest.split_at(usize::from(rest[1]));
            let end = strings.windows(2).position(|pair| pair == [0, 0]).unwrap();
            let names =
                strings[..end].split(|byte| *byte == 0).map(|name| String::from_utf8(name.to_vec()).unwrap());
            found.push((formatted[0], formatted.to_vec(), names.collect()));
            rest = &strings[end + 2..];
        }
        found
    }

    #[test]
    fn both_parts_of_the_entry_point_add_up_to_zero() {
        let image = tables(HYPER_V);
        assert_eq!(checksum(&image[..ENTRY_LENGTH]), 0);
        assert_eq!(checksum(&image[0x10..ENTRY_LENGTH]), 0);
        assert_eq!((&image[..4], &image[0x10..0x15]), (&b"_SM_"[..], &b"_DMI_"[..]));
    }

    #[test]
    fn the_entry_point_tells_where_the_structures_are_and_how_many() {
        let image = tables(HYPER_V);
        let structures = parse(&image);
        assert_eq!(image[0x16..0x18], ((image.len() - TABLES_OFFSET) as u16).to_le_bytes());
        assert_eq!(image[0x18..0x1c], (SMBIOS_TABLES as u32 + 0x20).to_le_bytes());
        assert_eq!(image[0x1c..0x1e], (structures.len() as u16).to_le_bytes());
        assert_eq!(structures.iter().map(|(kind, ..)| *kind).collect::<Vec<_>>(), [0, 1, 3, 127]);
    }

    #[test]
    fn structures_have_the_lengths_of_revision_2_4_and_later() {
        let lengths: Vec<_> = parse(&tables(PLAIN)).iter().map(|(_, formatted, _)| formatted.len()).collect();
        assert_eq!(lengths, [0x18, 0x1b, 0x15, 4]);
    }

    #[test]
    fn the_system_is_named_by_its_identity() {
        let structures = parse(&tables(HYPER_V));
        assert_eq!(structures[1].2, ["Microsoft Corporation", "Virtual Machine", "7.0"]);
        assert_eq!(parse(&tables(PLAIN))[1].2[0], "bodhi");
    }
}
