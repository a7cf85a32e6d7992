//! IPv6's neighbours and router (NDP, RFC 4861): guests make their addresses of the prefix (RFC 4862). The name server is
//! advertised by DHCP only.

use std::net::{IpAddr, Ipv6Addr};

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::time::Duration;
use smoltcp::wire::{
    EthernetAddress, Icmpv6Packet, Icmpv6Repr, IpProtocol, NdiscNeighborFlags, NdiscPrefixInfoFlags,
    NdiscPrefixInformation, NdiscRepr, NdiscRouterFlags,
};

use super::addresses::{DNS6, GATEWAY6, MAC, PREFIX6, ROUTER6};
use super::link::Link;
use super::packet::{ETHERTYPE_IPV6, MTU, Packet, ip_frame};
use crate::frame::{Frame, Mac};

const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
/// What has it has come over no router.
const HOPS: u8 = 255;
const PREFIX_LEN: u8 = 64;
const LIFETIME: Duration = Duration::from_secs(1800);
const PREFIX_LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// Where frames to a group of IPv6 go (RFC 2464, section 7).
fn group(address: Ipv6Addr) -> Mac {
    let [.., a, b, c, d] = address.octets();
    Mac([0x33, 0x33, a, b, c, d])
}

fn send(link: &mut Link, mac: Mac, (from, to): (Ipv6Addr, Ipv6Addr), message: NdiscRepr<'_>) {
    let message = Icmpv6Repr::Ndisc(message);
    let addresses = (IpAddr::from(from), IpAddr::from(to));
    let data = ip_frame(addresses, IpProtocol::Icmpv6, HOPS, message.buffer_len(), |room| {
        message.emit(&from, &to, &mut Icmpv6Packet::new_unchecked(room), &ChecksumCapabilities::default());
    });
    link.send_to(mac, ETHERTYPE_IPV6, Frame::new(data));
}

/// Asks where the guest with `address` is.
pub(super) fn ask(link: &mut Link, address: Ipv6Addr) {
    let [.., a, b, c] = address.octets();
    let everybody = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(a), u16::from_be_bytes([b, c]));
    let lladdr = Some(EthernetAddress(MAC.0).into());
    let message = NdiscRepr::NeighborSolicit { target_addr: address, lladdr };
    send(link, group(everybody), (ROUTER6, everybody), message);
}

/// Whether `packet` is one of NDP.
pub(super) fn is(packet: &Packet<'_>) -> bool {
    packet.protocol == IpProtocol::Icmpv6
        && packet.payload.first().is_some_and(|kind| (133..=137).contains(kind))
}

/// Answers a guest that looks for a router or a neighbour.
pub(super) fn packet(link: &mut Link, mac: Mac, packet: &Packet<'_>) {
    let (IpAddr::V6(source), IpAddr::V6(destination)) = (packet.source, packet.destination) else { return };
    let message = Icmpv6Packet::new_checked(packet.payload).ok();
    let checksums = ChecksumCapabilities::default();
    let message = message
        .as_ref()
        .and_then(|message| Icmpv6Repr::parse(&source, &destination, message, &checksums).ok());
    let Some(Icmpv6Repr::Ndisc(message)) = message.filter(|_| packet.hop_limit == HOPS) else {
        return link.dropped.count();
    };
    // Who has no address yet is answered with all others.
    let (to, mac) = if source.is_unspecified() { (ALL_NODES, group(ALL_NODES)) } else { (source, mac) };
    let lladdr = Some(EthernetAddress(MAC.0).into());
    match message {
        NdiscRepr::RouterSolicit { .. } => {
            let message = NdiscRepr::RouterAdvert {
                hop_limit: 64,
                flags: NdiscRouterFlags::empty(),
                router_lifetime: LIFETIME,
                reachable_time: Duration::ZERO,
                retrans_time: Duration::ZERO,
                lladdr,
                mtu: Some(MTU as u32),
                prefix_info: Some(NdiscPrefixInformation {
                    prefix_len: PREFIX_LEN,
                    flags: NdiscPrefixInfoFlags::ON_LINK | NdiscPrefixInfoFlags::ADDRCONF,
                    valid_lifetime: PREFIX_LIFETIME,
                    preferred_lifetime: PREFIX_LIFETIME,
                    prefix: PREFIX6,
                }),
            };
            send(link, mac, (ROUTER6, to), message);
        }
        NdiscRepr::NeighborSolicit { target_addr, .. }
            if matches!(target_addr, ROUTER6 | GATEWAY6 | DNS6) =>
        {
            let solicited = if source.is_unspecified() {
                NdiscNeighborFlags::empty()
            } else {
                NdiscNeighborFlags::SOLICITED
            };
            let flags = NdiscNeighborFlags::ROUTER | NdiscNeighborFlags::OVERRIDE | solicited;
            send(link, mac, (target_addr, to), NdiscRepr::NeighborAdvert { flags, target_addr, lladdr });
        }
        _ => {}
    }
}
