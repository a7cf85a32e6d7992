//! The interpreter and the disks of bodhi, next to QEMU's translator (TCG): the same Debian kernel, the same jobs, one
//! run. Prints tables with ratios and asserts nothing: what a number must be depends on the machine, the ratio tells.

mod boot;
mod disk;
mod table;

use guests::{Kernel, Machine, Program};

use table::Table;

/// A machine to be measured: the cloud kernel, under bodhi on its interpreter.
fn machine(program: Program) -> Machine {
    let machine = Machine::new(program, Kernel::Cloud);
    match program {
        Program::Bodhi => machine.options(&["--processor", "interpreter"]),
        Program::Qemu => machine,
    }
}

fn main() {
    let mut processor = Table::new("processor", ["bodhi interpreter", "QEMU TCG"]);
    boot::measure(&mut processor);
    processor.print();
    let mut synthetic = Table::new("disk, paravirtual", ["bodhi StorVSC", "QEMU virtio-blk"]);
    disk::measure(&mut synthetic, disk::Path::Paravirtual);
    synthetic.print();
    let mut emulated = Table::new("disk, emulated", ["bodhi IDE", "QEMU IDE"]);
    disk::measure(&mut emulated, disk::Path::Emulated);
    emulated.print();
}
