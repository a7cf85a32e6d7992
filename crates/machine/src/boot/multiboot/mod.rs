//! Starting a kernel, hypervisor or test program by the Multiboot protocol: version 1 (Multiboot Specification 0.6.96)
//! and version 2 (Multiboot2 Specification 2.0), on the i386.
//!
//! The image may be an ELF file of 32 or 64 bits, or say in its header where it goes, and may be compressed by gzip. It
//! starts in 32-bit protected mode. Modules lie behind it, each on a page of its own.
//!
//! Not done: symbols, frame buffers and video modes, boot devices, APM, EFI, and moving an image that could be moved.

mod header;
mod image;
mod information;

pub use header::{Addresses, Header, HeaderError, SEARCH, Version, find};
pub use image::{Image, ImageError, Segment};

use std::io::Read;

use flate2::read::GzDecoder;
use guest_memory::{GuestMemory, PAGE_SIZE};
use processor::StartRegisters;
use vm_memory::{Bytes, GuestAddress};

use super::registers::{self, Entry};
use super::{BootFiles, InputFile, bios_data, too_small};
use crate::config::{InputError, MemorySize};
use crate::memory_map::{self, CONVENTIONAL_END, MULTIBOOT_INFORMATION};
use information::{Information, Module};

const GZIP: [u8; 2] = [0x1f, 0x8b];

/// The kernel of `files`, if its beginning says that it is one to be started so.
pub(super) fn is_one(kernel: &mut InputFile) -> Result<bool, InputError> {
    let start = read(kernel, SEARCH as u64)?;
    // A header that asks for too much is one.
    Ok(!matches!(find(&start), Ok(None)))
}

pub(super) fn load(
    files: &mut BootFiles,
    memory: &GuestMemory,
    memory_size: u64,
    rsdp: &[u8],
) -> Result<StartRegisters, InputError> {
    let bytes = read(&mut files.kernel, memory_size)?;
    let image =
        Image::parse(&bytes).map_err(|error| files.kernel.wrong(format!("cannot be started: {error}")))?;
    let image = image.ok_or_else(|| files.kernel.wrong("has no multiboot header"))?;
    place(&image, &bytes, files, memory, memory_size)?;
    let modules = files.load_modules(memory, memory_size, image.end())?;
    let name = files.kernel.path.display();
    let command_line = match (image.header.version, files.command_line.as_str()) {
        // As loaders have it: the name comes first in version 1, and not at all in version 2.
        (Version::One, "") => name.to_string(),
        (Version::One, words) => format!("{name} {words}"),
        (Version::Two, words) => words.to_owned(),
    };
    let information = Information {
        command_line: &command_line,
        modules: &modules,
        map: &memory_map::e820(memory_size),
        rsdp,
    };
    let (magic, block) = match image.header.version {
        Version::One => (information::MAGIC_1, information.version_1(MULTIBOOT_INFORMATION as u32)),
        Version::Two => (information::MAGIC_2, information.version_2()),
    };
    // What is left of conventional memory is the kernel's.
    if MULTIBOOT_INFORMATION + block.len() as u64 > CONVENTIONAL_END {
        return Err(InputError::bare("append", "the command line and the modules' arguments are too long"));
    }
    bios_data::write(memory)
        .and_then(|()| memory.write_slice(&block, GuestAddress(MULTIBOOT_INFORMATION)))
        .and_then(|()| {
            registers::start(memory, Entry::Multiboot { magic }, image.entry.into(), MULTIBOOT_INFORMATION)
        })
        .map_err(|_| too_small(memory))
}

fn place(
    image: &Image,
    bytes: &[u8],
    files: &BootFiles,
    memory: &GuestMemory,
    memory_size: u64,
) -> Result<(), InputError> {
    let end = image.end();
    if end > memory_map::low_ram_end(memory_size) {
        let reason = format!("too small for the kernel {}", files.kernel.path.display());
        return Err(InputError::new("memory", MemorySize(memory_size), reason));
    }
    // Below are the descriptor table and the information, above the video memory and the tables.
    if image.start() < memory_map::HIGH_MEMORY {
        return Err(files.kernel.wrong("is to be loaded below 1 MiB, where loader and tables are"));
    }
    for segment in &image.segments {
        let from = usize::try_from(segment.offset).ok().and_then(|offset| bytes.get(offset..));
        let part = usize::try_from(segment.size).ok().and_then(|size| from?.get(..size));
        let part = part.ok_or_else(|| files.kernel.wrong("is truncated"))?;
        // Memory is zero at power-on: what is behind the part needs nothing.
        memory.write_slice(part, GuestAddress(segment.address)).map_err(|_| too_small(memory))?;
    }
    Ok(())
}

/// The file's first `limit` bytes, decompressed if need be.
fn read(file: &mut InputFile, limit: u64) -> Result<Vec<u8>, InputError> {
    let mut magic = [0; 2];
    if file.size >= 2 {
        file.read_at(0, &mut magic)?;
    }
    let mut bytes = Vec::new();
    if magic != GZIP {
        bytes.resize(file.size.min(limit) as usize, 0);
        file.read_at(0, &mut bytes)?;
        return Ok(bytes);
    }
    file.rewind()?;
    let result = GzDecoder::new(&file.file).take(limit).read_to_end(&mut bytes);
    result.map_err(|error| file.wrong(format!("cannot be decompressed: {error}")))?;
    Ok(bytes)
}

impl BootFiles {
    /// Places the modules behind `end`.
    fn load_modules(
        &mut self,
        memory: &GuestMemory,
        memory_size: u64,
        end: u64,
    ) -> Result<Vec<Module>, InputError> {
        let top = memory_map::low_ram_end(memory_size);
        let mut next = end;
        let mut modules = Vec::new();
        let initrd = self.initrd.iter_mut().map(|file| (file, None));
        let others = self.modules.iter_mut().map(|(file, words)| (file, words.clone()));
        for (file, words) in initrd.chain(others) {
            let start = next.next_multiple_of(PAGE_SIZE);
            next = start + file.size;
            if next > top {
                let reason = format!(
                    "its {} MiB do not fit beside the kernel into a memory of {}",
                    file.size.div_ceil(1 << 20),
                    MemorySize(memory_size)
                );
                return Err(file.wrong(reason));
            }
            file.copy_to(memory, start, 0, file.size)?;
            let words = words.unwrap_or_else(|| file.path.display().to_string());
            // Both lie in low memory.
            modules.push(Module { start: start as u32, end: next as u32, words });
        }
        Ok(modules)
    }
}
