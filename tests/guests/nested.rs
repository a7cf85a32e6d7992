//! The same tests with KVM as the processor, in a host of their own that has one (`scripts/nested`).

use std::path::Path;
use std::process::Command;

/// Those that are no matter of KVM: the tiers of the software processor, and what runs tests in the nested host.
const ELSEWHERE: [&str; 7] = [
    "interpreter::",
    "translator::",
    "lockstep::",
    "nested::",
    "on_the_interpreter",
    "on_the_translator",
    "a_translator_",
];

/// A bit of what needs no disk of its own, of which the nested host would have to make a copy first.
const SHORT: [&str; 3] = [
    "boot::debian_12_cloud_boots_from_storvsc",
    "kvm::signals_of_channels_do_not_come_to_user_space",
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
