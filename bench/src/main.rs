//! The interpreter and the disks of bodhi, next to QEMU's translator (TCG): the same Debian kernel, the same jobs, one
//! run. Prints tables with ratios and asserts nothing: what a number must be depends on the machine, the ratio tells.

mod boot;
mod disk;
mod table;

use table::Table;

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
