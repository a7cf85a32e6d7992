//! What the hypervisor interface *does* (Microsoft's *Hypervisor Top-Level Functional Specification*, whose
//! definitions are in `tlfs`): CPUID leaves, synthetic MSRs, hypercalls, the synthetic interrupt controller
//! and synthetic timers, for one partition.
//!
//! ```text
//! processor ──CPUID, RDMSR, WRMSR, hypercall──▶ Enlightenment ──signal, post──▶ ports: VMBus
//!     ▲                                           │   ▲  ▲ ▲
//!     │                              interrupts   │   │  │ └─ post_message, signal_event ── VMBus
//!     └──────────── LocalApic ◀───────────────────┘   │  └── Timers
//!                       └── ApicAssist: auto EOI, EOI assist, end of interrupt
//! ```
//!
//! [`Features`] says what is offered, and what is not offered is not there: no CPUID bit, #GP for the MSR,
//! no hypercall. With [`Features::NONE`] there is no hypervisor at all.
//!
//! Not here: partition management, VSM (there is trust level 0 only), nested virtualization, the synthetic
//! debugger, statistics pages, reenlightenment (the TSC never changes its frequency), monitored
//! notifications (VMBus has them), intercept messages.
//!
//! **Locks.** Each of a processor's message, event, timer and assist state has one lock, and so have the
//! partition's pages, the crash registers, the ports and the machine. None is held while another of them
//! is taken, nor while an APIC, a port, a sink or the processors are called; only the clock's timers are
//! armed with the timer state's lock held. Thus an APIC may call its [`interrupt::ApicAssist`] with its
//! own lock held, which takes the assist state's and arms a timer.
#![forbid(unsafe_code)]

mod apic_side;
mod counts;
mod cpuid;
mod crash;
#[cfg(any(test, feature = "fuzzing"))]
#[cfg_attr(not(test), allow(dead_code, reason = "what tests look at, the fuzz entry does not"))]
mod fake;
mod features;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod hypercall;
mod msr;
mod overlay;
mod partition;
mod ports;
mod reference_time;
mod stimer;
mod synic;
#[cfg(test)]
mod tests;
mod unhandled;
mod vp;

use std::sync::{Arc, OnceLock, PoisonError, RwLock, Weak};

use clock::{Clock, Timers};
use counters::Registry;
use guest_memory::GuestMemory;
use interrupt::{ApicAssist, LocalApic, Trigger};
use processor::{
    HypercallContext, HypercallOutcome, HypervisorInterface, MsrOutcome, StartState, SynicOffload, TlbFlush,
    VirtualProcessors,
};
use thiserror::Error;
use tlfs::HvStatus;
use tlfs::message::{Message, MessageType};

pub use crash::{CrashReport, CrashSink};
pub use features::{Feature, Features, UnknownFeature};
pub use partition::Vendor;
pub use ports::{EventPort, MessagePort};
pub use stimer::MIN_PERIOD;
pub use synic::MESSAGE_QUEUE_LIMIT;

use counts::Counts;
use crash::Crash;
use partition::Partition;
use ports::Ports;
use reference_time::ReferenceTime;
use stimer::Expiry;
use synic::Due;
use unhandled::Unhandled;
use vp::Vp;

/// What an [`Enlightenment`] is made of.
pub struct Config {
    /// What is offered.
    pub features: Features,
    /// How many virtual processors the partition has.
    pub processors: u32,
    /// By which instruction the guest calls.
    pub vendor: Vendor,
    /// Frequency of the local APICs' timer before its divider, in Hz.
    pub apic_frequency: u64,
    /// Guest RAM.
    pub memory: GuestMemory,
    /// The machine's clock.
    pub clock: Arc<dyn Clock>,
    /// The machine's timers.
    pub timers: Arc<dyn Timers>,
    /// Who hears of crashes.
    pub crash: Arc<dyn CrashSink>,
    /// Called when the guest resets the machine by MSR, on the processor's thread: asks for the reset and
    /// returns.
    pub reset: Arc<dyn Fn() + Send + Sync>,
}

/// Why the rest of the machine cannot be attached.
#[derive(Debug, Error)]
pub enum Error {
    /// There is not one APIC for every processor.
    #[error("{apics} local APICs for {processors} virtual processors")]
    Apics {
        /// APICs given.
        apics: usize,
        /// Processors of the partition.
        processors: usize,
    },
}

/// The rest of the machine, as the interface sees it.
struct Machine {
    /// None where they are the processor's own.
    apics: Vec<Arc<dyn LocalApic>>,
    /// The processor's own part of the synthetic interrupt controllers, if it has one.
    synic: Option<Arc<dyn SynicOffload>>,
    processors: Arc<dyn VirtualProcessors>,
}

/// The hypervisor interface of one partition.
pub struct Enlightenment {
    features: Features,
    apic_frequency: u64,
    memory: GuestMemory,
    clock: Arc<dyn Clock>,
    time: Arc<ReferenceTime>,
    partition: Partition,
    vps: Vec<Vp>,
    ports: Ports,
    crash: Crash,
    reset_request: Arc<dyn Fn() + Send + Sync>,
    counts: Counts,
    unhandled: Unhandled,
    machine: RwLock<Option<Arc<Machine>>>,
    /// Called when messages that were refused may be posted again.
    room: OnceLock<Box<dyn Fn() + Send + Sync>>,
}

impl Enlightenment {
    /// The partition's reference time, in units of 100 ns, as far as this interface serves it.
    pub fn reference_time(&self) -> u64 {
        self.time.now()
    }

    /// The interface of a partition whose processors do not run yet: before they do, [`Self::attach`].
    pub fn new(config: Config, registry: &Registry) -> Arc<Self> {
        let time = Arc::new(ReferenceTime::new(Arc::clone(&config.clock)));
        let vps = (0..config.processors).map(|_| Vp::new(&config.memory, &time, config.features)).collect();
        let timers = config.timers;
        let enlightenment = Arc::new(Self {
            features: config.features,
            apic_frequency: config.apic_frequency,
            partition: Partition::new(config.memory.clone(), config.vendor),
            crash: Crash::new(config.memory.clone(), config.crash),
            memory: config.memory,
            clock: config.clock,
            time,
            vps,
            ports: Ports::default(),
            reset_request: config.reset,
            counts: Counts::new(registry),
            unhandled: Unhandled::default(),
            machine: RwLock::new(None),
            room: OnceLock::new(),
        });
        for (index, vp) in (0..).zip(&enlightenment.vps) {
            let weak = Arc::downgrade(&enlightenment);
            vp.timers.set_timers(std::array::from_fn(|timer| {
                let weak = Weak::clone(&weak);
                timers.timer(Box::new(move || {
                    if let Some(this) = weak.upgrade() {
                        this.timer_elapsed(index, timer);
                    }
                }))
            }));
            vp.apic_side.set_retry(timers.timer(Box::new(move || {
                if let Some(this) = weak.upgrade() {
                    this.retry_messages(index);
                }
            })));
        }
        enlightenment
    }

    /// Connects the local APICs, by processor index, and the processors.
    ///
    /// # Errors
    /// When there is not one APIC for every processor.
    pub fn attach(
        &self,
        apics: Vec<Arc<dyn LocalApic>>,
        processors: Arc<dyn VirtualProcessors>,
    ) -> Result<(), Error> {
        if apics.len() != self.vps.len() {
            return Err(Error::Apics { apics: apics.len(), processors: self.vps.len() });
        }
        self.set_machine(Machine { apics, synic: None, processors });
        Ok(())
    }

    /// Connects processors that have local APICs, timers and the sources of the synthetic interrupt controllers
    /// themselves, in place of [`Self::attach`]. Message slots and event flags stay here: the processor tells of
    /// writes to SCONTROL, SIMP, SIEFP and EOM as to any register. Slots are written on the processor's own thread
    /// only ([`HypervisorInterface::deliver_messages`]).
    pub fn attach_offload(&self, synic: Arc<dyn SynicOffload>, processors: Arc<dyn VirtualProcessors>) {
        self.set_machine(Machine { apics: Vec::new(), synic: Some(synic), processors });
    }

    fn set_machine(&self, machine: Machine) {
        *self.machine.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(machine));
    }

    /// Lets go of what [`Self::attach`] connected, which holds the interface in turn. For the end of a
    /// machine, when its processors have stopped.
    pub fn detach(&self) {
        *self.machine.write().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Whether the guest sees a hypervisor: what CPUID leaf 1 says in ECX bit 31.
    pub fn hypervisor_present(&self) -> bool {
        !self.features.is_empty()
    }

    /// What is offered.
    pub fn features(&self) -> Features {
        self.features
    }

    /// GUEST_OS_ID: 0 until the guest has identified itself.
    pub fn guest_os_id(&self) -> u64 {
        self.partition.guest_os_id()
    }

    /// What the local APIC of processor `vp` asks. `None` if there is no such processor.
    pub fn apic_assist(&self, vp: u32) -> Option<Arc<dyn ApicAssist>> {
        let vp = self.vps.get(vp as usize)?;
        Some(Arc::clone(&vp.apic_side) as Arc<dyn ApicAssist>)
    }

    /// Connects connection `id` to a message port. False if the id is taken or has more than 24 bits.
    pub fn connect_message(&self, id: u32, port: Arc<dyn MessagePort>) -> bool {
        self.ports.connect_message(id, port)
    }

    /// Connects connection `id` to an event port. False if the id is taken or has more than 24 bits.
    pub fn connect_events(&self, id: u32, port: Arc<dyn EventPort>) -> bool {
        self.ports.connect_event(id, port)
    }

    /// Removes connection `id`, of either kind. False if there is none. A call of the port that has begun
    /// on another thread may still run.
    pub fn disconnect(&self, id: u32) -> bool {
        self.ports.disconnect(id)
    }

    /// Posts a message of at most 240 bytes to source `sint` of processor `vp`. It is queued, and
    /// delivered when the slot is free; messages to one source arrive in order.
    ///
    /// # Errors
    /// `INVALID_VP_INDEX` or `INVALID_PARAMETER` if there is no such target, type or size,
    /// `INVALID_SYNIC_STATE` if the guest has disabled its SynIC or message page, `INSUFFICIENT_BUFFERS`
    /// if [`MESSAGE_QUEUE_LIMIT`] messages wait for the slot. [`Self::on_message_room`] tells when it may
    /// be tried again.
    pub fn post_message(&self, vp: u32, sint: u8, message_type: u32, payload: &[u8]) -> Result<(), HvStatus> {
        let message_type = MessageType(message_type);
        let message = Message::new(message_type, payload).filter(|_| message_type != MessageType::NONE);
        let message = message.ok_or(HvStatus::INVALID_PARAMETER)?;
        let target = self.vps.get(vp as usize).ok_or(HvStatus::INVALID_VP_INDEX)?;
        match self.machine().and_then(|machine| machine.synic.clone()) {
            // The host's kernel puts its timers' messages into the slots while the processor runs.
            Some(offload) => {
                target.synic.post_later(sint.into(), message)?;
                offload.ask_delivery(vp);
            }
            None => {
                let due = target.synic.post(sint.into(), message, self.time.now())?;
                self.interrupt_due(vp, target, due);
            }
        }
        Ok(())
    }

    /// Sets what is called when messages may be posted that [`Self::post_message`] refused: the guest has
    /// enabled its SynIC or read messages. It is called on processor threads and on the timers' thread
    /// and may post messages. Only the first call of this counts.
    pub fn on_message_room(&self, callback: Box<dyn Fn() + Send + Sync>) {
        self.room.get_or_init(|| callback);
    }

    /// Sets event flag `flag` of source `sint` of processor `vp`, and interrupts if the flag was clear.
    /// True if it was; false also if the guest has disabled its SynIC or event page, or there is no such
    /// target.
    #[inline]
    pub fn signal_event(&self, vp: u32, sint: u8, flag: u16) -> bool {
        let Some(target) = self.vps.get(vp as usize) else { return false };
        let newly_set = target.synic.signal(sint.into(), flag) == Ok(true);
        if newly_set {
            self.interrupt_due(vp, target, Due(1 << sint));
        }
        newly_set
    }

    /// Interrupts processor `vp` as its source `sint` says, as if a message or event had come, if the source is
    /// not masked. False if there is no such source.
    pub fn raise_source(&self, vp: u32, sint: u8) -> bool {
        let Some(target) = self.vps.get(vp as usize).filter(|_| usize::from(sint) < tlfs::SINT_COUNT) else {
            return false;
        };
        self.interrupt_due(vp, target, Due(1 << sint));
        true
    }

    /// The machine is reset: everything returns to its state at power-on but the reference time and the
    /// connections, which are the host's. Overlay pages give back what they covered, so call this before
    /// memory is loaded anew. No processor may run.
    pub fn reset(&self) {
        self.partition.reset();
        self.crash.reset();
        self.vps.iter().for_each(Vp::reset);
    }

    fn machine(&self) -> Option<Arc<Machine>> {
        self.machine.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many virtual processors the partition has.
    pub fn processor_count(&self) -> u32 {
        self.vps.len() as u32
    }

    /// Asks the APIC of processor `vp`.
    fn with_apic<T>(&self, vp: u32, ask: impl FnOnce(&dyn LocalApic) -> T) -> Option<T> {
        let machine = self.machine()?;
        machine.apics.get(vp as usize).map(|apic| ask(&**apic))
    }

    fn vp_of_apic_id(&self, id: u32) -> Option<u32> {
        let machine = self.machine()?;
        machine.apics.iter().position(|apic| apic.id() == id).map(|index| index as u32)
    }

    /// Interrupts processor `vp`.
    fn interrupt(&self, vp: u32, vector: u8) {
        self.with_apic(vp, |apic| apic.request(vector, Trigger::Edge));
    }

    /// Interrupts for the sources that are due and not masked.
    fn interrupt_due(&self, index: u32, vp: &Vp, due: Due) {
        if due.0 == 0 {
            return;
        }
        let machine = self.machine();
        let offload = machine.as_ref().and_then(|machine| machine.synic.as_ref());
        for sint in (0..tlfs::SINT_COUNT).filter(|sint| due.0 & (1 << sint) != 0) {
            if let Some(offload) = offload {
                self.counts.interrupts.count();
                offload.raise(index, sint as u8);
            } else if let Some(vector) = vp.apic_side.sint(sint).interrupts() {
                self.counts.interrupts.count();
                self.interrupt(index, vector);
            }
        }
    }

    /// Messages have been delivered, or may be posted now.
    fn messages_moved(&self, index: u32, vp: &Vp, due: Due) {
        self.interrupt_due(index, vp, due);
        if vp.synic.take_refused()
            && let Some(room) = self.room.get()
        {
            room();
        }
    }

    fn timer_elapsed(&self, index: u32, timer: usize) {
        let Some(vp) = self.vps.get(index as usize) else { return };
        let expiry = vp.timers.elapsed(timer);
        self.expire(index, vp, timer, expiry);
    }

    fn expire(&self, index: u32, vp: &Vp, timer: usize, expiry: Option<Expiry>) {
        match expiry {
            Some(Expiry::Interrupt(vector)) => {
                self.counts.interrupts.count();
                self.interrupt(index, vector);
            }
            Some(Expiry::Message { sint, expiration }) => {
                let due = vp.synic.post_timer(sint, timer as u32, expiration, self.time.now());
                self.interrupt_due(index, vp, due);
            }
            None => {}
        }
    }

    fn retry_messages(&self, index: u32) {
        let Some(vp) = self.vps.get(index as usize) else { return };
        let due = vp.synic.deliver_waiting(self.time.now());
        self.messages_moved(index, vp, due);
    }

    fn flush_tlb(&self, caller: u32, targets: &[u32], flush: &TlbFlush) {
        if let Some(machine) = self.machine() {
            machine.processors.flush_tlb(Some(caller), targets, flush);
        }
    }

    fn start_processor(&self, vp: u32, state: &StartState) -> bool {
        self.machine().is_some_and(|machine| machine.processors.start(vp, state))
    }

    fn yield_now(&self, vp: u32) {
        if let Some(machine) = self.machine() {
            machine.processors.yield_now(vp);
        }
    }

    fn leaf(&self, leaf: u32) -> [u32; 4] {
        cpuid::leaf(self.features, self.processor_count(), leaf)
    }
}

impl HypervisorInterface for Enlightenment {
    fn cpuid(&self, _vp: u32, leaf: u32, _subleaf: u32) -> [u32; 4] {
        self.leaf(leaf)
    }

    fn read_msr(&self, vp: u32, msr: u32) -> MsrOutcome<u64> {
        self.read(vp, msr)
    }

    fn write_msr(&self, vp: u32, msr: u32, value: u64) -> MsrOutcome<()> {
        self.write(vp, msr, value)
    }

    fn hypercall(&self, vp: u32, context: &mut dyn HypercallContext) -> HypercallOutcome {
        hypercall::dispatch(self, vp, context)
    }

    fn reset_processor(&self, vp: u32) {
        if let Some(vp) = self.vps.get(vp as usize) {
            vp.reset();
        }
    }

    fn deliver_messages(&self, vp: u32) {
        self.retry_messages(vp);
    }

    fn ran(&self, vp: u32, nanoseconds: u64) {
        if let Some(vp) = self.vps.get(vp as usize) {
            vp.add_runtime(nanoseconds);
        }
    }
}
