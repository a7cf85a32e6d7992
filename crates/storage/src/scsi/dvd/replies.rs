//! What an optical drive says of itself and its medium (MMC-6): pure functions of the medium.

use super::super::Sense;
use super::super::cdb::{Cdb, allocate};
use super::super::mode::{Header, Page};
use super::{BLOCK, Medium};

/// Address field of the lead-out and other places where an address is in minutes, seconds and frames.
fn address(block: u64, msf: bool) -> [u8; 4] {
    if !msf {
        return u32::try_from(block).unwrap_or(u32::MAX).to_be_bytes();
    }
    let frames = block + 150;
    [0, (frames / 75 / 60).min(255) as u8, (frames / 75 % 60) as u8, (frames % 75) as u8]
}

/// A data track without pre-emphasis, Q sub-channel encoding current position.
const DATA_TRACK: u8 = 0x14;
const LEAD_OUT: u8 = 0xaa;

/// READ TOC/PMA/ATIP (section 6.25).
pub(super) fn toc(medium: Medium, cdb: Cdb<'_>, reply: &mut Vec<u8>) -> Result<(), Sense> {
    let msf = cdb.u8(1) & 0x02 != 0;
    // SFF-8020 drivers put the format into the control byte.
    let format = match cdb.u8(2) & 0x0f {
        0 => cdb.u8(9) >> 6,
        format => format,
    };
    let track = cdb.u8(6);
    match format {
        0 => {
            if track > 1 && track != LEAD_OUT {
                return Err(Sense::INVALID_FIELD_IN_CDB);
            }
            reply.extend_from_slice(&[0, 0, 1, 1]);
            if track <= 1 {
                reply.extend_from_slice(&[0, DATA_TRACK, 1, 0]);
                reply.extend_from_slice(&address(0, msf));
            }
            reply.extend_from_slice(&[0, DATA_TRACK, LEAD_OUT, 0]);
            reply.extend_from_slice(&address(medium.blocks, msf));
        }
        1 => {
            reply.extend_from_slice(&[0, 0, 1, 1, 0, DATA_TRACK, 1, 0]);
            reply.extend_from_slice(&address(0, msf));
        }
        2 => {
            reply.extend_from_slice(&[0, 0, 1, 1]);
            let [_, minute, second, frame] = address(medium.blocks, true);
            let [_, first_minute, first_second, first_frame] = address(0, true);
            let points = [
                (0xa0, [1, 0, 0]),
                (0xa1, [1, 0, 0]),
                (0xa2, [minute, second, frame]),
                (0x01, [first_minute, first_second, first_frame]),
            ];
            for (point, [m, s, f]) in points {
                reply.extend_from_slice(&[1, DATA_TRACK, 0, point, 0, 0, 0, 0, m, s, f]);
            }
        }
        _ => return Err(Sense::INVALID_FIELD_IN_CDB),
    }
    finish(reply, 2, cdb.be16(7).into());
    Ok(())
}

/// Puts the length of what follows it into the first `field` bytes and cuts to the allocation length.
fn finish(reply: &mut Vec<u8>, field: usize, allocation: usize) {
    let len = ((reply.len() - field) as u32).to_be_bytes();
    reply[..field].copy_from_slice(&len[4 - field..]);
    allocate(reply, allocation);
}

/// READ CAPACITY (section 6.23).
pub(super) fn capacity(medium: Medium, reply: &mut Vec<u8>) {
    let last = u32::try_from(medium.blocks.saturating_sub(1)).unwrap_or(u32::MAX);
    reply.extend_from_slice(&last.to_be_bytes());
    reply.extend_from_slice(&BLOCK.to_be_bytes());
}

/// READ FORMAT CAPACITIES (section 6.24).
pub(super) fn format_capacities(medium: Option<Medium>, cdb: Cdb<'_>, reply: &mut Vec<u8>) {
    const FORMATTED: u8 = 2;
    const NO_MEDIUM: u8 = 3;
    let (blocks, kind) = match medium {
        Some(medium) => (medium.blocks, FORMATTED),
        None => (CD_MAX, NO_MEDIUM),
    };
    const CD_MAX: u64 = super::CD_BLOCKS;
    reply.extend_from_slice(&[0, 0, 0, 8]);
    reply.extend_from_slice(&u32::try_from(blocks).unwrap_or(u32::MAX).to_be_bytes());
    reply.extend_from_slice(&(u32::from(kind) << 24 | BLOCK).to_be_bytes());
    allocate(reply, cdb.be16(7).into());
}

const PROFILE_CD_ROM: u16 = 0x0008;
const PROFILE_DVD_ROM: u16 = 0x0010;

fn profile(medium: Option<Medium>) -> u16 {
    match medium {
        None => 0,
        Some(medium) if medium.is_dvd() => PROFILE_DVD_ROM,
        Some(_) => PROFILE_CD_ROM,
    }
}

/// GET CONFIGURATION (sections 6.5 and 5.3).
pub(super) fn configuration(medium: Option<Medium>, cdb: Cdb<'_>, reply: &mut Vec<u8>) -> Result<(), Sense> {
    const PERSISTENT: u8 = 0x02;
    const CURRENT: u8 = 0x01;
    const ALL: u8 = 0;
    const ALL_CURRENT: u8 = 1;
    const ONE: u8 = 2;
    let request = cdb.u8(1) & 3;
    if request == 3 {
        return Err(Sense::INVALID_FIELD_IN_CDB);
    }
    let current = profile(medium);
    let is = |profile: u16| u8::from(current == profile);
    let present = u8::from(medium.is_some());
    let profiles = [
        (PROFILE_DVD_ROM >> 8) as u8,
        PROFILE_DVD_ROM as u8,
        is(PROFILE_DVD_ROM),
        0,
        (PROFILE_CD_ROM >> 8) as u8,
        PROFILE_CD_ROM as u8,
        is(PROFILE_CD_ROM),
        0,
    ];
    // Feature number, version and flags, its data.
    let features: [(u16, u8, &[u8]); 10] = [
        // Profile list.
        (0x0000, PERSISTENT | CURRENT, &profiles),
        // Core: ATAPI interface, device-busy event.
        (0x0001, 0x08 | PERSISTENT | CURRENT, &[0, 0, 0, 2, 1, 0, 0, 0]),
        // Morphing: operational change events.
        (0x0002, 0x04 | PERSISTENT | CURRENT, &[2, 0, 0, 0]),
        // Removable medium: a tray that loads, ejects and locks.
        (0x0003, 0x04 | PERSISTENT | CURRENT, &[0x39, 0, 0, 0]),
        // Random readable: 2048 bytes, one block at a time.
        (0x0010, present, &[0, 0, 8, 0, 0, 1, 0, 0]),
        // Multi-read.
        (0x001d, is(PROFILE_CD_ROM), &[]),
        // CD read.
        (0x001e, 0x08 | is(PROFILE_CD_ROM), &[0, 0, 0, 0]),
        // DVD read.
        (0x001f, 0x04 | is(PROFILE_DVD_ROM), &[0, 0, 0, 0]),
        // Power management.
        (0x0100, PERSISTENT | CURRENT, &[]),
        // Timeout.
        (0x0105, PERSISTENT | CURRENT, &[]),
    ];
    let first = cdb.be16(2);
    reply.extend_from_slice(&[0; 6]);
    reply.extend_from_slice(&current.to_be_bytes());
    for (number, flags, data) in features {
        let wanted = match request {
            ALL => number >= first,
            ALL_CURRENT => number >= first && flags & CURRENT != 0,
            ONE => number == first,
            _ => false,
        };
        if wanted {
            reply.extend_from_slice(&number.to_be_bytes());
            reply.extend_from_slice(&[flags, data.len() as u8]);
            reply.extend_from_slice(data);
        }
    }
    finish(reply, 4, cdb.be16(7).into());
    Ok(())
}

/// READ DISC INFORMATION (section 6.21), standard form.
pub(super) fn disc_information(_: Medium, cdb: Cdb<'_>, reply: &mut Vec<u8>) -> Result<(), Sense> {
    const COMPLETE: u8 = 0x0e;
    const UNRESTRICTED: u8 = 0x20;
    if cdb.u8(1) & 7 != 0 {
        return Err(Sense::INVALID_FIELD_IN_CDB);
    }
    // First track, sessions, first and last track of the last session.
    reply.extend_from_slice(&[0, 0, COMPLETE, 1, 1, 1, 1, UNRESTRICTED, 0, 0, 0, 0]);
    reply.extend_from_slice(&[0; 4]);
    // No address of a last session's lead-in, nor of a last possible lead-out.
    reply.extend_from_slice(&[0xff; 8]);
    reply.resize(34, 0);
    finish(reply, 2, cdb.be16(7).into());
    Ok(())
}

/// READ TRACK INFORMATION (section 6.26).
pub(super) fn track_information(medium: Medium, cdb: Cdb<'_>, reply: &mut Vec<u8>) -> Result<(), Sense> {
    const DATA_MODE: u8 = 0x01;
    let (kind, which) = (cdb.u8(1) & 3, cdb.be32(2));
    let exists = match kind {
        0 => u64::from(which) < medium.blocks,
        1 | 2 => which == 1,
        _ => false,
    };
    if !exists {
        return Err(Sense::INVALID_FIELD_IN_CDB);
    }
    reply.extend_from_slice(&[0, 0, 1, 1, 0, 0x04, DATA_MODE, 0]);
    reply.resize(24, 0);
    reply.extend_from_slice(&u32::try_from(medium.blocks).unwrap_or(u32::MAX).to_be_bytes());
    reply.resize(36, 0);
    finish(reply, 2, cdb.be16(7).into());
    Ok(())
}

/// READ DVD STRUCTURE (section 6.22): physical format and copyright.
pub(super) fn dvd_structure(medium: Medium, cdb: Cdb<'_>, reply: &mut Vec<u8>) -> Result<(), Sense> {
    const FIRST_SECTOR: u32 = 0x03_0000;
    if !medium.is_dvd() {
        return Err(Sense::INCOMPATIBLE_FORMAT);
    }
    let (media_type, layer, format) = (cdb.u8(1) & 0x0f, cdb.u8(6), cdb.u8(7));
    if media_type != 0 || layer != 0 {
        return Err(Sense::INVALID_FIELD_IN_CDB);
    }
    reply.extend_from_slice(&[0; 4]);
    match format {
        0x00 => {
            // DVD-ROM part version 1, 120 mm, one layer.
            reply.extend_from_slice(&[0x01, 0x0f, 0x01, 0]);
            let last = u64::from(FIRST_SECTOR) + medium.blocks.saturating_sub(1);
            let last = (last as u32).min(0x00ff_ffff);
            reply.extend_from_slice(&FIRST_SECTOR.to_be_bytes());
            reply.extend_from_slice(&last.to_be_bytes());
            reply.extend_from_slice(&[0; 4]);
            reply.resize(4 + 2048, 0);
        }
        // No copy protection, all regions.
        0x01 => reply.extend_from_slice(&[0; 4]),
        // The structures that can be read.
        0xff => reply.extend_from_slice(&[0x00, 0x40, 0x08, 0x04, 0x01, 0x40, 0x00, 0x08]),
        _ => return Err(Sense::INVALID_FIELD_IN_CDB),
    }
    finish(reply, 2, cdb.be16(8).into());
    Ok(())
}

/// MECHANISM STATUS (section 6.9).
pub(super) fn mechanism_status(tray_open: bool, cdb: Cdb<'_>, reply: &mut Vec<u8>) {
    const DOOR_OPEN: u8 = 0x10;
    reply.extend_from_slice(&[0, if tray_open { DOOR_OPEN } else { 0 }, 0, 0, 0, 1, 0, 0]);
    allocate(reply, cdb.be16(8).into());
}

/// Medium type codes of SFF-8020 in the mode parameter header, which old drivers look at.
pub(super) fn mode_header(medium: Option<Medium>) -> Header {
    const DATA_120_MM: u8 = 0x01;
    const NO_DISC: u8 = 0x70;
    let medium_type = if medium.is_some() { DATA_120_MM } else { NO_DISC };
    Header { medium_type, device_specific: 0, descriptor: None }
}

/// Error recovery, power condition, timeout and capabilities pages.
pub(super) fn pages(locked: bool) -> Vec<Page> {
    // 24 times the speed of a CD, in kilobytes a second.
    let [high, low] = (24_u16 * 176).to_be_bytes();
    let tray_lock_eject = 0x29 | if locked { 0x02 } else { 0 };
    #[rustfmt::skip]
    let capabilities = vec![
        // Reads CD-R, CD-RW, DVD-ROM; writes nothing.
        0x0b, 0x00,
        // Mode 2 form 1 and 2, multi-session.
        0x70, 0x00, tray_lock_eject, 0x00,
        high, low, 0, 0,
        // Buffer of 512 KiB.
        0x02, 0x00, high, low,
        0, 0, 0, 0,
    ];
    vec![
        Page::fixed(0x01, vec![0, 5, 0, 0, 0, 0]),
        Page::fixed(0x1a, vec![0; 10]),
        Page::fixed(0x1d, vec![0; 8]),
        Page::fixed(0x2a, capabilities),
    ]
}
