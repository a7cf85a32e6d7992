//! Kernels come up with the disk and the clock that the machine promises.

use guests::{BOOT, Bus, End, Image, JOB, Kernel, Machine, POWER_OFF, root_image};

/// Tells where the root disk hangs, what time is taken from and what the kernel thinks it runs on.
const FACTS: &str = r#"
source=$(findmnt -no SOURCE /)
echo root=$source
echo disks=$(lsblk -dno NAME,TYPE | grep -c disk)
host=$(lsblk -dno HCTL $source | cut -d: -f1)
echo driver=$(cat /sys/class/scsi_host/host$host/proc_name)
echo clock=$(cat /sys/devices/system/clocksource/clocksource0/current_clocksource)
echo release=$(uname -r)
echo hypervisor=$(dmesg | grep -c 'Hypervisor detected: Microsoft Hyper-V')
echo mentions=$(dmesg | grep -v 'Command line' | grep -ci -e hyper-v -e hyperv)
echo vmbus=$(ls /sys/bus/vmbus/devices 2>/dev/null | wc -l)
"#;

fn boot(kernel: Kernel, options: &[&str]) -> End {
    let machine = Machine::bodhi(kernel).disk_with(&root_image(), Bus::Auto, ",snapshot");
    let running = machine.options(options).script(FACTS).start();
    running.expect("bodhi: script begins", BOOT);
    running.expect("bodhi: script ended", JOB);
    let end = running.wait(POWER_OFF);
    end.assert_powered_off();
    end
}

fn assert_enlightened(kernel: Kernel) {
    let end = boot(kernel, &[]);
    assert_eq!(end.value("release"), kernel.release());
    assert_eq!(end.value("hypervisor"), "1");
    assert_eq!(end.value("root"), "/dev/sda");
    assert_eq!(end.value("driver"), "storvsc_host");
    assert_eq!(end.value("clock"), "hyperv_clocksource_tsc_page");
}

#[test]
fn debian_12_boots_from_storvsc() {
    assert_enlightened(Kernel::Generic);
}

#[test]
fn debian_12_cloud_boots_from_storvsc() {
    assert_enlightened(Kernel::Cloud);
}

#[test]
fn the_newest_backports_kernel_boots_from_storvsc() {
    assert_enlightened(Kernel::Backports);
}

#[test]
fn without_synthetic_devices_the_root_is_on_ata_piix() {
    let end = boot(Kernel::Cloud, &["--synthetic", "off"]);
    assert_eq!(end.value("hypervisor"), "1");
    assert_eq!(end.value("driver"), "ata_piix");
    assert_eq!(end.value("disks"), "1");
    assert_eq!(end.value("vmbus"), "0");
}

#[test]
fn without_enlightenments_the_guest_sees_no_hyper_v() {
    let end = boot(Kernel::Cloud, &["--enlightenments", "none"]);
    assert_eq!(end.value("mentions"), "0");
    assert_eq!(end.value("driver"), "ata_piix");
    assert_eq!(end.value("vmbus"), "0");
}

#[test]
#[ignore = "a second boot of each kernel: make test-all"]
fn the_other_kernels_boot_without_synthetic_devices_too() {
    for kernel in [Kernel::Generic, Kernel::Backports] {
        assert_eq!(boot(kernel, &["--synthetic", "off"]).value("driver"), "ata_piix");
    }
}

#[test]
#[ignore = "a second boot of each kernel: make test-all"]
fn the_other_kernels_boot_without_enlightenments_too() {
    for kernel in [Kernel::Generic, Kernel::Backports] {
        let end = boot(kernel, &["--enlightenments", "none"]);
        assert_eq!(end.value("mentions"), "0");
        assert_eq!(end.value("driver"), "ata_piix");
    }
}

#[test]
fn without_a_script_the_guest_ends_in_a_shell() {
    let image = Image::root();
    let mut running = Machine::bodhi(Kernel::Cloud).disk(image.path(), Bus::Auto).start();
    running.expect("root@bodhi:~#", BOOT);
    running.type_line("echo $((6 * 7)) > answer; echo the answer is $(cat answer)");
    running.expect("the answer is 42", JOB);
    running.type_line("exit");
    running.wait(POWER_OFF).assert_powered_off();
    image.assert_clean();
}

/// The initramfs of a 32-bit kernel ends in a shell of its own, with the disk at `/root`.
fn boot_32(kernel: Kernel, cpus: &str, synthetic: &str, driver: &str) {
    let machine = Machine::bodhi(kernel).disk_with(&root_image(), Bus::Auto, ",snapshot");
    let mut running = machine.options(&["--cpus", cpus, "--synthetic", synthetic]).start();
    running.expect("bodhi: shell", BOOT);
    running
        .type_line("echo fac''ts: $(uname -mr) $(nproc) $(cat /sys/class/scsi_host/host*/proc_name) e''nd");
    running.expect("facts: ", JOB);
    let facts = running.expect_with(" end", JOB).0;
    let mut words = facts.split_whitespace();
    assert_eq!(words.next(), Some(kernel.release().as_str()), "{facts}");
    assert_eq!((words.next(), words.next()), (Some("i686"), Some(cpus)), "{facts}");
    assert!(words.any(|word| word == driver), "{facts}");
    // What is on the disk is read and written.
    running.type_line("dd if=/dev/urandom of=/root/a bs=1M count=8; sync; echo 3 >/proc/sys/vm/drop_caches");
    running.type_line("cp /root/a /root/b; sync; cmp /root/a /root/b && echo sa''me");
    running.expect("same", JOB);
    running.type_line("poweroff -f");
    running.wait(POWER_OFF).assert_powered_off();
}

#[test]
#[ignore = "two boots of 32-bit kernels: make test-all"]
fn kernels_for_32_bit_processors_read_by_storvsc() {
    boot_32(Kernel::I386, "1", "on", "storvsc_host");
    boot_32(Kernel::I386Pae, "2", "on", "storvsc_host");
}

#[test]
#[ignore = "three boots of 32-bit kernels: make test-all"]
fn kernels_for_32_bit_processors_read_by_ide() {
    boot_32(Kernel::I386, "2", "off", "ata_piix");
    boot_32(Kernel::I386Pvh, "1", "off", "ata_piix");
    boot_32(Kernel::I386Pae, "1", "off", "ata_piix");
}
