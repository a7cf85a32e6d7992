//! Programs in the guest that load it and check every result of their own (`guest/debian/stress`), on both tiers and
//! several processors.

use std::time::Duration;

use guests::{BOOT, Bus, JOB, Kernel, Machine, POWER_OFF, root_image};

/// The tiers, and how many processors each may have.
const INTERPRETER: Tier = Tier { name: "interpreter", most_processors: 8 };
const TRANSLATOR: Tier = Tier { name: "translator", most_processors: 1 };

#[derive(Clone, Copy)]
struct Tier {
    name: &'static str,
    most_processors: u32,
}

/// A command in the guest that does a job as many times as told, and how often that is for a minute's share.
struct Job {
    command: &'static str,
    rounds: u32,
}

const JOBS: [Job; 14] = [
    Job { command: "stress atomics", rounds: 4096 },
    Job { command: "stress exec", rounds: 20 },
    Job { command: "stress fork", rounds: 40 },
    Job { command: "stress jit", rounds: 20 },
    Job { command: "stress ordering", rounds: 500 },
    Job { command: "stress patch", rounds: 200 },
    Job { command: "stress pipes", rounds: 500 },
    Job { command: "stress protect", rounds: 1000 },
    Job { command: "stress signals", rounds: 30 },
    Job { command: "stress step", rounds: 4 },
    Job { command: "stress threads", rounds: 50 },
    Job { command: "stress traps", rounds: 100 },
    Job { command: "stress-32", rounds: 20 },
    Job { command: "stress-build 2", rounds: 1 },
];

/// Boots with `processors` processors of `tier` and does every job `times` as often as the list says.
fn stress(tier: Tier, processors: u32, times: u32, patience: Duration) {
    assert!(processors <= tier.most_processors, "the {} has fewer processors", tier.name);
    let commands: Vec<_> =
        JOBS.iter().map(|job| format!("try {} {}\n", job.command, job.rounds * times)).collect();
    let script = format!(
        "try() {{ \"$@\" || {{ echo failed=$*; exit 1; }}; }}\necho processors=$(nproc)\n{}",
        commands.concat()
    );
    let machine = Machine::bodhi(Kernel::Cloud).disk_with(&root_image(), Bus::Auto, ",snapshot");
    let processors = processors.to_string();
    let options = ["--processor", tier.name, "--cpus", processors.as_str()];
    let running = machine.options(&options).script(&script).start();
    running.expect("bodhi: script begins", BOOT);
    running.expect("bodhi: script ended", patience);
    let end = running.wait(POWER_OFF);
    end.assert_powered_off();
    assert_eq!(end.value("processors"), processors);
}

/// The same tests of each tier.
macro_rules! tiers {
    ($($tier:ident: $constant:expr => [$($(#[$attribute:meta])* $name:ident($processors:expr, $times:expr);)*])*) => {
        $(mod $tier {
            use super::*;

            $(
                #[test]
                $(#[$attribute])*
                fn $name() {
                    stress($constant, $processors, $times, $times * JOB);
                }
            )*
        })*
    };
}

tiers! {
    interpreter: INTERPRETER => [
        every_job_succeeds_on_one_processor(1, 1);
        every_job_succeeds_on_two_processors(2, 1);
        every_job_succeeds_on_four_processors(4, 1);
        every_job_succeeds_on_more_processors_than_the_host_has(8, 1);
    ]
    translator: TRANSLATOR => [
        every_job_succeeds_on_one_processor(1, 1);
    ]
}
