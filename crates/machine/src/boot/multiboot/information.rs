//! What the kernel is told: the information structures of both versions.

use crate::memory_map::{CONVENTIONAL_END, HIGH_MEMORY, Range, RangeKind};

/// In EAX at the entry of version 1.
pub(super) const MAGIC_1: u32 = 0x2bad_b002;
/// In EAX at the entry of version 2.
pub(super) const MAGIC_2: u32 = 0x36d7_6289;

const LOADER: &str = concat!("bodhi ", env!("CARGO_PKG_VERSION"));
const KIB: u64 = 1 << 10;

/// Version 1: memory sizes, command line, modules, memory map, loader's name.
const FLAGS: u32 = 1 << 0 | 1 << 2 | 1 << 3 | 1 << 6 | 1 << 9;
/// Version 1: the structure, up to the fields that no flag speaks of.
const STRUCTURE: usize = 88;

/// A module in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Module {
    pub start: u32,
    pub end: u32,
    pub words: String,
}

/// All that is told.
pub(super) struct Information<'a> {
    pub command_line: &'a str,
    pub modules: &'a [Module],
    pub map: &'a [Range],
    pub rsdp: &'a [u8],
}

/// KiB from 0, and from 1 MiB up to the first hole.
fn memory_sizes(map: &[Range]) -> (u32, u32) {
    let upper = map.iter().find(|range| range.start == HIGH_MEMORY && range.kind == RangeKind::Ram);
    ((CONVENTIONAL_END / KIB) as u32, upper.map_or(0, |range| (range.size / KIB) as u32))
}

impl Information<'_> {
    /// The structure of version 1 (section 3.3), to lie at `base`, with what it points to behind it.
    pub fn version_1(&self, base: u32) -> Vec<u8> {
        let mut block = vec![0; STRUCTURE];
        let append = |block: &mut Vec<u8>, bytes: &[u8]| {
            block.resize(block.len().next_multiple_of(8), 0);
            let address = base + block.len() as u32;
            block.extend_from_slice(bytes);
            address
        };
        let text = |block: &mut Vec<u8>, text: &str| append(block, &[text.as_bytes(), &[0]].concat());
        let command_line = text(&mut block, self.command_line);
        let loader = text(&mut block, LOADER);
        let mut modules = Vec::new();
        for module in self.modules {
            let words = text(&mut block, &module.words);
            modules.extend([module.start, module.end, words, 0].map(u32::to_le_bytes).concat());
        }
        let modules = append(&mut block, &modules);
        let mut map = Vec::new();
        for range in self.map {
            // The size does not count itself.
            map.extend(20_u32.to_le_bytes());
            map.extend(range.start.to_le_bytes());
            map.extend(range.size.to_le_bytes());
            map.extend((range.kind as u32).to_le_bytes());
        }
        let map_size = map.len() as u32;
        let map = append(&mut block, &map);
        let (lower, upper) = memory_sizes(self.map);
        let fields = [
            (0, FLAGS),
            (4, lower),
            (8, upper),
            (16, command_line),
            (20, self.modules.len() as u32),
            (24, modules),
            (44, map_size),
            (48, map),
            (64, loader),
        ];
        for (at, value) in fields {
            block[at..at + 4].copy_from_slice(&value.to_le_bytes());
        }
        block
    }

    /// The tags of version 2 (section 3.6).
    pub fn version_2(&self) -> Vec<u8> {
        let mut block = vec![0; 8];
        let mut tag = |kind: u32, content: &[u8]| {
            block.extend(kind.to_le_bytes());
            block.extend((8 + content.len() as u32).to_le_bytes());
            block.extend_from_slice(content);
            block.resize(block.len().next_multiple_of(8), 0);
        };
        let text = |text: &str| [text.as_bytes(), &[0]].concat();
        tag(1, &text(self.command_line));
        tag(2, &text(LOADER));
        for module in self.modules {
            let words = text(&module.words);
            tag(3, &[&module.start.to_le_bytes()[..], &module.end.to_le_bytes(), &words].concat());
        }
        let (lower, upper) = memory_sizes(self.map);
        tag(4, &[lower, upper].map(u32::to_le_bytes).concat());
        // Entries of 24 bytes, version 0.
        let mut map = [24_u32, 0].map(u32::to_le_bytes).concat();
        for range in self.map {
            map.extend(range.start.to_le_bytes());
            map.extend(range.size.to_le_bytes());
            map.extend([range.kind as u32, 0].map(u32::to_le_bytes).concat());
        }
        tag(6, &map);
        tag(15, self.rsdp);
        tag(0, &[]);
        let size = block.len() as u32;
        block[..4].copy_from_slice(&size.to_le_bytes());
        block
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boot::bytes::{u32_at, u64_at};
    use crate::memory_map::e820;

    const BASE: u32 = 0x1_0000;

    fn modules() -> Vec<Module> {
        vec![Module { start: 0x20_0000, end: 0x20_1000, words: "one 1".to_owned() }]
    }

    fn text_at(block: &[u8], address: u32) -> &str {
        let from = &block[(address - BASE) as usize..];
        let end = from.iter().position(|byte| *byte == 0).unwrap();
        std::str::from_utf8(&from[..end]).unwrap()
    }

    #[test]
    fn version_1_tells_memory_command_line_and_modules() {
        let map = e820(64 << 20);
        let modules = modules();
        let information = Information { command_line: "k quiet", modules: &modules, map: &map, rsdp: &[] };
        let block = information.version_1(BASE);
        let word = |at| u32_at(&block, at).unwrap();
        assert_eq!([word(4), word(8)], [639, 63 << 10]);
        assert_eq!(text_at(&block, word(16)), "k quiet");
        assert!(text_at(&block, word(64)).starts_with("bodhi"));
        let module = (word(24) - BASE) as usize;
        assert_eq!([word(20), word(module), word(module + 4)], [1, 0x20_0000, 0x20_1000]);
        assert_eq!(text_at(&block, word(module + 8)), "one 1");
        let (map_at, last) = ((word(48) - BASE) as usize, (word(44) - 24) as usize);
        assert_eq!(word(44), 24 * map.len() as u32);
        assert_eq!(u64_at(&block, map_at + last + 4), Some(HIGH_MEMORY));
        assert_eq!(word(map_at + last + 20), 1);
    }

    #[test]
    fn version_2_tells_the_same_in_tags() {
        let map = e820(64 << 20);
        let modules = modules();
        let information =
            Information { command_line: "quiet", modules: &modules, map: &map, rsdp: b"RSD PTR " };
        let block = information.version_2();
        assert_eq!(u32_at(&block, 0), Some(block.len() as u32));
        let mut at = 8;
        let mut kinds = Vec::new();
        while at < block.len() {
            let (kind, size) = (u32_at(&block, at).unwrap(), u32_at(&block, at + 4).unwrap() as usize);
            kinds.push(kind);
            match kind {
                1 => assert_eq!(&block[at + 8..at + size], b"quiet\0"),
                3 => assert_eq!(&block[at + 16..at + size], b"one 1\0"),
                4 => assert_eq!(u32_at(&block, at + 12), Some(63 << 10)),
                6 => assert_eq!((size - 16) / 24, map.len()),
                15 => assert_eq!(&block[at + 8..at + size], b"RSD PTR "),
                _ => {}
            }
            at = (at + size).next_multiple_of(8);
        }
        assert_eq!(kinds, [1, 2, 3, 4, 6, 15, 0]);
    }
}
