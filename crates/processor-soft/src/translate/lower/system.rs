//! Instructions of the operating system that need no call into Rust.

use super::super::block::Guest;
use super::super::classify::System;
use super::super::emit::{Mem, condition, host};
use super::super::state;
use super::{Held, Late, Writer, home, number, resident};
use crate::registers::{Seg, flag};
use crate::system::segment;

impl Writer<'_> {
    /// Writes an instruction of an operating system; `bytes` are its own, for the interpreter.
    pub fn system<'b>(&mut self, guest: &Guest, system: System, bytes: impl Fn(&Guest) -> &'b [u8]) {
        match system {
            System::ReadTime(identified) => {
                self.clobber_flags(guest.live);
                let (label, after) = (self.e.label(), self.e.label());
                self.e.cmp_mem_8(state::time_barred(), 0);
                self.e.jump_if(condition::NOT_EQUAL, label);
                if identified {
                    // As RDTSCP does, after all instructions before it.
                    self.e.load_fence();
                }
                self.e.read_time();
                self.e.mov(host::S1, host::RDX);
                self.e.shl(host::S1, 32);
                self.e.lea(host::RAX, Mem::indexed(Some(host::RAX), host::S1, 0, 0));
                self.e.add_mem(host::RAX, state::time_offset());
                self.e.mov(host::RDX, host::RAX);
                self.e.shr(host::RDX, 32);
                self.e.mov_32(host::RAX, host::RAX);
                if identified {
                    self.e.load_32(host::RCX, state::time_aux());
                }
                self.e.bind(after);
                let (site, which) = (Self::site(guest, 0, false), self.instruct(guest, bytes));
                self.late.push(Late::Interpreted { label, after, site, which });
                // The interpreter changes no mapping either, but S0.
                self.held[0] = Held::Nothing;
                return;
            }
            System::ReadSegment => {
                let seg = segment(guest.instruction.op1_register().number());
                self.write_register(guest, |writer, to| writer.e.load_16(to, state::selector(seg)));
                return;
            }
            System::ReadFaultAddress => {
                self.write_register(guest, |writer, to| writer.e.load(to, state::fault_address()));
                return;
            }
            System::Cld => {
                self.clobber_flags(guest.live);
                self.e.and_mem_32(state::flags(), !(flag::DF as u32));
                return;
            }
            System::Swapgs => {
                self.e.load(host::S0, state::segment_base(Seg::Gs));
                self.e.load(host::S1, state::kernel_gs_base());
                self.e.store(state::segment_base(Seg::Gs), host::S1);
                self.e.store(state::kernel_gs_base(), host::S0);
            }
            System::Cli => {
                self.clobber_flags(guest.live);
                self.e.and_mem_32(state::flags(), !(flag::IF as u32));
            }
            System::Sti => {
                self.clobber_flags(guest.live);
                let (label, after) = (self.e.label(), self.e.label());
                self.e.cmp_mem_8(state::interrupt_waiting(), 0);
                self.e.jump_if(condition::NOT_EQUAL, label);
                self.e.or_mem_32(state::flags(), flag::IF as u32);
                self.e.store_imm_8(state::interrupt_shadow(), 1);
                self.e.bind(after);
                let (site, which) = (Self::site(guest, 0, false), self.instruct(guest, bytes));
                self.late.push(Late::Interpreted { label, after, site, which });
            }
            System::Stac | System::Clac => {
                let set = system == System::Stac;
                self.clobber_flags(guest.live);
                if set {
                    self.e.or_mem_32(state::flags(), flag::AC as u32);
                } else {
                    self.e.and_mem_32(state::flags(), !(flag::AC as u32));
                }
                self.e.load(host::S0, state::switch(set, 0));
                self.e.write_fs_base(host::S0);
                self.e.store(state::tables(), host::S0);
                self.e.load(host::S0, state::switch(set, 1));
                self.e.store(state::entries(), host::S0);
                self.e.load_32(host::S0, state::switch(set, 2));
                self.e.store_8(state::class(), host::S0);
            }
        }
        self.forget_slots();
    }

    /// Loads the register that the instruction writes, all of it; S1 is overwritten.
    fn write_register(&mut self, guest: &Guest, load: impl FnOnce(&mut Self, u8)) {
        let n = number(guest.instruction.op0_register());
        load(self, resident(n).unwrap_or(host::S1));
        if resident(n).is_none() {
            self.e.store(home(n), host::S1);
        }
    }
}
