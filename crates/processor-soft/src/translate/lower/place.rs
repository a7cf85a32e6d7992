//! Putting the code of a block where it is to run.

use super::{Crossing, Entries, Link, Lowered};

/// Where a block goes, and what it finds there.
pub struct Place<'a> {
    /// Bytes between the first stub and the block.
    pub offset: u64,
    /// Number of its first crossing.
    pub crossings: usize,
    /// Addresses of its instructions for the interpreter.
    pub interpreted: &'a [u64],
}

impl Lowered {
    /// Makes `code` the block's code at `place`.
    pub fn place(&self, place: &Place<'_>, code: &mut Vec<u8>) {
        code.clear();
        code.extend_from_slice(&self.buffers.code);
        let mut add = |at: u32, value: u32| {
            if let Some(field) = code.get_mut(at as usize..).and_then(<[u8]>::first_chunk_mut) {
                *field = u32::from_le_bytes(*field).wrapping_add(value).to_le_bytes();
            }
        };
        for &at in &self.buffers.reaches {
            add(at, (place.offset as u32).wrapping_neg());
        }
        for &at in &self.numbers {
            add(at, place.crossings as u32);
        }
        for &(at, which) in &self.interpreted_at {
            let address = place.interpreted.get(usize::from(which)).copied().unwrap_or_default();
            if let Some(field) = code.get_mut(at as usize..).and_then(<[u8]>::first_chunk_mut) {
                *field = address.to_le_bytes();
            }
        }
    }
}

impl Entries {
    /// Those of a block at `origin`.
    pub fn moved(self, origin: u64) -> Self {
        let Self { saved, resume, direct, looped, stale_saved, stale } = self;
        Self {
            saved: saved + origin,
            resume: resume + origin,
            direct: direct + origin,
            looped: looped + origin,
            stale_saved: stale_saved + origin,
            stale: stale + origin,
        }
    }
}

impl Link {
    /// That of a block at `origin`.
    pub fn moved(self, origin: u64) -> Self {
        Self { at: self.at + origin, ..self }
    }
}

impl Crossing {
    /// That of a block at `origin`.
    pub fn moved(self, origin: u64) -> Self {
        let Self { key, other, jump, look_up, ahead } = self;
        Self {
            key: key + origin,
            other: other + origin,
            jump: jump + origin,
            look_up: look_up + origin,
            ahead,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::emit::Emitter;
    use super::*;

    #[test]
    fn code_reaches_what_it_names_from_wherever_it_is() {
        let mut emitter = Emitter::new(0);
        emitter.bytes(&[0x90]);
        emitter.jump_to(0x40);
        emitter.mov_imm(0, 2);
        let at = emitter.mov_imm_64(1, 0);
        let lowered = Lowered {
            buffers: emitter.finish(),
            numbers: vec![7],
            interpreted_at: vec![(at as u32, 0)],
            ..Lowered::default()
        };
        let mut code = Vec::new();
        lowered.place(
            &Place { offset: 0x1000, crossings: 100, interpreted: &[0x1122_3344_5566_7788] },
            &mut code,
        );
        // From 0x1006 to 0x40.
        let jump = [0xe9, 0x3a, 0xf0, 0xff, 0xff];
        let numbers = [0xb8, 102, 0, 0, 0, 0x48, 0xb9, 0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11];
        assert_eq!(code, [&[0x90][..], &jump, &numbers].concat());
    }
}
