use std::fs;

use counters::DeviceCounters;
use storage::scsi::LogicalUnit;
use synthetic::storage::{ScsiSettings, scsi_instance};
use tempfile::TempDir;

use super::*;

/// A machine's disks without the machine, and a folder with images.
struct Rig {
    disks: Disks,
    controller: Arc<Controller>,
    config: MachineConfig,
    folder: TempDir,
}

impl Rig {
    fn new(disks: &[&str], cdrom: Option<&str>) -> Self {
        let folder = TempDir::new().unwrap();
        for name in ["a.img", "b.img", "c.img", "a.iso", "b.iso"] {
            fs::write(folder.path().join(name), vec![0; 1 << 16]).unwrap();
        }
        let in_folder = |text: &&str| format!("{}/{text}", folder.path().display());
        let cdrom =
            cdrom.map(|text| if text.starts_with("empty") { text.to_owned() } else { in_folder(&text) });
        let config = MachineConfig {
            disks: disks.iter().map(|disk| in_folder(disk).parse().unwrap()).collect(),
            cdrom: cdrom.map(|cdrom| cdrom.parse().unwrap()),
            ..MachineConfig::default()
        };
        let disks = Disks::open(&config).unwrap();
        let controller = Self::controller();
        disks.connect(&controller);
        Self { disks, controller, config, folder }
    }

    fn controller() -> Arc<Controller> {
        Controller::scsi(ScsiSettings {
            name: "scsi0".to_owned(),
            instance: scsi_instance(0),
            subchannels: 0,
            counters: DeviceCounters::default(),
        })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn attach(&self, text: &str) -> Result<String, ChangeError> {
        self.disks.attach(&format!("{}/{text}", self.folder.path().display()).parse().unwrap())
    }

    /// Whether somebody else may write the image.
    fn is_free(&self, name: &str) -> bool {
        storage::open(&self.path(name), &OpenOptions::default()).is_ok()
    }

    fn names(&self) -> Vec<String> {
        self.disks.status().into_iter().map(|disk| disk.name).collect()
    }

    fn input(&self, name: &str, reason: &str) -> ChangeError {
        ChangeError::Input(format!("{}: {reason}", self.path(name).display()))
    }

    fn refused(&self, name: &str, reason: &str) -> ChangeError {
        ChangeError::Refused(format!("{}: {reason}", self.path(name).display()))
    }
}

#[test]
fn a_disk_that_is_attached_is_locked_and_one_detached_is_free() {
    let rig = Rig::new(&["a.img"], None);
    assert_eq!(rig.attach("b.img"), Ok("scsi0:0".to_owned()));
    assert_eq!((rig.controller.luns(), rig.is_free("b.img")), (vec![0], false));
    assert_eq!(rig.names(), ["ide0", "scsi0:0"]);
    assert_eq!(rig.disks.detach("scsi0:0"), Ok(()));
    assert_eq!((rig.controller.luns(), rig.is_free("b.img")), (vec![], true));
    assert_eq!(rig.names(), ["ide0"]);
    // By its file as well, and under a new number.
    assert_eq!(rig.attach("b.img,bus=scsi"), Ok("scsi0:1".to_owned()));
    assert_eq!(rig.disks.detach(rig.path("b.img").to_str().unwrap()), Ok(()));
    assert!(rig.is_free("b.img"));
}

#[test]
fn the_configuration_follows_what_is_present() {
    let rig = Rig::new(&["a.img,bus=scsi"], Some("a.iso"));
    assert_eq!(rig.disks.present(&rig.config), rig.config);
    rig.attach("b.img,readonly").unwrap();
    rig.disks.detach("scsi0:0").unwrap();
    rig.disks.eject(false).unwrap();
    let present = rig.disks.present(&rig.config);
    let expected = format!("{},readonly,bus=scsi", rig.path("b.img").display());
    assert_eq!(present.disks, [expected.parse().unwrap()]);
    assert_eq!(present.cdrom, Some("empty".parse().unwrap()));
}

#[test]
fn the_next_board_gets_what_is_present() {
    let rig = Rig::new(&["a.img,bus=scsi", "b.img,bus=scsi"], Some("a.iso,bus=scsi"));
    assert_eq!(rig.controller.luns(), [0, 1, 2]);
    rig.disks.detach("scsi0:0").unwrap();
    rig.disks.reset();
    // Between two boards disks come and go as well.
    assert_eq!(rig.attach("c.img"), Ok("scsi0:3".to_owned()));
    rig.disks.detach("scsi0:1").unwrap();
    let next = Rig::controller();
    rig.disks.connect(&next);
    assert_eq!(next.luns(), [2, 3]);
}

#[test]
fn what_cannot_be_attached_is_told_and_changes_nothing() {
    let rig = Rig::new(&["a.img", "b.img,bus=scsi"], None);
    let only_scsi = "bus=ide: a running machine takes disks on its SCSI controller only, bus=scsi";
    assert_eq!(rig.attach("c.img,bus=ide"), Err(rig.input("c.img", only_scsi)));
    assert_eq!(rig.attach("missing.img"), Err(rig.input("missing.img", "no such file")));
    assert_eq!(rig.attach("./a.img"), Err(rig.refused("./a.img", "is attached already, as ide0")));
    let _other = storage::open(&rig.path("c.img"), &OpenOptions::default()).unwrap();
    let in_use = "in use by another virtual machine or program";
    assert_eq!(rig.attach("c.img"), Err(rig.input("c.img", in_use)));
    assert_eq!(rig.disks.detach("scsi0:7"), Err(ChangeError::Input("scsi0:7: no such disk".to_owned())));
    let kept = ChangeError::Refused("ide0 is an IDE disk, which a running machine keeps".to_owned());
    assert_eq!(rig.disks.detach("ide0"), Err(kept));
    assert_eq!(rig.names(), ["ide0", "scsi0:0"]);
    assert_eq!(rig.disks.present(&rig.config), rig.config);
}

#[test]
fn a_machine_without_vmbus_takes_no_disk() {
    let folder = TempDir::new().unwrap();
    let config = MachineConfig { synthetic: crate::config::Switch::Off, ..MachineConfig::default() };
    let disks = Disks::open(&config).unwrap();
    let disk = format!("{}/a.img", folder.path().display());
    let Err(ChangeError::Refused(reason)) = disks.attach(&disk.parse().unwrap()) else { panic!() };
    assert_eq!(
        reason,
        format!(
            "{disk}: the machine has no synthetic SCSI controller: --synthetic or --enlightenments leave it out"
        )
    );
}

#[test]
fn a_machine_takes_sixty_three_disks() {
    let rig = Rig::new(&[], Some("empty,bus=scsi"));
    let mut names = Vec::new();
    for number in 0..=MAX_DISKS {
        fs::write(rig.path(&format!("{number}.img")), [0; 512]).unwrap();
        names.push(rig.attach(&format!("{number}.img")));
    }
    assert_eq!(rig.disks.drive_status().unwrap().name, "scsi0:0");
    assert_eq!(names[0], Ok("scsi0:1".to_owned()));
    assert_eq!(names[62], Ok("scsi0:63".to_owned()));
    assert_eq!(names[63], Err(rig.refused("63.img", "a machine has at most 63 disks")));
}

#[test]
fn after_the_end_nothing_changes() {
    let rig = Rig::new(&["a.img,bus=scsi"], Some("a.iso"));
    rig.disks.end().unwrap();
    let ended = ChangeError::Refused("the machine has come to its end".to_owned());
    assert_eq!(rig.attach("b.img"), Err(ended.clone()));
    assert_eq!(rig.disks.detach("scsi0:0"), Err(ended.clone()));
    assert_eq!(rig.disks.eject(true), Err(ended.clone()));
    assert_eq!(rig.disks.insert(&rig.path("b.iso")), Err(ended));
}

#[test]
fn a_disc_is_changed_and_the_old_one_is_free() {
    let rig = Rig::new(&[], Some("a.iso"));
    let state = || rig.disks.drive().unwrap().to_string();
    assert_eq!(state(), format!("optical drive, {}", rig.path("a.iso").display()));
    assert_eq!(rig.disks.insert(&rig.path("b.iso")), Ok(()));
    assert_eq!((rig.is_free("a.iso"), rig.is_free("b.iso")), (true, false));
    assert_eq!(rig.disks.eject(false), Ok(()));
    assert_eq!((state(), rig.is_free("b.iso")), ("optical drive, empty".to_owned(), true));
    let empty = ChangeError::Refused("ide2: the drive is empty".to_owned());
    assert_eq!(rig.disks.eject(false), Err(empty));
    let missing = rig.path("missing.iso");
    assert_eq!(rig.disks.insert(&missing), Err(rig.input("missing.iso", "no such file")));
    assert_eq!(state(), "optical drive, empty");
}

#[test]
fn a_disc_that_the_guest_holds_stays_unless_forced() {
    const PREVENT: [u8; 6] = [0x1e, 0, 0, 0, 1, 0];
    let rig = Rig::new(&[], Some("a.iso,bus=scsi"));
    let unit = Arc::clone(&rig.disks.drive().unwrap().unit);
    unit.execute(&PREVENT, &[], &mut Vec::new());
    assert!(rig.disks.drive_status().unwrap().locked);
    let held = rig.refused("a.iso", "the guest holds the disc and has been asked to let it go");
    assert_eq!(rig.disks.eject(false), Err(held.clone()));
    assert_eq!(rig.disks.insert(&rig.path("b.iso")), Err(held));
    assert!(!rig.is_free("a.iso"));
    assert_eq!(rig.disks.eject(true), Ok(()));
    assert!(rig.is_free("a.iso"));
    // The guest's will went with its disc; a reset would have ended it as well.
    assert!(!rig.disks.drive_status().unwrap().locked);
}

#[test]
fn a_machine_without_a_drive_takes_no_disc() {
    let rig = Rig::new(&[], None);
    let none = ChangeError::Refused("the machine has no optical drive: --cdrom gives it one".to_owned());
    assert_eq!(rig.disks.insert(&rig.path("a.iso")), Err(none.clone()));
    assert_eq!(rig.disks.eject(false), Err(none));
}
