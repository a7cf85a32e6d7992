//! Packets of IP in fragments (RFC 791 §3.2, RFC 8200 §4.5): those of guests are put together, those to guests are cut.

use std::collections::VecDeque;

use smoltcp::time::{Duration, Instant};
use smoltcp::wire::{Ipv4Packet, checksum};

use super::packet::{MTU, set_length, version};
use crate::frame::{Frame, HEADER, IPV4_HEADER, IPV6_HEADER};

/// Packets of which not all has come, at the most; one more ends the oldest.
const PACKETS: usize = 16;
/// After that what has come is forgotten (RFC 1122 §3.3.2 has 60 s at the least, Linux 30 s).
const PATIENCE: Duration = Duration::from_secs(30);
/// Bytes of a packet of IPv4, or of the payload of one of IPv6, at the most.
const LONGEST: usize = 0xffff;
/// Fragments begin at multiples of it.
const UNIT: usize = 8;

/// Of IPv4's flags and fragment offset.
const MORE: u16 = 0x2000;
const OFFSET: u16 = 0x1fff;

/// IPv6's header of a fragment: its number, its bytes, and its flag.
const FRAGMENT6: u8 = 44;
const FRAGMENT6_HEADER: usize = 8;
const MORE6: u16 = 1;

/// What tells packets apart: version and protocol, addresses, identification.
type Key = (u8, [u8; 32], u32);

/// A fragment as its headers describe it.
struct Fragment<'a> {
    key: Key,
    /// Where in the packet's payload it begins.
    offset: usize,
    /// Whether there is more after it.
    more: bool,
    /// Ethernet's and IP's headers, without IPv6's header of a fragment.
    headers: Vec<u8>,
    payload: &'a [u8],
}

/// What a fragment says of itself. `None` if it is damaged.
fn parse(frame: &Frame) -> Option<Fragment<'_>> {
    let (ethernet, ip) = frame.data.split_first_chunk::<HEADER>()?;
    if frame.checksum.is_some() || frame.segments.is_some() {
        return None;
    }
    if version(&frame.data) == Some(4) {
        let fixed: &[u8; IPV4_HEADER] = ip.first_chunk()?;
        let word = |at: usize| u16::from_be_bytes([fixed[at], fixed[at + 1]]);
        let (header, payload) =
            ip.get(..word(2).into())?.split_at_checked(usize::from(fixed[0] & 0xf) * 4)?;
        if header.len() < IPV4_HEADER || !frame.verified && checksum::data(header) != !0 {
            return None;
        }
        let mut addresses = [0; 32];
        addresses[..8].copy_from_slice(&fixed[12..]);
        Some(Fragment {
            key: (fixed[9], addresses, word(4).into()),
            offset: usize::from(word(6) & OFFSET) * UNIT,
            more: word(6) & MORE != 0,
            headers: [ethernet, header].concat(),
            payload,
        })
    } else {
        let (fixed, _) = ip.split_first_chunk::<IPV6_HEADER>()?;
        let len = u16::from_be_bytes([fixed[4], fixed[5]]);
        let rest = ip.get(IPV6_HEADER..IPV6_HEADER + usize::from(len))?;
        let (fragment, payload) = rest.split_first_chunk::<FRAGMENT6_HEADER>()?;
        let [next, _, high, low, identification @ ..] = *fragment;
        let place = u16::from_be_bytes([high, low]);
        let mut headers = [&ethernet[..], fixed].concat();
        headers[HEADER + 6] = next;
        Some(Fragment {
            key: (next, *fixed.last_chunk()?, u32::from_be_bytes(identification)),
            offset: usize::from(place & !7),
            more: place & MORE6 != 0,
            headers,
            payload,
        })
    }
}

/// Whether `frame` has a fragment of a packet.
pub(super) fn is(frame: &Frame) -> bool {
    let ip = frame.data.get(HEADER..).unwrap_or_default();
    match version(&frame.data) {
        Some(4) => {
            ip.get(6..8).is_some_and(|place| u16::from_be_bytes([place[0], place[1]]) & (MORE | OFFSET) != 0)
        }
        Some(6) => ip.get(6) == Some(&FRAGMENT6),
        _ => false,
    }
}

/// A packet of which something has come.
struct Partial {
    key: Key,
    since: Instant,
    /// Those of the first fragment.
    headers: Option<Vec<u8>>,
    payload: Vec<u8>,
    /// The units that have come.
    come: Vec<bool>,
    /// Bytes of payload, once the last fragment has come.
    len: Option<usize>,
    /// Whether all that has come is known to be as it was sent.
    verified: bool,
}

impl Partial {
    fn new(key: Key, since: Instant) -> Self {
        Self { key, since, headers: None, payload: vec![], come: vec![], len: None, verified: true }
    }

    /// Takes a fragment. `false` if it does not fit with what has come: fragments do not overlap (RFC 5722).
    fn take(&mut self, fragment: Fragment<'_>, verified: bool) -> bool {
        let Fragment { offset, more, headers, payload, .. } = fragment;
        let end = offset + payload.len();
        let headers_len = if version(&headers) == Some(4) { headers.len() - HEADER } else { 0 };
        let fits = !payload.is_empty() && headers_len + end <= LONGEST && (!more || end % UNIT == 0);
        let beyond = self.len.is_some_and(|len| end > len || !more) || !more && end < self.payload.len();
        if !fits || beyond {
            return false;
        }
        self.payload.resize(end.max(self.payload.len()), 0);
        self.come.resize(self.payload.len().div_ceil(UNIT), false);
        let units = &mut self.come[offset / UNIT..end.div_ceil(UNIT)];
        if units.contains(&true) {
            return false;
        }
        units.fill(true);
        self.payload[offset..end].copy_from_slice(payload);
        if offset == 0 {
            self.headers = Some(headers);
        }
        if !more {
            self.len = Some(end);
        }
        self.verified &= verified;
        true
    }

    /// The packet, if all of it has come.
    fn whole(&mut self) -> Option<Frame> {
        self.len.filter(|_| !self.come.contains(&false))?;
        let mut data = self.headers.take()?;
        data.append(&mut self.payload);
        set_length(&mut data);
        if version(&data) == Some(4) {
            let ip = &mut data[HEADER..];
            ip[6..8].fill(0);
            Ipv4Packet::new_unchecked(ip).fill_checksum();
        }
        Some(Frame { verified: self.verified, ..Frame::new(data) })
    }
}

/// Puts packets together.
pub(super) struct Reassembly {
    /// The oldest first.
    packets: VecDeque<Partial>,
}

/// What a fragment has brought about.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Its packet is whole.
    Whole(Frame),
    /// Others are waited for; so many packets have been given up for it.
    Kept(usize),
    /// It is damaged, or does not fit with others: what its packet had is forgotten.
    Refused,
}

impl Reassembly {
    /// Nothing has come yet.
    pub fn new() -> Self {
        Self { packets: VecDeque::new() }
    }

    /// Takes a frame with a fragment.
    pub fn take(&mut self, now: Instant, frame: &Frame) -> Outcome {
        let Some(fragment) = parse(frame) else { return Outcome::Refused };
        let key = fragment.key;
        let before = self.packets.len();
        self.packets.retain(|packet| now < packet.since + PATIENCE);
        let mut given_up = before - self.packets.len();
        let at = self.packets.iter().position(|packet| packet.key == key).unwrap_or_else(|| {
            if self.packets.len() >= PACKETS {
                self.packets.pop_front();
                given_up += 1;
            }
            self.packets.push_back(Partial::new(key, now));
            self.packets.len() - 1
        });
        let packet = &mut self.packets[at];
        let fits = packet.take(fragment, frame.verified);
        let whole = packet.whole();
        if whole.is_some() || !fits {
            self.packets.remove(at);
        }
        match (fits, whole) {
            (false, _) => Outcome::Refused,
            (true, Some(frame)) => Outcome::Whole(frame),
            (true, None) => Outcome::Kept(given_up),
        }
    }
}

/// Cuts a frame with a packet, of IPv4 without options, that is longer than [`MTU`] into fragments.
pub(super) fn cut(data: Vec<u8>, identification: u32) -> Vec<Vec<u8>> {
    if data.len() <= HEADER + MTU {
        return vec![data];
    }
    let is_v4 = version(&data) == Some(4);
    let header = if is_v4 { IPV4_HEADER } else { IPV6_HEADER };
    let (headers, payload) = data.split_at(HEADER + header);
    let room = MTU - header - if is_v4 { 0 } else { FRAGMENT6_HEADER };
    // All but the last carry a multiple of a unit.
    let step = room / UNIT * UNIT;
    let pieces = payload.chunks(step).enumerate().map(|(index, piece)| {
        let offset = index * step;
        let more = offset + piece.len() < payload.len();
        let mut fragment = headers.to_vec();
        if is_v4 {
            fragment.extend(piece);
            set_length(&mut fragment);
            let place = (offset / UNIT) as u16 | if more { MORE } else { 0 };
            let ip = &mut fragment[HEADER..];
            ip[4..6].copy_from_slice(&(identification as u16).to_be_bytes());
            ip[6..8].copy_from_slice(&place.to_be_bytes());
            Ipv4Packet::new_unchecked(ip).fill_checksum();
        } else {
            let place = offset as u16 | if more { MORE6 } else { 0 };
            let next = std::mem::replace(&mut fragment[HEADER + 6], FRAGMENT6);
            fragment.extend([next, 0]);
            fragment.extend(place.to_be_bytes());
            fragment.extend(identification.to_be_bytes());
            fragment.extend(piece);
            set_length(&mut fragment);
        }
        fragment
    });
    pieces.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::Mac;
    use crate::nat::packet::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, Packet, set_ethernet, udp_frame};

    fn datagram(len: usize, v6: bool) -> Vec<u8> {
        let (guest, peer, ethertype) = if v6 {
            ("[fd00::15]:1000", "[2001:db8::1]:53", ETHERTYPE_IPV6)
        } else {
            ("10.0.2.15:1000", "1.2.3.4:53", ETHERTYPE_IPV4)
        };
        let payload: Vec<u8> = (0..len).map(|n| (n / 3) as u8).collect();
        let mut data = udp_frame(guest.parse().unwrap(), peer.parse().unwrap(), &payload);
        set_ethernet(&mut data, Mac::BROADCAST, ethertype);
        data
    }

    fn pieces(len: usize, v6: bool) -> Vec<Frame> {
        cut(datagram(len, v6), 7).into_iter().map(Frame::new).collect()
    }

    #[test]
    fn pieces_are_as_long_as_they_say_and_fit_the_wire() {
        for (v6, lengths) in [(false, [1500, 1500, 1068]), (true, [1496, 1496, 1160])] {
            let pieces = pieces(4000, v6);
            let said = |frame: &Frame| {
                let word = |at: usize| usize::from(u16::from_be_bytes([frame.data[at], frame.data[at + 1]]));
                if v6 { word(HEADER + 4) + IPV6_HEADER } else { word(HEADER + 2) }
            };
            assert_eq!(pieces.iter().map(said).collect::<Vec<_>>(), lengths);
            for piece in &pieces {
                assert_eq!(piece.data.len(), HEADER + said(piece));
                assert!(is(piece) && Packet::parse(piece).is_none_or(|packet| packet.udp().is_none()));
            }
        }
    }

    #[test]
    fn a_packet_is_whole_when_all_has_come_in_any_order() {
        for v6 in [false, true] {
            for len in [1473, 4000, 65_000] {
                let mut reassembly = Reassembly::new();
                let mut pieces = pieces(len, v6);
                pieces.reverse();
                pieces.swap(0, 1);
                let last = pieces.pop().unwrap();
                for piece in &pieces {
                    assert_eq!(reassembly.take(Instant::ZERO, piece), Outcome::Kept(0));
                }
                let mut whole = datagram(len, v6);
                if !v6 {
                    whole[HEADER + 4..HEADER + 6].copy_from_slice(&[0, 7]);
                    whole[HEADER + 6..HEADER + 8].fill(0);
                    Ipv4Packet::new_unchecked(&mut whole[HEADER..]).fill_checksum();
                }
                let outcome = reassembly.take(Instant::ZERO, &last);
                assert_eq!(outcome, Outcome::Whole(Frame::new(whole)), "{len}");
                assert!(reassembly.packets.is_empty());
            }
        }
    }

    #[test]
    fn what_overlaps_or_is_too_long_is_refused_and_forgotten() {
        let mut reassembly = Reassembly::new();
        let pieces = pieces(4000, false);
        assert_eq!(reassembly.take(Instant::ZERO, &pieces[0]), Outcome::Kept(0));
        assert_eq!(reassembly.take(Instant::ZERO, &pieces[0]), Outcome::Refused);
        assert!(reassembly.packets.is_empty());
        // Beyond what a packet may have.
        let mut far = pieces[1].clone();
        far.verified = true;
        far.data[HEADER + 6..HEADER + 8].copy_from_slice(&(MORE | OFFSET).to_be_bytes());
        assert_eq!(reassembly.take(Instant::ZERO, &far), Outcome::Refused);
        // Two ends.
        let mut end = pieces[0].clone();
        end.verified = true;
        end.data[HEADER + 6] = 0;
        assert_eq!(reassembly.take(Instant::ZERO, &pieces[2]), Outcome::Kept(0));
        assert_eq!(reassembly.take(Instant::ZERO, &end), Outcome::Refused);
        assert!(reassembly.packets.is_empty());
    }

    #[test]
    fn damage_is_refused() {
        let mut reassembly = Reassembly::new();
        for v6 in [false, true] {
            let piece = &pieces(4000, v6)[0];
            for len in 0..piece.data.len() {
                let frame = Frame::new(piece.data[..len].to_vec());
                assert_eq!(reassembly.take(Instant::ZERO, &frame), Outcome::Refused, "{len}");
            }
        }
        let mut piece = pieces(4000, false).remove(0);
        piece.data[HEADER + 8] ^= 1;
        assert_eq!(reassembly.take(Instant::ZERO, &piece), Outcome::Refused);
    }

    #[test]
    fn what_waits_is_bounded_and_forgotten_in_time() {
        let mut reassembly = Reassembly::new();
        let first = |identification| Frame::new(cut(datagram(4000, true), identification).remove(0));
        for identification in 0..40 {
            let given_up = usize::from(identification >= 16);
            assert_eq!(reassembly.take(Instant::ZERO, &first(identification)), Outcome::Kept(given_up));
        }
        assert_eq!(reassembly.packets.len(), PACKETS);
        assert_eq!(reassembly.take(Instant::ZERO + PATIENCE, &first(40)), Outcome::Kept(PACKETS));
        assert_eq!(reassembly.packets.len(), 1);
    }
}
