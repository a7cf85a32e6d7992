//! The parts of an ELF file that a loader needs (Tool Interface Standard, Executable and Linking Format 1.2; System V
//! ABI, chapter 5), of 32 or 64 bits.

use super::bytes::{u16_at, u32_at, u64_at};

/// What such a file begins with.
pub const MAGIC: &[u8] = b"\x7fELF";
/// Bytes that hold the header of either class.
pub const HEADER_SIZE: usize = 64;
/// A program header of this kind is loaded.
pub const LOAD: u32 = 1;
/// A program header of this kind has notes.
pub const NOTE: u32 = 4;

const CLASS: usize = 4;
/// More program headers than any kernel has.
const MOST_HEADERS: u16 = 64;

/// The header of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    wide: bool,
    /// Where the file is entered, mostly as a linear address.
    pub entry: u64,
    /// Where the program headers are in the file.
    pub table: u64,
    entry_size: u16,
    count: u16,
}

/// A program header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProgramHeader {
    /// What it is: [`LOAD`], [`NOTE`] or something else.
    pub kind: u32,
    /// Where its bytes are in the file.
    pub offset: u64,
    /// How many there are.
    pub size: u64,
    /// Where it is linked to.
    pub linear: u64,
    /// Where it is to be loaded.
    pub physical: u64,
    /// Bytes in memory; those beyond its size are zero.
    pub memory: u64,
}

impl Header {
    /// The header at the beginning of `bytes`; `None` if there is none that makes sense.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        if !bytes.starts_with(MAGIC) {
            return None;
        }
        let wide = match bytes.get(CLASS)? {
            1 => false,
            2 => true,
            _ => return None,
        };
        let word = |narrow, wide_at| word_at(bytes, wide, narrow, wide_at);
        let half = |narrow, wide_at| u16_at(bytes, if wide { wide_at } else { narrow });
        let (entry, table) = (word(24, 24)?, word(28, 32)?);
        let (entry_size, count) = (half(42, 54)?, half(44, 56)?);
        (1..=MOST_HEADERS).contains(&count).then_some(Self { wide, entry, table, entry_size, count })
    }

    /// Bytes of the program headers together.
    pub fn table_size(&self) -> usize {
        usize::from(self.entry_size) * usize::from(self.count)
    }

    /// The program headers in `table`, of [`table_size`](Self::table_size) bytes; `None` if they make no sense.
    pub fn program_headers(&self, table: &[u8]) -> Option<Vec<ProgramHeader>> {
        let parse = |index| {
            let bytes = table.get(usize::from(index) * usize::from(self.entry_size)..)?;
            let word = |narrow, wide| word_at(bytes, self.wide, narrow, wide);
            let header = ProgramHeader {
                kind: u32_at(bytes, 0)?,
                offset: word(4, 8)?,
                linear: word(8, 16)?,
                physical: word(12, 24)?,
                size: word(16, 32)?,
                memory: word(20, 40)?,
            };
            (header.kind != LOAD || header.size <= header.memory).then_some(header)
        };
        (0..self.count).map(parse).collect()
    }
}

/// The notes in `bytes`: the owner's name, without its NUL, the type and the description. They end where one is cut off.
pub fn notes(bytes: &[u8]) -> impl Iterator<Item = (&[u8], u32, &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let (name_size, size) = (u32_at(rest, 0)? as usize, u32_at(rest, 4)? as usize);
        let kind = u32_at(rest, 8)?;
        let name = rest.get(12..)?.get(..name_size)?;
        let description = rest.get(12..)?.get(name_size.checked_next_multiple_of(4)?..)?;
        let content = description.get(..size)?;
        rest = description.get(size.checked_next_multiple_of(4)?..).unwrap_or_default();
        Some((name.strip_suffix(b"\0").unwrap_or(name), kind, content))
    })
}

fn word_at(bytes: &[u8], wide: bool, narrow_at: usize, wide_at: usize) -> Option<u64> {
    if wide { u64_at(bytes, wide_at) } else { u32_at(bytes, narrow_at).map(u64::from) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_are_found_behind_others_of_odd_lengths() {
        let mut bytes = Vec::new();
        for (name, kind, content) in
            [(&b"Xen\0"[..], 6, &b"linux\0"[..]), (b"Linux\0", 0x12, b"no"), (b"Xen\0", 0x12, b"1234")]
        {
            for word in [name.len() as u32, content.len() as u32, kind] {
                bytes.extend(word.to_le_bytes());
            }
            for part in [name, content] {
                bytes.extend(part);
                bytes.resize(bytes.len().next_multiple_of(4), 0);
            }
        }
        let found: Vec<_> = notes(&bytes).collect();
        assert_eq!(
            found,
            [(&b"Xen"[..], 6, &b"linux\0"[..]), (b"Linux", 0x12, b"no"), (b"Xen", 0x12, b"1234")]
        );
        bytes.truncate(bytes.len() - 1);
        assert_eq!(notes(&bytes).count(), 2);
        bytes[..4].copy_from_slice(&[0xff; 4]);
        assert_eq!(notes(&bytes).count(), 0);
    }
}
