//! Machines under a debugger, by the protocol itself.

mod guest;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use guest::{Code, ORIGIN};
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(30);

struct Session {
    child: Child,
    stream: UnixStream,
    _directory: TempDir,
}

impl Session {
    /// Starts a guest and connects to it.
    fn new(code: &Code, options: &[&str]) -> Self {
        let directory = TempDir::new().unwrap();
        let socket = directory.path().join("gdb.sock");
        let mut command = Command::new(env!("CARGO_BIN_EXE_bodhi"));
        command.args(["run", "--memory", "32M", "--kernel"]).arg(code.file(&directory)).args(options);
        command.arg("--gdb").arg(format!("unix:{}", socket.display()));
        let child =
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let deadline = Instant::now() + PATIENCE;
        let stream = loop {
            match UnixStream::connect(&socket) {
                Ok(stream) => break stream,
                Err(error) => assert!(Instant::now() < deadline, "{error}"),
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut session = Self { child, stream, _directory: directory };
        session.ask("qSupported:multiprocess+;swbreak+;hwbreak+");
        session.ask("?");
        session
    }

    fn send(&mut self, body: &str) {
        let sum = body.bytes().fold(0_u8, u8::wrapping_add);
        self.stream.write_all(format!("${body}#{sum:02x}").as_bytes()).unwrap();
    }

    fn ask(&mut self, body: &str) -> String {
        self.send(body);
        let mut byte = [0];
        while byte[0] != b'$' {
            self.stream.read_exact(&mut byte).unwrap();
        }
        let mut answer = String::new();
        loop {
            self.stream.read_exact(&mut byte).unwrap();
            match byte[0] {
                b'#' => break,
                other => answer.push(char::from(other)),
            }
        }
        self.stream.read_exact(&mut [0; 2]).unwrap();
        // The machine may have ended with this.
        let _ = self.stream.write_all(b"+");
        answer
    }

    fn exit_code(mut self) -> Option<i32> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            if Instant::now() > deadline {
                self.child.kill().unwrap();
                self.child.wait().unwrap();
                panic!("it does not end");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

#[test]
fn the_end_of_the_machine_is_told_to_the_debugger() {
    let mut session = Session::new(&Code::new().power_off(), &[]);
    assert!(session.ask("vCont;c").starts_with("W00"));
    assert_eq!(session.exit_code(), Some(0));
    let code = Code::new().out8(0xf4, 0x10).halt();
    let mut session = Session::new(&code, &["--test-devices"]);
    assert!(session.ask("vCont;c").starts_with("W21"));
    assert_eq!(session.exit_code(), Some(33));
}

#[test]
fn a_triple_fault_stops_in_the_debugger_before_it_ends_the_machine() {
    for processor in ["interpreter", "translator"] {
        let mut session = Session::new(&Code::new().triple_fault(), &["--processor", processor]);
        let answer = session.ask("vCont;c");
        assert!(answer.starts_with("T0b"), "{answer}");
        assert!(!session.ask("g").starts_with('E'), "its registers are to be seen");
        assert!(session.ask("vCont;c").starts_with("W01"));
        assert_eq!(session.exit_code(), Some(1));
    }
}

#[test]
fn breakpoints_and_the_debugger_outlive_a_reset() {
    let code = Code::new().print("!").out8(0x64, 0xfe).halt();
    let mut session = Session::new(&code, &["--cpus", "2"]);
    assert_eq!(session.ask(&format!("Z0,{:x},1", ORIGIN + 7)), "OK");
    for round in 0..3 {
        let answer = session.ask("vCont;c");
        assert!(answer.contains("swbreak"), "round {round}: {answer}");
        // Off the breakpoint, with the other processor held.
        let answer = session.ask("vCont;s:p1.1");
        assert!(answer.starts_with("T05"), "round {round}: {answer}");
    }
    session.send("k");
    assert_eq!(session.exit_code(), Some(0));
}

#[test]
fn memory_is_read_and_written_and_devices_are_not() {
    let mut session = Session::new(&Code::new().halt(), &[]);
    assert_eq!(session.ask(&format!("m{ORIGIN:x},2")), "faf4");
    assert_eq!(session.ask(&format!("M{ORIGIN:x},1:90")), "OK");
    assert_eq!(session.ask(&format!("m{ORIGIN:x},2")), "90f4");
    assert!(session.ask("mfee00000,4").starts_with('E'), "devices are not touched");
    session.send("k");
    assert_eq!(session.exit_code(), Some(0));
}
