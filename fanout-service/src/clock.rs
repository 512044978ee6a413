//! The clock of a process: what the rules are told as the time.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use carillon_core::Now;

/// One for all partitions, since leases and owners compare times.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    start: Instant,
}

impl Clock {
    pub(crate) fn start() -> Self {
        Self { start: Instant::now() }
    }

    pub(crate) fn now(self) -> Now {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
        Now { mono_ms: self.start.elapsed().as_millis() as u64, unix_ms: unix as u64 }
    }
}
