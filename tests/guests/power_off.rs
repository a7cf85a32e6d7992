//! How long an installed Debian takes to power off: at the host's request, and by itself.

use std::time::{Duration, Instant};

use guests::{JOB, POWER_OFF, Running};

use crate::installed::{Booted, USER, log_in, power_on};
use crate::integration::wait_for;

/// How much longer the host's request may take than the guest's own command.
const SLACK: Duration = Duration::from_millis(500);
/// Each way is timed so often, in turn.
const ROUNDS: usize = 3;

/// A guest that has come up and idles, with root's shell on its console.
fn idle() -> Booted {
    let mut booted = power_on(&[]);
    let running = &mut booted.running;
    log_in(running);
    running.type_line(&format!("echo {USER} | sudo -S -p '' true; sudo sh"));
    running.expect("# ", JOB);
    running.type_line("systemctl is-system-running --wait; sleep 5; echo id''le");
    running.expect("idle", JOB);
    running.expect("# ", JOB);
    wait_for(running, "shutdown", "ok");
    booted
}

/// From `ask` to the end of the worker.
fn timed(ask: impl FnOnce(&mut Running)) -> Duration {
    let Booted { mut running, directory: _directory } = idle();
    let start = Instant::now();
    ask(&mut running);
    let end = running.wait(POWER_OFF);
    let taken = start.elapsed();
    end.assert_powered_off();
    taken
}

#[test]
#[ignore = "six boots of an installed system: make test-all"]
fn the_host_s_request_powers_off_as_fast_as_the_guest_s_own_command() {
    let (mut by_guest, mut by_host) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        by_guest.push(timed(|running| running.type_line("poweroff")));
        by_host.push(timed(|running| {
            running.bodhi(&["shutdown"]).assert_done();
        }));
    }
    println!("power-off by the guest: {by_guest:.2?}; at the host's request: {by_host:.2?}");
    by_guest.sort();
    by_host.sort();
    let (guest, host) = (by_guest[ROUNDS / 2], by_host[ROUNDS / 2]);
    assert!(host <= guest + SLACK, "{host:.2?} at the host's request, {guest:.2?} by the guest itself");
}
