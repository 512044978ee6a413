//! The admin endpoint, on a port of its own: is this process alive, may it get work, how is it doing. It serves nothing
//! that a client of the product needs.

use std::{
    convert::Infallible,
    fmt, io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::Incoming,
    header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use crate::telemetry::{Figures, Reading, Uptime};

/// Connections at once: a probe and a scraper need one each, people a few; a stuck client must not take them all soon.
const MAX_CONNECTIONS: usize = 64;

/// How long a client may take for its request head, the wait on an idle connection included. Longer than the usual scrape
/// interval of 15 s, so that scrapers keep their connection.
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);

/// The pause after a failed accept, mostly for want of file descriptors: without it the loop would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Whether this process may get work: after the first start is done, and until it drains. NATS being away doesn't
/// count, or all gateways would leave their balancer at once.
#[derive(Clone)]
pub struct Readiness {
    started: Arc<AtomicBool>,
    draining: CancellationToken,
}

impl Readiness {
    /// Not ready yet. `draining` is the token of [`Shutdown`](crate::shutdown::Shutdown).
    pub fn new(draining: CancellationToken) -> Self {
        Self { started: Arc::default(), draining }
    }

    /// The first start is done.
    pub fn set_started(&self) {
        self.started.store(true, Ordering::Release);
    }

    /// Whether `/readyz` says yes.
    pub fn is_ready(&self) -> bool {
        self.state() == "ready"
    }

    fn state(&self) -> &'static str {
        match (self.draining.is_cancelled(), self.started.load(Ordering::Acquire)) {
            (true, _) => "draining",
            (false, false) => "starting",
            (false, true) => "ready",
        }
    }
}

impl Figures for Readiness {
    fn read(&self, to: &mut Reading) {
        let states = ["starting", "ready", "draining"].map(|state| (state, u64::from(self.state() == state)));
        to.gauges("carillon.state", "1 for what the process is doing, 0 for what it is not.", "state", states);
        let version = [(env!("CARGO_PKG_VERSION"), 1)];
        to.gauges("carillon.build", "Always 1; the label tells the version.", "version", version);
    }
}

/// What one request is answered with.
pub type AdminResponse = Response<Full<Bytes>>;

type Route = Box<dyn Fn() -> AdminResponse + Send + Sync>;

/// The endpoint, before it serves.
pub struct Admin {
    readiness: Readiness,
    figures: Vec<Arc<dyn Figures>>,
    routes: Vec<(&'static str, Route)>,
}

impl Admin {
    /// With `/livez`, `/readyz`, and a `/metrics` that tells of them and of the process.
    pub fn new(readiness: Readiness) -> Self {
        let figures: Vec<Arc<dyn Figures>> = vec![Arc::new(readiness.clone()), Arc::new(Uptime::default())];
        Self { readiness, figures, routes: Vec::new() }
    }

    /// Adds to `/metrics`.
    #[must_use]
    pub fn figures(mut self, figures: Arc<dyn Figures>) -> Self {
        self.figures.push(figures);
        self
    }

    /// All that `/metrics` tells, for whoever sends it elsewhere.
    pub fn all_figures(&self) -> Vec<Arc<dyn Figures>> {
        self.figures.clone()
    }

    /// Adds what `GET path` answers.
    pub fn route(mut self, path: &'static str, answer: impl Fn() -> AdminResponse + Send + Sync + 'static) -> Self {
        self.routes.push((path, Box::new(answer)));
        self
    }

    /// Serves until it is dropped, through the drain, too: that is when people look.
    pub async fn serve(self, listener: TcpListener) {
        let admin = Arc::new(self);
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let mut connections = JoinSet::new();
        loop {
            let place = places.clone().acquire_owned().await.expect("the semaphore is never closed");
            match accept(&listener).await {
                Ok(socket) => {
                    let admin = admin.clone();
                    connections.spawn(async move {
                        admin.connection(socket).await;
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "admin: no connection accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
            while connections.try_join_next().is_some() {}
        }
    }

    async fn connection(self: Arc<Self>, socket: TcpStream) {
        let service = service_fn(|request: Request<Incoming>| {
            let response = self.answer(request.method(), request.uri().path());
            async { Ok::<_, Infallible>(response) }
        });
        let served = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .serve_connection(TokioIo::new(socket), service);
        if let Err(error) = served.await {
            tracing::debug!(%error, "admin: connection ended");
        }
    }

    fn answer(&self, method: &Method, path: &str) -> AdminResponse {
        let route = self.routes.iter().find(|(known, _)| *known == path);
        if route.is_none() && !matches!(path, "/livez" | "/readyz" | "/metrics") {
            let known = self.routes.iter().map(|(path, _)| format!(", {path}")).collect::<String>();
            return problem(StatusCode::NOT_FOUND, format!("there are /livez, /readyz, /metrics{known}"));
        }
        if !matches!(*method, Method::GET | Method::HEAD) {
            let mut refusal = problem(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD");
            refusal.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return refusal;
        }
        match (path, route) {
            (_, Some((_, answer))) => answer(),
            ("/readyz", _) if !self.readiness.is_ready() => plain(StatusCode::SERVICE_UNAVAILABLE, self.readiness.state()),
            ("/readyz", _) => plain(StatusCode::OK, "ready"),
            ("/metrics", _) => {
                let text = Reading::of(self.figures.iter().map(|figures| &**figures)).to_string();
                response(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", text)
            }
            _ => plain(StatusCode::OK, "alive"),
        }
    }
}

/// An answer of JSON, for [`Admin::route`].
pub fn json(content_type: &'static str, body: String) -> AdminResponse {
    response(StatusCode::OK, content_type, body)
}

async fn accept(listener: &TcpListener) -> io::Result<TcpStream> {
    listener.accept().await.map(|(socket, _)| socket)
}

fn plain(status: StatusCode, word: &str) -> AdminResponse {
    response(status, "text/plain; charset=utf-8", format!("{word}\n"))
}

/// An error as RFC 9457 has it.
fn problem(status: StatusCode, detail: impl fmt::Display) -> AdminResponse {
    let title = status.canonical_reason().unwrap_or_default();
    let body = serde_json::json!({ "title": title, "status": status.as_u16(), "detail": detail.to_string() });
    response(status, "application/problem+json", body.to_string())
}

fn response(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> AdminResponse {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    struct Running {
        readiness: Readiness,
        draining: CancellationToken,
        address: std::net::SocketAddr,
        server: tokio::task::JoinHandle<()>,
    }

    async fn start() -> Running {
        let draining = CancellationToken::new();
        let readiness = Readiness::new(draining.clone());
        let admin = Admin::new(readiness.clone())
            .figures(Arc::new(|to: &mut Reading| to.counter("a", "A.", 1)))
            .figures(Arc::new(|to: &mut Reading| to.counter("b", "B.", 2)))
            .route("/extra", || plain(StatusCode::OK, "extra"));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        Running { readiness, draining, address, server: tokio::spawn(admin.serve(listener)) }
    }

    impl Running {
        /// Status line, headers and body as they came.
        async fn ask(&self, method: &str, path: &str) -> String {
            let mut socket = TcpStream::connect(self.address).await.unwrap();
            let request = format!("{method} {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
            socket.write_all(request.as_bytes()).await.unwrap();
            let mut answer = String::new();
            socket.read_to_string(&mut answer).await.unwrap();
            answer
        }

        async fn expect(&self, method: &str, path: &str, status: u16, parts: &[&str]) {
            let answer = self.ask(method, path).await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{method} {path}: {answer}");
            for part in parts {
                assert!(answer.contains(part), "{method} {path} without {part:?}: {answer}");
            }
        }
    }

    #[tokio::test]
    async fn readiness_follows_the_process() {
        let running = start().await;
        running.expect("GET", "/livez", 200, &["alive\n"]).await;
        running.expect("GET", "/readyz", 503, &["starting\n"]).await;
        running.expect("GET", "/metrics", 200, &["carillon_state{state=\"starting\"} 1\n"]).await;
        running.readiness.set_started();
        running.expect("GET", "/readyz", 200, &["ready\n"]).await;
        running.draining.cancel();
        running.expect("GET", "/readyz", 503, &["draining\n"]).await;
        let told = ["carillon_state{state=\"ready\"} 0\n", "carillon_state{state=\"draining\"} 1\n"];
        running.expect("GET", "/metrics", 200, &told).await;
        running.expect("GET", "/livez", 200, &[]).await;
    }

    #[tokio::test]
    async fn metrics_are_joined() {
        let running = start().await;
        running
            .expect("GET", "/metrics", 200, &["text/plain; version=0.0.4", "\na_total 1\n# HELP b_total B.\n", "\nb_total 2\n"])
            .await;
        running.expect("GET", "/metrics?x=1", 200, &[]).await;
        let head = running.ask("HEAD", "/metrics").await;
        assert!(head.starts_with("HTTP/1.1 200 ") && head.ends_with("\r\n\r\n"), "{head}");
    }

    #[tokio::test]
    async fn wrong_requests_get_problems() {
        let running = start().await;
        running.expect("GET", "/extra", 200, &["extra\n"]).await;
        running.expect("GET", "/nothing", 404, &["application/problem+json", r#""status":404"#]).await;
        running.expect("POST", "/nothing", 404, &[]).await;
        running.expect("POST", "/metrics", 405, &["application/problem+json", "allow: GET, HEAD"]).await;
        running.expect("DELETE", "/extra", 405, &[]).await;
    }

    #[tokio::test]
    async fn dropping_closes_connections() {
        let running = start().await;
        let mut idle = TcpStream::connect(running.address).await.unwrap();
        idle.write_all(b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        let mut some = [0; 12];
        idle.read_exact(&mut some).await.unwrap();
        running.server.abort();
        let mut rest = Vec::new();
        let _ = idle.read_to_end(&mut rest).await;
        assert!(TcpStream::connect(running.address).await.is_err());
    }
}
