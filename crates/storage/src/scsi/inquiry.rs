//! INQUIRY: standard data and vital product data (SPC-4, sections 6.6 and 7.8; SBC-3, section 6.5).

use super::Sense;
use super::cdb::{Cdb, allocate};
use crate::DiskInfo;

/// What INQUIRY says of a unit, but for the block pages.
pub(super) struct Identification<'a> {
    /// Peripheral device type: 0 disk, 5 optical drive.
    pub(super) device_type: u8,
    pub(super) removable: bool,
    pub(super) product: &'static [u8; 16],
    /// Version descriptors: the standards that the unit follows.
    pub(super) standards: &'static [u16],
    pub(super) identity: [u8; 16],
    pub(super) serial: &'a str,
    /// Medium of a disk, for its block pages.
    pub(super) disk: Option<&'a DiskInfo>,
}

const VENDOR: &[u8; 8] = b"Msft    ";
const REVISION: &[u8; 4] = b"1.0 ";
/// SPC-4.
const VERSION: u8 = 0x06;
/// The company id that Microsoft's disks have in their names.
const COMPANY_ID: u32 = 0x00_22_48;

const SUPPORTED_PAGES: u8 = 0x00;
const SERIAL_NUMBER: u8 = 0x80;
const IDENTIFICATION: u8 = 0x83;
const BLOCK_LIMITS: u8 = 0xb0;
const BLOCK_CHARACTERISTICS: u8 = 0xb1;
const PROVISIONING: u8 = 0xb2;

/// Most blocks of a WRITE SAME: bounds how long one command can keep the medium busy.
pub(super) const WRITE_SAME_MAX: u64 = 0x1_0000;

/// Answers an INQUIRY.
pub(super) fn inquiry(unit: &Identification<'_>, cdb: Cdb<'_>, reply: &mut Vec<u8>) -> Result<(), Sense> {
    let (vital, page) = (cdb.u8(1) & 1 != 0, cdb.u8(2));
    match (vital, page) {
        (false, 0) => standard(unit, reply),
        (false, _) => return Err(Sense::INVALID_FIELD_IN_CDB),
        (true, page) => {
            reply.extend_from_slice(&[unit.device_type, page, 0, 0]);
            vital_page(unit, page, reply)?;
            let len = (reply.len() - 4) as u16;
            reply[2..4].copy_from_slice(&len.to_be_bytes());
        }
    }
    allocate(reply, cdb.be16(3).into());
    Ok(())
}

fn standard(unit: &Identification<'_>, reply: &mut Vec<u8>) {
    const FORMAT: u8 = 0x02;
    const COMMAND_QUEUE: u8 = 0x02;
    let removable = if unit.removable { 0x80 } else { 0 };
    reply.extend_from_slice(&[unit.device_type, removable, VERSION, FORMAT, 91, 0, 0, COMMAND_QUEUE]);
    reply.extend_from_slice(VENDOR);
    reply.extend_from_slice(unit.product);
    reply.extend_from_slice(REVISION);
    reply.resize(58, 0);
    unit.standards.iter().for_each(|standard| reply.extend_from_slice(&standard.to_be_bytes()));
    reply.resize(96, 0);
}

fn vital_page(unit: &Identification<'_>, page: u8, reply: &mut Vec<u8>) -> Result<(), Sense> {
    match (page, unit.disk) {
        (SUPPORTED_PAGES, disk) => {
            reply.extend_from_slice(&[SUPPORTED_PAGES, SERIAL_NUMBER, IDENTIFICATION]);
            if disk.is_some() {
                reply.extend_from_slice(&[BLOCK_LIMITS, BLOCK_CHARACTERISTICS, PROVISIONING]);
            }
        }
        (SERIAL_NUMBER, _) => reply.extend_from_slice(unit.serial.as_bytes()),
        (IDENTIFICATION, _) => identification(unit, reply),
        (BLOCK_LIMITS, Some(disk)) => block_limits(disk, reply),
        (BLOCK_CHARACTERISTICS, Some(_)) => {
            const NON_ROTATING: u16 = 1;
            reply.extend_from_slice(&NON_ROTATING.to_be_bytes());
            reply.resize(64, 0);
        }
        (PROVISIONING, Some(disk)) => {
            const UNMAP: u8 = 0x80;
            const WRITE_SAME_16: u8 = 0x40;
            const WRITE_SAME_10: u8 = 0x20;
            const READS_ZEROES: u8 = 0x04;
            const THIN: u8 = 0x02;
            match disk.discard_granularity {
                0 => reply.extend_from_slice(&[0, 0, 0, 0]),
                _ => {
                    let flags = UNMAP | WRITE_SAME_16 | WRITE_SAME_10 | READS_ZEROES;
                    reply.extend_from_slice(&[0, flags, THIN, 0]);
                }
            }
        }
        _ => return Err(Sense::INVALID_FIELD_IN_CDB),
    }
    Ok(())
}

/// A name of the form T10 vendor and one of the form NAA IEEE Registered Extended.
fn identification(unit: &Identification<'_>, reply: &mut Vec<u8>) {
    const BINARY: u8 = 1;
    const ASCII: u8 = 2;
    const T10_VENDOR: u8 = 1;
    const NAA: u8 = 3;
    let hex: String = unit.identity.iter().map(|byte| format!("{byte:02x}")).collect();
    reply.extend_from_slice(&[ASCII, T10_VENDOR, 0, 8 + 32]);
    reply.extend_from_slice(VENDOR);
    reply.extend_from_slice(hex.as_bytes());
    reply.extend_from_slice(&[BINARY, NAA, 0, 16]);
    let head = 0x6000_0000 | COMPANY_ID << 4 | u32::from(unit.identity[0] & 0x0f);
    reply.extend_from_slice(&head.to_be_bytes());
    reply.extend_from_slice(&unit.identity[4..]);
}

fn block_limits(disk: &DiskInfo, reply: &mut Vec<u8>) {
    const WRITE_SAME_NON_ZERO: u8 = 1;
    let blocks = |bytes: u32| bytes / disk.logical_block;
    reply.extend_from_slice(&[WRITE_SAME_NON_ZERO, 0]);
    reply.extend_from_slice(&(blocks(disk.physical_block) as u16).to_be_bytes());
    // No limit on a transfer, none better than another, no prefetch.
    reply.extend_from_slice(&[0; 12]);
    let unmap: [u32; 4] = match disk.discard_granularity {
        0 => [0; 4],
        granularity => [u32::MAX, 1, blocks(granularity), 0x8000_0000],
    };
    unmap.iter().for_each(|field| reply.extend_from_slice(&field.to_be_bytes()));
    reply.extend_from_slice(&WRITE_SAME_MAX.to_be_bytes());
    reply.resize(64, 0);
}
