//! Wiring between devices.

use std::sync::Arc;

use interrupt::Line;

/// A line that drives several inputs: an ISA interrupt reaches both the 8259 and the IOAPIC.
#[derive(Clone)]
pub struct FanOut {
    targets: Vec<Arc<dyn Line>>,
}

impl FanOut {
    /// A line in front of `targets`, driven in this order.
    pub fn new(targets: Vec<Arc<dyn Line>>) -> Self {
        Self { targets }
    }
}

impl Line for FanOut {
    fn set(&self, high: bool) {
        self.targets.iter().for_each(|target| target.set(high));
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::sync::lock;

    /// A line that remembers its level and counts its rising edges.
    #[derive(Default)]
    pub(crate) struct Probe(Mutex<(bool, u32)>);

    impl Probe {
        pub(crate) fn new() -> Arc<Self> {
            Arc::default()
        }

        pub(crate) fn is_high(&self) -> bool {
            lock(&self.0).0
        }

        /// Rising edges since the last call.
        pub(crate) fn take_edges(&self) -> u32 {
            std::mem::take(&mut lock(&self.0).1)
        }
    }

    impl Line for Probe {
        fn set(&self, high: bool) {
            let mut state = lock(&self.0);
            if high && !state.0 {
                state.1 += 1;
            }
            state.0 = high;
        }
    }

    #[test]
    fn a_fan_out_drives_every_input() {
        let (first, second) = (Probe::new(), Probe::new());
        let line = FanOut::new(vec![first.clone(), second.clone()]);
        line.set(true);
        assert!(first.is_high() && second.is_high());
        line.set(false);
        assert!(!first.is_high() && !second.is_high());
    }
}
