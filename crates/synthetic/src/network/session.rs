//! What the channels of an adapter share while a driver has it: what has been negotiated, and the memory that is lent.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};

use network::{HEADER, Port};
use vmbus::Channel;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::adapter::Shared;
use super::buffers::{Buffer, ReceiveBuffer};
use super::protocol::*;
use super::rndis::objects::{Adapter, MTU};

/// Bytes beside a frame and its RNDIS message that a section has room for.
const SPARE: u32 = 214;
/// Bytes of a section at the most for a guest that puts segments together, so that a long frame takes few of them.
const LONG_SECTION: u64 = 16 << 10;
/// Sections that are left of such a guest's buffer at the least, unless it has not even room for so many short ones.
const MANY: u64 = 1024;
/// Frames' bytes until the guest says more: an Ethernet frame's.
const USUAL_FRAME: u32 = 1514;

/// What the channels of an adapter share. Locks: one at a time, but for [`Self::receive_buffer`], under which others may
/// be taken.
pub(super) struct Session {
    negotiated: Mutex<Negotiated>,
    adapter: Mutex<Adapter>,
    /// Held for writing when the guest wants it back: what is in its hands then is the guest's.
    receive: RwLock<Option<ReceiveBuffer>>,
    send: RwLock<Option<Buffer>>,
    /// Bit n: channel n is served.
    open: AtomicU32,
    /// A channel waits for sections that others have.
    starved: AtomicBool,
}

struct Negotiated {
    version: Option<u32>,
    /// Bytes of the longest frame that the guest takes.
    longest: u32,
    /// The guest can put segments together.
    coalescing: bool,
    /// Receive buffers that the guest has lent.
    generation: u64,
}

fn nvsp(kind: u32, body: &(impl IntoBytes + Immutable)) -> Vec<u8> {
    let mut message = [&kind.to_le_bytes(), body.as_bytes()].concat();
    message.resize(ANSWER, 0);
    message
}

/// The message with which RNDIS messages go.
pub(super) fn transfer(channel: u32) -> Vec<u8> {
    nvsp(kind::SEND_RNDIS_PACKET, &SendRndisPacket { channel, section: NO_SECTION, size: 0 })
}

pub(super) fn parse<T: FromBytes + KnownLayout + Immutable>(body: &[u8]) -> Option<T> {
    T::read_from_prefix(body).ok().map(|(message, _)| message)
}

impl Session {
    /// One in which nothing has been said yet.
    pub fn new(shared: &Shared) -> Self {
        let negotiated = Negotiated { version: None, longest: USUAL_FRAME, coalescing: false, generation: 0 };
        let adapter = Adapter::new(shared.permanent, shared.mac(), shared.queues());
        Self {
            negotiated: Mutex::new(negotiated),
            adapter: Mutex::new(adapter),
            receive: RwLock::default(),
            send: RwLock::default(),
            open: AtomicU32::new(0),
            starved: AtomicBool::new(false),
        }
    }

    pub fn adapter(&self) -> MutexGuard<'_, Adapter> {
        self.adapter.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The memory for what comes. It stays the host's while this is held.
    pub fn receive_buffer(&self) -> RwLockReadGuard<'_, Option<ReceiveBuffer>> {
        self.receive.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The memory for what goes.
    pub fn send_buffer(&self) -> RwLockReadGuard<'_, Option<Buffer>> {
        self.send.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_receive_buffer(&self, buffer: Option<ReceiveBuffer>) {
        *self.receive.write().unwrap_or_else(PoisonError::into_inner) = buffer;
    }

    fn set_send_buffer(&self, buffer: Option<Buffer>) {
        *self.send.write().unwrap_or_else(PoisonError::into_inner) = buffer;
    }

    /// Channel `queue` is served from now on, or no longer.
    pub fn set_open(&self, port: &Port, queue: usize, open: bool) {
        let bit = 1 << queue;
        if open {
            self.open.fetch_or(bit, Ordering::AcqRel);
        } else {
            self.open.fetch_and(!bit, Ordering::AcqRel);
        }
        self.steer(port);
    }

    /// Frames go to channels as the guest has said, as far as those are open.
    pub fn steer(&self, port: &Port) {
        // Held until it is done: the last to come knows of all.
        let adapter = self.adapter();
        let open = self.open.load(Ordering::Acquire);
        let mut steering = adapter.steering().filter(|_| open & 1 != 0).cloned();
        for queue in steering.iter_mut().flat_map(|steering| &mut steering.table) {
            if open >> *queue & 1 == 0 {
                *queue = 0;
            }
        }
        port.steer(steering);
    }

    /// Adds so many free sections of `buffer` to `sections`. False if there are fewer: [`Self::fed`] tells when that has
    /// changed by another channel.
    pub fn take(&self, buffer: &ReceiveBuffer, count: usize, sections: &mut Vec<u32>) -> bool {
        if buffer.take(count, sections) {
            return true;
        }
        self.starved.store(true, Ordering::SeqCst);
        // Who has given some back before that has told nobody.
        buffer.take(count, sections)
    }

    /// Sections have been given back. True if somebody waits for that.
    pub fn fed(&self) -> bool {
        self.starved.load(Ordering::SeqCst) && self.starved.swap(false, Ordering::SeqCst)
    }

    fn negotiated(&self) -> MutexGuard<'_, Negotiated> {
        self.negotiated.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a message of the primary channel that is no RNDIS packet; the answer.
    pub fn message(&self, shared: &Shared, channel: &Channel, kind: u32, body: &[u8]) -> Option<Vec<u8>> {
        match kind {
            kind::INIT => {
                let Init { oldest, newest } = parse(body)?;
                let version = VERSIONS.into_iter().rev().find(|version| (oldest..=newest).contains(version));
                self.negotiated().version = version;
                let status = match version {
                    Some(_) => status::SUCCESS,
                    None if VERSIONS.iter().all(|&version| version < oldest) => status::PROTOCOL_TOO_NEW,
                    None => status::PROTOCOL_TOO_OLD,
                };
                let version = version.unwrap_or_default();
                Some(nvsp(kind::INIT_COMPLETE, &InitComplete { version, max_pieces: MAX_PIECES, status }))
            }
            kind::SEND_NDIS_CONFIG => {
                let NdisConfig { mtu, capabilities: [capabilities, _], .. } = parse(body)?;
                let mut negotiated = self.negotiated();
                negotiated.longest = mtu.clamp(USUAL_FRAME, MTU + HEADER as u32);
                let knows = negotiated.version.is_some_and(|version| version >= COALESCING_VERSION);
                negotiated.coalescing = knows && capabilities & CAN_COALESCE != 0;
                if negotiated.coalescing {
                    drop(negotiated);
                    self.adapter().allow_coalescing();
                }
                None
            }
            kind::SEND_RECEIVE_BUFFER => {
                let buffer = self.receive_buffer_of(channel, body);
                let answer = match &buffer {
                    Some(ReceiveBuffer { size, count, .. }) => {
                        let (size, count) = (*size, *count);
                        let status = status::SUCCESS;
                        ReceiveBufferComplete { status, kinds: 1, offset: 0, size, count, end: size * count }
                    }
                    None => {
                        let status = status::FAIL;
                        ReceiveBufferComplete { status, kinds: 0, offset: 0, size: 0, count: 0, end: 0 }
                    }
                };
                self.set_receive_buffer(buffer);
                Some(nvsp(kind::SEND_RECEIVE_BUFFER_COMPLETE, &answer))
            }
            kind::SEND_SEND_BUFFER => {
                let buffer = self.buffer(channel, body).map(|(buffer, _)| buffer);
                let status = if buffer.is_some() { status::SUCCESS } else { status::FAIL };
                self.set_send_buffer(buffer);
                let answer = SendBufferComplete { status, section: SEND_SECTION };
                Some(nvsp(kind::SEND_SEND_BUFFER_COMPLETE, &answer))
            }
            kind::REVOKE_RECEIVE_BUFFER => {
                self.set_receive_buffer(None);
                None
            }
            kind::REVOKE_SEND_BUFFER => {
                self.set_send_buffer(None);
                None
            }
            kind::SUBCHANNEL => {
                let Subchannels { operation, count } = parse(body)?;
                let most = shared.queues() - 1;
                let count = u16::try_from(count).unwrap_or(u16::MAX).min(most);
                let wanted = operation == ALLOCATE && self.negotiated().version.is_some();
                let answer = match channel.offer_subchannels(if wanted { count } else { 0 }) {
                    Ok(()) if wanted => Subchannels { operation: status::SUCCESS, count: count.into() },
                    Ok(()) => Subchannels { operation: status::FAIL, count: 0 },
                    Err(error) => {
                        tracing::error!(name = shared.name, %error, "no subchannels");
                        Subchannels { operation: status::FAIL, count: 0 }
                    }
                };
                Some(nvsp(kind::SUBCHANNEL, &answer))
            }
            kind::SEND_NDIS_VERSION | kind::SWITCH_DATA_PATH => None,
            _ => {
                tracing::debug!(kind, "guest sends an NVSP message that is not known");
                None
            }
        }
    }

    /// The memory that the guest lends by a message, and the guest's number for it.
    fn buffer(&self, channel: &Channel, body: &[u8]) -> Option<(Buffer, u16)> {
        self.negotiated().version?;
        let SendBuffer { gpadl, id } = parse(body)?;
        let frames = channel.pages_of(gpadl)?;
        Some((Buffer::new(channel.memory().clone(), frames), id))
    }

    fn receive_buffer_of(&self, channel: &Channel, body: &[u8]) -> Option<ReceiveBuffer> {
        let (buffer, id) = self.buffer(channel, body)?;
        let mut negotiated = self.negotiated();
        negotiated.generation += 1;
        let size = section_size(buffer.len(), negotiated.longest, negotiated.coalescing);
        let buffer = ReceiveBuffer::new(buffer, id, negotiated.generation, size);
        (buffer.count > 0).then_some(buffer)
    }
}

/// Bytes of a section of a buffer of so many, in which frames of `longest` bytes go.
fn section_size(buffer: u64, longest: u32, coalescing: bool) -> u32 {
    let least = longest + SPARE;
    let long = if coalescing { (buffer / MANY).min(LONG_SECTION) as u32 } else { 0 };
    // Whole lines of a cache.
    least.max(long).next_multiple_of(64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_are_long_where_frames_are_and_there_is_room() {
        // What Linux lends.
        let usual = 16 << 20;
        assert_eq!(section_size(usual, USUAL_FRAME, false), 1728);
        assert_eq!(section_size(usual, USUAL_FRAME, true), 16 << 10);
        assert_eq!(section_size(2 << 20, USUAL_FRAME, true), 2 << 10);
        assert_eq!(section_size(64 << 10, USUAL_FRAME, true), 1728);
        assert_eq!(section_size(64 << 10, 9014, true), 9280);
    }
}
