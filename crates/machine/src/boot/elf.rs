//! An ELF vmlinux of 32 or 64 bits, entered by the PVH protocol.

use guest_memory::GuestMemory;
use linux_loader::loader::elf::start_info::{hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info};
use processor::StartRegisters;
use vm_memory::{Bytes, GuestAddress, GuestMemoryError};

use super::bytes::u32_at;
use super::elf_file::{self, HEADER_SIZE, Header, ProgramHeader};
use super::registers::{self, Entry};
use super::{BootFiles, Initrd, InputFile, too_small};
use crate::config::{InputError, MemorySize};
use crate::memory_map::{self, COMMAND_LINE, PVH_START_INFO};

const START_MAGIC: u32 = 0x336e_c578;
const MODULES: u64 = PVH_START_INFO + 0x100;
const MEMORY_MAP: u64 = PVH_START_INFO + 0x200;
/// Linux's COMMAND_LINE_SIZE on x86.
const COMMAND_LINE_LIMIT: u64 = 2047;
/// XEN_ELFNOTE_PHYS32_ENTRY (Xen, public/elfnote.h).
const ENTRY_NOTE: (&[u8], u32) = (b"Xen", 18);
/// More than the notes of any kernel have.
const MOST_NOTES: u64 = 1 << 20;

pub(super) fn load(
    files: &mut BootFiles,
    memory: &GuestMemory,
    memory_size: u64,
    rsdp: u64,
) -> Result<StartRegisters, InputError> {
    let parts = program_headers(&mut files.kernel)?;
    let entry = entry(&mut files.kernel, &parts)?;
    let mut end = 0;
    for part in parts.iter().filter(|part| part.kind == elf_file::LOAD && part.memory > 0) {
        let part_end = part.physical.checked_add(part.memory).ok_or_else(|| damaged(&files.kernel))?;
        if part_end > memory_map::low_ram_end(memory_size) {
            return Err(no_room(files, memory_size));
        }
        if part.physical < memory_map::HIGH_MEMORY {
            return Err(files.kernel.wrong("is to be loaded below 1 MiB, where loader and tables are"));
        }
        // Memory is zero at power-on: what is behind the part needs nothing.
        files.kernel.copy_to(memory, part.physical, part.offset, part.size)?;
        end = end.max(part_end);
    }
    if end == 0 {
        return Err(damaged(&files.kernel));
    }
    let initrd = files.load_initrd(memory, memory_size, end, u64::from(u32::MAX))?;
    files.write_command_line(memory, COMMAND_LINE_LIMIT)?;
    write_start_info(memory, memory_size, initrd, rsdp)
        .and_then(|()| registers::start(memory, Entry::Pvh, entry.into(), PVH_START_INFO))
        .map_err(|_| too_small(memory))
}

fn program_headers(kernel: &mut InputFile) -> Result<Vec<ProgramHeader>, InputError> {
    let mut header = [0; HEADER_SIZE];
    kernel.read_at(0, &mut header)?;
    let header = Header::parse(&header).ok_or_else(|| damaged(kernel))?;
    let mut table = vec![0; header.table_size()];
    kernel.read_at(header.table, &mut table)?;
    header.program_headers(&table).ok_or_else(|| damaged(kernel))
}

/// Where the notes tell that it is entered.
fn entry(kernel: &mut InputFile, parts: &[ProgramHeader]) -> Result<u32, InputError> {
    for part in parts.iter().filter(|part| part.kind == elf_file::NOTE) {
        if part.size > MOST_NOTES {
            return Err(damaged(kernel));
        }
        let mut bytes = vec![0; part.size as usize];
        kernel.read_at(part.offset, &mut bytes)?;
        let note = elf_file::notes(&bytes).find(|(owner, kind, _)| (*owner, *kind) == ENTRY_NOTE);
        if let Some((.., description)) = note {
            return u32_at(description, 0).ok_or_else(|| damaged(kernel));
        }
    }
    Err(kernel.wrong("is an ELF file without a PVH entry, so not a kernel that can start"))
}

fn damaged(kernel: &InputFile) -> InputError {
    kernel.wrong("is a damaged ELF file")
}

fn no_room(files: &BootFiles, memory_size: u64) -> InputError {
    let reason = format!("too small for the kernel {}", files.kernel.path.display());
    InputError::new("memory", MemorySize(memory_size), reason)
}

fn write_start_info(
    memory: &GuestMemory,
    memory_size: u64,
    initrd: Option<Initrd>,
    rsdp: u64,
) -> Result<(), GuestMemoryError> {
    let map = memory_map::e820(memory_size);
    for (index, range) in map.iter().enumerate() {
        let entry = hvm_memmap_table_entry {
            addr: range.start,
            size: range.size,
            type_: range.kind as u32,
            reserved: 0,
        };
        let at = MEMORY_MAP + (index * size_of::<hvm_memmap_table_entry>()) as u64;
        memory.write_obj(entry, GuestAddress(at))?;
    }
    if let Some(Initrd { address, size }) = initrd {
        let module = hvm_modlist_entry { paddr: address, size, ..hvm_modlist_entry::default() };
        memory.write_obj(module, GuestAddress(MODULES))?;
    }
    let info = hvm_start_info {
        magic: START_MAGIC,
        version: 1,
        flags: 0,
        nr_modules: u32::from(initrd.is_some()),
        modlist_paddr: if initrd.is_some() { MODULES } else { 0 },
        cmdline_paddr: COMMAND_LINE,
        rsdp_paddr: rsdp,
        memmap_paddr: MEMORY_MAP,
        memmap_entries: map.len() as u32,
        reserved: 0,
    };
    memory.write_obj(info, GuestAddress(PVH_START_INFO))
}
