//! What KVM promises beyond the common list. These run in the nested host: see `nested.rs`.

use guests::{BOOT, Bus, JOB, Kernel, Machine, POWER_OFF, root_image};

/// Whether this is the nested host, in which a test may do as it likes.
fn is_nested() -> bool {
    std::fs::read_to_string("/proc/cmdline").is_ok_and(|line| line.contains("nested.run="))
}

/// The device has another name until this goes.
struct Vanished;

impl Vanished {
    const AWAY: &str = "/dev/kvm.away";

    fn now() -> Self {
        std::fs::rename("/dev/kvm", Self::AWAY).expect("the device");
        Self
    }
}

impl Drop for Vanished {
    fn drop(&mut self) {
        std::fs::rename(Self::AWAY, "/dev/kvm").expect("the device");
    }
}

#[test]
fn a_machine_goes_on_without_the_device_and_another_does_not_start() {
    if !is_nested() {
        return;
    }
    let script =
        "if [ -e /root/again ]; then echo boots=2; exit 0; fi; touch /root/again; sync; busybox reboot -f";
    let running = machine(&[]).script(script).start();
    running.expect("bodhi: initramfs", BOOT);
    let vanished = Vanished::now();
    let other = machine(&[]).start().wait(POWER_OFF);
    assert_eq!(other.code, Some(1), "{other:?}");
    assert!(other.errors.starts_with("bodhi: --processor kvm: there is no /dev/kvm: "), "{other:?}");
    assert_eq!(other.errors.lines().count(), 1, "{other:?}");
    running.expect("bodhi: script begins", BOOT);
    running.expect("bodhi: script ended", BOOT + JOB);
    let end = running.wait(POWER_OFF);
    end.assert_powered_off();
    assert_eq!(end.value("boots"), "2", "a new virtual machine after the reset");
    drop(vanished);
}

fn machine(options: &[&str]) -> Machine {
    let machine = Machine::bodhi(Kernel::Cloud).disk_with(&root_image(), Bus::Auto, ",snapshot");
    machine.options(&["--processor", "kvm"]).options(options).append("quiet")
}

#[test]
fn two_processors_are_started_and_interrupt_each_other() {
    let script = "echo processors=$(nproc)
        for i in 1 2 3 4 5; do dd if=/dev/zero of=/run/a bs=1M count=4 2>/dev/null; rm /run/a; done
        echo calls=$(awk '/^CAL:/ { print ($2 > 0 && $3 > 0) }' /proc/interrupts)
        echo timers=$(awk '/^HVS:/ { print ($2 > 0 && $3 > 0) }' /proc/interrupts)
        echo hypercalls=$(dmesg | grep -c -e 'Using IPI hypercalls' -e 'Using hypercall for remote TLB flush')";
    // Direct timers have a row of their own there, and are not everywhere by `auto`.
    let running = machine(&["--cpus", "2", "--enlightenments", "all"]).script(script).start();
    running.expect("bodhi: script ended", BOOT + JOB);
    let end = running.wait(POWER_OFF);
    end.assert_powered_off();
    let values = ["processors", "calls", "timers", "hypercalls"].map(|name| end.value(name).to_owned());
    assert_eq!(values, ["2", "1", "1", "2"]);
}

#[test]
fn signals_of_channels_do_not_come_to_user_space() {
    let script = "dd if=/dev/sda of=/dev/null bs=4k count=1000 iflag=direct 2>/dev/null; echo read=yes";
    let running = machine(&[]).script(script).start();
    running.expect("bodhi: script ended", BOOT + JOB);
    let end = running.wait(POWER_OFF);
    end.assert_powered_off();
    // The rows of the table at the end: name, kind, exits, requests.
    let row = end.errors.lines().find(|line| line.starts_with("storvsc-ide0")).expect("the disk's row");
    let cells: Vec<_> = row.split_whitespace().collect();
    // On several of the host's processors one signal may stand for several requests.
    assert!(cells[2].parse::<u64>().unwrap() >= 100, "{row}");
    assert!(cells[3].parse::<u64>().unwrap() >= 1000, "{row}");
    let hypercalls = end.errors.lines().find_map(|line| line.strip_prefix("exit.hypercall "));
    let hypercalls: u64 = hypercalls.expect("a count of hypercalls").trim().parse().unwrap();
    assert!(hypercalls < 200, "{hypercalls}: messages only\n{}", end.errors);
}
