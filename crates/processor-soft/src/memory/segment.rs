//! Segmentation: from an offset in a segment to a linear address (SDM volume 3, chapter 3 and section 6.3).

use super::Access;
use crate::fault::{Fault, vector};
use crate::registers::{Seg, attribute};
use crate::vcpu::Vcpu;

impl Vcpu {
    /// Whether `linear` is canonical for the present width of linear addresses.
    #[inline]
    pub fn canonical(&self, linear: u64) -> bool {
        processor::is_canonical(self.cr4, linear)
    }

    /// Finds out anew which segments need checks. Called whenever a segment register or the mode changes.
    pub fn segments_changed(&mut self) {
        if self.code_64() {
            self.checked_segments = 0;
            self.segments[Seg::Flat as usize].base = 0;
            return;
        }
        let real = self.real_mode() || self.virtual_8086();
        let mut checked = 0;
        for (index, segment) in self.segments.iter().take(6).enumerate() {
            let attributes = segment.attributes.0;
            let flat = segment.base == 0
                && segment.limit == u32::MAX
                && attributes & attribute::UNUSABLE == 0
                && (real
                    || attributes
                        & (attribute::CODE
                            | attribute::EXPAND_DOWN_OR_CONFORMING
                            | attribute::WRITABLE_OR_READABLE)
                        == attribute::WRITABLE_OR_READABLE);
            if !flat {
                checked |= 1 << index;
            }
        }
        self.checked_segments = checked;
    }

    /// The linear address of `offset` in a segment that needs checks.
    #[cold]
    #[inline(never)]
    pub(super) fn linear_checked(
        &mut self,
        seg: Seg,
        offset: u64,
        len: u64,
        access: Access,
    ) -> Result<u64, Fault> {
        let segment = self.segments[seg as usize];
        let attributes = segment.attributes.0;
        let mut good = true;
        if !self.real_mode() && !self.virtual_8086() {
            good = attributes & attribute::UNUSABLE == 0;
            let code = attributes & attribute::CODE != 0;
            let permission = attributes & attribute::WRITABLE_OR_READABLE != 0;
            good &= match access {
                Access::Read => !code || permission,
                Access::Write => !code && permission,
            };
        }
        let last = offset.wrapping_add(len.wrapping_sub(1));
        let limit = u64::from(segment.limit);
        let expand_down = attributes & (attribute::CODE | attribute::EXPAND_DOWN_OR_CONFORMING)
            == attribute::EXPAND_DOWN_OR_CONFORMING;
        good &= if expand_down && !self.real_mode() {
            let top = if attributes & attribute::DEFAULT_BIG != 0 { 0xffff_ffff } else { 0xffff };
            offset > limit && last <= top
        } else {
            offset <= limit && last <= limit
        };
        if !good {
            return Err(self.segment_fault(seg));
        }
        Ok(segment.base.wrapping_add(offset) & 0xffff_ffff)
    }

    /// #SS(0) for an access by the stack segment, else #GP(0).
    #[cold]
    pub(super) fn segment_fault(&mut self, seg: Seg) -> Fault {
        let vector = match seg {
            Seg::Ss | Seg::FlatStack => vector::STACK_FAULT,
            _ => vector::GENERAL_PROTECTION,
        };
        self.raise_code(vector, 0)
    }
}
