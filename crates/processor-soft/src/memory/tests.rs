use std::sync::Arc;

use guest_memory::{Attributes, SHADOW_SEGMENTS, Shadow};

use super::*;
use crate::fault::vector;
use crate::registers::{cr0, cr4, flag};

const DATA: u64 = 0x30_0000;

fn fault_of<T: std::fmt::Debug>(vcpu: &mut Vcpu, result: Result<T, Fault>) -> (u8, Option<u32>, u64) {
    let _ = result.unwrap_err();
    let exception = vcpu.exception.take().unwrap();
    (exception.vector, exception.error_code, exception.address)
}

/// Maps the 4 KiB page at 1 GiB + `index` pages to `frame` with `bits`, by a table at 0x4000.
fn map(vcpu: &mut Vcpu, index: u64, frame: u64, bits: u64) -> u64 {
    vcpu.poke(0x2008, &0x5007_u64.to_le_bytes());
    vcpu.poke(0x5000, &0x4007_u64.to_le_bytes());
    vcpu.poke(0x4000 + index * 8, &(frame | bits).to_le_bytes());
    let linear = (1 << 30) + index * 4096;
    vcpu.mmu.flush_page(linear);
    linear
}

#[test]
fn what_is_written_is_read_back_at_any_alignment() {
    let mut vcpu = Vcpu::for_test_64(4 << 20);
    for offset in [DATA, DATA + 1, DATA + 0xffd, DATA + 0xfff] {
        vcpu.write(Seg::Flat, offset, 0x1122_3344_5566_7788_u64).unwrap();
        assert_eq!(vcpu.read::<u64>(Seg::Flat, offset), Ok(0x1122_3344_5566_7788));
        assert_eq!(vcpu.read::<u32>(Seg::Flat, offset + 2), Ok(0x3344_5566));
        assert_eq!(vcpu.peek(offset), 0x1122_3344_5566_7788_u64.to_le_bytes());
    }
}

#[test]
fn an_access_that_is_not_canonical_is_a_protection_fault() {
    let mut vcpu = Vcpu::for_test_64(4 << 20);
    let read = vcpu.read::<u8>(Seg::Flat, 1 << 47);
    assert_eq!(fault_of(&mut vcpu, read), (vector::GENERAL_PROTECTION, Some(0), 0));
    let read = vcpu.read::<u8>(Seg::FlatStack, 1 << 47);
    assert_eq!(fault_of(&mut vcpu, read), (vector::STACK_FAULT, Some(0), 0));
    // The last byte counts too.
    let read = vcpu.read::<u16>(Seg::Flat, (1 << 47) - 1);
    assert_eq!(fault_of(&mut vcpu, read).0, vector::GENERAL_PROTECTION);
}

#[test]
fn a_page_fault_tells_address_and_reason() {
    let mut vcpu = Vcpu::for_test_64(4 << 20);
    let linear = map(&mut vcpu, 0, DATA, 0);
    let read = vcpu.read::<u8>(Seg::Flat, linear + 5);
    assert_eq!(fault_of(&mut vcpu, read), (vector::PAGE_FAULT, Some(0), linear + 5));
    let linear = map(&mut vcpu, 0, DATA, 1);
    let write = vcpu.write(Seg::Flat, linear, 0_u8);
    assert_eq!(fault_of(&mut vcpu, write), (vector::PAGE_FAULT, Some(3), linear));
    let linear = map(&mut vcpu, 0, DATA, 1 << 51 | 1);
    let read = vcpu.read::<u8>(Seg::Flat, linear);
    assert_eq!(fault_of(&mut vcpu, read), (vector::PAGE_FAULT, Some(9), linear));
    vcpu.cpl = 3;
    vcpu.access_changed();
    let linear = map(&mut vcpu, 0, DATA, 3);
    let write = vcpu.write(Seg::Flat, linear, 0_u8);
    assert_eq!(fault_of(&mut vcpu, write), (vector::PAGE_FAULT, Some(7), linear));
}

#[test]
fn without_write_protection_the_supervisor_writes_to_read_only_pages() {
    let mut vcpu = Vcpu::for_test_64(4 << 20);
    let linear = map(&mut vcpu, 0, DATA, 1);
    vcpu.cr0 &= !cr0::WP;
    vcpu.paging_changed();
    vcpu.write(Seg::Flat, linear, 7_u8).unwrap();
    assert_eq!(vcpu.peek(DATA), [7]);
}

#[test]
fn accessed_and_dirty_flags_are_set_when_due() {
    let mut vcpu = Vcpu::for_test_64(4 << 20);
    let linear = map(&mut vcpu, 3, DATA, 7);
    vcpu.read::<u8>(Seg::Flat, linear).unwrap();
    assert_eq!(vcpu.peek::<1>(0x4018), [0x27]);
    vcpu.write(Seg::Flat, linear, 1_u8).unwrap();
    assert_eq!(vcpu.peek::<1>(0x4018), [0x67]);
    assert_eq!(vcpu.peek::<1>(0x5000), [0x27]);
}

#[test]
fn smap_bars_user_pages_unless_ac_is_set() {
    let mut vcpu = Vcpu::for_test_64(4 << 20);
    vcpu.cr4 |= cr4::SMAP;
    vcpu.paging_changed();
    let linear = map(&mut vcpu, 0, DATA, 7);
    // The large page that maps the rest is a user page too; the tables' own page does not matter.
    let read = vcpu.read::<u8>(Seg::Flat, linear);
    assert_eq!(fault_of(&mut vcpu, read), (vector::PAGE_FAULT, Some(1), linear));
    vcpu.flags |= flag::AC;
    vcpu.access_changed();
    assert_eq!(vcpu.read::<u8>(Seg::Flat, linear), Ok(0));
    let system = vcpu.read_system::<u8>(linear);
    assert_eq!(fault_of(&mut vcpu, system).0, vector::PAGE_FAULT);
}

#[test]
fn smep_and_nx_bar_fetches() {
    let mut vcpu = Vcpu::for_test_64(4 << 20);
    let linear = map(&mut vcpu, 0, DATA, 7);
    assert_eq!(vcpu.code_page(linear + 3).unwrap().gpa, DATA + 3);
    vcpu.cr4 |= cr4::SMEP;
    vcpu.paging_changed();
    let fetch = vcpu.code_page(linear);
    assert_eq!(fault_of(&mut vcpu, fetch), (vector::PAGE_FAULT, Some(0x11), linear));
    let linear = map(&mut vcpu, 1, DATA, 1 << 63 | 3);
    let fetch = vcpu.code_page(linear);
    assert_eq!(fault_of(&mut vcpu, fetch), (vector::PAGE_FAULT, Some(0x11), linear));
}

#[test]
fn a_stale_translation_lives_until_it_is_flushed() {
    let mut vcpu = Vcpu::for_test_64(4 << 20);
    vcpu.poke(DATA, &[1]);
    vcpu.poke(DATA + 0x1000, &[2]);
    let linear = map(&mut vcpu, 0, DATA, 7);
    assert_eq!(vcpu.read::<u8>(Seg::Flat, linear), Ok(1));
    vcpu.poke(0x4000, &((DATA + 0x1000) | 7).to_le_bytes());
    assert_eq!(vcpu.read::<u8>(Seg::Flat, linear), Ok(1));
    let before = vcpu.code_key(linear);
    vcpu.mmu.switch(0, vcpu.cr3, false);
    assert_eq!(vcpu.read::<u8>(Seg::Flat, linear), Ok(2));
    assert_ne!(vcpu.code_key(linear), before);
}

#[test]
fn a_flush_of_one_address_drops_all_of_its_large_page() {
    let mut vcpu = Vcpu::for_test_64(8 << 20);
    vcpu.poke(DATA, &[1]);
    vcpu.poke(DATA + 0x10_0000, &[3]);
    // 2 MiB at 1 GiB from the second 2 MiB, then from the third.
    vcpu.poke(0x2008, &0x5007_u64.to_le_bytes());
    vcpu.poke(0x5000, &(0x20_0000_u64 | 0x87).to_le_bytes());
    let linear = 0x4000_0000 + 0x10_0000;
    assert_eq!(vcpu.read::<u8>(Seg::Flat, linear), Ok(1));
    let key = vcpu.code_key(linear);
    assert_eq!(vcpu.code_page(linear).unwrap().gpa, DATA);
    vcpu.poke(0x5000, &(0x40_0000_u64 | 0x87).to_le_bytes());
    vcpu.poke(0x50_0000, &[2]);
    vcpu.mmu.flush_page(0x4000_0000);
    assert_eq!(vcpu.read::<u8>(Seg::Flat, linear), Ok(2));
    assert_ne!(vcpu.code_key(linear), key);
    // So for a page of 1 GiB: the one at 1 GiB of the test's tables.
    vcpu.poke(0x2008, &0x87_u64.to_le_bytes());
    vcpu.mmu.flush_all();
    assert_eq!(vcpu.read::<u8>(Seg::Flat, 0x4000_0000 + DATA), Ok(1));
    vcpu.poke(0x2008, &0_u64.to_le_bytes());
    vcpu.mmu.flush_page(0x7fff_f000);
    assert!(vcpu.read::<u8>(Seg::Flat, 0x4000_0000 + DATA).is_err());
}

#[test]
fn contexts_keep_their_translations_while_others_run() {
    let mut vcpu = Vcpu::for_test_64(4 << 20);
    vcpu.mmu.switch(1, 0x1000, false);
    let first = vcpu.code_key(0);
    vcpu.mmu.switch(2, 0x1000, false);
    assert_ne!(vcpu.code_key(0), first);
    vcpu.mmu.switch(1, 0x1000, true);
    assert_eq!(vcpu.code_key(0), first);
    vcpu.mmu.flush_context(1);
    assert_ne!(vcpu.code_key(0), first);
}

#[test]
fn spaces_that_go_round_leave_nothing_behind() {
    let mut vcpu = Vcpu::for_test_64(4 << 20);
    vcpu.poke(DATA, &[1]);
    vcpu.poke(DATA + 0x1000, &[2]);
    for round in 0..10_000_u64 {
        let (frame, value) = if round % 2 == 0 { (DATA, 1) } else { (DATA + 0x1000, 2) };
        vcpu.poke(0x4000, &(frame | 7).to_le_bytes());
        vcpu.poke(0x5000, &0x4007_u64.to_le_bytes());
        vcpu.poke(0x2008, &0x5007_u64.to_le_bytes());
        vcpu.mmu.switch(0, 0x1000, false);
        assert_eq!(vcpu.read::<u8>(Seg::Flat, 1 << 30), Ok(value), "round {round}");
    }
}

#[test]
fn page_tables_beyond_ram_read_as_all_ones() {
    let mut vcpu = Vcpu::for_test_64(4 << 20);
    vcpu.cr3 = 0x8000_0000;
    vcpu.mmu.switch(0, vcpu.cr3, false);
    let read = vcpu.read::<u8>(Seg::Flat, 0);
    assert_eq!(fault_of(&mut vcpu, read), (vector::PAGE_FAULT, Some(9), 0));
}

#[test]
fn a_store_to_decoded_code_is_noticed() {
    let mut vcpu = Vcpu::for_test_64(4 << 20);
    vcpu.write(Seg::Flat, DATA, 1_u8).unwrap();
    assert!(!vcpu.mmu.code_written);
    let state = vcpu.shared.code.mark(DATA >> 12);
    vcpu.write(Seg::Flat, DATA, 1_u8).unwrap();
    assert!(vcpu.mmu.code_written);
    assert_ne!(vcpu.shared.code.state(DATA >> 12), state);
}

#[test]
fn locked_operations_work_at_any_alignment() {
    let mut vcpu = Vcpu::for_test_64(4 << 20);
    for offset in [DATA, DATA + 1, DATA + 0xffd] {
        vcpu.write(Seg::Flat, offset, 41_u32).unwrap();
        let old = vcpu.modify_locked(Seg::Flat, offset, |_, old: u32| (old + 1, old)).unwrap();
        assert_eq!((old, vcpu.read::<u32>(Seg::Flat, offset).unwrap()), (41, 42));
    }
    let (old, new) = (0x11_u128 << 64 | 0x22, 0x33_u128 << 64 | 0x44);
    vcpu.write_bytes(Seg::Flat, DATA, &old.to_le_bytes()).unwrap();
    assert_eq!(vcpu.compare_exchange_16(Seg::Flat, DATA, old, new), Ok(old));
    assert_eq!(vcpu.compare_exchange_16(Seg::Flat, DATA, old, old), Ok(new));
    assert_eq!(vcpu.peek(DATA), new.to_le_bytes());
    let odd = vcpu.compare_exchange_16(Seg::Flat, DATA + 8, old, new);
    assert_eq!(fault_of(&mut vcpu, odd).0, vector::GENERAL_PROTECTION);
}

#[test]
fn five_level_paging_widens_linear_addresses() {
    let mut vcpu = Vcpu::for_test_64(4 << 20);
    // One more level above: entry 1 leads to the tables that are there.
    vcpu.poke(0x6008, &0x1007_u64.to_le_bytes());
    vcpu.poke(0x6000, &0x1007_u64.to_le_bytes());
    vcpu.poke(DATA, &[5]);
    vcpu.cr4 |= cr4::LA57;
    vcpu.cr3 = 0x6000;
    vcpu.mmu.switch(0, vcpu.cr3, false);
    vcpu.paging_changed();
    assert_eq!(vcpu.read::<u8>(Seg::Flat, 1 << 48 | DATA), Ok(5));
    let missing = vcpu.read::<u8>(Seg::Flat, 1 << 49 | DATA);
    assert_eq!(fault_of(&mut vcpu, missing), (vector::PAGE_FAULT, Some(0), 1 << 49 | DATA));
    let wide = vcpu.read::<u8>(Seg::Flat, 1 << 56);
    assert_eq!(fault_of(&mut vcpu, wide).0, vector::GENERAL_PROTECTION);
}

#[test]
fn alignment_is_checked_at_level_3_when_ac_and_am_are_set() {
    let mut vcpu = Vcpu::for_test_64(4 << 20);
    vcpu.cpl = 3;
    vcpu.cr0 |= cr0::AM;
    vcpu.flags |= flag::AC;
    vcpu.access_changed();
    assert_eq!(vcpu.read::<u32>(Seg::Flat, DATA + 4), Ok(0));
    let odd = vcpu.read::<u32>(Seg::Flat, DATA + 2);
    assert_eq!(fault_of(&mut vcpu, odd), (vector::ALIGNMENT_CHECK, Some(0), 0));
    vcpu.flags &= !flag::AC;
    vcpu.access_changed();
    assert_eq!(vcpu.read::<u32>(Seg::Flat, DATA + 2), Ok(0));
}

#[test]
fn legacy_paging_knows_large_pages_and_pse_36() {
    let mut vcpu = Vcpu::for_test(4 << 20);
    vcpu.poke(0x1000, &0x0000_0087_u32.to_le_bytes());
    vcpu.poke(0x1004, &0x0000_2007_u32.to_le_bytes());
    vcpu.poke(0x1008, &0x0020_0087_u32.to_le_bytes());
    vcpu.poke(0x2000, &(DATA as u32 | 7).to_le_bytes());
    vcpu.poke(DATA, &[9]);
    vcpu.cr0 |= cr0::PE | cr0::PG;
    vcpu.cr4 |= cr4::PSE;
    vcpu.cr3 = 0x1000;
    vcpu.paging_changed();
    vcpu.segments[3].limit = u32::MAX;
    vcpu.mode_changed();
    assert_eq!(vcpu.read::<u8>(Seg::Ds, DATA), Ok(9));
    assert_eq!(vcpu.read::<u8>(Seg::Ds, 0x40_0000), Ok(9));
    let reserved = vcpu.read::<u8>(Seg::Ds, 0x80_0000);
    assert_eq!(fault_of(&mut vcpu, reserved), (vector::PAGE_FAULT, Some(9), 0x80_0000));
}

#[test]
fn pae_goes_by_the_loaded_pointers() {
    let mut vcpu = Vcpu::for_test(4 << 20);
    vcpu.poke(0x1000, &0x2001_u64.to_le_bytes());
    vcpu.poke(0x2000, &0x87_u64.to_le_bytes());
    vcpu.poke(0x2008, &(0x20_0000_u64 | 0x87).to_le_bytes());
    vcpu.poke(DATA, &[9]);
    vcpu.cr0 |= cr0::PE | cr0::PG;
    vcpu.cr4 |= cr4::PAE;
    vcpu.mmu.pdpte = vcpu.load_pdpte(0x1000).unwrap();
    vcpu.paging_changed();
    vcpu.segments[3].limit = u32::MAX;
    vcpu.mode_changed();
    assert_eq!(vcpu.read::<u8>(Seg::Ds, DATA), Ok(9));
    let missing = vcpu.read::<u8>(Seg::Ds, 0x4000_0000);
    assert_eq!(fault_of(&mut vcpu, missing), (vector::PAGE_FAULT, Some(0), 0x4000_0000));
    vcpu.poke(0x1008, &0x2003_u64.to_le_bytes());
    assert_eq!(vcpu.load_pdpte(0x1000), None);
}

#[test]
fn segment_limits_are_checked_outside_64_bit_mode() {
    let mut vcpu = Vcpu::for_test(4 << 20);
    assert_eq!(vcpu.read::<u8>(Seg::Ds, 0xffff), Ok(0));
    let beyond = vcpu.read::<u16>(Seg::Ds, 0xffff);
    assert_eq!(fault_of(&mut vcpu, beyond), (vector::GENERAL_PROTECTION, Some(0), 0));
    let beyond = vcpu.read::<u16>(Seg::Ss, 0xffff);
    assert_eq!(fault_of(&mut vcpu, beyond).0, vector::STACK_FAULT);
}

#[test]
fn the_apic_page_belongs_to_the_processor() {
    let mut vcpu = Vcpu::for_test_64(4 << 20);
    // The first GiB is mapped one to one by 2 MiB pages; map the APIC's page beside it.
    let linear = map(&mut vcpu, 0, 0xfee0_0000, 7);
    assert_eq!(vcpu.read::<u32>(Seg::Flat, linear + 0x30), Ok(0xaa00_0030));
    assert_eq!(vcpu.read::<u8>(Seg::Flat, linear + 0x33), Ok(0xaa));
}

#[test]
fn page_tables_in_rom_are_used_and_not_changed() {
    // The last level of the tables at 1 GiB, in ROM: present, to be written, neither accessed nor dirty.
    let table = 0xe_0000_u64;
    let mut rom = vec![0; 0x2_0000];
    rom[..8].copy_from_slice(&(DATA | 3).to_le_bytes());
    let shadow = Arc::new(Shadow::of_firmware(&rom).unwrap());
    let mut vcpu = Vcpu::for_test_64_with(4 << 20, &shadow);
    vcpu.poke(0x2008, &0x5007_u64.to_le_bytes());
    vcpu.poke(0x5000, &(table | 7).to_le_bytes());
    let entry = |vcpu: &Vcpu| {
        let mut bytes = [0; 8];
        shadow.read(&vcpu.shared.memory, table, &mut bytes).unwrap();
        u64::from_le_bytes(bytes)
    };
    vcpu.write(Seg::Flat, 1 << 30, 7_u8).unwrap();
    assert_eq!((vcpu.peek(DATA), entry(&vcpu)), ([7], DATA | 3));
    // The same in RAM, which is read-only at first.
    vcpu.poke(table, &(DATA | 3).to_le_bytes());
    for (write, expected) in [(false, DATA | 3), (true, DATA | 3 | 0x60)] {
        shadow.set([Attributes { read: true, write }; SHADOW_SEGMENTS]);
        vcpu.mmu.flush_all();
        vcpu.write(Seg::Flat, 1 << 30, 8_u8).unwrap();
        assert_eq!((vcpu.peek(DATA), entry(&vcpu)), ([8], expected));
    }
}
