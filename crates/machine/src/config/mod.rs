//! The configuration of a machine: one schema for the TOML file, the API and the command line.

mod cdrom;
mod disk;
mod error;
mod firmware;
mod gdb;
mod module;
mod net;
mod port;
mod size;
mod translator;

pub use cdrom::{CdromBus, CdromConfig};
pub use disk::{DiskBus, DiskConfig, DiskFormat};
pub use error::InputError;
pub use firmware::{BootDevice, BootOrder, Firmware};
pub use gdb::{Gdb, GdbEndpoint};
pub use module::ModuleConfig;
pub use net::{NetConfig, NetOption, Network, Nic};
pub use port::PortConfig;
pub use size::MemorySize;
pub use translator::Translator;

use std::path::{Path, PathBuf};
use std::str::FromStr;

use enlightenment::{Feature, Features, UnknownFeature};
pub use integration::{ServiceKind, Services};
use serde::{Deserialize, Serialize};

/// The most virtual processors of a machine.
pub const MAX_CPUS: u32 = 64;
/// The most network adapters of a machine.
pub(crate) const MAX_NETS: usize = 8;
/// The least memory of a machine: below it no kernel of the last decade starts.
pub const MIN_MEMORY: u64 = 32 << 20;
/// The most disks of a machine: the addresses of one SCSI controller, one of which is the CD-ROM's.
pub const MAX_DISKS: usize = 63;
/// The most disks on the IDE buses: two channels of two, one of which the CD-ROM may take.
pub const MAX_IDE_DISKS: usize = 4;

const NO_SCSI: &str = "bus=scsi is a synthetic device, and --synthetic or --enlightenments leave it out";

/// A machine, as a user describes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct MachineConfig {
    /// What the machine is called.
    pub name: String,
    /// Number of virtual processors.
    pub cpus: u32,
    /// Amount of RAM.
    pub memory: MemorySize,
    /// How little of that the guest may be left with, if it gives back what it does not need.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_min: Option<MemorySize>,
    /// Where programs of the host reach sockets of the guest, and, with `_PORT` behind it, those of the guest the host's.
    pub vsock: Option<PathBuf>,
    /// The kernel to boot: a bzImage, an ELF vmlinux with a PVH entry, or what has a multiboot header.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernel: Option<PathBuf>,
    /// The kernel's initial RAM disk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub initrd: Option<PathBuf>,
    /// Further modules of a multiboot kernel.
    #[serde(rename = "module", skip_serializing_if = "Vec::is_empty")]
    pub modules: Vec<ModuleConfig>,
    /// The kernel's command line.
    pub append: String,
    /// The firmware to start with, in place of a kernel.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub firmware: Option<Firmware>,
    /// What the firmware boots from.
    pub boot: BootOrder,
    /// The disks, in order.
    #[serde(rename = "disk")]
    pub disks: Vec<DiskConfig>,
    /// The optical drive, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cdrom: Option<CdromConfig>,
    /// What carries out the guest's instructions.
    pub processor: ProcessorChoice,
    /// What is to be told of translated code.
    #[serde(skip_serializing_if = "Translator::is_none")]
    pub translator: Translator,
    /// Which parts of the hypervisor interface the guest is offered.
    pub enlightenments: Enlightenments,
    /// Whether the guest gets synthetic devices beside the emulated ones.
    pub synthetic: Switch,
    /// Which integration services the guest is offered.
    pub integration: Services,
    /// Where the first serial port leads.
    pub serial: Serial,
    /// The screen.
    pub display: Display,
    /// The network adapters, in order.
    #[serde(rename = "net", skip_serializing_if = "Vec::is_empty")]
    pub nets: Vec<NetConfig>,
    /// What the guest sees of those of them that do not say it themselves.
    pub nic: Nic,
    /// Whether the guest gets devices for conformance suites and test guests.
    pub test_devices: bool,
    /// Where a debugger may connect.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gdb: Option<Gdb>,
    /// The control socket.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api: Option<PathBuf>,
}

impl Default for MachineConfig {
    fn default() -> Self {
        Self {
            name: "bodhi".to_owned(),
            cpus: 1,
            memory: MemorySize(512 << 20),
            memory_min: None,
            vsock: None,
            kernel: None,
            initrd: None,
            modules: Vec::new(),
            append: String::new(),
            firmware: None,
            boot: BootOrder::default(),
            disks: Vec::new(),
            cdrom: None,
            processor: ProcessorChoice::Auto,
            translator: Translator::default(),
            enlightenments: Enlightenments::Auto,
            synthetic: Switch::On,
            integration: Services::ALL,
            serial: Serial::Stdio,
            display: Display::None,
            nets: Vec::new(),
            nic: Nic::default(),
            test_devices: false,
            gdb: None,
            api: None,
        }
    }
}

impl MachineConfig {
    /// Checks whatever can be checked without opening a file.
    ///
    /// # Errors
    /// Names the first option that is wrong.
    pub fn validate(&self) -> Result<(), InputError> {
        if self.name.is_empty() || self.name.contains(['/', '\0', '\n']) {
            return Err(InputError::new(
                "name",
                &self.name,
                "a name is not empty and has no slash or line end",
            ));
        }
        if self.cpus == 0 || self.cpus > MAX_CPUS {
            return Err(InputError::new("cpus", self.cpus, format!("must be from 1 to {MAX_CPUS}")));
        }
        if self.cpus > 1 && self.processor == ProcessorChoice::LockStep {
            let reason = "the tiers are compared on one processor only";
            return Err(InputError::new("processor", "lock-step", reason));
        }
        if self.memory.0 < MIN_MEMORY {
            return Err(InputError::new(
                "memory",
                self.memory,
                format!("too small: a machine needs at least {}", MemorySize(MIN_MEMORY)),
            ));
        }
        self.validate_memory_min()?;
        if let Some(path) = &self.vsock
            && !self.has_vmbus()?
        {
            let reason = "needs a synthetic device, and --synthetic or --enlightenments leave it out";
            return Err(InputError::file("vsock", path, reason));
        }
        self.validate_boot()?;
        if self.append.contains(['\0', '\n']) {
            return Err(InputError::bare("append", "a command line is one line without NUL"));
        }
        if !self.translator.is_none() && !self.processor.may_translate() {
            let reason = "there is no translated code: --processor does not take the translator";
            return Err(InputError::new("translator", String::from(self.translator.clone()), reason));
        }
        let vmbus = self.has_vmbus()?;
        let synthetic = |net: &&NetConfig| self.nic_of(net) == Nic::Synthetic;
        if let Some(net) = self.nets.iter().find(synthetic).filter(|_| !vmbus) {
            let reason = "needs a synthetic device, and --synthetic or --enlightenments leave it out; \
                          --nic legacy needs none";
            return Err(InputError::new("net", net, reason));
        }
        if self.nets.len() > MAX_NETS {
            let reason = format!("a machine has up to {MAX_NETS} network adapters");
            return Err(InputError::bare("net", reason));
        }
        self.validate_disks(vmbus)
    }

    /// What the guest sees of an adapter.
    pub fn nic_of(&self, net: &NetConfig) -> Nic {
        net.nic.unwrap_or(self.nic)
    }

    /// Whether the machine starts with firmware: if that is named, or there is no kernel, and something else to boot
    /// from.
    pub fn boots_by_firmware(&self) -> bool {
        self.firmware.is_some() || self.kernel.is_none()
    }

    fn validate_memory_min(&self) -> Result<(), InputError> {
        let Some(least) = self.memory_min else { return Ok(()) };
        let reason = if least.0 < MIN_MEMORY {
            format!("too small: a machine needs at least {}", MemorySize(MIN_MEMORY))
        } else if least > self.memory {
            format!("is more than the machine has: {}", self.memory)
        } else if !self.has_vmbus()? {
            "needs a synthetic device, and --synthetic or --enlightenments leave it out".to_owned()
        } else {
            return Ok(());
        };
        Err(InputError::new("memory-min", least, reason))
    }

    fn validate_boot(&self) -> Result<(), InputError> {
        match (&self.kernel, &self.firmware) {
            (Some(kernel), Some(_)) => {
                let reason = "a kernel is started without firmware: give one of --kernel and --firmware";
                return Err(InputError::file("kernel", kernel, reason));
            }
            (None, None) if self.disks.is_empty() && self.cdrom.is_none() => {
                return Err(InputError::bare("kernel", "is required: there is nothing to boot"));
            }
            _ => {}
        }
        if self.boots_by_firmware() {
            if let Some(initrd) = &self.initrd {
                return Err(InputError::file("initrd", initrd, "needs a --kernel that takes it"));
            }
            if let Some(module) = self.modules.first() {
                return Err(InputError::file("module", &module.file, "needs a --kernel that takes it"));
            }
            if !self.append.is_empty() {
                return Err(InputError::bare("append", "needs a --kernel that takes it"));
            }
        }
        Ok(())
    }

    /// What the guest is offered of the hypervisor interface.
    ///
    /// # Errors
    /// When the list has a name that is none.
    pub fn features(&self) -> Result<Features, InputError> {
        if self.enlightenments == Enlightenments::Auto {
            return Ok(Features::ALL);
        }
        let text = String::from(self.enlightenments.clone());
        text.parse().map_err(|error: UnknownFeature| InputError::bare("enlightenments", error.to_string()))
    }

    /// Whether there is a VMBus: synthetic devices need the parts of the hypervisor interface by which guest
    /// and host talk.
    ///
    /// # Errors
    /// As [`Self::features`].
    pub fn has_vmbus(&self) -> Result<bool, InputError> {
        let features = self.features()?;
        let mut needed = [Feature::PostMessages, Feature::SignalEvents].into_iter();
        Ok(self.synthetic == Switch::On && needed.all(|feature| features.contains(feature)))
    }

    fn validate_disks(&self, vmbus: bool) -> Result<(), InputError> {
        if self.disks.len() > MAX_DISKS {
            return Err(InputError::new("disk", self.disks.len(), format!("at most {MAX_DISKS} disks")));
        }
        // Disks beyond the IDE positions go to the SCSI controller, if they may.
        let mut ide = 0;
        match &self.cdrom {
            Some(cdrom) if cdrom.bus == CdromBus::Scsi && !vmbus => {
                return Err(InputError::new("cdrom", cdrom, NO_SCSI));
            }
            Some(cdrom) if cdrom.bus == CdromBus::Ide => ide += 1,
            _ => {}
        }
        for disk in &self.disks {
            if disk.bus == DiskBus::Scsi && !vmbus {
                return Err(InputError::file("disk", &disk.file, NO_SCSI));
            }
            let fixed = disk.bus == DiskBus::Ide || !vmbus;
            ide += usize::from(fixed);
            if ide > MAX_IDE_DISKS {
                return Err(InputError::file(
                    "disk",
                    &disk.file,
                    format!("at most {MAX_IDE_DISKS} drives fit on the IDE buses"),
                ));
            }
        }
        let mut seen: Vec<&Path> = Vec::new();
        for disk in &self.disks {
            if seen.contains(&disk.file.as_path()) {
                return Err(InputError::file("disk", &disk.file, "is given twice"));
            }
            seen.push(&disk.file);
        }
        Ok(())
    }
}

/// What carries out the guest's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProcessorChoice {
    /// The fastest that this host can run.
    #[default]
    Auto,
    /// The host's processor, by KVM.
    Kvm,
    /// The software processor, instruction by instruction.
    Interpreter,
    /// The software processor, with 64-bit code, and most 32-bit code, translated to host code.
    Translator,
    /// The software processor both ways, compared block by block: for tests.
    #[serde(rename = "lock-step")]
    LockStep,
}

impl ProcessorChoice {
    /// Whether there is translated code, at least if the user wants to see it.
    fn may_translate(self) -> bool {
        matches!(self, Self::Auto | Self::Translator)
    }
}

impl FromStr for ProcessorChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "kvm" => Ok(Self::Kvm),
            "interpreter" => Ok(Self::Interpreter),
            "translator" => Ok(Self::Translator),
            "lock-step" => Ok(Self::LockStep),
            _ => Err("must be auto, kvm, translator or interpreter".to_owned()),
        }
    }
}

/// On or off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Switch {
    /// On.
    #[default]
    On,
    /// Off.
    Off,
}

impl FromStr for Switch {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "on" => Ok(Self::On),
            "off" => Ok(Self::Off),
            _ => Err("must be on or off".to_owned()),
        }
    }
}

/// The screen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Display {
    /// No screen: the machine has a serial console.
    #[default]
    None,
}

impl FromStr for Display {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "none" { Ok(Self::None) } else { Err("must be none".to_owned()) }
    }
}

/// Which parts of the hypervisor interface the guest is offered.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Enlightenments {
    /// Everything that is implemented but for what costs more on this host than it brings.
    #[default]
    Auto,
    /// Everything that is implemented.
    All,
    /// No hypervisor is to be seen.
    None,
    /// These, by name.
    List(Vec<String>),
}

impl FromStr for Enlightenments {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "all" => Ok(Self::All),
            "none" => Ok(Self::None),
            "" => Err("must be auto, all, none or a list of names".to_owned()),
            list => Ok(Self::List(list.split(',').map(|name| name.trim().to_owned()).collect())),
        }
    }
}

impl TryFrom<String> for Enlightenments {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Enlightenments> for String {
    fn from(choice: Enlightenments) -> Self {
        match choice {
            Enlightenments::Auto => "auto".to_owned(),
            Enlightenments::All => "all".to_owned(),
            Enlightenments::None => "none".to_owned(),
            Enlightenments::List(names) => names.join(","),
        }
    }
}

/// Where a serial port leads.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Serial {
    /// The program's own input and output.
    #[default]
    Stdio,
    /// A file that takes the output.
    File(PathBuf),
    /// A Unix socket that one client after the other may connect to.
    Socket(PathBuf),
}

impl FromStr for Serial {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "stdio" => Ok(Self::Stdio),
            Some(("file", path)) if !path.is_empty() => Ok(Self::File(path.into())),
            Some(("socket", path)) if !path.is_empty() => Ok(Self::Socket(path.into())),
            _ => Err("must be stdio, file:F or socket:F".to_owned()),
        }
    }
}

impl TryFrom<String> for Serial {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Serial> for String {
    fn from(serial: Serial) -> Self {
        match serial {
            Serial::Stdio => "stdio".to_owned(),
            Serial::File(path) => format!("file:{}", path.display()),
            Serial::Socket(path) => format!("socket:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests;
