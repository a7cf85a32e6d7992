//! The partition: what the processors share, and how others reach them.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};

use clock::VmClock;
use counters::Registry;
use guest_memory::{CodePages, GuestMemory, Shadow};
use interrupt::{LocalApic, ProcessorSignal};
use processor::{
    Bus, Error, HypervisorInterface, Partition, Processor, StartState, TlbFlush, VirtualProcessors,
};
use vm_memory::{Bytes, GuestAddress};

use crate::run::SoftProcessor;
use crate::system::UnknownMsrs;
use crate::translate::{Inspection, Library, Totals, WritableFilter};
use crate::vcpu::Vcpu;

/// Flush requests that a processor keeps apart; with more it flushes everything.
const FLUSH_QUEUE: usize = 32;
/// The same for pages that have become code.
const FORBID_QUEUE: usize = 64;

/// What a software partition is made of.
pub struct SoftConfig {
    /// Number of processors.
    pub processors: u32,
    /// Guest RAM, as [`guest_memory::allocate`] lays it out.
    pub memory: GuestMemory,
    /// The firmware's ROM, of [`guest_memory::rom`], beside which the RAM was allocated.
    pub rom: Option<GuestMemory>,
    /// What there is of RAM and ROM below 1 MiB.
    pub shadow: Arc<Shadow>,
    /// Its code pages.
    pub code: Arc<CodePages>,
    /// The machine's clock.
    pub clock: Arc<VmClock>,
    /// How guest code is carried out.
    pub tier: Tier,
    /// What is to be told of translated code.
    pub inspection: Arc<Inspection>,
    /// Where the translator's counts go.
    pub registry: Arc<Registry>,
}

/// How the software processor carries out guest code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tier {
    /// Instruction by instruction.
    Interpreter,
    /// 64-bit code, and 32-bit code in flat segments, is translated to host code, all other code interpreted.
    Translator,
    /// Both, and compared with each other; one processor.
    LockStep,
}

/// A partition of software processors.
///
/// Made in three steps, because local APICs and the hypervisor interface need the processors' signals
/// first: [`Self::new`], then the `attach` calls, then [`Partition::processor`].
pub struct SoftPartition {
    shared: Arc<Shared>,
}

/// What all processors share.
pub struct Shared {
    pub memory: GuestMemory,
    pub rom: Option<GuestMemory>,
    pub shadow: Arc<Shadow>,
    pub code: Arc<CodePages>,
    pub clock: Arc<VmClock>,
    pub tier: Tier,
    pub inspection: Arc<Inspection>,
    /// What the processors have translated for each other.
    pub library: Library,
    /// Counts of the translator, if there is one.
    pub totals: Option<Totals>,
    pub bus: OnceLock<Arc<dyn Bus>>,
    pub hypervisor: OnceLock<Arc<dyn HypervisorInterface>>,
    pub vps: Vec<Arc<VpShared>>,
    /// Excludes locked operations that cannot be done by one host instruction from each other.
    pub bus_lock: Mutex<()>,
    pub unknown_msrs: UnknownMsrs,
    pub stopped: AtomicBool,
}

/// Reasons for a processor to look up from its blocks: bits of [`VpShared::attention`].
pub mod attention {
    /// The local APIC may have something to deliver.
    pub const INTERRUPT: u32 = 1 << 0;
    pub const NMI: u32 = 1 << 1;
    pub const INIT: u32 = 1 << 2;
    pub const STARTUP: u32 = 1 << 3;
    /// StartVirtualProcessor.
    pub const START: u32 = 1 << 4;
    pub const FLUSH: u32 = 1 << 5;
    pub const STOP: u32 = 1 << 6;
    /// Another processor has overwritten code.
    pub const CODE: u32 = 1 << 8;
    /// Power-on reset of the machine.
    pub const RESET: u32 = 1 << 7;
    /// [`super::VpShared::ask_forbid`].
    pub const FORBID: u32 = 1 << 9;
    /// What is RAM and what is ROM below 1 MiB has changed.
    pub const SHADOW: u32 = 1 << 10;
}

/// TLB flushes that others have asked for.
#[derive(Default)]
struct FlushQueue {
    requests: Vec<TlbFlush>,
    /// More than fit: flush everything.
    all: bool,
    /// Number of the last request.
    asked: u64,
}

/// Pages that have become code on another processor: this one's generated code must not store to them.
#[derive(Default)]
struct ForbidQueue {
    /// Host addresses.
    pages: Vec<u64>,
    /// More than fit: no page may be stored to without another look.
    all: bool,
    /// Number of the last request.
    asked: u64,
}

/// What other threads may touch of a processor, in cache lines of its own: the processor looks at it all the time, and
/// hosts fetch lines in pairs.
#[repr(align(128))]
pub struct VpShared {
    /// Bits of [`attention`]; anything but 0 makes [`crate::vcpu::Vcpu::execute`] return.
    pub attention: AtomicU32,
    pub apic: OnceLock<Arc<dyn LocalApic>>,
    /// The processor carries out guest code and may use its TLB. While this is false nobody needs to wait
    /// for it: it looks at `attention` before it sets this and goes on.
    in_guest: AtomicBool,
    sleeping: AtomicBool,
    lock: Mutex<()>,
    wake: Condvar,
    startup_vector: AtomicU8,
    start: Mutex<Option<StartState>>,
    /// Waits for a start-up interrupt.
    waits_for_start: AtomicBool,
    flushes: Mutex<FlushQueue>,
    /// What its generated code may store to.
    pub writable: Arc<WritableFilter>,
    forbids: Mutex<ForbidQueue>,
    /// Number of the last of them that has been carried out.
    forbidden: AtomicU64,
    /// Number of the last request that has been carried out.
    flushed: AtomicU64,
    /// Instructions carried out, told now and then.
    pub instructions: AtomicU64,
    taken: AtomicBool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl VpShared {
    fn new(index: u32) -> Self {
        Self {
            attention: AtomicU32::new(0),
            apic: OnceLock::new(),
            in_guest: AtomicBool::new(false),
            sleeping: AtomicBool::new(false),
            lock: Mutex::new(()),
            wake: Condvar::new(),
            startup_vector: AtomicU8::new(0),
            start: Mutex::new(None),
            waits_for_start: AtomicBool::new(index != 0),
            flushes: Mutex::default(),
            writable: Arc::new(WritableFilter::new()),
            forbids: Mutex::default(),
            forbidden: AtomicU64::new(0),
            flushed: AtomicU64::new(0),
            instructions: AtomicU64::new(0),
            taken: AtomicBool::new(false),
        }
    }

    /// Sets bits of [`attention`] and wakes the processor if it sleeps.
    pub fn call(&self, bits: u32) {
        self.attention.fetch_or(bits, Ordering::SeqCst);
        if self.sleeping.load(Ordering::SeqCst) {
            // Taken so that the sleeper is either before its last look at `attention` or in `wait`.
            drop(lock(&self.lock));
            self.wake.notify_one();
        }
    }

    /// Takes all bits of [`attention`].
    #[inline]
    pub fn take_attention(&self) -> u32 {
        if self.attention.load(Ordering::SeqCst) == 0 { 0 } else { self.attention.swap(0, Ordering::SeqCst) }
    }

    /// Sleeps until there is an attention bit.
    pub fn sleep(&self) {
        let mut guard = lock(&self.lock);
        self.sleeping.store(true, Ordering::SeqCst);
        while self.attention.load(Ordering::SeqCst) == 0 {
            guard = self.wake.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
        self.sleeping.store(false, Ordering::SeqCst);
    }

    /// Says whether the processor uses its TLB from now on.
    pub fn set_in_guest(&self, in_guest: bool) {
        self.in_guest.store(in_guest, Ordering::SeqCst);
    }

    /// Whether the processor carries out guest code.
    pub fn is_in_guest(&self) -> bool {
        self.in_guest.load(Ordering::SeqCst)
    }

    /// Says whether the processor waits for a start-up interrupt.
    pub fn set_waits_for_start(&self, waits: bool) {
        self.waits_for_start.store(waits, Ordering::SeqCst);
    }

    /// The vector of the last start-up interrupt.
    pub fn startup_vector(&self) -> u8 {
        self.startup_vector.load(Ordering::SeqCst)
    }

    /// The registers that StartVirtualProcessor has given.
    pub fn take_start(&self) -> Option<StartState> {
        lock(&self.start).take()
    }

    /// Carries out the flushes that have been asked for.
    pub fn carry_out_flushes(&self, mut flush: impl FnMut(Option<&TlbFlush>)) {
        let mut queue = lock(&self.flushes);
        if std::mem::take(&mut queue.all) {
            flush(None);
        } else {
            queue.requests.iter().for_each(|request| flush(Some(request)));
        }
        queue.requests.clear();
        self.flushed.store(queue.asked, Ordering::SeqCst);
    }

    /// Puts a flush into the queue; the number to wait for.
    fn ask_flush(&self, flush: &TlbFlush) -> u64 {
        let number = {
            let mut queue = lock(&self.flushes);
            if queue.requests.len() >= FLUSH_QUEUE {
                queue.all = true;
            } else if !queue.all {
                queue.requests.push(flush.clone());
            }
            queue.asked += 1;
            queue.asked
        };
        self.call(attention::FLUSH);
        number
    }

    /// Asks that the processor's generated code no longer stores to the page at host address `host`; the
    /// number to wait for.
    pub fn ask_forbid(&self, host: u64) -> u64 {
        let number = {
            let mut queue = lock(&self.forbids);
            if queue.pages.len() >= FORBID_QUEUE {
                queue.all = true;
            } else {
                queue.pages.push(host);
            }
            queue.asked += 1;
            queue.asked
        };
        self.call(attention::FORBID);
        number
    }

    /// Waits until the processor has carried out the request `number` or is where it will do so before it
    /// stores again. Two processors may wait for each other: `meanwhile` does what is asked of the caller.
    pub fn await_forbid(&self, number: u64, mut meanwhile: impl FnMut()) {
        let mut spins = 0_u32;
        while self.forbidden.load(Ordering::SeqCst) < number && self.is_in_guest() {
            meanwhile();
            spins += 1;
            if spins < 100 { std::hint::spin_loop() } else { std::thread::yield_now() }
        }
    }

    /// Carries out what has been asked by [`Self::ask_forbid`]: for a page, or for all.
    pub fn carry_out_forbids(&self, mut forbid: impl FnMut(Option<u64>)) {
        let mut queue = lock(&self.forbids);
        if std::mem::take(&mut queue.all) {
            forbid(None);
            queue.pages.clear();
        }
        queue.pages.drain(..).for_each(|host| forbid(Some(host)));
        self.forbidden.store(queue.asked, Ordering::SeqCst);
    }

    /// Waits until the processor has carried out the flush `number` or is where it will do so before it
    /// uses its TLB again.
    fn await_flush(&self, number: u64) {
        let mut spins = 0_u32;
        while self.flushed.load(Ordering::SeqCst) < number && self.is_in_guest() {
            spins += 1;
            if spins < 100 { std::hint::spin_loop() } else { std::thread::yield_now() }
        }
    }
}

impl Shared {
    /// Copies code at `gpa`, of RAM or ROM, within a page. None if it is neither.
    pub fn read_code(&self, bytes: &mut [u8], gpa: u64) -> Option<()> {
        match self.shadow.read(&self.memory, gpa, bytes) {
            None => self.rom.as_ref()?.read_slice(bytes, GuestAddress(gpa)).ok(),
            found => found,
        }
    }
}

impl SoftPartition {
    /// A partition without bus, APICs and hypervisor interface.
    pub fn new(config: SoftConfig) -> Arc<Self> {
        let vps = (0..config.processors).map(|index| Arc::new(VpShared::new(index))).collect();
        Arc::new(Self {
            shared: Arc::new(Shared {
                memory: config.memory,
                rom: config.rom,
                shadow: config.shadow,
                code: config.code,
                clock: config.clock,
                tier: config.tier,
                // Who looks on wants to see each block being translated.
                library: if config.inspection.is_wanted() {
                    Library::default()
                } else {
                    Library::new(config.processors)
                },
                inspection: config.inspection,
                totals: (config.tier == Tier::Translator).then(|| Totals::new(&config.registry)),
                bus: OnceLock::new(),
                hypervisor: OnceLock::new(),
                vps,
                bus_lock: Mutex::new(()),
                unknown_msrs: UnknownMsrs::default(),
                stopped: AtomicBool::new(false),
            }),
        })
    }

    /// Attaches ports and devices. Call once.
    pub fn attach_bus(&self, bus: Arc<dyn Bus>) {
        if self.shared.bus.set(bus).is_err() {
            tracing::error!("a bus has been attached already");
        }
    }

    /// Attaches the local APIC of processor `index`. Call once for each.
    pub fn attach_apic(&self, index: u32, apic: Arc<dyn LocalApic>) {
        let attached = self.vp(index).is_some_and(|vp| vp.apic.set(apic).is_ok());
        if !attached {
            tracing::error!(index, "a local APIC has been attached already, or there is no such processor");
        }
    }

    /// Attaches the hypervisor interface; without it the guest sees none. Call at most once.
    pub fn attach_hypervisor(&self, hypervisor: Arc<dyn HypervisorInterface>) {
        if self.shared.hypervisor.set(hypervisor).is_err() {
            tracing::error!("a hypervisor interface has been attached already");
        }
    }

    #[cfg(test)]
    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    fn vp(&self, index: u32) -> Option<&Arc<VpShared>> {
        self.shared.vps.get(index as usize)
    }

    fn call_all(&self, bits: u32) {
        self.shared.vps.iter().for_each(|vp| vp.call(bits));
    }
}

impl Partition for SoftPartition {
    fn processor_count(&self) -> u32 {
        self.shared.vps.len() as u32
    }

    fn processor(&self, index: u32) -> Result<Box<dyn Processor>, Error> {
        let vp = self.vp(index).ok_or(Error::Index(index))?;
        let missing = |what: &str| Error::Unsupported {
            processor: "software",
            reason: format!("{what} of processor {index} has not been attached"),
        };
        let bus = self.shared.bus.get().ok_or_else(|| missing("the bus"))?;
        let apic = vp.apic.get().ok_or_else(|| missing("the local APIC"))?;
        if vp.taken.swap(true, Ordering::SeqCst) {
            return Err(Error::Index(index));
        }
        let vcpu = Vcpu::new(index, Arc::clone(&self.shared), Arc::clone(bus), Arc::clone(apic));
        Ok(Box::new(SoftProcessor::new(vcpu)))
    }

    /// They ask guest memory how far it reaches.
    fn memory_grown(&self) -> Result<(), Error> {
        Ok(())
    }

    fn shadow_changed(&self) -> Result<(), Error> {
        self.call_all(attention::SHADOW);
        Ok(())
    }

    fn stop(&self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        self.call_all(attention::STOP);
    }

    fn resume(&self) {
        self.shared.stopped.store(false, Ordering::SeqCst);
    }

    fn reset(&self) {
        self.call_all(attention::RESET);
    }

    fn signal(&self, index: u32) -> Arc<dyn ProcessorSignal> {
        Arc::new(Signal { vp: self.vp(index).cloned() })
    }

    fn virtual_processors(&self) -> Arc<dyn VirtualProcessors> {
        Arc::clone(&self.shared) as Arc<dyn VirtualProcessors>
    }

    fn instructions(&self) -> Option<u64> {
        Some(self.shared.vps.iter().map(|vp| vp.instructions.load(Ordering::Relaxed)).sum())
    }
}

/// The way to one processor; to nobody if the index was out of range.
struct Signal {
    vp: Option<Arc<VpShared>>,
}

impl Signal {
    fn call(&self, bits: u32) {
        if let Some(vp) = &self.vp {
            vp.call(bits);
        }
    }
}

impl ProcessorSignal for Signal {
    fn interrupt(&self) {
        self.call(attention::INTERRUPT);
    }

    fn nmi(&self) {
        self.call(attention::NMI);
    }

    fn init(&self) {
        self.call(attention::INIT);
    }

    fn startup(&self, vector: u8) {
        if let Some(vp) = &self.vp {
            vp.startup_vector.store(vector, Ordering::SeqCst);
            vp.call(attention::STARTUP);
        }
    }
}

impl VirtualProcessors for Shared {
    fn count(&self) -> u32 {
        self.vps.len() as u32
    }

    fn flush_tlb(&self, caller: Option<u32>, targets: &[u32], flush: &TlbFlush) {
        let asked: Vec<_> = targets
            .iter()
            .filter_map(|&index| Some((index, self.vps.get(index as usize)?)))
            .map(|(index, vp)| (index, vp, vp.ask_flush(flush)))
            .collect();
        for (index, vp, number) in asked {
            // The caller itself is in the hypercall; it flushes before its next instruction.
            if Some(index) != caller {
                vp.await_flush(number);
            }
        }
    }

    fn start(&self, vp: u32, state: &StartState) -> bool {
        let Some(vp) = self.vps.get(vp as usize) else { return false };
        let waits = &vp.waits_for_start;
        if waits.compare_exchange(true, false, Ordering::SeqCst, Ordering::SeqCst).is_err() {
            return false;
        }
        *lock(&vp.start) = Some(state.clone());
        vp.call(attention::START);
        true
    }

    fn is_running(&self, vp: u32) -> bool {
        self.vps.get(vp as usize).is_some_and(|vp| vp.is_in_guest())
    }

    fn yield_now(&self, _vp: u32) {
        std::thread::yield_now();
    }
}
