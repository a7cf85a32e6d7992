//! The x87 control word.

use super::super::block::Guest;
use super::super::emit::{Mem, condition, host};
use super::super::plan::Plan;
use super::super::state;
use super::{Late, Writer};

/// The exception masks of FCW.
const MASKS: i32 = 0x3f;

impl Writer<'_> {
    /// FLDCW: by the host if all exceptions are masked afterwards, else by the interpreter (`which`). The word is
    /// copied first, so that no other processor changes it in between.
    pub fn load_control_word(&mut self, guest: &Guest, plan: &Plan, which: u16) {
        let after = self.e.label();
        let offset = self.operand(guest, plan.operand, (2, false), after);
        self.clobber_flags(guest.live);
        self.e.load_16(host::S1, Mem::base(host::S0, offset));
        self.e.store(state::target(), host::S1);
        self.e.and_imm_32(host::S1, MASKS);
        self.e.cmp_imm(host::S1, MASKS);
        let label = self.e.label();
        self.e.jump_if(condition::NOT_EQUAL, label);
        self.e.load_control_word(state::target());
        self.bind_after(after);
        // What the interpreter may do, nobody knows.
        self.late.push(Late::Interpreted { label, after, site: Self::site(guest, 0, false), which });
        self.forget_slots();
    }
}
