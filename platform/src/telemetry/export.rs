//! Sends figures and spans to `otel.endpoint`, by OTLP over gRPC
//! (<https://opentelemetry.io/docs/specs/otlp/>). What can't be sent is counted and given up: telemetry is never worth memory or
//! waiting that the product needs.

use std::{
    sync::{Arc, OnceLock, atomic::Ordering::Relaxed},
    time::{Duration, SystemTime},
};

use opentelemetry_proto::tonic::{
    collector::{
        metrics::v1::{ExportMetricsServiceRequest, metrics_service_client::MetricsServiceClient},
        trace::v1::{ExportTraceServiceRequest, trace_service_client::TraceServiceClient},
    },
    metrics::v1::{ResourceMetrics, ScopeMetrics},
    resource::v1::Resource,
    trace::v1::{ResourceSpans, ScopeSpans},
};
use tokio::{
    sync::{mpsc, oneshot},
    time::{MissedTickBehavior, interval, timeout},
};
use tonic::transport::{Channel, ClientTlsConfig, Endpoint};

use super::{
    Figures, Reading, Tracer, otlp,
    span::{Ended, SpanCounts},
};
use crate::settings::{Otel, Program, Url};

/// How often figures are sent.
const FIGURES_EVERY: Duration = Duration::from_secs(10);
/// How long a span waits for others to go with.
const SPANS_EVERY: Duration = Duration::from_secs(1);
/// Spans in one message: below 1 MB, as collectors take 4 MB by default.
const SPANS_AT_ONCE: usize = 2048;
/// How long one message may take.
const SEND_TIMEOUT: Duration = Duration::from_secs(3);
/// How long the end of a process waits for the last ones.
const FLUSH_PATIENCE: Duration = Duration::from_secs(2);

/// What a process tells others of itself, beside its admin port.
pub struct Telemetry {
    /// Begins spans.
    pub tracer: Tracer,
    counts: Arc<SpanCounts>,
    figures: Arc<OnceLock<Vec<Arc<dyn Figures>>>>,
    end: Option<mpsc::Sender<oneshot::Sender<()>>>,
}

impl Telemetry {
    /// Starts to send to `otel.endpoint`, in the background; does nothing without one. Call it within the runtime.
    ///
    /// # Errors
    /// If the address can't be used.
    pub fn start(otel: &Otel, program: Program) -> Result<Self, String> {
        let (counts, figures) = (Arc::<SpanCounts>::default(), Arc::default());
        let Some(endpoint) = &otel.endpoint else {
            return Ok(Self { tracer: Tracer::default(), counts, figures, end: None });
        };
        let channel = channel(endpoint).map_err(|error| format!("otel.endpoint {endpoint}: {error}"))?;
        let (tracer, spans) = Tracer::new(otel.sample, counts.clone());
        let (end, ends) = mpsc::channel(1);
        let exporter = Exporter {
            spans,
            ends,
            figures: Arc::clone(&figures),
            counts: counts.clone(),
            resource: otlp::resource(program),
            start: SystemTime::now(),
            traces: TraceServiceClient::new(channel.clone()),
            metrics: MetricsServiceClient::new(channel),
            is_away: false,
        };
        tokio::spawn(exporter.run());
        Ok(Self { tracer, counts, figures, end: Some(end) })
    }

    /// Figures of this very thing.
    pub fn figures(&self) -> Arc<dyn Figures> {
        self.counts.clone()
    }

    /// These are sent from now on; the first call counts.
    pub fn tell(&self, figures: Vec<Arc<dyn Figures>>) {
        let _ = self.figures.set(figures);
    }

    /// Sends what is left, for a moment.
    pub async fn flush(&self) {
        let Some(end) = &self.end else { return };
        let (done, waits) = oneshot::channel();
        if end.send(done).await.is_ok() {
            let _ = timeout(FLUSH_PATIENCE, waits).await;
        }
    }
}

fn channel(endpoint: &Url) -> Result<Channel, tonic::transport::Error> {
    let mut channel = Endpoint::from_shared(endpoint.as_str().to_owned())?.connect_timeout(SEND_TIMEOUT).timeout(SEND_TIMEOUT);
    if endpoint.as_str().starts_with("https://") {
        channel = channel.tls_config(ClientTlsConfig::new().with_native_roots())?;
    }
    Ok(channel.connect_lazy())
}

struct Exporter {
    spans: mpsc::Receiver<Ended>,
    ends: mpsc::Receiver<oneshot::Sender<()>>,
    figures: Arc<OnceLock<Vec<Arc<dyn Figures>>>>,
    counts: Arc<SpanCounts>,
    resource: Resource,
    start: SystemTime,
    traces: TraceServiceClient<Channel>,
    metrics: MetricsServiceClient<Channel>,
    is_away: bool,
}

impl Exporter {
    async fn run(mut self) {
        let (mut figures_due, mut spans_due) = (interval(FIGURES_EVERY), interval(SPANS_EVERY));
        figures_due.set_missed_tick_behavior(MissedTickBehavior::Delay);
        spans_due.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = figures_due.tick() => self.send_figures().await,
                _ = spans_due.tick() => self.send_spans().await,
                ended = self.ends.recv() => {
                    self.send_spans().await;
                    self.send_figures().await;
                    if let Some(done) = ended {
                        let _ = done.send(());
                    }
                    return;
                }
            }
        }
    }

    async fn send_spans(&mut self) {
        loop {
            let mut spans = Vec::new();
            while spans.len() < SPANS_AT_ONCE {
                match self.spans.try_recv() {
                    Ok(ended) => spans.push(otlp::span(ended)),
                    Err(_) => break,
                }
            }
            let count = spans.len();
            if count == 0 {
                return;
            }
            let scope_spans = vec![ScopeSpans { scope: Some(otlp::scope()), spans, ..ScopeSpans::default() }];
            let resource_spans =
                vec![ResourceSpans { resource: Some(self.resource.clone()), scope_spans, ..ResourceSpans::default() }];
            let sent = self.traces.export(ExportTraceServiceRequest { resource_spans }).await.map(drop);
            let counter = if sent.is_ok() { &self.counts.sent } else { &self.counts.dropped };
            counter.fetch_add(count as u64, Relaxed);
            self.on_sent(sent);
        }
    }

    async fn send_figures(&mut self) {
        let Some(figures) = self.figures.get() else { return };
        let reading = Reading::of(figures.iter().map(|figures| &**figures));
        let metrics = otlp::metrics(&reading, self.start, SystemTime::now());
        let scope_metrics = vec![ScopeMetrics { scope: Some(otlp::scope()), metrics, ..ScopeMetrics::default() }];
        let resource_metrics =
            vec![ResourceMetrics { resource: Some(self.resource.clone()), scope_metrics, ..ResourceMetrics::default() }];
        let sent = self.metrics.export(ExportMetricsServiceRequest { resource_metrics }).await.map(drop);
        self.on_sent(sent);
    }

    /// One line when nobody takes it any more and one when somebody does again.
    fn on_sent(&mut self, sent: Result<(), tonic::Status>) {
        self.counts.failed_exports.fetch_add(u64::from(sent.is_err()), Relaxed);
        match (std::mem::replace(&mut self.is_away, sent.is_err()), sent) {
            (false, Err(status)) => tracing::warn!(%status, "otel.endpoint takes nothing; what can't be sent is given up"),
            (true, Ok(())) => tracing::info!("otel.endpoint takes telemetry again"),
            _ => {}
        }
    }
}
