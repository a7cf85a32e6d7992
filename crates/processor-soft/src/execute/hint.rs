//! Instructions without an effect on registers (NOP, ENDBR, prefetches, fences, cache line write-back) and
//! random numbers, which are the host's.

use std::arch::asm;
use std::sync::atomic::{Ordering, fence};

use iced_x86::Mnemonic;

use super::arithmetic::{WideInt, status};
use super::decode::Form;
use super::dispatch::{Outcome, attempt, next};
use super::operand::wide_sized;
use crate::op::{Handler, Op};
use crate::vcpu::Vcpu;

fn nothing(cpu: &mut Vcpu, op: &Op) -> Outcome {
    next(cpu, op)
}

fn barrier(cpu: &mut Vcpu, op: &Op) -> Outcome {
    fence(Ordering::SeqCst);
    next(cpu, op)
}

/// CLFLUSH and its kin are checked like a load of a byte.
fn line(cpu: &mut Vcpu, op: &Op) -> Outcome {
    attempt!(cpu, op, cpu.read::<u8>(op.seg, op.offset(cpu)));
    next(cpu, op)
}

/// A number of the host and whether it had one.
trait Source {
    fn get() -> (u64, bool);
}

struct Random;
impl Source for Random {
    fn get() -> (u64, bool) {
        let (value, good): (u64, u8);
        // SAFETY: changes registers only; the decoder offers what the host has.
        unsafe { asm!("rdrand {}", "setc {}", out(reg) value, out(reg_byte) good, options(nomem, nostack)) };
        (value, good != 0)
    }
}

struct Seed;
impl Source for Seed {
    fn get() -> (u64, bool) {
        let (value, good): (u64, u8);
        // SAFETY: as for RDRAND.
        unsafe { asm!("rdseed {}", "setc {}", out(reg) value, out(reg_byte) good, options(nomem, nostack)) };
        (value, good != 0)
    }
}

/// Sets CF if there was a number and clears all other flags.
fn number<T: WideInt, S: Source>(cpu: &mut Vcpu, op: &Op) -> Outcome {
    let (value, good) = S::get();
    T::set(cpu, op.reg, T::from_u64(if good { value } else { 0 }));
    cpu.status = if good { status::CF } else { 0 };
    next(cpu, op)
}

/// The handler of an instruction of this module.
pub fn select(form: &Form) -> Option<Handler> {
    Some(match form.mnemonic {
        Mnemonic::Nop
        | Mnemonic::Endbr64
        | Mnemonic::Endbr32
        | Mnemonic::Prefetchw
        | Mnemonic::Prefetchnta
        | Mnemonic::Prefetcht0
        | Mnemonic::Prefetcht1
        | Mnemonic::Prefetcht2 => nothing,
        Mnemonic::Mfence | Mnemonic::Lfence | Mnemonic::Sfence => barrier,
        Mnemonic::Rdrand if form.host.rdrand => wide_sized!(form.size, number, Random),
        Mnemonic::Rdseed if form.host.rdseed => wide_sized!(form.size, number, Seed),
        _ => return None,
    })
}

/// The handler of a hint that neither [`crate::system`] nor [`crate::extension`] has claimed.
pub fn fallback(form: &Form) -> Option<Handler> {
    Some(match form.mnemonic {
        Mnemonic::Pause
        | Mnemonic::Reservednop
        | Mnemonic::Cldemote
        | Mnemonic::Prefetch
        | Mnemonic::Prefetchwt1
        | Mnemonic::Prefetchit0
        | Mnemonic::Prefetchit1
        | Mnemonic::Rdsspd
        | Mnemonic::Rdsspq
        // Without the extension that they belong to these are NOPs, too.
        | Mnemonic::Bndmk
        | Mnemonic::Bndcl
        | Mnemonic::Bndcu
        | Mnemonic::Bndcn
        | Mnemonic::Bndmov
        | Mnemonic::Bndldx
        | Mnemonic::Bndstx => nothing,
        Mnemonic::Clflush | Mnemonic::Clflushopt | Mnemonic::Clwb => line,
        _ => return None,
    })
}
