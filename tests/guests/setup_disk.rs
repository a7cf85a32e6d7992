//! The setup disk in an installed Debian: from emulated to synthetic devices, and back.

use guests::{BOOT, JOB, insert_setup_disk, row};

use crate::installed::{Booted, as_root, facts, log_in, power_off, power_on};
use crate::integration::{status, wait_for};

/// What keeps Hyper-V's drivers away, in each place where an owner may have put it.
const WORDS: &str = "modprobe.blacklist=hv_vmbus,hv_storvsc ata_piix.prefer_ms_hyperv=0";

#[test]
#[ignore = "four boots of an installed system, with an initramfs made twice: make test-all"]
fn a_guest_on_emulated_devices_gets_synthetic_ones_and_services_by_the_setup_disk_and_loses_them_again() {
    let Booted { mut running, directory } = power_on(&["--cdrom", "empty"]);
    log_in(&mut running);
    as_root(
        &mut running,
        &format!(
            "sed -i \"s/quiet/quiet {WORDS}/\" /boot/grub/grub.cfg; \
             sed -i \"s/^GRUB_CMDLINE_LINUX_DEFAULT=.*/GRUB_CMDLINE_LINUX_DEFAULT=\\\"quiet {WORDS}\\\"/\" /etc/default/grub; \
             echo blacklist hv_utils >/etc/modprobe.d/emulated.conf; \
             dpkg --purge hyperv-daemons; systemctl reboot"
        ),
    );
    running.expect("GNU GRUB", BOOT);

    // Emulated devices only.
    log_in(&mut running);
    assert_eq!(facts(&mut running), "/dev/sda3 ata_piix 1 microsoft");
    let devices = running.devices();
    assert_eq!(row(&devices, "ide0")["state"], "disk");
    assert_eq!(row(&devices, "storvsc-ide0")["state"], "no driver");
    let none = status(&running);
    assert_eq!((&none["components"], &none["devices"][0]["driver"]), (&"none".into(), &false.into()));

    insert_setup_disk(&running).assert_done();
    as_root(&mut running, "mount -r /dev/sr0 /mnt && sh /mnt/install.sh; echo installed: $?; umount /mnt");
    let (said, _) = running.expect_with("installed: 0", JOB);
    for line in [
        "has: hv_vmbus hv_storvsc",
        "/etc/modprobe.d/emulated.conf: no driver is kept away any more",
        "/etc/default/grub: the kernel is not told to keep drivers away any more",
        "/boot/grub/grub.cfg: the kernel is not told to keep drivers away any more",
        "making the initramfs anew",
        "backup: bodhi-backup.service",
    ] {
        assert!(said.contains(line), "{line:?} is missing:\n{said}");
    }
    running.bodhi(&["setup-disk", "eject", "--force"]).assert_done();
    as_root(&mut running, "systemctl reboot");
    running.expect("GNU GRUB", BOOT);

    // Synthetic ones, and every service.
    log_in(&mut running);
    assert_eq!(facts(&mut running), "/dev/sda3 storvsc_host 1 microsoft");
    assert_eq!(row(&running.devices(), "ide0")["state"], "taken over by storvsc-ide0");
    let full = wait_for(&running, "key-value", "ok");
    assert_eq!(
        (&full["components"], &full["devices"][0]["driver"]),
        (&"full".into(), &true.into()),
        "{full:#}"
    );
    assert_eq!(full["key-values"]["facts"]["OSName"], "Debian GNU/Linux");
    let source = format!("{}/guests/setup_disk.rs", env!("CARGO_MANIFEST_DIR"));
    running.bodhi(&["copy", &source, "/srv/file"]).assert_done();
    let backup = directory.path().join("backup.img");
    running.bodhi(&["image", "backup", backup.to_str().unwrap()]).assert_done();
    running.type_line("echo bytes: $(wc -c </srv/file) e''nd");
    let length = std::fs::metadata(&source).unwrap().len();
    running.expect(&format!("bytes: {length} end"), JOB);

    as_root(
        &mut running,
        "sh /usr/local/share/doc/bodhi-integration/install.sh --uninstall; echo removed: $?, \
         left: $(ls /usr/local/sbin /etc/systemd/system /etc/udev/rules.d | grep -c bodhi); systemctl reboot",
    );
    running.expect("removed: 0, left: 0", JOB);
    running.expect("GNU GRUB", BOOT);

    // As it was before.
    log_in(&mut running);
    assert_eq!(facts(&mut running), "/dev/sda3 ata_piix 1 microsoft");
    assert_eq!(status(&running)["components"], "none");
    power_off(running);
}
