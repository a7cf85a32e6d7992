//! Disks and discs that come and go while the guest runs.

use std::fs;
use std::path::Path;

use guests::{BOOT, Image, POWER_OFF, Running, iso, row};

const MIB: u64 = 1 << 20;

/// Waits until the guest has as many disks as told, and returns their names.
fn disks(running: &mut Running, count: usize) -> String {
    let list = "lsblk -dno NAME,TYPE | sed -n 's/ *disk$//p'";
    let wait = format!("until [ $({list} | wc -l) = {count} ]; do sleep 0.2; done; {list} | sort | xargs");
    running.ask(&wait)
}

fn pattern(image: &Image, byte: u8, bytes: u64) {
    fs::write(image.path(), vec![byte; bytes as usize]).unwrap();
}

fn state(running: &Running, device: &str) -> String {
    row(&running.devices(), device)["state"].as_str().unwrap().to_owned()
}

#[test]
fn disks_come_and_go_while_the_guest_runs_and_stay_over_a_reset() {
    let (first, second) = (Image::empty(0), Image::empty(0));
    pattern(&first, b'Z', 8 * MIB);
    pattern(&second, b'Y', 4 * MIB);
    let (first_path, second_path) = (first.path().to_str().unwrap(), second.path().to_str().unwrap());
    let mut running = Running::shell(&first, &[], &[]);
    assert_eq!(disks(&mut running, 1), "sda");
    assert_eq!(state(&running, "scsi0"), "driver bound; no units");

    // One comes.
    assert_eq!(running.bodhi(&["disk", "attach", first_path]).assert_done(), "scsi0:0\n");
    assert_eq!(disks(&mut running, 2), "sda sdb");
    assert_eq!(running.ask("tr -cd Z < /dev/sdb | wc -c"), (8 * MIB).to_string());
    assert_eq!(state(&running, "scsi0"), "driver bound; units 0");

    // A second one beside it, for reading only.
    let options = format!("{second_path},readonly,bus=scsi");
    assert_eq!(running.bodhi(&["disk", "attach", &options]).assert_done(), "scsi0:1\n");
    assert_eq!(disks(&mut running, 3), "sda sdb sdc");
    assert_eq!(running.ask("tr -cd Y < /dev/sdc | wc -c"), (4 * MIB).to_string());
    assert_eq!(running.ask("blockdev --getro /dev/sdc"), "1");
    let hosts = "lsblk -dno HCTL /dev/sdb /dev/sdc | cut -d: -f1 | uniq | wc -l";
    assert_eq!(running.ask(hosts), "1");

    // The first one goes with what the guest has written, and comes again elsewhere.
    let write =
        "yes W | tr -d '\\n' | dd of=/dev/sdb bs=64k count=16 iflag=fullblock 2>/dev/null; sync; echo $?";
    assert_eq!(running.ask(write), "0");
    running.bodhi(&["disk", "detach", "scsi0:0"]).assert_done();
    assert_eq!(disks(&mut running, 2), "sda sdc");
    let data = fs::read(first.path()).unwrap();
    assert_eq!(data.iter().filter(|byte| **byte == b'W').count() as u64, MIB);
    assert_eq!(running.bodhi(&["disk", "attach", first_path]).assert_done(), "scsi0:2\n");
    assert_eq!(disks(&mut running, 3), "sda sdb sdc");
    assert_eq!(running.ask("tr -cd W < /dev/sdb | wc -c"), MIB.to_string());

    // What does not do is told and changes nothing.
    let again = running.bodhi(&["disk", "attach", first_path]);
    assert_eq!(again.refusal(1), format!("{first_path}: is attached already, as scsi0:2"));
    let ide = running.bodhi(&["disk", "attach", "/nowhere.img,bus=ide"]);
    assert!(ide.refusal(2).starts_with("/nowhere.img: bus=ide: "), "{ide:?}");
    assert_eq!(running.bodhi(&["disk", "attach", "/nowhere.img"]).refusal(2), "/nowhere.img: no such file");
    assert_eq!(running.bodhi(&["disk", "detach", "scsi0:9"]).refusal(2), "scsi0:9: no such disk");
    let root = running.bodhi(&["disk", "detach", "ide0"]);
    assert_eq!(root.refusal(1), "ide0 is an IDE disk, which a running machine keeps");
    assert_eq!(state(&running, "scsi0"), "driver bound; units 1 2");

    // The next start finds what is present.
    running.bodhi(&["disk", "detach", second_path]).assert_done();
    running.type_line("busybox reboot -f");
    running.expect("bodhi: shell", BOOT);
    assert_eq!(disks(&mut running, 2).split(' ').count(), 2);
    let other = "$(lsblk -dpno NAME,MOUNTPOINTS | awk 'NF == 1')";
    assert_eq!(running.ask(&format!("tr -cd W < {other} | wc -c")), MIB.to_string());
    assert_eq!(state(&running, "scsi0"), "driver bound; units 2");
    running.type_line("exit");
    running.wait(POWER_OFF).assert_powered_off();
}

/// A disc is read, held, taken out and changed.
fn discs_change(options: &[&str], bus: &str) {
    let folder = Image::empty(0);
    let disc = |name: &str, text: &str| {
        let path = folder.folder().join(name);
        fs::write(&path, iso("TEXT.TXT", text.as_bytes())).unwrap();
        path
    };
    let (first, second) = (disc("first.iso", "the first disc"), disc("second.iso", "the second disc"));
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    let cdrom = format!("{},bus={bus}", text(&first));
    let mut running = Running::shell(&folder, &[&["--cdrom", &cdrom], options].concat(), &[]);
    let read = "dd if=/dev/sr0 bs=2048 skip=21 count=1 2>/dev/null | tr -d '\\0'; echo";
    running.ask("until [ -b /dev/sr0 ]; do sleep 0.2; done");
    assert_eq!(running.ask(read), "the first disc");
    assert_eq!(running.ask("mount -r -t iso9660 /dev/sr0 /mnt && cat /mnt/text.txt; echo"), "the first disc");

    // A disc that is mounted is held.
    let held = running.bodhi(&["disc", "eject"]);
    let expected = format!("{}: the guest holds the disc and has been asked to let it go", text(&first));
    assert_eq!(held.refusal(1), expected);
    running.ask("umount /mnt");

    running.bodhi(&["disc", "eject"]).assert_done();
    assert_eq!(running.ask("dd if=/dev/sr0 count=1 2>&1 | grep -o 'No medium'"), "No medium");
    if bus == "ide" {
        assert_eq!(state(&running, "ide2"), "optical drive, empty");
    }
    running.bodhi(&["disc", "insert", &text(&second)]).assert_done();
    assert_eq!(running.ask(read), "the second disc");
    assert_eq!(
        running.ask("mount -r -t iso9660 /dev/sr0 /mnt && cat /mnt/text.txt; echo"),
        "the second disc"
    );
    assert_eq!(running.bodhi(&["disc", "insert", "/nowhere.iso"]).refusal(2), "/nowhere.iso: no such file");
    running.bodhi(&["disc", "eject", "--force"]).assert_done();
    running.type_line("exit");
    running.wait(POWER_OFF).assert_powered_off();
}

#[test]
fn discs_change_beside_synthetic_devices() {
    discs_change(&[], "ide");
}

#[test]
fn discs_change_without_synthetic_devices() {
    discs_change(&["--synthetic", "off"], "ide");
}

#[test]
fn discs_change_on_the_synthetic_controller() {
    discs_change(&[], "scsi");
}
