//! The tables for firmware that places them itself: files of the configuration device, and a script that says how
//! they are put into memory and what is then to be added to their fields (QEMU, hw/acpi/bios-linker-loader).
//!
//! ```text
//! command, 128 bytes: number, then
//!   1 allocate      file, alignment, zone (1 anywhere below 4 GiB, 2 the segment at 0xf0000)
//!   2 add pointer   file, file that is pointed to, offset and size of the field
//!   3 add checksum  file, offset of the checksum, start and length of what it covers
//! ```

use zerocopy::byteorder::little_endian::U32;
use zerocopy::{Immutable, IntoBytes};

use super::{CHECKSUM, Image, Platform, RSDP_FIRST_PART, RSDP_LENGTH, rsdp};

/// Name of the file with the root pointer.
const ROOT_FILE: &str = "etc/acpi/rsdp";
/// Name of the file with the other tables.
const TABLES_FILE: &str = "etc/acpi/tables";
/// Name of the file with the script.
const SCRIPT_FILE: &str = "etc/table-loader";

const NAME: usize = 56;
const COMMAND: usize = 128;
const ANYWHERE: u8 = 1;
const F_SEGMENT: u8 = 2;
/// The alignment of the FACS, which is the largest.
const TABLE_ALIGNMENT: u32 = 64;
const ROOT_ALIGNMENT: u32 = 16;
/// Where the root pointer has its checksums: of its first part, and of all of it.
const ROOT_CHECKSUMS: [usize; 2] = [8, 32];

#[repr(C, packed)]
#[derive(IntoBytes, Immutable)]
struct Allocate {
    command: U32,
    file: [u8; NAME],
    alignment: U32,
    zone: u8,
}

#[repr(C, packed)]
#[derive(IntoBytes, Immutable)]
struct AddPointer {
    command: U32,
    file: [u8; NAME],
    target: [u8; NAME],
    offset: U32,
    size: u8,
}

#[repr(C, packed)]
#[derive(IntoBytes, Immutable)]
struct AddChecksum {
    command: U32,
    file: [u8; NAME],
    offset: U32,
    start: U32,
    length: U32,
}

/// The files, by name.
pub type Script = [(&'static str, Vec<u8>); 3];

/// The tables of `platform` as files, with addresses counted from the start of each, and the script.
pub fn script(platform: &Platform) -> Script {
    let mut image = Image::new(0);
    let (rsdt, xsdt) = image.fill(platform);
    let mut root = rsdp(rsdt, xsdt).to_vec();
    // Some firmware takes what is there already for part of the sum.
    ROOT_CHECKSUMS.into_iter().for_each(|at| root[at] = 0);
    for &start in &image.pointing {
        image.bytes[start + CHECKSUM] = 0;
    }
    let mut script = Vec::new();
    allocate(&mut script, TABLES_FILE, TABLE_ALIGNMENT, ANYWHERE);
    allocate(&mut script, ROOT_FILE, ROOT_ALIGNMENT, F_SEGMENT);
    for pointer in &image.pointers {
        add_pointer(&mut script, TABLES_FILE, pointer.at, pointer.size);
    }
    for &start in &image.pointing {
        let length =
            image.bytes.iter().skip(start + 4).take(4).rev().fold(0, |n, byte| n << 8 | usize::from(*byte));
        add_checksum(&mut script, TABLES_FILE, start + CHECKSUM, start, length);
    }
    add_pointer(&mut script, ROOT_FILE, 16, 4);
    add_pointer(&mut script, ROOT_FILE, 24, 8);
    add_checksum(&mut script, ROOT_FILE, ROOT_CHECKSUMS[0], 0, RSDP_FIRST_PART);
    add_checksum(&mut script, ROOT_FILE, ROOT_CHECKSUMS[1], 0, RSDP_LENGTH);
    [(ROOT_FILE, root), (TABLES_FILE, image.bytes), (SCRIPT_FILE, script)]
}

fn name(text: &str) -> [u8; NAME] {
    let mut name = [0; NAME];
    name.iter_mut().zip(text.bytes()).for_each(|(to, from)| *to = from);
    name
}

fn push(script: &mut Vec<u8>, command: &[u8]) {
    let end = script.len() + COMMAND;
    script.extend_from_slice(command);
    script.resize(end, 0);
}

fn allocate(script: &mut Vec<u8>, file: &str, alignment: u32, zone: u8) {
    let command = Allocate { command: 1.into(), file: name(file), alignment: alignment.into(), zone };
    push(script, command.as_bytes());
}

fn add_pointer(script: &mut Vec<u8>, file: &str, offset: usize, size: u8) {
    let (file, target, offset) = (name(file), name(TABLES_FILE), (offset as u32).into());
    push(script, AddPointer { command: 2.into(), file, target, offset, size }.as_bytes());
}

fn add_checksum(script: &mut Vec<u8>, file: &str, offset: usize, start: usize, length: usize) {
    let (offset, start, length) = ((offset as u32).into(), (start as u32).into(), (length as u32).into());
    push(script, AddChecksum { command: 3.into(), file: name(file), offset, start, length }.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::super::tests::{BASE, platform, walk};
    use super::*;

    fn field(bytes: &[u8], at: usize, size: usize) -> u64 {
        bytes[at..at + size].iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
    }

    fn text(command: &[u8], at: usize) -> &str {
        std::str::from_utf8(&command[at..at + NAME]).unwrap().trim_end_matches('\0')
    }

    /// Carries the script out as firmware does, with the root pointer at `BASE` and the tables behind it.
    #[test]
    fn tables_placed_by_the_script_are_found_with_right_checksums() {
        let [(_, root), (_, tables), (_, script)] = script(&platform(2, true));
        let tables_at = 0x40;
        let mut image = root.clone();
        image.resize(tables_at, 0);
        image.extend_from_slice(&tables);
        let place = |file: &str| if file == ROOT_FILE { 0 } else { tables_at };
        let mut allocated = Vec::new();
        for command in script.chunks(COMMAND) {
            let file = text(command, 4);
            match field(command, 0, 4) {
                1 => allocated.push((file, field(command, 60, 4), command[64])),
                2 => {
                    let (offset, size) = (field(command, 116, 4) as usize, usize::from(command[120]));
                    let at = place(file) + offset;
                    let value = field(&image, at, size) + BASE + place(text(command, 60)) as u64;
                    image[at..at + size].copy_from_slice(&value.to_le_bytes()[..size]);
                }
                3 => {
                    let [offset, start, length] = [60, 64, 68].map(|at| field(command, at, 4) as usize);
                    let from = place(file) + start;
                    let sum =
                        image[from..from + length].iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
                    let byte = &mut image[place(file) + offset];
                    *byte = byte.wrapping_sub(sum);
                }
                other => panic!("command {other}"),
            }
        }
        assert_eq!(allocated, [(TABLES_FILE, 64, ANYWHERE), (ROOT_FILE, 16, F_SEGMENT)]);
        let [fadt, madt, dsdt, facs] = walk(&image);
        assert_eq!([&fadt[..4], &madt[..4], &dsdt[..4], &facs[..4]], [b"FACP", b"APIC", b"DSDT", b"FACS"]);
        assert!([fadt, madt, dsdt].iter().all(|table| super::super::checksum(table) == 0));
    }
}
