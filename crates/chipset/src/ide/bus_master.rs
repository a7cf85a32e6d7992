//! The bus master of a channel: its registers and the walk through the physical region descriptor table.

use guest_memory::GuestMemory;
use storage::GuestRange;
use vm_memory::{Bytes, GuestAddress};

use super::registers::{BusMasterCommand, BusMasterStatus};

/// Most descriptors of a table, which must not cross a 64 KiB boundary. Bounds the walk.
const MOST_DESCRIPTORS: u32 = 64 * 1024 / 8;
const END_OF_TABLE: u32 = 1 << 31;

/// BMICX, BMISX and BMIDTPX.
#[derive(Debug, Default)]
pub(super) struct BusMaster {
    pub(super) command: BusMasterCommand,
    pub(super) status: BusMasterStatus,
    table: u32,
}

/// What a table has to say to a transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Walk {
    /// Bytes that the ranges hold, at most those asked for.
    pub(super) bytes: u64,
    /// The table ends where the transfer ends.
    pub(super) exhausted: bool,
}

/// The table, or what it points to, is not in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct MasterAbort;

impl BusMaster {
    /// Reads register 0–7.
    pub(super) fn read(&self, register: u8) -> u8 {
        match register {
            0 => self.command.into_bits(),
            2 => self.status.into_bits(),
            4..=7 => self.table.to_le_bytes()[usize::from(register) - 4],
            _ => 0,
        }
    }

    /// Writes register 0–7. True if the bus master has been started.
    pub(super) fn write(&mut self, register: u8, value: u8) -> bool {
        match register {
            0 => return self.write_command(value),
            2 => {
                let value = BusMasterStatus::from_bits(value);
                self.status = self
                    .status
                    .with_error(self.status.error() && !value.error())
                    .with_interrupt(self.status.interrupt() && !value.interrupt())
                    .with_first_capable(value.first_capable())
                    .with_second_capable(value.second_capable());
            }
            4..=7 => {
                let mut bytes = self.table.to_le_bytes();
                bytes[usize::from(register) - 4] = value;
                self.table = u32::from_le_bytes(bytes) & !3;
            }
            _ => {}
        }
        false
    }

    fn write_command(&mut self, value: u8) -> bool {
        let value = BusMasterCommand::from_bits(value);
        let started = value.start() && !self.command.start();
        self.command = BusMasterCommand::new().with_start(value.start()).with_to_memory(value.to_memory());
        if started {
            self.status.set_active(true);
        } else if !value.start() {
            self.status.set_active(false);
        }
        started
    }

    /// Puts the memory of the next `wanted` bytes into `ranges`.
    pub(super) fn walk(
        &self,
        memory: &GuestMemory,
        wanted: u64,
        ranges: &mut Vec<GuestRange>,
    ) -> Result<Walk, MasterAbort> {
        ranges.clear();
        let mut bytes = 0;
        for index in 0..MOST_DESCRIPTORS {
            let at = u64::from(self.table) + u64::from(index) * 8;
            let descriptor: u64 = memory.read_obj(GuestAddress(at)).map_err(|_| MasterAbort)?;
            let descriptor = u64::from_le(descriptor);
            let (base, control) = (descriptor as u32 & !1, (descriptor >> 32) as u32);
            let size = match u64::from(control & 0xfffe) {
                0 => 0x1_0000,
                size => size,
            };
            let len = size.min(wanted - bytes);
            ranges.push(GuestRange { gpa: base.into(), len });
            bytes += len;
            let last = control & END_OF_TABLE != 0;
            if bytes == wanted {
                return Ok(Walk { bytes, exhausted: last && len == size });
            }
            if last {
                return Ok(Walk { bytes, exhausted: true });
            }
        }
        Err(MasterAbort)
    }
}
