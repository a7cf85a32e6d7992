use iced_x86::code_asm::*;

use crate::testing::{CODE, guest};
use crate::vcpu::Vcpu;

const DATA: u64 = 0x8_0000;

fn run(vcpu: &mut Vcpu) -> Result<(), String> {
    while !vcpu.halted && vcpu.exception.is_none() {
        let _fault = vcpu.execute_in_lock_step()?;
    }
    Ok(())
}

#[test]
fn tiers_that_agree_go_on_and_each_store_is_done_once() {
    let mut vcpu = guest(|a| {
        let mut top = a.create_label();
        a.mov(ecx, 10).unwrap();
        a.set_label(&mut top).unwrap();
        a.inc(dword_ptr(DATA)).unwrap();
        a.push(rcx).unwrap();
        a.lock().add(qword_ptr(DATA + 8), 3).unwrap();
        a.pop(rdx).unwrap();
        a.dec(ecx).unwrap();
        a.jne(top).unwrap();
        a.mov(edi, DATA as i32 + 16).unwrap();
        a.mov(ecx, 100).unwrap();
        a.rep().stosb().unwrap();
        a.jmp(CODE + 0x100).unwrap();
    });
    vcpu.poke(CODE + 0x100, &[0xf4]);
    vcpu.regs[0] = 0x77;
    run(&mut vcpu).unwrap();
    assert_eq!(vcpu.peek::<16>(DATA), [10, 0, 0, 0, 0, 0, 0, 0, 30, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(vcpu.peek::<100>(DATA + 16), [0x77; 100]);
    assert!(vcpu.lock_step.as_ref().unwrap().compared >= 10);
}

#[test]
fn a_loop_over_memory_that_comes_back_to_its_start_is_no_difference() {
    let mut vcpu = guest(|a| {
        let mut top = a.create_label();
        a.mov(dword_ptr(DATA), 5).unwrap();
        a.jmp(top).unwrap();
        a.set_label(&mut top).unwrap();
        a.inc(dword_ptr(DATA + 4)).unwrap();
        a.dec(dword_ptr(DATA)).unwrap();
        a.jne(top).unwrap();
        a.jmp(CODE + 0x100).unwrap();
    });
    vcpu.poke(CODE + 0x100, &[0xf4]);
    run(&mut vcpu).unwrap();
    assert_eq!(vcpu.peek::<8>(DATA), [0, 0, 0, 0, 5, 0, 0, 0]);
}

#[test]
fn a_difference_is_told() {
    let mut vcpu = guest(|a| {
        a.mov(eax, 5).unwrap();
        a.mov(dword_ptr(DATA), eax).unwrap();
        a.jmp(CODE + 0x100).unwrap();
    });
    vcpu.poke(CODE + 0x100, &[0xf4]);
    vcpu.run_one_block().unwrap();
    assert_eq!(vcpu.rip, CODE + 0x100);
    vcpu.rip = CODE;
    // Behind the back of the translator.
    let code = vcpu.mmu.host.pointer(CODE + 1);
    // SAFETY: the guest has RAM there.
    unsafe { code.write(6) };
    let difference = run(&mut vcpu).unwrap_err();
    assert!(difference.contains("register 0 is 0x5, interpreted 0x6"), "{difference}");
}

#[test]
fn a_fault_in_a_block_is_the_same_and_leaves_what_came_before() {
    let mut vcpu = guest(|a| {
        a.mov(dword_ptr(DATA), 7).unwrap();
        a.mov(rbx, 0x8000_0000_0000_u64).unwrap();
        a.mov(qword_ptr(rbx), rax).unwrap();
        a.hlt().unwrap();
    });
    run(&mut vcpu).unwrap();
    assert_eq!(vcpu.exception.map(|exception| exception.vector), Some(13));
    assert_eq!(vcpu.peek::<4>(DATA), [7, 0, 0, 0]);
    assert_eq!(vcpu.lock_step.as_ref().unwrap().compared, 1);
}

#[test]
fn a_device_is_reached_once() {
    let mut vcpu = guest(|a| {
        a.mov(ebx, 0x4000_0000).unwrap();
        a.inc(dword_ptr(DATA)).unwrap();
        a.mov(ecx, dword_ptr(rbx)).unwrap();
        a.hlt().unwrap();
    });
    run(&mut vcpu).unwrap();
    assert_eq!(vcpu.regs[1], 0xffff_ffff);
    assert_eq!(vcpu.peek::<4>(DATA), [1, 0, 0, 0]);
    assert!(vcpu.lock_step.as_ref().unwrap().once_only >= 1);
}
