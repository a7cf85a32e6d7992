//! Where disks and the optical drive hang.

use std::fmt;

use crate::config::{CdromBus, DiskBus, DiskConfig, MAX_DISKS, MAX_IDE_DISKS, MachineConfig};

/// The secondary master, where firmware and users look for it.
const CDROM_POSITION: u8 = 2;
/// What the SCSI controller is called.
const CONTROLLER: &str = "scsi0";

/// Where a disk or a drive hangs. As text it is the disk's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// On the IDE buses.
    Ide {
        /// 0 primary master, 1 primary slave, 2 secondary master, 3 secondary slave.
        position: u8,
        /// Whether the guest reaches it by an IDE-type VMBus channel too.
        synthetic: bool,
    },
    /// On the synthetic SCSI controller.
    Scsi {
        /// Number of the unit.
        lun: u8,
    },
}

impl Place {
    /// The number on the SCSI controller, of those that are there.
    pub fn lun(self) -> Option<u8> {
        match self {
            Self::Ide { .. } => None,
            Self::Scsi { lun } => Some(lun),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ide { position, .. } => write!(f, "ide{position}"),
            Self::Scsi { lun } => write!(f, "{CONTROLLER}:{lun}"),
        }
    }
}

/// Where each disk of `config` hangs. Disks that may choose take IDE positions while there are any, but not
/// beside disks that are on IDE only: a guest either leaves all IDE disks to its synthetic driver or none.
pub(super) fn of_disks(config: &MachineConfig, synthetic: bool) -> Vec<Place> {
    let needs_ide = |disk: &DiskConfig| disk.bus == DiskBus::Ide || !synthetic;
    let takeover = !config.disks.iter().any(needs_ide);
    let cdrom = config.cdrom.as_ref().is_some_and(|cdrom| cdrom.bus == CdromBus::Ide);
    let mut positions = (0..MAX_IDE_DISKS as u8).filter(|&position| !cdrom || position != CDROM_POSITION);
    let mut luns = 0..;
    let mut place = |disk: &DiskConfig| {
        let wants_ide = needs_ide(disk) || (disk.bus == DiskBus::Auto && takeover);
        let position = if wants_ide { positions.next() } else { None };
        match position {
            Some(position) => Place::Ide { position, synthetic: synthetic && disk.bus != DiskBus::Ide },
            None => Place::Scsi { lun: luns.next().unwrap_or_default() },
        }
    };
    config.disks.iter().map(&mut place).collect()
}

/// Where the optical drive hangs, beside disks at `disks`.
pub(super) fn of_cdrom(bus: CdromBus, disks: &[Place]) -> Place {
    match bus {
        CdromBus::Ide => Place::Ide { position: CDROM_POSITION, synthetic: false },
        CdromBus::Scsi => Place::Scsi { lun: next_lun(None, disks.iter().copied()).unwrap_or_default() },
    }
}

/// The number for a new unit beside those at `places`. The one after `last` if it is free, so that a guest
/// that is slow to see a unit go does not take its successor for it.
pub(super) fn next_lun(last: Option<u8>, places: impl Iterator<Item = Place>) -> Option<u8> {
    let taken: Vec<u8> = places.filter_map(Place::lun).collect();
    let count = MAX_DISKS as u8 + 1;
    let first = last.map_or(0, |last| last + 1);
    (0..count).map(|step| (first + step) % count).find(|lun| !taken.contains(lun))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(disks: &[&str], cdrom: Option<&str>, synthetic: bool) -> Vec<Place> {
        let config = MachineConfig {
            disks: disks.iter().map(|disk| disk.parse().unwrap()).collect(),
            cdrom: cdrom.map(|cdrom| cdrom.parse().unwrap()),
            ..MachineConfig::default()
        };
        of_disks(&config, synthetic)
    }

    fn ide(position: u8, synthetic: bool) -> Place {
        Place::Ide { position, synthetic }
    }

    fn scsi(lun: u8) -> Place {
        Place::Scsi { lun }
    }

    #[test]
    fn a_disk_by_itself_is_on_both_sides() {
        assert_eq!(places(&["a"], None, true), [ide(0, true)]);
        assert_eq!(places(&["a"], None, false), [ide(0, false)]);
        assert_eq!(places(&["a,bus=ide"], None, true), [ide(0, false)]);
        assert_eq!(places(&["a,bus=scsi"], None, true), [scsi(0)]);
    }

    #[test]
    fn the_cdrom_takes_the_secondary_master_or_the_unit_after_the_disks() {
        let disks = places(&["a", "b", "c", "d"], Some("cd.iso"), true);
        assert_eq!(disks, [ide(0, true), ide(1, true), ide(3, true), scsi(0)]);
        assert_eq!(of_cdrom(CdromBus::Ide, &disks), ide(2, false));
        let disks = places(&["a", "b,bus=scsi", "c"], Some("cd.iso,bus=scsi"), true);
        assert_eq!(disks, [ide(0, true), scsi(0), ide(1, true)]);
        assert_eq!(of_cdrom(CdromBus::Scsi, &disks), scsi(1));
    }

    #[test]
    fn beside_disks_for_ide_only_those_that_may_choose_are_on_scsi() {
        let places = places(&["a", "b,bus=ide", "c,bus=scsi"], None, true);
        assert_eq!(places, [scsi(0), ide(0, false), scsi(1)]);
    }

    #[test]
    fn a_number_comes_again_as_late_as_possible() {
        let taken = [scsi(0), scsi(2), ide(1, true)];
        assert_eq!(next_lun(None, taken.into_iter()), Some(1));
        assert_eq!(next_lun(Some(1), taken.into_iter()), Some(3));
        assert_eq!(next_lun(Some(63), taken.into_iter()), Some(1));
        assert_eq!(next_lun(Some(7), (0..64).map(scsi)), None);
    }
}
