//! Typing: keys go down and up at a pace that the guest follows.

use std::time::{Duration, Instant};

use display::Key;
use machine::MachineHandle;

/// How long the guest may take for one key. One that sets up its devices may not look for a while, on a slow host.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two looks whether it has taken the last one.
const POLL: Duration = Duration::from_millis(2);
/// After a key has been taken: its handler may be at work still, and a BIOS keeps 15 keys for its program.
const PAUSE: Duration = Duration::from_millis(15);

/// Why keys have not been pressed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the guest does not take the keyboard's keys")]
pub struct NotTaken;

/// Presses the chords one after the other; the keys of each go down in their order and up in the opposite one.
///
/// # Errors
/// When the guest does not take a key in time.
pub fn press(machine: &MachineHandle, chords: &[Vec<Key>]) -> Result<(), NotTaken> {
    for chord in chords {
        for &key in chord {
            send(machine, key, true)?;
        }
        for &key in chord.iter().rev() {
            send(machine, key, false)?;
        }
        std::thread::sleep(PAUSE);
    }
    Ok(())
}

fn send(machine: &MachineHandle, key: Key, pressed: bool) -> Result<(), NotTaken> {
    wait_for(machine, || machine.key(key, pressed))?;
    // Of the last key of all: a key that resets the machine is never taken.
    match wait_for(machine, || machine.keyboard_idle()) {
        Err(NotTaken) if pressed => Err(NotTaken),
        _ => Ok(()),
    }
}

fn wait_for(machine: &MachineHandle, done: impl Fn() -> bool) -> Result<(), NotTaken> {
    let end = Instant::now() + PATIENCE;
    while !done() {
        if Instant::now() > end || machine.ended() {
            return Err(NotTaken);
        }
        std::thread::sleep(POLL);
    }
    Ok(())
}
