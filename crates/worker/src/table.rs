//! The device table as text, and below it what the processors count.

use std::collections::BTreeMap;
use std::net::IpAddr;

use counters::{DeviceRow, Kind};
use machine::{AdapterStatus, Components, IntegrationStatus};

/// The table with a heading, columns aligned.
pub fn device_table(rows: &[DeviceRow]) -> String {
    let heading = ["device", "kind", "exits", "requests", "bytes in", "bytes out", "interrupts", "state"];
    let mut lines = vec![heading.map(str::to_owned)];
    lines.extend(rows.iter().map(|row| {
        [
            row.name.clone(),
            kind(row.kind).to_owned(),
            row.exits.to_string(),
            row.requests.to_string(),
            row.bytes_in.to_string(),
            row.bytes_out.to_string(),
            row.interrupts.to_string(),
            row.state.clone(),
        ]
    }));
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; 8] = std::array::from_fn(width);
    let mut text = String::new();
    for line in &lines {
        let cells = line.iter().zip(widths).enumerate().map(|(column, (cell, width))| match column {
            2..=6 => format!("{cell:>width$}"),
            _ => format!("{cell:<width$}"),
        });
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// The integration services as a table, and the key-value pairs below it.
pub fn integration_table(status: &IntegrationStatus) -> String {
    let components = match status.components {
        Components::None => "none",
        Components::Partial => "partial",
        Components::Full => "full",
    };
    let mut lines = vec![["service", "state", "version", "last contact"].map(str::to_owned)];
    lines.extend(status.services.iter().map(|service| {
        [
            service.service.to_string(),
            match service.applications {
                Some(applications) => {
                    format!("{}, applications {}", service.state.text(), applications.text())
                }
                None => service.state.text().to_owned(),
            },
            service.version.clone().unwrap_or_default(),
            service
                .last_contact_ms
                .map(|ms| format!("{}.{} s ago", ms / 1000, ms % 1000 / 100))
                .unwrap_or_default(),
        ]
    }));
    let mut text = format!("integration components: {components}\n\n{}", aligned(&lines));
    let mut lines = vec![["device", "driver bound", "state"].map(str::to_owned)];
    lines.extend(status.devices.iter().map(|device| {
        let bound = if device.driver { "yes" } else { "no" };
        [device.device.clone(), bound.to_owned(), device.state.clone()]
    }));
    text.push_str(&format!("\n{}", aligned(&lines)));
    if !status.adapters.is_empty() {
        text.push_str(&format!("\n{}", address_table(&status.adapters)));
    }
    let pools = status.key_values.iter().flat_map(|pairs| {
        [("for the guest", &pairs.host), ("from the guest", &pairs.guest), ("the guest itself", &pairs.facts)]
    });
    for (heading, pairs) in pools.filter(|(_, pairs)| !pairs.is_empty()) {
        // What a guest says does not steer the terminal.
        let line =
            |(key, value): (&String, &String)| [key, value].map(|text| text.escape_debug().to_string());
        let lines: Vec<_> = pairs.iter().map(line).collect();
        text.push_str(&format!("\n{heading}\n{}", aligned(&lines)));
    }
    text
}

/// The addresses of network adapters as a table.
pub fn address_table(adapters: &[AdapterStatus]) -> String {
    let heading = ["adapter", "MAC address", "from", "addresses", "gateways", "name servers"];
    let mut lines = vec![heading.map(str::to_owned)];
    lines.extend(adapters.iter().map(|AdapterStatus { device, mac, addresses }| {
        let from = if addresses.dhcp { "DHCP" } else { "" };
        let ips = |ips: &[IpAddr]| join(ips.iter());
        [
            device.clone(),
            mac.clone(),
            from.to_owned(),
            join(addresses.addresses.iter()),
            ips(&addresses.gateways),
            ips(&addresses.name_servers),
        ]
    }));
    aligned(&lines)
}

fn join<T: ToString>(items: impl Iterator<Item = T>) -> String {
    items.map(|item| item.to_string()).collect::<Vec<_>>().join(" ")
}

/// Lines whose columns are as wide as their widest cell.
fn aligned<const N: usize>(lines: &[[String; N]]) -> String {
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(width);
    let line = |line: &[String; N]| {
        let cells = line.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
    };
    lines.iter().map(line).collect()
}

/// What begins the names of counts of translated code.
const TRANSLATOR: &str = "translator.";

/// What begins the names of counts of KVM: exits to user space.
const KVM: &str = "kvm.";

/// What the processors have counted, KVM's or the translators' with how often the TLB hit, with a heading; nothing if
/// there is nothing.
pub fn processor_table(counts: &BTreeMap<String, u64>) -> String {
    let rate = hit_rate(counts).map(|rate| ("tlb.hit-rate".to_owned(), format!("{rate:.2} %")));
    table("kvm", KVM, counts, None) + &table("translator", TRANSLATOR, counts, rate)
}

/// The counts whose names begin with `prefix`, if there are any, and `last`.
fn table(
    heading: &str,
    prefix: &str,
    counts: &BTreeMap<String, u64>,
    last: Option<(String, String)>,
) -> String {
    let own = |(name, &count): (&String, &u64)| {
        name.strip_prefix(prefix).filter(|_| count != 0).map(|name| (name.to_owned(), count.to_string()))
    };
    let mut lines: Vec<_> = counts.iter().filter_map(own).collect();
    if lines.is_empty() {
        return String::new();
    }
    lines.extend(last);
    lines.insert(0, (heading.to_owned(), "count".to_owned()));
    let names = lines.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let values = lines.iter().map(|(_, value)| value.len()).max().unwrap_or(0);
    let text = lines.iter().map(|(name, value)| format!("{name:<names$}  {value:>values$}\n"));
    "\n".to_owned() + &text.collect::<String>()
}

/// How many of 100 look-ups the first level of the TLB answers, if they are counted.
fn hit_rate(counts: &BTreeMap<String, u64>) -> Option<f64> {
    let count = |name: &str| counts.get(&format!("{TRANSLATOR}tlb.{name}")).copied().unwrap_or(0);
    let look_ups = count("look-ups");
    let misses: u64 =
        ["second-level", "filled", "split", "uncached", "code-writes", "faults"].into_iter().map(count).sum();
    (look_ups != 0).then(|| 100.0 - 100.0 * misses as f64 / look_ups as f64)
}

fn kind(kind: Kind) -> &'static str {
    match kind {
        Kind::Synthetic => "synthetic",
        Kind::Emulated => "emulated",
        Kind::Processor => "processor",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stand_right_and_words_left() {
        let row = |name: &str, exits| DeviceRow {
            name: name.to_owned(),
            kind: Kind::Emulated,
            state: "quiet".to_owned(),
            driver: None,
            exits,
            requests: 0,
            bytes_in: 0,
            bytes_out: 0,
            interrupts: 0,
        };
        let text = device_table(&[row("ide0", 7), row("serial0", 123_456)]);
        let lines: Vec<_> = text.lines().map(|line| line.split("  requests").next().unwrap()).collect();
        assert_eq!(lines[0], "device   kind       exits");
        assert!(lines[1].starts_with("ide0     emulated       7 "), "{text}");
        assert!(lines[2].starts_with("serial0  emulated  123456 "), "{text}");
    }
    #[test]
    fn a_processor_that_counts_look_ups_tells_its_hit_rate() {
        let counts = [("translator.tlb.look-ups", 400), ("translator.tlb.second-level", 3), ("msr.clock", 9)];
        let mut counts: BTreeMap<_, _> = counts.map(|(name, count)| (name.to_owned(), count)).into();
        counts.insert("translator.tlb.split".to_owned(), 1);
        let text = processor_table(&counts);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[1], "translator          count");
        assert_eq!(lines[2], "tlb.look-ups          400");
        assert_eq!(lines[5], "tlb.hit-rate      99.00 %");
    }

    #[test]
    fn without_translated_code_there_is_nothing_to_tell_of_it() {
        let counts = [("translator.cleared".to_owned(), 0), ("msr.clock".to_owned(), 9)].into();
        assert_eq!(processor_table(&counts), "");
    }
}
