//! The arguments, and how they change the configuration.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;

use clap::{Args, Parser, Subcommand};
use machine::MachineConfig;
use machine::config::{
    BootOrder, CdromConfig, DiskConfig, Display, Enlightenments, Firmware, Gdb, InputError, MemorySize,
    ModuleConfig, NetOption, Nic, ProcessorChoice, Serial, ServiceKind, Services, Switch, Translator,
};

use crate::{BAD_INPUT, say};

#[derive(Debug, Parser)]
#[command(name = "bodhi", version, about = "A Hyper-V-compatible virtual machine", propagate_version = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Boot a virtual machine in the foreground
    Run(Box<RunArguments>),
    /// Tell what this host can do for machines, and what would help
    Doctor,
    /// Show the devices of a machine that runs, and what they have done
    Devices(DevicesArguments),
    /// Attach, detach or list the disks of a machine that runs
    #[command(subcommand)]
    Disk(DiskCommand),
    /// Insert or eject the disc of a machine that runs
    #[command(subcommand)]
    Disc(DiscCommand),
    /// Put the disc with the integration services into the optical drive of a machine that runs, or take it out; in the
    /// guest, install.sh on it does the rest
    #[command(subcommand)]
    SetupDisk(SetupDiskCommand),
    /// Give network adapters to a machine that runs, take them away, plug their cables
    #[command(subcommand)]
    Net(NetCommand),
    /// Build disk images, and copy those of machines that run
    #[command(subcommand)]
    Image(ImageCommand),
    /// Put a file into the guest of a machine that runs; folders that are missing there are made
    #[command(override_usage = "bodhi copy F NAME:/PATH [--overwrite]")]
    Copy(CopyArguments),
    /// Show the screen of a machine that runs: a PNG file, or its text
    #[command(override_usage = "bodhi screenshot NAME F.png\n       bodhi screenshot NAME --text")]
    Screenshot(ScreenshotArguments),
    /// Type a text on the keyboard of a machine that runs; it has the US layout
    #[command(override_usage = "bodhi type NAME TEXT")]
    Type(Target),
    /// Press keys of a machine that runs, such as enter, f12 or ctrl-alt-del
    #[command(override_usage = "bodhi key NAME KEYS")]
    Key(Target),
    /// Have the guest of a machine power off, restart or hibernate, and wait until it has
    #[command(override_usage = "bodhi shutdown NAME [--restart|--hibernate] [--force] [--timeout SECONDS]")]
    Shutdown(ShutdownArguments),
    /// Show the integration services of a machine that runs, or change what they say
    #[command(override_usage = "bodhi integration NAME [--json]\n       \
                      bodhi integration NAME --set KEY=VALUE | --delete KEY\n       \
                      bodhi integration NAME --enable SERVICE | --disable SERVICE")]
    Integration(IntegrationArguments),
}

#[derive(Debug, Args)]
pub(crate) struct ShutdownArguments {
    #[command(flatten)]
    pub(crate) target: Target,
    /// Restart
    #[arg(long, conflicts_with = "hibernate")]
    pub(crate) restart: bool,
    /// Write memory to disk and power off
    #[arg(long)]
    pub(crate) hibernate: bool,
    /// Whatever the guest's programs say
    #[arg(long)]
    pub(crate) force: bool,
    /// How long to wait for the end, in seconds; 0: not at all
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    pub(crate) timeout: u64,
}

#[derive(Debug, Args)]
pub(crate) struct CopyArguments {
    /// The file
    #[arg(value_name = "F")]
    pub(crate) file: PathBuf,
    /// The machine, by its control socket, and where the file goes; only the latter with --api
    #[arg(value_name = "NAME:/PATH")]
    pub(crate) to: String,
    /// The machine, by its control socket
    #[arg(long, value_name = "SOCKET")]
    pub(crate) api: Option<PathBuf>,
    /// Also when the guest has such a file
    #[arg(long)]
    pub(crate) overwrite: bool,
}

#[derive(Debug, Args)]
pub(crate) struct IntegrationArguments {
    #[command(flatten)]
    pub(crate) target: Target,
    /// As JSON
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) change: IntegrationChange,
}

/// What is to be changed, if anything is.
#[derive(Debug, Args)]
#[group(multiple = false, conflicts_with = "json")]
pub(crate) struct IntegrationChange {
    /// Leave a key-value pair for the guest
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    pub(crate) set: Option<(String, String)>,
    /// Take a key-value pair back
    #[arg(long, value_name = "KEY")]
    pub(crate) delete: Option<String>,
    /// Offer a service to the guest
    #[arg(long, value_name = "SERVICE", value_parser = parse::<ServiceKind>)]
    pub(crate) enable: Option<ServiceKind>,
    /// Take a service away from the guest
    #[arg(long, value_name = "SERVICE", value_parser = parse::<ServiceKind>)]
    pub(crate) disable: Option<ServiceKind>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ImageCommand {
    /// Build a disk with an installed system, or take the one that was built of the same options before; prints its path
    #[command(subcommand)]
    Build(SystemCommand),
    /// Copy the disks of a machine that runs while its guest's file systems stand still: to an image, or to a folder of
    /// images if there are several disks
    #[command(override_usage = "bodhi image backup NAME F")]
    Backup(Target),
}

#[derive(Debug, Subcommand)]
pub(crate) enum SystemCommand {
    /// Debian with GRUB for BIOS and UEFI, its own kernel, systemd, serial and VGA console, a user, and SSH
    Debian(DebianArguments),
    /// The disc with the integration services for Linux guests
    SetupDisk(SetupDiskArguments),
}

#[derive(Debug, Args)]
pub(crate) struct SetupDiskArguments {
    /// Where a copy of the image is put; without it, the path printed is that of the cache, for reading only
    #[arg(long, value_name = "F.iso")]
    pub(crate) output: Option<PathBuf>,
    /// Replace what is there
    #[arg(long, requires = "output")]
    pub(crate) force: bool,
    /// The folder in which what was built is kept; without it, ~/.cache/bodhi
    #[arg(long, value_name = "FOLDER")]
    pub(crate) cache: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum SetupDiskCommand {
    /// Put it into the drive, in place of what is there
    #[command(override_usage = "bodhi setup-disk insert NAME [--cache FOLDER]")]
    Insert {
        #[command(flatten)]
        target: Target,
        /// The folder in which the disc is kept; without it, ~/.cache/bodhi
        #[arg(long, value_name = "FOLDER")]
        cache: Option<PathBuf>,
    },
    /// Take the disc out of the drive
    #[command(override_usage = "bodhi setup-disk eject NAME [--force]")]
    Eject {
        #[command(flatten)]
        target: Target,
        /// Also when the guest holds it
        #[arg(long)]
        force: bool,
    },
}

#[derive(Debug, Args)]
pub(crate) struct DebianArguments {
    /// Where a copy of the image is put; without it, the path printed is that of the cache, for reading only
    #[arg(long, value_name = "F")]
    pub(crate) output: Option<PathBuf>,
    /// Replace what is there
    #[arg(long, requires = "output")]
    pub(crate) force: bool,
    /// Debian's release
    #[arg(long, value_name = "NAME", default_value = "bookworm")]
    pub(crate) suite: String,
    /// Size of the disk, of which what is not used takes no room on the host
    #[arg(long, value_name = "SIZE", default_value = "4G", value_parser = parse::<MemorySize>)]
    pub(crate) size: MemorySize,
    /// A user, who may use sudo
    #[arg(long, value_name = "NAME", default_value = "bodhi")]
    pub(crate) user: String,
    /// The user's password; without it, it is the user's name, and SSH does not take it
    #[arg(long, value_name = "TEXT")]
    pub(crate) password: Option<String>,
    /// A public key that may log in by SSH
    #[arg(long, value_name = "F.pub")]
    pub(crate) ssh_key: Option<PathBuf>,
    /// The system's name
    #[arg(long, value_name = "NAME", default_value = "debian")]
    pub(crate) hostname: String,
    /// A further package; may be given several times
    #[arg(long = "package", value_name = "NAME")]
    pub(crate) packages: Vec<String>,
    /// The archive that packages come from, now and later; without it, that of the host's apt, or Debian's own
    #[arg(long, value_name = "URI")]
    pub(crate) mirror: Option<String>,
    /// The folder in which what was built is kept; without it, ~/.cache/bodhi
    #[arg(long, value_name = "FOLDER")]
    pub(crate) cache: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct ScreenshotArguments {
    #[command(flatten)]
    pub(crate) target: Target,
    /// The text of a screen in text mode
    #[arg(long)]
    pub(crate) text: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum DiskCommand {
    /// Put a disk on the synthetic SCSI controller; prints its name
    #[command(override_usage = "bodhi disk attach NAME F[,format=raw][,readonly][,snapshot][,bus=scsi]")]
    Attach(Target),
    /// Take a disk away, by its name or its file; its image is free then
    #[command(override_usage = "bodhi disk detach NAME DISK")]
    Detach(Target),
    /// Show the disks and the optical drive
    #[command(override_usage = "bodhi disk list NAME")]
    List(Target),
}

#[derive(Debug, Subcommand)]
pub(crate) enum NetCommand {
    /// Give the guest a synthetic network adapter; prints its name
    #[command(override_usage = "bodhi net attach NAME nat|tap:INTERFACE|isolated[,OPTIONS]")]
    Attach(Target),
    /// Take a synthetic network adapter away, with its network
    #[command(override_usage = "bodhi net detach NAME ADAPTER")]
    Detach(Target),
    /// Plug in the cable of a network adapter
    #[command(override_usage = "bodhi net up NAME ADAPTER")]
    Up(Target),
    /// Pull out the cable of a network adapter
    #[command(override_usage = "bodhi net down NAME ADAPTER")]
    Down(Target),
    /// Show the network adapters
    #[command(override_usage = "bodhi net list NAME")]
    List(Target),
}

#[derive(Debug, Subcommand)]
pub(crate) enum DiscCommand {
    /// Put an ISO image into the optical drive, in place of what is there
    #[command(override_usage = "bodhi disc insert NAME F.iso")]
    Insert(Target),
    /// Take the disc out of the optical drive
    #[command(override_usage = "bodhi disc eject NAME [--force]")]
    Eject {
        #[command(flatten)]
        target: Target,
        /// Also when the guest holds it
        #[arg(long)]
        force: bool,
    },
}

/// A machine and what a command is about: `NAME WORD`, or `WORD` with `--api`.
#[derive(Debug, Args)]
pub(crate) struct Target {
    /// The machine, by its control socket (not with --api), and the file, disk or network adapter
    #[arg(value_name = "NAME, F", num_args = 0..=2)]
    words: Vec<String>,
    /// The machine, by its control socket
    #[arg(long, value_name = "SOCKET")]
    api: Option<PathBuf>,
}

impl Target {
    /// The control socket, and the word beside it, which is a `what` if there is to be one.
    pub(crate) fn split(&self, what: Option<&'static str>) -> Result<(PathBuf, String), InputError> {
        let mut words = self.words.iter();
        let api = match &self.api {
            Some(api) => api.clone(),
            None => match words.next() {
                Some(name) => name.into(),
                None => return Err(InputError::bare("api", "is required: which machine?")),
            },
        };
        match (words.next(), what) {
            (Some(word), Some(_)) if words.next().is_none() => Ok((api, word.clone())),
            (None, None) => Ok((api, String::new())),
            (None, Some(what)) => {
                Err(InputError::new("api", api.display(), format!("which {what}? It is missing")))
            }
            (Some(word), _) => Err(InputError::new("api", api.display(), format!("{word} is too much"))),
        }
    }
}

/// Every option overrides the same key of the configuration file.
#[derive(Debug, Args)]
pub(crate) struct RunArguments {
    /// A kernel: bzImage, ELF vmlinux with a PVH entry, or an image with a multiboot header
    #[arg(long, value_name = "F")]
    kernel: Option<PathBuf>,
    /// The kernel's initial RAM disk
    #[arg(long, value_name = "F")]
    initrd: Option<PathBuf>,
    /// A further module of a multiboot kernel, and what it is told of it; may be given several times
    #[arg(long = "module", value_name = "F[,WORDS]", value_parser = parse::<ModuleConfig>)]
    modules: Vec<ModuleConfig>,
    /// The kernel's command line
    #[arg(long, value_name = "S", allow_hyphen_values = true)]
    append: Option<String>,
    /// The firmware to start with, in place of a kernel: bios, uefi, or a file with an image of either; the variables of
    /// UEFI firmware are kept in the file that vars names
    #[arg(long, value_name = "bios|uefi[,vars=F]|F[,vars=F]", value_parser = parse::<Firmware>)]
    firmware: Option<Firmware>,
    /// What the firmware boots from, in order: a list of cdrom and disk
    #[arg(long, value_name = "LIST", value_parser = parse::<BootOrder>)]
    boot: Option<BootOrder>,
    /// A disk: F[,format=raw][,readonly][,snapshot][,bus=auto|ide|scsi]; may be given several times
    #[arg(long = "disk", value_name = "F[,OPTIONS]", value_parser = parse::<DiskConfig>)]
    disks: Vec<DiskConfig>,
    /// The CD-ROM drive: an ISO image F[,bus=ide|scsi], or empty[,bus=ide|scsi]
    #[arg(long, value_name = "F[,OPTIONS]", value_parser = parse::<CdromConfig>)]
    cdrom: Option<CdromConfig>,
    /// Number of virtual processors
    #[arg(long, value_name = "N")]
    cpus: Option<u32>,
    /// Amount of RAM, such as 512M or 4G
    #[arg(long, value_name = "SIZE", value_parser = parse::<MemorySize>)]
    memory: Option<MemorySize>,
    /// How little of it the guest may be left with: it gives back what it does not need
    #[arg(long, value_name = "SIZE", value_parser = parse::<MemorySize>)]
    memory_min: Option<MemorySize>,
    /// A Unix socket to be made, by which programs reach ports of the guest's AF_VSOCK: they write `CONNECT PORT` and a
    /// line end. Ports of the host that the guest connects to are sockets F_PORT
    #[arg(long, value_name = "F")]
    vsock: Option<PathBuf>,
    /// What carries out the guest's instructions: auto, kvm, translator or interpreter
    #[arg(long, value_name = "P", value_parser = parse::<ProcessorChoice>)]
    processor: Option<ProcessorChoice>,
    /// What is told of translated code: none, or a list of map (names for perf), count (of TLB look-ups) and
    /// dump=F (the blocks as text)
    #[arg(long, value_name = "T", value_parser = parse::<Translator>)]
    translator: Option<Translator>,
    /// What the guest is offered of the hypervisor interface: auto, all, none or a list of names
    #[arg(long, value_name = "E", value_parser = parse::<Enlightenments>)]
    enlightenments: Option<Enlightenments>,
    /// Synthetic devices beside the emulated ones: on or off
    #[arg(long, value_name = "ON|OFF", value_parser = parse::<Switch>)]
    synthetic: Option<Switch>,
    /// The integration services: all, none or a list of shutdown, time-sync, heartbeat, key-value,
    /// backup, file-copy
    #[arg(long, value_name = "I", value_parser = parse::<Services>)]
    integration: Option<Services>,
    /// Where the serial port leads: stdio, file:F or socket:F
    #[arg(long, value_name = "S", value_parser = parse::<Serial>)]
    serial: Option<Serial>,
    /// The screen: none
    #[arg(long, value_name = "D", value_parser = parse::<Display>)]
    display: Option<Display>,
    /// A network adapter: nat[,hostfwd=tcp|udp:[ADDRESS]:PORT-[ADDRESS]:PORT]...[,host=on|off], tap:INTERFACE or
    /// isolated, each with [,mac=M][,nic=synthetic|legacy][,rate=BITS][,packet-rate=N][,burst=Nms][,spoofing=on|off]
    /// [,dhcp-guard=on|off][,router-guard=on|off][,capture=F][,link=up|down]; or none; may be given several times
    #[arg(long = "net", value_name = "N", value_parser = parse::<NetOption>)]
    nets: Vec<NetOption>,
    /// What the guest sees of network adapters: synthetic or legacy, a DEC 21140
    #[arg(long, value_name = "NIC", value_parser = parse::<Nic>)]
    nic: Option<Nic>,
    /// Devices for conformance suites: debug exit (0xf4), scratch (0xe0), ISA lines (0x2000), SynIC (0x3000),
    /// memory (0xff000000)
    #[arg(long)]
    test_devices: bool,
    /// Where a debugger may connect: HOST:PORT, :PORT or unix:F[,nowait]. The guest waits for it at its first
    /// instruction, except with nowait
    #[arg(long, value_name = "ADDR|unix:F[,nowait]", value_parser = parse::<Gdb>)]
    gdb: Option<Gdb>,
    /// A control socket to be made
    #[arg(long, value_name = "SOCKET")]
    api: Option<PathBuf>,
    /// A configuration file (TOML) with the same keys as these options
    #[arg(long, value_name = "F")]
    config: Option<PathBuf>,
    /// What the machine is called
    #[arg(long, value_name = "N")]
    name: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct DevicesArguments {
    /// The machine, by its control socket
    #[arg(value_name = "NAME")]
    pub(crate) name: Option<PathBuf>,
    /// The machine, by its control socket
    #[arg(long, value_name = "SOCKET", conflicts_with = "name")]
    pub(crate) api: Option<PathBuf>,
    /// As JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// A pair as `KEY=VALUE`.
fn pair(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("a pair is KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

fn parse<T: FromStr<Err: ToString>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|error: T::Err| error.to_string())
}

/// The command, or the exit code after help or a complaint in one line.
pub(crate) fn parse_from(arguments: impl IntoIterator<Item = String>) -> Result<Command, (String, bool)> {
    use clap::error::ErrorKind;
    Arguments::try_parse_from(arguments).map(|arguments| arguments.command).map_err(|error| {
        let text = error.render().to_string();
        match error.kind() {
            ErrorKind::DisplayHelp
            | ErrorKind::DisplayVersion
            | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => (text, true),
            _ => (one_line(&text), false),
        }
    })
}

pub(crate) fn from_command_line() -> Result<Command, ExitCode> {
    let arguments: Result<Vec<String>, _> = std::env::args_os().map(|text| text.into_string()).collect();
    let Ok(arguments) = arguments else {
        say(format_args!("bodhi: an argument is not valid UTF-8\n"));
        return Err(ExitCode::from(BAD_INPUT));
    };
    parse_from(arguments).map_err(|(text, help)| {
        if help {
            // Nobody may be reading any more, as behind a pager that has been left.
            let _ = std::io::stdout().write_all(text.as_bytes());
            return ExitCode::SUCCESS;
        }
        say(format_args!("bodhi: {text}\n"));
        ExitCode::from(BAD_INPUT)
    })
}

/// The part of clap's message that tells what is wrong.
fn one_line(text: &str) -> String {
    let text = text.strip_prefix("error: ").unwrap_or(text);
    let lines = text.lines().take_while(|line| !line.is_empty() && !line.starts_with("Usage:"));
    lines.map(str::trim).collect::<Vec<_>>().join(" ")
}

impl RunArguments {
    /// The configuration file, if any, with the options over it.
    pub(crate) fn configuration(&self) -> Result<MachineConfig, InputError> {
        let mut config = match &self.config {
            Some(path) => {
                let text =
                    std::fs::read_to_string(path).map_err(|error| InputError::io("config", path, &error))?;
                toml::from_str(&text).map_err(|error| {
                    let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
                    let line = before.matches('\n').count() + 1;
                    let reason = error.message().replace('\n', " ");
                    InputError::file("config", path, format!("line {line}: {reason}"))
                })?
            }
            None => MachineConfig::default(),
        };
        fn set<T: Clone>(place: &mut T, option: &Option<T>) {
            if let Some(value) = option {
                place.clone_from(value);
            }
        }
        set(&mut config.name, &self.name);
        set(&mut config.cpus, &self.cpus);
        set(&mut config.memory, &self.memory);
        if self.memory_min.is_some() {
            config.memory_min = self.memory_min;
        }
        set(&mut config.append, &self.append);
        set(&mut config.boot, &self.boot);
        set(&mut config.processor, &self.processor);
        set(&mut config.translator, &self.translator);
        set(&mut config.enlightenments, &self.enlightenments);
        set(&mut config.synthetic, &self.synthetic);
        set(&mut config.integration, &self.integration);
        set(&mut config.serial, &self.serial);
        set(&mut config.display, &self.display);
        set(&mut config.nic, &self.nic);
        if !self.nets.is_empty() {
            config.nets = self.nets.iter().filter_map(|net| net.0.clone()).collect();
        }
        for (place, option) in [
            (&mut config.kernel, &self.kernel),
            (&mut config.initrd, &self.initrd),
            (&mut config.api, &self.api),
            (&mut config.vsock, &self.vsock),
        ] {
            if option.is_some() {
                place.clone_from(option);
            }
        }
        if self.firmware.is_some() {
            config.firmware.clone_from(&self.firmware);
        }
        config.test_devices |= self.test_devices;
        if self.gdb.is_some() {
            config.gdb.clone_from(&self.gdb);
        }
        if self.cdrom.is_some() {
            config.cdrom.clone_from(&self.cdrom);
        }
        if !self.modules.is_empty() {
            config.modules.clone_from(&self.modules);
        }
        if !self.disks.is_empty() {
            config.disks.clone_from(&self.disks);
        }
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(arguments: &[&str]) -> Result<Box<RunArguments>, String> {
        let arguments = ["bodhi", "run"].iter().chain(arguments).map(|text| (*text).to_owned());
        match parse_from(arguments) {
            Ok(Command::Run(arguments)) => Ok(arguments),
            Ok(other) => panic!("{other:?}"),
            Err((text, _)) => Err(text),
        }
    }

    #[test]
    fn the_options_of_the_command_line_make_a_configuration() {
        let arguments = run(&[
            "--kernel=vmlinuz",
            "--append=-x root=/dev/sda",
            "--disk=a.img,readonly",
            "--disk=b.img,bus=scsi",
            "--memory=1G",
            "--cpus=2",
            "--synthetic=off",
        ]);
        let config = arguments.unwrap().configuration().unwrap();
        assert_eq!((config.cpus, config.memory.0, config.synthetic), (2, 1 << 30, Switch::Off));
        assert_eq!(config.append, "-x root=/dev/sda");
        assert_eq!(config.disks.len(), 2);
    }

    #[test]
    fn options_override_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("vm.toml");
        let text = "name = \"a\"\ncpus = 4\nmemory = \"64M\"\n[[disk]]\nfile = \"a.img\"\nbus = \"ide\"\n";
        std::fs::write(&file, text).unwrap();
        let arguments = run(&["--config", file.to_str().unwrap(), "--cpus", "1"]).unwrap();
        let config = arguments.configuration().unwrap();
        assert_eq!((config.name.as_str(), config.cpus, config.memory.0), ("a", 1, 64 << 20));
        assert_eq!(config.disks[0].file, PathBuf::from("a.img"));
    }

    #[test]
    fn debugger_and_test_devices_are_options_and_keys() {
        let config = run(&["--gdb=:1234,nowait", "--test-devices"]).unwrap().configuration().unwrap();
        let keys: MachineConfig = toml::from_str("gdb = \":1234,nowait\"\ntest-devices = true\n").unwrap();
        assert_eq!(config, keys);
        assert!(config.gdb.is_some_and(|gdb| !gdb.wait));
    }

    #[test]
    fn a_file_that_is_wrong_is_named_with_its_line() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("vm.toml");
        std::fs::write(&file, "cpus = 1\nspeed = 9\n").unwrap();
        let arguments = run(&["--config", file.to_str().unwrap()]).unwrap();
        let error = arguments.configuration().unwrap_err().to_string();
        assert!(
            error.starts_with(&format!("--config {}: line 2: unknown field `speed`", file.display())),
            "{error}"
        );
    }

    #[test]
    fn wrong_values_are_told_in_one_line_with_their_option() {
        let error = run(&["--processor", "quantum"]).unwrap_err();
        assert_eq!(
            error,
            "invalid value 'quantum' for '--processor <P>': must be auto, kvm, translator or interpreter"
        );
        let error = run(&["--disk", "d.img,bus=usb"]).unwrap_err();
        assert!(error.starts_with("invalid value 'd.img,bus=usb' for '--disk <F[,OPTIONS]>'"), "{error}");
        assert!(!run(&["--fast"]).unwrap_err().contains('\n'));
    }
}
