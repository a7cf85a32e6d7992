//! A disk: the block commands (SBC-3).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::cdb::{Cdb, allocate, byte_range};
use super::command::{self, Command, action, plain};
use super::inquiry::{self, Identification, WRITE_SAME_MAX};
use super::mode::{self, Header, Page};
use super::target::report_luns;
use super::{Io, LogicalUnit, Outcome, Sense, request_sense};
use crate::{Disk, DiskInfo};

#[rustfmt::skip]
static COMMANDS: [Command; 34] = [
    plain(command::TEST_UNIT_READY, &[0x00, 0, 0, 0, 0, 0x00]),
    plain(command::REQUEST_SENSE, &[0x03, 0x01, 0, 0, 0xff, 0x00]),
    plain(command::READ_6, &[0x08, 0x1f, 0xff, 0xff, 0xff, 0x00]),
    plain(command::WRITE_6, &[0x0a, 0x1f, 0xff, 0xff, 0xff, 0x00]),
    plain(command::INQUIRY, &[0x12, 0x01, 0xff, 0xff, 0xff, 0x00]),
    plain(command::MODE_SELECT_6, &[0x15, 0x11, 0, 0, 0xff, 0x00]),
    plain(command::MODE_SENSE_6, &[0x1a, 0x08, 0xff, 0xff, 0xff, 0x00]),
    plain(command::START_STOP_UNIT, &[0x1b, 0x01, 0, 0x0f, 0xf7, 0x00]),
    plain(command::SEND_DIAGNOSTIC, &[0x1d, 0x04, 0, 0, 0, 0x00]),
    plain(command::PREVENT_ALLOW, &[0x1e, 0, 0, 0, 0x03, 0x00]),
    plain(command::READ_CAPACITY_10, &[0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0x00]),
    plain(command::READ_10, &[0x28, 0xf8, 0xff, 0xff, 0xff, 0xff, 0, 0xff, 0xff, 0x00]),
    plain(command::WRITE_10, &[0x2a, 0xf8, 0xff, 0xff, 0xff, 0xff, 0, 0xff, 0xff, 0x00]),
    plain(command::WRITE_AND_VERIFY_10, &[0x2e, 0xf2, 0xff, 0xff, 0xff, 0xff, 0, 0xff, 0xff, 0x00]),
    plain(command::VERIFY_10, &[0x2f, 0xf2, 0xff, 0xff, 0xff, 0xff, 0, 0xff, 0xff, 0x00]),
    plain(command::SYNCHRONIZE_CACHE_10, &[0x35, 0x02, 0xff, 0xff, 0xff, 0xff, 0, 0xff, 0xff, 0x00]),
    plain(command::WRITE_SAME_10, &[0x41, 0xf8, 0xff, 0xff, 0xff, 0xff, 0, 0xff, 0xff, 0x00]),
    plain(command::UNMAP, &[0x42, 0x01, 0, 0, 0, 0, 0, 0xff, 0xff, 0x00]),
    plain(command::MODE_SELECT_10, &[0x55, 0x11, 0, 0, 0, 0, 0, 0xff, 0xff, 0x00]),
    plain(command::MODE_SENSE_10, &[0x5a, 0x08, 0xff, 0xff, 0, 0, 0, 0xff, 0xff, 0x00]),
    plain(command::READ_16, &[0x88, 0xf8, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0x00]),
    plain(command::WRITE_16, &[0x8a, 0xf8, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0x00]),
    plain(command::WRITE_AND_VERIFY_16, &[0x8e, 0xf2, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0x00]),
    plain(command::VERIFY_16, &[0x8f, 0xf2, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0x00]),
    plain(command::SYNCHRONIZE_CACHE_16, &[0x91, 0x02, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0x00]),
    plain(command::WRITE_SAME_16, &[0x93, 0xf9, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0x00]),
    action(command::SERVICE_ACTION_IN_16, command::READ_CAPACITY_16_ACTION, &[0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0x00]),
    plain(command::REPORT_LUNS, &[0xa0, 0, 0xff, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0x00]),
    action(command::MAINTENANCE_IN, command::REPORT_OPCODES_ACTION, &[0xa3, 0x0c, 0x87, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0x00]),
    plain(command::READ_12, &[0xa8, 0xf8, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0x00]),
    plain(command::WRITE_12, &[0xaa, 0xf8, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0x00]),
    plain(command::WRITE_AND_VERIFY_12, &[0xae, 0xf2, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0x00]),
    plain(command::VERIFY_12, &[0xaf, 0xf2, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0x00]),
    plain(command::SEEK_10, &[0x2b, 0, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0x00]),
];

const ERROR_RECOVERY_PAGE: u8 = 0x01;
const CACHING_PAGE: u8 = 0x08;
const CONTROL_PAGE: u8 = 0x0a;
/// Write cache enable, in byte 2 of the caching page.
const WRITE_CACHE: u8 = 0x04;

/// A disk behind SCSI commands.
pub struct DiskUnit {
    disk: Arc<dyn Disk>,
    /// Write cache enable: where the guest has turned it off, every write is forced to stable storage.
    write_cache: AtomicBool,
    attention: AtomicBool,
}

impl DiskUnit {
    /// A unit over `disk`.
    pub fn new(disk: Arc<dyn Disk>) -> Self {
        Self { disk, write_cache: AtomicBool::new(true), attention: AtomicBool::new(false) }
    }

    fn info(&self) -> &DiskInfo {
        self.disk.info()
    }

    fn blocks(&self) -> u64 {
        self.info().size / u64::from(self.info().logical_block)
    }

    fn range(&self, lba: u64, blocks: u64) -> Result<(u64, u64), Sense> {
        byte_range(lba, blocks, self.info().logical_block, self.info().size)
    }

    fn writable(&self) -> Result<(), Sense> {
        if self.info().read_only { Err(Sense::WRITE_PROTECTED) } else { Ok(()) }
    }

    fn run(&self, cdb: Cdb<'_>, parameters: &[u8], reply: &mut Vec<u8>) -> Result<Outcome, Sense> {
        command::find(&COMMANDS, cdb)?;
        let opcode = cdb.u8(0);
        let exempt = matches!(opcode, command::INQUIRY | command::REPORT_LUNS | command::REQUEST_SENSE);
        if !exempt && self.attention.swap(false, Ordering::Relaxed) {
            return Err(Sense::RESET);
        }
        match opcode {
            command::READ_6 | command::READ_10 | command::READ_12 | command::READ_16 => self.read(cdb),
            command::WRITE_6 | command::WRITE_10 | command::WRITE_12 | command::WRITE_16 => {
                self.write(cdb, false)
            }
            command::WRITE_AND_VERIFY_10 | command::WRITE_AND_VERIFY_12 | command::WRITE_AND_VERIFY_16 => {
                self.write(cdb, true)
            }
            command::VERIFY_10 | command::VERIFY_12 | command::VERIFY_16 => self.verify(cdb),
            command::SYNCHRONIZE_CACHE_10 | command::SYNCHRONIZE_CACHE_16 => {
                let (lba, blocks) = cdb.blocks();
                self.range(lba, blocks).map(|_| Outcome::Io(Io::Flush))
            }
            command::UNMAP => self.unmap(cdb, parameters),
            command::WRITE_SAME_10 | command::WRITE_SAME_16 => self.write_same(cdb, parameters),
            command::START_STOP_UNIT => self.start_stop(cdb),
            _ => self.inform(cdb, parameters, reply).map(|()| Outcome::Good),
        }
    }

    fn read(&self, cdb: Cdb<'_>) -> Result<Outcome, Sense> {
        no_protection(cdb)?;
        let (lba, blocks) = cdb.blocks();
        let (offset, len) = self.range(lba, blocks)?;
        Ok(if len == 0 { Outcome::Good } else { Outcome::Io(Io::Read { offset, len }) })
    }

    fn write(&self, cdb: Cdb<'_>, verify: bool) -> Result<Outcome, Sense> {
        const FORCE_UNIT_ACCESS: u8 = 0x08;
        no_protection(cdb)?;
        self.writable()?;
        let (lba, blocks) = cdb.blocks();
        let (offset, len) = self.range(lba, blocks)?;
        let six = cdb.u8(0) == command::WRITE_6;
        let forced = !six && !verify && cdb.u8(1) & FORCE_UNIT_ACCESS != 0;
        // What is to be verified must have reached the medium.
        let fua = forced || verify || !self.write_cache.load(Ordering::Relaxed);
        Ok(if len == 0 { Outcome::Good } else { Outcome::Io(Io::Write { offset, len, fua }) })
    }

    /// The medium is a file that checks itself: what is left to verify is that the range exists.
    fn verify(&self, cdb: Cdb<'_>) -> Result<Outcome, Sense> {
        no_protection(cdb)?;
        if cdb.u8(1) & 0x06 != 0 {
            return Err(Sense::INVALID_FIELD_IN_CDB);
        }
        let (lba, blocks) = cdb.blocks();
        self.range(lba, blocks).map(|_| Outcome::Good)
    }

    /// UNMAP (SBC-3, section 5.28), with at most the one extent that the block limits promise.
    fn unmap(&self, cdb: Cdb<'_>, parameters: &[u8]) -> Result<Outcome, Sense> {
        const HEADER: usize = 8;
        const DESCRIPTOR: usize = 16;
        if self.info().discard_granularity == 0 {
            return Err(Sense::INVALID_OPCODE);
        }
        self.writable()?;
        let anchor = cdb.u8(1) & 1 != 0;
        if anchor {
            return Err(Sense::INVALID_FIELD_IN_CDB);
        }
        let len = usize::from(cdb.be16(7));
        if len == 0 {
            return Ok(Outcome::Good);
        }
        let list = parameters.get(..len.min(HEADER + DESCRIPTOR)).ok_or(Sense::PARAMETER_LIST_LENGTH)?;
        let fields = Cdb(list);
        let descriptors = usize::from(fields.be16(2)) / DESCRIPTOR;
        match descriptors {
            0 if list.len() >= HEADER => return Ok(Outcome::Good),
            1 if list.len() >= HEADER + DESCRIPTOR => {}
            0 | 1 => return Err(Sense::PARAMETER_LIST_LENGTH),
            _ => return Err(Sense::INVALID_FIELD_IN_PARAMETERS),
        }
        let (offset, len) = self.range(fields.be64(8), fields.be32(16).into())?;
        Ok(if len == 0 { Outcome::Good } else { Outcome::Io(Io::Discard { offset, len }) })
    }

    /// WRITE SAME (SBC-3, sections 5.42 and 5.43).
    fn write_same(&self, cdb: Cdb<'_>, parameters: &[u8]) -> Result<Outcome, Sense> {
        const ANCHOR: u8 = 0x10;
        const UNMAP: u8 = 0x08;
        const PHYSICAL_OR_LOGICAL_DATA: u8 = 0x06;
        const NO_DATA_OUT: u8 = 0x01;
        no_protection(cdb)?;
        let flags = cdb.u8(1);
        let unmap = flags & UNMAP != 0;
        if flags & (ANCHOR | PHYSICAL_OR_LOGICAL_DATA) != 0 || (unmap && self.info().discard_granularity == 0)
        {
            return Err(Sense::INVALID_FIELD_IN_CDB);
        }
        self.writable()?;
        let (lba, blocks) = cdb.blocks();
        if blocks == 0 || blocks > WRITE_SAME_MAX {
            return Err(Sense::INVALID_FIELD_IN_CDB);
        }
        let (offset, len) = self.range(lba, blocks)?;
        let fua = !self.write_cache.load(Ordering::Relaxed);
        let zeroes = Outcome::Io(Io::WriteZeroes { offset, len, unmap, fua });
        if cdb.u8(0) == command::WRITE_SAME_16 && flags & NO_DATA_OUT != 0 {
            return Ok(zeroes);
        }
        let block = parameters.get(..self.info().logical_block as usize);
        let block = block.ok_or(Sense::PARAMETER_LIST_LENGTH)?;
        Ok(match block.iter().all(|byte| *byte == 0) {
            true => zeroes,
            false => Outcome::Io(Io::Fill { offset, len, fua }),
        })
    }

    /// START STOP UNIT: a stop writes the cache out; the unit stays ready, as nothing spins.
    fn start_stop(&self, cdb: Cdb<'_>) -> Result<Outcome, Sense> {
        const START: u8 = 0x01;
        const LOAD_EJECT: u8 = 0x02;
        const NO_FLUSH: u8 = 0x04;
        let flags = cdb.u8(4);
        if flags & LOAD_EJECT != 0 {
            return Err(Sense::INVALID_FIELD_IN_CDB);
        }
        let stops = flags >> 4 == 0 && flags & (START | NO_FLUSH) == 0;
        Ok(if stops { Outcome::Io(Io::Flush) } else { Outcome::Good })
    }

    /// The commands that say something of the unit and do nothing to the medium.
    fn inform(&self, cdb: Cdb<'_>, parameters: &[u8], reply: &mut Vec<u8>) -> Result<(), Sense> {
        const SELF_TEST: u8 = 0x04;
        match cdb.u8(0) {
            command::TEST_UNIT_READY => Ok(()),
            command::REQUEST_SENSE => {
                let attention = self.attention.swap(false, Ordering::Relaxed);
                request_sense(cdb.0, if attention { Sense::RESET } else { Sense::NO_SENSE }, reply);
                Ok(())
            }
            command::INQUIRY => inquiry::inquiry(&self.identification(), cdb, reply),
            command::READ_CAPACITY_10 => {
                let last = u32::try_from(self.blocks() - 1).unwrap_or(u32::MAX);
                reply.extend_from_slice(&last.to_be_bytes());
                reply.extend_from_slice(&self.info().logical_block.to_be_bytes());
                Ok(())
            }
            command::SERVICE_ACTION_IN_16 => {
                self.read_capacity_16(cdb, reply);
                Ok(())
            }
            command::MODE_SENSE_6 | command::MODE_SENSE_10 => self.mode_sense(cdb, reply),
            command::MODE_SELECT_6 | command::MODE_SELECT_10 => {
                let pages = pages(self.write_cache.load(Ordering::Relaxed));
                mode::select(cdb, parameters, &pages, |code, body| {
                    if code == CACHING_PAGE {
                        self.write_cache.store(body[0] & WRITE_CACHE != 0, Ordering::Relaxed);
                    }
                })
            }
            command::SEND_DIAGNOSTIC => match cdb.u8(1) & !SELF_TEST {
                0 => Ok(()),
                _ => Err(Sense::INVALID_FIELD_IN_CDB),
            },
            // The medium cannot be removed: allowing it changes nothing, preventing it neither.
            command::PREVENT_ALLOW => Ok(()),
            command::SEEK_10 => self.range(cdb.be32(2).into(), 1).map(|_| ()),
            command::MAINTENANCE_IN => command::report_opcodes(&COMMANDS, cdb, reply),
            // A unit behind a target is not asked; one without a target is number 0.
            command::REPORT_LUNS => report_luns(&[0], cdb, reply),
            _ => Err(Sense::INVALID_OPCODE),
        }
    }

    fn identification(&self) -> Identification<'_> {
        let info = self.info();
        Identification {
            device_type: 0x00,
            removable: false,
            product: b"Virtual Disk    ",
            // SAM-5, SPC-4, SBC-3.
            standards: &[0x00a0, 0x0460, 0x04c0],
            identity: info.identity,
            serial: &info.serial,
            disk: Some(info),
        }
    }

    fn read_capacity_16(&self, cdb: Cdb<'_>, reply: &mut Vec<u8>) {
        const PROVISIONED: u8 = 0x80;
        const READS_ZEROES: u8 = 0x40;
        let info = self.info();
        reply.extend_from_slice(&(self.blocks() - 1).to_be_bytes());
        reply.extend_from_slice(&info.logical_block.to_be_bytes());
        let exponent = (info.physical_block / info.logical_block).max(1).ilog2() as u8;
        let provisioning = if info.discard_granularity == 0 { 0 } else { PROVISIONED | READS_ZEROES };
        reply.extend_from_slice(&[0, exponent, provisioning, 0]);
        reply.resize(32, 0);
        allocate(reply, cdb.be32(10) as usize);
    }

    fn mode_sense(&self, cdb: Cdb<'_>, reply: &mut Vec<u8>) -> Result<(), Sense> {
        const WRITE_PROTECT: u8 = 0x80;
        const FORCED_ACCESS: u8 = 0x10;
        let info = self.info();
        let blocks = u32::try_from(self.blocks()).unwrap_or(u32::MAX).to_be_bytes();
        let block = info.logical_block.to_be_bytes();
        let descriptor = [blocks[0], blocks[1], blocks[2], blocks[3], 0, block[1], block[2], block[3]];
        let protect = if info.read_only { WRITE_PROTECT } else { 0 };
        let header =
            Header { medium_type: 0, device_specific: FORCED_ACCESS | protect, descriptor: Some(descriptor) };
        let current = pages(self.write_cache.load(Ordering::Relaxed));
        mode::sense(cdb, &header, &current, &pages(true), reply)
    }
}

impl LogicalUnit for DiskUnit {
    fn execute(&self, cdb: &[u8], parameters: &[u8], reply: &mut Vec<u8>) -> Outcome {
        reply.clear();
        self.run(Cdb(cdb), parameters, reply).unwrap_or_else(|sense| {
            reply.clear();
            Outcome::Check(sense)
        })
    }

    fn medium(&self) -> Option<Arc<dyn Disk>> {
        Some(Arc::clone(&self.disk))
    }

    fn reset(&self) {
        self.write_cache.store(true, Ordering::Relaxed);
        self.attention.store(true, Ordering::Relaxed);
    }
}

/// Protection information is not offered.
fn no_protection(cdb: Cdb<'_>) -> Result<(), Sense> {
    let has_field = !matches!(cdb.u8(0), command::READ_6 | command::WRITE_6);
    if has_field && cdb.u8(1) & 0xe0 != 0 { Err(Sense::INVALID_FIELD_IN_CDB) } else { Ok(()) }
}

/// Error recovery, caching and control pages (SBC-3, section 6.4; SPC-4, section 7.5.8).
fn pages(write_cache: bool) -> Vec<Page> {
    let mut caching = vec![0; 18];
    caching[0] = if write_cache { WRITE_CACHE } else { 0 };
    let mut caching_mask = vec![0; 18];
    caching_mask[0] = WRITE_CACHE;
    let mut control = vec![0; 10];
    // Unrestricted reordering of commands.
    control[1] = 0x10;
    vec![
        Page::fixed(ERROR_RECOVERY_PAGE, vec![0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        Page { code: CACHING_PAGE, current: caching, changeable: caching_mask },
        Page::fixed(CONTROL_PAGE, control),
    ]
}
