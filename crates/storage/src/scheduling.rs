//! How the host schedules a thread that serves requests (Linux `sched(7)`).

use std::io;

/// When a thread runs that has been woken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wakeup {
    /// At once, in place of what runs, if its share of the processor allows (SCHED_OTHER).
    AtOnce,
    /// When a processor is free, or when others have had their time (SCHED_BATCH): who wakes it goes on meanwhile.
    WhenFree,
}

impl Wakeup {
    /// Has the calling thread scheduled so.
    ///
    /// # Errors
    /// When the host does not allow it.
    pub fn apply(self) -> io::Result<()> {
        let policy = match self {
            Self::AtOnce => libc::SCHED_OTHER,
            Self::WhenFree => libc::SCHED_BATCH,
        };
        let parameters = libc::sched_param { sched_priority: 0 };
        // SAFETY: the kernel reads the structure; 0 is the calling thread.
        match unsafe { libc::sched_setscheduler(0, policy, &raw const parameters) } {
            -1 => Err(io::Error::last_os_error()),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_changes_its_policy_and_back() {
        // SAFETY: a system call about the calling thread.
        let policy = || unsafe { libc::sched_getscheduler(0) };
        Wakeup::WhenFree.apply().unwrap();
        assert_eq!(policy(), libc::SCHED_BATCH);
        Wakeup::AtOnce.apply().unwrap();
        assert_eq!(policy(), libc::SCHED_OTHER);
    }
}
