use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use iced_x86::code_asm::*;
use processor::{Partition, StartRegisters, TlbFlush, TlbRange};

use super::*;
use crate::partition::attention;
use crate::registers::flag;
use crate::testing::partition;

/// Like [`long`], with an APIC that has `vectors` to deliver.
fn with_interrupts(vectors: &[u8], program: impl FnOnce(&mut CodeAssembler)) -> Vcpu {
    let mut vcpu = long(program);
    for &vector in vectors {
        vcpu.apic.request(vector, interrupt::Trigger::Edge);
    }
    vcpu.vp.call(attention::INTERRUPT);
    vcpu.flags &= !flag::IF;
    vcpu
}

#[test]
fn an_interrupt_waits_for_if_and_for_the_instruction_behind_sti() {
    let mut vcpu = with_interrupts(&[0x40], |a| {
        a.inc(eax).unwrap();
        a.sti().unwrap();
        a.inc(eax).unwrap();
        a.inc(eax).unwrap();
    });
    run(&mut vcpu).unwrap();
    assert_eq!(handler(&vcpu), Some(0x40));
    assert_eq!(vcpu.regs[gpr::RAX], 2);
    assert_eq!(vcpu.flags & flag::IF, 0);
}

#[test]
fn hlt_ends_with_an_interrupt_and_returns_behind_itself() {
    let mut vcpu = with_interrupts(&[0x40], |a| {
        a.sti().unwrap();
        a.hlt().unwrap();
        a.mov(ebx, 7).unwrap();
        a.cli().unwrap();
        a.hlt().unwrap();
    });
    vcpu.poke(HANDLERS + 0x400, &[0x48, 0xcf]); // IRETQ
    while vcpu.regs[gpr::RBX] != 7 {
        vcpu.turn().unwrap();
    }
    run(&mut vcpu).unwrap();
    assert_eq!(vcpu.rip, CODE + 9);
}

#[test]
fn an_nmi_is_not_interrupted_by_another_until_iret() {
    let mut vcpu = long(|a| {
        a.nop().unwrap();
        a.hlt().unwrap();
    });
    // The handler of NMI counts and asks itself whether another one came.
    vcpu.poke(
        HANDLERS + 2 * 16,
        &assemble(64, 0, |a| {
            a.inc(rax).unwrap();
            a.nop().unwrap();
            a.inc(rbx).unwrap();
            a.iretq().unwrap();
        }),
    );
    vcpu.vp.call(attention::NMI);
    vcpu.turn().unwrap();
    assert!(vcpu.nmi_blocked);
    vcpu.vp.call(attention::NMI);
    vcpu.execute_one().unwrap();
    vcpu.turn().unwrap();
    assert_eq!(vcpu.regs[gpr::RAX], 1);
    run(&mut vcpu).unwrap();
    assert_eq!((vcpu.regs[gpr::RAX], vcpu.regs[gpr::RBX]), (2, 2));
    assert!(!vcpu.nmi_blocked);
}

#[test]
fn init_and_startup_start_a_processor_in_real_mode() {
    let (partition, _, _) = partition(2, 4 << 20);
    let mut vcpu = Vcpu::new(
        1,
        partition.shared().clone(),
        partition.shared().bus.get().unwrap().clone(),
        partition.shared().vps[1].apic.get().unwrap().clone(),
    );
    assert!(vcpu.wait_for_sipi);
    let signal = partition.signal(1);
    signal.init();
    signal.startup(0x12);
    vcpu.poke(0x1_2000, &[0xf4]);
    run(&mut vcpu).unwrap();
    assert_eq!(vcpu.segments[Seg::Cs as usize].base + vcpu.rip, 0x1_2001);
    // A second start-up interrupt is ignored.
    signal.startup(0x34);
    vcpu.halted = false;
    vcpu.poke(0x1_2001, &[0xf4]);
    run(&mut vcpu).unwrap();
    assert_eq!(vcpu.segments[Seg::Cs as usize].base, 0x1_2000);
}

/// Registers of a 64-bit start at [`CODE`] with the tables of [`Vcpu::for_test_64`].
fn start() -> StartRegisters {
    let vcpu = Vcpu::for_test_64(4 << 20);
    vcpu.snapshot()
}

fn one_to_one(partition: &crate::SoftPartition, program: &[u8]) {
    use vm_memory::{Bytes, GuestAddress};
    let memory = &partition.shared().memory;
    let entries: Vec<(u64, u64)> = [(0x1000, 0x2007), (0x2000, 0x3007)]
        .into_iter()
        .chain((0..512).map(|index| (0x3000 + index * 8, index << 21 | 0x87)))
        .collect();
    for (at, value) in entries {
        memory.write_slice(&value.to_le_bytes(), GuestAddress(at)).unwrap();
    }
    memory.write_slice(program, GuestAddress(CODE)).unwrap();
}

#[test]
fn stop_brings_back_running_and_sleeping_processors() {
    let (partition, _, _) = partition(2, 4 << 20);
    one_to_one(&partition, &[0xeb, 0xfe]); // JMP to itself
    let mut running = partition.processor(0).unwrap();
    running.start_at(&start()).unwrap();
    let mut sleeping = partition.processor(1).unwrap();
    let threads = [std::thread::spawn(move || running.run()), std::thread::spawn(move || sleeping.run())];
    while !partition.virtual_processors().is_running(0) {
        std::thread::yield_now();
    }
    partition.stop();
    for thread in threads {
        assert_eq!(thread.join().unwrap(), Exit::Stopped);
    }
}

#[test]
fn a_reset_returns_to_the_state_after_power_on() {
    let (partition, _, _) = partition(1, 4 << 20);
    let mut processor = partition.processor(0).unwrap();
    processor.start_at(&start()).unwrap();
    partition.stop();
    partition.reset();
    assert_eq!(processor.run(), Exit::Stopped);
    partition.resume();
    partition.stop();
    partition.reset();
    processor.start_at(&start()).unwrap();
    assert!(processor.describe().contains("0000000000010000"), "{}", processor.describe());
    assert_eq!(processor.run(), Exit::Stopped);
    assert!(processor.describe().contains("0000000000010000"));
}

#[test]
fn a_processor_can_be_had_once_and_only_if_it_exists() {
    let (partition, _, _) = partition(1, 4 << 20);
    assert!(partition.processor(0).is_ok());
    assert!(partition.processor(0).is_err());
    assert!(partition.processor(1).is_err());
}

#[test]
fn a_flush_waits_for_running_processors_and_not_for_sleeping_ones() {
    let (partition, _, _) = partition(2, 4 << 20);
    // Reads 1 GiB for ever.
    one_to_one(
        &partition,
        &assemble(64, CODE, |a| {
            let mut top = a.create_label();
            a.mov(ebx, 0x4000_0000).unwrap();
            a.set_label(&mut top).unwrap();
            a.mov(rax, qword_ptr(rbx)).unwrap();
            a.mov(qword_ptr(DATA), rax).unwrap();
            a.jmp(top).unwrap();
        }),
    );
    let shared = partition.shared().clone();
    let poke = |at: u64, value: u64| {
        use vm_memory::{Bytes, GuestAddress};
        shared.memory.store(value, GuestAddress(at), Ordering::SeqCst).unwrap();
    };
    let peek = |at: u64| -> u64 {
        use vm_memory::{Bytes, GuestAddress};
        shared.memory.load(GuestAddress(at), Ordering::SeqCst).unwrap()
    };
    poke(0x2008, 0x5007);
    poke(0x5000, 0x4007);
    poke(0x4000, 0x10_0007);
    poke(0x10_0000, 1);
    poke(0x10_1000, 2);
    let mut processor = partition.processor(0).unwrap();
    processor.start_at(&start()).unwrap();
    let thread = std::thread::spawn(move || processor.run());
    while peek(DATA) != 1 {
        std::thread::yield_now();
    }
    let flush = TlbFlush {
        address_space: None,
        ranges: vec![TlbRange { start: 0x4000_0000, pages: 1 }],
        keep_global: false,
    };
    for round in 0..100 {
        let frame = if round % 2 == 0 { 0x10_1000 } else { 0x10_0000 };
        poke(0x4000, frame | 7);
        partition.virtual_processors().flush_tlb(None, &[0, 1], &flush);
        // What is stored from now on is the new page's; a store on its way may still be the old one's.
        let expected = peek(frame);
        poke(DATA, 0);
        poke(DATA, 0);
        while peek(DATA) == 0 {
            std::thread::yield_now();
        }
        poke(DATA, 0);
        while peek(DATA) == 0 {
            std::thread::yield_now();
        }
        assert_eq!(peek(DATA), expected, "round {round}");
    }
    partition.stop();
    assert_eq!(thread.join().unwrap(), Exit::Stopped);
}

#[test]
fn locked_increments_of_two_processors_add_up() {
    const ROUNDS: i32 = 200_000;
    let (partition, _, _) = partition(2, 4 << 20);
    one_to_one(
        &partition,
        &assemble(64, CODE, |a| {
            let mut top = a.create_label();
            a.mov(ecx, ROUNDS).unwrap();
            a.set_label(&mut top).unwrap();
            a.lock().inc(qword_ptr(DATA + 3)).unwrap();
            a.dec(ecx).unwrap();
            a.jnz(top).unwrap();
            a.lock().inc(dword_ptr(DATA + 0x100)).unwrap();
            a.hlt().unwrap();
        }),
    );
    let done = Arc::new(AtomicBool::new(false));
    let threads: Vec<_> = (0..2)
        .map(|index| {
            let mut processor = partition.processor(index).unwrap();
            processor.start_at(&start()).unwrap();
            std::thread::spawn(move || processor.run())
        })
        .collect();
    use vm_memory::{Bytes, GuestAddress};
    let memory = &partition.shared().memory;
    while !done.load(Ordering::SeqCst) {
        let finished: u32 = memory.load(GuestAddress(DATA + 0x100), Ordering::SeqCst).unwrap();
        done.store(finished == 2, Ordering::SeqCst);
        std::thread::yield_now();
    }
    partition.stop();
    for thread in threads {
        thread.join().unwrap();
    }
    let sum: u64 = memory.read_obj(GuestAddress(DATA + 3)).unwrap();
    assert_eq!(sum, 2 * ROUNDS as u64);
}
