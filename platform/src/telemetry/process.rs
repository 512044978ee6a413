//! What the system says of this process: figures of OpenTelemetry's semantic conventions for processes.

use std::{fs, time::Instant};

use super::{Figures, Kind, Point, Reading, Unit};

/// The process since it started to tell of itself.
#[derive(Debug)]
pub struct Uptime(Instant);

impl Default for Uptime {
    fn default() -> Self {
        Self(Instant::now())
    }
}

impl Figures for Uptime {
    fn read(&self, to: &mut Reading) {
        to.gauge("process.uptime", "Time since the process started.", Unit::Seconds, self.0.elapsed().as_secs_f64());
        if let Some(seconds) = cpu_seconds() {
            let points = to.family("process.cpu.time", "Processor time that was used.", Unit::Seconds, Kind::Counter);
            points.push((Vec::new(), Point::Number(seconds)));
        }
        if let Some(bytes) = resident_bytes() {
            to.gauge("process.memory.usage", "Memory in use (resident set).", Unit::Bytes, bytes as f64);
        }
        // One of them is this very look.
        if let Ok(open) = fs::read_dir("/proc/self/fd") {
            to.gauge("process.open_file_descriptor.count", "Open files and sockets.", Unit::Count, open.count() as f64);
        }
    }
}

/// User and system time; 14th and 15th field of proc(5) `stat`, in ticks, of which Linux tells 100 a second on every machine.
fn cpu_seconds() -> Option<f64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let ticks = fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?;
    Some(ticks as f64 / 100.0)
}

fn resident_bytes() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn system_tells_all() {
        let text = Reading::of([&Uptime::default() as &dyn Figures]).to_string();
        for name in ["process_cpu_time_seconds_total", "process_memory_usage_bytes", "process_open_file_descriptor_count"] {
            assert!(text.contains(&format!("\n{name} ")), "{name} not in {text}");
        }
    }
}
