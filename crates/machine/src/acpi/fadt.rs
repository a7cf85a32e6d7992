//! The fixed ACPI description table: where the PIIX4's power management registers are.

use acpi_tables::fadt::{FADT, FADTBuilder, Flags, PmProfile};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};

use super::{OEM, OEM_REVISION, OEM_TABLE, Platform};

/// Offsets of the register blocks (82371AB PIIX4 datasheet, section 7.3.3).
const PM1_CONTROL: u16 = 0x04;
const PM_TIMER: u16 = 0x08;
const GPE0: u16 = 0x0c;

const RESET_CONTROL_PORT: u16 = 0xcf9;
/// Hard reset.
const RESET_VALUE: u8 = 0x06;
/// The CMOS byte that holds the century.
const CENTURY: u8 = 0x32;
/// IA-PC boot flags: there are ISA devices and an 8042.
const BOOT_ARCHITECTURE: u16 = 0b011;
/// IA-PC boot flags: there is no VGA.
const NO_VGA: u16 = 0b100;
/// The fields with addresses of tables: FIRMWARE_CTRL, DSDT and X_DSDT, with their sizes.
pub(super) const POINTERS: [(usize, u8); 3] = [(36, 4), (40, 4), (140, 8)];
/// A latency that says "no such state".
const NO_C2: u16 = 101;
const NO_C3: u16 = 1001;

pub(super) fn table(platform: &Platform, facs: u64, dsdt: u64) -> FADT {
    let port = |offset| platform.pm_base + offset;
    let block = |offset, bytes: u8| gas(port(offset), bytes * 8, AccessSize::Undefined);
    let (smi_command, enable, disable) = platform.smi_command;
    let mut table = FADTBuilder::new(OEM, OEM_TABLE, OEM_REVISION)
        .preferred_pm_profile(PmProfile::Unspecified)
        .flag(Flags::Wbinvd)
        .flag(Flags::ProcC1)
        .flag(Flags::SlpButton)
        .flag(Flags::ResetRegSup)
        .gpe_info(u32::from(port(GPE0)), 0, 4, 0, 0);
    // Old and new fields say the same: both kinds of readers exist. The tables lie below 4 GiB.
    table.firmware_ctrl = (facs as u32).into();
    table.dsdt = (dsdt as u32).into();
    table.x_dsdt = dsdt.into();
    table.sci_int = u16::from(platform.sci).into();
    table.smi_cmd = u32::from(smi_command).into();
    table.acpi_enable = enable;
    table.acpi_disable = disable;
    table.pm1a_evt_blk = u32::from(port(0)).into();
    table.pm1a_cnt_blk = u32::from(port(PM1_CONTROL)).into();
    table.pm_tmr_blk = u32::from(port(PM_TIMER)).into();
    table.pm1_evt_len = 4;
    table.pm1_cnt_len = 2;
    table.pm_tmr_len = 4;
    table.x_pm1a_evt_blk = block(0, 4);
    table.x_pm1a_cnt_blk = block(PM1_CONTROL, 2);
    table.x_pm_tmr_blk = block(PM_TIMER, 4);
    table.x_gpe0_blk = block(GPE0, 4);
    table.p_lvl2_lat = NO_C2.into();
    table.p_lvl3_lat = NO_C3.into();
    table.century = CENTURY;
    let no_vga = if platform.video_window.is_some() { 0 } else { NO_VGA };
    table.iapc_boot_arch = (BOOT_ARCHITECTURE | no_vga).into();
    table.reset_reg = gas(RESET_CONTROL_PORT, 8, AccessSize::ByteAccess);
    table.reset_value = RESET_VALUE;
    table.finalize()
}

fn gas(port: u16, bits: u8, access: AccessSize) -> GAS {
    GAS::new(AddressSpace::SystemIo, bits, 0, access, u64::from(port))
}
