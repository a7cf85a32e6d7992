//! One 8259A.

/// Which initialisation word the data port takes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Expect {
    /// None: the data port is the interrupt mask (OCW1).
    #[default]
    Mask,
    Icw2,
    Icw3,
    Icw4,
}

/// The registers of one controller.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Chip {
    /// Levels of the inputs.
    lines: u8,
    /// Edges that wait for their acknowledge cycle.
    edges: u8,
    /// Inputs that are level triggered: the ELCR, and the cascade.
    elcr: u8,
    cascade: u8,
    in_service: u8,
    mask: u8,
    vector_base: u8,
    expect: Expect,
    single: bool,
    needs_icw4: bool,
    auto_end: bool,
    rotate_on_auto_end: bool,
    special_mask: bool,
    special_fully_nested: bool,
    /// The input with the highest priority.
    first: u8,
    read_in_service: bool,
    poll: bool,
}

impl Chip {
    /// Power-on state; the lines keep their levels.
    pub(super) fn reset(&mut self) {
        *self = Self { lines: self.lines, ..Self::default() };
    }

    pub(super) fn set_line(&mut self, input: u8, high: bool) {
        let bit = 1 << input;
        if high && self.lines & bit == 0 {
            self.edges |= bit & !self.elcr;
        }
        self.lines = if high { self.lines | bit } else { self.lines & !bit };
    }

    /// The request of a slave acts as a level.
    pub(super) fn set_cascade(&mut self, input: u8, high: bool) {
        self.cascade = 1 << input;
        self.lines = if high { self.lines | self.cascade } else { self.lines & !self.cascade };
    }

    pub(super) fn levels(&self) -> u8 {
        self.elcr
    }

    pub(super) fn set_levels(&mut self, levels: u8) {
        self.elcr = levels;
        self.edges &= !levels;
    }

    pub(super) fn mask(&self) -> u8 {
        self.mask
    }

    pub(super) fn vector(&self, input: u8) -> u8 {
        self.vector_base | input
    }

    /// The interrupt request register.
    fn requests(&self) -> u8 {
        self.edges | self.lines & (self.elcr | self.cascade)
    }

    /// Rank of the most urgent input in `inputs`: 0 is the highest priority, 8 is none.
    fn rank(&self, inputs: u8) -> u32 {
        inputs.rotate_right(u32::from(self.first)).trailing_zeros()
    }

    fn input_of_rank(&self, rank: u32) -> u8 {
        (self.first + rank as u8) & 7
    }

    /// The input that asks for an acknowledge cycle now.
    pub(super) fn request(&self) -> Option<u8> {
        let requested = self.rank(self.requests() & !self.mask);
        let mut blocking = self.in_service;
        if self.special_mask {
            blocking &= !self.mask;
        }
        if self.special_fully_nested {
            blocking &= !self.cascade;
        }
        (requested < self.rank(blocking)).then(|| self.input_of_rank(requested))
    }

    /// The acknowledge cycle: the input served, none if there is no request any more.
    pub(super) fn acknowledge(&mut self) -> Option<u8> {
        let input = self.request()?;
        let bit = 1 << input;
        self.edges &= !bit;
        if self.auto_end {
            if self.rotate_on_auto_end {
                self.first = (input + 1) & 7;
            }
        } else {
            self.in_service |= bit;
        }
        Some(input)
    }

    /// A read with A0 = 0: IRR, ISR or a poll.
    pub(super) fn read_command(&mut self) -> u8 {
        if std::mem::take(&mut self.poll) {
            return self.acknowledge().map_or(0, |input| 0x80 | input);
        }
        if self.read_in_service { self.in_service } else { self.requests() }
    }

    /// A write with A0 = 0: ICW1, OCW2 or OCW3.
    pub(super) fn write_command(&mut self, value: u8) {
        if value & 0x10 != 0 {
            self.initialize(value);
        } else if value & 0x08 != 0 {
            self.operation_3(value);
        } else {
            self.operation_2(value);
        }
    }

    /// A write with A0 = 1: ICW2–4, or the mask.
    pub(super) fn write_data(&mut self, value: u8) {
        match self.expect {
            Expect::Mask => self.mask = value,
            Expect::Icw2 => {
                self.vector_base = value & 0xf8;
                self.expect = match (self.single, self.needs_icw4) {
                    (false, _) => Expect::Icw3,
                    (true, true) => Expect::Icw4,
                    (true, false) => Expect::Mask,
                };
            }
            // The wiring of the cascade is fixed.
            Expect::Icw3 => self.expect = if self.needs_icw4 { Expect::Icw4 } else { Expect::Mask },
            Expect::Icw4 => {
                self.auto_end = value & 0x02 != 0;
                self.special_fully_nested = value & 0x10 != 0;
                self.expect = Expect::Mask;
            }
        }
    }

    /// ICW1 clears what the data sheet lists, but keeps lines and ELCR.
    fn initialize(&mut self, icw1: u8) {
        *self = Self {
            lines: self.lines,
            elcr: self.elcr,
            cascade: self.cascade,
            vector_base: self.vector_base,
            expect: Expect::Icw2,
            single: icw1 & 0x02 != 0,
            needs_icw4: icw1 & 0x01 != 0,
            ..Self::default()
        };
    }

    /// OCW2: end of interrupt and rotation.
    fn operation_2(&mut self, value: u8) {
        let level = value & 7;
        let (rotate, specific, end) = (value & 0x80 != 0, value & 0x40 != 0, value & 0x20 != 0);
        match (end, specific) {
            (true, true) => {
                self.in_service &= !(1 << level);
                if rotate {
                    self.first = (level + 1) & 7;
                }
            }
            (true, false) => {
                // In special mask mode, a masked input's service is not ended without naming it.
                let candidates =
                    if self.special_mask { self.in_service & !self.mask } else { self.in_service };
                let rank = self.rank(candidates);
                if rank < 8 {
                    let input = self.input_of_rank(rank);
                    self.in_service &= !(1 << input);
                    if rotate {
                        self.first = (input + 1) & 7;
                    }
                }
            }
            (false, true) if rotate => self.first = (level + 1) & 7,
            (false, true) => {}
            (false, false) => self.rotate_on_auto_end = rotate,
        }
    }

    /// OCW3: which register is read, poll, special mask mode.
    fn operation_3(&mut self, value: u8) {
        if value & 0x04 != 0 {
            self.poll = true;
        } else if value & 0x02 != 0 {
            self.read_in_service = value & 0x01 != 0;
        }
        if value & 0x40 != 0 {
            self.special_mask = value & 0x20 != 0;
        }
    }
}
