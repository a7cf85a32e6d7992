//! What the local APIC of a virtual processor asks of the hypervisor interface: automatic end of
//! interrupt (TLFS, "SINTx Registers") and EOI assist (TLFS, "EOI Assist").
//!
//! The APIC calls with its lock held. Everything here takes leaf locks only and never calls an APIC:
//! message delivery that becomes possible at an end of interrupt is left to the timers' thread.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use clock::Timer;
use guest_memory::GuestMemory;
use interrupt::ApicAssist;
use tlfs::{PageMsr, SINT_COUNT, Sint, VirtualApicAssist};

use crate::overlay::{Overlay, atomic};

const NO_EOI_REQUIRED: u32 = VirtualApicAssist::new().with_no_eoi_required(true).into_bits();

/// The part of a virtual processor that its local APIC reaches.
pub(crate) struct ApicSide {
    memory: GuestMemory,
    /// SINT0–15.
    sints: [AtomicU64; SINT_COUNT],
    /// One bit for each vector that ends itself.
    auto_eoi: [AtomicU64; 4],
    /// One bit for each source whose queue holds messages.
    waiting: AtomicU32,
    assist: Mutex<Assist>,
    /// Retries delivery.
    retry: OnceLock<Box<dyn Timer>>,
}

struct Assist {
    msr: PageMsr,
    page: Overlay,
    /// "No EOI required" has been set for the interrupt in service.
    offered: bool,
    /// The guest took an offer before it could be withdrawn.
    taken: bool,
}

impl ApicSide {
    pub fn new(memory: GuestMemory) -> Self {
        Self {
            memory,
            sints: std::array::from_fn(|_| AtomicU64::new(Sint::RESET.into_bits())),
            auto_eoi: Default::default(),
            waiting: AtomicU32::new(0),
            assist: Mutex::new(Assist {
                msr: PageMsr::new(),
                page: Overlay::new(),
                offered: false,
                taken: false,
            }),
            retry: OnceLock::new(),
        }
    }

    /// Gives it the timer that retries message delivery.
    pub fn set_retry(&self, timer: Box<dyn Timer>) {
        self.retry.get_or_init(|| timer);
    }

    fn assist(&self) -> MutexGuard<'_, Assist> {
        self.assist.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// SINT `index`; the state after reset for one that does not exist.
    pub fn sint(&self, index: usize) -> Sint {
        self.sints.get(index).map_or(Sint::RESET, |sint| Sint::from_bits(sint.load(Ordering::Acquire)))
    }

    /// Writes SINT `index`. False if the vector is not allowed.
    pub fn set_sint(&self, index: usize, value: Sint) -> bool {
        // The value after reset, masked with vector 0, is written back by guests.
        if value.interrupts().is_some_and(|vector| vector < tlfs::FIRST_VECTOR) {
            return false;
        }
        let Some(sint) = self.sints.get(index) else { return false };
        // The lock keeps writers apart: the bits below derive from all sources.
        let _assist = self.assist();
        sint.store(value.into_bits(), Ordering::Release);
        let mut vectors = [0_u64; 4];
        for sint in (0..SINT_COUNT).map(|index| self.sint(index)) {
            if let Some(vector) = sint.interrupts().filter(|_| sint.auto_eoi()) {
                vectors[usize::from(vector >> 6)] |= 1 << (vector & 63);
            }
        }
        for (bits, new) in self.auto_eoi.iter().zip(vectors) {
            bits.store(new, Ordering::Release);
        }
        true
    }

    /// Whether source `index` has messages queued, as told by the SynIC.
    pub fn set_waiting(&self, index: usize, waiting: bool) {
        if waiting {
            self.waiting.fetch_or(1 << index, Ordering::SeqCst);
        } else {
            self.waiting.fetch_and(!(1 << index), Ordering::SeqCst);
        }
    }

    /// The sources that have messages queued, one bit each.
    pub fn waiting(&self) -> u32 {
        self.waiting.load(Ordering::SeqCst)
    }

    /// VP_ASSIST_PAGE.
    pub fn assist_page(&self) -> PageMsr {
        self.assist().msr
    }

    /// Writes VP_ASSIST_PAGE.
    pub fn set_assist_page(&self, value: PageMsr) {
        let mut assist = self.assist();
        assist.msr = value;
        let gpa = value.enable().then(|| value.gpa());
        // Outside RAM there is no page, and thus no assist.
        assist.page.place(&self.memory, gpa);
    }

    /// Back to the state after reset.
    pub fn reset(&self) {
        for index in 0..SINT_COUNT {
            self.set_sint(index, Sint::RESET);
        }
        self.waiting.store(0, Ordering::SeqCst);
        let mut assist = self.assist();
        assist.msr = PageMsr::new();
        assist.page.reset(&self.memory);
        assist.offered = false;
        assist.taken = false;
    }
}

impl ApicAssist for ApicSide {
    fn auto_eoi(&self, vector: u8) -> bool {
        self.auto_eoi[usize::from(vector >> 6)].load(Ordering::Acquire) & (1 << (vector & 63)) != 0
    }

    fn offer_skipped_eoi(&self, offer: bool) -> bool {
        let mut assist = self.assist();
        if offer {
            let set = |word: &AtomicU32| word.fetch_or(NO_EOI_REQUIRED, Ordering::SeqCst);
            let written = assist.page.at().and_then(|gpa| atomic(&self.memory, gpa, set)).is_some();
            assist.offered |= written;
            return written;
        }
        if std::mem::take(&mut assist.offered) {
            // If the page has gone meanwhile, the overlay still knows whether the guest took the offer.
            let old = assist.page.clear_bits(&self.memory, NO_EOI_REQUIRED);
            assist.taken |= old & NO_EOI_REQUIRED == 0;
        }
        assist.page.at().is_some()
    }

    fn take_skipped_eoi(&self) -> bool {
        let mut assist = self.assist();
        if assist.offered && assist.page.word(&self.memory) & NO_EOI_REQUIRED == 0 {
            assist.offered = false;
            assist.taken = true;
        }
        std::mem::take(&mut assist.taken)
    }

    fn ended(&self, vector: u8) {
        let waiting = self.waiting();
        if waiting == 0 {
            return;
        }
        let of_vector =
            (0..SINT_COUNT).any(|index| waiting & (1 << index) != 0 && self.sint(index).vector() == vector);
        if let Some(retry) = self.retry.get().filter(|_| of_vector) {
            retry.arm(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vm_memory::{Bytes, GuestAddress};

    const PAGE: u64 = 0x2000;

    fn with_page() -> (ApicSide, GuestMemory) {
        let (memory, _) = guest_memory::allocate(0x4000).unwrap();
        let side = ApicSide::new(memory.clone());
        side.set_assist_page(PageMsr::from_bits(PAGE | 1));
        (side, memory)
    }

    fn guest_ends_interrupt(memory: &GuestMemory, gpa: u64) -> bool {
        atomic(memory, gpa, |word: &AtomicU32| word.swap(0, Ordering::SeqCst)).unwrap() & 1 != 0
    }

    #[test]
    fn without_a_page_there_is_no_offer() {
        let (memory, _) = guest_memory::allocate(0x4000).unwrap();
        let side = ApicSide::new(memory);
        assert!(!side.offer_skipped_eoi(true));
        assert!(!side.take_skipped_eoi());
        side.set_assist_page(PageMsr::from_bits(0x10_0000 | 1));
        assert!(!side.offer_skipped_eoi(true), "outside memory");
    }

    #[test]
    fn an_offer_is_taken_once() {
        let (side, memory) = with_page();
        assert!(side.offer_skipped_eoi(true));
        assert!(!side.take_skipped_eoi());
        assert!(guest_ends_interrupt(&memory, PAGE));
        assert!(side.take_skipped_eoi());
        assert!(!side.take_skipped_eoi());
    }

    #[test]
    fn a_withdrawn_offer_is_not_taken() {
        let (side, memory) = with_page();
        side.offer_skipped_eoi(true);
        assert!(side.offer_skipped_eoi(false));
        assert!(!guest_ends_interrupt(&memory, PAGE));
        assert!(!side.take_skipped_eoi());
    }

    #[test]
    fn a_guest_that_is_quicker_than_the_withdrawal_has_ended_the_interrupt() {
        let (side, memory) = with_page();
        side.offer_skipped_eoi(true);
        guest_ends_interrupt(&memory, PAGE);
        side.offer_skipped_eoi(false);
        assert!(side.take_skipped_eoi());
    }

    #[test]
    fn an_offer_outlives_the_page() {
        let (side, memory) = with_page();
        side.offer_skipped_eoi(true);
        guest_ends_interrupt(&memory, PAGE);
        side.set_assist_page(PageMsr::new());
        assert!(side.take_skipped_eoi());

        side.set_assist_page(PageMsr::from_bits(PAGE | 1));
        side.offer_skipped_eoi(true);
        side.set_assist_page(PageMsr::from_bits(0x3000 | 1));
        assert!(!side.take_skipped_eoi());
        assert!(guest_ends_interrupt(&memory, 0x3000));
        assert!(side.take_skipped_eoi());
    }

    #[test]
    fn the_page_that_was_covered_comes_back() {
        let (side, memory) = with_page();
        side.offer_skipped_eoi(true);
        side.reset();
        assert_eq!(memory.read_obj::<u32>(GuestAddress(PAGE)).unwrap(), 0);
        assert_eq!(side.assist_page().into_bits(), 0);
    }

    #[test]
    fn a_vector_ends_itself_while_an_unmasked_source_says_so() {
        let (side, _) = with_page();
        let source = Sint::new().with_vector(0x82).with_auto_eoi(true);
        assert!(side.set_sint(2, source));
        assert!(side.auto_eoi(0x82));
        assert!(!side.auto_eoi(0x83));
        assert!(side.set_sint(2, source.with_masked(true)));
        assert!(!side.auto_eoi(0x82));
    }

    #[test]
    fn vectors_below_sixteen_are_refused_unless_masked() {
        let (side, _) = with_page();
        assert!(!side.set_sint(1, Sint::new().with_vector(15)));
        assert!(side.set_sint(1, Sint::RESET));
        assert!(side.set_sint(1, Sint::new().with_polling(true)));
        assert!(side.set_sint(1, Sint::new().with_vector(16)));
    }
}
