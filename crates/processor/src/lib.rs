//! What a virtual processor is to the rest of the machine, whichever kind of processor runs: KVM or the
//! software processor.
//!
//! The machine implements [`Bus`]; the hypervisor interface implements [`HypervisorInterface`] and uses
//! [`VirtualProcessors`]; a processor crate implements [`Partition`], [`Processor`], [`VirtualProcessors`]
//! and calls the others.
#![forbid(unsafe_code)]

mod bits;
mod debug;
mod dirty;
mod hypervisor;
mod paging;
mod state;

pub use bits::{attribute, cr0, cr4, efer, flag};
pub use debug::{BreakOn, Breakpoint, DebugControl, DebugRegisters, DebugStop, ProcessorDebug};
pub use dirty::{DirtyLog, DirtyPages};
pub use hypervisor::{
    HypercallContext, HypercallOutcome, HypervisorInterface, MsrOutcome, StartState, SynicOffload, TlbFlush,
    TlbRange, VirtualProcessors,
};
pub use paging::{is_canonical, translate};
pub use state::{DescriptorTable, GeneralRegister, Segment, SegmentAttributes, StartRegisters};

use std::sync::Arc;

use interrupt::ProcessorSignal;
use thiserror::Error;

/// What a processor reaches beside RAM. Called on processor threads.
pub trait Bus: Send + Sync {
    /// `IN` of 1, 2 or 4 bytes. Ports that nobody claims read as all ones.
    fn port_read(&self, port: u16, data: &mut [u8]);
    /// `OUT` of 1, 2 or 4 bytes.
    fn port_write(&self, port: u16, data: &[u8]);
    /// `REP INS`: one `IN` of `size` bytes (1, 2 or 4) after another from the same port, until `data`, a multiple of
    /// `size`, is full.
    fn port_read_string(&self, port: u16, size: usize, data: &mut [u8]) {
        data.chunks_exact_mut(size).for_each(|part| self.port_read(port, part));
    }
    /// `REP OUTS`: `data`, a multiple of `size` bytes (1, 2 or 4), by one `OUT` after another to the same port.
    fn port_write_string(&self, port: u16, size: usize, data: &[u8]) {
        data.chunks_exact(size).for_each(|part| self.port_write(port, part));
    }
    /// A read of 1 to 64 bytes at a guest physical address that is not RAM. Unclaimed addresses read as
    /// all ones.
    fn memory_read(&self, gpa: u64, data: &mut [u8]);
    /// A write of 1 to 64 bytes at a guest physical address that is not RAM (or is ROM).
    fn memory_write(&self, gpa: u64, data: &[u8]);
}

/// Why a processor came back from [`Processor::run`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Exit {
    /// [`Partition::stop`] was called. The processor is at an instruction boundary.
    Stopped,
    /// What a debugger has asked for by [`ProcessorDebug::control`] has come. The processor is at an instruction
    /// boundary.
    Debug(DebugStop),
    /// Triple fault: the guest is lost.
    TripleFault {
        /// The processor's state, in lines.
        state: String,
    },
    /// The processor cannot go on for a reason of its own.
    Failed {
        /// Why, in one line.
        reason: String,
        /// The processor's state, in lines.
        state: String,
    },
}

/// Why a processor or partition cannot be had.
#[derive(Debug, Error)]
pub enum Error {
    /// The host lacks something.
    #[error("this host cannot run the {processor} processor: {reason}")]
    Unsupported {
        /// Which processor.
        processor: &'static str,
        /// What is missing.
        reason: String,
    },
    /// A processor index is out of range or taken.
    #[error("virtual processor {0} does not exist or has been created already")]
    Index(u32),
    /// A debugger asks for what the processor cannot do.
    #[error("the processor cannot be debugged so: {0}")]
    Debug(&'static str),
    /// The log of written pages is asked for what has not been noted.
    #[error("written pages are not being noted")]
    NoDirtyLog,
    /// The host refused an operation.
    #[error("{operation} failed")]
    Host {
        /// What was tried.
        operation: &'static str,
        /// The host's answer.
        #[source]
        source: std::io::Error,
    },
}

/// The virtual machine as its processors see it.
pub trait Partition: Send + Sync {
    /// How many processors there are, started or not.
    fn processor_count(&self) -> u32;
    /// The processor `index`; each can be had once and is moved to its own thread.
    ///
    /// # Errors
    /// When the index is out of range or taken.
    fn processor(&self, index: u32) -> Result<Box<dyn Processor>, Error>;
    /// Makes every processor come back from [`Processor::run`] with [`Exit::Stopped`], sleeping ones
    /// included, now and until [`Self::resume`].
    fn stop(&self);
    /// Undoes [`Self::stop`].
    fn resume(&self);
    /// Power-on reset of every processor, its local APIC and its part of the hypervisor interface. Call while
    /// all are stopped; each carries it out before it takes a [`Processor::start_at`] or runs again.
    fn reset(&self);
    /// How a local APIC reaches processor `index`.
    fn signal(&self, index: u32) -> Arc<dyn ProcessorSignal>;
    /// What the hypervisor interface asks of the processors.
    fn virtual_processors(&self) -> Arc<dyn VirtualProcessors>;
    /// Guest instructions carried out so far by all processors, where the processor counts them.
    fn instructions(&self) -> Option<u64>;
    /// Guest RAM has grown ([`GuestMemory::grow`]): the processors have all of it from the return on.
    ///
    /// [`GuestMemory::grow`]: ../guest_memory/struct.GuestMemory.html#method.grow
    ///
    /// # Errors
    /// When the host refuses.
    fn memory_grown(&self) -> Result<(), Error>;
    /// What is RAM and what is ROM below 1 MiB has changed ([`Shadow`]): a processor that has brought this about goes by it
    /// from its next instruction on, the others from some next instruction on. What they have decoded there is forgotten.
    ///
    /// [`Shadow`]: ../guest_memory/struct.Shadow.html
    ///
    /// # Errors
    /// When the host refuses.
    fn shadow_changed(&self) -> Result<(), Error>;
    /// The log of written pages; `None` if this kind of processor keeps none.
    fn dirty_log(&self) -> Option<Arc<dyn DirtyLog>> {
        None
    }
    /// Time that the host's kernel keeps for the guest stops. Call while all processors are stopped, with the machine's
    /// clock about to be.
    ///
    /// # Errors
    /// When the host refuses.
    fn stop_time(&self) -> Result<(), Error> {
        Ok(())
    }
    /// It goes on from where it stopped. Call with the machine's clock going, before [`Self::resume`].
    ///
    /// # Errors
    /// When the host refuses.
    fn resume_time(&self) -> Result<(), Error> {
        Ok(())
    }
    /// Whether the guest's clocks are those of the machine, and stand still with it. If not, as where the host's
    /// kernel has them, they go on while a debugger has stopped the processors.
    fn clock_stops(&self) -> bool {
        true
    }
    /// The partition's reference time (TLFS, "Partition Reference Counter"), in units of 100 ns, where the host's
    /// kernel keeps it; `None` where it is that of the hypervisor interface.
    fn reference_time(&self) -> Option<u64> {
        None
    }
}

/// One virtual processor, on its own thread.
pub trait Processor: Send {
    /// Sets the registers for a start by a loader, before the first [`Self::run`]. A processor that is not
    /// given any starts at the reset vector if its index is 0 and waits for a start-up interrupt if not.
    ///
    /// # Errors
    /// When the host does not take them, or a reset that was asked for before.
    fn start_at(&mut self, registers: &StartRegisters) -> Result<(), Error>;
    /// Sets what firmware sets on every processor before it hands over to a loader: memory types. Before the
    /// first [`Self::run`], on a machine without firmware.
    ///
    /// # Errors
    /// As for [`Self::start_at`].
    fn leave_as_firmware_does(&mut self) -> Result<(), Error>;
    /// Runs guest code, sleeping while the guest halts, until there is an [`Exit`].
    fn run(&mut self) -> Exit;
    /// The registers as text, for logs.
    fn describe(&self) -> String;
    /// The processor as a debugger sees it; `None` if it cannot be debugged.
    fn debug(&mut self) -> Option<&mut dyn ProcessorDebug> {
        None
    }
}
