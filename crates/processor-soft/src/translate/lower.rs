//! Writes the host code of a block.
//!
//! ```text
//! saved:   attention? ─▶ out        entered with flags in `Vcpu::status`: from Rust, by indirect jumps
//!          flags to the host, if they are live
//! direct:  …                        entered with flags in the host's flags
//! looped:  flags to `status`, if they are live; go to saved
//!          what is rarely needed: slow paths, exits
//! ```

use iced_x86::{Encoder, Instruction, InstructionInfoFactory, OpAccess, OpCodeOperandKind, OpKind, Register};

use super::block::{End, Guest, in_page};
use super::classify::{Kind, has_home};
use super::emit::{Emitter, Label, Mem, condition, host};
use super::first_level::ENTRIES;
use super::state::{self, JUMPS, NO_CHECK, Site, reason};
use super::stubs::{Stubs, restore_flags, save_flags};
use crate::registers::Seg;

/// A way into a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    Saved,
    Direct,
    Looped,
}

/// A jump whose target may have been, or may become, translated.
#[derive(Debug, Clone, Copy)]
pub struct Link {
    /// Executable address of the distance.
    pub at: u64,
    /// Offset in the same page.
    pub target: u16,
    pub way: Way,
}

/// The code of a block and what must be known of it.
pub struct Lowered {
    pub code: Vec<u8>,
    pub links: Vec<Link>,
    pub saved: u64,
    pub direct: u64,
    pub looped: u64,
}

/// Code behind the block.
enum Late {
    /// The page is not in the first level: S1 leads to the entry that has been looked at.
    Slow { label: Label, access: Label, after: Label, site: Site },
    /// RIP becomes the offset; flags are in the host, or in `status`.
    Exit { label: Label, target: i32, saved: bool, reason: u64 },
    /// A conditional branch to another page.
    Cross { label: Label, target: i32 },
    /// The jump cache does not know the RIP in S0, or (`other_key`) S1's entry is of another space.
    Miss { label: Label, other_key: Label, start: i32, release: i32 },
}

/// Writes one block.
pub struct Writer<'a> {
    e: Emitter,
    stubs: &'a Stubs,
    encoder: &'a mut Encoder,
    info: &'a mut InstructionInfoFactory,
    late: Vec<Late>,
    links: Vec<Link>,
    start: u16,
}

/// The host's register for guest register `number` of `size` bytes.
fn sized(number: u8, size: usize) -> Register {
    let n = u32::from(number);
    match size {
        8 => Register::RAX + n,
        4 => Register::EAX + n,
        2 => Register::AX + n,
        _ if number < 4 => Register::AL + n,
        _ if number < 8 => Register::SPL + (n - 4),
        _ => Register::R8L + (n - 8),
    }
}

fn number(register: Register) -> u8 {
    register.full_register().number() as u8
}

/// The host register in which guest register `n` lives, if it does in one.
fn resident(n: u8) -> Option<u8> {
    match n {
        4 => Some(host::GUEST_RSP),
        0..=12 => Some(n),
        _ => None,
    }
}

fn writes(access: OpAccess) -> bool {
    matches!(access, OpAccess::Write | OpAccess::CondWrite | OpAccess::ReadWrite | OpAccess::ReadCondWrite)
}

impl<'a> Writer<'a> {
    pub fn new(
        origin: u64,
        stubs: &'a Stubs,
        encoder: &'a mut Encoder,
        info: &'a mut InstructionInfoFactory,
    ) -> Self {
        Self { e: Emitter::new(origin), stubs, encoder, info, late: Vec::new(), links: Vec::new(), start: 0 }
    }

    /// Writes the block. `interpret` answers the address that [`Stubs::interpret`] gets for an instruction.
    pub fn block(mut self, guests: &[Guest], end: End, mut interpret: impl FnMut(&Guest) -> u64) -> Lowered {
        self.start = guests.first().map_or(0, |guest| guest.start);
        let live = guests.first().is_none_or(|guest| guest.live != 0);
        let saved = self.e.here();
        let out = self.e.label();
        self.e.load(host::S0, state::attention());
        self.e.cmp_mem_imm_32(Mem::base(host::S0, 0), 0);
        self.e.jump_if(condition::NOT_EQUAL, out);
        let start = i32::from(self.start);
        self.late.push(Late::Exit { label: out, target: start, saved: true, reason: reason::ATTENTION });
        if live {
            restore_flags(&mut self.e);
        }
        let direct = self.e.here();
        if guests.iter().any(|guest| matches!(guest.kind, Kind::Vector(_))) {
            self.need_vectors(live);
        }
        for guest in guests {
            if !self.guest(guest) {
                self.interpreted(guest, interpret(guest));
            }
        }
        match end {
            End::Transfer => {}
            End::Next(offset) => {
                let label = self.e.label();
                let at = self.e.jump(label);
                self.link(label, at, offset);
            }
            End::Crossing(offset) => {
                // Another page: where it is, the jump cache knows.
                save_flags(&mut self.e);
                self.in_page_address(i32::from(offset));
                self.look_up(NO_CHECK, 0);
            }
        }
        while let Some(late) = self.late.pop() {
            self.late(late);
        }
        let looped = if live {
            let looped = self.e.here();
            save_flags(&mut self.e);
            self.e.jump_to(saved);
            looped
        } else {
            saved
        };
        Lowered { code: self.e.finish(), links: self.links, saved, direct, looped }
    }

    /// Loads the vector registers unless they are loaded; leaves the block if they must not be.
    fn need_vectors(&mut self, live: bool) {
        if live {
            save_flags(&mut self.e);
        }
        let (loaded, label) = (self.e.label(), self.e.label());
        self.e.cmp_mem_imm_32(state::vectors(), 0);
        self.e.jump_if(condition::NOT_EQUAL, loaded);
        self.e.cmp_mem_imm_32(state::vectors_ready(), 0);
        self.e.jump_if(condition::EQUAL, label);
        self.e.load(host::S0, state::image());
        self.e.call_to(self.stubs.load_vectors);
        self.e.bind(loaded);
        if live {
            restore_flags(&mut self.e);
        }
        let target = i32::from(self.start);
        self.late.push(Late::Exit { label, target, saved: true, reason: reason::STEP });
    }

    /// Links a jump within the page.
    fn link(&mut self, label: Label, at: u64, target: u16) {
        let way = if target > self.start { Way::Direct } else { Way::Looped };
        self.links.push(Link { at, target, way });
        let target = i32::from(target);
        self.late.push(Late::Exit { label, target, saved: false, reason: reason::LOOK_UP });
    }

    fn site(guest: &Guest, size: usize, write: bool) -> Site {
        Site { start: guest.start, next: guest.next, size: size as u8, write }
    }

    /// False if the instruction cannot be written after all; nothing has been written then.
    fn guest(&mut self, guest: &Guest) -> bool {
        match guest.kind {
            Kind::Interpret(_) => return false,
            Kind::Nothing => {}
            Kind::Plain | Kind::Vector(_) => return self.plain(guest),
            Kind::Lea => return self.lea(guest),
            Kind::Push => self.push(guest),
            Kind::Pop => self.pop(guest),
            Kind::Leave => self.leave(guest),
            Kind::Jump(target) => self.jump(guest, target),
            Kind::Branch(condition, target) => self.branch(condition, target),
            Kind::Call(target) => self.call(guest, target),
            Kind::JumpIndirect => self.jump_indirect(guest),
            Kind::CallIndirect => self.call_indirect(guest),
            Kind::Return(release) => self.ret(guest, release),
        }
        true
    }

    fn interpreted(&mut self, guest: &Guest, ops: u64) {
        self.e.mov_imm(host::S0, ops);
        self.e.mov_imm(host::S1, Self::site(guest, 0, false).pack());
        self.e.call_to(self.stubs.interpret);
    }

    // Addresses

    /// A guest register's value in a host register, loaded into `scratch` if it has none.
    fn value(&mut self, register: Register, scratch: u8) -> u8 {
        let n = number(register);
        resident(n).unwrap_or_else(|| {
            self.e.load(scratch, state::register(usize::from(n)));
            scratch
        })
    }

    /// Puts the linear address of the memory operand into S0.
    fn address(&mut self, instruction: &Instruction) {
        let displacement = instruction.memory_displacement64() as i32;
        if instruction.memory_base() == Register::RIP {
            self.e.load(host::S0, state::page());
            self.e.lea(host::S0, Mem::base(host::S0, displacement));
        } else {
            let mem = self.address_operand(instruction);
            self.e.lea(host::S0, mem);
        }
        match instruction.memory_segment() {
            Register::FS => self.e.add_mem(host::S0, state::segment_base(Seg::Fs)),
            Register::GS => self.e.add_mem(host::S0, state::segment_base(Seg::Gs)),
            _ => {}
        }
    }

    /// The address in host registers, without segment; not for operands relative to RIP.
    fn address_operand(&mut self, instruction: &Instruction) -> Mem {
        let displacement = instruction.memory_displacement64() as i32;
        let base = match instruction.memory_base() {
            Register::None => None,
            register => Some(self.value(register, host::S0)),
        };
        match instruction.memory_index() {
            Register::None => match base {
                Some(base) => Mem::base(base, displacement),
                None => Mem::absolute(displacement),
            },
            register => {
                let index = self.value(register, host::S1);
                let shift = instruction.memory_index_scale().trailing_zeros() as u8;
                Mem::indexed(base, index, shift, displacement)
            }
        }
    }

    /// Turns the linear address in S0 into a host address. Clobbers the host's flags and S1; with
    /// `restore` they come back from `status`. `after` is where the instruction is done.
    fn check(&mut self, site: Site, restore: bool, after: Label) {
        let (label, access) = (self.e.label(), self.e.label());
        let table = if site.write { state::write_table() } else { state::read_table() };
        self.e.mov(host::S1, host::S0);
        self.e.shr(host::S1, 8);
        self.e.and_imm_32(host::S1, (ENTRIES as i32 - 1) << 4);
        self.e.add_mem(host::S1, table);
        self.e.sub_mem(host::S0, Mem::base(host::S1, 0));
        self.e.cmp_imm(host::S0, 4096 - i32::from(site.size));
        self.e.jump_if(condition::ABOVE, label);
        self.e.add_mem(host::S0, Mem::base(host::S1, 8));
        self.e.bind(access);
        if restore {
            restore_flags(&mut self.e);
        }
        self.late.push(Late::Slow { label, access, after, site });
    }

    /// Checks the memory operand of the instruction: its host address is in S0, flags as they were.
    fn operand(&mut self, guest: &Guest, write: bool, after: Label) {
        let live = guest.live != 0;
        if live {
            save_flags(&mut self.e);
        }
        self.address(&guest.instruction);
        if let Kind::Vector(alignment @ 2..) = guest.kind {
            let label = self.e.label();
            self.e.test_imm_8(host::S0, alignment - 1);
            self.e.jump_if(condition::NOT_EQUAL, label);
            let target = i32::from(guest.start);
            self.late.push(Late::Exit { label, target, saved: true, reason: reason::STEP });
        }
        let memory = guest.instruction.memory_size();
        let size = if memory.is_broadcast() { memory.element_size() } else { memory.size() };
        self.check(Self::site(guest, size, write), live, after);
    }

    // Data instructions

    fn plain(&mut self, guest: &Guest) -> bool {
        if self.register_move(&guest.instruction) {
            return true;
        }
        let mut instruction = guest.instruction;
        instruction.set_has_rep_prefix(false);
        instruction.set_has_repne_prefix(false);
        let count = instruction.op_count();
        let memory = (0..count).find(|&n| instruction.op_kind(n) == OpKind::Memory);
        let homes = if memory.is_some() { [host::S1, host::S1] } else { [host::S0, host::S1] };
        let mut used: [Option<u8>; 2] = [None; 2];
        let (mut load, mut store) = ([false; 2], [false; 2]);
        let info = self.info.info(&guest.instruction);
        let write = memory.is_some_and(|n| writes(info.op_access(n)));
        for n in 0..count {
            if instruction.op_kind(n) != OpKind::Register {
                continue;
            }
            let register = instruction.op_register(n);
            let access = info.op_access(n);
            if !has_home(register) {
                if register.full_register() == Register::RSP {
                    instruction.set_op_register(n, sized(host::GUEST_RSP, register.size()));
                }
                continue;
            }
            let guest_register = number(register);
            let Some(place) = used.iter().position(|&u| u.is_none() || u == Some(guest_register)) else {
                return false;
            };
            used[place] = Some(guest_register);
            load[place] |= access != OpAccess::Write || register.size() < 4;
            store[place] |= writes(access);
            instruction.set_op_register(n, sized(homes[place], register.size()));
        }
        // A single operand with a home may be used where it is.
        if memory.is_none()
            && guest.kind == Kind::Plain
            && used[1].is_none()
            && let Some(home) = used[0]
            && let Some(direct) = in_place(&guest.instruction, home, store[0])
            && let Some(bytes) = self.encode(&direct)
        {
            self.e.bytes(&bytes);
            return true;
        }
        if memory.is_some() {
            instruction.set_memory_base(Register::RAX + u32::from(host::S0));
            instruction.set_memory_index(Register::None);
            instruction.set_memory_index_scale(1);
            instruction.set_memory_displacement64(0);
            instruction.set_memory_displ_size(0);
            instruction.set_segment_prefix(Register::None);
        }
        let Some(bytes) = self.encode(&instruction) else { return false };
        let after = self.e.label();
        if memory.is_some() {
            self.operand(guest, write, after);
        }
        for place in 0..2 {
            if let Some(home) = used[place].filter(|_| load[place]) {
                self.e.load(homes[place], state::register(usize::from(home)));
            }
        }
        self.e.bytes(&bytes);
        for place in 0..2 {
            if let Some(home) = used[place].filter(|_| store[place]) {
                self.e.store(state::register(usize::from(home)), homes[place]);
            }
        }
        self.e.bind(after);
        true
    }

    /// MOV between registers of which one has a home.
    fn register_move(&mut self, instruction: &Instruction) -> bool {
        use iced_x86::Code as C;
        let wide = match instruction.code() {
            C::Mov_rm64_r64 | C::Mov_r64_rm64 => true,
            C::Mov_rm32_r32 | C::Mov_r32_rm32 => false,
            _ => return false,
        };
        if instruction.op0_kind() != OpKind::Register || instruction.op1_kind() != OpKind::Register {
            return false;
        }
        let (to, from) = (number(instruction.op0_register()), number(instruction.op1_register()));
        let home = |n: u8| state::register(usize::from(n));
        match (resident(to), resident(from)) {
            (Some(_), Some(_)) => return false,
            (Some(to), None) if wide => self.e.load(to, home(from)),
            (Some(to), None) => self.e.load_32(to, home(from)),
            (None, Some(from)) if wide => self.e.store(home(to), from),
            (None, Some(from)) => {
                self.e.mov_32(host::S0, from);
                self.e.store(home(to), host::S0);
            }
            (None, None) => {
                if wide {
                    self.e.load(host::S0, home(from));
                } else {
                    self.e.load_32(host::S0, home(from));
                }
                self.e.store(home(to), host::S0);
            }
        }
        true
    }

    fn lea(&mut self, guest: &Guest) -> bool {
        let instruction = &guest.instruction;
        let to = number(instruction.op0_register());
        let wide = instruction.op0_register().size() == 8;
        let target = resident(to).unwrap_or(host::S0);
        if instruction.memory_base() == Register::RIP {
            self.e.load(target, state::page());
            self.e.lea(target, Mem::base(target, instruction.memory_displacement64() as i32));
        } else {
            let mem = self.address_operand(instruction);
            if wide { self.e.lea(target, mem) } else { self.e.lea_32(target, mem) }
        }
        if resident(to).is_none() {
            self.e.store(state::register(usize::from(to)), host::S0);
        }
        true
    }

    fn encode(&mut self, instruction: &Instruction) -> Option<Vec<u8>> {
        let encoded = self.encoder.encode(instruction, 0);
        let bytes = self.encoder.take_buffer();
        encoded.ok().map(|_| bytes)
    }

    // The stack

    fn push(&mut self, guest: &Guest) {
        let instruction = &guest.instruction;
        let live = guest.live != 0;
        let after = self.e.label();
        if live {
            save_flags(&mut self.e);
        }
        let memory = instruction.op0_kind() == OpKind::Memory;
        if memory {
            self.address(instruction);
            self.check(Self::site(guest, 8, false), false, after);
            self.e.load(host::S0, Mem::base(host::S0, 0));
            self.e.store(state::target(), host::S0);
        }
        self.e.lea(host::S0, Mem::base(host::GUEST_RSP, -8));
        self.check(Self::site(guest, 8, true), live, after);
        match instruction.op0_kind() {
            OpKind::Register => {
                let value = self.value(instruction.op0_register(), host::S1);
                self.e.store(Mem::base(host::S0, 0), value);
            }
            OpKind::Memory => {
                self.e.load(host::S1, state::target());
                self.e.store(Mem::base(host::S0, 0), host::S1);
            }
            _ => self.e.store_imm(Mem::base(host::S0, 0), instruction.immediate(0) as i32),
        }
        self.e.lea(host::GUEST_RSP, Mem::base(host::GUEST_RSP, -8));
        self.e.bind(after);
    }

    fn pop(&mut self, guest: &Guest) {
        let live = guest.live != 0;
        let after = self.e.label();
        if live {
            save_flags(&mut self.e);
        }
        self.e.mov(host::S0, host::GUEST_RSP);
        self.check(Self::site(guest, 8, false), live, after);
        let n = number(guest.instruction.op0_register());
        if resident(n) == Some(host::GUEST_RSP) {
            self.e.load(host::GUEST_RSP, Mem::base(host::S0, 0));
            self.e.bind(after);
            return;
        }
        let to = resident(n).unwrap_or(host::S0);
        self.e.load(to, Mem::base(host::S0, 0));
        if resident(n).is_none() {
            self.e.store(state::register(usize::from(n)), host::S0);
        }
        self.e.lea(host::GUEST_RSP, Mem::base(host::GUEST_RSP, 8));
        self.e.bind(after);
    }

    fn leave(&mut self, guest: &Guest) {
        let live = guest.live != 0;
        let after = self.e.label();
        if live {
            save_flags(&mut self.e);
        }
        self.e.mov(host::S0, host::RBP);
        self.check(Self::site(guest, 8, false), live, after);
        self.e.lea(host::GUEST_RSP, Mem::base(host::RBP, 8));
        self.e.load(host::RBP, Mem::base(host::S0, 0));
        self.e.bind(after);
    }

    // Transfers

    fn jump(&mut self, guest: &Guest, target: i32) {
        match in_page(target) {
            Some(offset) => {
                let label = self.e.label();
                let at = self.e.jump(label);
                self.link(label, at, offset);
            }
            None => {
                if guest.live != 0 {
                    save_flags(&mut self.e);
                }
                self.in_page_address(target);
                self.look_up(NO_CHECK, 0);
            }
        }
    }

    fn branch(&mut self, condition: u8, target: i32) {
        let label = self.e.label();
        let at = self.e.jump_if(condition, label);
        match in_page(target) {
            Some(offset) => self.link(label, at, offset),
            None => self.late.push(Late::Cross { label, target }),
        }
    }

    /// Puts the linear address that is `offset` from the start of the page into S0.
    fn in_page_address(&mut self, offset: i32) {
        self.e.load(host::S0, state::page());
        self.e.lea(host::S0, Mem::base(host::S0, offset));
    }

    /// Where a transfer goes on if it was done out of line and led to the next instruction.
    fn done(&mut self, guest: &Guest) -> Label {
        let label = self.e.label();
        let target = i32::from(guest.next);
        self.late.push(Late::Exit { label, target, saved: false, reason: reason::LOOK_UP });
        label
    }

    /// Pushes the address of the next instruction; flags are in `status`.
    fn push_return(&mut self, guest: &Guest, done: Label) {
        self.e.lea(host::S0, Mem::base(host::GUEST_RSP, -8));
        self.check(Self::site(guest, 8, true), false, done);
        self.e.load(host::S1, state::page());
        self.e.lea(host::S1, Mem::base(host::S1, i32::from(guest.next)));
        self.e.store(Mem::base(host::S0, 0), host::S1);
        self.e.lea(host::GUEST_RSP, Mem::base(host::GUEST_RSP, -8));
    }

    fn call(&mut self, guest: &Guest, target: i32) {
        let done = self.done(guest);
        if guest.live != 0 {
            save_flags(&mut self.e);
        }
        self.push_return(guest, done);
        match in_page(target) {
            Some(offset) => {
                let label = self.e.label();
                let at = self.e.jump(label);
                self.links.push(Link { at, target: offset, way: Way::Saved });
                self.late.push(Late::Exit { label, target, saved: true, reason: reason::LOOK_UP });
            }
            None => {
                self.in_page_address(target);
                self.look_up(i32::from(guest.start), 8);
            }
        }
    }

    /// Puts the target of an indirect transfer into S0; flags are in `status`.
    fn target(&mut self, guest: &Guest, done: Label) {
        let instruction = &guest.instruction;
        if instruction.op0_kind() == OpKind::Memory {
            self.address(instruction);
            self.check(Self::site(guest, 8, false), false, done);
            self.e.load(host::S0, Mem::base(host::S0, 0));
        } else {
            let value = self.value(instruction.op0_register(), host::S0);
            if value != host::S0 {
                self.e.mov(host::S0, value);
            }
        }
    }

    fn jump_indirect(&mut self, guest: &Guest) {
        let done = self.done(guest);
        save_flags(&mut self.e);
        self.target(guest, done);
        self.look_up(i32::from(guest.start), 0);
    }

    fn call_indirect(&mut self, guest: &Guest) {
        let done = self.done(guest);
        save_flags(&mut self.e);
        self.target(guest, done);
        self.e.store(state::target(), host::S0);
        self.push_return(guest, done);
        self.e.load(host::S0, state::target());
        self.look_up(i32::from(guest.start), 8);
    }

    fn ret(&mut self, guest: &Guest, release: u16) {
        let done = self.done(guest);
        save_flags(&mut self.e);
        self.e.mov(host::S0, host::GUEST_RSP);
        self.check(Self::site(guest, 8, false), false, done);
        self.e.load(host::S0, Mem::base(host::S0, 0));
        let release = 8 + i32::from(release);
        self.e.lea(host::GUEST_RSP, Mem::base(host::GUEST_RSP, release));
        self.look_up(i32::from(guest.start), -release);
    }

    /// Goes to the RIP in S0 by way of the jump cache; flags are in `status`. `start` and `release` are for
    /// a target that is not canonical: the fault is that of the transfer, which has to be undone.
    fn look_up(&mut self, start: i32, release: i32) {
        let (label, other_key) = (self.e.label(), self.e.label());
        self.e.mov(host::S1, host::S0);
        self.e.shr(host::S1, 12);
        self.e.xor_32(host::S1, host::S0);
        self.e.and_imm_32(host::S1, JUMPS as i32 - 1);
        self.e.shl_32(host::S1, 5);
        self.e.add_mem(host::S1, state::jumps());
        self.e.cmp_mem(host::S0, Mem::base(host::S1, 0));
        self.e.jump_if(condition::NOT_EQUAL, label);
        self.e.and_imm(host::S0, -4096);
        self.e.store(state::page(), host::S0);
        self.e.load(host::S0, state::key());
        self.e.cmp_mem(host::S0, Mem::base(host::S1, 8));
        self.e.jump_if(condition::NOT_EQUAL, other_key);
        self.e.jump_mem(Mem::base(host::S1, 16));
        self.late.push(Late::Miss { label, other_key, start, release });
    }

    // Code behind the block

    fn late(&mut self, late: Late) {
        match late {
            Late::Slow { label, access, after, site } => {
                self.e.bind(label);
                self.e.add_mem(host::S0, Mem::base(host::S1, 0));
                self.e.mov_imm(host::S1, site.pack());
                self.e.call_to(self.stubs.slow);
                self.e.jump(access);
                self.e.jump(after);
            }
            Late::Exit { label, target, saved, reason } => {
                self.e.bind(label);
                self.in_page_address(target);
                self.e.store(state::rip(), host::S0);
                self.e.mov_imm(host::S0, reason);
                self.e.jump_to(if saved { self.stubs.exit_flags_saved } else { self.stubs.exit });
            }
            Late::Cross { label, target } => {
                self.e.bind(label);
                save_flags(&mut self.e);
                self.in_page_address(target);
                self.look_up(NO_CHECK, 0);
            }
            Late::Miss { label, other_key, start, release } => {
                self.e.bind(other_key);
                self.e.load(host::S0, Mem::base(host::S1, 0));
                self.e.bind(label);
                self.e.store(state::rip(), host::S0);
                self.e.store_imm(state::transfer_start(), start);
                self.e.store_imm(state::transfer_release(), release);
                self.e.mov_imm(host::S0, reason::MISS);
                self.e.jump_to(self.stubs.exit_flags_saved);
            }
        }
    }
}

/// `instruction` with its only operand that has a home replaced by that home, if it may be a memory operand.
/// A result of 32 bits would have to clear the upper half, which a store does not.
fn in_place(instruction: &Instruction, home: u8, writes: bool) -> Option<Instruction> {
    let code = instruction.op_code();
    let mut direct = *instruction;
    direct.set_has_rep_prefix(false);
    direct.set_has_repne_prefix(false);
    let mut replaced = false;
    for n in 0..instruction.op_count() {
        if instruction.op_kind(n) != OpKind::Register {
            continue;
        }
        let register = instruction.op_register(n);
        if !has_home(register) {
            if register.full_register() == Register::RSP {
                direct.set_op_register(n, sized(host::GUEST_RSP, register.size()));
            }
            continue;
        }
        let memory_kind = matches!(
            code.op_kind(n),
            OpCodeOperandKind::r8_or_mem
                | OpCodeOperandKind::r16_or_mem
                | OpCodeOperandKind::r32_or_mem
                | OpCodeOperandKind::r64_or_mem
        );
        if replaced || !memory_kind || writes && register.size() == 4 {
            return None;
        }
        replaced = true;
        direct.set_op_kind(n, OpKind::Memory);
        direct.set_memory_base(Register::None);
        direct.set_memory_index(Register::None);
        direct.set_memory_displ_size(8);
        direct.set_memory_displacement64(state::register_offset(usize::from(home)) as u64);
        direct.set_segment_prefix(Register::GS);
    }
    // XCHG with memory is a locked operation, and a bit string in memory reaches beyond its operand.
    use iced_x86::Mnemonic as M;
    let different = matches!(instruction.mnemonic(), M::Xchg | M::Bt | M::Bts | M::Btr | M::Btc);
    (replaced && !different).then_some(direct)
}
