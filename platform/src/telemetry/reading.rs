//! All figures of a process at one moment, whoever asks for them.

use std::fmt;

use super::Histogram;

/// Whoever has figures to tell.
pub trait Figures: Send + Sync + 'static {
    /// Tells them, in the same order every time.
    fn read(&self, to: &mut Reading);
}

impl<F: Fn(&mut Reading) + Send + Sync + 'static> Figures for F {
    fn read(&self, to: &mut Reading) {
        self(to);
    }
}

/// Figures by name.
#[derive(Debug, Default)]
pub struct Reading {
    families: Vec<Family>,
}

/// All figures of one name.
#[derive(Debug)]
pub struct Family {
    /// As OpenTelemetry writes it: `carillon.appends`.
    pub name: &'static str,
    /// One sentence.
    pub help: &'static str,
    /// What it counts in.
    pub unit: Unit,
    /// What may be done with it.
    pub kind: Kind,
    /// One for each set of labels.
    pub points: Vec<(Labels, Point)>,
}

/// What sets the figures of one name apart: names as OpenTelemetry writes them, and values.
pub type Labels = Vec<(&'static str, String)>;

/// What may be done with a figure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It only goes up, until the process starts anew.
    Counter,
    /// It goes up and down.
    Gauge,
    /// Durations in buckets.
    Histogram,
}

/// What a figure counts in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Things; the name says which.
    Count,
    /// Seconds.
    Seconds,
    /// Bytes.
    Bytes,
}

/// One figure.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Point {
    /// A whole number.
    Whole(u64),
    /// Any other number.
    Number(f64),
    /// Durations.
    Durations(Histogram),
}

impl Unit {
    /// As UCUM writes it, which OTLP uses.
    pub fn ucum(self) -> &'static str {
        match self {
            Self::Count => "1",
            Self::Seconds => "s",
            Self::Bytes => "By",
        }
    }
}

impl Reading {
    /// All that these tell, by name. What several tell under one name is one family.
    pub fn of<'f>(figures: impl IntoIterator<Item = &'f dyn Figures>) -> Self {
        let mut reading = Self::default();
        for figures in figures {
            figures.read(&mut reading);
        }
        reading.families.sort_by_key(|family| family.name);
        reading
    }

    /// By name.
    pub fn families(&self) -> &[Family] {
        &self.families
    }

    /// A number that only goes up.
    pub fn counter(&mut self, name: &'static str, help: &'static str, value: u64) {
        self.family(name, help, Unit::Count, Kind::Counter).push((Vec::new(), Point::Whole(value)));
    }

    /// Numbers that only go up, set apart by a label.
    pub fn counters<L: fmt::Display>(
        &mut self,
        name: &'static str,
        help: &'static str,
        label: &'static str,
        values: impl IntoIterator<Item = (L, u64)>,
    ) {
        let points = values.into_iter().map(|(by, value)| (vec![(label, by.to_string())], Point::Whole(value)));
        self.family(name, help, Unit::Count, Kind::Counter).extend(points);
    }

    /// A number that goes up and down.
    pub fn gauge(&mut self, name: &'static str, help: &'static str, unit: Unit, value: f64) {
        self.family(name, help, unit, Kind::Gauge).push((Vec::new(), Point::Number(value)));
    }

    /// Numbers that go up and down, set apart by a label.
    pub fn gauges<L: fmt::Display>(
        &mut self,
        name: &'static str,
        help: &'static str,
        label: &'static str,
        values: impl IntoIterator<Item = (L, u64)>,
    ) {
        let points = values.into_iter().map(|(by, value)| (vec![(label, by.to_string())], Point::Whole(value)));
        self.family(name, help, Unit::Count, Kind::Gauge).extend(points);
    }

    /// Durations.
    pub fn durations(&mut self, name: &'static str, help: &'static str, histogram: Histogram) {
        self.family(name, help, Unit::Seconds, Kind::Histogram).push((Vec::new(), Point::Durations(histogram)));
    }

    /// The points of one name; a name has one help, unit and kind, which the first to tell it says.
    pub fn family(&mut self, name: &'static str, help: &'static str, unit: Unit, kind: Kind) -> &mut Vec<(Labels, Point)> {
        let at = self.families.iter().position(|family| family.name == name).unwrap_or_else(|| {
            self.families.push(Family { name, help, unit, kind, points: Vec::new() });
            self.families.len() - 1
        });
        &mut self.families[at].points
    }
}
