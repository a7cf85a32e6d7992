//! Addresses of network adapters: those that the guest has, and those that the host wants it to have.
//!
//! Linux `include/uapi/linux/hyperv.h` (`hv_kvp_ipaddr_value`): fields with texts, in which `;` separates addresses.
//! Hosts ask for an adapter by its MAC address and set it by the identifier of its VMBus device.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;

use crate::fields::{put_text, until_zero};

/// Where fields are in a message, and their ends.
const ADAPTER: usize = 4;
const FAMILY: usize = ADAPTER + 256;
const DHCP: usize = FAMILY + 1;
const ADDRESSES: usize = DHCP + 1;
const SUBNETS: usize = ADDRESSES + 2048;
const GATEWAYS: usize = SUBNETS + 2048;
const NAME_SERVERS: usize = GATEWAYS + 1024;
const END: usize = NAME_SERVERS + 2048;
const _: () = assert!(END.next_multiple_of(4) == super::LENGTH);
/// The kernel makes two bytes of each byte, in a field of the same size.
const fn half(from: usize, to: usize) -> std::ops::Range<usize> {
    from..from + (to - from) / 2
}

const FAMILY_V4: u8 = 1;
const FAMILY_V6: u8 = 2;

const ADAPTERS: &str = "/sys/class/net";
/// What configures an adapter in this guest, if its owner says so; its argument is a file as distributions' own programs
/// get it.
const PROGRAMS: [&str; 2] = ["/etc/bodhi/set-addresses", "/usr/libexec/hypervkvpd/hv_set_ifconfig"];
/// Where configurations of systemd-networkd are.
const NETWORKD: &str = "/etc/systemd/network";

/// An address of an adapter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) adapter: String,
    pub(crate) ip: IpAddr,
    /// Bits of the network's part.
    pub(crate) prefix: u32,
}

/// All addresses but those of the loopback adapter.
pub(crate) fn all() -> Vec<Address> {
    let Ok(all) = getifaddrs() else { return Vec::new() };
    let not_loopback = all.filter(|entry| !entry.flags.contains(InterfaceFlags::IFF_LOOPBACK));
    let addresses = not_loopback.filter_map(|entry| {
        let (address, netmask) = (entry.address?, entry.netmask?);
        let (ip, prefix) = match (address.as_sockaddr_in(), address.as_sockaddr_in6()) {
            (Some(v4), _) => (v4.ip().into(), u32::from(netmask.as_sockaddr_in()?.ip()).count_ones()),
            (_, Some(v6)) => (v6.ip().into(), u128::from(netmask.as_sockaddr_in6()?.ip()).count_ones()),
            _ => return None,
        };
        Some(Address { adapter: entry.interface_name, ip, prefix })
    });
    addresses.collect()
}

/// The adapter whose file `file` below its folder says `wanted`, whatever the case of letters.
fn adapter(file: &str, wanted: &str) -> Option<String> {
    let entries = fs::read_dir(ADAPTERS).ok()?.flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let mut found = names.filter(|name| {
        let said = fs::read_to_string(Path::new(ADAPTERS).join(name).join(file)).unwrap_or_default();
        name != "lo" && said.trim().eq_ignore_ascii_case(wanted)
    });
    found.next()
}

fn text(message: &[u8], field: std::ops::Range<usize>) -> String {
    String::from_utf8_lossy(until_zero(&message[field])).into_owned()
}

/// Fills in what is known of the adapter with the MAC address in the message. False if there is none.
pub(crate) fn get(message: &mut [u8]) -> bool {
    let Some(name) = adapter("address", text(message, ADAPTER..FAMILY).trim()) else { return false };
    let of_adapter: Vec<_> = all().into_iter().filter(|address| address.adapter == name).collect();
    let family = |address: &Address| if address.ip.is_ipv4() { FAMILY_V4 } else { FAMILY_V6 };
    message[FAMILY] = of_adapter.iter().map(family).fold(0, |all, one| all | one);
    message[DHCP] = u8::from(has_lease(&name));
    let list = |texts: Vec<String>| texts.join(";");
    let subnet = |address: &Address| match address.ip {
        IpAddr::V4(_) => Ipv4Addr::from(u32::MAX.checked_shl(32 - address.prefix).unwrap_or(0)).to_string(),
        IpAddr::V6(_) => format!("/{}", address.prefix),
    };
    let routes = |file| fs::read_to_string(file).unwrap_or_default();
    let gateways = gateways(&name, &routes("/proc/net/route"), &routes("/proc/net/ipv6_route"));
    let texts = [
        (half(ADDRESSES, SUBNETS), list(of_adapter.iter().map(|address| address.ip.to_string()).collect())),
        (half(SUBNETS, GATEWAYS), list(of_adapter.iter().map(subnet).collect())),
        (half(GATEWAYS, NAME_SERVERS), list(gateways.iter().map(IpAddr::to_string).collect())),
        (half(NAME_SERVERS, END), list(name_servers())),
    ];
    for (field, text) in texts {
        put_text(&mut message[field], text.as_bytes());
    }
    true
}

/// Whether an address of an adapter comes from DHCP, as far as the usual clients leave traces.
fn has_lease(name: &str) -> bool {
    let index = fs::read_to_string(Path::new(ADAPTERS).join(name).join("ifindex")).unwrap_or_default();
    let traces = [
        format!("/run/systemd/netif/leases/{}", index.trim()),
        format!("/run/dhclient.{name}.pid"),
        format!("/run/dhcpcd/{name}-4.pid"),
        format!("/var/lib/NetworkManager/internal-{name}.lease"),
    ];
    traces.iter().any(|trace| Path::new(trace).exists())
}

/// The default gateways of an adapter, from the lines of /proc/net/route and /proc/net/ipv6_route.
fn gateways(name: &str, v4: &str, v6: &str) -> BTreeSet<IpAddr> {
    let v4 = v4.lines().filter_map(|line| {
        let words: Vec<_> = line.split_whitespace().collect();
        let gateway = match words[..] {
            [adapter, "00000000", gateway, ..] if adapter == name => u32::from_str_radix(gateway, 16).ok()?,
            _ => return None,
        };
        // As it lies in memory.
        (gateway != 0).then(|| IpAddr::from(Ipv4Addr::from(gateway.to_ne_bytes())))
    });
    let v6 = v6.lines().filter_map(|line| {
        let words: Vec<_> = line.split_whitespace().collect();
        let gateway = match words[..] {
            [to, "00", _, _, gateway, .., adapter]
                if adapter == name && to.bytes().all(|digit| digit == b'0') =>
            {
                u128::from_str_radix(gateway, 16).ok()?
            }
            _ => return None,
        };
        (gateway != 0).then(|| IpAddr::from(Ipv6Addr::from(gateway)))
    });
    v4.chain(v6).collect()
}

fn name_servers() -> Vec<String> {
    // Behind a stub of systemd-resolved are the real ones.
    let files = ["/run/systemd/resolve/resolv.conf", "/etc/resolv.conf"];
    let text = files.iter().find_map(|file| fs::read_to_string(file).ok()).unwrap_or_default();
    let servers = text.lines().filter_map(|line| line.strip_prefix("nameserver")).map(str::trim);
    servers.map(str::to_owned).collect()
}

/// What an adapter is to be like.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    adapter: String,
    dhcp: bool,
    /// With the bits of the network's part.
    addresses: Vec<(IpAddr, u32)>,
    gateways: Vec<IpAddr>,
    name_servers: Vec<IpAddr>,
}

impl Wanted {
    /// What a message wants; `None` if there is no such adapter.
    pub(crate) fn of(message: &[u8]) -> Option<Result<Self>> {
        let identifier = text(message, ADAPTER..FAMILY);
        let adapter = adapter("device/device_id", identifier.trim())?;
        Some(Self::for_adapter(adapter, message))
    }

    fn for_adapter(adapter: String, message: &[u8]) -> Result<Self> {
        let list = |field| {
            let text = text(message, field);
            let words = text.split(';').map(str::trim).filter(|word| !word.is_empty());
            words.map(str::to_owned).collect::<Vec<_>>()
        };
        let ips = |field| list(field).iter().map(|word| address(word)).collect::<Result<Vec<_>>>();
        let (addresses, subnets) = (ips(ADDRESSES..SUBNETS)?, list(SUBNETS..GATEWAYS));
        if addresses.len() != subnets.len() {
            bail!("{} addresses and {} subnets", addresses.len(), subnets.len());
        }
        let prefixes = addresses.iter().zip(&subnets).map(|(ip, subnet)| prefix(*ip, subnet));
        let prefixes = prefixes.collect::<Result<Vec<_>>>()?;
        Ok(Self {
            adapter,
            dhcp: message[DHCP] != 0,
            addresses: addresses.into_iter().zip(prefixes).collect(),
            gateways: ips(GATEWAYS..NAME_SERVERS)?,
            name_servers: ips(NAME_SERVERS..END)?,
        })
    }

    /// Makes it so, now and after restarts: by a program of the guest's owner, or systemd-networkd.
    pub(crate) fn set(&self, folder: &Path) -> Result<()> {
        let file = folder.join(format!("ifcfg-{}", self.adapter));
        fs::write(&file, self.sysconfig()).with_context(|| file.display().to_string())?;
        if let Some(program) = PROGRAMS.iter().find(|program| Path::new(program).exists()) {
            return run(Command::new(program).arg(&file));
        }
        if !Path::new("/run/systemd/netif").exists() {
            bail!("no program sets addresses: neither {} nor systemd-networkd", PROGRAMS.join(" nor "));
        }
        fs::create_dir_all(NETWORKD).context(NETWORKD)?;
        let file = PathBuf::from(NETWORKD).join(format!("05-bodhi-{}.network", self.adapter));
        fs::write(&file, self.networkd()).with_context(|| file.display().to_string())?;
        run(Command::new("networkctl").arg("reload"))?;
        run(Command::new("networkctl").args(["reconfigure", &self.adapter]))
    }

    /// As Red Hat's network scripts have it, and programs of `hv_set_ifconfig`'s kind expect it.
    fn sysconfig(&self) -> String {
        let mac =
            fs::read_to_string(Path::new(ADAPTERS).join(&self.adapter).join("address")).unwrap_or_default();
        let mac = mac.trim().to_ascii_uppercase();
        let protocol = if self.dhcp { "dhcp" } else { "none" };
        let mut text = format!("HWADDR={mac}\nDEVICE={}\nBOOTPROTO={protocol}\n", self.adapter);
        let mut put =
            |key: &str, index: usize, first: &str, separator: &str, value: &dyn std::fmt::Display| {
                let number = if index == 0 { first.to_owned() } else { format!("{separator}{index}") };
                // Writing to a string does not fail.
                let _ = writeln!(text, "{key}{number}={value}");
            };
        let of = |v4: bool| self.addresses.iter().filter(move |(ip, _)| ip.is_ipv4() == v4).enumerate();
        for (index, (ip, prefix)) in of(true) {
            put("IPADDR", index, "0", "", ip);
            let mask = Ipv4Addr::from(u32::MAX.checked_shl(32 - prefix).unwrap_or(0));
            put("NETMASK", index, "0", "", &mask);
        }
        for (index, (ip, prefix)) in of(false) {
            put("IPV6ADDR", index, "", "_", ip);
            put("IPV6NETMASK", index, "", "_", prefix);
        }
        for (v4, key, separator) in [(true, "GATEWAY", ""), (false, "IPV6_DEFAULTGW", "_")] {
            for (index, ip) in self.gateways.iter().filter(|ip| ip.is_ipv4() == v4).enumerate() {
                put(key, index, "", separator, ip);
            }
        }
        for (index, ip) in self.name_servers.iter().enumerate() {
            put("DNS", index + 1, "", "", ip);
        }
        text
    }

    fn networkd(&self) -> String {
        let mut text = format!("# Set by the host.\n[Match]\nName={}\n\n[Network]\n", self.adapter);
        let mut put = |line: std::fmt::Arguments<'_>| {
            // Writing to a string does not fail.
            let _ = text.write_fmt(line);
        };
        put(format_args!("DHCP={}\n", if self.dhcp { "yes" } else { "no" }));
        for (ip, prefix) in &self.addresses {
            put(format_args!("Address={ip}/{prefix}\n"));
        }
        for ip in &self.gateways {
            put(format_args!("Gateway={ip}\n"));
        }
        for ip in &self.name_servers {
            put(format_args!("DNS={ip}\n"));
        }
        text
    }
}

fn address(word: &str) -> Result<IpAddr> {
    word.parse().with_context(|| format!("{word} is no address"))
}

/// The bits of the network's part that a subnet says: a mask of IPv4, or a number behind a slash.
fn prefix(ip: IpAddr, subnet: &str) -> Result<u32> {
    let most = if ip.is_ipv4() { 32 } else { 128 };
    let number: Option<u32> = subnet.trim_start_matches('/').parse().ok();
    let bits = number.or_else(|| {
        let mask = u32::from(subnet.parse::<Ipv4Addr>().ok().filter(|_| ip.is_ipv4())?);
        (mask.leading_ones() + mask.trailing_zeros() == 32).then(|| mask.leading_ones())
    });
    bits.filter(|bits| *bits <= most).with_context(|| format!("{subnet} is no subnet of {ip}"))
}

fn run(command: &mut Command) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let status = command.status().with_context(|| program.clone())?;
    if !status.success() {
        bail!("{program}: {status}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(fields: &[(usize, &str)]) -> Vec<u8> {
        let mut message = vec![0; super::super::LENGTH];
        for (at, text) in fields {
            message[*at..*at + text.len()].copy_from_slice(text.as_bytes());
        }
        message
    }

    fn wanted(fields: &[(usize, &str)]) -> Result<Wanted> {
        Wanted::for_adapter("eth7".to_owned(), &message(fields))
    }

    #[test]
    fn what_the_host_wants_is_written_for_either_kind_of_program() {
        let wanted = wanted(&[
            (ADDRESSES, "10.0.0.5;fe80::5; 10.0.0.6"),
            (SUBNETS, "255.255.255.0;64;255.255.0.0"),
            (GATEWAYS, "10.0.0.1;fe80::1"),
            (NAME_SERVERS, "10.0.0.1;"),
        ])
        .unwrap();
        assert_eq!(
            wanted.sysconfig(),
            "HWADDR=\nDEVICE=eth7\nBOOTPROTO=none\nIPADDR0=10.0.0.5\nNETMASK0=255.255.255.0\nIPADDR1=10.0.0.6\n\
             NETMASK1=255.255.0.0\nIPV6ADDR=fe80::5\nIPV6NETMASK=64\nGATEWAY=10.0.0.1\nIPV6_DEFAULTGW=fe80::1\n\
             DNS1=10.0.0.1\n"
        );
        assert_eq!(
            wanted.networkd(),
            "# Set by the host.\n[Match]\nName=eth7\n\n[Network]\nDHCP=no\nAddress=10.0.0.5/24\nAddress=fe80::5/64\n\
             Address=10.0.0.6/16\nGateway=10.0.0.1\nGateway=fe80::1\nDNS=10.0.0.1\n"
        );
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for fields in [
            [(ADDRESSES, "10.0.0.5"), (SUBNETS, "")],
            [(ADDRESSES, "10.0.0.5\nX=1"), (SUBNETS, "24")],
            [(ADDRESSES, "10.0.0.5"), (SUBNETS, "255.0.255.0")],
            [(ADDRESSES, "10.0.0.5"), (SUBNETS, "33")],
            [(ADDRESSES, "fe80::1"), (SUBNETS, "255.255.255.0")],
            [(GATEWAYS, "nobody"), (SUBNETS, "")],
        ] {
            assert!(wanted(&fields).is_err(), "{fields:?}");
        }
    }

    #[test]
    fn gateways_are_those_of_default_routes() {
        let v4 = "Iface\tDestination\tGateway\tFlags\neth0\t00000000\t0100000A\t0003\neth0\t0000000A\t00000000\t0001\n\
                  eth1\t00000000\t0200000A\t0003\n";
        let zero = "00000000000000000000000000000000";
        let v6 = format!(
            "{zero} 00 {zero} 00 fe800000000000000000000000000001 00000400 00000001 00000000 00000003     eth0\n\
             {zero} 00 {zero} 00 {zero} ffffffff 00000001 00000000 00200200       lo\n"
        );
        let expected = ["10.0.0.1", "fe80::1"].map(|ip| ip.parse::<IpAddr>().unwrap());
        assert_eq!(gateways("eth0", v4, &v6), expected.into());
    }

    #[test]
    fn an_adapter_is_found_by_what_its_file_says() {
        // Whatever this host has, it is none of these.
        assert_eq!(adapter("address", "no address"), None);
        assert!(!get(&mut message(&[(ADAPTER, "00:00:00:00:00:00")])));
    }
}
