//! A reading as Prometheus' text format 0.0.4. Names are made of OpenTelemetry's as its specification for Prometheus says:
//! `_` for `.`, the unit behind the name, `_total` behind counters.

use std::fmt::{self, Write as _};

use super::{BOUNDS_S, Family, Histogram, Kind, Point, Reading, Unit, reading::Labels};

impl Family {
    /// Its name in Prometheus.
    pub fn prometheus_name(&self) -> String {
        let unit = match self.unit {
            Unit::Count => "",
            Unit::Seconds => "_seconds",
            Unit::Bytes => "_bytes",
        };
        let total = if self.kind == Kind::Counter { "_total" } else { "" };
        format!("{}{unit}{total}", self.name.replace('.', "_"))
    }
}

impl fmt::Display for Reading {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.families().iter().try_for_each(|family| write_family(out, family))
    }
}

fn write_family(out: &mut fmt::Formatter<'_>, family: &Family) -> fmt::Result {
    let name = family.prometheus_name();
    let kind = match family.kind {
        Kind::Counter => "counter",
        Kind::Gauge => "gauge",
        Kind::Histogram => "histogram",
    };
    writeln!(out, "# HELP {name} {}\n# TYPE {name} {kind}", family.help)?;
    for (labels, point) in &family.points {
        match point {
            Point::Whole(value) => writeln!(out, "{name}{} {value}", Braces(labels, None))?,
            Point::Number(value) => writeln!(out, "{name}{} {value}", Braces(labels, None))?,
            Point::Durations(histogram) => write_histogram(out, &name, labels, histogram)?,
        }
    }
    Ok(())
}

fn write_histogram(out: &mut fmt::Formatter<'_>, name: &str, labels: &Labels, histogram: &Histogram) -> fmt::Result {
    let mut count = 0;
    for (bound, more) in BOUNDS_S.iter().zip(histogram.counts) {
        count += more;
        writeln!(out, "{name}_bucket{} {count}", Braces(labels, Some(&bound.to_string())))?;
    }
    let all = histogram.count();
    writeln!(out, "{name}_bucket{} {all}", Braces(labels, Some("+Inf")))?;
    writeln!(out, "{name}_sum{} {}", Braces(labels, None), histogram.sum_us as f64 / 1e6)?;
    writeln!(out, "{name}_count{} {all}", Braces(labels, None))
}

/// Labels, and the bound of a bucket.
struct Braces<'a>(&'a Labels, Option<&'a str>);

impl fmt::Display for Braces<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let labels = self.0.iter().map(|(name, value)| (*name, value.as_str()));
        let mut separator = '{';
        for (name, value) in labels.chain(self.1.map(|bound| ("le", bound))) {
            write!(out, "{separator}{}=\"", name.replace('.', "_"))?;
            for character in value.chars() {
                match character {
                    '\\' | '"' => write!(out, "\\{character}")?,
                    '\n' => out.write_str("\\n")?,
                    other => out.write_char(other)?,
                }
            }
            out.write_char('"')?;
            separator = ',';
        }
        if separator == ',' { out.write_char('}') } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::telemetry::Figures;

    #[test]
    fn text_is_prometheus() {
        let figures: &dyn Figures = &|to: &mut Reading| {
            to.gauge("b.age", "How old.", Unit::Seconds, 1.5);
            to.counters("a.things", "Things.", "by.kind", [("x\"\\\n", 1), ("y", 2)]);
        };
        let text = Reading::of([figures]).to_string();
        let expected = "# HELP a_things_total Things.\n# TYPE a_things_total counter\n\
                        a_things_total{by_kind=\"x\\\"\\\\\\n\"} 1\na_things_total{by_kind=\"y\"} 2\n\
                        # HELP b_age_seconds How old.\n# TYPE b_age_seconds gauge\nb_age_seconds 1.5\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn buckets_add_up() {
        let figures: &dyn Figures = &|to: &mut Reading| {
            let mut histogram = Histogram::default();
            for millis in [1, 3, 20_000] {
                histogram.add(Duration::from_millis(millis));
            }
            to.durations("wait", "Waits.", histogram);
        };
        let text = Reading::of([figures]).to_string();
        for line in [
            "# TYPE wait_seconds histogram",
            "wait_seconds_bucket{le=\"0.0005\"} 0",
            "wait_seconds_bucket{le=\"0.001\"} 1",
            "wait_seconds_bucket{le=\"0.005\"} 2",
            "wait_seconds_bucket{le=\"10\"} 2",
            "wait_seconds_bucket{le=\"+Inf\"} 3",
            "wait_seconds_sum 20.004",
            "wait_seconds_count 3",
        ] {
            assert!(text.contains(&format!("{line}\n")), "{line} not in {text}");
        }
    }

    #[test]
    fn one_name_is_one_family() {
        let figures: &dyn Figures = &|to: &mut Reading| to.counters("a", "A.", "by", [("x", 1)]);
        let more: &dyn Figures = &|to: &mut Reading| to.counters("a", "A.", "by", [("y", 2)]);
        assert_eq!(Reading::of([figures, more]).to_string().matches("# TYPE").count(), 1);
    }
}
