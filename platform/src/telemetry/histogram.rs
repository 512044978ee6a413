//! How long things take, in buckets. One owner counts into a plain [`Histogram`]; many count into a [`SharedHistogram`], or
//! hand their plain ones over now and then.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

/// Upper bounds of the buckets, seconds; the last bucket has none. Those that OpenTelemetry advises for durations, and three
/// below them, since a publish on one machine is acked within a millisecond or two.
pub const BOUNDS_S: [f64; 14] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

const BUCKETS: usize = BOUNDS_S.len() + 1;

/// Durations that were counted, for one owner.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Histogram {
    /// How many fell in each bucket: above the bound before, at or below its own.
    pub counts: [u64; BUCKETS],
    /// All of them together, microseconds.
    pub sum_us: u64,
}

impl Histogram {
    /// Counts one.
    pub fn add(&mut self, took: Duration) {
        self.counts[bucket(took)] += 1;
        self.sum_us += took.as_micros() as u64;
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }
}

/// Durations that were counted, for several.
#[derive(Debug, Default)]
pub struct SharedHistogram {
    counts: [AtomicU64; BUCKETS],
    sum_us: AtomicU64,
}

impl SharedHistogram {
    /// Counts one.
    pub fn add(&self, took: Duration) {
        self.counts[bucket(took)].fetch_add(1, Relaxed);
        self.sum_us.fetch_add(took.as_micros() as u64, Relaxed);
    }

    /// Takes over what was counted elsewhere.
    pub fn take(&self, from: &mut Histogram) {
        let taken = std::mem::take(from);
        for (to, count) in self.counts.iter().zip(taken.counts).filter(|(_, count)| *count > 0) {
            to.fetch_add(count, Relaxed);
        }
        self.sum_us.fetch_add(taken.sum_us, Relaxed);
    }

    /// All so far.
    pub fn read(&self) -> Histogram {
        Histogram { counts: std::array::from_fn(|bucket| self.counts[bucket].load(Relaxed)), sum_us: self.sum_us.load(Relaxed) }
    }
}

fn bucket(took: Duration) -> usize {
    let seconds = took.as_secs_f64();
    BOUNDS_S.iter().position(|bound| seconds <= *bound).unwrap_or(BUCKETS - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_belong_to_their_bucket() {
        let mut histogram = Histogram::default();
        for micros in [0, 500, 501, 1000, 10_000_000, 10_000_001, 99_000_000] {
            histogram.add(Duration::from_micros(micros));
        }
        assert_eq!(histogram.counts, [2, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2]);
        assert_eq!((histogram.count(), histogram.sum_us), (7, 119_002_002));
    }

    #[test]
    fn handed_over_once() {
        let (shared, mut own) = (SharedHistogram::default(), Histogram::default());
        own.add(Duration::from_millis(3));
        shared.take(&mut own);
        shared.take(&mut own);
        shared.add(Duration::from_millis(3));
        assert_eq!((shared.read().count(), shared.read().sum_us, own), (2, 6000, Histogram::default()));
    }
}
