//! The registers of a local APIC and what follows from them alone.

use super::bus::Addressing;
use super::registers::{
    Base, Command, DeliveryMode, LVT_COUNT, LVT_LINT0, LVT_TIMER, Lvt, TimerMode, Vectors,
};
use super::timer::Timer;

/// Address of the xAPIC page after reset, in pages.
const DEFAULT_FRAME: u64 = 0xfee00;

/// Registers and pins of a local APIC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct State {
    pub(super) id: u32,
    pub(super) base: Base,
    pub(super) task_priority: u8,
    pub(super) logical_destination: u32,
    pub(super) destination_format: u32,
    pub(super) spurious_vector: u32,
    pub(super) in_service: Vectors,
    pub(super) trigger_mode: Vectors,
    pub(super) request: Vectors,
    pub(super) error_status: u32,
    /// Errors since the last write to the error status register.
    pub(super) errors: u32,
    pub(super) command: Command,
    pub(super) lvt: [Lvt; LVT_COUNT],
    pub(super) timer: Timer,
    /// Levels of LINT0 and LINT1.
    pub(super) lint: [bool; 2],
    /// An ExtINT that came as a message waits for its acknowledge cycle.
    pub(super) external: bool,
    /// The guest may end the interrupt in service by clearing "no EOI required".
    pub(super) end_may_be_skipped: bool,
}

impl State {
    /// State after power-on. LINT0 of the boot processor is set up as firmware leaves it (virtual wire mode),
    /// since kernels may be started without any.
    pub(super) fn power_on(id: u32, boot_processor: bool, lint: [bool; 2]) -> Self {
        let base =
            Base::new().with_boot_processor(boot_processor).with_enabled(true).with_frame(DEFAULT_FRAME);
        let mut state = Self {
            id,
            base,
            task_priority: 0,
            logical_destination: 0,
            destination_format: u32::MAX,
            spurious_vector: 0xff,
            in_service: Vectors::default(),
            trigger_mode: Vectors::default(),
            request: Vectors::default(),
            error_status: 0,
            errors: 0,
            command: Command::new(),
            lvt: [Lvt::new().with_masked(true); LVT_COUNT],
            timer: Timer::default(),
            lint,
            external: false,
            end_may_be_skipped: false,
        };
        if boot_processor {
            state.lvt[LVT_LINT0] = Lvt::new().with_mode(DeliveryMode::External);
        }
        state
    }

    /// State after INIT: id and base stay.
    pub(super) fn init(&mut self) {
        let lint = self.lint;
        *self = Self { base: self.base, ..Self::power_on(self.id, false, lint) };
    }

    pub(super) fn software_enabled(&self) -> bool {
        self.base.enabled() && self.spurious_vector & 0x100 != 0
    }

    pub(super) fn timer_mode(&self) -> TimerMode {
        self.lvt[LVT_TIMER].timer_mode()
    }

    /// The logical id of x2APIC mode, which follows from the id.
    pub(super) fn x2apic_logical_id(&self) -> u32 {
        (self.id >> 4) << 16 | 1 << (self.id & 15)
    }

    pub(super) fn addressing(&self) -> Addressing {
        let x2apic = self.base.in_x2apic_mode();
        Addressing {
            logical_id: if x2apic { self.x2apic_logical_id() } else { self.logical_destination >> 24 },
            enabled: self.base.enabled(),
            x2apic,
            cluster: self.destination_format >> 28 == 0,
        }
    }

    pub(super) fn processor_priority(&self) -> u8 {
        let serviced = self.in_service.highest().unwrap_or(0);
        if self.task_priority >> 4 >= serviced >> 4 { self.task_priority } else { serviced & 0xf0 }
    }

    /// The vector that may be delivered now.
    pub(super) fn deliverable_vector(&self) -> Option<u8> {
        let vector = self.request.highest()?;
        (self.software_enabled() && vector >> 4 > self.processor_priority() >> 4).then_some(vector)
    }

    /// Whether the 8259's request is passed on to the processor.
    pub(super) fn external_ready(&self) -> bool {
        if !self.base.enabled() {
            // A disabled APIC connects LINT0 to the processor's INTR.
            return self.lint[0];
        }
        let lint0 = self.lvt[LVT_LINT0];
        self.external || self.lint[0] && !lint0.masked() && lint0.mode() == DeliveryMode::External
    }

    pub(super) fn deliverable(&self) -> bool {
        self.external_ready() || self.deliverable_vector().is_some()
    }

    /// Masks the vector table, as while the APIC is disabled by software.
    pub(super) fn mask_all(&mut self) {
        self.lvt = self.lvt.map(|entry| entry.with_masked(true));
    }
}
