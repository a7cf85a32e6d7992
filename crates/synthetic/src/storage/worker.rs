//! The event loop of one channel: requests in, commands carried out, answers out in batches.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Instant;

use ::storage::scheduling::Wakeup;
use ::storage::scsi::{self, Io, LogicalUnit, Outcome, Sense};
use ::storage::{Disk, Owner, Request, SubmitError};
use rustix::event::{Timespec, epoll};
use rustix::io::Errno;
use vmbus::ring::{OutgoingPacket, RingError};
use vmbus::{Channel, Doorbell, OfferError};
use zerocopy::{FromZeros, IntoBytes};

use super::controller::{Shared, news};
use super::gather::Gather;
use super::protocol::*;
use super::queues::{FIRST_QUEUE, Queues};
use super::request::{Slot, Transfer};
use super::{ANSWERS_HELD, MAX_TRANSFER, SLOTS};

/// The numbers by which the event loop knows what is not a disk queue.
const CHANNEL: u64 = 0;
const NEWS: u64 = 1;
/// Events taken at once.
const EVENTS: usize = 16;
/// How long a refused kick waits for the next try.
const RETRY: Timespec = Timespec { tv_sec: 0, tv_nsec: 1_000_000 };

const INQUIRY: u8 = 0x12;
const REPORT_LUNS: u8 = 0xa0;
/// A list of units without any: only its header (SPC-4, section 6.33).
const EMPTY_LIST_LENGTH: usize = 8;
/// Standard INQUIRY data of a unit that is not there: qualifier 3, type 31, SPC-4, 31 more bytes. The rest
/// is zero.
const NO_UNIT: [u8; 5] = [0x7f, 0, 6, 2, 31];
const INQUIRY_LENGTH: usize = 36;

/// How far the guest's driver is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Idle,
    Begun,
    /// Knows the version.
    Agreed(u16),
    Ready(u16),
}

/// The event loop of one channel.
pub(super) struct Worker {
    shared: Arc<Shared>,
    channel: Channel,
    epoll: OwnedFd,
    news_bell: Arc<Doorbell>,
    phase: Phase,
    slots: Vec<Slot>,
    free: Vec<usize>,
    /// Requests that have come and are to be carried out.
    arrived: Vec<usize>,
    /// Answers that found no room in the ring.
    backlog: VecDeque<usize>,
    /// Resets that wait for all other requests.
    resets: Vec<usize>,
    /// What disks have completed.
    finished: Vec<(u64, io::Result<usize>)>,
    queues: Queues,
    reply: Vec<u8>,
    parameters: Box<[u8]>,
    /// News that the guest has not been told: bits as in [`Shared::news`].
    untold: u8,
    gather: Gather,
    /// How the host schedules this thread.
    wakeup: Wakeup,
    /// The guest may write while this thread looks: the host has another processor for it.
    side_by_side: bool,
    /// Answers that the guest has not been shown.
    written: usize,
    /// Answers shown since the last interrupt.
    held: usize,
    /// The guest waits for an interrupt.
    due: bool,
    /// The guest broke the ring: nothing more is read or written.
    broken: bool,
}

impl Worker {
    pub fn new(shared: Arc<Shared>, channel: Channel) -> io::Result<Self> {
        let primary = channel.subchannel_index() == 0;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let add = |bell: &Doorbell, number| {
            epoll::add(&epoll, bell, epoll::EventData::new_u64(number), epoll::EventFlags::IN)
        };
        add(channel.doorbell(), CHANNEL)?;
        let news_bell = Arc::new(Doorbell::new()?);
        add(&news_bell, NEWS)?;
        shared.lock_bells().push(Arc::clone(&news_bell));
        shared.channels.fetch_add(1, Ordering::Relaxed);
        Ok(Self {
            shared,
            channel,
            epoll,
            news_bell,
            // A subchannel needs no negotiation: it is there because the primary channel has done it.
            phase: if primary { Phase::Idle } else { Phase::Ready(VERSION_WIN8) },
            slots: (0..SLOTS).map(|_| Slot::new()).collect(),
            free: (0..SLOTS).rev().collect(),
            arrived: Vec::with_capacity(SLOTS),
            backlog: VecDeque::with_capacity(SLOTS),
            resets: Vec::new(),
            finished: Vec::with_capacity(SLOTS),
            queues: Queues::default(),
            reply: Vec::new(),
            parameters: vec![0; scsi::PARAMETERS_MAX].into(),
            untold: 0,
            gather: Gather::new(),
            wakeup: Wakeup::AtOnce,
            side_by_side: thread::available_parallelism().is_ok_and(|processors| processors.get() > 1),
            written: 0,
            held: 0,
            due: false,
            broken: false,
        })
    }

    /// Serves the channel until it is to be closed, then gives it back.
    pub fn run(mut self) {
        let mut events = Vec::with_capacity(EVENTS);
        // What the guest has written before we listened rings no bell.
        while self.serve() {
            if let Err(error) = self.wait(&mut events) {
                tracing::error!(name = self.shared.name, %error, "storage event loop fails");
                break;
            }
        }
    }

    /// Does all there is to do. False when the channel is to be given back.
    fn serve(&mut self) -> bool {
        let closing = self.channel.closing();
        if !self.broken
            && let Err(error) = self.exchange()
        {
            tracing::error!(name = self.shared.name, %error, "guest breaks the ring of a storage channel");
            self.broken = true;
        }
        if self.broken {
            self.discard_answers();
        }
        // Requests that have begun touch guest memory: the channel is not closed before they are done.
        !(closing && self.queues.in_flight() == 0)
    }

    fn exchange(&mut self) -> Result<(), RingError> {
        let began = Instant::now();
        let mut served = 0;
        loop {
            self.channel.incoming.mask();
            served += self.receive()?;
            while let Some(index) = self.arrived.pop() {
                self.carry_out(index)?;
            }
            self.kick()?;
            self.write_backlog()?;
            self.tell_news()?;
            self.show_answers();
            if self.linger(served, began)? {
                continue;
            }
            self.interrupt_if_due();
            // Without a free slot the ring is looked at again when a disk is done or the guest makes room.
            let more = self.channel.incoming.unmask()?;
            // A guest that never stops sending must not keep the channel from being closed.
            if !more || self.free.is_empty() || self.channel.closing() {
                return Ok(());
            }
        }
    }

    /// Shows the guest what has been written.
    fn show_answers(&mut self) {
        self.due |= self.channel.outgoing.commit();
        self.held += std::mem::take(&mut self.written);
        if self.held >= ANSWERS_HELD {
            self.interrupt_if_due();
        }
    }

    fn interrupt_if_due(&mut self) {
        self.held = 0;
        // A guest that has emptied the ring by itself meanwhile finds nothing new, which it expects.
        if std::mem::take(&mut self.due) {
            self.channel.interrupt();
        }
    }

    /// Looks for more from a guest that has several requests at a time, for as long as it is likely to come. True if
    /// there is some.
    fn linger(&mut self, served: usize, began: Instant) -> Result<bool, RingError> {
        if !self.side_by_side || self.free.is_empty() || self.channel.closing() {
            return Ok(false);
        }
        let now = Instant::now();
        let linger = self.gather.linger(served, now - began);
        while self.channel.incoming.is_empty()? {
            if now.elapsed() >= linger {
                return Ok(false);
            }
            std::hint::spin_loop();
        }
        if self.due {
            self.gather.sent_unanswered();
        }
        Ok(true)
    }

    /// Sleeps until something happens, and takes what disks have done.
    fn wait(&mut self, events: &mut Vec<epoll::Event>) -> io::Result<()> {
        events.clear();
        if self.gather.wakeup() != self.wakeup {
            self.wakeup = self.gather.wakeup();
            if let Err(error) = self.wakeup.apply() {
                tracing::debug!(name = self.shared.name, wakeup = ?self.wakeup, %error, "scheduling stays as it is");
            }
        }
        let timeout = self.queues.is_deferred().then_some(&RETRY);
        match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(events), timeout) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        for event in events.iter() {
            match event.data.u64() {
                CHANNEL => {
                    self.channel.doorbell().answer();
                }
                NEWS => {
                    self.news_bell.answer();
                    if self.channel.subchannel_index() == 0 {
                        self.untold |= self.shared.news.swap(0, Ordering::AcqRel);
                    }
                    self.queues.prune(&self.shared.target, &self.epoll);
                }
                number => {
                    debug_assert!(number >= FIRST_QUEUE);
                    let finished = &mut self.finished;
                    self.queues.complete(number, &mut |token, result| finished.push((token, result)));
                }
            }
        }
        if let Err(error) = self.finish() {
            tracing::error!(name = self.shared.name, %error, "guest breaks the ring of a storage channel");
            self.broken = true;
        }
        if self.queues.is_retiring() {
            self.queues.prune(&self.shared.target, &self.epoll);
        }
        Ok(())
    }

    // Requests.

    /// Takes requests from the ring, as many as there are free slots. Returns how many.
    fn receive(&mut self) -> Result<usize, RingError> {
        let mut batch = self.channel.incoming.batch()?;
        while let Some(&index) = self.free.last() {
            let Some(packet) = batch.next_packet()? else { break };
            self.free.pop();
            self.slots[index].fill(&packet);
            self.arrived.push(index);
        }
        // They are carried out from the end of the list.
        self.arrived.reverse();
        if batch.finish()? {
            self.channel.interrupt();
        }
        let found = self.arrived.len();
        if found > 0 {
            self.gather.found(found + self.queues.in_flight());
        }
        Ok(found)
    }

    fn carry_out(&mut self, index: usize) -> Result<(), RingError> {
        let slot = &mut self.slots[index];
        match slot.packet.operation {
            Operation::EXECUTE_SRB => {
                self.shared.counters.requests.count();
                if self.execute(index) {
                    return self.answer(index);
                }
                // A disk has it.
                return Ok(());
            }
            Operation::RESET_LUN | Operation::RESET_ADAPTER | Operation::RESET_BUS => {
                self.reset(index);
                return self.finish_resets();
            }
            operation => {
                let status = self.negotiate(operation, index);
                if let Err(status) = status {
                    tracing::debug!(?operation, status, phase = ?self.phase, "storage request is refused");
                    self.slots[index].complete(status);
                }
            }
        }
        self.answer(index)
    }

    /// The operations before commands. Completes the packet, or answers the status of a refusal.
    fn negotiate(&mut self, operation: Operation, index: usize) -> Result<(), u32> {
        let subchannel = self.channel.subchannel_index() != 0;
        let slot = &mut self.slots[index];
        match (operation, self.phase) {
            (Operation::BEGIN_INITIALIZATION, _) if !subchannel => {
                self.phase = Phase::Begun;
                self.shared.ready.store(false, Ordering::Relaxed);
                slot.complete(status::SUCCESS);
            }
            (Operation::QUERY_PROTOCOL_VERSION, Phase::Begun | Phase::Agreed(_)) => {
                let version: u16 = slot.payload();
                if !VERSIONS.contains(&version) {
                    return Err(status::REVISION_MISMATCH);
                }
                self.phase = Phase::Agreed(version);
                slot.complete(status::SUCCESS);
            }
            (Operation::QUERY_PROPERTIES, Phase::Agreed(version)) => {
                let max_subchannels = if version >= VERSION_WIN8 { self.shared.subchannels } else { 0 };
                let properties = ChannelProperties {
                    reserved: 0,
                    max_subchannels,
                    reserved2: 0,
                    flags: if max_subchannels > 0 { SUPPORTS_MULTI_CHANNEL } else { 0 },
                    max_transfer: MAX_TRANSFER,
                    reserved3: [0; 2],
                };
                slot.complete_with(properties.as_bytes());
            }
            (Operation::END_INITIALIZATION, Phase::Agreed(version)) => {
                self.phase = Phase::Ready(version);
                // The driver looks at all units now: what came or went before is no news.
                self.shared.news.store(0, Ordering::Release);
                self.untold = 0;
                self.shared.ready.store(true, Ordering::Relaxed);
                tracing::info!(
                    name = self.shared.name,
                    version = format_args!("{}.{}", version >> 8, version & 0xff),
                    "guest driver is bound"
                );
                slot.complete(status::SUCCESS);
            }
            (Operation::CREATE_SUB_CHANNELS, Phase::Ready(_)) if !subchannel => {
                let count: u16 = slot.payload();
                if count > self.shared.subchannels {
                    return Err(status::INVALID_PARAMETER);
                }
                self.channel.offer_subchannels(count).map_err(|error: OfferError| {
                    tracing::error!(name = self.shared.name, %error, "no subchannels");
                    status::INSUFFICIENT_RESOURCES
                })?;
                slot.complete(status::SUCCESS);
            }
            // Not a Fibre Channel adapter.
            (Operation::FCHBA_DATA, _) => return Err(status::INVALID_DEVICE_REQUEST),
            (
                Operation::BEGIN_INITIALIZATION
                | Operation::QUERY_PROTOCOL_VERSION
                | Operation::QUERY_PROPERTIES
                | Operation::END_INITIALIZATION
                | Operation::CREATE_SUB_CHANNELS,
                _,
            ) => return Err(status::INVALID_DEVICE_STATE),
            _ => return Err(status::INVALID_DEVICE_REQUEST),
        }
        Ok(())
    }

    /// Carries out a command. True if the slot has its answer, false if a disk works on it.
    fn execute(&mut self, index: usize) -> bool {
        let slot = &mut self.slots[index];
        if !matches!(self.phase, Phase::Ready(_)) {
            slot.complete(status::INVALID_DEVICE_STATE);
            return true;
        }
        let srb = slot.srb();
        let cdb_length = usize::from(srb.cdb_length);
        let fits = slot.truncate(srb.data_length.into()) || slot.ranges.is_empty();
        if slot.bad_ranges || !fits || cdb_length > scsi::CDB_MAX {
            slot.refuse(srb_status::INVALID_REQUEST);
            return true;
        }
        let cdb = &srb.cdb_or_sense[..cdb_length];
        let wanted = scsi::parameter_bytes(cdb);
        let Some(got) = slot.read_data(self.channel.memory(), &mut self.parameters[..wanted]) else {
            slot.refuse(srb_status::INVALID_REQUEST);
            return true;
        };
        let parameters = &self.parameters[..got];
        let here = self.shared.ide.is_some() || (srb.path, srb.target) == (0, 0);
        let unit = if here { self.shared.target.unit(srb.lun) } else { None };
        let outcome = match &unit {
            _ if here && cdb.first() == Some(&REPORT_LUNS) => {
                self.shared.target.execute(srb.lun, cdb, parameters, &mut self.reply)
            }
            Some(unit) => Some(unit.execute(cdb, parameters, &mut self.reply)),
            None => answer_for_nothing(cdb, &mut self.reply),
        };
        match outcome {
            None => slot.refuse(srb_status::INVALID_LUN),
            Some(Outcome::Check(sense)) => slot.check(sense),
            Some(Outcome::Good) => match slot.write_data(self.channel.memory(), &self.reply) {
                Some(moved) => {
                    self.shared.counters.bytes_in.add(moved as u64);
                    slot.good(moved as u64);
                }
                None => slot.refuse(srb_status::INVALID_REQUEST),
            },
            Some(Outcome::Io(io)) => match unit.as_deref().and_then(LogicalUnit::medium) {
                Some(disk) => return self.start(index, srb.lun, io, &disk, got),
                None => slot.check(Sense::NO_MEDIUM),
            },
        }
        true
    }

    /// Begins what a command wants of a medium. True if the slot has its answer already.
    fn start(&mut self, index: usize, lun: u8, io: Io, disk: &Arc<dyn Disk>, parameters: usize) -> bool {
        let slot = &mut self.slots[index];
        if !slot.truncate(io.transfer()) {
            slot.refuse(srb_status::DATA_OVERRUN);
            return true;
        }
        let block_size = u64::from(disk.info().logical_block.max(1));
        (slot.transfer, slot.block) = match io {
            Io::Read { offset, .. } => (Transfer::In, Some(offset / block_size)),
            Io::Write { offset, .. } => (Transfer::Out, Some(offset / block_size)),
            Io::Discard { offset, .. } | Io::WriteZeroes { offset, .. } | Io::Fill { offset, .. } => {
                (Transfer::Change, Some(offset / block_size))
            }
            Io::Flush => (Transfer::Flush, None),
        };
        let memory = self.channel.memory();
        let queue = match self.queues.find(lun, disk, memory, &self.epoll) {
            Ok(queue) => queue,
            Err(error) => {
                tracing::error!(name = self.shared.name, lun, %error, "no disk queue");
                slot.check(Sense::INTERNAL_FAILURE);
                return true;
            }
        };
        let Some(op) = io.op(&slot.ranges) else {
            // Rare, and no queue knows it: the other requests of this channel wait.
            let Io::Fill { offset, len, fua } = io else {
                slot.check(Sense::INTERNAL_FAILURE);
                return true;
            };
            let result = scsi::fill(&**disk, offset, len, &self.parameters[..parameters], fua);
            slot.finish(result.map(|()| parameters));
            return true;
        };
        match queue.submit(Request { token: index as u64, op }) {
            Ok(()) => return false,
            Err(SubmitError::Full) => slot.refuse(srb_status::BUSY),
            Err(SubmitError::Memory) => slot.refuse(srb_status::INVALID_REQUEST),
            Err(error @ (SubmitError::Range | SubmitError::ReadOnly)) => slot.finish(Err(error.into())),
        }
        true
    }

    fn reset(&mut self, index: usize) {
        let slot = &self.slots[index];
        let srb = slot.srb();
        let one = slot.packet.operation == Operation::RESET_LUN;
        for lun in self.shared.target.luns() {
            if (!one || lun == srb.lun)
                && let Some(unit) = self.shared.target.unit(lun)
            {
                unit.reset();
            }
        }
        self.resets.push(index);
    }

    /// Answers resets when all requests before them are done.
    fn finish_resets(&mut self) -> Result<(), RingError> {
        if self.resets.is_empty() || self.queues.in_flight() > 0 {
            return Ok(());
        }
        while let Some(index) = self.resets.pop() {
            self.slots[index].complete(status::SUCCESS);
            self.answer(index)?;
        }
        Ok(())
    }

    // Answers.

    fn kick(&mut self) -> Result<(), RingError> {
        let finished = &mut self.finished;
        self.queues.kick(&mut |token, result| finished.push((token, result)));
        self.finish()
    }

    /// Answers what disks have completed.
    fn finish(&mut self) -> Result<(), RingError> {
        let mut outcome = Ok(());
        while let Some((token, result)) = self.finished.pop() {
            // Tokens are the slots that we have submitted.
            let index = token as usize;
            let slot = &mut self.slots[index];
            if let Ok(moved) = &result {
                match slot.transfer {
                    Transfer::In => self.shared.counters.bytes_in.add(*moved as u64),
                    Transfer::Out => self.shared.counters.bytes_out.add(*moved as u64),
                    Transfer::Change | Transfer::Flush => {}
                }
            }
            slot.finish(result);
            outcome = outcome.and(self.answer(index));
        }
        outcome.and(self.finish_resets())
    }

    /// Writes the answer of a slot into the ring and frees the slot, or puts it off until there is room.
    fn answer(&mut self, index: usize) -> Result<(), RingError> {
        if self.broken {
            self.free.push(index);
            return Ok(());
        }
        if !self.backlog.is_empty() || !self.write_answer(index)? {
            self.backlog.push_back(index);
        }
        Ok(())
    }

    fn write_answer(&mut self, index: usize) -> Result<bool, RingError> {
        let slot = &self.slots[index];
        if let Some(data) = slot.answer()
            && !self.channel.outgoing.write(&OutgoingPacket::completion(slot.transaction_id, data))?
        {
            return Ok(false);
        }
        self.written += 1;
        self.free.push(index);
        Ok(true)
    }

    /// Writes what found no room before; asks the guest for a signal if there still is none.
    fn write_backlog(&mut self) -> Result<(), RingError> {
        while let Some(&index) = self.backlog.front() {
            if self.write_answer(index)? {
                self.backlog.pop_front();
            } else if !self.channel.outgoing.wait_for_room(PACKET)? {
                return Ok(());
            }
        }
        self.channel.outgoing.stop_waiting();
        Ok(())
    }

    /// Tells the guest that units have come or gone, once it listens.
    fn tell_news(&mut self) -> Result<(), RingError> {
        let Phase::Ready(version) = self.phase else {
            return Ok(());
        };
        let length = if version >= VERSION_WIN8 { PACKET } else { PACKET_WIN7 };
        for (bit, operation) in
            [(news::REMOVED, Operation::REMOVE_DEVICE), (news::ADDED, Operation::ENUMERATE_BUS)]
        {
            if self.untold & bit == 0 {
                continue;
            }
            let packet = Packet { operation, ..Packet::new_zeroed() };
            let packet = OutgoingPacket::in_band(0, &packet.as_bytes()[..length]);
            while !self.channel.outgoing.write(&packet)? {
                if !self.channel.outgoing.wait_for_room(PACKET)? {
                    return Ok(());
                }
            }
            self.untold &= !bit;
        }
        Ok(())
    }

    /// The guest gets no more answers: frees their slots.
    fn discard_answers(&mut self) {
        self.free.extend(self.backlog.drain(..));
        self.free.append(&mut self.arrived);
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // Waits for what is in flight, if the event loop has failed.
        self.queues = Queues::default();
        self.shared.lock_bells().retain(|bell| !Arc::ptr_eq(bell, &self.news_bell));
        if self.channel.subchannel_index() == 0 {
            self.shared.ready.store(false, Ordering::Relaxed);
        }
        if let Some(ownership) = &self.shared.ide {
            ownership.take(Owner::Emulated);
        }
        self.shared.channels.fetch_sub(1, Ordering::Relaxed);
        // The channel goes last, after this: the guest has its memory back then.
    }
}

/// The answers for a unit that is not there: to a standard INQUIRY that there is none, to REPORT LUNS (which comes
/// here for other targets only) that there are none. Linux takes "no such unit" for a reason to forget the unit
/// with the same target and number on the first path, so a scan of the other paths must not meet it.
fn answer_for_nothing(cdb: &[u8], reply: &mut Vec<u8>) -> Option<Outcome> {
    let length = match *cdb {
        [INQUIRY, 0, _, high, low, ..] => {
            reply.clear();
            reply.extend_from_slice(&NO_UNIT);
            reply.resize(INQUIRY_LENGTH, 0);
            u32::from(u16::from_be_bytes([high, low]))
        }
        [REPORT_LUNS, _, _, _, _, _, a, b, c, d, ..] => {
            reply.clear();
            reply.resize(EMPTY_LIST_LENGTH, 0);
            u32::from_be_bytes([a, b, c, d])
        }
        _ => return None,
    };
    reply.truncate(length as usize);
    Some(Outcome::Good)
}
