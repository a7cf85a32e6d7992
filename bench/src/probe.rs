//! What leaving the guest costs: the probe's table, a column for each processor that this host has.

use guests::{Accelerator, Probe, Row, has_kvm, is_nested};

/// Prints the table: the quickest and the mean round trip in cycles of the TSC.
pub fn measure() {
    let ours = |processor| Probe::bodhi(2, &["--processor", processor]);
    let mut columns: Vec<(&str, Probe)> = Vec::new();
    // In the nested host the translators have nothing to translate for but a translator.
    if !is_nested() {
        columns.push(("interpreter", ours("interpreter")));
        columns.push(("translator", ours("translator")));
        columns.push(("QEMU TCG", Probe::qemu(Accelerator::Tcg, 2)));
    }
    if has_kvm() {
        columns.push(("KVM", ours("kvm")));
        // QEMU's test devices do not survive what two processors do to a message slot.
        columns.push(("QEMU KVM", Probe::qemu(Accelerator::Kvm, 1)));
    }
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
