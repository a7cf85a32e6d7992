//! The guest that measures its exits, run and read.

use std::process::{Command, Stdio};

use crate::artifacts::probe;
use crate::machine::{Program, is_nested};

/// QEMU's processor on KVM, with what it has of Hyper-V.
const HYPERV: &str = "host,hv-relaxed,hv-vapic,hv-time,hv-frequencies,hv-vpindex,hv-runtime,hv-crash,hv-reset,\
                      hv-synic,hv-stimer,hv-tlbflush,hv-ipi";

/// What carries out the guest's instructions in QEMU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accelerator {
    /// QEMU's translator.
    Tcg,
    /// The host's processor.
    Kvm,
}

/// The exit code by which the guest says that it is done.
const DONE: i32 = 33;

/// A kind of round trip, as the guest has measured it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Which.
    pub name: String,
    /// How many of them.
    pub count: u64,
    /// The quickest, in cycles of the TSC.
    pub least: u64,
    /// All of them, on average.
    pub mean: u64,
}

/// A part of the hypervisor interface, as the guest has found it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// Which.
    pub name: String,
    /// Whether CPUID offers it.
    pub offered: bool,
    /// Whether it was served when it was tried.
    pub served: bool,
}

/// What the guest has said.
#[derive(Debug)]
pub struct Probe {
    /// How many processors took part.
    pub processors: u32,
    /// What the machine offers.
    pub rows: Vec<Row>,
    /// What failed.
    pub failed: Vec<String>,
    /// What is offered of the hypervisor interface and what is not, if there is one.
    pub offers: Vec<Offer>,
}

impl Probe {
    /// Runs it on `cpus` processors of bodhi; `options` are further ones.
    ///
    /// # Panics
    /// If the guest does not come to its end, with what it has said.
    pub fn bodhi(cpus: u32, options: &[&str]) -> Self {
        let mut command = Program::Bodhi.command();
        command.args(["run", "--memory", "64M", "--test-devices", "--cpus", &cpus.to_string()]).args(options);
        command.arg("--kernel").arg(probe());
        Self::of(&command)
    }

    /// Runs it on `cpus` processors of QEMU.
    ///
    /// # Panics
    /// As [`Self::bodhi`].
    pub fn qemu(accelerator: Accelerator, cpus: u32) -> Self {
        let mut command = Program::Qemu.command();
        command.args(match accelerator {
            Accelerator::Tcg => ["-accel", "tcg", "-cpu", "max"],
            Accelerator::Kvm => ["-accel", "kvm", "-cpu", HYPERV],
        });
        if accelerator == Accelerator::Kvm {
            command.args(["-device", "hyperv-testdev"]);
        }
        command.args(["-m", "64M", "-smp", &cpus.to_string()]);
        command.args(["-nodefaults", "-no-reboot", "-display", "none", "-serial", "stdio"]);
        command.args(["-device", "isa-debug-exit,iobase=0xf4,iosize=4", "-device", "pc-testdev"]);
        command.arg("-kernel").arg(probe());
        Self::of(&command)
    }

    /// What the guest says that `program` starts.
    fn of(program: &Command) -> Self {
        let mut command = Command::new("timeout");
        // A nested host takes its time.
        command.arg(if is_nested() { "600" } else { "120" }).arg(program.get_program());
        command.args(program.get_args());
        command.envs(program.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let output = command.stdin(Stdio::null()).output().expect("it starts");
        let text = String::from_utf8_lossy(&output.stdout);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(DONE), "{text}\n--- errors:\n{errors}");
        Self::read(&text)
    }

    fn read(text: &str) -> Self {
        let mut probe = Self { processors: 0, rows: Vec::new(), failed: Vec::new(), offers: Vec::new() };
        for line in text.lines().filter_map(|line| line.trim_end().strip_prefix("probe: ")) {
            if let Some(words) = line.strip_prefix("begins, ") {
                let number = words.split(' ').next().and_then(|word| word.parse().ok());
                probe.processors = number.expect("a number of processors");
            } else if let Some(words) = line.strip_prefix("offer ") {
                if let [name, offered, served] = words.split_whitespace().collect::<Vec<_>>()[..] {
                    let (offered, served) = (offered == "yes", served == "yes");
                    probe.offers.push(Offer { name: name.to_owned(), offered, served });
                }
            } else if let Some(name) = line.strip_suffix("failed") {
                probe.failed.push(name.trim().to_owned());
            } else if let Some((name, figures)) = line.split_at_checked(24) {
                let figures: Vec<u64> =
                    figures.split_whitespace().filter_map(|word| word.parse().ok()).collect();
                if let [count, least, mean] = figures[..] {
                    probe.rows.push(Row { name: name.trim().to_owned(), count, least, mean });
                }
            }
        }
        probe
    }

    /// Names of what is offered.
    pub fn offered(&self) -> Vec<&str> {
        self.offers.iter().filter(|offer| offer.offered).map(|offer| offer.name.as_str()).collect()
    }

    /// The row called `name`.
    pub fn row(&self, name: &str) -> Option<&Row> {
        self.rows.iter().find(|row| row.name == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_failures_and_dashes_are_told_apart() {
        let text = "probe: begins, 2 processors\r
probe: round trip                count      least       mean\r
probe: flush: hypercall           1000       4118       9239\r
probe: stimer                   failed\r
probe: post message                  -          -          -\r
probe: offer guest-idle               no  no\r
probe: offer xmm-output               yes no\r\n";
        let probe = Probe::read(text);
        let row = Row { name: "flush: hypercall".to_owned(), count: 1000, least: 4118, mean: 9239 };
        assert_eq!((probe.processors, probe.rows.as_slice()), (2, &[row][..]));
        assert_eq!(probe.failed, ["stimer"]);
        let offers: Vec<_> =
            probe.offers.iter().map(|offer| (offer.name.as_str(), offer.offered, offer.served)).collect();
        assert_eq!(offers, [("guest-idle", false, false), ("xmm-output", true, false)]);
        assert_eq!(probe.offered(), ["xmm-output"]);
    }
}
