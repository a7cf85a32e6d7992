//! Which queue of a NIC a frame goes to: receive side scaling (RSS).
//!
//! The hash is Toeplitz'; what it is made of is in Microsoft's "RSS Hashing Types".

use crate::frame::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, Frame, IPV4_HEADER, IPV6_HEADER};

/// Bytes of a key.
pub const KEY: usize = 40;
const TCP: u8 = 6;

/// Frames of one connection go to one queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Steering {
    /// The key of the hash.
    pub key: [u8; KEY],
    /// Queues, by the low bits of the hash; a power of two.
    pub table: Vec<u8>,
}

impl Steering {
    /// The queue of a frame. The first one if it is no IP.
    pub fn queue(&self, frame: &Frame) -> usize {
        let hash = tuple(&frame.data).map_or(0, |(tuple, length)| self.hash(&tuple[..length]));
        let mask = self.table.len().wrapping_sub(1);
        self.table.get(hash as usize & mask).map_or(0, |&queue| queue.into())
    }

    fn hash(&self, input: &[u8]) -> u32 {
        let mut hash = 0;
        for (index, &byte) in input.iter().enumerate() {
            let window = self
                .key
                .get(index..index + 5)
                .map_or(0, |bytes| bytes.iter().fold(0_u64, |window, &byte| window << 8 | u64::from(byte)));
            for bit in 0..8 {
                if byte >> (7 - bit) & 1 != 0 {
                    hash ^= (window >> (8 - bit)) as u32;
                }
            }
        }
        hash
    }
}

/// Addresses and, of TCP that is not in fragments, ports: what tells connections apart.
fn tuple(data: &[u8]) -> Option<([u8; 36], usize)> {
    let mut at = 12;
    if data.get(at..at + 2)? == [0x81, 0x00] {
        at += 4;
    }
    let ethertype = u16::from_be_bytes(*data.get(at..)?.first_chunk()?);
    let ip = data.get(at + 2..)?;
    let (addresses, ports) = match ethertype {
        ETHERTYPE_IPV4 => {
            let header = ip.first_chunk::<IPV4_HEADER>()?;
            let whole = u16::from_be_bytes([header[6], header[7]]) & 0x3fff == 0;
            let ports = ip.get(usize::from(header[0] & 0xf) * 4..).filter(|_| whole && header[9] == TCP);
            (ip.get(12..20)?, ports)
        }
        ETHERTYPE_IPV6 => {
            let header = ip.first_chunk::<IPV6_HEADER>()?;
            (ip.get(8..40)?, ip.get(IPV6_HEADER..).filter(|_| header[6] == TCP))
        }
        _ => return None,
    };
    let mut tuple = [0; 36];
    let ports = ports.and_then(|ports| ports.get(..4)).unwrap_or_default();
    let length = addresses.len() + ports.len();
    tuple.iter_mut().zip(addresses.iter().chain(ports)).for_each(|(to, from)| *to = *from);
    Some((tuple, length))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The key and the results of Microsoft's "Verifying the RSS Hash Calculation".
    const MICROSOFT: [u8; KEY] = [
        0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3, 0x8f, 0xb0, 0xd0,
        0xca, 0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30, 0xf2, 0x0c, 0x6a, 0x42,
        0xb7, 0x3b, 0xbe, 0xac, 0x01, 0xfa,
    ];

    fn packet(protocol: u8, fragment: u16) -> Vec<u8> {
        let mut data = vec![0; 12];
        data.extend([8, 0, 0x45, 0, 0, 0, 0, 0]);
        data.extend(fragment.to_be_bytes());
        data.extend([64, protocol, 0, 0]);
        data.extend([66, 9, 149, 187, 161, 142, 100, 80]);
        data.extend([2794_u16.to_be_bytes(), 1766_u16.to_be_bytes()].concat());
        data
    }

    fn hash(data: &[u8]) -> u32 {
        let (tuple, length) = tuple(data).unwrap();
        Steering { key: MICROSOFT, table: vec![0] }.hash(&tuple[..length])
    }

    #[test]
    fn the_hash_is_the_one_that_is_documented() {
        assert_eq!(hash(&packet(TCP, 0x4000)), 0x51cc_c178);
        // Of UDP and of fragments the addresses alone.
        for data in [packet(17, 0), packet(TCP, 0x2000), packet(TCP, 0x0001)] {
            assert_eq!(hash(&data), 0x323e_8fc2);
        }
        let mut tagged = packet(TCP, 0);
        tagged.splice(12..12, [0x81, 0, 0, 7]);
        assert_eq!(hash(&tagged), 0x51cc_c178);
        let mut six = vec![0; 12];
        six.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 0, TCP, 64]);
        six.extend([0x3f, 0xfe, 0x25, 0x01, 0x02, 0x00, 0x1f, 0xff, 0, 0, 0, 0, 0, 0, 0, 7]);
        six.extend([0x3f, 0xfe, 0x25, 0x01, 0x02, 0x00, 0x00, 0x03, 0, 0, 0, 0, 0, 0, 0, 1]);
        six.extend([2794_u16.to_be_bytes(), 1766_u16.to_be_bytes()].concat());
        assert_eq!(hash(&six), 0x4020_7d3d);
    }

    #[test]
    fn the_table_says_the_queue() {
        let table: Vec<u8> = (0..128).collect();
        let steering = Steering { key: MICROSOFT, table };
        assert_eq!(steering.queue(&Frame::new(packet(TCP, 0))), 0x78);
        assert_eq!(steering.queue(&Frame::new(vec![0; 60])), 0);
        let nothing = Steering { table: Vec::new(), ..steering };
        assert_eq!(nothing.queue(&Frame::new(packet(TCP, 0))), 0);
    }
}
