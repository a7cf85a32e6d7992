//! What devices ask of the machine as a whole.

/// The machine's power and reset circuits. Called with a device's lock held: implementations only note the
/// wish and wake whoever carries it out.
pub trait PowerControl: Send + Sync {
    /// The guest switches the machine off.
    fn power_off(&self);
    /// The guest resets the machine.
    fn reset(&self);
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    /// Counts what is asked for.
    #[derive(Default)]
    pub(crate) struct Power {
        offs: AtomicU32,
        resets: AtomicU32,
    }

    impl Power {
        pub(crate) fn new() -> Arc<Self> {
            Arc::default()
        }

        pub(crate) fn offs(&self) -> u32 {
            self.offs.load(Ordering::SeqCst)
        }

        pub(crate) fn resets(&self) -> u32 {
            self.resets.load(Ordering::SeqCst)
        }
    }

    impl PowerControl for Power {
        fn power_off(&self) {
            self.offs.fetch_add(1, Ordering::SeqCst);
        }

        fn reset(&self) {
            self.resets.fetch_add(1, Ordering::SeqCst);
        }
    }
}
