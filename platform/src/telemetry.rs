//! What a process tells of itself: figures and traces. Figures are plain counters where they are counted; a [`Reading`] takes
//! them all at once, and becomes Prometheus text for `/metrics` or OTLP for `otel.endpoint`, so that both say the same. Traces are
//! [`Span`]s of sampled publishes, which go to `otel.endpoint` too. Knows nothing of what is counted and traced.

mod context;
mod export;
mod histogram;
mod otlp;
mod process;
mod reading;
mod span;
mod text;

pub use context::{Context, Parent};
pub use export::Telemetry;
pub use histogram::{BOUNDS_S, Histogram, SharedHistogram};
pub use process::Uptime;
pub use reading::{Family, Figures, Kind, Labels, Point, Reading, Unit};
pub use span::{Current, Span, SpanKind, Tracer, Value, carried, part, within_some};
