//! Looking into the translator from outside: names of its code for `perf`, and its blocks as text.
//!
//! `/tmp/perf-PID.map` has a line for each stub and each block, as [perf's interface for JITs][1] wants it:
//! address and size in hexadecimal, and a name.
//!
//! ```text
//! 7f0c5a2010c0 f4 guest:0xffffffff81234567 kernel
//! ```
//!
//! Code that has been forgotten keeps its line; a block that takes its place has a later one.
//!
//! The dump shows each guest instruction and below it its host code, as it is before jumps are linked:
//!
//! ```text
//! guest:0xffffffff81234567 kernel at 0x1234567: 12 instructions, 244 bytes
//! ffffffff81234567  push rbp
//!     7f0c5a2010e1  4c8d6c24f8                      lea r13,[rsp-0x8]
//! ```
//!
//! [1]: https://git.kernel.org/pub/scm/linux/kernel/git/torvalds/linux.git/tree/tools/perf/Documentation/jit-interface.txt

use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;

use iced_x86::{Decoder, DecoderOptions, Formatter, Instruction, IntelFormatter, OpKind};

use super::block::{Guest, Scan};
use super::classify::Kind;
use super::stubs::Stubs;

/// Bytes of a packed [`super::state::Site`].
const SITE: usize = size_of::<u64>();

/// What is to be told of translated code. By default nothing.
#[derive(Debug, Default)]
pub struct Inspection {
    /// Takes names of code for `perf`, and is `/tmp/perf-PID.map`. Opened to append to.
    pub map: Option<File>,
    /// Takes the blocks as text. Opened to append to.
    pub dump: Option<File>,
    /// Whether look-ups in the first level of the TLB are counted, which makes them slower.
    pub count: bool,
}

/// A block that has just been translated.
pub struct Translated<'a> {
    /// Linear address.
    pub rip: u64,
    /// Guest physical address.
    pub gpa: u64,
    /// Whether it shares no look-ups.
    pub plain: bool,
    pub scan: &'a Scan,
    /// Executable address of its code.
    pub origin: u64,
    pub code: &'a [u8],
    /// Where in it the instructions' code begins, and the last one's ends.
    pub marks: &'a [u64],
    /// The stubs, and where the first one is.
    pub stubs: (&'a Stubs, u64),
}

impl Translated<'_> {
    fn name(&self) -> String {
        let level = if self.scan.mode.user { "user" } else { "kernel" };
        let bits = if self.scan.mode.long() { "" } else { " 32-bit" };
        format!("guest:{:#x} {level}{bits}{}", self.rip, if self.plain { " plain" } else { "" })
    }
}

impl Inspection {
    /// Whether blocks are told of.
    pub fn is_wanted(&self) -> bool {
        self.map.is_some() || self.dump.is_some()
    }

    /// Tells of a block.
    pub fn block(&self, block: &Translated<'_>) {
        if let Some(map) = &self.map {
            write(map, &format!("{:x} {:x} {}\n", block.origin, block.code.len(), block.name()));
        }
        if let Some(dump) = &self.dump {
            write(dump, &text(block));
        }
    }

    /// Tells of the stubs, which begin at `start` and take `end` bytes.
    pub fn stubs(&self, stubs: Stubs, start: u64, end: u64) {
        let Some(map) = &self.map else { return };
        let mut stubs: Vec<_> = stubs.named().collect();
        stubs.sort_by_key(|&(_, address)| address);
        let ends = stubs.iter().skip(1).map(|&(_, address)| address).chain([end]);
        let lines = stubs
            .iter()
            .zip(ends)
            .map(|(&(name, at), end)| format!("{:x} {:x} stub:{name}\n", start + at, end - at));
        write(map, &lines.collect::<String>());
    }
}

/// Appends at one go, so that the lines of several processors do not mix.
fn write(mut file: &File, text: &str) {
    if let Err(error) = file.write_all(text.as_bytes()) {
        tracing::warn!("cannot tell of translated code: {error}");
    }
}

fn text(block: &Translated<'_>) -> String {
    let guests = &block.scan.guests;
    let mut formatter = formatter();
    let mut text = format!(
        "{} at {:#x}: {} instructions, {} bytes\n",
        block.name(),
        block.gpa,
        guests.len(),
        block.code.len()
    );
    let host = |text: &mut String, from: u64, to: u64| {
        let offset = |address: u64| address.saturating_sub(block.origin) as usize;
        let code = block.code.get(offset(from)..offset(to)).unwrap_or_default();
        host_code(text, block.stubs, from, code);
    };
    let mut at = block.origin;
    for (guest, mark) in guests.iter().zip(block.marks).map(|(guest, mark)| (guest, block.origin + mark)) {
        host(&mut text, at, mark);
        at = mark;
        let page = block.rip & !0xfff;
        let _infallible = write!(text, "{:x}  ", page + u64::from(guest.start));
        formatter.format(&linear(guest, page), &mut text);
        text.push_str(if matches!(guest.kind, Kind::Interpret(_)) { "  ; interpreted\n" } else { "\n" });
    }
    let end = block.origin + block.code.len() as u64;
    let behind = block.marks.last().map_or(at, |mark| block.origin + mark);
    host(&mut text, at, behind);
    text.push_str("behind the block\n");
    host(&mut text, behind, end);
    text.push('\n');
    text
}

fn formatter() -> IntelFormatter {
    let mut formatter = IntelFormatter::new();
    let options = formatter.options_mut();
    options.set_hex_prefix("0x");
    options.set_hex_suffix("");
    options.set_uppercase_hex(false);
    options.set_branch_leading_zeros(false);
    formatter
}

/// The instruction at its linear address.
fn linear(guest: &Guest, page: u64) -> Instruction {
    let mut instruction = guest.instruction;
    instruction.set_ip(page + u64::from(guest.start));
    match instruction.op0_kind() {
        OpKind::NearBranch64 => {
            instruction.set_near_branch64(page.wrapping_add(instruction.near_branch64()));
        }
        OpKind::NearBranch32 => {
            instruction.set_near_branch32((page as u32).wrapping_add(instruction.near_branch32()));
        }
        _ => {}
    }
    if instruction.is_ip_rel_memory_operand() {
        let target = page.wrapping_add(instruction.memory_displacement64());
        instruction.set_memory_displacement64(target);
    }
    instruction
}

/// Host code at `at`.
fn host_code(text: &mut String, (stubs, first): (&Stubs, u64), at: u64, code: &[u8]) {
    let mut formatter = formatter();
    let mut decoder = Decoder::with_ip(64, code, at, DecoderOptions::NONE);
    let line = |text: &mut String, ip: u64, bytes: &[u8]| {
        let bytes: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let _infallible = write!(text, "    {ip:x}  {bytes:<30}");
    };
    while decoder.can_decode() {
        let start = decoder.position();
        let instruction = decoder.decode();
        line(text, instruction.ip(), code.get(start..decoder.position()).unwrap_or_default());
        text.push_str("  ");
        formatter.format(&instruction, text);
        text.push('\n');
        let position = decoder.position();
        let stub = instruction.near_branch_target().wrapping_sub(first);
        if stubs.takes_site(stub) && decoder.set_position(position + SITE).is_ok() {
            let ip = decoder.ip();
            line(text, ip, code.get(position..position + SITE).unwrap_or_default());
            text.push_str("  the instruction, for the stub\n");
            decoder.set_ip(ip + SITE as u64);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::block::{PAGE, scan};
    use super::super::mode::Mode;
    use super::*;

    #[test]
    fn a_block_shows_each_instruction_and_the_code_that_does_it() {
        // cpuid; je +2; at an offset of 0x10
        let mut page = [0x90; PAGE];
        page[0x10..0x14].copy_from_slice(&[0x0f, 0xa2, 0x74, 0x02]);
        page[0x14] = 0xc3;
        let scan = scan(&page, 0x10, Mode::KERNEL);
        let stubs = Stubs { interpret: 0x6800, ..Stubs::default() };
        // jmp 0x7000, its site; je; ret
        let code = [0xe9, 0xfb, 0x5f, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 0x74, 0x00, 0xc3];
        let block = Translated {
            rip: 0xffff_ffff_8123_4010,
            gpa: 0x1234_4010,
            plain: true,
            scan: &scan,
            origin: 0x1000,
            code: &code,
            marks: &[0, 0xd, 0xf, 0x10],
            stubs: (&stubs, 0x800),
        };
        let text = text(&block);
        let lines: Vec<_> =
            text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        assert_eq!(
            lines,
            [
                "guest:0xffffffff81234010 kernel plain at 0x12344010: 3 instructions, 16 bytes",
                "ffffffff81234010 cpuid ; interpreted",
                "1000 e9fb5f0000 jmp 0x7000",
                "1005 0102030405060708 the instruction, for the stub",
                "ffffffff81234012 je short 0xffffffff81234016",
                "100d 7400 je short 0x100f",
                "ffffffff81234014 ret",
                "100f c3 ret",
                "behind the block",
                "",
            ]
        );
    }
}
