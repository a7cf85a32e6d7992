//! The commands of a disk (ATA/ATAPI-7, volume 1, chapter 6; DATA SET MANAGEMENT by ACS-2).

use std::io;

use super::Attachment;
use super::drive::{BUFFER, DmaData, Drive, HEADS, MOST_MULTIPLE, SECTOR, SECTORS_PER_TRACK, Task};
use super::identify;
use super::registers::*;

/// Blocks of 512 bytes with ranges that one DATA SET MANAGEMENT may bring.
pub(super) const MOST_TRIM_BLOCKS: u16 = 8;
/// Sectors that 28 bits can address.
pub(super) const LBA28_SECTORS: u64 = 0x0fff_ffff;

/// How a command addresses sectors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Width {
    /// 28 bits, or cylinder, head and sector.
    Short,
    /// 48 bits.
    Long,
}

/// How the data of a command moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    /// One sector per interrupt.
    Sectors,
    /// As many sectors per interrupt as SET MULTIPLE MODE said.
    Multiple,
    /// Bus master.
    Dma,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Command {
    Nop,
    DataSetManagement,
    Recalibrate,
    Read(Width, By),
    Write(Width, By, bool),
    Verify(Width),
    ReadNativeMax(Width),
    Seek,
    InitializeDeviceParameters,
    SetMultipleMode,
    /// IDLE, IDLE IMMEDIATE.
    Idle,
    /// STANDBY, STANDBY IMMEDIATE, SLEEP.
    Standby,
    CheckPowerMode,
    Flush,
    Identify,
    SetFeatures,
}

/// Decodes the command register. `None` for what a disk without optional features aborts.
fn decode(code: u8) -> Option<Command> {
    use By::{Dma, Multiple, Sectors};
    use Width::{Long, Short};
    Some(match code {
        0x00 => Command::Nop,
        0x06 => Command::DataSetManagement,
        0x10..=0x1f => Command::Recalibrate,
        0x20 | 0x21 => Command::Read(Short, Sectors),
        0x24 => Command::Read(Long, Sectors),
        0x25 => Command::Read(Long, Dma),
        0x27 => Command::ReadNativeMax(Long),
        0x29 => Command::Read(Long, Multiple),
        0x30 | 0x31 => Command::Write(Short, Sectors, false),
        0x34 => Command::Write(Long, Sectors, false),
        0x35 => Command::Write(Long, Dma, false),
        0x39 => Command::Write(Long, Multiple, false),
        0x3d => Command::Write(Long, Dma, true),
        0x40 | 0x41 => Command::Verify(Short),
        0x42 => Command::Verify(Long),
        0x70..=0x7f => Command::Seek,
        0x91 => Command::InitializeDeviceParameters,
        0x94 | 0x96 | 0x99 | 0xe0 | 0xe2 | 0xe6 => Command::Standby,
        0x95 | 0x97 | 0xe1 | 0xe3 => Command::Idle,
        0x98 | 0xe5 => Command::CheckPowerMode,
        0xc4 => Command::Read(Short, Multiple),
        0xc5 => Command::Write(Short, Multiple, false),
        0xc6 => Command::SetMultipleMode,
        0xc8 | 0xc9 => Command::Read(Short, Dma),
        0xca | 0xcb => Command::Write(Short, Dma, false),
        0xce => Command::Write(Long, Multiple, true),
        0xe7 | 0xea => Command::Flush,
        0xec => Command::Identify,
        0xef => Command::SetFeatures,
        0xf8 => Command::ReadNativeMax(Short),
        _ => return None,
    })
}

impl Drive {
    /// Carries out or begins a command of a disk.
    pub(super) fn disk_command(&mut self, code: u8) {
        let Some(command) = decode(code) else {
            // Drivers probe for these; every disk without the features aborts them.
            let probed = matches!(code, 0xa0 | 0xa1 | 0xb0 | 0xb1 | 0xf5 | 0xf9 | 0x2f | 0x37);
            if !probed {
                self.unhandled.tell("ide", "disk command", code.into());
            }
            return self.fail(ABORTED);
        };
        match command {
            Command::Read(width, by) => self.read_command(width, by),
            Command::Write(width, by, fua) => self.write_command(width, by, fua),
            Command::Verify(_) if self.is_owned_elsewhere() => self.fail(ABORTED),
            Command::Verify(width) => match self.range(width) {
                Some(_) => self.finish(),
                None => self.fail(ID_NOT_FOUND),
            },
            Command::ReadNativeMax(width) => self.read_native_max(width),
            Command::Seek => match self.first_sector(Width::Short).filter(|lba| *lba < self.sectors()) {
                Some(_) => self.finish(),
                None => self.fail(ID_NOT_FOUND),
            },
            Command::DataSetManagement => self.data_set_management(),
            Command::Recalibrate => self.finish(),
            Command::InitializeDeviceParameters => self.initialize_device_parameters(),
            Command::SetMultipleMode => self.set_multiple_mode(),
            Command::Idle => {
                self.standby = false;
                self.finish();
            }
            Command::Standby => {
                self.standby = true;
                self.flush();
            }
            Command::CheckPowerMode => {
                self.file.count.current = if self.standby { 0x00 } else { 0xff };
                self.finish();
            }
            Command::Flush => self.flush(),
            Command::Identify => {
                let words = identify::disk(self);
                self.offer_words(&words);
            }
            Command::SetFeatures => self.set_features(),
            Command::Nop => self.fail(ABORTED),
        }
    }

    /// Hands out 256 words, with an interrupt.
    pub(super) fn offer_words(&mut self, words: &[u16; 256]) {
        for (bytes, word) in self.buffer.chunks_exact_mut(2).zip(words) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        self.offer(Task::Reply, 512, 512);
        self.raise();
    }

    /// Sectors of the disk.
    pub(super) fn sectors(&self) -> u64 {
        match &self.attachment {
            Attachment::Disk(shared) => shared.disk.info().size / SECTOR,
            Attachment::Optical(_) => 0,
        }
    }

    fn is_owned_elsewhere(&self) -> bool {
        self.permission().is_err()
    }

    /// The sector that the registers address; `None` for a cylinder, head and sector that cannot be.
    fn first_sector(&self, width: Width) -> Option<u64> {
        let file = &self.file;
        let [low, mid, high] = file.lba.map(|register| u64::from(register.current));
        let head = u64::from(file.device.head());
        match width {
            Width::Long => {
                let [low_3, mid_4, high_5] = file.lba.map(|register| u64::from(register.previous));
                Some(high_5 << 40 | mid_4 << 32 | low_3 << 24 | high << 16 | mid << 8 | low)
            }
            Width::Short if file.device.lba() => Some(head << 24 | high << 16 | mid << 8 | low),
            Width::Short => {
                let (heads, sectors) = (u64::from(self.heads), u64::from(self.sectors_per_track));
                let valid = head < heads && (1..=sectors).contains(&low);
                valid.then(|| ((high << 8 | mid) * heads + head) * sectors + low - 1)
            }
        }
    }

    /// First sector and number of sectors, if all of them exist.
    fn range(&self, width: Width) -> Option<(u64, u64)> {
        let count = self.file.count;
        let sectors = match (width, u64::from(count.previous) << 8 | u64::from(count.current)) {
            (Width::Short, _) if count.current == 0 => 256,
            (Width::Short, _) => count.current.into(),
            (Width::Long, 0) => 65536,
            (Width::Long, sectors) => sectors,
        };
        let lba = self.first_sector(width)?;
        (lba.checked_add(sectors)? <= self.sectors()).then_some((lba, sectors))
    }

    /// Puts a sector's address into the registers, in the form that the command was given in.
    fn tell_sector(&mut self, lba: u64) {
        let file = &mut self.file;
        let bytes = lba.to_le_bytes();
        for (index, register) in file.lba.iter_mut().enumerate() {
            register.current = bytes[index];
            register.previous = bytes[index + 3];
        }
    }

    fn block_of(&self, by: By) -> Option<u64> {
        match by {
            By::Sectors => Some(1),
            By::Multiple => (self.multiple > 0).then_some(self.multiple.into()),
            By::Dma => Some(0),
        }
    }

    fn read_command(&mut self, width: Width, by: By) {
        let Some(block) = self.block_of(by) else { return self.fail(ABORTED) };
        if self.is_owned_elsewhere() {
            return self.fail(ABORTED);
        }
        let Some((lba, sectors)) = self.range(width) else { return self.fail(ID_NOT_FOUND) };
        self.counters.requests.count();
        self.standby = false;
        if by == By::Dma {
            self.await_dma(DmaData::Read { offset: lba * SECTOR }, sectors * SECTOR);
        } else {
            self.task = Task::Read { lba, left: sectors, block };
            self.read_block();
        }
    }

    /// Fetches the next block for the data register.
    pub(super) fn read_block(&mut self) {
        let Task::Read { lba, left, block } = self.task else { return };
        let sectors = left.min(block);
        let bytes = (sectors * SECTOR) as usize;
        let result = match (self.medium(), self.buffer.split_at_mut_checked(bytes)) {
            (Some(disk), Some((buffer, _))) => match &self.attachment {
                Attachment::Disk(shared) => match shared.ownership.emulated() {
                    Some(_permission) => disk.read_at(lba * SECTOR, buffer),
                    None => Err(io::ErrorKind::ResourceBusy.into()),
                },
                Attachment::Optical(_) => Err(io::ErrorKind::Unsupported.into()),
            },
            _ => Err(io::ErrorKind::Unsupported.into()),
        };
        match result {
            Ok(()) => {
                let next = Task::Read { lba: lba + sectors, left: left - sectors, block };
                self.offer(next, bytes, BUFFER);
                self.raise();
            }
            Err(error) => {
                self.tell_sector(lba);
                self.disk_failed(&error, false);
            }
        }
    }

    fn write_command(&mut self, width: Width, by: By, fua: bool) {
        let Some(block) = self.block_of(by) else { return self.fail(ABORTED) };
        let Attachment::Disk(shared) = &self.attachment else { return self.fail(ABORTED) };
        if shared.disk.info().read_only || self.is_owned_elsewhere() {
            return self.fail(ABORTED);
        }
        let Some((lba, sectors)) = self.range(width) else { return self.fail(ID_NOT_FOUND) };
        let fua = fua || !self.write_cache;
        self.counters.requests.count();
        self.standby = false;
        if by == By::Dma {
            self.await_dma(DmaData::Write { offset: lba * SECTOR, fua }, sectors * SECTOR);
        } else {
            // The first block is taken without an interrupt.
            self.await_block(lba, sectors, block, fua);
        }
    }

    /// Asks for the next block of sectors.
    fn await_block(&mut self, lba: u64, left: u64, block: u64, fua: bool) {
        let bytes = (left.min(block) * SECTOR) as usize;
        self.offer(Task::Write { lba, left, block, fua }, bytes, BUFFER);
    }

    /// A block is in the buffer.
    pub(super) fn block_written(&mut self) {
        let Task::Write { lba, left, block, fua } = self.task else { return };
        let data = self.buffer.get(..self.filled).unwrap_or_default();
        let result = match (&self.attachment, self.permission()) {
            (Attachment::Disk(shared), Ok(_permission)) => shared.disk.write_at(lba * SECTOR, data, fua),
            (_, Err(error)) => Err(error),
            (Attachment::Optical(_), Ok(_)) => Err(io::ErrorKind::Unsupported.into()),
        };
        let sectors = left.min(block);
        match result {
            Ok(()) if left > sectors => {
                self.await_block(lba + sectors, left - sectors, block, fua);
                self.raise();
            }
            Ok(()) => self.finish(),
            Err(error) => {
                self.tell_sector(lba);
                self.disk_failed(&error, true);
            }
        }
    }

    /// The host refused to read or write: the guest sees a bad sector, or an aborted command where the disk
    /// is not to be had at all.
    pub(super) fn disk_failed(&mut self, error: &io::Error, write: bool) {
        match error.kind() {
            io::ErrorKind::ResourceBusy | io::ErrorKind::ReadOnlyFilesystem => self.fail(ABORTED),
            _ => {
                tracing::warn!(%error, write, "ide: disk error told to the guest");
                self.fail(if write { ABORTED } else { UNCORRECTABLE });
                let status = self.file.status;
                self.file.status = status.with_device_fault(write);
            }
        }
    }

    fn flush(&mut self) {
        let result = match (&self.attachment, self.permission()) {
            // What the synthetic side has written is flushed by its own commands.
            (_, Err(error)) => Err(error),
            (Attachment::Disk(shared), Ok(_permission)) => shared.disk.flush(),
            (Attachment::Optical(_), Ok(_)) => Ok(()),
        };
        match result {
            Ok(()) => {
                self.counters.requests.count();
                self.finish();
            }
            Err(error) => self.disk_failed(&error, true),
        }
    }

    fn read_native_max(&mut self, width: Width) {
        let last = self.sectors() - 1;
        match width {
            Width::Long => self.tell_sector(last),
            Width::Short => {
                let last = last.min(LBA28_SECTORS - 1);
                self.tell_sector(last & 0xff_ffff);
                self.file.device.set_head((last >> 24) as u8 & 0x0f);
            }
        }
        self.finish();
    }

    fn initialize_device_parameters(&mut self) {
        let (sectors, heads) = (self.file.count.current, self.file.device.head() + 1);
        if sectors == 0 || sectors > SECTORS_PER_TRACK || heads > HEADS {
            return self.fail(ABORTED);
        }
        (self.heads, self.sectors_per_track) = (heads, sectors);
        self.finish();
    }

    fn set_multiple_mode(&mut self) {
        let sectors = self.file.count.current;
        if sectors > MOST_MULTIPLE || (sectors != 0 && !sectors.is_power_of_two()) {
            return self.fail(ABORTED);
        }
        self.multiple = sectors;
        self.finish();
    }

    fn data_set_management(&mut self) {
        const TRIM: u8 = 0x01;
        let Attachment::Disk(shared) = &self.attachment else { return self.fail(ABORTED) };
        let info = shared.disk.info();
        let count = self.file.count;
        let blocks = u16::from(count.previous) << 8 | u16::from(count.current);
        if self.file.features.current != TRIM
            || info.discard_granularity == 0
            || info.read_only
            || self.is_owned_elsewhere()
            || !(1..=MOST_TRIM_BLOCKS).contains(&blocks)
        {
            return self.fail(ABORTED);
        }
        self.counters.requests.count();
        self.position = 0;
        self.filled = usize::from(blocks) * SECTOR as usize;
        self.await_dma(DmaData::Trim, self.filled as u64);
    }

    /// The ranges to be trimmed are in the buffer: 48 bits of address and 16 bits of length each.
    pub(super) fn trim(&mut self) {
        let list = self.buffer.get(..self.filled).unwrap_or_default();
        let result = match (&self.attachment, self.permission()) {
            (Attachment::Disk(shared), Ok(_permission)) => {
                let entries = list.chunks_exact(8).map(|entry| {
                    let entry = entry.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte));
                    (entry & 0xffff_ffff_ffff, entry >> 48)
                });
                let mut ranges = entries.filter(|(_, sectors)| *sectors > 0);
                // Nothing is trimmed unless all ranges are on the disk.
                match ranges.clone().all(|(lba, sectors)| lba + sectors <= self.sectors()) {
                    true => ranges
                        .try_for_each(|(lba, sectors)| shared.disk.discard(lba * SECTOR, sectors * SECTOR)),
                    false => Err(io::ErrorKind::NotFound.into()),
                }
            }
            (_, Err(error)) => Err(error),
            (Attachment::Optical(_), Ok(_)) => Err(io::ErrorKind::Unsupported.into()),
        };
        match result {
            Ok(()) => self.finish(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.fail(ID_NOT_FOUND | ABORTED),
            Err(error) => self.disk_failed(&error, true),
        }
    }

    /// SET FEATURES, also of an optical drive.
    pub(super) fn set_features(&mut self) {
        const ENABLE_WRITE_CACHE: u8 = 0x02;
        const SET_TRANSFER_MODE: u8 = 0x03;
        const DISABLE_LOOK_AHEAD: u8 = 0x55;
        const KEEP_SETTINGS: u8 = 0x66;
        const DISABLE_WRITE_CACHE: u8 = 0x82;
        const ENABLE_LOOK_AHEAD: u8 = 0xaa;
        const DEFAULT_SETTINGS: u8 = 0xcc;
        match self.file.features.current {
            ENABLE_WRITE_CACHE if !self.is_optical() => {
                self.write_cache = true;
                self.finish();
            }
            DISABLE_WRITE_CACHE if !self.is_optical() => {
                self.write_cache = false;
                self.flush();
            }
            SET_TRANSFER_MODE => match self.file.count.current {
                // Default, PIO with flow control 0–4, multiword DMA 0–2, Ultra DMA 0–5.
                mode @ (0x00 | 0x01 | 0x08..=0x0c | 0x20..=0x22 | 0x40..=0x45) => {
                    self.transfer_mode = mode;
                    self.finish();
                }
                _ => self.fail(ABORTED),
            },
            // Whether the host reads ahead is the host's affair; a reset always restores the defaults.
            DISABLE_LOOK_AHEAD | ENABLE_LOOK_AHEAD | KEEP_SETTINGS | DEFAULT_SETTINGS => self.finish(),
            _ => self.fail(ABORTED),
        }
    }
}
