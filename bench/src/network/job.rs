//! What is measured in a guest, and how its programs say it.

use guests::{Running, row};

/// Round trips of which the median is taken.
const ROUND_TRIPS: usize = 2000;
/// Bytes of UDP's data in a small packet.
const SMALL: u32 = 64;

/// Where data goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the guest to the host.
    Out,
    /// From the host to the guest.
    In,
}

/// A thing to measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Job {
    /// TCP by so many connections, in Mbit/s.
    Stream(Direction, u32),
    /// Small packets of UDP that arrive, in packets a second.
    Packets(Direction),
    /// Median of a ping, in µs.
    RoundTrip,
}

/// All of them.
pub const JOBS: [Job; 7] = [
    Job::Stream(Direction::Out, 1),
    Job::Stream(Direction::Out, 4),
    Job::Stream(Direction::In, 1),
    Job::Stream(Direction::In, 4),
    Job::Packets(Direction::Out),
    Job::Packets(Direction::In),
    Job::RoundTrip,
];

/// Where the guest finds the host.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    /// The host's address.
    pub address: &'static str,
    /// Where iperf3 listens.
    pub port: u16,
}

/// What a job came to.
#[derive(Debug, Clone, Copy)]
pub struct Figures {
    /// In the job's unit.
    pub value: f64,
    /// What it cost on bodhi.
    pub costs: Option<Costs>,
}

/// What a megabyte of frames cost.
#[derive(Debug, Clone, Copy)]
pub struct Costs {
    /// Times the guest was left for the adapter.
    pub exits: f64,
    /// Interrupts of the adapter.
    pub interrupts: f64,
}

impl Job {
    /// What it is called.
    pub fn name(self) -> String {
        let way = |direction| if direction == Direction::Out { "guest to host" } else { "host to guest" };
        match self {
            Self::Stream(direction, 1) => format!("TCP {}", way(direction)),
            Self::Stream(direction, count) => format!("TCP {}, {count} connections", way(direction)),
            Self::Packets(direction) => format!("UDP of {SMALL} bytes {}", way(direction)),
            Self::RoundTrip => "ping, median".to_owned(),
        }
    }

    /// What its figures are in.
    pub fn unit(self) -> &'static str {
        match self {
            Self::Stream(..) => "Mbit/s",
            Self::Packets(_) => "/s",
            Self::RoundTrip => "us",
        }
    }

    /// The better of two figures.
    pub fn better(self, a: Figures, b: Figures) -> Figures {
        let first = if self == Self::RoundTrip { a.value <= b.value } else { a.value >= b.value };
        if first { a } else { b }
    }

    /// Does it in the shell of a guest, whose adapter is the only one.
    ///
    /// # Errors
    /// What the guest's program has said instead of a figure.
    pub fn run(
        self,
        running: &mut Running,
        counts: bool,
        place: Place,
        seconds: u32,
    ) -> Result<Figures, String> {
        let command = self.command(place, seconds);
        let before = counts.then(|| Counted::now(running));
        let said = running.ask(&command);
        let after = counts.then(|| Counted::now(running));
        let value = match self {
            Self::Stream(..) => said.lines().find_map(megabits),
            Self::Packets(_) => said.lines().find_map(arrived).map(|(packets, over)| packets / over),
            Self::RoundTrip => said.lines().find_map(number).map(|milliseconds| milliseconds * 1e3),
        };
        let value = value.ok_or_else(|| format!("{}: the guest says: {said}", self.name()))?;
        Ok(Figures { value, costs: before.zip(after).map(|(before, after)| after.since(&before)) })
    }

    fn command(self, Place { address, port }: Place, seconds: u32) -> String {
        // The first second is the translators' for what they have not seen yet, and TCP's for its windows.
        let client = |direction, more: String| {
            let reverse = if direction == Direction::In { " --reverse" } else { "" };
            format!(
                "iperf3 --client {address} --port {port} --connect-timeout 5000 --format m --omit 1 \
                 --time {seconds}{reverse} {more} > /tmp/said 2>&1; \
                 grep -E 'receiver|error' /tmp/said | tail -n 1"
            )
        };
        match self {
            Self::Stream(direction, connections) => client(direction, format!("--parallel {connections}")),
            Self::Packets(direction) => client(direction, format!("--udp --bitrate 0 --length {SMALL}")),
            Self::RoundTrip => format!(
                "ping -i 0 -c {ROUND_TRIPS} {address} > /tmp/said 2>&1; \
                 sed -n 's/.*time=\\([0-9.]*\\) ms.*/\\1/p' /tmp/said | sort -n | sed -n {}p",
                ROUND_TRIPS / 2
            ),
        }
    }
}

/// What an adapter of bodhi has counted.
struct Counted {
    exits: u64,
    interrupts: u64,
    bytes: u64,
}

impl Counted {
    fn now(running: &Running) -> Self {
        let devices = running.devices();
        let count = |key| row(&devices, "network0")[key].as_u64().expect("a count");
        Self {
            exits: count("exits"),
            interrupts: count("interrupts"),
            bytes: count("bytes_in") + count("bytes_out"),
        }
    }

    fn since(&self, before: &Self) -> Costs {
        let megabytes = (self.bytes - before.bytes) as f64 / 1e6;
        let per = |after, before| (after - before) as f64 / megabytes;
        Costs { exits: per(self.exits, before.exits), interrupts: per(self.interrupts, before.interrupts) }
    }
}

/// The rate in a line of iperf3 (`--format m`) that sums up what a receiver got.
fn megabits(line: &str) -> Option<f64> {
    let words: Vec<_> = line.split_whitespace().collect();
    let unit = words.iter().position(|&word| word == "Mbits/sec")?;
    words.get(unit.checked_sub(1)?)?.parse().ok()
}

/// How many packets arrived in how many seconds, in such a line about UDP.
fn arrived(line: &str) -> Option<(f64, f64)> {
    let words: Vec<_> = line.split_whitespace().collect();
    let unit = words.iter().position(|&word| word == "sec")?;
    let (begin, end) = words.get(unit.checked_sub(1)?)?.split_once('-')?;
    let over = end.parse::<f64>().ok()? - begin.parse::<f64>().ok()?;
    let (lost, all) =
        words.iter().skip(unit).filter(|word| !word.contains("sec")).find_map(|word| word.split_once('/'))?;
    let packets = all.parse::<f64>().ok()? - lost.parse::<f64>().ok()?;
    (over > 0.0).then_some((packets, over))
}

/// A line that is a number.
fn number(line: &str) -> Option<f64> {
    // The shell's line editor puts escape sequences before the first one.
    line.rsplit('\r').next()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_of_iperf3_are_found() {
        let one = "[  5]   0.00-3.04   sec  1.84 GBytes  5203 Mbits/sec                  receiver";
        assert_eq!(megabits(one), Some(5203.0));
        let all =
            "\u{1b}[?2004l\r[SUM]   0.00-3.00   sec   512 MBytes  1431 Mbits/sec                  receiver";
        assert_eq!(megabits(all), Some(1431.0));
        assert_eq!(megabits("iperf3: error - unable to connect to server: Connection refused"), None);
        let udp =
            "[  5]   0.00-4.00   sec  5.19 MBytes  14.5 Mbits/sec  0.013 ms  5000/85000 (5.9%)  receiver";
        assert_eq!(arrived(udp), Some((80_000.0, 4.0)));
        assert_eq!(arrived(one), None);
    }

    #[test]
    fn the_median_of_a_ping_is_a_line_of_its_own() {
        assert_eq!(number("\u{1b}[?2004l\r0.085"), Some(0.085));
        assert_eq!(number("ping: unknown host"), None);
    }
}
