//! KVM as the processor (Linux, *Documentation/virt/kvm/api.rst*): virtual processors and their local APICs are the
//! kernel's, and so is most of the hypervisor interface of the TLFS (*arch/x86/kvm/hyperv.c*).
//!
//! ```text
//!                  in the kernel                         │ in user space
//!  ──────────────────────────────────────────────────────┼──────────────────────────────────────────────
//!  local APICs, EOI assist, IPI and TLB-flush hypercalls │ PICs, IOAPIC, PIT: our chipset ("split irqchip")
//!  reference time and TSC page, synthetic timers         │
//!  SINTs: vectors, masks, automatic end of interrupt     │ message slots and event flags: `enlightenment`
//!  HvCallSignalEvent ─▶ eventfd of a channel             │ HvCallPostMessage, crash, reset, guest OS id
//! ```
//!
//! From a device to the guest: a message ([`KvmPartition::line_to`], `KVM_SIGNAL_MSI`), or an eventfd of a SINT
//! ([`KvmPartition::raise_sint`], irqfd with a route of type HV_SINT). A slot that was busy is tried again when the
//! guest writes EOM, which the MSR filter sends here. The kernel puts its timers' messages into the same slots while it
//! runs a processor, so that only the processor's own thread does, between two runs ([`KvmPartition`]'s
//! `SynicOffload::ask_delivery`).
//!
//! What is offered of the hypervisor interface is what this kernel supports of what `enlightenment` offers
//! ([`KvmHost::hypervisor_leaf`]); the kernel enforces it.
//!
//! Not here: nested virtualization, SMM, hypercalls that KVM refuses by itself (VP registers, start of processors,
//! extended hypercalls before Linux 6.2).

mod cpuid;
mod debugger;
mod host;
mod hypercall;
mod msr;
mod partition;
mod power_on;
mod registers;
mod routes;
mod slots;
mod sys;
#[cfg(test)]
mod tests;
mod vcpu;

pub use host::{HostError, KvmHost};
pub use partition::{KvmConfig, KvmPartition};
