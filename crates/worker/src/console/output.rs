//! The queue between the serial port and those who listen.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::lock;

/// Bytes that wait at most; then the serial port waits.
const CAPACITY: usize = 1 << 20;

#[derive(Default)]
struct State {
    bytes: VecDeque<u8>,
    /// Taken, and not yet written.
    writing: bool,
    closed: bool,
}

#[derive(Default)]
pub(super) struct Queue {
    state: Mutex<State>,
    changed: Condvar,
}

impl Queue {
    fn put(&self, bytes: &[u8]) {
        let mut state = lock(&self.state);
        while state.bytes.len() + bytes.len() > CAPACITY && !state.closed {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let wake = state.bytes.is_empty();
        state.bytes.extend(bytes);
        if wake {
            self.changed.notify_all();
        }
    }

    /// Everything that waits; `None` once the queue is closed and empty.
    pub(super) fn take(&self) -> Option<Vec<u8>> {
        let mut state = lock(&self.state);
        while state.bytes.is_empty() {
            if state.closed {
                return None;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.writing = true;
        let bytes = state.bytes.drain(..).collect();
        self.changed.notify_all();
        Some(bytes)
    }

    /// What was taken has been written.
    pub(super) fn written(&self) {
        lock(&self.state).writing = false;
        self.changed.notify_all();
    }

    pub(super) fn drain(&self, patience: Duration) {
        let deadline = Instant::now() + patience;
        let mut state = lock(&self.state);
        while state.writing || !state.bytes.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    pub(super) fn close(&self) {
        lock(&self.state).closed = true;
        self.changed.notify_all();
    }
}

/// The end of the queue that takes the output.
pub(super) struct QueueWriter(pub(super) Arc<Queue>);

impl Write for QueueWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let part = &bytes[..bytes.len().min(CAPACITY)];
        self.0.put(part);
        Ok(part.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
