//! How fast a connection may speak: a token bucket, and the patience with one that never slows down.

use std::num::NonZeroU32;

/// A bucket that fills steadily and is emptied by one per frame. Times are milliseconds of any steady clock.
#[derive(Debug, Clone, Copy)]
pub struct Bucket {
    /// Thousandths of a frame.
    level: u32,
    filled_at: u32,
}

/// How a bucket fills.
#[derive(Debug, Clone, Copy)]
pub struct Rate {
    /// Frames per second, over a longer time.
    pub per_second: u32,
    /// Frames at once, after a pause.
    pub burst: u32,
}

impl Bucket {
    /// A full bucket.
    pub fn full(rate: Rate, now_ms: u64) -> Self {
        Self { level: rate.burst.saturating_mul(1000), filled_at: now_ms as u32 }
    }

    /// Takes one frame's worth, or tells after how many milliseconds there is one.
    pub fn take(&mut self, rate: Rate, now_ms: u64) -> Result<(), u32> {
        let now = now_ms as u32;
        // One frame per second is one thousandth per millisecond. The clock may wrap after 49 days: a wrapped
        // difference is still the time that passed.
        let gained = u64::from(now.wrapping_sub(self.filled_at)) * u64::from(rate.per_second);
        let full = u64::from(rate.burst) * 1000;
        self.level = (u64::from(self.level) + gained).min(full).min(u64::from(u32::MAX)) as u32;
        self.filled_at = now;
        match self.level.checked_sub(1000) {
            Some(rest) => {
                self.level = rest;
                Ok(())
            }
            None => Err((1000 - self.level).div_ceil(rate.per_second.max(1)).max(1)),
        }
    }
}

/// Notices a client that stays over its rate. Two seconds without a refusal end the excess: in so
/// long a bucket of the usual size is full again, and who sends in batches once a second is over the rate all the same.
#[derive(Debug, Clone, Copy, Default)]
pub struct Excess {
    /// Never 0, which is a millisecond off once in 49 days and saves every connection the room.
    since: Option<NonZeroU32>,
    latest: u32,
}

/// So long may a client be over its rate before it is closed with 4102.
pub const EXCESS_MS: u32 = 10_000;
const PAUSE_MS: u32 = 2_000;

impl Excess {
    /// A frame was refused; true if that has gone on for [`EXCESS_MS`].
    pub fn on_refused(&mut self, now_ms: u64) -> bool {
        let now = now_ms as u32;
        let since = match self.since {
            Some(since) if now.wrapping_sub(self.latest) <= PAUSE_MS => since,
            _ => NonZeroU32::new(now).unwrap_or(NonZeroU32::MIN),
        };
        *self = Self { since: Some(since), latest: now };
        // A clock at 0 is a millisecond before its own mark: no time has passed then.
        let passed = now.wrapping_sub(since.get());
        (EXCESS_MS..=u32::MAX / 2).contains(&passed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate { per_second: 50, burst: 100 };

    #[test]
    fn burst_then_steady_rate() {
        let mut bucket = Bucket::full(RATE, 7);
        assert_eq!((0..200).filter(|_| bucket.take(RATE, 7).is_ok()).count(), 100);
        assert_eq!(bucket.take(RATE, 7), Err(20));
        assert_eq!(bucket.take(RATE, 27), Ok(()));
        let second = (0..1000).filter(|ms| bucket.take(RATE, 28 + ms).is_ok()).count();
        assert!((49..=51).contains(&second), "{second}");
    }

    #[test]
    fn steady_excess_is_noticed() {
        let mut excess = Excess::default();
        assert!(!(0..100).any(|step| excess.on_refused(7 + step * 100)));
        assert!(excess.on_refused(10_007));
        // Two at the very first millisecond are no time at all.
        let mut excess = Excess::default();
        assert!(!excess.on_refused(0) && !excess.on_refused(0));
    }

    #[test]
    fn excess_in_batches_is_noticed() {
        let mut excess = Excess::default();
        assert!((0..12).any(|second| excess.on_refused(second * 1_100)));
    }

    #[test]
    fn a_pause_forgives_excess() {
        let mut excess = Excess::default();
        for start in [0, 7_000, 14_000, 21_000] {
            assert!(!(0..50).any(|step| excess.on_refused(start + step * 100)));
        }
    }
}
