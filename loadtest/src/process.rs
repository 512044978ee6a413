//! What the watched processes use: resident memory, processor time (proc(5), `stat` and `statm`). Zero where there is no `/proc`.

use std::fs;

/// Processor time is counted in hundredths of a second (`USER_HZ`), pages have 4 KiB on every kernel this runs on.
const TICKS_PER_SECOND: f64 = 100.0;
const PAGE_KIB: u64 = 4;

/// Use of several processes together.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Usage {
    pub(crate) rss_kib: u64,
    pub(crate) user_s: f64,
    pub(crate) kernel_s: f64,
}

impl Usage {
    pub(crate) fn of(pids: &[u32]) -> Self {
        let mut all = Self::default();
        for pid in pids {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            // The name in brackets may hold blanks; what follows it does not.
            let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
            let ticks = |index: usize| fields.get(index).and_then(|field| field.parse::<f64>().ok()).unwrap_or_default();
            all.user_s += ticks(11) / TICKS_PER_SECOND;
            all.kernel_s += ticks(12) / TICKS_PER_SECOND;
            let memory = fs::read_to_string(format!("/proc/{pid}/statm")).unwrap_or_default();
            let pages = memory.split_whitespace().nth(1).and_then(|pages| pages.parse::<u64>().ok());
            all.rss_kib += pages.unwrap_or_default() * PAGE_KIB;
        }
        all
    }

    pub(crate) fn since(self, before: Self) -> Self {
        Self { rss_kib: self.rss_kib, user_s: self.user_s - before.user_s, kernel_s: self.kernel_s - before.kernel_s }
    }
}
