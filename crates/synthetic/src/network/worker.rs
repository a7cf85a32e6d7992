//! The event loop of a channel of an adapter.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use guest_memory::GuestMemory;
use network::{Frame, Queue, Sent};
use vm_memory::{Bytes, GuestAddress};
use vmbus::Channel;
use vmbus::ring::{GuestPages, OutgoingPacket, Packet, PacketType, RingError};

use super::BATCH;
use super::adapter::Shared;
use super::buffers::{Buffer, ReceiveBuffer};
use super::moderation::{LINGER, Moderation, Turn};
use super::protocol::*;
use super::rndis::packet::{self, OVERHEAD, Part};
use super::rndis::{self, Source};
use super::session::{Session, parse, transfer};

/// Bytes of the longest message, of which all behind an RNDIS packet's header is padding.
const MESSAGE: usize = 64;
/// Bytes of what an RNDIS packet of the guest may be: more than one frame of 64 KiB with its headers.
const LONGEST_PACKET: usize = 128 << 10;
/// Frames that wait for a section and have been cut already: a frame of 64 KiB makes fewer.
const READY: usize = 1024;

/// How long the guest is not heard when more of what it sends wait than are taken.
const MOMENT: Duration = Duration::from_millis(1);

/// A packet for the guest that there was no room for.
enum Unsent {
    Completion {
        transaction: u64,
        data: Vec<u8>,
    },
    /// Sections of a receive buffer, with the message that goes with them.
    Transfer {
        transaction: u64,
        generation: u64,
        header: Vec<u64>,
        channel: u32,
    },
}

/// What the guest has of a receive buffer.
#[derive(Default)]
struct Lent {
    generation: u64,
    /// Sections, by the transaction by which the guest got them.
    sections: HashMap<u64, Vec<u32>>,
    last: u64,
}

impl Lent {
    /// The guest gets sections of `buffer`; the transaction by which it gives them back.
    fn lend(&mut self, buffer: &ReceiveBuffer, sections: Vec<u32>) -> u64 {
        if self.generation != buffer.generation {
            self.sections.clear();
            self.generation = buffer.generation;
        }
        self.last += 1;
        self.sections.insert(self.last, sections);
        self.last
    }

    /// The guest has read what it got by `transaction`. False if it got nothing by it.
    fn give_back(&mut self, buffer: Option<&ReceiveBuffer>, transaction: u64) -> bool {
        let Some(sections) = self.sections.remove(&transaction) else { return false };
        if let Some(buffer) = buffer.filter(|buffer| buffer.generation == self.generation) {
            buffer.give_back(sections);
        }
        true
    }
}

/// Serves a channel.
pub(super) struct Worker {
    shared: Arc<Shared>,
    session: Arc<Session>,
    channel: Channel,
    unsent: VecDeque<Unsent>,
    lent: Lent,
    /// RNDIS messages that wait for a section: of the primary channel alone.
    controls: VecDeque<Vec<u8>>,
    /// Frames that wait for a section.
    ready: VecDeque<Frame>,
    /// More of what the guest sends wait than are taken.
    crowded: bool,
    turn: Turn,
    moderation: Moderation,
    /// Where the parts of the guest's message are.
    pieces: Vec<(GuestAddress, usize)>,
}

impl Worker {
    pub fn new(shared: Arc<Shared>, session: Arc<Session>, channel: Channel) -> Self {
        Self {
            shared,
            session,
            channel,
            unsent: VecDeque::new(),
            lent: Lent::default(),
            controls: VecDeque::new(),
            ready: VecDeque::new(),
            crowded: false,
            turn: Turn::default(),
            moderation: Moderation::default(),
            pieces: Vec::new(),
        }
    }

    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Which channel it is: that of this queue of the port.
    pub fn queue(&self) -> usize {
        self.channel.subchannel_index().into()
    }

    fn is_primary(&self) -> bool {
        self.queue() == 0
    }

    /// Serves the channel until it is to be given back.
    pub fn run(&mut self) {
        self.serve();
        self.session.set_open(&self.shared.port, self.queue(), false);
        if self.is_primary() {
            self.shared.set_mac(self.session.adapter().mac());
            self.shared.ready.store(false, Ordering::Relaxed);
        }
    }

    fn serve(&mut self) {
        let shared = Arc::clone(&self.shared);
        let Some(queue) = shared.port.queue(self.queue()) else { return };
        let mut broken = false;
        while !self.channel.closing() {
            let patience = if broken { Ok(None) } else { self.exchange(queue) };
            let patience = patience.unwrap_or_else(|error| {
                tracing::error!(name = self.shared.name, %error, "guest breaks a ring of its network adapter");
                broken = true;
                None
            });
            // What the port does not let through yet is left where it is.
            let patience = [patience, shared.port.pause(), queue.pause()].into_iter().flatten().min();
            if let Err(error) = self.channel.wait(&[queue.doorbell()], patience) {
                tracing::error!(name = self.shared.name, %error, "event loop of a network adapter fails");
                return;
            }
        }
    }

    /// Does what there is to be done. For how long to wait for more at the most.
    fn exchange(&mut self, queue: &Queue) -> Result<Option<Duration>, RingError> {
        loop {
            self.channel.incoming.mask();
            let mut busy = self.flush()? && self.hear()?;
            busy |= self.deliver(queue)?;
            if self.channel.outgoing.commit() {
                self.channel.interrupt();
            }
            if busy {
                continue;
            }
            let idle = self.unsent.is_empty() && self.controls.is_empty() && self.ready.is_empty();
            if idle
                && !self.crowded
                && !self.channel.closing()
                && self.moderation.lingers(&std::mem::take(&mut self.turn))
            {
                return Ok(Some(LINGER));
            }
            let more = self.channel.incoming.unmask()?;
            let crowded = std::mem::take(&mut self.crowded);
            if !more
                || !self.unsent.is_empty()
                || crowded
                || self.shared.port.pause().is_some()
                || self.channel.closing()
            {
                return Ok(crowded.then_some(MOMENT));
            }
        }
    }

    /// Sends what there was no room for. False if there still is none: the guest signals when there is.
    fn flush(&mut self) -> Result<bool, RingError> {
        while let Some(unsent) = self.unsent.front() {
            // A buffer that the guest has taken back has nothing for it.
            let goes = match unsent {
                Unsent::Completion { .. } => true,
                Unsent::Transfer { generation, .. } => self
                    .session
                    .receive_buffer()
                    .as_ref()
                    .is_some_and(|buffer| buffer.generation == *generation),
            };
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
        let session = Arc::clone(&self.session);
        let mut heard = false;
        // What a message leads to has room before the next is read.
        while self.unsent.is_empty()
            && self.controls.is_empty()
            && !self.crowded
            && self.shared.port.pause().is_none()
        {
            let mut bytes = [0; MESSAGE];
            let mut batch = self.channel.incoming.batch()?;
            let Some(packet) = batch.next_packet()? else {
                if batch.finish()? {
                    self.channel.interrupt();
                }
                break;
            };
            heard = true;
            self.turn.acted();
            let length = packet.data().read(&mut bytes);
            let bytes = bytes.get(..length).unwrap_or_default();
            let wanted = packet.completion_requested().then_some(packet.transaction_id);
            let (packet_kind, transaction) = (packet.kind, packet.transaction_id);
            let message = parse::<u32>(bytes).zip(bytes.get(4..));
            let rndis = match message {
                Some((kind::SEND_RNDIS_PACKET, body)) if packet_kind != PacketType::COMPLETION => {
                    parse::<SendRndisPacket>(body).map(|header| {
                        (header, gather(&packet, header, session.send_buffer().as_ref(), &mut self.pieces))
                    })
                }
                _ => None,
            };
            if batch.finish()? {
                self.channel.interrupt();
            }
            if packet_kind == PacketType::COMPLETION {
                self.give_back(transaction);
                continue;
            }
            let answer = match (rndis, message) {
                (Some((header, gathered)), _) => {
                    let status = match gathered {
                        Some(length) => self.rndis(header, length),
                        None => status::INVALID_RNDIS_PACKET,
                    };
                    let kind = kind::SEND_RNDIS_PACKET_COMPLETE;
                    Some([kind.to_le_bytes(), status.to_le_bytes()].concat())
                }
                (None, Some((kind, body))) if self.is_primary() => {
                    session.message(&self.shared, &self.channel, kind, body)
                }
                (None, _) => None,
            };
            if let Some(transaction) = wanted {
                self.say(Unsent::Completion { transaction, data: answer.unwrap_or_default() })?;
            }
            self.control()?;
        }
        Ok(heard)
    }

    fn give_back(&mut self, transaction: u64) {
        let known = self.lent.give_back(self.session.receive_buffer().as_ref(), transaction);
        if !known {
            tracing::debug!(transaction, "guest gives back what it does not have");
        }
        if self.session.fed() {
            let queues = (0..).map_while(|index| self.shared.port.queue(index));
            queues.for_each(|queue| queue.doorbell().ring());
        }
    }

    /// Takes the RNDIS messages of `length` bytes that have been gathered; the status.
    fn rndis(&mut self, header: SendRndisPacket, length: usize) -> u32 {
        let pieces = std::mem::take(&mut self.pieces);
        let source = Gathered { memory: self.channel.memory(), pieces: &pieces, length };
        let mut status = status::SUCCESS;
        let mut any = false;
        for message in rndis::messages(&source) {
            any = true;
            if !message.is_packet() {
                if header.channel == CONTROL && self.is_primary() {
                    let line = self.shared.line();
                    let mut adapter = self.session.adapter();
                    self.controls.extend(adapter.receive(&source, &message, &line));
                    self.shared.ready.store(adapter.is_ready(), Ordering::Relaxed);
                    drop(adapter);
                    self.session.steer(&self.shared.port);
                }
                continue;
            }
            match packet::frame(&source, &message) {
                Some(frame) => {
                    self.shared.counters.requests.count();
                    self.shared.sent.count();
                    self.shared.counters.bytes_out.add(frame.data.len() as u64);
                    self.turn.sent(frame.data.len());
                    self.crowded |= self.shared.port.send(frame) == Sent::Crowded;
                }
                None => status = status::INVALID_RNDIS_PACKET,
            }
        }
        self.pieces = pieces;
        if any { status } else { status::INVALID_RNDIS_PACKET }
    }

    /// Sends RNDIS messages that carry no frame, as far as there is room.
    fn control(&mut self) -> Result<(), RingError> {
        if !self.is_primary() {
            return Ok(());
        }
        let session = Arc::clone(&self.session);
        self.controls.extend(session.adapter().link_changed(self.shared.port.link()));
        while let Some(message) = self.controls.front() {
            let unsent = {
                let buffer = session.receive_buffer();
                let Some(buffer) = &*buffer else { break };
                let mut sections = Vec::new();
                if !session.take(buffer, 1, &mut sections) {
                    break;
                }
                let ranges: Vec<u64> = sections
                    .iter()
                    .filter(|&&section| buffer.put(section, message, &[]).is_some())
                    .map(|&section| buffer.range(section, message.len()))
                    .collect();
                if ranges.is_empty() {
                    // Longer than a section: the guest has lent a bad buffer.
                    buffer.give_back(sections);
                    self.controls.pop_front();
                    continue;
                }
                self.lend(buffer, sections, ranges, CONTROL)
            };
            self.controls.pop_front();
            self.say(unsent)?;
        }
        Ok(())
    }

    /// The packet by which the guest gets `sections` of `buffer`, in which `ranges` are of use to it.
    fn lend(
        &mut self,
        buffer: &ReceiveBuffer,
        sections: Vec<u32>,
        mut ranges: Vec<u64>,
        channel: u32,
    ) -> Unsent {
        ranges.insert(0, buffer.header(ranges.len()));
        let transaction = self.lent.lend(buffer, sections);
        Unsent::Transfer { transaction, generation: buffer.generation, header: ranges, channel }
    }

    /// Hands the guest frames that have come, as far as there is room. True if there are more and room for them.
    fn deliver(&mut self, queue: &Queue) -> Result<bool, RingError> {
        self.control()?;
        if !self.unsent.is_empty() {
            return Ok(false);
        }
        let session = Arc::clone(&self.session);
        let unsent = {
            let buffer = session.receive_buffer();
            self.fetch(queue, buffer.is_some());
            let Some(buffer) = &*buffer else {
                self.ready.clear();
                return Ok(false);
            };
            let (mut ranges, mut sections) = (Vec::new(), Vec::new());
            while ranges.len() < BATCH
                && let Some(frame) = self.ready.front()
            {
                let most = buffer.size as usize - OVERHEAD;
                let pieces = frame.data.len().div_ceil(most);
                // Only what the guest puts together may have several pieces.
                let too_long = pieces > 1 && frame.segments.is_none();
                if too_long || pieces > buffer.count as usize {
                    self.shared.port.dropped().count();
                    self.ready.pop_front();
                    continue;
                }
                let from = sections.len();
                if !session.take(buffer, pieces, &mut sections) {
                    break;
                }
                let taken = sections.get(from..).unwrap_or_default();
                for (index, (&section, data)) in taken.iter().zip(frame.data.chunks(most)).enumerate() {
                    let part = Part { first: index == 0, last: index + 1 == pieces };
                    let head = packet::header(data.len(), frame.verified, part);
                    let head = head.as_ref();
                    if buffer.put(section, head, data).is_some() {
                        ranges.push(buffer.range(section, head.len() + data.len()));
                    }
                }
                self.shared.counters.requests.count();
                self.shared.counters.bytes_in.add(frame.data.len() as u64);
                self.turn.received(frame.data.len());
                self.ready.pop_front();
            }
            if ranges.is_empty() {
                return Ok(false);
            }
            self.lend(buffer, sections, ranges, DATA)
        };
        self.say(unsent)
    }

    /// Fetches frames that have come and that the guest wants.
    fn fetch(&mut self, queue: &Queue, wanted: bool) {
        let adapter = self.session.adapter();
        while self.ready.len() < BATCH {
            let Some(frame) = queue.receive() else { return };
            if !wanted || frame.destination().is_none_or(|to| !adapter.wants(to)) {
                continue;
            }
            if frame.segments.is_some_and(|segments| adapter.coalesces(segments.tcp)) {
                match frame.coalesce() {
                    Some(frame) => self.ready.push_back(frame),
                    None => self.shared.port.dropped().count(),
                }
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
        Unsent::Transfer { transaction, header, channel: kind, .. } => {
            let packet = OutgoingPacket {
                kind: PacketType::TRANSFER_PAGES,
                completion_requested: true,
                transaction_id: *transaction,
                header,
                data: &transfer(*kind),
            };
            channel.outgoing.write_or_wait(&packet)
        }
    }
}

/// A message of the guest in several places.
struct Gathered<'a> {
    memory: &'a GuestMemory,
    pieces: &'a [(GuestAddress, usize)],
    length: usize,
}

impl Source for Gathered<'_> {
    fn length(&self) -> usize {
        self.length
    }

    fn read(&self, mut at: usize, mut to: &mut [u8]) -> Option<()> {
        for &(address, length) in self.pieces {
            if at >= length {
                at -= length;
                continue;
            }
            let here = (length - at).min(to.len());
            let (now, rest) = to.split_at_mut_checked(here)?;
            self.memory.read_slice(now, GuestAddress(address.0.checked_add(at as u64)?)).ok()?;
            (at, to) = (0, rest);
            if to.is_empty() {
                break;
            }
        }
        to.is_empty().then_some(())
    }
}

/// Makes `pieces` say where what the guest sends is: in its send buffer, then in pages of its own. How many bytes that is;
/// `None` if it is no message.
fn gather(
    packet: &Packet<'_, GuestPages>,
    header: SendRndisPacket,
    send: Option<&Buffer>,
    pieces: &mut Vec<(GuestAddress, usize)>,
) -> Option<usize> {
    pieces.clear();
    let mut length = 0;
    if header.section != NO_SECTION {
        let offset = u64::from(header.section) * u64::from(SEND_SECTION);
        length = usize::try_from(header.size).ok().filter(|&size| size <= LONGEST_PACKET)?;
        pieces.extend(send?.pieces(offset, length)?);
    }
    for range in packet.gpa_ranges().into_iter().flatten() {
        for run in range.ok()?.runs() {
            let more = usize::try_from(run.len).ok().filter(|&more| more <= LONGEST_PACKET)?;
            length += more;
            if length > LONGEST_PACKET {
                return None;
            }
            pieces.push((GuestAddress(run.gpa), more));
        }
    }
    Some(length)
}
