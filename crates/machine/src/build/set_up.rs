//! What firmware would have done before it starts a kernel: PCI functions get addresses and are switched on.
//! Devices come up in the state in which firmware leaves everything else.

use chipset::pci::{CONFIG_ADDRESS, CONFIG_DATA, FunctionAddress, SOUTH_BRIDGE, ide};
use processor::Bus;

/// Where the bus master of the IDE controller goes.
const IDE_BUS_MASTER: u32 = 0xc000;

const COMMAND: u8 = 0x04;
const BAR_4: u8 = 0x20;
/// I/O space and bus mastering.
const IO_AND_MASTER: u32 = 0b101;

/// Sets up the PCI functions.
pub(super) fn functions(bus: &dyn Bus) {
    write(bus, ide(SOUTH_BRIDGE), BAR_4, IDE_BUS_MASTER);
    write(bus, ide(SOUTH_BRIDGE), COMMAND, IO_AND_MASTER);
}

fn write(bus: &dyn Bus, function: FunctionAddress, register: u8, value: u32) {
    let FunctionAddress { device, function } = function;
    let address = 1 << 31 | u32::from(device) << 11 | u32::from(function) << 8 | u32::from(register);
    bus.port_write(CONFIG_ADDRESS, &address.to_le_bytes());
    bus.port_write(CONFIG_DATA, &value.to_le_bytes());
}
