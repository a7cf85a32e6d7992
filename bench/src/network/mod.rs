//! Networks: the same Debian guest under bodhi and QEMU TCG with iperf3 and ping to the host, by a TAP interface and by
//! the network that needs no privileges; and bodhi's synthetic adapter beside its emulated one.
//!
//! Both guests of a comparison are there at once and take turns, so that a busy spell of the host does not fall on one of
//! them; the best round counts.

mod host;
mod job;

use clap::{Args, ValueEnum};
use guests::{BOOT, Bus, Image, Interface, Kernel, Machine, POWER_OFF, Program, Running};

use crate::table::{Better, Table};

use host::Server;
use job::{Figures, JOBS, Job, Place};

/// What to measure.
#[derive(Args)]
pub struct Selection {
    /// Comparisons [default: all].
    #[arg(long, value_delimiter = ',', value_enum)]
    only: Vec<Comparison>,
    /// Virtual processors of each guest.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=8))]
    cpus: u32,
    /// Seconds of each job of iperf3.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=60))]
    seconds: u32,
    /// Rounds, of which the best counts.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=20))]
    rounds: u32,
}

impl Default for Selection {
    fn default() -> Self {
        Self { only: Vec::new(), cpus: 1, seconds: 3, rounds: 2 }
    }
}

/// What is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Comparison {
    /// NetVSP and virtio-net by TAP interfaces of the host.
    Tap,
    /// NetVSP by the NAT and virtio-net by QEMU's user network.
    Nat,
    /// NetVSP and the DEC 21140, both by the NAT.
    Legacy,
}

/// The least ratios: of throughput to QEMU's by TAP and by NAT, of throughput to the legacy adapter's, and of the latter's
/// exits per megabyte to NetVSP's.
const TAP_BAR: f64 = 1.0;
const NAT_BAR: f64 = 2.0;
const LEGACY_BAR: f64 = 5.0;
const EXITS_BAR: f64 = 20.0;

/// Interfaces, with their address, that of the host and that of the guest: of the network for benchmarks (RFC 2544).
const INTERFACES: [(&str, &str, &str, &str); 2] = [
    ("bodhi-bench", "198.18.0.1/30", "198.18.0.1", "198.18.0.2/30"),
    ("bodhi-bench-2", "198.18.0.5/30", "198.18.0.5", "198.18.0.6/30"),
];
/// The host and the guest in bodhi's NAT and QEMU's user network.
const NAT_HOST: &str = "10.0.2.2";
const NAT_GUEST: &str = "10.0.2.15/24";

impl Comparison {
    const ALL: [Self; 3] = [Self::Tap, Self::Nat, Self::Legacy];

    fn title(self, cpus: u32) -> String {
        let way = match self {
            Self::Tap => "network, TAP",
            Self::Nat => "network, NAT",
            Self::Legacy => "network, NAT, adapters",
        };
        if cpus == 1 { way.to_owned() } else { format!("{way}, {cpus} processors") }
    }

    fn columns(self) -> [&'static str; 2] {
        match self {
            Self::Tap | Self::Nat => ["bodhi NetVSP", "QEMU virtio-net"],
            Self::Legacy => ["bodhi NetVSP", "bodhi DEC 21140"],
        }
    }

    fn bar(self, job: Job) -> Option<f64> {
        let bar = match self {
            Self::Tap => TAP_BAR,
            Self::Nat => NAT_BAR,
            Self::Legacy => LEGACY_BAR,
        };
        matches!(job, Job::Stream(..)).then_some(bar)
    }
}

/// Prints the tables of what was selected.
pub fn measure(selection: &Selection) {
    if !Server::is_there() {
        println!("\nnetwork: left out, as there is no iperf3 on this host: `apt-get install iperf3`");
        return;
    }
    let chosen = |one: &Comparison| selection.only.is_empty() || selection.only.contains(one);
    for comparison in Comparison::ALL.into_iter().filter(chosen) {
        let sides = [0, 1].map(|index| Side::start(comparison, index, selection.cpus));
        match sides {
            [Ok(ours), Ok(theirs)] => print(comparison, [ours, theirs], selection),
            [Err(why), _] | [_, Err(why)] => {
                println!("\n{}: left out: {why}", comparison.title(selection.cpus));
            }
        }
    }
}

/// Measures and prints.
fn print(comparison: Comparison, mut sides: [Side; 2], selection: &Selection) {
    let mut best: [[Option<Figures>; 2]; JOBS.len()] = Default::default();
    for _ in 0..selection.rounds {
        for (job, best) in JOBS.into_iter().zip(&mut best) {
            for (side, best) in sides.iter_mut().zip(best) {
                match job.run(&mut side.running, side.counts, side.place, selection.seconds) {
                    Ok(figures) => *best = Some(best.map_or(figures, |best| job.better(best, figures))),
                    Err(why) => eprintln!("bench: {why}"),
                }
            }
        }
    }
    let mut table = Table::new(&comparison.title(selection.cpus), comparison.columns());
    for (job, figures) in JOBS.into_iter().zip(best) {
        let better = if job == Job::RoundTrip { Better::Less } else { Better::More };
        let values = figures.map(|figures| Some(figures?.value));
        table.compare(&job.name(), job.unit(), better, values, comparison.bar(job));
        if let (Job::Stream(..), [Some(ours), theirs]) = (job, figures)
            && let Some(costs) = ours.costs
        {
            match theirs.and_then(|theirs| theirs.costs) {
                Some(others) => {
                    let (exits, interrupts) =
                        ([costs.exits, others.exits], [costs.interrupts, others.interrupts]);
                    table.compare("    exits per MB", "", Better::Less, exits.map(Some), Some(EXITS_BAR));
                    table.compare("    interrupts per MB", "", Better::Less, interrupts.map(Some), None);
                }
                None => {
                    table.ours("    exits per MB", "", costs.exits);
                    table.ours("    interrupts per MB", "", costs.interrupts);
                }
            }
        }
    }
    table.print();
    sides.into_iter().for_each(Side::end);
}

/// A guest, with what it talks to.
struct Side {
    running: Running,
    /// Whether its adapter counts what it does.
    counts: bool,
    place: Place,
    // These go after the guest.
    _image: Image,
    _server: Server,
    _interface: Option<Interface>,
}

impl Side {
    /// Starts one side of a comparison.
    ///
    /// # Errors
    /// What the host does not allow.
    fn start(comparison: Comparison, index: usize, cpus: u32) -> Result<Self, String> {
        let program =
            if comparison != Comparison::Legacy && index == 1 { Program::Qemu } else { Program::Bodhi };
        let count = cpus.to_string();
        let (interface, host, listens, guest, net) = if comparison == Comparison::Tap {
            let (name, network, host, guest) = INTERFACES[index];
            let interface = Interface::make(name, network, cpus)?;
            let net = match program {
                Program::Bodhi => format!("tap:{name}"),
                Program::Qemu => format!("tap,id=net,ifname={name},script=no,downscript=no,queues={cpus}"),
            };
            (Some(interface), host, host, guest, net)
        } else {
            let net = if program == Program::Bodhi { "nat" } else { "user,id=net" };
            (None, NAT_HOST, "127.0.0.1", NAT_GUEST, net.to_owned())
        };
        let server = Server::start(listens)?;
        // Both adapters of a comparison have the same kernel; the cloud one has no tulip.
        let kernel = if comparison == Comparison::Legacy { Kernel::Generic } else { Kernel::Cloud };
        let image = Image::root();
        let machine = Machine::new(program, kernel).append("loglevel=1").disk(image.path(), Bus::Auto);
        let machine = match program {
            Program::Bodhi => {
                let nic = if comparison == Comparison::Legacy && index == 1 { "legacy" } else { "synthetic" };
                let options = ["--processor", "translator", "--cpus", &count, "--net", &net, "--nic", nic];
                machine.options(&options).api(image.folder().join("api"))
            }
            Program::Qemu => {
                // Several queues, with an interrupt for each direction of each, one for the rest.
                let queues =
                    if cpus == 1 { String::new() } else { format!(",mq=on,vectors={}", 2 * cpus + 2) };
                let device = format!("virtio-net-pci,netdev=net,romfile={queues}");
                let options = ["-smp", &count, "-netdev", &net, "-device", &device];
                machine.options(&options)
            }
        };
        let mut running = machine.start();
        running.expect("bodhi: shell", BOOT);
        running
            .ask(&format!("ip link set eth0 up; ip address add {guest} dev eth0; ping -q -c 1 -W 5 {host}"));
        let place = Place { address: host, port: server.port };
        let counts = program == Program::Bodhi;
        Ok(Self { running, counts, place, _image: image, _server: server, _interface: interface })
    }

    /// Ends the guest.
    fn end(mut self) {
        self.running.type_line("exit");
        self.running.wait(POWER_OFF).assert_powered_off();
    }
}
