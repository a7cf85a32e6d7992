//! A machine under a debugger: who runs, who waits, and how the whole stops and goes on.
//!
//! ```text
//!            attach, interrupt, a breakpoint            last processor is out
//!   Running ─────────────────────────────────▶ Stopping ─────────────────────▶ Stopped
//!      ▲                                                     clock stops          │
//!      └──────────────────────── resume, detach ──────────────────────────────────┘
//! ```
//!
//! Processors are behind locks: of its own thread while it runs guest code, of the debugger's while the machine
//! is stopped. Time stands still with them; requests of disks that are under way come to their end. A reset
//! builds a new board, and the debugger stays.
//!
//! Locks: `state` before a processor's, and no processor's while another is taken.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use clock::VmClock;
use gdb::{Debuggee, Refused, Resume, Stop};
use guest_memory::{GuestMemory, Shadow};
use processor::{Breakpoint, DebugControl, DebugRegisters, DebugStop, Exit, Partition, Processor};
use vm_memory::{Bytes, GuestAddress};

use crate::control::{Control, End, Wish};
use crate::segments;

type SharedProcessor = Arc<Mutex<Box<dyn Processor>>>;
type Report = Box<dyn Fn(Stop) + Send + Sync>;

const PAGE: u64 = guest_memory::PAGE_SIZE;

/// What a debugger works on, from power-on to the next reset.
pub(crate) struct Access {
    pub partition: Arc<dyn Partition>,
    pub clock: Arc<VmClock>,
    pub memory: Memory,
}

impl Access {
    fn stop_clock(&self) {
        if self.partition.clock_stops() {
            self.clock.stop();
        }
    }

    fn resume_clock(&self) {
        if self.partition.clock_stops() {
            self.clock.resume();
        }
    }
}

struct Present {
    access: Access,
    processors: Vec<SharedProcessor>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Running,
    Stopping,
    Stopped,
}

struct State {
    phase: Phase,
    present: Option<Present>,
    /// The board is being taken apart: processors leave.
    leaving: bool,
    /// How many processors are in [`Processor::run`].
    inside: usize,
    resume: Resume,
    /// Why the machine stops, the first reason first.
    stops: VecDeque<Stop>,
    /// A debugger is there.
    report: Option<Report>,
    ended: bool,
}

/// The way of a debugger to a machine.
pub(crate) struct Debug {
    cpus: u32,
    control: Arc<Control>,
    state: Mutex<State>,
    changed: Condvar,
}

impl Debug {
    /// For a machine of so many processors; `waits` says whether they wait for a debugger at their first
    /// instruction.
    pub fn new(cpus: u32, waits: bool, control: Arc<Control>) -> Arc<Self> {
        Arc::new(Self {
            cpus,
            control,
            state: Mutex::new(State {
                phase: if waits { Phase::Stopped } else { Phase::Running },
                present: None,
                leaving: false,
                inside: 0,
                resume: Resume::default(),
                stops: VecDeque::new(),
                report: None,
                ended: false,
            }),
            changed: Condvar::new(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
    }

    /// A board has been built. Each of its processors is to be run by [`Self::run`].
    pub fn begin(&self, access: Access, processors: Vec<Box<dyn Processor>>) {
        let processors = processors.into_iter().map(|processor| Arc::new(Mutex::new(processor))).collect();
        let mut state = self.lock();
        state.leaving = false;
        if state.phase != Phase::Running {
            access.stop_clock();
        }
        let partition = Arc::clone(&access.partition);
        state.present = Some(Present { access, processors });
        (state.resume.steps, state.resume.only) = (BTreeSet::new(), None);
        if let Err(refused) = Self::instruct(&state, &state.resume) {
            tracing::error!("breakpoints are lost by the reset: {refused}");
        }
        if state.phase == Phase::Running {
            // It runs already, but may have to be told of the breakpoints.
            partition.resume();
        }
    }

    /// The board is about to be taken apart, and its processors to be stopped.
    pub fn leave(&self) {
        self.lock().leaving = true;
        self.changed.notify_all();
    }

    /// The processors have ended, and the board goes.
    pub fn end_board(&self) {
        let mut state = self.lock();
        state.present = None;
        // One that has panicked has not come out.
        state.inside = 0;
        // Nobody is left who could finish it.
        self.finish_stop(&mut state);
    }

    /// The machine has come to its end; what the debugger is told. Waits a moment for it to take note.
    pub fn end(&self, end: &End) {
        const MOMENT: Duration = Duration::from_secs(1);
        let code = match end {
            End::PoweredOff | End::Stopped => 0,
            End::DebugExit(code) => *code,
            End::Failed(_) => 1,
        };
        let mut state = self.lock();
        state.ended = true;
        if let Some(report) = &state.report {
            report(Stop::Ended(code));
        }
        let attached = |state: &mut State| state.report.is_some();
        let _unlocked = self.changed.wait_timeout_while(state, MOMENT, attached);
    }

    /// Runs processor `vp` until the board goes or it cannot go on.
    pub fn run(&self, vp: u32) -> Exit {
        loop {
            let Some(processor) = self.enter(vp) else { return Exit::Stopped };
            let exit = lock(&processor).run();
            match exit {
                Exit::Stopped => self.came_out(None),
                Exit::Debug(stop) => self.came_out(Some(Stop::Processor(vp, stop))),
                Exit::TripleFault { .. } | Exit::Failed { .. } => {
                    if self.lock().report.is_some() {
                        self.came_out(Some(Stop::Lost(vp)));
                        // To be looked at, until the debugger lets it go.
                        if self.enter(vp).is_none() {
                            return exit;
                        }
                    }
                    self.came_out(None);
                    return exit;
                }
            }
        }
    }

    /// Waits until processor `vp` may run; `None` if the board goes.
    fn enter(&self, vp: u32) -> Option<SharedProcessor> {
        let mut state = self.lock();
        loop {
            if state.leaving {
                return None;
            }
            let may_run = state.resume.only.as_ref().is_none_or(|only| only.contains(&vp));
            if state.phase == Phase::Running && may_run {
                break;
            }
            state = self.wait(state);
        }
        let processor = state.present.as_ref()?.processors.get(vp as usize).cloned()?;
        state.inside += 1;
        Some(processor)
    }

    /// A processor has come out, for the debugger if there is a `stop`.
    fn came_out(&self, stop: Option<Stop>) {
        let mut state = self.lock();
        state.inside = state.inside.saturating_sub(1);
        if let Some(stop) = stop {
            state.stops.push_back(stop);
            self.begin_stop(&mut state);
        }
        self.finish_stop(&mut state);
    }

    fn begin_stop(&self, state: &mut State) {
        if state.phase == Phase::Running {
            state.phase = Phase::Stopping;
            if let Some(present) = &state.present {
                present.access.partition.stop();
            }
        }
    }

    /// Stops time and tells the debugger, when the last processor is out.
    fn finish_stop(&self, state: &mut State) {
        if state.phase != Phase::Stopping || state.inside != 0 {
            return;
        }
        state.phase = Phase::Stopped;
        if let Some(present) = &state.present {
            present.access.stop_clock();
        }
        let stop = state.stops.pop_front().unwrap_or(Stop::Interrupted);
        // Others at a breakpoint come to it again; data that they have accessed they do not.
        state.stops.retain(|stop| {
            matches!(stop, Stop::Lost(_))
                || matches!(stop, Stop::Processor(_, DebugStop::Breakpoint(point)) if !point.on.is_execution())
        });
        match &state.report {
            Some(report) => report(stop),
            // The debugger has gone meanwhile.
            None => self.go_on(state),
        }
        self.changed.notify_all();
    }

    fn go_on(&self, state: &mut State) {
        if state.phase != Phase::Stopped {
            return;
        }
        state.phase = Phase::Running;
        if let Some(present) = &state.present {
            // A board that goes keeps its processors stopped.
            if !state.leaving {
                present.access.partition.resume();
            }
            present.access.resume_clock();
        }
        self.changed.notify_all();
    }

    /// Tells the processors how they are to go on.
    fn instruct(state: &State, resume: &Resume) -> Result<(), Refused> {
        let Some(present) = &state.present else { return Ok(()) };
        for (vp, processor) in (0..).zip(&present.processors) {
            let control =
                DebugControl { step: resume.steps.contains(&vp), breakpoints: resume.breakpoints.clone() };
            with_debug(processor, |debug| debug.control(&control))?.map_err(Unwilling)?;
        }
        Ok(())
    }

    /// Processor `vp`, to be had while the machine is stopped.
    fn stopped(&self, vp: u32) -> Result<(SharedProcessor, Memory), Refused> {
        let state = self.lock();
        let present = state.present.as_ref().filter(|_| state.phase == Phase::Stopped && !state.leaving);
        let present = present.ok_or_else(|| Refused("the machine is not stopped".to_owned()))?;
        let processor = present.processors.get(vp as usize);
        let processor = processor.ok_or_else(|| Refused(format!("there is no processor {vp}")))?;
        Ok((Arc::clone(processor), present.access.memory.clone()))
    }

    /// Calls `each` with the pieces of memory at `gva` that lie in a page each: guest physical address and range
    /// of the data. Ends where `each` is false or nothing is mapped; the number of bytes so far.
    fn pieces(
        &self,
        vp: u32,
        gva: u64,
        len: usize,
        mut each: impl FnMut(&Memory, u64, std::ops::Range<usize>) -> bool,
    ) -> Result<usize, Refused> {
        let (processor, memory) = self.stopped(vp)?;
        let mut done = 0;
        while done < len {
            let Some(at) = gva.checked_add(done as u64) else { break };
            let piece = ((PAGE - at % PAGE) as usize).min(len - done);
            let gpa = with_debug(&processor, |debug| debug.translate(at))?.map_err(Unwilling)?;
            let Some(gpa) = gpa else { break };
            if !each(&memory, gpa, done..done + piece) {
                break;
            }
            done += piece;
        }
        Ok(done)
    }
}

/// Memory as a processor finds it.
#[derive(Clone)]
pub(crate) struct Memory {
    pub ram: GuestMemory,
    pub shadow: Arc<Shadow>,
}

impl Memory {
    fn read(&self, gpa: u64, data: &mut [u8]) -> Option<()> {
        self.shadow.read(&self.ram, gpa, data)
    }

    /// Also where the guest may not write.
    fn write(&self, gpa: u64, data: &[u8]) -> Option<()> {
        if !self.shadow.attributes(gpa).read {
            return None;
        }
        self.ram.write_slice(data, GuestAddress(gpa)).ok()
    }
}

fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn with_debug<T>(
    processor: &SharedProcessor,
    f: impl FnOnce(&mut dyn processor::ProcessorDebug) -> T,
) -> Result<T, Refused> {
    let mut processor = lock(processor);
    let debug = processor.debug().ok_or_else(|| Refused("this processor cannot be debugged".to_owned()))?;
    Ok(f(debug))
}

/// A processor's refusal.
struct Unwilling(processor::Error);

impl From<Unwilling> for Refused {
    fn from(Unwilling(error): Unwilling) -> Self {
        Self(error.to_string())
    }
}

impl Debuggee for Debug {
    fn processors(&self) -> u32 {
        self.cpus
    }

    fn registers(&self, vp: u32) -> Result<DebugRegisters, Refused> {
        let (processor, _) = self.stopped(vp)?;
        Ok(with_debug(&processor, |debug| debug.registers())?.map_err(Unwilling)?)
    }

    fn set_registers(&self, vp: u32, registers: &DebugRegisters) -> Result<(), Refused> {
        let before = self.registers(vp)?;
        let descriptors = |gva, data: &mut [u8]| self.read_memory(vp, gva, data) == data.len();
        let loaded = segments::load(&before.system, &registers.system, descriptors);
        let system = loaded.map_err(|why| Refused(why.to_owned()))?;
        let registers = DebugRegisters { system, ..registers.clone() };
        let (processor, _) = self.stopped(vp)?;
        Ok(with_debug(&processor, |debug| debug.set_registers(&registers))?.map_err(Unwilling)?)
    }

    fn read_memory(&self, vp: u32, gva: u64, data: &mut [u8]) -> usize {
        let len = data.len();
        let read = self.pieces(vp, gva, len, |memory, gpa, range| {
            data.get_mut(range).is_some_and(|piece| memory.read(gpa, piece).is_some())
        });
        // Not stopped: nothing can be read.
        read.unwrap_or(0)
    }

    fn write_memory(&self, vp: u32, gva: u64, data: &[u8]) -> Result<(), Refused> {
        let done = self.pieces(vp, gva, data.len(), |memory, gpa, range| {
            data.get(range).is_some_and(|piece| memory.write(gpa, piece).is_some())
        })?;
        let all = done == data.len();
        all.then_some(()).ok_or_else(|| Refused(format!("{:#x} is no RAM", gva.wrapping_add(done as u64))))
    }

    fn accept(&self, breakpoints: &[Breakpoint]) -> Result<(), Refused> {
        let state = self.lock();
        if state.phase != Phase::Stopped {
            return Err(Refused("the machine is not stopped".to_owned()));
        }
        Self::instruct(&state, &Resume { breakpoints: breakpoints.to_vec(), ..Resume::default() })
    }

    fn attach(&self, report: Report) -> Result<(), Refused> {
        let mut state = self.lock();
        if state.ended || state.report.is_some() {
            return Err(Refused("the machine has ended, or another debugger is there".to_owned()));
        }
        // The debugger learns of this stop by asking.
        state.report = Some(Box::new(|_| {}));
        self.begin_stop(&mut state);
        self.finish_stop(&mut state);
        while state.phase != Phase::Stopped {
            state = self.wait(state);
        }
        state.stops.clear();
        state.report = Some(report);
        Ok(())
    }

    fn resume(&self, resume: Resume) -> Result<(), Refused> {
        let mut state = self.lock();
        if state.phase != Phase::Stopped {
            return Err(Refused("the machine is not stopped".to_owned()));
        }
        Self::instruct(&state, &resume)?;
        state.resume = resume;
        let State { stops, resume, .. } = &mut *state;
        stops.retain(|stop| match stop {
            Stop::Processor(_, DebugStop::Breakpoint(point)) => resume.breakpoints.contains(point),
            _ => false,
        });
        match state.stops.pop_front() {
            // Something has happened already that the debugger has not been told of.
            Some(stop) => state.report.iter().for_each(|report| report(stop)),
            None => self.go_on(&mut state),
        }
        Ok(())
    }

    fn interrupt(&self) -> bool {
        let mut state = self.lock();
        if state.phase == Phase::Stopped {
            return false;
        }
        self.begin_stop(&mut state);
        self.finish_stop(&mut state);
        true
    }

    fn detach(&self) {
        let mut state = self.lock();
        // The debugger may have left in the middle of a run: what it wished for is taken back in a stop of which
        // nobody is told.
        state.report = Some(Box::new(|_| {}));
        self.begin_stop(&mut state);
        self.finish_stop(&mut state);
        while state.phase != Phase::Stopped {
            state = self.wait(state);
        }
        state.report = None;
        state.stops.clear();
        state.resume = Resume::default();
        if let Err(refused) = Self::instruct(&state, &Resume::default()) {
            tracing::error!("breakpoints of a debugger that has gone remain: {refused}");
        }
        self.go_on(&mut state);
        self.changed.notify_all();
    }

    fn kill(&self) {
        self.control.wish(Wish::End(End::Stopped));
        self.lock().report = None;
        self.changed.notify_all();
    }
}
