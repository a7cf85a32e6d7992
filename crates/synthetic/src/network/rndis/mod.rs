//! RNDIS: the messages in NVSP's that carry frames ([`packet`]), and by which the guest asks and sets what an adapter is
//! ([`objects`]).
//!
//! Remote NDIS Specification 5.0; NDIS 6.30 for what is asked; Linux `drivers/net/hyperv/rndis_filter.c`.

pub mod objects;
pub mod packet;

use std::ops::Range;

/// Types of messages.
mod kind {
    pub const PACKET: u32 = 1;
    pub const INITIALIZE: u32 = 2;
    pub const HALT: u32 = 3;
    pub const QUERY: u32 = 4;
    pub const SET: u32 = 5;
    pub const RESET: u32 = 6;
    pub const INDICATE: u32 = 7;
    pub const KEEPALIVE: u32 = 8;
    pub const COMPLETION: u32 = 0x8000_0000;
}

/// Bytes of type and length.
const HEADER: usize = 8;

/// What the guest sends, wherever it lies. It may be another one each time that it is read.
pub trait Source {
    /// Bytes.
    fn length(&self) -> usize;

    /// Fills `to` from byte `at` on. `None` if not all of it is there.
    fn read(&self, at: usize, to: &mut [u8]) -> Option<()>;
}

impl Source for [u8] {
    fn length(&self) -> usize {
        self.len()
    }

    fn read(&self, at: usize, to: &mut [u8]) -> Option<()> {
        to.copy_from_slice(self.get(at..at.checked_add(to.len())?)?);
        Some(())
    }
}

/// Reads `N` words.
fn words<const N: usize>(source: &(impl Source + ?Sized), at: usize) -> Option<[u32; N]> {
    let mut bytes = [[0; 4]; N];
    source.read(at, bytes.as_flattened_mut())?;
    Some(bytes.map(u32::from_le_bytes))
}

/// Reads `range`, which is in `source`, as it has been asked before it takes memory.
fn bytes(source: &(impl Source + ?Sized), range: Range<usize>) -> Option<Vec<u8>> {
    if range.end > source.length() {
        return None;
    }
    let mut bytes = vec![0; range.len()];
    source.read(range.start, &mut bytes)?;
    Some(bytes)
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// `length` bytes at `offset`, both from the guest.
fn part(bytes: &[u8], offset: u32, length: u32) -> Option<&[u8]> {
    let start = usize::try_from(offset).ok()?;
    bytes.get(start..start.checked_add(usize::try_from(length).ok()?)?)
}

/// A message of the host: type, length and `words` with `tail` behind them.
fn message(kind: u32, words: &[u32], tail: &[u8]) -> Vec<u8> {
    let length = HEADER + 4 * words.len() + tail.len();
    let header = [kind, length as u32];
    let words = header.iter().chain(words).flat_map(|word| word.to_le_bytes());
    words.chain(tail.iter().copied()).collect()
}

/// A message of the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Its type.
    pub kind: u32,
    /// Where the body is: what follows type and length.
    pub body: Range<usize>,
}

impl Message {
    /// Whether it carries a frame.
    pub fn is_packet(&self) -> bool {
        self.kind == kind::PACKET
    }
}

/// The messages in `source`, one behind the other.
pub fn messages(source: &(impl Source + ?Sized)) -> impl Iterator<Item = Message> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let [kind, length] = words(source, at)?;
        let end = at.checked_add(usize::try_from(length).ok()?).filter(|&end| end <= source.length())?;
        let body = at + HEADER..end;
        if body.start > body.end {
            return None;
        }
        at = end;
        Some(Message { kind, body })
    })
}
