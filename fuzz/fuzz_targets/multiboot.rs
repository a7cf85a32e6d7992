//! Images with multiboot headers, and the headers and notes of ELF files.
#![no_main]

use machine::boot::elf_file;
use machine::boot::multiboot::Image;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Some(header) = elf_file::Header::parse(data) {
        let table = usize::try_from(header.table).ok().and_then(|at| data.get(at..)).unwrap_or_default();
        for part in header.program_headers(table).into_iter().flatten() {
            assert!(part.kind != elf_file::LOAD || part.size <= part.memory);
        }
    }
    assert!(elf_file::notes(data).map(|(name, _, content)| name.len() + content.len()).sum::<usize>() <= data.len());
    // The checksum of the first header is made right, lest none be found.
    let mut bytes = data.to_vec();
    if bytes.len() >= 16 {
        let (magic, words) = if bytes[12] & 1 == 0 { (0x1bad_b002_u32, 2) } else { (0xe852_50d6, 3) };
        bytes[..4].copy_from_slice(&magic.to_le_bytes());
        let word = |bytes: &[u8], at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        let sum = (0..words).fold(0_u32, |sum, index| sum.wrapping_add(word(&bytes, 4 * index)));
        let at = 4 * words;
        bytes[at..at + 4].copy_from_slice(&0_u32.wrapping_sub(sum).to_le_bytes());
    }
    if let Ok(Some(image)) = Image::parse(&bytes) {
        assert!(image.start() <= image.end() && image.end() <= u64::from(u32::MAX));
        for segment in &image.segments {
            assert!(segment.size <= segment.memory);
            let from = &bytes[segment.offset as usize..];
            assert!(from.len() as u64 >= segment.size);
        }
    }
});
