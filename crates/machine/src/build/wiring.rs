//! Interrupt controllers and the lines to them.
//!
//! ```text
//! ISA line n ─┬─▶ 8259s, input n ─▶ LINT0 of the boot processor
//!             └─▶ IOAPIC, input n (2 for the timer's line 0) ─▶ local APICs ─▶ processors
//! ```
//!
//! Controllers know each other both ways. One of the two ways is a weak one, so that a board goes as a
//! whole when it is dropped.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use chipset::apic::ApicBus;
use chipset::ioapic::IoApic;
use chipset::line::FanOut;
use chipset::pci::{IOAPIC_PINS, InterruptRouter};
use chipset::pic::Pic;
use clock::{Clock, Timers};
use counters::{Counter, DeviceCounters};
use interrupt::{Line, Message, MessageTarget, NotConnected, ProcessorSignal, SharedLine};

/// The timer's ISA line, and the IOAPIC input that it leads to.
const TIMER_IRQ: u8 = 0;
const TIMER_INPUT: u8 = 2;
const ISA_LINES: usize = 16;

/// The interrupt controllers of a machine, connected to each other.
pub(super) struct Interrupts {
    pub pic: Arc<Pic>,
    pub ioapic: Arc<IoApic>,
    /// The local APICs, where they are not the processors' own.
    pub apics: Option<Arc<ApicBus>>,
    /// ISA lines, each of which several devices may drive.
    isa: [SharedLine; ISA_LINES],
    router: Arc<InterruptRouter>,
}

impl Interrupts {
    /// Controllers for `processors` processors with APIC ids from 0.
    pub fn new(processors: u32, clock: &Arc<dyn Clock>, timers: &dyn Timers) -> Self {
        let ids: Vec<u32> = (0..processors).collect();
        let apics = ApicBus::new(&ids, clock, timers);
        let output: Arc<dyn Line> = match apics.apic(0) {
            Some(boot) => boot.lint(0),
            None => Arc::new(NotConnected),
        };
        let target: Weak<ApicBus> = Arc::downgrade(&apics);
        let mut interrupts = Self::before(output, target);
        apics.connect_external(Arc::clone(&interrupts.pic) as Arc<_>);
        apics.connect_eoi_listener(Arc::clone(&interrupts.ioapic) as Arc<_>);
        interrupts.apics = Some(apics);
        interrupts
    }

    /// Controllers in front of local APICs that are the processors' own: `output` is where INTR of the 8259s leads,
    /// `target` where messages go.
    pub fn before(output: Arc<dyn Line>, target: Weak<dyn MessageTarget>) -> Self {
        let pic = Pic::new(output);
        let ioapic = IoApic::new(Arc::new(WeakTarget(target)));
        let isa: [SharedLine; ISA_LINES] = std::array::from_fn(|irq| {
            let irq = irq as u8;
            let input = if irq == TIMER_IRQ { TIMER_INPUT } else { irq };
            SharedLine::new(Arc::new(FanOut::new(vec![pic.line(irq), ioapic.line(input)])))
        });
        let drivers = std::array::from_fn(|irq| isa[irq].driver());
        let router = InterruptRouter::new(drivers, IOAPIC_PINS.map(|pin| ioapic.line(pin)));
        Self { pic, ioapic, apics: None, isa, router }
    }

    /// A driver of ISA line `irq`.
    pub fn isa(&self, irq: u8) -> Arc<dyn Line> {
        self.isa.get(usize::from(irq)).map_or_else(|| Arc::new(NotConnected) as Arc<_>, SharedLine::driver)
    }

    /// A driver of ISA line `irq` whose rising edges count as interrupts of a device.
    pub fn counted_isa(&self, irq: u8, counters: &DeviceCounters) -> Arc<dyn Line> {
        counted(self.isa(irq), counters)
    }

    /// The router of PCI interrupts in front of the ISA lines and the IOAPIC.
    pub fn router(&self) -> Arc<InterruptRouter> {
        Arc::clone(&self.router)
    }
}

/// Messages to the local APICs for as long as there are any.
struct WeakTarget(Weak<dyn MessageTarget>);

impl MessageTarget for WeakTarget {
    fn send(&self, message: Message) {
        if let Some(apics) = self.0.upgrade() {
            apics.send(message);
        }
    }
}

/// A processor's signal for a local APIC that the processor has in turn. The board holds the signal itself.
pub(super) struct WeakSignal(pub Weak<dyn ProcessorSignal>);

impl WeakSignal {
    fn with(&self, tell: impl FnOnce(&dyn ProcessorSignal)) {
        if let Some(signal) = self.0.upgrade() {
            tell(&*signal);
        }
    }
}

impl ProcessorSignal for WeakSignal {
    fn interrupt(&self) {
        self.with(|signal| signal.interrupt());
    }

    fn nmi(&self) {
        self.with(|signal| signal.nmi());
    }

    fn init(&self) {
        self.with(|signal| signal.init());
    }

    fn startup(&self, vector: u8) {
        self.with(|signal| signal.startup(vector));
    }
}

/// `line`, with its rising edges counted.
pub(super) fn counted(line: Arc<dyn Line>, counters: &DeviceCounters) -> Arc<dyn Line> {
    Arc::new(CountedLine { line, edges: counters.interrupts.clone(), high: AtomicBool::new(false) })
}

struct CountedLine {
    line: Arc<dyn Line>,
    edges: Counter,
    high: AtomicBool,
}

impl Line for CountedLine {
    fn set(&self, high: bool) {
        if !self.high.swap(high, Ordering::Relaxed) && high {
            self.edges.count();
        }
        self.line.set(high);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_rising_edges_count_as_interrupts() {
        let counters = DeviceCounters::default();
        let line = counted(Arc::new(NotConnected), &counters);
        line.set(true);
        line.set(true);
        line.set(false);
        line.pulse();
        assert_eq!(counters.interrupts.value(), 2);
    }
}
