//! Where things lie in guest physical memory.
//!
//! ```text
//! 0          0x9fc00   0xe0000        1 MiB          3 GiB         0xfec00000  4 GiB
//! |─ boot data ─|      |─ ACPI, ROM ─|─ kernel, RAM ──|─ VMBus, PCI ──|─ APICs, ROM ─|─ RAM ──
//! ```
//!
//! With firmware, what lies below 1 MiB is the firmware's, and so is the end of the space below 4 GiB.

use guest_memory::{DEVICE_HOLE_END, DEVICE_HOLE_START};

/// The descriptor table that a kernel starts with.
pub const BOOT_GDT: u64 = 0x500;
/// PVH start information with its module list and memory map.
pub const PVH_START_INFO: u64 = 0x6000;
/// The boot parameters of the Linux boot protocol ("zero page").
pub const ZERO_PAGE: u64 = 0x7000;
/// The page tables that a 64-bit kernel starts with: six pages.
pub const BOOT_PAGE_TABLES: u64 = 0x9000;
/// The kernel's command line.
pub const COMMAND_LINE: u64 = 0x2_0000;
/// What a multiboot kernel is told, up to the end of conventional memory.
pub const MULTIBOOT_INFORMATION: u64 = 0x1_0000;
/// Bytes for the command line, its NUL included.
pub const COMMAND_LINE_SIZE: u64 = 0x1_0000;
/// End of conventional memory.
pub const CONVENTIONAL_END: u64 = 0x9_fc00;
/// ACPI tables, where an operating system looks for the RSDP.
pub const ACPI_TABLES: u64 = 0xe_0000;
/// Bytes for the ACPI tables.
pub const ACPI_TABLES_SIZE: u64 = 0x1_0000;
/// SMBIOS tables, where an operating system looks for their entry point.
pub const SMBIOS_TABLES: u64 = 0xf_0000;
/// Bytes for the SMBIOS tables.
pub const SMBIOS_TABLES_SIZE: u64 = 0x1000;
/// What the interrupts of a BIOS lead to where there is none.
pub const BIOS_STUB: u64 = 0xf_f000;
/// First byte above the first MiB.
pub const HIGH_MEMORY: u64 = 0x10_0000;

/// Memory that VMBus devices share out among themselves.
pub const VMBUS_WINDOW: Window = Window { start: DEVICE_HOLE_START, end: 0xe000_0000 };
/// Memory of PCI devices: where firmware that has not been told of a better place puts them.
pub const PCI_WINDOW: Window = Window { start: 0xe000_0000, end: 0xfec0_0000 };
/// Memory that VMBus devices share out among themselves, where UEFI firmware has what lies below for PCI devices.
pub const VMBUS_WINDOW_UEFI: Window = Window { start: 0xfc00_0000, end: 0xfec0_0000 };
/// The legacy window of video adapters.
pub const VIDEO_WINDOW: Window = Window { start: 0xa_0000, end: 0xc_0000 };
/// The IOAPIC's page.
pub const IOAPIC: u64 = 0xfec0_0000;
/// The local APICs' page.
pub const LOCAL_APIC: u64 = 0xfee0_0000;

/// A range of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// First address.
    pub start: u64,
    /// First address beyond.
    pub end: u64,
}

/// First address beyond the RAM below the device hole, of a machine with `size` bytes of RAM.
pub fn low_ram_end(size: u64) -> u64 {
    size.min(DEVICE_HOLE_START)
}

/// Memory of PCI devices where UEFI firmware puts them, on a machine with `size` bytes of RAM (edk2,
/// OvmfPkg/PlatformPei, of a 440FX).
pub fn pci_window_uefi(size: u64) -> Window {
    Window { start: low_ram_end(size).max(2 << 30), end: VMBUS_WINDOW_UEFI.start }
}

/// Where RAM may be added to a machine that starts with `size` bytes of it and grows to `most`, from low to high
/// addresses: up to what is above RAM below 4 GiB, the rest above. Both sizes are multiples of 128 MiB.
pub fn growth(size: u64, most: u64, uefi: bool) -> Vec<std::ops::Range<u64>> {
    let low = low_ram_end(size);
    let low_limit = if uefi { pci_window_uefi(size).start } else { DEVICE_HOLE_START };
    let more = most.saturating_sub(size);
    // RAM above 4 GiB that is there already has what is added behind it.
    let below = if size > low { 0 } else { more.min(low_limit - low) };
    let high = DEVICE_HOLE_END + (size - low);
    [low..low + below, high..high + (more - below)].into_iter().filter(|range| !range.is_empty()).collect()
}

/// What a range of the memory map is for, with the numbers of INT 15h, AX=E820h.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum RangeKind {
    /// RAM for the operating system.
    Ram = 1,
    /// Not for the operating system.
    Reserved = 2,
}

/// One range of the memory map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// First address.
    pub start: u64,
    /// Length in bytes.
    pub size: u64,
    /// What it is for.
    pub kind: RangeKind,
}

/// The memory map that the operating system of a machine with `size` bytes of RAM is told.
pub fn e820(size: u64) -> Vec<Range> {
    let range = |start, end: u64, kind| Range { start, size: end - start, kind };
    let mut map = vec![
        range(0, CONVENTIONAL_END, RangeKind::Ram),
        range(CONVENTIONAL_END, 0xa_0000, RangeKind::Reserved),
        range(ACPI_TABLES, HIGH_MEMORY, RangeKind::Reserved),
        range(HIGH_MEMORY, low_ram_end(size), RangeKind::Ram),
    ];
    if size > DEVICE_HOLE_START {
        map.push(range(DEVICE_HOLE_END, DEVICE_HOLE_END + (size - DEVICE_HOLE_START), RangeKind::Ram));
    }
    map
}

/// The RAM of a machine with `size` bytes of it, as firmware is told: what it keeps for itself it finds out.
pub fn ram(size: u64) -> Vec<Range> {
    let range = |start, size| Range { start, size, kind: RangeKind::Ram };
    let low = low_ram_end(size);
    let high = (size > low).then(|| range(DEVICE_HOLE_END, size - low));
    std::iter::once(range(0, low)).chain(high).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_map_is_sorted_and_does_not_overlap() {
        for size in [32 << 20, 3 << 30, 8_u64 << 30] {
            let map = e820(size);
            assert!(map.windows(2).all(|pair| pair[0].start + pair[0].size <= pair[1].start), "{map:?}");
        }
    }

    #[test]
    fn ram_that_the_device_hole_displaces_continues_at_four_gib() {
        let map = e820(4 << 30);
        let ram = map.last().unwrap();
        assert_eq!((ram.start, ram.size, ram.kind), (4 << 30, 1 << 30, RangeKind::Ram));
    }

    #[test]
    fn ram_is_added_below_devices_first() {
        const GIB: u64 = 1 << 30;
        let half = GIB / 2;
        let growth = |size, most, uefi| -> Vec<(u64, u64)> {
            growth(size, most, uefi).into_iter().map(|range| (range.start, range.end)).collect()
        };
        assert_eq!(growth(half, 2 * GIB, false), [(half, 2 * GIB)]);
        assert_eq!(growth(half, 4 * GIB, false), [(half, 3 * GIB), (4 * GIB, 5 * GIB)]);
        assert_eq!(growth(half, 4 * GIB, true), [(half, 2 * GIB), (4 * GIB, 6 * GIB)]);
        assert_eq!(growth(3 * GIB, 4 * GIB, false), [(4 * GIB, 5 * GIB)]);
        assert_eq!(growth(4 * GIB, 6 * GIB, true), [(5 * GIB, 7 * GIB)]);
        assert_eq!(growth(GIB, GIB, false), []);
    }

    #[test]
    fn the_first_mib_above_conventional_memory_is_no_ram() {
        let map = e820(64 << 20);
        let ram: u64 = map.iter().filter(|range| range.kind == RangeKind::Ram).map(|range| range.size).sum();
        assert_eq!(ram, (64 << 20) - HIGH_MEMORY + CONVENTIONAL_END);
    }
}
