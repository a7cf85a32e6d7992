//! Guest memory as instructions see it: segmentation, paging, the software TLB.
//!
//! ```text
//! offset ─ segment ─▶ linear ─ mmu (TLB) ─▶ host address          the inline path of this file
//!                        └───── slow ─ walk ─▶ RAM, APIC page, Bus  everything else
//! ```

mod block;
mod fetched;
pub mod host;
mod mmu;
mod segment;
mod slow;
#[cfg(test)]
mod tests;
mod walk;

use std::ptr::NonNull;
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, PoisonError};

use crate::fault::Fault;
use crate::registers::Seg;
use crate::vcpu::Vcpu;

pub use mmu::{CODE_KEY_FREE, Class, Mmu, mmu_offset};

/// Bytes of a line of the host's caches.
const CACHE_LINE: usize = 64;

/// An integer that instructions read and write.
pub trait Word: Copy + Eq + std::fmt::Debug + Send + 'static {
    /// Size in bytes.
    const SIZE: usize;
    fn from_u64(value: u64) -> Self;
    fn to_u64(self) -> u64;
}

macro_rules! word {
    ($($t:ty),*) => {$(
        impl Word for $t {
            const SIZE: usize = size_of::<$t>();
            #[inline(always)]
            fn from_u64(value: u64) -> Self {
                value as $t
            }
            #[inline(always)]
            fn to_u64(self) -> u64 {
                u64::from(self)
            }
        }
    )*};
}
word!(u8, u16, u32, u64);

/// What an access wants to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    Read,
    Write,
}

/// One page of code.
#[derive(Debug, Clone, Copy)]
pub struct CodePage {
    /// Guest physical address of the byte asked for.
    pub gpa: u64,
    /// The same byte in host memory; `None` if the page is not RAM.
    pub host: Option<NonNull<u8>>,
}

impl Vcpu {
    /// The linear address of `offset` in `seg`, with the checks of the segment but not those of the linear
    /// address.
    #[inline(always)]
    fn segment_address(&mut self, seg: Seg, offset: u64, len: usize, access: Access) -> Result<u64, Fault> {
        if matches!(seg, Seg::Flat | Seg::FlatStack) {
            return Ok(offset);
        }
        if self.checked_segments >> (seg as u8) & 1 != 0 {
            return self.linear_checked(seg, offset, len as u64, access);
        }
        Ok(self.segments[seg as usize].base.wrapping_add(offset))
    }

    /// The linear address of an operand, unless its segment needs checks.
    #[inline(always)]
    fn unchecked_address(&self, seg: Seg, offset: u64) -> Option<u64> {
        if matches!(seg, Seg::Flat | Seg::FlatStack) {
            return Some(offset);
        }
        (self.checked_segments >> (seg as u8) & 1 == 0)
            .then(|| self.segments[seg as usize].base.wrapping_add(offset))
    }

    /// As [`Self::read`] where the TLB has the page; otherwise `None`, and nothing has happened. It calls
    /// nothing, so that handlers built around it need no stack.
    #[inline(always)]
    pub fn try_read<T: Word>(&self, seg: Seg, offset: u64) -> Option<T> {
        let linear = self.unchecked_address(seg, offset)?;
        let (entry, tag) = self.mmu.look_up(linear, T::SIZE);
        if entry.read != tag {
            return None;
        }
        // SAFETY: a matching entry leads to a page of RAM that holds all bytes of the operand.
        Some(unsafe { host::load((linear as usize).wrapping_add(entry.addend) as *const u8) })
    }

    /// As [`Self::write`] where the TLB has the page; otherwise `None`, and nothing has happened. True if
    /// the page may hold decoded code: [`Self::host_written`] must follow.
    #[inline(always)]
    pub fn try_write<T: Word>(&mut self, seg: Seg, offset: u64, value: T) -> Option<bool> {
        let linear = self.unchecked_address(seg, offset)?;
        let (entry, tag) = self.mmu.look_up(linear, T::SIZE);
        if entry.write != tag {
            return None;
        }
        let word = entry.word;
        // SAFETY: as for `try_read`; the word belongs to the page.
        let code = unsafe {
            host::store((linear as usize).wrapping_add(entry.addend) as *mut u8, value);
            host::has_code(word)
        };
        if code {
            self.mmu.last_write = word;
        }
        Some(code)
    }

    /// As [`Self::modify`] where the TLB has the page; otherwise `None`, and nothing has happened. With the
    /// result of `f` whether the page may hold decoded code: [`Self::host_written`] must follow.
    #[inline(always)]
    pub fn try_modify<T: Word, R>(
        &mut self,
        seg: Seg,
        offset: u64,
        f: impl FnOnce(T) -> (T, R),
    ) -> Option<(R, bool)> {
        let linear = self.unchecked_address(seg, offset)?;
        let (entry, tag) = self.mmu.look_up(linear, T::SIZE);
        if entry.write != tag {
            return None;
        }
        let word = entry.word;
        let pointer = (linear as usize).wrapping_add(entry.addend) as *mut u8;
        // SAFETY: as for `try_write`.
        let (result, code) = unsafe {
            let (new, result) = f(host::load(pointer));
            host::store(pointer, new);
            (result, host::has_code(word))
        };
        if code {
            self.mmu.last_write = word;
        }
        Some((result, code))
    }

    /// Reads an operand at `offset` in `seg`.
    #[inline(always)]
    pub fn read<T: Word>(&mut self, seg: Seg, offset: u64) -> Result<T, Fault> {
        let linear = self.segment_address(seg, offset, T::SIZE, Access::Read)?;
        let (entry, tag) = self.mmu.look_up(linear, T::SIZE);
        if entry.read == tag {
            // SAFETY: a matching entry leads to a page of RAM that holds all bytes of the operand.
            return Ok(unsafe { host::load((linear as usize).wrapping_add(entry.addend) as *const u8) });
        }
        Ok(T::from_u64(self.read_slow(seg, linear, T::SIZE)?))
    }

    /// Writes an operand.
    #[inline(always)]
    pub fn write<T: Word>(&mut self, seg: Seg, offset: u64, value: T) -> Result<(), Fault> {
        let linear = self.segment_address(seg, offset, T::SIZE, Access::Write)?;
        let (entry, tag) = self.mmu.look_up(linear, T::SIZE);
        if entry.write == tag {
            let word = entry.word;
            // SAFETY: as for `read`; the word belongs to the page.
            unsafe {
                host::store((linear as usize).wrapping_add(entry.addend) as *mut u8, value);
                if self.mmu.host.word_written(word) {
                    self.mmu.code_written = true;
                }
            }
            return Ok(());
        }
        self.write_slow(seg, linear, T::SIZE, value.to_u64())
    }

    /// Reads, computes and writes one operand, not atomically. Faults (for write) come before `f` runs. `f`
    /// makes no access to memory.
    #[inline(always)]
    pub fn modify<T: Word, R>(
        &mut self,
        seg: Seg,
        offset: u64,
        f: impl FnOnce(&mut Self, T) -> (T, R),
    ) -> Result<R, Fault> {
        let linear = self.segment_address(seg, offset, T::SIZE, Access::Write)?;
        let (entry, tag) = self.mmu.look_up(linear, T::SIZE);
        if entry.write == tag {
            let word = entry.word;
            let pointer = (linear as usize).wrapping_add(entry.addend) as *mut u8;
            // SAFETY: as for `write`; RAM stays where it is, whatever `f` does.
            unsafe {
                let old = host::load(pointer);
                let (new, result) = f(self, old);
                host::store(pointer, new);
                if self.mmu.host.word_written(word) {
                    self.mmu.code_written = true;
                }
                return Ok(result);
            }
        }
        let place = self.operand_place(seg, linear, T::SIZE, Access::Write)?;
        let old = self.load_place(&place, T::SIZE);
        let (new, result) = f(self, T::from_u64(old));
        self.store_place(&place, T::SIZE, new.to_u64());
        Ok(result)
    }

    /// As [`Self::modify`], atomically against other processors and devices (LOCK prefix); `f` may run
    /// several times.
    #[inline]
    pub fn modify_locked<T: Word, R>(
        &mut self,
        seg: Seg,
        offset: u64,
        f: impl FnMut(&mut Self, T) -> (T, R),
    ) -> Result<R, Fault> {
        let linear = self.segment_address(seg, offset, T::SIZE, Access::Write)?;
        let (entry, tag) = self.mmu.look_up(linear, T::SIZE);
        let (pointer, word) = if entry.write == tag {
            ((linear as usize).wrapping_add(entry.addend) as *mut u8, entry.word)
        } else {
            let place = self.operand_place(seg, linear, T::SIZE, Access::Write)?;
            match place.whole() {
                Some(found) => found,
                None => return Ok(self.modify_split(&place, f)),
            }
        };
        if pointer.addr() % CACHE_LINE + T::SIZE > CACHE_LINE {
            return Ok(self.modify_in_two_lines(pointer, word, f));
        }
        Ok(self.modify_word(pointer, word, f))
    }

    /// As [`Self::modify_locked`], of an operand in one page of RAM, `word` the page's word.
    #[inline(always)]
    fn modify_word<T: Word, R>(
        &mut self,
        pointer: *mut u8,
        word: *const AtomicU32,
        mut f: impl FnMut(&mut Self, T) -> (T, R),
    ) -> R {
        // SAFETY: as for `modify`.
        unsafe {
            let mut old: T = host::load(pointer);
            let result = loop {
                let (new, result) = f(self, old);
                let found = host::compare_exchange(pointer, old, new);
                if found == old {
                    break result;
                }
                old = found;
            };
            if self.mmu.host.word_written(word) {
                self.mmu.code_written = true;
            }
            result
        }
    }

    /// As [`Self::modify_word`], of an operand in two cache lines. It locks the host's bus, and hosts throttle
    /// that: one processor at a time, so that none has to try again for the sake of others that do the same.
    #[cold]
    #[inline(never)]
    fn modify_in_two_lines<T: Word, R>(
        &mut self,
        pointer: *mut u8,
        word: *const AtomicU32,
        f: impl FnMut(&mut Self, T) -> (T, R),
    ) -> R {
        let shared = Arc::clone(&self.shared);
        let _bus_lock = shared.bus_lock.lock().unwrap_or_else(PoisonError::into_inner);
        self.modify_word(pointer, word, f)
    }

    /// CMPXCHG16B's memory operand: stores `new` if the operand equals `expected`; returns what was there.
    /// #GP(0) if not aligned to 16 bytes.
    pub fn compare_exchange_16(
        &mut self,
        seg: Seg,
        offset: u64,
        expected: u128,
        new: u128,
    ) -> Result<u128, Fault> {
        let linear = self.segment_address(seg, offset, 16, Access::Write)?;
        if linear & 15 != 0 {
            return Err(self.general_protection());
        }
        let place = self.operand_place(seg, linear, 16, Access::Write)?;
        let Some((pointer, word)) = place.whole() else {
            return Ok(self.exchange_16_split(&place, expected, new));
        };
        // SAFETY: as for `modify`; the operand is aligned.
        unsafe {
            let found = host::compare_exchange_16(pointer, expected, new);
            if self.mmu.host.word_written(word) {
                self.mmu.code_written = true;
            }
            Ok(found)
        }
    }

    /// Reads `data.len()` bytes (1 to 4096), whatever their alignment.
    pub fn read_bytes(&mut self, seg: Seg, offset: u64, data: &mut [u8]) -> Result<(), Fault> {
        let linear = self.segment_address(seg, offset, data.len(), Access::Read)?;
        let (entry, tag) = self.mmu.look_up(linear, data.len());
        if entry.read == tag {
            // SAFETY: as for `read`.
            unsafe { host::load_bytes((linear as usize).wrapping_add(entry.addend) as *const u8, data) };
            return Ok(());
        }
        let place = self.operand_place(seg, linear, data.len(), Access::Read)?;
        self.load_place_bytes(&place, data);
        Ok(())
    }

    /// Writes bytes (1 to 4096); a fault on any page comes before anything is written.
    pub fn write_bytes(&mut self, seg: Seg, offset: u64, data: &[u8]) -> Result<(), Fault> {
        let linear = self.segment_address(seg, offset, data.len(), Access::Write)?;
        let place = self.operand_place(seg, linear, data.len(), Access::Write)?;
        self.store_place_bytes(&place, data);
        Ok(())
    }

    /// A pointer to the `len` bytes (1 to 4096) of an operand in host memory, valid until the next call of any
    /// `&mut self` method, with all checks done. `None` if the operand is not in RAM or crosses a page: use
    /// `read_bytes` and `write_bytes`. After a write through the pointer the caller calls
    /// [`Self::host_written`].
    #[inline]
    pub fn host_pointer(
        &mut self,
        seg: Seg,
        offset: u64,
        len: usize,
        access: Access,
    ) -> Result<Option<NonNull<u8>>, Fault> {
        let linear = self.segment_address(seg, offset, len, access)?;
        let (entry, tag) = self.mmu.look_up(linear, len);
        let hit = match access {
            Access::Read => entry.read == tag,
            Access::Write => entry.write == tag,
        };
        let (pointer, word) = if hit {
            ((linear as usize).wrapping_add(entry.addend) as *mut u8, entry.word)
        } else {
            match self.operand_place(seg, linear, len, access)?.whole() {
                Some(found) => found,
                None => return Ok(None),
            }
        };
        if access == Access::Write {
            self.mmu.last_write = word;
        }
        Ok(NonNull::new(pointer))
    }

    /// The operand of the last [`Self::host_pointer`] for write has been written: ends decoded code there.
    #[inline]
    pub fn host_written(&mut self) {
        let word = self.mmu.last_write;
        // SAFETY: not null, it came from a page of RAM.
        if !word.is_null() && unsafe { self.mmu.host.word_written(word) } {
            self.mmu.code_written = true;
        }
    }

    /// Translates the linear address of an instruction byte; checks execute permission at the present CPL and
    /// the canonical form, not the limit of CS.
    #[inline]
    pub fn code_page(&mut self, linear: u64) -> Result<CodePage, Fault> {
        match self.mmu.code_look_up(linear, self.cpl == 3) {
            Some((gpa, host)) => Ok(CodePage { gpa, host: NonNull::new(host) }),
            None => self.code_page_slow(linear),
        }
    }

    /// A number that stands for the translation of the code at `linear` at the present privilege level: a
    /// guest physical address that [`Self::code_page`] told is good as long as the number for the linear
    /// address is the same.
    #[inline(always)]
    pub fn code_key(&self, linear: u64) -> u64 {
        self.mmu.code_key(linear) | u64::from(self.cpl == 3) << CODE_KEY_FREE
    }

    /// The linear address of `offset` in `seg` after the checks of limit, type and canonical form for an
    /// access of `len` bytes.
    pub fn linear(&mut self, seg: Seg, offset: u64, len: u64, access: Access) -> Result<u64, Fault> {
        let linear = self.segment_address(seg, offset, len as usize, access)?;
        if self.code_64() && !(self.canonical(linear) && self.canonical(linear.wrapping_add(len.max(1) - 1)))
        {
            return Err(self.segment_fault(seg));
        }
        Ok(linear)
    }
}
