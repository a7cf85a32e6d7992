//! What the host knows of itself and of a machine's process (proc(5)).

use std::fs;
use std::os::unix::fs::MetadataExt;

use guests::Machine;

/// Clock ticks a second in /proc: the same on every x86-64 Linux.
const TICKS: f64 = 100.0;

/// Whether this program runs as root.
pub fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}

/// The processors that this program may use.
pub fn processors() -> Result<Vec<usize>, String> {
    let status = read("/proc/self/status")?;
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    list.and_then(parse_list).ok_or_else(|| "/proc/self/status has no Cpus_allowed_list".to_owned())
}

/// `0-2,5` as numbers.
fn parse_list(list: &str) -> Option<Vec<usize>> {
    let mut numbers = Vec::new();
    for range in list.trim().split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        numbers.extend(first.parse::<usize>().ok()?..=last.parse().ok()?);
    }
    Some(numbers)
}

/// Memory that a machine's process uses beyond the guest's RAM, in MiB: its proportional share of all its mappings but
/// the one that is as large as the RAM.
pub fn memory_beyond_ram(process: u32) -> Result<f64, String> {
    beyond_ram(&read(&format!("/proc/{process}/smaps"))?)
}

fn beyond_ram(smaps: &str) -> Result<f64, String> {
    let (mut share, mut size, mut others, mut rams) = (0, 0, 0, 0);
    for line in smaps.lines() {
        let mut words = line.split_whitespace();
        let (key, value) = (words.next(), words.next().and_then(|value| value.parse::<u64>().ok()));
        match (key, value) {
            // The size comes first.
            (Some("Size:"), Some(value)) => size = value,
            (Some("Pss:"), Some(value)) if size == Machine::MEMORY >> 10 => {
                (rams, share) = (rams + 1, share + value)
            }
            (Some("Pss:"), Some(value)) => others += value,
            _ => (),
        }
    }
    match rams {
        1 if share > 0 => Ok(others as f64 / 1024.0),
        _ => Err(format!("{rams} mappings are as large as the guest's RAM")),
    }
}

/// Processor time that a process and its threads have used, in seconds.
pub fn processor_time(process: u32) -> Result<f64, String> {
    let stat = read(&format!("/proc/{process}/stat"))?;
    // The name, in parentheses, may have blanks. utime and stime are fields 14 and 15, the state behind it is 3.
    let fields = stat.rsplit_once(')').map(|(_, fields)| fields.split_whitespace().skip(11).take(2));
    let ticks: Option<Vec<f64>> = fields.map(|fields| fields.flat_map(str::parse).collect());
    match ticks.as_deref() {
        Some([user, system]) => Ok((user + system) / TICKS),
        _ => Err(format!("/proc/{process}/stat has no times")),
    }
}

fn read(path: &str) -> Result<String, String> {
    fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_processors_has_ranges() {
        assert_eq!(parse_list("\t0-2,5\n"), Some(vec![0, 1, 2, 5]));
    }

    #[test]
    fn the_ram_does_not_count() {
        let smaps =
            "7f00-7f10 rw-p\nSize: 524288 kB\nPss: 300000 kB\n7f20-7f21 rw-p\nSize: 4096 kB\nPss: 2048 kB\n";
        assert_eq!(beyond_ram(smaps), Ok(2.0));
        assert!(beyond_ram("Size: 4096 kB\nPss: 2048 kB\n").is_err());
    }

    #[test]
    fn this_program_has_used_time() {
        assert!(processor_time(std::process::id()).is_ok());
    }
}
