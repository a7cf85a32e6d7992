//! The same tests with KVM as the processor, in a host of their own that has one (`scripts/nested`).

use std::path::Path;
use std::process::Command;

/// Those that are no matter of KVM: the tiers of the software processor, and what runs tests in the nested host.
const ELSEWHERE: [&str; 4] = ["interpreter::", "translator::", "lockstep::", "nested::"];

/// A bit of everything: both ways to a disk, hot plug, reset, crash, several processors.
const SHORT: [&str; 6] = [
    "boot::debian_12_cloud_boots_from_storvsc",
    "boot::without_enlightenments_the_guest_sees_no_hyper_v",
    "disk::a_random_load_on_storvsc_is_read_back_as_written",
    "end::a_panic_of_the_guest_is_told_and_is_exit_code_1",
    "end::a_restart_of_the_guest_boots_it_again_from_the_same_disk",
    "kvm::two_processors_are_started_and_interrupt_each_other",
];

/// Runs this program's tests in the nested host, with `arguments` to choose them.
fn nested(cpus: &str, arguments: &[&str]) {
    let project = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
    let tests = std::env::current_exe().expect("this program's path");
    let mut command = Command::new(project.join("scripts/nested"));
    command.args(["--cpus", cpus]).arg(tests).args(["--test-threads", "1"]).args(arguments);
    let answer = command.output().expect("scripts/nested runs");
    let (output, errors) = (String::from_utf8_lossy(&answer.stdout), String::from_utf8_lossy(&answer.stderr));
    assert!(answer.status.success(), "{}\n{output}\n--- errors:\n{errors}", answer.status);
    assert!(!output.contains("running 0 tests"), "{output}");
}

#[test]
fn the_short_list_succeeds_on_kvm() {
    nested("1", &[&["--exact"][..], &SHORT].concat());
}

#[test]
#[ignore = "half an hour of nested guests: make test-all"]
fn the_whole_list_succeeds_on_kvm() {
    let skip: Vec<_> = ELSEWHERE.iter().flat_map(|name| ["--skip", name]).collect();
    nested("1", &skip);
}
