//! What KVM promises beyond the common list. These run in the nested host: see `nested.rs`.

use guests::{BOOT, Bus, JOB, Kernel, Machine, POWER_OFF, root_image};

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
    let running = machine(&["--cpus", "2"]).script(script).start();
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
    assert!(cells[2].parse::<u64>().unwrap() >= 1000, "{row}");
    let hypercalls = end.errors.lines().find_map(|line| line.strip_prefix("exit.hypercall "));
    let hypercalls: u64 = hypercalls.expect("a count of hypercalls").trim().parse().unwrap();
    assert!(hypercalls < 200, "{hypercalls}: messages only\n{}", end.errors);
}
