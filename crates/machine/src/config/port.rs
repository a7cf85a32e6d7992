//! What a network adapter's port lets through.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use network::{Guards, RateLimit};

use super::Switch;

/// The slowest rates: with less, what a driver asks of its adapter waits too long.
const FEWEST_BITS: u64 = 64_000;
const FEWEST_FRAMES: u64 = 10;
/// The longest burst.
const LONGEST_BURST: Duration = Duration::from_secs(10);
/// What numbers may end with: thousands, millions, billions.
const UNITS: [(char, u64); 3] = [('k', 1_000), ('M', 1_000_000), ('G', 1_000_000_000)];

/// What a network adapter's port lets through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortConfig {
    /// Bits a second, in each direction.
    pub rate: Option<u64>,
    /// Frames a second, in each direction.
    pub packet_rate: Option<u64>,
    /// So much time's worth of them may go at once after silence.
    pub burst: Option<Duration>,
    /// Whether frames from other addresses than the adapter's get in.
    pub spoofing: bool,
    /// What does not get in.
    pub guards: Guards,
    /// Where everything is written that goes through.
    pub capture: Option<PathBuf>,
    /// Whether the cable is plugged in.
    pub link: bool,
}

impl Default for PortConfig {
    fn default() -> Self {
        Self {
            rate: None,
            packet_rate: None,
            burst: None,
            spoofing: true,
            guards: Guards::default(),
            capture: None,
            link: true,
        }
    }
}

fn number(text: &str, least: u64) -> Result<u64, String> {
    let unit = UNITS.into_iter().find_map(|(suffix, unit)| Some((text.strip_suffix(suffix)?, unit)));
    let (digits, unit) = unit.unwrap_or((text, 1));
    let value = digits.parse::<u64>().ok().and_then(|value| value.checked_mul(unit));
    value.filter(|&value| value >= least).ok_or_else(|| {
        format!("must be a number such as 500k, 10M or 1G, {} at the least", abbreviated(least))
    })
}

/// With the largest unit of which it is a multiple.
fn abbreviated(value: u64) -> String {
    let unit = UNITS.into_iter().rev().find(|(_, unit)| value >= *unit && value.is_multiple_of(*unit));
    unit.map_or(value.to_string(), |(suffix, unit)| format!("{}{suffix}", value / unit))
}

fn burst(text: &str) -> Result<Duration, String> {
    let millis = text.strip_suffix("ms").and_then(|digits| digits.parse().ok());
    let burst = millis.map(Duration::from_millis).filter(|burst| *burst <= LONGEST_BURST);
    burst.ok_or_else(|| "must be a time such as 50ms, 10000ms at the most".to_owned())
}

fn is_on(text: &str) -> Result<bool, String> {
    Ok(text.parse::<Switch>()? == Switch::On)
}

impl PortConfig {
    /// Takes the option `key=value`. False if there is none of this name.
    ///
    /// # Errors
    /// When the value does not do.
    pub(super) fn set(&mut self, key: &str, value: &str) -> Result<bool, String> {
        match key {
            "rate" => self.rate = Some(number(value, FEWEST_BITS)?),
            "packet-rate" => self.packet_rate = Some(number(value, FEWEST_FRAMES)?),
            "burst" => self.burst = Some(burst(value)?),
            "spoofing" => self.spoofing = is_on(value)?,
            "dhcp-guard" => self.guards.dhcp = is_on(value)?,
            "router-guard" => self.guards.router = is_on(value)?,
            "capture" if value.is_empty() => return Err("must be a file".to_owned()),
            "capture" => self.capture = Some(value.into()),
            "link" => {
                self.link = match value {
                    "up" => true,
                    "down" => false,
                    _ => return Err("must be up or down".to_owned()),
                }
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// How much it lets through.
    pub fn limit(&self) -> Option<RateLimit> {
        let Self { rate: bits, packet_rate: frames, burst, .. } = *self;
        let burst = burst.unwrap_or(RateLimit::BURST);
        (bits.is_some() || frames.is_some()).then_some(RateLimit { bits, frames, burst })
    }
}

impl fmt::Display for PortConfig {
    /// The options that are not as they would be without them, each behind a comma.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rate, packet_rate, burst, spoofing, guards, capture, link } = self;
        for (key, value) in [("rate", rate), ("packet-rate", packet_rate)] {
            value.map_or(Ok(()), |value| write!(f, ",{key}={}", abbreviated(value)))?;
        }
        burst.map_or(Ok(()), |burst| write!(f, ",burst={}ms", burst.as_millis()))?;
        f.write_str(if *spoofing { "" } else { ",spoofing=off" })?;
        f.write_str(if guards.dhcp { ",dhcp-guard=on" } else { "" })?;
        f.write_str(if guards.router { ",router-guard=on" } else { "" })?;
        capture.as_ref().map_or(Ok(()), |file| write!(f, ",capture={}", file.display()))?;
        f.write_str(if *link { "" } else { ",link=down" })
    }
}
