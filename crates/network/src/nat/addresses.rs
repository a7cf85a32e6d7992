//! The addresses of the network, and where those outside of it lead.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::frame::Mac;

/// The router's hardware address; it is the name server's, too.
pub(super) const MAC: Mac = Mac([0x52, 0x55, 10, 0, 2, 2]);
/// The router.
pub(super) const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
/// The name server.
pub(super) const DNS: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 3);
/// The address that the first guest gets.
pub(super) const FIRST_GUEST: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 15);
/// The last address that a guest gets.
pub(super) const LAST_GUEST: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 254);
pub(super) const NETMASK: Ipv4Addr = Ipv4Addr::new(255, 255, 255, 0);
/// Everybody in the network.
pub(super) const BROADCAST: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 255);

/// The prefix that guests make addresses of, 64 bits of it.
pub(super) const PREFIX6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0);
/// The router under an address of the prefix.
pub(super) const GATEWAY6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2);
/// The name server.
pub(super) const DNS6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 3);
/// The router under the address that it advertises itself by.
pub(super) const ROUTER6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 2);

/// Where packets to an address go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Destination {
    /// To the router itself, behind which the host's loopback may be.
    Gateway,
    /// To the name server.
    Resolver,
    /// To that address, by way of the host.
    Outside(IpAddr),
    /// Nowhere: the address is another guest's, or none that the host may be asked to send to.
    Nowhere,
}

/// Where packets to `address` go.
pub(super) fn destination(address: IpAddr) -> Destination {
    match address {
        IpAddr::V4(GATEWAY) | IpAddr::V6(GATEWAY6 | ROUTER6) => Destination::Gateway,
        IpAddr::V4(DNS) | IpAddr::V6(DNS6) => Destination::Resolver,
        IpAddr::V4(v4) if may_leave(v4) => Destination::Outside(address),
        IpAddr::V6(v6) if may_leave6(v6) => Destination::Outside(address),
        _ => Destination::Nowhere,
    }
}

/// What the host is asked to do for a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Route {
    /// To send it there.
    To(SocketAddr),
    /// Nothing: nobody is there, and the guest is told so.
    Refused,
    /// Nothing at all.
    Nowhere,
}

/// The way to `peer`; `resolver` says where the host's name server is.
pub(super) fn route(
    peer: SocketAddr,
    host_reachable: bool,
    resolver: impl FnOnce() -> Option<SocketAddr>,
) -> Route {
    let to = match destination(peer.ip()) {
        Destination::Outside(address) => Some(SocketAddr::new(address, peer.port())),
        Destination::Gateway if host_reachable => Some(SocketAddr::new(loopback_of(peer.ip()), peer.port())),
        Destination::Resolver if peer.port() == super::DNS_PORT => resolver(),
        Destination::Gateway | Destination::Resolver => None,
        Destination::Nowhere => return Route::Nowhere,
    };
    to.map_or(Route::Refused, Route::To)
}

/// The router's ports that forwarded traffic comes from.
pub(super) struct Ports(u16);

impl Ports {
    const FIRST: u16 = 49152;

    /// None in use yet.
    pub fn new() -> Self {
        Self(Self::FIRST)
    }

    /// The next address of the router that is not `taken` for `guest`.
    pub fn free(
        &mut self,
        guest: SocketAddr,
        taken: impl Fn(&(SocketAddr, SocketAddr)) -> bool,
    ) -> Option<SocketAddr> {
        (Self::FIRST..=u16::MAX).find_map(|_| {
            let peer = SocketAddr::new(gateway_of(guest.ip()), self.0);
            self.0 = self.0.checked_add(1).unwrap_or(Self::FIRST);
            (!taken(&(guest, peer))).then_some(peer)
        })
    }
}

/// Link-local addresses stay on their link: on hosts in a cloud, credentials are behind them. Others of those left out
/// would lead the host to itself.
fn may_leave(address: Ipv4Addr) -> bool {
    !(in_network(address)
        || address.octets()[0] == 0
        || address.octets()[0] >= 224
        || address.is_loopback()
        || address.is_link_local())
}

fn may_leave6(address: Ipv6Addr) -> bool {
    let [first, ..] = address.segments();
    // ::/96 and ::ffff:0:0/96 have IPv4 addresses in them.
    let holds_v4 = address.segments()[..5] == [0; 5] && matches!(address.segments()[5], 0 | 0xffff);
    !(in_prefix(address) || holds_v4 || address.is_multicast() || first & 0xffc0 == 0xfe80)
}

fn in_network(address: Ipv4Addr) -> bool {
    address & NETMASK == GATEWAY & NETMASK
}

fn in_prefix(address: Ipv6Addr) -> bool {
    address.segments()[..4] == PREFIX6.segments()[..4]
}

/// Whether a guest may have `address`.
pub(super) fn is_guest(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => in_network(v4) && !matches!(v4.octets()[3], 0 | 2 | 3 | 255),
        IpAddr::V6(v6) => {
            !matches!(v6, GATEWAY6 | DNS6 | ROUTER6 | PREFIX6)
                && (in_prefix(v6) || v6.segments()[0] & 0xffc0 == 0xfe80)
        }
    }
}

/// The router, as guests of that family know it.
pub(super) fn gateway_of(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => GATEWAY.into(),
        IpAddr::V6(_) => GATEWAY6.into(),
    }
}

/// The host's loopback of the family of `address`.
fn loopback_of(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(address: &str) -> Destination {
        destination(address.parse().unwrap())
    }

    #[test]
    fn guests_reach_what_is_outside() {
        for address in ["1.1.1.1", "192.168.0.1", "10.0.3.2", "2001:db8::1", "fd01::1", "64:ff9b::1"] {
            assert_eq!(of(address), Destination::Outside(address.parse().unwrap()));
        }
    }

    #[test]
    fn guests_do_not_reach_the_hosts_own_links() {
        for address in [
            "127.0.0.1",
            "0.0.0.0",
            "169.254.169.254",
            "224.0.0.1",
            "255.255.255.255",
            "10.0.2.77",
            "::",
            "::1",
            "::7f00:1",
            "::ffff:127.0.0.1",
            "fe80::1",
            "ff02::1",
            "fd00::77",
        ] {
            assert_eq!(of(address), Destination::Nowhere, "{address}");
        }
    }

    #[test]
    fn guests_have_the_addresses_that_are_left() {
        for (address, is) in [
            ("10.0.2.15", true),
            ("10.0.2.2", false),
            ("10.0.2.255", false),
            ("10.0.3.1", false),
            ("fd00::15", true),
            ("fe80::15", true),
            ("fd00::2", false),
            ("fe80::2", false),
            ("2001:db8::1", false),
        ] {
            assert_eq!(is_guest(address.parse().unwrap()), is, "{address}");
        }
    }
}
