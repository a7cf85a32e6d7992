//! MII management (IEEE 802.3, sections 22.2.4 and 28.2.4) and the PHY behind it: one that has the identifier of a
//! National Semiconductor DP83840A, at address 1, with a partner that can do whatever it can.

/// Where the PHY is.
const PHY: u8 = 1;

const CONTROL: u8 = 0;
const STATUS: u8 = 1;
const IDENTIFIER: [u8; 2] = [2, 3];
const ADVERTISEMENT: u8 = 4;
const PARTNER: u8 = 5;
const EXPANSION: u8 = 6;
/// Of the DP83840A: duplex and speed that have been agreed on.
const PHY_ADDRESS: u8 = 25;

/// Bits of the control register.
const RESET: u16 = 0x8000;
const NEGOTIATE: u16 = 0x1000;
const HUNDRED: u16 = 0x2000;
const POWER_DOWN: u16 = 0x0800;
const ISOLATE: u16 = 0x0400;
const RESTART: u16 = 0x0200;
const FULL_DUPLEX: u16 = 0x0100;
/// Negotiation is on; if it were not, full duplex at 100 Mbit/s.
const CONTROL_AFTER_RESET: u16 = NEGOTIATE | HUNDRED | FULL_DUPLEX;
/// 10 and 100 Mbit/s by half and full duplex, negotiation, further registers.
const ABILITIES: u16 = 0x7809;
const NEGOTIATED: u16 = 0x0020;
const LINK: u16 = 0x0004;
/// The same as an advertisement: IEEE 802.3, all four technologies.
const ADVERTISED: u16 = 0x01e1;
const ACKNOWLEDGED: u16 = 0x4000;
/// Technologies of an advertisement, the best first: speed in Mbit/s, full duplex.
const TECHNOLOGIES: [(u16, bool, bool); 4] =
    [(0x0100, true, true), (0x0080, true, false), (0x0040, false, true), (0x0020, false, false)];

struct Phy {
    control: u16,
    advertisement: u16,
    link: bool,
    /// The link has been down since the status was read last.
    was_down: bool,
}

impl Phy {
    fn up(&self) -> bool {
        self.link && self.control & (POWER_DOWN | ISOLATE) == 0
    }

    /// Whether it is 100 Mbit/s, and full duplex.
    fn agreed(&self) -> (bool, bool) {
        if self.control & NEGOTIATE == 0 {
            return (self.control & HUNDRED != 0, self.control & FULL_DUPLEX != 0);
        }
        let common = self.advertisement & ADVERTISED;
        let best = TECHNOLOGIES.into_iter().find(|(technology, ..)| common & technology != 0);
        best.map_or((false, false), |(_, hundred, full)| (hundred, full))
    }

    fn read(&mut self, register: u8) -> u16 {
        let negotiated = self.up() && self.control & NEGOTIATE != 0;
        match register {
            CONTROL => self.control,
            STATUS => {
                let up = self.up();
                let up = up && !std::mem::take(&mut self.was_down);
                ABILITIES | if negotiated { NEGOTIATED } else { 0 } | if up { LINK } else { 0 }
            }
            register if register == IDENTIFIER[0] => 0x2000,
            register if register == IDENTIFIER[1] => 0x5c01,
            ADVERTISEMENT => self.advertisement,
            PARTNER if negotiated => ACKNOWLEDGED | ADVERTISED,
            EXPANSION if negotiated => 1,
            PHY_ADDRESS => {
                let (hundred, full) = self.agreed();
                u16::from(PHY) | u16::from(!hundred) << 6 | u16::from(full) << 7
            }
            _ => 0,
        }
    }

    fn write(&mut self, register: u8, value: u16) {
        match register {
            CONTROL if value & RESET != 0 => {
                (self.control, self.advertisement) = (CONTROL_AFTER_RESET, ADVERTISED);
            }
            CONTROL => self.control = value & !(RESTART | 0x7f),
            ADVERTISEMENT => self.advertisement = value & 0x3fff,
            _ => {}
        }
    }
}

/// How far a management frame has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Between frames, and while somebody else is meant.
    Idle,
    /// Has taken `count` bits of start, operation and both addresses.
    Command { bits: u16, count: u32 },
    /// Says `bits`, the uppermost of `left` first.
    Read { bits: u32, left: u32 },
    /// Has taken `count` bits behind the command for `register`.
    Write { register: u8, bits: u32, count: u32 },
}

/// Start, operation, address of the PHY and of the register.
const COMMAND_BITS: u32 = 14;
/// The turnaround and a word.
const WORD_BITS: u32 = 18;

pub(super) struct Mii {
    phy: Phy,
    state: State,
    clock: bool,
}

impl Mii {
    pub fn new() -> Self {
        let phy =
            Phy { control: CONTROL_AFTER_RESET, advertisement: ADVERTISED, link: true, was_down: false };
        Self { phy, state: State::Idle, clock: false }
    }

    pub fn set_link(&mut self, up: bool) {
        self.phy.link = up;
        self.phy.was_down |= !up;
    }

    /// Whether frames get through.
    pub fn link(&self) -> bool {
        self.phy.up()
    }

    /// What the PHY says; a resistor keeps the line high where nobody does.
    pub fn out(&self) -> bool {
        match self.state {
            State::Read { bits, left } => bits >> (left - 1) & 1 != 0,
            _ => true,
        }
    }

    /// Levels of clock and output, and whether the adapter leaves the line to the PHY.
    pub fn drive(&mut self, clock: bool, output: bool, listens: bool) {
        let rises = clock && !self.clock;
        self.clock = clock;
        if rises {
            self.clocked(output || listens);
        }
    }

    fn clocked(&mut self, bit: bool) {
        self.state = match self.state {
            State::Idle if bit => State::Idle,
            State::Idle => State::Command { bits: 0, count: 1 },
            State::Command { bits, count } => self.command(bits << 1 | u16::from(bit), count + 1),
            State::Read { left: 1, .. } => State::Idle,
            State::Read { bits, left } => State::Read { bits, left: left - 1 },
            State::Write { register, bits, count } => {
                let (bits, count) = (bits << 1 | u32::from(bit), count + 1);
                if count < WORD_BITS {
                    State::Write { register, bits, count }
                } else {
                    self.phy.write(register, bits as u16);
                    State::Idle
                }
            }
        };
    }

    fn command(&mut self, bits: u16, count: u32) -> State {
        if count == 2 && bits != 0b01 {
            return State::Idle;
        }
        if count < COMMAND_BITS {
            return State::Command { bits, count };
        }
        let (phy, register) = ((bits >> 5 & 0x1f) as u8, (bits & 0x1f) as u8);
        match (bits >> 10 & 3, phy == PHY) {
            // The line floats for one bit and is low for one.
            (0b10, true) => {
                State::Read { bits: 0b10 << 16 | u32::from(self.phy.read(register)), left: WORD_BITS }
            }
            (0b10, false) => State::Read { bits: u32::MAX, left: WORD_BITS },
            (0b01, true) => State::Write { register, bits: 0, count: 0 },
            // What is written to nobody is waited for as well: its bits begin no frame.
            (0b01, false) => State::Write { register: u8::MAX, bits: 0, count: 0 },
            _ => State::Idle,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bits(mii: &mut Mii, bits: u32, count: u32) {
        for index in (0..count).rev() {
            let bit = bits >> index & 1 != 0;
            mii.drive(false, bit, false);
            mii.drive(true, bit, false);
        }
    }

    /// As Linux's tulip does it: the line is looked at before each rising edge.
    fn read(mii: &mut Mii, phy: u32, register: u32) -> u16 {
        bits(mii, u32::MAX, 32);
        bits(mii, 0b0110 << 10 | phy << 5 | register, 14);
        let mut value: u32 = 0;
        for _ in 0..19 {
            mii.drive(false, false, true);
            value = value << 1 | u32::from(mii.out());
            mii.drive(true, false, true);
        }
        (value >> 1) as u16
    }

    fn write(mii: &mut Mii, phy: u32, register: u32, value: u32) {
        bits(mii, u32::MAX, 32);
        bits(mii, 0b0101 << 28 | phy << 23 | register << 18 | 0b10 << 16 | value, 32);
        bits(mii, u32::MAX, 2);
    }

    #[test]
    fn the_phy_tells_what_it_is_and_what_it_has_agreed_on() {
        let mut mii = Mii::new();
        let registers: Vec<u16> = (0..7).map(|register| read(&mut mii, 1, register)).collect();
        assert_eq!(registers, [0x3100, 0x782d, 0x2000, 0x5c01, 0x01e1, 0x41e1, 0x0001]);
        assert_eq!(read(&mut mii, 1, 25), 0x0081);
    }

    #[test]
    fn where_no_phy_is_the_line_stays_high() {
        let mut mii = Mii::new();
        assert_eq!([0, 2, 31].map(|phy| read(&mut mii, phy, 1)), [0xffff; 3]);
        write(&mut mii, 2, 0, 0);
        assert_eq!(read(&mut mii, 1, 0), 0x3100);
    }

    #[test]
    fn a_link_that_was_down_is_told_once() {
        let mut mii = Mii::new();
        mii.set_link(false);
        assert_eq!([read(&mut mii, 1, 1), read(&mut mii, 1, 5)], [0x7809, 0]);
        mii.set_link(true);
        assert_eq!([read(&mut mii, 1, 1), read(&mut mii, 1, 1)], [0x7829, 0x782d]);
    }

    #[test]
    fn what_is_advertised_decides_on_speed_and_duplex() {
        let mut mii = Mii::new();
        write(&mut mii, 1, 4, 0x0021);
        assert_eq!(read(&mut mii, 1, 25), 0x0041);
        // Without negotiation it is what the control register says.
        write(&mut mii, 1, 0, 0x2000);
        assert_eq!([read(&mut mii, 1, 25), read(&mut mii, 1, 1), read(&mut mii, 1, 5)], [0x0001, 0x780d, 0]);
        write(&mut mii, 1, 0, 0x8000);
        assert_eq!([read(&mut mii, 1, 0), read(&mut mii, 1, 4)], [0x3100, 0x01e1]);
    }

    #[test]
    fn a_phy_without_power_has_no_link() {
        let mut mii = Mii::new();
        write(&mut mii, 1, 0, 0x0800);
        assert!(!mii.link());
    }
}
