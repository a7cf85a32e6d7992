//! SYSCALL and SYSRET without Rust: from 64-bit code of privilege level 3 in the lower half of the address space
//! to 64-bit code of level 0 in the upper half and back, as operating systems have it.
//!
//! What changes at such a call has been worked out before ([`FastCall`]) and is only copied. That is done when the
//! interpreter's handler has carried one out, and holds until something of what it was made from ([`Inputs`]) is
//! another. Whatever is unusual about a call goes to the handler: single step, AC, interrupts that wait for IF.

use std::mem::offset_of;
use std::ptr::null;

use processor::Segment;

use super::emit::{Emitter, Mem, condition, host};
use super::lower::pack_transfer;
use super::mode::Mode;
use super::state::{self, NO_CHECK, Switch};
use super::stubs::{Stubs, flags_of_status, look_up};
use crate::memory::Class;
use crate::registers::{Seg, cr4, efer, flag};
use crate::system::fast_call::{syscall_segments, sysret_segments};
use crate::vcpu::Vcpu;

/// Any address of the upper half, for its code key.
const UPPER: u64 = 1 << 63;
/// Flags that SYSRET takes from R11, beside the arithmetic ones; what it takes of others is always the same here.
const RETURNED: u64 = 0x3c_7fd7 & !(flag::ARITHMETIC | flag::FIXED | flag::TF | flag::AC);

/// The processor behind a SYSCALL or SYSRET.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct FastCall {
    /// [`super::Shared::key`]; 0 if the instruction is left to the interpreter's handler.
    key: u64,
    code_key: u64,
    code_entries: *const u8,
    tables: Switch,
    code: Segment,
    stack: Segment,
    time_barred: u64,
    /// Target of SYSCALL.
    rip: u64,
    /// Flags that SYSCALL leaves alone.
    kept: u64,
}

const WORDS: usize = size_of::<Segment>() / 8;
const _: () = assert!(size_of::<Segment>() == WORDS * 8, "segments are copied in words");

impl FastCall {
    pub const CLOSED: Self = Self {
        key: 0,
        code_key: 0,
        code_entries: null(),
        tables: Switch::NONE,
        code: NO_SEGMENT,
        stack: NO_SEGMENT,
        time_barred: 0,
        rip: 0,
        kept: 0,
    };
}

const NO_SEGMENT: Segment =
    Segment { selector: 0, base: 0, limit: 0, attributes: processor::SegmentAttributes(0) };

/// SYSCALL and SYSRET.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct FastCalls {
    enter: FastCall,
    leave: FastCall,
    /// What they were made from, if they are open.
    inputs: Option<Inputs>,
}

impl FastCalls {
    pub const CLOSED: Self = Self { enter: FastCall::CLOSED, leave: FastCall::CLOSED, inputs: None };

    /// Leaves both to the interpreter's handlers.
    pub fn close(&mut self) {
        (self.enter.key, self.leave.key, self.inputs) = (0, 0, None);
    }
}

/// All that decides what a call does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Inputs {
    star: u64,
    lstar: u64,
    fmask: u64,
    efer: u64,
    cr4: u64,
    breakpoints: bool,
    /// Of the lower and the upper half. They change with the address space.
    code_keys: [u64; 2],
}

impl Inputs {
    fn of(cpu: &Vcpu) -> Self {
        let msrs = &cpu.msrs;
        Self {
            star: msrs.star,
            lstar: msrs.lstar,
            fmask: msrs.fmask,
            efer: cpu.efer,
            cr4: cpu.cr4,
            breakpoints: cpu.has_breakpoints(),
            code_keys: [cpu.mmu.code_key(0), cpu.mmu.code_key(UPPER)],
        }
    }
}

impl Vcpu {
    /// Something may have changed since generated code ran last.
    #[inline]
    pub(super) fn check_fast_calls(&mut self) {
        if let Some(inputs) = self.generated.fast_calls.inputs
            && inputs != Inputs::of(self)
        {
            self.generated.fast_calls.close();
        }
    }

    /// A SYSCALL or SYSRET has been carried out, and generated code knows where everything is: makes the next
    /// ones fast, if they can be.
    pub(super) fn open_fast_calls(&mut self) {
        const MASKED: u64 = flag::ARITHMETIC | flag::AC;
        // SAFETY: `run_translated` has set it and does not use it while generated code runs.
        let translator = unsafe { &mut *self.generated.translator };
        let msrs = &self.msrs;
        let usual = self.efer & (efer::SCE | efer::LMA) == efer::SCE | efer::LMA
            && self.code_64()
            && self.canonical(msrs.lstar)
            && msrs.lstar & UPPER != 0
            && msrs.fmask & MASKED == MASKED
            && !self.has_breakpoints();
        if !usual || translator.unlinked || self.generated.fast_calls.inputs.is_some() {
            return;
        }
        let (star, rip) = (msrs.star, msrs.lstar);
        let kept = !(msrs.fmask | flag::RF | flag::ARITHMETIC) & 0x3f_7fd5 | flag::FIXED;
        let inputs = Inputs::of(self);
        let code_keys = [Mode::USER.key(inputs.code_keys[0]), Mode::KERNEL.key(inputs.code_keys[1])];
        let barred = if self.cr4_has(cr4::SMAP) { Class::Supervisor } else { Class::SupervisorAndUser };
        // In the kernel STAC and CLAC are carried out by generated code.
        self.generated.stac = self.switch_to(Class::SupervisorAndUser);
        self.generated.clac = self.switch_to(barred);
        let (code, stack) = syscall_segments(star, true);
        let enter = FastCall {
            key: translator.key(code_keys[1]),
            code_key: code_keys[1],
            code_entries: self.mmu.code_entries(false),
            tables: self.generated.clac,
            code,
            stack,
            time_barred: 0,
            rip,
            kept,
        };
        let (code, stack) = sysret_segments(star, true);
        let leave = FastCall {
            key: translator.key(code_keys[0]),
            code_key: code_keys[0],
            code_entries: self.mmu.code_entries(true),
            tables: self.switch_to(Class::User),
            code,
            stack,
            time_barred: u64::from(self.cr4_has(cr4::TSD)),
            rip: 0,
            kept: 0,
        };
        self.generated.fast_calls = FastCalls { enter, leave, inputs: Some(inputs) };
    }
}

/// A field of what belongs to SYSCALL (`enter`) or SYSRET.
fn field(enter: bool, offset: usize) -> Mem {
    let of = if enter { offset_of!(FastCalls, enter) } else { offset_of!(FastCalls, leave) };
    state::fast_calls(of + offset)
}

/// All that is copied. S1 is overwritten.
fn change(e: &mut Emitter, enter: bool) {
    let segments = [(Seg::Cs, offset_of!(FastCall, code)), (Seg::Ss, offset_of!(FastCall, stack))];
    for (seg, from) in segments {
        for word in 0..WORDS {
            e.load(host::S1, field(enter, from + word * 8));
            e.store(state::segment(seg, word * 8), host::S1);
        }
    }
    e.store_imm_8(state::privilege_level(), if enter { 0 } else { 3 });
    let tables = offset_of!(FastCall, tables);
    e.load(host::S1, field(enter, tables + offset_of!(Switch, tables)));
    e.write_fs_base(host::S1);
    e.store(state::tables(), host::S1);
    e.load(host::S1, field(enter, tables + offset_of!(Switch, entries)));
    e.store(state::entries(), host::S1);
    e.load_32(host::S1, field(enter, tables + offset_of!(Switch, class)));
    e.store_8(state::class(), host::S1);
    e.load_32(host::S1, field(enter, offset_of!(FastCall, time_barred)));
    e.store_8(state::time_barred(), host::S1);
    for (from, to) in [
        (offset_of!(FastCall, key), state::key()),
        (offset_of!(FastCall, code_key), state::code_key()),
        (offset_of!(FastCall, code_entries), state::code_entries()),
    ] {
        e.load(host::S1, field(enter, from));
        e.store(to, host::S1);
    }
    e.store_imm(state::half(), i32::from(enter));
    e.store_imm(state::mode(), if enter { Mode::KERNEL } else { Mode::USER }.number() as i32);
}

/// Goes to the RIP in S0, which is canonical.
fn go(e: &mut Emitter, stubs: &Stubs) {
    let (label, other_key) = look_up(e);
    e.bind(other_key);
    e.load(host::S0, Mem::base(host::S1, 0));
    e.bind(label);
    e.store_imm_32(state::transfer(), pack_transfer(NO_CHECK, 0));
    e.jump_to(stubs.miss);
}

/// SYSCALL. Called as [`Stubs::interpret_flags_saved`] is, to which it leads if the call is not a fast one.
pub fn syscall(e: &mut Emitter, stubs: &Stubs) -> u64 {
    const RCX: u8 = host::RCX;
    const R11: u8 = 11;
    let start = e.here();
    let slow = e.label();
    e.cmp_mem_imm_32(field(true, offset_of!(FastCall, key)), 0);
    e.jump_if(condition::EQUAL, slow);
    // The upper half of the packed site is the offset of the next instruction.
    e.load_32(RCX, Mem::base(host::S1, -4));
    e.add_mem(RCX, state::page());
    flags_of_status(e, R11, host::S0);
    e.or_mem(R11, state::flags());
    e.and_imm(R11, !(flag::RF as i32));
    e.mov(host::S0, R11);
    e.and_mem(host::S0, field(true, offset_of!(FastCall, kept)));
    e.store(state::flags(), host::S0);
    e.store_imm_32(state::status(), 0);
    change(e, true);
    e.load(host::S0, field(true, offset_of!(FastCall, rip)));
    go(e, stubs);
    e.bind(slow);
    e.jump_to(stubs.interpret_flags_saved);
    start
}

/// SYSRET to 64-bit code, in the same way.
pub fn sysret(e: &mut Emitter, stubs: &Stubs) -> u64 {
    const RCX: u8 = host::RCX;
    const R11: u8 = 11;
    let start = e.here();
    let (slow, scratch_used) = (e.label(), e.label());
    e.cmp_mem_imm_32(field(false, offset_of!(FastCall, key)), 0);
    e.jump_if(condition::EQUAL, slow);
    e.cmp_mem_8(state::interrupt_waiting(), 0);
    e.jump_if(condition::NOT_EQUAL, slow);
    e.store(state::target(), host::S0);
    // Addresses of the lower half in every paging mode.
    e.mov(host::S0, RCX);
    e.shr(host::S0, 47);
    e.jump_if(condition::NOT_EQUAL, scratch_used);
    e.mov_32(host::S0, R11);
    e.and_imm_32(host::S0, (flag::TF | flag::AC) as i32);
    e.jump_if(condition::NOT_EQUAL, scratch_used);
    e.mov_32(host::S0, R11);
    e.and_imm_32(host::S0, RETURNED as i32);
    e.lea(host::S0, Mem::base(host::S0, flag::FIXED as i32));
    e.store(state::flags(), host::S0);
    e.mov_32(host::S0, R11);
    e.and_imm_32(host::S0, (flag::ARITHMETIC & 0xff) as i32);
    e.shl_32(host::S0, 8);
    e.mov_32(host::S1, R11);
    e.shr(host::S1, 11);
    e.and_imm_32(host::S1, 1);
    e.lea(host::S0, Mem::indexed(Some(host::S0), host::S1, 0, 0));
    e.store_32(state::status(), host::S0);
    change(e, false);
    e.mov(host::S0, RCX);
    go(e, stubs);
    e.bind(scratch_used);
    e.load(host::S0, state::target());
    e.bind(slow);
    e.jump_to(stubs.interpret_flags_saved);
    start
}

#[cfg(test)]
mod tests {
    use iced_x86::code_asm::*;
    use processor::SegmentAttributes;

    use super::*;
    use crate::registers::gpr;
    use crate::testing::{CODE, assemble, guest};

    /// The upper half of the test's address space is the lower one again.
    const UPPER_HALF: u64 = 0xffff_ff80_0000_0000;
    const HANDLER: u64 = 0x3_0000;
    const CALLS: u64 = 200;

    /// A program that makes [`CALLS`] system calls with all sorts of flags and adds up what comes back, and a last
    /// one at which its kernel halts.
    fn caller() -> Box<Vcpu> {
        let mut vcpu = guest(|a| {
            let mut top = a.create_label();
            a.mov(r15d, CALLS as u32).unwrap();
            a.xor(eax, eax).unwrap();
            a.xor(ebx, ebx).unwrap();
            a.xor(edx, edx).unwrap();
            a.set_label(&mut top).unwrap();
            a.imul_3(esi, r15d, 0x1234_5677).unwrap();
            a.add(esi, 0x6000_0000).unwrap();
            a.syscall().unwrap();
            a.setc(dil).unwrap();
            a.add(rax, rcx).unwrap();
            a.imul_3(rdx, rdx, 31).unwrap();
            a.add(rdx, r11).unwrap();
            a.add(dl, dil).unwrap();
            a.dec(r15d).unwrap();
            a.jne(top).unwrap();
            a.mov(eax, -1).unwrap();
            a.syscall().unwrap();
        });
        vcpu.poke(0x1000 + 511 * 8, &0x2007_u64.to_le_bytes());
        let ip = UPPER_HALF + HANDLER;
        let handler = assemble(64, ip, |a| {
            let mut end = a.create_label();
            a.inc(rbx).unwrap();
            a.cmp(eax, -1).unwrap();
            a.je(end).unwrap();
            a.sysretq().unwrap();
            a.set_label(&mut end).unwrap();
            a.hlt().unwrap();
        });
        vcpu.poke(HANDLER, &handler);
        vcpu.msrs.star = 0x1b << 48 | 0x10 << 32;
        vcpu.msrs.lstar = ip;
        vcpu.msrs.fmask = flag::ARITHMETIC | flag::AC | flag::IF;
        // As the run loop leaves it when it has asked the APIC.
        vcpu.interrupt_waiting = false;
        make_user(&mut vcpu);
        vcpu
    }

    fn make_user(vcpu: &mut Vcpu) {
        vcpu.cpl = 3;
        vcpu.segments[Seg::Cs as usize].attributes = SegmentAttributes(0xa0fb);
        vcpu.segments[Seg::Ss as usize].attributes = SegmentAttributes(0xc0f3);
        vcpu.mode_changed();
    }

    fn run(vcpu: &mut Vcpu, translated: bool) {
        for _ in 0..10 * CALLS {
            let result = if translated { vcpu.execute_translated() } else { vcpu.execute() };
            assert!(result.is_ok(), "{:?}", vcpu.exception);
            if vcpu.halted {
                return;
            }
        }
        panic!("the guest does not end");
    }

    fn same(a: &Vcpu, b: &Vcpu) {
        assert_eq!(a.regs, b.regs);
        assert_eq!((a.rip, a.rflags(), a.cpl, a.halted), (b.rip, b.rflags(), b.cpl, b.halted));
        assert_eq!(a.segments, b.segments);
        assert_eq!(a.mmu.class(), b.mmu.class());
    }

    #[test]
    fn fast_system_calls_do_what_the_interpreter_does() {
        let (mut fast, mut slow) = (caller(), caller());
        run(&mut fast, true);
        run(&mut slow, false);
        same(&fast, &slow);
        assert_eq!(fast.regs[gpr::RBX], CALLS + 1);
        let interpreted = fast.translator.as_ref().unwrap().counts.interpreted;
        assert!(interpreted < 10, "{interpreted} instructions were left to the interpreter");
    }

    #[test]
    fn another_entry_is_taken_at_once() {
        let mut vcpu = caller();
        run(&mut vcpu, true);
        // hlt
        vcpu.poke(HANDLER + 0x100, &[0xf4]);
        vcpu.msrs.lstar += 0x100;
        (vcpu.halted, vcpu.rip) = (false, CODE);
        make_user(&mut vcpu);
        run(&mut vcpu, true);
        assert_eq!(vcpu.rip, UPPER_HALF + HANDLER + 0x101);
    }

    #[test]
    fn a_return_with_a_trap_flag_or_to_the_upper_half_is_left_to_the_handler() {
        let mut vcpu = caller();
        let ip = UPPER_HALF + HANDLER;
        let handler = assemble(64, ip, |a| {
            let mut back = a.create_label();
            a.inc(rbx).unwrap();
            a.cmp(ebx, 100).unwrap();
            a.jne(back).unwrap();
            a.or(r11d, flag::TF as i32).unwrap();
            a.set_label(&mut back).unwrap();
            a.sysretq().unwrap();
        });
        vcpu.poke(HANDLER, &handler);
        while vcpu.flags & flag::TF == 0 {
            vcpu.execute_translated().unwrap();
        }
        assert_eq!((vcpu.regs[gpr::RBX], vcpu.cpl, vcpu.rip), (100, 3, vcpu.regs[gpr::RCX]));

        let mut vcpu = caller();
        let handler = assemble(64, ip, |a| {
            let mut back = a.create_label();
            a.inc(rbx).unwrap();
            a.cmp(ebx, 100).unwrap();
            a.jne(back).unwrap();
            a.mov(rcx, 1_u64 << 63).unwrap();
            a.set_label(&mut back).unwrap();
            a.sysretq().unwrap();
        });
        vcpu.poke(HANDLER, &handler);
        while vcpu.execute_translated().is_ok() {}
        assert_eq!((vcpu.regs[gpr::RBX], vcpu.cpl), (100, 0));
        assert_eq!(vcpu.exception.unwrap().vector, crate::fault::vector::GENERAL_PROTECTION);
    }
}
