//! The device table as text.

use counters::{DeviceRow, Kind};

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
}
