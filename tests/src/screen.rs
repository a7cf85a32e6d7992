//! The screen and the keyboard of a running machine.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use crate::machine::{Running, here};

/// How long a machine may take to be there.
const STARTED: Duration = Duration::from_secs(20);
/// Between two looks at the screen.
const LOOK: Duration = Duration::from_millis(50);

impl Running {
    /// Waits for the control socket `api`, which comes with the machine.
    ///
    /// # Panics
    /// With what the program says, if it does not come.
    pub fn expect_socket(&self, api: &Path) {
        let deadline = Instant::now() + STARTED;
        while !api.exists() {
            assert!(Instant::now() < deadline, "no control socket:\n{}", self.errors());
            thread::sleep(LOOK);
        }
    }

    /// The screen's text; empty while there is none.
    pub fn screen(&self) -> String {
        self.bodhi(&["screenshot", "--text"]).output
    }

    /// Waits for `text` on the screen, and returns all that is on it.
    ///
    /// # Panics
    /// With the screen, if it does not come.
    pub fn expect_screen(&self, text: &str, patience: Duration) -> String {
        self.expect_on_screen(text, patience, |screen| screen.contains(text))
    }

    /// As [`Self::expect_screen`], for `text` where it is broken into lines anywhere.
    ///
    /// # Panics
    /// As there.
    pub fn expect_broken_on_screen(&self, text: &str, patience: Duration) -> String {
        let squeezed = |text: &str| text.split_whitespace().collect::<String>();
        self.expect_on_screen(text, patience, |screen| squeezed(screen).contains(&squeezed(text)))
    }

    fn expect_on_screen(&self, text: &str, patience: Duration, is_there: impl Fn(&str) -> bool) -> String {
        let deadline = Instant::now() + here(patience);
        loop {
            let screen = self.screen();
            if is_there(&screen) {
                return screen;
            }
            let errors = self.errors();
            assert!(Instant::now() < deadline, "no {text:?} on the screen:\n{screen}\n--- errors:\n{errors}");
            thread::sleep(LOOK);
        }
    }

    /// Presses keys, one chord after the other.
    ///
    /// # Panics
    /// If the guest does not take them.
    pub fn press(&self, chords: &[&str]) {
        for chord in chords {
            self.bodhi(&["key", chord]).assert_done();
        }
    }

    /// Types on the keyboard.
    ///
    /// # Panics
    /// If the guest does not take it.
    pub fn type_text(&self, text: &str) {
        self.bodhi(&["type", text]).assert_done();
    }
}
