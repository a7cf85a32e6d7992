//! What goes over a network.

use std::fmt;
use std::str::FromStr;

/// Bytes of an Ethernet header.
pub const HEADER: usize = 14;
/// What a frame carries, as its header says.
pub(crate) const ETHERTYPE_ARP: u16 = 0x0806;
pub(crate) const ETHERTYPE_IPV4: u16 = 0x0800;
pub(crate) const ETHERTYPE_IPV6: u16 = 0x86dd;
/// Bytes of the shortest headers.
pub(crate) const IPV4_HEADER: usize = 20;
pub(crate) const IPV6_HEADER: usize = 40;

/// An address of a network interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// Everybody.
    pub const BROADCAST: Self = Self([0xff; 6]);

    /// Whether it stands for several interfaces.
    pub fn is_group(self) -> bool {
        self.0[0] & 1 != 0
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl FromStr for Mac {
    type Err = String;

    /// Six bytes in hexadecimal, with colons or hyphens between them.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text} is no MAC address such as 00:15:5d:00:00:01");
        let parts: Vec<&str> = text.split([':', '-']).collect();
        let bytes: Vec<u8> = parts
            .iter()
            .filter(|part| part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_hexdigit()))
            .filter_map(|part| u8::from_str_radix(part, 16).ok())
            .collect();
        let bytes: [u8; 6] = bytes.try_into().map_err(|_| wrong())?;
        if parts.len() != bytes.len() || bytes[0] & 1 != 0 || bytes == [0; 6] {
            Err(wrong())
        } else {
            Ok(Self(bytes))
        }
    }
}

/// A checksum of TCP or UDP that whoever needs it has to make: the field holds that of the pseudo header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checksum {
    /// From where in the frame on it is made.
    pub start: u16,
    /// Where it goes, from there.
    pub offset: u16,
}

/// Over what TCP goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TcpOver {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// How a frame that is too long for the wire is to be cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segments {
    /// What it carries.
    pub tcp: TcpOver,
    /// Bytes of TCP's data in each segment; not 0.
    pub size: u16,
    /// Bytes of the headers, which each segment has.
    pub header: u16,
}

/// An Ethernet frame without its check sequence, and what is not done of it yet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Frame {
    /// From the destination's address on.
    pub data: Vec<u8>,
    /// A checksum to be made. A frame with [`Self::segments`] has one.
    pub checksum: Option<Checksum>,
    /// How to cut it.
    pub segments: Option<Segments>,
    /// Whether the checksums of IP, TCP and UDP are known to be right, or to be made by [`Self::checksum`].
    pub verified: bool,
}

impl Frame {
    /// A frame with nothing left to be done.
    pub fn new(data: Vec<u8>) -> Self {
        Self { data, ..Self::default() }
    }

    /// How many frames it is on the wire.
    pub fn pieces(&self) -> usize {
        self.segments.map_or(1, |Segments { size, header, .. }| {
            self.data.len().saturating_sub(header.into()).div_ceil(usize::from(size).max(1)).max(1)
        })
    }

    /// From whom a message of ARP says that it is. `None` if it is no such message.
    pub(crate) fn arp_sender(&self) -> Option<Mac> {
        const SENDER: usize = HEADER + 8;
        let is_arp = self.data.get(HEADER - 2..HEADER)? == ETHERTYPE_ARP.to_be_bytes();
        self.address(SENDER).filter(|_| is_arp)
    }

    fn address(&self, at: usize) -> Option<Mac> {
        self.data.get(at..)?.first_chunk().copied().map(Mac)
    }

    /// Where it goes. `None` if it is no frame.
    pub fn destination(&self) -> Option<Mac> {
        self.address(0)
    }

    /// Where it comes from. `None` if it is no frame.
    pub fn source(&self) -> Option<Mac> {
        (self.data.len() >= HEADER).then(|| self.address(6)).flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_they_are_written() {
        let mac = Mac([0, 0x15, 0x5d, 1, 2, 0xff]);
        assert_eq!(mac.to_string().parse(), Ok(mac));
        assert_eq!("00-15-5D-01-02-FF".parse(), Ok(mac));
        for wrong in [
            "",
            "00:15:5d:01:02",
            "00:15:5d:01:02:ff:00",
            "01:15:5d:01:02:ff",
            "0:15:5d:1:2:ff",
            "+0:15:5d:01:02:ff",
            "00:00:00:00:00:00",
        ] {
            assert!(wrong.parse::<Mac>().is_err(), "{wrong}");
        }
    }
}
