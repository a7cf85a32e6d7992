//! The log of pages that the guest has written: KVM_MEM_LOG_DIRTY_PAGES, with manual protection where the kernel has it
//! (*Documentation/virt/kvm/api.rst*, KVM_GET_DIRTY_LOG, KVM_CLEAR_DIRTY_LOG). With that, pages that stay clean cost
//! nothing when the log is read.

use std::sync::{Mutex, MutexGuard, PoisonError};

use kvm_bindings::{
    KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE, KVM_MEM_LOG_DIRTY_PAGES,
    kvm_enable_cap,
};
use kvm_ioctls::VmFd;
use processor::{DirtyLog, DirtyPages, Error};

use crate::host::KvmHost;
use crate::partition::{Shared, failed, failed_errno};
use crate::sys;

/// How a machine's log is kept.
pub struct DirtyState {
    /// Reading does not clear.
    manual: bool,
    /// Pages are noted.
    noting: Mutex<bool>,
}

impl DirtyState {
    /// For a machine that has no memory yet.
    pub fn new(host: &KvmHost, vm: &VmFd) -> Result<Self, Error> {
        let manual = host.has_manual_dirty_log();
        if manual {
            let capability = kvm_enable_cap {
                cap: KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2,
                args: [KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE.into(), 0, 0, 0],
                ..kvm_enable_cap::default()
            };
            vm.enable_cap(&capability).map_err(failed_errno("setting up KVM's log of written pages"))?;
        }
        Ok(Self { manual, noting: Mutex::new(false) })
    }

    fn noting(&self) -> MutexGuard<'_, bool> {
        self.noting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    /// Gives KVM all RAM that there is, with its pages noted if those of the rest are.
    pub fn map_memory(&self) -> Result<(), Error> {
        let noting = self.dirty.noting();
        let flags = if *noting { KVM_MEM_LOG_DIRTY_PAGES } else { 0 };
        sys::map_memory(&self.vm, &self.memory, flags).map_err(failed("giving further guest memory to KVM"))
    }
}

impl DirtyLog for Shared {
    fn start(&self) -> Result<(), Error> {
        let mut noting = self.dirty.noting();
        // What was noted before is forgotten.
        if *noting {
            sys::map_memory(&self.vm, &self.memory, 0)
                .map_err(failed("ending KVM's log of written pages"))?;
        }
        let started = sys::map_memory(&self.vm, &self.memory, KVM_MEM_LOG_DIRTY_PAGES);
        started.map_err(failed("starting KVM's log of written pages"))?;
        *noting = true;
        Ok(())
    }

    fn stop(&self) -> Result<(), Error> {
        let mut noting = self.dirty.noting();
        sys::map_memory(&self.vm, &self.memory, 0).map_err(failed("ending KVM's log of written pages"))?;
        *noting = false;
        Ok(())
    }

    fn take(&self) -> Result<Vec<DirtyPages>, Error> {
        let noting = self.dirty.noting();
        if !*noting {
            return Err(Error::NoDirtyLog);
        }
        let mut all = Vec::new();
        for slot in sys::ram_slots(&self.memory) {
            let size = usize::try_from(slot.size).unwrap_or(usize::MAX);
            let log = self.vm.get_dirty_log(slot.number, size);
            let mut bitmap = log.map_err(failed_errno("reading KVM's log of written pages"))?;
            if self.dirty.manual && bitmap.iter().any(|word| *word != 0) {
                let pages = u32::try_from(slot.size / guest_memory::PAGE_SIZE).unwrap_or(u32::MAX);
                let cleared = sys::clear_dirty_log(&self.vm, slot.number, pages, &mut bitmap);
                cleared.map_err(failed("clearing KVM's log of written pages"))?;
            }
            all.push(DirtyPages { start: slot.start, bitmap });
        }
        Ok(all)
    }
}
