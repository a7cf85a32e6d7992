//! PUSH, POP and LEAVE.

use iced_x86::OpKind;

use super::super::block::Guest;
use super::super::emit::{Mem, host};
use super::super::plan::Plan;
use super::super::state;
use super::{Writer, home, number, resident};

impl Writer<'_> {
    pub fn push(&mut self, guest: &Guest, plan: &Plan) {
        let instruction = &guest.instruction;
        let after = self.e.label();
        if instruction.op0_kind() == OpKind::Memory {
            if plan.stack.is_some() {
                // If the operand is pushed out of line, the slot is filled all the same.
                self.stack(guest, plan.stack, (-8, true), after);
            }
            let offset = self.operand(guest, plan.operand, (8, false), after);
            self.e.load(host::S1, Mem::base(host::S0, offset));
            self.e.store(state::target(), host::S1);
        }
        let offset = self.stack(guest, plan.stack, (-8, true), after);
        match instruction.op0_kind() {
            OpKind::Register => {
                let value = self.value(instruction.op0_register(), host::S1);
                self.e.store(Mem::base(host::S0, offset), value);
            }
            OpKind::Memory => {
                self.e.load(host::S1, state::target());
                self.e.store(Mem::base(host::S0, offset), host::S1);
            }
            _ => self.e.store_imm(Mem::base(host::S0, offset), instruction.immediate(0) as i32),
        }
        self.move_stack(-8);
        self.bind_after(after);
    }

    pub fn pop(&mut self, guest: &Guest, plan: &Plan) {
        let after = self.e.label();
        let offset = self.stack(guest, plan.stack, (0, false), after);
        let n = number(guest.instruction.op0_register());
        let value = Mem::base(host::S0, offset);
        match resident(n) {
            Some(host::RSP) => self.e.load(host::RSP, value),
            Some(to) => {
                self.e.load(to, value);
                self.move_stack(8);
            }
            None => {
                self.e.load(host::S1, value);
                self.e.store(home(n), host::S1);
                self.move_stack(8);
            }
        }
        self.bind_after(after);
    }

    pub fn leave(&mut self, guest: &Guest, plan: &Plan) {
        let after = self.e.label();
        let offset = self.point(guest, plan.stack, (8, false), after, |writer, beyond| {
            writer.e.lea(host::S0, Mem::base(host::RBP, beyond));
        });
        self.e.lea(host::RSP, Mem::base(host::RBP, 8));
        self.e.load(host::RBP, Mem::base(host::S0, offset));
        self.bind_after(after);
    }

    /// Adds to the stack pointer and leaves the flags alone.
    pub fn move_stack(&mut self, by: i32) {
        self.e.lea(host::RSP, Mem::base(host::RSP, by));
    }
}
