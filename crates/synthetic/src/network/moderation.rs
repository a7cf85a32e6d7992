//! When a guest need not signal.
//!
//! A guest that gets much at a time signals whenever it has read something, and when it acknowledges it. Who looks at its ring
//! again soon anyway spares it that. What somebody may wait for must not wait for the look, though.

use std::time::Duration;

/// How long the guest is not asked for signals.
pub(super) const LINGER: Duration = Duration::from_micros(200);
/// Bytes of frames for the guest in a turn from which on a transfer goes on.
const TRANSFER: usize = 32 << 10;
/// Turns without so many bytes after which it has ended.
const PAUSE: u32 = 8;
/// Bytes of a frame up to which it may just acknowledge others.
const ACKNOWLEDGEMENT: usize = 128;
/// Turns for which the guest signals after another frame of its own had to wait.
const PROMPT: u32 = 256;

/// What an event loop has done between two waits.
#[derive(Debug, Default)]
pub(super) struct Turn {
    /// The guest has said or got anything.
    active: bool,
    /// Bytes of frames that the guest has got.
    bytes: usize,
    /// The guest has sent what somebody may wait for.
    asked: bool,
}

impl Turn {
    /// The guest has said anything.
    pub fn acted(&mut self) {
        self.active = true;
    }

    /// The guest has sent a frame of so many bytes.
    pub fn sent(&mut self, bytes: usize) {
        self.acted();
        self.asked |= bytes > ACKNOWLEDGEMENT;
    }

    /// The guest has got one.
    pub fn received(&mut self, bytes: usize) {
        self.acted();
        self.bytes += bytes;
    }
}

/// Decides after each turn.
#[derive(Debug, Default)]
pub(super) struct Moderation {
    lingering: bool,
    /// Turns since a transfer has gone on.
    pause: u32,
    /// Turns for which the guest signals.
    prompt: u32,
}

impl Moderation {
    /// Whether the next wait is to last [`LINGER`] at the most, and the guest need not signal meanwhile.
    pub fn lingers(&mut self, turn: &Turn) -> bool {
        if self.lingering && turn.asked {
            self.prompt = PROMPT;
        }
        self.prompt = self.prompt.saturating_sub(1);
        let goes_on = turn.bytes >= TRANSFER;
        self.pause = if goes_on { 0 } else { self.pause.saturating_add(1) };
        let more = goes_on || self.lingering && turn.active && self.pause < PAUSE;
        self.lingering = self.prompt == 0 && more;
        self.lingering
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turn(sent: &[usize], received: &[usize]) -> Turn {
        let mut turn = Turn::default();
        sent.iter().for_each(|&bytes| turn.sent(bytes));
        received.iter().for_each(|&bytes| turn.received(bytes));
        turn
    }

    fn said() -> Turn {
        let mut turn = Turn::default();
        turn.acted();
        turn
    }

    #[test]
    fn a_transfer_to_the_guest_needs_no_signals_until_it_is_quiet() {
        let mut moderation = Moderation::default();
        assert!(!moderation.lingers(&turn(&[66], &[1500])));
        assert!(moderation.lingers(&turn(&[], &[60_000])));
        // That it has read them, and acknowledgements.
        assert!(moderation.lingers(&said()));
        assert!(moderation.lingers(&turn(&[66, 66], &[])));
        assert!(!moderation.lingers(&Turn::default()));
        assert!(!moderation.lingers(&said()));
    }

    #[test]
    fn a_transfer_from_the_guest_has_its_signals() {
        let mut moderation = Moderation::default();
        for _ in 0..1000 {
            assert!(!moderation.lingers(&turn(&[60_000, 60_000], &[66])));
        }
    }

    #[test]
    fn little_things_after_a_transfer_get_their_signals_back() {
        let mut moderation = Moderation::default();
        assert!(moderation.lingers(&turn(&[], &[60_000])));
        let turns = (0..1000).take_while(|_| moderation.lingers(&turn(&[98], &[98]))).count();
        assert_eq!(turns, PAUSE as usize - 1);
    }

    #[test]
    fn who_asks_and_waits_signals_for_a_while() {
        let mut moderation = Moderation::default();
        assert!(moderation.lingers(&turn(&[], &[60_000])));
        let turns = (0..1000).take_while(|_| !moderation.lingers(&turn(&[300], &[60_000]))).count();
        assert_eq!(turns, PROMPT as usize - 1);
        assert!(!moderation.lingers(&turn(&[300], &[60_000])));
    }
}
