//! A machine of two processors that never runs, for tests and for the fuzz target.

use std::sync::{Arc, Mutex, PoisonError};

use processor::{Breakpoint, DebugRegisters};

use crate::debuggee::{Debuggee, Refused, Resume, Stop};

const MEMORY: usize = 0x2000;

/// What is in a [`Fake`].
pub struct State {
    pub registers: [DebugRegisters; 2],
    pub memory: Vec<u8>,
    pub report: Option<Box<dyn Fn(Stop) + Send + Sync>>,
    pub log: Vec<String>,
    pub resumed: Option<Resume>,
    /// Breakpoints that the processors have room for.
    pub room: usize,
}

/// Two processors that share memory, which never run.
pub struct Fake(Mutex<State>);

impl Fake {
    pub fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::new(State {
            registers: Default::default(),
            memory: vec![0; MEMORY],
            report: None,
            log: Vec::new(),
            resumed: None,
            room: usize::MAX,
        })))
    }

    pub fn with<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub fn report(&self, stop: Stop) {
        self.with(|state| state.report.iter().for_each(|report| report(stop)));
    }
}

impl Debuggee for Fake {
    fn processors(&self) -> u32 {
        2
    }
    fn registers(&self, vp: u32) -> Result<DebugRegisters, Refused> {
        self.with(|state| state.registers.get(vp as usize).cloned()).ok_or(Refused("no".to_owned()))
    }
    fn set_registers(&self, vp: u32, registers: &DebugRegisters) -> Result<(), Refused> {
        let refused = || Refused("no".to_owned());
        self.with(|state| {
            *state.registers.get_mut(vp as usize).ok_or_else(refused)? = registers.clone();
            Ok(())
        })
    }
    fn read_memory(&self, _vp: u32, gva: u64, data: &mut [u8]) -> usize {
        self.with(|state| {
            let start = usize::try_from(gva).unwrap_or(usize::MAX).min(MEMORY);
            let len = data.len().min(MEMORY - start);
            data[..len].copy_from_slice(&state.memory[start..start + len]);
            len
        })
    }
    fn write_memory(&self, _vp: u32, gva: u64, data: &[u8]) -> Result<(), Refused> {
        self.with(|state| {
            let start = usize::try_from(gva).unwrap_or(usize::MAX).min(MEMORY);
            let place = state.memory.get_mut(start..start.saturating_add(data.len()));
            place.ok_or(Refused("no".to_owned()))?.copy_from_slice(data);
            Ok(())
        })
    }
    fn accept(&self, breakpoints: &[Breakpoint]) -> Result<(), Refused> {
        let room = self.with(|state| state.room);
        if breakpoints.len() > room { Err(Refused("no room".to_owned())) } else { Ok(()) }
    }
    fn attach(&self, report: Box<dyn Fn(Stop) + Send + Sync>) -> Result<(), Refused> {
        self.with(|state| state.report = Some(report));
        Ok(())
    }
    fn resume(&self, resume: Resume) -> Result<(), Refused> {
        self.with(|state| state.resumed = Some(resume));
        Ok(())
    }
    fn interrupt(&self) -> bool {
        let running = self.with(|state| state.resumed.take().is_some());
        if running {
            self.report(Stop::Interrupted);
        }
        running
    }
    fn detach(&self) {
        self.with(|state| state.log.push("detach".to_owned()));
    }
    fn kill(&self) {
        self.with(|state| state.log.push("kill".to_owned()));
    }
}
