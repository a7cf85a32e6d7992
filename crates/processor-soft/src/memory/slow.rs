//! Accesses that miss the TLB, cross a page, reach devices, or are made by the processor itself.

use std::ptr::NonNull;
use std::sync::PoisonError;
use std::sync::atomic::AtomicU32;

use super::mmu::{Class, Page};
use super::walk::Purpose;
use super::{Access, CodePage, Word, host};
use crate::fault::{Fault, vector};
use crate::registers::{Seg, cr0, cr4, flag};
use crate::vcpu::Vcpu;

/// Largest access that a device gets in one piece.
const LARGEST_DEVICE_ACCESS: usize = 64;
/// The APIC's registers lie 16 bytes apart.
const APIC_REGISTER: u64 = 0xf;

/// A part of an operand that lies in one page.
#[derive(Clone, Copy)]
pub(super) struct Part {
    gpa: u64,
    /// Null if not RAM.
    host: *mut u8,
    word: *const AtomicU32,
}

/// Where an operand is.
#[derive(Clone, Copy)]
pub(super) struct Place {
    first: Part,
    /// The rest, if the operand crosses a page, and how many bytes come before it.
    second: Option<(Part, usize)>,
}

impl Place {
    /// Host address and word of an operand that lies in one page of RAM.
    pub fn whole(&self) -> Option<(*mut u8, *const AtomicU32)> {
        (self.second.is_none() && !self.first.host.is_null()).then_some((self.first.host, self.first.word))
    }
}

impl From<Page> for Part {
    fn from(page: Page) -> Self {
        let host =
            if page.host.is_null() { page.host } else { page.host.wrapping_add((page.gpa & 0xfff) as usize) };
        Self { gpa: page.gpa, host, word: page.word }
    }
}

impl Vcpu {
    /// Finds out anew which class of access the privilege level and the flags give. Called whenever CPL,
    /// EFLAGS.AC, CR0.AM, CR4.SMAP change.
    #[inline]
    pub fn access_changed(&mut self) {
        // Journalled accesses all take the slow path.
        let class = if self.journal.is_some() { Class::UserAligned } else { self.access_class() };
        if class != self.mmu.class() {
            self.mmu.set_class(class);
        }
    }

    /// The class that the privilege level and the flags give.
    fn access_class(&self) -> Class {
        if self.cpl == 3 {
            if self.cr0 & cr0::AM != 0 && self.flags & flag::AC != 0 {
                Class::UserAligned
            } else {
                Class::User
            }
        } else if self.smap_enforced() {
            Class::Supervisor
        } else {
            Class::SupervisorAndUser
        }
    }

    /// The class of accesses that the processor makes by itself: AC does not lift SMAP.
    fn system_class(&self) -> Class {
        if self.cr4 & cr4::SMAP != 0 { Class::Supervisor } else { Class::SupervisorAndUser }
    }

    #[cold]
    #[inline(never)]
    pub(super) fn read_slow(&mut self, seg: Seg, linear: u64, size: usize) -> Result<u64, Fault> {
        let place = self.operand_place(seg, linear, size, Access::Read)?;
        Ok(self.load_place(&place, size))
    }

    #[cold]
    #[inline(never)]
    pub(super) fn write_slow(&mut self, seg: Seg, linear: u64, size: usize, value: u64) -> Result<(), Fault> {
        let place = self.operand_place(seg, linear, size, Access::Write)?;
        self.store_place(&place, size, value);
        Ok(())
    }

    /// Where the operand at `linear` is, with all checks of the linear address and of paging.
    #[inline(never)]
    pub(super) fn operand_place(
        &mut self,
        seg: Seg,
        linear: u64,
        size: usize,
        access: Access,
    ) -> Result<Place, Fault> {
        let mut last = linear.wrapping_add(size as u64 - 1);
        if self.code_64() {
            if !self.canonical(linear) || !self.canonical(last) {
                return Err(self.segment_fault(seg));
            }
        } else {
            last &= 0xffff_ffff;
        }
        let class = if self.journal.is_some() { self.access_class() } else { self.mmu.class() };
        if class == Class::UserAligned && linear & (size.next_power_of_two().min(16) as u64 - 1) != 0 {
            return Err(self.raise_code(vector::ALIGNMENT_CHECK, 0));
        }
        if self.journal.is_some()
            && let Some(page) = self.mmu.system_look_up(class, linear, last, access)
        {
            // Both tiers go by the same TLB: page tables may have changed since.
            let place = Place { first: page, second: None };
            self.journal(&place, size, access)?;
            return Ok(place);
        }
        let place = self.place(linear, last, access, class)?;
        if self.mmu.watches(linear >> 12) || self.mmu.watches(last >> 12) {
            self.note_data_breakpoints(linear, size as u64, access);
            self.debugger.note_access(linear, size as u64, access);
        }
        Ok(place)
    }

    fn place(&mut self, linear: u64, last: u64, access: Access, class: Class) -> Result<Place, Fault> {
        let purpose = match access {
            Access::Read => Purpose::Read,
            Access::Write => Purpose::Write,
        };
        let page = self.translate(linear, purpose, class)?;
        if linear >> 12 == last >> 12 {
            self.mmu.fill(class, linear, &page);
            let place = Place { first: page.into(), second: None };
            self.journal(&place, last.wrapping_sub(linear) as usize + 1, access)?;
            return Ok(place);
        }
        let next = self.translate(last & !0xfff, purpose, class)?;
        self.mmu.fill(class, linear, &page);
        self.mmu.fill(class, last, &next);
        let before = 0x1000 - (linear & 0xfff) as usize;
        let place = Place { first: page.into(), second: Some((next.into(), before)) };
        self.journal(&place, last.wrapping_sub(linear) as usize + 1, access)?;
        Ok(place)
    }

    /// Notes what is in the `len` bytes of `place` that are about to be stored, if there is a journal; then,
    /// devices are refused.
    fn journal(&mut self, place: &Place, len: usize, access: Access) -> Result<(), Fault> {
        let Some(journal) = &mut self.journal else { return Ok(()) };
        let (second, before) = place.second.map_or((None, len), |(part, before)| (Some(part), before));
        let parts = [(Some(place.first), before), (second, len - before)];
        for (part, len) in parts.into_iter().filter_map(|(part, len)| Some((part?, len))) {
            if part.host.is_null() {
                journal.met_device = true;
                return Err(self.general_protection());
            }
            if access == Access::Write {
                // SAFETY: the part lies in one page of RAM, which lives as long as the processor.
                unsafe { journal.note(part.host, part.word, len) };
            }
        }
        Ok(())
    }

    pub(super) fn load_place(&mut self, place: &Place, size: usize) -> u64 {
        if let Some((pointer, _)) = place.whole() {
            // SAFETY: the operand is in one page of RAM.
            return unsafe {
                match size {
                    1 => host::load::<u8>(pointer).to_u64(),
                    2 => host::load::<u16>(pointer).to_u64(),
                    4 => host::load::<u32>(pointer).to_u64(),
                    _ => host::load::<u64>(pointer),
                }
            };
        }
        let mut data = [0; 8];
        self.load_place_bytes(place, &mut data[..size.min(8)]);
        u64::from_le_bytes(data)
    }

    pub(super) fn store_place(&mut self, place: &Place, size: usize, value: u64) {
        if let Some((pointer, word)) = place.whole() {
            // SAFETY: as for `load_place`.
            unsafe {
                match size {
                    1 => host::store(pointer, value as u8),
                    2 => host::store(pointer, value as u16),
                    4 => host::store(pointer, value as u32),
                    _ => host::store(pointer, value),
                }
                if self.mmu.host.word_written(word) {
                    self.mmu.code_written = true;
                }
            }
            return;
        }
        self.store_place_bytes(place, &value.to_le_bytes()[..size.min(8)]);
    }

    pub(super) fn load_place_bytes(&mut self, place: &Place, data: &mut [u8]) {
        let (first, rest) = data.split_at_mut(place.second.map_or(data.len(), |(_, before)| before));
        self.load_part(&place.first, first);
        if let Some((part, _)) = place.second {
            self.load_part(&part, rest);
        }
    }

    pub(super) fn store_place_bytes(&mut self, place: &Place, data: &[u8]) {
        let (first, rest) = data.split_at(place.second.map_or(data.len(), |(_, before)| before));
        self.store_part(&place.first, first);
        if let Some((part, _)) = place.second {
            self.store_part(&part, rest);
        }
    }

    fn load_part(&mut self, part: &Part, data: &mut [u8]) {
        if part.host.is_null() {
            self.device_read(part.gpa, data);
        } else {
            // SAFETY: the part lies in one page of RAM.
            unsafe { host::load_bytes(part.host, data) };
        }
    }

    fn store_part(&mut self, part: &Part, data: &[u8]) {
        if part.host.is_null() {
            self.device_write(part.gpa, data);
            return;
        }
        // SAFETY: as for `load_part`.
        unsafe {
            host::store_bytes(part.host, data);
            if self.mmu.host.word_written(part.word) {
                self.mmu.code_written = true;
            }
        }
    }

    /// A locked operation on an operand that crosses pages or is a device's: excludes the other processors'
    /// operations of this kind.
    #[cold]
    #[inline(never)]
    pub(super) fn modify_split<T: Word, R>(
        &mut self,
        place: &Place,
        mut f: impl FnMut(&mut Self, T) -> (T, R),
    ) -> R {
        let shared = std::sync::Arc::clone(&self.shared);
        let _bus_lock = shared.bus_lock.lock().unwrap_or_else(PoisonError::into_inner);
        let old = self.load_place(place, T::SIZE);
        let (new, result) = f(self, T::from_u64(old));
        self.store_place(place, T::SIZE, new.to_u64());
        result
    }

    #[cold]
    pub(super) fn exchange_16_split(&mut self, place: &Place, expected: u128, new: u128) -> u128 {
        let shared = std::sync::Arc::clone(&self.shared);
        let _bus_lock = shared.bus_lock.lock().unwrap_or_else(PoisonError::into_inner);
        let mut data = [0; 16];
        self.load_place_bytes(place, &mut data);
        let found = u128::from_le_bytes(data);
        let stored = if found == expected { new } else { found };
        self.store_place_bytes(place, &stored.to_le_bytes());
        found
    }

    /// Reads at a linear address as the processor itself (descriptor tables, TSS): privilege level 0.
    pub fn read_system<T: Word>(&mut self, linear: u64) -> Result<T, Fault> {
        let place = self.system_place(linear, T::SIZE, Access::Read)?;
        Ok(T::from_u64(self.load_place(&place, T::SIZE)))
    }

    /// Writes at a linear address as the processor itself.
    pub fn write_system<T: Word>(&mut self, linear: u64, value: T) -> Result<(), Fault> {
        let place = self.system_place(linear, T::SIZE, Access::Write)?;
        self.store_place(&place, T::SIZE, value.to_u64());
        Ok(())
    }

    /// Sets `bits` in a word at a linear address as the processor itself, atomically (accessed and busy bits
    /// of descriptors).
    pub fn set_system_bits(&mut self, linear: u64, bits: u32, mask: u32) -> Result<(), Fault> {
        let place = self.system_place(linear, 4, Access::Write)?;
        let change = |_: &mut Self, old: u32| ((old & mask) | bits, ());
        match place.whole() {
            None => self.modify_split(&place, change),
            Some((pointer, word)) => {
                // SAFETY: the operand is in one page of RAM.
                unsafe {
                    let mut old: u32 = host::load(pointer);
                    loop {
                        let found = host::compare_exchange(pointer, old, (old & mask) | bits);
                        if found == old {
                            break;
                        }
                        old = found;
                    }
                    if self.mmu.host.word_written(word) {
                        self.mmu.code_written = true;
                    }
                }
            }
        }
        Ok(())
    }

    /// Reads `size` (up to 8) bytes at a linear address with the rights of `class`.
    pub fn read_as(&mut self, class: Class, linear: u64, size: u8) -> Result<u64, Fault> {
        let place = self.linear_place(class, linear, usize::from(size), Access::Read)?;
        Ok(self.load_place(&place, usize::from(size)))
    }

    /// Writes `size` (up to 8) bytes at a linear address with the rights of `class`.
    pub fn write_as(&mut self, class: Class, linear: u64, size: u8, value: u64) -> Result<(), Fault> {
        let place = self.linear_place(class, linear, usize::from(size), Access::Write)?;
        self.store_place(&place, usize::from(size), value);
        Ok(())
    }

    fn system_place(&mut self, linear: u64, size: usize, access: Access) -> Result<Place, Fault> {
        self.linear_place(self.system_class(), linear, size, access)
    }

    fn linear_place(
        &mut self,
        class: Class,
        linear: u64,
        size: usize,
        access: Access,
    ) -> Result<Place, Fault> {
        let (linear, last) = if self.long_mode_active() {
            (linear, linear.wrapping_add(size as u64 - 1))
        } else {
            (linear & 0xffff_ffff, linear.wrapping_add(size as u64 - 1) & 0xffff_ffff)
        };
        if self.long_mode_active() && !(self.canonical(linear) && self.canonical(last)) {
            return Err(self.general_protection());
        }
        if let Some(page) = self.mmu.system_look_up(class, linear, last, access) {
            let place = Place { first: page, second: None };
            self.journal(&place, size, access)?;
            return Ok(place);
        }
        self.place(linear, last, access, class)
    }

    #[cold]
    #[inline(never)]
    pub(super) fn code_page_slow(&mut self, linear: u64) -> Result<CodePage, Fault> {
        if self.code_64() && !self.canonical(linear) {
            return Err(self.general_protection());
        }
        let user = self.cpl == 3;
        let class = if user { Class::User } else { Class::SupervisorAndUser };
        let page = self.translate(linear, Purpose::Fetch, class)?;
        self.mmu.code_fill(linear, user, &page);
        Ok(CodePage { gpa: page.gpa, host: NonNull::new(Part::from(page).host) })
    }

    /// Reads what is not RAM: the APIC's registers or a device. Used for instruction bytes too.
    pub fn device_read(&mut self, gpa: u64, data: &mut [u8]) {
        if gpa >> 12 == self.apic_page {
            return self.apic_read(gpa & 0xfff, data);
        }
        for (index, chunk) in data.chunks_mut(LARGEST_DEVICE_ACCESS).enumerate() {
            self.bus.memory_read(gpa + (index * LARGEST_DEVICE_ACCESS) as u64, chunk);
        }
    }

    fn device_write(&mut self, gpa: u64, data: &[u8]) {
        if gpa >> 12 == self.apic_page {
            return self.apic_write(gpa & 0xfff, data);
        }
        for (index, chunk) in data.chunks(LARGEST_DEVICE_ACCESS).enumerate() {
            self.bus.memory_write(gpa + (index * LARGEST_DEVICE_ACCESS) as u64, chunk);
        }
    }

    /// The xAPIC's page: registers of 32 bits, 16 bytes apart; what lies between reads as 0.
    fn apic_read(&mut self, offset: u64, data: &mut [u8]) {
        let (mut register, mut value) = (u64::MAX, [0; 4]);
        for (index, byte) in data.iter_mut().enumerate() {
            let at = (offset + index as u64) & 0xfff;
            if at & !APIC_REGISTER != register {
                register = at & !APIC_REGISTER;
                value = self.apic.read(register as u32).to_le_bytes();
            }
            *byte = value.get((at & APIC_REGISTER) as usize).copied().unwrap_or(0);
        }
    }

    /// Writes go through only as 32 bits at the start of a register; the SDM leaves others undefined.
    fn apic_write(&mut self, offset: u64, data: &[u8]) {
        match data.first_chunk::<4>() {
            Some(value) if offset & APIC_REGISTER == 0 => {
                self.apic.write(offset as u32, u32::from_le_bytes(*value));
            }
            _ => tracing::debug!(offset, len = data.len(), "odd write to the APIC page ignored"),
        }
    }
}

impl super::Mmu {
    /// A hit for an access of the processor itself.
    fn system_look_up(&self, class: Class, linear: u64, last: u64, access: Access) -> Option<Part> {
        let (entry, tag) = self.look_up_class(class, linear, last);
        let hit = match access {
            Access::Read => entry.read == tag,
            Access::Write => entry.write == tag,
        };
        // The guest physical address is needed for devices only, which are never entered.
        hit.then(|| Part {
            gpa: 0,
            host: (linear as usize).wrapping_add(entry.addend) as *mut u8,
            word: entry.word,
        })
    }
}
