//! KVM as the processor, with guests of a few instructions: where this host has KVM, even one without hardware behind it,
//! they run; where not, the reason is told.

mod guest;

use std::fs::File;
use std::process::{Command, Output, Stdio};

use guest::Code;
use tempfile::TempDir;

/// Runs `code` on KVM, without what not every KVM has. Expects a refusal in one line where there is none.
fn run(code: &Code, options: &[&str]) -> Option<Output> {
    let directory = TempDir::new().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_bodhi"));
    command.args(["run", "--memory", "32M", "--processor", "kvm", "--enlightenments", "none", "--kernel"]);
    command.arg(code.file(&directory)).args(options).stdin(Stdio::null());
    let output = command.output().unwrap();
    if File::options().read(true).write(true).open("/dev/kvm").is_ok() {
        return Some(output);
    }
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.starts_with("bodhi: --processor kvm: ") && stderr.lines().count() == 1, "{stderr}");
    None
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn a_guest_prints_and_powers_off() {
    let Some(output) = run(&Code::new().print("hello\n").power_off(), &[]) else { return };
    assert_eq!((output.status.code(), text(&output.stdout)), (Some(0), "hello\n".to_owned()), "{output:?}");
    let stderr = text(&output.stderr);
    assert!(stderr.lines().any(|line| line.starts_with("processors") && line.ends_with("KVM")), "{stderr}");
}

#[test]
fn a_triple_fault_is_exit_code_1_with_the_processors_state() {
    let Some(output) = run(&Code::new().triple_fault(), &[]) else { return };
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.ends_with("bodhi: triple fault of processor 0\n"), "{stderr}");
    assert!(stderr.contains("cr0 "), "the log has its state: {stderr}");
}

#[test]
fn what_kvm_cannot_emulate_is_told_in_one_line_with_the_state_in_the_log() {
    // Code where no memory is: nothing can be fetched there.
    let Some(output) = run(&Code::new().jump(0xf000_0000), &[]) else { return };
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    let last = stderr.lines().last().unwrap_or_default();
    let reason =
        "bodhi: processor 0 cannot go on: KVM gives up: it cannot emulate an instruction (suberror 1, ";
    assert!(last.starts_with(reason), "{stderr}");
    assert!(
        stderr.contains("processor 0 at 0010:00000000f0000000, flags"),
        "the log has its state: {stderr}"
    );
}

#[test]
fn a_halted_guest_with_processors_that_wait_is_stopped_by_a_signal() {
    let directory = TempDir::new().unwrap();
    let code = Code::new().print("!").halt();
    let mut command = Command::new(env!("CARGO_BIN_EXE_bodhi"));
    command.args(["run", "--memory", "32M", "--cpus", "3", "--processor", "kvm", "--enlightenments", "none"]);
    command.arg("--kernel").arg(code.file(&directory));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    if run(&Code::new().power_off(), &[]).is_none() {
        return;
    }
    let mut child = command.spawn().unwrap();
    let mut byte = [0];
    std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut byte).unwrap();
    assert_eq!(byte, *b"!");
    for _ in 0..2 {
        let id = child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    let output = child.wait_with_output().unwrap();
    assert!(text(&output.stderr).contains("stopped"), "{output:?}");
}

#[test]
fn enlightenments_on_a_kvm_without_them_are_refused_in_one_line() {
    let directory = TempDir::new().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_bodhi"));
    command.args(["run", "--memory", "32M", "--processor", "kvm", "--kernel"]);
    let output = command.arg(Code::new().power_off().file(&directory)).stdin(Stdio::null()).output().unwrap();
    let stderr = text(&output.stderr);
    let doctor = Command::new(env!("CARGO_BIN_EXE_bodhi")).arg("doctor").output().unwrap();
    assert_eq!(doctor.status.code(), Some(0), "{doctor:?}");
    let words = text(&doctor.stdout);
    assert!(words.starts_with("kvm ") && words.contains("--processor auto takes"), "{words}");
    if output.status.code() == Some(0) {
        return;
    }
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.starts_with("bodhi: --processor kvm: ") && stderr.lines().count() == 1, "{stderr}");
}
