//! What of an image goes where: by its header, or as an ELF file.

use super::header::{Addresses, Header, HeaderError, find};
use crate::boot::elf_file;

/// A part of the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Where it is in the image.
    pub offset: u64,
    /// Bytes of it there.
    pub size: u64,
    /// Where it goes.
    pub address: u64,
    /// Bytes of it in memory; those beyond its size are zero.
    pub memory: u64,
}

/// An image that can be started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Its header.
    pub header: Header,
    /// Its parts.
    pub segments: Vec<Segment>,
    /// Where it is entered.
    pub entry: u32,
}

/// Why an image cannot be started.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ImageError {
    /// Its header is at fault.
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// It is no ELF file and says not where it goes.
    #[error("it is no ELF file, and its multiboot header does not tell where it goes")]
    Place,
    /// It is an ELF file that is not what it should be.
    #[error("it is a damaged ELF file")]
    Elf,
    /// Its end is missing.
    #[error("it is truncated")]
    Truncated,
    /// Its entry, or a part of it, cannot be reached in 32-bit mode.
    #[error("it lies beyond 4 GiB")]
    TooHigh,
}

impl Image {
    /// The image in `bytes`; `None` if it has no header.
    ///
    /// # Errors
    /// When it has, and cannot be started.
    pub fn parse(bytes: &[u8]) -> Result<Option<Self>, ImageError> {
        let Some(header) = find(bytes)? else { return Ok(None) };
        let (segments, entry) = match header.addresses {
            Some(addresses) => (vec![by_header(bytes, &header, addresses)?], None),
            None => by_elf(bytes)?,
        };
        let entry = header.entry.or(entry).ok_or(ImageError::Place)?;
        for segment in &segments {
            let end = segment.address.checked_add(segment.memory).ok_or(ImageError::TooHigh)?;
            if end > u64::from(u32::MAX) {
                return Err(ImageError::TooHigh);
            }
            let file_end = segment.offset.checked_add(segment.size).ok_or(ImageError::Truncated)?;
            if file_end > bytes.len() as u64 {
                return Err(ImageError::Truncated);
            }
        }
        Ok(Some(Self { header, segments, entry }))
    }

    /// First address behind all parts.
    pub fn end(&self) -> u64 {
        self.segments.iter().map(|segment| segment.address + segment.memory).max().unwrap_or(0)
    }

    /// Lowest address of all parts.
    pub fn start(&self) -> u64 {
        self.segments.iter().map(|segment| segment.address).min().unwrap_or(0)
    }
}

fn by_header(bytes: &[u8], header: &Header, addresses: Addresses) -> Result<Segment, ImageError> {
    let Addresses { header: header_address, load, load_end, bss_end } = addresses;
    let damaged = || ImageError::Header(HeaderError::Damaged);
    let offset = match load {
        u32::MAX => 0,
        _ => (header.offset as u64)
            .checked_sub(u64::from(header_address.checked_sub(load).ok_or_else(damaged)?))
            .ok_or_else(damaged)?,
    };
    let address = match load {
        u32::MAX => u64::from(header_address).checked_sub(header.offset as u64).ok_or_else(damaged)?,
        _ => u64::from(load),
    };
    let size = match load_end {
        0 => (bytes.len() as u64).saturating_sub(offset),
        end => u64::from(end).checked_sub(address).ok_or_else(damaged)?,
    };
    let memory = match bss_end {
        0 => size,
        end => u64::from(end).checked_sub(address).ok_or_else(damaged)?.max(size),
    };
    Ok(Segment { offset, size, address, memory })
}

/// The segments of an ELF file, and where it is entered: the entry is told as a virtual address.
fn by_elf(bytes: &[u8]) -> Result<(Vec<Segment>, Option<u32>), ImageError> {
    if !bytes.starts_with(elf_file::MAGIC) {
        return Err(ImageError::Place);
    }
    let header = elf_file::Header::parse(bytes).ok_or(ImageError::Elf)?;
    let table = usize::try_from(header.table).ok().and_then(|at| bytes.get(at..)).ok_or(ImageError::Elf)?;
    let mut segments = Vec::new();
    let mut physical = None;
    for part in header.program_headers(table).ok_or(ImageError::Elf)? {
        if part.kind != elf_file::LOAD || part.memory == 0 {
            continue;
        }
        let inside = header.entry.checked_sub(part.linear).filter(|inside| *inside < part.memory);
        physical = physical.or(inside.and_then(|inside| part.physical.checked_add(inside)));
        let elf_file::ProgramHeader { offset, size, physical: address, memory, .. } = part;
        segments.push(Segment { offset, size, address, memory });
    }
    if segments.is_empty() {
        return Err(ImageError::Elf);
    }
    // Some images tell a physical address after all.
    let entry = u32::try_from(physical.unwrap_or(header.entry)).map_err(|_| ImageError::TooHigh)?;
    Ok((segments, Some(entry)))
}

#[cfg(test)]
pub(in crate::boot) mod tests {
    use super::super::header::tests::{header_1, header_2};
    use super::*;

    /// An ELF32 file with `header` at 0x100 and one segment of 0x200 bytes, and as much behind it, at 1 MiB, linked to
    /// 3 GiB higher.
    pub fn elf_32(header: &[u8]) -> Vec<u8> {
        let mut image = vec![0_u8; 0x400];
        let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, b"\x7fELF\x01\x01\x01");
        put(24, &0xc010_0010_u32.to_le_bytes());
        put(28, &52_u32.to_le_bytes());
        put(42, &32_u16.to_le_bytes());
        put(44, &1_u16.to_le_bytes());
        for (index, word) in [1, 0x200, 0xc010_0000, 0x10_0000, 0x200, 0x400_u32].into_iter().enumerate() {
            put(52 + 4 * index, &word.to_le_bytes());
        }
        put(0x100, header);
        put(0x200, &[0x90; 0x200]);
        image
    }

    #[test]
    fn an_elf_file_tells_its_segments_and_the_physical_entry() {
        let image = Image::parse(&elf_32(&header_1(0, &[]))).unwrap().unwrap();
        assert_eq!(image.entry, 0x10_0010);
        assert_eq!(
            image.segments,
            [Segment { offset: 0x200, size: 0x200, address: 0x10_0000, memory: 0x400 }]
        );
        assert_eq!((image.start(), image.end()), (0x10_0000, 0x10_0400));
    }

    #[test]
    fn the_headers_entry_comes_before_that_of_the_file() {
        let image = Image::parse(&elf_32(&header_2(&[(3, 0, &[0x10_0020]), (0, 0, &[])]))).unwrap().unwrap();
        assert_eq!(image.entry, 0x10_0020);
    }

    #[test]
    fn an_image_without_a_format_goes_where_its_header_says() {
        let mut flat = header_1(1 << 16, &[0x20_0010, 0x20_0000, 0, 0x20_1000, 0x20_0030]);
        flat.splice(0..0, [0; 0x10]);
        let image = Image::parse(&flat).unwrap().unwrap();
        let size = flat.len() as u64;
        assert_eq!(image.segments, [Segment { offset: 0, size, address: 0x20_0000, memory: 0x1000 }]);
        assert_eq!(image.entry, 0x20_0030);
    }

    #[test]
    fn images_that_cannot_be_loaded_are_refused() {
        let refusal = |bytes: &[u8]| Image::parse(bytes).unwrap_err();
        let whole = elf_32(&header_1(0, &[]));
        assert_eq!(refusal(&whole[..0x300]), ImageError::Truncated);
        assert_eq!(refusal(&header_1(0, &[])), ImageError::Place);
        let mut high = whole.clone();
        high[52 + 12..52 + 16].copy_from_slice(&0xffff_ff00_u32.to_le_bytes());
        assert_eq!(refusal(&high), ImageError::TooHigh);
        let mut none = whole.clone();
        none[44] = 0;
        assert_eq!(refusal(&none), ImageError::Elf);
        assert_eq!(Image::parse(&whole[..0x100]), Ok(None));
        let backwards = header_1(1 << 16, &[0x1000, 0x2000, 0, 0, 0]);
        assert_eq!(refusal(&backwards), ImageError::Header(HeaderError::Damaged));
    }
}
