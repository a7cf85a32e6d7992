//! What a guest may not say to others: that it is their DHCP server, or their router.
//!
//! RFC 7113 tells how advertisements of routers are found behind IPv6's extension headers.

use crate::frame::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, HEADER, IPV4_HEADER, IPV6_HEADER};

/// What a port drops of what is sent from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Guards {
    /// Messages of DHCP servers, of both versions of IP.
    pub dhcp: bool,
    /// Advertisements of routers, and redirects, of both versions of IP.
    pub router: bool,
}

const ICMP: u8 = 1;
const UDP: u8 = 17;
const ICMP6: u8 = 58;
/// Extension headers of IPv6.
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION: u8 = 60;
/// VLAN tags, of both kinds.
const TAGS: [[u8; 2]; 2] = [[0x81, 0x00], [0x88, 0xa8]];
/// Ports of DHCP servers.
const SERVER: u16 = 67;
const SERVER6: u16 = 547;

/// What a frame is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Claim {
    Dhcp,
    Router,
    /// It cannot be told, though it can matter.
    Hidden,
}

impl Guards {
    /// Whether a frame may be sent.
    pub fn allow(self, data: &[u8]) -> bool {
        match claim(data) {
            None => true,
            Some(Claim::Dhcp) => !self.dhcp,
            Some(Claim::Router) => !self.router,
            Some(Claim::Hidden) => !self.dhcp && !self.router,
        }
    }
}

fn half(data: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*data.get(at..)?.first_chunk()?))
}

fn claim(data: &[u8]) -> Option<Claim> {
    let mut at = HEADER - 2;
    while TAGS.iter().any(|tag| data.get(at..at + 2) == Some(tag)) {
        at += 4;
    }
    let ip = data.get(at + 2..)?;
    match half(data, at)? {
        ETHERTYPE_IPV4 => {
            let header = ip.first_chunk::<IPV4_HEADER>()?;
            // What comes later of a packet is not put together without its beginning.
            if half(header, 6)? & 0x1fff != 0 {
                return None;
            }
            let payload = ip.get(4 * usize::from(header[0] & 0xf)..).unwrap_or_default();
            upper(header[9], payload)
        }
        ETHERTYPE_IPV6 => {
            let mut next = *ip.get(6)?;
            let mut payload = ip.get(IPV6_HEADER..)?;
            while matches!(next, HOP_BY_HOP | ROUTING | DESTINATION | FRAGMENT) {
                let Some(header) = payload.first_chunk::<8>() else { return Some(Claim::Hidden) };
                if next == FRAGMENT && half(header, 2)? & 0xfff8 != 0 {
                    return None;
                }
                let length = if next == FRAGMENT { 8 } else { 8 + 8 * usize::from(header[1]) };
                next = header[0];
                let Some(rest) = payload.get(length..) else { return Some(Claim::Hidden) };
                payload = rest;
            }
            upper(next, payload)
        }
        _ => None,
    }
}

/// What the payload of a packet claims.
fn upper(protocol: u8, payload: &[u8]) -> Option<Claim> {
    const REDIRECT: u8 = 5;
    const ROUTER_ADVERTISEMENT: u8 = 9;
    const ROUTER_ADVERTISEMENT6: u8 = 134;
    const REDIRECT6: u8 = 137;
    match (protocol, payload.first()) {
        (UDP | ICMP | ICMP6, None) => Some(Claim::Hidden),
        (UDP, _) => match half(payload, 0) {
            Some(SERVER | SERVER6) => Some(Claim::Dhcp),
            Some(_) => None,
            None => Some(Claim::Hidden),
        },
        (ICMP, Some(&(REDIRECT | ROUTER_ADVERTISEMENT))) => Some(Claim::Router),
        (ICMP6, Some(&(ROUTER_ADVERTISEMENT6 | REDIRECT6))) => Some(Claim::Router),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v4(protocol: u8, payload: &[u8]) -> Vec<u8> {
        let mut data = vec![0; 12];
        data.extend([8, 0, 0x45, 0, 0, 0, 0, 0, 0, 0, 64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        data.extend(payload);
        data
    }

    fn v6(next: u8, payload: &[u8]) -> Vec<u8> {
        let mut data = vec![0; 12];
        data.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 0, next, 64]);
        data.extend([0xfe; 32]);
        data.extend(payload);
        data
    }

    #[test]
    fn servers_and_routers_are_known() {
        assert_eq!(claim(&v4(UDP, &[0, 67, 0, 68])), Some(Claim::Dhcp));
        assert_eq!(claim(&v4(UDP, &[0, 68, 0, 67])), None);
        assert_eq!(claim(&v6(UDP, &[0x02, 0x23, 0, 0])), Some(Claim::Dhcp));
        assert_eq!(claim(&v6(ICMP6, &[134, 0])), Some(Claim::Router));
        assert_eq!(claim(&v6(ICMP6, &[135, 0])), None);
        assert_eq!(claim(&v4(ICMP, &[5, 0])), Some(Claim::Router));
        assert_eq!(claim(&v4(6, &[])), None);
        let mut tagged = v4(UDP, &[0, 67, 0, 68]);
        tagged.splice(12..12, [0x88, 0xa8, 0, 1, 0x81, 0, 0, 2]);
        assert_eq!(claim(&tagged), Some(Claim::Dhcp));
        assert_eq!(claim(&[0; 20]), None);
    }

    #[test]
    fn extension_headers_hide_nothing() {
        let advertisement = |before: &[u8]| [before, &[134, 0, 0, 0]].concat();
        let hops = [ICMP6, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(claim(&v6(HOP_BY_HOP, &advertisement(&hops))), Some(Claim::Router));
        let long = [[ICMP6, 1, 0, 0, 0, 0, 0, 0], [0; 8]].concat();
        assert_eq!(claim(&v6(DESTINATION, &advertisement(&long))), Some(Claim::Router));
        // The beginning of a packet in pieces, without what it is about; a later piece.
        assert_eq!(claim(&v6(FRAGMENT, &[ICMP6, 0, 0, 1, 0, 0, 0, 0])), Some(Claim::Hidden));
        assert_eq!(claim(&v6(FRAGMENT, &[ICMP6, 0, 0, 8, 0, 0, 0, 0, 134])), None);
        assert_eq!(claim(&v6(DESTINATION, &[ICMP6, 9, 0, 0, 0, 0, 0, 0])), Some(Claim::Hidden));
    }

    #[test]
    fn only_what_is_guarded_is_dropped() {
        let [dhcp, router, hidden] =
            [v4(UDP, &[0, 67, 0, 68]), v6(ICMP6, &[134, 0]), v6(FRAGMENT, &[ICMP6, 0, 0, 1])];
        let allow = |dhcp_guard, router_guard| {
            let guards = Guards { dhcp: dhcp_guard, router: router_guard };
            [&dhcp, &router, &hidden].map(|data| guards.allow(data))
        };
        assert_eq!(allow(false, false), [true, true, true]);
        assert_eq!(allow(true, false), [false, true, false]);
        assert_eq!(allow(false, true), [true, false, false]);
    }
}
