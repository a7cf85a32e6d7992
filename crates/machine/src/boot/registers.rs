//! The state of the processor at a kernel's entry.

use guest_memory::GuestMemory;
use processor::{
    DescriptorTable, GeneralRegister, Segment, SegmentAttributes, StartRegisters, attribute, cr0, cr4, efer,
};
use vm_memory::{Bytes, GuestAddress, GuestMemoryError};

use crate::memory_map::{BOOT_GDT, BOOT_PAGE_TABLES};

/// `__BOOT_CS`, `__BOOT_DS` and, for PVH, any busy task state segment.
const CODE_SELECTOR: u16 = 0x10;
const DATA_SELECTOR: u16 = 0x18;
const TASK_SELECTOR: u16 = 0x20;

/// Execute/read, accessed; present; 4 KiB granularity; 64-bit.
const CODE_64: u32 = 0xa09b;
/// Execute/read, accessed; present; 4 KiB granularity; 32-bit.
const CODE_32: u32 = 0xc09b;
/// Read/write, accessed; present; 4 KiB granularity; 32-bit.
const DATA: u32 = 0xc093;
/// 32/64-bit task state segment, busy; present.
const TASK: u32 = 0x008b;

const PAGE_PRESENT_WRITABLE: u64 = 0b11;
const PAGE_LARGE: u64 = 1 << 7;

/// Which of the entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Entry {
    /// 64-bit mode, the first 4 GiB mapped one to one; RSI holds the boot parameters.
    Linux64,
    /// 32-bit protected mode without paging; ESI holds the boot parameters.
    Linux32,
    /// 32-bit protected mode without paging; EBX holds the start information.
    Pvh,
    /// As for PVH, with this in EAX.
    Multiboot {
        /// Which protocol it is.
        magic: u32,
    },
}

/// Writes the descriptor table (and page tables) and makes the registers for a start at `rip`.
pub(super) fn start(
    memory: &GuestMemory,
    entry: Entry,
    rip: u64,
    parameters: u64,
) -> Result<StartRegisters, GuestMemoryError> {
    let code = if entry == Entry::Linux64 { CODE_64 } else { CODE_32 };
    write_descriptors(memory, code)?;
    let code = flat(CODE_SELECTOR, code);
    let data = flat(DATA_SELECTOR, DATA);
    let mut registers = StartRegisters {
        rip,
        rflags: 2,
        segments: [data, code, data, data, data, data],
        tr: Segment { selector: TASK_SELECTOR, base: 0, limit: 0x67, attributes: SegmentAttributes(TASK) },
        ldtr: Segment { attributes: SegmentAttributes(attribute::UNUSABLE), ..Segment::default() },
        gdtr: DescriptorTable { base: BOOT_GDT, limit: 5 * 8 - 1 },
        cr0: cr0::PE | cr0::ET,
        ..StartRegisters::default()
    };
    let pointer = match entry {
        Entry::Linux64 | Entry::Linux32 => GeneralRegister::Rsi,
        Entry::Pvh | Entry::Multiboot { .. } => GeneralRegister::Rbx,
    };
    registers.general[pointer as usize] = parameters;
    if let Entry::Multiboot { magic } = entry {
        registers.general[GeneralRegister::Rax as usize] = magic.into();
    }
    if entry == Entry::Linux64 {
        write_identity_map(memory)?;
        registers.cr0 |= cr0::PG;
        registers.cr3 = BOOT_PAGE_TABLES;
        registers.cr4 = cr4::PAE;
        registers.efer = efer::LME | efer::LMA;
    }
    Ok(registers)
}

fn flat(selector: u16, attributes: u32) -> Segment {
    Segment { selector, base: 0, limit: u32::MAX, attributes: SegmentAttributes(attributes) }
}

/// A descriptor of base 0 (SDM volume 3, section 3.4.5).
fn descriptor(attributes: u32, limit: u64) -> u64 {
    (limit & 0xffff) | (u64::from(attributes & 0xf0ff) << 40) | ((limit >> 16 & 0xf) << 48)
}

fn write_descriptors(memory: &GuestMemory, code: u32) -> Result<(), GuestMemoryError> {
    let table = [0, 0, descriptor(code, 0xf_ffff), descriptor(DATA, 0xf_ffff), descriptor(TASK, 0x67)];
    for (index, entry) in table.into_iter().enumerate() {
        memory.write_obj(entry, GuestAddress(BOOT_GDT + 8 * index as u64))?;
    }
    Ok(())
}

/// The first 4 GiB by 2 MiB pages: one top-level table, one page-directory-pointer table, four page
/// directories.
fn write_identity_map(memory: &GuestMemory) -> Result<(), GuestMemoryError> {
    let page = |index: u64| BOOT_PAGE_TABLES + index * guest_memory::PAGE_SIZE;
    memory.write_slice(&[0; 2 * guest_memory::PAGE_SIZE as usize], GuestAddress(page(0)))?;
    memory.write_obj(page(1) | PAGE_PRESENT_WRITABLE, GuestAddress(page(0)))?;
    for directory in 0..4 {
        let pointer = page(2 + directory) | PAGE_PRESENT_WRITABLE;
        memory.write_obj(pointer, GuestAddress(page(1) + 8 * directory))?;
        for index in 0..512 {
            let large = ((directory * 512 + index) << 21) | PAGE_LARGE | PAGE_PRESENT_WRITABLE;
            memory.write_obj(large, GuestAddress(page(2 + directory) + 8 * index))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flat_code_descriptor_is_as_the_boot_protocol_wants_it() {
        assert_eq!(descriptor(CODE_64, 0xf_ffff), 0x00af_9b00_0000_ffff);
        assert_eq!(descriptor(CODE_32, 0xf_ffff), 0x00cf_9b00_0000_ffff);
        assert_eq!(descriptor(DATA, 0xf_ffff), 0x00cf_9300_0000_ffff);
    }

    #[test]
    fn the_identity_map_reaches_up_to_four_gib() {
        let (memory, _) = guest_memory::allocate(1 << 20).unwrap();
        write_identity_map(&memory).unwrap();
        let read = |address| memory.read_obj::<u64>(GuestAddress(address)).unwrap();
        let last = read(BOOT_PAGE_TABLES + 5 * 4096 + 511 * 8);
        assert_eq!(last, 0xffe0_0000 | PAGE_LARGE | PAGE_PRESENT_WRITABLE);
        assert_eq!(read(BOOT_PAGE_TABLES) & !0xfff, BOOT_PAGE_TABLES + 4096);
    }
}
