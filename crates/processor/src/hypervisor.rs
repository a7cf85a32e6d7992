//! The contract between a processor and the hypervisor interface of the TLFS. Nothing here knows what a
//! leaf, an MSR or a hypercall means.

use std::io;
use std::os::fd::BorrowedFd;

use crate::{GeneralRegister, StartRegisters};

/// The answer to an MSR access.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MsrOutcome<T> {
    /// Done; the value for a read.
    Done(T),
    /// Done, and the processor halts until an interrupt is pending, whatever its IF (HV_X64_MSR_GUEST_IDLE).
    Halt(T),
    /// The access raises #GP.
    GeneralProtection,
    /// Not one of the interface's MSRs.
    NotMine,
}

/// The answer to a hypercall.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HypercallOutcome {
    /// Done: go on behind the instruction.
    Done,
    /// A rep hypercall wants to be continued: the instruction is carried out again after pending
    /// interrupts have been taken.
    Again,
    /// The instruction raises #UD.
    InvalidOpcode,
    /// The instruction raises #GP.
    GeneralProtection,
}

/// The calling processor's registers, during a hypercall.
pub trait HypercallContext {
    /// Whether the caller is in 64-bit mode (arguments in RCX, RDX, R8) or not (EDX:EAX, EBX:ECX, EDI:ESI).
    fn long_mode(&self) -> bool;
    /// Current privilege level.
    fn privilege_level(&self) -> u8;
    /// Whether protection is on (CR0.PE).
    fn protected_mode(&self) -> bool;
    /// Reads a general register.
    fn register(&self, register: GeneralRegister) -> u64;
    /// Writes a general register.
    fn set_register(&mut self, register: GeneralRegister, value: u64);
    /// Reads XMM0–XMM5.
    fn xmm(&self, index: usize) -> u128;
    /// Writes XMM0–XMM5.
    fn set_xmm(&mut self, index: usize, value: u128);
    /// The registers that the interface lets a guest read of its own processor: RIP, RSP, RFLAGS, CR0, CR2,
    /// CR3, CR4, CR8, EFER and so on, by [`StartRegisters`] for what that holds.
    fn snapshot(&self) -> StartRegisters;
}

/// The hypervisor interface as the processor sees it. Implemented by `enlightenment`.
pub trait HypervisorInterface: Send + Sync {
    /// The answer for CPUID `leaf` in 0x4000_0000..=0x4fff_ffff: EAX, EBX, ECX, EDX.
    fn cpuid(&self, vp: u32, leaf: u32, subleaf: u32) -> [u32; 4];
    /// RDMSR of an MSR that is not the processor's own.
    fn read_msr(&self, vp: u32, msr: u32) -> MsrOutcome<u64>;
    /// WRMSR of an MSR that is not the processor's own.
    fn write_msr(&self, vp: u32, msr: u32, value: u64) -> MsrOutcome<()>;
    /// VMCALL or VMMCALL, at any privilege level and in any mode.
    fn hypercall(&self, vp: u32, context: &mut dyn HypercallContext) -> HypercallOutcome;
    /// The processor `vp` has been reset by INIT or is reset with the machine: its state returns to
    /// power-on values.
    fn reset_processor(&self, vp: u32);
    /// Puts messages that wait for processor `vp` into their slots. Called on its own thread while it is not in guest
    /// code, after [`SynicOffload::ask_delivery`].
    fn deliver_messages(&self, vp: u32);
    /// Nanoseconds that processor `vp` has spent in guest code, told by the processor when it leaves
    /// [`crate::Processor::run`] or halts.
    fn ran(&self, vp: u32, nanoseconds: u64);
}

/// A range of guest virtual pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TlbRange {
    /// Linear address of the first page.
    pub start: u64,
    /// Number of 4 KiB pages, at least 1.
    pub pages: u64,
}

/// What is to be flushed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlbFlush {
    /// Only entries of this CR3 (bits 12 and up); `None` for all address spaces.
    pub address_space: Option<u64>,
    /// Only these ranges; empty for everything.
    pub ranges: Vec<TlbRange>,
    /// Keep entries of global pages.
    pub keep_global: bool,
}

/// The registers by which StartVirtualProcessor starts a processor, or why not.
pub type StartState = StartRegisters;

/// What the hypervisor interface asks of the processors.
pub trait VirtualProcessors: Send + Sync {
    /// How many there are.
    fn count(&self) -> u32;
    /// Flushes the TLBs of `targets` (indices of existing processors). On return no target uses an entry
    /// that was to go. `caller` is the processor on whose thread this is called, if any.
    fn flush_tlb(&self, caller: Option<u32>, targets: &[u32], flush: &TlbFlush);
    /// Starts processor `vp`, which waits for its start-up interrupt, at `state`. False if it does not wait.
    fn start(&self, vp: u32, state: &StartState) -> bool;
    /// Whether `vp` runs guest code at this moment, as opposed to sleeping.
    fn is_running(&self, vp: u32) -> bool;
    /// The caller spins on a lock: lets another processor run if there are more of them than host CPUs.
    fn yield_now(&self, vp: u32);
}

/// The parts of the synthetic interrupt controllers that are the processor's own, where it has them: sources with
/// their vectors and masks, and signals that do not come to the interface.
pub trait SynicOffload: Send + Sync {
    /// Interrupts `vp` by its source `sint`, as the guest has set that up; a masked one does nothing.
    fn raise(&self, vp: u32, sint: u8);
    /// Makes processor `vp` call [`HypervisorInterface::deliver_messages`] soon. The host's kernel writes messages of
    /// timers into the same slots while the processor runs, so that nobody else may write them meanwhile.
    fn ask_delivery(&self, vp: u32);
    /// Lets the guest's signals to `connection`, without a flag number, write to `eventfd` and do nothing else.
    ///
    /// # Errors
    /// When the host refuses it, as for a connection that is bound already.
    fn bind_signal(&self, connection: u32, eventfd: BorrowedFd<'_>) -> io::Result<()>;
    /// Undoes [`Self::bind_signal`].
    fn unbind_signal(&self, connection: u32);
}
