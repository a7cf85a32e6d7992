//! The console on a terminal: raw while the machine runs, and as it was afterwards.

mod guest;

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

use guest::Code;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Termios, tcgetattr};
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(30);

/// A terminal with a machine on it.
struct Session {
    user: File,
    terminal: File,
    before: Termios,
    machine: Child,
    _directory: TempDir,
}

impl Session {
    /// Runs `code`, which prints `!` when it is ready, on a terminal of its own.
    fn start(code: &Code) -> Self {
        let directory = TempDir::new().unwrap();
        let user = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&user).unwrap();
        unlockpt(&user).unwrap();
        let name = ptsname(&user, Vec::new()).unwrap();
        let path = name.to_str().unwrap();
        let terminal =
            OpenOptions::new().read(true).write(true).custom_flags(libc::O_NOCTTY).open(path).unwrap();
        let before = tcgetattr(&terminal).unwrap();
        let machine = Command::new("setsid")
            .args(["--ctty", "--wait", env!("CARGO_BIN_EXE_bodhi"), "run", "--memory", "32M"])
            // Chosen, so that nothing is said of a choice.
            .args(["--processor", "translator", "--kernel"])
            .arg(code.file(&directory))
            .stdin(terminal.try_clone().unwrap())
            .stdout(terminal.try_clone().unwrap())
            .stderr(terminal.try_clone().unwrap())
            .spawn()
            .unwrap();
        let mut session = Self { user: user.into(), terminal, before, machine, _directory: directory };
        let mut byte = [0];
        session.user.read_exact(&mut byte).unwrap();
        assert_eq!(byte, *b"!");
        session
    }

    fn local_modes(&self) -> LocalModes {
        tcgetattr(&self.terminal).unwrap().local_modes
    }

    /// Waits for the end, and for the terminal to be as it was.
    fn finish(mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.machine.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < deadline, "it does not end");
            std::thread::sleep(Duration::from_millis(5));
        };
        let after = tcgetattr(&self.terminal).unwrap();
        assert_eq!(after.local_modes, self.before.local_modes);
        assert_eq!(after.input_modes, self.before.input_modes);
        assert_eq!(after.output_modes, self.before.output_modes);
        status
    }
}

#[test]
fn the_terminal_is_raw_until_ctrl_a_x() {
    let mut session = Session::start(&Code::new().print("!").halt());
    assert!(!session.local_modes().intersects(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG));
    session.user.write_all(b"\x01x").unwrap();
    assert_eq!(session.finish().code(), Some(0));
}

#[test]
fn ctrl_c_goes_to_the_guest() {
    let mut session = Session::start(&Code::new().print("!").echo_until(b'q').power_off());
    session.user.write_all(b"\x03q").unwrap();
    let mut echo = [0; 2];
    session.user.read_exact(&mut echo).unwrap();
    assert_eq!(&echo, b"\x03q");
    assert_eq!(session.finish().code(), Some(0));
}

#[test]
fn the_terminal_is_restored_after_a_triple_fault() {
    // Not at once: the log of the machine's end may overtake what the serial port has to say.
    let mut session = Session::start(&Code::new().print("!").echo_until(b'q').triple_fault());
    session.user.write_all(b"q").unwrap();
    assert_eq!(session.finish().code(), Some(1));
}
