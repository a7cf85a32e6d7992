//! What a local APIC offers its processor and the hypervisor interface.

use interrupt::{GeneralProtection, LocalApic, Trigger};

use super::registers::*;
use super::state::State;
use super::{Apic, Effect, lvt_index};

impl LocalApic for Apic {
    fn base(&self) -> u64 {
        self.locked().base.into_bits()
    }

    fn set_base(&self, value: u64) -> Result<(), GeneralProtection> {
        let mut state = self.locked();
        let (old, new) = (state.base, Base::from_bits(value));
        let reserved = value & 0x2ff != 0 || new.reserved() != 0;
        let impossible = new.x2apic() && !new.enabled();
        // Only by way of "disabled" does x2APIC mode go back to xAPIC mode, and never directly the reverse.
        let forbidden =
            old.in_x2apic_mode() && new.enabled() && !new.x2apic() || !old.enabled() && new.in_x2apic_mode();
        if reserved || impossible || forbidden {
            return Err(GeneralProtection);
        }
        state.base = new.with_boot_processor(self.boot_processor);
        if old.enabled() && !new.enabled() {
            self.withdraw_offer(&mut state);
            state.init();
            self.arm(&state);
        }
        self.publish_addressing(&state);
        if state.deliverable() {
            self.wake();
        }
        Ok(())
    }

    fn read(&self, offset: u32) -> u32 {
        let mut state = self.locked();
        let value = if offset & 0x0f == 0 { self.read_register(&mut state, offset) } else { None };
        value.unwrap_or_else(|| {
            self.error(&mut state, ERROR_ILLEGAL_REGISTER);
            0
        })
    }

    fn write(&self, offset: u32, value: u32) {
        let effect = {
            let mut state = self.locked();
            match offset {
                LOGICAL_DESTINATION | DESTINATION_FORMAT => {
                    if offset == LOGICAL_DESTINATION {
                        state.logical_destination = value & 0xff00_0000;
                    } else {
                        state.destination_format = value | 0x0fff_ffff;
                    }
                    self.publish_addressing(&state);
                    Effect::None
                }
                COMMAND_HIGH => {
                    state.command.set_destination(value & 0xff00_0000);
                    Effect::None
                }
                COMMAND_LOW => {
                    let high = state.command.into_bits() & !0xffff_ffff;
                    state.command = Command::from_bits(high | u64::from(value & COMMAND_WRITABLE));
                    self.send_command(&mut state)
                }
                // Writes to read-only registers have no effect.
                ID | VERSION => Effect::None,
                _ => self.write_register(&mut state, offset, value).unwrap_or_else(|| {
                    self.error(&mut state, ERROR_ILLEGAL_REGISTER);
                    Effect::None
                }),
            }
        };
        self.carry_out(effect);
    }

    fn read_msr(&self, msr: u32) -> Result<u64, GeneralProtection> {
        let mut state = self.locked();
        let offset = msr_offset(msr, &state)?;
        match offset {
            COMMAND_LOW => Ok(state.command.into_bits()),
            COMMAND_HIGH | DESTINATION_FORMAT => Err(GeneralProtection),
            _ => self.read_register(&mut state, offset).map(u64::from).ok_or(GeneralProtection),
        }
    }

    fn write_msr(&self, msr: u32, value: u64) -> Result<(), GeneralProtection> {
        let effect = {
            let mut state = self.locked();
            let offset = msr_offset(msr, &state)?;
            let allowed = match offset {
                COMMAND_LOW => u64::MAX << 32 | u64::from(COMMAND_WRITABLE),
                TASK_PRIORITY | SELF_IPI => 0xff,
                END_OF_INTERRUPT | ERROR_STATUS => 0,
                SPURIOUS_VECTOR => 0x3ff,
                INITIAL_COUNT => 0xffff_ffff,
                DIVIDE_CONFIGURATION => 0x0b,
                LVT_FIRST..=LVT_LAST => {
                    let writable = LVT_WRITABLE.get(lvt_index(offset)).ok_or(GeneralProtection)?;
                    u64::from(writable | LVT_READ_ONLY)
                }
                _ => return Err(GeneralProtection),
            };
            if value & !allowed != 0 {
                return Err(GeneralProtection);
            }
            match offset {
                COMMAND_LOW => {
                    state.command = Command::from_bits(value);
                    self.send_command(&mut state)
                }
                SELF_IPI => {
                    self.set_request(&mut state, value as u8, Trigger::Edge);
                    Effect::None
                }
                _ => self.write_register(&mut state, offset, value as u32).ok_or(GeneralProtection)?,
            }
        };
        self.carry_out(effect);
        Ok(())
    }

    fn tsc_deadline(&self) -> u64 {
        let state = self.locked();
        if state.timer_mode() == TimerMode::TscDeadline { state.timer.deadline } else { 0 }
    }

    fn set_tsc_deadline(&self, value: u64) {
        let mut state = self.locked();
        if state.timer_mode() != TimerMode::TscDeadline {
            return;
        }
        state.timer.deadline = value;
        state.timer.due = (value != 0).then(|| self.clock.time_of_tsc(value));
        if value != 0 && self.clock.tsc() >= value {
            let now = self.clock.now();
            state.timer.elapse(TimerMode::TscDeadline, now);
            self.fire_timer(&mut state);
        }
        self.arm(&state);
    }

    fn cr8(&self) -> u8 {
        self.task_priority() >> 4
    }

    fn set_cr8(&self, priority: u8) {
        self.set_task_priority(priority << 4);
    }

    fn pending(&self) -> bool {
        let mut state = self.locked();
        if state.request.highest().is_some() {
            self.withdraw_offer(&mut state);
        } else {
            self.notice_skipped_end(&mut state);
        }
        state.deliverable()
    }

    fn acknowledge(&self) -> Option<u8> {
        let mut state = self.locked();
        if state.external_ready() {
            state.external = false;
            // The 8259 drives LINT0 while it holds its lock: never ask it with ours held.
            drop(state);
            if let Some(external) = self.bus.upgrade().as_ref().and_then(|bus| bus.external.get())
                && external.pending()
            {
                return Some(external.acknowledge());
            }
            state = self.locked();
        }
        self.withdraw_offer(&mut state);
        let vector = state.deliverable_vector()?;
        state.request.remove(vector);
        let level = state.trigger_mode.contains(vector);
        let mut effect = Effect::None;
        match self.assist.get() {
            Some(assist) if assist.auto_eoi(vector) => {
                effect = self.ended(&mut state, vector).map_or(Effect::None, Effect::Broadcast);
            }
            assist => {
                state.in_service.insert(vector);
                if let Some(assist) = assist
                    && !level
                    && state.request.highest().is_none()
                {
                    state.end_may_be_skipped = assist.offer_skipped_eoi(true);
                }
            }
        }
        drop(state);
        self.carry_out(effect);
        Some(vector)
    }

    fn request(&self, vector: u8, trigger: Trigger) {
        if vector >= 16 {
            self.set_request(&mut self.locked(), vector, trigger);
        }
    }

    fn end_of_interrupt(&self) {
        let effect = self.end(&mut self.locked());
        self.carry_out(effect);
    }

    fn task_priority(&self) -> u8 {
        self.locked().task_priority
    }

    fn set_task_priority(&self, value: u8) {
        let mut state = self.locked();
        self.notice_skipped_end(&mut state);
        state.task_priority = value;
        if state.deliverable() {
            self.wake();
        }
    }

    fn interrupt_command(&self) -> u64 {
        self.locked().command.into_bits()
    }

    fn set_interrupt_command(&self, value: u64) {
        let effect = {
            let mut state = self.locked();
            let destination = if state.base.in_x2apic_mode() { u64::MAX << 32 } else { 0xff << 56 };
            state.command = Command::from_bits(value & (destination | u64::from(COMMAND_WRITABLE)));
            self.send_command(&mut state)
        };
        self.carry_out(effect);
    }

    fn id(&self) -> u32 {
        if self.locked().base.in_x2apic_mode() { self.id } else { self.id & 0xff }
    }

    fn set_lint(&self, pin: usize, high: bool) {
        let mut state = self.locked();
        let Some(level) = state.lint.get_mut(pin) else { return };
        let before = std::mem::replace(level, high);
        let rising = high && !before;
        if !high {
            return;
        }
        if state.base.enabled() {
            self.deliver_local(&mut state, LVT_LINT0 + pin, rising);
        } else if pin == 0 {
            self.wake();
        } else if rising {
            self.signal(|signal| signal.nmi());
        }
    }

    fn init(&self) {
        let mut state = self.locked();
        self.withdraw_offer(&mut state);
        state.init();
        self.arm(&state);
        self.publish_addressing(&state);
    }

    fn reset(&self) {
        let mut state = self.locked();
        self.withdraw_offer(&mut state);
        *state = State::power_on(self.id, self.boot_processor, state.lint);
        self.arm(&state);
        self.publish_addressing(&state);
    }
}

/// The register behind an x2APIC MSR.
fn msr_offset(msr: u32, state: &State) -> Result<u32, GeneralProtection> {
    match msr {
        0x800..=0x8ff if state.base.in_x2apic_mode() => Ok((msr - 0x800) << 4),
        _ => Err(GeneralProtection),
    }
}
