//! A network adapter of a machine, and what it is connected to.

use std::fmt;
use std::str::FromStr;

use network::Mac;
use network::nat::Forward;
use network::tap::Name;
use serde::{Deserialize, Serialize};

use super::port::PortConfig;

/// What an adapter is connected to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Network {
    /// A network of its own, from which connections lead to where the host's programs can connect.
    Nat {
        /// Whether the router's address leads to the host itself.
        host: bool,
        /// Ports of the host that lead to the guest.
        forwards: Vec<Forward>,
    },
    /// The host's network, by a TAP interface.
    Tap(Name),
    /// A network of this machine's other adapters of this kind alone.
    Isolated,
}

/// What a guest sees of an adapter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Nic {
    /// A synthetic one, behind VMBus.
    #[default]
    Synthetic,
    /// An emulated one, a DEC 21140.
    Legacy,
}

impl FromStr for Nic {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "synthetic" => Ok(Self::Synthetic),
            "legacy" => Ok(Self::Legacy),
            _ => Err("must be synthetic or legacy".to_owned()),
        }
    }
}

impl fmt::Display for Nic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Synthetic => "synthetic",
            Self::Legacy => "legacy",
        })
    }
}

/// A network adapter, as a user describes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct NetConfig {
    /// What it is connected to.
    pub network: Network,
    /// Its address, if the user has chosen one.
    pub mac: Option<Mac>,
    /// What the guest sees of it, if that is not what it sees of others.
    pub nic: Option<Nic>,
    /// What its port lets through.
    pub port: PortConfig,
}

impl FromStr for NetConfig {
    type Err = String;

    /// `nat[,hostfwd=tcp|udp:[ADDRESS]:PORT-[ADDRESS]:PORT]...[,host=on|off]`, `tap:INTERFACE` or `isolated`, each with
    /// `[,mac=M][,nic=synthetic|legacy][,rate=BITS][,packet-rate=N][,burst=Nms][,spoofing=on|off][,dhcp-guard=on|off]
    /// [,router-guard=on|off][,capture=F][,link=up|down]`.
    fn from_str(text: &str) -> Result<Self, String> {
        let mut words = text.split(',');
        let network = match words.next() {
            Some("nat") => Network::Nat { host: true, forwards: Vec::new() },
            Some("isolated") => Network::Isolated,
            Some(word) => match word.strip_prefix("tap:") {
                Some(name) => Network::Tap(name.parse()?),
                None => return Err("must be nat, tap:INTERFACE, isolated or none".to_owned()),
            },
            None => return Err("must not be empty".to_owned()),
        };
        let mut net = Self { network, mac: None, nic: None, port: PortConfig::default() };
        for option in words {
            match (option.split_once('='), &mut net.network) {
                (Some(("mac", mac)), _) => net.mac = Some(mac.parse()?),
                (Some(("nic", nic)), _) => {
                    net.nic = Some(nic.parse().map_err(|reason| format!("{option}: the nic {reason}"))?);
                }
                (Some(("host", "on")), Network::Nat { host, .. }) => *host = true,
                (Some(("host", "off")), Network::Nat { host, .. }) => *host = false,
                (Some(("hostfwd", forward)), Network::Nat { forwards, .. }) => {
                    forwards.push(forward.parse().map_err(|error| format!("{error}"))?);
                }
                (Some((key, value)), _)
                    if net
                        .port
                        .set(key, value)
                        .map_err(|reason| format!("{option}: the {key} {reason}"))? => {}
                _ => return Err(format!("{option}: no such option of a network")),
            }
        }
        Ok(net)
    }
}

impl TryFrom<String> for NetConfig {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<NetConfig> for String {
    fn from(net: NetConfig) -> Self {
        net.to_string()
    }
}

impl fmt::Display for NetConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { network, mac, nic, port } = self;
        match network {
            Network::Nat { host, forwards } => {
                f.write_str(if *host { "nat" } else { "nat,host=off" })?;
                forwards.iter().try_for_each(|forward| write!(f, ",hostfwd={forward}"))?;
            }
            Network::Tap(name) => write!(f, "tap:{name}")?,
            Network::Isolated => f.write_str("isolated")?,
        }
        mac.map_or(Ok(()), |mac| write!(f, ",mac={mac}"))?;
        nic.map_or(Ok(()), |nic| write!(f, ",nic={nic}"))?;
        write!(f, "{port}")
    }
}

/// What `--net` says: an adapter, or that there is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetOption(pub Option<NetConfig>);

impl FromStr for NetOption {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "none" { Ok(Self(None)) } else { text.parse().map(|net| Self(Some(net))) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adapters_are_written_as_they_are_read() {
        for text in [
            "nat",
            "nat,host=off,hostfwd=tcp:127.0.0.1:80-10.0.2.15:8080,mac=00:15:5d:00:00:01,nic=legacy",
            "tap:tap0,rate=10M,packet-rate=1500,burst=20ms,spoofing=off,dhcp-guard=on,router-guard=on",
            "isolated,capture=/tmp/a.pcap,link=down",
        ] {
            assert_eq!(text.parse::<NetConfig>().unwrap().to_string(), text);
        }
        let same = "isolated,spoofing=on,dhcp-guard=off,link=up".parse::<NetConfig>();
        assert_eq!(same, "isolated".parse());
        assert_eq!("isolated,rate=1500k".parse::<NetConfig>().unwrap().port.rate, Some(1_500_000));
    }

    #[test]
    fn what_is_wrong_with_an_adapter_is_said() {
        let error = |text: &str| text.parse::<NetConfig>().unwrap_err();
        for (text, part) in [
            ("", "must be nat, tap:INTERFACE"),
            ("tap:", "no name of an interface"),
            ("isolated,rate=1", "rate=1: the rate must be a number such as 500k"),
            ("isolated,rate=99999999999G", "must be a number"),
            ("isolated,burst=1h", "must be a time"),
            ("isolated,link=on", "must be up or down"),
            ("isolated,spoofing=maybe", "must be on or off"),
            ("isolated,capture=", "must be a file"),
            ("isolated,host=off", "no such option"),
            ("isolated,colour=red", "colour=red: no such option"),
        ] {
            assert!(error(text).contains(part), "{text}: {}", error(text));
        }
    }
}
