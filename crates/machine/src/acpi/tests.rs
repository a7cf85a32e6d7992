use std::process::Command;

use super::*;

pub(super) const BASE: u64 = 0xe_0000;

pub(super) fn platform(processors: u32, vmbus: bool) -> Platform {
    Platform {
        south_bridge: 7,
        processors,
        local_apic: 0xfee0_0000,
        ioapic: 0xfec0_0000,
        ioapic_id: 0,
        pm_base: 0x600,
        sci: 9,
        smi_command: (0xb2, 0xf1, 0xf0),
        pci_window: Window { start: 0xe000_0000, end: 0xfec0_0000 },
        pci_routing: PciRouting {
            line: |device, pin| device.wrapping_add(pin) & 3,
            ioapic: [16, 17, 18, 19],
            pic: [10, 11, 10, 11],
        },
        ram: crate::memory_map::ram(512 << 20),
        growth: Vec::new(),
        vmbus_window: vmbus.then_some(Window { start: 0xc000_0000, end: 0xe000_0000 }),
        video_window: None,
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

/// The table at guest physical address `gpa`.
fn table_at(image: &[u8], gpa: u64) -> &[u8] {
    let from = &image[(gpa - BASE) as usize..];
    &from[..u32_at(from, 4) as usize]
}

fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum: u8, byte| sum.wrapping_add(*byte))
}

/// FADT, MADT, DSDT and FACS, found as an operating system finds them.
pub(super) fn walk(image: &[u8]) -> [&[u8]; 4] {
    assert_eq!(&image[..8], b"RSD PTR ");
    assert_eq!((sum(&image[..20]), sum(&image[..36])), (0, 0));
    let xsdt = table_at(image, u64_at(image, 24));
    assert_eq!((&xsdt[..4], sum(xsdt)), (&b"XSDT"[..], 0));
    let rsdt = table_at(image, u32_at(image, 16).into());
    assert_eq!((&rsdt[..4], sum(rsdt)), (&b"RSDT"[..], 0));
    assert_eq!([36, 40].map(|at| u64::from(u32_at(rsdt, at))), [36, 44].map(|at| u64_at(xsdt, at)));
    let (fadt, madt) = (table_at(image, u64_at(xsdt, 36)), table_at(image, u64_at(xsdt, 44)));
    let dsdt = table_at(image, u64_at(fadt, 140));
    let facs = table_at(image, u64::from(u32_at(fadt, 36)));
    [fadt, madt, dsdt, facs]
}

#[test]
fn every_table_is_found_and_its_checksum_is_right() {
    let image = tables(&platform(2, true), BASE);
    let [fadt, madt, dsdt, facs] = walk(&image);
    for (table, signature) in [(fadt, b"FACP"), (madt, b"APIC"), (dsdt, b"DSDT")] {
        assert_eq!((&table[..4], sum(table)), (&signature[..], 0));
    }
    assert_eq!((&facs[..4], facs.len()), (&b"FACS"[..], 64));
    assert!(u32_at(fadt, 36).is_multiple_of(64));
}

#[test]
fn memory_that_may_come_is_described() {
    const MIB: u64 = 1 << 20;
    assert!(srat::table(&platform(2, true)).is_none());
    let growing =
        Platform { growth: vec![512 * MIB..3072 * MIB, 4096 * MIB..5120 * MIB], ..platform(2, true) };
    let image = tables(&growing, BASE);
    walk(&image);
    let xsdt = table_at(&image, u64_at(&image, 24));
    assert_eq!(xsdt.len(), 36 + 3 * 8);
    let srat = table_at(&image, u64_at(xsdt, 52));
    assert_eq!((&srat[..4], sum(srat), srat.len()), (&b"SRAT"[..], 0, 48 + 3 * 40 + 2 * 16));
    let memory: Vec<_> = srat[48..]
        .chunks(40)
        .take(3)
        .map(|entry| (u64_at(entry, 8), u64_at(entry, 16), u32_at(entry, 28)))
        .collect();
    let (present, added) = (1, 3);
    let expected = [(0, 512 * MIB, present), (512 * MIB, 2560 * MIB, added), (4096 * MIB, 1024 * MIB, added)];
    assert_eq!(memory, expected);
    let processors: Vec<_> = srat[168..].chunks(16).map(|entry| (entry[0], entry[3], entry[4])).collect();
    assert_eq!(processors, [(0, 0, 1), (0, 1, 1)]);
}

#[test]
fn the_fadt_points_to_the_piix4_registers() {
    let image = tables(&platform(1, true), BASE);
    let [fadt, ..] = walk(&image);
    assert_eq!([u32_at(fadt, 56), u32_at(fadt, 64), u32_at(fadt, 76)], [0x600, 0x604, 0x608]);
    assert_eq!(u32_at(fadt, 80), 0x60c);
    assert_eq!(u64_at(fadt, 120), 0xcf9);
    assert_eq!(fadt[128], 6);
    assert_eq!(u32_at(fadt, 112) & (1 << 20), 0, "not hardware-reduced");
}

#[test]
fn the_madt_lists_every_processor_and_the_overrides() {
    let image = tables(&platform(3, true), BASE);
    let [_, madt, ..] = walk(&image);
    assert_eq!(u32_at(madt, 40), 1, "8259s are there");
    let mut structures = Vec::new();
    let mut rest = &madt[44..];
    while !rest.is_empty() {
        let (structure, behind) = rest.split_at(usize::from(rest[1]));
        structures.push(structure);
        rest = behind;
    }
    assert_eq!(structures[0], [0, 8, 0, 0, 1, 0, 0, 0]);
    assert_eq!(structures[2], [0, 8, 2, 2, 1, 0, 0, 0]);
    assert_eq!(structures[3], [1, 12, 0, 0, 0, 0, 0xc0, 0xfe, 0, 0, 0, 0]);
    assert_eq!(structures[4], [2, 10, 0, 0, 2, 0, 0, 0, 0, 0]);
    assert_eq!(structures[5], [2, 10, 0, 9, 9, 0, 0, 0, 0x0d, 0]);
    assert_eq!(structures[6], [4, 6, 0xff, 0, 0, 1]);
    assert_eq!(structures.len(), 7);
}

#[test]
fn the_vmbus_is_described_only_if_it_is_there() {
    let has_vmbus = |vmbus| {
        let image = tables(&platform(1, vmbus), BASE);
        image.windows(5).any(|bytes| bytes == b"VMBus")
    };
    assert!(has_vmbus(true));
    assert!(!has_vmbus(false));
}

/// The disassembler of acpica-tools is the judge where it is installed; the package is among those that
/// the tests install.
#[test]
fn the_disassembler_accepts_the_dsdt() {
    if Command::new("iasl").arg("-v").output().is_err() {
        eprintln!("iasl is not installed: not checked");
        return;
    }
    let image = tables(&platform(2, true), BASE);
    let [_, _, dsdt, _] = walk(&image);
    let directory = tempfile::TempDir::new().unwrap();
    let (binary, source) = (directory.path().join("dsdt.aml"), directory.path().join("dsdt.dsl"));
    std::fs::write(&binary, dsdt).unwrap();
    let run = |arguments: &[&str], file: &std::path::Path| {
        let output = Command::new("iasl").args(arguments).arg(file).output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&text).into_owned())
    };
    let (disassembled, text) = run(&["-d"], &binary);
    assert!(disassembled && source.exists(), "{text}");
    // The VMBus has the identifier that its drivers look for, which is shorter than the rule allows.
    let (compiled, text) = run(&["-vw", "6033"], &source);
    assert!(compiled && text.contains("0 Errors"), "{text}\n{}", std::fs::read_to_string(&source).unwrap());
    let source = std::fs::read_to_string(&source).unwrap();
    for part in ["\"VMBus\"", "Name (_S5", "Method (_PRT", "PNP0501", "PNP0303"] {
        assert!(source.contains(part), "{part} is missing:\n{source}");
    }
}
