//! fio on a disk, by the paravirtual and by the emulated path, and what a request costs in exits.

use guests::{BOOT, Bus, Devices, Image, JOB, Kernel, Machine, POWER_OFF, Program, Running, row};

use crate::table::Table;

/// How the guest reaches the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Path {
    /// StorVSC on bodhi, virtio-blk on QEMU.
    Paravirtual,
    /// IDE on both.
    Emulated,
}

/// Size of the disk under test.
const DISK: u64 = 128 << 20;
/// Jobs: name, what fio is asked for, and where in its terse line (version 3, from 1) the operations per second are.
const JOBS: [(&str, &str, usize); 4] = [
    ("random read 4k, depth 1", "--rw=randread --bs=4k --iodepth=1", 8),
    ("random read 4k, depth 32", "--rw=randread --bs=4k --iodepth=32", 8),
    ("random write 4k, depth 32", "--rw=randwrite --bs=4k --iodepth=32", 49),
    ("read 128k, depth 8", "--rw=read --bs=128k --iodepth=8", 8),
];
const PROMPT: &str = "root@bodhi:~#";

/// What one job came to.
struct Figures {
    operations: f64,
    exits: Option<f64>,
    interrupts: Option<f64>,
}

/// Runs the jobs under both programs.
pub fn measure(table: &mut Table, path: Path) {
    let [ours, theirs] = [Program::Bodhi, Program::Qemu].map(|program| run(program, path));
    for ((name, ..), (ours, theirs)) in JOBS.iter().zip(ours.iter().zip(&theirs)) {
        table.both(name, "/s", [ours.operations, theirs.operations]);
        if let (Some(exits), Some(interrupts)) = (ours.exits, ours.interrupts) {
            table.ours("    exits per request", "", exits);
            table.ours("    interrupts per request", "", interrupts);
        }
    }
}

fn run(program: Program, path: Path) -> Vec<Figures> {
    let (root, data) = (Image::root(), Image::empty(DISK));
    let bus = if path == Path::Paravirtual { Bus::Scsi } else { Bus::Ide };
    let mut machine = Machine::new(program, Kernel::Cloud).disk(root.path(), bus).disk(data.path(), bus);
    if program == Program::Bodhi {
        machine = machine.api(root.folder().join("api")).options(&["--processor", "interpreter"]);
        if path == Path::Emulated {
            machine = machine.options(&["--synthetic", "off"]);
        }
    }
    let mut running = machine.start();
    running.expect(PROMPT, BOOT);
    // The disk without a mount point is the one under test. The first start of fio reads it from the root disk.
    command(&mut running, "data=$(lsblk -dpno NAME,MOUNTPOINTS | awk 'NF == 1'); fio --version");
    let figures = JOBS.iter().map(|job| measure_job(&mut running, program, path, job)).collect();
    running.type_line("exit");
    running.wait(POWER_OFF).assert_powered_off();
    figures
}

fn measure_job(
    running: &mut Running,
    program: Program,
    path: Path,
    (_, options, field): &(&str, &str, usize),
) -> Figures {
    let table = |running: &Running| (program == Program::Bodhi).then(|| running.devices());
    let before = table(running);
    let said = command(
        running,
        &format!(
            "fio --name=job --filename=$data --direct=1 --ioengine=libaio --time_based --runtime=5 {options} \
             --output-format=terse --terse-version=3"
        ),
    );
    let after = table(running);
    // Escape sequences of the shell's line editor may stand before it.
    let line = said.find("3;fio-").map_or("", |at| &said[at..]);
    let operations = line
        .split(';')
        .nth(field - 1)
        .and_then(|value| value.parse().ok())
        .unwrap_or_else(|| panic!("fio said: {said}"));
    let per_request = |key: &str| {
        // Exits of an IDE channel count for its first drive.
        let rows: &[&str] = if path == Path::Paravirtual { &["scsi0"] } else { &["ide0", "ide1"] };
        let (before, after) = (before.as_ref()?, after.as_ref()?);
        let count = |devices, key| rows.iter().map(|name| count(devices, name, key)).sum::<u64>();
        let grown = |key| (count(after, key) - count(before, key)) as f64;
        Some(grown(key) / grown("requests"))
    };
    Figures { operations, exits: per_request("exits"), interrupts: per_request("interrupts") }
}

fn count(devices: &Devices, device: &str, key: &str) -> u64 {
    row(devices, device)[key].as_u64().expect("a count")
}

/// Runs a command in the guest's shell and returns what it printed.
fn command(running: &mut Running, line: &str) -> String {
    running.type_line(line);
    // The terminal echoes the line first; long lines wrap, so its end is found by the command's own output.
    let (said, _) = running.expect_with(PROMPT, JOB);
    said
}
