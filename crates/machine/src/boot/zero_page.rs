//! The boot parameters of the Linux boot protocol.

use guest_memory::GuestMemory;
use linux_loader::loader::bootparam::{boot_e820_entry, boot_params, setup_header};
use vm_memory::{ByteValued, Bytes, GuestAddress, GuestMemoryError};

use super::Initrd;
use crate::memory_map::{self, COMMAND_LINE, HIGH_MEMORY, ZERO_PAGE};

/// A loader without a number of its own.
const LOADER_UNDEFINED: u8 = 0xff;

pub(super) fn write(
    memory: &GuestMemory,
    header: setup_header,
    memory_size: u64,
    initrd: Option<Initrd>,
    rsdp: u64,
) -> Result<(), GuestMemoryError> {
    let mut parameters = boot_params { hdr: header, acpi_rsdp_addr: rsdp, ..boot_params::default() };
    parameters.hdr.type_of_loader = LOADER_UNDEFINED;
    parameters.hdr.code32_start = HIGH_MEMORY as u32;
    parameters.hdr.cmd_line_ptr = COMMAND_LINE as u32;
    if let Some(Initrd { address, size }) = initrd {
        // Both lie below 4 GiB: an initial RAM disk lies in low memory.
        parameters.hdr.ramdisk_image = address as u32;
        parameters.hdr.ramdisk_size = size as u32;
    }
    let map = memory_map::e820(memory_size);
    parameters.e820_entries = map.len() as u8;
    for (index, range) in map.iter().enumerate() {
        parameters.e820_table[index] =
            boot_e820_entry { addr: range.start, size: range.size, r#type: range.kind as u32 };
    }
    memory.write_slice(parameters.as_slice(), GuestAddress(ZERO_PAGE))
}
