//! Programs of a few instructions, run on a test processor in 64-bit mode or in real mode.

use iced_x86::{Decoder, DecoderOptions};

use super::arithmetic::{Int, status};
use crate::differential::sequences::{Undefined, defined};
use crate::fault::{Fault, vector};
use crate::registers::{flag, gpr};
use crate::vcpu::Vcpu;

const CODE: u64 = 0x1_0000;
const DATA: u64 = 0x3_0000;

/// A processor in 64-bit mode with `code` at RIP.
fn processor(code: &[u8]) -> Vcpu {
    let cpu = Vcpu::for_test_64(8 << 20);
    cpu.poke(CODE, code);
    cpu
}

/// Carries out single instructions until RIP is `end` bytes behind the start.
fn run(cpu: &mut Vcpu, end: u64) -> Result<(), Fault> {
    for _ in 0..10_000 {
        if cpu.rip == CODE + end {
            return Ok(());
        }
        cpu.execute_one()?;
    }
    panic!("the program does not end");
}

/// Carries out all of `code`.
fn ran(code: &[u8], prepare: impl FnOnce(&mut Vcpu)) -> Vcpu {
    let mut cpu = processor(code);
    prepare(&mut cpu);
    run(&mut cpu, code.len() as u64).unwrap();
    cpu
}

/// The exception of the first instruction of `code`.
fn exception(code: &[u8], prepare: impl FnOnce(&mut Vcpu)) -> (Vcpu, u8) {
    let mut cpu = processor(code);
    prepare(&mut cpu);
    let _ = cpu.execute_one().unwrap_err();
    let vector = cpu.exception.unwrap().vector;
    (cpu, vector)
}

#[test]
fn a_32_bit_result_clears_the_upper_half_and_a_16_bit_one_keeps_the_rest() {
    let cpu = ran(&[0x01, 0xd8, 0x66, 0x01, 0xd1], |cpu| {
        cpu.regs[gpr::RAX] = 0xffff_ffff_0000_0001;
        cpu.regs[gpr::RBX] = 2;
        cpu.regs[gpr::RCX] = 0x1234_5678_9abc_ffff;
        cpu.regs[gpr::RDX] = 2;
    });
    assert_eq!(cpu.regs[gpr::RAX], 3);
    assert_eq!(cpu.regs[gpr::RCX], 0x1234_5678_9abc_0001);
    assert!(cpu.carry());
}

#[test]
fn high_byte_registers_are_bits_8_to_15() {
    // mov ah, bl; add bh, ah
    let cpu = ran(&[0x88, 0xdc, 0x00, 0xe7], |cpu| {
        cpu.regs[gpr::RAX] = 0x1111;
        cpu.regs[gpr::RBX] = 0x2233;
    });
    assert_eq!(cpu.regs[gpr::RAX], 0x3311);
    assert_eq!(cpu.regs[gpr::RBX], 0x5533);
}

#[test]
fn rex_makes_spl_of_ah() {
    // mov spl, bl
    let cpu = ran(&[0x40, 0x88, 0xdc], |cpu| cpu.regs[gpr::RBX] = 0x77);
    assert_eq!(cpu.regs[gpr::RSP], 0x2_0077);
}

#[test]
fn a_bit_string_reaches_beyond_its_operand() {
    // bts [rbx], rcx
    let cpu = ran(&[0x48, 0x0f, 0xab, 0x0b], |cpu| {
        cpu.regs[gpr::RBX] = DATA;
        cpu.regs[gpr::RCX] = (-3_i64) as u64;
    });
    assert_eq!(u64::from_le_bytes(cpu.peek(DATA - 8)), 1 << 61);
    assert!(!cpu.carry());
}

#[test]
fn a_cmov_of_32_bits_clears_the_upper_half_even_if_it_does_not_move() {
    // cmovz eax, ecx
    let cpu = ran(&[0x0f, 0x44, 0xc1], |cpu| {
        cpu.regs[gpr::RAX] = u64::MAX;
        cpu.status = 0;
    });
    assert_eq!(cpu.regs[gpr::RAX], 0xffff_ffff);
}

#[test]
fn division_raises_its_exception_for_zero_and_for_overflow() {
    // div rcx; idiv rcx
    for code in [[0x48, 0xf7, 0xf1], [0x48, 0xf7, 0xf9]] {
        let (cpu, vector) = exception(&code, |_| ());
        assert_eq!((vector, cpu.rip), (vector::DIVIDE_ERROR, CODE));
    }
    let minimum = |cpu: &mut Vcpu| {
        cpu.regs[gpr::RAX] = 1 << 63;
        cpu.regs[gpr::RDX] = u64::MAX;
        cpu.regs[gpr::RCX] = u64::MAX;
    };
    assert_eq!(exception(&[0x48, 0xf7, 0xf9], minimum).1, vector::DIVIDE_ERROR);
}

#[test]
fn divisions_of_128_bits_are_exact() {
    let cpu = ran(&[0x48, 0xf7, 0xf1], |cpu| {
        cpu.regs[gpr::RDX] = 5;
        cpu.regs[gpr::RAX] = 7;
        cpu.regs[gpr::RCX] = 9;
    });
    let dividend = 5_u128 << 64 | 7;
    assert_eq!(u128::from(cpu.regs[gpr::RAX]), dividend / 9);
    assert_eq!(u128::from(cpu.regs[gpr::RDX]), dividend % 9);
}

#[test]
fn xlat_adds_al_alone() {
    let cpu = ran(&[0xd7], |cpu| {
        cpu.regs[gpr::RBX] = DATA;
        cpu.regs[gpr::RAX] = 0x1234_5605;
        cpu.poke(DATA + 5, &[0x99]);
    });
    assert_eq!(cpu.regs[gpr::RAX], 0x1234_5699);
}

#[test]
fn enter_copies_the_frames_of_the_levels_above() {
    // enter 16, 2
    let cpu = ran(&[0xc8, 16, 0, 2], |cpu| {
        cpu.regs[gpr::RBP] = DATA;
        cpu.poke(DATA - 8, &0x7777_u64.to_le_bytes());
    });
    let frame = 0x2_0000 - 8;
    assert_eq!(cpu.regs[gpr::RBP], frame);
    assert_eq!(cpu.regs[gpr::RSP], frame - 16 - 16);
    let words: [u8; 24] = cpu.peek(frame - 16);
    let expected = [frame, 0x7777, DATA].map(u64::to_le_bytes).concat();
    assert_eq!(words[..], expected[..]);
}

#[test]
fn pop_to_memory_uses_the_stack_pointer_after_the_pop() {
    // push 0x55; pop [rsp + 8]
    let cpu = ran(&[0x6a, 0x55, 0x8f, 0x44, 0x24, 0x08], |_| ());
    assert_eq!(u64::from_le_bytes(cpu.peek(0x2_0008)), 0x55);
    assert_eq!(cpu.regs[gpr::RSP], 0x2_0000);
}

#[test]
fn push_rsp_pushes_the_value_before() {
    let cpu = ran(&[0x54], |_| ());
    assert_eq!(u64::from_le_bytes(cpu.peek(0x1_fff8)), 0x2_0000);
}

#[test]
fn call_and_ret_come_back() {
    // call +1; nop(skipped on return target); f: ret — laid out as: call f; jmp end; f: ret
    let cpu = ran(&[0xe8, 0x02, 0, 0, 0, 0xeb, 0x01, 0xc3], |_| ());
    assert_eq!(cpu.regs[gpr::RSP], 0x2_0000);
    assert_eq!(u64::from_le_bytes(cpu.peek(0x1_fff8)), CODE + 5);
}

#[test]
fn a_single_instruction_is_one_even_if_it_jumps_to_a_known_block() {
    // call f; jmp $-5; f: ret — run for a while, then in single steps
    let mut cpu = processor(&[0xe8, 0x02, 0, 0, 0, 0xeb, 0xf9, 0xc3]);
    for _ in 0..3 {
        cpu.rip = CODE;
        run(&mut cpu, 5).unwrap();
        let vp = cpu.vp.clone();
        std::thread::scope(|scope| {
            scope.spawn(|| vp.call(crate::partition::attention::STOP));
            cpu.execute().unwrap();
        });
        vp.take_attention();
    }
    cpu.rip = CODE;
    let before = cpu.instructions;
    cpu.execute_one().unwrap();
    assert_eq!((cpu.rip, cpu.instructions), (CODE + 7, before + 1));
    cpu.execute_one().unwrap();
    assert_eq!((cpu.rip, cpu.instructions), (CODE + 5, before + 2));
}

#[test]
fn a_loop_counts_every_instruction() {
    // mov ecx, 10; l: dec ecx; jnz l; jmp $
    let mut cpu = processor(&[0xb9, 10, 0, 0, 0, 0xff, 0xc9, 0x75, 0xfc, 0xf4]);
    run(&mut cpu, 9).unwrap();
    assert_eq!(cpu.instructions, 21);
}

#[test]
fn repeated_moves_leave_exact_registers_at_a_page_fault() {
    // rep movsb into an address that is not mapped at its second page
    let mut cpu = processor(&[0xf3, 0xa4]);
    let hole = 2 << 30;
    cpu.regs[gpr::RSI] = DATA;
    cpu.regs[gpr::RDI] = hole - 0x10;
    cpu.regs[gpr::RCX] = 0x40;
    cpu.poke(DATA, &[7; 0x40]);
    // The last page below the hole is not RAM: the bus takes the bytes one by one.
    let _ = cpu.execute_one().unwrap_err();
    let exception = cpu.exception.unwrap();
    assert_eq!((exception.vector, exception.address), (vector::PAGE_FAULT, hole));
    assert_eq!(cpu.regs[gpr::RCX], 0x30);
    assert_eq!(cpu.regs[gpr::RSI], DATA + 0x10);
    assert_eq!(cpu.regs[gpr::RDI], hole);
    assert_eq!(cpu.rip, CODE);
}

#[test]
fn an_overlapping_repeated_move_repeats_bytes() {
    let cpu = ran(&[0xf3, 0xa4], |cpu| {
        cpu.poke(DATA, &[1, 2, 3]);
        cpu.regs[gpr::RSI] = DATA;
        cpu.regs[gpr::RDI] = DATA + 3;
        cpu.regs[gpr::RCX] = 60;
    });
    let bytes: [u8; 63] = cpu.peek(DATA);
    assert!(bytes.chunks(3).all(|chunk| chunk == [1, 2, 3]));
}

#[test]
fn repeated_stores_cross_pages() {
    let cpu = ran(&[0xf3, 0x48, 0xab], |cpu| {
        cpu.regs[gpr::RAX] = 0x0102_0304_0506_0708;
        cpu.regs[gpr::RDI] = DATA - 12;
        cpu.regs[gpr::RCX] = 1024;
    });
    let bytes: [u8; 8192] = cpu.peek(DATA - 12);
    assert!(bytes.chunks(8).all(|chunk| chunk == [8, 7, 6, 5, 4, 3, 2, 1]));
    assert_eq!((cpu.regs[gpr::RCX], cpu.regs[gpr::RDI]), (0, DATA - 12 + 8192));
}

#[test]
fn scas_stops_behind_what_it_looks_for() {
    // repne scasb
    let cpu = ran(&[0xf2, 0xae], |cpu| {
        cpu.poke(DATA, b"hello\0there");
        cpu.regs[gpr::RDI] = DATA;
        cpu.regs[gpr::RCX] = u64::MAX;
    });
    assert_eq!(cpu.regs[gpr::RDI], DATA + 6);
    assert_eq!(!cpu.regs[gpr::RCX], 6);
}

#[test]
fn a_lock_prefix_where_none_may_be_is_undefined() {
    assert_eq!(exception(&[0xf0, 0x01, 0xc0], |_| ()).1, vector::INVALID_OPCODE);
    assert_eq!(exception(&[0xf0, 0x39, 0x03], |_| ()).1, vector::INVALID_OPCODE);
    assert_eq!(exception(&[0xf0, 0x90], |_| ()).1, vector::INVALID_OPCODE);
}

#[test]
fn sixteen_bytes_are_too_long_and_fifteen_are_not() {
    let mut code = [0x66; 16];
    code[15] = 0x90;
    assert_eq!(exception(&code, |_| ()).1, vector::GENERAL_PROTECTION);
    code[14] = 0x90;
    let mut cpu = processor(&code[..15]);
    cpu.execute_one().unwrap();
    assert_eq!(cpu.rip, CODE + 15);
}

#[test]
fn an_instruction_may_cross_a_page_and_faults_at_the_second_one() {
    let mut cpu = processor(&[]);
    // mov rax, imm64 with its last bytes behind the end of the mapping
    cpu.rip = 0x7f_fffb;
    cpu.poke(0x7f_fffb, &[0x48, 0xb8, 1, 2, 3]);
    // Behind RAM the bus answers all ones.
    cpu.execute_one().unwrap();
    assert_eq!(cpu.regs[gpr::RAX], 0xffff_ffff_ff03_0201);

    let mut cpu = processor(&[]);
    cpu.poke(0x2000 + 8, &[0; 8]);
    cpu.poke(0x3000 + 8 * 3, &[0; 8]);
    cpu.rip = 0x5f_fffb;
    cpu.poke(0x5f_fffb, &[0x48, 0xb8, 1, 2, 3]);
    let _ = cpu.execute_one().unwrap_err();
    let exception = cpu.exception.unwrap();
    assert_eq!((exception.vector, exception.address), (vector::PAGE_FAULT, 0x60_0000));
    assert_eq!(cpu.rip, 0x5f_fffb);
}

#[test]
fn code_that_overwrites_its_next_instruction_runs_the_new_one() {
    // mov byte [rip + 1], 0x40 changes `mov al, 0x11` into `mov al, 0x40`
    let mut cpu = processor(&[0xc6, 0x05, 1, 0, 0, 0, 0x40, 0xb0, 0x11, 0xf4]);
    while cpu.rip != CODE + 9 {
        cpu.execute_one().unwrap();
    }
    assert_eq!(cpu.regs[gpr::RAX] & 0xff, 0x40);
}

#[test]
fn an_undefined_instruction_whose_end_is_overwritten_runs_as_what_it_has_become() {
    // nop; REX.WR 06, which is undefined in 64-bit mode
    let mut cpu = processor(&[0x90, 0x4c, 0x06, 0xd8, 0xf4]);
    assert!(cpu.execute().is_err());
    assert_eq!(cpu.exception.take().unwrap().vector, vector::INVALID_OPCODE);
    // nop; add rax, r11; hlt
    cpu.poke(CODE + 2, &[0x01]);
    cpu.rip = CODE;
    cpu.regs[11] = 5;
    cpu.execute().unwrap();
    assert_eq!((cpu.regs[gpr::RAX], cpu.halted), (5, true));
}

#[test]
fn code_beside_data_that_is_written_goes_on() {
    // l: mov [rip + 0x100], ecx; dec ecx; jnz l; hlt — all in one page
    let mut cpu = processor(&[0x89, 0x0d, 0, 1, 0, 0, 0xff, 0xc9, 0x75, 0xf6, 0xf4]);
    cpu.regs[gpr::RCX] = 1000;
    while !cpu.halted {
        cpu.execute().unwrap();
    }
    assert_eq!(cpu.instructions, 3001);
    assert_eq!(u32::from_le_bytes(cpu.peek(CODE + 0x106)), 1);
}

#[test]
fn a_block_across_pages_sees_that_its_second_page_is_written() {
    // l: at the end of a page: mov eax, imm32 with the immediate on the next page; there: call f; cmp; jne l; hlt
    let start = CODE + 0xfff;
    let mut cpu = processor(&[]);
    // mov eax, 1; add edx, eax; inc dword [rip - 13] (the immediate); cmp eax, 5; jb l; hlt
    cpu.poke(
        start,
        &[
            0xb8, 1, 0, 0, 0, 0x01, 0xc2, 0xff, 0x05, 0xf4, 0xff, 0xff, 0xff, 0x83, 0xf8, 0x05, 0x72, 0xee,
            0xf4,
        ],
    );
    cpu.rip = start;
    cpu.regs[gpr::RDX] = 0;
    while !cpu.halted {
        cpu.execute().unwrap();
    }
    assert_eq!((cpu.regs[gpr::RAX], cpu.regs[gpr::RDX]), (5, 15));
}

#[test]
fn cmpxchg16b_exchanges_if_equal() {
    let cpu = ran(&[0xf0, 0x48, 0x0f, 0xc7, 0x0b], |cpu| {
        cpu.regs[gpr::RBX] = DATA;
        cpu.regs[gpr::RCX] = 9;
        cpu.regs[gpr::RDX] = 0;
    });
    assert_eq!(cpu.peek::<16>(DATA), (9_u128 << 64 | u128::from(DATA)).to_le_bytes());
    assert_ne!(cpu.status & status::ZF, 0);
}

#[test]
fn popf_at_privilege_level_3_keeps_iopl_and_the_interrupt_flag() {
    let cpu = ran(&[0x9d], |cpu| {
        cpu.poke(0x2_0000, &(flag::IF | flag::IOPL | flag::DF).to_le_bytes());
        cpu.cpl = 3;
        cpu.access_changed();
    });
    assert_eq!(cpu.rflags() & (flag::IF | flag::IOPL | flag::DF), flag::DF);
}

#[test]
fn sti_holds_interrupts_off_for_one_instruction() {
    let mut cpu = processor(&[0xfb]);
    cpu.execute_one().unwrap();
    assert!(cpu.interrupt_shadow);
    assert_ne!(cpu.flags & flag::IF, 0);
    assert_eq!(cpu.rip, CODE + 1);
}

#[test]
fn operands_far_from_rip_are_reached_from_anywhere_in_a_block() {
    // nop; lea rax, [rip + 0x7fffffff]
    let cpu = ran(&[0x90, 0x48, 0x8d, 0x05, 0xff, 0xff, 0xff, 0x7f], |_| ());
    assert_eq!(cpu.regs[gpr::RAX], CODE + 8 + 0x7fff_ffff);
    let mut cpu = processor(&[0x90, 0x48, 0x8d, 0x05, 0xff, 0xff, 0xff, 0x7f, 0xeb, 0xfe]);
    let vp = cpu.vp.clone();
    std::thread::scope(|scope| {
        scope.spawn(|| vp.call(crate::partition::attention::STOP));
        cpu.execute().unwrap();
    });
    // The thread may have been faster than the first block.
    assert!(cpu.regs[gpr::RAX] == 0 || cpu.regs[gpr::RAX] == CODE + 8 + 0x7fff_ffff);
}

#[test]
fn real_mode_code_wraps_addresses_at_16_bits() {
    let mut cpu = Vcpu::for_test(1 << 20);
    cpu.segments[1] = crate::registers::real_mode_segment(0x100, true);
    cpu.segments[3] = crate::registers::real_mode_segment(0x200, false);
    cpu.mode_changed();
    cpu.rip = 0;
    cpu.regs[gpr::RBX] = 0xffff;
    cpu.regs[gpr::RSI] = 2;
    cpu.poke(0x2001, &[0x5a]);
    // mov al, [bx + si]; aam
    cpu.poke(0x1000, &[0x8a, 0x00, 0xd4, 0x0a]);
    cpu.execute_one().unwrap();
    assert_eq!(cpu.regs[gpr::RAX] & 0xff, 0x5a);
    cpu.execute_one().unwrap();
    assert_eq!(cpu.regs[gpr::RAX] & 0xffff, 0x0900);
}

#[test]
fn the_limit_of_the_code_segment_ends_a_block() {
    let mut cpu = Vcpu::for_test(1 << 20);
    cpu.segments[1] = crate::registers::real_mode_segment(0x100, true);
    cpu.segments[1].limit = 2;
    cpu.mode_changed();
    cpu.rip = 0;
    // Two instructions within the limit, the third one beyond it.
    cpu.poke(0x1000, &[0x40, 0x40, 0xb8, 0x01, 0x00]);
    let _ = cpu.execute().unwrap_err();
    assert_eq!(cpu.exception.unwrap().vector, vector::GENERAL_PROTECTION);
    assert_eq!((cpu.rip, cpu.regs[gpr::RAX]), (2, 2));
}

#[test]
fn decimal_adjustments_follow_the_manual() {
    // (AL, CF, AF) before, AL and CF after, by the pseudo code of DAA
    for (al, carry, adjust, result, carry_after) in
        [(0x79 + 0x35, 0, 0, 0x14, 1), (0x15, 0, 1, 0x1b, 0), (0x9a, 0, 0, 0x00, 1), (0x10, 1, 0, 0x70, 1)]
    {
        let mut cpu = Vcpu::for_test(1 << 20);
        cpu.segments[1] = crate::registers::real_mode_segment(0x100, true);
        cpu.mode_changed();
        cpu.rip = 0;
        cpu.poke(0x1000, &[0x27]);
        cpu.regs[gpr::RAX] = al;
        cpu.status = (carry * status::CF) | (adjust * status::AF);
        cpu.execute_one().unwrap();
        assert_eq!((cpu.regs[gpr::RAX] & 0xff, u64::from(cpu.carry())), (result, carry_after), "{al:#x}");
    }
}

/// A stream of numbers, the same in every run.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        let value = self.0 ^ self.0 >> 29;
        // Edges are where carries and signs change.
        match value >> 61 {
            0 => [0, 1, u64::MAX, 1 << 63, 1 << 31, 1 << 15, 0x7f, 0x80][(value >> 8 & 7) as usize],
            _ => value,
        }
    }
}

/// The same as the trait's operations, in plain arithmetic.
fn add_flags(a: u64, b: u64, carry: u64, bits: u32) -> (u64, u32) {
    let mask = u64::MAX >> (64 - bits);
    let (a, b) = (a & mask, b & mask);
    let wide = u128::from(a) + u128::from(b) + u128::from(carry);
    let result = wide as u64 & mask;
    let sign = 1 << (bits - 1);
    let mut flags = 0;
    flags |= if wide >> bits != 0 { status::CF } else { 0 };
    flags |= if result == 0 { status::ZF } else { 0 };
    flags |= if result & sign != 0 { status::SF } else { 0 };
    flags |= if (a ^ result) & (b ^ result) & sign != 0 { status::OF } else { 0 };
    flags |= if (a ^ b ^ result) & 0x10 != 0 { status::AF } else { 0 };
    flags |= if (result as u8).count_ones().is_multiple_of(2) { status::PF } else { 0 };
    (result, flags)
}

fn additions_agree<T: Int>() {
    let mut numbers = Numbers(1);
    for _ in 0..20_000 {
        let (a, b, carry) = (numbers.next(), numbers.next(), numbers.next() & 1);
        let before = (carry as u32) << 8;
        let plain = |(value, flags): (T, u32)| (value.to_u64(), flags & status::ALL);
        let (x, y) = (T::from_u64(a), T::from_u64(b));
        assert_eq!(plain(T::add(x, y)), add_flags(a, b, 0, T::BITS));
        assert_eq!(plain(T::adc(x, y, before)), add_flags(a, b, carry, T::BITS));
        // a - b is a + !b + 1 with the carries turned round.
        let (difference, flags) = add_flags(a, !b, 1 - carry, T::BITS);
        let flags = flags ^ status::CF ^ status::AF;
        assert_eq!(plain(T::sbb(x, y, before)), (difference, flags));
    }
}

#[test]
fn flags_of_additions_are_those_of_the_definition() {
    additions_agree::<u8>();
    additions_agree::<u16>();
    additions_agree::<u32>();
    additions_agree::<u64>();
}

#[test]
fn shifts_load_the_flags_before_and_rotates_keep_those_that_they_do_not_touch() {
    let all = status::ALL;
    let (value, flags) = u32::rol(0x8000_0000, 1, all);
    assert_eq!((value, flags & all), (1, all), "OF is the exclusive or of the two ends");
    let (value, flags) = u64::rcl(0, 2, status::CF);
    assert_eq!((value, flags & status::CF), (2, 0));
    let (value, flags) = u8::shl(0x81, 1, 0);
    assert_eq!((value, flags & (status::CF | status::OF)), (2, status::CF | status::OF));
}

/// Nanoseconds that this thread has been running, whatever else the host does.
fn time_on_processor() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    text.split(' ').next().unwrap().parse().unwrap()
}

/// Prints how many million instructions a second some loops run at.
#[test]
#[ignore = "a measurement"]
fn rate() {
    let loops: [(&str, &[u8]); 4] = [
        // l: add rax, rbx; xor rcx, rax; shl rdx, 1; add rdx, rcx; dec rsi; jnz l
        (
            "integer",
            &[
                0x48, 0x01, 0xd8, 0x48, 0x31, 0xc1, 0x48, 0xd1, 0xe2, 0x48, 0x01, 0xca, 0x48, 0xff, 0xce,
                0x75, 0xef,
            ],
        ),
        // l: mov rax, [rdi+8]; add rax, rbx; mov [rdi+8], rax; mov rcx, [rdi+rbx*8]; cmp rcx, rax; dec rsi; jnz l
        (
            "memory",
            &[
                0x48, 0x8b, 0x47, 0x08, 0x48, 0x01, 0xd8, 0x48, 0x89, 0x47, 0x08, 0x48, 0x8b, 0x0c, 0xdf,
                0x48, 0x39, 0xc1, 0x48, 0xff, 0xce, 0x75, 0xe9,
            ],
        ),
        // l: call f; dec rsi; jnz l; jmp l; f: push rbx; mov rbx, rsi; pop rbx; ret
        (
            "calls",
            &[
                0xe8, 0x07, 0, 0, 0, 0x48, 0xff, 0xce, 0x75, 0xf6, 0xeb, 0xf4, 0x53, 0x48, 0x89, 0xf3, 0x5b,
                0xc3,
            ],
        ),
        // l: movzx eax, byte [rdi]; test al, al; je +2; add rdi, 0; cmp eax, 5; ja +0 ; dec rsi; jnz l
        (
            "branches",
            &[
                0x0f, 0xb6, 0x07, 0x84, 0xc0, 0x74, 0x04, 0x48, 0x83, 0xc7, 0x00, 0x83, 0xf8, 0x05, 0x77,
                0x00, 0x48, 0xff, 0xce, 0x75, 0xeb,
            ],
        ),
    ];
    for (name, code) in loops {
        let mut cpu = processor(code);
        cpu.regs[gpr::RDI] = DATA;
        cpu.regs[gpr::RBX] = 1;
        cpu.regs[gpr::RSI] = u64::MAX;
        let vp = cpu.vp.clone();
        let start = time_on_processor();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(std::time::Duration::from_millis(1000));
                vp.call(crate::partition::attention::STOP);
            });
            cpu.execute().unwrap();
        });
        let rate = cpu.instructions as f64 * 1e3 / (time_on_processor() - start) as f64;
        println!("{name}: {rate:.0} million instructions a second");
    }
}

/// One instruction of a random program that jumps forwards only.
fn random_instruction(numbers: &mut Numbers, code: &mut Vec<u8>) {
    let mut byte = |below: u64| (numbers.next() >> 7) % below;
    // RSP and RDI (the data pointer) are never a destination.
    let register = |number: u64| [0, 1, 2, 3, 5, 6, 8, 9][number as usize];
    let (reg, rm) = (register(byte(8)), register(byte(8)));
    let rex = 0x40 | (byte(2) as u8) << 3 | (reg >> 3) << 2 | rm >> 3;
    let modrm = 0xc0 | (reg & 7) << 3 | rm & 7;
    match byte(10) {
        0..=2 => {
            let opcode = [0x01, 0x09, 0x11, 0x19, 0x21, 0x29, 0x31, 0x39, 0x85][byte(9) as usize];
            code.extend([rex, opcode, modrm]);
        }
        3 => code.extend([rex, 0xc1, 0xc0 | (byte(8) as u8) << 3 | rm & 7, byte(70) as u8]),
        4 => code.extend([rex, 0xd3, 0xc0 | (byte(8) as u8) << 3 | rm & 7]),
        5 => code.extend([rex, 0xff, 0xc0 | (byte(2) as u8) << 3 | rm & 7]),
        6 => code.extend([rex, 0x0f, 0xaf, modrm]),
        // add reg, [rdi + disp8]; sub [rdi + disp8], reg
        7 => code.extend([rex & !1, [0x03, 0x29][byte(2) as usize], 0x47 | (reg & 7) << 3, byte(64) as u8]),
        8 => code.extend([rex, 0x0f, 0x40 | byte(16) as u8, modrm]),
        // A comparison, and a jump over an increment.
        _ => {
            code.extend([rex, [0x39, 0x85][byte(2) as usize], modrm]);
            code.extend([0x70 | byte(16) as u8, 0x03, 0x48, 0xff, 0xc0]);
        }
    }
}

#[test]
fn blocks_do_what_their_instructions_do_one_by_one() {
    let mut numbers = Numbers(7);
    for round in 0..300 {
        let (mut code, mut undefined) = (Vec::new(), Undefined::default());
        for _ in 0..60 {
            let mut more = Vec::new();
            random_instruction(&mut numbers, &mut more);
            // Those whose flags nobody wants show in flags that the next one leaves undefined, on some hosts.
            let mut after = undefined.clone();
            let mut instructions = Decoder::new(64, &more, DecoderOptions::NONE).into_iter();
            let allowed = instructions.all(|instruction| {
                let allowed = after.allows(&instruction);
                after.note(&instruction);
                allowed
            });
            if allowed {
                after.join();
                undefined = after;
                code.extend(more);
            }
        }
        let undefined = undefined.flags();
        let end = code.len() as u64;
        code.push(0xf4);
        let (mut whole, mut stepped) = (processor(&code), processor(&code));
        for cpu in [&mut whole, &mut stepped] {
            let mut values = Numbers(round);
            cpu.regs[..16].fill_with(|| values.next());
            cpu.regs[gpr::RDI] = DATA;
            cpu.status = values.next() as u32 & status::ALL;
        }
        run(&mut stepped, end).unwrap();
        while !whole.halted {
            whole.execute().unwrap();
        }
        assert_eq!(whole.regs[..16], stepped.regs[..16], "round {round}");
        assert_eq!(defined(whole.rflags(), undefined), defined(stepped.rflags(), undefined), "round {round}");
        assert_eq!(whole.peek::<96>(DATA), stepped.peek::<96>(DATA), "round {round}");
        assert_eq!(whole.instructions, stepped.instructions + 1, "round {round}");
    }
}
