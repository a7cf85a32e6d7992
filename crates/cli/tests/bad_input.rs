//! Bad usage and input: exit code 2, one line that names the option and the file, and nothing created or
//! changed.

use std::fs::{self, File};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

/// A directory with a kernel that would start, a disk, and what the tests put beside them.
struct Place {
    directory: TempDir,
    kernel: PathBuf,
    disk: PathBuf,
}

impl Place {
    fn new() -> Self {
        let directory = TempDir::new().unwrap();
        let (kernel, disk) = (directory.path().join("vmlinuz"), directory.path().join("disk.img"));
        fs::write(&kernel, bzimage()).unwrap();
        fs::write(&disk, vec![0; 1 << 20]).unwrap();
        Self { directory, kernel, disk }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// What there is, with sizes.
    fn contents(&self) -> Vec<(PathBuf, u64)> {
        let entries = fs::read_dir(self.directory.path()).unwrap().map(Result::unwrap);
        let mut list: Vec<_> = entries.map(|entry| (entry.path(), entry.metadata().unwrap().len())).collect();
        list.sort();
        list
    }

    /// Runs with the good kernel and `options`; expects the refusal, and nothing created or changed.
    fn refuses(&self, options: &[&str], expected: &str) {
        let kernel = self.kernel.to_str().unwrap();
        self.refuses_all(&[&["--kernel", kernel], options].concat(), expected);
    }

    fn refuses_all(&self, options: &[&str], expected: &str) {
        let before = self.contents();
        let (log, socket) = (self.path("created.log"), self.path("created.api"));
        let creating = [format!("--serial=file:{}", log.display()), format!("--api={}", socket.display())];
        // What would be created, unless the test says otherwise.
        let creating = creating.iter().map(String::as_str);
        let creating = creating.filter(|option| !options.iter().any(|given| given.starts_with(&option[..5])));
        let arguments: Vec<&str> = ["run"].iter().chain(options).copied().chain(creating).collect();
        let output = bodhi(&arguments);
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{stderr}");
        assert_eq!(stderr, format!("bodhi: {expected}\n"));
        assert_eq!(self.contents(), before);
    }
}

fn bodhi(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_bodhi")).args(arguments).stdin(Stdio::null()).output().unwrap()
}

/// The smallest file with a header that the Linux boot protocol accepts.
fn bzimage() -> Vec<u8> {
    let mut image = vec![0; 1024 + 4096];
    let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    put(0x1f1, &[1]);
    put(0x1f4, &256_u32.to_le_bytes());
    put(0x1fe, &0xaa55_u16.to_le_bytes());
    put(0x202, b"HdrS");
    put(0x206, &0x020f_u16.to_le_bytes());
    put(0x211, &[1]);
    put(0x22c, &0x7fff_ffff_u32.to_le_bytes());
    put(0x230, &0x20_0000_u32.to_le_bytes());
    put(0x234, &[1]);
    put(0x236, &1_u16.to_le_bytes());
    put(0x238, &2047_u32.to_le_bytes());
    put(0x258, &0x100_0000_u64.to_le_bytes());
    put(0x260, &0x80_0000_u32.to_le_bytes());
    image
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn a_kernel_that_is_missing_no_kernel_or_truncated() {
    let place = Place::new();
    place.refuses_all(&[], "--kernel: is required: there is nothing to boot");
    let missing = place.path("missing");
    place
        .refuses_all(&["--kernel", text(&missing)], &format!("--kernel {}: no such file", missing.display()));
    let disk = text(&place.disk);
    let no_kernel =
        "is not a Linux kernel (neither a bzImage nor an ELF vmlinux), and has no multiboot header";
    place.refuses_all(&["--kernel", disk], &format!("--kernel {disk}: {no_kernel}"));
    let short = place.path("short");
    fs::write(&short, &bzimage()[..3000]).unwrap();
    place.refuses_all(&["--kernel", text(&short)], &format!("--kernel {}: is truncated", short.display()));
    let directory = text(place.directory.path());
    place.refuses_all(&["--kernel", directory], &format!("--kernel {directory}: is a directory"));
}

#[test]
fn firmware_that_is_missing_or_none() {
    let place = Place::new();
    let (missing, short) = (place.path("missing"), place.path("short"));
    let named = |path: &Path, reason: &str| format!("--firmware {}: {reason}", path.display());
    place.refuses_all(&["--firmware", text(&missing)], &named(&missing, "no such file"));
    fs::write(&short, [0; 1000]).unwrap();
    let reason = "is no firmware image: it has 1000 bytes, not a multiple of 64 KiB";
    let disk = text(&place.disk);
    place.refuses_all(&["--firmware", text(&short), "--disk", disk], &named(&short, reason));
    let both = "a kernel is started without firmware: give one of --kernel and --firmware";
    place.refuses_all(&["--kernel", disk, "--firmware", "bios"], &format!("--kernel {disk}: {both}"));
    let append = "--append: needs a --kernel that takes it";
    place.refuses_all(&["--firmware", "bios", "--append", "quiet"], append);
    let order = "invalid value 'floppy' for '--boot <LIST>': must be a list of cdrom and disk";
    place.refuses_all(&["--firmware", "bios", "--boot", "floppy"], order);
}

#[test]
fn a_multiboot_kernel_that_asks_for_too_much_and_modules_without_one() {
    let place = Place::new();
    let kernel = place.path("kernel");
    let header = |flags: u32| [0x1bad_b002, flags, 0_u32.wrapping_sub(0x1bad_b002).wrapping_sub(flags)];
    let bytes = |flags: u32| header(flags).map(u32::to_le_bytes).concat();
    fs::write(&kernel, bytes(1 << 7)).unwrap();
    let wrong = |reason: &str| format!("--kernel {}: cannot be started: {reason}", kernel.display());
    let flags = "its multiboot header asks for features that are not there (flags 0x80)";
    place.refuses_all(&["--kernel", text(&kernel)], &wrong(flags));
    fs::write(&kernel, bytes(0)).unwrap();
    let format = "it is no ELF file, and its multiboot header does not tell where it goes";
    place.refuses_all(&["--kernel", text(&kernel)], &wrong(format));
    let module = text(&place.disk);
    let reason = format!("--module {module}: only a multiboot kernel takes modules");
    place.refuses(&["--module", module], &reason);
}

#[test]
fn an_initrd_that_is_missing_or_too_large() {
    let place = Place::new();
    let (missing, large) = (place.path("missing"), place.path("large"));
    place.refuses(&["--initrd", text(&missing)], &format!("--initrd {}: no such file", missing.display()));
    File::create(&large).unwrap().set_len(60 << 20).unwrap();
    let expected = "its 60 MiB do not fit beside the kernel into a memory of 64M";
    let expected = format!("--initrd {}: {expected}", large.display());
    place.refuses(&["--initrd", text(&large), "--memory", "64M"], &expected);
}

#[test]
fn memory_too_small_too_large_or_no_size() {
    let place = Place::new();
    place.refuses(&["--memory", "8M"], "--memory 8M: too small: a machine needs at least 32M");
    let host = fs::read_to_string("/proc/meminfo").unwrap();
    let total = host.lines().find_map(|line| line.strip_prefix("MemTotal:")).unwrap();
    let total: u64 = total.trim().trim_end_matches(" kB").parse().unwrap();
    let total = total >> 10;
    let expected = format!("--memory 16T: larger than this host's memory of {total} MiB");
    place.refuses(&["--memory", "16T"], &expected);
    let expected =
        "invalid value 'lots' for '--memory <SIZE[,min=SIZE][,max=SIZE]>': must be a size such as 512M or 4G";
    place.refuses(&["--memory", "lots"], expected);
}

#[test]
fn a_kernel_that_needs_more_memory_than_there_is() {
    let place = Place::new();
    let mut image = bzimage();
    image[0x260..0x264].copy_from_slice(&(100_u32 << 20).to_le_bytes());
    fs::write(&place.kernel, image).unwrap();
    let expected =
        format!("--memory 64M: too small: the kernel {} needs 116 MiB to start", place.kernel.display());
    place.refuses(&["--memory", "64M"], &expected);
}

#[test]
fn a_disk_that_is_missing_a_directory_empty_or_no_disk() {
    let place = Place::new();
    let missing = place.path("missing");
    place.refuses(&["--disk", text(&missing)], &format!("--disk {}: no such file", missing.display()));
    let directory = text(place.directory.path());
    place.refuses(&["--disk", directory], &format!("--disk {directory}: is a directory"));
    let empty = place.path("empty");
    File::create(&empty).unwrap();
    let expected = format!("--disk {}: is smaller than one block of 512 bytes", empty.display());
    place.refuses(&["--disk", text(&empty)], &expected);
    let expected = "--disk /dev/null: is neither a regular file nor a block device";
    place.refuses(&["--disk", "/dev/null"], expected);
    let missing = place.path("missing.iso");
    place.refuses(&["--cdrom", text(&missing)], &format!("--cdrom {}: no such file", missing.display()));
}

#[test]
fn a_disk_in_use() {
    let place = Place::new();
    let disk = text(&place.disk);
    let _other = storage::open(&place.disk, &storage::OpenOptions::default()).unwrap();
    let expected = format!("--disk {disk}: in use by another virtual machine or program");
    place.refuses(&["--disk", disk], &expected);
    place.refuses(&["--disk", &format!("{disk},readonly")], &expected);
}

#[test]
fn a_disk_given_twice() {
    let place = Place::new();
    let disk = text(&place.disk);
    place.refuses(&["--disk", disk, "--disk", disk], &format!("--disk {disk}: is given twice"));
}

#[test]
fn unknown_options_and_values() {
    let place = Place::new();
    place.refuses(&["--turbo"], "unexpected argument '--turbo' found");
    let expected =
        "invalid value 'quantum' for '--processor <P>': must be auto, kvm, translator or interpreter";
    place.refuses(&["--processor", "quantum"], expected);
    let expected =
        "invalid value 'd,bus=usb' for '--disk <F[,OPTIONS]>': bus=usb: the bus must be auto, ide or scsi";
    place.refuses(&["--disk", "d,bus=usb"], expected);
    place.refuses(
        &["--synthetic", "maybe"],
        "invalid value 'maybe' for '--synthetic <ON|OFF>': must be on or off",
    );
    place.refuses(&["--display", "vnc"], "invalid value 'vnc' for '--display <D>': must be none");
    for (net, reason) in [
        ("tap", "must be nat, tap:INTERFACE, isolated or none"),
        ("tap:a/b", "\"a/b\" is no name of an interface"),
        ("nat,rate=fast", "rate=fast: the rate must be a number such as 500k, 10M or 1G, 64k at the least"),
        ("nat,mac=1", "1 is no MAC address such as 00:15:5d:00:00:01"),
        ("isolated,nic=e1000", "nic=e1000: the nic must be synthetic or legacy"),
        ("isolated,host=off", "host=off: no such option of a network"),
        (
            "nat,hostfwd=tcp::0-:22",
            "tcp::0-:22 is no port to forward: a port is a number from 1 to 65535; \
                                    tcp:127.0.0.1:2222-10.0.2.15:22 is one, as is tcp::2222-:22",
        ),
    ] {
        place.refuses(&["--net", net], &format!("invalid value '{net}' for '--net <N>': {reason}"));
    }
    place.refuses(&["--nic", "fast"], "invalid value 'fast' for '--nic <NIC>': must be synthetic or legacy");
    let nets = ["--net", "isolated"].repeat(9);
    place.refuses(&nets, "--net: a machine has up to 8 network adapters");
    let reason = "--net isolated: needs a synthetic device, and --synthetic or --enlightenments leave it out; \
                  --nic legacy needs none";
    place.refuses(&["--net", "isolated", "--synthetic", "off"], reason);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let forward = format!("tcp:{address}-10.0.2.15:22");
    let net = format!("nat,hostfwd={forward}");
    let reason =
        format!("port {address} cannot be forwarded ({forward}): Address already in use (os error 98)");
    place.refuses(&["--net", &net], &format!("--net {net}: {reason}"));
    let expected = "invalid value 'tcp:1' for '--serial <S>': must be stdio, file:F or socket:F";
    place.refuses(&["--serial", "tcp:1"], expected);
    place.refuses(&["--cpus", "0"], "--cpus 0: must be from 1 to 64");
}

#[test]
fn a_configuration_file_that_is_missing_or_wrong() {
    let place = Place::new();
    let missing = place.path("missing.toml");
    place.refuses(&["--config", text(&missing)], &format!("--config {}: no such file", missing.display()));
    let wrong = place.path("wrong.toml");
    fs::write(&wrong, "cpus = 1\nmemory = \"lots\"\n").unwrap();
    let expected = format!("--config {}: line 2: must be a size such as 512M or 4G", wrong.display());
    place.refuses(&["--config", text(&wrong)], &expected);
}

#[test]
fn sockets_and_files_that_cannot_be_made() {
    let place = Place::new();
    let used = place.path("used");
    let _listener = UnixListener::bind(&used).unwrap();
    let expected = format!("--api {}: is in use by another worker", used.display());
    place.refuses(&["--api", text(&used)], &expected);
    let disk = text(&place.disk);
    place.refuses(&["--api", disk], &format!("--api {disk}: exists and is no socket"));
    place.refuses(&["--serial", "file:/nonexistent/log"], "--serial /nonexistent/log: no such file");
}

#[test]
fn a_machine_that_is_not_there() {
    let place = Place::new();
    let missing = place.path("missing");
    let output = bodhi(&["devices", "--api", text(&missing)]);
    let expected = format!("bodhi: --api {}: no such file\n", missing.display());
    assert_eq!(
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned()),
        (Some(2), expected)
    );
}

#[test]
fn disk_and_disc_commands_that_do_not_do() {
    let place = Place::new();
    let (nobody, disk) = (place.path("nobody"), text(&place.disk));
    let nobody = text(&nobody);
    let refused = |arguments: &[&str], expected: &str| {
        let output = bodhi(arguments);
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(
            (output.status.code(), stderr),
            (Some(2), format!("bodhi: {expected}\n")),
            "{arguments:?}"
        );
    };
    let missing = format!("--api {nobody}: no such file");
    refused(&["disk", "attach", nobody, disk], &missing);
    refused(&["disk", "attach", "--api", nobody, disk], &missing);
    refused(&["disk", "detach", nobody, "scsi0:0"], &missing);
    refused(&["disk", "list", nobody], &missing);
    refused(&["disc", "insert", nobody, disk], &missing);
    refused(&["disc", "eject", "--force", nobody], &missing);
    refused(&["disk", "list"], "--api: is required: which machine?");
    refused(&["disk", "attach", nobody], &format!("--api {nobody}: which disk? It is missing"));
    refused(&["disc", "insert", "--api", nobody], &format!("--api {nobody}: which ISO image? It is missing"));
    refused(&["disc", "eject", nobody, disk], &format!("--api {nobody}: {disk} is too much"));
    refused(&["disk", "attach", nobody, "d,fast"], "d,fast: fast: no such disk option");
}

#[test]
fn a_debuggers_place_that_is_none_or_taken() {
    let place = Place::new();
    let form = "must be HOST:PORT, :PORT or unix:F, with ,nowait behind it or not";
    for wrong in ["1234", ":0", "host:http", "unix:", ":1234,later"] {
        let expected = format!("invalid value '{wrong}' for '--gdb <ADDR|unix:F[,nowait]>': {form}");
        place.refuses(&["--gdb", wrong], &expected);
    }
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let expected = format!("--gdb {address}: cannot listen there: Address already in use (os error 98)");
    place.refuses(&["--gdb", &address], &expected);
    let disk = text(&place.disk);
    place.refuses(&["--gdb", &format!("unix:{disk}")], &format!("--gdb {disk}: exists and is no socket"));
    let socket = place.path("taken.sock");
    let _listener = UnixListener::bind(&socket).unwrap();
    let option = format!("unix:{}", socket.display());
    place.refuses(&["--gdb", &option], &format!("--gdb {}: is in use by another worker", socket.display()));
}

#[test]
fn images_that_cannot_be_built_are_refused_before_anything_is_done() {
    let place = Place::new();
    let before = place.contents();
    let (cache, disk) = (place.path("cache"), place.disk.display().to_string());
    let key = place.path("id.pub");
    for (options, expected) in [
        (["--size", "5M"], "--size 5M: is too small: at least 2G".to_owned()),
        (["--user", "root"], "--user root: is no name for a user".to_owned()),
        (["--package", "a b"], "--package a b: is no name of a package".to_owned()),
        (["--output", &disk], format!("--output {disk}: is there already; --force replaces it")),
        (["--ssh-key", key.to_str().unwrap()], format!("--ssh-key {}: no such file", key.display())),
        (
            ["--size", "big"],
            "invalid value 'big' for '--size <SIZE>': must be a size such as 512M or 4G".to_owned(),
        ),
    ] {
        let command = ["image", "build", "debian", "--cache", cache.to_str().unwrap()];
        let output = bodhi(&[&command[..], &options[..]].concat());
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        assert_eq!(String::from_utf8_lossy(&output.stderr), format!("bodhi: {expected}\n"));
    }
    assert_eq!(place.contents(), before);
}

#[test]
fn a_file_with_variables_of_the_wrong_size_is_refused() {
    let place = Place::new();
    // Without the firmware, that is what is told.
    if !Path::new("/usr/share/OVMF/OVMF_CODE_4M.fd").exists() {
        return;
    }
    let vars = place.path("vars");
    fs::write(&vars, [0; 10]).unwrap();
    let firmware = format!("uefi,vars={}", vars.display());
    let expected = format!("--firmware {}: has 10 bytes; variables have 540672", vars.display());
    place.refuses_all(&["--firmware", &firmware], &expected);
}
