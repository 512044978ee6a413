//! A collector of OTLP over gRPC, which keeps all that it is sent.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use opentelemetry_proto::tonic::{
    collector::{
        metrics::v1::{
            ExportMetricsServiceRequest, ExportMetricsServiceResponse,
            metrics_service_server::{MetricsService, MetricsServiceServer},
        },
        trace::v1::{
            ExportTraceServiceRequest, ExportTraceServiceResponse,
            trace_service_server::{TraceService, TraceServiceServer},
        },
    },
    common::v1::any_value::Value,
    metrics::v1::metric::Data,
    resource::v1::Resource,
};
use tokio::time::{sleep, timeout};
use tonic::{
    Request, Response, Status,
    transport::{Server, server::TcpIncoming},
};

use crate::server::PATIENCE;

/// What it was sent.
#[derive(Clone, Default)]
pub(crate) struct Collector {
    spans: Arc<Mutex<Vec<Span>>>,
    /// Of each service, the names of figures as Prometheus has them.
    figures: Arc<Mutex<BTreeSet<(String, String)>>>,
}

/// A span, as far as tests look.
#[derive(Debug, Clone)]
pub(crate) struct Span {
    pub(crate) service: String,
    pub(crate) instance: String,
    pub(crate) name: String,
    pub(crate) trace: String,
    pub(crate) id: String,
    pub(crate) parent: String,
    pub(crate) nanos: (u64, u64),
}

impl Collector {
    /// Listens until the test ends.
    pub(crate) async fn start() -> (Self, SocketAddr) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let collector = Self::default();
        let server = Server::builder()
            .add_service(TraceServiceServer::new(collector.clone()))
            .add_service(MetricsServiceServer::new(collector.clone()));
        tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
        (collector, address)
    }

    /// The spans of a trace, once there are so many, by their beginning.
    pub(crate) async fn trace(&self, trace: &str, count: usize) -> Vec<Span> {
        self.until(count, |span| span.trace == trace).await
    }

    /// The spans of a name, once there are so many.
    pub(crate) async fn named(&self, name: &str, count: usize) -> Vec<Span> {
        self.until(count, |span| span.name == name).await
    }

    async fn until(&self, count: usize, is_meant: impl Fn(&Span) -> bool) -> Vec<Span> {
        let mut seen = Vec::new();
        let enough = timeout(PATIENCE, async {
            loop {
                seen = self.spans.lock().unwrap().iter().filter(|span| is_meant(span)).cloned().collect();
                if seen.len() >= count {
                    return;
                }
                sleep(std::time::Duration::from_millis(20)).await;
            }
        });
        assert!(enough.await.is_ok(), "{count} spans expected, there are {seen:#?}");
        seen.sort_by_key(|span| span.nanos.0);
        seen
    }

    /// What a service has told, by the names of `/metrics`.
    pub(crate) fn figures(&self, service: &str) -> BTreeSet<String> {
        let figures = self.figures.lock().unwrap();
        figures.iter().filter(|(of, _)| of == service).map(|(_, name)| name.clone()).collect()
    }
}

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(&self, request: Request<ExportTraceServiceRequest>) -> Result<Response<ExportTraceServiceResponse>, Status> {
        for of in request.into_inner().resource_spans {
            let (service, instance) = (attribute(&of.resource, "service.name"), attribute(&of.resource, "service.instance.id"));
            for span in of.scope_spans.into_iter().flat_map(|scope| scope.spans) {
                self.spans.lock().unwrap().push(Span {
                    service: service.clone(),
                    instance: instance.clone(),
                    name: span.name,
                    trace: hex(&span.trace_id),
                    id: hex(&span.span_id),
                    parent: hex(&span.parent_span_id),
                    nanos: (span.start_time_unix_nano, span.end_time_unix_nano),
                });
            }
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

#[tonic::async_trait]
impl MetricsService for Collector {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        for of in request.into_inner().resource_metrics {
            let service = attribute(&of.resource, "service.name");
            for metric in of.scope_metrics.into_iter().flat_map(|scope| scope.metrics) {
                let unit = match metric.unit.as_str() {
                    "s" => "_seconds",
                    "By" => "_bytes",
                    _ => "",
                };
                let total = if matches!(metric.data, Some(Data::Sum(_))) { "_total" } else { "" };
                let name = format!("{}{unit}{total}", metric.name.replace('.', "_"));
                self.figures.lock().unwrap().insert((service.clone(), name));
            }
        }
        Ok(Response::new(ExportMetricsServiceResponse::default()))
    }
}

fn attribute(of: &Option<Resource>, key: &str) -> String {
    let attributes = of.iter().flat_map(|of| &of.attributes);
    let value = attributes.filter(|it| it.key == key).find_map(|it| it.value.as_ref()?.value.clone());
    match value {
        Some(Value::StringValue(text)) => text,
        other => panic!("{key} is {other:?}"),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
