//! A disk with an installed Debian: firmware, GRUB, its own kernel and systemd, up to a shell.

use std::time::Duration;

use guests::{BOOT, Bus, JOB, Machine, POWER_OFF, Program, Running, installed_image, row};
use tempfile::TempDir;

/// The user and the password of a disk that was built without options.
pub(crate) const USER: &str = "bodhi";
/// From power-on to GRUB's menu, of which UEFI firmware takes most.
const GRUB: Duration = Duration::from_secs(180);
/// Where the root disk hangs, and what the system thinks of itself.
const FACTS: &str = "until systemctl -q is-active ssh; do sleep 1; done; echo fac''ts: $(findmnt -no SOURCE /) \
    $(cat /sys/class/scsi_host/host$(lsblk -dno HCTL $(lsblk -pno PKNAME $(findmnt -no SOURCE /)) | cut -d: -f1)/proc_name) \
    $(nproc) $(systemd-detect-virt) e''nd";

pub(crate) struct Booted {
    pub(crate) running: Running,
    pub(crate) directory: TempDir,
}

/// Switches a machine with the disk on.
pub(crate) fn power_on(options: &[&str]) -> Booted {
    power_on_with("1G", options)
}

/// As [`power_on`], with another amount of RAM.
pub(crate) fn power_on_with(memory: &str, options: &[&str]) -> Booted {
    let directory = TempDir::new().expect("a folder");
    let machine = Machine::firmware(directory.path().join("api"));
    let machine =
        machine.disk_with(&installed_image(), Bus::Auto, ",snapshot").options(&["--memory", memory]);
    let running = machine.options(options).start();
    running.expect("GNU GRUB", GRUB);
    Booted { running, directory }
}

/// Waits for the prompt of the login behind what has been printed so far, and logs in.
pub(crate) fn log_in(running: &mut Running) {
    running.expect("login: ", BOOT);
    running.type_line(USER);
    running.expect("Password: ", JOB);
    running.type_line(USER);
    running.expect(":~$ ", JOB);
}

/// What [`FACTS`] are. As they are typed, the words around them have quotes in them.
pub(crate) fn facts(running: &mut Running) -> String {
    running.type_line(FACTS);
    running.expect("facts: ", JOB);
    running.expect_with(" end\r\n", JOB).0
}

pub(crate) fn as_root(running: &mut Running, command: &str) {
    running.type_line(&format!("echo {USER} | sudo -S sh -c '{command}'"));
}

pub(crate) fn power_off(mut running: Running) {
    as_root(&mut running, "systemctl poweroff");
    running.wait(POWER_OFF).assert_powered_off();
}

#[test]
#[ignore = "a boot of an installed system, which takes minutes to make: make test-all"]
fn grub_reads_by_ide_and_linux_ends_on_storvsc() {
    let Booted { mut running, directory: _directory } = power_on(&[]);
    let at_grub = running.devices();
    assert_eq!(row(&at_grub, "ide0")["state"], "disk");
    assert!(row(&at_grub, "ide0")["requests"].as_u64() > Some(0), "{at_grub:#}");
    log_in(&mut running);
    assert_eq!(facts(&mut running), "/dev/sda3 storvsc_host 1 microsoft");
    let before = running.devices();
    assert_eq!(row(&before, "ide0")["state"], "taken over by storvsc-ide0");
    as_root(&mut running, "echo 3 >/proc/sys/vm/drop_caches; cat /boot/initrd* | wc -c; echo read: $((6*7))");
    running.expect("read: 42", JOB);
    let after = running.devices();
    assert_eq!(row(&before, "ide0")["exits"], row(&after, "ide0")["exits"], "{after:#}");
    let bytes = |table| row(table, "storvsc-ide0")["bytes_in"].as_u64();
    assert!(bytes(&after) > bytes(&before).map(|bytes| bytes + (20 << 20)), "{after:#}");
    power_off(running);
}

#[test]
#[ignore = "two boots of an installed system: make test-all"]
fn a_restart_begins_by_ide_again_and_without_the_synthetic_drivers_it_stays_there() {
    let Booted { mut running, directory: _directory } = power_on(&["--cpus", "2"]);
    log_in(&mut running);
    assert_eq!(facts(&mut running), "/dev/sda3 storvsc_host 2 microsoft");
    let before = row(&running.devices(), "ide0")["requests"].as_u64();
    // On Hyper-V ata_piix leaves disks to the driver that is not to be there.
    as_root(
        &mut running,
        "sed -i s/quiet/modprobe.blacklist=hv_vmbus,hv_storvsc\\ ata_piix.prefer_ms_hyperv=0/ /boot/grub/grub.cfg; \
         systemctl reboot",
    );
    running.expect("GNU GRUB", BOOT);
    log_in(&mut running);
    assert_eq!(facts(&mut running), "/dev/sda3 ata_piix 2 microsoft");
    let devices = running.devices();
    assert_eq!(row(&devices, "ide0")["state"], "disk");
    assert!(row(&devices, "ide0")["requests"].as_u64() > before, "{devices:#}");
    power_off(running);
}

#[test]
#[ignore = "a boot of an installed system: make test-all"]
fn with_emulated_devices_only_and_memory_beyond_the_device_hole_it_boots_the_same() {
    let Booted { mut running, directory: _directory } = power_on_with("4G", &["--synthetic", "off"]);
    log_in(&mut running);
    running.type_line("awk '/^MemTotal/ {print \"mem\" \"ory:\", int($2 / 1048576 + 0.5)}' /proc/meminfo");
    running.expect("memory: 4\r\n", JOB);
    assert_eq!(facts(&mut running), "/dev/sda3 ata_piix 1 microsoft");
    power_off(running);
}

#[test]
#[ignore = "a boot of an installed system: make test-all"]
fn on_a_machine_without_a_hypervisor_interface_it_boots_the_same() {
    let Booted { mut running, directory: _directory } =
        power_on(&["--enlightenments", "none", "--cpus", "2"]);
    log_in(&mut running);
    let facts = self::facts(&mut running);
    assert!(facts.starts_with("/dev/sda3 ata_piix 2 "), "{facts}");
    power_off(running);
}

#[test]
#[ignore = "a boot of an installed system by QEMU: make test-all"]
fn qemu_boots_the_same_disk() {
    let machine = Machine::bare(Program::Qemu).disk_with(&installed_image(), Bus::Ide, ",snapshot=on");
    let mut running = machine.options(&["-vga", "std"]).start();
    running.expect("GNU GRUB", GRUB);
    log_in(&mut running);
    assert_eq!(facts(&mut running), "/dev/sda3 ata_piix 1 qemu");
}

/// A variable of a kind of its own, and what it holds behind its four bytes of attributes.
const VARIABLE: &str = "/sys/firmware/efi/efivars/Bodhi-0d4a4a4e-3d6f-4c1e-9f0e-6d5c5b4a3921";

#[test]
#[ignore = "two boots of an installed system by UEFI: make test-all"]
fn uefi_boots_the_same_disk_and_keeps_its_variables_in_a_file() {
    let folder = TempDir::new().expect("a folder");
    let firmware = format!("uefi,vars={}", folder.path().join("vars").display());
    let Booted { mut running, directory: _directory } = power_on(&["--firmware", &firmware]);
    log_in(&mut running);
    assert_eq!(facts(&mut running), "/dev/sda3 storvsc_host 1 microsoft");
    assert_eq!(row(&running.devices(), "ide0")["state"], "taken over by storvsc-ide0");
    as_root(
        &mut running,
        &format!("printf \"\\007\\000\\000\\000kept\" >{VARIABLE}; echo written: $((6*7))"),
    );
    running.expect("written: 42", JOB);
    power_off(running);

    let Booted { mut running, directory: _directory } = power_on(&["--firmware", &firmware, "--cpus", "2"]);
    log_in(&mut running);
    assert_eq!(facts(&mut running), "/dev/sda3 storvsc_host 2 microsoft");
    running.type_line(&format!("echo read: $(tail -c 4 {VARIABLE}) $((6*7))"));
    running.expect("read: kept 42", JOB);
    power_off(running);
}
