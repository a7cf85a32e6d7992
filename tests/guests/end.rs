//! How a machine ends other than by power-off.

use guests::{BOOT, Bus, Image, JOB, Kernel, Machine, POWER_OFF, root_image};

#[test]
fn a_panic_of_the_guest_is_told_and_is_exit_code_1() {
    let machine = Machine::bodhi(Kernel::Cloud).disk_with(&root_image(), Bus::Auto, ",snapshot");
    let running = machine.script("echo c > /proc/sysrq-trigger").start();
    running.expect("bodhi: script begins", BOOT);
    let end = running.wait(JOB);
    assert_eq!(end.code, Some(1), "{}\n--- errors:\n{}", end.output, end.errors);
    assert!(end.errors.contains("panic"), "{}", end.errors);
}

#[test]
fn sigterm_stops_the_machine_and_the_disk_has_what_was_synced() {
    let image = Image::root();
    let running = Machine::bodhi(Kernel::Cloud)
        .disk(image.path(), Bus::Auto)
        .script("echo kept > /root/file; sync; echo ready; sleep 3600")
        .start();
    running.expect("ready", BOOT);
    running.signal(libc::SIGTERM);
    let end = running.wait(POWER_OFF);
    assert_eq!(end.signal, None, "{}", end.errors);

    let machine = Machine::bodhi(Kernel::Cloud).disk(image.path(), Bus::Auto);
    let end = machine.script("echo found=$(cat /root/file)").start().wait(BOOT + JOB);
    end.assert_powered_off();
    assert_eq!(end.value("found"), "kept");
    image.assert_clean();
}

#[test]
fn a_restart_of_the_guest_boots_it_again_from_the_same_disk() {
    let image = Image::root();
    let script = "if [ -e /root/restarted ]; then echo boots=2; exit 0; fi
        touch /root/restarted; sync; mount -o remount,ro /; exec busybox reboot -f";
    let running = Machine::bodhi(Kernel::Cloud).disk(image.path(), Bus::Auto).script(script).start();
    running.expect("bodhi: script begins", BOOT);
    running.expect("bodhi: script begins", BOOT);
    let end = running.wait(JOB);
    end.assert_powered_off();
    assert_eq!(end.value("boots"), "2");
    image.assert_clean();
}
