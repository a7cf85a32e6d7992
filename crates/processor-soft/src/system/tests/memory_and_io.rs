use std::sync::Arc;

use iced_x86::code_asm::*;

use super::*;
use crate::testing::FakeBus;

#[test]
fn in_and_out_reach_the_bus() {
    let mut vcpu = long(|a| {
        a.mov(edx, 0x3f8).unwrap();
        a.mov(al, b'A' as i32).unwrap();
        a.out(dx, al).unwrap();
        a.xor(eax, eax).unwrap();
        a.in_(ax, 0x60).unwrap();
        a.hlt().unwrap();
    });
    run(&mut vcpu).unwrap();
    assert_eq!(vcpu.regs[gpr::RAX], 0x6060);
}

#[test]
fn rep_ins_fills_memory_and_rep_outs_empties_it() {
    let mut vcpu = long(|a| {
        a.mov(edx, 0x70).unwrap();
        a.mov(edi, DATA as i32).unwrap();
        a.mov(ecx, 3000).unwrap();
        a.rep().insw().unwrap();
        a.mov(esi, DATA as i32).unwrap();
        a.mov(ecx, 2).unwrap();
        a.rep().outsd().unwrap();
        a.hlt().unwrap();
    });
    run(&mut vcpu).unwrap();
    assert_eq!(vcpu.peek(DATA + 5998), [0x70, 0x70, 0]);
    assert_eq!(vcpu.regs[gpr::RDI], DATA + 6000);
    assert_eq!((vcpu.regs[gpr::RSI], vcpu.regs[gpr::RCX]), (DATA + 8, 0));
}

#[test]
fn rep_ins_goes_to_the_bus_once_for_a_page_and_stops_where_it_faults() {
    let mut vcpu = long(|a| {
        a.mov(edx, 0x70).unwrap();
        // Five words before a page that is not there.
        a.mov(edi, 0x4000_0ff6).unwrap();
        a.mov(ecx, 9).unwrap();
        a.rep().insw().unwrap();
        a.hlt().unwrap();
    });
    vcpu.poke(0x2008, &0x5007_u64.to_le_bytes());
    vcpu.poke(0x5000, &0x4007_u64.to_le_bytes());
    vcpu.poke(0x4000, &(DATA | 7).to_le_bytes());
    vcpu.mmu.flush_all();
    let bus = Arc::new(FakeBus::default());
    vcpu.bus = bus.clone();
    run(&mut vcpu).unwrap();
    assert_eq!(handler(&vcpu), Some(14));
    assert_eq!((vcpu.regs[gpr::RDI], vcpu.regs[gpr::RCX]), (0x4000_1000, 4));
    assert_eq!(vcpu.peek(DATA + 0xff4), [0, 0, 0x70, 0x70]);
    assert_eq!(*bus.port_strings.lock().unwrap(), [(0x70, 2, 10)]);
}

#[test]
fn the_bitmap_of_the_task_opens_ports_to_user_code() {
    let mut vcpu = long(|_| ());
    // All ports closed but 0x60.
    vcpu.poke(TSS + 0x80, &[0xff; 0x100]);
    vcpu.poke(TSS + 0x80 + 0x60 / 8, &[0xfe]);
    enter_user(&mut vcpu, |a| {
        a.in_(al, 0x60).unwrap();
        a.in_(ax, 0x60).unwrap();
    });
    run(&mut vcpu).unwrap();
    assert_eq!(handler(&vcpu), Some(13));
    assert_eq!(on_stack::<8>(&vcpu, 1), USER + 2);
    assert_eq!(vcpu.regs[gpr::RAX] & 0xff, 0x60);
}

#[test]
fn invlpg_makes_a_changed_mapping_visible() {
    let mut vcpu = long(|a| {
        a.mov(ebx, 0x4000_0000).unwrap();
        a.mov(eax, dword_ptr(rbx)).unwrap();
        a.add(dword_ptr(0x4000), 0x1000).unwrap();
        a.invlpg(ptr(rbx)).unwrap();
        a.mov(ecx, dword_ptr(rbx)).unwrap();
        a.hlt().unwrap();
    });
    vcpu.poke(0x2008, &0x5007_u64.to_le_bytes());
    vcpu.poke(0x5000, &0x4007_u64.to_le_bytes());
    vcpu.poke(0x4000, &(DATA | 7).to_le_bytes());
    vcpu.poke(DATA, &[1]);
    vcpu.poke(DATA + 0x1000, &[2]);
    vcpu.mmu.flush_all();
    run(&mut vcpu).unwrap();
    assert_eq!((vcpu.regs[gpr::RAX], vcpu.regs[gpr::RCX]), (1, 2));
}

#[test]
fn stac_and_clac_open_and_close_user_pages() {
    let mut vcpu = long(|a| {
        a.stac().unwrap();
        a.mov(eax, dword_ptr(rbx)).unwrap();
        a.clac().unwrap();
        a.mov(ecx, dword_ptr(rbx)).unwrap();
    });
    // Everything below 1 GiB becomes the supervisor's; 1 GiB is a user page.
    for index in 0..512_u64 {
        vcpu.poke(0x3000 + index * 8, &(index << 21 | 0x83).to_le_bytes());
    }
    vcpu.poke(0x2008, &0x5007_u64.to_le_bytes());
    vcpu.poke(0x5000, &0x4007_u64.to_le_bytes());
    vcpu.poke(0x4000, &(DATA | 7).to_le_bytes());
    vcpu.poke(DATA, &[9]);
    vcpu.regs[gpr::RBX] = 0x4000_0000;
    vcpu.cr4 |= crate::registers::cr4::SMAP;
    vcpu.paging_changed();
    run(&mut vcpu).unwrap();
    assert_eq!(handler(&vcpu), Some(14));
    assert_eq!((vcpu.regs[gpr::RAX], vcpu.cr2), (9, 0x4000_0000));
    assert_eq!(on_stack::<8>(&vcpu, 0), 1);
}

#[test]
fn code_that_is_patched_by_a_store_is_carried_out_as_patched() {
    let mut vcpu = long(|a| {
        let mut target = a.create_label();
        a.mov(ecx, 2).unwrap();
        let mut top = a.create_label();
        a.set_label(&mut top).unwrap();
        a.mov(byte_ptr(target), 0x90_i32).unwrap();
        a.set_label(&mut target).unwrap();
        a.hlt().unwrap();
        a.dec(ecx).unwrap();
        a.jnz(top).unwrap();
        a.mov(eax, 5).unwrap();
        a.hlt().unwrap();
    });
    run(&mut vcpu).unwrap();
    assert_eq!(vcpu.regs[gpr::RAX], 5);
}
