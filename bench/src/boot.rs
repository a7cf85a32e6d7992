//! Boot to init, and how many instructions a second.

use std::time::Duration;

use guests::{BOOT, Bus, JOB, POWER_OFF, Program, root_image};

use crate::machine;
use crate::table::{Better, Table};

/// Times that each program boots; the best counts, as the one least disturbed.
const BOOTS: usize = 2;
/// Instructions of one round of the guest's `integer-loop`.
const LOOP: f64 = 300e6;
/// Rounds, so that starting the program does not count: a translator is done sooner.
const ROUNDS: [(Program, usize); 2] = [(Program::Bodhi, 4), (Program::Qemu, 20)];

/// Boots the cloud kernel under both programs and runs the integer loop there.
pub fn measure(table: &mut Table) {
    let mut to_init = [f64::INFINITY; 2];
    let mut to_root = [f64::INFINITY; 2];
    let mut rate = [0.0f64; 2];
    for _ in 0..BOOTS {
        for (column, (program, rounds)) in ROUNDS.into_iter().enumerate() {
            let arguments = "x ".repeat(rounds - 1);
            let machine = machine(program);
            let options = if program == Program::Bodhi { ",snapshot" } else { ",snapshot=on" };
            let running = machine
                .disk_with(&root_image(), Bus::Auto, options)
                .script(&format!("echo begin=; integer-loop {arguments}; echo end="))
                .start();
            let init = running.expect("bodhi: initramfs", BOOT);
            let root = running.expect("bodhi: script begins", BOOT);
            let begin = running.expect("begin=", JOB);
            let end = running.expect("end=", JOB);
            running.wait(POWER_OFF).assert_powered_off();
            to_init[column] = to_init[column].min(init.as_secs_f64());
            to_root[column] = to_root[column].min(root.as_secs_f64());
            rate[column] = rate[column].max(per_second(LOOP * rounds as f64, end - begin));
        }
    }
    table.both("cloud kernel, start to init", "s", to_init, Better::Less);
    table.both("cloud kernel, start to the root disk's init", "s", to_root, Better::Less);
    table.both("integer loop, million instructions", "/s", rate.map(|rate| rate / 1e6), Better::More);
}

fn per_second(count: f64, time: Duration) -> f64 {
    count / time.as_secs_f64()
}
