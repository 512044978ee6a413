//! What a run found, for people and for programs.

use std::{collections::BTreeMap, fmt};

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::{
    plot::{self, Series},
    process::Usage,
    tally::{MOMENT_NS, Tally},
};

/// What a run found.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// What was run.
    pub scenario: String,
    /// Nothing was lost, doubled, reordered, refused, or different for two members.
    pub ok: bool,
    /// How many promises were broken.
    pub faults: u64,
    /// The first of them, in words.
    pub told: Vec<String>,
    /// Counts and rates, by name; units stand in the names.
    pub figures: BTreeMap<String, f64>,
    /// Times in microseconds, by name.
    pub times: BTreeMap<String, Times>,
    /// Closes by code.
    pub closes: BTreeMap<u16, u64>,
    /// Refused requests by code.
    pub refused: BTreeMap<String, u64>,
    /// Tenths of a second.
    pub timeline: Vec<Tenth>,
    /// Resident memory of the watched processes, KiB, once a second.
    pub rss_kib: Vec<u64>,
}

/// A distribution, microseconds.
#[derive(Debug, Clone, Copy, Default, Serialize)]
#[allow(missing_docs)] // Percentiles.
pub struct Times {
    pub count: u64,
    pub p50: u64,
    pub p90: u64,
    pub p99: u64,
    pub p999: u64,
    pub max: u64,
}

/// A tenth of a second.
#[derive(Debug, Clone, Copy, Default, Serialize)]
#[allow(missing_docs)] // Counts, and the slowest of them in microseconds.
pub struct Tenth {
    pub delivered: u64,
    pub acked: u64,
    pub connects: u64,
    pub closes: u64,
    pub slowest_delivery_us: u64,
    pub slowest_ack_us: u64,
}

impl Times {
    fn of(histogram: &Histogram<u64>) -> Self {
        let at = |quantile| histogram.value_at_quantile(quantile);
        Self { count: histogram.len(), p50: at(0.5), p90: at(0.9), p99: at(0.99), p999: at(0.999), max: histogram.max() }
    }
}

impl Report {
    /// `seconds`: how long the part of the run took that rates are about. `usage`: of the watched processes in it.
    pub(crate) fn new(scenario: &str, tally: Tally, seconds: f64, usage: Usage, rss_kib: Vec<u64>) -> Self {
        let mut figures = BTreeMap::new();
        let mut figure = |name: &str, value: f64| figures.insert(name.to_owned(), value);
        figure("seconds", seconds);
        figure("delivered", tally.delivered as f64);
        figure("delivered_per_s", tally.delivered as f64 / seconds);
        figure("published", tally.published as f64);
        figure("acked", tally.acked as f64);
        figure("acked_per_s", tally.acked as f64 / seconds);
        figure("acked_as_duplicates", tally.duplicates as f64);
        figure("connects", tally.connects as f64);
        figure("failed_connects", tally.failed_connects as f64);
        if usage.rss_kib > 0 {
            figure("rss_kib", usage.rss_kib as f64);
            figure("user_s", usage.user_s);
            figure("kernel_s", usage.kernel_s);
            figure("cpu_us_per_delivery", (usage.user_s + usage.kernel_s) * 1e6 / tally.delivered.max(1) as f64);
        }
        if tally.acked > 0 {
            figure("longest_without_ack_ms", longest_without_ack_ms(&tally));
        }
        let named = [
            ("delivery", &tally.delivery_us[0]),
            ("delivery_during", &tally.delivery_us[1]),
            ("delivery_after", &tally.delivery_us[2]),
            ("ack", &tally.ack_us),
            ("connect", &tally.connect_us),
            ("away", &tally.away_us),
            ("history", &tally.history_us),
        ];
        let times = named.into_iter().filter(|(_, histogram)| !histogram.is_empty());
        Self {
            scenario: scenario.to_owned(),
            ok: tally.faults == 0,
            faults: tally.faults,
            times: times.map(|(name, histogram)| (name.to_owned(), Times::of(histogram))).collect(),
            told: tally.told,
            figures,
            closes: tally.closes,
            refused: tally.refused,
            timeline: tally
                .moments
                .iter()
                .map(|moment| Tenth {
                    delivered: moment.delivered,
                    acked: moment.acked,
                    connects: moment.connects,
                    closes: moment.closes,
                    slowest_delivery_us: moment.slowest_delivery_us,
                    slowest_ack_us: moment.slowest_ack_us,
                })
                .collect(),
            rss_kib,
        }
    }

    /// A page with the figures and plots, complete in itself.
    ///
    /// # Errors
    /// If a plot can't be drawn.
    pub fn to_html(&self) -> anyhow::Result<String> {
        let tenth_s = MOMENT_NS as f64 / 1e9;
        let series = |name: &'static str, value: fn(&Tenth) -> f64| Series {
            name,
            points: self.timeline.iter().enumerate().map(|(index, tenth)| (index as f64 * tenth_s, value(tenth))).collect(),
        };
        let mut plots = Vec::new();
        plots.push(plot::lines(
            "Per second",
            "",
            &[series("delivered", |tenth| tenth.delivered as f64 * 10.0), series("acked", |tenth| tenth.acked as f64 * 10.0)],
        )?);
        plots.push(plot::lines(
            "Slowest in a tenth of a second",
            "ms",
            &[
                series("delivery", |tenth| tenth.slowest_delivery_us as f64 / 1000.0),
                series("ack", |tenth| tenth.slowest_ack_us as f64 / 1000.0),
            ],
        )?);
        plots.push(plot::lines(
            "Connections per second",
            "",
            &[
                series("opened", |tenth| tenth.connects as f64 * 10.0),
                series("closed by the server", |tenth| tenth.closes as f64 * 10.0),
            ],
        )?);
        if !self.rss_kib.is_empty() {
            let points = self.rss_kib.iter().enumerate().map(|(second, kib)| (second as f64, *kib as f64 / 1024.0)).collect();
            plots.push(plot::lines("Resident memory", "MiB", &[Series { name: "watched processes", points }])?);
        }
        Ok(format!(
            "<!doctype html><meta charset=\"utf-8\"><title>{0}</title>\n<style>body{{font:16px system-ui;margin:2em auto;\
             max-width:62em;padding:0 1em}}pre{{background:#8881;padding:1em;overflow:auto}}svg{{max-width:100%;height:auto;\
             background:#fff}}</style>\n<h1>{0}</h1>\n<pre>{self}</pre>\n{1}\n",
            escape(&self.scenario),
            plots.join("\n")
        ))
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

/// From the first ack to the last one, tenths of a second.
fn longest_without_ack_ms(tally: &Tally) -> f64 {
    let acks = || tally.moments.iter().enumerate().filter(|(_, moment)| moment.acked > 0).map(|(index, _)| index);
    let gaps = acks().zip(acks().skip(1)).map(|(one, next)| next - one);
    gaps.max().unwrap_or_default() as f64 * MOMENT_NS as f64 / 1e6
}

impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "{}", self.scenario)?;
        for (name, value) in &self.figures {
            let digits = if value.fract() == 0.0 || *value > 100.0 { 0 } else { 2 };
            writeln!(out, "  {name:<28}{value:>16.digits$}")?;
        }
        if !self.times.is_empty() {
            writeln!(out, "  microseconds               count       p50       p90       p99     p99.9       max")?;
        }
        for (name, times) in &self.times {
            let Times { count, p50, p90, p99, p999, max } = times;
            writeln!(out, "  {name:<24}{count:>8}{p50:>10}{p90:>10}{p99:>10}{p999:>10}{max:>10}")?;
        }
        if !self.closes.is_empty() {
            writeln!(out, "  closes by code: {:?}", self.closes)?;
        }
        if !self.refused.is_empty() {
            writeln!(out, "  refused: {:?}", self.refused)?;
        }
        match self.ok {
            true => write!(out, "  nothing lost, doubled or out of order"),
            false => {
                writeln!(out, "  {} BROKEN PROMISES", self.faults)?;
                write!(out, "  {}", self.told.join("\n  "))
            }
        }
    }
}
