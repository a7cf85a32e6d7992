//! What this host can do for machines, and what it cannot, with the remedy.

use enlightenment::Features;
use processor_kvm::{HostError, KvmHost};

/// What is to be said of KVM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kvm {
    /// Whether `--processor auto` takes it.
    pub chosen: bool,
    /// Whether `--processor kvm` works, with enlightenments.
    pub works: bool,
    /// What it can do, or what is in the way.
    pub finding: String,
    /// What would help.
    pub remedy: Option<&'static str>,
    /// The enlightenments that machines on it are not offered.
    pub lacks: Features,
}

/// Looks at this host's KVM.
pub fn kvm() -> Kvm {
    judge(KvmHost::open())
}

fn judge(host: Result<KvmHost, HostError>) -> Kvm {
    let problem = |error: &HostError, works| Kvm {
        chosen: false,
        works,
        finding: error.to_string(),
        remedy: error.remedy(),
        lacks: Features::ALL,
    };
    let host = match host {
        Ok(host) => host,
        Err(error) => return problem(&error, false),
    };
    let works = host.enlightens().is_ok();
    let offered = Features::ALL.within(|leaf| host.hypervisor_leaf(leaf));
    let lacks = offered.iter().fold(Features::ALL, Features::remove);
    match host.recommended(true) {
        Err(error) => Kvm { lacks, ..problem(&error, works) },
        Ok(()) => {
            let finding = format!(
                "the host's processor, {} of {} enlightenments, at most {} virtual processors",
                offered.iter().count(),
                Features::ALL.iter().count(),
                host.max_processors(),
            );
            Kvm { chosen: true, works, finding, remedy: None, lacks }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_the_way_comes_with_a_remedy_and_is_not_chosen() {
        let report = judge(Err(HostError::Absent("/dev/kvm".into())));
        assert!(!report.chosen && !report.works, "{report:?}");
        assert!(report.finding.contains("/dev/kvm") && report.remedy.is_some(), "{report:?}");
    }
}
