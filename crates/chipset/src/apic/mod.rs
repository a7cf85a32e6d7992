//! Local APICs for the software processor (Intel SDM volume 3, chapter 12), in xAPIC and x2APIC mode, with
//! TSC-deadline timer, and the bus between them. Automatic end of interrupt and EOI assist of the TLFS
//! ("Virtual EOI") go through [`ApicAssist`].
//!
//! ```text
//! IOAPIC, MSI ─▶ ApicBus ─▶ Apic ── interrupt, nmi, init, startup ─▶ ProcessorSignal
//!                  ▲          │ ◀── pending, acknowledge, EOI ────── the processor's thread
//!                  └── IPIs ──┘
//! ```
//!
//! INIT is passed on to the processor, which calls [`LocalApic::init`] when it takes it.
//!
//! Different from the chip: the id cannot be written, as on present processors; delivery is always complete
//! at once; LINT0 of the boot processor starts in virtual wire mode, as firmware leaves it. Not emulated:
//! SMI (dropped and told), suppression of EOI broadcasts, CMCI, focus processors, arbitration ids,
//! performance and thermal events (their vector table entries are kept).

mod bus;
mod local;
mod registers;
mod state;
mod timer;

#[cfg(test)]
mod tests;

pub use bus::ApicBus;
pub use timer::{SHORTEST_PERIOD, TIMER_FREQUENCY};

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, Weak};

use clock::{Clock, Timers};
use interrupt::{ApicAssist, Line, LocalApic, ProcessorSignal, Trigger};

use crate::sync::lock;
use crate::unhandled::Unhandled;
use bus::{Addressing, Delivery, Destination};
use registers::*;
use state::State;

/// What is left to do when the APIC's lock has been released.
#[must_use]
enum Effect {
    None,
    /// Tell the IOAPIC of the end of this vector.
    Broadcast(u8),
    Send(Delivery),
}

/// The local APIC of one processor.
pub struct Apic {
    id: u32,
    boot_processor: bool,
    state: Mutex<State>,
    /// [`Addressing`] of the state, for those who have a message.
    addressing: AtomicU64,
    clock: Arc<dyn Clock>,
    timer: Box<dyn clock::Timer>,
    bus: Weak<ApicBus>,
    signal: OnceLock<Arc<dyn ProcessorSignal>>,
    assist: OnceLock<Arc<dyn ApicAssist>>,
    unhandled: Mutex<Unhandled>,
}

impl Apic {
    fn new(
        id: u32,
        boot_processor: bool,
        bus: Weak<ApicBus>,
        clock: Arc<dyn Clock>,
        timers: &dyn Timers,
    ) -> Arc<Self> {
        let state = State::power_on(id, boot_processor, [false; 2]);
        Arc::new_cyclic(|apic: &Weak<Self>| {
            let apic = apic.clone();
            let timer = timers.timer(Box::new(move || {
                if let Some(apic) = apic.upgrade() {
                    apic.timer_expired();
                }
            }));
            Self {
                id,
                boot_processor,
                addressing: AtomicU64::new(state.addressing().pack()),
                state: Mutex::new(state),
                clock,
                timer,
                bus,
                signal: OnceLock::new(),
                assist: OnceLock::new(),
                unhandled: Mutex::default(),
            }
        })
    }

    /// Says which processor hears of this APIC. The first call counts.
    pub fn connect_processor(&self, signal: Arc<dyn ProcessorSignal>) {
        let _first = self.signal.set(signal);
        if lock(&self.state).deliverable() {
            self.wake();
        }
    }

    /// Says what the hypervisor interface knows of interrupts. The first call counts.
    pub fn connect_assist(&self, assist: Arc<dyn ApicAssist>) {
        let _first = self.assist.set(assist);
    }

    /// The pin LINT0 (`0`) or LINT1 (`1`) as a line.
    pub fn lint(self: &Arc<Self>, pin: usize) -> Arc<dyn Line> {
        Arc::new(Lint { apic: Arc::downgrade(self), pin })
    }

    fn fixed_id(&self) -> u32 {
        self.id
    }

    fn addressing(&self) -> Addressing {
        Addressing::unpack(self.addressing.load(Ordering::Acquire))
    }

    fn software_enabled(&self) -> bool {
        lock(&self.state).software_enabled()
    }

    fn arbitration_priority(&self) -> u8 {
        lock(&self.state).processor_priority() >> 4
    }

    /// Takes a message from the bus.
    fn accept(&self, mode: DeliveryMode, vector: u8, trigger: Trigger) {
        let mut state = lock(&self.state);
        match mode {
            DeliveryMode::Fixed | DeliveryMode::LowestPriority => {
                self.set_request(&mut state, vector, trigger)
            }
            DeliveryMode::External => {
                state.external = true;
                self.wake();
            }
            DeliveryMode::Nmi => self.signal(|signal| signal.nmi()),
            DeliveryMode::Init => self.signal(|signal| signal.init()),
            DeliveryMode::StartUp => self.signal(|signal| signal.startup(vector)),
            DeliveryMode::Smi | DeliveryMode::Reserved => self.not_delivered(mode),
        }
    }

    fn not_delivered(&self, mode: DeliveryMode) {
        lock(&self.unhandled).tell("local APIC", "an interrupt with delivery mode", mode as u32);
    }

    fn signal(&self, tell: impl FnOnce(&dyn ProcessorSignal)) {
        if let Some(signal) = self.signal.get() {
            tell(&**signal);
        }
    }

    fn wake(&self) {
        self.signal(|signal| signal.interrupt());
    }

    fn set_request(&self, state: &mut State, vector: u8, trigger: Trigger) {
        if !state.software_enabled() {
            return;
        }
        if vector < 16 {
            self.error(state, ERROR_RECEIVE_ILLEGAL_VECTOR);
            return;
        }
        state.request.insert(vector);
        match trigger {
            Trigger::Edge => state.trigger_mode.remove(vector),
            Trigger::Level => state.trigger_mode.insert(vector),
        }
        // An offer to skip the EOI must be looked at: the guest may have taken it, or must lose it.
        if state.end_may_be_skipped || state.deliverable_vector().is_some() {
            self.wake();
        }
    }

    fn error(&self, state: &mut State, error: u32) {
        state.errors |= error;
        let entry = state.lvt[LVT_ERROR];
        // An illegal vector in the entry itself is not told again.
        if !entry.masked() && entry.vector() >= 16 {
            self.set_request(state, entry.vector(), Trigger::Edge);
        }
    }

    /// The rising edge, or the level, of a local interrupt source.
    fn deliver_local(&self, state: &mut State, index: usize, rising: bool) {
        let entry = state.lvt[index];
        if entry.masked() {
            return;
        }
        match entry.mode() {
            DeliveryMode::Fixed if (LVT_LINT0..LVT_ERROR).contains(&index) && entry.level() => {
                if !entry.remote_irr() && state.software_enabled() {
                    state.lvt[index].set_remote_irr(true);
                    self.set_request(state, entry.vector(), Trigger::Level);
                }
            }
            DeliveryMode::Fixed if rising => self.set_request(state, entry.vector(), Trigger::Edge),
            DeliveryMode::Nmi if rising => self.signal(|signal| signal.nmi()),
            DeliveryMode::Init if rising => self.signal(|signal| signal.init()),
            DeliveryMode::External => self.wake(),
            DeliveryMode::Fixed | DeliveryMode::Nmi | DeliveryMode::Init => {}
            mode => self.not_delivered(mode),
        }
    }

    /// Serves LINT pins that are high and level triggered, after something may have unblocked them.
    fn serve_lint_levels(&self, state: &mut State) {
        for pin in 0..2 {
            if state.lint[pin] {
                self.deliver_local(state, LVT_LINT0 + pin, false);
            }
        }
    }

    /// If the guest has ended the interrupt in service without telling, does what it would have done.
    fn notice_skipped_end(&self, state: &mut State) {
        if state.end_may_be_skipped && self.assist.get().is_some_and(|assist| assist.take_skipped_eoi()) {
            state.end_may_be_skipped = false;
            // An offer is never made for a level-triggered interrupt: there is nobody to tell.
            self.end_highest(state);
        }
    }

    /// Makes the guest tell the end of the interrupt in service, unless it has ended it already.
    fn withdraw_offer(&self, state: &mut State) {
        if std::mem::take(&mut state.end_may_be_skipped)
            && let Some(assist) = self.assist.get()
        {
            assist.offer_skipped_eoi(false);
            if assist.take_skipped_eoi() {
                self.end_highest(state);
            }
        }
    }

    /// Ends the highest interrupt in service. Returns its vector if it was level triggered.
    fn end_highest(&self, state: &mut State) -> Option<u8> {
        let vector = state.in_service.highest()?;
        state.in_service.remove(vector);
        self.ended(state, vector)
    }

    fn ended(&self, state: &mut State, vector: u8) -> Option<u8> {
        if let Some(assist) = self.assist.get() {
            assist.ended(vector);
        }
        if !state.trigger_mode.contains(vector) {
            return None;
        }
        for entry in &mut state.lvt[LVT_LINT0..LVT_ERROR] {
            if entry.vector() == vector {
                entry.set_remote_irr(false);
            }
        }
        self.serve_lint_levels(state);
        Some(vector)
    }

    fn end(&self, state: &mut State) -> Effect {
        self.withdraw_offer(state);
        let level = self.end_highest(state);
        if state.deliverable() {
            self.wake();
        }
        level.map_or(Effect::None, Effect::Broadcast)
    }

    fn carry_out(&self, effect: Effect) {
        let Some(bus) = self.bus.upgrade() else { return };
        match effect {
            Effect::None => {}
            Effect::Broadcast(vector) => {
                if let Some(listener) = bus.eoi_listener.get() {
                    listener.end_of_interrupt(vector);
                }
            }
            Effect::Send(delivery) => bus.deliver(delivery),
        }
    }

    fn publish_addressing(&self, state: &State) {
        self.addressing.store(state.addressing().pack(), Ordering::Release);
    }

    /// The callback of the timer.
    fn timer_expired(&self) {
        let mut state = lock(&self.state);
        let Some(due) = state.timer.due else { return };
        let now = self.clock.now();
        let reached = match state.timer_mode() {
            TimerMode::TscDeadline => self.clock.tsc() >= state.timer.deadline,
            _ => now >= due,
        };
        if reached {
            let mode = state.timer_mode();
            state.timer.elapse(mode, now);
            self.fire_timer(&mut state);
        } else {
            // Called too early, for whatever reason: never again at once.
            state.timer.due = Some(due.max(now.saturating_add(1_000)));
        }
        self.arm(&state);
    }

    fn fire_timer(&self, state: &mut State) {
        let entry = state.lvt[LVT_TIMER];
        if !entry.masked() {
            self.set_request(state, entry.vector(), Trigger::Edge);
        }
    }

    fn arm(&self, state: &State) {
        match state.timer.due {
            Some(due) => self.timer.arm(due),
            None => self.timer.disarm(),
        }
    }

    fn read_register(&self, state: &mut State, offset: u32) -> Option<u32> {
        let value = match offset {
            ID if state.base.x2apic() => state.id,
            ID => state.id << 24,
            VERSION => VERSION_VALUE,
            TASK_PRIORITY => u32::from(state.task_priority),
            ARBITRATION_PRIORITY | REMOTE_READ if !state.base.x2apic() => 0,
            PROCESSOR_PRIORITY => {
                self.notice_skipped_end(state);
                u32::from(state.processor_priority())
            }
            LOGICAL_DESTINATION if state.base.x2apic() => state.x2apic_logical_id(),
            LOGICAL_DESTINATION => state.logical_destination,
            DESTINATION_FORMAT => state.destination_format,
            SPURIOUS_VECTOR => state.spurious_vector,
            IN_SERVICE..REQUEST_END => {
                self.notice_skipped_end(state);
                let (vectors, first) = match offset {
                    IN_SERVICE..TRIGGER_MODE => (&state.in_service, IN_SERVICE),
                    TRIGGER_MODE..REQUEST => (&state.trigger_mode, TRIGGER_MODE),
                    _ => (&state.request, REQUEST),
                };
                vectors.word((offset - first) as usize >> 4)
            }
            ERROR_STATUS => state.error_status,
            COMMAND_LOW => state.command.into_bits() as u32,
            COMMAND_HIGH => state.command.destination(),
            LVT_FIRST..=LVT_LAST => lvt_entry(state, offset)?.into_bits(),
            INITIAL_COUNT => state.timer.initial_count,
            CURRENT_COUNT => state.timer.current_count(state.timer_mode(), self.clock.now()),
            DIVIDE_CONFIGURATION => state.timer.divide_configuration(),
            _ => return None,
        };
        Some(value)
    }

    /// Writes a register that both modes have.
    fn write_register(&self, state: &mut State, offset: u32, value: u32) -> Option<Effect> {
        match offset {
            TASK_PRIORITY => {
                self.notice_skipped_end(state);
                state.task_priority = value as u8;
                if state.deliverable() {
                    self.wake();
                }
            }
            END_OF_INTERRUPT => return Some(self.end(state)),
            SPURIOUS_VECTOR => {
                state.spurious_vector = value & 0x3ff;
                if !state.software_enabled() {
                    state.mask_all();
                }
                if state.deliverable() {
                    self.wake();
                }
            }
            ERROR_STATUS => state.error_status = std::mem::take(&mut state.errors),
            LVT_FIRST..=LVT_LAST => self.write_lvt(state, offset, value),
            INITIAL_COUNT => {
                let mode = state.timer_mode();
                state.timer.start(mode, value, self.clock.now());
                self.arm(state);
            }
            DIVIDE_CONFIGURATION => {
                let mode = state.timer_mode();
                state.timer.set_divide_configuration(value, mode, self.clock.now());
                self.arm(state);
            }
            _ => return None,
        }
        Some(Effect::None)
    }

    fn write_lvt(&self, state: &mut State, offset: u32, value: u32) {
        let index = lvt_index(offset);
        let Some((entry, writable)) = state.lvt.get_mut(index).zip(LVT_WRITABLE.get(index)) else { return };
        let before = *entry;
        let kept = before.into_bits() & LVT_READ_ONLY;
        *entry = Lvt::from_bits(value & writable | kept);
        if !entry.level() {
            entry.set_remote_irr(false);
        }
        if !state.software_enabled() {
            state.lvt[index].set_masked(true);
        }
        match index {
            LVT_TIMER => {
                let after = state.timer_mode();
                state.timer.change_mode(before.timer_mode(), after, self.clock.now());
                self.arm(state);
            }
            LVT_LINT0..LVT_ERROR => self.serve_lint_levels(state),
            _ => {}
        }
    }

    /// Sends the command just written.
    fn send_command(&self, state: &mut State) -> Effect {
        let command = state.command;
        let trigger = if command.level() { Trigger::Level } else { Trigger::Edge };
        let wide = state.base.in_x2apic_mode();
        let field = if wide { command.destination() } else { command.destination() >> 24 };
        let destination = match command.shorthand() {
            0 => Destination::new(field, command.logical(), wide),
            1 => Destination::Physical(self.id),
            2 => Destination::Everyone,
            _ => Destination::EveryoneBut(self.id),
        };
        match command.mode() {
            // De-assertion of INIT matters to ancient processors only.
            DeliveryMode::Init if command.level() && !command.assert() => return Effect::None,
            DeliveryMode::Fixed | DeliveryMode::LowestPriority if command.vector() < 16 => {
                self.error(state, ERROR_SEND_ILLEGAL_VECTOR);
                return Effect::None;
            }
            _ => {}
        }
        // IPIs other than INIT are edges whatever the trigger mode says.
        let trigger = if command.mode() == DeliveryMode::Init { trigger } else { Trigger::Edge };
        Effect::Send(Delivery { destination, mode: command.mode(), vector: command.vector(), trigger })
    }

    fn locked(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

fn lvt_index(offset: u32) -> usize {
    (offset.wrapping_sub(LVT_FIRST) >> 4) as usize
}

fn lvt_entry(state: &State, offset: u32) -> Option<Lvt> {
    state.lvt.get(lvt_index(offset)).copied()
}

struct Lint {
    /// Weak, since the 8259 that drives the line is known to the APIC's bus.
    apic: Weak<Apic>,
    pin: usize,
}

impl Line for Lint {
    fn set(&self, high: bool) {
        if let Some(apic) = self.apic.upgrade() {
            apic.set_lint(self.pin, high);
        }
    }
}
