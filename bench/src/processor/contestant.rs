//! Who does the jobs: bodhi's two processors, QEMU TCG, and the host in a chroot; and the output of jobs as it comes.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use guests::{BOOT, Bus, Console, Kernel, Machine, Program, Running, bench_system};

use super::host;

/// How long a job may take before its machine is given up.
const JOB: Duration = Duration::from_secs(180);
/// What the guest's shell says when it waits.
const PROMPT: &str = "root@bodhi:~#";

/// Who does the jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contestant {
    /// bodhi's interpreter.
    Interpreter,
    /// bodhi's translator.
    Translator,
    /// QEMU's translator, with all that it can emulate (`-cpu max`).
    Tcg,
    /// The host, in a chroot with the guest's root file system.
    Native,
}

impl Contestant {
    /// All, in the order of the report.
    pub const ALL: [Self; 4] = [Self::Interpreter, Self::Translator, Self::Tcg, Self::Native];

    /// How it is named in the report and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Interpreter => "interpreter",
            Self::Translator => "translator",
            Self::Tcg => "tcg",
            Self::Native => "native",
        }
    }

    /// A machine with `cpus` processors. None for the host.
    fn machine(self, cpus: usize) -> Option<Machine> {
        let cpus = cpus.to_string();
        let (program, snapshot, options) = match self {
            Self::Interpreter => {
                (Program::Bodhi, ",snapshot", vec!["--cpus", &cpus, "--processor", "interpreter"])
            }
            Self::Translator => {
                (Program::Bodhi, ",snapshot", vec!["--cpus", &cpus, "--processor", "translator"])
            }
            Self::Tcg => (Program::Qemu, ",snapshot=on", vec!["-smp", &cpus]),
            Self::Native => return None,
        };
        let machine = Machine::new(program, Kernel::Cloud).options(&options);
        Some(machine.disk_with(&bench_system().0, Bus::Auto, snapshot))
    }
}

/// What a job came to.
#[derive(Debug, Clone, PartialEq)]
pub struct Figure {
    /// Seconds, or a rate.
    pub value: f64,
    /// What the job printed, as a checksum, if that must be the same everywhere.
    pub check: Option<String>,
}

/// A figure, or why there is none.
pub type Outcome = Result<Figure, String>;

/// A system that is up and takes jobs. It is killed when dropped.
pub enum Session {
    /// A guest that waits at its shell.
    Guest(Box<Running>),
    /// The host, which takes jobs once.
    Host {
        /// How many of its processors jobs may use.
        cpus: usize,
    },
}

/// The host's running jobs.
struct Jobs {
    child: Child,
    console: Console,
    errors: Console,
}

impl Drop for Jobs {
    fn drop(&mut self) {
        // Both fail only if it has ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Session {
    /// Brings the system up with `cpus` processors. With how long it took from the program's start to the guest's init.
    pub fn start(contestant: Contestant, cpus: usize) -> Result<(Self, Option<Duration>), String> {
        let Some(machine) = contestant.machine(cpus) else {
            return Ok((Self::Host { cpus }, None));
        };
        let running = machine.start();
        let await_text =
            |text| running.await_text(text, BOOT).map_err(|error| reason(&error, &running.errors()));
        let (_, init) = await_text("bodhi: initramfs")?;
        await_text(PROMPT)?;
        Ok((Self::Guest(Box::new(running)), Some(init)))
    }

    /// Does the jobs and tells what each came to, as it comes. What is lost with a system that fails or gets stuck:
    /// the job it was at, and all behind that one.
    pub fn run(&mut self, names: &[&str], mut tell: impl FnMut(&str, Outcome)) -> Result<(), String> {
        let words = names.join(" ");
        match self {
            Self::Guest(running) => {
                running.type_line(&format!("dmesg -n 1; /bench/jobs {words}"));
                let outcome = follow(&mut |text| running.await_text(text, JOB), names, &mut tell);
                outcome.map_err(|error| reason(&error, &running.errors()))?;
                running.await_text(PROMPT, JOB).map(|_| ())
            }
            Self::Host { cpus } => {
                let jobs = host_jobs(*cpus, names)?;
                let outcome = follow(&mut |text| jobs.console.expect_with(text, JOB), names, &mut tell);
                outcome.map_err(|error| reason(&error, &jobs.errors.text()))
            }
        }
    }

    /// The process of the machine, if it is one.
    pub fn process(&self) -> Option<u32> {
        match self {
            Self::Guest(running) => Some(running.id()),
            Self::Host { .. } => None,
        }
    }
}

fn host_jobs(cpus: usize, names: &[&str]) -> Result<Jobs, String> {
    let allowed = host::processors()?;
    let chosen = allowed.get(..cpus).ok_or_else(|| format!("the host has {} processors", allowed.len()))?;
    let list: Vec<_> = chosen.iter().map(ToString::to_string).collect();
    let started = Instant::now();
    // A mount namespace of its own, so that nothing of it is left on the host; without root, a user namespace too.
    let mut child = Command::new("taskset")
        .args(["-c", &list.join(","), "unshare", "--mount", "--pid", "--fork", "--kill-child"])
        .args((!host::is_root()).then_some("--map-root-user"))
        .args(["sh", "-euc", include_str!("chroot.sh"), "sh"])
        .arg(bench_system().1)
        .args(names)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("cannot start taskset: {error}"))?;
    let console = Console::new(child.stdout.take().expect("a pipe"), started);
    let errors = Console::new(child.stderr.take().expect("a pipe"), started);
    Ok(Jobs { child, console, errors })
}

type Await<'a> = dyn FnMut(&str) -> Result<(String, Duration), String> + 'a;

/// Reads what `guest/bench/jobs` prints, to its end.
fn follow(
    await_text: &mut Await,
    names: &[&str],
    tell: &mut impl FnMut(&str, Outcome),
) -> Result<(), String> {
    let mut line = || -> Result<(String, Duration), String> {
        let (_, at) = await_text("bench: ")?;
        let (line, _) = await_text("\n")?;
        Ok((line.trim().to_owned(), at))
    };
    for name in names {
        let (begins, from) = line()?;
        if begins != format!("{name} begins") {
            return Err(format!("unexpected: {begins}"));
        }
        let (said, to) = line()?;
        tell(name, outcome(name, &said, to - from));
    }
    let (done, _) = line()?;
    if done == "done" { Ok(()) } else { Err(format!("unexpected: {done}")) }
}

/// The outcome from its line, if the system's clock agrees with the host's, by which the job took `took`.
fn outcome(name: &str, line: &str, took: Duration) -> Outcome {
    let words: Vec<_> = line.strip_prefix(name).unwrap_or_default().split_whitespace().collect();
    match words[..] {
        ["took", time, check] => {
            let time = time.trim_end_matches(',').parse::<f64>().map_err(|_| line.to_owned())?;
            let value = time / 1e6;
            // The job's name, the checksum and two lines on a serial port come on top of the job itself.
            if value > took.as_secs_f64() * 1.02 + 0.05 || value < took.as_secs_f64() * 0.8 - 0.5 {
                return Err(format!(
                    "its clock is wrong: {value:.2} s, the host's {:.2} s",
                    took.as_secs_f64()
                ));
            }
            Ok(Figure { value, check: Some(check.to_owned()) })
        }
        ["reached", rate] => match rate.parse::<f64>() {
            Ok(value) if value > 0.0 => Ok(Figure { value, check: None }),
            _ => Err("it reached nothing".to_owned()),
        },
        _ => Err(line.strip_prefix(name).unwrap_or(line).trim().to_owned()),
    }
}

/// One line out of what went wrong: what was waited for, or what a program that has ended said last.
fn reason(error: &str, errors: &str) -> String {
    let ended = error.contains("the output ended");
    let last = errors.lines().rfind(|line| ended && !line.trim().is_empty());
    let why = last.or(error.lines().next()).unwrap_or_default().trim();
    why.strip_suffix("; last lines:").unwrap_or(why).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_line_becomes_seconds_with_a_checksum() {
        let figure = outcome("gzip", "gzip took 990000, 42", SECOND).unwrap();
        assert_eq!(figure, Figure { value: 0.99, check: Some("42".to_owned()) });
    }

    #[test]
    fn a_line_becomes_a_rate() {
        assert_eq!(outcome("md5", "md5 reached 5.5", SECOND).unwrap().value, 5.5);
    }

    #[test]
    fn a_clock_that_is_wrong_is_told() {
        assert!(outcome("gzip", "gzip took 300000, 42", 2 * SECOND).unwrap_err().contains("clock"));
        assert!(outcome("gzip", "gzip took 3000000, 42", 2 * SECOND).unwrap_err().contains("clock"));
    }

    #[test]
    fn the_last_words_of_a_program_that_ended_are_the_reason() {
        let ended = "waiting for \"a\": the output ended; last lines:\nx";
        assert_eq!(reason(ended, "WARN b\nbodhi: no\n"), "bodhi: no");
        let late = "waiting for \"a\": it did not come in time; last lines:\nx";
        assert_eq!(reason(late, "WARN b\n"), "waiting for \"a\": it did not come in time");
    }

    #[test]
    fn a_failure_tells_why() {
        assert_eq!(
            outcome("gzip", "gzip failed: exit code 1", SECOND),
            Err("failed: exit code 1".to_owned())
        );
    }
}
