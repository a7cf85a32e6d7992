//! Copying and filling many bytes of guest memory at once, for the string instructions.

use super::{Access, Word, host};
use crate::fault::Fault;
use crate::registers::Seg;
use crate::vcpu::Vcpu;

/// The most that goes through a buffer, in bytes: a page.
const BLOCK: usize = 4096;

impl Vcpu {
    /// Copies `len` bytes (1 to 4096) upwards, each operand within one page. False if nothing has been done,
    /// because they are not both RAM, or overlap in a way that repeats bytes.
    pub fn copy_block(&mut self, to: (Seg, u64), from: (Seg, u64), len: usize) -> Result<bool, Fault> {
        let Some(source) = self.host_pointer(from.0, from.1, len, Access::Read)? else { return Ok(false) };
        let Some(target) = self.host_pointer(to.0, to.1, len, Access::Write)? else { return Ok(false) };
        let (source, target) = (source.as_ptr(), target.as_ptr());
        let ahead = target.addr().wrapping_sub(source.addr());
        if ahead != 0 && ahead < len {
            return Ok(false);
        }
        // SAFETY: both lead to `len` bytes of RAM, which stays where it is. Other processors may access it
        // at the same time, as they may while real hardware copies.
        unsafe { std::ptr::copy(source, target, len) };
        self.host_written();
        Ok(true)
    }

    /// Writes `count` times `value` (up to 4096 bytes), within one page. False if that is not RAM.
    pub fn fill_block<T: Word>(
        &mut self,
        seg: Seg,
        offset: u64,
        value: T,
        count: usize,
    ) -> Result<bool, Fault> {
        let Some(target) = self.host_pointer(seg, offset, count * T::SIZE, Access::Write)? else {
            return Ok(false);
        };
        // SAFETY: `host_pointer` has checked the `count` elements.
        unsafe { host::fill(target.as_ptr(), value, count) };
        self.host_written();
        Ok(true)
    }

    /// Writes what `make` puts into a buffer of `len` bytes (1 to 4096), within one page. `make` is called, and true
    /// returned, only if that is RAM that may be written.
    pub fn write_block(
        &mut self,
        (seg, offset): (Seg, u64),
        len: usize,
        make: impl FnOnce(&mut [u8]),
    ) -> Result<bool, Fault> {
        let Some(target) = self.host_pointer(seg, offset, len, Access::Write)? else { return Ok(false) };
        let mut buffer = [0; BLOCK];
        let buffer = &mut buffer[..len];
        make(buffer);
        // SAFETY: `host_pointer` has checked the `len` bytes; RAM stays where it is, whatever `make` has done.
        unsafe { std::ptr::copy_nonoverlapping(buffer.as_ptr(), target.as_ptr(), len) };
        self.host_written();
        Ok(true)
    }

    /// Gives `take` a copy of `len` bytes (1 to 4096) within one page. False if that is not RAM.
    pub fn read_block(
        &mut self,
        (seg, offset): (Seg, u64),
        len: usize,
        take: impl FnOnce(&[u8]),
    ) -> Result<bool, Fault> {
        let Some(source) = self.host_pointer(seg, offset, len, Access::Read)? else { return Ok(false) };
        let mut buffer = [0; BLOCK];
        let buffer = &mut buffer[..len];
        // SAFETY: `host_pointer` has checked the `len` bytes.
        unsafe { std::ptr::copy_nonoverlapping(source.as_ptr(), buffer.as_mut_ptr(), len) };
        take(buffer);
        Ok(true)
    }
}
