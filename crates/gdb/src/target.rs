//! The machine in the terms of `gdbstub`.

use std::collections::BTreeSet;

use gdbstub::common::{Signal, Tid};
use gdbstub::stub::MultiThreadStopReason;
use gdbstub::target::ext::base::BaseOps;
use gdbstub::target::ext::base::multithread::{
    MultiThreadBase, MultiThreadResume, MultiThreadResumeOps, MultiThreadSchedulerLocking,
    MultiThreadSchedulerLockingOps, MultiThreadSingleStep, MultiThreadSingleStepOps,
};
use gdbstub::target::ext::base::single_register_access::{SingleRegisterAccess, SingleRegisterAccessOps};
use gdbstub::target::ext::breakpoints::{
    Breakpoints, BreakpointsOps, HwBreakpoint, HwBreakpointOps, HwWatchpoint, HwWatchpointOps, SwBreakpoint,
    SwBreakpointOps, WatchKind,
};
use gdbstub::target::ext::thread_extra_info::{ThreadExtraInfo, ThreadExtraInfoOps};
use gdbstub::target::{Target, TargetError, TargetResult};
use processor::{BreakOn, Breakpoint, DebugStop};

use crate::debuggee::{Debuggee, Refused, Resume, Stop};
use crate::registers::{GdbRegisters, Register, X86};

/// Breakpoints that a debugger may set in all: what it costs is bounded.
const BREAKPOINTS: usize = 1024;

/// Nothing is mapped there: EFAULT in the protocol's numbers.
const BAD_ADDRESS: u8 = 14;

/// One debugger's view of a machine.
pub struct Machine<'a> {
    debuggee: &'a dyn Debuggee,
    breakpoints: Vec<Breakpoint>,
    steps: BTreeSet<u32>,
    continues: BTreeSet<u32>,
    locked: bool,
}

fn tid(vp: u32) -> Tid {
    // No processor has the number at which this would be 0.
    Tid::new(vp as usize + 1).unwrap_or(Tid::MIN)
}

fn vp(tid: Tid) -> u32 {
    u32::try_from(tid.get() - 1).unwrap_or(u32::MAX)
}

fn refused<E>(why: Refused) -> TargetError<E> {
    tracing::debug!("a debugger's wish is refused: {why}");
    TargetError::NonFatal
}

impl<'a> Machine<'a> {
    pub fn new(debuggee: &'a dyn Debuggee) -> Self {
        Self {
            debuggee,
            breakpoints: Vec::new(),
            steps: BTreeSet::new(),
            continues: BTreeSet::new(),
            locked: false,
        }
    }

    /// Interrupts the machine; the reason for a stop, if it is stopped already.
    pub fn interrupt(&self) -> Option<MultiThreadStopReason<u64>> {
        (!self.debuggee.interrupt()).then(|| self.reason(Stop::Interrupted))
    }

    /// What is told to GDB of a stop.
    pub fn reason(&self, stop: Stop) -> MultiThreadStopReason<u64> {
        let signal = |vp: u32, signal| MultiThreadStopReason::SignalWithThread { tid: tid(vp), signal };
        match stop {
            Stop::Interrupted => signal(0, Signal::SIGINT),
            Stop::Ended(code) => MultiThreadStopReason::Exited(code),
            Stop::Lost(vp) => signal(vp, Signal::SIGSEGV),
            Stop::Processor(vp, DebugStop::Step) => signal(vp, Signal::SIGTRAP),
            Stop::Processor(vp, DebugStop::Breakpoint(point)) => {
                let kind = match point.on {
                    BreakOn::Write => WatchKind::Write,
                    BreakOn::Read => WatchKind::Read,
                    BreakOn::Access => WatchKind::ReadWrite,
                    BreakOn::Code => return MultiThreadStopReason::SwBreak(tid(vp)),
                    BreakOn::Execution => return MultiThreadStopReason::HwBreak(tid(vp)),
                };
                MultiThreadStopReason::Watch { tid: tid(vp), kind, addr: point.address }
            }
        }
    }

    fn add(&mut self, point: Breakpoint) -> bool {
        // GDB may ask again for what is there.
        if self.breakpoints.contains(&point) {
            return true;
        }
        if self.breakpoints.len() >= BREAKPOINTS {
            return false;
        }
        self.breakpoints.push(point);
        let accepted = self.debuggee.accept(&self.breakpoints);
        if let Err(why) = &accepted {
            tracing::warn!("a breakpoint of the debugger is refused: {why}");
            self.breakpoints.pop();
        }
        accepted.is_ok()
    }

    fn remove(&mut self, point: Breakpoint) -> bool {
        let before = self.breakpoints.len();
        self.breakpoints.retain(|known| *known != point);
        self.breakpoints.len() < before
    }
}

impl Target for Machine<'_> {
    type Arch = X86;
    type Error = Refused;

    fn base_ops(&mut self) -> BaseOps<'_, X86, Refused> {
        BaseOps::MultiThread(self)
    }

    fn support_breakpoints(&mut self) -> Option<BreakpointsOps<'_, Self>> {
        Some(self)
    }
}

impl MultiThreadBase for Machine<'_> {
    fn read_registers(&mut self, registers: &mut GdbRegisters, tid: Tid) -> TargetResult<(), Self> {
        registers.0 = self.debuggee.registers(vp(tid)).map_err(refused)?;
        Ok(())
    }

    fn write_registers(&mut self, registers: &GdbRegisters, tid: Tid) -> TargetResult<(), Self> {
        // GDB knows some registers in part only: what it does not know stays.
        let mut all = self.debuggee.registers(vp(tid)).map_err(refused)?;
        for register in Register::all() {
            let new = register.get(&registers.0);
            if new != register.get(&all) {
                register.set(&mut all, &new[..register.size()]);
            }
        }
        self.debuggee.set_registers(vp(tid), &all).map_err(refused)
    }

    fn support_single_register_access(&mut self) -> Option<SingleRegisterAccessOps<'_, Tid, Self>> {
        Some(self)
    }

    fn read_addrs(&mut self, start: u64, data: &mut [u8], tid: Tid) -> TargetResult<usize, Self> {
        match self.debuggee.read_memory(vp(tid), start, data) {
            0 if !data.is_empty() => Err(TargetError::Errno(BAD_ADDRESS)),
            read => Ok(read),
        }
    }

    fn write_addrs(&mut self, start: u64, data: &[u8], tid: Tid) -> TargetResult<(), Self> {
        self.debuggee.write_memory(vp(tid), start, data).map_err(refused)
    }

    fn list_active_threads(&mut self, active: &mut dyn FnMut(Tid)) -> Result<(), Refused> {
        (0..self.debuggee.processors()).for_each(|vp| active(tid(vp)));
        Ok(())
    }

    fn is_thread_alive(&mut self, tid: Tid) -> Result<bool, Refused> {
        Ok(vp(tid) < self.debuggee.processors())
    }

    fn support_resume(&mut self) -> Option<MultiThreadResumeOps<'_, Self>> {
        Some(self)
    }

    fn support_thread_extra_info(&mut self) -> Option<ThreadExtraInfoOps<'_, Self>> {
        Some(self)
    }
}

impl ThreadExtraInfo for Machine<'_> {
    fn thread_extra_info(&self, tid: Tid, buffer: &mut [u8]) -> Result<usize, Refused> {
        let text = format!("processor {}", vp(tid));
        let len = text.len().min(buffer.len());
        buffer[..len].copy_from_slice(&text.as_bytes()[..len]);
        Ok(len)
    }
}

impl SingleRegisterAccess<Tid> for Machine<'_> {
    fn read_register(
        &mut self,
        tid: Tid,
        register: Register,
        buffer: &mut [u8],
    ) -> TargetResult<usize, Self> {
        let registers = self.debuggee.registers(vp(tid)).map_err(refused)?;
        let len = register.size().min(buffer.len());
        buffer[..len].copy_from_slice(&register.get(&registers)[..len]);
        Ok(len)
    }

    fn write_register(&mut self, tid: Tid, register: Register, value: &[u8]) -> TargetResult<(), Self> {
        let mut registers = self.debuggee.registers(vp(tid)).map_err(refused)?;
        register.set(&mut registers, value);
        self.debuggee.set_registers(vp(tid), &registers).map_err(refused)
    }
}

impl MultiThreadResume for Machine<'_> {
    fn resume(&mut self) -> Result<(), Refused> {
        let only = self.locked.then(|| self.continues.union(&self.steps).copied().collect());
        self.debuggee.resume(Resume {
            breakpoints: self.breakpoints.clone(),
            steps: self.steps.clone(),
            only,
        })
    }

    fn clear_resume_actions(&mut self) -> Result<(), Refused> {
        self.steps.clear();
        self.continues.clear();
        self.locked = false;
        Ok(())
    }

    fn set_resume_action_continue(&mut self, tid: Tid, _signal: Option<Signal>) -> Result<(), Refused> {
        // A machine has no signals: the one that GDB passes on is the one it was told.
        self.continues.insert(vp(tid));
        Ok(())
    }

    fn support_single_step(&mut self) -> Option<MultiThreadSingleStepOps<'_, Self>> {
        Some(self)
    }

    fn support_scheduler_locking(&mut self) -> Option<MultiThreadSchedulerLockingOps<'_, Self>> {
        Some(self)
    }
}

impl MultiThreadSingleStep for Machine<'_> {
    fn set_resume_action_step(&mut self, tid: Tid, _signal: Option<Signal>) -> Result<(), Refused> {
        self.steps.insert(vp(tid));
        Ok(())
    }
}

impl MultiThreadSchedulerLocking for Machine<'_> {
    fn set_resume_action_scheduler_lock(&mut self) -> Result<(), Refused> {
        self.locked = true;
        Ok(())
    }
}

impl Breakpoints for Machine<'_> {
    fn support_sw_breakpoint(&mut self) -> Option<SwBreakpointOps<'_, Self>> {
        Some(self)
    }

    fn support_hw_breakpoint(&mut self) -> Option<HwBreakpointOps<'_, Self>> {
        Some(self)
    }

    fn support_hw_watchpoint(&mut self) -> Option<HwWatchpointOps<'_, Self>> {
        Some(self)
    }
}

fn software(address: u64) -> Breakpoint {
    Breakpoint { on: BreakOn::Code, address, length: 1 }
}

fn hardware(address: u64) -> Breakpoint {
    Breakpoint { on: BreakOn::Execution, address, length: 1 }
}

fn watch(address: u64, length: u64, kind: WatchKind) -> Breakpoint {
    let on = match kind {
        WatchKind::Write => BreakOn::Write,
        WatchKind::Read => BreakOn::Read,
        WatchKind::ReadWrite => BreakOn::Access,
    };
    Breakpoint { on, address, length }
}

impl SwBreakpoint for Machine<'_> {
    fn add_sw_breakpoint(&mut self, address: u64, _kind: usize) -> TargetResult<bool, Self> {
        Ok(self.add(software(address)))
    }

    fn remove_sw_breakpoint(&mut self, address: u64, _kind: usize) -> TargetResult<bool, Self> {
        Ok(self.remove(software(address)))
    }
}

impl HwBreakpoint for Machine<'_> {
    fn add_hw_breakpoint(&mut self, address: u64, _kind: usize) -> TargetResult<bool, Self> {
        Ok(self.add(hardware(address)))
    }

    fn remove_hw_breakpoint(&mut self, address: u64, _kind: usize) -> TargetResult<bool, Self> {
        Ok(self.remove(hardware(address)))
    }
}

impl HwWatchpoint for Machine<'_> {
    fn add_hw_watchpoint(&mut self, address: u64, len: u64, kind: WatchKind) -> TargetResult<bool, Self> {
        const LONGEST: u64 = 4096;
        let watches = self.breakpoints.iter().filter(|point| !point.on.is_execution()).count();
        let point = watch(address, len, kind);
        let room = watches < 4 || self.breakpoints.contains(&point);
        Ok((1..=LONGEST).contains(&len) && room && self.add(point))
    }

    fn remove_hw_watchpoint(&mut self, address: u64, len: u64, kind: WatchKind) -> TargetResult<bool, Self> {
        Ok(self.remove(watch(address, len, kind)))
    }
}
