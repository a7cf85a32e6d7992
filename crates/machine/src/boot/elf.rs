//! An ELF vmlinux, entered by the PVH protocol.

use guest_memory::GuestMemory;
use linux_loader::loader::elf::start_info::{hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info};
use linux_loader::loader::elf::{Elf, Error as ElfError, PvhBootCapability};
use linux_loader::loader::{Error as LoaderError, KernelLoader};
use processor::StartRegisters;
use vm_memory::{Bytes, GuestAddress, GuestMemoryError};

use super::registers::{self, Entry};
use super::{BootFiles, Initrd, too_small};
use crate::config::{InputError, MemorySize};
use crate::memory_map::{self, COMMAND_LINE, PVH_START_INFO};

const START_MAGIC: u32 = 0x336e_c578;
const MODULES: u64 = PVH_START_INFO + 0x100;
const MEMORY_MAP: u64 = PVH_START_INFO + 0x200;
/// Linux's COMMAND_LINE_SIZE on x86.
const COMMAND_LINE_LIMIT: u64 = 2047;
/// ELF header: the class is 64-bit.
const CLASS_OFFSET: u64 = 4;
const CLASS_64: u8 = 2;

pub(super) fn load(
    files: &mut BootFiles,
    memory: &GuestMemory,
    memory_size: u64,
    rsdp: u64,
) -> Result<StartRegisters, InputError> {
    let mut class = [0];
    files.kernel.read_at(CLASS_OFFSET, &mut class)?;
    if class != [CLASS_64] {
        return Err(files.kernel.wrong("is an ELF file, but not of a 64-bit x86 kernel"));
    }
    let loaded = Elf::load(memory, None, &mut files.kernel.file, None).map_err(|error| match error {
        LoaderError::Elf(ElfError::ReadKernelImage) => load_failure(files, memory_size),
        LoaderError::Elf(ElfError::ReadElfHeader | ElfError::ReadProgramHeader) => {
            files.kernel.wrong("is truncated")
        }
        error => files.kernel.wrong(format!("is a damaged ELF file ({error})")),
    })?;
    let PvhBootCapability::PvhEntryPresent(entry) = loaded.pvh_boot_cap else {
        return Err(files.kernel.wrong("is an ELF file without a PVH entry, so not a kernel that can start"));
    };
    if loaded.kernel_end > memory_map::low_ram_end(memory_size) {
        return Err(no_room(files, memory_size));
    }
    let initrd = files.load_initrd(memory, memory_size, loaded.kernel_end, u64::from(u32::MAX))?;
    files.write_command_line(memory, COMMAND_LINE_LIMIT)?;
    write_start_info(memory, memory_size, initrd, rsdp)
        .and_then(|()| registers::start(memory, Entry::Pvh, entry.0, PVH_START_INFO))
        .map_err(|_| too_small(memory))
}

/// The loader says the same for a segment that ends behind the file and for one that ends behind RAM.
fn load_failure(files: &BootFiles, memory_size: u64) -> InputError {
    match needed_file_size(files) {
        Some(needed) if needed <= files.kernel.size => no_room(files, memory_size),
        _ => files.kernel.wrong("is truncated"),
    }
}

fn no_room(files: &BootFiles, memory_size: u64) -> InputError {
    let reason = format!("too small for the kernel {}", files.kernel.path.display());
    InputError::new("memory", MemorySize(memory_size), reason)
}

/// The end of the last segment in the file, by the program headers.
fn needed_file_size(files: &BootFiles) -> Option<u64> {
    use std::os::unix::fs::FileExt;
    const HEADER_SIZE: u64 = 56;
    let file = &files.kernel.file;
    let mut header = [0; 64];
    file.read_exact_at(&mut header, 0).ok()?;
    let table = u64::from_le_bytes(header[32..40].try_into().ok()?);
    let count = u16::from_le_bytes(header[56..58].try_into().ok()?);
    let mut needed = 0;
    for index in 0..u64::from(count) {
        let mut segment = [0; HEADER_SIZE as usize];
        file.read_exact_at(&mut segment, table.checked_add(index * HEADER_SIZE)?).ok()?;
        let offset = u64::from_le_bytes(segment[8..16].try_into().ok()?);
        let size = u64::from_le_bytes(segment[32..40].try_into().ok()?);
        needed = needed.max(offset.checked_add(size)?);
    }
    Some(needed)
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
