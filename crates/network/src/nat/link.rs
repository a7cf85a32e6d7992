//! The wire to the guests: who is there (ARP, RFC 826), and frames to them.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr};

use counters::Counter;
use smoltcp::wire::{ArpOperation, ArpPacket, ArpRepr, EthernetAddress};

use super::addresses::{self, DNS, GATEWAY, MAC};
use super::packet::{ETHERTYPE_ARP, ethertype_of, set_ethernet};
use super::{fragments, ndp};
use crate::frame::{Frame, HEADER, Mac};

/// Guests that are known at the most; one too many makes all forgotten.
const NEIGHBOURS: usize = 1024;
/// Frames that wait until it is known where their destination is.
const WAITING: usize = 64;

/// Where frames to the guests go.
pub(super) type Output = Box<dyn FnMut(Frame) + Send>;

/// The wire to the guests.
pub(super) struct Link {
    output: Output,
    /// Counts frames that there was no use or no room for.
    pub dropped: Counter,
    neighbours: HashMap<IpAddr, Mac>,
    waiting: VecDeque<(IpAddr, Frame)>,
    /// Of the next packet that is cut.
    identification: u32,
}

impl Link {
    /// A wire to nobody who is known.
    pub fn new(dropped: Counter, output: Output) -> Self {
        Self { output, dropped, neighbours: HashMap::new(), waiting: VecDeque::new(), identification: 0 }
    }

    /// A guest with `address` has sent from `mac`.
    pub fn learn(&mut self, address: IpAddr, mac: Mac) {
        if self.neighbours.get(&address) == Some(&mac) {
            return;
        }
        if self.neighbours.len() >= NEIGHBOURS {
            self.neighbours.clear();
        }
        self.neighbours.insert(address, mac);
        for (to, frame) in std::mem::take(&mut self.waiting) {
            if to == address {
                self.send_to(mac, ethertype_of(to), frame);
            } else {
                self.waiting.push_back((to, frame));
            }
        }
    }

    /// Sends a frame with a packet to the guest with `address`, when it is known where that is.
    pub fn send(&mut self, address: IpAddr, frame: Frame) {
        if let Some(&mac) = self.neighbours.get(&address) {
            return self.send_to(mac, ethertype_of(address), frame);
        }
        if self.waiting.len() >= WAITING {
            self.waiting.pop_front();
            self.dropped.count();
        }
        self.waiting.push_back((address, frame));
        match address {
            IpAddr::V4(v4) => self.ask(v4),
            IpAddr::V6(v6) => ndp::ask(self, v6),
        }
    }

    /// The same for a frame without anything left to be done, which is cut if it is too long.
    pub fn send_packet(&mut self, address: IpAddr, data: Vec<u8>) {
        self.identification = self.identification.wrapping_add(1);
        for piece in fragments::cut(data, self.identification) {
            self.send(address, Frame::new(piece));
        }
    }

    /// Sends a frame to an interface.
    pub fn send_to(&mut self, mac: Mac, ethertype: u16, mut frame: Frame) {
        set_ethernet(&mut frame.data, mac, ethertype);
        (self.output)(frame);
    }

    fn ask(&mut self, address: Ipv4Addr) {
        self.send_arp(Mac::BROADCAST, ArpOperation::Request, (GATEWAY, Mac([0; 6]), address));
    }

    fn send_arp(
        &mut self,
        mac: Mac,
        operation: ArpOperation,
        (from, target, address): (Ipv4Addr, Mac, Ipv4Addr),
    ) {
        let message = ArpRepr::EthernetIpv4 {
            operation,
            source_hardware_addr: EthernetAddress(MAC.0),
            source_protocol_addr: from,
            target_hardware_addr: EthernetAddress(target.0),
            target_protocol_addr: address,
        };
        let mut data = vec![0; HEADER + message.buffer_len()];
        message.emit(&mut ArpPacket::new_unchecked(&mut data[HEADER..]));
        self.send_to(mac, ETHERTYPE_ARP, Frame::new(data));
    }

    /// Answers who asks for the router or the name server.
    pub fn arp(&mut self, frame: &Frame) {
        let message = frame.data.get(HEADER..).and_then(|data| ArpPacket::new_checked(data).ok());
        let message = message.and_then(|message| ArpRepr::parse(&message).ok());
        let Some(ArpRepr::EthernetIpv4 {
            operation,
            source_hardware_addr: EthernetAddress(mac),
            source_protocol_addr: source,
            target_protocol_addr: target,
            ..
        }) = message
        else {
            return self.dropped.count();
        };
        let mac = Mac(mac);
        if frame.source() != Some(mac) {
            return self.dropped.count();
        }
        if addresses::is_guest(source.into()) {
            self.learn(source.into(), mac);
        }
        // Who asks without an address (RFC 5227) wants to know whether there is somebody.
        let asks = addresses::is_guest(source.into()) || source.is_unspecified();
        if operation == ArpOperation::Request && asks && matches!(target, GATEWAY | DNS) {
            self.send_arp(mac, ArpOperation::Reply, (target, mac, source));
        }
    }
}
