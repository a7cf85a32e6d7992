//! What this host's KVM can do, and why it cannot be used if so.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use kvm_bindings::{
    CpuId, KVM_CAP_HYPERV, KVM_CAP_HYPERV_ENFORCE_CPUID, KVM_CAP_HYPERV_EVENTFD, KVM_CAP_HYPERV_SYNIC2,
    KVM_CAP_HYPERV_TIME, KVM_CAP_IMMEDIATE_EXIT, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, KVM_CAP_SET_GUEST_DEBUG,
    KVM_CAP_SET_GUEST_DEBUG2, KVM_CAP_SPLIT_IRQCHIP, KVM_CAP_SYS_HYPERV_CPUID, KVM_CAP_TSC_DEADLINE_TIMER,
    KVM_CAP_X86_USER_SPACE_MSR, KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE, KVM_GUESTDBG_BLOCKIRQ,
    KVM_MAX_CPUID_ENTRIES,
};
use kvm_ioctls::Kvm;
use thiserror::Error;

use crate::sys;

/// The device by which KVM is reached.
const DEVICE: &str = "/dev/kvm";
/// Where the host's processor says what it is.
const CPUINFO: &str = "/proc/cpuinfo";

/// Where KVM's modules say whether local APICs are the processor's (Intel's APIC virtualization, AMD's AVIC).
const APIC_VIRTUALIZATION: [&str; 2] =
    ["/sys/module/kvm_intel/parameters/enable_apicv", "/sys/module/kvm_amd/parameters/avic"];

/// What any machine needs.
const NEEDED: [(u32, &str); 3] = [
    (KVM_CAP_SPLIT_IRQCHIP, "KVM_CAP_SPLIT_IRQCHIP"),
    (KVM_CAP_IMMEDIATE_EXIT, "KVM_CAP_IMMEDIATE_EXIT"),
    (KVM_CAP_X86_USER_SPACE_MSR, "KVM_CAP_X86_USER_SPACE_MSR"),
];
/// What the hypervisor interface needs.
const NEEDED_FOR_HYPERV: [(u32, &str); 6] = [
    (KVM_CAP_HYPERV, "KVM_CAP_HYPERV"),
    (KVM_CAP_HYPERV_TIME, "KVM_CAP_HYPERV_TIME"),
    (KVM_CAP_HYPERV_SYNIC2, "KVM_CAP_HYPERV_SYNIC2"),
    (KVM_CAP_HYPERV_EVENTFD, "KVM_CAP_HYPERV_EVENTFD"),
    (KVM_CAP_SYS_HYPERV_CPUID, "KVM_CAP_SYS_HYPERV_CPUID"),
    (KVM_CAP_HYPERV_ENFORCE_CPUID, "KVM_CAP_HYPERV_ENFORCE_CPUID"),
];

/// Why this host's KVM cannot be used.
#[derive(Debug, Error)]
pub enum HostError {
    /// There is none.
    #[error(
        "there is no {0}: the kernel has no KVM, its module (kvm-intel, kvm-amd) is not loaded, or virtualization is off in the firmware"
    )]
    Absent(PathBuf),
    /// This user may not use it.
    #[error("no permission to open {device}: it is for {group}")]
    Permission {
        /// The device.
        device: PathBuf,
        /// The group that may.
        group: String,
    },
    /// It cannot be opened.
    #[error("cannot open {device}")]
    Open {
        /// The device.
        device: PathBuf,
        /// The host's reason.
        #[source]
        source: io::Error,
    },
    /// The file is something else.
    #[error("{0} is not KVM")]
    NotKvm(PathBuf),
    /// No hardware is behind it.
    #[error(
        "{0} has no hardware virtualization behind it (the processor has neither svm nor vmx): it would interpret most of an operating system"
    )]
    Interprets(PathBuf),
    /// The kernel is too old or was built without something.
    #[error("this kernel's KVM lacks {0}")]
    Capabilities(String),
    /// The kernel's KVM has no Hyper-V emulation.
    #[error("this kernel's KVM lacks {0}, which enlightenments need (CONFIG_KVM_HYPERV, Linux 5.14)")]
    HyperV(String),
    /// A question was not answered.
    #[error("KVM does not say what it supports")]
    Query(#[source] io::Error),
}

impl HostError {
    /// What would help, where something can be done on this host.
    pub fn remedy(&self) -> Option<&'static str> {
        Some(match self {
            Self::Absent(_) => {
                "switch virtualization on in the firmware (or nested virtualization, if this host is a virtual machine) \
                 and load kvm-intel or kvm-amd"
            }
            Self::Permission { .. } => "have this user added to that group and log in again",
            Self::Interprets(_) => {
                "run on a host that offers svm or vmx, bare metal or with nested virtualization"
            }
            Self::Capabilities(_) | Self::HyperV(_) => {
                "take a kernel of Linux 5.14 or later that is built with CONFIG_KVM_HYPERV (before 6.8: CONFIG_KVM)"
            }
            Self::Open { .. } | Self::NotKvm(_) | Self::Query(_) => return None,
        })
    }
}

/// This host's KVM, fit for a machine.
#[derive(Debug)]
pub struct KvmHost {
    pub(crate) kvm: Kvm,
    pub(crate) supported: CpuId,
    /// Empty where the kernel has no Hyper-V emulation.
    hypervisor_leaves: Vec<(u32, [u32; 4])>,
    lacks_hyperv: Option<String>,
    has_hardware: bool,
}

impl KvmHost {
    /// Opens this host's KVM and asks what it can do.
    ///
    /// # Errors
    /// When there is none that can run a machine. One without hardware behind it and one without Hyper-V emulation
    /// can: see [`Self::recommended`].
    pub fn open() -> Result<Self, HostError> {
        Self::open_at(Path::new(DEVICE))
    }

    fn open_at(device: &Path) -> Result<Self, HostError> {
        let path = device.to_str().and_then(|path| std::ffi::CString::new(path).ok());
        let path = path.ok_or_else(|| HostError::NotKvm(device.to_owned()))?;
        let kvm = Kvm::new_with_path(path).map_err(|error| refused(device, io::Error::from(error)))?;
        if !sys::speaks_kvm(&kvm) {
            return Err(HostError::NotKvm(device.to_owned()));
        }
        if let Some(missing) = missing(&kvm, &NEEDED) {
            return Err(HostError::Capabilities(missing));
        }
        let supported =
            kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).map_err(|error| HostError::Query(error.into()))?;
        let lacks_hyperv = missing(&kvm, &NEEDED_FOR_HYPERV);
        let hypervisor_leaves = match &lacks_hyperv {
            Some(_) => Vec::new(),
            None => sys::supported_hypervisor_leaves(&kvm)
                .map_err(HostError::Query)?
                .as_slice()
                .iter()
                .map(|leaf| (leaf.function, [leaf.eax, leaf.ebx, leaf.ecx, leaf.edx]))
                .collect(),
        };
        let cpuinfo = fs::read_to_string(CPUINFO).map_err(HostError::Query)?;
        let has_hardware = has_virtualization(&cpuinfo);
        Ok(Self { kvm, supported, hypervisor_leaves, lacks_hyperv, has_hardware })
    }

    /// Whether machines should run on it.
    ///
    /// # Errors
    /// When it has no hardware behind it, or no Hyper-V emulation and `enlightened` is true.
    pub fn recommended(&self, enlightened: bool) -> Result<(), HostError> {
        if !self.has_hardware {
            return Err(HostError::Interprets(DEVICE.into()));
        }
        match &self.lacks_hyperv {
            Some(missing) if enlightened => Err(HostError::HyperV(missing.clone())),
            _ => Ok(()),
        }
    }

    /// Whether a machine with a hypervisor interface can run.
    ///
    /// # Errors
    /// When it lacks what that needs.
    pub fn enlightens(&self) -> Result<(), HostError> {
        self.lacks_hyperv.as_ref().map_or(Ok(()), |missing| Err(HostError::HyperV(missing.clone())))
    }

    /// EAX, EBX, ECX and EDX of a leaf of the hypervisor interface, with everything that this kernel supports.
    /// Zeros for a leaf that it does not know.
    pub fn hypervisor_leaf(&self, leaf: u32) -> [u32; 4] {
        self.hypervisor_leaves
            .iter()
            .find(|(number, _)| *number == leaf)
            .map_or([0; 4], |(_, values)| *values)
    }

    /// The most virtual processors of a machine.
    pub fn max_processors(&self) -> usize {
        self.kvm.get_max_vcpus()
    }

    /// Whether the processor ends interrupts and delivers them without KVM. A guest that uses automatic end of interrupt
    /// takes that away from itself (`APICV_INHIBIT_REASON_HYPERV` of *arch/x86/kvm/hyperv.c*).
    pub fn virtualizes_apics(&self) -> bool {
        APIC_VIRTUALIZATION.iter().any(|path| fs::read_to_string(path).is_ok_and(|text| says_yes(&text)))
    }

    pub(crate) fn has_hardware(&self) -> bool {
        self.has_hardware
    }

    /// Whether a debugger can stop a processor.
    pub(crate) fn has_debug(&self) -> bool {
        self.kvm.check_extension_raw(KVM_CAP_SET_GUEST_DEBUG.into()) > 0
    }

    /// Whether interrupts can wait while a debugger steps (Linux 5.15).
    pub(crate) fn can_block_interrupts(&self) -> bool {
        let flags = self.kvm.check_extension_raw(KVM_CAP_SET_GUEST_DEBUG2.into());
        u32::try_from(flags).is_ok_and(|flags| flags & KVM_GUESTDBG_BLOCKIRQ != 0)
    }

    /// Whether the log of written pages can be read without starting anew (Linux 5.0).
    pub(crate) fn has_manual_dirty_log(&self) -> bool {
        let modes = self.kvm.check_extension_raw(KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2.into());
        u32::try_from(modes).is_ok_and(|modes| modes & KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE != 0)
    }

    pub(crate) fn has_tsc_deadline(&self) -> bool {
        self.kvm.check_extension_raw(KVM_CAP_TSC_DEADLINE_TIMER.into()) > 0
    }
}

/// Whether the text of a module's parameter stands for true.
fn says_yes(text: &str) -> bool {
    matches!(text.trim(), "Y" | "1")
}

fn missing(kvm: &Kvm, needed: &[(u32, &str)]) -> Option<String> {
    let lacks = needed.iter().filter(|(number, _)| kvm.check_extension_raw((*number).into()) <= 0);
    let names: Vec<_> = lacks.map(|(_, name)| *name).collect();
    (!names.is_empty()).then(|| names.join(", "))
}

fn refused(device: &Path, error: io::Error) -> HostError {
    let device = device.to_owned();
    match error.kind() {
        io::ErrorKind::NotFound => HostError::Absent(device),
        io::ErrorKind::PermissionDenied => {
            let group = fs::metadata(&device).map(|metadata| metadata.gid());
            let group = group.ok().map_or_else(|| "root".to_owned(), group_name);
            HostError::Permission { device, group }
        }
        _ => match error.raw_os_error() {
            // What the module says that finds no virtualization, or finds it disabled.
            Some(libc::ENXIO | libc::ENODEV) => HostError::Absent(device),
            _ => HostError::Open { device, source: error },
        },
    }
}

fn group_name(gid: u32) -> String {
    let groups = fs::read_to_string("/etc/group").unwrap_or_default();
    group_in(&groups, gid).map_or_else(|| format!("group {gid}"), |name| format!("members of group {name}"))
}

fn group_in(groups: &str, gid: u32) -> Option<&str> {
    groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(gid)).then_some(name)
    })
}

/// Whether the flags of a processor in `cpuinfo` tell of AMD's or Intel's virtualization.
fn has_virtualization(cpuinfo: &str) -> bool {
    let flags = cpuinfo.lines().find(|line| line.starts_with("flags")).unwrap_or_default();
    flags.split_ascii_whitespace().any(|flag| flag == "svm" || flag == "vmx")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_without_the_device_is_told_what_may_be_missing() {
        let error = KvmHost::open_at(Path::new("/nowhere/kvm")).unwrap_err();
        assert!(matches!(error, HostError::Absent(_)), "{error:?}");
        assert!(error.to_string().starts_with("there is no /nowhere/kvm"), "{error}");
    }

    #[test]
    fn a_file_that_is_not_kvm_is_named() {
        let error = KvmHost::open_at(Path::new("/dev/null")).unwrap_err();
        assert_eq!(error.to_string(), "/dev/null is not KVM");
    }

    #[test]
    fn a_refusal_names_the_group_that_may() {
        let groups = "root:x:0:\nkvm:x:106:someone\n";
        assert_eq!(group_in(groups, 106), Some("kvm"));
        assert_eq!(group_in(groups, 107), None);
        let error = refused(Path::new("/etc/passwd"), io::Error::from_raw_os_error(libc::EACCES));
        assert_eq!(error.to_string(), "no permission to open /etc/passwd: it is for members of group root");
    }

    #[test]
    fn a_modules_parameter_is_a_letter_or_a_digit() {
        assert_eq!(["Y\n", "1\n", "N\n", "0\n", ""].map(says_yes), [true, true, false, false, false]);
    }

    #[test]
    fn hardware_is_known_by_the_processors_flags() {
        assert!(has_virtualization("processor : 0\nflags\t\t: fpu svm sse\n"));
        assert!(has_virtualization("flags\t\t: fpu vmx\n"));
        assert!(!has_virtualization("flags\t\t: fpu vme svm_lock\nvmx flags : ept\n"));
    }
}
