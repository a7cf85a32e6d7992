//! Requests of the guest, each in a slot from its arrival to its answer.

use std::io;

use ::storage::GuestRange;
use ::storage::scsi::Sense;
use guest_memory::GuestMemory;
use vm_memory::{Bytes, GuestAddress};
use vmbus::ring::{Packet as RingPacket, PacketType, RingMemory};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use super::MAX_TRANSFER;
use super::protocol::*;

/// The most pieces of guest memory that a request's data can be in.
const MAX_PIECES: usize = 1024;

/// What a request does with a medium.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Transfer {
    In,
    Out,
    /// Changes the medium but moves no data.
    Change,
    /// Only brings data to stable storage.
    Flush,
}

/// A request of the guest. Slots are reused, so that a request needs no allocation once the list of pieces
/// has grown.
pub(super) struct Slot {
    pub transaction_id: u64,
    /// The guest waits for an answer.
    wanted: bool,
    /// The request, and then the answer.
    pub packet: Packet,
    /// How long the guest's packet is, which is how long the answer is.
    length: usize,
    /// The request's data in guest memory.
    pub ranges: Vec<GuestRange>,
    /// The ranges made no sense.
    pub bad_ranges: bool,
    /// While a disk has it.
    pub transfer: Transfer,
    /// While a disk has it: the first block.
    pub block: Option<u64>,
}

impl Slot {
    pub fn new() -> Self {
        Self {
            transaction_id: 0,
            wanted: false,
            packet: Packet::new_zeroed(),
            length: PACKET,
            ranges: Vec::with_capacity(32),
            bad_ranges: false,
            transfer: Transfer::Flush,
            block: None,
        }
    }

    /// Takes over a packet from the ring. Everything in it is read once, here.
    pub fn fill<M: RingMemory + ?Sized>(&mut self, from: &RingPacket<'_, M>) {
        self.transaction_id = from.transaction_id;
        self.wanted = from.completion_requested();
        self.packet = Packet::new_zeroed();
        let length = from.data().read(self.packet.as_mut_bytes());
        // A shorter packet, such as those of old versions, has zeroes where it ends.
        self.length = if length <= PACKET_WIN7 { PACKET_WIN7 } else { PACKET };
        self.ranges.clear();
        self.bad_ranges = from.kind == PacketType::GPA_DIRECT && self.take_ranges(from).is_none();
    }

    fn take_ranges<M: RingMemory + ?Sized>(&mut self, from: &RingPacket<'_, M>) -> Option<()> {
        let mut total = 0;
        for range in from.gpa_ranges()? {
            for run in range.ok()?.runs() {
                total += run.len;
                if total > u64::from(MAX_TRANSFER) || self.ranges.len() == MAX_PIECES {
                    return None;
                }
                self.ranges.push(GuestRange { gpa: run.gpa, len: run.len });
            }
        }
        Some(())
    }

    /// The payload as a SCSI request.
    pub fn srb(&self) -> ScsiRequest {
        zerocopy::transmute!(self.packet.payload)
    }

    /// The payload as `T`.
    pub fn payload<T: FromBytes>(&self) -> T {
        // Every payload is shorter than the room for it.
        T::read_from_prefix(&self.packet.payload).map_or_else(|_| T::new_zeroed(), |(value, _)| value)
    }

    /// The answer for the ring, if the guest wants one.
    pub fn answer(&self) -> Option<&[u8]> {
        self.wanted.then(|| &self.packet.as_bytes()[..self.length])
    }

    /// Makes the packet an answer with `status`.
    pub fn complete(&mut self, status: u32) {
        self.packet.operation = Operation::COMPLETE_IO;
        self.packet.flags = 0;
        self.packet.status = status;
    }

    /// Makes the packet an answer with a payload.
    pub fn complete_with(&mut self, payload: &[u8]) {
        self.complete(status::SUCCESS);
        self.packet.payload = [0; PAYLOAD];
        self.packet.payload[..payload.len()].copy_from_slice(payload);
    }

    /// Makes the packet the answer to a SCSI request.
    fn complete_srb(&mut self, srb_status: u8, scsi_status: u8, data_length: u64, sense: &[u8]) {
        let mut srb = self.srb();
        srb.srb_status = srb_status;
        srb.scsi_status = scsi_status;
        // Transfers are at most `MAX_TRANSFER` long.
        srb.data_length = data_length as u32;
        srb.sense_length = sense.len() as u8;
        srb.cdb_or_sense = [0; 20];
        srb.cdb_or_sense[..sense.len()].copy_from_slice(sense);
        self.packet.payload = zerocopy::transmute!(srb);
        self.complete(status::SUCCESS);
    }

    /// The command is done and has moved `data_length` bytes.
    pub fn good(&mut self, data_length: u64) {
        self.complete_srb(srb_status::SUCCESS, SCSI_GOOD, data_length, &[]);
    }

    /// The command ends with CHECK CONDITION.
    pub fn check(&mut self, sense: Sense) {
        let srb = self.srb();
        let data = sense.fixed();
        let data = &data[..data.len().min(srb.sense_length.into())];
        let (mut srb_status, mut shown) = (srb_status::ERROR, &data[..0]);
        if srb.srb_flags & SRB_FLAG_DISABLE_AUTOSENSE == 0 && !data.is_empty() {
            (srb_status, shown) = (srb_status | srb_status::AUTOSENSE_VALID, data);
        }
        self.complete_srb(srb_status, SCSI_CHECK_CONDITION, 0, shown);
    }

    /// The request did not get as far as a unit.
    pub fn refuse(&mut self, srb_status: u8) {
        let scsi_status = if srb_status == srb_status::BUSY { SCSI_BUSY } else { SCSI_GOOD };
        self.complete_srb(srb_status, scsi_status, 0, &[]);
    }

    /// A disk is done with the request.
    pub fn finish(&mut self, result: io::Result<usize>) {
        match result {
            Ok(moved) => self.good(moved as u64),
            Err(error) => {
                let write = self.transfer != Transfer::In;
                self.check(Sense::of_error(&error, write, self.block));
            }
        }
    }

    /// Shortens the data to `len` bytes. False if it has not as many.
    pub fn truncate(&mut self, len: u64) -> bool {
        let mut left = len;
        for range in &mut self.ranges {
            range.len = range.len.min(left);
            left -= range.len;
        }
        self.ranges.retain(|range| range.len != 0);
        left == 0
    }

    /// Copies from the start of the data as much as both have. `None` if it is not in guest memory.
    pub fn read_data(&self, memory: &GuestMemory, buffer: &mut [u8]) -> Option<usize> {
        let mut done = 0;
        for range in &self.ranges {
            let rest = &mut buffer[done..];
            let len = rest.len().min(usize::try_from(range.len).ok()?);
            memory.read_slice(&mut rest[..len], GuestAddress(range.gpa)).ok()?;
            done += len;
        }
        Some(done)
    }

    /// Copies to the start of the data as much as fits. `None` if it is not in guest memory.
    pub fn write_data(&self, memory: &GuestMemory, bytes: &[u8]) -> Option<usize> {
        let mut done = 0;
        for range in &self.ranges {
            let rest = &bytes[done..];
            let len = rest.len().min(usize::try_from(range.len).ok()?);
            memory.write_slice(&rest[..len], GuestAddress(range.gpa)).ok()?;
            done += len;
        }
        Some(done)
    }
}
