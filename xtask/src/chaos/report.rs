//! What the load saw, beside what was done.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::Path;

use anyhow::Result;
use serde_json::Value;

use crate::chaos::faults::{Done, Fault};
use crate::chaos::read;

/// The verdict.
pub(crate) struct Judged {
    acked: u64,
    delivered: u64,
    faults: u64,
    told: Vec<String>,
    kinds: BTreeMap<Fault, Kind>,
    times: Value,
}

/// What a kind of fault cost, at worst.
#[derive(Default)]
struct Kind {
    count: usize,
    /// The longest time without any ack, and the longest that one message waited for its ack.
    without_ack_ms: u64,
    slowest_ack_ms: u64,
    slowest_delivery_ms: u64,
}

/// What is seen so long after a fault is put down to it, unless another one came before.
const AFTERMATH_TENTHS: usize = 150;

pub(crate) fn judge(data: &Path, done: &[Done]) -> Result<Judged> {
    let load: Value = match read(data, "load.json") {
        Ok(text) => serde_json::from_str(&text)?,
        Err(error) => return Err(error.context(read(data, "load.log").unwrap_or_default())),
    };
    let empty = Vec::new();
    let tenths = load["timeline"].as_array().unwrap_or(&empty);
    let number = |tenth: &Value, name: &str| tenth[name].as_u64().unwrap_or_default();
    let mut kinds: BTreeMap<Fault, Kind> = BTreeMap::new();
    for (turn, one) in done.iter().enumerate() {
        let from = (one.at.as_millis() / 100) as usize;
        let next = done.get(turn + 1).map_or(usize::MAX, |next| (next.at.as_millis() / 100) as usize);
        let to = ((one.at + one.lasted).as_millis() as usize / 100 + AFTERMATH_TENTHS).min(next).min(tenths.len());
        let kind = kinds.entry(one.fault).or_default();
        kind.count += 1;
        let mut without = 0;
        for tenth in tenths.get(from..to).unwrap_or_default() {
            without = if number(tenth, "acked") == 0 { without + 100 } else { 0 };
            kind.without_ack_ms = kind.without_ack_ms.max(without);
            kind.slowest_ack_ms = kind.slowest_ack_ms.max(number(tenth, "slowest_ack_us") / 1000);
            kind.slowest_delivery_ms = kind.slowest_delivery_ms.max(number(tenth, "slowest_delivery_us") / 1000);
        }
    }
    let figure = |name: &str| load["figures"][name].as_f64().unwrap_or_default() as u64;
    let told = load["told"].as_array().unwrap_or(&empty).iter().map(|text| text.as_str().unwrap_or_default().to_owned());
    let judged = Judged {
        acked: figure("acked"),
        delivered: figure("delivered"),
        faults: load["faults"].as_u64().unwrap_or(u64::MAX),
        told: told.collect(),
        kinds,
        times: load["times"].clone(),
    };
    fs::write(data.join("report.html"), page(&judged, done, tenths))?;
    Ok(judged)
}

impl Judged {
    pub(crate) fn is_good(&self) -> bool {
        self.faults == 0 && self.acked > 0
    }
}

impl fmt::Display for Judged {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all: usize = self.kinds.values().map(|kind| kind.count).sum();
        writeln!(out, "{} acked, {} delivered, {all} faults done, {} promises broken", self.acked, self.delivered, self.faults)?;
        writeln!(out, "fault             times   longest without acks   slowest ack   slowest delivery (ms)")?;
        for (fault, kind) in &self.kinds {
            let Kind { count, without_ack_ms, slowest_ack_ms, slowest_delivery_ms } = kind;
            let name = fault.name();
            writeln!(out, "{name:<16}{count:>7}{without_ack_ms:>23}{slowest_ack_ms:>14}{slowest_delivery_ms:>19}")?;
        }
        write!(out, "times, µs: {}", self.times)?;
        for told in &self.told {
            write!(out, "\n{told}")?;
        }
        Ok(())
    }
}

const WIDTH: f64 = 1200.0;
const HEIGHT: f64 = 220.0;

fn page(judged: &Judged, done: &[Done], tenths: &[Value]) -> String {
    let value = |name: &'static str, scale: f64| move |tenth: &Value| tenth[name].as_u64().unwrap_or_default() as f64 * scale;
    let plots = [
        ("Acks per second", plot(tenths, done, value("acked", 10.0))),
        ("Slowest ack, ms", plot(tenths, done, value("slowest_ack_us", 0.001))),
        ("Slowest delivery, ms", plot(tenths, done, value("slowest_delivery_us", 0.001))),
        ("Connects per second", plot(tenths, done, value("connects", 10.0))),
    ];
    let list = done.iter().map(|one| {
        format!("{:>8.1} s  {:<16} {} ({:.1} s)\n", one.at.as_secs_f64(), one.fault.name(), one.what, one.lasted.as_secs_f64())
    });
    let plots: String = plots.iter().map(|(title, svg)| format!("<h2>{title}</h2>\n{svg}\n")).collect();
    format!(
        "<!doctype html><meta charset=\"utf-8\"><title>Chaos</title>\n<style>body{{font:16px system-ui;margin:2em}}\
         svg{{max-width:100%;background:#fff;border:1px solid #8888}}pre{{background:#8881;padding:1em;overflow:auto}}</style>\n\
         <h1>Chaos</h1>\n<pre>{}</pre>\n{plots}<h2>What was done</h2>\n<pre>{}</pre>\n",
        judged.to_string().replace('<', "&lt;"),
        list.collect::<String>()
    )
}

/// A line over time; grey marks are faults, on mouse-over with their names.
fn plot(tenths: &[Value], done: &[Done], value: impl Fn(&Value) -> f64) -> String {
    let values: Vec<f64> = tenths.iter().map(value).collect();
    let top = values.iter().copied().fold(1.0, f64::max);
    let x = |tenth: f64| tenth / values.len().max(1) as f64 * WIDTH;
    let line: String = values
        .iter()
        .enumerate()
        .map(|(index, value)| format!("{:.1},{:.1} ", x(index as f64), HEIGHT - value / top * (HEIGHT - 20.0)))
        .collect();
    let marks: String = done
        .iter()
        .map(|one| {
            let (from, to) = (x(one.at.as_secs_f64() * 10.0), x((one.at + one.lasted).as_secs_f64() * 10.0));
            let width = (to - from).max(1.0);
            let name = one.fault.name();
            format!(
                "<rect x=\"{from:.1}\" width=\"{width:.1}\" height=\"{HEIGHT}\" fill=\"#8884\"><title>{name}: {}</title></rect>",
                one.what
            )
        })
        .collect();
    format!(
        "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" width=\"{WIDTH}\" height=\"{HEIGHT}\">{marks}<polyline points=\"{line}\" fill=\"none\" \
         stroke=\"#1f77b4\"/><text x=\"4\" y=\"14\" font-size=\"12\">{top:.0}</text></svg>"
    )
}
