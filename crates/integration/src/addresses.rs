//! Addresses of the guest's network adapters, a part of key-value exchange: those that it has, and those that it is to
//! have.
//!
//! An adapter is asked for by its MAC address and set by the identifier of its VMBus device. Texts are UTF-16, and `;`
//! separates addresses.
//!
//! Linux `include/uapi/linux/hyperv.h` (`hv_kvp_ip_msg`, `hv_kvp_ipaddr_value`), `drivers/hv/hv_kvp.c`,
//! `tools/hv/hv_kvp_daemon.c`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::ops::Range;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::text;

/// Where fields are behind operation and pool.
const ADAPTER: Range<usize> = 2..258;
const FAMILY: usize = ADAPTER.end;
const DHCP: usize = FAMILY + 1;
const ADDRESSES: Range<usize> = DHCP + 1..DHCP + 1 + 2048;
const SUBNETS: Range<usize> = ADDRESSES.end..ADDRESSES.end + 2048;
const GATEWAYS: Range<usize> = SUBNETS.end..SUBNETS.end + 1024;
const NAME_SERVERS: Range<usize> = GATEWAYS.end..GATEWAYS.end + 2048;
const LENGTH: usize = NAME_SERVERS.end;

const FAMILY_V4: u8 = 1;
const FAMILY_V6: u8 = 2;

/// Operations.
const GET: u8 = 4;
const SET: u8 = 5;

/// The guest has no such adapter.
pub(crate) const STATUS_NO_ADAPTER: u32 = 0x8004_1002;

/// An address of an adapter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Address {
    /// The address.
    pub ip: IpAddr,
    /// Bits of the network's part, if they are known.
    pub prefix: Option<u8>,
}

/// The addresses of a network adapter.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Addresses {
    /// Whether they come from DHCP.
    pub dhcp: bool,
    /// The addresses.
    #[serde(default)]
    pub addresses: Vec<Address>,
    /// The default gateways.
    #[serde(default)]
    pub gateways: Vec<IpAddr>,
    /// Who is asked for names.
    #[serde(default)]
    pub name_servers: Vec<IpAddr>,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.prefix {
            Some(prefix) => write!(f, "{}/{prefix}", self.ip),
            None => write!(f, "{}", self.ip),
        }
    }
}

impl FromStr for Address {
    type Err = String;

    /// `ADDRESS/BITS`, or `ADDRESS` alone.
    fn from_str(text: &str) -> Result<Self, String> {
        let (ip, prefix) = text.split_once('/').map_or((text, None), |(ip, prefix)| (ip, Some(prefix)));
        let ip: IpAddr = ip.parse().map_err(|_| format!("{ip} is no IP address"))?;
        let most = if ip.is_ipv4() { 32 } else { 128 };
        let bits = |text: &str| {
            let bits = text.parse().ok().filter(|bits| *bits <= most);
            bits.ok_or_else(|| format!("/{text} is no network of {ip}: /0 to /{most}"))
        };
        Ok(Self { ip, prefix: prefix.map(bits).transpose()? })
    }
}

impl TryFrom<String> for Address {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Address> for String {
    fn from(address: Address) -> Self {
        address.to_string()
    }
}

impl Address {
    /// The network as it stands beside the address in a message.
    fn subnet(&self) -> String {
        let most = if self.ip.is_ipv4() { 32 } else { 128 };
        let bits = self.prefix.unwrap_or(most);
        match self.ip {
            IpAddr::V4(_) => mask(bits).to_string(),
            IpAddr::V6(_) => bits.to_string(),
        }
    }

    /// The address that a guest writes so, and the network beside it.
    fn told(ip: &str, subnet: Option<&str>) -> Option<Self> {
        let ip: IpAddr = ip.parse().ok()?;
        let number = |text: &str| text.trim_start_matches('/').parse::<u8>().ok();
        let of_mask = |text: &str| {
            let mask = u32::from(text.parse::<Ipv4Addr>().ok().filter(|_| ip.is_ipv4())?);
            (mask.leading_ones() + mask.trailing_zeros() == 32).then_some(mask.leading_ones() as u8)
        };
        let most = if ip.is_ipv4() { 32 } else { 128 };
        let prefix =
            subnet.and_then(|text| number(text).or_else(|| of_mask(text))).filter(|bits| *bits <= most);
        Some(Self { ip, prefix })
    }
}

fn mask(bits: u8) -> Ipv4Addr {
    u32::MAX.checked_shl(32 - u32::from(bits.min(32))).unwrap_or(0).into()
}

/// Asks for the addresses of the adapter with the MAC address `mac`.
pub(crate) fn get(mac: &str) -> Vec<u8> {
    // Linux's program compares capital letters.
    message(GET, &mac.to_ascii_uppercase())
}

/// Asks the adapter with the identifier `id`, `{…}` in small letters, to be as `wanted`, which [`complaint`] has nothing
/// against.
pub(crate) fn set(id: &str, wanted: &Addresses) -> Vec<u8> {
    let mut body = message(SET, id);
    let family = |address: &Address| if address.ip.is_ipv4() { FAMILY_V4 } else { FAMILY_V6 };
    let families = wanted.addresses.iter().map(family).fold(0, |all, one| all | one);
    body[FAMILY] = if families == 0 { FAMILY_V4 } else { families };
    body[DHCP] = u8::from(wanted.dhcp);
    for (field, text) in fields(wanted) {
        let (bytes, _) = text::field(&text, field.len());
        body[field].copy_from_slice(&bytes);
    }
    body
}

fn message(operation: u8, adapter: &str) -> Vec<u8> {
    let mut body = vec![0; LENGTH];
    body[0] = operation;
    let (bytes, _) = text::field(adapter, ADAPTER.len());
    body[ADAPTER].copy_from_slice(&bytes);
    body
}

fn fields(wanted: &Addresses) -> [(Range<usize>, String); 4] {
    let list = |texts: Vec<String>| texts.join(";");
    let ips = |ips: &[IpAddr]| list(ips.iter().map(IpAddr::to_string).collect());
    [
        (ADDRESSES, list(wanted.addresses.iter().map(|address| address.ip.to_string()).collect())),
        (SUBNETS, list(wanted.addresses.iter().map(Address::subnet).collect())),
        (GATEWAYS, ips(&wanted.gateways)),
        (NAME_SERVERS, ips(&wanted.name_servers)),
    ]
}

/// Why a guest cannot be asked for this, if it cannot.
pub(crate) fn complaint(wanted: &Addresses) -> Option<String> {
    if wanted.dhcp && !wanted.addresses.is_empty() {
        return Some("addresses come from DHCP, or they are given".to_owned());
    }
    if !wanted.dhcp && wanted.addresses.is_empty() {
        return Some("an address is missing, or DHCP".to_owned());
    }
    if let Some(address) = wanted.addresses.iter().find(|address| address.prefix.is_none()) {
        return Some(format!("{address}: the network's bits are missing, as in {address}/24"));
    }
    // The kernel has half the room for them, in bytes.
    fields(wanted)
        .into_iter()
        .find_map(|(field, text)| text::complaint("a list of addresses", &text, field.len() / 2 - 2))
}

/// What a guest answers to [`get`]; `None` if it is too short. What is no address is left out.
pub(crate) fn told(body: &[u8]) -> Option<Addresses> {
    let body = body.get(..LENGTH)?;
    let list = |field: Range<usize>| -> Vec<String> {
        let text = text::until_zero(body.get(field).unwrap_or_default());
        text.split(';').map(|word| word.trim().to_owned()).collect()
    };
    let subnets = list(SUBNETS);
    let addresses = list(ADDRESSES).into_iter().enumerate();
    let address = |(index, ip): (usize, String)| Address::told(&ip, subnets.get(index).map(String::as_str));
    let ips = |field| list(field).iter().filter_map(|word| word.parse().ok()).collect();
    Some(Addresses {
        dhcp: body.get(DHCP) != Some(&0),
        addresses: addresses.filter_map(address).collect(),
        gateways: ips(GATEWAYS),
        name_servers: ips(NAME_SERVERS),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted() -> Addresses {
        Addresses {
            dhcp: false,
            addresses: ["10.0.0.5/24", "fd00::5/64"].map(|text| text.parse().unwrap()).into(),
            gateways: vec!["10.0.0.1".parse().unwrap()],
            name_servers: ["10.0.0.3", "fd00::3"].map(|text| text.parse().unwrap()).into(),
        }
    }

    fn text_at(body: &[u8], field: Range<usize>) -> String {
        text::until_zero(&body[field])
    }

    #[test]
    fn what_is_wanted_is_written_as_guests_expect_it() {
        let body = set("{0a2c7d51}", &wanted());
        assert_eq!((body.len(), body[0], body[FAMILY], body[DHCP]), (7428, SET, 3, 0));
        let fields = [ADAPTER, ADDRESSES, SUBNETS, GATEWAYS, NAME_SERVERS].map(|field| text_at(&body, field));
        let expected = ["{0a2c7d51}", "10.0.0.5;fd00::5", "255.255.255.0;64", "10.0.0.1", "10.0.0.3;fd00::3"];
        assert_eq!(fields, expected);
        assert_eq!(told(&body), Some(wanted()));
        assert_eq!(text_at(&get("00:15:5d:aa:00:01"), ADAPTER), "00:15:5D:AA:00:01");
    }

    #[test]
    fn what_a_guest_tells_is_taken_as_far_as_it_makes_sense() {
        let mut body = get("x");
        let put = |body: &mut Vec<u8>, field: Range<usize>, text: &str| {
            body[field.clone()].copy_from_slice(&text::field(text, field.len()).0);
        };
        put(&mut body, ADDRESSES, "10.0.2.15; nonsense ;fe80::1;;10.0.0.1");
        put(&mut body, SUBNETS, "255.255.255.0;;/64;;255.0.255.0");
        put(&mut body, GATEWAYS, "10.0.2.2;10.0.2.256;");
        let Addresses { dhcp, addresses, gateways, name_servers } = told(&body).unwrap();
        let texts: Vec<_> = addresses.iter().map(Address::to_string).collect();
        assert_eq!(texts, ["10.0.2.15/24", "fe80::1/64", "10.0.0.1"]);
        assert_eq!((dhcp, gateways.len(), name_servers.len()), (false, 1, 0));
        // No terminating zero anywhere, and no UTF-16.
        body[ADAPTER.start..].fill(0xd8);
        assert_eq!(told(&body), Some(Addresses { dhcp: true, ..Addresses::default() }));
        for length in 0..LENGTH {
            assert_eq!(told(&body[..length]), None);
        }
    }

    #[test]
    fn what_no_guest_could_do_is_not_asked() {
        let complain = |change: fn(&mut Addresses)| {
            let mut wanted = wanted();
            change(&mut wanted);
            complaint(&wanted).unwrap_or_default()
        };
        assert_eq!(complain(|_| {}), "");
        assert_eq!(complain(|wanted| wanted.dhcp = true), "addresses come from DHCP, or they are given");
        assert_eq!(complain(|wanted| wanted.addresses.clear()), "an address is missing, or DHCP");
        assert!(
            complain(|wanted| wanted.addresses[0].prefix = None).starts_with("10.0.0.5: the network's bits")
        );
        assert!(
            complain(|wanted| wanted.gateways = vec!["10.100.100.100".parse().unwrap(); 40])
                .contains("too long")
        );
        assert_eq!(complaint(&Addresses { dhcp: true, ..Addresses::default() }), None);
    }

    #[test]
    fn addresses_are_read_as_they_are_written() {
        let error = |text: &str| text.parse::<Address>().unwrap_err();
        assert_eq!(error("10.0.0.5/33"), "/33 is no network of 10.0.0.5: /0 to /32");
        assert_eq!(error("nobody/3"), "nobody is no IP address");
        assert_eq!("fd00::1/128".parse::<Address>().unwrap().to_string(), "fd00::1/128");
        assert_eq!(
            [0, 1, 24, 32].map(|bits| mask(bits).to_string()),
            ["0.0.0.0", "128.0.0.0", "255.255.255.0", "255.255.255.255"]
        );
    }
}
