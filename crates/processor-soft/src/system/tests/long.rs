use iced_x86::code_asm::*;

use super::*;
use crate::fault::vector;
use crate::registers::{cr4, efer, flag};

#[test]
fn a_page_fault_pushes_its_frame_and_tells_the_address() {
    let mut vcpu = long(|a| {
        a.mov(rax, 0x1_2345_6789_u64).unwrap();
        a.mov(ebx, dword_ptr(rax)).unwrap();
    });
    run(&mut vcpu).unwrap();
    assert_eq!(handler(&vcpu), Some(14));
    assert_eq!(vcpu.cr2, 0x1_2345_6789);
    assert_eq!(on_stack::<8>(&vcpu, 0), 0);
    assert_eq!(on_stack::<8>(&vcpu, 1), CODE + 10);
    assert_eq!(on_stack::<8>(&vcpu, 2), u64::from(selector::CODE));
    assert_ne!(on_stack::<8>(&vcpu, 3) & flag::RF, 0);
    assert_eq!(on_stack::<8>(&vcpu, 4), STACK);
    assert_eq!(on_stack::<8>(&vcpu, 5), u64::from(selector::DATA));
}

#[test]
fn the_stack_of_a_handler_is_aligned_to_16_bytes() {
    let mut vcpu = long(|a| a.ud2().unwrap());
    vcpu.regs[gpr::RSP] = STACK - 5;
    run(&mut vcpu).unwrap();
    assert_eq!(handler(&vcpu), Some(6));
    assert_eq!(vcpu.regs[gpr::RSP], STACK - 16 - 40);
    assert_eq!(on_stack::<8>(&vcpu, 3), STACK - 5);
}

#[test]
fn an_interrupt_stack_is_used_at_any_level() {
    let mut vcpu = long(|a| a.int(0x80).unwrap());
    set_gate_64(&vcpu, 0x80, HANDLERS, 0x8e, 3);
    vcpu.poke(TSS + 36 + 16, &DATA.to_le_bytes());
    run(&mut vcpu).unwrap();
    assert_eq!(vcpu.regs[gpr::RSP], DATA - 40);
}

#[test]
fn user_code_may_call_gates_of_its_level_only() {
    let mut vcpu = long(|_| ());
    enter_user(&mut vcpu, |a| a.int(0x80).unwrap());
    run(&mut vcpu).unwrap();
    assert_eq!(handler(&vcpu), Some(0x80));
    assert_eq!((vcpu.cpl, vcpu.regs[gpr::RSP]), (0, TASK_STACK - 40));
    assert_eq!(on_stack::<8>(&vcpu, 0), USER + 2);
    assert_eq!(vcpu.segments[Seg::Ss as usize].selector, 0);

    let mut vcpu = long(|_| ());
    set_gate_64(&vcpu, 0x80, HANDLERS, 0x8e, 0);
    enter_user(&mut vcpu, |a| a.int(0x80).unwrap());
    run(&mut vcpu).unwrap();
    assert_eq!(handler(&vcpu), Some(13));
    assert_eq!(on_stack::<8>(&vcpu, 0), 0x80 << 3 | 2);
    assert_eq!(on_stack::<8>(&vcpu, 1), USER);
}

#[test]
fn iretq_returns_to_user_code() {
    let mut vcpu = long(|a| {
        a.push(i32::from(selector::USER_DATA)).unwrap();
        a.push(0x2_4000).unwrap();
        a.push(0x202).unwrap();
        a.push(i32::from(selector::USER_CODE)).unwrap();
        a.push(0x1_4000).unwrap();
        a.iretq().unwrap();
    });
    vcpu.poke(USER, &[0xf4]);
    run(&mut vcpu).unwrap();
    // HLT is not for user code.
    assert_eq!(handler(&vcpu), Some(13));
    assert_eq!(on_stack::<8>(&vcpu, 1), USER);
    assert_eq!(on_stack::<8>(&vcpu, 2), u64::from(selector::USER_CODE));
    assert_eq!(on_stack::<8>(&vcpu, 3) & !flag::RF, 0x202);
    assert_eq!(on_stack::<8>(&vcpu, 4), USER_STACK);
}

#[test]
fn syscall_and_sysret_go_there_and_back() {
    let mut vcpu = long(|a| a.sysretq().unwrap());
    vcpu.msrs.star = 0x18 << 48 | u64::from(selector::CODE) << 32;
    vcpu.msrs.lstar = CODE;
    vcpu.msrs.fmask = flag::IF | flag::DF;
    enter_user(&mut vcpu, |a| {
        a.std().unwrap();
        a.syscall().unwrap();
        a.ud2().unwrap();
    });
    run(&mut vcpu).unwrap();
    assert_eq!(handler(&vcpu), Some(6));
    assert_eq!(on_stack::<8>(&vcpu, 0), USER + 3);
    assert_eq!(on_stack::<8>(&vcpu, 1), 0x2b);
    assert_ne!(on_stack::<8>(&vcpu, 2) & flag::DF, 0);
    assert_eq!(vcpu.regs[gpr::RCX], USER + 3);
}

#[test]
fn a_fault_on_the_way_to_a_page_fault_is_a_double_fault() {
    let mut vcpu = long(|a| a.mov(eax, dword_ptr(0x7000_0000 - 4)).unwrap());
    // The linear address is beyond RAM but mapped; make the fault by an unmapped one.
    vcpu.poke(
        CODE,
        &assemble(64, CODE, |a| {
            a.mov(rax, 0x1_0000_0000_u64).unwrap();
            a.mov(ebx, dword_ptr(rax)).unwrap();
        }),
    );
    set_gate_64(&vcpu, 14, HANDLERS, 0x0e, 0);
    run(&mut vcpu).unwrap();
    assert_eq!(handler(&vcpu), Some(8));
    assert_eq!(on_stack::<8>(&vcpu, 0), 0);
}

#[test]
fn a_fault_on_the_way_to_a_double_fault_ends_the_guest() {
    let mut vcpu = long(|a| a.ud2().unwrap());
    vcpu.idtr.limit = 0;
    let Err(Exit::TripleFault { state: text }) = run(&mut vcpu) else { panic!("the guest goes on") };
    assert!(text.contains(&format!("{CODE:016x}")), "{text}");
}

#[test]
fn a_far_return_enters_compatibility_mode() {
    let mut vcpu = long(|a| {
        a.push(i32::from(selector::FREE)).unwrap();
        a.push(0x1_4000).unwrap();
        a.db(&[0x48, 0xcb]).unwrap(); // RETFQ
    });
    set_descriptor(&vcpu, selector::FREE, descriptor(0, 0xffff_ffff, 0xc09b));
    vcpu.poke(
        USER,
        &assemble(32, USER, |a| {
            a.mov(eax, -1).unwrap();
            a.inc(eax).unwrap();
            a.mov(edx, dword_ptr(DATA)).unwrap();
            a.hlt().unwrap();
        }),
    );
    vcpu.poke(DATA, &7_u32.to_le_bytes());
    run(&mut vcpu).unwrap();
    assert!(!vcpu.code_64() && vcpu.long_mode_active());
    assert_eq!((vcpu.regs[gpr::RAX], vcpu.regs[gpr::RDX]), (0, 7));
}

#[test]
fn reserved_bits_of_control_registers_are_protection_faults() {
    for program in [
        |a: &mut CodeAssembler| a.mov(cr4, rax).unwrap(),
        |a: &mut CodeAssembler| a.mov(cr3, rax).unwrap(),
        |a: &mut CodeAssembler| a.mov(cr0, rax).unwrap(),
        |a: &mut CodeAssembler| a.mov(cr8, rax).unwrap(),
    ] {
        let mut vcpu = long(program);
        vcpu.regs[gpr::RAX] = 1 << 62 | 1 << 31 | 1;
        run(&mut vcpu).unwrap();
        assert_eq!(handler(&vcpu), Some(13));
        assert_eq!(on_stack::<8>(&vcpu, 0), 0);
    }
}

#[test]
fn paging_cannot_be_switched_off_in_64_bit_code() {
    let mut vcpu = long(|a| {
        a.mov(rax, cr0).unwrap();
        a.btr(rax, 31).unwrap();
        a.mov(cr0, rax).unwrap();
    });
    run(&mut vcpu).unwrap();
    assert_eq!(handler(&vcpu), Some(13));
}

#[test]
fn process_contexts_need_a_clean_cr3() {
    let mut vcpu = long(|a| {
        a.mov(rax, cr4).unwrap();
        a.bts(rax, 17).unwrap();
        a.mov(cr4, rax).unwrap();
        a.mov(rax, 1_u64 << 63 | 0x1005).unwrap();
        a.mov(cr3, rax).unwrap();
        a.mov(rbx, cr3).unwrap();
        a.hlt().unwrap();
    });
    run(&mut vcpu).unwrap();
    assert_eq!(vcpu.regs[gpr::RBX], 0x1005);
    assert!(vcpu.cr4_has(cr4::PCIDE));
}

#[test]
fn swapgs_exchanges_the_bases() {
    let mut vcpu = long(|a| {
        a.mov(ecx, 0xc000_0102_u32).unwrap();
        a.mov(eax, 0x3_0000).unwrap();
        a.xor(edx, edx).unwrap();
        a.wrmsr().unwrap();
        a.swapgs().unwrap();
        a.mov(rbx, qword_ptr(8).gs()).unwrap();
        a.rdgsbase(rsi).unwrap();
        a.hlt().unwrap();
    });
    vcpu.poke(DATA + 8, &77_u64.to_le_bytes());
    run(&mut vcpu).unwrap();
    assert_eq!((vcpu.regs[gpr::RBX], vcpu.regs[gpr::RSI]), (77, DATA));
}

#[test]
fn an_msr_that_does_not_exist_is_a_protection_fault() {
    let mut vcpu = long(|a| {
        a.mov(ecx, 0x1234_5678).unwrap();
        a.rdmsr().unwrap();
    });
    run(&mut vcpu).unwrap();
    assert_eq!(handler(&vcpu), Some(13));
}

#[test]
fn efer_cannot_change_long_mode_while_paging_is_on() {
    let mut vcpu = long(|a| {
        a.mov(ecx, 0xc000_0080_u32).unwrap();
        a.rdmsr().unwrap();
        a.btr(eax, 8).unwrap();
        a.wrmsr().unwrap();
    });
    run(&mut vcpu).unwrap();
    assert_eq!(handler(&vcpu), Some(13));
    assert_ne!(vcpu.efer & efer::LME, 0);
}

#[test]
fn the_time_stamp_counter_can_be_written() {
    let mut vcpu = long(|a| {
        a.mov(ecx, 0x10).unwrap();
        a.xor(eax, eax).unwrap();
        a.mov(edx, 0x1000).unwrap();
        a.wrmsr().unwrap();
        a.rdtsc().unwrap();
        a.hlt().unwrap();
    });
    run(&mut vcpu).unwrap();
    assert_eq!(vcpu.regs[gpr::RDX], 0x1000);
}

#[test]
fn umip_hides_the_tables_from_user_code() {
    let mut vcpu = long(|_| ());
    vcpu.cr4 |= cr4::UMIP;
    enter_user(&mut vcpu, |a| a.sidt(ptr(DATA)).unwrap());
    run(&mut vcpu).unwrap();
    assert_eq!(handler(&vcpu), Some(u64::from(vector::GENERAL_PROTECTION)));
}

#[test]
fn a_null_stack_segment_is_allowed_below_level_3_only() {
    let mut vcpu = long(|a| {
        a.xor(eax, eax).unwrap();
        a.mov(ss, eax).unwrap();
        a.push(rax).unwrap();
        a.hlt().unwrap();
    });
    run(&mut vcpu).unwrap();
    assert_eq!(handler(&vcpu), None);
    let mut vcpu = long(|_| ());
    enter_user(&mut vcpu, |a| {
        a.mov(eax, 3).unwrap();
        a.mov(ss, eax).unwrap();
    });
    run(&mut vcpu).unwrap();
    assert_eq!(handler(&vcpu), Some(13));
}

#[test]
fn ltr_marks_the_task_busy() {
    let mut vcpu = long(|a| {
        a.mov(eax, i32::from(selector::FREE)).unwrap();
        a.ltr(ax).unwrap();
        a.str(ebx).unwrap();
        a.ltr(ax).unwrap();
    });
    set_descriptor(&vcpu, selector::FREE, descriptor(TSS, 0x67, 0x89));
    run(&mut vcpu).unwrap();
    assert_eq!(handler(&vcpu), Some(13));
    assert_eq!(on_stack::<8>(&vcpu, 0), u64::from(selector::FREE));
    assert_eq!(vcpu.peek(GDT + 0x45), [0x8b]);
    assert_eq!(vcpu.regs[gpr::RBX], u64::from(selector::FREE));
}
