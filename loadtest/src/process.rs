//! What the watched processes use: resident memory, processor time (proc(5), `stat` and `statm`). Zero where there is no `/proc`.

use std::fs;

/// Processor time is counted in hundredths of a second (`USER_HZ`), pages have 4 KiB on every kernel this runs on.
const TICKS_PER_SECOND: f64 = 100.0;
const PAGE_KIB: u64 = 4;

/// Use of several processes together.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Usage {
    /// Resident memory, that of mapped files aside.
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
            let pages: Vec<u64> = memory.split_whitespace().map(|pages| pages.parse().unwrap_or_default()).collect();
            // Those of files (its own program, above all) come and go as the kernel likes, by tens of megabytes.
            if let [_, resident, of_files, ..] = pages[..] {
                all.rss_kib += resident.saturating_sub(of_files) * PAGE_KIB;
            }
        }
        all
    }

    pub(crate) fn since(self, before: Self) -> Self {
        Self { rss_kib: self.rss_kib, user_s: self.user_s - before.user_s, kernel_s: self.kernel_s - before.kernel_s }
    }
}
