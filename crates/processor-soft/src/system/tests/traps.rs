use iced_x86::code_asm::*;

use super::*;
use crate::registers::flag;

/// Makes vector 1 count in R15 and put DR6 into R14, clearing it.
fn count_debug_traps(vcpu: &Vcpu) {
    vcpu.poke(
        0x1_3000,
        &assemble(64, 0x1_3000, |a| {
            a.inc(r15).unwrap();
            a.mov(r14, dr6).unwrap();
            a.mov(r13, qword_ptr(rsp)).unwrap();
            a.bts(qword_ptr(rsp + 16), 16).unwrap();
            a.iretq().unwrap();
        }),
    );
    set_gate_64(vcpu, 1, 0x1_3000, 0x8e, 0);
}

#[test]
fn single_step_traps_after_every_instruction_behind_the_one_that_sets_tf() {
    let mut vcpu = long(|a| {
        a.pushfq().unwrap();
        a.bts(qword_ptr(rsp), 8).unwrap();
        a.popfq().unwrap();
        a.nop().unwrap();
        a.nop().unwrap();
        a.pushfq().unwrap();
        a.btr(qword_ptr(rsp), 8).unwrap();
        a.popfq().unwrap();
        a.nop().unwrap();
        a.hlt().unwrap();
    });
    count_debug_traps(&vcpu);
    run(&mut vcpu).unwrap();
    assert_eq!(vcpu.regs[15], 5);
    assert_eq!(vcpu.regs[14] & 0x4000, 0x4000);
}

#[test]
fn the_shadow_of_an_earlier_sti_hides_no_single_step() {
    let mut vcpu = long(|a| {
        a.cli().unwrap();
        a.sti().unwrap();
        a.nop().unwrap();
        a.pushfq().unwrap();
        a.bts(qword_ptr(rsp), 8).unwrap();
        a.popfq().unwrap();
        a.nop().unwrap();
        a.nop().unwrap();
        a.hlt().unwrap();
    });
    count_debug_traps(&vcpu);
    run(&mut vcpu).unwrap();
    assert_eq!(vcpu.regs[15], 2);
}

#[test]
fn an_instruction_breakpoint_comes_before_and_the_resume_flag_passes_it() {
    let mut vcpu = long(|a| {
        a.mov(eax, CODE as i32 + 14).unwrap();
        a.mov(dr0, rax).unwrap();
        a.mov(ebx, 1).unwrap();
        a.nop().unwrap();
        a.mov(dr7, rbx).unwrap();
        a.inc(rcx).unwrap();
        a.hlt().unwrap();
    });
    // MOV EAX 5, MOV DR0 3, MOV EBX 5, NOP 1: MOV DR7 is at 14, INC at 17.
    vcpu.poke(CODE + 1, &(CODE as u32 + 17).to_le_bytes());
    count_debug_traps(&vcpu);
    run(&mut vcpu).unwrap();
    assert_eq!(vcpu.regs[15], 1);
    assert_eq!(vcpu.regs[13], CODE + 17);
    assert_eq!(vcpu.regs[14] & 0xf, 1);
    assert_eq!(vcpu.regs[gpr::RCX], 1);
}

#[test]
fn a_data_breakpoint_traps_after_the_access() {
    let mut vcpu = long(|a| {
        a.mov(eax, DATA as i32 + 4).unwrap();
        a.mov(dr1, rax).unwrap();
        a.mov(ebx, 1 << 2 | 1 << 20 | 3 << 22).unwrap(); // write, 4 bytes
        a.mov(dr7, rbx).unwrap();
        a.mov(ecx, dword_ptr(DATA + 4)).unwrap();
        a.mov(dword_ptr(DATA), ecx).unwrap();
        a.mov(byte_ptr(DATA + 7), cl).unwrap();
        a.hlt().unwrap();
    });
    count_debug_traps(&vcpu);
    run(&mut vcpu).unwrap();
    assert_eq!(vcpu.regs[15], 1);
    assert_eq!(vcpu.regs[14] & 0xf, 2);
    assert_eq!(vcpu.regs[13], vcpu.rip - 1);
}

#[test]
fn general_detect_guards_the_debug_registers() {
    let mut vcpu = long(|a| {
        a.mov(eax, 1 << 13).unwrap();
        a.mov(dr7, rax).unwrap();
        a.mov(rbx, dr0).unwrap();
        a.hlt().unwrap();
    });
    count_debug_traps(&vcpu);
    run(&mut vcpu).unwrap();
    // The handler's own access is allowed; the instruction is carried out on return.
    assert_eq!(vcpu.regs[15], 1);
    assert_ne!(vcpu.regs[14] & 1 << 13, 0);
}

#[test]
fn int3_and_into_are_traps() {
    let mut vcpu = long(|a| a.int3().unwrap());
    run(&mut vcpu).unwrap();
    assert_eq!(handler(&vcpu), Some(3));
    assert_eq!(on_stack::<8>(&vcpu, 0), CODE + 1);
    let mut vcpu = protected(|a| {
        a.mov(al, 0x7f).unwrap();
        a.inc(al).unwrap();
        a.into().unwrap();
    });
    run(&mut vcpu).unwrap();
    assert_eq!(handler(&vcpu), Some(4));
}

#[test]
fn a_load_of_ss_holds_off_the_single_step_trap() {
    let mut vcpu = long(|a| {
        a.mov(ebx, i32::from(selector::DATA)).unwrap();
        a.mov(ss, ebx).unwrap();
        a.nop().unwrap();
        a.int3().unwrap();
    });
    count_debug_traps(&vcpu);
    vcpu.flags |= flag::TF;
    run(&mut vcpu).unwrap();
    // After MOV EBX and NOP, not after MOV SS; INT3 clears TF.
    assert_eq!((handler(&vcpu), vcpu.regs[15]), (Some(3), 2));
}

#[test]
fn a_single_step_trap_ends_a_halt() {
    let mut vcpu = long(|a| {
        a.hlt().unwrap();
        a.int3().unwrap();
    });
    count_debug_traps(&vcpu);
    vcpu.flags |= flag::TF;
    vcpu.turn().unwrap();
    assert!(vcpu.halted);
    vcpu.turn().unwrap();
    run(&mut vcpu).unwrap();
    assert_eq!((handler(&vcpu), vcpu.regs[15]), (Some(3), 1));
}
