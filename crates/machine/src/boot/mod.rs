//! Starting a kernel without firmware: the Linux/x86 boot protocol (Linux documentation, arch/x86/boot, 64-bit
//! and 32-bit entry) for a bzImage, the PVH protocol (Xen, docs/misc/pvh) for an ELF vmlinux, and the Multiboot
//! protocols for what has one of their headers.
//!
//! Not done: the 16-bit entry (no firmware is there for it to call), EFI entry, kernels above 4 GiB.

mod bios_data;
mod bytes;
mod bzimage;
mod elf;
pub mod elf_file;
pub mod multiboot;
mod registers;
mod zero_page;

#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use guest_memory::GuestMemory;
use processor::StartRegisters;
use vm_memory::{Bytes, GuestAddress, GuestMemoryError};

use crate::acpi::RSDP_LENGTH;
use crate::config::{InputError, MachineConfig, MemorySize};
use crate::firmware::Rom;
use crate::memory_map::{self, COMMAND_LINE, COMMAND_LINE_SIZE};

/// What a machine starts with.
#[derive(Debug)]
pub enum BootSource {
    /// A kernel.
    Kernel(BootFiles),
    /// Firmware, which finds something to boot.
    Firmware(Rom),
}

impl BootSource {
    /// Opens what `config` names.
    ///
    /// # Errors
    /// When a file is missing or does not do.
    pub fn open(config: &MachineConfig) -> Result<Self, InputError> {
        Ok(match config.boots_by_firmware() {
            true => Self::Firmware(Rom::open(config)?),
            false => Self::Kernel(BootFiles::open(config)?),
        })
    }

    /// Whether there is a screen: firmware sets one up, and multiboot kernels write to one that they find set up.
    pub fn has_screen(&self) -> bool {
        match self {
            Self::Kernel(files) => files.multiboot,
            Self::Firmware(_) => true,
        }
    }

    /// The firmware, if there is one.
    pub fn firmware(&self) -> Option<&Rom> {
        match self {
            Self::Kernel(_) => None,
            Self::Firmware(rom) => Some(rom),
        }
    }
}

/// The files of a boot, opened once, so that a reset boots the same kernel again.
#[derive(Debug)]
pub struct BootFiles {
    kernel: InputFile,
    multiboot: bool,
    initrd: Option<InputFile>,
    /// Further modules of a multiboot kernel, with the words that each is given, if any.
    modules: Vec<(InputFile, Option<String>)>,
    command_line: String,
}

/// A file and the option that named it.
#[derive(Debug)]
struct InputFile {
    option: &'static str,
    path: PathBuf,
    file: File,
    size: u64,
}

/// The initial RAM disk in guest memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Initrd {
    address: u64,
    size: u64,
}

impl BootFiles {
    /// Opens what `config` names.
    ///
    /// # Errors
    /// When a file is missing or is no file.
    pub fn open(config: &MachineConfig) -> Result<Self, InputError> {
        let kernel = config.kernel.as_deref().ok_or_else(|| InputError::bare("kernel", "is required"))?;
        let mut kernel = InputFile::open("kernel", kernel)?;
        Ok(Self {
            multiboot: multiboot::is_one(&mut kernel)?,
            kernel,
            initrd: config.initrd.as_deref().map(|path| InputFile::open("initrd", path)).transpose()?,
            modules: config
                .modules
                .iter()
                .map(|module| Ok((InputFile::open("module", &module.file)?, module.words.clone())))
                .collect::<Result<_, InputError>>()?,
            command_line: config.append.clone(),
        })
    }

    /// Loads the kernel and all it needs into `memory`, whose size is `memory_size`, and tells the
    /// registers it starts with. `rsdp` is where the ACPI tables begin, in `memory`.
    ///
    /// # Errors
    /// When a file is not what it should be, or does not fit.
    pub fn load(
        &mut self,
        memory: &GuestMemory,
        memory_size: u64,
        rsdp: u64,
    ) -> Result<StartRegisters, InputError> {
        if self.multiboot {
            let mut root = [0; RSDP_LENGTH];
            memory.read_slice(&mut root, GuestAddress(rsdp)).map_err(|_| too_small(memory))?;
            return multiboot::load(self, memory, memory_size, &root);
        }
        if let Some((module, _)) = self.modules.first() {
            return Err(module.wrong("only a multiboot kernel takes modules"));
        }
        let mut magic = [0; 4];
        self.kernel.read_at(0, &mut magic)?;
        if magic == *b"\x7fELF" {
            elf::load(self, memory, memory_size, rsdp)
        } else {
            bzimage::load(self, memory, memory_size, rsdp)
        }
    }

    /// Writes the command line, of which the kernel takes `limit` bytes without the NUL.
    fn write_command_line(&self, memory: &GuestMemory, limit: u64) -> Result<(), InputError> {
        let text = self.command_line.as_bytes();
        let limit = limit.min(COMMAND_LINE_SIZE - 1);
        if text.len() as u64 > limit {
            let reason = format!("the kernel takes at most {limit} characters, not {}", text.len());
            return Err(InputError::bare("append", reason));
        }
        let text: Vec<u8> = text.iter().copied().chain([0]).collect();
        memory.write_slice(&text, GuestAddress(COMMAND_LINE)).map_err(|_| too_small(memory))
    }

    /// Places the initial RAM disk as high as may be between `kernel_end` and `limit`.
    fn load_initrd(
        &mut self,
        memory: &GuestMemory,
        memory_size: u64,
        kernel_end: u64,
        limit: u64,
    ) -> Result<Option<Initrd>, InputError> {
        let Some(initrd) = &mut self.initrd else { return Ok(None) };
        let top = memory_map::low_ram_end(memory_size).min(limit);
        let address = top.checked_sub(initrd.size).map(|address| address & !(guest_memory::PAGE_SIZE - 1));
        let Some(address) = address.filter(|&address| address >= kernel_end) else {
            let reason = format!(
                "its {} MiB do not fit beside the kernel into a memory of {}",
                initrd.size.div_ceil(1 << 20),
                MemorySize(memory_size)
            );
            return Err(InputError::file(initrd.option, &initrd.path, reason));
        };
        initrd.copy_to(memory, address, 0, initrd.size)?;
        Ok(Some(Initrd { address, size: initrd.size }))
    }
}

impl InputFile {
    fn open(option: &'static str, path: &Path) -> Result<Self, InputError> {
        let io = |error: std::io::Error| InputError::io(option, path, &error);
        let mut file = File::open(path).map_err(io)?;
        let kind = file.metadata().map_err(io)?.file_type();
        if kind.is_dir() {
            return Err(InputError::file(option, path, "is a directory"));
        }
        let size = file.seek(SeekFrom::End(0)).map_err(io)?;
        if size == 0 {
            return Err(InputError::file(option, path, "is empty"));
        }
        Ok(Self { option, path: path.to_owned(), file, size })
    }

    fn wrong(&self, reason: impl Into<String>) -> InputError {
        InputError::file(self.option, &self.path, reason)
    }

    fn rewind(&mut self) -> Result<(), InputError> {
        self.file.rewind().map_err(|error| InputError::io(self.option, &self.path, &error))
    }

    fn read_at(&mut self, offset: u64, bytes: &mut [u8]) -> Result<(), InputError> {
        let read = self.file.seek(SeekFrom::Start(offset)).and_then(|_| self.file.read_exact(bytes));
        read.map_err(|error| match error.kind() {
            std::io::ErrorKind::UnexpectedEof => self.wrong("is truncated"),
            _ => InputError::io(self.option, &self.path, &error),
        })
    }

    /// Reads `len` bytes from `offset` into guest memory, with no copy in between.
    fn copy_to(
        &mut self,
        memory: &GuestMemory,
        address: u64,
        offset: u64,
        len: u64,
    ) -> Result<(), InputError> {
        if offset.checked_add(len).is_none_or(|end| end > self.size) {
            return Err(self.wrong("is truncated"));
        }
        let seek = self.file.seek(SeekFrom::Start(offset));
        seek.map_err(|error| InputError::io(self.option, &self.path, &error))?;
        let length = usize::try_from(len).map_err(|_| self.wrong("does not fit into guest memory"))?;
        let read = memory.read_exact_volatile_from(GuestAddress(address), &mut self.file, length);
        read.map_err(|error| match error {
            // Its size was asked for when it was opened.
            GuestMemoryError::IOError(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
                self.wrong("is truncated")
            }
            GuestMemoryError::IOError(error) => InputError::io(self.option, &self.path, &error),
            _ => self.wrong("does not fit into guest memory"),
        })
    }
}

fn too_small(memory: &GuestMemory) -> InputError {
    use vm_memory::{GuestMemoryBackend, GuestMemoryRegion};
    let size = memory.iter().map(GuestMemoryRegion::len).sum();
    InputError::new("memory", MemorySize(size), "too small to start a kernel in")
}
