//! Addresses: from what an operand says to a host address in S0.

use iced_x86::{Instruction, Register};

use super::super::block::Guest;
use super::super::classify::has_home;
use super::super::emit::{Label, Mem, condition, host};
use super::super::first_level::{ENTRIES, WRITE};
use super::super::plan::Share;
use super::super::state::{self, Site, reason};
use super::{Held, Late, Link, Way, Writer, home, number, resident};
use crate::registers::Seg;

/// The linear address in the first level's entry that S1 leads to.
pub fn entry_page(write: bool) -> Mem {
    Mem::tables(host::S1, if write { WRITE } else { 0 })
}

fn entry_host(write: bool) -> Mem {
    Mem::tables(host::S1, if write { WRITE + 8 } else { 8 })
}

impl Writer<'_> {
    /// A guest register's value in a host register, loaded into `scratch` if it has none.
    pub fn value(&mut self, register: Register, scratch: u8) -> u8 {
        let n = number(register);
        resident(n).unwrap_or_else(|| {
            self.e.load(scratch, home(n));
            scratch
        })
    }

    /// Puts the linear address of the memory operand, and `beyond` bytes, into S0.
    pub fn address(&mut self, instruction: &Instruction, beyond: i32) {
        let displacement = (instruction.memory_displacement64() as i32).wrapping_add(beyond);
        if instruction.memory_base() == Register::RIP {
            self.e.load(host::S0, state::page());
            self.e.lea(host::S0, Mem::base(host::S0, displacement));
        } else {
            let mem = self.address_operand(instruction, beyond);
            self.lea_address(host::S0, mem);
        }
        self.held[0] = Held::Nothing;
        let base = match instruction.memory_segment() {
            Register::FS => state::segment_base(Seg::Fs),
            Register::GS => state::segment_base(Seg::Gs),
            _ => return,
        };
        if self.mode.long() { self.e.add_mem(host::S0, base) } else { self.e.add_mem_32(host::S0, base) }
    }

    /// LEA that computes addresses as the guest's code does.
    pub fn lea_address(&mut self, to: u8, mem: Mem) {
        if self.mode.long() { self.e.lea(to, mem) } else { self.e.lea_32(to, mem) }
    }

    /// The address in host registers, without segment; not for operands relative to RIP.
    pub fn address_operand(&mut self, instruction: &Instruction, beyond: i32) -> Mem {
        let displacement = (instruction.memory_displacement64() as i32).wrapping_add(beyond);
        let [base, index] = [instruction.memory_base(), instruction.memory_index()];
        let with_home = |register: Register| has_home(register).then(|| (number(register), true));
        let scratch = self.hold([with_home(base), with_home(index)]);
        let value = |register: Register, scratch| resident(number(register)).unwrap_or(scratch);
        let base = (base != Register::None).then(|| value(base, scratch[0]));
        match (base, index) {
            (Some(base), Register::None) => Mem::base(base, displacement),
            (None, Register::None) => Mem::absolute(displacement),
            (base, index) => {
                let shift = instruction.memory_index_scale().trailing_zeros() as u8;
                Mem::indexed(base, value(index, scratch[1]), shift, displacement)
            }
        }
    }

    /// Makes S1 lead to the entry for the linear address in S0, and S0 the distance from its page; jumps to
    /// `label` unless `size` bytes lie in that page. The host's flags are overwritten. The executable address of
    /// the jump's distance.
    fn look_up_page(&mut self, size: u16, write: bool, label: Label) -> u64 {
        if self.tools.counting {
            self.e.increment(state::look_ups());
        }
        self.e.shift_right_8(host::S1, host::S0, self.tools.bmi2);
        self.e.and_imm_32(host::S1, (ENTRIES as i32 - 1) << 4);
        self.e.sub_mem(host::S0, entry_page(write));
        self.e.cmp_imm(host::S0, 4096 - i32::from(size));
        let at = self.e.jump_if(condition::ABOVE, label);
        self.e.add_mem(host::S0, entry_host(write));
        self.held = [Held::Nothing; 2];
        at
    }

    /// Turns the linear address in S0 into a host address. `after` is where the instruction is done.
    fn check(&mut self, site: Site, after: Label) {
        let (label, access) = (self.e.label(), self.e.label());
        self.look_up_page(u16::from(site.size), site.write, label);
        self.e.bind(access);
        self.late.push(Late::Slow { label, access, after, site });
    }

    /// Binds where the instruction goes on if it has been done out of line: the scratch registers hold nothing
    /// there.
    pub fn bind_after(&mut self, after: Label) {
        self.e.bind(after);
        if std::mem::take(&mut self.out_of_line) {
            self.held = [Held::Nothing; 2];
        }
    }

    /// Makes S0 lead to an operand of `size` bytes and answers the distance that remains; `address` puts the
    /// linear address and a given number of bytes beyond it into S0. The host's flags may be overwritten, S1
    /// too. `after` is where the instruction goes on if it has been done out of line.
    pub fn point(
        &mut self,
        guest: &Guest,
        share: Option<Share>,
        (size, write): (usize, bool),
        after: Label,
        address: impl FnOnce(&mut Self, i32),
    ) -> i32 {
        match share {
            Some(share) if self.filled >> share.slot & 1 != 0 => {
                if self.held[0] != Held::Slot(share.slot) {
                    self.e.load(host::S0, state::slot(share.slot));
                    self.held[0] = Held::Slot(share.slot);
                }
                share.offset
            }
            Some(share) => {
                self.clobber_flags(guest.live);
                address(self, -share.offset);
                self.fill_slot(guest, share);
                share.offset
            }
            None => {
                self.clobber_flags(guest.live);
                address(self, 0);
                self.check(Self::site(guest, size, write), after);
                self.out_of_line = true;
                0
            }
        }
    }
}

impl Writer<'_> {
    /// Looks up the range of `share`, whose linear address is in S0, before the instruction `guest`.
    fn fill_slot(&mut self, guest: &Guest, share: Share) {
        let label = self.e.label();
        let at = self.look_up_page(share.span, share.write, label);
        self.lowered.links.push(Link { at, target: guest.start, way: Way::Plain });
        let target = i32::from(guest.start);
        self.late.push(Late::Exit { label, target, saved: true, reason: reason::PLAIN });
        self.e.store(state::slot(share.slot), host::S0);
        self.filled |= 1 << share.slot;
        self.held[0] = Held::Slot(share.slot);
    }

    /// Before the instruction `guest`, looks up what the memory operand of a `later` one needs.
    pub fn early(&mut self, guest: &Guest, later: &Guest, share: Option<Share>) {
        if let Some(share) = share.filter(|share| self.filled >> share.slot & 1 == 0) {
            self.clobber_flags(guest.live);
            self.address(&later.instruction, -share.offset);
            self.fill_slot(guest, share);
        }
    }

    /// [`Self::point`] for the memory operand.
    pub fn operand(
        &mut self,
        guest: &Guest,
        share: Option<Share>,
        (size, write): (usize, bool),
        after: Label,
    ) -> i32 {
        self.point(guest, share, (size, write), after, |writer, beyond| {
            writer.address(&guest.instruction, beyond);
        })
    }

    /// [`Self::point`] for a word at `displacement` from the stack pointer.
    pub fn stack(
        &mut self,
        guest: &Guest,
        share: Option<Share>,
        (displacement, write): (i32, bool),
        after: Label,
    ) -> i32 {
        let word = self.mode.word();
        self.point(guest, share, (word, write), after, |writer, beyond| {
            writer.lea_address(host::S0, Mem::base(host::RSP, displacement + beyond));
        })
    }
}
