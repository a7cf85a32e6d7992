//! A virtual processor of KVM, and its run loop.
//!
//! ```text
//! ┌▶ stop? reset? ─▶ interrupt of the 8259s ─▶ KVM_RUN ─▶ what the guest wants of us ─┐
//! └───────────────────────────────────────────────────────────────────────────────────┘
//! ```

use std::collections::BTreeSet;
use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use counters::{Counter, Registry};
use kvm_bindings::{
    CpuId, KVM_CAP_HYPERV_ENFORCE_CPUID, KVM_CAP_HYPERV_SYNIC2, KVM_MP_STATE_RUNNABLE, kvm_cpuid_entry2,
    kvm_enable_cap, kvm_mp_state,
};
use processor::{
    DebugStop, Error, Exit, HypercallOutcome, MsrOutcome, Processor, ProcessorDebug, StartRegisters,
};
use tlfs::{HvStatus, msr};

use crate::debugger::Debugger;
use crate::partition::{Shared, failed};
use crate::power_on::PowerOn;
use crate::sys::{KvmExit, Runner};
use crate::{hypercall, registers};

/// MSRs of which it is told that they are not there: a guest does not fill the log.
const UNKNOWN_MSRS: usize = 64;
/// TSC, where a kernel (before Linux 5.16) takes no offset.
pub(crate) const TSC: u32 = 0x10;

/// Exits to user space, by kind.
pub struct Counts {
    port: Counter,
    memory: Counter,
    msr: Counter,
    synic: Counter,
    hypercall: Counter,
    end_of_interrupt: Counter,
    interrupt_window: Counter,
    kicked: Counter,
    /// Numbers of MSRs that are not there and have been told.
    unknown: Mutex<BTreeSet<u32>>,
}

impl Counts {
    pub fn new(registry: &Registry) -> Self {
        let count = |name: &str| registry.named(&format!("kvm.exit.{name}"));
        Self {
            port: count("port"),
            memory: count("memory"),
            msr: count("msr"),
            synic: count("synic"),
            hypercall: count("hypercall"),
            end_of_interrupt: count("end-of-interrupt"),
            interrupt_window: count("interrupt-window"),
            kicked: count("kicked"),
            unknown: Mutex::default(),
        }
    }

    fn is_new(&self, index: u32) -> bool {
        let mut unknown = self.unknown.lock().unwrap_or_else(PoisonError::into_inner);
        unknown.len() < UNKNOWN_MSRS && unknown.insert(index)
    }
}

/// What a processor has from its host and machine.
pub struct Abilities {
    /// What to add to the host's TSC to get the guest's.
    pub tsc_offset: u64,
    /// Width of physical addresses.
    pub physical_bits: u32,
    /// Whether KVM lets a debugger stop it.
    pub can_be_debugged: bool,
}

/// A virtual processor of KVM.
pub struct KvmProcessor {
    pub(crate) index: u32,
    runner: Runner,
    pub(crate) shared: Arc<Shared>,
    physical_bits: u32,
    power_on: PowerOn,
    can_be_debugged: bool,
    pub(crate) debugger: Debugger,
}

impl KvmProcessor {
    /// Processor `index` with `leaves` as its CPUID.
    ///
    /// # Errors
    /// When KVM refuses them.
    pub fn new(
        index: u32,
        runner: Runner,
        shared: Arc<Shared>,
        leaves: &[kvm_cpuid_entry2],
        abilities: &Abilities,
    ) -> io::Result<Self> {
        let fd = runner.vcpu().fd();
        let capability = |cap, argument| {
            let capability = kvm_enable_cap { cap, args: [argument, 0, 0, 0], ..kvm_enable_cap::default() };
            fd.enable_cap(&capability).map_err(io::Error::from)
        };
        if shared.hypervisor.get().is_some() {
            capability(KVM_CAP_HYPERV_SYNIC2, 0)?;
            capability(KVM_CAP_HYPERV_ENFORCE_CPUID, 1)?;
        }
        let cpuid = CpuId::from_entries(leaves).map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
        fd.set_cpuid2(&cpuid).map_err(io::Error::from)?;
        if !runner.vcpu().set_tsc_offset(abilities.tsc_offset)? {
            tracing::info!("this kernel takes no TSC offset; the guest's TSC begins at 0 as near as can be");
            crate::msr::set(runner.vcpu().fd(), &[(TSC, 0)])?;
        }
        let power_on = PowerOn::of(runner.vcpu().fd(), shared.hypervisor.get().is_some())?;
        Ok(Self {
            index,
            runner,
            shared,
            physical_bits: abilities.physical_bits,
            power_on,
            can_be_debugged: abilities.can_be_debugged,
            debugger: Debugger::default(),
        })
    }

    pub(crate) fn fd(&self) -> &kvm_ioctls::VcpuFd {
        self.runner.vcpu().fd()
    }

    fn reset_if_asked(&mut self) -> io::Result<()> {
        if !self.runner.vcpu().take_reset() {
            return Ok(());
        }
        if let Some(hypervisor) = self.shared.hypervisor.get() {
            hypervisor.reset_processor(self.index);
        }
        self.power_on.restore(self.fd())
    }

    fn start(&mut self, registers: &StartRegisters) -> io::Result<()> {
        let fd = self.fd();
        let present = fd.get_sregs().map_err(io::Error::from)?;
        fd.set_sregs(&registers::to_system(registers, present)).map_err(io::Error::from)?;
        fd.set_regs(&registers::to_general(registers)).map_err(io::Error::from)?;
        if let Some(pat) = registers.pat {
            crate::msr::set_pat(fd, pat)?;
        }
        fd.set_mp_state(kvm_mp_state { mp_state: KVM_MP_STATE_RUNNABLE }).map_err(io::Error::from)
    }

    fn turn(&mut self) -> Result<(), Exit> {
        self.runner.accept_kicks();
        if self.shared.stopped.load(Ordering::SeqCst) {
            return Err(self.come_to_rest());
        }
        if let Err(error) = self.reset_if_asked() {
            return Err(self.failed("cannot be reset", &error));
        }
        if self.runner.vcpu().take_delivery()
            && let Some(hypervisor) = self.shared.hypervisor.get()
        {
            hypervisor.deliver_messages(self.index);
        }
        self.offer_external_interrupt().map_err(|error| self.failed("does not take an interrupt", &error))?;
        let exit = self.runner.run().map_err(|error| self.failed("does not run", &error))?;
        let within = exit.is_within_an_instruction();
        self.answer(exit)?;
        // KVM does not trap behind an instruction that it has emulated with our help.
        if within && self.debugger.steps() {
            return Err(match self.come_to_rest() {
                Exit::Stopped => Exit::Debug(DebugStop::Step),
                other => other,
            });
        }
        Ok(())
    }

    /// Carries out what is left of the last exit's instruction, which may want several accesses.
    fn come_to_rest(&mut self) -> Exit {
        loop {
            self.runner.vcpu().kick();
            match self.runner.run() {
                Ok(KvmExit::Interrupted) => return Exit::Stopped,
                Ok(exit) => {
                    if let Err(exit) = self.answer(exit) {
                        return exit;
                    }
                }
                Err(error) => return self.failed("does not stop", &error),
            }
        }
    }

    /// Delivers the interrupt of the 8259s if there is one and it can be taken, or asks to be told when it can.
    fn offer_external_interrupt(&mut self) -> io::Result<()> {
        if self.index != 0 {
            return Ok(());
        }
        // Interrupts wait while a debugger steps, as those of the local APIC do.
        let external = self.shared.external.get().filter(|_| !self.debugger.steps());
        let Some(external) = external.filter(|external| external.pending()) else {
            self.runner.request_interrupt_window(false);
            return Ok(());
        };
        if !self.runner.ready_for_interrupt() {
            self.runner.request_interrupt_window(true);
            return Ok(());
        }
        let vector = external.acknowledge();
        let another = external.pending();
        self.runner.inject(vector)?;
        self.runner.request_interrupt_window(another);
        Ok(())
    }

    fn answer(&mut self, exit: KvmExit) -> Result<(), Exit> {
        let counts = &self.shared.counts;
        match exit {
            KvmExit::Port { port, size, write } => {
                counts.port.count();
                self.port(port, size, write);
            }
            KvmExit::Memory { gpa, write } => {
                counts.memory.count();
                self.memory(gpa, write);
            }
            KvmExit::ReadMsr { index } => {
                counts.msr.count();
                let value = self.read_msr(index);
                self.runner.answer_msr(value);
            }
            KvmExit::WriteMsr { index, value } => {
                counts.msr.count();
                let done = self.write_msr(index, value);
                self.runner.answer_msr(done.then_some(value));
            }
            KvmExit::Synic { msr, control, event_page, message_page } => {
                counts.synic.count();
                self.synic(msr, control, event_page, message_page);
            }
            KvmExit::Hypercall { input, parameters } => {
                counts.hypercall.count();
                let result = self.hypercall(input, parameters);
                self.runner.answer_hypercall(result);
            }
            KvmExit::EndOfInterrupt { vector } => {
                counts.end_of_interrupt.count();
                if let Some(ioapic) = self.shared.eoi_listener.get() {
                    ioapic.end_of_interrupt(vector);
                }
            }
            KvmExit::InterruptWindow => counts.interrupt_window.count(),
            KvmExit::Interrupted => counts.kicked.count(),
            KvmExit::Shutdown => return Err(Exit::TripleFault { state: self.describe() }),
            KvmExit::FailedEntry { reason } => {
                return Err(
                    self.lost(&format!("the host's processor refuses the guest's state, reason {reason:#x}"))
                );
            }
            KvmExit::InternalError { suberror, data } => {
                return Err(self.lost(&internal_error(suberror, &data)));
            }
            KvmExit::SystemEvent { kind } => {
                return Err(self.lost(&format!("KVM tells of a system event {kind} that nothing asks for")));
            }
            KvmExit::Debug { exception, pc, dr6 } => self.debug_exit(exception, pc, dr6)?,
            KvmExit::Unexpected { reason } => {
                return Err(self.lost(&format!("KVM comes back for a reason that is not known, {reason}")));
            }
        }
        Ok(())
    }

    fn port(&mut self, port: u16, size: usize, write: bool) {
        let Some(bus) = self.shared.bus.get() else { return };
        let data = self.runner.port_data();
        match (data.len() == size, write) {
            (true, true) => bus.port_write(port, data),
            (true, false) => bus.port_read(port, data),
            (false, true) => bus.port_write_string(port, size.max(1), data),
            (false, false) => bus.port_read_string(port, size.max(1), data),
        }
    }

    fn memory(&mut self, gpa: u64, write: bool) {
        let Some(bus) = self.shared.bus.get() else { return };
        let data = self.runner.memory_data();
        if write {
            bus.memory_write(gpa, data);
        } else {
            bus.memory_read(gpa, data);
        }
    }

    /// The value of an MSR that KVM does not have or leaves to us; `None` for #GP.
    fn read_msr(&self, index: u32) -> Option<u64> {
        let hypervisor = self.shared.hypervisor.get();
        match hypervisor.map_or(MsrOutcome::NotMine, |hypervisor| hypervisor.read_msr(self.index, index)) {
            MsrOutcome::Done(value) => Some(value),
            MsrOutcome::Halt(_) => self.cannot_halt(),
            MsrOutcome::GeneralProtection => None,
            MsrOutcome::NotMine => self.not_there(index, "RDMSR"),
        }
    }

    /// Writes such an MSR; false for #GP.
    fn write_msr(&self, index: u32, value: u64) -> bool {
        let hypervisor = self.shared.hypervisor.get();
        // What KVM wants to know too.
        if hypervisor.is_some()
            && matches!(index, msr::GUEST_OS_ID | msr::EOM)
            && let Err(error) = crate::msr::set(self.fd(), &[(index, value)])
        {
            tracing::error!(vp = self.index, msr = format_args!("{index:#x}"), %error, "KVM does not take an MSR");
            return false;
        }
        match hypervisor
            .map_or(MsrOutcome::NotMine, |hypervisor| hypervisor.write_msr(self.index, index, value))
        {
            MsrOutcome::Done(()) => true,
            MsrOutcome::Halt(()) => self.cannot_halt().is_some(),
            MsrOutcome::GeneralProtection => false,
            MsrOutcome::NotMine => self.not_there(index, "WRMSR").is_some(),
        }
    }

    fn not_there(&self, index: u32, instruction: &str) -> Option<u64> {
        if self.shared.counts.is_new(index) {
            let msr = format_args!("{index:#x}");
            tracing::info!(
                msr,
                vp = self.index,
                "{instruction} of a register that is not there, or of a bad value"
            );
        }
        None
    }

    /// GUEST_IDLE is not among what KVM supports, so it is not offered.
    fn cannot_halt(&self) -> Option<u64> {
        tracing::error!(vp = self.index, "a halt by MSR was asked for, which KVM does not offer");
        None
    }

    /// The guest has written a register of its SynIC. KVM keeps it and acts on it; pages and messages are ours.
    fn synic(&self, msr: u32, control: u64, event_page: u64, message_page: u64) {
        let value = match msr {
            msr::SCONTROL => control,
            msr::SIEFP => event_page,
            msr::SIMP => message_page,
            _ => {
                return tracing::error!(
                    msr = format_args!("{msr:#x}"),
                    "KVM tells of an unknown SynIC register"
                );
            }
        };
        if let Some(hypervisor) = self.shared.hypervisor.get()
            && hypervisor.write_msr(self.index, msr, value) != MsrOutcome::Done(())
        {
            tracing::error!(
                vp = self.index,
                msr = format_args!("{msr:#x}"),
                "a SynIC register is not offered"
            );
        }
    }

    fn hypercall(&self, input: u64, parameters: [u64; 2]) -> u64 {
        let Some(hypervisor) = self.shared.hypervisor.get() else {
            return HvStatus::INVALID_HYPERCALL_CODE.0.into();
        };
        let registers = || self.registers().unwrap_or_default();
        let mut context = hypercall::Context { input, parameters, result: 0, registers: &registers };
        match hypervisor.hypercall(self.index, &mut context) {
            HypercallOutcome::Done => context.result,
            // What KVM has let through has been checked by KVM, and none of it is a rep hypercall.
            outcome => {
                tracing::error!(
                    vp = self.index,
                    input = format_args!("{input:#x}"),
                    ?outcome,
                    "an odd hypercall"
                );
                HvStatus::INVALID_HYPERCALL_INPUT.0.into()
            }
        }
    }

    pub(crate) fn registers(&self) -> io::Result<StartRegisters> {
        let general = self.fd().get_regs().map_err(io::Error::from)?;
        let system = self.fd().get_sregs().map_err(io::Error::from)?;
        Ok(registers::from_kvm(&general, &system))
    }

    pub(crate) fn failed(&self, what: &str, error: &io::Error) -> Exit {
        self.lost(&format!("KVM's processor {what}: {error}"))
    }

    fn lost(&self, reason: &str) -> Exit {
        Exit::Failed { reason: reason.to_owned(), state: self.describe() }
    }
}

/// KVM_INTERNAL_ERROR_* as text.
fn internal_error(suberror: u32, data: &[u64]) -> String {
    let name = match suberror {
        1 => "it cannot emulate an instruction",
        2 => "exceptions at the same time that it cannot deliver",
        3 => "a fault during the delivery of an event",
        4 => "an exit that it does not expect",
        _ => "an internal error",
    };
    format!("KVM gives up: {name} (suberror {suberror}, data {data:x?})")
}

impl Processor for KvmProcessor {
    fn start_at(&mut self, registers: &StartRegisters) -> Result<(), Error> {
        self.reset_if_asked().map_err(failed("resetting a processor of KVM"))?;
        self.start(registers).map_err(failed("giving a processor of KVM the registers of its start"))
    }

    fn leave_as_firmware_does(&mut self) -> Result<(), Error> {
        self.reset_if_asked().map_err(failed("resetting a processor of KVM"))?;
        let types = crate::msr::set_memory_types(self.fd(), self.physical_bits);
        types.map_err(failed("giving a processor of KVM its memory types"))
    }

    fn run(&mut self) -> Exit {
        self.runner.enter();
        let exit = loop {
            if let Err(exit) = self.turn() {
                break exit;
            }
        };
        self.runner.leave();
        exit
    }

    fn describe(&self) -> String {
        let fd = self.fd();
        match fd.get_regs().and_then(|general| Ok((general, fd.get_sregs()?))) {
            Ok((general, system)) => registers::describe(self.index, &general, &system),
            Err(error) => format!("processor {}, of whose registers KVM says {error}", self.index),
        }
    }

    fn debug(&mut self) -> Option<&mut dyn ProcessorDebug> {
        if self.can_be_debugged { Some(self) } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_internal_error_is_told_in_words_and_numbers() {
        let text = internal_error(1, &[0xf0, 2]);
        assert_eq!(text, "KVM gives up: it cannot emulate an instruction (suberror 1, data [f0, 2])");
    }

    #[test]
    fn an_msr_that_is_not_there_is_told_once_and_not_without_end() {
        let counts = Counts::new(&Registry::new());
        assert!(counts.is_new(7));
        assert!(!counts.is_new(7));
        assert_eq!((0..1000).filter(|index| counts.is_new(1000 + index)).count(), UNKNOWN_MSRS - 1);
    }
}
