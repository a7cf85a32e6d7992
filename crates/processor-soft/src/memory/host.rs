//! Guest RAM as the host sees it: where its regions lie, and accesses of guest code to it.
//!
//! Every access is exactly one host instruction of the same size, so that the guest gets the atomicity
//! and the order that the architecture promises it: host and guest have the same memory model.

use std::arch::asm;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use guest_memory::{Attributes, CodePages, DEVICE_HOLE_END, GuestMemory, PAGE_SHIFT, SHADOW, Shadow};
use vm_memory::{GuestMemoryBackend, GuestMemoryRegion, MemoryRegionAddress};

use super::Word;

/// The legacy video window, which is never RAM to a processor. The addresses behind it are [`SHADOW`].
const VIDEO_START: u64 = 0xa_0000;

/// Regions of guest RAM in host memory. Their ends are those of the host's memory; how much of it is the guest's,
/// `memory` knows.
pub struct HostMemory {
    low: *mut u8,
    low_end: u64,
    high: *mut u8,
    high_end: u64,
    /// Memory that is read and run, and never written.
    rom: *mut u8,
    rom_start: u64,
    rom_end: u64,
    shadow: Arc<Shadow>,
    code: Arc<CodePages>,
    /// Keep the mappings alive.
    memory: GuestMemory,
    _rom: Option<GuestMemory>,
}

// SAFETY: the pointers lead to mappings that `memory` keeps alive and that any thread may access by the
// functions of this module.
unsafe impl Send for HostMemory {}

impl HostMemory {
    pub fn new(
        memory: GuestMemory,
        rom: Option<GuestMemory>,
        shadow: Arc<Shadow>,
        code: Arc<CodePages>,
    ) -> Self {
        let mut found = Self {
            low: std::ptr::null_mut(),
            low_end: 0,
            high: std::ptr::null_mut(),
            high_end: 0,
            rom: std::ptr::null_mut(),
            rom_start: 0,
            rom_end: 0,
            shadow,
            code,
            memory: memory.clone(),
            _rom: rom.clone(),
        };
        if let Some(region) = rom.as_ref().and_then(|rom| rom.iter().next())
            && let Ok(pointer) = region.get_host_address(MemoryRegionAddress(0))
        {
            let start = region.start_addr().0;
            (found.rom, found.rom_start, found.rom_end) = (pointer, start, start + region.len());
        }
        for span in memory.spans() {
            match span.range.start {
                0 => (found.low, found.low_end) = (span.pointer(), span.range.end),
                DEVICE_HOLE_END => (found.high, found.high_end) = (span.pointer(), span.range.end),
                _ => {}
            }
        }
        found
    }

    #[inline]
    fn is_rom(&self, gpa: u64) -> bool {
        (self.rom_start..self.rom_end).contains(&gpa)
    }

    /// Whether memory at guest physical address `gpa` may be written as it is found by [`Self::pointer`]; if not, writes
    /// are the bus's.
    #[inline]
    pub fn is_writable(&self, gpa: u64) -> bool {
        !self.is_rom(gpa) && self.shadow.attributes(gpa) == Attributes::RAM
    }

    /// Where guest physical address `gpa` is in host memory, good to the end of its page. Null if it is neither
    /// RAM nor ROM.
    #[inline]
    pub fn pointer(&self, gpa: u64) -> *mut u8 {
        let top = self.memory.top();
        if gpa < self.low_end && gpa < top {
            if (VIDEO_START..SHADOW.end).contains(&gpa) {
                return self.below_one_mib(gpa);
            }
            self.low.wrapping_add(gpa as usize)
        } else if gpa >= DEVICE_HOLE_END && gpa < self.high_end && gpa < top {
            self.high.wrapping_add((gpa - DEVICE_HOLE_END) as usize)
        } else if self.is_rom(gpa) {
            self.rom.wrapping_add((gpa - self.rom_start) as usize)
        } else {
            std::ptr::null_mut()
        }
    }

    #[cold]
    fn below_one_mib(&self, gpa: u64) -> *mut u8 {
        if gpa < SHADOW.start {
            std::ptr::null_mut()
        } else if self.shadow.attributes(gpa).read {
            self.low.wrapping_add(gpa as usize)
        } else {
            self.shadow.rom_pointer(gpa)
        }
    }

    /// The word of the page of `gpa` in [`CodePages`]; null if it is not RAM.
    #[inline]
    pub fn code_word(&self, gpa: u64) -> *const AtomicU32 {
        self.code.word(gpa >> PAGE_SHIFT).map_or(std::ptr::null(), std::ptr::from_ref)
    }

    pub fn code(&self) -> &CodePages {
        &self.code
    }

    /// Whether the page of `word` held decoded code, which the store just made has ended.
    ///
    /// # Safety
    /// `word` comes from [`Self::code_word`] of a page of RAM.
    #[inline(always)]
    pub unsafe fn word_written(&self, word: *const AtomicU32) -> bool {
        // SAFETY: as the caller promises, the word exists.
        let word = unsafe { &*word };
        CodePages::word_has_code(word) && self.code.word_written(word)
    }
}

/// Whether the page of `word` holds decoded code.
///
/// # Safety
/// `word` comes from [`HostMemory::code_word`] of a page of RAM of a machine that is alive.
#[inline(always)]
pub unsafe fn has_code(word: *const AtomicU32) -> bool {
    // SAFETY: as the caller promises, the word exists.
    CodePages::word_has_code(unsafe { &*word })
}

/// Loads an integer.
///
/// # Safety
/// `pointer` leads to `T::SIZE` bytes of guest RAM.
#[inline(always)]
pub unsafe fn load<T: Word>(pointer: *const u8) -> T {
    let value: u64;
    // SAFETY: the bytes are mapped, says the caller; one load, which other threads may race with as on the
    // real machine.
    unsafe {
        match T::SIZE {
            1 => {
                asm!("movzx {0:e}, byte ptr [{1}]", out(reg) value, in(reg) pointer, options(nostack, preserves_flags, readonly))
            }
            2 => {
                asm!("movzx {0:e}, word ptr [{1}]", out(reg) value, in(reg) pointer, options(nostack, preserves_flags, readonly))
            }
            4 => {
                asm!("mov {0:e}, dword ptr [{1}]", out(reg) value, in(reg) pointer, options(nostack, preserves_flags, readonly))
            }
            _ => {
                asm!("mov {0}, qword ptr [{1}]", out(reg) value, in(reg) pointer, options(nostack, preserves_flags, readonly))
            }
        }
    }
    T::from_u64(value)
}

/// Stores an integer.
///
/// # Safety
/// `pointer` leads to `T::SIZE` bytes of guest RAM.
#[inline(always)]
pub unsafe fn store<T: Word>(pointer: *mut u8, value: T) {
    let value = value.to_u64();
    // SAFETY: as for `load`.
    unsafe {
        match T::SIZE {
            1 => {
                asm!("mov byte ptr [{1}], {0}", in(reg_byte) value as u8, in(reg) pointer, options(nostack, preserves_flags))
            }
            2 => {
                asm!("mov word ptr [{1}], {0:x}", in(reg) value, in(reg) pointer, options(nostack, preserves_flags))
            }
            4 => {
                asm!("mov dword ptr [{1}], {0:e}", in(reg) value, in(reg) pointer, options(nostack, preserves_flags))
            }
            _ => {
                asm!("mov qword ptr [{1}], {0}", in(reg) value, in(reg) pointer, options(nostack, preserves_flags))
            }
        }
    }
}

/// Stores `count` times `value`, upwards.
///
/// # Safety
/// `pointer` leads to `count` times `T::SIZE` bytes of guest RAM.
pub unsafe fn fill<T: Word>(pointer: *mut u8, value: T, count: usize) {
    let value = value.to_u64();
    // SAFETY: as for `store`; the direction flag is clear in Rust code.
    unsafe {
        match T::SIZE {
            1 => {
                asm!("rep stosb", in("al") value as u8, inout("rdi") pointer => _, inout("rcx") count => _, options(nostack, preserves_flags))
            }
            2 => {
                asm!("rep stosw", in("ax") value as u16, inout("rdi") pointer => _, inout("rcx") count => _, options(nostack, preserves_flags))
            }
            4 => {
                asm!("rep stosd", in("eax") value as u32, inout("rdi") pointer => _, inout("rcx") count => _, options(nostack, preserves_flags))
            }
            _ => {
                asm!("rep stosq", in("rax") value, inout("rdi") pointer => _, inout("rcx") count => _, options(nostack, preserves_flags))
            }
        }
    }
}

/// LOCK CMPXCHG, whatever the alignment: returns what was there; `new` is stored if that was `expected`.
///
/// # Safety
/// `pointer` leads to `T::SIZE` bytes of guest RAM.
#[inline(always)]
pub unsafe fn compare_exchange<T: Word>(pointer: *mut u8, expected: T, new: T) -> T {
    let mut value = expected.to_u64();
    let new = new.to_u64();
    // SAFETY: as for `load`.
    unsafe {
        match T::SIZE {
            1 => {
                asm!("lock cmpxchg byte ptr [{1}], {0}", in(reg_byte) new as u8, in(reg) pointer, inout("rax") value, options(nostack))
            }
            2 => {
                asm!("lock cmpxchg word ptr [{1}], {0:x}", in(reg) new, in(reg) pointer, inout("rax") value, options(nostack))
            }
            4 => {
                asm!("lock cmpxchg dword ptr [{1}], {0:e}", in(reg) new, in(reg) pointer, inout("rax") value, options(nostack))
            }
            _ => {
                asm!("lock cmpxchg qword ptr [{1}], {0}", in(reg) new, in(reg) pointer, inout("rax") value, options(nostack))
            }
        }
    }
    T::from_u64(value)
}

/// LOCK CMPXCHG16B: returns what was there.
///
/// # Safety
/// `pointer` is aligned to 16 bytes and leads to 16 bytes of guest RAM.
pub unsafe fn compare_exchange_16(pointer: *mut u8, expected: u128, new: u128) -> u128 {
    let (mut low, mut high) = (expected as u64, (expected >> 64) as u64);
    // SAFETY: as for `load`; RBX, which the compiler keeps for itself, is restored.
    unsafe {
        asm!(
            "xchg rbx, rsi",
            "lock cmpxchg16b xmmword ptr [rdi]",
            "mov rbx, rsi",
            inout("rsi") new as u64 => _,
            in("rdi") pointer,
            inout("rax") low,
            inout("rdx") high,
            in("rcx") (new >> 64) as u64,
            options(nostack),
        );
    }
    u128::from(high) << 64 | u128::from(low)
}

/// Copies bytes of guest RAM to `data`, in no particular order.
///
/// # Safety
/// `pointer` leads to `data.len()` bytes of guest RAM.
pub unsafe fn load_bytes(pointer: *const u8, data: &mut [u8]) {
    // SAFETY: both sides are as long as the caller says and cannot overlap: `data` is no guest memory.
    // REP MOVSB is an access by the machine, not by the language, so races are harmless.
    unsafe {
        asm!("rep movsb", inout("rsi") pointer => _, inout("rdi") data.as_mut_ptr() => _, inout("rcx") data.len() => _,
            options(nostack, preserves_flags));
    }
}

/// Copies `data` to guest RAM, in no particular order.
///
/// # Safety
/// `pointer` leads to `data.len()` bytes of guest RAM.
pub unsafe fn store_bytes(pointer: *mut u8, data: &[u8]) {
    // SAFETY: as for `load_bytes`.
    unsafe {
        asm!("rep movsb", inout("rsi") data.as_ptr() => _, inout("rdi") pointer => _, inout("rcx") data.len() => _,
            options(nostack, preserves_flags));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_is_added_is_found_from_then_on() {
        const MIB: u64 = 1 << 20;
        let high = DEVICE_HOLE_END..DEVICE_HOLE_END + 128 * MIB;
        let layout =
            guest_memory::Layout { size: 128 * MIB, more: vec![128 * MIB..256 * MIB, high], rom: 0..0 };
        let (memory, code) = guest_memory::allocate_as(&layout).unwrap();
        let host = HostMemory::new(memory.clone(), None, Arc::default(), code);
        let addresses = [128 * MIB - 1, 128 * MIB, 256 * MIB - 1, 256 * MIB, DEVICE_HOLE_END];
        let found = || addresses.map(|gpa| !host.pointer(gpa).is_null());
        assert_eq!(found(), [true, false, false, false, false]);
        memory.grow();
        assert_eq!(found(), [true, true, true, false, false]);
        memory.grow();
        assert_eq!(found(), [true, true, true, false, true]);
    }
}
