//! Interrupt routes of the kernel: inputs of the IOAPIC, of whose ends KVM tells us, and synthetic sources, each of
//! which has an eventfd.
//!
//! ```text
//! GSI 0–23   messages of the IOAPIC's inputs that are level triggered: for the ends of interrupts only, the
//!            messages themselves go by KVM_SIGNAL_MSI
//! GSI 24…    source s of processor p, in the order of their first interrupt
//! ```

use std::collections::BTreeMap;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};

use interrupt::Message;
use kvm_bindings::{KvmIrqRouting, kvm_irq_routing_entry};
use kvm_ioctls::VmFd;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::sys;

/// Inputs of the IOAPIC: the GSIs of which KVM tells the ends of level-triggered interrupts.
pub const IOAPIC_INPUTS: u32 = 24;
/// Bit of a message's data that says level.
const LEVEL: u32 = 1 << 15;

#[derive(Default)]
struct Table {
    /// Messages of level-triggered inputs.
    inputs: BTreeMap<u32, Message>,
    /// Processor and source of GSIs from [`IOAPIC_INPUTS`].
    sints: Vec<(u32, u32)>,
}

impl Table {
    fn entries(&self) -> Vec<kvm_irq_routing_entry> {
        let inputs =
            self.inputs.iter().map(|(gsi, message)| sys::message_route(*gsi, message.address, message.data));
        let sints =
            (IOAPIC_INPUTS..).zip(&self.sints).map(|(gsi, (vp, sint))| sys::sint_route(gsi, *vp, *sint));
        inputs.chain(sints).collect()
    }

    fn tell(&self, vm: &VmFd) -> io::Result<()> {
        let table = KvmIrqRouting::from_entries(&self.entries());
        let table = table.map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
        vm.set_gsi_routing(&table).map_err(io::Error::from)
    }
}

/// The routes of a machine.
#[derive(Default)]
pub struct Routes {
    table: Mutex<Table>,
    sints: RwLock<BTreeMap<(u32, u32), EventFd>>,
}

impl Routes {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Input `input` of the IOAPIC sends `message` from now on, if it is not masked.
    pub fn set_input(&self, vm: &VmFd, input: u32, message: Option<Message>) -> io::Result<()> {
        let level = message.filter(|message| message.data & LEVEL != 0 && input < IOAPIC_INPUTS);
        let mut table = self.table();
        let before = match level {
            Some(message) => table.inputs.insert(input, message),
            // Its end is still to be told when it is masked while it is in service: the route stays.
            None if message.is_none() => return Ok(()),
            None => table.inputs.remove(&input),
        };
        if before == level { Ok(()) } else { table.tell(vm) }
    }

    /// Interrupts processor `vp` by its source `sint`, as the guest has set it up.
    pub fn raise(&self, vm: &VmFd, vp: u32, sint: u32) -> io::Result<()> {
        let sints = self.sints.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(eventfd) = sints.get(&(vp, sint)) {
            return eventfd.write(1);
        }
        drop(sints);
        let mut sints = self.sints.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(eventfd) = sints.get(&(vp, sint)) {
            return eventfd.write(1);
        }
        let eventfd = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?;
        let mut table = self.table();
        let gsi = IOAPIC_INPUTS + table.sints.len() as u32;
        table.sints.push((vp, sint));
        if let Err(error) = table.tell(vm) {
            table.sints.pop();
            return Err(error);
        }
        if let Err(error) = vm.register_irqfd(&eventfd, gsi) {
            table.sints.pop();
            table.tell(vm)?;
            return Err(error.into());
        }
        eventfd.write(1)?;
        sints.insert((vp, sint), eventfd);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_have_gsis_behind_the_ioapics_inputs() {
        let mut table = Table::default();
        table.inputs.insert(9, Message { address: 0xfee0_1000, data: 0x8031 });
        table.sints.extend([(0, 2), (1, 2)]);
        let entries = table.entries();
        let numbers: Vec<_> = entries.iter().map(|entry| (entry.gsi, entry.type_)).collect();
        assert_eq!(numbers, [(9, 2), (24, 4), (25, 4)]);
    }
}
