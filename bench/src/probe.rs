//! What leaving the guest costs: the probe's table, a column for each processor. In the nested host these are the KVMs.

use guests::{Probe, Program, Row, processor};

/// Prints the table: the quickest and the mean round trip in cycles of the TSC.
pub fn measure() {
    let ours = |processor| Probe::run(Program::Bodhi, 2, &["--processor", processor]);
    let nested = processor().is_some_and(|processor| processor == "kvm");
    let columns: Vec<(&str, Probe)> = if nested {
        // QEMU's test devices do not survive what two processors do to a message slot.
        vec![("KVM", ours("kvm")), ("QEMU KVM", Probe::run(Program::Qemu, 1, &[]))]
    } else {
        vec![
            ("interpreter", ours("interpreter")),
            ("translator", ours("translator")),
            ("QEMU TCG", Probe::run(Program::Qemu, 2, &[])),
        ]
    };
    println!();
    print!("{:24}", "cycles: least / mean");
    columns.iter().for_each(|(name, _)| print!("   {name:>20}"));
    println!();
    for name in columns[0].1.rows.iter().map(|row| row.name.as_str()) {
        print!("{name:24}");
        for (_, probe) in &columns {
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
