//! Registers that all processors of the partition share: the guest's identity, the hypercall page (TLFS,
//! "Establishing the Hypercall Interface") and the reference TSC page.
//!
//! The specification makes a write to the hypercall page fault. Here it is ordinary memory to the guest:
//! one that overwrites it harms itself only.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use guest_memory::GuestMemory;
use interrupt::GeneralProtection;
use tlfs::{PAGE_SIZE, PageMsr};

use crate::overlay::{Overlay, Page};

/// By which instruction a guest calls the hypervisor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Vendor {
    /// VMCALL.
    Intel,
    /// VMMCALL.
    Amd,
}

impl Vendor {
    /// The code of the hypercall page. It begins with ENDBR64, without which Linux gives up indirect
    /// branch tracking; processors without that treat it as a no-operation, in all modes.
    const fn code(self) -> [u8; 8] {
        match self {
            Self::Intel => [0xf3, 0x0f, 0x1e, 0xfa, 0x0f, 0x01, 0xc1, 0xc3],
            Self::Amd => [0xf3, 0x0f, 0x1e, 0xfa, 0x0f, 0x01, 0xd9, 0xc3],
        }
    }
}

/// INT3: what a guest meets that jumps anywhere else into the hypercall page.
const FILLER: u8 = 0xcc;

/// The shared registers.
pub(crate) struct Partition {
    memory: GuestMemory,
    vendor: Vendor,
    guest_os_id: AtomicU64,
    pages: Mutex<Pages>,
}

struct Pages {
    hypercall: PageMsr,
    hypercall_page: Overlay,
    reference_tsc: PageMsr,
    reference_tsc_page: Overlay,
}

impl Partition {
    pub fn new(memory: GuestMemory, vendor: Vendor) -> Self {
        Self {
            memory,
            vendor,
            guest_os_id: AtomicU64::new(0),
            pages: Mutex::new(Pages {
                hypercall: PageMsr::new(),
                hypercall_page: Overlay::new(),
                reference_tsc: PageMsr::new(),
                reference_tsc_page: Overlay::new(),
            }),
        }
    }

    fn pages(&self) -> MutexGuard<'_, Pages> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// GUEST_OS_ID; 0 until the guest has identified itself.
    #[inline]
    pub fn guest_os_id(&self) -> u64 {
        self.guest_os_id.load(Ordering::Acquire)
    }

    /// Writes GUEST_OS_ID. 0 disables the hypercall page.
    pub fn set_guest_os_id(&self, value: u64) {
        let mut pages = self.pages();
        self.guest_os_id.store(value, Ordering::Release);
        if value == 0 {
            pages.hypercall.set_enable(false);
            pages.hypercall_page.place(&self.memory, None);
        }
    }

    /// HYPERCALL.
    pub fn hypercall(&self) -> PageMsr {
        self.pages().hypercall
    }

    /// Writes HYPERCALL. A guest that has not identified itself cannot enable the page.
    ///
    /// # Errors
    /// When the register is locked or the page is not in memory.
    pub fn set_hypercall(&self, mut value: PageMsr) -> Result<(), GeneralProtection> {
        let mut pages = self.pages();
        if pages.hypercall.locked() {
            return Err(GeneralProtection);
        }
        if self.guest_os_id() == 0 {
            value.set_enable(false);
        }
        if !value.enable() {
            pages.hypercall_page.place(&self.memory, None);
        } else if pages.hypercall_page.at() != Some(value.gpa()) {
            let mut contents: Box<Page> = Box::new([FILLER; PAGE_SIZE]);
            contents[..8].copy_from_slice(&self.vendor.code());
            if !pages.hypercall_page.place_with(&self.memory, value.gpa(), &contents) {
                pages.hypercall.set_enable(false);
                return Err(GeneralProtection);
            }
        }
        pages.hypercall = value;
        Ok(())
    }

    /// REFERENCE_TSC.
    pub fn reference_tsc(&self) -> PageMsr {
        self.pages().reference_tsc
    }

    /// Writes REFERENCE_TSC; `contents` is the page. Outside RAM it is not accessible.
    pub fn set_reference_tsc(&self, value: PageMsr, contents: &Page) {
        let mut pages = self.pages();
        pages.reference_tsc = value;
        if value.enable() {
            pages.reference_tsc_page.place_with(&self.memory, value.gpa(), contents);
        } else {
            pages.reference_tsc_page.place(&self.memory, None);
        }
    }

    /// Back to the state after reset.
    pub fn reset(&self) {
        let mut pages = self.pages();
        self.guest_os_id.store(0, Ordering::Release);
        pages.hypercall = PageMsr::new();
        pages.hypercall_page.reset(&self.memory);
        pages.reference_tsc = PageMsr::new();
        pages.reference_tsc_page.reset(&self.memory);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vm_memory::{Bytes, GuestAddress};

    const PAGE: u64 = 0x2000;
    const ENABLE: u64 = 1;
    const LOCKED: u64 = 2;

    fn partition(vendor: Vendor) -> (Partition, GuestMemory) {
        let (memory, _) = guest_memory::allocate(0x8000).unwrap();
        memory.write_slice(&[0x55; 16], GuestAddress(PAGE)).unwrap();
        (Partition::new(memory.clone(), vendor), memory)
    }

    fn code(memory: &GuestMemory, gpa: u64) -> [u8; 9] {
        memory.read_obj(GuestAddress(gpa)).unwrap()
    }

    #[test]
    fn the_page_holds_the_vendors_call() {
        for (vendor, opcode) in [(Vendor::Intel, 0xc1), (Vendor::Amd, 0xd9)] {
            let (partition, memory) = partition(vendor);
            partition.set_guest_os_id(1);
            assert!(partition.set_hypercall(PageMsr::from_bits(PAGE | ENABLE)).is_ok());
            assert_eq!(code(&memory, PAGE), [0xf3, 0x0f, 0x1e, 0xfa, 0x0f, 0x01, opcode, 0xc3, 0xcc]);
        }
    }

    #[test]
    fn a_guest_without_identity_cannot_enable_the_page() {
        let (partition, memory) = partition(Vendor::Intel);
        assert!(partition.set_hypercall(PageMsr::from_bits(PAGE | ENABLE)).is_ok());
        assert_eq!(partition.hypercall().into_bits(), PAGE);
        assert_eq!(code(&memory, PAGE), [0x55; 9]);
    }

    #[test]
    fn losing_its_identity_disables_the_page() {
        let (partition, memory) = partition(Vendor::Intel);
        partition.set_guest_os_id(1);
        assert!(partition.set_hypercall(PageMsr::from_bits(PAGE | ENABLE)).is_ok());
        partition.set_guest_os_id(0);
        assert_eq!(partition.hypercall().into_bits(), PAGE);
        assert_eq!(code(&memory, PAGE), [0x55; 9]);
    }

    #[test]
    fn a_page_outside_memory_is_refused() {
        let (partition, _) = partition(Vendor::Intel);
        partition.set_guest_os_id(1);
        assert_eq!(partition.set_hypercall(PageMsr::from_bits(0x8000 | ENABLE)), Err(GeneralProtection));
        assert!(!partition.hypercall().enable());
    }

    #[test]
    fn a_locked_page_stays_until_reset() {
        let (partition, memory) = partition(Vendor::Intel);
        partition.set_guest_os_id(1);
        assert!(partition.set_hypercall(PageMsr::from_bits(PAGE | LOCKED | ENABLE)).is_ok());
        assert_eq!(partition.set_hypercall(PageMsr::from_bits(0)), Err(GeneralProtection));
        partition.reset();
        assert_eq!(code(&memory, PAGE), [0x55; 9]);
        assert!(partition.set_hypercall(PageMsr::from_bits(0)).is_ok());
    }

    #[test]
    fn reserved_bits_are_preserved() {
        let (partition, _) = partition(Vendor::Intel);
        assert!(partition.set_hypercall(PageMsr::from_bits(0xffc)).is_ok());
        assert_eq!(partition.hypercall().into_bits(), 0xffc);
    }

    #[test]
    fn the_tsc_page_moves_and_goes() {
        let (partition, memory) = partition(Vendor::Intel);
        partition.set_reference_tsc(PageMsr::from_bits(PAGE | ENABLE), &[7; PAGE_SIZE]);
        assert_eq!(code(&memory, PAGE), [7; 9]);
        partition.set_reference_tsc(PageMsr::from_bits(0x3000 | ENABLE), &[7; PAGE_SIZE]);
        assert_eq!((code(&memory, PAGE), code(&memory, 0x3000)), ([0x55; 9], [7; 9]));
        partition.set_reference_tsc(PageMsr::from_bits(0x3000), &[7; PAGE_SIZE]);
        assert_eq!(code(&memory, 0x3000), [0; 9]);
    }
}
