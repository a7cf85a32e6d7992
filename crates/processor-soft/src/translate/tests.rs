//! Small guests, translated.

use std::sync::Arc;

use guest_memory::{Attributes, SHADOW_SEGMENTS, Shadow};
use iced_x86::code_asm::*;
use processor::{Partition, SegmentAttributes};
use vm_memory::{Bytes, GuestAddress};

use crate::partition::attention;
use crate::registers::{Seg, cr0};
use crate::testing::{CODE, assemble, guest, partition_with_rom, partition_with_shadow};
use crate::vcpu::Vcpu;

/// Runs until something ends the blocks.
fn run(vcpu: &mut Vcpu) {
    if vcpu.execute_translated().is_err() {
        vcpu.exception = None;
    }
}

#[test]
fn a_loop_is_linked_with_itself() {
    let mut vcpu = guest(|a| {
        let mut top = a.create_label();
        a.xor(eax, eax).unwrap();
        a.mov(r13d, 1000).unwrap();
        a.set_label(&mut top).unwrap();
        a.add(rax, r13).unwrap();
        a.dec(r13).unwrap();
        a.jne(top).unwrap();
        a.hlt().unwrap();
    });
    run(&mut vcpu);
    assert!(vcpu.halted);
    assert_eq!(vcpu.regs[0], 500_500);
    assert_eq!(vcpu.translator.as_ref().unwrap().len(), 2);
}

#[test]
fn calls_and_returns_reach_other_pages() {
    let mut vcpu = guest(|a| {
        let mut far = a.create_label();
        a.mov(r14d, 3).unwrap();
        a.call(far).unwrap();
        a.add(rax, r14).unwrap();
        a.hlt().unwrap();
        a.nops_with_size(5000).unwrap();
        a.set_label(&mut far).unwrap();
        a.lea(rax, qword_ptr(r14 + r14 * 4)).unwrap();
        a.ret().unwrap();
    });
    run(&mut vcpu);
    assert!(vcpu.halted);
    assert_eq!(vcpu.regs[0], 18);
    assert_eq!(vcpu.regs[4], 0x2_0000);
}

#[test]
fn a_store_into_the_running_block_is_seen_by_the_next_instruction() {
    let mut vcpu = guest(|a| {
        let mut patched = a.create_label();
        a.lea(rdi, ptr(patched)).unwrap();
        // inc eax becomes dec eax.
        a.mov(byte_ptr(rdi + 1), 0xc8).unwrap();
        a.set_label(&mut patched).unwrap();
        a.inc(eax).unwrap();
        a.hlt().unwrap();
    });
    run(&mut vcpu);
    if !vcpu.halted {
        run(&mut vcpu);
    }
    assert!(vcpu.halted);
    assert_eq!(vcpu.regs[0], u64::from(u32::MAX));
}

#[test]
fn flags_survive_accesses_between_a_comparison_and_its_branch() {
    let mut vcpu = guest(|a| {
        let mut equal = a.create_label();
        a.mov(ecx, 5).unwrap();
        a.cmp(ecx, 5).unwrap();
        a.mov(qword_ptr(0x3_0000), rcx).unwrap();
        a.mov(r15, qword_ptr(0x3_0000)).unwrap();
        a.push(r15).unwrap();
        a.pop(rdx).unwrap();
        a.je(equal).unwrap();
        a.mov(eax, 1).unwrap();
        a.set_label(&mut equal).unwrap();
        a.hlt().unwrap();
    });
    run(&mut vcpu);
    assert_eq!((vcpu.regs[0], vcpu.regs[2]), (0, 5));
}

#[test]
fn a_fault_leaves_rip_at_its_instruction() {
    let mut vcpu = guest(|a| {
        a.mov(rbx, 0x1234_5678_9abc_u64).unwrap();
        a.mov(ecx, 7).unwrap();
        a.mov(rax, qword_ptr(rbx)).unwrap();
        a.hlt().unwrap();
    });
    assert!(vcpu.execute_translated().is_err());
    assert_eq!(vcpu.exception.unwrap().vector, crate::fault::vector::PAGE_FAULT);
    assert_eq!(vcpu.exception.unwrap().address, 0x1234_5678_9abc);
    assert_eq!(vcpu.rip, CODE + 15);
    assert_eq!(vcpu.regs[1], 7);
}

#[test]
fn a_return_to_an_address_that_is_not_canonical_faults_itself() {
    let mut vcpu = guest(|a| {
        a.mov(rax, 1_u64 << 63).unwrap();
        a.push(rax).unwrap();
        a.ret().unwrap();
    });
    assert!(vcpu.execute_translated().is_err());
    assert_eq!(vcpu.exception.unwrap().vector, crate::fault::vector::GENERAL_PROTECTION);
    assert_eq!(vcpu.rip, CODE + 11);
    assert_eq!(vcpu.regs[4], 0x2_0000 - 8);
}

#[test]
fn a_write_by_a_device_ends_translated_code() {
    let mut vcpu = guest(|a| {
        a.inc(eax).unwrap();
        a.hlt().unwrap();
    });
    run(&mut vcpu);
    vcpu.halted = false;
    vcpu.rip = CODE;
    vcpu.poke(CODE + 1, &[0xc8]);
    run(&mut vcpu);
    assert_eq!(vcpu.regs[0], 0);
}

#[test]
fn an_instruction_in_two_pages_is_translated_for_the_pages_that_are_mapped() {
    let mut vcpu = guest(|a| {
        let mut top = a.create_label();
        a.mov(ecx, 100).unwrap();
        a.nops_with_size(4096 - 5 - 2).unwrap();
        a.set_label(&mut top).unwrap();
        a.add(rax, 5).unwrap();
        a.dec(ecx).unwrap();
        a.jne(top).unwrap();
        a.hlt().unwrap();
    });
    run(&mut vcpu);
    assert!(vcpu.halted);
    assert_eq!(vcpu.regs[0], 500);
    // Its second half becomes another immediate operand.
    (vcpu.halted, vcpu.rip, vcpu.regs[0]) = (false, CODE, 0);
    vcpu.poke(CODE + 4096, &[7]);
    run(&mut vcpu);
    assert_eq!(vcpu.regs[0], 700);
}

/// Makes the code segment one of 32-bit code.
fn make_32(vcpu: &mut Vcpu) {
    vcpu.segments[Seg::Cs as usize].attributes = SegmentAttributes(0xc09b);
    vcpu.mode_changed();
}

/// A guest in compatibility mode with `write`'s code at its EIP.
fn guest_32(write: impl FnOnce(&mut CodeAssembler)) -> Box<Vcpu> {
    let mut vcpu = Box::new(Vcpu::for_test_64(8 << 20));
    make_32(&mut vcpu);
    vcpu.poke(CODE, &assemble(32, CODE, write));
    vcpu
}

#[test]
fn code_of_32_bits_calls_and_returns_over_pages() {
    let mut vcpu = guest_32(|a| {
        let (mut top, mut far) = (a.create_label(), a.create_label());
        a.mov(ecx, 100).unwrap();
        a.xor(eax, eax).unwrap();
        a.set_label(&mut top).unwrap();
        a.push(ecx).unwrap();
        a.call(far).unwrap();
        a.dec(ecx).unwrap();
        a.jne(top).unwrap();
        a.hlt().unwrap();
        a.nops_with_size(5000).unwrap();
        a.set_label(&mut far).unwrap();
        a.push(ebp).unwrap();
        a.mov(ebp, esp).unwrap();
        a.add(eax, dword_ptr(ebp + 8)).unwrap();
        a.leave().unwrap();
        a.ret_1(4).unwrap();
    });
    // What 64-bit code has left in the upper halves does not matter.
    vcpu.regs[4] |= 0x5555_0000_0000_0000;
    vcpu.regs[5] = u64::MAX;
    run(&mut vcpu);
    assert!(vcpu.halted);
    assert_eq!(vcpu.regs[0], 5050);
    assert_eq!(vcpu.regs[4] as u32, 0x2_0000);
    // The function and the loop have been translated.
    assert!(vcpu.translator.as_ref().unwrap().len() >= 4);
}

#[test]
fn code_of_32_bits_is_translated_without_paging_too() {
    let mut vcpu = guest_32(|a| {
        let mut top = a.create_label();
        // Beyond what the tables of 64-bit code map.
        a.mov(ecx, 100).unwrap();
        a.mov(esi, 0x7f_fff0).unwrap();
        a.set_label(&mut top).unwrap();
        a.add(dword_ptr(esi), ecx).unwrap();
        a.loop_(top).unwrap();
        a.hlt().unwrap();
    });
    (vcpu.cr0, vcpu.efer, vcpu.cr4) = (cr0::PE | cr0::ET, 0, 0);
    vcpu.mode_changed();
    vcpu.paging_changed();
    run(&mut vcpu);
    assert!(vcpu.halted);
    assert_eq!(u32::from_le_bytes(vcpu.peek(0x7f_fff0)), 5050);
    assert!(vcpu.translator.as_ref().unwrap().len() >= 2);
}

#[test]
fn code_in_rom_is_translated_and_writes_to_it_go_to_the_bus() {
    const ROM: u64 = 0xffff_e000;
    let code = assemble(32, ROM, |a| {
        let mut top = a.create_label();
        a.mov(ecx, 100).unwrap();
        a.set_label(&mut top).unwrap();
        a.add(eax, dword_ptr(ROM as u32 + 0x1ffc)).unwrap();
        a.mov(dword_ptr(ROM as u32 + 0x1ffc), ecx).unwrap();
        a.loop_(top).unwrap();
        a.hlt().unwrap();
    });
    let mut bytes = vec![0; 0x2000];
    bytes[..code.len()].copy_from_slice(&code);
    bytes[0x1ffc] = 3;
    let (partition, bus, apics) = partition_with_rom(1, 8 << 20, ROM, &bytes);
    let mut vcpu = Box::new(Vcpu::new(0, partition.shared().clone(), bus.clone(), apics[0].clone()));
    for segment in &mut vcpu.segments[..6] {
        (segment.base, segment.limit, segment.attributes) = (0, u32::MAX, SegmentAttributes(0xc093));
    }
    make_32(&mut vcpu);
    vcpu.cr0 = cr0::PE | cr0::ET;
    vcpu.rip = ROM;
    vcpu.mode_changed();
    vcpu.paging_changed();
    run(&mut vcpu);
    assert!(vcpu.halted);
    assert_eq!(vcpu.regs[0], 300);
    assert!(vcpu.translator.as_ref().unwrap().len() >= 2);
    let writes = bus.memory_writes.lock().unwrap();
    assert_eq!((writes.len(), &writes[99]), (100, &(ROM + 0x1ffc, vec![1, 0, 0, 0])));
}

#[test]
fn code_of_rom_gives_way_to_that_of_ram_and_comes_back() {
    const ROUTINE: u64 = 0xf_0000;
    // The routine is called twice, so that it is found the second time. It adds a number and writes to itself.
    let code = assemble(32, CODE, |a| {
        a.mov(esp, 0x2_0000).unwrap();
        a.mov(eax, 0).unwrap();
        a.mov(ecx, ROUTINE as u32).unwrap();
        a.call(ecx).unwrap();
        a.call(ecx).unwrap();
        a.hlt().unwrap();
    });
    let routine = |number: i32| {
        assemble(32, ROUTINE, |a| {
            a.add(eax, number).unwrap();
            a.mov(byte_ptr(ROUTINE as u32 + 0x100), 7).unwrap();
            a.ret().unwrap();
        })
    };
    let mut rom = vec![0; 0x1_0000];
    rom[..routine(1).len()].copy_from_slice(&routine(1));
    let shadow = Arc::new(Shadow::of_firmware(&rom).unwrap());
    let (partition, bus, apics) = partition_with_shadow(1, 8 << 20, &shadow);
    let mut vcpu = Box::new(Vcpu::new(0, partition.shared().clone(), bus.clone(), apics[0].clone()));
    for segment in &mut vcpu.segments[..6] {
        (segment.base, segment.limit, segment.attributes) = (0, u32::MAX, SegmentAttributes(0xc093));
    }
    make_32(&mut vcpu);
    vcpu.cr0 = cr0::PE | cr0::ET;
    vcpu.mode_changed();
    vcpu.paging_changed();
    vcpu.poke(CODE, &code);
    vcpu.poke(ROUTINE, &routine(100));
    let mut sum = |read, write| {
        shadow.set([Attributes { read, write }; SHADOW_SEGMENTS]);
        partition.shadow_changed().unwrap();
        vcpu.vp.take_attention();
        vcpu.attend(attention::SHADOW).unwrap();
        (vcpu.rip, vcpu.halted) = (CODE, false);
        run(&mut vcpu);
        assert!(vcpu.halted);
        (vcpu.regs[0], vcpu.peek::<1>(ROUTINE + 0x100)[0], bus.memory_writes.lock().unwrap().len())
    };
    assert_eq!(sum(false, false), (2, 0, 2));
    assert_eq!(sum(true, false), (200, 0, 4));
    assert_eq!(sum(false, true), (2, 0, 6));
    assert_eq!(sum(true, true), (200, 7, 6));
    assert_eq!(sum(true, false), (200, 7, 8));
    assert_eq!(sum(false, false), (2, 7, 10));
}

#[test]
fn an_indirect_jump_of_32_bits_takes_32_bits_of_its_target() {
    let (there, end) = (CODE + 0x100, CODE + 0x200);
    let mut vcpu = guest_32(|a| {
        a.mov(dword_ptr(0x3_0000), there as u32).unwrap();
        a.mov(dword_ptr(0x3_0004), -1).unwrap();
        a.call(dword_ptr(0x3_0000)).unwrap();
        a.mov(eax, end as u32).unwrap();
        a.jmp(eax).unwrap();
    });
    // mov ebx, 7; ret
    vcpu.poke(there, &[0xbb, 7, 0, 0, 0, 0xc3]);
    // hlt
    vcpu.poke(end, &[0xf4]);
    run(&mut vcpu);
    assert!(vcpu.halted);
    assert_eq!((vcpu.regs[3], vcpu.regs[4] as u32), (7, 0x2_0000));
}

#[test]
fn addresses_of_32_bit_code_wrap_at_4_gib() {
    let mut vcpu = guest_32(|a| {
        a.mov(ebx, 0x3_0010).unwrap();
        a.mov(eax, dword_ptr(0xffff_fff0_u32).gs()).unwrap();
        a.mov(esi, 0xffff_ffff_u32).unwrap();
        a.mov(ecx, dword_ptr(ebx + esi * 8 - 8)).unwrap();
        a.hlt().unwrap();
    });
    vcpu.segments[Seg::Gs as usize].base = 0x3_0010;
    vcpu.mode_changed();
    vcpu.poke(0x3_0000, &0x1234_5678_u32.to_le_bytes());
    run(&mut vcpu);
    assert!(vcpu.halted);
    assert_eq!((vcpu.regs[0], vcpu.regs[1]), (0x1234_5678, 0x1234_5678));
    assert_eq!(vcpu.translator.as_ref().unwrap().len(), 1);
}

#[test]
fn the_same_bytes_are_other_code_in_another_mode() {
    // 64-bit: inc rax; hlt. 32-bit: dec eax; inc eax; hlt.
    let mut vcpu = Box::new(Vcpu::for_test_64(8 << 20));
    vcpu.poke(CODE, &[0x48, 0xff, 0xc0, 0xf4]);
    let long = vcpu.segments[Seg::Cs as usize].attributes;
    for (attributes, after) in [(long, 1), (SegmentAttributes(0xc09b), 1), (long, 2)] {
        vcpu.segments[Seg::Cs as usize].attributes = attributes;
        vcpu.mode_changed();
        (vcpu.halted, vcpu.rip) = (false, CODE);
        run(&mut vcpu);
        assert!(vcpu.halted);
        assert_eq!(vcpu.regs[0], after);
    }
    assert_eq!(vcpu.translator.as_ref().unwrap().len(), 2);
}

#[test]
fn code_in_a_segment_with_a_base_is_interpreted() {
    let mut vcpu = guest_32(|a| {
        a.inc(eax).unwrap();
        a.hlt().unwrap();
    });
    vcpu.segments[Seg::Ds as usize].base = 0x1000;
    vcpu.mode_changed();
    run(&mut vcpu);
    assert_eq!(vcpu.regs[0], 1);
    assert_eq!(vcpu.translator.as_ref().unwrap().len(), 0);
}

#[test]
fn protected_mode_with_paging_is_translated_without_long_mode() {
    let mut vcpu = guest_32(|a| {
        let mut top = a.create_label();
        a.mov(ecx, 100).unwrap();
        a.xor(eax, eax).unwrap();
        a.set_label(&mut top).unwrap();
        a.push(ecx).unwrap();
        a.add(eax, dword_ptr(esp)).unwrap();
        a.pop(edx).unwrap();
        a.dec(ecx).unwrap();
        a.jne(top).unwrap();
        a.hlt().unwrap();
    });
    // The page directory behind a pointer of PAE paging.
    (vcpu.efer, vcpu.mmu.pdpte) = (0, [0x3001, 0, 0, 0]);
    vcpu.paging_changed();
    vcpu.mode_changed();
    run(&mut vcpu);
    assert!(vcpu.halted);
    assert_eq!((vcpu.regs[0], vcpu.regs[4] as u32), (5050, 0x2_0000));
    assert_eq!(vcpu.translator.as_ref().unwrap().len(), 2);
}

#[test]
fn code_that_rewrites_itself_for_ever_stays_right_and_takes_bounded_memory() {
    let mut vcpu = guest(|a| {
        let (mut top, mut patched) = (a.create_label(), a.create_label());
        a.mov(ecx, 20_000).unwrap();
        a.xor(edx, edx).unwrap();
        a.set_label(&mut top).unwrap();
        a.lea(rdi, ptr(patched)).unwrap();
        // The operand of the instruction below.
        a.mov(dword_ptr(rdi + 1), ecx).unwrap();
        a.set_label(&mut patched).unwrap();
        a.mov(eax, 0x1234_5678).unwrap();
        a.add(rdx, rax).unwrap();
        a.dec(ecx).unwrap();
        a.jne(top).unwrap();
        a.hlt().unwrap();
    });
    for _ in 0..1_000_000 {
        run(&mut vcpu);
        if vcpu.halted {
            break;
        }
    }
    assert!(vcpu.halted);
    assert_eq!(vcpu.regs[2], 20_000 * 20_001 / 2);
    assert!(vcpu.translator.as_ref().unwrap().len() < 16);
}

#[test]
fn more_tiny_blocks_than_are_kept_do_not_exhaust_the_cache() {
    let mut vcpu = guest(|a| {
        a.hlt().unwrap();
    });
    // jmp +0, as far as memory goes: more blocks than are kept.
    let jump = [0xeb, 0x00];
    let (first, last) = (0x10_0000_u64, 0x18_0000_u64);
    vcpu.poke(first, &jump.repeat((last - first) as usize / 2));
    vcpu.poke(last, &[0xf4]);
    vcpu.rip = first;
    for _ in 0..10_000_000 {
        run(&mut vcpu);
        if vcpu.halted {
            break;
        }
    }
    assert!(vcpu.halted);
    assert_eq!(vcpu.rip, last + 1);
}

#[test]
fn code_at_the_end_of_memory_faults_or_is_interpreted_where_the_memory_ends() {
    let mut vcpu = guest(|a| {
        a.hlt().unwrap();
    });
    let end = 8 << 20;
    vcpu.poke(end - 3, &[0x90, 0x90, 0x90]);
    vcpu.rip = end - 3;
    // Beyond is what a bus without a device answers: all ones, which is no instruction.
    while vcpu.execute_translated().is_ok() {}
    assert_eq!(vcpu.exception.unwrap().vector, crate::fault::vector::INVALID_OPCODE);
    assert_eq!(vcpu.rip, end);
}

/// A processor whose extension registers are all enabled.
fn guest_with_extensions(write: impl FnOnce(&mut CodeAssembler)) -> Box<Vcpu> {
    let mut vcpu = guest(write);
    vcpu.xcr0 = crate::extension::Host::get().xcr0;
    vcpu
}

#[test]
fn x87_and_mmx_code_runs_natively_and_its_pointers_are_not_the_hosts() {
    let mut vcpu = guest_with_extensions(|a| {
        a.fldpi().unwrap();
        a.fld1().unwrap();
        a.faddp(st1, st0).unwrap();
        a.fnstcw(word_ptr(0x3_0000)).unwrap();
        a.or(word_ptr(0x3_0000), 0xc00).unwrap();
        a.fldcw(word_ptr(0x3_0000)).unwrap();
        a.fist(dword_ptr(0x3_0008)).unwrap();
        a.fstp(qword_ptr(0x3_0010)).unwrap();
        a.fnstsw(ax).unwrap();
        a.movd(mm0, eax).unwrap();
        a.movq(qword_ptr(0x3_0018), mm0).unwrap();
        a.emms().unwrap();
        a.hlt().unwrap();
    });
    vcpu.poke(0x3_0000, &[0; 32]);
    run(&mut vcpu);
    assert!(vcpu.halted);
    assert_eq!(i32::from_le_bytes(vcpu.peek(0x3_0008)), 4, "rounded towards zero");
    assert_eq!(f64::from_le_bytes(vcpu.peek(0x3_0010)), std::f64::consts::PI + 1.0);
    assert_eq!(u64::from_le_bytes(vcpu.peek(0x3_0018)), vcpu.regs[0]);
    // HLT is all that has been left to the interpreter.
    assert_eq!(vcpu.translator.as_ref().unwrap().counts.interpreted, 1);
    let image = &vcpu.extension.image;
    assert_eq!((image.fcw(), image.x87_pointers(), &image.x87[6..8]), (0xf7f, [0, 0], &[0, 0][..]));
    assert_eq!(image.x87[4], 0, "EMMS has emptied the stack");
}

/// 1/0 after an FLDCW from `word` that unmasks the division by zero; a processor that has run it.
fn division_by_zero(word: u64) -> Box<Vcpu> {
    let mut vcpu = guest_with_extensions(|a| {
        a.mov(edi, word as u32).unwrap();
        a.fldz().unwrap();
        a.fld1().unwrap();
        a.fldcw(word_ptr(rdi)).unwrap();
        a.fdivrp(st1, st0).unwrap();
        a.mov(ecx, 1).unwrap();
        a.fld1().unwrap();
        a.mov(ecx, 2).unwrap();
        a.hlt().unwrap();
    });
    vcpu.poke(word, &0x37b_u16.to_le_bytes());
    while vcpu.execute_translated().is_ok() {}
    vcpu
}

#[test]
fn an_exception_that_fldcw_has_unmasked_is_the_guests_own() {
    // The second word lies in two pages.
    for word in [0x3_0000, 0x3_0fff] {
        let vcpu = division_by_zero(word);
        assert_eq!(vcpu.exception.unwrap().vector, crate::fault::vector::FLOATING_POINT);
        assert_eq!(vcpu.regs[1], 1, "raised by the next x87 instruction");
        assert_eq!(vcpu.extension.image.fsw() & 4, 4);
    }
}

#[test]
fn x87_registers_survive_what_the_interpreter_does_between() {
    let mut vcpu = guest_with_extensions(|a| {
        a.fldpi().unwrap();
        a.mov(eax, 1).unwrap();
        a.cpuid().unwrap();
        a.fld1().unwrap();
        a.mov(rax, 0x1122_3344_5566_7788_u64).unwrap();
        a.mov(rdx, 0x8877_6655_4433_2211_u64).unwrap();
        a.fnstenv(ptr(0x3_0000)).unwrap();
        a.fmulp(st1, st0).unwrap();
        a.fstp(qword_ptr(0x3_0040)).unwrap();
        a.hlt().unwrap();
    });
    run(&mut vcpu);
    assert!(vcpu.halted);
    assert_eq!((vcpu.regs[0], vcpu.regs[2]), (0x1122_3344_5566_7788, 0x8877_6655_4433_2211));
    assert_eq!(f64::from_le_bytes(vcpu.peek(0x3_0040)), std::f64::consts::PI);
}

#[test]
fn single_elements_of_strings_are_moved_both_ways_with_flags_alive() {
    let mut vcpu = guest(|a| {
        let (mut top, mut carry) = (a.create_label(), a.create_label());
        a.mov(rsi, 0x3_0ff0_u64).unwrap();
        a.mov(rdi, 0x3_2ff8_u64).unwrap();
        a.mov(ecx, 40).unwrap();
        a.set_label(&mut top).unwrap();
        a.movsb().unwrap();
        a.dec(ecx).unwrap();
        // The flags of DEC are alive over it, and it crosses into the next page.
        a.movsw().unwrap();
        a.jne(top).unwrap();
        a.stc().unwrap();
        a.lodsb().unwrap();
        a.stosd().unwrap();
        a.std().unwrap();
        a.movsq().unwrap();
        a.lodsw().unwrap();
        a.jc(carry).unwrap();
        a.ud2().unwrap();
        a.set_label(&mut carry).unwrap();
        a.hlt().unwrap();
    });
    let source: Vec<u8> = (0..=255).collect();
    vcpu.poke(0x3_0ff0, &source);
    vcpu.regs[0] = 0x1122_3344_5566_7788;
    run(&mut vcpu);
    assert!(vcpu.halted);
    assert_eq!(vcpu.regs[6], 0x3_0ff0 + 120 + 1 - 8 - 2);
    assert_eq!(vcpu.regs[7], 0x3_2ff8 + 120 + 4 - 8);
    let mut copy = [0; 128];
    vcpu.shared.memory.read_slice(&mut copy, GuestAddress(0x3_2ff8)).unwrap();
    assert_eq!(copy[..120], source[..120]);
    // LODSB has changed AL only, which STOSD has stored with what is above; then eight bytes from 121 on.
    assert_eq!(copy[120..124], [120, 0x77, 0x66, 0x55]);
    assert_eq!(copy[124..], [121, 122, 123, 124]);
    // LODSW, with the direction that goes down, at 113.
    assert_eq!(vcpu.regs[0], 0x1122_3344_5566_0000 | 114 << 8 | 113);
    // Most have been carried out without the interpreter.
    assert!(vcpu.instructions < 20, "{} instructions interpreted", vcpu.instructions);
}

#[test]
fn an_element_whose_target_faults_has_moved_nothing() {
    let mut vcpu = guest(|a| {
        a.mov(rsi, 0x3_0000_u64).unwrap();
        a.mov(rdi, 0x1234_5678_9abc_u64).unwrap();
        a.movsb().unwrap();
        a.hlt().unwrap();
    });
    assert!(vcpu.execute_translated().is_err());
    assert_eq!(vcpu.exception.unwrap().address, 0x1234_5678_9abc);
    assert_eq!((vcpu.regs[6], vcpu.regs[7]), (0x3_0000, 0x1234_5678_9abc));
    assert_eq!(vcpu.rip, CODE + 20);
}

#[test]
fn an_element_stored_into_the_running_block_is_seen_by_the_next_instruction() {
    let mut vcpu = guest(|a| {
        let mut patched = a.create_label();
        a.lea(rdi, ptr(patched)).unwrap();
        a.inc(rdi).unwrap();
        // inc ecx becomes dec ecx.
        a.mov(eax, 0xc9).unwrap();
        a.stosb().unwrap();
        a.set_label(&mut patched).unwrap();
        a.inc(ecx).unwrap();
        a.hlt().unwrap();
    });
    run(&mut vcpu);
    if !vcpu.halted {
        run(&mut vcpu);
    }
    assert!(vcpu.halted);
    assert_eq!(vcpu.regs[1], u64::from(u32::MAX));
}

/// Where the memory is that [`both_ways`] compares.
const COMPARED: u64 = 0x3_0000;

/// Runs a program that halts interpreted and translated, and answers the translated one: registers, flags and
/// memory agree.
fn both_ways(write: impl Fn(&mut CodeAssembler)) -> Box<Vcpu> {
    let [interpreted, translated] = [false, true].map(|translated| {
        let mut vcpu = guest(&write);
        let content: Vec<u8> = (0..0x3000_u32).map(|n| ((n * 7) >> 3) as u8).collect();
        vcpu.poke(COMPARED, &content);
        while !vcpu.halted {
            let result = if translated { vcpu.execute_translated() } else { vcpu.execute() };
            assert!(result.is_ok(), "{:?}", vcpu.exception);
        }
        vcpu
    });
    assert_eq!(interpreted.regs[..16], translated.regs[..16]);
    assert_eq!(interpreted.rflags(), translated.rflags());
    assert!(interpreted.peek::<0x3000>(COMPARED) == translated.peek::<0x3000>(COMPARED), "memory differs");
    translated
}

#[test]
fn repeated_elements_within_a_page_and_over_its_end_are_what_the_interpreter_makes_of_them() {
    for (count, at) in [(0, 0), (0, 5), (1, 0xfff), (37, 0x10), (37, 0xff0), (512, 0), (4096, 0), (4097, 0)] {
        let vcpu = both_ways(|a| {
            let (mut carry, mut end) = (a.create_label(), a.create_label());
            a.mov(rax, 0x1122_3344_5566_7788_u64).unwrap();
            a.mov(rdi, COMPARED + at).unwrap();
            a.mov(ecx, count).unwrap();
            a.stc().unwrap();
            a.rep().stosb().unwrap();
            // An overlapping copy, with the carry alive over all of them.
            a.lea(rsi, qword_ptr(rdi - 9)).unwrap();
            a.mov(ecx, count).unwrap();
            a.rep().movsb().unwrap();
            a.mov(rsi, COMPARED + at).unwrap();
            a.mov(rdi, COMPARED + 0x1804).unwrap();
            a.mov(ecx, count / 8).unwrap();
            a.rep().movsq().unwrap();
            a.mov(ecx, 3).unwrap();
            a.rep().stosw().unwrap();
            a.jc(carry).unwrap();
            a.ud2().unwrap();
            a.set_label(&mut carry).unwrap();
            a.std().unwrap();
            a.mov(ecx, 5).unwrap();
            a.rep().movsd().unwrap();
            a.cld().unwrap();
            a.jmp(end).unwrap();
            a.set_label(&mut end).unwrap();
            a.hlt().unwrap();
        });
        assert_eq!(vcpu.regs[1], 0);
    }
}

#[test]
fn repeated_elements_whose_page_faults_midway_leave_what_they_have_done() {
    let mut vcpu = guest(|a| {
        a.mov(rdi, 0x1234_5678_9abc_u64).unwrap();
        a.mov(ecx, 12).unwrap();
        a.rep().stosb().unwrap();
        a.hlt().unwrap();
    });
    assert!(vcpu.execute_translated().is_err());
    assert_eq!(vcpu.exception.unwrap().address, 0x1234_5678_9abc);
    assert_eq!((vcpu.regs[1], vcpu.regs[7]), (12, 0x1234_5678_9abc));
}

#[test]
fn bits_of_a_string_are_found_before_and_behind_its_operand() {
    let vcpu = both_ways(|a| {
        let mut top = a.create_label();
        a.mov(rbx, COMPARED + 0x1000).unwrap();
        a.mov(rsi, -5000_i64).unwrap();
        a.xor(eax, eax).unwrap();
        a.set_label(&mut top).unwrap();
        // ZF stays as it is.
        a.cmp(rsi, 77).unwrap();
        a.bt(qword_ptr(rbx), rsi).unwrap();
        a.adc(rax, 0).unwrap();
        a.mov(r13, rsi).unwrap();
        a.bts(qword_ptr(rbx + 8), r13).unwrap();
        a.adc(rax, rax).unwrap();
        a.mov(r14d, esi).unwrap();
        a.lock().btr(dword_ptr(rbx + 0x102), r14d).unwrap();
        a.adc(rax, 3).unwrap();
        a.btc(dword_ptr(rbx + 0x201), esi).unwrap();
        a.adc(rax, rax).unwrap();
        a.add(rsi, 13).unwrap();
        a.cmp(rsi, 5000).unwrap();
        a.jl(top).unwrap();
        a.mov(ecx, 1).unwrap();
        a.cmp(ecx, 1).unwrap();
        a.bt(qword_ptr(rbx), rsi).unwrap();
        a.setz(dl).unwrap();
        a.hlt().unwrap();
    });
    assert_eq!(vcpu.regs[2] & 0xff, 1, "ZF survives");
    let interpreted = vcpu.translator.as_ref().unwrap().counts.interpreted;
    assert!(interpreted < 10, "{interpreted} instructions were left to the interpreter");
}

#[test]
fn pushed_flags_are_those_of_the_last_comparison() {
    let vcpu = both_ways(|a| {
        let mut top = a.create_label();
        a.mov(esi, 200).unwrap();
        a.xor(ebx, ebx).unwrap();
        a.set_label(&mut top).unwrap();
        a.imul_3(eax, esi, 0x1234_5677).unwrap();
        a.add(al, ah).unwrap();
        a.pushfq().unwrap();
        a.pop(rdx).unwrap();
        a.imul_3(rbx, rbx, 31).unwrap();
        a.add(rbx, rdx).unwrap();
        a.cld().unwrap();
        a.dec(esi).unwrap();
        a.pushfq().unwrap();
        a.jnz(top).unwrap();
        a.hlt().unwrap();
    });
    assert_eq!(vcpu.regs[4], 0x2_0000 - 200 * 8);
}
