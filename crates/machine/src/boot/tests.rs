use std::io::Write;
use std::path::Path;

use linux_loader::loader::bootparam::{boot_params, setup_header};
use linux_loader::loader::elf::start_info::{hvm_modlist_entry, hvm_start_info};
use processor::GeneralRegister;
use tempfile::TempDir;
use vm_memory::ByteValued;

use super::*;
use crate::memory_map::{HIGH_MEMORY, PVH_START_INFO, ZERO_PAGE};

const MEMORY: u64 = 64 << 20;
const RSDP: u64 = 0xe_0000;

fn write(directory: &TempDir, name: &str, content: &[u8]) -> PathBuf {
    let path = directory.path().join(name);
    File::create(&path).unwrap().write_all(content).unwrap();
    path
}

/// A kernel of the given header with a payload of `0x90`.
fn bzimage(change: impl FnOnce(&mut setup_header)) -> Vec<u8> {
    let mut header = setup_header {
        setup_sects: 1,
        syssize: 256,
        boot_flag: 0xaa55,
        header: u32::from_le_bytes(*b"HdrS"),
        version: 0x020f,
        loadflags: 1,
        initrd_addr_max: 0x7fff_ffff,
        kernel_alignment: 0x20_0000,
        relocatable_kernel: 1,
        xloadflags: 1,
        cmdline_size: 255,
        pref_address: 16 << 20,
        init_size: 8 << 20,
        ..setup_header::default()
    };
    change(&mut header);
    let mut image = vec![0; 0x1f1];
    image.extend_from_slice(header.as_slice());
    image.resize(1024, 0);
    image.resize(1024 + 4096, 0x90);
    image
}

fn boot_with(
    kernel: &Path,
    initrd: Option<&Path>,
    append: &str,
) -> Result<(GuestMemory, StartRegisters), InputError> {
    let config = MachineConfig {
        kernel: Some(kernel.into()),
        initrd: initrd.map(Into::into),
        append: append.to_owned(),
        ..MachineConfig::default()
    };
    let (memory, _) = guest_memory::allocate(MEMORY).unwrap();
    let registers = BootFiles::open(&config)?.load(&memory, MEMORY, RSDP)?;
    Ok((memory, registers))
}

fn refusal(kernel: &Path, initrd: Option<&Path>, append: &str) -> String {
    boot_with(kernel, initrd, append).map(|(_, registers)| registers).unwrap_err().to_string()
}

fn parameters(memory: &GuestMemory) -> boot_params {
    memory.read_obj(GuestAddress(ZERO_PAGE)).unwrap()
}

#[test]
fn a_bzimage_starts_in_long_mode_with_its_boot_parameters_in_rsi() {
    let directory = TempDir::new().unwrap();
    let kernel = write(&directory, "k", &bzimage(|_| ()));
    let (memory, registers) = boot_with(&kernel, None, "console=ttyS0").unwrap();
    assert_eq!(registers.rip, HIGH_MEMORY + 0x200);
    assert_eq!(registers.general[GeneralRegister::Rsi as usize], ZERO_PAGE);
    assert_eq!(registers.efer, 0x500);
    assert_eq!(memory.read_obj::<u8>(GuestAddress(HIGH_MEMORY + 4095)).unwrap(), 0x90);
    assert_eq!(memory.read_obj::<u8>(GuestAddress(HIGH_MEMORY + 4096)).unwrap(), 0);
    let parameters = parameters(&memory);
    let (rsdp, line, loader) =
        (parameters.acpi_rsdp_addr, parameters.hdr.cmd_line_ptr, parameters.hdr.type_of_loader);
    assert_eq!((rsdp, u64::from(line), loader), (RSDP, COMMAND_LINE, 0xff));
    let mut text = [0; 14];
    memory.read_slice(&mut text, GuestAddress(COMMAND_LINE)).unwrap();
    assert_eq!(&text, b"console=ttyS0\0");
}

#[test]
fn the_boot_parameters_carry_the_memory_map() {
    let directory = TempDir::new().unwrap();
    let kernel = write(&directory, "k", &bzimage(|_| ()));
    let (memory, _) = boot_with(&kernel, None, "").unwrap();
    let parameters = parameters(&memory);
    assert_eq!(parameters.e820_entries, 4);
    let last = parameters.e820_table[3];
    let (start, size, kind) = (last.addr, last.size, last.r#type);
    assert_eq!((start, size, kind), (HIGH_MEMORY, MEMORY - HIGH_MEMORY, 1));
}

#[test]
fn a_32_bit_kernel_starts_in_protected_mode() {
    let directory = TempDir::new().unwrap();
    let kernel = write(&directory, "k", &bzimage(|header| header.xloadflags = 0));
    let (_, registers) = boot_with(&kernel, None, "").unwrap();
    assert_eq!((registers.rip, registers.efer, registers.cr0), (HIGH_MEMORY, 0, 0x11));
}

#[test]
fn the_initrd_lies_at_the_top_of_memory() {
    let directory = TempDir::new().unwrap();
    let kernel = write(&directory, "k", &bzimage(|_| ()));
    let initrd = write(&directory, "i", &[7; 5000]);
    let (memory, _) = boot_with(&kernel, Some(&initrd), "").unwrap();
    let header = parameters(&memory).hdr;
    let (address, size) = (header.ramdisk_image, header.ramdisk_size);
    assert_eq!((u64::from(address), size), (MEMORY - 8192, 5000));
    assert_eq!(memory.read_obj::<u8>(GuestAddress(u64::from(address) + 4999)).unwrap(), 7);
}

#[test]
fn the_initrd_stays_below_what_the_kernel_can_reach() {
    let directory = TempDir::new().unwrap();
    let kernel = write(&directory, "k", &bzimage(|header| header.initrd_addr_max = 0x2ff_ffff));
    let initrd = write(&directory, "i", &[7; 4096]);
    let (memory, _) = boot_with(&kernel, Some(&initrd), "").unwrap();
    let address = parameters(&memory).hdr.ramdisk_image;
    assert_eq!(address, 0x2ff_f000);
}

#[test]
fn an_initrd_that_does_not_fit_is_refused() {
    let directory = TempDir::new().unwrap();
    let kernel = write(&directory, "k", &bzimage(|_| ()));
    let initrd = directory.path().join("i");
    File::create(&initrd).unwrap().set_len(45 << 20).unwrap();
    let expected = format!(
        "--initrd {}: its 45 MiB do not fit beside the kernel into a memory of 64M",
        initrd.display()
    );
    assert_eq!(refusal(&kernel, Some(&initrd), ""), expected);
}

#[test]
fn a_kernel_that_needs_more_memory_is_refused() {
    let directory = TempDir::new().unwrap();
    let kernel = write(&directory, "k", &bzimage(|header| header.init_size = 56 << 20));
    let expected = format!("--memory 64M: too small: the kernel {} needs 72 MiB to start", kernel.display());
    assert_eq!(refusal(&kernel, None, ""), expected);
}

#[test]
fn files_that_are_no_kernels_are_refused() {
    let directory = TempDir::new().unwrap();
    let missing = directory.path().join("missing");
    assert_eq!(refusal(&missing, None, ""), format!("--kernel {}: no such file", missing.display()));
    let folder = directory.path();
    assert_eq!(refusal(folder, None, ""), format!("--kernel {}: is a directory", folder.display()));
    let empty = write(&directory, "empty", b"");
    assert_eq!(refusal(&empty, None, ""), format!("--kernel {}: is empty", empty.display()));
    let text = write(&directory, "text", &[b'x'; 4096]);
    assert!(refusal(&text, None, "").contains("is not a Linux kernel"));
    let short = write(&directory, "short", b"text");
    assert!(refusal(&short, None, "").contains("is not a Linux kernel"));
}

#[test]
fn a_truncated_bzimage_is_refused() {
    let directory = TempDir::new().unwrap();
    let image = bzimage(|_| ());
    let kernel = write(&directory, "k", &image[..image.len() - 1]);
    assert_eq!(refusal(&kernel, None, ""), format!("--kernel {}: is truncated", kernel.display()));
}

#[test]
fn a_command_line_longer_than_the_kernel_takes_is_refused() {
    let directory = TempDir::new().unwrap();
    let kernel = write(&directory, "k", &bzimage(|_| ()));
    assert!(boot_with(&kernel, None, &"x".repeat(255)).is_ok());
    let expected = "--append: the kernel takes at most 255 characters, not 256";
    assert_eq!(refusal(&kernel, None, &"x".repeat(256)), expected);
}

/// An ELF file with one loaded segment and a note that tells the PVH entry.
fn vmlinux(physical: u64) -> Vec<u8> {
    let mut image = vec![0_u8; 0x2000];
    let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"\x7fELF\x02\x01\x01");
    put(16, &2_u16.to_le_bytes());
    put(18, &62_u16.to_le_bytes());
    put(24, &physical.to_le_bytes());
    put(32, &64_u64.to_le_bytes());
    put(52, &64_u16.to_le_bytes());
    put(54, &56_u16.to_le_bytes());
    put(56, &2_u16.to_le_bytes());
    let mut segment = |index: usize, kind: u32, offset: u64, address: u64, size: u64| {
        let at = 64 + index * 56;
        put(at, &kind.to_le_bytes());
        put(at + 8, &offset.to_le_bytes());
        put(at + 16, &address.to_le_bytes());
        put(at + 24, &address.to_le_bytes());
        put(at + 32, &size.to_le_bytes());
        put(at + 40, &size.to_le_bytes());
    };
    segment(0, 1, 0x1000, physical, 0x1000);
    segment(1, 4, 0x200, 0, 20);
    put(0x200, &4_u32.to_le_bytes());
    put(0x204, &4_u32.to_le_bytes());
    put(0x208, &18_u32.to_le_bytes());
    put(0x20c, b"Xen\0");
    put(0x210, &(physical as u32 + 0x40).to_le_bytes());
    put(0x1000, &[0xcc; 0x1000]);
    image
}

#[test]
fn a_vmlinux_starts_by_pvh_with_its_start_information_in_ebx() {
    let directory = TempDir::new().unwrap();
    let kernel = write(&directory, "k", &vmlinux(16 << 20));
    let initrd = write(&directory, "i", &[7; 4096]);
    let (memory, registers) = boot_with(&kernel, Some(&initrd), "quiet").unwrap();
    assert_eq!((registers.rip, registers.cr0, registers.cr4), ((16 << 20) + 0x40, 0x11, 0));
    assert_eq!(registers.general[GeneralRegister::Rbx as usize], PVH_START_INFO);
    let info: hvm_start_info = memory.read_obj(GuestAddress(PVH_START_INFO)).unwrap();
    assert_eq!((info.magic, info.version, info.rsdp_paddr), (0x336e_c578, 1, RSDP));
    assert_eq!((info.memmap_entries, info.nr_modules), (4, 1));
    let module: hvm_modlist_entry = memory.read_obj(GuestAddress(info.modlist_paddr)).unwrap();
    assert_eq!((module.paddr, module.size), (MEMORY - 4096, 4096));
    assert_eq!(memory.read_obj::<u8>(GuestAddress(16 << 20)).unwrap(), 0xcc);
}

#[test]
fn a_damaged_vmlinux_is_refused() {
    let directory = TempDir::new().unwrap();
    let whole = vmlinux(16 << 20);
    let truncated = write(&directory, "truncated", &whole[..0x1800]);
    assert_eq!(refusal(&truncated, None, ""), format!("--kernel {}: is truncated", truncated.display()));
    let header = write(&directory, "header", &whole[..70]);
    assert_eq!(refusal(&header, None, ""), format!("--kernel {}: is truncated", header.display()));
    let mut without_note = whole.clone();
    without_note[64 + 56] = 0;
    let without_note = write(&directory, "note", &without_note);
    assert!(refusal(&without_note, None, "").contains("without a PVH entry"));
    let mut class = whole.clone();
    class[4] = 3;
    let class = write(&directory, "class", &class);
    assert!(refusal(&class, None, "").ends_with("class: is a damaged ELF file"));
    // A segment with more bytes in the file than in memory.
    let mut inverted = whole.clone();
    inverted[64 + 40..64 + 48].fill(0);
    let inverted = write(&directory, "inverted", &inverted);
    assert!(refusal(&inverted, None, "").ends_with("inverted: is a damaged ELF file"));
    let low = write(&directory, "low", &vmlinux(0x8000));
    assert!(refusal(&low, None, "").contains("is to be loaded below 1 MiB"));
}

/// The file of [`vmlinux`] for a 32-bit processor.
fn vmlinux_32(physical: u32) -> Vec<u8> {
    let mut image = vmlinux(physical.into());
    image[..0x200].fill(0);
    let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"\x7fELF\x01\x01\x01");
    put(18, &3_u16.to_le_bytes());
    put(24, &physical.to_le_bytes());
    put(28, &52_u32.to_le_bytes());
    put(42, &32_u16.to_le_bytes());
    put(44, &2_u16.to_le_bytes());
    let load = [1, 0x1000, 0xc000_0000 + physical, physical, 0x1000, 0x1800];
    let note = [4, 0x200, 0, 0, 20, 20];
    for (index, word) in load.into_iter().chain([0, 0]).chain(note).enumerate() {
        put(52 + 4 * index, &word.to_le_bytes());
    }
    image
}

#[test]
fn a_vmlinux_for_a_32_bit_processor_starts_by_pvh_too() {
    let directory = TempDir::new().unwrap();
    let kernel = write(&directory, "k", &vmlinux_32(16 << 20));
    let initrd = write(&directory, "i", &[7; 4096]);
    let (memory, registers) = boot_with(&kernel, Some(&initrd), "quiet").unwrap();
    assert_eq!((registers.rip, registers.cr0, registers.efer), ((16 << 20) + 0x40, 0x11, 0));
    let info: hvm_start_info = memory.read_obj(GuestAddress(PVH_START_INFO)).unwrap();
    assert_eq!((info.magic, info.nr_modules), (0x336e_c578, 1));
    assert_eq!(memory.read_obj::<u8>(GuestAddress((16 << 20) + 0xfff)).unwrap(), 0xcc);
    let truncated = write(&directory, "truncated", &vmlinux_32(16 << 20)[..0x1800]);
    assert!(refusal(&truncated, None, "").ends_with("truncated: is truncated"));
}

#[test]
fn a_vmlinux_beyond_ram_is_refused() {
    let directory = TempDir::new().unwrap();
    let kernel = write(&directory, "k", &vmlinux(1 << 30));
    let expected = format!("--memory 64M: too small for the kernel {}", kernel.display());
    assert_eq!(refusal(&kernel, None, ""), expected);
}
