//! The headers by which an image says that it is to be started so: of version 1 (section 3.1 of the specification 0.6.96)
//! and of version 2 (section 3.1 of the specification 2.0).

use crate::boot::bytes::{u16_at, u32_at};

/// Within how many bytes of the image the header lies.
pub const SEARCH: usize = 32 << 10;
const SEARCH_1: usize = 8 << 10;
const MAGIC_1: u32 = 0x1bad_b002;
const MAGIC_2: u32 = 0xe852_50d6;
const I386: u32 = 0;

/// Flags of version 1: those that a loader must know.
const REQUIRED: u32 = 0xffff;
const PAGE_ALIGNED: u32 = 1 << 0;
const MEMORY_INFO: u32 = 1 << 1;
const VIDEO_MODE: u32 = 1 << 2;
const ADDRESSES: u32 = 1 << 16;

/// Which version of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// Multiboot.
    One,
    /// Multiboot 2.
    Two,
}

/// Where an image that is no ELF file, or asks not to be taken for one, goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Addresses {
    /// Where the header goes.
    pub header: u32,
    /// Where the part that is loaded begins; all ones: with the image.
    pub load: u32,
    /// Where it ends; 0: with the image.
    pub load_end: u32,
    /// Where the part that is cleared behind it ends; 0: there is none.
    pub bss_end: u32,
}

/// What the header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Which version it is of.
    pub version: Version,
    /// Its offset in the image.
    pub offset: usize,
    /// Where the image goes, if it says so.
    pub addresses: Option<Addresses>,
    /// Where it is entered, if it says so.
    pub entry: Option<u32>,
}

/// Why an image with a header cannot be started.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// Version 1: a flag that must be honoured is not known.
    #[error("its multiboot header asks for features that are not there (flags {0:#x})")]
    Flags(u32),
    /// Version 2: it is not for this kind of processor.
    #[error("its multiboot 2 header is for another architecture ({0})")]
    Architecture(u32),
    /// Version 2: a tag that must be honoured is not known.
    #[error("its multiboot 2 header asks for a feature that is not there (tag {0})")]
    Tag(u16),
    /// It ends in its middle.
    #[error("its multiboot header is damaged")]
    Damaged,
}

/// The header in the first [`SEARCH`] bytes of an image, if there is one; that of version 2 if there are both.
///
/// # Errors
/// When it asks for what is not there.
pub fn find(start: &[u8]) -> Result<Option<Header>, HeaderError> {
    let start = start.get(..SEARCH).unwrap_or(start);
    for offset in (0..start.len()).step_by(8) {
        if u32_at(start, offset) == Some(MAGIC_2) && sums_to_zero(start, offset, 4) {
            return version_2(start, offset).map(Some);
        }
    }
    for offset in (0..start.len().min(SEARCH_1)).step_by(4) {
        if u32_at(start, offset) == Some(MAGIC_1) && sums_to_zero(start, offset, 3) {
            return version_1(start, offset).map(Some);
        }
    }
    Ok(None)
}

/// Whether `count` words at `offset`, of which the last one is the checksum, add up to zero.
fn sums_to_zero(bytes: &[u8], offset: usize, count: usize) -> bool {
    let words = (0..count).map(|index| u32_at(bytes, offset + 4 * index));
    words.sum_checked() == Some(0)
}

trait SumChecked {
    fn sum_checked(self) -> Option<u32>;
}

impl<I: Iterator<Item = Option<u32>>> SumChecked for I {
    fn sum_checked(mut self) -> Option<u32> {
        self.try_fold(0_u32, |sum, word| Some(sum.wrapping_add(word?)))
    }
}

fn version_1(bytes: &[u8], offset: usize) -> Result<Header, HeaderError> {
    let word = |index: usize| u32_at(bytes, offset + 4 * index).ok_or(HeaderError::Damaged);
    let flags = word(1)?;
    // A video mode is a wish that may be left unfulfilled.
    let unknown = flags & REQUIRED & !(PAGE_ALIGNED | MEMORY_INFO | VIDEO_MODE);
    if unknown != 0 {
        return Err(HeaderError::Flags(unknown));
    }
    let addresses = flags & ADDRESSES != 0;
    Ok(Header {
        version: Version::One,
        offset,
        addresses: match addresses {
            true => {
                Some(Addresses { header: word(3)?, load: word(4)?, load_end: word(5)?, bss_end: word(6)? })
            }
            false => None,
        },
        entry: if addresses { Some(word(7)?) } else { None },
    })
}

fn version_2(bytes: &[u8], offset: usize) -> Result<Header, HeaderError> {
    let word = |at: usize| u32_at(bytes, at).ok_or(HeaderError::Damaged);
    let architecture = word(offset + 4)?;
    if architecture != I386 {
        return Err(HeaderError::Architecture(architecture));
    }
    let length = word(offset + 8)? as usize;
    let end = offset.checked_add(length).filter(|end| *end <= bytes.len()).ok_or(HeaderError::Damaged)?;
    let mut header = Header { version: Version::Two, offset, addresses: None, entry: None };
    let mut at = offset + 16;
    while at < end {
        let (kind, flags) =
            (u16_at(bytes, at).ok_or(HeaderError::Damaged)?, u16_at(bytes, at + 2).unwrap_or(0));
        let size = word(at + 4)? as usize;
        match kind {
            0 => break,
            2 => {
                let [header_address, load, load_end, bss_end] = [8, 12, 16, 20].map(|field| word(at + field));
                header.addresses = Some(Addresses {
                    header: header_address?,
                    load: load?,
                    load_end: load_end?,
                    bss_end: bss_end?,
                });
            }
            3 => header.entry = Some(word(at + 8)?),
            // Wishes for information, console, frame buffer and aligned modules; entries for EFI; the places to which
            // the image may be moved.
            1 | 4..=10 => {}
            _ if flags & 1 != 0 => {}
            _ => return Err(HeaderError::Tag(kind)),
        }
        if size < 8 {
            return Err(HeaderError::Damaged);
        }
        at = at.checked_add(size).ok_or(HeaderError::Damaged)?.next_multiple_of(8);
    }
    Ok(header)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A header of version 1 with `flags` and the words behind the checksum.
    pub fn header_1(flags: u32, words: &[u32]) -> Vec<u8> {
        let checksum = 0_u32.wrapping_sub(MAGIC_1).wrapping_sub(flags);
        [MAGIC_1, flags, checksum].iter().chain(words).flat_map(|word| word.to_le_bytes()).collect()
    }

    /// A header of version 2 with `tags` of type, flags and content.
    pub fn header_2(tags: &[(u16, u16, &[u32])]) -> Vec<u8> {
        let mut body = Vec::new();
        for (kind, flags, words) in tags {
            body.extend(kind.to_le_bytes());
            body.extend(flags.to_le_bytes());
            body.extend((8 + 4 * words.len() as u32).to_le_bytes());
            body.extend(words.iter().flat_map(|word| word.to_le_bytes()));
            body.resize(body.len().next_multiple_of(8), 0);
        }
        let length = 16 + body.len() as u32;
        let checksum = 0_u32.wrapping_sub(MAGIC_2).wrapping_sub(length);
        [MAGIC_2, I386, length, checksum].iter().flat_map(|word| word.to_le_bytes()).chain(body).collect()
    }

    #[test]
    fn a_header_of_version_1_is_found_within_8_kib() {
        let mut image = vec![0; 8188 - 8];
        image.extend(header_1(3, &[]));
        let header = find(&image).unwrap().unwrap();
        assert_eq!((header.version, header.offset, header.addresses), (Version::One, 8180, None));
        image.splice(0..0, [0; 16]);
        assert_eq!(find(&image), Ok(None));
    }

    #[test]
    fn a_header_with_a_wrong_checksum_is_none() {
        let mut image = header_1(0, &[]);
        image[8] ^= 1;
        assert_eq!(find(&image), Ok(None));
    }

    #[test]
    fn version_1_may_tell_addresses() {
        let header = find(&header_1(1 << 16, &[1, 2, 3, 4, 5])).unwrap().unwrap();
        assert_eq!(header.addresses, Some(Addresses { header: 1, load: 2, load_end: 3, bss_end: 4 }));
        assert_eq!(header.entry, Some(5));
        assert_eq!(find(&header_1(1 << 16, &[1, 2])), Err(HeaderError::Damaged));
        assert_eq!(find(&header_1(1 << 5, &[])), Err(HeaderError::Flags(1 << 5)));
    }

    #[test]
    fn version_2_has_tags() {
        let tags: &[(u16, u16, &[u32])] =
            &[(1, 0, &[4, 6]), (2, 0, &[1, 2, 3, 4]), (3, 0, &[5]), (77, 1, &[]), (0, 0, &[])];
        let header = find(&header_2(tags)).unwrap().unwrap();
        assert_eq!((header.version, header.entry), (Version::Two, Some(5)));
        assert_eq!(header.addresses, Some(Addresses { header: 1, load: 2, load_end: 3, bss_end: 4 }));
        assert_eq!(find(&header_2(&[(77, 0, &[]), (0, 0, &[])])), Err(HeaderError::Tag(77)));
    }

    #[test]
    fn damaged_tags_are_refused() {
        let mut image = header_2(&[(3, 0, &[5]), (0, 0, &[])]);
        image[20] = 0;
        assert_eq!(find(&image), Err(HeaderError::Damaged));
        let whole = header_2(&[(3, 0, &[5]), (0, 0, &[])]);
        assert_eq!(find(&whole[..whole.len() - 1]), Err(HeaderError::Damaged));
    }
}
