//! The page walker (SDM volume 3, chapter 5): no paging, 32-bit paging with PSE and PSE-36, PAE, 4-level and
//! 5-level paging.
//!
//! Accessed and dirty flags are set with the same locked operations as a processor uses, after all checks
//! of the translation have passed. Entries that are not in RAM are read from ROM or the bus (unclaimed
//! addresses read as all ones, which is a reserved-bit fault) and never written. Protection keys and shadow stacks are
//! not emulated; caching attributes are ignored.

use super::host;
use super::mmu::{Class, Page};
use crate::fault::{Exception, Fault, vector};
use crate::registers::{cr0, cr4, efer};
use crate::vcpu::Vcpu;

/// What a translation is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    Read,
    Write,
    Fetch,
}

/// Bits of a paging-structure entry.
mod entry {
    pub const PRESENT: u64 = 1 << 0;
    pub const WRITABLE: u64 = 1 << 1;
    pub const USER: u64 = 1 << 2;
    pub const ACCESSED: u64 = 1 << 5;
    pub const DIRTY: u64 = 1 << 6;
    pub const LARGE: u64 = 1 << 7;
    pub const GLOBAL: u64 = 1 << 8;
    pub const NO_EXECUTE: u64 = 1 << 63;
}

/// Bits of a page fault's error code.
mod code {
    pub const PRESENT: u32 = 1 << 0;
    pub const WRITE: u32 = 1 << 1;
    pub const USER: u32 = 1 << 2;
    pub const RESERVED: u32 = 1 << 3;
    pub const FETCH: u32 = 1 << 4;
}

const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// One entry that a walk has used: where it is, what it was, whether it has 8 bytes.
#[derive(Clone, Copy, Default)]
struct Used {
    gpa: u64,
    value: u64,
}

/// The way through the tables. At most five levels.
struct Walk {
    used: [Used; 5],
    count: usize,
    wide: bool,
    /// Rights of all levels together.
    rights: u64,
    no_execute: bool,
    /// Address of the 4 KiB page within the frame of the last level.
    frame: u64,
    /// log2 of the size of that frame.
    shift: u32,
}

enum Stop {
    NotPresent,
    Reserved,
}

impl Vcpu {
    /// Translates `linear` for an access of `class`, as the page of 4 KiB that holds it.
    ///
    /// # Errors
    /// A page fault, put into [`Vcpu::exception`].
    pub fn translate(&mut self, linear: u64, purpose: Purpose, class: Class) -> Result<Page, Fault> {
        if self.cr0 & cr0::PG == 0 {
            let gpa = linear & 0xffff_ffff;
            return Ok(self.page(gpa, 12, true, false, purpose));
        }
        let user = matches!(class, Class::User | Class::UserAligned);
        // An entry that changes between the walk and the setting of its flags makes the walk start again;
        // another processor that changes it for ever is stopped by the guest's own progress.
        loop {
            let walk = match self.walk(linear) {
                Ok(walk) => walk,
                Err(Stop::NotPresent) => return Err(self.page_fault(linear, 0, purpose, user)),
                Err(Stop::Reserved) => {
                    return Err(self.page_fault(linear, code::PRESENT | code::RESERVED, purpose, user));
                }
            };
            let may_write = walk.rights & entry::WRITABLE != 0 || (!user && self.cr0 & cr0::WP == 0);
            let user_page = walk.rights & entry::USER != 0;
            let allowed = match purpose {
                _ if user && !user_page => false,
                Purpose::Fetch => !walk.no_execute && (user || !user_page || !self.cr4_has(cr4::SMEP)),
                _ if class == Class::Supervisor && user_page => false,
                Purpose::Read => true,
                Purpose::Write => may_write,
            };
            if !allowed {
                return Err(self.page_fault(linear, code::PRESENT, purpose, user));
            }
            if !self.set_used(&walk, purpose == Purpose::Write) {
                continue;
            }
            let leaf = walk.used[walk.count - 1].value;
            let writable = may_write && (purpose == Purpose::Write || leaf & entry::DIRTY != 0);
            let global = leaf & entry::GLOBAL != 0 && self.cr4_has(cr4::PGE);
            return Ok(self.page(walk.frame | linear & 0xfff, walk.shift, writable, global, purpose));
        }
    }

    /// The guest physical address of `linear`, whatever the rights of its page. Changes nothing.
    pub fn look_through(&mut self, linear: u64) -> Option<u64> {
        if self.cr0 & cr0::PG == 0 {
            return Some(linear & 0xffff_ffff);
        }
        if self.long_mode_active() && !self.canonical(linear) {
            return None;
        }
        let linear = if self.long_mode_active() { linear } else { linear & 0xffff_ffff };
        self.walk(linear).ok().map(|walk| walk.frame | linear & 0xfff)
    }

    fn page(&self, gpa: u64, shift: u32, writable: bool, global: bool, purpose: Purpose) -> Page {
        // A write to ROM is the bus's.
        let may_write = self.mmu.host.is_writable(gpa);
        let host = match purpose {
            Purpose::Write if !may_write => std::ptr::null_mut(),
            _ => self.mmu.host.pointer(gpa & !0xfff),
        };
        let writable = writable && may_write;
        Page { gpa, host, word: self.mmu.host.code_word(gpa), shift, writable, global }
    }

    #[cold]
    fn page_fault(&mut self, linear: u64, mut error: u32, purpose: Purpose, user: bool) -> Fault {
        if user {
            error |= code::USER;
        }
        match purpose {
            Purpose::Read => {}
            Purpose::Write => error |= code::WRITE,
            Purpose::Fetch => {
                let no_execute = self.efer & efer::NXE != 0 && self.cr4_has(cr4::PAE);
                if no_execute || self.cr4_has(cr4::SMEP) {
                    error |= code::FETCH;
                }
            }
        }
        self.raise_exception(Exception {
            vector: vector::PAGE_FAULT,
            error_code: Some(error),
            address: linear,
            dr6: 0,
        })
    }

    fn walk(&mut self, linear: u64) -> Result<Walk, Stop> {
        if !self.cr4_has(cr4::PAE) {
            return self.walk_32(linear);
        }
        let mut walk = Walk {
            used: [Used::default(); 5],
            count: 0,
            wide: true,
            rights: entry::WRITABLE | entry::USER,
            no_execute: false,
            frame: 0,
            shift: 12,
        };
        let mut reserved = ADDRESS & !((1 << self.mmu.physical_bits) - 1);
        if self.efer & efer::NXE == 0 {
            reserved |= entry::NO_EXECUTE;
        }
        let (mut table, mut level) = if self.long_mode_active() {
            (self.cr3 & ADDRESS, if self.cr4_has(cr4::LA57) { 4 } else { 3 })
        } else {
            reserved |= 0x7ff0_0000_0000_0000;
            let pointer = self.mmu.pdpte[(linear >> 30 & 3) as usize];
            if pointer & entry::PRESENT == 0 {
                return Err(Stop::NotPresent);
            }
            (pointer & ADDRESS, 1)
        };
        loop {
            let gpa = table | (linear >> (12 + 9 * level) & 0x1ff) << 3;
            let value = self.read_entry(gpa, true);
            if value & entry::PRESENT == 0 {
                return Err(Stop::NotPresent);
            }
            let mut wrong = reserved;
            let large = value & entry::LARGE != 0 && level > 0;
            if large {
                wrong |= match level {
                    1 => 0x001f_e000,
                    2 => 0x3fff_e000,
                    _ => entry::LARGE,
                };
            }
            if value & wrong != 0 {
                return Err(Stop::Reserved);
            }
            walk.rights &= value;
            walk.no_execute |= value & entry::NO_EXECUTE != 0;
            if let Some(used) = walk.used.get_mut(walk.count) {
                *used = Used { gpa, value };
            }
            walk.count += 1;
            if level == 0 || large {
                walk.shift = 12 + 9 * level;
                let within = (1u64 << walk.shift) - 1;
                walk.frame = (value & ADDRESS & !within) | (linear & within & !0xfff);
                return Ok(walk);
            }
            table = value & ADDRESS;
            level -= 1;
        }
    }

    /// 32-bit paging.
    fn walk_32(&mut self, linear: u64) -> Result<Walk, Stop> {
        let gpa = (self.cr3 & 0xffff_f000) | (linear >> 22 & 0x3ff) << 2;
        let directory = self.read_entry(gpa, false);
        if directory & entry::PRESENT == 0 {
            return Err(Stop::NotPresent);
        }
        let mut used = [Used::default(); 5];
        used[0] = Used { gpa, value: directory };
        if directory & entry::LARGE != 0 && self.cr4_has(cr4::PSE) {
            // PSE-36: bits 13–20 are bits 32–39 of the address; bit 21 is reserved.
            let high = directory >> 13 & 0xff;
            let reserved_high = !((1u64 << self.mmu.physical_bits.clamp(32, 40).saturating_sub(32)) - 1);
            if directory & 1 << 21 != 0 || high & reserved_high != 0 {
                return Err(Stop::Reserved);
            }
            let frame = high << 32 | directory & 0xffc0_0000 | linear & 0x003f_f000;
            return Ok(Walk {
                used,
                count: 1,
                wide: false,
                rights: directory,
                no_execute: false,
                frame,
                shift: 22,
            });
        }
        let gpa = (directory & 0xffff_f000) | (linear >> 12 & 0x3ff) << 2;
        let value = self.read_entry(gpa, false);
        if value & entry::PRESENT == 0 {
            return Err(Stop::NotPresent);
        }
        used[1] = Used { gpa, value };
        let rights = directory & value;
        Ok(Walk {
            used,
            count: 2,
            wide: false,
            rights,
            no_execute: false,
            frame: value & 0xffff_f000,
            shift: 12,
        })
    }

    fn read_entry(&mut self, gpa: u64, wide: bool) -> u64 {
        let pointer = self.mmu.host.pointer(gpa);
        if pointer.is_null() {
            let mut data = [0xff; 8];
            let len = if wide { 8 } else { 4 };
            self.bus.memory_read(gpa, &mut data[..len]);
            return u64::from_le_bytes(data) & if wide { u64::MAX } else { 0xffff_ffff };
        }
        // SAFETY: the address is in RAM, and aligned, so that all of the entry is in the same page.
        unsafe { if wide { host::load::<u64>(pointer) } else { u64::from(host::load::<u32>(pointer)) } }
    }

    /// Sets the accessed flags and, for a write, the dirty flag. False if an entry has changed meanwhile.
    fn set_used(&mut self, walk: &Walk, write: bool) -> bool {
        for (index, used) in walk.used.iter().enumerate().take(walk.count) {
            let mut value = used.value | entry::ACCESSED;
            if write && index + 1 == walk.count {
                value |= entry::DIRTY;
            }
            if value == used.value {
                continue;
            }
            let pointer = self.mmu.host.pointer(used.gpa);
            if pointer.is_null() || !self.mmu.host.is_writable(used.gpa) {
                continue;
            }
            // SAFETY: the entry is in RAM and aligned.
            let unchanged = unsafe {
                if walk.wide {
                    host::compare_exchange(pointer, used.value, value) == used.value
                } else {
                    host::compare_exchange(pointer, used.value as u32, value as u32) == used.value as u32
                }
            };
            if !unchanged {
                return false;
            }
            self.mmu.host.code().written(used.gpa >> 12);
        }
        true
    }

    /// Loads the page directory pointers for PAE paging from `cr3`: `None` if one of them has reserved bits
    /// set.
    pub fn load_pdpte(&mut self, cr3: u64) -> Option<[u64; 4]> {
        let table = cr3 & 0xffff_ffe0;
        let reserved = !((1 << self.mmu.physical_bits) - 1) | 0x1e6;
        let mut pointers = [0; 4];
        for (index, pointer) in pointers.iter_mut().enumerate() {
            *pointer = self.read_entry(table + 8 * index as u64, true);
            if *pointer & entry::PRESENT != 0 && *pointer & reserved != 0 {
                return None;
            }
        }
        Some(pointers)
    }
}
