use iced_x86::code_asm::*;

use super::*;
use crate::registers::flag;

/// A processor in real mode at 0:0x7c00, with one HLT per vector at 0x100:vector * 16.
fn real(program: impl FnOnce(&mut CodeAssembler)) -> Vcpu {
    let mut vcpu = Vcpu::for_test(4 << 20);
    for vector in 0..256_u64 {
        vcpu.poke(vector * 4, &((vector as u32 * 16) | 0x0100_0000).to_le_bytes());
        vcpu.poke(0x1000 + vector * 16, &[0xf4]);
    }
    vcpu.load_real_segment(Seg::Cs, 0);
    vcpu.idtr.limit = 0x3ff;
    vcpu.rip = 0x7c00;
    vcpu.regs[gpr::RSP] = 0x7000;
    vcpu.mode_changed();
    vcpu.poke(0x7c00, &assemble(16, 0x7c00, program));
    vcpu
}

fn halted_in(vcpu: &Vcpu) -> u64 {
    assert_eq!(vcpu.segments[Seg::Cs as usize].selector, 0x100);
    (vcpu.rip - 1) / 16
}

#[test]
fn the_processor_starts_at_the_reset_vector() {
    let vcpu = Vcpu::for_test(4 << 20);
    assert_eq!(vcpu.segments[Seg::Cs as usize].base + vcpu.rip, 0xffff_fff0);
    assert_eq!(vcpu.rflags(), 2);
}

#[test]
fn int_goes_through_the_vector_table_and_iret_comes_back() {
    let mut vcpu = real(|a| {
        a.sti().unwrap();
        a.int(0x21).unwrap();
        a.hlt().unwrap();
    });
    // The handler sets AX and returns.
    vcpu.poke(
        0x1000 + 0x21 * 16,
        &assemble(16, 0, |a| {
            a.mov(ax, 0x1234).unwrap();
            a.iret().unwrap();
        }),
    );
    run(&mut vcpu).unwrap();
    assert_eq!(vcpu.regs[gpr::RAX], 0x1234);
    assert_eq!(vcpu.regs[gpr::RSP], 0x7000);
    assert_ne!(vcpu.flags & flag::IF, 0);
}

#[test]
fn a_division_by_zero_returns_to_the_instruction() {
    let mut vcpu = real(|a| {
        a.nop().unwrap();
        a.div(bl).unwrap();
    });
    run(&mut vcpu).unwrap();
    assert_eq!(halted_in(&vcpu), 0);
    assert_eq!(on_stack::<2>(&vcpu, 0), 0x7c01);
    assert_eq!(on_stack::<2>(&vcpu, 1), 0);
}

#[test]
fn an_access_beyond_64_kib_is_a_protection_fault_without_error_code() {
    let mut vcpu = real(|a| {
        a.mov(bx, 0xffff).unwrap();
        a.mov(ax, word_ptr(bx)).unwrap();
    });
    run(&mut vcpu).unwrap();
    assert_eq!(halted_in(&vcpu), 13);
    assert_eq!(vcpu.regs[gpr::RSP], 0x7000 - 6);
}

#[test]
fn protected_mode_is_entered_by_a_far_jump_and_left_again() {
    let mut vcpu = real(|a| {
        a.cli().unwrap();
        a.lgdt(ptr(0x600)).unwrap();
        a.mov(eax, cr0).unwrap();
        a.or(eax, 1).unwrap();
        a.mov(cr0, eax).unwrap();
        // JMP 0x10:0x8000
        a.db(&[0xea, 0x00, 0x80, 0x10, 0x00]).unwrap();
    });
    vcpu.poke(0x600, &[0xff, 0, 0, 0, 1, 0]);
    vcpu.poke(0x1_0010, &descriptor(0, 0xffff_ffff, 0xc09b).to_le_bytes());
    vcpu.poke(0x1_0018, &descriptor(0, 0xffff_ffff, 0xc093).to_le_bytes());
    vcpu.poke(
        0x8000,
        &assemble(32, 0x8000, |a| {
            a.mov(eax, 0x18).unwrap();
            a.mov(ds, eax).unwrap();
            a.mov(dword_ptr(0x20_0000), 0x1234_5678).unwrap();
            a.hlt().unwrap();
        }),
    );
    run(&mut vcpu).unwrap();
    assert_eq!(vcpu.peek(0x20_0000), 0x1234_5678_u32.to_le_bytes());
    assert!(vcpu.code_32());
    // Back in real mode DS keeps its limit.
    vcpu.poke(
        vcpu.rip,
        &assemble(32, vcpu.rip, |a| {
            a.mov(eax, cr0).unwrap();
            a.and(eax, !1).unwrap();
            a.mov(cr0, eax).unwrap();
            a.mov(ebx, dword_ptr(0x20_0000)).unwrap();
            a.hlt().unwrap();
        }),
    );
    vcpu.halted = false;
    run(&mut vcpu).unwrap();
    assert!(vcpu.real_mode());
    assert_eq!(vcpu.regs[gpr::RBX], 0x1234_5678);
}

#[test]
fn without_a_vector_table_the_processor_shuts_down() {
    let mut vcpu = real(|a| a.int(0x21).unwrap());
    vcpu.idtr.limit = 0;
    assert!(matches!(run(&mut vcpu), Err(Exit::TripleFault { .. })));
}
