//! A virtual processor as the hypervisor interface sees it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use guest_memory::GuestMemory;

use crate::apic_side::ApicSide;
use crate::features::{Feature, Features};
use crate::reference_time::ReferenceTime;
use crate::stimer::SyntheticTimers;
use crate::synic::Synic;

/// Nanoseconds in the unit of VP_RUNTIME.
const RUNTIME_UNIT: u64 = 100;

pub(crate) struct Vp {
    pub apic_side: Arc<ApicSide>,
    pub synic: Synic,
    pub timers: SyntheticTimers,
    /// Nanoseconds in guest code.
    ran: AtomicU64,
}

impl Vp {
    pub fn new(memory: &GuestMemory, time: &Arc<ReferenceTime>, features: Features) -> Self {
        let apic_side = Arc::new(ApicSide::new(memory.clone()));
        Self {
            synic: Synic::new(memory.clone(), Arc::clone(&apic_side)),
            timers: SyntheticTimers::new(Arc::clone(time), features.contains(Feature::DirectTimers)),
            apic_side,
            ran: AtomicU64::new(0),
        }
    }

    pub fn add_runtime(&self, nanoseconds: u64) {
        self.ran.fetch_add(nanoseconds, Ordering::Relaxed);
    }

    /// VP_RUNTIME, as of when the processor last told how long it ran.
    pub fn runtime(&self) -> u64 {
        self.ran.load(Ordering::Relaxed) / RUNTIME_UNIT
    }

    /// Back to the state after reset. The runtime goes on.
    pub fn reset(&self) {
        self.timers.reset();
        self.synic.reset();
        self.apic_side.reset();
    }
}
