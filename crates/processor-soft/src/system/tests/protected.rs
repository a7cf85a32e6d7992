use iced_x86::code_asm::*;

use super::*;
use crate::registers::flag;

/// IRETD to privilege level 3 at [`USER`].
fn to_user(a: &mut CodeAssembler) {
    a.push(i32::from(selector::USER_DATA)).unwrap();
    a.push(USER_STACK as i32).unwrap();
    a.push(0x202).unwrap();
    a.push(i32::from(selector::USER_CODE)).unwrap();
    a.push(USER as i32).unwrap();
    a.iretd().unwrap();
}

fn user(vcpu: &Vcpu, program: impl FnOnce(&mut CodeAssembler)) {
    vcpu.poke(USER, &assemble(32, USER, program));
}

#[test]
fn an_interrupt_from_user_code_switches_to_the_stack_of_the_task() {
    let mut vcpu = protected(to_user);
    user(&vcpu, |a| a.int(0x80).unwrap());
    run(&mut vcpu).unwrap();
    assert_eq!(handler(&vcpu), Some(0x80));
    assert_eq!(vcpu.regs[gpr::RSP], TASK_STACK - 20);
    assert_eq!(on_stack::<4>(&vcpu, 0), USER + 2);
    assert_eq!(on_stack::<4>(&vcpu, 1), u64::from(selector::USER_CODE));
    assert_eq!(on_stack::<4>(&vcpu, 3), USER_STACK);
    assert_eq!(on_stack::<4>(&vcpu, 4), u64::from(selector::USER_DATA));
}

#[test]
fn a_return_to_user_code_empties_the_kernels_data_segments() {
    let mut vcpu = protected(to_user);
    user(&vcpu, |a| a.mov(eax, dword_ptr(DATA)).unwrap());
    run(&mut vcpu).unwrap();
    assert_eq!(handler(&vcpu), Some(13));
    assert_eq!(vcpu.segments[Seg::Ds as usize].selector, 0);
}

#[test]
fn limits_and_types_are_checked() {
    let selector = i32::from(selector::FREE);
    // Limit 0xfff.
    let mut vcpu = protected(|a| {
        a.mov(eax, selector).unwrap();
        a.mov(es, eax).unwrap();
        a.mov(ebx, dword_ptr(0xffc).es()).unwrap();
        a.mov(ebx, dword_ptr(0xffd).es()).unwrap();
    });
    set_descriptor(&vcpu, selector::FREE, descriptor(DATA, 0xfff, 0x4092));
    run(&mut vcpu).unwrap();
    assert_eq!(handler(&vcpu), Some(13));
    assert_eq!(on_stack::<4>(&vcpu, 0), 0);
    // The accessed bit has been set.
    assert_eq!(vcpu.peek(GDT + 0x45), [0x93]);

    // Expand-down: only above the limit.
    let mut vcpu = protected(|a| {
        a.mov(eax, selector).unwrap();
        a.mov(es, eax).unwrap();
        a.mov(dword_ptr(0x1000).es(), 5).unwrap();
        a.mov(dword_ptr(0xfff).es(), 5).unwrap();
    });
    set_descriptor(&vcpu, selector::FREE, descriptor(DATA, 0xfff, 0x4096));
    run(&mut vcpu).unwrap();
    assert_eq!(handler(&vcpu), Some(13));
    assert_eq!(vcpu.peek(DATA + 0x1000), [5]);

    // Read-only.
    let mut vcpu = protected(|a| {
        a.mov(eax, selector).unwrap();
        a.mov(es, eax).unwrap();
        a.mov(ebx, dword_ptr(0).es()).unwrap();
        a.mov(dword_ptr(0).es(), 5).unwrap();
    });
    set_descriptor(&vcpu, selector::FREE, descriptor(DATA, 0xfff, 0x4090));
    run(&mut vcpu).unwrap();
    assert_eq!(handler(&vcpu), Some(13));
}

#[test]
fn a_segment_that_is_not_present_names_its_selector() {
    let mut vcpu = protected(|a| {
        a.mov(eax, i32::from(selector::FREE)).unwrap();
        a.mov(es, eax).unwrap();
    });
    set_descriptor(&vcpu, selector::FREE, descriptor(0, 0xfff, 0x4012));
    run(&mut vcpu).unwrap();
    assert_eq!(handler(&vcpu), Some(11));
    assert_eq!(on_stack::<4>(&vcpu, 0), u64::from(selector::FREE));
    // Through SS it is a stack fault.
    let mut vcpu = protected(|a| {
        a.mov(eax, i32::from(selector::FREE)).unwrap();
        a.mov(ss, eax).unwrap();
    });
    set_descriptor(&vcpu, selector::FREE, descriptor(0, 0xfff, 0x4012));
    run(&mut vcpu).unwrap();
    assert_eq!(handler(&vcpu), Some(12));
}

#[test]
fn a_call_gate_copies_parameters_to_the_inner_stack() {
    let mut vcpu = protected(to_user);
    // A gate to 0x10:0x12000 with two parameters, for level 3.
    let gate = 0x2000 | 0x10 << 16 | 2 << 32 | 0xec << 40 | 1 << 48;
    set_descriptor(&vcpu, selector::FREE, gate);
    vcpu.poke(
        0x1_2000,
        &assemble(32, 0x1_2000, |a| {
            a.mov(eax, dword_ptr(esp + 8)).unwrap();
            a.mov(ebx, dword_ptr(esp + 12)).unwrap();
            a.retf_1(8).unwrap();
        }),
    );
    user(&vcpu, |a| {
        a.push(1).unwrap();
        a.push(2).unwrap();
        a.db(&[0x9a, 0, 0, 0, 0, 0x43, 0]).unwrap();
        a.mov(ecx, esp).unwrap();
        a.int(0x80).unwrap();
    });
    run(&mut vcpu).unwrap();
    assert_eq!(handler(&vcpu), Some(0x80));
    assert_eq!((vcpu.regs[gpr::RAX], vcpu.regs[gpr::RBX]), (2, 1));
    assert_eq!(vcpu.regs[gpr::RCX], USER_STACK);
}

/// A second TSS in the free descriptor, whose task begins at [`USER`] in the kernel's segments.
fn second_task(vcpu: &Vcpu) {
    const SECOND: u64 = 0xc000;
    set_descriptor(vcpu, selector::FREE, descriptor(SECOND, 0x67, 0x89));
    vcpu.poke(SECOND + 32, &(USER as u32).to_le_bytes());
    vcpu.poke(SECOND + 36, &2_u32.to_le_bytes());
    vcpu.poke(SECOND + 40 + 16, &(USER_STACK as u32).to_le_bytes());
    for index in 0..6 {
        let selector = if index == 1 { selector::CODE } else { selector::DATA };
        vcpu.poke(SECOND + 72 + 4 * index, &selector.to_le_bytes());
    }
}

#[test]
fn a_call_to_a_task_nests_and_iret_returns() {
    let mut vcpu = protected(|a| {
        a.mov(eax, 11).unwrap();
        a.db(&[0x9a, 0, 0, 0, 0, 0x40, 0]).unwrap();
        a.hlt().unwrap();
    });
    second_task(&vcpu);
    user(&vcpu, |a| {
        a.pushfd().unwrap();
        a.pop(ebx).unwrap();
        a.mov(dword_ptr(DATA), ebx).unwrap();
        a.str(word_ptr(DATA + 4)).unwrap();
        a.iretd().unwrap();
    });
    run(&mut vcpu).unwrap();
    assert_eq!(vcpu.rip, CODE + 5 + 7 + 1);
    assert_eq!(vcpu.regs[gpr::RAX], 11);
    assert_eq!(vcpu.tr.selector, selector::TSS);
    let flags = u32::from_le_bytes(vcpu.peek(DATA));
    assert_ne!(u64::from(flags) & flag::NT, 0);
    assert_eq!(vcpu.peek(DATA + 4), selector::FREE.to_le_bytes());
    assert_eq!(vcpu.flags & flag::NT, 0);
    // Available again.
    assert_eq!(vcpu.peek(GDT + 0x45), [0x89]);
    assert_ne!(vcpu.cr0 & cr0::TS, 0);
}

#[test]
fn a_fault_through_a_task_gate_pushes_its_error_code_there() {
    let mut vcpu = protected(|a| {
        a.mov(eax, 0x100).unwrap();
        a.mov(ds, eax).unwrap();
    });
    second_task(&vcpu);
    user(&vcpu, |a| a.hlt().unwrap());
    set_gate_32(&vcpu, 13, selector::FREE, 0, 0x85);
    run(&mut vcpu).unwrap();
    assert_eq!(vcpu.rip, USER + 1);
    assert_eq!(vcpu.regs[gpr::RSP], USER_STACK - 4);
    assert_eq!(on_stack::<4>(&vcpu, 0), 0x100);
    // The old task continues at the faulting instruction.
    assert_eq!(vcpu.peek(TSS + 32), (CODE as u32 + 5).to_le_bytes());
}

#[test]
fn virtual_8086_mode_is_entered_by_iret_and_left_by_an_interrupt() {
    let mut vcpu = protected(|a| {
        for selector in [0x5000, 0x4000, 0x3000, 0x2000] {
            a.push(selector).unwrap();
        }
        a.push(0x1000).unwrap(); // SS
        a.push(0xfff0).unwrap(); // SP
        a.push(0x2_3202).unwrap(); // VM, IOPL 3
        a.push(0x1400).unwrap(); // CS
        a.push(0).unwrap();
        a.iretd().unwrap();
    });
    vcpu.poke(
        USER,
        &assemble(16, 0, |a| {
            a.mov(ax, ds).unwrap();
            a.push(ax).unwrap();
            a.int(0x80).unwrap();
        }),
    );
    run(&mut vcpu).unwrap();
    assert_eq!(handler(&vcpu), Some(0x80));
    assert_eq!(vcpu.regs[gpr::RAX] as u16, 0x3000);
    assert_eq!(vcpu.peek(0x1_0000 + 0xffee), 0x3000_u16.to_le_bytes());
    assert_eq!(vcpu.regs[gpr::RSP], TASK_STACK - 36);
    assert_eq!(on_stack::<4>(&vcpu, 1), 0x1400);
    assert_ne!(on_stack::<4>(&vcpu, 2) & flag::VM, 0);
    assert_eq!(on_stack::<4>(&vcpu, 4), 0x1000);
    assert_eq!(on_stack::<4>(&vcpu, 6), 0x3000);
    assert_eq!(vcpu.segments[Seg::Ds as usize].selector, 0);
}

#[test]
fn lar_lsl_and_verr_tell_without_faults() {
    let mut vcpu = protected(|a| {
        a.xor(edx, edx).unwrap();
        a.mov(ecx, i32::from(selector::USER_DATA)).unwrap();
        a.lar(eax, ecx).unwrap();
        a.lsl(ebx, ecx).unwrap();
        a.verw(cx).unwrap();
        a.setz(dl).unwrap();
        a.mov(ecx, 0x1000).unwrap();
        a.verr(cx).unwrap();
        a.setz(dh).unwrap();
        a.hlt().unwrap();
    });
    run(&mut vcpu).unwrap();
    assert_eq!(vcpu.regs[gpr::RAX], 0x00c0_f300);
    assert_eq!(vcpu.regs[gpr::RBX], 0xffff_ffff);
    assert_eq!(vcpu.regs[gpr::RDX], 1);
}

#[test]
fn popf_changes_if_only_with_the_io_privilege() {
    let mut vcpu = protected(to_user);
    user(&vcpu, |a| {
        a.push(0x3000).unwrap();
        a.popfd().unwrap();
        a.pushfd().unwrap();
        a.pop(eax).unwrap();
        a.cli().unwrap();
    });
    run(&mut vcpu).unwrap();
    assert_eq!(handler(&vcpu), Some(13));
    // Neither IF nor IOPL have changed.
    assert_eq!(vcpu.regs[gpr::RAX] & (flag::IF | flag::IOPL), flag::IF);
}

#[test]
fn arpl_raises_the_privilege_of_a_selector() {
    let mut vcpu = protected(|a| {
        a.xor(edx, edx).unwrap();
        a.mov(eax, 0x40).unwrap();
        a.mov(ecx, 0x23).unwrap();
        a.arpl(ax, cx).unwrap();
        a.setz(dl).unwrap();
        a.hlt().unwrap();
    });
    run(&mut vcpu).unwrap();
    assert_eq!((vcpu.regs[gpr::RAX], vcpu.regs[gpr::RDX]), (0x43, 1));
}
