//! The setup disk in an installed Debian: from emulated to synthetic devices, and back.

use guests::{BOOT, JOB, Running, insert_setup_disk, row};
use serde_json::Value;

use crate::installed::{Booted, as_root, facts, log_in, power_off, power_on_with};
use crate::integration::{status, wait_for};

/// What keeps Hyper-V's drivers away, in each place where an owner may have put it.
const WORDS: &str = "modprobe.blacklist=hv_vmbus,hv_storvsc,hv_netvsc ata_piix.prefer_ms_hyperv=0";

/// What a shell of the guest says to `command`, one line.
fn say(running: &mut Running, command: &str) -> String {
    running.type_line(&format!("echo sa''id: $({command}) e''nd"));
    running.expect("said: ", JOB);
    // Perhaps nothing.
    running.expect_with("end\r\n", JOB).0.trim_end().to_owned()
}

/// MiB of RAM that the guest's kernel has.
fn total(running: &mut Running) -> u64 {
    say(running, "awk \"/^MemTotal/ { print int(\\$2 / 1024) }\" /proc/meminfo").parse().unwrap()
}

/// Where the legacy adapter's driver has found it, and what the interface is called then.
const LEGACY: &str = "basename -a /sys/bus/pci/drivers/tulip/0000:*/net/*";

/// Whether the gateway answers, to root.
const PING: &str =
    "echo bodhi | sudo -S ping -q -c 3 -i 0.3 10.0.2.2 2>/dev/null | grep -c \" 0% packet loss\"";

/// IPv4 addresses of an interface.
fn address(interface: &str) -> String {
    format!("ip -4 -o addr show dev {interface} | awk \"{{ print \\$4 }}\"")
}

/// Waits until an interface has this address, or none.
fn until(running: &mut Running, interface: &str, ip: &str) {
    say(running, &format!("until [ x$({}) = x{ip} ]; do sleep 0.2; done", address(interface)));
}

/// The addresses of the only synthetic network adapter, as `bodhi ip` tells them.
fn adapter(running: &Running) -> Value {
    let told: Value = serde_json::from_str(running.bodhi(&["ip", "--json"]).assert_done()).unwrap();
    told[0].clone()
}

#[test]
#[ignore = "four boots of an installed system, with an initramfs made twice: make test-all"]
fn a_guest_on_emulated_devices_gets_synthetic_ones_and_services_by_the_setup_disk_and_loses_them_again() {
    let nets = ["--net", "nat", "--net", "nat,nic=legacy"];
    let Booted { mut running, directory } =
        power_on_with("1G,max=1280M", &[&["--cdrom", "empty"], &nets[..]].concat());
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
    assert_eq!(row(&devices, "network0")["driver"], false);
    // The network is that of the legacy adapter.
    let legacy = say(&mut running, LEGACY);
    assert_eq!(say(&mut running, "ls -x /sys/class/net | xargs"), format!("{legacy} lo"));
    until(&mut running, &legacy, "10.0.2.15/24");
    assert_eq!(say(&mut running, PING), "1");
    assert!(row(&running.devices(), "network1")["state"].as_str().unwrap().starts_with("interface up; "));
    let none = status(&running);
    assert_eq!((&none["components"], &none["devices"][0]["driver"]), (&"none".into(), &false.into()));

    insert_setup_disk(&running).assert_done();
    as_root(&mut running, "mount -r /dev/sr0 /mnt && sh /mnt/install.sh; echo installed: $?; umount /mnt");
    let (said, _) = running.expect_with("installed: 0", 3 * JOB);
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

    // The network: both adapters have it, until the legacy one is not used any more.
    until(&mut running, &legacy, "10.0.2.15/24");
    as_root(&mut running, &format!("ip link set {legacy} down"));
    say(&mut running, &format!("until [ $(ip route show dev {legacy} | wc -l) = 0 ]; do sleep 0.2; done"));
    let sent = row(&running.devices(), "network1")["bytes_in"].as_u64();

    // The synthetic one: by DHCP, then as the host wants it.
    let synthetic = say(&mut running, "basename -a /sys/bus/vmbus/drivers/hv_netvsc/*/net/*");
    assert_eq!(row(&running.devices(), "network0")["driver"], true);
    until(&mut running, &synthetic, "10.0.2.15/24");
    assert_eq!(say(&mut running, PING), "1");
    assert_eq!(row(&running.devices(), "network1")["bytes_in"].as_u64(), sent);
    let told = adapter(&running);
    assert_eq!((&told["dhcp"], &told["gateways"][0]), (&true.into(), &"10.0.2.2".into()), "{told:#}");
    let wanted = ["--address", "10.0.2.60/24", "--gateway", "10.0.2.2", "--name-server", "10.0.2.3"];
    running.bodhi(&[&["ip"], &wanted[..]].concat()).assert_done();
    until(&mut running, &synthetic, "10.0.2.60/24");
    let gateway = "ip route show default | cut -d\" \" -f3";
    assert_eq!(say(&mut running, gateway), "10.0.2.2");
    assert_eq!(adapter(&running)["dhcp"], false);
    running.bodhi(&["ip", "--dhcp"]).assert_done();
    until(&mut running, &synthetic, "10.0.2.15/24");

    // Memory that is added is put to use.
    let before = total(&mut running);
    as_root(
        &mut running,
        "mount -o remount,size=2G /dev/shm; echo 0 >/sys/module/hv_balloon/parameters/pressure_report_delay",
    );
    let fill = "for i in $(seq 14); do head -c 50M /dev/zero >/dev/shm/f$i; sleep 1; done; rm /dev/shm/f*";
    say(&mut running, fill);
    let after = total(&mut running);
    assert!(after > before + 100, "{before} MiB have become {after}");

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
    running.expect("removed: 0, left: 0", 3 * JOB);
    running.expect("GNU GRUB", BOOT);

    // As it was before.
    log_in(&mut running);
    assert_eq!(facts(&mut running), "/dev/sda3 ata_piix 1 microsoft");
    assert_eq!(status(&running)["components"], "none");
    assert_eq!(row(&running.devices(), "network0")["driver"], false);
    assert_eq!(say(&mut running, "ls -x /sys/class/net | xargs"), format!("{legacy} lo"));
    until(&mut running, &legacy, "10.0.2.15/24");
    assert_eq!(say(&mut running, PING), "1");
    power_off(running);
}
