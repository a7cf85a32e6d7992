//! MOVS, STOS and LODS: of one element, or of some within a page.

use super::super::block::{Guest, PAGE};
use super::super::classify::Element;
use super::super::emit::{Label, Mem, condition, host};
use super::super::state;
use super::{Late, Writer};
use crate::registers::flag;

impl Writer<'_> {
    /// Writes one element, upwards; `which` is for the interpreter, which does it downwards.
    pub fn element(&mut self, guest: &Guest, element: Element, which: u16) {
        let (label, after) = (self.e.label(), self.e.label());
        self.clobber_flags(guest.live);
        self.e.test_mem_8(state::direction(), (flag::DF >> 8) as u8);
        self.e.jump_if(condition::NOT_EQUAL, label);
        // Both places are looked up before anything is changed: out of line it begins anew.
        let (bytes, reads, writes) = match element {
            Element::Move(bytes) => (bytes, true, true),
            Element::Store(bytes) => (bytes, false, true),
            Element::Load(bytes) => (bytes, true, false),
        };
        let size = usize::from(bytes);
        if reads {
            let offset = self.index(guest, host::RSI, (size, false), after);
            let to = if writes { host::S1 } else { host::RAX };
            self.e.part(bytes, false, to, Mem::base(host::S0, offset));
            if writes {
                self.e.store(state::target(), host::S1);
            }
        }
        if writes {
            let offset = self.index(guest, host::RDI, (size, true), after);
            let from = if reads { host::S1 } else { host::RAX };
            if reads {
                self.e.load(host::S1, state::target());
            }
            self.e.part(bytes, true, from, Mem::base(host::S0, offset));
            self.lea_address(host::RDI, Mem::base(host::RDI, i32::from(bytes)));
        }
        if reads {
            self.lea_address(host::RSI, Mem::base(host::RSI, i32::from(bytes)));
        }
        self.bind_after(after);
        self.late.push(Late::Interpreted { label, after, site: Self::site(guest, 0, false), which });
        self.forget_slots();
    }

    /// Writes MOVS or STOS with REP: by the host if all elements lie within a page, upwards, else by the interpreter
    /// (`which`), which is fast where there are many.
    pub fn repeat(&mut self, guest: &Guest, element: Element, which: u16) {
        let (label, after) = (self.e.label(), self.e.label());
        let (bytes, moves) = match element {
            Element::Move(bytes) => (bytes, true),
            Element::Store(bytes) | Element::Load(bytes) => (bytes, false),
        };
        let shift = bytes.trailing_zeros() as u8;
        let size = usize::from(bytes);
        self.clobber_flags(guest.live);
        self.e.test_mem_8(state::direction(), (flag::DF >> 8) as u8);
        self.e.jump_if(condition::NOT_EQUAL, label);
        // None, or more than a page has.
        self.e.lea(host::S0, Mem::base(host::RCX, -1));
        self.e.cmp_imm(host::S0, PAGE as i32 >> shift);
        self.e.jump_if(condition::ABOVE_OR_EQUAL, label);
        if moves {
            self.elements(guest, host::RSI, (size, false), (label, after));
            self.e.store(state::target(), host::S0);
        }
        self.elements(guest, host::RDI, (size, true), (label, after));
        self.e.lea(host::S1, Mem::indexed(Some(host::RDI), host::RCX, shift, 0));
        self.e.mov(host::RDI, host::S0);
        if moves {
            self.e.lea(host::S0, Mem::indexed(Some(host::RSI), host::RCX, shift, 0));
            self.e.load(host::RSI, state::target());
        }
        self.e.repeat(bytes, moves);
        self.e.mov(host::RDI, host::S1);
        if moves {
            self.e.mov(host::RSI, host::S0);
        }
        self.bind_after(after);
        self.late.push(Late::Interpreted { label, after, site: Self::site(guest, 0, false), which });
        self.forget_slots();
    }

    /// Puts the host address of the first element that `register` leads to into S0, and jumps to `label` unless the
    /// elements that RCX counts lie in its page. `after` is where the instruction is done.
    fn elements(
        &mut self,
        guest: &Guest,
        register: u8,
        (size, write): (usize, bool),
        (label, after): (Label, Label),
    ) {
        self.index(guest, register, (size, write), after);
        self.e.lea(host::S1, Mem::indexed(Some(host::S0), host::RCX, size.trailing_zeros() as u8, -1));
        self.e.xor(host::S1, host::S0);
        self.e.shr(host::S1, PAGE.trailing_zeros() as u8);
        self.e.jump_if(condition::NOT_EQUAL, label);
    }

    /// [`Self::point`] for what an index register leads to.
    fn index(&mut self, guest: &Guest, register: u8, access: (usize, bool), after: Label) -> i32 {
        self.point(guest, None, access, after, |writer, beyond| {
            writer.lea_address(host::S0, Mem::base(register, beyond));
        })
    }
}
