//! What a screen shows, as an image and as text, and the keys of a keyboard. Knows no device.
#![forbid(unsafe_code)]

mod frame;
mod keys;
mod text;

pub use frame::{Frame, Rgb};
pub use keys::{Key, KeyError, chord, typed};
pub use text::{Cell, TextScreen};
