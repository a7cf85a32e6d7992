//! Power management: function 3 of PIIX4 (82371AB data sheet, chapter 7) with the ACPI fixed hardware
//! (ACPI specification 6.5, section 4.8): PM1 event and control blocks, PM timer, general-purpose event block
//! 0, SCI, and the SMI command port as far as it hands the machine over to ACPI.
//!
//! Without firmware to set it up, the block starts enabled at [`PM_BASE`].
//!
//! Not emulated: SMBus, SMI, throttling and the C2/C3 levels, device monitors, sleep states other than S5.

mod registers;

#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, Weak};

use clock::{Clock, NANOSECONDS, Timer, Timers};
use interrupt::Line;

use crate::bus::{PortDevice, read_bytes, write_bytes};
use crate::pci::{BarMapping, ConfigSpace, INTEL, Identity, PciFunction, Space};
use crate::power::PowerControl;
use crate::sync::lock;
use crate::unhandled::Unhandled;
use registers::*;

/// First port of the block until a guest moves it: where SeaBIOS puts it too, clear of the debug console at 0x402.
pub const PM_BASE: u16 = 0x600;
/// Ports of the block.
pub const PM_LENGTH: u16 = 64;
/// Frequency of the PM timer in Hz.
pub const PM_TIMER_FREQUENCY: u64 = 3_579_545;
/// Width of the PM timer.
pub const PM_TIMER_BITS: u32 = 24;
/// The interrupt of ACPI events, level triggered.
pub const SCI: u8 = 9;
/// The SMI command port; the next one is its status, a scratch register.
pub const SMI_COMMAND: u16 = 0xb2;
/// The command that switches ACPI mode on.
pub const ACPI_ENABLE: u8 = 0xf1;
/// The command that switches ACPI mode off.
pub const ACPI_DISABLE: u8 = 0xf0;
/// The sleep type of S5, soft off.
pub const SLEEP_TYPE_S5: u8 = 0;
/// The region that [`PciFunction::bars`] reports for the block.
pub const PM_REGION: usize = 6;

/// Offset of the block's base address in configuration space.
const CONFIG_PM_BASE: u8 = 0x40;
/// Offset of a register that says, among others, whether the SMI command port raises SMIs; and that it does, by which
/// firmware knows that somebody has set SMIs up, and does not wait for one (SeaBIOS, src/fw/smm.c).
const CONFIG_DEVICE_B: u8 = 0x58;
const APMC_ENABLED: u32 = 1 << 25;
/// Offset of the register that enables it.
const CONFIG_PM_MISC: u8 = 0x80;

#[derive(Debug, Clone, PartialEq, Eq)]
struct State {
    pm1_status: u16,
    pm1_enable: u16,
    pm1_control: Pm1Control,
    gpe_status: u16,
    gpe_enable: u16,
    smi_command: u8,
    smi_status: u8,
    /// The PM timer's half period of which the guest knows; a change of its top bit is an event.
    half_period: u64,
}

impl State {
    fn power_on(half_period: u64) -> Self {
        Self {
            pm1_status: 0,
            pm1_enable: 0,
            pm1_control: Pm1Control::new(),
            gpe_status: 0,
            gpe_enable: 0,
            smi_command: 0,
            smi_status: 0,
            half_period,
        }
    }

    fn sci(&self) -> bool {
        let events = self.pm1_status & self.pm1_enable | self.gpe_status & self.gpe_enable;
        self.pm1_control.sci_enable() && events != 0
    }
}

/// The power management function. Answers its block, ports 0xb2–0xb3, and its configuration space.
pub struct PowerManagement {
    state: State,
    config: ConfigSpace,
    clock: Arc<dyn Clock>,
    timer: Box<dyn Timer>,
    sci: Arc<dyn Line>,
    power: Arc<dyn PowerControl>,
    unhandled: Unhandled,
}

impl PowerManagement {
    /// The function, with `sci` as its interrupt.
    pub fn new(
        clock: Arc<dyn Clock>,
        timers: &dyn Timers,
        sci: Arc<dyn Line>,
        power: Arc<dyn PowerControl>,
    ) -> Arc<Mutex<Self>> {
        Arc::new_cyclic(|device: &Weak<Mutex<Self>>| {
            let device = device.clone();
            let timer = timers.timer(Box::new(move || {
                if let Some(device) = device.upgrade() {
                    lock(&device).update();
                }
            }));
            let state = State::power_on(half_periods(clock.now()));
            let unhandled = Unhandled::default();
            Mutex::new(Self { state, config: configuration(), clock, timer, sci, power, unhandled })
        })
    }

    /// Power-on state.
    pub fn reset(&mut self) {
        self.state = State::power_on(half_periods(self.clock.now()));
        self.config = configuration();
        self.update();
    }

    /// Someone has pressed the power button: a guest in ACPI mode hears of it and is expected to shut down.
    /// False if the guest does not listen.
    pub fn power_button(&mut self) -> bool {
        self.state.pm1_status |= POWER_BUTTON;
        self.update();
        self.state.pm1_control.sci_enable() && self.state.pm1_enable & POWER_BUTTON != 0
    }

    /// General-purpose event `event` (0–15) has happened.
    pub fn general_purpose_event(&mut self, event: u8) {
        self.state.gpe_status |= 1 << (event & 15);
        self.update();
    }

    fn base(&self) -> u16 {
        self.config.read(CONFIG_PM_BASE) as u16 & !(PM_LENGTH - 1)
    }

    /// Notices whether the PM timer's top bit has changed, drives the SCI, and waits for the next change if
    /// that would interrupt.
    fn update(&mut self) {
        let half_period = half_periods(self.clock.now());
        if half_period != self.state.half_period {
            self.state.half_period = half_period;
            self.state.pm1_status |= TIMER;
        }
        let waits = self.state.pm1_enable & TIMER != 0 && self.state.pm1_status & TIMER == 0;
        if waits {
            self.timer.arm(time_of((half_period + 1) << (PM_TIMER_BITS - 1)));
        } else {
            self.timer.disarm();
        }
        self.sci.set(self.state.sci());
    }

    fn read_block(&self) -> [u8; 16] {
        let state = &self.state;
        let timer = ticks(self.clock.now()) as u32 & (u32::MAX >> (32 - PM_TIMER_BITS));
        let dwords = [
            u32::from(state.pm1_enable) << 16 | u32::from(state.pm1_status),
            u32::from(state.pm1_control.into_bits()),
            timer,
            u32::from(state.gpe_enable) << 16 | u32::from(state.gpe_status),
        ];
        let mut block = [0; 16];
        for (bytes, dword) in block.chunks_exact_mut(4).zip(dwords) {
            bytes.copy_from_slice(&dword.to_le_bytes());
        }
        block
    }

    fn write_byte(&mut self, offset: u16, value: u8) {
        let shift = 8 * (offset & 1);
        let (bits, mask) = (u16::from(value) << shift, 0xff_u16 << shift);
        let merge = |old: u16| old & !mask | bits;
        let state = &mut self.state;
        match offset & !1 {
            PM1_STATUS => state.pm1_status &= !bits,
            0x02 => state.pm1_enable = merge(state.pm1_enable) & PM1_ENABLES,
            PM1_CONTROL => {
                let control = Pm1Control::from_bits(merge(state.pm1_control.into_bits()) & 0x3c07);
                state.pm1_control = control.with_sleep_enable(false).with_global_release(false);
                if control.sleep_enable() {
                    self.sleep(control.sleep_type());
                }
            }
            GPE0_STATUS => state.gpe_status &= !bits,
            0x0e => state.gpe_enable = merge(state.gpe_enable),
            // The PM timer is read-only.
            PM_TIMER | 0x0a => {}
            _ => self.unhandled.tell("power management", "a write to register", u32::from(offset)),
        }
    }

    fn sleep(&mut self, sleep_type: u8) {
        if sleep_type == SLEEP_TYPE_S5 {
            self.power.power_off();
        } else {
            self.unhandled.tell("power management", "sleep type", u32::from(sleep_type));
        }
    }

    fn smi_command(&mut self, command: u8) {
        self.state.smi_command = command;
        match command {
            ACPI_ENABLE => self.state.pm1_control.set_sci_enable(true),
            ACPI_DISABLE => self.state.pm1_control.set_sci_enable(false),
            _ => self.unhandled.tell("power management", "SMI command", u32::from(command)),
        }
    }
}

fn configuration() -> ConfigSpace {
    let mut config = ConfigSpace::new(Identity {
        vendor: INTEL,
        device: 0x7113,
        // Kernels read the PM timer of earlier revisions three times over.
        revision: 3,
        class: 0x06_8000,
        ..Identity::default()
    })
    .with_interrupt_pin(1);
    config.set(0x04, 0x0280_0001);
    config.set(0x3c, 0x0100 | u32::from(SCI));
    config.set(CONFIG_PM_BASE, u32::from(PM_BASE) | 1);
    config.set_writable(CONFIG_PM_BASE, 0x0000_ffc0);
    config.set(CONFIG_PM_MISC, 1);
    config.set_writable(CONFIG_PM_MISC, 0x0000_0001);
    config.set(CONFIG_DEVICE_B, APMC_ENABLED);
    // The SMBus base address: unassigned, and its enable bit stays off.
    config.set(0x90, 1);
    config
}

fn ticks(now: u64) -> u64 {
    (u128::from(now) * u128::from(PM_TIMER_FREQUENCY) / u128::from(NANOSECONDS)) as u64
}

fn half_periods(now: u64) -> u64 {
    ticks(now) >> (PM_TIMER_BITS - 1)
}

fn time_of(tick: u64) -> u64 {
    (u128::from(tick) * u128::from(NANOSECONDS)).div_ceil(u128::from(PM_TIMER_FREQUENCY)) as u64
}

impl PortDevice for PowerManagement {
    fn port_read(&mut self, port: u16, data: &mut [u8]) {
        if port == SMI_COMMAND || port == SMI_COMMAND + 1 {
            let bytes = [self.state.smi_command, self.state.smi_status];
            return read_bytes(port - SMI_COMMAND, data, |index| {
                bytes.get(usize::from(index)).copied().unwrap_or(0xff)
            });
        }
        let offset = port.wrapping_sub(self.base());
        if offset < PM1_CONTROL {
            self.update();
        }
        let block = self.read_block();
        read_bytes(offset, data, |offset| block.get(usize::from(offset)).copied().unwrap_or(0));
    }

    fn port_write(&mut self, port: u16, data: &[u8]) {
        self.update();
        let base = self.base();
        write_bytes(port, data, |port, value| match port {
            SMI_COMMAND => self.smi_command(value),
            0xb3 => self.state.smi_status = value,
            _ => self.write_byte(port.wrapping_sub(base), value),
        });
        self.update();
    }
}

impl PciFunction for PowerManagement {
    fn config_read(&mut self, register: u8) -> u32 {
        self.config.read(register)
    }

    fn config_write(&mut self, register: u8, value: u32, mask: u32) {
        self.config.write(register, value, mask);
    }

    fn bars(&self) -> Vec<BarMapping> {
        let enabled = self.config.read(CONFIG_PM_MISC) & 1 != 0 && self.base() != 0;
        let block = BarMapping {
            region: PM_REGION,
            space: Space::Io,
            base: u64::from(self.base()),
            size: u64::from(PM_LENGTH),
        };
        if enabled { vec![block] } else { Vec::new() }
    }
}
