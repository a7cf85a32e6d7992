//! CBW, CWDE, CDQE, CWD, CDQ, CQO, BSWAP.

use iced_x86::Mnemonic;

use super::arithmetic::{Int, WideInt};
use super::decode::Form;
use super::dispatch::{Outcome, next};
use super::operand::wide_sized;
use crate::op::{Handler, Op};
use crate::registers::gpr;
use crate::vcpu::Vcpu;

/// The accumulator's lower half, sign-extended into the whole of the operand size.
fn extend<T: WideInt, S: Int>(cpu: &mut Vcpu, op: &Op) -> Outcome {
    let value = S::get(cpu, gpr::RAX as u8).sign_extend();
    T::set(cpu, gpr::RAX as u8, T::from_u64(value));
    next(cpu, op)
}

/// The accumulator's sign in all bits of rDX.
fn spread<T: WideInt>(cpu: &mut Vcpu, op: &Op) -> Outcome {
    let value = T::get(cpu, gpr::RAX as u8).sign_extend();
    T::set(cpu, gpr::RDX as u8, T::from_u64((value as i64 >> 63) as u64));
    next(cpu, op)
}

fn swap<T: WideInt>(cpu: &mut Vcpu, op: &Op) -> Outcome {
    let value = T::get(cpu, op.reg).swap_bytes();
    T::set(cpu, op.reg, value);
    next(cpu, op)
}

/// BSWAP of 16 bits is undefined; processors clear them.
fn swap_16(cpu: &mut Vcpu, op: &Op) -> Outcome {
    u16::set(cpu, op.reg, 0);
    next(cpu, op)
}

/// The handler of an instruction of this module.
pub fn select(form: &Form, _op: &mut Op) -> Option<Handler> {
    Some(match form.mnemonic {
        Mnemonic::Cbw => extend::<u16, u8>,
        Mnemonic::Cwde => extend::<u32, u16>,
        Mnemonic::Cdqe => extend::<u64, u32>,
        Mnemonic::Cwd => spread::<u16>,
        Mnemonic::Cdq => spread::<u32>,
        Mnemonic::Cqo => spread::<u64>,
        Mnemonic::Bswap if form.size == 2 => swap_16,
        Mnemonic::Bswap => wide_sized!(form.size, swap),
        _ => return None,
    })
}
