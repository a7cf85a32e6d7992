//! What devices ask of the machine as a whole.

/// The machine's power and reset circuits. Called with a device's lock held: implementations only note the
/// wish and wake whoever carries it out.
pub trait PowerControl: Send + Sync {
    /// The guest switches the machine off.
    fn power_off(&self);
    /// The guest resets the machine.
    fn reset(&self);
}
