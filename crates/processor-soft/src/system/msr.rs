//! Model-specific registers.

/// The processor's own MSRs.
pub struct MsrState {}

impl MsrState {
    /// As after power-on.
    pub fn new() -> Self {
        Self {}
    }

    /// As after a reset; INIT keeps them.
    pub fn reset(&mut self, init: bool) {
        if !init {
            *self = Self::new();
        }
    }
}
