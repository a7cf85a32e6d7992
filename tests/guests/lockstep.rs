//! The two tiers of the software processor in lock step: the first block whose translation does anything but what
//! the interpreter does ends the machine.
//!
//! Without synthetic devices, which access the guest's memory while it runs.

use guests::{BOOT, Bus, JOB, Kernel, Machine, POWER_OFF, root_image};

fn lock_step(kernel: Kernel, script: &str) {
    let machine = Machine::bodhi(kernel).disk_with(&root_image(), Bus::Ide, ",snapshot");
    let options = ["--processor", "lock-step", "--synthetic", "off"];
    let running = machine.options(&options).script(script).start();
    running.expect("bodhi: script begins", 2 * BOOT);
    running.expect("bodhi: script ended", 3 * JOB);
    let end = running.wait(POWER_OFF);
    end.assert_powered_off();
    assert!(end.errors.contains("lock step"), "{}", end.errors);
}

#[test]
fn the_tiers_agree_from_reset_to_init_and_on_32_bit_programs() {
    lock_step(Kernel::Cloud, "stress-32 2 && stress traps 3 && stress jit 2");
}

#[test]
#[ignore = "minutes of comparing: make test-all"]
fn the_tiers_agree_on_the_other_kernels() {
    lock_step(Kernel::Generic, "true");
    lock_step(Kernel::Backports, "true");
}

#[test]
#[ignore = "minutes of comparing: make test-all"]
fn the_tiers_agree_under_every_kind_of_load() {
    let jobs = "atomics 512\nexec 3\nfork 3\njit 3\nordering 20\npatch 20\npipes 20\nprotect 200\nsignals 5\n\
                step 1\nthreads 5\ntraps 10";
    lock_step(
        Kernel::Cloud,
        &format!(
            "echo '{jobs}' | while read -r job; do stress $job </dev/null || exit 1; done && stress-build 2 1"
        ),
    );
}
