//! Messages of the integration services, as they lie in the packets of their channels.
//!
//! Specification: none is public. Linux `include/linux/hyperv.h` (`icmsg_hdr`, `icmsg_negotiate`) and
//! `drivers/hv/channel_mgmt.c` (`vmbus_prep_negotiate_resp`) tell what guests expect.

use std::fmt;

use serde::{Deserialize, Serialize};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// A version of the framework or of a service.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
    Serialize,
    Deserialize,
)]
#[repr(C)]
pub struct Version {
    /// Changes what is compatible.
    pub major: u16,
    /// Does not.
    pub minor: u16,
}

impl Version {
    /// Version `major.minor`.
    pub const fn new(major: u16, minor: u16) -> Self {
        Self { major, minor }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// The framework's versions, as the host offers them.
pub(crate) const FRAMEWORKS: [Version; 2] = [Version::new(3, 0), Version::new(1, 0)];

/// What a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(transparent)]
pub(crate) struct MessageType([u8; 2]);

impl MessageType {
    pub const NEGOTIATE: Self = Self::new(0);
    pub const HEARTBEAT: Self = Self::new(1);
    pub const KEY_VALUE: Self = Self::new(2);
    pub const SHUTDOWN: Self = Self::new(3);
    pub const TIME_SYNC: Self = Self::new(4);
    pub const BACKUP: Self = Self::new(5);
    pub const FILE_COPY: Self = Self::new(7);

    const fn new(value: u16) -> Self {
        Self(value.to_le_bytes())
    }
}

/// The guest has done what was asked.
pub(crate) const STATUS_OK: u32 = 0;
/// Something failed.
pub(crate) const STATUS_FAIL: u32 = 0x8000_4005;
/// There is nothing of that number, or no more.
pub(crate) const STATUS_NO_MORE: u32 = 0x8007_0103;

/// The message takes part in a transaction.
const TRANSACTION: u8 = 1;
const REQUEST: u8 = 2;
const RESPONSE: u8 = 4;

/// The pipe header says that data follows.
const PIPE_DATA: u32 = 1;

/// Header of the pipe and of the message.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Header {
    pipe_flags: [u8; 4],
    pipe_size: [u8; 4],
    framework: [u8; 4],
    message_type: MessageType,
    version: [u8; 4],
    size: [u8; 2],
    status: [u8; 4],
    transaction: u8,
    flags: u8,
    reserved: [u8; 2],
}

const HEADER: usize = size_of::<Header>();
const _: () = assert!(HEADER == 28);
/// Of which the pipe's.
const PIPE_HEADER: usize = 8;

/// The longest message that a guest may send: what Linux has room for.
pub(crate) const LONGEST: usize = 4 * 4096;

fn version_bytes(version: Version) -> [u8; 4] {
    let (major, minor) = (version.major.to_le_bytes(), version.minor.to_le_bytes());
    [major[0], major[1], minor[0], minor[1]]
}

/// A request to the guest.
pub(crate) struct Request<'a> {
    pub message_type: MessageType,
    pub framework: Version,
    pub version: Version,
    pub transaction: u8,
    pub body: &'a [u8],
}

impl Request<'_> {
    /// The message as it is sent.
    pub fn encode(&self) -> Vec<u8> {
        // Bodies are those of this crate, the longest a few KiB.
        let size = self.body.len() as u16;
        let header = Header {
            pipe_flags: PIPE_DATA.to_le_bytes(),
            pipe_size: ((HEADER - PIPE_HEADER) as u32 + u32::from(size)).to_le_bytes(),
            framework: version_bytes(self.framework),
            message_type: self.message_type,
            version: version_bytes(self.version),
            size: size.to_le_bytes(),
            status: [0; 4],
            transaction: self.transaction,
            flags: TRANSACTION | REQUEST,
            reserved: [0; 2],
        };
        [header.as_bytes(), self.body].concat()
    }
}

/// The offer of versions: of the framework, and of a service.
pub(crate) fn offer(services: &[Version]) -> Vec<u8> {
    let counts = [FRAMEWORKS.len() as u16, services.len() as u16];
    let mut body: Vec<u8> = counts.iter().flat_map(|count| count.to_le_bytes()).collect();
    body.extend([0; 4]);
    for version in FRAMEWORKS.iter().chain(services) {
        body.extend(version_bytes(*version));
    }
    body
}

/// A guest's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Response<'a> {
    pub message_type: MessageType,
    pub transaction: u8,
    pub status: u32,
    /// As much of the body as there is; guests send back the whole of the request, changed.
    pub body: &'a [u8],
}

impl<'a> Response<'a> {
    /// The answer in a packet; `None` if it is none.
    pub fn decode(packet: &'a [u8]) -> Option<Self> {
        let (header, body) = Header::ref_from_prefix(packet).ok()?;
        (header.flags & RESPONSE != 0).then_some(Self {
            message_type: header.message_type,
            transaction: header.transaction,
            status: u32::from_le_bytes(header.status),
            body,
        })
    }

    /// What the guest has chosen of what it was offered: the framework's version and the service's. `None` if it
    /// knows none of them.
    pub fn choice(&self, services: &[Version]) -> Option<(Version, Version)> {
        let word = |at: usize| {
            let bytes = self.body.get(at..at + 2)?;
            Some(u16::from_le_bytes([bytes[0], bytes[1]]))
        };
        let version = |at: usize| Some(Version::new(word(at)?, word(at + 2)?));
        if (word(0)?, word(2)?) != (1, 1) {
            return None;
        }
        let (framework, service) = (version(8)?, version(12)?);
        (FRAMEWORKS.contains(&framework) && services.contains(&service)).then_some((framework, service))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// What a guest makes of a request: the same, as an answer.
    pub fn respond(request: &[u8], status: u32, change: impl FnOnce(&mut [u8])) -> Vec<u8> {
        let mut packet = request.to_vec();
        let (header, body) = Header::mut_from_prefix(&mut packet).unwrap();
        header.flags = TRANSACTION | RESPONSE;
        header.status = status.to_le_bytes();
        change(body);
        packet
    }

    /// The body of a guest that chooses `framework` and `service`.
    pub fn choose(framework: Version, service: Version) -> impl FnOnce(&mut [u8]) {
        move |body| {
            body[..4].copy_from_slice(&[1, 0, 1, 0]);
            body[8..12].copy_from_slice(&version_bytes(framework));
            body[12..16].copy_from_slice(&version_bytes(service));
        }
    }

    fn negotiation() -> Vec<u8> {
        let body = offer(&[Version::new(3, 2), Version::new(3, 0)]);
        let zero = Version::new(0, 0);
        Request {
            message_type: MessageType::NEGOTIATE,
            framework: zero,
            version: zero,
            transaction: 7,
            body: &body,
        }
        .encode()
    }

    #[test]
    fn an_offer_lists_the_framework_s_versions_before_the_service_s() {
        let packet = negotiation();
        assert_eq!(packet.len(), HEADER + 8 + 4 * 4);
        assert_eq!(packet[..8], [1, 0, 0, 0, 44, 0, 0, 0]);
        assert_eq!(packet[HEADER..HEADER + 8], [2, 0, 2, 0, 0, 0, 0, 0]);
        assert_eq!(packet[HEADER + 8..], [3, 0, 0, 0, 1, 0, 0, 0, 3, 0, 2, 0, 3, 0, 0, 0]);
    }

    #[test]
    fn a_choice_is_one_of_what_was_offered() {
        let offered = [Version::new(3, 2), Version::new(3, 0)];
        let chosen = |framework, service| {
            let packet = respond(&negotiation(), 0, choose(framework, service));
            Response::decode(&packet).unwrap().choice(&offered)
        };
        let (framework, service) = (Version::new(3, 0), Version::new(3, 2));
        assert_eq!(chosen(framework, service), Some((framework, service)));
        assert_eq!(chosen(framework, Version::new(9, 9)), None);
        assert_eq!(chosen(Version::new(2, 0), service), None);
    }

    #[test]
    fn what_is_too_short_or_no_answer_is_none() {
        let packet = respond(&negotiation(), 0, |_| {});
        assert!(Response::decode(&negotiation()).is_none());
        for length in 0..HEADER {
            assert!(Response::decode(&packet[..length]).is_none());
        }
        for length in HEADER..packet.len() {
            let response = Response::decode(&packet[..length]).unwrap();
            assert_eq!(response.choice(&[Version::new(3, 2)]), None);
        }
    }
}
