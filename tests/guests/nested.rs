//! The same tests with KVM as the processor, in a host of their own that has one (`scripts/nested`).

use std::path::{Path, PathBuf};
use std::process::Command;

use guests::build_setup_disk;

/// Those that are no matter of KVM: the tiers of the software processor, and what runs tests in the nested host.
const ELSEWHERE: [&str; 14] = [
    "interpreter::",
    "translator::",
    "lockstep::",
    "nested::",
    "on_the_interpreter",
    "on_the_translator",
    "a_translator_",
    // An idle guest of a nested host does not leave the host alone.
    "an_idle_guest",
    // An installed system takes its time to the login, twice emulated.
    "installed::",
    "power_off::",
    // So does a hypervisor with a guest of its own.
    "xen::",
    // Twice emulated, a pass of a memory test takes hours, and a kernel that writes its boot messages into the memory of the
    // screen, each letter an exit, is not at its init after many minutes.
    "memtest_finds_no_error",
    "the_debian_installer_comes",
    // While OVMF runs there, QEMU's TCG, 7.2 and 10.0, ends at an assertion of its own: tcg_handle_interrupt wants a lock that
    // its caller does not have.
    "uefi_firmware_comes",
];

/// A bit of what needs no disk of its own, of which the nested host would have to make a copy first.
const SHORT: [&str; 4] = [
    "boot::debian_12_cloud_boots_from_storvsc",
    "kvm::signals_of_channels_do_not_come_to_user_space",
    "kvm::two_processors_are_started_and_interrupt_each_other",
    "probe::on_kvm::no_message_is_lost_beside_those_of_timers",
];

/// The whole list in parts, by what the names of their tests have in them, and what they do not have.
struct Part {
    with: &'static [&'static str],
    without: &'static [&'static str],
    /// What belongs to it is run, too, if it is ignored elsewhere for the time that it takes.
    ignored: bool,
}

const BOOTS: Part = Part { with: &["boot::", "end::", "integration::"], without: &[], ignored: false };
const DISKS: Part = Part { with: &["disk::", "change::"], without: &[], ignored: false };
const KILLS: Part = Part { with: &["crash::"], without: &[], ignored: false };
const KVM: Part = Part { with: &["kvm::"], without: &["stress::"], ignored: false };
const DEBUGGER: Part = Part { with: &["debugger::"], without: &["kvm::"], ignored: false };
const FIRMWARE: Part = Part { with: &["firmware::", "shadow::"], without: &[], ignored: true };
const STRESS: Part = Part { with: &["stress::"], without: &[], ignored: false };
const NETWORK: Part = Part { with: &["network::", "socket::"], without: &[], ignored: false };
const PARTS: [Part; 8] = [BOOTS, DISKS, KILLS, KVM, DEBUGGER, FIRMWARE, STRESS, NETWORK];

/// Runs `program`, a program of tests, in the nested host, with `arguments` to choose them.
fn run(cpus: &str, program: &Path, arguments: &[&str]) {
    let project = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
    build_setup_disk();
    let mut command = Command::new(project.join("scripts/nested"));
    command.args(["--cpus", cpus]).arg(program).args(["--test-threads", "1"]).args(arguments);
    let answer = command.output().expect("scripts/nested runs");
    let (output, errors) = (String::from_utf8_lossy(&answer.stdout), String::from_utf8_lossy(&answer.stderr));
    assert!(answer.status.success(), "{}\n{output}\n--- errors:\n{errors}", answer.status);
    assert!(!output.contains("running 0 tests"), "{output}");
}

fn this_program() -> PathBuf {
    std::env::current_exe().expect("this program's path")
}

impl Part {
    fn succeeds(&self, cpus: &str) {
        let without = ELSEWHERE.iter().chain(self.without).flat_map(|name| ["--skip", name]);
        // Of most parts, those that are ignored elsewhere for the time they take belong to the list; here they take hours.
        let ignored = self.ignored.then_some("--include-ignored");
        let arguments = ignored.into_iter().chain(without).chain(self.with.iter().copied());
        run(cpus, &this_program(), &arguments.collect::<Vec<_>>());
    }

    fn has(&self, test: &str) -> bool {
        let named = |words: &[&str]| words.iter().any(|word| test.contains(word));
        named(self.with) && !named(self.without)
    }
}

#[test]
fn the_short_list_succeeds_on_kvm() {
    run("1", &this_program(), &[&["--exact"][..], &SHORT].concat());
}

#[test]
fn every_test_is_in_one_part_of_the_list() {
    let output = Command::new(this_program()).arg("--list").output().expect("a list");
    let list = String::from_utf8_lossy(&output.stdout);
    let tests = list.lines().filter_map(|line| line.strip_suffix(": test"));
    let ours: Vec<_> = tests.filter(|test| !ELSEWHERE.iter().any(|word| test.contains(word))).collect();
    assert!(ours.len() > 20, "{list}");
    for test in ours {
        assert_eq!(PARTS.iter().filter(|part| part.has(test)).count(), 1, "{test}");
    }
}

/// The tests of the KVM crate itself: guests of a few instructions.
#[test]
fn the_tests_of_processor_kvm_succeed_on_kvm() {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut build = Command::new(cargo);
    build.args(["test", "-q", "-p", "processor-kvm", "--lib", "--no-run", "--message-format", "json"]);
    let output = build.output().expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let messages = String::from_utf8_lossy(&output.stdout);
    let programs = messages.lines().filter_map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).expect("a message");
        message["executable"].as_str().map(PathBuf::from)
    });
    let programs: Vec<_> = programs.collect();
    assert_eq!(programs.len(), 1, "{programs:?}");
    run("1", &programs[0], &[]);
}

#[test]
#[ignore = "minutes of nested guests: make test-all"]
fn kernels_boot_and_end_on_kvm() {
    BOOTS.succeeds("1");
}

#[test]
#[ignore = "a quarter of an hour of nested guests: make test-all"]
fn disks_keep_their_data_and_change_on_kvm() {
    DISKS.succeeds("1");
}

#[test]
#[ignore = "minutes of nested guests: make test-all"]
fn what_was_synced_survives_kills_on_kvm() {
    KILLS.succeeds("1");
}

#[test]
#[ignore = "minutes of nested guests: make test-all"]
fn what_kvm_promises_beyond_the_list_is_kept() {
    KVM.succeeds("1");
}

#[test]
#[ignore = "minutes of nested guests: make test-all"]
fn firmware_starts_on_kvm() {
    FIRMWARE.succeeds("1");
}

#[test]
#[ignore = "minutes of nested guests: make test-all"]
fn machines_are_debugged_on_kvm() {
    DEBUGGER.succeeds("1");
}

#[test]
#[ignore = "minutes of nested guests: make test-all"]
fn networks_carry_packets_on_kvm() {
    NETWORK.succeeds("1");
}

#[test]
#[ignore = "an hour of nested guests: make test-all"]
fn programs_that_check_themselves_succeed_on_kvm() {
    STRESS.succeeds("1");
}
