//! The processors, side by side: the jobs of `guest/bench/jobs` under bodhi's interpreter and translator, QEMU TCG and
//! in a chroot on the host, one after the other; then the same parallel work on one and on two virtual processors, and
//! what a machine costs its host.
//!
//! Each job runs once a round in a machine that was started for the round, so that a figure has in it what a translator
//! needs to translate; the best round counts, as the one least disturbed.

mod contestant;
mod host;
mod jobs;
mod plot;
mod report;

use std::collections::HashMap;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use clap::Args;

use contestant::{Contestant, Outcome, Session};
use jobs::{Class, JOBS, Job, Unit};

/// Name of the class on the command line that stands for memory beyond RAM and idle guests.
const UPKEEP: &str = "upkeep";
/// How long a guest is left alone before it counts as idle, and how long it is watched then.
const SETTLE: Duration = Duration::from_secs(3);
const WATCH: Duration = Duration::from_secs(10);
/// A machine that fails at one job is started anew for the others, this many times.
const RESTARTS: usize = 4;

/// What to measure.
#[derive(Args, Default)]
pub struct Selection {
    /// Jobs or classes, such as `sha256,floating-point`, and `upkeep` for memory and idle guests [default: all].
    #[arg(long, value_delimiter = ',', value_parser = known_job)]
    only: Vec<String>,
    /// Programs of interpreter, translator, tcg and native [default: all].
    #[arg(long, value_delimiter = ',', value_parser = known_program)]
    programs: Vec<Contestant>,
    /// Rounds, of which the best counts; the interpreter does one [default: 2].
    #[arg(long)]
    rounds: Option<usize>,
}

fn known_job(name: &str) -> Result<String, String> {
    let classes = Class::ALL.iter().map(|class| class.name());
    let names: Vec<_> = classes.chain(JOBS.iter().map(|job| job.name)).chain([UPKEEP]).collect();
    if names.contains(&name) {
        return Ok(name.to_owned());
    }
    Err(format!("none of {}", names.join(", ")))
}

fn known_program(name: &str) -> Result<Contestant, String> {
    let found = Contestant::ALL.into_iter().find(|contestant| contestant.name() == name);
    found.ok_or_else(|| "none of interpreter, translator, tcg, native".to_owned())
}

impl Selection {
    fn contestants(&self) -> Vec<Contestant> {
        let chosen = |contestant: &Contestant| self.programs.is_empty() || self.programs.contains(contestant);
        Contestant::ALL.into_iter().filter(chosen).collect()
    }

    fn jobs(&self) -> Vec<Job> {
        JOBS.into_iter().filter(|job| self.names(job.class.name()) || self.names(job.name)).collect()
    }

    fn upkeep(&self) -> bool {
        self.names(UPKEEP)
    }

    fn names(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|chosen| chosen == name)
    }

    fn rounds(&self, contestant: Contestant) -> usize {
        if contestant == Contestant::Interpreter { 1 } else { self.rounds.unwrap_or(2).max(1) }
    }
}

/// How often the jobs of [`Class::Parallel`] are done for each number of processors; the best counts. The first time a
/// program is loaded and translated, which is not what the comparison is about.
const PASSES: usize = 3;

/// What a machine is started for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Series {
    /// All jobs, on one processor.
    All,
    /// The jobs of [`Class::Parallel`], on one processor.
    Alone,
    /// The same on two.
    Two,
}

impl Series {
    fn cpus(self) -> usize {
        if self == Self::Two { 2 } else { 1 }
    }
}

/// All that was measured of one contestant.
pub struct Column {
    contestant: Contestant,
    /// By job, on one virtual processor.
    jobs: HashMap<&'static str, Outcome>,
    /// The jobs of [`Class::Parallel`] on one virtual processor and on two, of machines that have done nothing before.
    alone: HashMap<&'static str, Outcome>,
    two: HashMap<&'static str, Outcome>,
    /// MiB beyond the guest's RAM after the jobs.
    memory: Option<Result<f64, String>>,
    /// Percent of a core while the guest waits at its shell.
    idle: Option<Result<f64, String>>,
}

/// Measures what was selected and prints the report; the picture goes beside the program that runs.
pub fn measure(selection: &Selection) {
    let jobs = selection.jobs();
    let mut columns: Vec<_> = selection.contestants().into_iter().map(Column::new).collect();
    let rounds = columns.iter().map(|column| selection.rounds(column.contestant)).max().unwrap_or(0);
    for round in 0..rounds {
        // Programs take turns, so that a busy spell of the host does not fall on one of them.
        for column in &mut columns {
            if round < selection.rounds(column.contestant) {
                column.measure(&jobs, selection.upkeep() && round == 0);
            }
        }
    }
    report::print(&jobs, &columns);
    let picture = picture();
    match plot::write(&picture, &jobs, &columns) {
        Ok(true) => println!("\npicture: {}", picture.display()),
        Ok(false) => println!("\nno picture: it needs QEMU TCG beside another program"),
        Err(error) => println!("\nno picture: {}: {error}", picture.display()),
    }
}

/// In the target folder that this program runs from.
fn picture() -> PathBuf {
    let own = std::env::current_exe().unwrap_or_default();
    own.ancestors().nth(2).unwrap_or(&own).join("bench/processor.svg")
}

impl Column {
    fn new(contestant: Contestant) -> Self {
        let (jobs, alone, two) = Default::default();
        Self { contestant, jobs, alone, two, memory: None, idle: None }
    }

    fn measure(&mut self, jobs: &[Job], upkeep: bool) {
        let (boots, others): (Vec<_>, Vec<_>) = jobs.iter().partition(|job| job.class == Class::Boot);
        if let Some(job) = boots.first() {
            let booted = Session::start(self.contestant, 1).map(|(_, init)| init);
            self.enter_boot(job, booted);
        }
        if !others.is_empty() || upkeep {
            self.run(&others, Series::All, boots.first(), upkeep);
        }
        let parallel: Vec<_> = others.into_iter().filter(|job| job.class == Class::Parallel).collect();
        if !parallel.is_empty() {
            let passes = parallel.repeat(PASSES);
            self.run(&passes, Series::Alone, None, false);
            self.run(&passes, Series::Two, None, false);
        }
    }

    /// Runs the jobs of `series`, with another machine behind a job that a machine fails at.
    fn run(&mut self, jobs: &[Job], series: Series, boot: Option<&Job>, upkeep: bool) {
        let mut left = jobs;
        for _ in 0..=RESTARTS {
            let mut session = match Session::start(self.contestant, series.cpus()) {
                Ok((session, init)) => {
                    if let Some(boot) = boot {
                        self.enter_boot(boot, Ok(init));
                    }
                    session
                }
                Err(why) => {
                    self.fail(left, series, &why);
                    self.upkeep_failed(upkeep, &why);
                    return;
                }
            };
            let names: Vec<_> = left.iter().map(|job| job.name).collect();
            let ended = session.run(&names, |_, outcome| {
                let (job, behind) = left.split_first().expect("no more outcomes than jobs");
                left = behind;
                self.enter(job, series, outcome);
            });
            match ended {
                Ok(()) if upkeep => return self.measure_upkeep(&session),
                Ok(()) => return,
                Err(why) => {
                    self.upkeep_failed(upkeep, &why);
                    let Some((job, behind)) = left.split_first() else { return };
                    self.enter(job, series, Err(why));
                    left = behind;
                }
            }
        }
        self.fail(left, series, "its machine failed too often");
    }

    fn fail(&mut self, jobs: &[Job], series: Series, why: &str) {
        for job in jobs {
            self.enter(job, series, Err(why.to_owned()));
        }
    }

    fn enter_boot(&mut self, job: &Job, booted: Result<Option<Duration>, String>) {
        let outcome = match booted {
            Ok(Some(init)) => Ok(contestant::Figure { value: init.as_secs_f64(), check: None }),
            Ok(None) => return,
            Err(why) => Err(why),
        };
        self.enter(job, Series::All, outcome);
    }

    /// Keeps the better outcome, and says what came.
    fn enter(&mut self, job: &Job, series: Series, outcome: Outcome) {
        let said = match &outcome {
            Ok(figure) => report::figure(figure.value, job.unit),
            Err(why) => format!("n/a: {why}"),
        };
        eprintln!("{:>11} x{}  {:<16} {said}", self.contestant.name(), series.cpus(), job.name);
        let kept = match series {
            Series::All => &mut self.jobs,
            Series::Alone => &mut self.alone,
            Series::Two => &mut self.two,
        };
        let better = match (&outcome, kept.get(job.name)) {
            (_, None) | (Ok(_), Some(Err(_))) => true,
            (Ok(new), Some(Ok(old))) => match job.unit {
                Unit::Seconds => new.value < old.value,
                _ => new.value > old.value,
            },
            (Err(_), Some(_)) => false,
        };
        if better {
            kept.insert(job.name, outcome);
        }
    }

    fn measure_upkeep(&mut self, session: &Session) {
        let Some(process) = session.process() else { return };
        self.memory = Some(host::memory_beyond_ram(process));
        thread::sleep(SETTLE);
        let from = host::processor_time(process);
        thread::sleep(WATCH);
        let to = host::processor_time(process);
        self.idle = Some(from.and_then(|from| Ok((to? - from) / WATCH.as_secs_f64() * 100.0)));
    }

    fn upkeep_failed(&mut self, upkeep: bool, why: &str) {
        if upkeep && self.memory.is_none() {
            self.memory = Some(Err(why.to_owned()));
            self.idle = Some(Err(why.to_owned()));
        }
    }

    /// How fast the job was done, in jobs or units a second: more is better. None, if it was not.
    fn speed(&self, job: &Job) -> Option<f64> {
        speed(self.jobs.get(job.name), job)
    }

    /// How many times as fast a job of [`Class::Parallel`] is on two virtual processors.
    fn gain_of_two(&self, job: &Job) -> Option<f64> {
        Some(speed(self.two.get(job.name), job)? / speed(self.alone.get(job.name), job)?)
    }
}

fn speed(outcome: Option<&Outcome>, job: &Job) -> Option<f64> {
    let value = outcome?.as_ref().ok()?.value;
    Some(if job.unit == Unit::Seconds { 1.0 / value } else { value })
}

/// How many times as fast as `of` the contestant `who` does a job.
fn ratio(columns: &[Column], who: Contestant, of: Contestant, job: &Job) -> Option<f64> {
    let find = |contestant| columns.iter().find(|column| column.contestant == contestant);
    Some(find(who)?.speed(job)? / find(of)?.speed(job)?)
}

/// The geometric mean. None of nothing.
fn geometric_mean(ratios: impl IntoIterator<Item = f64>) -> Option<f64> {
    let logarithms: Vec<_> = ratios.into_iter().map(f64::ln).collect();
    (!logarithms.is_empty()).then(|| (logarithms.iter().sum::<f64>() / logarithms.len() as f64).exp())
}
