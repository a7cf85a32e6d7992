//! Emulated devices.
//!
//! Every device is a register machine that knows neither processors nor threads: it is given its
//! interrupt [lines](interrupt::Line), the machine's [clock](clock::Clock) and [timers](clock::Timers), and
//! answers accesses to ports ([`PortDevice`]), memory ([`MmioDevice`]) and PCI configuration space
//! ([`pci::PciFunction`]).
//!
//! # Locks
//! A device is either behind a `Mutex` of the machine's bus, or, where interrupts reach it from other
//! devices, holds a lock of its own. Locks are taken in this order, and never against it:
//!
//! ```text
//! PCI bus ▶ device (PIT, RTC, serial, …) ▶ shared line ▶ PIC ─────▶ local APIC ▶ processor's flags
//!                                                       └ IOAPIC ─┘            └ the timers' queue
//! ```
//!
//! A local APIC calls the PIC (interrupt acknowledge), the IOAPIC (end of interrupt) and other local APICs
//! (messages) only after it has released its own lock. Callbacks of timers hold no lock when they begin.
#![forbid(unsafe_code)]

pub mod acpi_pm;
pub mod apic;
pub mod bus;
pub mod debug_ports;
pub mod dec21140;
pub mod flash;
pub mod fw_cfg;
pub mod i8042;
pub mod ide;
pub mod ioapic;
pub mod line;
pub mod pci;
pub mod pic;
pub mod pit;
pub mod port92;
pub mod power;
pub mod reset_control;
pub mod rom;
pub mod rtc;
pub mod serial;
pub mod shadow;
mod sync;
pub mod test_devices;
mod unhandled;
pub mod vga;

pub use bus::{MmioDevice, PortDevice};
