//! How interrupts travel: lines from devices to interrupt controllers, messages from there to local
//! APICs, and what a local APIC and its processor are to each other.
//!
//! ```text
//! device ─Line─▶ PIC / IOAPIC ─MessageTarget─▶ LocalApic ─ProcessorSignal─▶ processor
//!                     ▲                            │  ▲                          │
//!                     └──────── EoiListener ───────┘  └── pending, acknowledge ──┘
//! ```
#![forbid(unsafe_code)]

use std::sync::Arc;

/// An interrupt line, as the pin of a device. Level: high is asserted; the receiving controller decides
/// whether it acts on edges or levels.
pub trait Line: Send + Sync {
    /// Drives the line.
    fn set(&self, high: bool);

    /// Raises and drops the line: one edge.
    fn pulse(&self) {
        self.set(true);
        self.set(false);
    }
}

/// A line that leads nowhere.
#[derive(Debug, Default, Clone, Copy)]
pub struct NotConnected;

impl Line for NotConnected {
    fn set(&self, _high: bool) {}
}

/// A message-signalled interrupt (Intel SDM volume 3, section 12.11: message address and data).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Message {
    /// Message address: 0xFEEx_xxxx, with the upper half for extended destinations.
    pub address: u64,
    /// Message data: vector, delivery mode, trigger mode.
    pub data: u32,
}

/// Where messages go: the local APICs of the machine.
pub trait MessageTarget: Send + Sync {
    /// Delivers one message. Messages to nobody are dropped, as on the bus.
    fn send(&self, message: Message);
}

/// Who must hear of the end of a level-triggered interrupt: the IOAPIC.
pub trait EoiListener: Send + Sync {
    /// A local APIC has ended `vector`.
    fn end_of_interrupt(&self, vector: u8);
}

/// Who must know what the inputs of an IOAPIC send: a processor that has local APICs of its own and tells of the
/// ends of level-triggered interrupts only where it knows of them.
pub trait InputListener: Send + Sync {
    /// Input `input` has been set up to send `message`, or nothing while it is masked. Called with the IOAPIC
    /// locked.
    fn input_set_up(&self, input: usize, message: Option<Message>);
}

/// Where a local APIC gets the vector of an ExtINT from: the master 8259.
pub trait ExternalInterrupts: Send + Sync {
    /// Whether the INTR output is high.
    fn pending(&self) -> bool;
    /// The interrupt-acknowledge cycle: the vector, spurious if the line has fallen meanwhile.
    fn acknowledge(&self) -> u8;
}

/// Edge or level.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Trigger {
    /// Edge triggered.
    Edge,
    /// Level triggered: its end is broadcast to the IOAPIC.
    Level,
}

/// An access that the processor answers with #GP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GeneralProtection;

/// What a local APIC is to its processor and to the hypervisor interface. Methods may be called from any
/// thread; those that change what is deliverable tell the processor by its [`ProcessorSignal`].
pub trait LocalApic: Send + Sync {
    /// IA32_APIC_BASE.
    fn base(&self) -> u64;
    /// Writes IA32_APIC_BASE: enable, x2APIC mode, address, as SDM volume 3, section 12.12.5 allows.
    fn set_base(&self, value: u64) -> Result<(), GeneralProtection>;
    /// Reads the 32-bit register at `offset` (0..0x1000) of the xAPIC page.
    fn read(&self, offset: u32) -> u32;
    /// Writes the 32-bit register at `offset` of the xAPIC page.
    fn write(&self, offset: u32, value: u32);
    /// Reads an x2APIC register, MSRs 0x800–0x8ff. #GP outside x2APIC mode.
    fn read_msr(&self, msr: u32) -> Result<u64, GeneralProtection>;
    /// Writes an x2APIC register.
    fn write_msr(&self, msr: u32, value: u64) -> Result<(), GeneralProtection>;
    /// IA32_TSC_DEADLINE, in guest TSC units; 0 is disarmed.
    fn tsc_deadline(&self) -> u64;
    /// Writes IA32_TSC_DEADLINE. Ignored unless the timer is in TSC-deadline mode.
    fn set_tsc_deadline(&self, value: u64);
    /// CR8: the upper four bits of the task-priority register.
    fn cr8(&self) -> u8;
    /// Writes CR8.
    fn set_cr8(&self, priority: u8);
    /// Whether an interrupt (of the IRR above the processor priority, or an ExtINT) would be delivered
    /// now. NMI, INIT and start-up go by [`ProcessorSignal`] instead.
    fn pending(&self) -> bool;
    /// Takes the interrupt that is to be delivered: moves it from IRR to ISR, or asks the 8259. `None` if
    /// it has gone meanwhile.
    fn acknowledge(&self) -> Option<u8>;
    /// Requests `vector` of this APIC, as a message to it alone would. Drops vectors below 16.
    fn request(&self, vector: u8, trigger: Trigger);
    /// Ends the interrupt in service, as a write to the EOI register does, in any APIC mode.
    fn end_of_interrupt(&self);
    /// The task-priority register.
    fn task_priority(&self) -> u8;
    /// Writes the task-priority register, in any APIC mode.
    fn set_task_priority(&self, value: u8);
    /// The interrupt-command register: destination in the upper half.
    fn interrupt_command(&self) -> u64;
    /// Writes the interrupt-command register and sends, in any APIC mode. The destination field has the
    /// layout of the APIC's present mode.
    fn set_interrupt_command(&self, value: u64);
    /// The APIC id: 8 bits in xAPIC mode, 32 in x2APIC mode.
    fn id(&self) -> u32;
    /// Drives LINT0 (`0`, the 8259's output) or LINT1 (`1`, NMI).
    fn set_lint(&self, pin: usize, high: bool);
    /// INIT: back to the state after reset but for the id and IA32_APIC_BASE.
    fn init(&self);
    /// Power-on reset.
    fn reset(&self);
}

/// What a local APIC tells its processor. Called with the APIC's own lock held: implementations only set
/// flags and wake the processor's thread.
pub trait ProcessorSignal: Send + Sync {
    /// Something may have become deliverable: ask [`LocalApic::pending`] at the next boundary.
    fn interrupt(&self);
    /// A non-maskable interrupt.
    fn nmi(&self);
    /// INIT.
    fn init(&self);
    /// Start-up: real mode, CS base `vector << 12`. Ignored unless the processor waits for it.
    fn startup(&self, vector: u8);
}

/// What the hypervisor interface knows of interrupts that an APIC must ask: automatic end of interrupt
/// (TLFS, "SINTx registers") and the EOI assist of the VP assist page (TLFS, "Virtual EOI"). Called with
/// the APIC's lock held; must not call back into the APIC.
pub trait ApicAssist: Send + Sync {
    /// Whether `vector` ends itself on delivery.
    fn auto_eoi(&self, vector: u8) -> bool;
    /// Sets or clears "no EOI required" in the VP assist page. True if the page is enabled and the field
    /// was written. To withdraw an offer is atomic against the guest: whoever withdraws asks
    /// [`Self::take_skipped_eoi`] *afterwards*, for the guest may have been quicker.
    fn offer_skipped_eoi(&self, offer: bool) -> bool;
    /// After an offer, standing or just withdrawn: true, once, if the guest has cleared the field, that
    /// is, it has ended the interrupt in service without a write to the EOI register.
    fn take_skipped_eoi(&self) -> bool;
    /// An interrupt has been ended, by whatever way: a moment to retry message delivery.
    fn ended(&self, vector: u8);
}

/// A line that several devices may drive: high while any of them is.
#[derive(Clone)]
pub struct SharedLine {
    inner: Arc<SharedLineInner>,
}

struct SharedLineInner {
    target: Arc<dyn Line>,
    drivers: std::sync::Mutex<Vec<bool>>,
}

impl SharedLine {
    /// A shared line in front of `target`.
    pub fn new(target: Arc<dyn Line>) -> Self {
        Self { inner: Arc::new(SharedLineInner { target, drivers: std::sync::Mutex::new(Vec::new()) }) }
    }

    /// One more driver of this line.
    pub fn driver(&self) -> Arc<dyn Line> {
        let mut drivers = self.inner.lock();
        drivers.push(false);
        Arc::new(SharedLineDriver { line: Arc::clone(&self.inner), index: drivers.len() - 1 })
    }
}

impl SharedLineInner {
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<bool>> {
        self.drivers.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

struct SharedLineDriver {
    line: Arc<SharedLineInner>,
    index: usize,
}

impl Line for SharedLineDriver {
    fn set(&self, high: bool) {
        let mut drivers = self.line.lock();
        let before = drivers.contains(&true);
        if let Some(driver) = drivers.get_mut(self.index) {
            *driver = high;
        }
        let after = drivers.contains(&true);
        if before != after {
            self.line.target.set(after);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[derive(Default)]
    struct Recorder(Mutex<Vec<bool>>);

    impl Line for Recorder {
        fn set(&self, high: bool) {
            self.0.lock().unwrap().push(high);
        }
    }

    #[test]
    fn a_shared_line_is_high_while_any_driver_is() {
        let recorder = Arc::new(Recorder::default());
        let shared = SharedLine::new(recorder.clone());
        let (first, second) = (shared.driver(), shared.driver());
        first.set(true);
        second.set(true);
        first.set(false);
        second.set(false);
        assert_eq!(*recorder.0.lock().unwrap(), [true, false]);
    }
}
