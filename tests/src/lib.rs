//! Real guests under test: starts `bodhi run` (or QEMU, to compare with) as a program of its own, with the
//! guest's serial port on pipes, waits for what the guest says, types, asks for the device table and checks how it
//! all ends.
//!
//! The guests are those of `scripts/guest`, the program is the release build beside the test's own binary.

mod artifacts;
mod console;
mod debugger;
mod devices;
mod disk;
mod http;
mod interface;
mod iso;
mod machine;
mod probe;
mod screen;
mod script;
mod shell;

pub use artifacts::{Kernel, bench_system, build_setup_disk, installed_image, medium, root_image, xen};
pub use console::Console;
pub use debugger::gdb;
pub use devices::{Devices, row};
pub use disk::Image;
pub use http::{Content, serve};
pub use interface::Interface;
pub use iso::iso;
pub use machine::{
    Answer, Bus, End, Machine, Program, Running, has_kvm, insert_setup_disk, is_nested, processor,
};
pub use probe::{Accelerator, Offer, Probe, Row};
pub use script::encode;

use std::time::Duration;

/// How long a guest may take to come up, beside a second one on the same cores.
pub const BOOT: Duration = Duration::from_secs(240);
/// How long a job inside the guest may take.
pub const JOB: Duration = Duration::from_secs(300);
/// How long power-off may take.
pub const POWER_OFF: Duration = Duration::from_secs(60);
