//! A fake machine around an [`Enlightenment`], for unit tests and fuzz targets.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use clock::{FakeClock, FakeTimers};
use counters::Registry;
use guest_memory::GuestMemory;
use interrupt::{GeneralProtection, LocalApic, Trigger};
use processor::{
    GeneralRegister, HypercallContext, StartRegisters, StartState, SynicOffload, TlbFlush, VirtualProcessors,
};

use crate::{Config, CrashReport, CrashSink, Enlightenment, Features, Vendor};

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An APIC that remembers what it was asked for.
#[derive(Default)]
pub(crate) struct FakeApic {
    pub id: u32,
    pub requests: Mutex<Vec<u8>>,
    pub ends: AtomicU64,
    pub command: AtomicU64,
    pub priority: AtomicU64,
}

impl FakeApic {
    /// The vectors requested since the last call.
    pub fn take(&self) -> Vec<u8> {
        std::mem::take(&mut lock(&self.requests))
    }
}

impl LocalApic for FakeApic {
    fn base(&self) -> u64 {
        0xfee0_0900
    }
    fn set_base(&self, _value: u64) -> Result<(), GeneralProtection> {
        Err(GeneralProtection)
    }
    fn read(&self, _offset: u32) -> u32 {
        0
    }
    fn write(&self, _offset: u32, _value: u32) {}
    fn read_msr(&self, _msr: u32) -> Result<u64, GeneralProtection> {
        Err(GeneralProtection)
    }
    fn write_msr(&self, _msr: u32, _value: u64) -> Result<(), GeneralProtection> {
        Err(GeneralProtection)
    }
    fn tsc_deadline(&self) -> u64 {
        0
    }
    fn set_tsc_deadline(&self, _value: u64) {}
    fn cr8(&self) -> u8 {
        self.task_priority() >> 4
    }
    fn set_cr8(&self, priority: u8) {
        self.set_task_priority(priority << 4);
    }
    fn pending(&self) -> bool {
        !lock(&self.requests).is_empty()
    }
    fn acknowledge(&self) -> Option<u8> {
        lock(&self.requests).pop()
    }
    fn request(&self, vector: u8, trigger: Trigger) {
        assert_eq!(trigger, Trigger::Edge);
        let mut requests = lock(&self.requests);
        // As in an IRR, a vector is there once or not; tests look at orders of few.
        if requests.len() < 4096 {
            requests.push(vector);
        }
    }
    fn end_of_interrupt(&self) {
        self.ends.fetch_add(1, Ordering::SeqCst);
    }
    fn task_priority(&self) -> u8 {
        self.priority.load(Ordering::SeqCst) as u8
    }
    fn set_task_priority(&self, value: u8) {
        self.priority.store(value.into(), Ordering::SeqCst);
    }
    fn interrupt_command(&self) -> u64 {
        self.command.load(Ordering::SeqCst)
    }
    fn set_interrupt_command(&self, value: u64) {
        self.command.store(value, Ordering::SeqCst);
    }
    fn id(&self) -> u32 {
        self.id
    }
    fn set_lint(&self, _pin: usize, _high: bool) {}
    fn init(&self) {}
    fn reset(&self) {}
}

/// A flush as it was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Flushed {
    pub caller: Option<u32>,
    pub targets: Vec<u32>,
    pub flush: TlbFlush,
}

/// Processors that remember what they were asked for.
pub(crate) struct FakeProcessors {
    count: u32,
    clock: Arc<FakeClock>,
    /// How long a flush takes, in nanoseconds.
    pub flush_time: AtomicU64,
    pub flushes: Mutex<Vec<Flushed>>,
    pub started: Mutex<Vec<(u32, StartState)>>,
    pub yields: AtomicU64,
}

impl VirtualProcessors for FakeProcessors {
    fn count(&self) -> u32 {
        self.count
    }
    fn flush_tlb(&self, caller: Option<u32>, targets: &[u32], flush: &TlbFlush) {
        self.clock.advance(self.flush_time.load(Ordering::SeqCst));
        let mut flushes = lock(&self.flushes);
        if flushes.len() < 4096 {
            flushes.push(Flushed { caller, targets: targets.to_vec(), flush: flush.clone() });
        }
    }
    fn start(&self, vp: u32, state: &StartState) -> bool {
        let mut started = lock(&self.started);
        let waits = started.iter().all(|(other, _)| *other != vp);
        if waits {
            started.push((vp, state.clone()));
        }
        waits
    }
    fn is_running(&self, _vp: u32) -> bool {
        true
    }
    fn yield_now(&self, _vp: u32) {
        self.yields.fetch_add(1, Ordering::SeqCst);
    }
}

/// A host's kernel with the synthetic interrupt controllers' sources: remembers what it is asked.
#[derive(Default)]
pub(crate) struct FakeOffload {
    pub raised: Mutex<Vec<(u32, u8)>>,
    pub deliveries: Mutex<Vec<u32>>,
}

impl SynicOffload for FakeOffload {
    fn raise(&self, vp: u32, sint: u8) {
        lock(&self.raised).push((vp, sint));
    }
    fn ask_delivery(&self, vp: u32) {
        lock(&self.deliveries).push(vp);
    }
    fn bind_signal(&self, _connection: u32, _eventfd: BorrowedFd<'_>) -> io::Result<()> {
        Ok(())
    }
    fn unbind_signal(&self, _connection: u32) {}
}

/// Remembers crashes and resets.
#[derive(Default)]
pub(crate) struct Events {
    pub crashes: Mutex<Vec<CrashReport>>,
    pub resets: AtomicU64,
}

impl CrashSink for Events {
    fn crashed(&self, report: &CrashReport) {
        lock(&self.crashes).push(report.clone());
    }
}

/// An interface with everything around it.
pub(crate) struct FakeMachine {
    pub enlightenment: Arc<Enlightenment>,
    pub memory: GuestMemory,
    pub clock: Arc<FakeClock>,
    pub timers: Arc<FakeTimers>,
    pub apics: Vec<Arc<FakeApic>>,
    pub processors: Arc<FakeProcessors>,
    pub events: Arc<Events>,
    pub registry: Registry,
}

/// Frequency of the fake APICs' timers.
pub(crate) const APIC_FREQUENCY: u64 = 1_000_000_000;

impl FakeMachine {
    /// A machine with `processors` processors, whose APIC ids are twice their indices, and `pages` pages
    /// of memory.
    pub fn new(memory: &GuestMemory, features: Features, processors: u32) -> Self {
        let clock = FakeClock::new();
        let timers = FakeTimers::new(clock.clone());
        let events = Arc::new(Events::default());
        let registry = Registry::new();
        let reset = Arc::clone(&events);
        let config = Config {
            features,
            processors,
            vendor: Vendor::Intel,
            apic_frequency: APIC_FREQUENCY,
            memory: memory.clone(),
            clock: clock.clone(),
            timers: timers.clone(),
            crash: events.clone(),
            reset: Arc::new(move || {
                reset.resets.fetch_add(1, Ordering::SeqCst);
            }),
        };
        let enlightenment = Enlightenment::new(config, &registry);
        let apics: Vec<_> =
            (0..processors).map(|vp| Arc::new(FakeApic { id: vp * 2, ..FakeApic::default() })).collect();
        let processors = Arc::new(FakeProcessors {
            count: processors,
            clock: clock.clone(),
            flush_time: AtomicU64::new(0),
            flushes: Mutex::default(),
            started: Mutex::default(),
            yields: AtomicU64::new(0),
        });
        let attached = apics.iter().map(|apic| Arc::clone(apic) as Arc<dyn LocalApic>).collect();
        let result = enlightenment.attach(attached, processors.clone());
        assert!(result.is_ok(), "one APIC for each processor");
        let memory = memory.clone();
        Self { enlightenment, memory, clock, timers, apics, processors, events, registry }
    }
}

/// The registers of a processor that makes a hypercall.
#[derive(Clone)]
pub(crate) struct FakeContext {
    pub long_mode: bool,
    pub privilege_level: u8,
    pub protected_mode: bool,
    pub general: [u64; 16],
    pub xmm: [u128; 6],
    pub state: StartRegisters,
}

impl Default for FakeContext {
    fn default() -> Self {
        Self {
            long_mode: true,
            privilege_level: 0,
            protected_mode: true,
            general: [0; 16],
            xmm: [0; 6],
            state: StartRegisters::default(),
        }
    }
}

impl HypercallContext for FakeContext {
    fn long_mode(&self) -> bool {
        self.long_mode
    }
    fn privilege_level(&self) -> u8 {
        self.privilege_level
    }
    fn protected_mode(&self) -> bool {
        self.protected_mode
    }
    fn register(&self, register: GeneralRegister) -> u64 {
        self.general[register as usize]
    }
    fn set_register(&mut self, register: GeneralRegister, value: u64) {
        self.general[register as usize] = value;
    }
    fn xmm(&self, index: usize) -> u128 {
        self.xmm[index]
    }
    fn set_xmm(&mut self, index: usize, value: u128) {
        self.xmm[index] = value;
    }
    fn snapshot(&self) -> StartRegisters {
        self.state.clone()
    }
}
