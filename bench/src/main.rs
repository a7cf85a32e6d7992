//! bodhi next to QEMU's translator (TCG) and to the host itself: the same Debian kernel, the same jobs, one run. Prints
//! tables with ratios and what they should be, and asserts nothing: what a number must be depends on the machine, the
//! ratio tells.

mod disk;
mod network;
mod probe;
mod processor;
mod start;
mod table;

use clap::{Parser, Subcommand};

use table::Table;

/// Measures bodhi side by side with QEMU TCG; everything, if no part is named.
#[derive(Parser)]
#[command(name = "bench")]
struct Arguments {
    #[command(subcommand)]
    part: Option<Part>,
}

#[derive(Subcommand)]
enum Part {
    /// The processors: jobs of every kind under interpreter, translator, QEMU TCG and in a chroot.
    Processor(processor::Selection),
    /// What leaving the guest costs, by way of leaving, on the interpreter, the translator and QEMU TCG.
    Probe,
    /// From the start of the process to the guest's first instruction, beside QEMU's.
    Start,
    /// The disks: fio on StorVSC and IDE.
    Disk,
    /// The networks: iperf3 and ping by TAP and NAT, and the adapters of bodhi side by side.
    Network(network::Selection),
}

fn main() {
    match Arguments::parse().part {
        Some(Part::Processor(selection)) => processor::measure(&selection),
        Some(Part::Disk) => measure_disks(),
        Some(Part::Network(selection)) => network::measure(&selection),
        Some(Part::Probe) => probe::measure(),
        Some(Part::Start) => start::measure(),
        None => {
            start::measure();
            probe::measure();
            processor::measure(&processor::Selection::default());
            measure_disks();
            network::measure(&network::Selection::default());
        }
    }
}

fn measure_disks() {
    let mut synthetic = Table::new("disk, paravirtual", ["bodhi StorVSC", "QEMU virtio-blk"]);
    disk::measure(&mut synthetic, disk::Path::Paravirtual);
    synthetic.print();
    let mut emulated = Table::new("disk, emulated", ["bodhi IDE", "QEMU IDE"]);
    disk::measure(&mut emulated, disk::Path::Emulated);
    emulated.print();
}
