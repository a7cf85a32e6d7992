//! How much a port may carry in a time.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How much a port may carry, in each direction. What is `None` has no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateLimit {
    /// Bits a second; not 0.
    pub bits: Option<u64>,
    /// Frames a second; not 0. One that is to be cut counts as what it will be.
    pub frames: Option<u64>,
    /// So much time's worth may go at once after silence.
    pub burst: Duration,
}

impl RateLimit {
    /// [`Self::burst`] unless the user says something else.
    pub const BURST: Duration = Duration::from_millis(50);
}

/// Keeps to a limit: each unit takes its time, and what is ahead of time by more than the burst has to wait (the generic
/// cell rate algorithm, ITU-T I.371).
#[derive(Debug)]
pub(crate) struct Limiter {
    limit: RateLimit,
    /// When all that has gone would have gone at the rate of the limit: bits, frames.
    due: Mutex<[Option<Instant>; 2]>,
}

impl Limiter {
    pub fn new(limit: RateLimit) -> Self {
        Self { limit, due: Mutex::default() }
    }

    /// How long to wait before the next may go. `None` if it may now.
    pub fn wait(&self, now: Instant) -> Option<Duration> {
        let due = *self.due.lock().unwrap_or_else(PoisonError::into_inner);
        let ahead = due.into_iter().flatten().max()?.saturating_duration_since(now);
        ahead.checked_sub(self.limit.burst).filter(|wait| !wait.is_zero())
    }

    /// So many bytes, as so many frames, go.
    pub fn charge(&self, now: Instant, bytes: usize, frames: usize) {
        let RateLimit { bits: bit_rate, frames: frame_rate, .. } = self.limit;
        let [bits, frames] = [8 * bytes as u64, frames as u64];
        let mut due = self.due.lock().unwrap_or_else(PoisonError::into_inner);
        for (due, (count, rate)) in due.iter_mut().zip([(bits, bit_rate), (frames, frame_rate)]) {
            let Some(rate) = rate.filter(|&rate| rate > 0) else { continue };
            let time = Duration::from_nanos((u128::from(count) * 1_000_000_000 / u128::from(rate)) as u64);
            *due = due.map_or(now, |due| due.max(now)).checked_add(time).or(*due);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn what_goes_keeps_to_the_rate_after_a_burst() {
        // 1000 bytes take 8 ms.
        let limit = RateLimit { bits: Some(1_000_000), frames: None, burst: 16 * MS };
        let (limiter, start) = (Limiter::new(limit), Instant::now());
        let mut now = start;
        let mut sent = 0;
        while now < start + Duration::from_secs(1) {
            match limiter.wait(now) {
                None => {
                    limiter.charge(now, 1000, 1);
                    sent += 1;
                }
                Some(wait) => now += wait,
            }
        }
        // A second's worth, the burst and the last.
        assert!((125..=128).contains(&sent), "{sent}");
        // Silence is worth a burst and no more.
        now += Duration::from_secs(100);
        let burst = (0..)
            .take_while(|_| limiter.wait(now).is_none())
            .inspect(|_| limiter.charge(now, 1000, 1))
            .count();
        assert_eq!(burst, 3);
    }

    #[test]
    fn frames_are_limited_as_bits_are() {
        let limit = RateLimit { bits: Some(u64::MAX), frames: Some(1000), burst: Duration::ZERO };
        let (limiter, now) = (Limiter::new(limit), Instant::now());
        limiter.charge(now, 60_000, 40);
        assert_eq!(limiter.wait(now), Some(40 * MS));
        assert_eq!(limiter.wait(now + 40 * MS), None);
    }
}
