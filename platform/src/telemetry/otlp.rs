//! Readings and spans as OTLP has them. Counters and histograms are cumulative, from the start of the process.

use std::time::{SystemTime, UNIX_EPOCH};

use opentelemetry_proto::tonic::{
    common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value},
    metrics::v1::{
        AggregationTemporality, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint, Sum, metric::Data,
        number_data_point,
    },
    resource::v1::Resource,
    trace::v1::{Span, Status, span, status::StatusCode},
};

use super::{
    BOUNDS_S, Family, Kind, Labels, Point, Reading, SpanKind,
    span::{Ended, Value},
};
use crate::settings::Program;

/// Bits 0 to 7 of a span's flags are those of W3C: sampled.
const SAMPLED: u32 = 1;

/// Who tells.
pub(super) fn resource(program: Program) -> Resource {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let instance = format!("{}-{}", host.trim(), std::process::id());
    let attributes = vec![
        text("service.name", program.name()),
        text("service.namespace", "carillon"),
        text("service.version", env!("CARGO_PKG_VERSION")),
        text("service.instance.id", &instance),
        text("host.name", host.trim()),
    ];
    Resource { attributes, ..Resource::default() }
}

pub(super) fn scope() -> InstrumentationScope {
    InstrumentationScope { name: "carillon".into(), version: env!("CARGO_PKG_VERSION").into(), ..Default::default() }
}

pub(super) fn span(ended: Ended) -> Span {
    let kind = match ended.kind {
        SpanKind::Server => span::SpanKind::Server,
        SpanKind::Client => span::SpanKind::Client,
        SpanKind::Producer => span::SpanKind::Producer,
        SpanKind::Consumer => span::SpanKind::Consumer,
    };
    Span {
        trace_id: ended.context.trace.to_be_bytes().into(),
        span_id: ended.context.span.to_be_bytes().into(),
        parent_span_id: ended.parent.map(|parent| parent.to_be_bytes().into()).unwrap_or_default(),
        flags: SAMPLED,
        name: ended.name.into(),
        kind: kind.into(),
        start_time_unix_nano: nanos(ended.start),
        end_time_unix_nano: nanos(ended.end),
        attributes: ended.attributes.into_iter().map(attribute).collect(),
        status: ended.error.map(|message| Status { message, code: StatusCode::Error.into() }),
        ..Span::default()
    }
}

pub(super) fn metrics(reading: &Reading, start: SystemTime, now: SystemTime) -> Vec<Metric> {
    reading.families().iter().map(|family| metric(family, nanos(start), nanos(now))).collect()
}

fn metric(family: &Family, start: u64, now: u64) -> Metric {
    let numbers = || family.points.iter().filter_map(|(labels, point)| number(labels, point, start, now)).collect();
    let data = match family.kind {
        Kind::Counter => Data::Sum(Sum {
            data_points: numbers(),
            aggregation_temporality: AggregationTemporality::Cumulative.into(),
            is_monotonic: true,
        }),
        Kind::Gauge => Data::Gauge(Gauge { data_points: numbers() }),
        Kind::Histogram => Data::Histogram(Histogram {
            data_points: family.points.iter().filter_map(|(labels, point)| durations(labels, point, start, now)).collect(),
            aggregation_temporality: AggregationTemporality::Cumulative.into(),
        }),
    };
    Metric {
        name: family.name.into(),
        description: family.help.into(),
        unit: family.unit.ucum().into(),
        data: Some(data),
        ..Metric::default()
    }
}

fn number(labels: &Labels, point: &Point, start: u64, now: u64) -> Option<NumberDataPoint> {
    let value = match point {
        Point::Whole(value) => number_data_point::Value::AsInt(i64::try_from(*value).unwrap_or(i64::MAX)),
        Point::Number(value) => number_data_point::Value::AsDouble(*value),
        Point::Durations(_) => return None,
    };
    let attributes = labels.iter().map(|(name, value)| text(name, value)).collect();
    Some(NumberDataPoint {
        attributes,
        start_time_unix_nano: start,
        time_unix_nano: now,
        value: Some(value),
        ..NumberDataPoint::default()
    })
}

fn durations(labels: &Labels, point: &Point, start: u64, now: u64) -> Option<HistogramDataPoint> {
    let Point::Durations(histogram) = point else { return None };
    Some(HistogramDataPoint {
        attributes: labels.iter().map(|(name, value)| text(name, value)).collect(),
        start_time_unix_nano: start,
        time_unix_nano: now,
        count: histogram.count(),
        sum: Some(histogram.sum_us as f64 / 1e6),
        bucket_counts: histogram.counts.to_vec(),
        explicit_bounds: BOUNDS_S.to_vec(),
        ..HistogramDataPoint::default()
    })
}

fn attribute((key, value): (&'static str, Value)) -> KeyValue {
    match value {
        Value::Text(value) => text(key, &value),
        Value::Whole(value) => key_value(key, any_value::Value::IntValue(value)),
    }
}

fn text(key: &str, value: &str) -> KeyValue {
    key_value(key, any_value::Value::StringValue(value.to_owned()))
}

fn key_value(key: &str, value: any_value::Value) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}

fn nanos(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64)
}
