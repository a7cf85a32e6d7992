use crate::fault::vector;
use crate::registers::{cr0, gpr};
use crate::vcpu::Vcpu;

use super::host::component;
use super::image::MXCSR_RESET;
use super::{Host, THUNKS};

const AREA: u64 = 0x4_0000;

/// A processor in 64-bit mode with `code` at RIP and RBX at [`AREA`].
fn processor(code: &[u8]) -> Vcpu {
    let mut vcpu = Vcpu::for_test_64(8 << 20);
    vcpu.xcr0 = Host::get().xcr0;
    vcpu.poke(vcpu.rip, code);
    vcpu.regs[gpr::RBX] = AREA;
    vcpu.regs[gpr::RAX] = u64::MAX;
    vcpu.regs[gpr::RDX] = u64::MAX;
    vcpu
}

fn run(vcpu: &mut Vcpu, instructions: usize) -> Option<u8> {
    for _ in 0..instructions {
        if vcpu.execute_one().is_err() {
            return vcpu.exception.take().map(|exception| exception.vector);
        }
    }
    None
}

const XSAVE: [u8; 3] = [0x0f, 0xae, 0x23];
const XRSTOR: [u8; 3] = [0x0f, 0xae, 0x2b];
const XSAVEC: [u8; 3] = [0x0f, 0xc7, 0x23];

fn filled(code: &[u8]) -> Vcpu {
    let mut vcpu = processor(code);
    let image = &mut vcpu.extension.image;
    for (n, register) in image.vectors.iter_mut().enumerate() {
        register.fill(n as u8 + 1);
    }
    image.masks = std::array::from_fn(|n| n as u64 + 1);
    image.mxcsr = MXCSR_RESET | 0x40;
    vcpu
}

#[test]
fn what_xsave_saves_xrstor_restores() {
    for save in [XSAVE, XSAVEC] {
        let mut vcpu = filled(&[save, XRSTOR].concat());
        let saved = vcpu.extension.image.clone();
        assert_eq!(run(&mut vcpu, 1), None);
        vcpu.extension.reset();
        assert_eq!(run(&mut vcpu, 1), None);
        let image = &vcpu.extension.image;
        assert_eq!(image.vectors[..16], saved.vectors[..16]);
        assert_eq!((image.mxcsr, image.x87), (saved.mxcsr, saved.x87));
        if Host::get().xcr0 & component::AVX512 != 0 {
            assert_eq!((image.vectors, image.masks), (saved.vectors, saved.masks));
        }
    }
}

#[test]
fn xsavec_leaves_out_what_is_in_its_initial_state() {
    let mut vcpu = processor(&XSAVEC);
    vcpu.extension.image.vectors[3][0] = 1;
    assert_eq!(run(&mut vcpu, 1), None);
    assert_eq!(u64::from_le_bytes(vcpu.peek(AREA + 512)), component::SSE);
    assert_eq!(u64::from_le_bytes(vcpu.peek(AREA + 520)), 1 << 63 | Host::get().xcr0);
}

#[test]
fn xrstor_refuses_components_that_xcr0_does_not_enable() {
    let mut vcpu = processor(&XRSTOR);
    vcpu.poke(AREA + 512, &(1_u64 << 9).to_le_bytes());
    assert_eq!(run(&mut vcpu, 1), Some(vector::GENERAL_PROTECTION));
}

#[test]
fn an_area_that_is_not_aligned_raises_general_protection() {
    let mut vcpu = processor(&XSAVE);
    vcpu.regs[gpr::RBX] = AREA + 8;
    assert_eq!(run(&mut vcpu, 1), Some(vector::GENERAL_PROTECTION));
}

#[test]
fn xsetbv_wants_avx512_whole_and_with_avx() {
    // xsetbv
    let mut vcpu = processor(&[0x0f, 0x01, 0xd1]);
    vcpu.regs[gpr::RCX] = 0;
    vcpu.regs[gpr::RAX] = component::X87 | component::SSE | component::OPMASK;
    vcpu.regs[gpr::RDX] = 0;
    assert_eq!(run(&mut vcpu, 1), Some(vector::GENERAL_PROTECTION));
}

#[test]
fn an_unmasked_division_by_zero_leaves_the_destination() {
    // divps xmm1, xmm2
    let mut vcpu = processor(&[0x0f, 0x5e, 0xca]);
    vcpu.extension.image.vectors[1][..4].copy_from_slice(&1.0_f32.to_le_bytes());
    vcpu.extension.image.mxcsr = MXCSR_RESET & !(1 << 9);
    let before = vcpu.extension.image.vectors[1];
    assert_eq!(run(&mut vcpu, 1), Some(vector::SIMD_FLOATING_POINT));
    assert_eq!(vcpu.extension.image.vectors[1], before);
    assert_ne!(vcpu.extension.image.mxcsr & 1 << 2, 0);
}

#[test]
fn an_unmasked_x87_exception_waits_for_the_next_waiting_instruction() {
    // fninit; fld1; fldz; fldcw [rbx]; fdivp; fnstsw ax; fwait
    let code = [0xdb, 0xe3, 0xd9, 0xe8, 0xd9, 0xee, 0xd9, 0x2b, 0xde, 0xf9, 0xdf, 0xe0, 0x9b];
    let mut vcpu = processor(&code);
    vcpu.poke(AREA, &0x37b_u16.to_le_bytes());
    assert_eq!(run(&mut vcpu, 6), None);
    assert_eq!(vcpu.regs[gpr::RAX] & 0x8084, 0x8084, "ES, B and ZE");
    assert_eq!(run(&mut vcpu, 1), Some(vector::FLOATING_POINT));
}

#[test]
fn extension_instructions_wait_for_clts() {
    // addps xmm0, xmm1; fld1; movaps xmm0, xmm1
    for code in [&[0x0f, 0x58, 0xc1][..], &[0xd9, 0xe8], &[0x0f, 0x28, 0xc1]] {
        let mut vcpu = processor(code);
        vcpu.cr0 |= cr0::TS;
        assert_eq!(run(&mut vcpu, 1), Some(vector::DEVICE_NOT_AVAILABLE));
    }
}

#[test]
fn distinct_instructions_beyond_the_room_for_thunks_are_carried_out_all_the_same() {
    let mut vcpu = processor(&[]);
    let start = vcpu.rip;
    let mut cleared = false;
    for n in 0..THUNKS as u32 + 256 {
        // shufps xmm, xmm, imm8 with all registers and immediates
        let (to, from, immediate) = ((n >> 8 & 15) as u8, (n >> 12 & 15) as u8, n as u8);
        let rex = 0x40 | (to >> 3) << 2 | from >> 3;
        vcpu.poke(start, &[rex, 0x0f, 0xc6, 0xc0 | (to & 7) << 3 | from & 7, immediate]);
        vcpu.rip = start;
        assert_eq!(run(&mut vcpu, 1), None);
        if vcpu.rip == start {
            cleared = true;
            assert_eq!(run(&mut vcpu, 1), None);
        }
        assert_eq!(vcpu.rip, start + 5);
    }
    assert!(cleared, "the room was never used up");
}
