//! What a program prints, read as it comes.

use std::io::Read;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// The output of a program, collected by a thread of its own; clones share it.
#[derive(Clone)]
pub struct Console {
    shared: Arc<Shared>,
    started: Instant,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    grown: Condvar,
}

#[derive(Default)]
struct State {
    text: Vec<u8>,
    /// Where each read ended, and when.
    arrivals: Vec<(usize, Instant)>,
    /// Everything before was asked for already.
    cursor: usize,
    closed: bool,
}

impl Console {
    /// Collects from `source` until it ends. `started` is when the program did.
    pub fn new(mut source: impl Read + Send + 'static, started: Instant) -> Self {
        let console = Self { shared: Arc::default(), started };
        let shared = console.shared.clone();
        thread::spawn(move || {
            let mut piece = [0; 4096];
            loop {
                // An error ends the output like its end does: the program is gone.
                let length = source.read(&mut piece).unwrap_or(0);
                let mut state = lock(&shared);
                state.text.extend_from_slice(&piece[..length]);
                let end = state.text.len();
                state.arrivals.push((end, Instant::now()));
                state.closed = length == 0;
                shared.grown.notify_all();
                if length == 0 {
                    return;
                }
            }
        });
        console
    }

    /// Waits for `text` in what was not yet asked for, and returns how long after the start it came.
    ///
    /// # Errors
    /// What came instead, if the output ends or `patience` does.
    pub fn expect(&self, text: &str, patience: Duration) -> Result<Duration, String> {
        self.expect_with(text, patience).map(|(_, at)| at)
    }

    /// As [`expect`](Self::expect), with everything that came before `text`.
    ///
    /// # Errors
    /// What came instead, if the output ends or `patience` does.
    pub fn expect_with(&self, text: &str, patience: Duration) -> Result<(String, Duration), String> {
        let deadline = Instant::now() + patience;
        let mut state = lock(&self.shared);
        loop {
            let fresh = &state.text[state.cursor..];
            if let Some(at) = fresh.windows(text.len()).position(|window| window == text.as_bytes()) {
                let before = String::from_utf8_lossy(&fresh[..at]).into_owned();
                let end = state.cursor + at + text.len();
                state.cursor = end;
                let arrived = state.arrivals.iter().find(|(upto, _)| *upto >= end).expect("it arrived").1;
                return Ok((before, arrived - self.started));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if state.closed || left.is_zero() {
                let why = if state.closed { "the output ended" } else { "it did not come in time" };
                return Err(format!("waiting for {text:?}: {why}; last lines:\n{}", tail(&state.text, 60)));
            }
            state = self.shared.grown.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Everything so far.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&lock(&self.shared).text).into_owned()
    }

    /// Waits until the output has ended, and returns all of it.
    pub fn finish(&self, patience: Duration) -> String {
        let state = lock(&self.shared);
        let ended = self.shared.grown.wait_timeout_while(state, patience, |state| !state.closed);
        let state = ended.unwrap_or_else(PoisonError::into_inner).0;
        String::from_utf8_lossy(&state.text).into_owned()
    }
}

fn lock(shared: &Shared) -> std::sync::MutexGuard<'_, State> {
    shared.state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn tail(text: &[u8], lines: usize) -> String {
    let text = String::from_utf8_lossy(text);
    let all: Vec<_> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(5);

    #[test]
    fn expect_goes_on_behind_what_it_found() {
        let console = Console::new(&b"one two one three"[..], Instant::now());
        console.expect("one", SOON).unwrap();
        assert_eq!(console.expect_with("one", SOON).unwrap().0, " two ");
        assert!(console.expect("one", SOON).is_err());
    }

    #[test]
    fn the_end_of_the_output_ends_the_wait() {
        let console = Console::new(&b"panic"[..], Instant::now());
        let error = console.expect("login", Duration::from_secs(3600)).unwrap_err();
        assert!(error.contains("the output ended") && error.contains("panic"), "{error}");
    }
}
