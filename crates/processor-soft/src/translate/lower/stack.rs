//! PUSH, POP, PUSHF and LEAVE.

use iced_x86::OpKind;

use super::super::block::Guest;
use super::super::emit::{Mem, host};
use super::super::plan::Plan;
use super::super::state;
use super::super::stubs::flags_of_status;
use super::{Flags, Held, Writer, home, number, resident};
use crate::registers::flag;

impl Writer<'_> {
    /// Bytes of what PUSH and POP move.
    fn word(&self) -> i32 {
        self.mode.word() as i32
    }

    /// `mov to, [mem]` of a word.
    pub fn load_word(&mut self, to: u8, mem: Mem) {
        self.e.load_sized(self.mode.long(), to, mem);
    }

    /// `mov [mem], from` of a word.
    pub fn store_word(&mut self, mem: Mem, from: u8) {
        self.e.store_sized(self.mode.long(), mem, from);
    }

    pub fn push(&mut self, guest: &Guest, plan: &Plan) {
        let instruction = &guest.instruction;
        let after = self.e.label();
        let word = self.word();
        if instruction.op0_kind() == OpKind::Memory {
            if plan.stack.is_some() {
                // If the operand is pushed out of line, the slot is filled all the same.
                self.stack(guest, plan.stack, (-word, true), after);
            }
            let offset = self.operand(guest, plan.operand, (self.mode.word(), false), after);
            self.load_word(host::S1, Mem::base(host::S0, offset));
            self.e.store(state::target(), host::S1);
        }
        let offset = self.stack(guest, plan.stack, (-word, true), after);
        let to = Mem::base(host::S0, offset);
        match instruction.op0_kind() {
            OpKind::Register => {
                let value = self.value(instruction.op0_register(), host::S1);
                self.store_word(to, value);
            }
            OpKind::Memory => {
                self.e.load(host::S1, state::target());
                self.store_word(to, host::S1);
            }
            _ if self.mode.long() => self.e.store_imm(to, instruction.immediate(0) as i32),
            _ => self.e.store_imm_32(to, instruction.immediate(0) as i32),
        }
        self.move_stack(-word);
        self.bind_after(after);
    }

    pub fn pop(&mut self, guest: &Guest, plan: &Plan) {
        let after = self.e.label();
        let word = self.word();
        let offset = self.stack(guest, plan.stack, (0, false), after);
        let n = number(guest.instruction.op0_register());
        let value = Mem::base(host::S0, offset);
        match resident(n) {
            Some(host::RSP) => self.load_word(host::RSP, value),
            Some(to) => {
                self.load_word(to, value);
                self.move_stack(word);
            }
            None => {
                self.e.load(host::S1, value);
                self.e.store(home(n), host::S1);
                self.move_stack(word);
            }
        }
        self.bind_after(after);
    }

    /// PUSHFQ.
    pub fn push_flags(&mut self, guest: &Guest, plan: &Plan) {
        let after = self.e.label();
        let word = self.word();
        self.save_flags();
        self.held[0] = Held::Nothing;
        self.flags = Flags::Saved;
        flags_of_status(&mut self.e, host::S1, host::S0);
        self.e.or_mem(host::S1, state::flags());
        self.e.and_imm(host::S1, !((flag::RF | flag::VM) as i32));
        self.e.store(state::target(), host::S1);
        let offset = self.stack(guest, plan.stack, (-word, true), after);
        self.e.load(host::S1, state::target());
        self.store_word(Mem::base(host::S0, offset), host::S1);
        self.move_stack(-word);
        self.bind_after(after);
    }

    pub fn leave(&mut self, guest: &Guest, plan: &Plan) {
        let after = self.e.label();
        let offset = self.point(guest, plan.stack, (self.mode.word(), false), after, |writer, beyond| {
            writer.lea_address(host::S0, Mem::base(host::RBP, beyond));
        });
        self.lea_address(host::RSP, Mem::base(host::RBP, self.word()));
        self.load_word(host::RBP, Mem::base(host::S0, offset));
        self.bind_after(after);
    }

    /// Adds to the stack pointer and leaves the flags alone.
    pub fn move_stack(&mut self, by: i32) {
        self.lea_address(host::RSP, Mem::base(host::RSP, by));
    }
}
