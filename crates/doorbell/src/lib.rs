//! A doorbell: an eventfd that an event loop waits for, and that waiting.
#![forbid(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use counters::Counter;
use rustix::event::{EventfdFlags, PollFd, Timespec, eventfd, poll};
use rustix::io::Errno;

/// A time as the host's calls that wait take it; the longest one if it is longer.
pub fn timespec(time: Duration) -> Timespec {
    Timespec { tv_sec: time.as_secs().try_into().unwrap_or(i64::MAX), tv_nsec: time.subsec_nanos().into() }
}

/// Sleeps until there is something about one of `fds`, or `patience` is over. May come back early.
///
/// # Errors
/// When the host does not let the thread wait.
pub fn wait(fds: &mut [PollFd<'_>], patience: Option<Duration>) -> io::Result<()> {
    match poll(fds, patience.map(timespec).as_ref()) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// An eventfd. Ringing it twice before it is answered is as good as once.
#[derive(Debug)]
pub struct Doorbell {
    fd: OwnedFd,
    /// Counts how often it has rung.
    rings: Counter,
}

impl Doorbell {
    /// A silent doorbell.
    ///
    /// # Errors
    /// When the host gives no eventfd.
    pub fn new() -> io::Result<Self> {
        Self::counted(Counter::default())
    }

    /// A silent doorbell. How often it has rung is added to `rings` when it is answered, whoever rings it.
    ///
    /// # Errors
    /// When the host gives no eventfd.
    pub fn counted(rings: Counter) -> io::Result<Self> {
        Ok(Self { fd: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?, rings })
    }

    /// Rings.
    pub fn ring(&self) {
        match rustix::io::write(&self.fd, &1_u64.to_ne_bytes()) {
            // A full counter is a doorbell that rings already.
            Ok(_) | Err(Errno::AGAIN) => {}
            Err(error) => tracing::error!(%error, "doorbell does not ring"),
        }
    }

    /// Silences the doorbell. True if it was ringing.
    pub fn answer(&self) -> bool {
        let mut count = [0; 8];
        match rustix::io::read(&self.fd, &mut count) {
            Ok(_) => {
                self.rings.add(u64::from_ne_bytes(count));
                true
            }
            Err(Errno::AGAIN) => false,
            Err(error) => {
                tracing::error!(%error, "doorbell cannot be answered");
                false
            }
        }
    }
}

impl AsFd for Doorbell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
