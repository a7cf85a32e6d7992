//! Emulated devices.
//!
//! Every device is a register machine that knows neither processors nor threads: it is given its
//! interrupt [lines](interrupt::Line), the machine's [clock](clock::Clock) and [timers](clock::Timers), and
//! answers accesses to ports ([`PortDevice`]), memory ([`MmioDevice`]) and PCI configuration space
//! ([`pci::PciFunction`]).
#![forbid(unsafe_code)]

pub mod bus;
pub mod pci;

pub use bus::{MmioDevice, PortDevice};
