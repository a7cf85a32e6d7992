//! From the start of the process to the guest's first instruction: a guest whose first instruction writes a byte to the
//! serial port, alone and in the place of the first instruction of Debian's kernel, so that this and its initramfs are
//! loaded as for a boot.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use guests::{Kernel, Program, is_nested};

/// What the guest writes.
const BYTE: u8 = b'S';
/// 32-bit and 64-bit code: OUT of [`BYTE`] to port 0x3f8, OUT of 0 to port 0xf4, CLI, HLT, and HLT again.
const CODE: [u8; 24] = [
    0x66, 0xba, 0xf8, 0x03, 0xb0, BYTE, 0xee, 0x66, 0xba, 0xf4, 0x00, 0xb8, 0, 0, 0, 0, 0xef, 0xfa, 0xf4,
    0xeb, 0xfd, 0x90, 0x90, 0x90,
];
/// Flag of a multiboot header (Multiboot Specification 0.6.96, section 3.1.2) that brings its own addresses.
const ADDRESSES: u32 = 1 << 16;
const MULTIBOOT: u32 = 0x1bad_b002;
const LOAD_ADDRESS: u32 = 0x10_0000;
/// Where a bzImage says how many sectors of real-mode code it has beside the first (Linux documentation, arch/x86/boot).
const SETUP_SECTORS: usize = 0x1f1;
/// Where the 64-bit entry lies behind the 32-bit one.
const ENTRY_64: usize = 0x200;
/// How often each program starts each guest.
const ROUNDS: usize = 15;
/// How long a program may take for all of them: QEMU on a KVM that interprets needs seconds for its firmware.
const BUDGET: Duration = Duration::from_secs(20);

/// A guest to start: its file, and the initramfs that comes with it.
struct Guest {
    name: &'static str,
    kernel: PathBuf,
    initrd: Option<PathBuf>,
}

/// A program and its options.
struct Contestant {
    name: &'static str,
    program: Program,
    options: &'static [&'static str],
}

const CONTESTANTS: [Contestant; 5] = [
    Contestant { name: "bodhi translator", program: Program::Bodhi, options: &["--processor", "translator"] },
    Contestant {
        name: "bodhi interpreter",
        program: Program::Bodhi,
        options: &["--processor", "interpreter"],
    },
    Contestant { name: "bodhi KVM", program: Program::Bodhi, options: &["--processor", "kvm"] },
    Contestant { name: "QEMU TCG", program: Program::Qemu, options: &["-accel", "tcg", "-cpu", "max"] },
    Contestant { name: "QEMU KVM", program: Program::Qemu, options: &["-accel", "kvm", "-cpu", "host"] },
];
/// What a KVM without Hyper-V emulation wants said.
const PLAIN: [&str; 4] = ["--enlightenments", "none", "--synthetic", "off"];

/// Prints least, median and greatest time of each program for each guest, in milliseconds.
pub fn measure() {
    let folder = std::env::temp_dir().join(format!("bodhi-start-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder for the guests");
    let guests = make_guests(&folder);
    println!();
    print!("{:20}", "ms to 1st instruction");
    guests.iter().for_each(|guest| print!("   {:>26}", guest.name));
    println!();
    // The software processors say nothing new in the nested host, and take minutes there.
    for contestant in CONTESTANTS.iter().filter(|one| !is_nested() || one.name.ends_with("KVM")) {
        print!("{:20} ", contestant.name);
        for guest in &guests {
            print!("   {:>26}", contestant.figures(guest));
        }
        println!();
    }
    std::fs::remove_dir_all(&folder).expect("the folder of the guests");
}

impl Contestant {
    /// Least, median and greatest time, as text.
    fn figures(&self, guest: &Guest) -> String {
        let begin = Instant::now();
        let plain = self.time(guest, &[]).is_none();
        let more: &[&str] = if plain && self.program == Program::Bodhi { &PLAIN } else { &[] };
        let mut times = Vec::new();
        while times.len() < ROUNDS && (times.is_empty() || begin.elapsed() < BUDGET) {
            match self.time(guest, more) {
                Some(time) => times.push(time.as_secs_f64() * 1e3),
                None => return "does not start".to_owned(),
            }
        }
        times.sort_by(f64::total_cmp);
        let count = times.len();
        format!("{:.0} / {:.0} / {:.0} ({count})", times[0], times[count / 2], times[count - 1])
    }

    /// The time until the guest's byte comes; `None` if the program ends without it.
    fn time(&self, guest: &Guest, more: &[&str]) -> Option<Duration> {
        let mut command = self.command(guest);
        command.args(more).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let begin = Instant::now();
        let mut running = Running(command.spawn().expect("the program starts"));
        let mut output = running.0.stdout.take().expect("a pipe");
        let mut bytes = [0; 256];
        loop {
            match output.read(&mut bytes).expect("the pipe") {
                0 => return None,
                length if bytes[..length].contains(&BYTE) => return Some(begin.elapsed()),
                // Firmware may have something to say before.
                _ => {}
            }
        }
    }

    fn command(&self, guest: &Guest) -> Command {
        let mut command = self.program.command();
        let (kernel, initrd) = match self.program {
            Program::Bodhi => {
                command.args(["run", "--memory", "512M", "--serial", "stdio", "--test-devices"]);
                ("--kernel", "--initrd")
            }
            Program::Qemu => {
                command.args([
                    "-m",
                    "512M",
                    "-nodefaults",
                    "-no-reboot",
                    "-display",
                    "none",
                    "-serial",
                    "stdio",
                ]);
                command.args(["-device", "isa-debug-exit,iobase=0xf4,iosize=4"]);
                ("-kernel", "-initrd")
            }
        };
        command.args(self.options).arg(kernel).arg(&guest.kernel);
        guest.initrd.iter().for_each(|file| {
            command.arg(initrd).arg(file);
        });
        command
    }
}

/// A program that is killed when this goes.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        self.0.wait().expect("the program's end");
    }
}

fn make_guests(folder: &Path) -> [Guest; 2] {
    let (tiny, debian) = (folder.join("tiny"), folder.join("debian"));
    std::fs::write(&tiny, multiboot()).expect("the tiny guest");
    let mut image = std::fs::read(Kernel::Cloud.image()).expect("Debian's kernel");
    let setup = usize::from(image[SETUP_SECTORS]);
    let entry = 512 * (1 + if setup == 0 { 4 } else { setup });
    for at in [entry, entry + ENTRY_64] {
        image[at..at + CODE.len()].copy_from_slice(&CODE);
    }
    std::fs::write(&debian, image).expect("the kernel with another beginning");
    [
        Guest { name: "tiny multiboot", kernel: tiny, initrd: None },
        Guest { name: "Debian bzImage and initrd", kernel: debian, initrd: Some(Kernel::Cloud.initrd()) },
    ]
}

/// [`CODE`] behind a header that tells where it goes.
fn multiboot() -> Vec<u8> {
    const HEADER: u32 = 32;
    let checksum = 0_u32.wrapping_sub(MULTIBOOT).wrapping_sub(ADDRESSES);
    // Where the header goes, where loading begins and ends, the end of what is cleared, and the entry.
    let addresses = [LOAD_ADDRESS, LOAD_ADDRESS, 0, 0, LOAD_ADDRESS + HEADER];
    let words = [MULTIBOOT, ADDRESSES, checksum].into_iter().chain(addresses);
    words.flat_map(u32::to_le_bytes).chain(CODE).collect()
}
