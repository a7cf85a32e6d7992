use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use std::sync::Arc;

use iced_x86::code_asm::*;
use processor::{GeneralRegister, HypercallContext, HypercallOutcome, HypervisorInterface, MsrOutcome};

use super::*;
use crate::registers::flag;

const IDLE: u32 = 0x4000_00f0;
const KNOWN: u32 = 0x4000_0002;

/// An interface with one idle MSR, one that holds a value, and a hypercall that wants to be repeated twice.
#[derive(Default)]
struct Fake {
    value: AtomicU64,
    calls: AtomicU32,
}

impl HypervisorInterface for Fake {
    fn cpuid(&self, vp: u32, leaf: u32, subleaf: u32) -> [u32; 4] {
        [leaf, subleaf, vp, 0x1234]
    }
    fn read_msr(&self, _vp: u32, msr: u32) -> MsrOutcome<u64> {
        match msr {
            IDLE => MsrOutcome::Halt(0),
            KNOWN => MsrOutcome::Done(self.value.load(Ordering::SeqCst)),
            _ => MsrOutcome::NotMine,
        }
    }
    fn write_msr(&self, _vp: u32, msr: u32, value: u64) -> MsrOutcome<()> {
        if msr != KNOWN {
            return MsrOutcome::GeneralProtection;
        }
        self.value.store(value, Ordering::SeqCst);
        MsrOutcome::Done(())
    }
    fn hypercall(&self, _vp: u32, context: &mut dyn HypercallContext) -> HypercallOutcome {
        assert!(context.long_mode() && context.protected_mode());
        let input = context.register(GeneralRegister::Rcx);
        context.set_register(GeneralRegister::Rax, input + 1);
        context.set_xmm(1, context.xmm(0) + 1);
        match self.calls.fetch_add(1, Ordering::SeqCst) {
            0 | 1 => HypercallOutcome::Again,
            2 => HypercallOutcome::Done,
            _ => HypercallOutcome::InvalidOpcode,
        }
    }
    fn deliver_messages(&self, _vp: u32) {}
    fn reset_processor(&self, _vp: u32) {}
    fn ran(&self, _vp: u32, _nanoseconds: u64) {}
}

fn enlightened(program: impl FnOnce(&mut CodeAssembler)) -> (Vcpu, Arc<Fake>) {
    let mut vcpu = long(program);
    let fake = Arc::new(Fake::default());
    vcpu.hypervisor = Some(fake.clone());
    (vcpu, fake)
}

#[test]
fn its_leaves_and_registers_are_the_interfaces() {
    let (mut vcpu, _) = enlightened(|a| {
        a.mov(ecx, KNOWN).unwrap();
        a.mov(eax, 5).unwrap();
        a.mov(edx, 6).unwrap();
        a.wrmsr().unwrap();
        a.rdmsr().unwrap();
        a.mov(esi, eax).unwrap();
        a.mov(edi, edx).unwrap();
        a.mov(eax, 0x4000_0003).unwrap();
        a.mov(ecx, 9).unwrap();
        a.cpuid().unwrap();
        a.hlt().unwrap();
    });
    run(&mut vcpu).unwrap();
    assert_eq!((vcpu.regs[gpr::RSI], vcpu.regs[gpr::RDI]), (5, 6));
    assert_eq!((vcpu.regs[gpr::RAX], vcpu.regs[gpr::RBX]), (0x4000_0003, 9));
    assert_eq!(vcpu.regs[gpr::RDX], 0x1234);
}

#[test]
fn a_hypercall_is_repeated_until_it_is_done() {
    let (mut vcpu, fake) = enlightened(|a| {
        a.mov(ecx, 41).unwrap();
        a.vmcall().unwrap();
        a.hlt().unwrap();
    });
    vcpu.extension.image.set_xmm(0, 7);
    run(&mut vcpu).unwrap();
    assert_eq!(handler(&vcpu), None);
    assert_eq!(vcpu.regs[gpr::RAX], 42);
    assert_eq!(vcpu.extension.image.xmm(1), 8);
    assert_eq!(fake.calls.load(Ordering::SeqCst), 3);
    // The next one is refused.
    vcpu.poke(vcpu.rip, &[0x0f, 0x01, 0xd9]);
    vcpu.halted = false;
    run(&mut vcpu).unwrap();
    assert_eq!(handler(&vcpu), Some(6));
}

#[test]
fn without_the_interface_hypercalls_are_undefined() {
    let mut vcpu = long(|a| a.vmmcall().unwrap());
    run(&mut vcpu).unwrap();
    assert_eq!(handler(&vcpu), Some(6));
}

#[test]
fn the_idle_register_halts_until_an_interrupt_whatever_if_is() {
    let (mut vcpu, _) = enlightened(|a| {
        a.cli().unwrap();
        a.mov(ecx, IDLE).unwrap();
        a.rdmsr().unwrap();
        a.mov(ebx, 3).unwrap();
        a.hlt().unwrap();
    });
    run(&mut vcpu).unwrap();
    assert_eq!(vcpu.regs[gpr::RBX] as u32, 0);
    vcpu.apic.request(0x40, interrupt::Trigger::Edge);
    vcpu.vp.call(crate::partition::attention::INTERRUPT);
    vcpu.turn().unwrap();
    run(&mut vcpu).unwrap();
    // It goes on behind the access; the interrupt itself still waits for IF.
    assert_eq!((vcpu.regs[gpr::RBX], vcpu.flags & flag::IF), (3, 0));
    assert_eq!(handler(&vcpu), None);
}
