//! What a debugger needs of a machine.

use std::collections::BTreeSet;

use processor::{Breakpoint, DebugRegisters, DebugStop};
use thiserror::Error;

/// The machine does not do what the debugger asks, such as while it is being reset, or for a register that
/// cannot be set.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct Refused(pub String);

/// Why the machine has stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// A processor has come to what the debugger waits for.
    Processor(u32, DebugStop),
    /// [`Debuggee::interrupt`].
    Interrupted,
    /// A processor cannot go on (triple fault): it can be looked at, and when it is resumed the machine ends.
    Lost(u32),
    /// The machine has come to its end, with this exit code.
    Ended(u8),
}

/// How the machine is to go on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resume {
    /// All breakpoints.
    pub breakpoints: Vec<Breakpoint>,
    /// Processors that come back after one instruction.
    pub steps: BTreeSet<u32>,
    /// If given, only these processors run.
    pub only: Option<BTreeSet<u32>>,
}

/// A machine as a debugger sees it. Registers and memory are to be had while it is stopped.
pub trait Debuggee: Send + Sync {
    /// How many processors there are; at least 1.
    fn processors(&self) -> u32;
    /// Registers of processor `vp`.
    ///
    /// # Errors
    /// When they are not to be had.
    fn registers(&self, vp: u32) -> Result<DebugRegisters, Refused>;
    /// Sets registers of processor `vp`. A segment register whose selector changes gets its base, limit and rights as
    /// if the guest had loaded it.
    ///
    /// # Errors
    /// When one of them cannot be set; nothing has been changed then.
    fn set_registers(&self, vp: u32, registers: &DebugRegisters) -> Result<(), Refused>;
    /// Reads memory at a linear address of processor `vp`. The number of bytes up to the first that is not
    /// mapped to RAM.
    fn read_memory(&self, vp: u32, gva: u64, data: &mut [u8]) -> usize;
    /// Writes memory at a linear address of processor `vp`, whatever its rights.
    ///
    /// # Errors
    /// When not all of it is mapped to RAM. What comes before has been written.
    fn write_memory(&self, vp: u32, gva: u64, data: &[u8]) -> Result<(), Refused>;
    /// Whether the processors could wait for all `breakpoints`. To be asked while the machine is stopped.
    ///
    /// # Errors
    /// When they could not.
    fn accept(&self, breakpoints: &[Breakpoint]) -> Result<(), Refused>;
    /// A debugger comes: the machine is stopped, and on return it has. `report` is called, on any thread, at
    /// every stop that follows.
    ///
    /// # Errors
    /// When the machine has ended or another debugger is there.
    fn attach(&self, report: Box<dyn Fn(Stop) + Send + Sync>) -> Result<(), Refused>;
    /// Lets the machine run.
    ///
    /// # Errors
    /// When a processor cannot take as many breakpoints. The machine stays stopped then.
    fn resume(&self, resume: Resume) -> Result<(), Refused>;
    /// Stops the machine; [`Stop::Interrupted`] is reported when it has, unless something else was first.
    /// False if it is stopped already.
    fn interrupt(&self) -> bool;
    /// The debugger has gone: no breakpoints remain, and the machine runs.
    fn detach(&self);
    /// Ends the machine.
    fn kill(&self);
}
