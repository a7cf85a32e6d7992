//! What memory KVM gives the guest, and the log of the pages of it that the guest has written.
//!
//! RAM stays where it is, and becomes more. Below 1 MiB slots come and go as the chipset steers accesses: read-only ones
//! for ROM and for RAM that is not to be written, whose writes come to the bus (KVM_MEM_READONLY). KVM does not change what
//! is behind a slot, nor whether it may be written: such a slot goes, and another comes in its place.
//!
//! The log is KVM_MEM_LOG_DIRTY_PAGES, with manual protection where the kernel has it (*Documentation/virt/kvm/api.rst*,
//! KVM_GET_DIRTY_LOG, KVM_CLEAR_DIRTY_LOG). With that, pages that stay clean cost nothing when the log is read.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use guest_memory::{GuestMemory, PAGE_SIZE, SHADOW, Shadow};
use kvm_bindings::{
    KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE, KVM_MEM_LOG_DIRTY_PAGES,
    kvm_enable_cap,
};
use kvm_ioctls::VmFd;
use processor::{DirtyLog, DirtyPages, Error};

use crate::host::KvmHost;
use crate::partition::{Shared, failed, failed_errno};
use crate::sys::{self, Slot};

/// The memory of a machine.
pub struct Slots {
    shadow: Arc<Shadow>,
    /// Reading the log does not clear it.
    manual: bool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Pages that are written are noted.
    noting: bool,
    /// The slots at [`SHADOW`] that KVM has.
    shadow: Vec<Slot>,
    /// A bit for each page there that was noted, or may have been, in slots that have gone.
    written: u64,
}

impl State {
    fn flags(&self) -> u32 {
        if self.noting { KVM_MEM_LOG_DIRTY_PAGES } else { 0 }
    }
}

/// A bit for each page of `slot`, which lies at [`SHADOW`].
fn pages(slot: &Slot) -> u64 {
    let page = |bytes: u64| bytes / PAGE_SIZE;
    let (first, count) = (page(slot.start - SHADOW.start), page(slot.size));
    u64::MAX.checked_shr(64_u32.saturating_sub(count as u32)).unwrap_or(0) << first
}

impl Slots {
    /// For a machine that has no memory yet.
    pub fn new(host: &KvmHost, vm: &VmFd, shadow: Arc<Shadow>) -> Result<Self, Error> {
        let manual = host.has_manual_dirty_log();
        if manual {
            let capability = kvm_enable_cap {
                cap: KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2,
                args: [KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE.into(), 0, 0, 0],
                ..kvm_enable_cap::default()
            };
            vm.enable_cap(&capability).map_err(failed_errno("setting up KVM's log of written pages"))?;
        }
        Ok(Self { shadow, manual, state: Mutex::default() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives KVM all of `memory` that there is, with its pages noted if those of the rest are.
    pub fn map_all(&self, vm: &VmFd, memory: &GuestMemory) -> Result<(), Error> {
        self.map(vm, memory, &mut self.state()).map_err(failed("giving guest memory to KVM"))
    }

    /// Gives KVM what the guest is to find at [`SHADOW`] now.
    pub fn steer(&self, vm: &VmFd, memory: &GuestMemory) -> Result<(), Error> {
        self.map_shadow(vm, memory, &mut self.state()).map_err(failed("changing what is ROM for KVM"))
    }

    fn map(&self, vm: &VmFd, memory: &GuestMemory, state: &mut State) -> std::io::Result<()> {
        sys::map(vm, &sys::ram_slots(memory), state.flags())?;
        self.map_shadow(vm, memory, state)
    }

    fn map_shadow(&self, vm: &VmFd, memory: &GuestMemory, state: &mut State) -> std::io::Result<()> {
        let wanted = sys::shadow_slots(memory, &self.shadow);
        let (stay, gone): (Vec<_>, _) = state.shadow.drain(..).partition(|slot| wanted.contains(slot));
        if state.noting {
            let writable = gone.iter().filter(|slot| !slot.read_only);
            state.written |= writable.fold(0, |bits, slot| bits | pages(slot));
        }
        state.shadow = stay;
        sys::unmap(vm, &gone)?;
        sys::map(vm, &wanted, state.flags())?;
        state.shadow = wanted;
        Ok(())
    }
}

impl Shared {
    /// Starts or stops noting written pages.
    fn note(&self, state: &mut State, noting: bool) -> std::io::Result<()> {
        state.noting = noting;
        state.written = 0;
        self.slots.map(&self.vm, &self.memory, state)
    }
}

impl DirtyLog for Shared {
    fn start(&self) -> Result<(), Error> {
        let state = &mut *self.slots.state();
        // What was noted before is forgotten.
        if state.noting {
            self.note(state, false).map_err(failed("ending KVM's log of written pages"))?;
        }
        let started = self.note(state, true);
        state.noting = started.is_ok();
        started.map_err(failed("starting KVM's log of written pages"))
    }

    fn stop(&self) -> Result<(), Error> {
        let stopped = self.note(&mut self.slots.state(), false);
        stopped.map_err(failed("ending KVM's log of written pages"))
    }

    fn take(&self) -> Result<Vec<DirtyPages>, Error> {
        let state = &mut *self.slots.state();
        if !state.noting {
            return Err(Error::NoDirtyLog);
        }
        let mut all =
            vec![DirtyPages { start: SHADOW.start, bitmap: vec![std::mem::take(&mut state.written)] }];
        let shadow = state.shadow.iter().filter(|slot| !slot.read_only).cloned();
        for slot in sys::ram_slots(&self.memory).into_iter().chain(shadow) {
            let size = usize::try_from(slot.size).unwrap_or(usize::MAX);
            let log = self.vm.get_dirty_log(slot.number, size);
            let mut bitmap = log.map_err(failed_errno("reading KVM's log of written pages"))?;
            if self.slots.manual && bitmap.iter().any(|word| *word != 0) {
                let pages = u32::try_from(slot.size / PAGE_SIZE).unwrap_or(u32::MAX);
                let cleared = sys::clear_dirty_log(&self.vm, slot.number, pages, &mut bitmap);
                cleared.map_err(failed("clearing KVM's log of written pages"))?;
            }
            all.push(DirtyPages { start: slot.start, bitmap });
        }
        Ok(all)
    }
}
