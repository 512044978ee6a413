//! What a process tells of itself: figures and traces. Figures are plain counters where they are counted; a [`Reading`] takes
//! them all at once, and becomes Prometheus text for `/metrics` or OTLP for `otel.endpoint`, so that both say the same.
//! Knows nothing of what is counted.

mod histogram;
mod process;
mod reading;
mod text;

pub use histogram::{BOUNDS_S, Histogram, SharedHistogram};
pub use process::Uptime;
pub use reading::{Family, Figures, Kind, Labels, Point, Reading, Unit};
