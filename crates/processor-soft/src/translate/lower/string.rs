//! MOVS, STOS and LODS of one element.

use super::super::block::Guest;
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

    /// [`Self::point`] for what an index register leads to.
    fn index(&mut self, guest: &Guest, register: u8, access: (usize, bool), after: Label) -> i32 {
        self.point(guest, None, access, after, |writer, beyond| {
            writer.lea_address(host::S0, Mem::base(register, beyond));
        })
    }
}
