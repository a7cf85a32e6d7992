//! Disks on both paths: takeover, data kept under load, write protection.

use guests::{BOOT, Bus, End, Image, JOB, Kernel, Machine, POWER_OFF, row};

/// Writes with random sizes at random places, many at a time, and reads every block back with its checksum.
const VERIFY: &str = "fio --name=verify --filename=/var/tmp/fio --size=24m --rw=randwrite --bsrange=4k-128k \
    --bs_unaligned=0 --direct=1 --ioengine=libaio --iodepth=32 --verify=crc32c --do_verify=1 --verify_fatal=1 \
    --randrepeat=0 --minimal > /run/fio || { cat /run/fio; exit 1; }; echo verified=yes";

fn verify_on(bus: Bus, options: &[&str], script: &str) -> End {
    let image = Image::root();
    let machine = Machine::bodhi(Kernel::Cloud).disk(image.path(), bus).options(options);
    let running = machine.script(script).start();
    running.expect("bodhi: script begins", BOOT);
    running.expect("bodhi: script ended", JOB);
    let end = running.wait(POWER_OFF);
    end.assert_powered_off();
    assert_eq!(end.value("verified"), "yes");
    image.assert_clean();
    end
}

#[test]
fn a_random_load_on_storvsc_is_read_back_as_written() {
    verify_on(Bus::Scsi, &[], VERIFY);
}

#[test]
fn a_random_load_on_ide_is_read_back_as_written() {
    verify_on(Bus::Ide, &["--synthetic", "off"], VERIFY);
}

#[test]
#[ignore = "minutes of load: make test-all"]
fn a_long_random_load_is_read_back_as_written_on_both_paths() {
    let long = VERIFY.replace("--size=24m", "--size=256m").replace("--bsrange=4k", "--bsrange=512");
    verify_on(Bus::Scsi, &[], &long);
    verify_on(Bus::Ide, &["--synthetic", "off"], &long);
}

#[test]
fn the_synthetic_disk_takes_over_and_the_emulated_one_goes_quiet() {
    let image = Image::root();
    let machine =
        Machine::bodhi(Kernel::Generic).disk(image.path(), Bus::Auto).api(image.folder().join("api"));
    let mut running = machine.start();
    running.expect("root@bodhi:~#", BOOT);
    let before = running.devices();
    running
        .type_line("echo count=$(lsblk -dno TYPE | grep -c disk)=; cat /sys/class/scsi_host/host*/proc_name");
    running.expect("count=1=", JOB);
    running.type_line("dd if=/dev/zero of=/var/tmp/zeroes bs=64k count=128 conv=fsync && echo wr''itten");
    running.expect("written", JOB);
    let after = running.devices();
    running.type_line("exit");
    let end = running.wait(POWER_OFF);
    end.assert_powered_off();
    image.assert_clean();

    assert_eq!(row(&before, "ide0")["requests"], row(&after, "ide0")["requests"], "{after:#}");
    assert_eq!(row(&before, "ide0")["exits"], row(&after, "ide0")["exits"], "{after:#}");
    let written = |devices| row(devices, "storvsc-ide0")["bytes_out"].as_u64().expect("bytes");
    assert!(written(&after) - written(&before) >= 8 << 20, "{after:#}");
}

#[test]
fn a_disk_for_reading_is_write_protected_in_the_guest() {
    let root = Image::root();
    let data = Image::empty(1 << 20);
    std::fs::write(data.path(), vec![0x5a; 1 << 20]).unwrap();
    let script = "data=$(lsblk -dpno NAME,MOUNTPOINTS | awk 'NF == 1')
        echo protected=$(blockdev --getro $data)
        dd if=/dev/zero of=$data bs=4k count=1 oflag=direct 2>/dev/null || echo refused=yes
        echo bytes=$(tr -cd Z < $data | wc -c)";
    let machine = Machine::bodhi(Kernel::Cloud).disk(root.path(), Bus::Scsi);
    let running = machine.disk_with(data.path(), Bus::Scsi, ",readonly").script(script).start();
    running.expect("bodhi: script begins", BOOT);
    let end = running.wait(JOB);
    end.assert_powered_off();
    assert_eq!(end.value("protected"), "1");
    assert_eq!(end.value("refused"), "yes");
    assert_eq!(end.value("bytes"), "1048576");
    assert!(std::fs::read(data.path()).unwrap().iter().all(|byte| *byte == 0x5a));
}

#[test]
fn the_optical_drive_reads_its_medium() {
    let (root, medium) = (Image::root(), Image::empty(0));
    let sectors: Vec<u8> = (0..2048 * 200).map(|at| (at / 2048 * 7 + at % 251) as u8).collect();
    std::fs::write(medium.path(), &sectors).unwrap();
    let copy = Image::empty(1 << 20);
    let machine = Machine::bodhi(Kernel::Cloud).disk(root.path(), Bus::Auto).disk(copy.path(), Bus::Scsi);
    let running = machine
        .options(&["--cdrom", medium.path().to_str().unwrap()])
        .script(
            "data=$(lsblk -dpno NAME,TYPE,MOUNTPOINTS | awk '$2 == \"disk\" && NF == 2 { print $1 }')
            echo bytes=$(blockdev --getsize64 /dev/sr0)
            dd if=/dev/sr0 of=$data bs=64k iflag=direct conv=fsync 2>/dev/null",
        )
        .start();
    running.expect("bodhi: script begins", BOOT);
    let end = running.wait(JOB);
    end.assert_powered_off();
    assert_eq!(end.value("bytes"), sectors.len().to_string());
    assert!(std::fs::read(copy.path()).unwrap().starts_with(&sectors), "the copy differs");
}

#[test]
fn a_disk_in_use_is_refused_to_a_second_machine() {
    let image = Image::root();
    let first = Machine::bodhi(Kernel::Cloud).disk(image.path(), Bus::Auto).start();
    first.expect("bodhi: initramfs", BOOT);
    let second = Machine::bodhi(Kernel::Cloud).disk(image.path(), Bus::Auto).start().wait(POWER_OFF);
    assert_eq!(second.code, Some(2), "{second:?}");
    let lines: Vec<_> = second.errors.lines().collect();
    assert_eq!(lines.len(), 1, "{second:?}");
    assert!(lines[0].contains("--disk") && lines[0].contains(image.path().to_str().unwrap()), "{second:?}");
}
