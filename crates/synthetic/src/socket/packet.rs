//! Packets of a stream: a header, and some of the stream.
//!
//! Linux `net/vmw_vsock/hyperv_transport.c` (`vmpipe_proto_header`).

/// Bytes of the header: a type and how many bytes follow, each in four bytes.
const HEADER: usize = 8;
/// Data.
const DATA: u32 = 1;
/// The most bytes of the stream in a packet that the guest sends.
pub(super) const MOST_FROM_GUEST: usize = 16 << 10;
/// And in one for the guest: as Linux sends them, so that several are on their way in the smallest of rings.
pub(super) const MOST_TO_GUEST: usize = 4096 - HEADER;
/// Bytes of the longest packet, with padding.
pub(super) const LONGEST: usize = HEADER + MOST_FROM_GUEST + 8;

/// A packet with `data`; without any it is the stream's end.
pub(super) fn encode(data: &[u8]) -> Vec<u8> {
    let mut packet = DATA.to_le_bytes().to_vec();
    // Callers have at most MOST_TO_GUEST.
    packet.extend((data.len() as u32).to_le_bytes());
    packet.extend(data);
    packet
}

/// What is in a packet; `None` if it is none.
pub(super) fn decode(packet: &[u8]) -> Option<&[u8]> {
    let (header, data) = packet.split_first_chunk::<HEADER>()?;
    let number = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    let length = usize::try_from(number(4)).ok().filter(|length| *length <= MOST_FROM_GUEST)?;
    if number(0) == DATA { data.get(..length) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_are_what_they_were_and_others_are_none() {
        let packet = encode(b"abc");
        assert_eq!((packet.len(), decode(&packet)), (11, Some(&b"abc"[..])));
        assert_eq!(decode(&[&packet[..], &[0; 5]].concat()), Some(&b"abc"[..]));
        assert_eq!(decode(&encode(&[])), Some(&[][..]));
        assert_eq!((decode(&packet[..10]), decode(&packet[..7]), decode(&[])), (None, None, None));
        assert_eq!(decode(&[0; 16]), None);
        let long =
            [&1_u32.to_le_bytes()[..], &(MOST_FROM_GUEST as u32 + 1).to_le_bytes(), &[0; LONGEST]].concat();
        assert_eq!(decode(&long), None);
    }
}
