//! Writes the host code of a block.
//!
//! ```text
//! looped:  flags to `status`, if they are live
//! saved:   attention? ─▶ out        entered with flags in `Vcpu::status`: from Rust, by indirect jumps
//! resume:  flags to the host, if they are live
//! direct:  …                        entered with flags in the host's flags, as looped is
//!          what is rarely needed: slow paths, exits
//! ```
//!
//! A block that looks addresses up before it needs flags begins with them in `status`: resume leaves them there,
//! and direct is a way round that saves them.
//!
//! Each way in is a place of its own, whatever is live: it may lead to another block some day, in which other
//! flags are.
//!
//! Flags move from the host to `status` only when an address has to be looked up while they are live, and
//! back only when an instruction needs them.

mod bits;
mod data;
mod memory;
mod place;
mod scratch;
mod stack;
mod string;
mod system;
mod transfer;
mod x87;

use iced_x86::{Encoder, Instruction, InstructionInfoFactory, Mnemonic, Register};

pub use place::Place;
use scratch::{Held, Soon, leaves_scratch};

use super::block::{End, Guest, Scan};
use super::classify::{FLAGS, Kind, kills, memory_operand, modifies, reads};
use super::emit::{Buffers, Emitter, Label, Mem, condition, host};
use super::mode::Mode;
use super::plan::{Plan, plan};
use super::slow;
use super::state::{self, NO_CHECK, Site, loaded, reason};
use super::stubs::{Stubs, restore_flags, save_flags};

/// A way into a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    Saved,
    Resume,
    Direct,
    Looped,
    /// Into the block that shares no look-ups, flags in `status`.
    Plain,
}

/// A jump whose target may have been, or may become, translated.
#[derive(Debug, Clone, Copy)]
pub struct Link {
    /// Where the distance is.
    pub at: u64,
    /// Offset in the same page.
    pub target: u16,
    pub way: Way,
}

/// A jump to another page: linked for one address space at a time.
#[derive(Debug, Clone, Copy)]
pub struct Crossing {
    /// Where the key is, the distance if the key is another, and the jump's distance.
    pub key: u64,
    pub other: u64,
    pub jump: u64,
    /// Where `other` leads when the jump is not to be linked any more.
    pub look_up: u64,
    pub ahead: Ahead,
}

/// Where a [`Crossing`] goes: relative to the page. For the rest see [`Writer::look_up`].
#[derive(Debug, Clone, Copy, Default)]
pub struct Ahead {
    pub target: i32,
    pub start: i32,
    pub release: i32,
}

/// The ways into a block.
#[derive(Debug, Clone, Copy, Default)]
pub struct Entries {
    pub saved: u64,
    pub resume: u64,
    pub direct: u64,
    pub looped: u64,
    /// What the others become when the block's page has been written: with flags in `status`, and in the
    /// host.
    pub stale_saved: u64,
    pub stale: u64,
}

impl Entries {
    /// All ways in.
    pub fn ways(&self) -> [u64; 4] {
        [self.looped, self.saved, self.resume, self.direct]
    }

    /// What each of [`Self::ways`] becomes when the block's page has been written.
    pub fn ways_out(&self) -> [u64; 4] {
        [self.stale, self.stale_saved, self.stale_saved, self.stale]
    }
}

/// The code of a block, for any place, and what must be known of it: all addresses are distances from its
/// beginning, those of stubs from the first stub.
#[derive(Clone, Default)]
pub struct Lowered {
    /// The code, and memory to be used again.
    pub buffers: Buffers,
    pub links: Vec<Link>,
    pub crossings: Vec<Crossing>,
    /// Where the code has the 32-bit number of a crossing.
    numbers: Vec<u32>,
    /// Instructions for the interpreter.
    pub interpreted: Vec<Instructed>,
    /// Where the code has the 64-bit address of an instruction for the interpreter, and which.
    interpreted_at: Vec<(u32, u16)>,
    pub entries: Entries,
}

/// An instruction for the interpreter.
#[derive(Clone, Copy)]
pub struct Instructed {
    pub mnemonic: Mnemonic,
    /// It changes nothing of what [`crate::vcpu::Vcpu`] tells generated code.
    pub quiet: bool,
    bytes: [u8; LONGEST],
    length: u8,
}

impl Instructed {
    /// Its bytes, and perhaps some that follow.
    pub fn code(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.length)).unwrap_or_default()
    }
}

/// Bytes of the jump that a way into a block may become.
pub const HEAD: usize = 5;

/// A NOP of that length.
const HEAD_FILLER: [u8; HEAD] = [0x0f, 0x1f, 0x44, 0x00, 0x00];

/// Where the guest's arithmetic flags are, as far as they are live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flags {
    Host,
    /// In `status`.
    Saved,
    Both,
}

/// Code behind the block.
enum Late {
    /// The page is not in the first level: S1 leads to the entry that has been looked at.
    Slow { label: Label, access: Label, after: Label, site: Site },
    /// RIP becomes the offset; flags are in the host, or in `status`.
    Exit { label: Label, target: i32, saved: bool, reason: u64 },
    /// A branch to another page, taken.
    Cross { label: Label, target: i32, saved: bool },
    /// The jump cache does not know the RIP in S0, or (`other_key`) S1's entry is of another space.
    Miss { label: Label, other_key: Label, start: i32, release: i32 },
    /// A [`Crossing`] is not linked, or for another space.
    Unlinked { unlinked: Label, number: usize, target: i32 },
    /// The instruction at hand is left to the interpreter after all.
    Interpreted { label: Label, after: Label, site: Site, which: u16 },
}

/// What a writer works with.
pub struct Tools<'a> {
    pub stubs: &'a Stubs,
    pub encoder: &'a mut Encoder,
    pub info: &'a mut InstructionInfoFactory,
    /// Memory to be used again.
    pub lowered: Lowered,
    /// Each access is looked up by itself.
    pub plain: bool,
    /// Whether the host has BMI2.
    pub bmi2: bool,
    /// Whether look-ups in the first level are counted.
    pub counting: bool,
    /// Where the address goes at which each guest instruction's code begins, if that is wanted.
    pub marks: Option<&'a mut Vec<u64>>,
}

/// Whether a block overwrites the host's flags, for a look-up, before an instruction needs them or changes some.
fn clobbers_first(guests: &[Guest], plans: &[Plan]) -> bool {
    for (guest, plan) in guests.iter().zip(plans) {
        let instruction = &guest.instruction;
        if !plan.early.is_empty() {
            return true;
        }
        match guest.kind {
            Kind::Nothing | Kind::Lea => {}
            Kind::Plain | Kind::Vector(_) | Kind::X87(_) => {
                if memory_operand(instruction).is_some() {
                    return true;
                }
                if reads(instruction, guest.kind) | modifies(instruction, guest.kind) != 0 {
                    return false;
                }
            }
            Kind::Jump(_) | Kind::Branch(..) | Kind::CountZero(_) => return false,
            _ => return true,
        }
    }
    false
}

/// Writes one block.
pub struct Writer<'a> {
    e: Emitter,
    tools: Tools<'a>,
    late: Vec<Late>,
    lowered: Lowered,
    /// Offset of the block in its page.
    start: u16,
    mode: Mode,
    flags: Flags,
    /// Slots that have been filled.
    filled: u32,
    /// What S0 and S1 hold.
    held: [Held; 2],
    /// What is worth holding.
    soon: Soon,
    /// The present instruction may be done out of line.
    out_of_line: bool,
    /// Executable address behind what is overwritten to bar the block.
    head_end: u64,
}

/// The code of an instruction.
struct Encoded {
    bytes: [u8; LONGEST],
    length: usize,
}

/// Bytes of the longest instruction.
const LONGEST: usize = 15;

impl Encoded {
    fn new(code: &[u8]) -> Option<Self> {
        let mut bytes = [0; LONGEST];
        bytes.get_mut(..code.len())?.copy_from_slice(code);
        Some(Self { bytes, length: code.len() })
    }
}

impl std::ops::Deref for Encoded {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

/// [`super::Shared::transfer`].
pub fn pack_transfer(start: i32, release: i32) -> i32 {
    release << 16 | start & 0xffff
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
    (n != host::S0 && n != host::S1).then_some(n)
}

/// The home of guest register `n` in the state.
fn home(n: u8) -> Mem {
    state::register(usize::from(n))
}

impl<'a> Writer<'a> {
    pub fn new(mut tools: Tools<'a>) -> Self {
        let mut lowered = std::mem::take(&mut tools.lowered);
        lowered.links.clear();
        lowered.crossings.clear();
        lowered.numbers.clear();
        lowered.interpreted.clear();
        lowered.interpreted_at.clear();
        Self {
            e: Emitter::reusing(std::mem::take(&mut lowered.buffers), 0),
            tools,
            late: Vec::new(),
            lowered,
            start: 0,
            mode: Mode::from_number(0),
            flags: Flags::Host,
            filled: 0,
            held: [Held::Nothing; 2],
            soon: Soon::default(),
            out_of_line: false,
            head_end: 0,
        }
    }

    /// Writes the block; `bytes` are those of an instruction, and may go on behind it.
    pub fn block<'b>(mut self, scan: &Scan, bytes: impl Fn(&Guest) -> &'b [u8]) -> Lowered {
        let guests = &scan.guests;
        self.mode = scan.mode;
        self.start = guests.first().map_or(0, |guest| guest.start);
        let live = guests.first().is_none_or(|guest| guest.live != 0);
        let plans = if self.tools.plain || !self.mode.long() {
            vec![Plan::default(); guests.len()]
        } else {
            plan(guests, self.tools.info)
        };
        let flags = if live && clobbers_first(guests, &plans) { Flags::Saved } else { Flags::Host };
        let (mut entries, join) = self.ways_in(live, flags);
        if guests.iter().any(|guest| matches!(guest.kind, Kind::X87(_) | Kind::LoadControlWord)) {
            self.need_extensions(loaded::X87, self.tools.stubs.load_x87, live);
        } else if guests.iter().any(|guest| matches!(guest.kind, Kind::Vector(_))) {
            self.need_extensions(loaded::VECTORS, self.tools.stubs.load_vectors, live);
        }
        let soon = Soon::of(guests, &plans);
        for (index, guest) in guests.iter().enumerate() {
            if let Some(marks) = &mut self.tools.marks {
                marks.push(self.e.here());
            }
            self.soon = soon[index];
            for &later in &plans[index].early {
                self.early(guest, &guests[later], plans[later].operand);
            }
            let after = guests.get(index + 1).map_or(FLAGS, |next| next.live);
            if !self.guest(guest, &plans[index], after, &bytes) {
                let which = self.instruct(guest, &bytes);
                self.interpreted(guest, which);
            }
        }
        match scan.end {
            End::Transfer => {}
            End::Next(offset) => self.jump_in_page(offset),
            End::Crossing(offset) => self.cross(i32::from(offset), NO_CHECK, 0),
        }
        if let Some(marks) = &mut self.tools.marks {
            marks.push(self.e.here());
        }
        while let Some(late) = self.late.pop() {
            self.late(late);
        }
        if flags == Flags::Saved {
            entries.direct = self.e.here();
            save_flags(&mut self.e);
            self.e.jump(join);
        }
        entries.stale = self.e.here();
        save_flags(&mut self.e);
        entries.stale_saved = self.e.here();
        let stale = self.e.label();
        let reason = if self.tools.plain { reason::PLAIN } else { reason::STALE };
        self.late(Late::Exit { label: stale, target: i32::from(self.start), saved: true, reason });
        Lowered { buffers: self.e.finish(), entries, ..self.lowered }
    }

    /// Writes the ways in, behind which flags are in `flags` if they are live, and answers where they join. If that is
    /// `status`, the way in with flags in the host's is still to be written.
    fn ways_in(&mut self, live: bool, flags: Flags) -> (Entries, Label) {
        let mut entries = Entries { looped: self.e.here(), ..Entries::default() };
        if live {
            save_flags(&mut self.e);
        } else {
            self.e.bytes(&HEAD_FILLER);
        }
        entries.saved = self.e.here();
        let out = self.e.label();
        self.e.load(host::S0, state::attention());
        self.e.cmp_mem_imm_32(Mem::base(host::S0, 0), 0);
        self.e.jump_if(condition::NOT_EQUAL, out);
        let target = i32::from(self.start);
        self.late.push(Late::Exit { label: out, target, saved: true, reason: reason::ATTENTION });
        entries.resume = self.e.here();
        if live && flags == Flags::Host {
            restore_flags(&mut self.e);
        } else {
            self.e.bytes(&HEAD_FILLER);
        }
        let join = self.e.label();
        self.e.bind(join);
        entries.direct = self.e.here();
        self.head_end = entries.direct + if flags == Flags::Host { HEAD as u64 } else { 0 };
        self.flags = flags;
        (entries, join)
    }

    /// Notes an instruction for the interpreter; its number.
    fn instruct<'b>(&mut self, guest: &Guest, bytes: impl Fn(&Guest) -> &'b [u8]) -> u16 {
        let code = bytes(guest);
        let length = code.len().min(LONGEST);
        let mut bytes = [0; LONGEST];
        bytes[..length].copy_from_slice(&code[..length]);
        let mnemonic = guest.instruction.mnemonic();
        let quiet = slow::is_quiet(&guest.instruction);
        self.lowered.interpreted.push(Instructed { mnemonic, quiet, bytes, length: length as u8 });
        self.lowered.interpreted.len() as u16 - 1
    }

    /// Puts the address of an instruction for the interpreter into S0.
    fn load_instructed(&mut self, which: u16) {
        let at = self.e.mov_imm_64(host::S0, 0);
        self.lowered.interpreted_at.push((at as u32, which));
    }

    /// Loads what `level` names, a value of [`loaded`], by its stub `load` unless it is loaded; leaves the
    /// block if it must not be.
    fn need_extensions(&mut self, level: u8, load: u64, live: bool) {
        if live {
            self.save_flags();
        }
        let (loaded, label) = (self.e.label(), self.e.label());
        self.e.cmp_mem_imm_32(state::loaded(), level);
        self.e.jump_if(condition::ABOVE_OR_EQUAL, loaded);
        self.e.cmp_mem_imm_32(state::may_load(), level);
        self.e.jump_if(condition::BELOW, label);
        self.e.load(host::S0, state::image());
        self.e.lea_label(host::S1, loaded);
        self.e.jump_to(load);
        self.e.bind(loaded);
        self.flags = Flags::Saved;
        let target = i32::from(self.start);
        self.late.push(Late::Exit { label, target, saved: true, reason: reason::STEP });
    }

    fn site(guest: &Guest, size: usize, write: bool) -> Site {
        Site { start: guest.start, next: guest.next, size: size as u8, write }
    }

    /// False if the instruction cannot be written after all; nothing has been written then. `after`: the
    /// flags that are live behind it.
    fn guest<'b>(
        &mut self,
        guest: &Guest,
        plan: &Plan,
        after: u32,
        bytes: impl Fn(&Guest) -> &'b [u8],
    ) -> bool {
        if !leaves_scratch(guest.kind) {
            // The others use S1, and S0 but for slots, as they like.
            self.release_scratch();
        }
        match guest.kind {
            Kind::Interpret(_) => return false,
            Kind::Nothing => {}
            Kind::Plain | Kind::Vector(_) | Kind::X87(_) => return self.plain(guest, plan, after),
            Kind::LoadControlWord => {
                let which = self.instruct(guest, bytes);
                self.load_control_word(guest, plan, which);
            }
            Kind::Divide => {
                let which = self.instruct(guest, bytes);
                self.divide(guest, plan, which);
            }
            Kind::System(system) => self.system(guest, system, bytes),
            Kind::Element(element) => {
                let which = self.instruct(guest, bytes);
                self.element(guest, element, which);
            }
            Kind::Repeat(element) => {
                let which = self.instruct(guest, bytes);
                self.repeat(guest, element, which);
            }
            Kind::BitString => return self.bit_string(guest, after),
            Kind::Lea => self.lea(guest),
            Kind::Push => self.push(guest, plan),
            Kind::PushFlags => self.push_flags(guest, plan),
            Kind::Pop => self.pop(guest, plan),
            Kind::Leave => self.leave(guest, plan),
            Kind::Jump(target) => self.jump(target),
            Kind::CountZero(target) => self.count_zero(target),
            Kind::Branch(condition, target) => self.branch(condition, target),
            Kind::Call(target) => self.call(guest, plan, target),
            Kind::JumpIndirect => self.jump_indirect(guest, plan),
            Kind::CallIndirect => self.call_indirect(guest, plan),
            Kind::Return(release) => self.ret(guest, plan, release),
        }
        true
    }

    fn interpreted(&mut self, guest: &Guest, which: u16) {
        let stubs = self.tools.stubs;
        let fast = match guest.instruction.mnemonic() {
            Mnemonic::Syscall if self.mode.long() && self.mode.user => Some(stubs.syscall),
            Mnemonic::Sysretq if self.mode.long() && !self.mode.user => Some(stubs.sysret),
            _ => None,
        };
        if fast.is_some() {
            self.save_flags();
        }
        self.load_instructed(which);
        let saved = self.flags != Flags::Host;
        let stub = fast.unwrap_or(if saved { stubs.interpret_flags_saved } else { stubs.interpret });
        self.call_stub(stub, Self::site(guest, 0, false));
        self.flags = Flags::Both;
        self.forget_slots();
    }

    /// Calls a stub that wants to know the instruction.
    fn call_stub(&mut self, stub: u64, site: Site) {
        let back = self.e.label();
        self.e.lea_label(host::S1, back);
        self.e.jump_to(stub);
        self.e.bytes(&site.pack().to_le_bytes());
        self.e.bind(back);
    }

    /// Mappings may have changed.
    fn forget_slots(&mut self) {
        self.filled = 0;
        self.held = [Held::Nothing; 2];
    }

    /// A jump that may be linked later must not lie in what is overwritten to bar the block.
    fn pad_head(&mut self) {
        const NOPS: [&[u8]; 6] =
            [&[], &[0x90], &[0x66, 0x90], &[0x0f, 0x1f, 0x00], &[0x0f, 0x1f, 0x40, 0x00], &HEAD_FILLER];
        let missing = self.head_end.saturating_sub(self.e.here()) as usize;
        self.e.bytes(NOPS[missing.min(HEAD_FILLER.len())]);
    }

    // Flags

    /// Puts the flags into `status` if they are only in the host's.
    fn save_flags(&mut self) {
        if self.flags == Flags::Host {
            save_flags(&mut self.e);
            self.held[1] = Held::Nothing;
            self.flags = Flags::Both;
        }
    }

    /// The host's flags are about to be overwritten; `live` are those that must survive.
    fn clobber_flags(&mut self, live: u32) {
        if live != 0 {
            self.save_flags();
        }
        self.flags = Flags::Saved;
    }

    /// Puts the flags into the host's if they are only in `status`. S1 is overwritten.
    fn restore_flags(&mut self) {
        if self.flags == Flags::Saved {
            restore_flags(&mut self.e);
            self.held[1] = Held::Nothing;
            self.flags = Flags::Both;
        }
    }

    /// Gets the flags ready for an instruction that is about to be written as it is.
    fn prepare_flags(&mut self, guest: &Guest, after: u32) {
        let modified = modifies(&guest.instruction, guest.kind);
        let kept = after & modified & !kills(&guest.instruction, guest.kind);
        let partly = modified != 0 && after & !modified != 0;
        if reads(&guest.instruction, guest.kind) != 0 || kept != 0 || partly {
            self.restore_flags();
        }
    }

    /// The instruction has been written.
    fn finish_flags(&mut self, guest: &Guest) {
        if modifies(&guest.instruction, guest.kind) != 0 {
            self.flags = Flags::Host;
        }
    }

    /// The instruction's code, if it has one.
    fn encode(&mut self, instruction: &Instruction) -> Option<Encoded> {
        let encoder = &mut *self.tools.encoder;
        let encoded = encoder.encode(instruction, 0);
        let mut buffer = encoder.take_buffer();
        let code = encoded.ok().and_then(|length| Encoded::new(buffer.get(..length)?));
        buffer.clear();
        encoder.set_buffer(buffer);
        code
    }

    // Code behind the block

    fn late(&mut self, late: Late) {
        match late {
            Late::Slow { label, access, after, site } => {
                self.e.bind(label);
                self.e.add_mem(host::S0, memory::entry_page(site.write));
                self.call_stub(self.tools.stubs.slow, site);
                self.e.jump(access);
                self.e.jump(after);
            }
            Late::Exit { label, target, saved, reason } => {
                self.e.bind(label);
                self.e.mov_imm(host::S0, (target as u64) << 8 | reason);
                let stubs = self.tools.stubs;
                self.e.jump_to(if saved { stubs.exit_flags_saved } else { stubs.exit });
            }
            Late::Cross { label, target, saved } => {
                self.e.bind(label);
                self.flags = if saved { Flags::Saved } else { Flags::Host };
                self.cross(target, NO_CHECK, 0);
            }
            Late::Miss { label, other_key, start, release } => {
                self.e.bind(other_key);
                self.e.load(host::S0, Mem::base(host::S1, 0));
                self.e.bind(label);
                self.e.store_imm_32(state::transfer(), pack_transfer(start, release));
                self.e.jump_to(self.tools.stubs.miss);
            }
            Late::Unlinked { unlinked, number, target } => {
                self.e.bind(unlinked);
                self.e.mov_imm(host::S0, number as u64);
                self.number();
                self.e.jump_to(self.tools.stubs.link);
                self.lowered.crossings[number].look_up = self.e.here();
                self.e.store_imm_32(state::crossroad(), number as i32);
                self.number();
                self.in_page_address(target);
                self.e.jump_to(self.tools.stubs.look_up);
            }
            Late::Interpreted { label, after, site, which } => {
                self.e.bind(label);
                self.load_instructed(which);
                self.call_stub(self.tools.stubs.interpret_flags_saved, site);
                self.e.jump(after);
            }
        }
    }

    /// The last four bytes are the number of a crossing.
    fn number(&mut self) {
        self.lowered.numbers.push(self.e.here() as u32 - 4);
    }
}
