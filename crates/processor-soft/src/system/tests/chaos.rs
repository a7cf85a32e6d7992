//! Random code in random machines: whatever it does, it does to itself only.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::*;
use crate::partition::attention;
use crate::registers::{attribute, cr4, flag};

/// Opcodes that deserve more than their share.
const FAVOURITES: [&[u8]; 44] = [
    &[0x0f, 0x00],
    &[0x0f, 0x01],
    &[0x0f, 0x20],
    &[0x0f, 0x22],
    &[0x0f, 0x21],
    &[0x0f, 0x23],
    &[0x0f, 0x30],
    &[0x0f, 0x32],
    &[0x0f, 0xa2],
    &[0x0f, 0x05],
    &[0x0f, 0x07],
    &[0x0f, 0x34],
    &[0x0f, 0x35],
    &[0x48, 0x0f, 0x07],
    &[0x0f, 0x02],
    &[0x0f, 0x03],
    &[0x0f, 0xb2],
    &[0x0f, 0x09],
    &[0x66, 0x0f, 0x38, 0x82],
    &[0x9a],
    &[0xea],
    &[0xcb],
    &[0xca],
    &[0xcf],
    &[0x48, 0xcf],
    &[0xcd],
    &[0xcc],
    &[0xf1],
    &[0x8e],
    &[0x8c],
    &[0x9c],
    &[0x9d],
    &[0xff],
    &[0xf3, 0x6c],
    &[0xf3, 0x6f],
    &[0xf3, 0xa4],
    &[0xf3, 0xab],
    &[0x17],
    &[0x1f],
    &[0xfb],
    &[0xf0],
    &[0x62],
    &[0xc5],
    &[0xc8],
];

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        // xorshift64*
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn value(&mut self) -> u64 {
        match self.below(5) {
            0 => self.below(0x40_0000),
            1 => self.below(0x100),
            2 => self.next(),
            3 => (self.next() as i32) as u64,
            _ => 1 << self.below(64),
        }
    }

    fn code(&mut self, len: usize) -> Vec<u8> {
        let mut code = Vec::new();
        while code.len() < len {
            if self.below(3) == 0 {
                code.extend_from_slice(FAVOURITES[self.below(FAVOURITES.len() as u64) as usize]);
            }
            code.extend_from_slice(&self.next().to_le_bytes()[..1 + self.below(6) as usize]);
        }
        code
    }
}

fn machine(random: &mut Random) -> Vcpu {
    let mut vcpu = match random.below(4) {
        0 => {
            let mut vcpu = Vcpu::for_test(4 << 20);
            vcpu.load_real_segment(Seg::Cs, 0x1000);
            vcpu.rip = 0;
            vcpu.mode_changed();
            for vector in 0..256 {
                vcpu.poke(vector * 4, &(0x1000_0000_u32 | random.below(0x1000) as u32).to_le_bytes());
            }
            vcpu
        }
        1 => protected(|_| ()),
        2 => long(|_| ()),
        _ => {
            let mut vcpu = long(|_| ());
            enter_user(&mut vcpu, |_| ());
            vcpu
        }
    };
    // Handlers go on in random code; some gates and descriptors are random.
    for vector in 0..256_u64 {
        vcpu.poke(HANDLERS + vector * 16, &random.code(16)[..16]);
    }
    for _ in 0..random.below(6) {
        let (table, entries) = if random.below(2) == 0 { (GDT, 32) } else { (IDT, 256) };
        let entry = random.next() & !(0xf << 44) | (random.next() & random.next()) << 44;
        vcpu.poke(table + 8 * random.below(entries), &entry.to_le_bytes());
    }
    // Now and then a random entry in the page tables.
    for _ in 0..random.below(8) / 5 {
        let entry = random.next() & !(random.next() & random.next()) | random.below(0x1000);
        vcpu.poke(0x1000 + random.below(0x600) * 8, &entry.to_le_bytes());
    }
    vcpu.poke(CODE, &random.code(0x4000)[..0x4000]);
    vcpu.poke(USER, &random.code(0x1000)[..0x1000]);
    for index in 0..16 {
        if index != gpr::RSP || random.below(4) == 0 {
            vcpu.regs[index] = random.value();
        }
    }
    if random.below(4) == 0 {
        vcpu.cr4 |= [cr4::PCIDE, cr4::SMAP, cr4::SMEP, cr4::PGE][random.below(4) as usize];
        vcpu.paging_changed();
    }
    if random.below(8) == 0 {
        vcpu.segments[random.below(6) as usize].attributes.0 ^= attribute::DEFAULT_BIG;
        vcpu.mode_changed();
    }
    vcpu.flags |= random.next() & (flag::IF | flag::IOPL | flag::AC | flag::DF);
    vcpu.access_changed();
    vcpu
}

#[test]
fn random_code_harms_nobody() {
    let machines = std::env::var("BODHI_CHAOS").ok().and_then(|text| text.parse().ok()).unwrap_or(60);
    let first = std::env::var("BODHI_CHAOS_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    for seed in first..first + machines {
        let random = &mut Random(0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(seed) | 1);
        let mut vcpu = machine(random);
        let over = Arc::new(AtomicBool::new(false));
        let ticker = std::thread::spawn({
            let (vp, over) = (vcpu.vp.clone(), over.clone());
            move || {
                while !over.load(Ordering::SeqCst) {
                    std::thread::sleep(Duration::from_micros(200));
                    vp.call(attention::INTERRUPT);
                }
            }
        });
        println!("seed {seed}");
        for turn in 0..300 {
            if turn % 3 == 0 && vcpu.exception.is_none() && !vcpu.halted && !vcpu.wait_for_sipi {
                vcpu.step();
            }
            let runs = vcpu.exception.is_none() && !vcpu.halted && !vcpu.wait_for_sipi;
            if seed % 2 == 0 && runs && vcpu.deferred.is_none() && vcpu.flags & flag::TF == 0 {
                // Translated first; what it leaves, and all that comes of it, is the run loop's.
                if let Err(_fault) = vcpu.execute_translated() {}
            }
            vcpu.apic.request(32 + random.below(200) as u8, interrupt::Trigger::Edge);
            if vcpu.turn().is_err() {
                break;
            }
        }
        over.store(true, Ordering::SeqCst);
        ticker.join().unwrap();
    }
}
