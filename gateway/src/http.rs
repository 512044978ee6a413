//! The public port's HTTP: which request goes to which door, and what is said to one that goes to none.

use std::{
    cell::RefCell,
    convert::Infallible,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use carillon_platform::auth::{TokenVerifier, VerifyError};
use carillon_proto::{claims::Claims, codes::Close};
use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::Incoming,
    header::{self, HeaderValue},
    server::conn::http1,
    service::service_fn,
    upgrade::Parts,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use crate::{
    Gateway, Page,
    config::Config,
    shard::Shard,
    websocket::handshake::{self, Asked, Refused},
};

/// Header lines of a request, all told: a token of the longest kind, twice, and what browsers and proxies add.
const HEAD_BYTES: usize = 32 * 1024;

/// What every request of a shard needs.
pub(crate) struct Door {
    config: Config,
    verifier: Arc<dyn TokenVerifier>,
    pages: &'static [Page],
    shard: Rc<RefCell<Shard>>,
    draining: CancellationToken,
}

impl Door {
    pub(crate) fn new(gateway: &Gateway, shard: Rc<RefCell<Shard>>, draining: CancellationToken) -> Self {
        Self { config: gateway.config.clone(), verifier: gateway.verifier.clone(), pages: gateway.pages, shard, draining }
    }
}

/// Serves a socket until it becomes a connection, or ends.
pub(crate) fn spawn(door: Rc<Door>, stream: TcpStream) {
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new());
    builder.header_read_timeout(Duration::from_millis(door.config.handshake_ms));
    builder.max_buf_size(HEAD_BYTES);
    let draining = door.draining.clone();
    let service = service_fn(move |request| {
        let door = door.clone();
        async move { Ok::<_, Infallible>(answer(&door, request).await) }
    });
    let connection = builder.serve_connection(TokioIo::new(stream), service).with_upgrades();
    tokio::task::spawn_local(async move {
        let mut connection = std::pin::pin!(connection);
        // What goes wrong here goes wrong on the client's side of the socket, and it is told by hyper where it can be.
        tokio::select! {
            _ = connection.as_mut() => {}
            () = draining.cancelled() => {
                connection.as_mut().graceful_shutdown();
                let _ = connection.await;
            }
        }
    });
}

async fn answer(door: &Rc<Door>, request: Request<Incoming>) -> Response<Full<Bytes>> {
    if request.uri().path() == "/ws" {
        return open_websocket(door, request).await;
    }
    let page = door.pages.iter().find(|page| page.path == request.uri().path());
    match (page, request.method()) {
        (Some(page), &Method::GET | &Method::HEAD) => show(page),
        (Some(_), _) => problem(StatusCode::METHOD_NOT_ALLOWED, "bad_request", "this page is only read"),
        (None, _) => problem(StatusCode::NOT_FOUND, "bad_request", "there is nothing here"),
    }
}

async fn open_websocket(door: &Rc<Door>, mut request: Request<Incoming>) -> Response<Full<Bytes>> {
    let came = Instant::now();
    let asked = match handshake::read(&request) {
        Ok(asked) => asked,
        Err(Refused::BadRequest(why)) => return problem(StatusCode::BAD_REQUEST, "bad_request", why),
        Err(Refused::UpgradeRequired) => return upgrade_required(),
    };
    if let Some(origin) = request.headers().get(header::ORIGIN)
        && !origin.to_str().is_ok_and(|origin| door.config.origins.allows(origin))
    {
        return problem(StatusCode::FORBIDDEN, "forbidden", "this origin is not on the allow-list (setting `origins`)");
    }
    let Asked { accept, offers_subprotocol, token, client } = asked;
    let patience = Duration::from_millis(door.config.handshake_ms);
    let verified = tokio::time::timeout(patience, verify(door, token.as_deref())).await.unwrap_or(Err(Close::Unavailable));
    let upgrade = hyper::upgrade::on(&mut request);
    let shard = door.shard.clone();
    tokio::task::spawn_local(async move {
        // A client that is gone before its answer needs none.
        let Ok(upgraded) = upgrade.await else { return };
        let Ok(Parts { io, read_buf, .. }) = upgraded.downcast::<TokioIo<TcpStream>>() else {
            unreachable!("this is the type that was served")
        };
        let mut shard = shard.borrow_mut();
        match verified {
            Ok(claims) => shard.on_connect(io.into_inner(), &read_buf, claims, client, came),
            Err(why) => shard.refuse(io.into_inner(), why),
        }
    });
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    let accept = HeaderValue::from_str(&accept).expect("base64 is a header value");
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    if offers_subprotocol {
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(handshake::SUBPROTOCOL));
    }
    response
}

async fn verify(door: &Door, token: Option<&str>) -> Result<Claims, Close> {
    let token = token.filter(|token| token.len() <= door.config.token_bytes).ok_or(Close::Unauthorized)?;
    door.verifier.verify(token).await.map_err(|error| {
        tracing::debug!(%error, "a token was not accepted");
        match error {
            VerifyError::Refused(_) => Close::Unauthorized,
            VerifyError::Unavailable(_) => Close::Unavailable,
        }
    })
}

fn show(page: &Page) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from_static(page.body)));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(page.content_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    let policy = "default-src 'self'; connect-src 'self' ws: wss:; img-src 'self' data:; frame-ancestors 'none'";
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(policy));
    response
}

fn upgrade_required() -> Response<Full<Bytes>> {
    let mut response = problem(StatusCode::UPGRADE_REQUIRED, "bad_request", "connect with WebSocket version 13");
    let headers = response.headers_mut();
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
    response
}

/// A problem document (RFC 9457) with the code of the contract's table.
fn problem(status: StatusCode, code: &str, detail: &str) -> Response<Full<Bytes>> {
    let body = serde_json::json!({
        "type": "about:blank",
        "title": status.canonical_reason().unwrap_or_default(),
        "status": status.as_u16(),
        "code": code,
        "detail": detail,
    });
    let mut response = Response::new(Full::new(body.to_string().into()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    response
}
