//! What firmware would have done before it starts a kernel: PCI functions get addresses and are switched on.
//! Devices come up in the state in which firmware leaves everything else.

use chipset::dec21140::REGION_SIZE;
use chipset::pci::{
    CONFIG_ADDRESS, CONFIG_DATA, FIRMWARE_ROUTES, FunctionAddress, SOUTH_BRIDGE, ide, pirq_of,
};
use processor::Bus;

use crate::memory_map::PCI_WINDOW;

/// Where the bus master of the IDE controller goes.
const IDE_BUS_MASTER: u32 = 0xc000;
/// Where the ports of network adapters go, one behind the other.
const ADAPTER_PORTS: u32 = 0xc400;
/// Where their memory goes: the last page of the window.
const ADAPTER_MEMORY: u32 = PCI_WINDOW.end as u32 - 0x1000;

const COMMAND: u8 = 0x04;
const BAR_0: u8 = 0x10;
const BAR_1: u8 = 0x14;
const BAR_4: u8 = 0x20;
const INTERRUPT_LINE: u8 = 0x3c;
/// I/O space and memory.
const IO_AND_MEMORY: u32 = 0b011;
/// I/O space and bus mastering.
const IO_AND_MASTER: u32 = 0b101;

/// Sets up the PCI functions, of which the network adapters are at `adapters`.
pub(super) fn functions(bus: &dyn Bus, adapters: impl Iterator<Item = FunctionAddress>) {
    write(bus, ide(SOUTH_BRIDGE), BAR_4, IDE_BUS_MASTER);
    write(bus, ide(SOUTH_BRIDGE), COMMAND, IO_AND_MASTER);
    for (index, adapter) in (0..).zip(adapters) {
        let route = FIRMWARE_ROUTES[usize::from(pirq_of(adapter.device, 0))];
        write(bus, adapter, BAR_0, ADAPTER_PORTS + REGION_SIZE * index);
        write(bus, adapter, BAR_1, ADAPTER_MEMORY + REGION_SIZE * index);
        write(bus, adapter, INTERRUPT_LINE, route.into());
        write(bus, adapter, COMMAND, IO_AND_MEMORY);
    }
}

fn write(bus: &dyn Bus, function: FunctionAddress, register: u8, value: u32) {
    let FunctionAddress { device, function } = function;
    let address = 1 << 31 | u32::from(device) << 11 | u32::from(function) << 8 | u32::from(register);
    bus.port_write(CONFIG_ADDRESS, &address.to_le_bytes());
    bus.port_write(CONFIG_DATA, &value.to_le_bytes());
}
