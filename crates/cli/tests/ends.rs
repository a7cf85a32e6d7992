//! How machines end: exit codes, and what is told.

mod guest;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use guest::Code;
use tempfile::TempDir;

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(30);

fn command(directory: &TempDir, code: &Code, options: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bodhi"));
    command.args(["run", "--memory", "32M", "--kernel"]).arg(code.file(directory)).args(options);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn run(code: &Code, options: &[&str], input: &str) -> Output {
    let directory = TempDir::new().unwrap();
    let mut child = command(&directory, code, options).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    finish(child)
}

/// Waits for the end; a machine that does not end is a failure.
fn finish(mut child: Child) -> Output {
    let deadline = Instant::now() + PATIENCE;
    while child.try_wait().unwrap().is_none() {
        if Instant::now() > deadline {
            child.kill().unwrap();
            let output = child.wait_with_output().unwrap();
            panic!("it does not end: {}", String::from_utf8_lossy(&output.stderr));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    child.wait_with_output().unwrap()
}

/// Starts a guest that prints `!` when it is ready, and waits for that.
fn start(directory: &TempDir, code: &Code, options: &[&str]) -> Child {
    let mut child = command(directory, code, options).spawn().unwrap();
    let mut byte = [0];
    child.stdout.as_mut().unwrap().read_exact(&mut byte).unwrap();
    assert_eq!(byte, *b"!");
    child
}

fn signal(child: &Child, name: &str) {
    let status = Command::new("kill").args([name, &child.id().to_string()]).status().unwrap();
    assert!(status.success());
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn power_off_is_exit_code_0_and_the_device_table_is_told() {
    let output = run(&Code::new().print("hello\n").power_off(), &[], "");
    assert_eq!((output.status.code(), text(&output.stdout)), (Some(0), "hello\n".to_owned()));
    let stderr = text(&output.stderr);
    let row = stderr.lines().find(|line| line.starts_with("serial0")).unwrap();
    let cells: Vec<_> = row.split_whitespace().collect();
    assert_eq!(cells[..3], ["serial0", "emulated", "6"], "{stderr}");
}

#[test]
fn a_triple_fault_is_exit_code_1_with_the_reason() {
    let output = run(&Code::new().triple_fault(), &[], "");
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    let stderr = text(&output.stderr);
    assert!(stderr.ends_with("bodhi: triple fault of processor 0\n"), "{stderr}");
    assert!(stderr.contains("processor 0 at "), "the log has its state: {stderr}");
}

#[test]
fn a_crash_that_the_guest_reports_is_exit_code_1_with_its_parameters() {
    let crash = (0..5).fold(Code::new(), |code, n| code.wrmsr(0x4000_0100 + n, 0xa0 + u64::from(n)));
    let output = run(&crash.wrmsr(0x4000_0105, 1 << 63).halt(), &[], "");
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    let expected = "bodhi: the guest has crashed: processor 0, parameters 0xa0 0xa1 0xa2 0xa3 0xa4";
    assert!(text(&output.stderr).contains(expected), "{}", text(&output.stderr));
}

#[test]
fn input_from_a_pipe_reaches_the_guest_whole() {
    let typed = format!("{}q", "0123456789".repeat(1000));
    let output = run(&Code::new().echo_until(b'q').power_off(), &[], &typed);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_eq!(text(&output.stdout), typed);
}

#[test]
fn a_reset_starts_the_guest_again_and_the_counts_go_on() {
    let directory = TempDir::new().unwrap();
    let socket = directory.path().join("api");
    let code = Code::new().print("!").echo_until(b'r').out8(0xcf9, 0x06).halt();
    let mut child = start(&directory, &code, &["--api", socket.to_str().unwrap()]);
    child.stdin.as_mut().unwrap().write_all(b"r").unwrap();
    let mut output = [0; 2];
    child.stdout.as_mut().unwrap().read_exact(&mut output).unwrap();
    assert_eq!(&output, b"r!");
    let bytes_out =
        devices(&socket)["devices"].as_array().unwrap().iter().find(|row| row["name"] == "serial0").unwrap()
            ["bytes_out"]
            .clone();
    assert_eq!(bytes_out, 3);
    assert_eq!(request(&socket, "status")["status"]["resets"], 1);
    assert_eq!(request(&socket, "quit"), "done");
    assert_eq!(finish(child).status.code(), Some(0));
    assert!(!socket.exists());
}

fn devices(socket: &Path) -> serde_json::Value {
    let output = Command::new(env!("CARGO_BIN_EXE_bodhi"))
        .args(["devices", "--json", "--api"])
        .arg(socket)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn request(socket: &Path, command: &str) -> serde_json::Value {
    use std::io::{BufRead, BufReader};
    let mut stream = UnixStream::connect(socket).unwrap();
    writeln!(stream, "{{\"command\":\"{command}\"}}").unwrap();
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).unwrap();
    serde_json::from_str(&line).unwrap()
}

/// ACPI mode on, the power button enabled, and power-off when it is pressed.
fn listens_to_the_power_button() -> Code {
    Code::new().out8(0xb2, 0xf1).out16(0x602, 1 << 8).print("!").wait16(0x600, 1 << 8).power_off()
}

#[test]
fn sigterm_asks_the_guest_to_power_off() {
    let directory = TempDir::new().unwrap();
    let child = start(&directory, &listens_to_the_power_button(), &[]);
    signal(&child, "-TERM");
    let output = finish(child);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
}

#[test]
fn a_second_signal_stops_a_guest_that_does_not_listen() {
    let directory = TempDir::new().unwrap();
    let child = start(&directory, &Code::new().print("!").halt(), &[]);
    signal(&child, "-INT");
    signal(&child, "-TERM");
    let output = finish(child);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("the guest did not power off"), "{}", text(&output.stderr));
}

#[test]
fn a_terminal_that_goes_away_ends_the_machine_like_sigterm() {
    let directory = TempDir::new().unwrap();
    let mut command = command(&directory, &listens_to_the_power_button(), &[]);
    let mut child = command.process_group(0).spawn().unwrap();
    let mut byte = [0];
    child.stdout.as_mut().unwrap().read_exact(&mut byte).unwrap();
    // Output has nowhere to go any more, and input has ended.
    drop((child.stdin.take(), child.stdout.take(), child.stderr.take()));
    signal(&child, "-HUP");
    assert_eq!(finish(child).status.code(), Some(0));
}

#[test]
fn the_control_socket_presses_the_power_button() {
    let directory = TempDir::new().unwrap();
    let socket = directory.path().join("api");
    let child = start(&directory, &listens_to_the_power_button(), &["--api", socket.to_str().unwrap()]);
    assert_eq!(request(&socket, "power-off"), "done");
    assert_eq!(finish(child).status.code(), Some(0));
}

#[test]
fn a_serial_port_in_a_file_takes_the_output() {
    let directory = TempDir::new().unwrap();
    let log = directory.path().join("log");
    let option = format!("--serial=file:{}", log.display());
    let output = run(&Code::new().print("to the file\n").power_off(), &[&option], "");
    assert_eq!((output.status.code(), text(&output.stdout)), (Some(0), String::new()));
    assert_eq!(std::fs::read_to_string(&log).unwrap(), "to the file\n");
}

/// Connects to a serial port, sees what was said before, and talks to the guest.
fn talk(mut stream: UnixStream) {
    let mut before = [0; 1];
    stream.read_exact(&mut before).unwrap();
    stream.write_all(b"abcq").unwrap();
    let mut after = [0; 4];
    stream.read_exact(&mut after).unwrap();
    assert_eq!((&before, &after), (b"!", b"abcq"));
}

/// Connects to a socket that is about to be made.
fn connect(socket: &Path) -> UnixStream {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match UnixStream::connect(socket) {
            Ok(stream) => return stream,
            Err(error) if Instant::now() > deadline => panic!("{}: {error}", socket.display()),
            Err(_) => std::thread::sleep(Duration::from_millis(5)),
        }
    }
}

#[test]
fn a_serial_port_on_a_socket_talks_to_who_connects() {
    let directory = TempDir::new().unwrap();
    let socket = directory.path().join("serial");
    let option = format!("--serial=socket:{}", socket.display());
    let code = Code::new().print("!").echo_until(b'q').power_off();
    let child = command(&directory, &code, &[&option]).spawn().unwrap();
    talk(connect(&socket));
    assert_eq!(finish(child).status.code(), Some(0));
    assert!(!socket.exists());
}

#[test]
fn the_control_socket_hands_out_the_serial_port() {
    let directory = TempDir::new().unwrap();
    let socket = directory.path().join("api");
    let code = Code::new().print("!").echo_until(b'q').power_off();
    let child = start(&directory, &code, &["--api", socket.to_str().unwrap()]);
    let mut stream = connect(&socket);
    stream.write_all(b"{\"command\":\"serial\"}\n").unwrap();
    let mut reply = [0; 7];
    stream.read_exact(&mut reply).unwrap();
    assert_eq!(&reply, b"\"done\"\n");
    talk(stream);
    assert_eq!(finish(child).status.code(), Some(0));
}

#[test]
fn the_debug_exit_port_ends_with_2v_plus_1_and_only_with_test_devices() {
    let code = Code::new().out8(0xf4, 0x10).print("!").power_off();
    let output = run(&code, &["--test-devices"], "");
    assert_eq!(output.status.code(), Some(33), "{}", text(&output.stderr));
    let ended = "bodhi: the guest has ended the machine with exit code 33\n";
    assert!(text(&output.stderr).contains(ended), "{}", text(&output.stderr));
    let output = run(&code, &[], "");
    assert_eq!((output.status.code(), text(&output.stdout).as_str()), (Some(0), "!"));
}

#[test]
fn a_machine_that_waits_for_a_debugger_can_be_stopped() {
    let directory = TempDir::new().unwrap();
    let socket = directory.path().join("gdb.sock");
    let option = format!("unix:{}", socket.display());
    let code = Code::new().print("!").power_off();
    let child = command(&directory, &code, &["--gdb", &option]).spawn().unwrap();
    let deadline = Instant::now() + PATIENCE;
    while !socket.exists() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
    }
    signal(&child, "-INT");
    signal(&child, "-TERM");
    let output = finish(child);
    assert_eq!((output.status.code(), text(&output.stdout).as_str()), (Some(1), ""));
    assert!(!socket.exists(), "the socket is gone");
}
