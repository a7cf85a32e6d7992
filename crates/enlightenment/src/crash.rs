//! Crash reports of the guest (TLFS, "Partition Crash Enlightenment").

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use guest_memory::GuestMemory;
use tlfs::{CrashControl, PAGE_SIZE};
use vm_memory::{Bytes, GuestAddress};

/// Reports that are passed on until the next reset: a guest that crashes has one to make.
const LIMIT: u32 = 16;
/// What the guest may do.
const SUPPORTED: CrashControl = CrashControl::new().with_crash_message(true).with_crash_notify(true);

/// What a guest said when it crashed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CrashReport {
    /// The processor that said so.
    pub vp: u32,
    /// P0–P4. What they mean, the guest's operating system says; Linux: error, guest OS id, RIP, RAX, RSP,
    /// or the place and length of the message.
    pub parameters: [u64; 5],
    /// The end of the guest's log, if it sent one. Anything that is not UTF-8 has been replaced.
    pub message: Option<String>,
}

/// Hears of crashes. Called on processor threads.
pub trait CrashSink: Send + Sync {
    /// The guest has crashed; it goes on to do what it does after a crash.
    fn crashed(&self, report: &CrashReport);
}

#[derive(Default)]
struct State {
    parameters: [u64; 5],
    reports: u32,
}

/// The crash registers.
pub(crate) struct Crash {
    memory: GuestMemory,
    sink: Arc<dyn CrashSink>,
    state: Mutex<State>,
}

impl Crash {
    pub fn new(memory: GuestMemory, sink: Arc<dyn CrashSink>) -> Self {
        Self { memory, sink, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Parameter `index`.
    pub fn parameter(&self, index: usize) -> u64 {
        self.state().parameters.get(index).copied().unwrap_or(0)
    }

    /// Writes parameter `index`.
    pub fn set_parameter(&self, index: usize, value: u64) {
        if let Some(parameter) = self.state().parameters.get_mut(index) {
            *parameter = value;
        }
    }

    /// CRASH_CTL: what is supported.
    pub fn control(&self) -> u64 {
        SUPPORTED.into_bits()
    }

    /// Writes CRASH_CTL.
    pub fn set_control(&self, vp: u32, value: u64) {
        let control = CrashControl::from_bits(value);
        if !control.crash_notify() {
            return;
        }
        let mut state = self.state();
        if state.reports >= LIMIT {
            return;
        }
        state.reports += 1;
        let parameters = state.parameters;
        drop(state);
        let message = control.crash_message().then(|| self.message(parameters[3], parameters[4])).flatten();
        self.sink.crashed(&CrashReport { vp, parameters, message });
    }

    fn message(&self, gpa: u64, len: u64) -> Option<String> {
        let mut buffer = [0; PAGE_SIZE];
        let len = usize::try_from(len).unwrap_or(PAGE_SIZE).min(PAGE_SIZE);
        let bytes = buffer.get_mut(..len)?;
        self.memory.read_slice(bytes, GuestAddress(gpa)).ok()?;
        let text = String::from_utf8_lossy(bytes);
        Some(text.trim_matches('\0').to_owned())
    }

    /// Back to the state after reset.
    pub fn reset(&self) {
        *self.state() = State::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Reports(Mutex<Vec<CrashReport>>);

    impl CrashSink for Reports {
        fn crashed(&self, report: &CrashReport) {
            self.0.lock().unwrap().push(report.clone());
        }
    }

    fn crash() -> (Crash, Arc<Reports>, GuestMemory) {
        let (memory, _) = guest_memory::allocate(0x4000).unwrap();
        let reports = Arc::new(Reports::default());
        (Crash::new(memory.clone(), reports.clone()), reports, memory)
    }

    const NOTIFY: u64 = 1 << 63;
    const MESSAGE: u64 = 1 << 62;

    #[test]
    fn the_control_register_tells_what_is_supported() {
        assert_eq!(crash().0.control(), NOTIFY | MESSAGE);
    }

    #[test]
    fn a_notification_carries_the_parameters() {
        let (crash, reports, _) = crash();
        (0..5).for_each(|index| crash.set_parameter(index, 10 + index as u64));
        crash.set_control(1, 0);
        crash.set_control(1, NOTIFY);
        let expected = CrashReport { vp: 1, parameters: [10, 11, 12, 13, 14], message: None };
        assert_eq!(*reports.0.lock().unwrap(), [expected]);
    }

    #[test]
    fn a_message_is_read_from_guest_memory() {
        let (crash, reports, memory) = crash();
        memory.write_slice(b"Kernel panic\n\0", GuestAddress(0x1ff0)).unwrap();
        crash.set_parameter(3, 0x1ff0);
        crash.set_parameter(4, 14);
        crash.set_control(0, NOTIFY | MESSAGE);
        assert_eq!(reports.0.lock().unwrap()[0].message.as_deref(), Some("Kernel panic\n"));
    }

    #[test]
    fn a_message_outside_memory_is_none_and_a_long_one_is_cut() {
        let (crash, reports, _) = crash();
        crash.set_parameter(3, 0x3ff0);
        crash.set_parameter(4, 0x100);
        crash.set_control(0, NOTIFY | MESSAGE);
        crash.set_parameter(3, 0);
        crash.set_parameter(4, u64::MAX);
        crash.set_control(0, NOTIFY | MESSAGE);
        let messages: Vec<_> = reports.0.lock().unwrap().iter().map(|r| r.message.clone()).collect();
        assert_eq!(messages, [None, Some(String::new())]);
    }

    #[test]
    fn reports_are_few() {
        let (crash, reports, _) = crash();
        (0..100).for_each(|_| crash.set_control(0, NOTIFY));
        assert_eq!(reports.0.lock().unwrap().len(), LIMIT as usize);
        crash.reset();
        crash.set_control(0, NOTIFY);
        assert_eq!(reports.0.lock().unwrap().len(), LIMIT as usize + 1);
    }
}
