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
