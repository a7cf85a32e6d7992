//! The guest's end of the bus, for tests of the server and of the devices behind it: no processor, no
//! hypervisor, but real guest memory, messages and rings.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use guest_memory::{CodePages, GuestMemory, PAGE_SIZE};
use zerocopy::IntoBytes;

use crate::protocol::{self, *};
use crate::ring::{GuestPages, IncomingRing, OutgoingPacket, OutgoingRing, PacketType};
use crate::{Busy, Server, Settings, Synic};

/// How long a test waits for what a device's thread does.
const PATIENCE: Duration = Duration::from_secs(20);

/// A message that the host has posted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Posted {
    /// The processor it went to.
    pub vp: u32,
    /// The SINT it went to.
    pub sint: u8,
    /// The message, header first.
    pub payload: Vec<u8>,
}

impl Posted {
    /// What the message is.
    pub fn message_type(&self) -> MessageType {
        decode(&self.payload).map_or(MessageType(0), |(message_type, _)| message_type)
    }

    /// The body, if the message is an `M`.
    pub fn body<M: Message>(&self) -> Option<M> {
        let (message_type, body) = decode(&self.payload)?;
        (message_type == M::TYPE).then(|| M::read_from_prefix(body).ok())?.map(|(body, _)| body)
    }
}

#[derive(Default)]
struct Inbox {
    messages: VecDeque<Posted>,
    events: Vec<(u32, u8, u16)>,
    full: bool,
}

/// A SynIC whose messages and event flags a test looks at.
#[derive(Default)]
pub struct Mailbox {
    inbox: Mutex<Inbox>,
    changed: Condvar,
}

impl Mailbox {
    fn lock(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether message slots are in use, so that nothing can be posted.
    pub fn set_full(&self, full: bool) {
        self.lock().full = full;
    }

    /// The next message, if one has come.
    pub fn message(&self) -> Option<Posted> {
        self.lock().messages.pop_front()
    }

    /// The next message, as soon as it comes.
    ///
    /// # Panics
    /// When none comes for long.
    pub fn wait_message(&self) -> Posted {
        self.wait(|inbox| inbox.messages.pop_front())
    }

    /// Takes the event flags that were set, in order: processor, SINT, flag.
    pub fn events(&self) -> Vec<(u32, u8, u16)> {
        std::mem::take(&mut self.lock().events)
    }

    /// Waits until event flag `flag` is set on any processor, and takes it.
    ///
    /// # Panics
    /// When that takes long.
    pub fn wait_event(&self, flag: u16) -> (u32, u8) {
        self.wait(|inbox| {
            let at = inbox.events.iter().position(|event| event.2 == flag)?;
            let (vp, sint, _) = inbox.events.remove(at);
            Some((vp, sint))
        })
    }

    fn wait<R>(&self, mut take: impl FnMut(&mut Inbox) -> Option<R>) -> R {
        let end = Instant::now() + PATIENCE;
        let mut inbox = self.lock();
        loop {
            if let Some(found) = take(&mut inbox) {
                return found;
            }
            let left = end.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "the host does not answer");
            inbox = self.changed.wait_timeout(inbox, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Synic for Mailbox {
    fn post_message(&self, vp: u32, sint: u8, message_type: u32, payload: &[u8]) -> bool {
        assert_eq!(message_type, protocol::SYNIC_MESSAGE_TYPE);
        let mut inbox = self.lock();
        if inbox.full {
            return false;
        }
        inbox.messages.push_back(Posted { vp, sint, payload: payload.to_vec() });
        drop(inbox);
        self.changed.notify_all();
        true
    }

    fn signal_event(&self, vp: u32, sint: u8, flag: u16) {
        self.lock().events.push((vp, sint, flag));
        self.changed.notify_all();
    }
}

/// A guest with a bus.
pub struct Guest {
    /// Guest memory.
    pub memory: GuestMemory,
    /// The record of guest code.
    pub code: Arc<CodePages>,
    /// The host's end.
    pub server: Server,
    /// What the host has sent.
    pub mailbox: Arc<Mailbox>,
    next_frame: u64,
    next_gpadl: u32,
}

impl Guest {
    /// A guest of `processors` processors and `pages` pages of memory.
    ///
    /// # Panics
    /// When the host has not as much memory.
    pub fn new(processors: u32, pages: u64) -> Self {
        let (memory, code) = guest_memory::allocate(pages * PAGE_SIZE).expect("memory for a test");
        let mailbox = Arc::new(Mailbox::default());
        let (synic, settings_code) = (mailbox.clone(), Arc::clone(&code));
        let settings = Settings { memory: memory.clone(), code: settings_code, synic, processors };
        let server = Server::new(settings);
        Self { memory, code, server, mailbox, next_frame: 1, next_gpadl: 0xe1e10 }
    }

    /// Frames of memory that nobody else uses.
    ///
    /// # Panics
    /// When there are no more.
    pub fn allocate(&mut self, pages: u64) -> Vec<u64> {
        let first = self.next_frame;
        self.next_frame += pages;
        (first..self.next_frame).collect()
    }

    /// Posts a message with `tail` behind its body.
    ///
    /// # Errors
    /// When the server is busy.
    pub fn post<M: Message>(&self, body: &M, tail: &[u8]) -> Result<(), Busy> {
        let header = Header { message_type: M::TYPE, padding: 0 };
        let message = [header.as_bytes(), body.as_bytes(), tail].concat();
        self.server.message(&message)
    }

    /// Posts a message without a body.
    ///
    /// # Errors
    /// When the server is busy.
    pub fn post_header(&self, message_type: MessageType) -> Result<(), Busy> {
        self.server.message(Header { message_type, padding: 0 }.as_bytes())
    }

    /// Posts a message and waits for its answer.
    ///
    /// # Panics
    /// When the answer is another message.
    pub fn call<M: Message, R: Message>(&self, body: &M) -> R {
        self.post(body, &[]).expect("the server is not busy");
        self.expect()
    }

    /// The next message, which is an `R`.
    ///
    /// # Panics
    /// When it is not.
    pub fn expect<R: Message>(&self) -> R {
        let posted = self.mailbox.wait_message();
        posted.body().unwrap_or_else(|| panic!("unexpected message {:?}", posted.message_type()))
    }

    /// Begins a connection, with messages to processor 0. Answers whether the version is supported.
    pub fn connect(&self, version: Version) -> VersionResponse {
        let target = if version >= Version::WIN10_V5_0 { u64::from(DEFAULT_SINT) } else { 0x1000 };
        self.call(&InitiateContact {
            version,
            target_vp: 0,
            interrupt_page_or_target: target,
            parent_to_child_monitor_page: 0,
            child_to_parent_monitor_page: 0,
        })
    }

    /// Asks for all offers.
    ///
    /// # Panics
    /// When something else comes.
    pub fn request_offers(&self) -> Vec<OfferChannel> {
        self.post_header(MessageType::REQUEST_OFFERS).expect("the server is not busy");
        let mut offers = Vec::new();
        loop {
            let posted = self.mailbox.wait_message();
            match posted.body() {
                Some(offer) => offers.push(offer),
                None => {
                    assert_eq!(posted.message_type(), MessageType::ALL_OFFERS_DELIVERED);
                    return offers;
                }
            }
        }
    }

    /// Describes `frames` to the host, in as many messages as Linux sends. Answers handle and status.
    ///
    /// # Panics
    /// When something else than an answer comes.
    pub fn establish_gpadl(&mut self, relid: u32, frames: &[u64]) -> (u32, u32) {
        let gpadl = self.next_gpadl;
        self.next_gpadl += 1;
        let first = u64::from((frames.len() as u32) * PAGE_SIZE as u32);
        let words: Vec<u64> = [first].into_iter().chain(frames.iter().copied()).collect();
        let (head, tail) = words.split_at(words.len().min(27));
        let range_bytes = (words.len() * 8) as u16;
        let header = GpadlHeader { relid, gpadl, range_bytes, range_count: 1 };
        self.post(&header, head.as_bytes()).expect("the server is not busy");
        for body in tail.chunks(28) {
            let header = GpadlBody { message_number: 0, gpadl };
            self.post(&header, body.as_bytes()).expect("the server is not busy");
        }
        let created: GpadlCreated = self.expect();
        assert_eq!((created.relid, created.gpadl), (relid, gpadl));
        (gpadl, created.status)
    }

    /// Opens a channel with two rings of `ring_pages` pages, control pages included.
    ///
    /// # Errors
    /// The status, when it is not opened.
    ///
    /// # Panics
    /// When something else than an answer comes.
    pub fn open(
        &mut self,
        offer: &OfferChannel,
        ring_pages: u64,
        target_vp: u32,
    ) -> Result<GuestChannel, u32> {
        let frames = self.allocate(2 * ring_pages);
        let (gpadl, status) = self.establish_gpadl(offer.relid, &frames);
        if status != STATUS_SUCCESS {
            return Err(status);
        }
        let result: OpenChannelResult = self.call(&OpenChannel {
            relid: offer.relid,
            open_id: offer.relid,
            ring_gpadl: gpadl,
            target_vp,
            downstream_page_offset: ring_pages as u32,
            user_data: [0; USER_DATA_SIZE],
        });
        if result.status != STATUS_SUCCESS {
            return Err(result.status);
        }
        let (upstream, downstream) = frames.split_at(ring_pages as usize);
        let pages = |frames| GuestPages::new(&self.memory, &self.code, frames).expect("ring pages");
        Ok(GuestChannel {
            relid: offer.relid,
            connection_id: offer.connection_id,
            gpadl,
            outgoing: OutgoingRing::new(pages(upstream)).expect("a new ring"),
            incoming: IncomingRing::new(pages(downstream)).expect("a new ring"),
            server: self.server.clone(),
            mailbox: Arc::clone(&self.mailbox),
        })
    }

    /// Closes a channel and takes its rings back.
    ///
    /// # Panics
    /// When something else than an answer comes.
    pub fn close(&self, channel: GuestChannel) {
        let (relid, gpadl) = (channel.relid, channel.gpadl);
        self.post(&CloseChannel { relid }, &[]).expect("the server is not busy");
        let torndown: GpadlTorndown = self.call(&GpadlTeardown { relid, gpadl });
        assert_eq!(torndown.gpadl, gpadl);
    }
}

/// An open channel, as a driver has it.
pub struct GuestChannel {
    /// Its number.
    pub relid: u32,
    /// What signals it.
    pub connection_id: u32,
    /// The handle of its rings.
    pub gpadl: u32,
    /// To the host.
    pub outgoing: OutgoingRing<GuestPages>,
    /// From the host.
    pub incoming: IncomingRing<GuestPages>,
    server: Server,
    mailbox: Arc<Mailbox>,
}

/// A packet that the host has sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Received {
    /// What it is.
    pub kind: PacketType,
    /// Its transaction.
    pub transaction_id: u64,
    /// Its data.
    pub data: Vec<u8>,
}

impl GuestChannel {
    /// Sends a packet and signals if need be. False if there is no room.
    ///
    /// # Panics
    /// When the host broke the ring.
    pub fn send(&mut self, packet: &OutgoingPacket<'_>) -> bool {
        let sent = self.outgoing.write(packet).expect("a sane ring");
        if self.outgoing.commit() {
            self.signal();
        }
        sent
    }

    /// Signals the host.
    pub fn signal(&self) {
        // An unknown connection is a channel that is closed.
        let _ = self.server.event(self.connection_id, 0);
    }

    /// The next packet, if there is one.
    ///
    /// # Panics
    /// When the host broke the ring.
    pub fn receive(&mut self) -> Option<Received> {
        let mut batch = self.incoming.batch().expect("a sane ring");
        let received = batch.next_packet().expect("a sane packet").map(|packet| {
            let mut data = vec![0; packet.data().len()];
            packet.data().read(&mut data);
            Received { kind: packet.kind, transaction_id: packet.transaction_id, data }
        });
        if batch.finish().expect("a sane ring") {
            self.signal();
        }
        received
    }

    /// The next packet, as soon as it comes: waits for interrupts.
    ///
    /// # Panics
    /// When none comes for long.
    pub fn wait_receive(&mut self) -> Received {
        loop {
            if let Some(received) = self.receive() {
                return received;
            }
            self.mailbox.wait_event(self.relid as u16);
        }
    }
}
