//! From the INTx pins of PCI functions to interrupt inputs.

use std::sync::{Arc, Mutex, Weak};

use interrupt::{Line, SharedLine};

use super::FunctionAddress;
use crate::sync::lock;

/// Where firmware routes PIRQA–PIRQD: as SeaBIOS does.
pub const FIRMWARE_ROUTES: [u8; 4] = [10, 10, 11, 11];
/// The IOAPIC inputs that PIRQA–PIRQD reach directly.
pub const IOAPIC_PINS: [u8; 4] = [16, 17, 18, 19];

/// Inputs that PIIX4 can route to: 3–7, 9–12, 14, 15.
const ROUTABLE: u16 = 0b1101_1110_1111_1000;
/// The route register's bit that switches routing off.
const DISABLED: u8 = 0x80;

/// Which of PIRQA–PIRQD (0–3) the pin `pin` (0 for INTA to 3 for INTD) of `device` is wired to: by a
/// rotation in which INTA of device 1 is PIRQA, as firmware takes it for granted when it tells functions their interrupt
/// lines (SeaBIOS, src/fw/pciinit.c; edk2, OvmfPkg).
pub const fn pirq_of(device: u8, pin: u8) -> u8 {
    device.wrapping_add(pin).wrapping_sub(1) & 3
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct State {
    /// Levels of PIRQA–PIRQD.
    levels: [bool; 4],
    /// The route registers.
    routes: [u8; 4],
}

impl State {
    fn irq_is_high(&self, irq: u8) -> bool {
        self.levels.iter().zip(self.routes).any(|(level, route)| *level && target(route) == Some(irq))
    }
}

fn target(route: u8) -> Option<u8> {
    let irq = route & 15;
    (route & DISABLED == 0 && ROUTABLE >> irq & 1 != 0).then_some(irq)
}

/// The router: each PIRQ drives the ISA interrupt that its route register names, and an IOAPIC input of its
/// own. Guests that use the IOAPIC keep the ISA interrupt masked.
pub struct InterruptRouter {
    state: Mutex<State>,
    isa: [Arc<dyn Line>; 16],
    ioapic: [Arc<dyn Line>; 4],
    pirqs: [SharedLine; 4],
}

impl InterruptRouter {
    /// A router in front of the ISA interrupts `isa` and the IOAPIC inputs `ioapic` (see [`IOAPIC_PINS`]).
    /// Other devices on the same ISA interrupt need a [`SharedLine`] in front of it.
    pub fn new(isa: [Arc<dyn Line>; 16], ioapic: [Arc<dyn Line>; 4]) -> Arc<Self> {
        Arc::new_cyclic(|router: &Weak<Self>| {
            let pirq = |index| SharedLine::new(Arc::new(Pirq { router: router.clone(), index }));
            Self {
                state: Mutex::new(State { levels: [false; 4], routes: FIRMWARE_ROUTES }),
                isa,
                ioapic,
                pirqs: [pirq(0), pirq(1), pirq(2), pirq(3)],
            }
        })
    }

    /// The line of interrupt pin `pin` (0 for INTA) of the function at `address`. Pins may be shared.
    pub fn line(&self, address: FunctionAddress, pin: u8) -> Arc<dyn Line> {
        self.pirqs[usize::from(pirq_of(address.device, pin))].driver()
    }

    /// The route register of PIRQ `index` (0–3).
    pub(super) fn route(&self, index: usize) -> u8 {
        lock(&self.state).routes.get(index).copied().unwrap_or(DISABLED)
    }

    pub(super) fn set_route(&self, index: usize, value: u8) {
        self.change(|state| {
            if let Some(route) = state.routes.get_mut(index) {
                *route = value & (DISABLED | 15);
            }
        });
    }

    fn set_level(&self, index: usize, high: bool) {
        self.change(|state| {
            if let Some(level) = state.levels.get_mut(index) {
                *level = high;
            }
        });
        if let Some(pin) = self.ioapic.get(index) {
            pin.set(high);
        }
    }

    /// Changes the state and drives the ISA interrupts that change with it.
    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = lock(&self.state);
        let before = state.clone();
        change(&mut state);
        for (irq, line) in (0..).zip(&self.isa) {
            let high = state.irq_is_high(irq);
            if high != before.irq_is_high(irq) {
                line.set(high);
            }
        }
    }
}

struct Pirq {
    router: Weak<InterruptRouter>,
    index: usize,
}

impl Line for Pirq {
    fn set(&self, high: bool) {
        if let Some(router) = self.router.upgrade() {
            router.set_level(self.index, high);
        }
    }
}
