//! Programs in the guest that load it and check every result of their own (`guest/debian/stress`), on both tiers and
//! several processors.

use std::time::Duration;

use guests::{BOOT, Bus, JOB, Kernel, Machine, POWER_OFF, root_image};

/// What `--processor` calls a tier.
#[derive(Clone, Copy)]
struct Tier(&'static str);

const INTERPRETER: Tier = Tier("interpreter");
const TRANSLATOR: Tier = Tier("translator");
/// In the nested host only: see `nested.rs`.
const KVM: Tier = Tier("kvm");

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

/// Whether the job can be done there: the QEMU 10.0 of the nested host steps once too often through the end of a
/// repeated string instruction, which that job counts. Nested guests step without KVM's doing.
fn possible(job: &Job, tier: Tier) -> bool {
    tier.0 != KVM.0 || job.command != "stress step"
}

/// Boots with `processors` processors of `tier` and does every job `times` as often as the list says.
fn stress(tier: Tier, processors: u32, times: u32) {
    let jobs = JOBS.iter().filter(|job| possible(job, tier));
    let commands: Vec<_> = jobs.map(|job| format!("try {} {}\n", job.command, job.rounds * times)).collect();
    let script = format!(
        "try() {{ \"$@\" || {{ echo failed=$*; exit 1; }}; }}\necho processors=$(nproc)\n{}",
        commands.concat()
    );
    let machine = Machine::bodhi(Kernel::Cloud).disk_with(&root_image(), Bus::Auto, ",snapshot");
    let processors = processors.to_string();
    let options = ["--processor", tier.0, "--cpus", processors.as_str()];
    let running = machine.options(&options).script(&script).start();
    running.expect("bodhi: script begins", BOOT);
    running.expect("bodhi: script ended", times * JOB);
    let end = running.wait(POWER_OFF);
    end.assert_powered_off();
    assert_eq!(end.value("processors"), processors);
}

/// A guest that waits at its shell leaves the host's processors alone.
fn idle(tier: Tier, processors: u32) {
    let machine = Machine::bodhi(Kernel::Cloud).disk_with(&root_image(), Bus::Auto, ",snapshot");
    let processors = processors.to_string();
    let options = ["--processor", tier.0, "--cpus", processors.as_str()];
    let mut running = machine.options(&options).start();
    running.expect("root@bodhi:~#", BOOT);
    // What the boot has left to do.
    std::thread::sleep(Duration::from_secs(5));
    let (before, time) = (running.processor_time(), Duration::from_secs(5));
    std::thread::sleep(time);
    let used = running.processor_time() - before;
    running.type_line("exit");
    running.wait(POWER_OFF).assert_powered_off();
    assert!(used < time / 5, "{used:?} of {time:?}");
}

/// The same tests of each tier.
macro_rules! tiers {
    ($($tier:ident: $constant:expr => [$($(#[$attribute:meta])* $name:ident = $test:ident($($argument:expr),*);)*])*) => {
        $(mod $tier {
            use super::*;

            $(
                #[test]
                $(#[$attribute])*
                fn $name() {
                    $test($constant, $($argument),*);
                }
            )*
        })*
    };
}

tiers! {
    interpreter: INTERPRETER => [
        every_job_succeeds_on_one_processor = stress(1, 1);
        every_job_succeeds_on_two_processors = stress(2, 1);
        every_job_succeeds_on_four_processors = stress(4, 1);
        #[ignore = "more processors than most hosts have: make test-all"]
        every_job_succeeds_on_eight_processors = stress(8, 1);
        #[ignore = "minutes of load: make test-all"]
        every_job_succeeds_many_times_on_two_processors = stress(2, 5);
        #[ignore = "minutes of load: make test-all"]
        every_job_succeeds_many_times_on_four_processors = stress(4, 5);
        an_idle_guest_costs_little = idle(2);
    ]
    translator: TRANSLATOR => [
        every_job_succeeds_on_one_processor = stress(1, 1);
        every_job_succeeds_on_two_processors = stress(2, 1);
        every_job_succeeds_on_four_processors = stress(4, 1);
        #[ignore = "more processors than most hosts have: make test-all"]
        every_job_succeeds_on_eight_processors = stress(8, 1);
        #[ignore = "minutes of load: make test-all"]
        every_job_succeeds_many_times_on_one_processor = stress(1, 10);
        #[ignore = "minutes of load: make test-all"]
        every_job_succeeds_many_times_on_two_processors = stress(2, 10);
        #[ignore = "minutes of load: make test-all"]
        every_job_succeeds_many_times_on_four_processors = stress(4, 10);
        an_idle_guest_costs_little = idle(2);
    ]
    on_kvm: KVM => [
        every_job_succeeds_on_one_processor = stress(1, 1);
        every_job_succeeds_on_two_processors = stress(2, 1);
        every_job_succeeds_on_four_processors = stress(4, 1);
    ]
}
