//! The logical units behind one target port.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use super::cdb::{Cdb, allocate};
use super::{LogicalUnit, Outcome, Sense, command};

/// A target: units by number, which come and go while the guest runs.
#[derive(Default)]
pub struct Target {
    units: RwLock<BTreeMap<u8, Arc<dyn LogicalUnit>>>,
}

impl Target {
    /// A target without units.
    pub fn new() -> Self {
        Self::default()
    }

    /// Puts `unit` at `lun`. Returns what was there.
    pub fn attach(&self, lun: u8, unit: Arc<dyn LogicalUnit>) -> Option<Arc<dyn LogicalUnit>> {
        self.units.write().unwrap_or_else(PoisonError::into_inner).insert(lun, unit)
    }

    /// Takes the unit at `lun` away. Commands that have begun go on.
    pub fn detach(&self, lun: u8) -> Option<Arc<dyn LogicalUnit>> {
        self.units.write().unwrap_or_else(PoisonError::into_inner).remove(&lun)
    }

    /// The unit at `lun`.
    pub fn unit(&self, lun: u8) -> Option<Arc<dyn LogicalUnit>> {
        self.units.read().unwrap_or_else(PoisonError::into_inner).get(&lun).cloned()
    }

    /// The numbers of all units.
    pub fn luns(&self) -> Vec<u8> {
        self.units.read().unwrap_or_else(PoisonError::into_inner).keys().copied().collect()
    }

    /// Carries out a command for `lun`. `None` where no such unit is and the command is not one that the
    /// target itself answers.
    pub fn execute(&self, lun: u8, cdb: &[u8], parameters: &[u8], reply: &mut Vec<u8>) -> Option<Outcome> {
        if cdb.first() == Some(&command::REPORT_LUNS) {
            return Some(report_luns(&self.luns(), Cdb(cdb), reply).into());
        }
        Some(self.unit(lun)?.execute(cdb, parameters, reply))
    }
}

/// REPORT LUNS (SPC-4, section 6.33).
pub(super) fn report_luns(luns: &[u8], cdb: Cdb<'_>, reply: &mut Vec<u8>) -> Result<(), Sense> {
    reply.clear();
    let allocation = cdb.be32(6) as usize;
    if cdb.0.len() < 12 || cdb.u8(2) > 2 || allocation < 16 {
        return Err(Sense::INVALID_FIELD_IN_CDB);
    }
    // Report 1 asks for well-known units only, of which there are none.
    let luns = if cdb.u8(2) == 1 { &[] } else { luns };
    reply.extend_from_slice(&(luns.len() as u32 * 8).to_be_bytes());
    reply.extend_from_slice(&[0; 4]);
    for lun in luns {
        reply.extend_from_slice(&[0, *lun, 0, 0, 0, 0, 0, 0]);
    }
    allocate(reply, allocation);
    Ok(())
}
