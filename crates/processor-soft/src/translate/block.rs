//! Finding the instructions of a block, and which flags are live before each.
//!
//! A block begins anywhere in a page and goes on over conditional branches up to an unconditional transfer,
//! the end of the page, or a limit. It is decoded with the offset in the page as its address, so that it
//! does not depend on where the page is mapped.

use iced_x86::{Decoder, DecoderError, DecoderOptions, Instruction};

use super::classify::{FLAGS, Kind, classify, kills, reads};
use super::compat::convert;
use super::mode::Mode;

/// A stretch of the page that decided how a block was translated: offset and length.
pub type Extent = (u16, u16);

/// Instructions of a block at most.
const LIMIT: usize = 64;
/// Instructions behind the way out of a block that are looked at.
const LOOK_AHEAD: usize = 24;

pub const PAGE: usize = 4096;

/// An instruction of the guest.
pub struct Guest {
    pub instruction: Instruction,
    /// Offset in the page, and that of the next instruction.
    pub start: u16,
    pub next: u16,
    pub kind: Kind,
    /// Flags that must survive what happens before the instruction itself.
    pub live: u32,
}

/// What is behind a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Nothing: its last instruction goes elsewhere.
    Transfer,
    /// It goes on at this offset in the page.
    Next(u16),
    /// The instruction at this offset lies in two pages, or in the next one.
    Crossing(u16),
}

/// What a scan has found.
pub struct Scan {
    pub guests: Vec<Guest>,
    pub end: End,
    /// The block itself, and what was looked at to learn which flags are live. While these bytes are the
    /// same, so is the translation.
    pub extents: Vec<Extent>,
    pub mode: Mode,
}

fn decoder(bytes: &[u8], offset: u16, mode: Mode) -> Decoder<'_> {
    Decoder::with_ip(mode.bitness(), bytes, u64::from(offset), DecoderOptions::NONE)
}

/// The next instruction, in a form that 64-bit code has if there is one.
fn decode(decoder: &mut Decoder<'_>, mode: Mode) -> Instruction {
    let mut instruction = decoder.decode();
    if !mode.long() && !instruction.is_invalid() {
        convert(&mut instruction);
    }
    instruction
}

/// The instructions from `offset` of `page` on.
pub fn scan(page: &[u8; PAGE], offset: u16, mode: Mode) -> Scan {
    let mut guests = Vec::with_capacity(16);
    let start = usize::from(offset);
    let mut decoder = decoder(page.get(start..).unwrap_or_default(), offset, mode);
    let end = loop {
        let start = decoder.ip() as u16;
        if usize::from(start) >= PAGE {
            // The next page's mapping is another matter.
            break End::Crossing(start);
        }
        if guests.len() == LIMIT {
            break End::Next(start);
        }
        let instruction = decode(&mut decoder, mode);
        if instruction.is_invalid() && decoder.last_error() == DecoderError::NoMoreBytes {
            break End::Crossing(start);
        }
        let kind =
            if instruction.is_invalid() { Kind::Interpret(false) } else { classify(&instruction, mode) };
        guests.push(Guest { instruction, start, next: decoder.ip() as u16, kind, live: FLAGS });
        if kind.ends() {
            let next = decoder.ip() as u16;
            break match kind {
                Kind::Interpret(_) if usize::from(next) < PAGE => End::Next(next),
                Kind::Interpret(_) => End::Crossing(next),
                _ => End::Transfer,
            };
        }
    };
    let length = guests.last().map_or(0, |guest: &Guest| guest.next - offset);
    let mut extents = vec![(offset, length.min(PAGE as u16 - offset))];
    find_live(page, &mut guests, end, mode, &mut extents);
    Scan { guests, end, extents, mode }
}

/// The instruction at `offset` of a page, of which `bytes` are the rest and the beginning of the next page.
pub fn scan_crossing(bytes: &[u8], offset: u16, mode: Mode) -> Scan {
    let mut decoder = decoder(bytes, offset, mode);
    let instruction = decode(&mut decoder, mode);
    let kind = if instruction.is_invalid() { Kind::Interpret(false) } else { classify(&instruction, mode) };
    let next = decoder.ip() as u16;
    let end = match kind {
        Kind::Interpret(_) => End::Crossing(next),
        kind if kind.ends() => End::Transfer,
        _ => End::Crossing(next),
    };
    let guests = vec![Guest { instruction, start: offset, next, kind, live: FLAGS }];
    Scan { guests, end, extents: vec![(offset, bytes.len() as u16)], mode }
}

fn find_live(page: &[u8; PAGE], guests: &mut [Guest], end: End, mode: Mode, extents: &mut Vec<Extent>) {
    let mut live_at = |target| live_at(page, target, mode, extents);
    let mut live = match end {
        End::Next(offset) => live_at(i32::from(offset)),
        _ => FLAGS,
    };
    for guest in guests.iter_mut().rev() {
        live = match guest.kind {
            Kind::Jump(target) | Kind::Call(target) => live_at(target),
            Kind::Branch(_, target) | Kind::CountZero(target) => live | live_at(target),
            _ => live,
        };
        live = live & !kills(&guest.instruction, guest.kind) | reads(&guest.instruction, guest.kind);
        guest.live = live;
    }
}

/// Whether a target is in the page.
pub fn in_page(target: i32) -> Option<u16> {
    u16::try_from(target).ok().filter(|&target| usize::from(target) < PAGE)
}

/// The flags that may be live at `target`: found by looking at the instructions there, on both sides of
/// branches within the page.
fn live_at(page: &[u8; PAGE], target: i32, mode: Mode, extents: &mut Vec<Extent>) -> u32 {
    let mut search = Search { page, mode, extents, seen: Vec::new(), budget: LOOK_AHEAD };
    search.live(target, FLAGS)
}

/// A look at the code behind a block.
struct Search<'a> {
    page: &'a [u8; PAGE],
    mode: Mode,
    extents: &'a mut Vec<Extent>,
    /// Where it has been, and for which flags: a loop adds nothing to what is found on its way out.
    seen: Vec<(u16, u32)>,
    /// Instructions that may still be looked at.
    budget: usize,
}

impl Search<'_> {
    /// Which of the flags in `unknown` may be live at `target`.
    fn live(&mut self, target: i32, mut unknown: u32) -> u32 {
        let Some(offset) = in_page(target) else { return unknown };
        if self.seen.iter().any(|&(at, flags)| at == offset && unknown & !flags == 0) {
            return 0;
        }
        self.seen.push((offset, unknown));
        let bytes = self.page.get(usize::from(offset)..).unwrap_or_default();
        let mut decoder = decoder(bytes, offset, self.mode);
        let mut live = 0;
        let mut further = None;
        while unknown != 0 {
            let next = decoder.ip() as u16;
            if self.budget == 0 || usize::from(next) >= PAGE {
                live |= unknown;
                break;
            }
            self.budget -= 1;
            let instruction = decode(&mut decoder, self.mode);
            if instruction.is_invalid() {
                live |= unknown;
                break;
            }
            let kind = classify(&instruction, self.mode);
            let read = reads(&instruction, kind) & unknown;
            live |= read;
            unknown &= !(kills(&instruction, kind) | read);
            match kind {
                Kind::Branch(_, target) | Kind::CountZero(target) => {
                    further = Some((target, decoder.ip() as i32));
                    break;
                }
                Kind::Jump(target) => {
                    further = Some((target, target));
                    break;
                }
                kind if kind.ends() => {
                    live |= unknown;
                    break;
                }
                _ => {}
            }
        }
        self.extents.push((offset, decoder.ip().min(PAGE as u64) as u16 - offset));
        if let Some((taken, next)) = further {
            live |= self.live(taken, unknown);
            if next != taken {
                live |= self.live(next, unknown & !live);
            }
        }
        live
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use iced_x86::RflagsBits;

    fn page(code: &[u8]) -> [u8; PAGE] {
        let mut page = [0; PAGE];
        page[..code.len()].copy_from_slice(code);
        page
    }

    #[test]
    fn flags_are_dead_between_two_instructions_that_write_them_all() {
        // add eax, ebx; mov eax, [rdi]; sub eax, ecx; ret
        let Scan { guests, end, .. } =
            scan(&page(&[0x01, 0xd8, 0x8b, 0x07, 0x29, 0xc8, 0xc3]), 0, Mode::KERNEL);
        assert_eq!(end, End::Transfer);
        let live: Vec<_> = guests.iter().map(|guest| guest.live).collect();
        assert_eq!(live, [0, 0, 0, FLAGS]);
    }

    #[test]
    fn a_branch_needs_its_flags_and_those_of_both_ways() {
        // cmp eax, ebx; mov ecx, [rdi]; je +2; xor eax, eax; add eax, ebx; ret
        let code = [0x39, 0xd8, 0x8b, 0x0f, 0x74, 0x02, 0x31, 0xc0, 0x01, 0xd8, 0xc3];
        let guests = scan(&page(&code), 0, Mode::KERNEL).guests;
        assert_eq!(guests[1].live, RflagsBits::ZF);
        assert_eq!(guests[0].live, 0);
    }

    #[test]
    fn a_shift_by_cl_may_leave_the_flags_alone() {
        // shl eax, cl; ret
        let guests = scan(&page(&[0xd3, 0xe0, 0xc3]), 0, Mode::KERNEL).guests;
        assert_eq!(guests[0].live, FLAGS);
    }

    #[test]
    fn a_block_ends_before_an_instruction_that_lies_in_two_pages() {
        let mut page = [0x90; PAGE];
        page[PAGE - 2..].copy_from_slice(&[0x48, 0x01]);
        let Scan { guests, end, .. } = scan(&page, PAGE as u16 - 3, Mode::KERNEL);
        assert_eq!(guests.len(), 1);
        assert_eq!(end, End::Crossing(PAGE as u16 - 2));
    }
}
