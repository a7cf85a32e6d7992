//! A machine to start, a running one, and how it ended.

use std::ffi::OsString;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::artifacts::{Kernel, bodhi, cache, qemu};
use crate::console::Console;
use crate::devices::{Devices, devices};
use crate::script::encode;

/// What `--processor` of bodhi's machines is to be, by the environment variable BODHI_PROCESSOR; the default if that
/// is not set.
pub fn processor() -> Option<String> {
    std::env::var("BODHI_PROCESSOR").ok()
}

/// Whether this host's KVM has hardware behind it: machines of bodhi and of QEMU can be compared on it.
pub fn has_kvm() -> bool {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let flags = cpuinfo.lines().find(|line| line.starts_with("flags")).unwrap_or_default();
    let hardware = flags.split_whitespace().any(|flag| flag == "svm" || flag == "vmx");
    hardware && File::options().read(true).write(true).open("/dev/kvm").is_ok()
}

/// Whether this is the nested host, where everything takes its time.
pub fn is_nested() -> bool {
    processor().is_some_and(|processor| processor == "kvm")
}

/// `patience` for this host.
pub(crate) fn here(patience: Duration) -> Duration {
    if is_nested() { 5 * patience } else { patience }
}

/// What runs the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    /// `bodhi run`.
    Bodhi,
    /// QEMU's translator, without the host's processor.
    Qemu,
}

impl Program {
    /// The command that starts it, without arguments.
    ///
    /// # Panics
    /// If it is missing.
    pub fn command(self) -> Command {
        match self {
            Self::Bodhi => Command::new(bodhi()),
            Self::Qemu => {
                let (program, libraries) = qemu();
                let mut command = Command::new(program);
                if let Some(libraries) = libraries {
                    command.env("LD_LIBRARY_PATH", libraries);
                }
                command
            }
        }
    }
}

/// How the guest reaches a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bus {
    /// bodhi: an IDE disk with a synthetic twin. QEMU: virtio.
    Auto,
    /// The emulated IDE only.
    Ide,
    /// bodhi: the synthetic SCSI controller only.
    Scsi,
}

/// A machine to start.
pub struct Machine {
    program: Program,
    /// None if firmware looks for one.
    kernel: Option<Kernel>,
    disks: Vec<(PathBuf, Bus, String)>,
    append: Vec<String>,
    arguments: Vec<OsString>,
    api: Option<PathBuf>,
}

impl Machine {
    /// RAM of every machine that is not given another amount by its options, in bytes.
    pub const MEMORY: u64 = 512 << 20;

    /// A machine of `program` that boots `kernel`.
    pub fn new(program: Program, kernel: Kernel) -> Self {
        let append = vec!["console=ttyS0".to_owned(), "panic=-1".to_owned()];
        Self { program, kernel: Some(kernel), disks: Vec::new(), append, arguments: Vec::new(), api: None }
    }

    /// A machine of bodhi that boots `kernel`.
    pub fn bodhi(kernel: Kernel) -> Self {
        Self::new(Program::Bodhi, kernel)
    }

    /// A machine of bodhi that boots by firmware, with a control socket at `api` for its screen and keyboard.
    pub fn firmware(api: PathBuf) -> Self {
        Self::bare(Program::Bodhi).api(api)
    }

    /// A machine of `program` that boots by firmware.
    pub fn bare(program: Program) -> Self {
        let (disks, append, arguments) = (Vec::new(), Vec::new(), Vec::new());
        Self { program, kernel: None, disks, append, arguments, api: None }
    }

    /// Adds a disk.
    pub fn disk(self, image: &Path, bus: Bus) -> Self {
        self.disk_with(image, bus, "")
    }

    /// Adds a disk with further options of `--disk`, such as `,readonly`.
    pub fn disk_with(mut self, image: &Path, bus: Bus, options: &str) -> Self {
        self.disks.push((image.to_owned(), bus, options.to_owned()));
        self
    }

    /// Runs `script` in the guest and powers off, instead of a shell.
    pub fn script(self, script: &str) -> Self {
        self.append(&encode(script))
    }

    /// Adds words to the kernel command line.
    pub fn append(mut self, words: &str) -> Self {
        self.append.push(words.to_owned());
        self
    }

    /// Adds options of the program.
    pub fn options(mut self, options: &[&str]) -> Self {
        self.arguments.extend(options.iter().map(OsString::from));
        self
    }

    /// Gives the machine a control socket, to ask for its devices.
    pub fn api(mut self, socket: PathBuf) -> Self {
        self.arguments.extend(["--api".into(), socket.clone().into()]);
        self.api = Some(socket);
        self
    }

    /// The kernel's command line. In the nested host a line of the kernel costs more than what it tells of.
    fn command_line(&self) -> OsString {
        let quiet = is_nested().then(|| "quiet".to_owned());
        self.append.iter().cloned().chain(quiet).collect::<Vec<_>>().join(" ").into()
    }

    /// Starts it.
    ///
    /// # Panics
    /// If the program cannot be started.
    pub fn start(self) -> Running {
        let mut command = match self.program {
            Program::Bodhi => self.bodhi_command(),
            Program::Qemu => self.qemu_command(),
        };
        if let Some(kernel) = self.kernel {
            let (image, initrd) = (kernel.image().into_os_string(), kernel.initrd().into_os_string());
            for (option, value) in
                [("--kernel", image), ("--initrd", initrd), ("--append", self.command_line())]
            {
                command.arg(self.dashes(option.into())).arg(value);
            }
        }
        command.args(&self.arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let started = Instant::now();
        let mut child = command.spawn().unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        let console = Console::new(child.stdout.take().expect("a pipe"), started);
        let errors = Console::new(child.stderr.take().expect("a pipe"), started);
        Running { child, console, errors, api: self.api, status: None }
    }

    /// QEMU's long options have one dash.
    fn dashes(&self, word: OsString) -> OsString {
        match (self.program, word.to_str().and_then(|word| word.strip_prefix("--"))) {
            (Program::Qemu, Some(name)) => format!("-{name}").into(),
            _ => word,
        }
    }

    fn bodhi_command(&self) -> Command {
        let mut command = Program::Bodhi.command();
        command.args(["run", "--serial", "stdio"]);
        if !self.arguments.iter().any(|argument| argument == "--memory") {
            command.args(["--memory", &format!("{}M", Self::MEMORY >> 20)]);
        }
        // One list of tests for every processor; some tests are about one of them.
        if let Some(processor) = processor()
            && !self.arguments.iter().any(|argument| argument == "--processor")
        {
            command.args(["--processor", &processor]);
        }
        for (image, bus, options) in &self.disks {
            let bus = match bus {
                Bus::Auto => "auto",
                Bus::Ide => "ide",
                Bus::Scsi => "scsi",
            };
            command.arg("--disk").arg(format!("{},bus={bus}{options}", image.display()));
        }
        command
    }

    fn qemu_command(&self) -> Command {
        let mut command = Program::Qemu.command();
        command.args(["-accel", "tcg", "-cpu", "max", "-m", &format!("{}M", Self::MEMORY >> 20)]);
        command.args(["-nodefaults", "-no-reboot", "-display", "none", "-serial", "stdio"]);
        for (image, bus, options) in &self.disks {
            let bus = if *bus == Bus::Ide { "ide" } else { "virtio" };
            let image = image.display();
            command.arg("-drive").arg(format!("file={image},format=raw,if={bus},cache=writeback{options}"));
        }
        command
    }
}

/// A running machine. It is killed when dropped.
pub struct Running {
    child: Child,
    console: Console,
    errors: Console,
    api: Option<PathBuf>,
    status: Option<ExitStatus>,
}

impl Running {
    /// Waits for `text` on the serial port, and returns how long after the start it came.
    ///
    /// # Panics
    /// With the end of both outputs, if it does not come.
    pub fn expect(&self, text: &str, patience: Duration) -> Duration {
        self.expect_with(text, patience).1
    }

    /// As [`expect`](Self::expect), with everything that came before `text`.
    ///
    /// # Panics
    /// With the end of both outputs, and the screen where there is a control socket, if it does not come.
    pub fn expect_with(&self, text: &str, patience: Duration) -> (String, Duration) {
        self.await_text(text, patience).unwrap_or_else(|error| {
            let screen = if self.api.is_some() { self.screen() } else { String::new() };
            panic!("{error}\n--- screen:\n{screen}\n--- errors:\n{}", self.errors.text())
        })
    }

    /// As [`expect_with`](Self::expect_with), for callers that go on without it.
    ///
    /// # Errors
    /// What came instead.
    pub fn await_text(&self, text: &str, patience: Duration) -> Result<(String, Duration), String> {
        self.console.expect_with(text, here(patience))
    }

    /// What the program has printed as errors so far.
    pub fn errors(&self) -> String {
        self.errors.text()
    }

    /// The program's process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Types a line.
    ///
    /// # Panics
    /// If the program no longer reads.
    pub fn type_line(&mut self, line: &str) {
        let stdin = self.child.stdin.as_mut().expect("a pipe");
        stdin
            .write_all(format!("{line}\n").as_bytes())
            .and_then(|()| stdin.flush())
            .expect("the serial port");
    }

    /// The device table as it is now.
    ///
    /// # Panics
    /// If the machine has no control socket or does not answer.
    pub fn devices(&self) -> Devices {
        devices(self.api.as_ref().expect("a control socket"))
    }

    /// Runs another `bodhi` that asks this machine: `words` begin with its command, such as `disk attach`.
    ///
    /// # Panics
    /// If the machine has no control socket or the program cannot be started.
    pub fn bodhi(&self, words: &[&str]) -> Answer {
        let mut command = Program::Bodhi.command();
        command.args(words).arg("--api").arg(self.api.as_ref().expect("a control socket"));
        let output = command.stdin(Stdio::null()).output().expect("bodhi runs");
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        Answer { code: output.status.code(), output: text(&output.stdout), errors: text(&output.stderr) }
    }

    /// Sends a request in JSON to the control socket; the reply.
    ///
    /// # Panics
    /// If the machine has no control socket or does not answer.
    pub fn control(&self, request: &str) -> String {
        let mut socket = UnixStream::connect(self.api.as_ref().expect("a control socket")).expect("a worker");
        writeln!(socket, "{request}").expect("a request");
        let mut reply = String::new();
        BufReader::new(socket).read_line(&mut reply).expect("a reply");
        reply.trim_end().to_owned()
    }

    /// Sends the program a signal, such as `libc::SIGTERM`.
    ///
    /// # Panics
    /// If the program is gone.
    pub fn signal(&self, signal: i32) {
        let id = libc::pid_t::try_from(self.child.id()).expect("a process id");
        // SAFETY: kill takes no pointers; the child is not yet waited for, so the id is still its own.
        assert_eq!(unsafe { libc::kill(id, signal) }, 0, "the program is gone");
    }

    /// Descriptors that the program has.
    ///
    /// # Panics
    /// If it is gone.
    pub fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).expect("a process").count()
    }

    /// Bytes of the host's memory that the program has, guest memory included.
    ///
    /// # Panics
    /// If it is gone.
    pub fn resident(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("a process");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let number = line.and_then(|line| line.trim().strip_suffix(" kB"));
        number.and_then(|number| number.parse::<u64>().ok()).expect("a size") << 10
    }

    /// How long the program has kept the host's processors busy so far.
    ///
    /// # Panics
    /// If the program is gone.
    pub fn processor_time(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).expect("a process");
        // The name, in brackets, may have anything in it; user and system time are the 12th and 13th word after.
        let (_, words) = stat.rsplit_once(')').expect("a name");
        let ticks: u64 =
            words.split_whitespace().skip(11).take(2).filter_map(|word| word.parse::<u64>().ok()).sum();
        // SAFETY: sysconf takes no pointers.
        let per_second = u64::try_from(unsafe { libc::sysconf(libc::_SC_CLK_TCK) }).expect("ticks");
        Duration::from_millis(ticks * 1000 / per_second)
    }

    /// Waits for the end.
    ///
    /// # Panics
    /// If it does not come in time.
    pub fn wait(mut self, patience: Duration) -> End {
        let deadline = Instant::now() + here(patience);
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("a child") {
                break status;
            }
            let (out, errors) = (self.console.text(), self.errors.text());
            assert!(Instant::now() < deadline, "it did not end:\n{out}\n--- errors:\n{errors}");
            thread::sleep(Duration::from_millis(20));
        };
        self.status = Some(status);
        let last_words = Duration::from_secs(10);
        End {
            code: status.code(),
            signal: status.signal(),
            output: self.console.finish(last_words),
            errors: self.errors.finish(last_words),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.status.is_none() {
            // Both fail only if the program has ended by itself.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// Has the setup disk put into the machine's drive.
///
/// # Panics
/// As [`Running::bodhi`] does.
pub fn insert_setup_disk(running: &Running) -> Answer {
    let images = cache().join("images");
    running.bodhi(&["setup-disk", "insert", "--cache", images.to_str().expect("a path in UTF-8")])
}

/// What a program that asked a machine has said.
#[derive(Debug)]
pub struct Answer {
    /// The exit code.
    pub code: Option<i32>,
    /// What it printed.
    pub output: String,
    /// What it printed as errors.
    pub errors: String,
}

impl Answer {
    /// It has done what it was asked. Returns what it printed.
    ///
    /// # Panics
    /// If not.
    pub fn assert_done(&self) -> &str {
        assert_eq!((self.code, self.errors.as_str()), (Some(0), ""), "{self:?}");
        &self.output
    }

    /// It has refused with `code`, in one line, which is returned.
    ///
    /// # Panics
    /// If not.
    pub fn refusal(&self, code: i32) -> &str {
        assert_eq!((self.code, self.output.as_str()), (Some(code), ""), "{self:?}");
        let line = self.errors.strip_prefix("bodhi: ").and_then(|line| line.strip_suffix('\n'));
        line.filter(|line| !line.contains('\n')).unwrap_or_else(|| panic!("not one line: {self:?}"))
    }
}

/// How a machine ended.
#[derive(Debug)]
pub struct End {
    /// The exit code, if it was not killed.
    pub code: Option<i32>,
    /// The signal that killed it.
    pub signal: Option<i32>,
    /// All it printed: the serial port, with bodhi's last words.
    pub output: String,
    /// All it printed as errors.
    pub errors: String,
}

impl End {
    /// The guest powered off by itself and its script, if it had one, succeeded.
    ///
    /// # Panics
    /// If not.
    pub fn assert_powered_off(&self) {
        assert_eq!(self.code, Some(0), "{}\n--- errors:\n{}", self.output, self.errors);
        if let Some((_, after)) = self.output.split_once("bodhi: script ended with ") {
            assert!(
                after.starts_with('0'),
                "the script failed:\n{}\n--- errors:\n{}",
                self.output,
                self.errors
            );
        }
    }

    /// The value that the guest printed on a line `name=value`.
    ///
    /// # Panics
    /// If it printed none.
    pub fn value(&self, name: &str) -> &str {
        let key = format!("{name}=");
        let found = self.output.lines().find_map(|line| line.trim_end().strip_prefix(key.as_str()));
        found.unwrap_or_else(|| panic!("the guest did not print {name}:\n{}", self.output))
    }
}
