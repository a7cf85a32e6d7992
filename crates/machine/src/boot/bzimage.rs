//! The bzImage: a setup sector with a header, then the compressed kernel with its own decompressor.

use guest_memory::GuestMemory;
use linux_loader::loader::bootparam::setup_header;
use processor::StartRegisters;
use vm_memory::ByteValued;

use super::registers::{self, Entry};
use super::{BootFiles, InputFile, too_small, zero_page};
use crate::config::{InputError, MemorySize};
use crate::memory_map::{HIGH_MEMORY, ZERO_PAGE, low_ram_end};

const HEADER_OFFSET: u64 = 0x1f1;
const BOOT_FLAG: u16 = 0xaa55;
const MAGIC: [u8; 4] = *b"HdrS";
/// Protocol 2.12, Linux 3.8: `xloadflags`.
const MIN_VERSION: u16 = 0x020c;
const SECTOR: u64 = 512;
/// The unit of `syssize`.
const PARAGRAPH: u64 = 16;
const LOADED_HIGH: u8 = 1;
/// `xloadflags`: the kernel has the 64-bit entry at 0x200.
const KERNEL_64: u16 = 1;
const ENTRY_64: u64 = 0x200;

pub(super) fn load(
    files: &mut BootFiles,
    memory: &GuestMemory,
    memory_size: u64,
    rsdp: u64,
) -> Result<StartRegisters, InputError> {
    let header = read_header(&mut files.kernel)?;
    let setup_sectors = if header.setup_sects == 0 { 4 } else { u64::from(header.setup_sects) };
    let payload = (setup_sectors + 1) * SECTOR;
    let payload_size = u64::from(header.syssize) * PARAGRAPH;
    if payload + payload_size > files.kernel.size {
        return Err(files.kernel.wrong("is truncated"));
    }
    let kernel_end = kernel_end(&header, payload_size);
    if kernel_end > low_ram_end(memory_size) {
        let reason = format!(
            "too small: the kernel {} needs {} MiB to start",
            files.kernel.path.display(),
            kernel_end.div_ceil(1 << 20)
        );
        return Err(InputError::new("memory", MemorySize(memory_size), reason));
    }
    files.kernel.copy_to(memory, HIGH_MEMORY, payload, payload_size)?;
    let initrd_limit = u64::from(header.initrd_addr_max) + 1;
    let initrd = files.load_initrd(memory, memory_size, kernel_end, initrd_limit)?;
    files.write_command_line(memory, u64::from(header.cmdline_size))?;

    let (entry, rip) = if header.xloadflags & KERNEL_64 != 0 {
        (Entry::Linux64, HIGH_MEMORY + ENTRY_64)
    } else {
        (Entry::Linux32, HIGH_MEMORY)
    };
    zero_page::write(memory, header, memory_size, initrd, rsdp)
        .and_then(|()| registers::start(memory, entry, rip, ZERO_PAGE))
        .map_err(|_| too_small(memory))
}

fn read_header(kernel: &mut InputFile) -> Result<setup_header, InputError> {
    let mut header = setup_header::default();
    let no_kernel =
        "is not a Linux kernel (neither a bzImage nor an ELF vmlinux), and has no multiboot header";
    if kernel.size < HEADER_OFFSET + size_of::<setup_header>() as u64 {
        return Err(kernel.wrong(no_kernel));
    }
    kernel.read_at(HEADER_OFFSET, header.as_mut_slice())?;
    if header.boot_flag != BOOT_FLAG || header.header != u32::from_le_bytes(MAGIC) {
        return Err(kernel.wrong(no_kernel));
    }
    if header.version < MIN_VERSION || header.loadflags & LOADED_HIGH == 0 {
        return Err(
            kernel.wrong("is a kernel older than Linux 3.8, with a boot protocol that is not supported")
        );
    }
    Ok(header)
}

/// First address that the kernel does not need while it unpacks itself: it is loaded at 1 MiB and unpacks
/// to its preferred address or, if that is lower, to where it is.
fn kernel_end(header: &setup_header, payload_size: u64) -> u64 {
    let alignment = u64::from(header.kernel_alignment).max(1);
    let run_at = if header.relocatable_kernel != 0 {
        HIGH_MEMORY.next_multiple_of(alignment).max(header.pref_address)
    } else {
        header.pref_address
    };
    run_at.saturating_add(u64::from(header.init_size)).max(HIGH_MEMORY + payload_size)
}
