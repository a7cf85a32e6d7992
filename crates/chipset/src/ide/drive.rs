//! What disks and optical drives have in common: the task file, the buffer behind the data register, the
//! ends of commands, DMA.

use std::io;
use std::sync::Arc;

use counters::DeviceCounters;
use guest_memory::GuestMemory;
use storage::scsi::Sense;
use storage::{Disk, GuestRange};
use vm_memory::{Bytes, GuestAddress};

use super::Attachment;
use super::registers::*;
use crate::unhandled::Unhandled;

/// Bytes of the buffer behind the data register.
pub(super) const BUFFER: usize = 64 * 1024;
/// Bytes of an ATA sector.
pub(super) const SECTOR: u64 = 512;
/// Most sectors of a block of READ and WRITE MULTIPLE.
pub(super) const MOST_MULTIPLE: u8 = 16;
/// The logical geometry of a disk until INITIALIZE DEVICE PARAMETERS.
pub(super) const HEADS: u8 = 16;
pub(super) const SECTORS_PER_TRACK: u8 = 63;

/// A register that is two deep, for 48-bit commands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct TwoDeep {
    pub(super) current: u8,
    pub(super) previous: u8,
}

impl TwoDeep {
    fn write(&mut self, value: u8) {
        self.previous = std::mem::replace(&mut self.current, value);
    }

    fn read(self, high: bool) -> u8 {
        if high { self.previous } else { self.current }
    }
}

impl From<u8> for TwoDeep {
    fn from(current: u8) -> Self {
        Self { current, previous: 0 }
    }
}

/// The registers of a drive.
#[derive(Debug, Default)]
pub(super) struct TaskFile {
    pub(super) features: TwoDeep,
    pub(super) count: TwoDeep,
    pub(super) lba: [TwoDeep; 3],
    pub(super) device: Device,
    pub(super) error: u8,
    pub(super) status: Status,
}

/// What a drive is in the middle of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Task {
    /// Nothing.
    None,
    /// The host reads the buffer, and that is all.
    Reply,
    /// The host reads sectors; these come after the buffer, at `lba`.
    Read { lba: u64, left: u64, block: u64 },
    /// The host writes the buffer, which goes to `lba`, and `left` sectors after it.
    Write { lba: u64, left: u64, block: u64, fua: bool },
    /// The drive waits for the bus master.
    Dma { data: DmaData, left: u64 },
    /// The host writes a command packet.
    Packet,
    /// The host writes the parameter list of the packet command.
    PacketOut,
    /// The host reads the buffer in portions, and `left` bytes from `offset` of the medium after it.
    PacketIn { offset: u64, left: u64 },
}

/// Where DMA data comes from or goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DmaData {
    /// From the medium.
    Read { offset: u64 },
    /// To the medium.
    Write { offset: u64, fua: bool },
    /// From the buffer.
    FromBuffer,
    /// Ranges to be trimmed, by way of the buffer.
    Trim,
    /// The parameter list of the packet command, by way of the buffer.
    Parameters,
}

/// How a bus master's turn ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DmaEnd {
    /// The command is complete.
    Complete,
    /// Memory ended before the transfer did.
    Short,
    /// The medium failed; the command is complete with an error.
    DriveError,
    /// The memory is not there; the command is aborted.
    NotMemory,
}

/// A drive on a channel.
pub(super) struct Drive {
    /// 0 or 1.
    pub(super) number: usize,
    pub(super) attachment: Attachment,
    pub(super) counters: DeviceCounters,
    pub(super) file: TaskFile,
    pub(super) task: Task,
    interrupt: bool,
    pub(super) buffer: Vec<u8>,
    /// Where the data register is in the buffer, where this portion ends, and where its contents end.
    pub(super) position: usize,
    pub(super) portion_end: usize,
    pub(super) filled: usize,
    /// Settings that commands change.
    pub(super) multiple: u8,
    pub(super) heads: u8,
    pub(super) sectors_per_track: u8,
    pub(super) write_cache: bool,
    pub(super) standby: bool,
    /// The transfer mode by SET FEATURES: its code.
    pub(super) transfer_mode: u8,
    /// Sense of the last packet command, kept for REQUEST SENSE.
    pub(super) sense: Sense,
    /// The packet in work, and whether its data goes by DMA.
    pub(super) packet: [u8; 12],
    pub(super) packet_dma: bool,
    /// Most bytes of a portion of the packet's data, and its reply; kept for its capacity.
    pub(super) portion: usize,
    pub(super) reply: Vec<u8>,
    pub(super) unhandled: Unhandled,
}

impl Drive {
    pub(super) fn new(number: usize, attachment: Attachment, counters: DeviceCounters) -> Self {
        let mut drive = Self {
            number,
            attachment,
            counters,
            file: TaskFile::default(),
            task: Task::None,
            interrupt: false,
            buffer: vec![0; BUFFER],
            position: 0,
            portion_end: 0,
            filled: 0,
            multiple: 0,
            heads: HEADS,
            sectors_per_track: SECTORS_PER_TRACK,
            write_cache: true,
            standby: false,
            transfer_mode: 0x08,
            sense: Sense::NO_SENSE,
            packet: [0; 12],
            packet_dma: false,
            portion: 0,
            reply: Vec::new(),
            unhandled: Unhandled::default(),
        };
        drive.power_on();
        drive
    }

    pub(super) fn is_optical(&self) -> bool {
        matches!(self.attachment, Attachment::Optical(_))
    }

    /// The disk, or the medium in the drive.
    pub(super) fn medium(&self) -> Option<Arc<dyn Disk>> {
        match &self.attachment {
            Attachment::Disk(shared) => Some(Arc::clone(&shared.disk)),
            Attachment::Optical(unit) => storage::scsi::LogicalUnit::medium(&**unit),
        }
    }

    /// Whether INTRQ is asserted.
    pub(super) fn interrupt(&self) -> bool {
        self.interrupt
    }

    /// The host has read the status register.
    pub(super) fn acknowledge(&mut self) {
        self.interrupt = false;
    }

    pub(super) fn raise(&mut self) {
        self.interrupt = true;
    }

    /// Power-on and hardware reset.
    pub(super) fn power_on(&mut self) {
        self.multiple = 0;
        (self.heads, self.sectors_per_track) = (HEADS, SECTORS_PER_TRACK);
        self.write_cache = true;
        self.standby = false;
        self.transfer_mode = 0x08;
        self.begin_reset();
        self.end_reset();
    }

    /// SRST is set: whatever was going on ends, and the drive is busy.
    pub(super) fn begin_reset(&mut self) {
        self.task = Task::None;
        self.interrupt = false;
        self.sense = Sense::NO_SENSE;
        self.file.status = Status::new().with_busy(true);
    }

    /// SRST is clear again: signature and result of the diagnostic.
    pub(super) fn end_reset(&mut self) {
        self.sign();
        self.file.error = DIAGNOSTIC_PASSED;
        self.file.status = if self.is_optical() { Status::new() } else { Status::idle() };
    }

    /// EXECUTE DEVICE DIAGNOSTIC. The first drive interrupts.
    pub(super) fn diagnose(&mut self) {
        self.begin_reset();
        self.end_reset();
        self.interrupt = self.number == 0;
    }

    /// The registers tell what kind of drive this is (ATA/ATAPI-7, section 9.12).
    pub(super) fn sign(&mut self) {
        let (mid, high) = if self.is_optical() { (0x14, 0xeb) } else { (0, 0) };
        self.file.count = 1.into();
        self.file.lba = [1.into(), mid.into(), high.into()];
        self.file.device = Device::new();
    }

    pub(super) fn read(&self, register: u8, high: bool) -> u8 {
        let file = &self.file;
        // A busy drive has all registers read as its status.
        if file.status.busy() {
            return file.status.into_bits();
        }
        match register {
            ERROR_FEATURES => file.error,
            SECTOR_COUNT => file.count.read(high),
            LBA_LOW => file.lba[0].read(high),
            LBA_MID => file.lba[1].read(high),
            LBA_HIGH => file.lba[2].read(high),
            DEVICE => file.device.into_bits() | 0xa0,
            _ => file.status.into_bits(),
        }
    }

    /// Writes a parameter register. A drive in the middle of a command does not take it.
    pub(super) fn write(&mut self, register: u8, value: u8) {
        let file = &mut self.file;
        if file.status.busy() || file.status.data_request() {
            return;
        }
        match register {
            ERROR_FEATURES => file.features.write(value),
            SECTOR_COUNT => file.count.write(value),
            LBA_LOW => file.lba[0].write(value),
            LBA_MID => file.lba[1].write(value),
            LBA_HIGH => file.lba[2].write(value),
            _ => file.device = Device::from_bits(value),
        }
    }

    /// The command register has been written.
    pub(super) fn command(&mut self, command: u8) {
        const DEVICE_RESET: u8 = 0x08;
        let status = self.file.status;
        if command == DEVICE_RESET && self.is_optical() {
            self.begin_reset();
            self.end_reset();
            return;
        }
        if status.busy() || status.data_request() {
            return;
        }
        self.interrupt = false;
        self.file.error = 0;
        self.file.status = Status::idle();
        match self.attachment {
            Attachment::Disk(_) => self.disk_command(command),
            Attachment::Optical(_) => self.optical_command(command),
        }
    }

    /// The command ends well.
    pub(super) fn finish(&mut self) {
        self.task = Task::None;
        self.file.status = Status::idle();
        self.raise();
    }

    /// The command ends with `error` in the error register.
    pub(super) fn fail(&mut self, error: u8) {
        self.task = Task::None;
        self.file.error = error;
        self.file.status = Status::idle().with_error(true);
        self.raise();
    }

    /// Hands the first `filled` bytes of the buffer to the data register, in portions of at most `portion`.
    pub(super) fn offer(&mut self, task: Task, filled: usize, portion: usize) {
        self.task = task;
        self.position = 0;
        self.filled = filled;
        self.portion_end = filled.min(portion);
        self.file.status = Status::idle().with_data_request(true);
    }

    /// Waits for the bus master.
    pub(super) fn await_dma(&mut self, data: DmaData, left: u64) {
        self.task = Task::Dma { data, left };
        self.file.status = Status::new().with_busy(true).with_data_request(true);
    }

    fn reads_data(&self) -> bool {
        matches!(self.task, Task::Reply | Task::Read { .. } | Task::PacketIn { .. })
    }

    fn writes_data(&self) -> bool {
        matches!(self.task, Task::Write { .. } | Task::Packet | Task::PacketOut)
    }

    /// A read of the data register. Without a request for data nothing drives the bus.
    pub(super) fn read_data(&mut self, data: &mut [u8]) {
        if !self.file.status.data_request() || !self.reads_data() {
            return;
        }
        let end = self.portion_end.min(self.position + data.len());
        let bytes = self.buffer.get(self.position..end).unwrap_or_default();
        data[..bytes.len()].copy_from_slice(bytes);
        // The second byte of the last word of an odd portion.
        data[bytes.len()..].fill(0);
        self.counters.bytes_in.add(bytes.len() as u64);
        self.position = end;
        if self.position == self.portion_end {
            self.portion_read();
        }
    }

    /// How many bytes may go through the data register by accesses of `size` bytes as if they were one: those up to the
    /// end of the block, or a single access across it.
    pub(super) fn whole_accesses(&self, size: usize) -> usize {
        let left = self.portion_end.saturating_sub(self.position);
        (left - left % size).max(size)
    }

    fn portion_read(&mut self) {
        match self.task {
            Task::Read { left: 1.., .. } => self.read_block(),
            Task::PacketIn { .. } => self.packet_portion_read(),
            _ => {
                self.task = Task::None;
                self.file.status = Status::idle();
            }
        }
    }

    /// A write of the data register.
    pub(super) fn write_data(&mut self, data: &[u8]) {
        if !self.file.status.data_request() || !self.writes_data() {
            return;
        }
        let end = self.portion_end.min(self.position + data.len());
        let Some(bytes) = self.buffer.get_mut(self.position..end) else { return };
        let len = bytes.len();
        bytes.copy_from_slice(&data[..len]);
        self.counters.bytes_out.add(len as u64);
        self.position = end;
        if self.position == self.portion_end {
            match self.task {
                Task::Packet => self.packet_received(),
                Task::PacketOut => self.parameters_received(),
                _ => self.block_written(),
            }
        }
    }

    /// Bytes that the drive waits to move by DMA, and whether they go to memory.
    pub(super) fn wanted_dma(&self) -> Option<(u64, bool)> {
        match self.task {
            Task::Dma { data, left } => {
                Some((left, matches!(data, DmaData::Read { .. } | DmaData::FromBuffer)))
            }
            _ => None,
        }
    }

    /// Moves what fits into the first `bytes` bytes of `ranges`.
    pub(super) fn dma(&mut self, memory: &GuestMemory, ranges: &mut Vec<GuestRange>, bytes: u64) -> DmaEnd {
        let Task::Dma { data, left } = self.task else { return DmaEnd::Short };
        // A table that ends within a block has that lost.
        let block = if self.is_optical() { 4 * SECTOR } else { SECTOR };
        let whole = if bytes == left { bytes } else { bytes - bytes % block };
        shorten(ranges, whole);
        let result = self.move_data(data, memory, ranges, whole);
        match result {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                self.master_aborted();
                return DmaEnd::NotMemory;
            }
            Err(error) => {
                self.medium_failed(&error, data);
                return DmaEnd::DriveError;
            }
        }
        let moved = match data {
            DmaData::Read { .. } | DmaData::FromBuffer => &self.counters.bytes_in,
            _ => &self.counters.bytes_out,
        };
        moved.add(whole);
        if whole < left {
            self.task = Task::Dma { data: data.after(whole), left: left - whole };
            self.position += whole as usize;
            return DmaEnd::Short;
        }
        match data {
            DmaData::Trim => self.trim(),
            DmaData::Parameters => self.parameters_received(),
            _ if self.is_optical() => self.packet_complete(),
            _ => self.finish(),
        }
        DmaEnd::Complete
    }

    fn move_data(
        &mut self,
        data: DmaData,
        memory: &GuestMemory,
        ranges: &[GuestRange],
        bytes: u64,
    ) -> io::Result<()> {
        let not_memory = |_| io::Error::from(io::ErrorKind::InvalidInput);
        match data {
            DmaData::Read { offset } => {
                let medium = self.owned_medium()?;
                let _permission = self.permission()?;
                medium.read_guest(offset, memory, ranges)
            }
            DmaData::Write { offset, fua } => {
                let medium = self.owned_medium()?;
                let _permission = self.permission()?;
                medium.write_guest(offset, memory, ranges, fua)
            }
            DmaData::FromBuffer | DmaData::Trim | DmaData::Parameters => {
                let end = self.position.saturating_add(bytes as usize);
                let lost = || io::Error::from(io::ErrorKind::InvalidData);
                let mut rest = self.buffer.get_mut(self.position..end).ok_or_else(lost)?;
                for range in ranges {
                    let (piece, later) = rest.split_at_mut((range.len as usize).min(rest.len()));
                    let at = GuestAddress(range.gpa);
                    if data == DmaData::FromBuffer {
                        memory.write_slice(piece, at).map_err(not_memory)?;
                    } else {
                        memory.read_slice(piece, at).map_err(not_memory)?;
                    }
                    rest = later;
                }
                Ok(())
            }
        }
    }

    fn owned_medium(&self) -> io::Result<Arc<dyn Disk>> {
        self.medium().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Permission to use the disk, while the synthetic side does not own it. An optical drive has one owner.
    pub(super) fn permission(&self) -> io::Result<Option<storage::EmulatedUse<'_>>> {
        match &self.attachment {
            Attachment::Disk(shared) => match shared.ownership.emulated() {
                Some(permission) => Ok(Some(permission)),
                None => Err(io::ErrorKind::ResourceBusy.into()),
            },
            Attachment::Optical(_) => Ok(None),
        }
    }

    fn medium_failed(&mut self, error: &io::Error, data: DmaData) {
        let write = matches!(data, DmaData::Write { .. });
        if self.is_optical() {
            self.packet_failed(Sense::of_error(error, write, None));
        } else {
            self.disk_failed(error, write);
        }
    }

    /// The bus master could not reach the memory, or was set the other way.
    pub(super) fn master_aborted(&mut self) {
        if self.is_optical() {
            self.packet_failed(Sense::INTERNAL_FAILURE);
        } else {
            self.fail(ABORTED);
        }
    }
}

impl DmaData {
    /// The same after `bytes` bytes.
    fn after(self, bytes: u64) -> Self {
        match self {
            Self::Read { offset } => Self::Read { offset: offset + bytes },
            Self::Write { offset, fua } => Self::Write { offset: offset + bytes, fua },
            other => other,
        }
    }
}

/// Cuts `ranges` to `bytes` bytes.
fn shorten(ranges: &mut Vec<GuestRange>, bytes: u64) {
    let mut left = bytes;
    ranges.retain_mut(|range| {
        range.len = range.len.min(left);
        left -= range.len;
        range.len > 0
    });
}
