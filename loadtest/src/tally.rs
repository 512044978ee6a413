//! What one thread of a load saw. Threads keep theirs apart and add them up at the end; only the few numbers that a progress bar
//! shows are shared.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use hdrhistogram::Histogram;

/// When it was, in nanoseconds since the load began.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock(Instant);

impl Clock {
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }

    /// One that began at this time of the wall clock, nanoseconds since 1970; now, if that is still to come.
    pub(crate) fn since(began_ns: u64) -> Self {
        let now_ns = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos() as u64;
        let ago = Duration::from_nanos(now_ns.saturating_sub(began_ns));
        let now = Instant::now();
        Self(now.checked_sub(ago).unwrap_or(now))
    }

    pub(crate) fn now_ns(self) -> u64 {
        self.0.elapsed().as_nanos() as u64
    }

    pub(crate) fn at(self, ns: u64) -> tokio::time::Instant {
        (self.0 + Duration::from_nanos(ns)).into()
    }
}

/// Shown while it runs.
#[derive(Debug, Default)]
pub(crate) struct Live {
    pub(crate) seated: AtomicU64,
    pub(crate) delivered: AtomicU64,
    pub(crate) acked: AtomicU64,
    pub(crate) faults: AtomicU64,
}

/// One tenth of a second.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Moment {
    pub(crate) delivered: u64,
    pub(crate) acked: u64,
    pub(crate) connects: u64,
    pub(crate) closes: u64,
    /// The longest way from the intended time to a member, microseconds.
    pub(crate) slowest_delivery_us: u64,
    /// The longest way from the intended time to the ack, microseconds.
    pub(crate) slowest_ack_us: u64,
}

/// Nanoseconds of a [`Moment`].
pub(crate) const MOMENT_NS: u64 = 100_000_000;
/// Faults that are told in words; all are counted.
const TOLD_FAULTS: usize = 20;

/// What one thread saw.
#[derive(Debug)]
pub(crate) struct Tally {
    pub(crate) delivered: u64,
    pub(crate) published: u64,
    pub(crate) acked: u64,
    pub(crate) duplicates: u64,
    pub(crate) refused: BTreeMap<String, u64>,
    pub(crate) connects: u64,
    pub(crate) failed_connects: u64,
    pub(crate) closes: BTreeMap<u16, u64>,
    /// From the intended time to a member, by phase of the run.
    pub(crate) delivery_us: [Histogram<u64>; 3],
    pub(crate) ack_us: Histogram<u64>,
    /// From the start of a connection to `connected`.
    pub(crate) connect_us: Histogram<u64>,
    /// From losing a connection to being back in every room, without the wait that the server told or backoff chose.
    pub(crate) away_us: Histogram<u64>,
    pub(crate) history_us: Histogram<u64>,
    pub(crate) moments: Vec<Moment>,
    pub(crate) faults: u64,
    pub(crate) told: Vec<String>,
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 600_000_000, 3).expect("bounds that make sense")
}

impl Default for Tally {
    fn default() -> Self {
        Self {
            delivered: 0,
            published: 0,
            acked: 0,
            duplicates: 0,
            refused: BTreeMap::new(),
            connects: 0,
            failed_connects: 0,
            closes: BTreeMap::new(),
            delivery_us: [histogram(), histogram(), histogram()],
            ack_us: histogram(),
            connect_us: histogram(),
            away_us: histogram(),
            history_us: histogram(),
            moments: Vec::new(),
            faults: 0,
            told: Vec::new(),
        }
    }
}

impl Tally {
    pub(crate) fn moment(&mut self, now_ns: u64) -> &mut Moment {
        let index = (now_ns / MOMENT_NS) as usize;
        if self.moments.len() <= index {
            self.moments.resize(index + 1, Moment::default());
        }
        &mut self.moments[index]
    }

    pub(crate) fn on_close(&mut self, code: u16, now_ns: u64) {
        *self.closes.entry(code).or_default() += 1;
        self.moment(now_ns).closes += 1;
    }

    /// A promise was broken.
    pub(crate) fn fault(&mut self, live: &Live, what: impl FnOnce() -> String) {
        self.faults += 1;
        live.faults.fetch_add(1, Ordering::Relaxed);
        if self.told.len() < TOLD_FAULTS {
            self.told.push(what());
        }
    }

    pub(crate) fn add(&mut self, other: Self) {
        self.delivered += other.delivered;
        self.published += other.published;
        self.acked += other.acked;
        self.duplicates += other.duplicates;
        self.connects += other.connects;
        self.failed_connects += other.failed_connects;
        self.faults += other.faults;
        for (code, count) in other.refused {
            *self.refused.entry(code).or_default() += count;
        }
        for (code, count) in other.closes {
            *self.closes.entry(code).or_default() += count;
        }
        for (mine, others) in self.delivery_us.iter_mut().zip(&other.delivery_us) {
            mine.add(others).expect("the same bounds");
        }
        for (mine, others) in [
            (&mut self.ack_us, &other.ack_us),
            (&mut self.connect_us, &other.connect_us),
            (&mut self.away_us, &other.away_us),
            (&mut self.history_us, &other.history_us),
        ] {
            mine.add(others).expect("the same bounds");
        }
        if self.moments.len() < other.moments.len() {
            self.moments.resize(other.moments.len(), Moment::default());
        }
        for (mine, others) in self.moments.iter_mut().zip(other.moments) {
            mine.delivered += others.delivered;
            mine.acked += others.acked;
            mine.connects += others.connects;
            mine.closes += others.closes;
            mine.slowest_delivery_us = mine.slowest_delivery_us.max(others.slowest_delivery_us);
            mine.slowest_ack_us = mine.slowest_ack_us.max(others.slowest_ack_us);
        }
        let room = TOLD_FAULTS - self.told.len().min(TOLD_FAULTS);
        self.told.extend(other.told.into_iter().take(room));
    }
}
