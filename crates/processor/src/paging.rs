//! A walk through the guest's page tables that changes nothing (SDM volume 3, chapter 4), for who looks into a guest
//! without being its processor.

use crate::{StartRegisters, cr0, cr4, efer};
const PRESENT: u64 = 1;
const LARGE: u64 = 1 << 7;
/// Bits of an entry of eight bytes that are an address.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// The guest physical address of linear address `gva` in the address space of `registers`, whatever the rights of its
/// page; `None` if it is not mapped. `read` gives the eight bytes at a guest physical address, or `None` where is no
/// RAM.
pub fn translate(registers: &StartRegisters, read: impl Fn(u64) -> Option<u64>, gva: u64) -> Option<u64> {
    if registers.cr0 & cr0::PG == 0 {
        return Some(gva & 0xffff_ffff);
    }
    let long = registers.efer & efer::LMA != 0;
    if !long && registers.cr4 & cr4::PAE == 0 {
        return translate_32(registers, read, gva & 0xffff_ffff);
    }
    let (mut table, mut level) = match (long, registers.cr4 & cr4::LA57 != 0) {
        (true, true) => (registers.cr3 & ADDRESS, 4),
        (true, false) => (registers.cr3 & ADDRESS, 3),
        // Four pointers, at 32 bytes.
        (false, _) => {
            let pointer = read((registers.cr3 & 0xffff_ffe0) + (gva >> 30 & 3) * 8)?;
            if pointer & PRESENT == 0 {
                return None;
            }
            (pointer & ADDRESS, 1)
        }
    };
    if long && !is_canonical(registers.cr4, gva) {
        return None;
    }
    loop {
        let shift = 12 + 9 * level;
        let entry = read(table + (gva >> shift & 0x1ff) * 8)?;
        if entry & PRESENT == 0 {
            return None;
        }
        if level == 0 || level <= 2 && entry & LARGE != 0 {
            let within = (1 << shift) - 1;
            return Some(entry & ADDRESS & !within | gva & within);
        }
        table = entry & ADDRESS;
        level -= 1;
    }
}

fn translate_32(registers: &StartRegisters, read: impl Fn(u64) -> Option<u64>, gva: u64) -> Option<u64> {
    let read = |gpa: u64| read(gpa & !7).map(|word| word >> (gpa % 8 * 8) & 0xffff_ffff);
    let directory = read((registers.cr3 & 0xffff_f000) + (gva >> 22) * 4)?;
    if directory & PRESENT == 0 {
        return None;
    }
    if directory & LARGE != 0 && registers.cr4 & cr4::PSE != 0 {
        // PSE-36: bits 13 to 20 are bits 32 to 39 of the address.
        return Some((directory >> 13 & 0xff) << 32 | directory & 0xffc0_0000 | gva & 0x003f_ffff);
    }
    let entry = read((directory & 0xffff_f000) + (gva >> 12 & 0x3ff) * 4)?;
    (entry & PRESENT != 0).then_some(entry & 0xffff_f000 | gva & 0xfff)
}

/// Whether the upper bits of `address` repeat its highest one that counts with `cr4`.
#[inline]
pub fn is_canonical(cr4: u64, address: u64) -> bool {
    let unused = if cr4 & cr4::LA57 != 0 { 64 - 57 } else { 64 - 48 };
    ((address << unused) as i64 >> unused) as u64 == address
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn walk(cr0: u64, cr4: u64, efer: u64, words: &[(u64, u64)], gva: u64) -> Option<u64> {
        let words: BTreeMap<_, _> = words.iter().copied().collect();
        let registers = StartRegisters { cr0, cr3: 0x1000, cr4, efer, ..StartRegisters::default() };
        translate(&registers, |gpa| words.get(&gpa).copied(), gva)
    }

    fn long(words: &[(u64, u64)], gva: u64) -> Option<u64> {
        walk(cr0::PG, cr4::PAE, efer::LMA, words, gva)
    }

    #[test]
    fn without_paging_addresses_are_physical() {
        assert_eq!(walk(0, 0, 0, &[], 0x1_2345_6789), Some(0x2345_6789));
    }

    #[test]
    fn four_levels_lead_to_pages_of_all_sizes() {
        let words = [
            (0x1ff8, 0x2000 | 3),
            (0x2ff0, 0x3000 | 3),
            (0x2ff8, 0x4000_0000 | 0x83),
            (0x3000, 0x4000 | 3),
            (0x3008, 0x8020_0000 | 0x83),
            (0x4008, 0x8000_0000_0012_3000 | 3),
            (0x4010, 0),
        ];
        assert_eq!(long(&words, 0xffff_ffff_8000_1abc), Some(0x12_3abc), "4 KiB, not for execution");
        assert_eq!(long(&words, 0xffff_ffff_8020_1abc), Some(0x8020_1abc), "2 MiB");
        assert_eq!(long(&words, 0xffff_ffff_c123_4567), Some(0x4123_4567), "1 GiB");
        assert_eq!(long(&words, 0xffff_ffff_8000_2000), None, "not present");
        assert_eq!(long(&words, 0), None, "no RAM for the table");
        assert_eq!(long(&words, 0x7fff_ffff_8000_1abc), None, "not canonical");
    }

    #[test]
    fn five_levels_have_one_more() {
        let words =
            [(0x1ff8, 0x5001), (0x5ff8, 0x2001), (0x2ff0, 0x3001), (0x3000, 0x4001), (0x4008, 0x12_3001)];
        let cr4 = cr4::PAE | cr4::LA57;
        assert_eq!(walk(cr0::PG, cr4, efer::LMA, &words, 0xffff_ffff_8000_1abc), Some(0x12_3abc));
    }

    #[test]
    fn three_levels_begin_with_four_pointers() {
        let words = [(0x1018, 0x3001), (0x3000, 0x4001), (0x4008, 0x12_3001), (0x3008, 0x4020_0083)];
        assert_eq!(walk(cr0::PG, cr4::PAE, 0, &words, 0xc000_1abc), Some(0x12_3abc));
        assert_eq!(walk(cr0::PG, cr4::PAE, 0, &words, 0xc020_1abc), Some(0x4020_1abc));
        assert_eq!(walk(cr0::PG, cr4::PAE, 0, &words, 0x8000_0000), None);
    }

    #[test]
    fn two_levels_have_entries_of_four_bytes() {
        // Two entries a word: 0x300 and 0x301 of the directory, 0 and 1 of the table.
        let words = [(0x1c00, (0x40_0000 | 0x83 | 1 << 13) << 32 | 0x2001), (0x2000, 0x12_3001 << 32)];
        assert_eq!(walk(cr0::PG, cr4::PSE, 0, &words, 0xc000_1abc), Some(0x12_3abc));
        assert_eq!(walk(cr0::PG, cr4::PSE, 0, &words, 0xc000_0abc), None);
        assert_eq!(walk(cr0::PG, cr4::PSE, 0, &words, 0xc041_2345), Some(0x1_0041_2345), "4 MiB, PSE-36");
    }
}
