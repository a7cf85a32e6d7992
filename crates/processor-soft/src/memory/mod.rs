//! Guest memory as instructions see it: segmentation, paging, the software TLB.

use std::ptr::NonNull;

use crate::fault::Fault;
use crate::registers::Seg;
use crate::vcpu::Vcpu;

/// Paging state and the software TLB of one processor.
pub struct Mmu {}

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
    /// Reads an operand at `offset` in `seg`.
    #[inline(always)]
    pub fn read<T: Word>(&mut self, seg: Seg, offset: u64) -> Result<T, Fault> {
        let _ = (seg, offset);
        todo!()
    }

    /// Writes an operand.
    #[inline(always)]
    pub fn write<T: Word>(&mut self, seg: Seg, offset: u64, value: T) -> Result<(), Fault> {
        let _ = (seg, offset, value);
        todo!()
    }

    /// Reads, computes and writes one operand, not atomically. Faults (for write) come before `f` runs.
    #[inline(always)]
    pub fn modify<T: Word, R>(
        &mut self,
        seg: Seg,
        offset: u64,
        f: impl FnOnce(&mut Self, T) -> (T, R),
    ) -> Result<R, Fault> {
        let _ = (seg, offset, f);
        todo!()
    }

    /// As [`Self::modify`], atomically against other processors and devices (LOCK prefix); `f` may run several times.
    pub fn modify_locked<T: Word, R>(
        &mut self,
        seg: Seg,
        offset: u64,
        f: impl FnMut(&mut Self, T) -> (T, R),
    ) -> Result<R, Fault> {
        let _ = (seg, offset, f);
        todo!()
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
        let _ = (seg, offset, expected, new);
        todo!()
    }

    /// Reads `data.len()` bytes (1 to 4096), whatever their alignment.
    pub fn read_bytes(&mut self, seg: Seg, offset: u64, data: &mut [u8]) -> Result<(), Fault> {
        let _ = (seg, offset, data);
        todo!()
    }

    /// Writes bytes; a fault on any page comes before anything is written.
    pub fn write_bytes(&mut self, seg: Seg, offset: u64, data: &[u8]) -> Result<(), Fault> {
        let _ = (seg, offset, data);
        todo!()
    }

    /// A pointer to the `len` bytes of an operand in host memory, valid until the next call of any `&mut self`
    /// method, with all checks done. `None` if the operand is not in RAM or crosses a page: use `read_bytes` and `write_bytes`.
    /// After a write through the pointer the caller calls [`Self::host_written`].
    pub fn host_pointer(
        &mut self,
        seg: Seg,
        offset: u64,
        len: usize,
        access: Access,
    ) -> Result<Option<NonNull<u8>>, Fault> {
        let _ = (seg, offset, len, access);
        todo!()
    }

    /// The operand of the last [`Self::host_pointer`] for write has been written: ends decoded code there.
    pub fn host_written(&mut self) {
        todo!()
    }

    /// Reads at a linear address as the processor itself (descriptor tables, TSS): privilege level 0.
    pub fn read_system<T: Word>(&mut self, linear: u64) -> Result<T, Fault> {
        let _ = linear;
        todo!()
    }

    /// Writes at a linear address as the processor itself.
    pub fn write_system<T: Word>(&mut self, linear: u64, value: T) -> Result<(), Fault> {
        let _ = (linear, value);
        todo!()
    }

    /// Translates the linear address of an instruction byte; checks execute permission at the present CPL.
    pub fn code_page(&mut self, linear: u64) -> Result<CodePage, Fault> {
        let _ = linear;
        todo!()
    }

    /// The linear address of `offset` in `seg` after the checks of limit, type and canonical form for an
    /// access of `len` bytes.
    pub fn linear(&mut self, seg: Seg, offset: u64, len: u64, access: Access) -> Result<u64, Fault> {
        let _ = (seg, offset, len, access);
        todo!()
    }
}
