//! The host's processor against both tiers: random instructions with random state, run natively,
//! interpreted and translated; registers, flags, memory and faults must agree ([`agree_with_the_host`]).
//! Sequences of instructions are compared between the tiers ([`sequences`], [`patterns`]).
//!
//! `BODHI_DIFFERENTIAL_CASES` sets how many cases each test runs, `BODHI_DIFFERENTIAL_SEED` where they begin;
//! a mismatch prints its seed.

mod generate;
mod native;
mod patterns;
pub mod sequences;
mod state;

use iced_x86::{CpuidFeature, Formatter, IntelFormatter, Mnemonic};
use processor::SegmentAttributes;

use crate::extension::{Host, component};
use crate::registers::{Seg, flag};
use crate::vcpu::Vcpu;

use generate::Case;
use native::{CODE, DATA, Native, PAGE};
use state::{Outcome, Random, State};

/// Cases of each tier in an ordinary test run.
const CASES: u64 = 500_000;

/// Where the standard format has the components, on this host.
fn host_offset(component: u32) -> usize {
    std::arch::x86_64::__cpuid_count(0xd, component).ebx as usize
}

fn area_size() -> usize {
    [2, 5, 6, 7].into_iter().filter(|n| Host::get().xcr0 >> n & 1 != 0).fold(576, |end, n| {
        let leaf = std::arch::x86_64::__cpuid_count(0xd, n);
        end.max((leaf.ebx + leaf.eax) as usize)
    })
}

/// A vector of the sort that finds mistakes.
fn vector(random: &mut Random) -> [u8; 64] {
    let mut bytes = [0; 64];
    match random.below(4) {
        // Floating-point numbers of moderate size.
        0 => {
            for chunk in bytes.chunks_mut(4) {
                let value = (random.next() as i32 as f32) / 65536.0;
                chunk.copy_from_slice(&value.to_le_bytes());
            }
        }
        1 => {
            for chunk in bytes.chunks_mut(8) {
                let value = (random.next() as i64 as f64) / 4294967296.0;
                chunk.copy_from_slice(&value.to_le_bytes());
            }
        }
        2 => bytes.chunks_mut(8).for_each(|chunk| chunk.copy_from_slice(&random.value().to_le_bytes())),
        _ => bytes.chunks_mut(8).for_each(|chunk| chunk.copy_from_slice(&random.next().to_le_bytes())),
    }
    bytes
}

fn random_state(random: &mut Random) -> State {
    let mut area = vec![0; area_size()];
    area[..2].copy_from_slice(&0x37f_u16.to_le_bytes());
    if random.chance(8) {
        // Other precision and rounding, all exceptions masked.
        let fcw = 0x7f | (random.next() as u16 & 0xf00);
        area[..2].copy_from_slice(&fcw.to_le_bytes());
    }
    // Top of stack and which registers are valid.
    let top = random.below(8) as u16;
    area[2..4].copy_from_slice(&(top << 11 | random.next() as u16 & 0x4700).to_le_bytes());
    area[4] = random.next() as u8;
    for n in 0..8 {
        let value = match random.below(4) {
            0 => (1.0_f64 + n as f64).to_bits() as u128,
            _ => random.next() as u128,
        };
        let exponent = 0x3fff + random.below(64) as u128;
        let sign = random.below(2) as u128;
        let register = (value | 1 << 63) | exponent << 64 | sign << 79;
        area[32 + n * 16..42 + n * 16].copy_from_slice(&register.to_le_bytes()[..10]);
    }
    let mut mxcsr = 0x1f80_u32;
    if random.chance(8) {
        mxcsr |= random.next() as u32 & 0x6040;
    }
    if random.chance(16) {
        // Not underflow: whether an exact tiny result raises it cannot be told from its masked response.
        mxcsr &= !(random.next() as u32 & 0x1780);
    }
    area[24..28].copy_from_slice(&mxcsr.to_le_bytes());
    let xcr0 = Host::get().xcr0;
    for n in 0..32 {
        let bytes = vector(random);
        if n < 16 {
            area[160 + n * 16..176 + n * 16].copy_from_slice(&bytes[..16]);
            if xcr0 & component::AVX != 0 {
                let at = host_offset_cached(2) + n * 16;
                area[at..at + 16].copy_from_slice(&bytes[16..32]);
            }
            if xcr0 & component::ZMM_HI256 != 0 {
                let at = host_offset_cached(6) + n * 32;
                area[at..at + 32].copy_from_slice(&bytes[32..]);
            }
        } else if xcr0 & component::HI16_ZMM != 0 {
            let at = host_offset_cached(7) + (n - 16) * 64;
            area[at..at + 64].copy_from_slice(&bytes);
        }
    }
    if xcr0 & component::OPMASK != 0 {
        for n in 0..8 {
            let at = host_offset_cached(5) + n * 8;
            area[at..at + 8].copy_from_slice(&random.value().to_le_bytes());
        }
    }
    area[512..520].copy_from_slice(&xcr0.to_le_bytes());
    let rflags = flag::FIXED | flag::IF | random.next() & (flag::ARITHMETIC | flag::DF);
    State { general: std::array::from_fn(|_| random.value()), rip: CODE, rflags, area }
}

fn host_offset_cached(component: u32) -> usize {
    static OFFSETS: std::sync::OnceLock<[usize; 8]> = std::sync::OnceLock::new();
    OFFSETS.get_or_init(|| std::array::from_fn(|n| if n < 2 { 0 } else { host_offset(n as u32) }))
        [component as usize]
}

/// How a guest runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tier {
    OneInstruction,
    Interpreter,
    Translator,
}

/// How often a sequence may want the run loop.
const TURNS: usize = 1000;

/// Error code of the #GP for an INT3 beyond the limit of the interrupt descriptor table.
const NO_BREAKPOINT_GATE: u32 = 3 << 3 | 2;

/// The interpreter in 64-bit user mode, with the pages of [`native`] at the same addresses.
struct Interpreted {
    vcpu: Box<Vcpu>,
}

/// Guest physical addresses of the pages.
const CODE_GPA: u64 = 0x10_0000;
const DATA_GPA: u64 = 0x20_0000;

impl Interpreted {
    fn new() -> Self {
        let mut vcpu = Box::new(Vcpu::for_test_64(8 << 20));
        let present_writable_user = 7_u64;
        let entry = |table: u64, index: u64, value: u64| (table + 8 * (index & 511), value);
        // The first GiB goes; the second one gets a page directory at 0x5000 and one page table at 0x6000.
        let mut entries = vec![
            entry(0x2000, 0, 0),
            entry(0x2000, DATA >> 30, 0x5000 | present_writable_user),
            entry(0x5000, DATA >> 21, 0x6000 | present_writable_user),
            entry(0x5000, CODE >> 21, 0x6000 | present_writable_user),
            entry(0x6000, (DATA >> 12) + 2, (DATA_GPA + 2 * 4096) | 5),
        ];
        for n in 0..2 {
            entries.push(entry(0x6000, (CODE >> 12) + n, (CODE_GPA + n * 4096) | present_writable_user));
            entries.push(entry(0x6000, (DATA >> 12) + n, (DATA_GPA + n * 4096) | present_writable_user));
        }
        for (at, value) in entries {
            vcpu.poke(at, &value.to_le_bytes());
        }
        vcpu.cpl = 3;
        vcpu.segments[Seg::Cs as usize].attributes = SegmentAttributes(0xa0fb);
        vcpu.segments[Seg::Ss as usize].attributes = SegmentAttributes(0xc0f3);
        vcpu.xcr0 = Host::get().xcr0;
        vcpu.idtr.limit = 0;
        vcpu.paging_changed();
        vcpu.mode_changed();
        Self { vcpu }
    }

    /// The same in compatibility mode.
    fn compatible() -> Self {
        let mut guest = Self::new();
        guest.vcpu.segments[Seg::Cs as usize].attributes = SegmentAttributes(0xc0fb);
        guest.vcpu.segments[Seg::Gs as usize].base = generate::GS_BASE;
        guest.vcpu.mode_changed();
        guest
    }

    fn load(&mut self, state: &State, code: &[u8]) {
        self.vcpu.regs[..16].copy_from_slice(&state.general);
        self.vcpu.rip = state.rip;
        self.vcpu.set_rflags(state.rflags);
        self.vcpu.exception = None;
        let mut pages = vec![0xcc; 2 * PAGE];
        let at = (state.rip - CODE) as usize;
        pages[at..at + code.len()].copy_from_slice(code);
        self.vcpu.poke(CODE_GPA, &pages);
        let image = &mut self.vcpu.extension.image;
        image.x87[..24].copy_from_slice(&state.area[..24]);
        image.x87[32..160].copy_from_slice(&state.area[32..160]);
        image.mxcsr = u32::from_le_bytes(std::array::from_fn(|n| state.area[24 + n]));
        let xcr0 = Host::get().xcr0;
        for n in 0..16 {
            image.vectors[n] = [0; 64];
            image.vectors[n][..16].copy_from_slice(&state.area[160 + n * 16..176 + n * 16]);
            if xcr0 & component::AVX != 0 {
                let at = host_offset_cached(2) + n * 16;
                image.vectors[n][16..32].copy_from_slice(&state.area[at..at + 16]);
            }
            if xcr0 & component::AVX512 != 0 {
                let at = host_offset_cached(6) + n * 32;
                image.vectors[n][32..].copy_from_slice(&state.area[at..at + 32]);
                let at = host_offset_cached(7) + n * 64;
                image.vectors[16 + n].copy_from_slice(&state.area[at..at + 64]);
            }
        }
        if xcr0 & component::OPMASK != 0 {
            for n in 0..8 {
                let at = host_offset_cached(5) + n * 8;
                image.masks[n] = u64::from_le_bytes(std::array::from_fn(|i| state.area[at + i]));
            }
        }
    }

    fn save(&self) -> State {
        let image = &self.vcpu.extension.image;
        let mut area = vec![0; area_size()];
        area[..24].copy_from_slice(&image.x87[..24]);
        area[32..160].copy_from_slice(&image.x87[32..160]);
        area[24..28].copy_from_slice(&image.mxcsr.to_le_bytes());
        let xcr0 = Host::get().xcr0;
        for n in 0..16 {
            area[160 + n * 16..176 + n * 16].copy_from_slice(&image.vectors[n][..16]);
            if xcr0 & component::AVX != 0 {
                let at = host_offset_cached(2) + n * 16;
                area[at..at + 16].copy_from_slice(&image.vectors[n][16..32]);
            }
            if xcr0 & component::AVX512 != 0 {
                let at = host_offset_cached(6) + n * 32;
                area[at..at + 32].copy_from_slice(&image.vectors[n][32..]);
                let at = host_offset_cached(7) + n * 64;
                area[at..at + 64].copy_from_slice(&image.vectors[16 + n]);
            }
        }
        if xcr0 & component::OPMASK != 0 {
            for n in 0..8 {
                let at = host_offset_cached(5) + n * 8;
                area[at..at + 8].copy_from_slice(&image.masks[n].to_le_bytes());
            }
        }
        let mut general = [0; 16];
        general.copy_from_slice(&self.vcpu.regs[..16]);
        State { general, rip: self.vcpu.rip, rflags: self.vcpu.rflags(), area }
    }

    fn run(&mut self, tier: Tier) -> Outcome {
        let result = match tier {
            Tier::OneInstruction => self.vcpu.execute_one(),
            // What follows the instructions is INT3, for which there is no gate.
            Tier::Interpreter => (0..TURNS).try_for_each(|_| self.vcpu.execute()),
            Tier::Translator => (0..TURNS).try_for_each(|_| self.vcpu.execute_translated()),
        };
        match result {
            Ok(()) => Outcome::Done,
            Err(_) if self.vcpu.exception.and_then(|e| e.error_code) == Some(NO_BREAKPOINT_GATE) => {
                self.vcpu.exception = None;
                Outcome::Done
            }
            Err(_) => {
                let exception = self.vcpu.exception.take().expect("a fault has its exception");
                let address = if exception.vector == 14 { exception.address } else { 0 };
                Outcome::Fault(exception.vector, exception.error_code.unwrap_or(0), address)
            }
        }
    }
}

/// Makes what is undefined or not compared equal on both sides.
fn normalise(case: &Case, outcome: Outcome, state: &mut State) {
    // RF and the resume state of a fault.
    let undefined = sequences::undefined(&case.instruction);
    state.rflags = sequences::defined(state.rflags, undefined) | state.rflags & flag::FIXED;
    let area = &mut state.area;
    // A fault may come after flags, MXCSR or the switch to MMX state have changed; processors differ.
    if outcome != Outcome::Done {
        state.rflags &= flag::DF;
        area[..160].fill(0);
        // How far a gather has come, too.
        if case.instruction.is_vsib() {
            area.fill(0);
        }
    }
    // FOP, FIP, FDP; ES and B; MXCSR_MASK and reserved bytes; the XSAVE header.
    area[6..24].fill(0);
    area[3] &= 0x7f;
    area[2] &= 0x7f;
    area[28..32].fill(0);
    area[5] = 0;
    area[416..576].fill(0);
    for n in 0..8 {
        area[42 + n * 16..48 + n * 16].fill(0);
    }
}

fn describe(case: &Case) -> String {
    let mut text = String::new();
    IntelFormatter::new().format(&case.instruction, &mut text);
    format!("{text}  ({:?}, {:02x?} at {:#x})", case.instruction.code(), case.bytes, case.rip)
}

fn difference(a: &State, b: &State) -> String {
    let mut text = String::new();
    for n in (0..16).filter(|&n| a.general[n] != b.general[n]) {
        text += &format!("r{n}: host {:#x} interpreter {:#x}; ", a.general[n], b.general[n]);
    }
    if a.rip != b.rip {
        text += &format!("rip: host {:#x} interpreter {:#x}; ", a.rip, b.rip);
    }
    if a.rflags != b.rflags {
        text += &format!("rflags: host {:#x} interpreter {:#x}; ", a.rflags, b.rflags);
    }
    let differing: Vec<_> = (0..a.area.len()).filter(|&n| a.area[n] != b.area[n]).take(8).collect();
    for n in differing {
        text += &format!("area[{n}]: host {:02x} interpreter {:02x}; ", a.area[n], b.area[n]);
    }
    text
}

/// One case from `seed`: `None` if it agrees or could not be made, else what differs.
fn compare(
    native: &mut Native,
    guest: &mut Interpreted,
    codes: &[iced_x86::Code],
    tier: Tier,
    seed: u64,
) -> Option<String> {
    let mut random = Random(seed);
    let mut state = random_state(&mut random);
    let code = codes[random.below(codes.len() as u64) as usize];
    let name = format!("{code:?}");
    if name.contains("cph_") || name.contains("csh_") {
        // Of the complex products, it cannot be told from the flags which of them an element has raised.
        state.area[24..28].copy_from_slice(&0x1f80_u32.to_le_bytes());
    }
    let case = generate::case(&mut random, code, &mut state, 64)?;
    state.rip = case.rip;
    let mut data = vec![0_u8; 2 * PAGE];
    data.chunks_mut(64).for_each(|chunk| chunk.copy_from_slice(&vector(&mut random)));
    native.set_code(case.rip, &case.bytes);
    native.data().copy_from_slice(&data);
    guest.vcpu.poke(DATA_GPA, &data);
    guest.load(&state, &case.bytes);

    if std::env::var_os("BODHI_DIFFERENTIAL_TRACE").is_some() {
        eprintln!("seed {seed}: {} rsp {:#x}", describe(&case), state.general[4]);
    }
    let (mut host, host_outcome) = native.run(&state);
    let mut guest_outcome = guest.run(tier);
    if guest_outcome == Outcome::Done && guest.vcpu.rip == state.rip {
        // There was no room for a thunk: the caches have been cleared and the instruction comes again.
        guest_outcome = guest.run(tier);
    }
    let vector = case.instruction.encoding() != iced_x86::EncodingKind::Legacy;
    let (host_outcome, guest_outcome) = (host_outcome.comparable(vector), guest_outcome.comparable(vector));
    let mut ours = guest.save();
    normalise(&case, host_outcome, &mut host);
    normalise(&case, host_outcome, &mut ours);
    // A store of ten bytes that faults on its second page has written the first on some processors.
    let torn = host_outcome != Outcome::Done && case.instruction.memory_size().size() == 10;
    let memory_agrees = torn || guest.vcpu.peek::<{ 2 * PAGE }>(DATA_GPA) == *native.data();
    // Of a call whose target and stack are both bad, processors report the one or the other.
    let both = case.instruction.flow_control() == iced_x86::FlowControl::IndirectCall
        && matches!((host_outcome, guest_outcome), (Outcome::Fault(..), Outcome::Fault(..)));
    // A jump to nowhere faults when its target is fetched, which is the next instruction here.
    let away = guest_outcome == Outcome::Done && !(CODE..CODE + 2 * PAGE as u64).contains(&ours.rip);
    // Which element of a gather faults first is not settled either.
    let both = both
        || case.instruction.is_vsib()
            && matches!((host_outcome, guest_outcome), (Outcome::Fault(14, ..), Outcome::Fault(14, ..)));
    // Nor is it settled whether a conversion's exception or its store's fault comes first.
    let both =
        both || matches!((host_outcome, guest_outcome), (Outcome::Fault(19, ..), Outcome::Fault(14, ..)));
    // Not all processors want the operands of SHA instructions aligned, and some of AMD's have a further bit in MXCSR.
    let sha = case.instruction.cpuid_features().contains(&CpuidFeature::SHA);
    let control = matches!(case.instruction.mnemonic(), Mnemonic::Ldmxcsr | Mnemonic::Vldmxcsr);
    let lenient =
        (sha || control) && host_outcome != guest_outcome && matches!(guest_outcome, Outcome::Fault(13, ..));
    if away || both || lenient || host_outcome == guest_outcome && host == ours && memory_agrees {
        return None;
    }
    Some(format!(
        "seed {seed}: {}\n  host {host_outcome:x?}, interpreter {guest_outcome:x?}{}\n  {}",
        describe(&case),
        if memory_agrees { "" } else { ", memory differs" },
        difference(&host, &ours)
    ))
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Fails with the first of `mismatches`, if there are any.
fn report(mismatches: impl Iterator<Item = String>) {
    let first: Vec<_> = mismatches.take(number("BODHI_DIFFERENTIAL_MISMATCHES", 20) as usize).collect();
    assert!(first.is_empty(), "\n{}", first.join("\n"));
}

fn agree_with_the_host(tier: Tier) {
    let codes = generate::codes(64);
    let (cases, first) = (number("BODHI_DIFFERENTIAL_CASES", CASES), number("BODHI_DIFFERENTIAL_SEED", 1));
    println!("{cases} cases of {} instructions from seed {first}", codes.len());
    let (mut native, mut guest) = (Native::new(), Interpreted::new());
    report((first..first + cases).filter_map(|seed| compare(&mut native, &mut guest, &codes, tier, seed)));
}

#[test]
fn random_instructions_agree_with_the_host() {
    agree_with_the_host(Tier::OneInstruction);
    agree_with_the_host(Tier::Translator);
}
