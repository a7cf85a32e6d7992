//! What leaving the guest costs: the probe's table, a column for each processor.

use guests::{Probe, Program, Row};

const COLUMNS: [&str; 3] = ["interpreter", "translator", "QEMU TCG"];

/// Prints the table: the quickest and the mean round trip in cycles of the TSC.
pub fn measure() {
    let ours = |processor| Probe::run(Program::Bodhi, 2, &["--processor", processor]);
    let probes = [ours("interpreter"), ours("translator"), Probe::run(Program::Qemu, 2, &[])];
    println!();
    print!("{:24}", "cycles: least / mean");
    COLUMNS.iter().for_each(|column| print!("   {column:>20}"));
    println!();
    for name in probes[0].rows.iter().map(|row| row.name.as_str()) {
        print!("{name:24}");
        for probe in &probes {
            let text = match probe.row(name) {
                Some(Row { least, mean, .. }) => format!("{least} / {mean}"),
                None if probe.failed.iter().any(|failed| failed == name) => "failed".to_owned(),
                None => "-".to_owned(),
            };
            print!("   {text:>20}");
        }
        println!();
    }
}
