//! The program dies under the guest: what the guest was told to be on the disk is there.

use std::time::Duration;

use guests::{BOOT, Bus, Image, JOB, Kernel, Machine, POWER_OFF};

/// Writes file after file and says so once each is synced.
const WRITE: &str = "cd /root; i=0
    while :; do i=$((i + 1)); yes block $i | head -c 100000 > file$i; sync file$i /root; echo synced=$i=; done";

/// Looks whether the files up to `COUNT` are as they were written.
const CHECK: &str = "cd /root; kept=0
    for i in $(seq COUNT); do yes block $i | head -c 100000 | cmp - file$i && kept=$((kept + 1)); done
    echo kept=$kept";

/// Kills the machine after `files` synced files and some of the next, and looks at the disk from a new one.
fn kill_during_writes(bus: Bus, options: &[&str], files: u32, delay: Duration) {
    let image = Image::root();
    let machine = || Machine::bodhi(Kernel::Cloud).disk(image.path(), bus).options(options);

    let running = machine().script(WRITE).start();
    running.expect("bodhi: script begins", BOOT);
    running.expect(&format!("synced={files}="), JOB);
    std::thread::sleep(delay);
    running.signal(libc::SIGKILL);
    let end = running.wait(POWER_OFF);
    assert_eq!(end.signal, Some(libc::SIGKILL));
    let synced = end.output.matches("synced=").count() - usize::from(!end.output.trim_end().ends_with('='));

    let running = machine().script(&CHECK.replace("COUNT", &synced.to_string())).start();
    running.expect("bodhi: script begins", BOOT);
    let end = running.wait(JOB);
    end.assert_powered_off();
    assert_eq!(end.value("kept"), synced.to_string());
    image.assert_clean();
}

#[test]
fn what_was_synced_survives_a_kill_on_storvsc() {
    kill_during_writes(Bus::Scsi, &[], 5, Duration::from_millis(70));
}

#[test]
#[ignore = "twenty boots: make test-all"]
fn what_was_synced_survives_ten_kills_on_storvsc() {
    for round in 0..10 {
        kill_during_writes(Bus::Scsi, &[], 3 + round, Duration::from_millis(u64::from(17 * round)));
    }
}

#[test]
#[ignore = "twenty boots: make test-all"]
fn what_was_synced_survives_ten_kills_on_ide() {
    for round in 0..10 {
        let delay = Duration::from_millis(u64::from(17 * round));
        kill_during_writes(Bus::Ide, &["--synthetic", "off"], 3 + round, delay);
    }
}
