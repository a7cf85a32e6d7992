//! An optical drive with a DVD-ROM or CD-ROM medium that can be changed (MMC-6).
//!
//! The tray: the host inserts and takes out images ([`DvdUnit::insert`], [`DvdUnit::remove`]); the guest
//! opens and closes the tray unless it has prevented removal. A medium in an open tray is kept and comes
//! back when the tray closes.
//!
//! Not emulated: sessions and tracks beyond one data track, audio, sub-channels, raw sectors with headers or
//! error correction codes, copy protection, writing.

mod replies;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::cdb::{Cdb, byte_range};
use super::command::{self, Command, action, plain};
use super::inquiry::{self, Identification};
use super::mode;
use super::target::report_luns;
use super::{Io, LogicalUnit, Outcome, Sense, request_sense};
use crate::Disk;

#[rustfmt::skip]
static COMMANDS: [Command; 27] = [
    plain(command::TEST_UNIT_READY, &[0x00, 0, 0, 0, 0, 0x00]),
    plain(command::REQUEST_SENSE, &[0x03, 0x01, 0, 0, 0xff, 0x00]),
    plain(command::INQUIRY, &[0x12, 0x01, 0xff, 0xff, 0xff, 0x00]),
    plain(command::MODE_SELECT_6, &[0x15, 0x11, 0, 0, 0xff, 0x00]),
    plain(command::MODE_SENSE_6, &[0x1a, 0x08, 0xff, 0xff, 0xff, 0x00]),
    plain(command::START_STOP_UNIT, &[0x1b, 0x01, 0, 0x0f, 0xf7, 0x00]),
    plain(command::PREVENT_ALLOW, &[0x1e, 0, 0, 0, 0x03, 0x00]),
    plain(command::READ_FORMAT_CAPACITIES, &[0x23, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0x00]),
    plain(command::READ_CAPACITY_10, &[0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0x00]),
    plain(command::READ_10, &[0x28, 0x18, 0xff, 0xff, 0xff, 0xff, 0, 0xff, 0xff, 0x00]),
    plain(command::SEEK_10, &[0x2b, 0, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0x00]),
    plain(command::VERIFY_10, &[0x2f, 0x10, 0xff, 0xff, 0xff, 0xff, 0, 0xff, 0xff, 0x00]),
    plain(command::SYNCHRONIZE_CACHE_10, &[0x35, 0x02, 0xff, 0xff, 0xff, 0xff, 0, 0xff, 0xff, 0x00]),
    plain(command::READ_TOC, &[0x43, 0x02, 0x0f, 0, 0, 0, 0xff, 0xff, 0xff, 0xc0]),
    plain(command::GET_CONFIGURATION, &[0x46, 0x03, 0xff, 0xff, 0, 0, 0, 0xff, 0xff, 0x00]),
    plain(command::GET_EVENT_STATUS, &[0x4a, 0x01, 0, 0, 0xff, 0, 0, 0xff, 0xff, 0x00]),
    plain(command::READ_DISC_INFORMATION, &[0x51, 0x07, 0, 0, 0, 0, 0, 0xff, 0xff, 0x00]),
    plain(command::READ_TRACK_INFORMATION, &[0x52, 0x03, 0xff, 0xff, 0xff, 0xff, 0, 0xff, 0xff, 0x00]),
    plain(command::MODE_SELECT_10, &[0x55, 0x11, 0, 0, 0, 0, 0, 0xff, 0xff, 0x00]),
    plain(command::MODE_SENSE_10, &[0x5a, 0x08, 0xff, 0xff, 0, 0, 0, 0xff, 0xff, 0x00]),
    plain(command::REPORT_LUNS, &[0xa0, 0, 0xff, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0x00]),
    action(command::MAINTENANCE_IN, command::REPORT_OPCODES_ACTION, &[0xa3, 0x0c, 0x87, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0x00]),
    plain(command::READ_12, &[0xa8, 0x18, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0x00]),
    plain(command::READ_DVD_STRUCTURE, &[0xad, 0x0f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0x00]),
    plain(command::SET_CD_SPEED, &[0xbb, 0x03, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 0x00]),
    plain(command::MECHANISM_STATUS, &[0xbd, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0x00]),
    plain(command::READ_CD, &[0xbe, 0x1c, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0x00]),
];

/// Bytes of a block of an optical medium.
const BLOCK: u32 = 2048;
/// Blocks of the largest CD-ROM, 80 minutes; larger media are DVDs.
const CD_BLOCKS: u64 = 80 * 60 * 75;

/// What a medium looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Medium {
    blocks: u64,
}

impl Medium {
    fn is_dvd(self) -> bool {
        self.blocks > CD_BLOCKS
    }
}

/// A media event that GET EVENT STATUS NOTIFICATION has not told yet (MMC-6, section 6.7.2.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum MediaEvent {
    None = 0,
    EjectRequest = 1,
    NewMedia = 2,
    MediaRemoval = 3,
}

struct State {
    medium: Option<Arc<dyn Disk>>,
    tray_open: bool,
    locked: bool,
    attention: Option<Sense>,
    event: MediaEvent,
}

/// An optical drive behind SCSI or ATAPI commands.
pub struct DvdUnit {
    state: Mutex<State>,
    identity: [u8; 16],
    serial: String,
}

impl DvdUnit {
    /// A drive with `medium`, which must have blocks of 512 or 2048 bytes, in its closed tray.
    pub fn new(medium: Option<Arc<dyn Disk>>) -> Self {
        // The drive has a name of its own, whatever lies in it; there is one drive per unit number.
        let state =
            State { medium, tray_open: false, locked: false, attention: None, event: MediaEvent::None };
        Self { state: Mutex::new(state), identity: *b"bodhi-dvd-drive\0", serial: "0000000000000001".into() }
    }

    /// Gives the drive a name of its own, where a machine has several.
    pub fn with_identity(mut self, identity: [u8; 16]) -> Self {
        self.serial = identity.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        self.identity = identity;
        self
    }

    /// The host puts `medium` into the tray and closes it, whatever was there before.
    pub fn insert(&self, medium: Arc<dyn Disk>) {
        let mut state = self.lock();
        state.medium = Some(medium);
        state.close();
    }

    /// The host takes the medium out, as by the drive's emergency hole: also when the guest prevents it.
    pub fn remove(&self) -> Option<Arc<dyn Disk>> {
        let mut state = self.lock();
        let medium = state.medium.take();
        if medium.is_some() {
            state.event = MediaEvent::MediaRemoval;
            state.attention = None;
        }
        state.locked = false;
        medium
    }

    /// The host asks the guest for the medium, as a press on the drive's button does. The guest hears of it
    /// by GET EVENT STATUS NOTIFICATION. True if nothing prevents a removal now.
    pub fn request_eject(&self) -> bool {
        let mut state = self.lock();
        state.event = MediaEvent::EjectRequest;
        !state.locked
    }

    /// Whether the tray is open.
    pub fn tray_open(&self) -> bool {
        self.lock().tray_open
    }

    /// Whether the guest prevents removal.
    pub fn locked(&self) -> bool {
        self.lock().locked
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self, cdb: Cdb<'_>, parameters: &[u8], reply: &mut Vec<u8>) -> Result<Outcome, Sense> {
        command::find(&COMMANDS, cdb)?;
        let mut state = self.lock();
        let always = matches!(
            cdb.u8(0),
            command::INQUIRY
                | command::REPORT_LUNS
                | command::REQUEST_SENSE
                | command::GET_CONFIGURATION
                | command::GET_EVENT_STATUS
        );
        if !always && let Some(attention) = state.attention.take() {
            return Err(attention);
        }
        match cdb.u8(0) {
            command::READ_10 | command::READ_12 => state.read(cdb),
            command::READ_CD => state.read_cd(cdb),
            command::START_STOP_UNIT => state.start_stop(cdb).map(|()| Outcome::Good),
            _ => self.inform(&mut state, cdb, parameters, reply).map(|()| Outcome::Good),
        }
    }

    /// The commands that touch neither medium nor tray.
    fn inform(
        &self,
        state: &mut State,
        cdb: Cdb<'_>,
        parameters: &[u8],
        reply: &mut Vec<u8>,
    ) -> Result<(), Sense> {
        match cdb.u8(0) {
            command::TEST_UNIT_READY | command::SYNCHRONIZE_CACHE_10 => state.ready().map(|_| ()),
            command::REQUEST_SENSE => {
                let sense = state.attention.take().or_else(|| state.ready().err());
                request_sense(cdb.0, sense.unwrap_or(Sense::NO_SENSE), reply);
                Ok(())
            }
            command::INQUIRY => inquiry::inquiry(&self.identification(), cdb, reply),
            command::REPORT_LUNS => report_luns(&[0], cdb, reply),
            command::MODE_SENSE_6 | command::MODE_SENSE_10 => {
                let pages = replies::pages(state.locked);
                mode::sense(cdb, &replies::mode_header(state.inside()), &pages, &replies::pages(false), reply)
            }
            command::MODE_SELECT_6 | command::MODE_SELECT_10 => {
                mode::select(cdb, parameters, &replies::pages(state.locked), |_, _| {})
            }
            command::PREVENT_ALLOW => {
                state.locked = cdb.u8(4) & 1 != 0;
                Ok(())
            }
            command::READ_CAPACITY_10 => state.ready().map(|medium| replies::capacity(medium, reply)),
            command::READ_FORMAT_CAPACITIES => {
                replies::format_capacities(state.inside(), cdb, reply);
                Ok(())
            }
            command::SEEK_10 => state.range(cdb.be32(2).into(), 1).map(|_| ()),
            command::VERIFY_10 => state.range(cdb.be32(2).into(), cdb.be16(7).into()).map(|_| ()),
            command::READ_TOC => replies::toc(state.ready()?, cdb, reply),
            command::GET_CONFIGURATION => replies::configuration(state.inside(), cdb, reply),
            command::GET_EVENT_STATUS => state.event_status(cdb, reply),
            command::READ_DISC_INFORMATION => replies::disc_information(state.ready()?, cdb, reply),
            command::READ_TRACK_INFORMATION => replies::track_information(state.ready()?, cdb, reply),
            command::READ_DVD_STRUCTURE => replies::dvd_structure(state.ready()?, cdb, reply),
            command::MECHANISM_STATUS => {
                replies::mechanism_status(state.tray_open, cdb, reply);
                Ok(())
            }
            // The medium answers as fast as it can at any speed.
            command::SET_CD_SPEED => Ok(()),
            command::MAINTENANCE_IN => command::report_opcodes(&COMMANDS, cdb, reply),
            _ => Err(Sense::INVALID_OPCODE),
        }
    }

    fn identification(&self) -> Identification<'_> {
        Identification {
            device_type: 0x05,
            removable: true,
            product: b"Virtual DVD-ROM ",
            // SAM-5, SPC-4, MMC-6.
            standards: &[0x00a0, 0x0460, 0x04e0],
            identity: self.identity,
            serial: &self.serial,
            disk: None,
        }
    }
}

impl State {
    /// The medium, if it is in the closed tray.
    fn inside(&self) -> Option<Medium> {
        let disk = self.medium.as_ref().filter(|_| !self.tray_open)?;
        Some(Medium { blocks: disk.info().size / u64::from(BLOCK) })
    }

    fn ready(&self) -> Result<Medium, Sense> {
        self.inside().ok_or(if self.tray_open { Sense::TRAY_OPEN } else { Sense::NO_MEDIUM })
    }

    fn range(&self, lba: u64, blocks: u64) -> Result<(u64, u64), Sense> {
        byte_range(lba, blocks, BLOCK, self.ready()?.blocks * u64::from(BLOCK))
    }

    fn read_range(&self, lba: u64, blocks: u64) -> Result<Outcome, Sense> {
        let (offset, len) = self.range(lba, blocks)?;
        Ok(if len == 0 { Outcome::Good } else { Outcome::Io(Io::Read { offset, len }) })
    }

    fn read(&self, cdb: Cdb<'_>) -> Result<Outcome, Sense> {
        let (lba, blocks) = cdb.blocks();
        self.read_range(lba, blocks)
    }

    /// READ CD (MMC-6, section 6.18), for the user data of data sectors.
    fn read_cd(&self, cdb: Cdb<'_>) -> Result<Outcome, Sense> {
        const USER_DATA: u8 = 0x10;
        const ANY: u8 = 0;
        const MODE_1: u8 = 2;
        let (sector_type, fields, subchannel) = (cdb.u8(1) >> 2 & 7, cdb.u8(9), cdb.u8(10) & 7);
        let blocks = u64::from(cdb.be24(6));
        self.ready()?;
        if !matches!(sector_type, ANY | MODE_1) {
            return Err(Sense::ILLEGAL_TRACK_MODE);
        }
        match fields & 0xfe {
            0 => self.range(cdb.be32(2).into(), blocks).map(|_| Outcome::Good),
            USER_DATA if subchannel == 0 => self.read_range(cdb.be32(2).into(), blocks),
            _ => Err(Sense::INVALID_FIELD_IN_CDB),
        }
    }

    fn start_stop(&mut self, cdb: Cdb<'_>) -> Result<(), Sense> {
        const START: u8 = 0x01;
        const LOAD_EJECT: u8 = 0x02;
        let flags = cdb.u8(4);
        if flags >> 4 != 0 {
            // A power condition: the drive is awake whenever it is needed.
            return Ok(());
        }
        match (flags & LOAD_EJECT != 0, flags & START != 0) {
            (true, false) if self.locked => Err(Sense::REMOVAL_PREVENTED),
            (true, false) => {
                if !self.tray_open && self.medium.is_some() {
                    self.event = MediaEvent::MediaRemoval;
                }
                self.tray_open = true;
                Ok(())
            }
            (true, true) => {
                if self.tray_open {
                    self.close();
                }
                Ok(())
            }
            (false, true) => self.ready().map(|_| ()),
            (false, false) => Ok(()),
        }
    }

    fn close(&mut self) {
        self.tray_open = false;
        if self.medium.is_some() {
            self.attention = Some(Sense::MEDIUM_CHANGED);
            self.event = MediaEvent::NewMedia;
        }
    }

    /// GET EVENT STATUS NOTIFICATION (MMC-6, section 6.7), polled, for media events.
    fn event_status(&mut self, cdb: Cdb<'_>, reply: &mut Vec<u8>) -> Result<(), Sense> {
        const POLLED: u8 = 0x01;
        const MEDIA: u8 = 4;
        const NO_EVENT_AVAILABLE: u8 = 0x80;
        if cdb.u8(1) & POLLED == 0 {
            return Err(Sense::INVALID_FIELD_IN_CDB);
        }
        if cdb.u8(4) & 1 << MEDIA == 0 {
            reply.extend_from_slice(&[0, 2, NO_EVENT_AVAILABLE, 1 << MEDIA]);
        } else {
            let status = u8::from(self.tray_open) | u8::from(self.inside().is_some()) << 1;
            reply.extend_from_slice(&[0, 6, MEDIA, 1 << MEDIA, self.event as u8, status, 0, 0]);
            // A reply cut short of the event has not told it.
            if cdb.be16(7) >= 8 {
                self.event = MediaEvent::None;
            }
        }
        super::cdb::allocate(reply, cdb.be16(7).into());
        Ok(())
    }
}

impl LogicalUnit for DvdUnit {
    fn execute(&self, cdb: &[u8], parameters: &[u8], reply: &mut Vec<u8>) -> Outcome {
        reply.clear();
        self.run(Cdb(cdb), parameters, reply).unwrap_or_else(|sense| {
            reply.clear();
            Outcome::Check(sense)
        })
    }

    fn medium(&self) -> Option<Arc<dyn Disk>> {
        self.lock().medium.clone()
    }

    fn reset(&self) {
        let mut state = self.lock();
        state.locked = false;
        state.attention = Some(Sense::RESET);
    }
}
