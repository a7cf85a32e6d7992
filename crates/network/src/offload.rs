//! What a NIC may leave to others: checksums, and cutting what is too long for the wire.
//!
//! RFC 1071 (checksums), RFC 9293 (TCP), RFC 8200 (IPv6).

use std::ops::Range;

use smoltcp::wire::checksum;

use crate::frame::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, Frame, IPV4_HEADER, IPV6_HEADER, TcpOver};

/// Bytes of the shortest header.
const TCP: usize = 20;
/// Number of TCP as IP knows it.
const PROTOCOL_TCP: u16 = 6;
/// TCP's flags, at this offset of its header.
const FLAGS: usize = 13;
const FIN_AND_PUSH: u8 = 0x09;
const CWR: u8 = 0x80;

fn put(data: &mut [u8], at: usize, value: &[u8]) -> Option<()> {
    data.get_mut(at..at.checked_add(value.len())?)?.copy_from_slice(value);
    Some(())
}

impl Frame {
    /// Does what has been left to be done: answers one frame, or several short ones. None if what is said of the
    /// frame is not true.
    pub fn finish(self) -> Vec<Self> {
        if self.segments.is_some() {
            return self.cut().unwrap_or_default();
        }
        let Self { mut data, checksum, .. } = self;
        let Some(checksum) = checksum else { return vec![Self { data, ..self }] };
        let start = usize::from(checksum.start);
        let Some(covered) = data.get(start..) else { return Vec::new() };
        // A UDP checksum of 0 is none. TCP's may be either.
        let value = match !checksum::data(covered) {
            0 => 0xffff,
            value => value,
        };
        match put(&mut data, start + usize::from(checksum.offset), &value.to_be_bytes()) {
            Some(()) => vec![Self { data, verified: true, ..Self::default() }],
            None => Vec::new(),
        }
    }

    /// Makes the headers of a frame that is to be cut those of a packet as long as it is, for who takes it whole; TCP's
    /// checksum stays to be made. `None` if what is said of it is not true.
    pub fn coalesce(mut self) -> Option<Self> {
        let segments = self.segments?;
        let tcp = usize::from(self.checksum?.start);
        let ip = ip_of(&self.data, segments.tcp)?;
        set_length(&mut self.data, segments.tcp, ip, tcp)?;
        let length = u16::try_from(self.data.len().checked_sub(tcp)?).ok()?;
        let addresses = checksum::data(self.data.get(addresses_of(segments.tcp, ip))?);
        let sum = checksum::combine(&[addresses, PROTOCOL_TCP, length]);
        put(&mut self.data, tcp + 16, &sum.to_be_bytes())?;
        self.verified = true;
        Some(self)
    }

    fn cut(self) -> Option<Vec<Self>> {
        let segments = self.segments?;
        let (size, header) = (usize::from(segments.size), usize::from(segments.header));
        let (headers, payload) = self.data.split_at_checked(header)?;
        // TCP's checksum begins where TCP does.
        let tcp = usize::from(self.checksum?.start);
        let ip_length = match segments.tcp {
            TcpOver::V4 => IPV4_HEADER,
            TcpOver::V6 => IPV6_HEADER,
        };
        let ip = ip_of(headers, segments.tcp)?;
        if size == 0 || tcp < ip + ip_length || tcp + TCP > header {
            return None;
        }
        let sequence = u32::from_be_bytes(*headers.get(tcp + 4..)?.first_chunk()?);
        let flags = *headers.get(tcp + FLAGS)?;
        let pieces = payload.len().div_ceil(size).max(1);
        let mut frames = Vec::with_capacity(pieces);
        for index in 0..pieces {
            let from = index * size;
            let piece = payload.get(from..payload.len().min(from + size))?;
            let mut data = [headers, piece].concat();
            let (first, last) = (index == 0, index + 1 == pieces);
            let kept = !if last { 0 } else { FIN_AND_PUSH } & !if first { 0 } else { CWR };
            put(&mut data, tcp + 4, &sequence.wrapping_add(from as u32).to_be_bytes())?;
            put(&mut data, tcp + FLAGS, &[flags & kept])?;
            let length = u16::try_from(data.len() - tcp).ok()?;
            if segments.tcp == TcpOver::V4 {
                let id = u16::from_be_bytes(*headers.get(ip + 4..)?.first_chunk()?);
                put(&mut data, ip + 4, &id.wrapping_add(index as u16).to_be_bytes())?;
            }
            set_length(&mut data, segments.tcp, ip, tcp)?;
            put(&mut data, tcp + 16, &[0, 0])?;
            let sums = [
                checksum::data(data.get(addresses_of(segments.tcp, ip))?),
                PROTOCOL_TCP,
                length,
                checksum::data(data.get(tcp..)?),
            ];
            let value = !checksum::combine(&sums);
            put(&mut data, tcp + 16, &value.to_be_bytes())?;
            frames.push(Self { data, verified: true, ..Self::default() });
        }
        Some(frames)
    }
}

/// Where the addresses are in a frame whose header of IP is at `ip`.
fn addresses_of(over: TcpOver, ip: usize) -> Range<usize> {
    match over {
        TcpOver::V4 => ip + 12..ip + 20,
        TcpOver::V6 => ip + 8..ip + 40,
    }
}

/// Makes the header of IP at `ip`, behind which is TCP at `tcp`, say how long the packet is.
fn set_length(data: &mut [u8], over: TcpOver, ip: usize, tcp: usize) -> Option<()> {
    match over {
        TcpOver::V4 => {
            let total = u16::try_from(data.len().checked_sub(ip)?).ok()?;
            put(data, ip + 2, &total.to_be_bytes())?;
            put(data, ip + 10, &[0, 0])?;
            let value = !checksum::data(data.get(ip..tcp).filter(|header| header.len() >= IPV4_HEADER)?);
            put(data, ip + 10, &value.to_be_bytes())
        }
        TcpOver::V6 => {
            let total = u16::try_from(data.len().checked_sub(ip + IPV6_HEADER)?).ok()?;
            put(data, ip + 4, &total.to_be_bytes())
        }
    }
}

/// Where the IP header is: behind the Ethernet header, and perhaps a VLAN tag.
fn ip_of(headers: &[u8], tcp: TcpOver) -> Option<usize> {
    let wanted = match tcp {
        TcpOver::V4 => ETHERTYPE_IPV4,
        TcpOver::V6 => ETHERTYPE_IPV6,
    };
    let mut at = 12;
    if headers.get(at..at + 2)? == [0x81, 0x00] {
        at += 4;
    }
    (headers.get(at..at + 2)? == wanted.to_be_bytes()).then_some(at + 2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{Checksum, Segments};

    /// TCP over IPv4 or IPv6 with so many bytes of data.
    fn tcp(over: TcpOver, length: usize) -> Frame {
        let mut data = vec![2; 12];
        let tcp = match over {
            TcpOver::V4 => {
                data.extend([
                    8, 0, 0x45, 0, 0, 0, 0xff, 0xff, 0x40, 0, 64, 6, 0, 0, 10, 0, 2, 15, 10, 0, 2, 2,
                ]);
                34
            }
            TcpOver::V6 => {
                data.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 0, 6, 64]);
                data.extend([0xfd; 32]);
                54
            }
        };
        // Ports, sequence number, acknowledgement, CWR+ACK+PUSH+FIN, window, checksum, urgent pointer.
        data.extend([0x30, 0, 0, 80, 0xff, 0xff, 0xff, 0xf0, 0, 0, 0, 1, 0x50, 0x99, 1, 0, 0xab, 0xcd, 0, 0]);
        let header = data.len() as u16;
        data.extend((0..length).map(|n| (n / 3) as u8));
        Frame {
            data,
            checksum: Some(Checksum { start: tcp, offset: 16 }),
            segments: Some(Segments { tcp: over, size: 1000, header }),
            verified: false,
        }
    }

    #[test]
    fn long_frames_are_cut_into_right_ones() {
        for (over, ip, at) in [(TcpOver::V4, 14, 34), (TcpOver::V6, 14, 54)] {
            let frame = tcp(over, 2500);
            let cut = frame.clone().finish();
            assert_eq!(cut.len(), 3);
            let mut payload: Vec<u8> = Vec::new();
            for (index, piece) in cut.iter().enumerate() {
                let data = &piece.data;
                assert!(piece.verified && piece.segments.is_none() && piece.checksum.is_none());
                let addresses = match over {
                    TcpOver::V4 => {
                        assert_eq!(!checksum::data(&data[ip..at]), 0);
                        assert_eq!(
                            usize::from(u16::from_be_bytes([data[ip + 2], data[ip + 3]])),
                            data.len() - ip
                        );
                        assert_eq!(
                            [data[ip + 4], data[ip + 5]],
                            0xffff_u16.wrapping_add(index as u16).to_be_bytes()
                        );
                        &data[ip + 12..ip + 20]
                    }
                    TcpOver::V6 => {
                        let length = usize::from(u16::from_be_bytes([data[ip + 4], data[ip + 5]]));
                        assert_eq!(length, data.len() - ip - 40);
                        &data[ip + 8..ip + 40]
                    }
                };
                let length = (data.len() - at) as u16;
                let sums = [checksum::data(addresses), 6, length, checksum::data(&data[at..])];
                assert_eq!(!checksum::combine(&sums), 0);
                let sequence = u32::from_be_bytes(data[at + 4..at + 8].try_into().unwrap());
                assert_eq!(sequence, 0xffff_fff0_u32.wrapping_add(1000 * index as u32));
                assert_eq!(data[at + 13], [0x90, 0x10, 0x19][index]);
                payload.extend(&data[at + 20..]);
            }
            assert_eq!(payload, frame.data[at + 20..]);
        }
    }

    #[test]
    fn who_takes_segments_whole_finds_the_whole_length() {
        let four = tcp(TcpOver::V4, 2500).coalesce().unwrap();
        assert_eq!(four.data[16..18], 2540_u16.to_be_bytes());
        assert_eq!(!checksum::data(&four.data[14..34]), 0);
        assert!(four.verified && four.segments.is_some());
        // The sum over addresses, protocol and length is what the rest is added to.
        let sum = checksum::combine(&[checksum::data(&four.data[26..34]), 6, 2520]);
        assert_eq!(four.data[50..52], sum.to_be_bytes());
        let six = tcp(TcpOver::V6, 2500).coalesce().unwrap();
        assert_eq!(six.data[18..20], 2520_u16.to_be_bytes());
        assert_eq!(tcp(TcpOver::V4, 0x1_0000).coalesce(), None);
        let checksum = Some(Checksum { start: 20, offset: 16 });
        assert_eq!(Frame { checksum, ..four }.coalesce(), None);
    }

    #[test]
    fn a_checksum_is_made_over_what_is_there_already() {
        let mut data = vec![0; 42];
        data[34..42].copy_from_slice(&[0, 1, 0, 2, 0, 8, 0x12, 0x34]);
        let checksum = Some(Checksum { start: 34, offset: 6 });
        let [frame] = <[Frame; 1]>::try_from(Frame { data, checksum, ..Frame::default() }.finish()).unwrap();
        assert_eq!(frame.data[40..], (!0x123f_u16).to_be_bytes());
    }

    #[test]
    fn what_is_not_true_of_a_frame_makes_no_frame() {
        let good = tcp(TcpOver::V4, 100);
        for broken in [
            Frame { checksum: None, ..good.clone() },
            Frame { checksum: Some(Checksum { start: 0xffff, offset: 0xffff }), ..good.clone() },
            Frame { segments: Some(Segments { tcp: TcpOver::V6, size: 1000, header: 54 }), ..good.clone() },
            Frame { segments: Some(Segments { tcp: TcpOver::V4, size: 0, header: 54 }), ..good.clone() },
            Frame { segments: Some(Segments { tcp: TcpOver::V4, size: 1, header: 50 }), ..good.clone() },
            Frame { segments: Some(Segments { tcp: TcpOver::V4, size: 1, header: 5000 }), ..good.clone() },
            Frame { segments: None, checksum: Some(Checksum { start: 150, offset: 4 }), ..good.clone() },
            Frame { segments: None, checksum: Some(Checksum { start: 0xffff, offset: 4 }), ..good },
        ] {
            assert_eq!(broken.finish(), []);
        }
    }
}
