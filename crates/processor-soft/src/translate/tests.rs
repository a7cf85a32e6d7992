//! Small guests, translated.

use iced_x86::code_asm::*;

use crate::testing::{CODE, guest};
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
