//! Small guests.
