//! Addresses for guests: DHCP (RFC 2131, 2132). Each hardware address gets one of its own and keeps it. Not there:
//! relays, reservations, other options than mask, router, name server, times and the host's name.

use std::collections::HashMap;
use std::net::Ipv4Addr;

use smoltcp::wire::{DhcpMessageType, DhcpOption, DhcpPacket, DhcpRepr, EthernetAddress};

use super::addresses::{DNS, FIRST_GUEST, GATEWAY, LAST_GUEST, NETMASK};
use crate::frame::Mac;

pub(super) const SERVER_PORT: u16 = 67;
pub(super) const CLIENT_PORT: u16 = 68;
/// Seconds for which a guest has its address; it stays the guest's thereafter unless all others are taken.
const LEASE: u32 = 24 * 3600;
const OPTION_HOST_NAME: u8 = 12;
/// The longest name that fits in the option.
pub(super) const LONGEST_NAME: usize = 255;

struct Lease {
    address: Ipv4Addr,
    /// When it was last asked for, counted in requests.
    used: u64,
}

/// Which guest has which address.
#[derive(Default)]
pub(super) struct Leases {
    leases: HashMap<Mac, Lease>,
    requests: u64,
    /// What guests are told that they are called.
    hostname: Option<String>,
}

/// An answer and where it goes: to that address, or to all while the guest has none.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub to: Ipv4Addr,
    pub mac: Mac,
    pub data: Vec<u8>,
}

impl Leases {
    /// No leases.
    pub fn new(hostname: Option<String>) -> Self {
        Self { hostname, ..Self::default() }
    }

    /// The address of a guest, which it gets now if it has none: the one that it wants if it is free.
    fn lease(&mut self, mac: Mac, wanted: Option<Ipv4Addr>) -> Ipv4Addr {
        self.requests += 1;
        if let Some(lease) = self.leases.get_mut(&mac) {
            lease.used = self.requests;
            return lease.address;
        }
        let range = u32::from(FIRST_GUEST)..=u32::from(LAST_GUEST);
        let taken = |address: Ipv4Addr| self.leases.values().any(|lease| lease.address == address);
        let wanted = wanted.filter(|wanted| range.contains(&u32::from(*wanted)) && !taken(*wanted));
        let free = || range.clone().map(Ipv4Addr::from).find(|address| !taken(*address));
        let address = wanted.or_else(free).unwrap_or_else(|| self.take_oldest());
        self.leases.insert(mac, Lease { address, used: self.requests });
        address
    }

    /// The address that has not been asked for for the longest time.
    fn take_oldest(&mut self) -> Ipv4Addr {
        let oldest = self.leases.iter().min_by_key(|(_, lease)| lease.used).map(|(mac, _)| *mac);
        oldest.and_then(|mac| self.leases.remove(&mac)).map_or(FIRST_GUEST, |lease| lease.address)
    }

    /// Answers what `from` has sent to the server's port.
    pub fn answer(&mut self, from: Mac, data: &[u8]) -> Option<Answer> {
        let packet = DhcpPacket::new_checked(data).ok()?;
        let request = DhcpRepr::parse(&packet).ok()?;
        // Who asks for another would take that one's address.
        if packet.opcode() != smoltcp::wire::DhcpOpCode::Request
            || request.client_hardware_address.0 != from.0
        {
            return None;
        }
        let elsewhere = request.server_identifier.is_some_and(|server| server != GATEWAY);
        match request.message_type {
            DhcpMessageType::Discover => {
                let address = self.lease(from, request.requested_ip);
                Some(self.message(&request, DhcpMessageType::Offer, address))
            }
            DhcpMessageType::Request if elsewhere => None,
            DhcpMessageType::Request => {
                let wanted = request.requested_ip.unwrap_or(request.client_ip);
                let address = self.lease(from, Some(wanted));
                let kind = if address == wanted { DhcpMessageType::Ack } else { DhcpMessageType::Nak };
                Some(self.message(&request, kind, address))
            }
            DhcpMessageType::Inform => {
                Some(self.message(&request, DhcpMessageType::Ack, Ipv4Addr::UNSPECIFIED))
            }
            _ => None,
        }
    }

    fn message(&self, request: &DhcpRepr<'_>, kind: DhcpMessageType, address: Ipv4Addr) -> Answer {
        let refuses = kind == DhcpMessageType::Nak;
        let informs = address.is_unspecified();
        let name = self.hostname.as_ref().filter(|_| !refuses);
        let name = name.map(|name| DhcpOption { kind: OPTION_HOST_NAME, data: name.as_bytes() });
        let unspecified = Ipv4Addr::UNSPECIFIED;
        let message = DhcpRepr {
            message_type: kind,
            transaction_id: request.transaction_id,
            secs: 0,
            client_hardware_address: request.client_hardware_address,
            client_ip: if refuses { unspecified } else { request.client_ip },
            your_ip: if refuses { unspecified } else { address },
            server_ip: unspecified,
            router: (!refuses).then_some(GATEWAY),
            subnet_mask: (!refuses).then_some(NETMASK),
            relay_agent_ip: unspecified,
            broadcast: request.broadcast,
            requested_ip: None,
            client_identifier: None,
            server_identifier: Some(GATEWAY),
            parameter_request_list: None,
            dns_servers: (!refuses).then(|| [DNS].into_iter().collect()),
            max_size: None,
            lease_duration: (!refuses && !informs).then_some(LEASE),
            renew_duration: None,
            rebind_duration: None,
            additional_options: name.as_slice(),
        };
        let mut data = vec![0; message.buffer_len()];
        let emitted = message.emit(&mut DhcpPacket::new_unchecked(&mut data[..]));
        debug_assert!(emitted.is_ok(), "the buffer is as long as it has to be");
        let EthernetAddress(mac) = request.client_hardware_address;
        let has_address = !request.client_ip.is_unspecified() && !refuses;
        Answer {
            to: if has_address { request.client_ip } else { Ipv4Addr::BROADCAST },
            mac: if has_address { Mac(mac) } else { Mac::BROADCAST },
            data,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(mac: u8, kind: DhcpMessageType, wanted: Option<Ipv4Addr>) -> Vec<u8> {
        let message = DhcpRepr {
            message_type: kind,
            transaction_id: 7,
            secs: 0,
            client_hardware_address: EthernetAddress([2, 0, 0, 0, 0, mac]),
            client_ip: Ipv4Addr::UNSPECIFIED,
            your_ip: Ipv4Addr::UNSPECIFIED,
            server_ip: Ipv4Addr::UNSPECIFIED,
            router: None,
            subnet_mask: None,
            relay_agent_ip: Ipv4Addr::UNSPECIFIED,
            broadcast: false,
            requested_ip: wanted,
            client_identifier: None,
            server_identifier: None,
            parameter_request_list: None,
            dns_servers: None,
            max_size: None,
            lease_duration: None,
            renew_duration: None,
            rebind_duration: None,
            additional_options: &[],
        };
        let mut data = vec![0; message.buffer_len()];
        message.emit(&mut DhcpPacket::new_unchecked(&mut data[..])).unwrap();
        data
    }

    fn ask(
        leases: &mut Leases,
        mac: u8,
        kind: DhcpMessageType,
        wanted: Option<Ipv4Addr>,
    ) -> (DhcpMessageType, Ipv4Addr) {
        let answer = leases.answer(Mac([2, 0, 0, 0, 0, mac]), &request(mac, kind, wanted)).unwrap();
        let packet = DhcpPacket::new_checked(&answer.data[..]).unwrap();
        let answer = DhcpRepr::parse(&packet).unwrap();
        (answer.message_type, answer.your_ip)
    }

    #[test]
    fn every_guest_has_an_address_of_its_own_and_keeps_it() {
        use DhcpMessageType::{Ack, Discover, Nak, Offer, Request};
        let mut leases = Leases::default();
        let (first, second) = (FIRST_GUEST, Ipv4Addr::new(10, 0, 2, 16));
        assert_eq!(ask(&mut leases, 1, Discover, None), (Offer, first));
        assert_eq!(ask(&mut leases, 2, Discover, Some(first)), (Offer, second));
        assert_eq!(ask(&mut leases, 2, Request, Some(second)), (Ack, second));
        assert_eq!(ask(&mut leases, 1, Request, Some(second)), (Nak, Ipv4Addr::UNSPECIFIED));
        assert_eq!(ask(&mut leases, 1, Discover, None), (Offer, first));
    }

    #[test]
    fn a_guest_that_had_an_address_before_gets_it_again() {
        let mut leases = Leases::default();
        let before = Ipv4Addr::new(10, 0, 2, 99);
        let answer = ask(&mut leases, 1, DhcpMessageType::Request, Some(before));
        assert_eq!(answer, (DhcpMessageType::Ack, before));
    }

    #[test]
    fn who_comes_when_all_are_taken_gets_what_is_used_least() {
        let mut leases = Leases::default();
        for mac in 0..=239 {
            ask(&mut leases, mac, DhcpMessageType::Discover, None);
        }
        ask(&mut leases, 0, DhcpMessageType::Discover, None);
        let (_, address) = ask(&mut leases, 250, DhcpMessageType::Discover, None);
        assert_eq!((address, leases.leases.len()), (Ipv4Addr::new(10, 0, 2, 16), 240));
    }

    #[test]
    fn nobody_asks_for_another() {
        let mut leases = Leases::default();
        let data = request(1, DhcpMessageType::Discover, None);
        assert_eq!(leases.answer(Mac([2, 0, 0, 0, 0, 2]), &data), None);
        for len in 0..data.len() {
            leases.answer(Mac([2, 0, 0, 0, 0, 1]), &data[..len]);
        }
    }

    #[test]
    fn a_guest_is_told_its_name() {
        let mut leases = Leases::new(Some("a".repeat(LONGEST_NAME)));
        let data = request(1, DhcpMessageType::Discover, None);
        let answer = leases.answer(Mac([2, 0, 0, 0, 0, 1]), &data).unwrap();
        let packet = DhcpPacket::new_checked(&answer.data[..]).unwrap();
        let name = packet.options().find(|option| option.kind == OPTION_HOST_NAME).unwrap();
        assert_eq!(name.data, [b'a'; LONGEST_NAME]);
    }
}
