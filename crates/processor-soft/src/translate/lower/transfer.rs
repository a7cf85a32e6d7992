//! Jumps, branches, calls and returns.

use iced_x86::OpKind;

use super::super::block::{Guest, PAGE, in_page};
use super::super::emit::{Label, Mem, condition, host};
use super::super::plan::Plan;
use super::super::state::{self, NO_CHECK, reason};
use super::super::stubs::look_up;
use super::{Ahead, Crossing, Flags, Held, Late, Link, Way, Writer};

/// A key that no address space has.
const NO_KEY: u32 = u32::MAX;

impl Writer<'_> {
    /// Links a jump within the page.
    pub fn link(&mut self, label: Label, at: u64, target: u16) {
        let way = match (self.flags, target > self.start) {
            (Flags::Host | Flags::Both, true) => Way::Direct,
            (Flags::Host, false) => Way::Looped,
            (Flags::Saved, true) => Way::Resume,
            (Flags::Both | Flags::Saved, false) => Way::Saved,
        };
        self.lowered.links.push(Link { at, target, way });
        let saved = self.flags != Flags::Host;
        self.late.push(Late::Exit { label, target: i32::from(target), saved, reason: reason::LOOK_UP });
    }

    /// A jump to another offset of the page.
    pub fn jump_in_page(&mut self, offset: u16) {
        self.pad_head();
        let label = self.e.label();
        let at = self.e.jump(label);
        self.link(label, at, offset);
    }

    pub fn jump(&mut self, target: i32) {
        match in_page(target) {
            Some(offset) => self.jump_in_page(offset),
            None => self.cross(target, NO_CHECK, 0),
        }
    }

    pub fn branch(&mut self, condition: u8, target: i32) {
        self.restore_flags();
        self.pad_head();
        let label = self.e.label();
        let at = self.e.jump_if(condition, label);
        match in_page(target) {
            Some(offset) => self.link(label, at, offset),
            None => self.late.push(Late::Cross { label, target, saved: false }),
        }
    }

    pub fn count_zero(&mut self, target: i32) {
        let label = self.e.label();
        // jrcxz over the next jump; jmp over the one after that.
        self.e.bytes(&[0xe3, 0x02, 0xeb, 0x05]);
        let at = self.e.jump(label);
        match in_page(target) {
            Some(offset) => self.link(label, at, offset),
            None => {
                let saved = self.flags != Flags::Host;
                self.late.push(Late::Cross { label, target, saved });
            }
        }
    }

    /// Puts the linear address that is `offset` from the start of the page into S0.
    pub fn in_page_address(&mut self, offset: i32) {
        self.held[0] = Held::Nothing;
        self.e.load(host::S0, state::page());
        self.lea_address(host::S0, Mem::base(host::S0, offset));
    }

    /// Goes to the linear address that is `target` from the start of the page, in another page or in two:
    /// directly once linked, while the address space is the one for which the link was made. For `start` and
    /// `release` see [`Self::look_up`].
    pub fn cross(&mut self, target: i32, start: i32, release: i32) {
        self.save_flags();
        let unlinked = self.e.label();
        let key = self.e.cmp_mem_far_32(state::key(), NO_KEY);
        let other = self.e.jump_if(condition::NOT_EQUAL, unlinked);
        let page = target & !(PAGE as i32 - 1);
        if page != 0 {
            if self.mode.long() {
                self.e.add_to_mem(state::page(), page);
            } else {
                self.e.add_to_mem_32(state::page(), page);
            }
        }
        let jump = self.e.jump(unlinked);
        let number = self.lowered.crossings.len();
        let ahead = Ahead { target, start, release };
        self.lowered.crossings.push(Crossing { key, other, jump, look_up: 0, ahead });
        self.late.push(Late::Unlinked { unlinked, number, target });
    }

    /// Where a transfer goes on if it was done out of line and led to the next instruction.
    fn done(&mut self, guest: &Guest) -> Label {
        let label = self.e.label();
        let target = i32::from(guest.next);
        self.late.push(Late::Exit { label, target, saved: false, reason: reason::LOOK_UP });
        label
    }

    /// Pushes the address of the next instruction.
    fn push_return(&mut self, guest: &Guest, plan: &Plan, done: Label) {
        let word = self.mode.word() as i32;
        let offset = self.stack(guest, plan.stack, (-word, true), done);
        self.e.load(host::S1, state::page());
        self.lea_address(host::S1, Mem::base(host::S1, i32::from(guest.next)));
        self.store_word(Mem::base(host::S0, offset), host::S1);
        self.move_stack(-word);
    }

    pub fn call(&mut self, guest: &Guest, plan: &Plan, target: i32) {
        let done = self.done(guest);
        self.push_return(guest, plan, done);
        match in_page(target) {
            Some(offset) => self.jump_in_page(offset),
            None => self.cross(target, i32::from(guest.start), self.mode.word() as i32),
        }
    }

    /// Puts the target of an indirect transfer into S0.
    fn target(&mut self, guest: &Guest, plan: &Plan, done: Label) {
        let instruction = &guest.instruction;
        if instruction.op0_kind() == OpKind::Memory {
            let offset = self.operand(guest, plan.operand, (self.mode.word(), false), done);
            self.load_word(host::S0, Mem::base(host::S0, offset));
        } else {
            let value = self.value(instruction.op0_register(), host::S0);
            if value != host::S0 {
                self.e.mov_sized(self.mode.long(), host::S0, value);
            }
        }
        self.held[0] = Held::Nothing;
    }

    pub fn jump_indirect(&mut self, guest: &Guest, plan: &Plan) {
        let done = self.done(guest);
        self.save_flags();
        self.target(guest, plan, done);
        self.look_up(i32::from(guest.start), 0);
    }

    pub fn call_indirect(&mut self, guest: &Guest, plan: &Plan) {
        let done = self.done(guest);
        self.save_flags();
        self.target(guest, plan, done);
        self.e.store(state::target(), host::S0);
        self.push_return(guest, plan, done);
        self.e.load(host::S0, state::target());
        self.look_up(i32::from(guest.start), self.mode.word() as i32);
    }

    pub fn ret(&mut self, guest: &Guest, plan: &Plan, release: u16) {
        let done = self.done(guest);
        self.save_flags();
        let offset = self.stack(guest, plan.stack, (0, false), done);
        self.load_word(host::S0, Mem::base(host::S0, offset));
        let release = self.mode.word() as i32 + i32::from(release);
        self.move_stack(release);
        self.look_up(i32::from(guest.start), -release);
    }

    /// Goes to the RIP in S0 by way of the jump cache; flags are in `status`. `start` and `release` are for
    /// a target that is not canonical: the fault is that of the transfer, which has to be undone.
    pub fn look_up(&mut self, start: i32, release: i32) {
        let (label, other_key) = look_up(&mut self.e);
        self.late.push(Late::Miss { label, other_key, start, release });
    }
}
