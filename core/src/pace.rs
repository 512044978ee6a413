//! How busy a room is: a count over the last ten seconds or so, in twelve bytes.

/// Rates are over one to two of these.
const WINDOW_MS: u64 = 10_000;

/// How many messages came lately.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Pace {
    window: u32,
    count: u32,
    before: u32,
}

impl Pace {
    /// One came.
    pub(crate) fn add(&mut self, now_ms: u64) {
        self.roll(now_ms);
        self.count = self.count.saturating_add(1);
    }

    fn roll(&mut self, now_ms: u64) {
        let window = (now_ms / WINDOW_MS) as u32;
        if window != self.window {
            self.before = if window == self.window.wrapping_add(1) { self.count } else { 0 };
            (self.window, self.count) = (window, 0);
        }
    }

    /// Messages per second. The window before counts as far as it reaches into the last ten seconds.
    pub(crate) fn per_second(mut self, now_ms: u64) -> f64 {
        self.roll(now_ms);
        let left = (WINDOW_MS - now_ms % WINDOW_MS) as f64 / WINDOW_MS as f64;
        (f64::from(self.before) * left + f64::from(self.count)) * 1000.0 / WINDOW_MS as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pace_follows_what_comes() {
        let mut pace = Pace::default();
        for now_ms in (0..20_000).step_by(100) {
            pace.add(now_ms);
        }
        assert_eq!(pace.per_second(20_000), 10.0);
        assert_eq!(pace.per_second(25_000), 5.0);
        assert_eq!(pace.per_second(30_000), 0.0);
        assert_eq!(pace.per_second(300_000), 0.0);
    }
}
