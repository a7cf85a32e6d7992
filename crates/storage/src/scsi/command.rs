//! The commands that there are: one table from which both dispatch and REPORT SUPPORTED OPERATION CODES
//! come, so that what is offered is what is carried out.

use super::Sense;
use super::cdb::{Cdb, allocate};

pub(super) const TEST_UNIT_READY: u8 = 0x00;
pub(super) const REQUEST_SENSE: u8 = 0x03;
pub(super) const READ_6: u8 = 0x08;
pub(super) const WRITE_6: u8 = 0x0a;
pub(super) const INQUIRY: u8 = 0x12;
pub(super) const MODE_SELECT_6: u8 = 0x15;
pub(super) const MODE_SENSE_6: u8 = 0x1a;
pub(super) const START_STOP_UNIT: u8 = 0x1b;
pub(super) const SEND_DIAGNOSTIC: u8 = 0x1d;
pub(super) const PREVENT_ALLOW: u8 = 0x1e;
pub(super) const READ_FORMAT_CAPACITIES: u8 = 0x23;
pub(super) const READ_CAPACITY_10: u8 = 0x25;
pub(super) const READ_10: u8 = 0x28;
pub(super) const WRITE_10: u8 = 0x2a;
pub(super) const SEEK_10: u8 = 0x2b;
pub(super) const WRITE_AND_VERIFY_10: u8 = 0x2e;
pub(super) const VERIFY_10: u8 = 0x2f;
pub(super) const SYNCHRONIZE_CACHE_10: u8 = 0x35;
pub(super) const WRITE_SAME_10: u8 = 0x41;
pub(super) const UNMAP: u8 = 0x42;
pub(super) const READ_TOC: u8 = 0x43;
pub(super) const GET_CONFIGURATION: u8 = 0x46;
pub(super) const GET_EVENT_STATUS: u8 = 0x4a;
pub(super) const READ_DISC_INFORMATION: u8 = 0x51;
pub(super) const READ_TRACK_INFORMATION: u8 = 0x52;
pub(super) const MODE_SELECT_10: u8 = 0x55;
pub(super) const MODE_SENSE_10: u8 = 0x5a;
pub(super) const READ_16: u8 = 0x88;
pub(super) const WRITE_16: u8 = 0x8a;
pub(super) const WRITE_AND_VERIFY_16: u8 = 0x8e;
pub(super) const VERIFY_16: u8 = 0x8f;
pub(super) const SYNCHRONIZE_CACHE_16: u8 = 0x91;
pub(super) const WRITE_SAME_16: u8 = 0x93;
pub(super) const SERVICE_ACTION_IN_16: u8 = 0x9e;
pub(super) const REPORT_LUNS: u8 = 0xa0;
pub(super) const MAINTENANCE_IN: u8 = 0xa3;
pub(super) const READ_12: u8 = 0xa8;
pub(super) const WRITE_12: u8 = 0xaa;
pub(super) const READ_DVD_STRUCTURE: u8 = 0xad;
pub(super) const WRITE_AND_VERIFY_12: u8 = 0xae;
pub(super) const VERIFY_12: u8 = 0xaf;
pub(super) const SET_CD_SPEED: u8 = 0xbb;
pub(super) const MECHANISM_STATUS: u8 = 0xbd;
pub(super) const READ_CD: u8 = 0xbe;

/// Service action READ CAPACITY (16) of SERVICE ACTION IN (16).
pub(super) const READ_CAPACITY_16_ACTION: u8 = 0x10;
/// Service action REPORT SUPPORTED OPERATION CODES of MAINTENANCE IN.
pub(super) const REPORT_OPCODES_ACTION: u8 = 0x0c;

/// A command of a unit: operation code, service action if it has one, and which bits of the CDB are
/// evaluated (SPC-4, section 6.35.3); the length of `usage` is the length of the CDB.
pub(super) struct Command {
    pub(super) opcode: u8,
    pub(super) action: Option<u8>,
    pub(super) usage: &'static [u8],
}

/// A command without a service action.
pub(super) const fn plain(opcode: u8, usage: &'static [u8]) -> Command {
    Command { opcode, action: None, usage }
}

/// A command with a service action.
pub(super) const fn action(opcode: u8, action: u8, usage: &'static [u8]) -> Command {
    Command { opcode, action: Some(action), usage }
}

/// Checks that `cdb` is one of `commands` and complete.
pub(super) fn find(commands: &[Command], cdb: Cdb<'_>) -> Result<(), Sense> {
    let opcode = *cdb.0.first().ok_or(Sense::INVALID_OPCODE)?;
    let mut known = false;
    for command in commands.iter().filter(|command| command.opcode == opcode) {
        known = true;
        if command.action.is_none_or(|action| action == cdb.u8(1) & 0x1f) {
            let complete = cdb.0.len() >= command.usage.len();
            return if complete { Ok(()) } else { Err(Sense::INVALID_FIELD_IN_CDB) };
        }
    }
    Err(if known { Sense::INVALID_FIELD_IN_CDB } else { Sense::INVALID_OPCODE })
}

/// REPORT SUPPORTED OPERATION CODES (SPC-4, section 6.35).
pub(super) fn report_opcodes(commands: &[Command], cdb: Cdb<'_>, reply: &mut Vec<u8>) -> Result<(), Sense> {
    let timeouts = cdb.u8(2) & 0x80 != 0;
    let (opcode, service_action) = (cdb.u8(3), cdb.be16(4));
    let matching = |command: &&Command| command.opcode == opcode;
    let has_actions = commands.iter().filter(matching).any(|command| command.action.is_some());
    let by_action = |command: &&Command| {
        command.opcode == opcode && command.action.map(u16::from).unwrap_or(0) == service_action
    };
    match cdb.u8(2) & 0x07 {
        0 => report_all(commands, timeouts, reply),
        1 if has_actions => return Err(Sense::INVALID_FIELD_IN_CDB),
        1 => report_one(commands.iter().find(matching), timeouts, reply),
        2 if !has_actions => return Err(Sense::INVALID_FIELD_IN_CDB),
        2 | 3 => report_one(commands.iter().find(by_action), timeouts, reply),
        _ => return Err(Sense::INVALID_FIELD_IN_CDB),
    }
    allocate(reply, cdb.be32(6) as usize);
    Ok(())
}

/// A command timeouts descriptor that names no times.
const TIMEOUTS: [u8; 12] = [0, 10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

fn report_all(commands: &[Command], timeouts: bool, reply: &mut Vec<u8>) {
    reply.extend_from_slice(&[0; 4]);
    for command in commands {
        let flags = u8::from(command.action.is_some()) | u8::from(timeouts) << 1;
        reply.extend_from_slice(&[command.opcode, 0, 0, command.action.unwrap_or(0), 0, flags]);
        reply.extend_from_slice(&(command.usage.len() as u16).to_be_bytes());
        if timeouts {
            reply.extend_from_slice(&TIMEOUTS);
        }
    }
    let len = (reply.len() - 4) as u32;
    reply[..4].copy_from_slice(&len.to_be_bytes());
}

fn report_one(command: Option<&Command>, timeouts: bool, reply: &mut Vec<u8>) {
    const NOT_SUPPORTED: u8 = 1;
    const AS_STANDARD: u8 = 3;
    let Some(command) = command else {
        reply.extend_from_slice(&[0, NOT_SUPPORTED, 0, 0]);
        return;
    };
    reply.extend_from_slice(&[0, AS_STANDARD | u8::from(timeouts) << 7]);
    reply.extend_from_slice(&(command.usage.len() as u16).to_be_bytes());
    reply.extend_from_slice(command.usage);
    if timeouts {
        reply.extend_from_slice(&TIMEOUTS);
    }
}
