//! The event loop of an adapter's channel.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use guest_memory::GuestMemory;
use network::{Frame, HEADER};
use vm_memory::{Bytes, GuestAddress};
use vmbus::Channel;
use vmbus::ring::{GuestPages, OutgoingPacket, Packet, PacketType, RingError};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::BATCH;
use super::adapter::Shared;
use super::buffers::{Buffer, Sections};
use super::protocol::*;
use super::rndis::{self, Adapter};

/// Bytes of the longest message, of which all behind an RNDIS packet's header is padding.
const MESSAGE: usize = 64;
/// Bytes of what an RNDIS packet of the guest may be: more than one frame of 64 KiB with its headers.
const LONGEST_PACKET: usize = 128 << 10;
/// Frames that wait for a section and have been cut already: a frame of 64 KiB makes fewer.
const READY: usize = 1024;
/// Bytes beside a frame and its RNDIS message that a section has room for.
const SPARE: u32 = 214;
/// Frames' bytes until the guest says more: an Ethernet frame's.
const USUAL_FRAME: u32 = 1514;

/// A packet for the guest that there was no room for.
enum Unsent {
    Completion {
        transaction: u64,
        data: Vec<u8>,
    },
    /// Sections of the receive buffer, with the message that goes with them.
    Transfer {
        transaction: u64,
        header: Vec<u64>,
        channel: u32,
    },
}

pub(super) struct Worker {
    shared: Arc<Shared>,
    channel: Channel,
    memory: GuestMemory,
    version: Option<u32>,
    /// Bytes of the longest frame that the guest takes.
    longest: u32,
    adapter: Adapter,
    receive: Option<Sections>,
    send: Option<Buffer>,
    unsent: VecDeque<Unsent>,
    /// RNDIS messages that wait for a section.
    controls: VecDeque<Vec<u8>>,
    /// Frames that wait for a section.
    ready: VecDeque<Frame>,
    scratch: Vec<u8>,
}

fn nvsp(kind: u32, body: &(impl IntoBytes + Immutable)) -> Vec<u8> {
    let mut message = [&kind.to_le_bytes(), body.as_bytes()].concat();
    message.resize(ANSWER, 0);
    message
}

fn parse<T: FromBytes + KnownLayout + Immutable>(body: &[u8]) -> Option<T> {
    T::read_from_prefix(body).ok().map(|(message, _)| message)
}

impl Worker {
    pub fn new(shared: Arc<Shared>, channel: Channel) -> Self {
        let memory = channel.memory().clone();
        let adapter = Adapter::new(shared.permanent, shared.mac());
        Self {
            shared,
            channel,
            memory,
            version: None,
            longest: USUAL_FRAME,
            adapter,
            receive: None,
            send: None,
            unsent: VecDeque::new(),
            controls: VecDeque::new(),
            ready: VecDeque::new(),
            scratch: Vec::new(),
        }
    }

    /// Serves the channel until it is to be given back.
    pub fn run(&mut self) {
        self.serve();
        self.shared.set_mac(self.adapter.mac());
    }

    fn serve(&mut self) {
        let mut broken = false;
        while !self.channel.closing() {
            if !broken && let Err(error) = self.exchange() {
                tracing::error!(name = self.shared.name, %error, "guest breaks a ring of its network adapter");
                broken = true;
            }
            if let Err(error) = self.channel.wait(&[self.shared.port.doorbell()], None) {
                tracing::error!(name = self.shared.name, %error, "event loop of a network adapter fails");
                return;
            }
        }
    }

    fn exchange(&mut self) -> Result<(), RingError> {
        loop {
            self.channel.incoming.mask();
            let mut busy = self.flush()? && self.hear()?;
            busy |= self.deliver()?;
            if self.channel.outgoing.commit() {
                self.channel.interrupt();
            }
            self.shared.ready.store(self.adapter.is_ready(), Ordering::Relaxed);
            if busy {
                continue;
            }
            let more = self.channel.incoming.unmask()?;
            if !more || !self.unsent.is_empty() || self.channel.closing() {
                return Ok(());
            }
        }
    }

    /// Sends what there was no room for. False if there still is none: the guest signals when there is.
    fn flush(&mut self) -> Result<bool, RingError> {
        while let Some(unsent) = self.unsent.front() {
            // A buffer that the guest has taken back has nothing for it.
            let goes = self.receive.is_some() || matches!(unsent, Unsent::Completion { .. });
            if goes && !write(&mut self.channel, unsent)? {
                return Ok(false);
            }
            self.unsent.pop_front();
        }
        Ok(true)
    }

    fn say(&mut self, unsent: Unsent) -> Result<bool, RingError> {
        self.unsent.push_back(unsent);
        self.flush()
    }

    /// Takes what the guest has sent. True if there was anything.
    fn hear(&mut self) -> Result<bool, RingError> {
        let mut heard = false;
        // What a message leads to has room before the next is read.
        while self.unsent.is_empty() && self.controls.is_empty() {
            let mut bytes = [0; MESSAGE];
            let mut batch = self.channel.incoming.batch()?;
            let Some(packet) = batch.next_packet()? else {
                if batch.finish()? {
                    self.channel.interrupt();
                }
                break;
            };
            heard = true;
            let length = packet.data().read(&mut bytes);
            let bytes = bytes.get(..length).unwrap_or_default();
            let wanted = packet.completion_requested().then_some(packet.transaction_id);
            let (kind, transaction) = (packet.kind, packet.transaction_id);
            let message = parse::<u32>(bytes).zip(bytes.get(4..));
            let rndis = match message {
                Some((kind::SEND_RNDIS_PACKET, body)) if kind != PacketType::COMPLETION => {
                    parse::<SendRndisPacket>(body).map(|header| {
                        (header, gather(&packet, header, self.send.as_ref(), &self.memory, &mut self.scratch))
                    })
                }
                _ => None,
            };
            if batch.finish()? {
                self.channel.interrupt();
            }
            if kind == PacketType::COMPLETION {
                let known = self.receive.as_mut().is_some_and(|sections| sections.give_back(transaction));
                if !known {
                    tracing::debug!(transaction, "guest gives back what it does not have");
                }
                continue;
            }
            let answer = match (rndis, message) {
                (Some((header, gathered)), _) => {
                    let status = match gathered {
                        Some(()) => self.rndis(header),
                        None => status::INVALID_RNDIS_PACKET,
                    };
                    let kind = kind::SEND_RNDIS_PACKET_COMPLETE;
                    Some([kind.to_le_bytes(), status.to_le_bytes()].concat())
                }
                (None, Some((kind, body))) => self.message(kind, body),
                (None, None) => None,
            };
            if let Some(transaction) = wanted {
                self.say(Unsent::Completion { transaction, data: answer.unwrap_or_default() })?;
            }
            self.control()?;
        }
        Ok(heard)
    }

    /// Takes a message that is no RNDIS packet; the answer.
    fn message(&mut self, kind: u32, body: &[u8]) -> Option<Vec<u8>> {
        match kind {
            kind::INIT => {
                let Init { oldest, newest } = parse(body)?;
                let version = VERSIONS.into_iter().rev().find(|version| (oldest..=newest).contains(version));
                self.version = version;
                let status = match version {
                    Some(_) => status::SUCCESS,
                    None if VERSIONS.iter().all(|&version| version < oldest) => status::PROTOCOL_TOO_NEW,
                    None => status::PROTOCOL_TOO_OLD,
                };
                let version = version.unwrap_or_default();
                Some(nvsp(kind::INIT_COMPLETE, &InitComplete { version, max_pieces: MAX_PIECES, status }))
            }
            kind::SEND_NDIS_CONFIG => {
                let NdisConfig { mtu, .. } = parse(body)?;
                self.longest = mtu.clamp(USUAL_FRAME, rndis::MTU + HEADER as u32);
                None
            }
            kind::SEND_RECEIVE_BUFFER => {
                let size = (self.longest + SPARE).next_multiple_of(64);
                let sections = self.buffer(body).map(|(buffer, id)| Sections::new(buffer, id, size));
                self.receive = sections.filter(|sections| sections.count > 0);
                let answer = match &self.receive {
                    Some(Sections { size, count, .. }) => {
                        let (size, count) = (*size, *count);
                        let status = status::SUCCESS;
                        ReceiveBufferComplete { status, kinds: 1, offset: 0, size, count, end: size * count }
                    }
                    None => {
                        let status = status::FAIL;
                        ReceiveBufferComplete { status, kinds: 0, offset: 0, size: 0, count: 0, end: 0 }
                    }
                };
                Some(nvsp(kind::SEND_RECEIVE_BUFFER_COMPLETE, &answer))
            }
            kind::SEND_SEND_BUFFER => {
                self.send = self.buffer(body).map(|(buffer, _)| buffer);
                let status = if self.send.is_some() { status::SUCCESS } else { status::FAIL };
                let answer = SendBufferComplete { status, section: SEND_SECTION };
                Some(nvsp(kind::SEND_SEND_BUFFER_COMPLETE, &answer))
            }
            kind::REVOKE_RECEIVE_BUFFER => {
                self.receive = None;
                self.ready.clear();
                None
            }
            kind::REVOKE_SEND_BUFFER => {
                self.send = None;
                None
            }
            kind::SUBCHANNEL => {
                let answer = Subchannels { operation: status::FAIL, count: 0 };
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
    fn buffer(&self, body: &[u8]) -> Option<(Buffer, u16)> {
        self.version?;
        let SendBuffer { gpadl, id } = parse(body)?;
        let frames = self.channel.pages_of(gpadl)?;
        Some((Buffer::new(self.memory.clone(), frames), id))
    }

    /// Takes the RNDIS messages in the scratch buffer; the status.
    fn rndis(&mut self, header: SendRndisPacket) -> u32 {
        let link = self.shared.port.link();
        let bytes = std::mem::take(&mut self.scratch);
        let mut status = status::SUCCESS;
        let mut any = false;
        for (kind, body) in rndis::messages(&bytes) {
            any = true;
            if !rndis::is_packet(kind) {
                if header.channel == CONTROL {
                    self.controls.extend(self.adapter.receive(kind, body, link));
                }
                continue;
            }
            match rndis::frame(body) {
                Some(frame) => {
                    self.shared.counters.requests.count();
                    self.shared.counters.bytes_out.add(frame.data.len() as u64);
                    self.shared.port.send(frame);
                }
                None => status = status::INVALID_RNDIS_PACKET,
            }
        }
        self.scratch = bytes;
        if any { status } else { status::INVALID_RNDIS_PACKET }
    }

    /// Sends RNDIS messages that carry no frame, as far as there is room.
    fn control(&mut self) -> Result<(), RingError> {
        self.controls.extend(self.adapter.link_changed(self.shared.port.link()));
        while let Some(message) = self.controls.front() {
            let Some(sections) = &mut self.receive else { break };
            if sections.room() == 0 {
                break;
            }
            let Some(section) = sections.put(message) else {
                // Longer than a section: the guest has lent a bad buffer.
                self.controls.pop_front();
                continue;
            };
            let header = vec![sections.header(1), sections.range(section, message.len())];
            let transaction = sections.lend(vec![section]);
            self.controls.pop_front();
            self.say(Unsent::Transfer { transaction, header, channel: CONTROL })?;
        }
        Ok(())
    }

    /// Hands the guest frames that have come, as far as there is room. True if there are more and room for them.
    fn deliver(&mut self) -> Result<bool, RingError> {
        self.control()?;
        if !self.unsent.is_empty() {
            return Ok(false);
        }
        self.fetch();
        let Some(sections) = &mut self.receive else { return Ok(false) };
        let (mut header, mut lent) = (vec![0], Vec::new());
        while lent.len() < BATCH && sections.room() > 0 {
            let Some(frame) = self.ready.pop_front() else { break };
            let message = rndis::packet(&frame);
            let Some(section) = sections.put(&message) else {
                self.shared.port.dropped().count();
                continue;
            };
            self.shared.counters.requests.count();
            self.shared.counters.bytes_in.add(frame.data.len() as u64);
            header.push(sections.range(section, message.len()));
            lent.push(section);
        }
        if lent.is_empty() {
            return Ok(false);
        }
        header[0] = sections.header(lent.len());
        let transaction = sections.lend(lent);
        self.say(Unsent::Transfer { transaction, header, channel: DATA })
    }

    /// Fetches frames that have come and that the guest wants.
    fn fetch(&mut self) {
        while self.ready.len() < BATCH {
            let Some(frame) = self.shared.port.receive() else { return };
            let wanted = frame.destination().is_some_and(|to| self.adapter.wants(to));
            if !wanted || self.receive.is_none() {
                continue;
            }
            let finished = frame.finish();
            if finished.is_empty() || self.ready.len() + finished.len() > READY {
                self.shared.port.dropped().count();
            } else {
                self.ready.extend(finished);
            }
        }
    }
}

/// Puts a packet into the ring. False if there is no room.
fn write(channel: &mut Channel, unsent: &Unsent) -> Result<bool, RingError> {
    match unsent {
        Unsent::Completion { transaction, data } => {
            channel.outgoing.write_or_wait(&OutgoingPacket::completion(*transaction, data))
        }
        Unsent::Transfer { transaction, header, channel: kind } => {
            let message = SendRndisPacket { channel: *kind, section: NO_SECTION, size: 0 };
            let data = nvsp(kind::SEND_RNDIS_PACKET, &message);
            let packet = OutgoingPacket {
                kind: PacketType::TRANSFER_PAGES,
                completion_requested: true,
                transaction_id: *transaction,
                header,
                data: &data,
            };
            channel.outgoing.write_or_wait(&packet)
        }
    }
}

/// Makes `scratch` what the guest sends: what is in its send buffer, then what is in pages of their own.
fn gather(
    packet: &Packet<'_, GuestPages>,
    header: SendRndisPacket,
    send: Option<&Buffer>,
    memory: &GuestMemory,
    scratch: &mut Vec<u8>,
) -> Option<()> {
    scratch.clear();
    if header.section != NO_SECTION {
        let offset = u64::from(header.section) * u64::from(SEND_SECTION);
        let size = usize::try_from(header.size).ok().filter(|&size| size <= LONGEST_PACKET)?;
        send?.read(offset, size, scratch)?;
    }
    for range in packet.gpa_ranges().into_iter().flatten() {
        for run in range.ok()?.runs() {
            let (at, length) = (scratch.len(), usize::try_from(run.len).ok()?);
            if at + length > LONGEST_PACKET {
                return None;
            }
            scratch.resize(at + length, 0);
            memory.read_slice(scratch.get_mut(at..)?, GuestAddress(run.gpa)).ok()?;
        }
    }
    Some(())
}
