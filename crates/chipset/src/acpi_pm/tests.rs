use clock::{FakeClock, FakeTimers};
use proptest::prelude::*;

use super::*;
use crate::line::tests::Probe;
use crate::power::tests::Power;

struct Bench {
    device: Arc<Mutex<PowerManagement>>,
    timers: Arc<FakeTimers>,
    sci: Arc<Probe>,
    power: Arc<Power>,
}

const ENABLE: u16 = 2;

impl Bench {
    fn new() -> Self {
        let clock = FakeClock::new();
        let timers = FakeTimers::new(clock.clone());
        let (sci, power) = (Probe::new(), Power::new());
        let device = PowerManagement::new(clock, &*timers, sci.clone(), power.clone());
        Self { device, timers, sci, power }
    }

    fn in_acpi_mode() -> Self {
        let bench = Self::new();
        lock(&bench.device).port_write(SMI_COMMAND, &[ACPI_ENABLE]);
        bench
    }

    fn read(&self, offset: u16) -> u32 {
        let mut data = [0xff; 4];
        lock(&self.device).port_read(PM_BASE + offset, &mut data);
        u32::from_le_bytes(data)
    }

    fn write(&self, offset: u16, value: u16) {
        lock(&self.device).port_write(PM_BASE + offset, &value.to_le_bytes());
    }
}

#[test]
fn the_smi_command_switches_acpi_mode() {
    let bench = Bench::in_acpi_mode();
    assert_eq!(bench.read(PM1_CONTROL) & 1, 1);
    lock(&bench.device).port_write(SMI_COMMAND, &[ACPI_DISABLE]);
    assert_eq!(bench.read(PM1_CONTROL) & 1, 0);
}

#[test]
fn the_timer_counts_at_3_58_mhz_in_24_bits() {
    let bench = Bench::new();
    assert_eq!(bench.read(PM_TIMER), 0);
    bench.timers.advance(NANOSECONDS);
    assert_eq!(bench.read(PM_TIMER), 3_579_545);
    bench.timers.advance(4 * NANOSECONDS);
    assert_eq!(bench.read(PM_TIMER), (5 * 3_579_545) & 0xff_ffff);
}

#[test]
fn the_timers_top_bit_interrupts_every_2_34_seconds() {
    let bench = Bench::in_acpi_mode();
    bench.write(ENABLE, TIMER);
    bench.timers.advance(2_343_000_000);
    assert!(!bench.sci.is_high());
    bench.timers.advance(1_000_000);
    assert!(bench.sci.is_high());
    bench.write(PM1_STATUS, TIMER);
    assert!(!bench.sci.is_high());
    bench.timers.advance(2_344_000_000);
    assert!(bench.sci.is_high());
}

#[test]
fn the_power_button_raises_the_sci_until_its_status_is_cleared() {
    let bench = Bench::in_acpi_mode();
    assert!(!lock(&bench.device).power_button());
    assert!(!bench.sci.is_high());
    bench.write(ENABLE, POWER_BUTTON);
    assert!(bench.sci.is_high());
    bench.write(PM1_STATUS, POWER_BUTTON);
    assert!(!bench.sci.is_high());
    assert!(lock(&bench.device).power_button());
    assert!(bench.sci.is_high());
}

#[test]
fn no_sci_outside_acpi_mode() {
    let bench = Bench::new();
    bench.write(ENABLE, POWER_BUTTON);
    lock(&bench.device).power_button();
    assert!(!bench.sci.is_high());
}

#[test]
fn s5_switches_off() {
    let bench = Bench::in_acpi_mode();
    bench.write(PM1_CONTROL, 0x0001 | u16::from(SLEEP_TYPE_S5) << 10);
    assert_eq!(bench.power.offs(), 0);
    bench.write(PM1_CONTROL, 0x2001 | u16::from(SLEEP_TYPE_S5) << 10);
    assert_eq!(bench.power.offs(), 1);
    assert_eq!(bench.read(PM1_CONTROL) & 0x2000, 0);
}

#[test]
fn other_sleep_types_do_nothing() {
    let bench = Bench::in_acpi_mode();
    bench.write(PM1_CONTROL, 0x2001 | 5 << 10);
    assert_eq!(bench.power.offs(), 0);
}

#[test]
fn general_purpose_events_are_level_until_cleared() {
    let bench = Bench::in_acpi_mode();
    bench.write(0x0e, 1 << 3);
    lock(&bench.device).general_purpose_event(3);
    assert!(bench.sci.is_high());
    bench.write(GPE0_STATUS, 1 << 3);
    assert!(!bench.sci.is_high());
}

#[test]
fn the_block_moves_with_its_base_register() {
    let bench = Bench::new();
    let mut device = lock(&bench.device);
    let block = |base| BarMapping { region: PM_REGION, space: Space::Io, base, size: 64 };
    assert_eq!(device.bars(), [block(0x600)]);
    device.config_write(CONFIG_PM_BASE, 0xb001, u32::MAX);
    assert_eq!(device.bars(), [block(0xb000)]);
    device.config_write(CONFIG_PM_MISC, 0, u32::MAX);
    assert_eq!(device.bars(), []);
}

proptest! {
    #[test]
    fn random_accesses_never_panic(
        accesses in prop::collection::vec((0_u8..5, 0_u16..70, any::<u32>()), 0..200),
    ) {
        let bench = Bench::new();
        for (what, offset, value) in accesses {
            let length = [1, 2, 4][value as usize % 3];
            let mut device = lock(&bench.device);
            match what {
                0 => device.port_read(PM_BASE + offset, &mut [0; 4][..length]),
                1 => device.port_write(PM_BASE + offset, &value.to_le_bytes()[..length]),
                2 => device.port_write(SMI_COMMAND, &value.to_le_bytes()[..length]),
                3 => device.config_write((offset as u8 & 63) * 4, value, u32::MAX),
                _ => {
                    drop(device);
                    bench.timers.advance(u64::from(value));
                }
            }
        }
    }
}
