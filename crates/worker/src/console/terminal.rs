//! The terminal: raw while the machine has it, and as it was afterwards, however the process ends.

use std::io::{self, IsTerminal};
use std::sync::Mutex;

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetpgrp, tcsetattr};

use super::lock;

/// How the terminal was before it became raw.
static BEFORE: Mutex<Option<Termios>> = Mutex::new(None);

/// A terminal in raw mode; dropping it restores it.
#[derive(Debug)]
pub struct Terminal(());

impl Terminal {
    /// Makes the terminal of standard input raw. `None` if there is none or another process has it.
    pub fn raw() -> Option<Self> {
        let stdin = io::stdin();
        if !stdin.is_terminal() || !in_foreground() {
            return None;
        }
        let before = tcgetattr(&stdin).ok()?;
        let mut raw = before.clone();
        raw.make_raw();
        crate::signals::remember_terminal();
        *lock(&BEFORE) = Some(before);
        if let Err(error) = tcsetattr(&stdin, OptionalActions::Now, &raw) {
            tracing::warn!("the terminal stays in line mode: {error}");
            lock(&BEFORE).take();
            return None;
        }
        restore_on_panic();
        Some(Self(()))
    }

    /// Whether standard input may be read: not by a process in the background of a terminal, which would be
    /// stopped.
    pub fn may_read() -> bool {
        !io::stdin().is_terminal() || in_foreground()
    }

    /// Whether a terminal is raw at present, so that a line needs a carriage return.
    pub fn is_raw() -> bool {
        lock(&BEFORE).is_some()
    }

    /// Makes the terminal what it was. Does nothing if it is.
    pub fn restore() {
        if let Some(before) = lock(&BEFORE).take() {
            // A terminal that is gone needs no restoring.
            let _ = tcsetattr(io::stdin(), OptionalActions::Now, &before);
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        Self::restore();
    }
}

fn in_foreground() -> bool {
    tcgetpgrp(io::stdin()).is_ok_and(|group| group == rustix::process::getpgrp())
}

/// A panic's message is to be read, and the process may end with it.
fn restore_on_panic() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let next = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |information| {
            Terminal::restore();
            next(information);
        }));
    });
}
