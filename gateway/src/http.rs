//! The public port: HTTP/1.1 and HTTP/2 (RFC 9112, RFC 9113 with prior knowledge), and which request goes to which door.
//! Knows no room: what a request asks of one goes through the shard, like a frame.

mod admin;
mod answers;
mod body;
pub(crate) mod cors;
mod known;
mod others;
mod pages;
mod rates;
pub(crate) mod reply;
mod request;
mod rooms;
mod router;
mod strangers;
mod token;
mod writing;

use std::{
    cell::RefCell,
    convert::Infallible,
    future::Future,
    io,
    pin::{Pin, pin},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use carillon_core::{rate::Rate, session::SessionLimits};
use carillon_platform::{
    auth::{KeptKeys, Revocations, TokenIssuer, TokenRevoker, TokenVerifier},
    bus::Bus,
    telemetry::Tracer,
};
use hyper::{
    Response,
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::TcpStream,
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    Counters, Gateway, Page, Tls,
    config::Config,
    desk::Desk,
    engineio,
    shard::Shard,
    socketio::{door::SocketIoDoor, records::Forgetting},
    upload::Upload,
    wire::Wire,
};
pub(crate) use answers::{Account, Answers};
pub(crate) use known::KnownSockets;
pub(crate) use rates::Rates;
pub(crate) use request::{AT_ONCE as REQUESTS_AT_ONCE, REFERENCE, Request};
pub(crate) use strangers::Stranger;
use strangers::Strangers;
pub(crate) use token::refused as token_refused;
use writing::Writings;

/// Added to a request of HTTP/1.1, whose answer has its socket for itself.
#[derive(Debug, Clone)]
pub(crate) struct Socket {
    /// Cuts it off, whatever is still to be written.
    pub(crate) abort: CancellationToken,
}

/// An answer on its way.
pub(crate) type Reply = Response<reply::Body>;

/// Header lines of a request, all told: a token of the longest kind, twice, and what browsers and proxies add.
const HEAD_BYTES: usize = 32 * 1024;
/// Requests under way on one HTTP/2 connection; more wait at the client.
const STREAMS: u32 = 256;
/// What HTTP/2 keeps of one answer before the client has room for it, bytes.
const STREAM_BYTES: usize = 64 * 1024;
/// How every HTTP/2 connection begins (RFC 9113, section 3.4), as far as no method of HTTP/1.1 does.
const PREFACE: &[u8] = b"PRI";
/// The pause before another look at the first bytes, where fewer than [`PREFACE`] have come.
const PREFACE_PAUSE: Duration = Duration::from_millis(5);

/// What all shards of a gateway share.
#[derive(Clone)]
pub(crate) struct Shared {
    /// How fast users may ask.
    pub(crate) rates: Arc<Rates>,
    /// What they were answered and have not read.
    pub(crate) answers: Arc<Answers>,
    /// Over which sockets they ask.
    pub(crate) known: Arc<KnownSockets>,
    /// The public keys, as the auth service tells them.
    pub(crate) keys: Arc<KeptKeys>,
    /// Socket.IO clients that are leaving for good.
    pub(crate) forgetting: Forgetting,
    /// Who answers an admin.
    pub(crate) desk: Arc<Desk>,
}

/// What every request of a shard needs.
pub(crate) struct Front {
    pub(crate) config: Config,
    pub(crate) shard: Rc<RefCell<Shard>>,
    verifier: Arc<dyn TokenVerifier>,
    issuer: Arc<dyn TokenIssuer>,
    revoker: Arc<dyn TokenRevoker>,
    revocations: Arc<Revocations>,
    bus: Arc<dyn Bus>,
    strangers: Arc<Strangers>,
    counters: Arc<Counters>,
    tracer: Tracer,
    pages: &'static [Page],
    tls: Option<Tls>,
    rates: Arc<Rates>,
    answers: Arc<Answers>,
    known: Arc<KnownSockets>,
    keys: Arc<KeptKeys>,
    desk: Arc<Desk>,
    draining: CancellationToken,
    sockets: TaskTracker,
    pub(crate) socketio: Rc<engineio::Server<SocketIoDoor>>,
}

impl Front {
    pub(crate) fn new(gateway: &Gateway, shared: Shared, shard: Rc<RefCell<Shard>>, draining: CancellationToken) -> Self {
        let socketio = open_socketio(gateway, &shard, shared.answers.clone());
        Self {
            config: gateway.config.clone(),
            shard,
            verifier: gateway.verifier.clone(),
            issuer: gateway.issuer.clone(),
            revoker: gateway.revoker.clone(),
            revocations: gateway.revocations.clone(),
            bus: gateway.bus.clone(),
            strangers: Strangers::new(gateway.config.unauthenticated),
            counters: gateway.counters.clone(),
            tracer: gateway.tracer.clone(),
            pages: gateway.pages,
            tls: gateway.tls.clone(),
            rates: shared.rates,
            answers: shared.answers,
            known: shared.known,
            keys: shared.keys,
            desk: shared.desk,
            draining,
            sockets: TaskTracker::new(),
            socketio,
        }
    }

    /// Waits until every socket that still speaks HTTP has said its last word.
    pub(crate) async fn closed(&self) {
        self.sockets.close();
        self.sockets.wait().await;
    }
}

/// The Socket.IO door, on a transport that finds peers on other shards too.
fn open_socketio(gateway: &Gateway, shard: &Rc<RefCell<Shard>>, answers: Arc<Answers>) -> Rc<engineio::Server<SocketIoDoor>> {
    let config = &gateway.config;
    let (interval_ms, timeout_ms) = (config.socketio_ping_interval_ms, config.socketio_ping_timeout_ms);
    let transport = engineio::Config {
        body_ms: config.handshake_ms,
        ping_interval_ms: interval_ms,
        ping_timeout_ms: timeout_ms,
        max_payload: config.frame_bytes,
        rate: packet_rate(&config.session),
        cors: engineio::Cors::Listed(config.origins.clone()),
    };
    let id = shard.borrow().id();
    let door = SocketIoDoor::new(config, shard.clone(), gateway.verifier.clone(), answers, gateway.counters.clone());
    let elsewhere = engineio::Elsewhere::new(id, gateway.bus.clone(), Duration::from_millis(interval_ms + timeout_ms));
    let server = engineio::Server::new(id, transport, Some(elsewhere.clone()), door);
    tokio::task::spawn_local(server.clone().run());
    tokio::task::spawn_local(elsewhere.run(server.clone()));
    server
}

/// How fast a client's packets may come, whatever is in them. Twice what its frames may: so who speaks too fast hears so
/// of the session, and this is for what no session sees.
fn packet_rate(session: &SessionLimits) -> Rate {
    let both = |frames: u32, joins: u32| frames.saturating_add(joins).saturating_mul(2);
    Rate {
        per_second: both(session.frames.per_second, session.joins.per_second),
        burst: both(session.frames.burst, session.joins.burst),
    }
}

/// Serves a socket until it becomes a connection of another kind, or ends.
pub(crate) fn spawn(front: Rc<Front>, stream: TcpStream) {
    let sockets = front.sockets.clone();
    let (stranger, someone_went) = front.strangers.come();
    if someone_went {
        front.counters.on_stranger_evicted();
    }
    tokio::task::spawn_local(sockets.track_future(async move {
        tokio::select! {
            () = serve(front, stream, stranger.clone()) => {}
            () = stranger.evicted() => {}
        }
    }));
}

async fn serve(front: Rc<Front>, stream: TcpStream, stranger: Arc<Stranger>) {
    let patience = Duration::from_millis(front.config.handshake_ms);
    let begun = tokio::select! {
        begun = timeout(patience, begin(&front, stream)) => begun,
        // Nothing was asked yet, and nothing will be served.
        () = front.draining.cancelled() => return,
    };
    // What goes wrong here goes wrong on the client's side of the socket, and it is told by hyper where it can be.
    match begun {
        Ok(Ok((wire, true))) => serve_http2(front, wire, stranger, patience).await,
        Ok(Ok((wire, false))) => serve_http1(front, wire, stranger, patience).await,
        Ok(Err(error)) => tracing::debug!(%error, "a client broke off before it asked for anything"),
        Err(_) => {}
    }
}

/// What is said before the first request, and whether that one will be HTTP/2.
async fn begin(front: &Front, stream: TcpStream) -> io::Result<(Wire, bool)> {
    match &front.tls {
        Some(tls) => {
            let wire = tls.accept(stream).await?;
            let speaks_http2 = wire.agreed() == Some(b"h2");
            Ok((wire, speaks_http2))
        }
        None => {
            let speaks_http2 = speaks_http2(&stream).await?;
            Ok((stream.into(), speaks_http2))
        }
    }
}

/// Nothing but a good token makes a client known, whatever it is answered: it is seen where tokens are verified, for which the
/// request carries the stranger, and on the Socket.IO client whose id the request names.
async fn answer(front: Rc<Front>, asker: Asker, request: hyper::Request<Incoming>) -> Result<Reply, Infallible> {
    let Asker { stranger, writings } = asker;
    let _under_way = stranger.begin_request();
    let mut request = Upload::of(request);
    request.extensions_mut().insert(stranger.clone());
    let reply = router::answer(&front, request, &stranger).await;
    Ok(reply.map(|body| body.over(&writings)))
}

/// Looks at the first bytes without taking them, so that HTTP/1.1 is served as if nobody had looked.
async fn speaks_http2(stream: &TcpStream) -> io::Result<bool> {
    let mut start = [0; PREFACE.len()];
    loop {
        match stream.peek(&mut start).await? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count if start[..count] != PREFACE[..count] => return Ok(false),
            count if count == PREFACE.len() => return Ok(true),
            _ => sleep(PREFACE_PAUSE).await,
        }
    }
}

/// Whose requests come in on one socket.
#[derive(Clone)]
struct Asker {
    stranger: Arc<Stranger>,
    /// What it is answered.
    writings: Arc<Writings>,
}

async fn serve_http1(front: Rc<Front>, wire: Wire, stranger: Arc<Stranger>, patience: Duration) {
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new());
    builder.header_read_timeout(patience);
    builder.max_buf_size(HEAD_BYTES);
    let asker = Asker { stranger, writings: Arc::default() };
    let socket = Socket { abort: CancellationToken::new() };
    let service = service_fn({
        let (front, asker, socket) = (front.clone(), asker.clone(), socket.clone());
        move |mut request: hyper::Request<_>| {
            request.extensions_mut().insert(socket.clone());
            answer(front.clone(), asker.clone(), request)
        }
    });
    let connection = builder.serve_connection(TokioIo::new(wire), service).with_upgrades();
    tokio::select! {
        () = until_over(&front, &asker, patience, connection, |connection| connection.graceful_shutdown()) => {}
        () = socket.abort.cancelled() => {}
    }
}

async fn serve_http2(front: Rc<Front>, wire: Wire, stranger: Arc<Stranger>, patience: Duration) {
    let mut builder = http2::Builder::new(OnThisThread);
    builder.timer(TokioTimer::new());
    builder.max_header_list_size(HEAD_BYTES as u32);
    builder.max_concurrent_streams(STREAMS);
    builder.max_send_buf_size(STREAM_BYTES);
    // A peer that went without a word is found by pings, as on a WebSocket.
    builder.keep_alive_interval(Duration::from_millis(front.config.heartbeat_interval_ms));
    builder.keep_alive_timeout(Duration::from_millis(front.config.heartbeat_timeout_ms));
    let asker = Asker { stranger, writings: Arc::default() };
    let service = service_fn({
        let (front, asker) = (front.clone(), asker.clone());
        move |request| answer(front.clone(), asker.clone(), request)
    });
    let connection = builder.serve_connection(TokioIo::new(wire), service);
    until_over(&front, &asker, patience, connection, |connection| connection.graceful_shutdown()).await;
}

/// Serves a socket to its end: the client's, or the drain's, or until it has stayed a stranger for too long or is one of too many, which
/// all leave it the time for what is under way. Who takes nothing of an answer gets no such time, and holds nothing up.
async fn until_over<C: Future>(
    front: &Front,
    Asker { stranger, writings }: &Asker,
    patience: Duration,
    connection: C,
    say_goodbye: impl FnOnce(Pin<&mut C>),
) {
    let stall = Duration::from_millis(front.config.answer_stall_ms);
    let mut connection = pin!(connection);
    tokio::select! {
        _ = connection.as_mut() => return,
        () = writings.stalled(stall) => return front.counters.on_answer_stalled(),
        () = front.draining.cancelled() => {}
        () = stranger.one_of_too_many() => {}
        () = stranger.overdue(patience) => {}
    }
    say_goodbye(connection.as_mut());
    tokio::select! {
        _ = connection => {}
        () = writings.stalled(stall) => front.counters.on_answer_stalled(),
        () = stranger.overdue(patience) => {}
        // What is under way has its time; a stream that goes on does not end by itself.
        () = async {
            stranger.one_of_too_many().await;
            sleep(patience).await;
        } => {}
    }
}

/// Runs what hyper spawns beside us: a shard is one thread, and what it owns stays there.
#[derive(Debug, Clone, Copy)]
struct OnThisThread;

impl<F: Future + 'static> hyper::rt::Executor<F> for OnThisThread {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(async move {
            future.await;
        });
    }
}
