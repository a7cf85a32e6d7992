//! Copying and filling many bytes of guest memory at once, for the string instructions.

use super::{Access, Word, host};
use crate::fault::Fault;
use crate::registers::Seg;
use crate::vcpu::Vcpu;

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
}
