//! The commands of an optical drive: the PACKET feature set (ATA/ATAPI-7, volume 2, chapter 11) around the
//! SCSI command set of [`storage::scsi::DvdUnit`].
//!
//! ```text
//! PACKET ─▶ 12 bytes ─▶ (parameters in) ─▶ execute ─┬─▶ data in portions of the byte count ─▶ complete
//!                                                   ├─▶ bus master ─▶ complete
//!                                                   └─▶ CHECK: sense key in the error register
//! ```

use std::io;
use std::sync::Arc;

use storage::scsi::{self, DvdUnit, Io, LogicalUnit, Outcome, Sense, SenseKey};

use super::Attachment;
use super::drive::{BUFFER, DmaData, Drive, Task};
use super::identify;
use super::registers::*;

/// Bytes of a command packet.
const PACKET: usize = 12;
const OPERATION_MODE_SELECT_6: u8 = 0x15;
const OPERATION_MODE_SELECT_10: u8 = 0x55;
const OPERATION_REQUEST_SENSE: u8 = 0x03;

impl Drive {
    fn unit(&self) -> Option<Arc<DvdUnit>> {
        match &self.attachment {
            Attachment::Optical(unit) => Some(Arc::clone(unit)),
            Attachment::Disk(_) => None,
        }
    }

    /// Carries out or begins a command of an optical drive.
    pub(super) fn optical_command(&mut self, code: u8) {
        const NOP: u8 = 0x00;
        const READ_SECTORS: u8 = 0x20;
        const PACKET: u8 = 0xa0;
        const IDENTIFY_PACKET_DEVICE: u8 = 0xa1;
        const STANDBY_IMMEDIATE: u8 = 0xe0;
        const IDLE_IMMEDIATE: u8 = 0xe1;
        const CHECK_POWER_MODE: u8 = 0xe5;
        const SLEEP: u8 = 0xe6;
        const IDENTIFY_DEVICE: u8 = 0xec;
        const SET_FEATURES: u8 = 0xef;
        match code {
            PACKET => self.packet_command(),
            IDENTIFY_PACKET_DEVICE => {
                let words = identify::optical(self, &format!("{:020}", self.number + 1));
                self.offer_words(&words);
            }
            // These tell software what kind of drive this is.
            IDENTIFY_DEVICE | READ_SECTORS => {
                self.sign();
                self.fail(ABORTED);
            }
            SET_FEATURES => self.set_features(),
            CHECK_POWER_MODE => {
                self.file.count.current = 0xff;
                self.finish();
            }
            STANDBY_IMMEDIATE | IDLE_IMMEDIATE | SLEEP => self.finish(),
            NOP => self.fail(ABORTED),
            _ => {
                self.unhandled.tell("ide", "optical drive command", code.into());
                self.fail(ABORTED);
            }
        }
    }

    fn packet_command(&mut self) {
        const DMA: u8 = 0x01;
        const OVERLAP: u8 = 0x02;
        let features = self.file.features.current;
        if features & OVERLAP != 0 {
            return self.fail(ABORTED);
        }
        self.packet_dma = features & DMA != 0;
        self.file.count.current = reason::COMMAND;
        self.offer(Task::Packet, PACKET, PACKET);
    }

    /// Most bytes of a portion, by the byte count registers; even, so that only the last one can be odd.
    fn byte_count_limit(&self) -> usize {
        let limit = u16::from_le_bytes([self.file.lba[1].current, self.file.lba[2].current]);
        match limit {
            0 | 0xffff => 0xfffe,
            1 => 2,
            limit => usize::from(limit & !1),
        }
    }

    /// The packet is in the buffer.
    pub(super) fn packet_received(&mut self) {
        self.packet.copy_from_slice(&self.buffer[..PACKET]);
        self.counters.requests.count();
        let parameters = match self.packet[0] {
            OPERATION_MODE_SELECT_6 | OPERATION_MODE_SELECT_10 => scsi::parameter_bytes(&self.packet),
            _ => 0,
        };
        if parameters == 0 {
            return self.execute(0);
        }
        if self.packet_dma {
            self.position = 0;
            self.filled = parameters;
            return self.await_dma(DmaData::Parameters, parameters as u64);
        }
        self.portion = self.byte_count_limit();
        self.offer(Task::PacketOut, parameters, self.portion);
        self.announce_portion(0);
    }

    /// A portion of the parameter list is in the buffer.
    pub(super) fn parameters_received(&mut self) {
        if self.task == Task::PacketOut && self.portion_end < self.filled {
            self.portion_end = self.filled.min(self.position + self.portion);
            return self.announce_portion(0);
        }
        self.execute(self.filled);
    }

    /// Tells the host of the portion from `position` to `portion_end`.
    fn announce_portion(&mut self, direction: u8) {
        let [low, high] = ((self.portion_end - self.position) as u16).to_le_bytes();
        self.file.count.current = direction;
        self.file.lba[1].current = low;
        self.file.lba[2].current = high;
        self.raise();
    }

    /// Carries out the packet; the first `parameters` bytes of the buffer are its parameter list.
    fn execute(&mut self, parameters: usize) {
        let Some(unit) = self.unit() else { return self.fail(ABORTED) };
        let mut reply = std::mem::take(&mut self.reply);
        let list = self.buffer.get(..parameters).unwrap_or_default();
        let outcome = if self.packet[0] == OPERATION_REQUEST_SENSE && self.sense != Sense::NO_SENSE {
            scsi::request_sense(&self.packet, self.sense, &mut reply);
            Outcome::Good
        } else {
            unit.execute(&self.packet, list, &mut reply)
        };
        match outcome {
            Outcome::Good if reply.is_empty() => self.packet_complete(),
            Outcome::Good => self.send_reply(&reply),
            Outcome::Check(sense) => self.packet_failed(sense),
            Outcome::Io(Io::Read { offset, len }) if self.packet_dma => {
                self.await_dma(DmaData::Read { offset }, len);
            }
            Outcome::Io(Io::Read { offset, len }) => {
                self.portion = self.byte_count_limit();
                self.task = Task::PacketIn { offset, left: len };
                self.fetch();
            }
            // An optical drive reads and nothing else.
            Outcome::Io(_) => self.packet_failed(Sense::INTERNAL_FAILURE),
        }
        self.reply = reply;
    }

    fn send_reply(&mut self, reply: &[u8]) {
        let len = reply.len().min(BUFFER);
        self.buffer[..len].copy_from_slice(&reply[..len]);
        if self.packet_dma {
            self.position = 0;
            self.filled = len;
            return self.await_dma(DmaData::FromBuffer, len as u64);
        }
        self.portion = self.byte_count_limit();
        self.offer(Task::PacketIn { offset: 0, left: 0 }, len, self.portion);
        self.announce_portion(reason::TO_HOST);
    }

    /// Fetches what comes next from the medium.
    fn fetch(&mut self) {
        let Task::PacketIn { offset, left } = self.task else { return };
        let len = left.min(BUFFER as u64);
        let result = match self.medium() {
            Some(medium) => medium.read_at(offset, &mut self.buffer[..len as usize]),
            None => Err(io::ErrorKind::NotFound.into()),
        };
        match result {
            Ok(()) => {
                let next = Task::PacketIn { offset: offset + len, left: left - len };
                self.offer(next, len as usize, self.portion);
                self.announce_portion(reason::TO_HOST);
            }
            Err(error) => self.packet_failed(Sense::of_error(&error, false, None)),
        }
    }

    /// The host has read a portion.
    pub(super) fn packet_portion_read(&mut self) {
        match self.task {
            _ if self.portion_end < self.filled => {
                self.portion_end = self.filled.min(self.position + self.portion);
                self.announce_portion(reason::TO_HOST);
            }
            Task::PacketIn { left: 1.., .. } => self.fetch(),
            _ => self.packet_complete(),
        }
    }

    /// GOOD.
    pub(super) fn packet_complete(&mut self) {
        self.sense = Sense::NO_SENSE;
        self.file.count.current = reason::COMPLETE;
        self.finish();
    }

    /// CHECK CONDITION.
    pub(super) fn packet_failed(&mut self, sense: Sense) {
        self.sense = sense;
        self.file.count.current = reason::COMPLETE;
        let aborted = match sense.key {
            SenseKey::IllegalRequest | SenseKey::AbortedCommand => ABORTED,
            _ => 0,
        };
        self.fail((sense.key as u8) << 4 | aborted);
    }
}
