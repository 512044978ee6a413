//! One thread of a gateway with all that it owns: its connections, its rooms, its end of the links. Inputs (a socket is
//! readable, a batch came, time passed) only change state and note what is to be written; the flusher, which runs after
//! the tasks that are ready now, writes it. So what happens together leaves together, and nothing waits when little happens.

mod seats;
mod views;

use std::{
    cell::RefCell,
    collections::{HashMap, VecDeque},
    io,
    net::TcpListener,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use carillon_core::{
    Now,
    grants::Grants,
    rooms::{Conn, Doors, Publishing, Rooms},
    session::{Act, Pace, Refusal, Scratch, Session},
};
use carillon_platform::{
    auth::{News, Revocations, TokenMark, TokenVerifier, VerifyError},
    bus::{Bus, Subscription},
    shutdown::Shutdown,
    telemetry::{Parent, Span, SpanKind, Tracer},
};
use carillon_proto::{
    claims::Claims,
    codes::{Close, ErrorCode},
    frame::{ClientFrame, Incoming, ServerFrame},
    ids::{ClientId, GatewayId, PartitionId, RoomName, UserId},
    lease::{self, Owner},
    link::{DownBatch, down, down_subject, up_subject},
    sse,
};
use prost::Message as _;
use tokio::{
    sync::broadcast::{self, error::RecvError},
    task::LocalSet,
    time::{sleep, timeout},
};
use tokio_util::task::TaskTracker;

use crate::{
    Gateway,
    config::Config,
    connection::{Connection, Written},
    counters::{Counters, Held, Tally},
    door::{DOORS, Door},
    events::{body::Pulled, retry_ms, stream::EventStream},
    http::{self, Shared, Stranger},
    hub::Hub,
    publishes::Publishes,
    socketio::records::{Forgetting, Records},
    websocket::{
        codec::{self, Decoder, Event, Violation},
        socket::{GOODBYE, NativeSocket, Serving, say_goodbye},
    },
    wheel::{Due, Wheel},
    wire::Wire,
};
pub(crate) use seats::Returning;

/// How often a shard looks at the clock.
const TICK: Duration = Duration::from_millis(50);
/// So often publishes that nobody answers any more are looked for: every ten seconds.
const FORGET_TICKS: u32 = 200;
/// Batches of one owner that are taken before others get their turn.
const BATCHES_PER_TURN: usize = 64;
/// The pause after a failed accept, mostly for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// The pause before another try to subscribe.
const SUBSCRIBE_PAUSE: Duration = Duration::from_millis(500);
/// What is read from a socket at once, beside the rest of a frame.
const READ_BYTES: usize = 16 * 1024;
/// By how much the wall clock must have gone ahead of the other one, since the last look, for all tokens to be looked at again:
/// more than any gentle correction does in the time that the leeway covers.
const CLOCK_STEP_MS: u64 = 1000;
/// How far ahead the end of a token is scheduled.
const EXPIRY_LOOK_MS: u64 = 600_000;
/// A client that is told to leave waits so long at most before it comes back, by chance.
const DRAIN_JITTER_MS: u32 = 1000;

/// Runs a shard on this thread until the drain has let every client go.
pub(crate) fn run(gateway: Gateway, shared: Shared, listener: TcpListener, shutdown: Shutdown) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, serve(gateway, shared, listener, shutdown))
}

async fn serve(gateway: Gateway, shared: Shared, listener: TcpListener, shutdown: Shutdown) -> io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let shard = Shard::new(&gateway, shared.forgetting.clone());
    let id = shard.borrow().id;
    for partition in PartitionId::all() {
        tokio::task::spawn_local(listen_to_owner(shard.clone(), id, partition));
    }
    tokio::task::spawn_local(listen_to_news(shard.clone(), gateway.revocations.news()));
    tokio::task::spawn_local(listen_to_owners(shard.clone()));
    tokio::task::spawn_local(flush_when_due(shard.clone()));
    tokio::task::spawn_local(watch_the_clock(shard.clone()));
    tokio::task::spawn_local(views::answer(shard.clone(), shared.desk.open()));
    let front = Rc::new(http::Front::new(&gateway, shared, shard.clone(), shutdown.token()));
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    // Frames are written when they are complete; waiting for more would only add latency.
                    let _ = stream.set_nodelay(true);
                    http::spawn(front.clone(), stream);
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection can't be accepted");
                    sleep(ACCEPT_PAUSE).await;
                }
            },
            () = shutdown.draining() => break,
        }
    }
    drop(listener);
    let window_ms = if shutdown.failure().is_some() { 0 } else { gateway.config.drain_window_ms };
    shard.borrow_mut().begin_drain(window_ms);
    while !shard.borrow().is_deserted() {
        sleep(TICK).await;
    }
    let goodbyes = shard.borrow().goodbyes.clone();
    goodbyes.close();
    goodbyes.wait().await;
    let _ = timeout(GOODBYE, front.socketio.closed()).await;
    // An answer that was given must also be read.
    let _ = timeout(GOODBYE, front.closed()).await;
    Ok(())
}

async fn listen_to_owner(shard: Rc<RefCell<Shard>>, id: GatewayId, partition: PartitionId) {
    let bus = shard.borrow().bus.clone();
    loop {
        match bus.subscribe(&down_subject(id, partition)).await {
            Ok(subscription) => take_batches(&shard, partition, subscription).await,
            Err(error) => tracing::warn!(%partition, %error, "can't listen to the owner yet"),
        }
        sleep(SUBSCRIBE_PAUSE).await;
    }
}

async fn take_batches(shard: &RefCell<Shard>, partition: PartitionId, mut subscription: Subscription) {
    while let Some(batch) = subscription.next().await {
        let mut shard = shard.borrow_mut();
        shard.on_batch(partition, &batch);
        for _ in 1..BATCHES_PER_TURN {
            match subscription.try_next() {
                Some(batch) => shard.on_batch(partition, &batch),
                None => break,
            }
        }
    }
}

async fn listen_to_news(shard: Rc<RefCell<Shard>>, mut news: broadcast::Receiver<News>) {
    loop {
        let heard = news.recv().await;
        let mut shard = shard.borrow_mut();
        let mut tokens_were_revoked = false;
        // What comes together is looked for together.
        for heard in std::iter::successors(Some(heard), |_| news.try_recv().ok().map(Ok)) {
            match heard {
                Ok(News::Disconnect(user)) => shard.disconnect(&user),
                Ok(News::Revoked) | Err(RecvError::Lagged(_)) => tokens_were_revoked = true,
                Err(RecvError::Closed) => return,
            }
        }
        if tokens_were_revoked {
            shard.close_revoked();
        }
    }
}

/// Hears of new owners, so that their partitions heal at once and not when the silence of the old ones is noticed.
async fn listen_to_owners(shard: Rc<RefCell<Shard>>) {
    let bus = shard.borrow().bus.clone();
    loop {
        match bus.subscribe(lease::OWNERS).await {
            Ok(mut owners) => {
                while let Some(owner) = owners.next().await {
                    shard.borrow_mut().on_owner(&owner);
                }
            }
            Err(error) => tracing::warn!(%error, "can't hear of new owners yet"),
        }
        sleep(SUBSCRIBE_PAUSE).await;
    }
}

async fn flush_when_due(shard: Rc<RefCell<Shard>>) {
    std::future::poll_fn(|cx| {
        let mut shard = shard.borrow_mut();
        shard.flusher = Some(cx.waker().clone());
        if std::mem::take(&mut shard.flush_is_due) {
            shard.flush();
        }
        Poll::<()>::Pending
    })
    .await;
}

async fn watch_the_clock(shard: Rc<RefCell<Shard>>) {
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        shard.borrow_mut().on_tick();
    }
}

/// Who wants to be a connection.
pub(crate) struct Opening {
    /// Of its verified token.
    pub(crate) claims: Claims,
    /// As it calls itself; otherwise it is given a name.
    pub(crate) client: Option<ClientId>,
    /// When it came.
    pub(crate) asked: Instant,
    /// How fast it has spoken, where it was here before by the same transport.
    pub(crate) pace: Option<Pace>,
}

/// A newer token that waits, and the `ref` of its answer.
type Refreshing = (String, Option<Box<str>>);

/// Tokens of one connection that may wait behind the one that is being checked; each is `limits.token_bytes` at most.
const REFRESHES_WAITING: usize = 4;

/// The state of one shard.
pub(crate) struct Shard {
    id: GatewayId,
    config: Config,
    rooms: Rooms,
    hub: Hub,
    wheel: Wheel,
    bus: Arc<dyn Bus>,
    verifier: Arc<dyn TokenVerifier>,
    revocations: Arc<Revocations>,
    /// Tokens that wait to be checked while an earlier one of the same connection is: answers keep their order.
    refreshing: HashMap<Conn, VecDeque<Refreshing>>,
    /// Where each owner listens, made once.
    subjects: Vec<String>,
    start: Instant,
    lives: u32,
    /// Under way.
    requests: usize,
    /// Socket.IO clients, by the number of their transport.
    seats: HashMap<u64, Conn>,
    records: Rc<Records>,
    /// Bytes are read here, whoever's they are.
    scratch: Vec<u8>,
    flusher: Option<Waker>,
    flush_is_due: bool,
    goodbyes: TaskTracker,
    /// For tasks that outlive the input that started them.
    this: std::rc::Weak<RefCell<Shard>>,
    is_draining: bool,
    counters: Arc<Counters>,
    tally: Tally,
    publishes: Publishes,
    tracer: Tracer,
    said_ticks: u32,
    /// The wall clock when the other one began, as far as was last looked at.
    epoch_ms: u64,
}

impl Shard {
    fn new(gateway: &Gateway, forgetting: Forgetting) -> Rc<RefCell<Self>> {
        let id = GatewayId(uuid::Uuid::new_v4().into_bytes());
        let config = gateway.config.clone();
        Rc::new_cyclic(|this| {
            RefCell::new(Self {
                id,
                rooms: Rooms::new(id, config.rooms.clone()),
                hub: Hub::new(id.to_string()[..8].to_owned(), &config),
                wheel: Wheel::default(),
                bus: gateway.bus.clone(),
                verifier: gateway.verifier.clone(),
                revocations: gateway.revocations.clone(),
                refreshing: HashMap::new(),
                subjects: PartitionId::all().map(up_subject).collect(),
                start: Instant::now(),
                lives: 0,
                requests: 0,
                seats: HashMap::new(),
                records: Rc::new(Records::new(gateway.buckets.clone(), config.recovery_s, forgetting)),
                scratch: vec![0; config.frame_bytes + READ_BYTES],
                flusher: None,
                flush_is_due: false,
                goodbyes: TaskTracker::new(),
                this: this.clone(),
                is_draining: false,
                counters: gateway.counters.clone(),
                tally: Tally::default(),
                publishes: Publishes::default(),
                tracer: gateway.tracer.clone(),
                said_ticks: 0,
                epoch_ms: u64::MAX,
                config,
            })
        })
    }

    /// A native client with a verified token. `early`: bytes that came behind its handshake.
    pub(crate) fn on_connect(&mut self, wire: Wire, early: &[u8], opening: Opening) {
        let now = self.now();
        match self.admit(&opening) {
            Err(why) => self.refuse(wire, why, None),
            Ok(user) => {
                let door = Door::Native(NativeSocket::new(wire, early.to_vec(), now.mono_ms));
                let conn = self.open(user, door, opening, now);
                self.wheel.schedule(now.mono_ms + self.config.heartbeat_interval_ms, conn, Due::Heartbeat);
                if let Some(shard) = self.this.upgrade() {
                    tokio::task::spawn_local(Serving { shard, conn });
                }
            }
        }
    }

    /// A client that listens to events. `Err`: there is no room for it, or nobody that it could be.
    pub(crate) fn on_events(&mut self, stream: EventStream, opening: Opening) -> Result<Conn, Close> {
        let user = self.admit(&opening).inspect_err(|why| self.counters.on_close(*why))?;
        let now = self.now();
        let conn = self.open(user, Door::Events(Box::new(stream)), opening, now);
        self.wheel.schedule(now.mono_ms + self.config.sse_heartbeat_ms, conn, Due::Heartbeat);
        Ok(conn)
    }

    /// What a stream of events asked for, once it counts as a connection of its user.
    fn join_all(&mut self, conn: Conn) {
        let now = self.now();
        let Some(connection) = self.hub.get(conn).filter(|connection| !connection.is_closing) else { return };
        let Door::Events(stream) = &connection.door else { return };
        let grants = connection.session.grants();
        let joins: Vec<_> =
            stream.joins().into_iter().filter_map(|(room, options)| Some((grants.join(room)?, options))).collect();
        for (permit, options) in joins {
            self.rooms.join(conn, &permit, options, None, now, &mut self.hub);
        }
    }

    /// The next block for a body that has room for one.
    pub(crate) fn pull(&mut self, conn: Conn, cx: &mut Context<'_>) -> Pulled {
        let Some(connection) = self.hub.get_mut(conn) else { return Pulled::Over };
        match &mut connection.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        let Some((block, is_last)) = self.hub.pull(conn) else { return Pulled::Later };
        if is_last {
            let now = self.now();
            self.rooms.on_drained(conn, now);
            self.want_flush();
        }
        Pulled::Block(block)
    }

    /// Takes a place for one connection more, by whatever door, if there is one: [`Self::open`] has to follow.
    fn admit(&self, opening: &Opening) -> Result<UserId, Close> {
        if self.is_draining {
            return Err(Close::Draining { retry_ms: fastrand::u32(0..=DRAIN_JITTER_MS) });
        }
        let user = UserId::parse(&opening.claims.sub).map_err(|_| Close::Unauthorized)?;
        if !self.counters.take_place(self.config.connections) {
            return Err(Close::OverCapacity);
        }
        Ok(user)
    }

    /// A connection begins: it becomes a member of its personal room, and is closed when that takes too long, or when its
    /// token ends. What else falls due for it is its door's.
    fn open(&mut self, user: UserId, door: Door, opening: Opening, now: Now) -> Conn {
        let Opening { claims, client, asked, pace } = opening;
        self.on_leeway(&claims);
        let mark = TokenMark::of(&claims);
        let grants = Arc::new(Grants::new(user.clone(), claims.grants));
        let personal = grants.personal();
        let expires_at_ms = claims.exp.saturating_mul(1000);
        let client = client.unwrap_or_else(new_client);
        let mut session = Session::new(client, grants, expires_at_ms, &self.config.session, now.mono_ms);
        if let Some(pace) = pace {
            session.go_on_at(pace);
        }
        let is_revoked = self.revocations.covers(user.as_str(), mark);
        self.tally.connections[door.index()] += 1;
        let conn = self.place(session, mark, claims.info.map(|info| info.get().into()), door);
        self.rooms.connect(conn.life, user, personal, now, &mut self.hub);
        let asked_ms = now.mono_ms.saturating_sub(asked.elapsed().as_millis() as u64);
        self.wheel.schedule(asked_ms + self.config.handshake_ms, conn, Due::Welcome);
        self.schedule_expiry(conn, expires_at_ms, now);
        // After it can be found by whoever looks for revoked ones: a revocation comes before this look or after it.
        if is_revoked {
            self.hub.close(conn, Close::Unauthorized);
        }
        self.want_flush();
        conn
    }

    /// All connections of a user have to go.
    fn disconnect(&mut self, user: &str) {
        self.close_where(Close::Forbidden, |of, _| of.as_str() == user);
    }

    /// So have those whose tokens were taken back.
    fn close_revoked(&mut self) {
        let revocations = self.revocations.clone();
        self.close_where(Close::Unauthorized, |user, mark| revocations.covers(user.as_str(), mark));
    }

    fn close_where(&mut self, why: Close, is_meant: impl Fn(&UserId, TokenMark) -> bool) {
        let is_meant = |conn: &Conn| {
            // A request is answered in a moment, and was allowed when it came.
            let connection = self.hub.get(*conn).filter(|connection| !matches!(connection.door, Door::Request(_)));
            connection.is_some_and(|connection| is_meant(connection.session.user(), self.hub.mark(*conn)))
        };
        let meant: Vec<Conn> = self.hub.all().filter(is_meant).collect();
        for conn in meant {
            self.hub.close(conn, why);
        }
        self.want_flush();
    }

    /// Puts a connection where the rooms will look for it.
    fn place(&mut self, session: Session, mark: TokenMark, info: Option<Box<str>>, door: Door) -> Conn {
        self.lives = self.lives.wrapping_add(1);
        let conn = Conn { index: self.rooms.next_index(), life: self.lives };
        let unix_ms = self.now().unix_ms;
        let listens = matches!(door, Door::Events(_));
        self.hub.insert(conn, Box::new(Connection::new(self.lives, session, info, door)), mark, unix_ms);
        if listens {
            // Before anything else, so that a client that gets no further knows when to come back.
            self.hub.push_block(conn, Bytes::new(), sse::retry(self.config.sse_retry_ms).into());
        }
        conn
    }

    /// A request that is answered once, by its own door. `None` if there are too many under way.
    pub(crate) fn on_request(&mut self, claims: Claims, request: http::Request, frame: ClientFrame<'_>) -> Option<Conn> {
        if self.requests >= http::REQUESTS_AT_ONCE {
            return None;
        }
        let now = self.now();
        let user = UserId::parse(&claims.sub).ok()?;
        let mark = TokenMark::of(&claims);
        let grants = Arc::new(Grants::new(user.clone(), claims.grants));
        let expires_at_ms = claims.exp.saturating_mul(1000);
        let session = Session::new(new_client(), grants, expires_at_ms, &self.config.session, now.mono_ms);
        let door = Door::Request(Box::new(request));
        self.tally.frames_in[door.index()] += 1;
        self.tally.connections[door.index()] += 1;
        let conn = self.place(session, mark, None, door);
        self.rooms.request(conn.life, user);
        self.requests += 1;
        let mut scratch = Scratch::default();
        let connection = self.hub.get_mut(conn).expect("placed above");
        let incoming = Ok(Incoming { reference: Some(http::REFERENCE), frame });
        let act = connection.session.on_frame(incoming, &mut scratch, &self.config.session, now.mono_ms);
        self.act(conn, act, now);
        self.want_flush();
        Some(conn)
    }

    /// A client that never becomes a connection: the upgrade is complete, so that it can be told why. A stranger may have to go
    /// before it has heard it.
    pub(crate) fn refuse(&mut self, wire: Wire, why: Close, stranger: Option<Arc<Stranger>>) {
        self.counters.on_close(why);
        let close = codec::close_frame(Some(why.code()), &why.reason());
        let goodbye = say_goodbye(wire, Default::default(), close);
        tokio::task::spawn_local(self.goodbyes.track_future(async move {
            match stranger {
                None => goodbye.await,
                Some(stranger) => tokio::select! {
                    () = goodbye => {}
                    () = stranger.evicted() => {}
                },
            }
        }));
    }

    pub(crate) fn connection(&mut self, conn: Conn) -> Option<&mut Connection> {
        self.hub.get_mut(conn)
    }

    /// A socket has something to read.
    pub(crate) fn read(&mut self, conn: Conn) {
        let now = self.now();
        let Some(socket) = self.hub.native(conn) else { return };
        let mut scratch = std::mem::take(&mut self.scratch);
        let kept = socket.partial.len();
        // A partial frame is shorter than the largest frame, beside which there is always room to read.
        scratch[..kept].copy_from_slice(&socket.partial);
        match socket.wire.try_read(&mut scratch[kept..]) {
            Ok(0) => self.drop_connection(conn),
            Ok(count) => {
                socket.heard_ms = now.mono_ms as u32;
                self.on_bytes(conn, &mut scratch[..kept + count], now);
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(_) => self.drop_connection(conn),
        }
        self.scratch = scratch;
        self.want_flush();
    }

    /// What came behind the handshake; it may be more than the scratch buffer has room for.
    pub(crate) fn read_early(&mut self, conn: Conn) {
        let now = self.now();
        let Some(socket) = self.hub.native(conn) else { return };
        let mut early = std::mem::take(&mut socket.partial);
        self.on_bytes(conn, &mut early, now);
        self.want_flush();
    }

    fn on_bytes(&mut self, conn: Conn, bytes: &mut [u8], now: Now) {
        let Some(socket) = self.hub.native(conn) else { return };
        let mut decoder: Decoder = std::mem::take(&mut socket.decoder);
        let max = self.config.frame_bytes;
        let fed = decoder.feed(bytes, max, |event| self.on_event(conn, event, now));
        match fed {
            Ok(used) => {
                if let Some(socket) = self.hub.native(conn) {
                    socket.decoder = decoder;
                    socket.partial = bytes[used..].to_vec();
                }
            }
            Err(Violation::Protocol) => self.hub.close(conn, Close::WebSocketProtocol),
            Err(Violation::NotUtf8) => self.hub.close(conn, Close::NotUtf8),
            Err(Violation::TooBig) => self.hub.close(conn, Close::TooBig),
        }
    }

    /// False when the connection takes nothing more.
    fn on_event(&mut self, conn: Conn, event: Event<'_>, now: Now) -> bool {
        let Some(connection) = self.hub.get_mut(conn) else { return false };
        match event {
            Event::Text(text) => {
                self.tally.frames_in[connection.door.index()] += 1;
                let mut scratch = Scratch::default();
                let act = connection.session.on_text(text, &mut scratch, &self.config.session, now.mono_ms);
                self.act(conn, act, now);
            }
            Event::Binary(_) => {
                self.tally.frames_in[connection.door.index()] += 1;
                let act = connection.session.on_binary(&self.config.session, now.mono_ms);
                self.act(conn, act, now);
            }
            Event::Ping(payload) => match connection.session.on_ping(&self.config.session, now.mono_ms) {
                Ok(true) => self.hub.push(conn, codec::pong_frame(payload)),
                Ok(false) => {}
                Err(why) => self.hub.close(conn, why),
            },
            Event::Pong => {}
            Event::Close(code) => self.end_native(conn, codec::close_frame(code, "")),
        }
        self.hub.get(conn).is_some_and(|connection| !connection.is_closing)
    }

    fn act(&mut self, conn: Conn, act: Act<'_>, now: Now) {
        let (rooms, hub) = (&mut self.rooms, &mut self.hub);
        match act {
            Act::Join { permit, options, reference } => rooms.join(conn, &permit, options, reference, now, hub),
            Act::Leave { room, reference } => rooms.leave(conn, &room, reference, now, hub),
            Act::Publish { permit, said } => {
                let span = begin_publish(&self.tracer, hub.get(conn), permit.room());
                let traceparent = span.as_ref().map(|span| span.context().to_string()).unwrap_or_default();
                let said = Publishing { traceparent: &traceparent, ..said };
                if let Some(publish) = rooms.publish(conn, &permit, &said, now, hub) {
                    self.publishes.on_sent(publish, Instant::now(), span);
                }
            }
            Act::History { permit, span, limit, reference } => rooms.history(conn, &permit, span, limit, reference, now, hub),
            Act::Presence { permit, reference } => rooms.presence(conn, &permit, reference, now),
            Act::Erase { permit, reference } => rooms.erase(conn, &permit, reference, now),
            Act::Refresh { token, reference } => self.verify_again(conn, token, reference.map(Box::from)),
            Act::Pong { reference } => hub.frame(conn, &ServerFrame::Pong { reference }),
            Act::Refuse(Refusal { code, message, reference, room, retry_after_ms }) => {
                hub.frame(conn, &error(code, &message, reference.as_deref(), room.as_ref(), retry_after_ms));
            }
            Act::Close(why) => hub.close(conn, why),
        }
    }

    /// One token of a connection after the other, since the answers say which one holds.
    fn verify_again(&mut self, conn: Conn, token: &str, reference: Option<Box<str>>) {
        // Before it is kept: what waits is bounded by this length.
        if token.len() > self.config.token_bytes {
            tracing::debug!("a token was longer than limits.token_bytes");
            return self.hub.close(conn, Close::Unauthorized);
        }
        let token = token.to_owned();
        let Some(waiting) = self.refreshing.get_mut(&conn) else {
            self.refreshing.insert(conn, VecDeque::new());
            return self.begin_verify(conn, token, reference);
        };
        if waiting.len() < REFRESHES_WAITING {
            return waiting.push_back((token, reference));
        }
        let refused = error(ErrorCode::Unavailable, "too many tokens wait to be checked", reference.as_deref(), None, Some(1000));
        self.hub.frame(conn, &refused);
    }

    fn begin_verify(&mut self, conn: Conn, token: String, reference: Option<Box<str>>) {
        let (verifier, this) = (self.verifier.clone(), self.this.clone());
        tokio::task::spawn_local(async move {
            let verified = verifier.verify(&token).await;
            if let Some(shard) = this.upgrade() {
                let mut shard = shard.borrow_mut();
                shard.on_verified_again(conn, verified, reference.as_deref());
                match shard.refreshing.get_mut(&conn).and_then(VecDeque::pop_front) {
                    Some((token, reference)) => shard.begin_verify(conn, token, reference),
                    None => drop(shard.refreshing.remove(&conn)),
                }
            }
        });
    }

    fn on_verified_again(&mut self, conn: Conn, verified: Result<Claims, VerifyError>, reference: Option<&str>) {
        let now = self.now();
        self.want_flush();
        if self.hub.get(conn).is_none() {
            return;
        }
        let claims = match verified {
            Ok(claims) => claims,
            Err(VerifyError::Refused(_)) => return self.hub.close(conn, Close::Unauthorized),
            Err(VerifyError::Unavailable(_)) => {
                let message = "the token can't be checked now";
                return self.hub.frame(conn, &error(ErrorCode::Unavailable, message, reference, None, Some(1000)));
            }
        };
        let Ok(user) = UserId::parse(&claims.sub) else { return self.hub.close(conn, Close::Unauthorized) };
        self.on_leeway(&claims);
        let Some(connection) = self.hub.get_mut(conn) else { return };
        let mark = TokenMark::of(&claims);
        let is_revoked = self.revocations.covers(user.as_str(), mark);
        let grants = Arc::new(Grants::new(user, claims.grants));
        let expires_at = claims.exp.saturating_mul(1000);
        if connection.session.on_refreshed(grants.clone(), expires_at).is_err() {
            return self.hub.close(conn, Close::Unauthorized);
        }
        self.hub.set_mark(conn, mark);
        if is_revoked {
            return self.hub.close(conn, Close::Unauthorized);
        }
        self.hub.frame(conn, &ServerFrame::Refreshed { reference, expires_at });
        self.schedule_expiry(conn, expires_at, now);
        let lost: Vec<_> = self.rooms.rooms_of(conn).filter(|room| grants.join((*room).clone()).is_none()).cloned().collect();
        for room in lost {
            self.rooms.expel(conn, &room, now, &mut self.hub);
        }
        let hidden: Vec<_> = self.rooms.rooms_of(conn).filter(|room| grants.watch((*room).clone()).is_none()).cloned().collect();
        for room in hidden {
            self.rooms.unwatch(conn, &room, now);
        }
    }

    /// A wall clock that was set ahead (a machine that slept, an operator) ends tokens sooner than was reckoned with. One that was
    /// set back needs nothing: each token is looked at again when it seems due.
    fn watch_for_steps(&mut self, now: Now) {
        let epoch_ms = now.unix_ms.saturating_sub(now.mono_ms);
        let is_step = epoch_ms > self.epoch_ms.saturating_add(CLOCK_STEP_MS);
        if is_step || epoch_ms < self.epoch_ms {
            self.epoch_ms = epoch_ms;
        }
        if is_step {
            let all: Vec<Conn> = self.hub.all().collect();
            for conn in all {
                self.on_due(conn, Due::Expiry, now);
            }
        }
    }

    /// Whoever verifies tokens says how long after their end they hold: the same for all of them, and a connection ends when its
    /// token does.
    fn on_leeway(&mut self, claims: &Claims) {
        self.config.leeway_ms = claims.leeway_ms.unwrap_or(self.config.leeway_ms);
    }

    fn schedule_expiry(&mut self, conn: Conn, expires_at_ms: u64, now: Now) {
        let left = expires_at_ms.saturating_add(self.config.leeway_ms).saturating_sub(now.unix_ms);
        // The wall clock may be set meanwhile, and a token may outlive its connection by years: looked at again before long.
        let at_ms = now.mono_ms + left.min(EXPIRY_LOOK_MS);
        let Some(connection) = self.hub.get_mut(conn) else { return };
        // One look at a time, at its end or before it, however often a client refreshes.
        connection.look_slot = Some(self.wheel.schedule_one(connection.look_slot, at_ms, conn, Due::Expiry));
    }

    fn on_batch(&mut self, partition: PartitionId, batch: &Bytes) {
        match DownBatch::decode(batch.clone()) {
            Ok(batch) => {
                let now = self.now();
                self.look_at_the_clock(&batch, now);
                let traced = Publishes::on_batch_comes(&self.tracer, &batch);
                let before = self.rooms.counts().deliveries_out;
                self.rooms.on_batch(partition, batch, now, &mut self.hub);
                traced.end(self.rooms.counts().deliveries_out - before);
                self.want_flush();
            }
            Err(error) => tracing::debug!(%partition, %error, "a batch that is none"),
        }
    }

    fn look_at_the_clock(&mut self, batch: &DownBatch, now: Now) {
        let instant = Instant::now();
        for down in &batch.items {
            match &down.item {
                Some(down::Item::Message(message)) if message.offset > 0 => {
                    let took_ms = now.unix_ms.saturating_sub(message.ts);
                    self.tally.delivery_took.add(Duration::from_millis(took_ms));
                }
                _ => {
                    if let Some(took) = self.publishes.on_down(down, instant) {
                        self.tally.publish_took.add(took);
                    }
                }
            }
        }
    }

    fn on_owner(&mut self, owner: &Bytes) {
        let Some(owner) = Owner::decode(owner.clone()).ok().filter(|owner| owner.version == lease::VERSION) else { return };
        if let Some(partition) = PartitionId::all().nth(owner.partition as usize) {
            let now = self.now();
            self.rooms.on_owner(partition, owner.generation, now, &mut self.hub);
            self.want_flush();
        }
    }

    fn on_tick(&mut self) {
        let now = self.now();
        self.hub.on_tick(now.mono_ms);
        self.watch_for_steps(now);
        while let Some(due) = self.wheel.pop(now.mono_ms) {
            for (conn, due) in due {
                self.on_due(conn, due, now);
            }
        }
        self.rooms.on_tick(now, &mut self.hub);
        self.hub.close_slow_seats();
        self.said_ticks += 1;
        if self.said_ticks.is_multiple_of(5) {
            let held = Held {
                rooms: self.rooms.len() as i64,
                outbox_bytes: self.hub.waiting_bytes() as i64,
                outbox_limit_bytes: self.hub.total_bytes() as i64,
            };
            self.counters.add(&mut self.tally, self.hub.counts(), held, self.rooms.counts());
        }
        if self.said_ticks.is_multiple_of(FORGET_TICKS) {
            let oldest = 2 * Duration::from_millis(self.config.rooms.publish_timeout_ms);
            self.publishes.forget_older(oldest, Instant::now());
        }
        self.want_flush();
    }

    fn on_due(&mut self, conn: Conn, due: Due, now: Now) {
        let Some(connection) = self.hub.get_mut(conn) else { return };
        match due {
            Due::Welcome if connection.is_open => {}
            Due::Welcome => self.hub.close(conn, Close::Unavailable),
            Due::Heartbeat => match &mut connection.door {
                Door::Native(_) => self.on_heartbeat(conn, now),
                Door::Events(stream) => {
                    let block = stream.heartbeat();
                    self.hub.push_block(conn, Bytes::new(), block.into());
                    self.wheel.schedule(now.mono_ms + self.config.sse_heartbeat_ms, conn, Due::Heartbeat);
                }
                Door::Request(_) | Door::SocketIo(_) => {}
            },
            Due::Record => self.on_record_due(conn),
            Due::Expiry => {
                // This was it, or a step of the clock comes before it: then it finds nothing to do.
                connection.look_slot = connection.look_slot.filter(|slot| *slot > Wheel::slot_of(now.mono_ms));
                let expires_at_ms = connection.session.expires_at_ms();
                if expires_at_ms.saturating_add(self.config.leeway_ms) <= now.unix_ms {
                    self.hub.close(conn, Close::TokenExpired);
                } else {
                    self.schedule_expiry(conn, expires_at_ms, now);
                }
            }
            Due::Drain => {
                let retry_ms = fastrand::u32(0..=DRAIN_JITTER_MS);
                match connection.door {
                    Door::Native(_) => self.hub.frame(conn, &ServerFrame::Draining { retry_after_ms: retry_ms }),
                    // Told by how it ends.
                    Door::Events(_) => {}
                    // It is answered before long.
                    Door::Request(_) => return,
                    Door::SocketIo(_) => {}
                }
                self.hub.close(conn, Close::Draining { retry_ms });
            }
        }
    }

    /// Pings go out at their interval whatever else comes in; anything that comes in answers one.
    fn on_heartbeat(&mut self, conn: Conn, now: Now) {
        let (interval, timeout) = (self.config.heartbeat_interval_ms, self.config.heartbeat_timeout_ms);
        let Some(socket) = self.hub.native(conn) else { return };
        let now_ms = now.mono_ms as u32;
        let next_ms = match socket.pinged_ms {
            Some(pinged) if socket.heard_ms.wrapping_sub(pinged) > u32::MAX / 2 => {
                let silent = u64::from(now_ms.wrapping_sub(pinged));
                if silent >= timeout {
                    return self.hub.close(conn, Close::HeartbeatTimeout);
                }
                self.hub.push(conn, codec::PING_FRAME);
                interval.min(timeout - silent)
            }
            Some(pinged) if u64::from(now_ms.wrapping_sub(pinged)) < interval => {
                interval - u64::from(now_ms.wrapping_sub(pinged))
            }
            _ => {
                socket.pinged_ms = Some(now_ms);
                // What came in at this very moment does not answer a ping that only goes out now.
                socket.heard_ms = now_ms.wrapping_sub(1);
                self.hub.push(conn, codec::PING_FRAME);
                interval.min(timeout)
            }
        };
        self.wheel.schedule(now.mono_ms + next_ms, conn, Due::Heartbeat);
    }

    /// Writes a connection's outbox to its socket.
    pub(crate) fn write(&mut self, conn: Conn) {
        let Some(written) = self.hub.write(conn) else { return };
        let Some(connection) = self.hub.get_mut(conn) else { return };
        match written {
            Written::All => {
                connection.is_blocked = false;
                let now = self.now();
                self.rooms.on_drained(conn, now);
                self.want_flush();
            }
            Written::Some => {
                if !std::mem::replace(&mut connection.is_blocked, true) {
                    connection.wake();
                }
            }
            Written::Later => {}
            Written::Broken => self.drop_connection(conn),
        }
    }

    /// The client is gone without a word.
    pub(crate) fn drop_connection(&mut self, conn: Conn) {
        self.forget(conn);
    }

    /// Lets a connection go, after what is queued for it. How it is told why is its door's.
    fn end(&mut self, conn: Conn, why: Close) {
        let Some(connection) = self.hub.get(conn) else { return };
        match connection.door {
            Door::Native(_) => self.end_native(conn, codec::close_frame(Some(why.code()), &why.reason())),
            Door::Events(_) => self.end_events(conn, why),
            // Whoever waits for its answer is told that there is none.
            Door::Request(_) => self.drop_connection(conn),
            Door::SocketIo(_) => self.end_seat(conn, why),
        }
    }

    /// What waits is taken by the body, and behind it when to come back. A client that does not take it is cut off.
    fn end_events(&mut self, conn: Conn, why: Close) {
        let Some(Connection { door: Door::Events(stream), mut outbox, .. }) = self.forget(conn).map(|connection| *connection)
        else {
            return;
        };
        let retry = sse::retry(retry_ms(why, self.config.sse_retry_ms));
        outbox.push(Bytes::from(retry).into(), usize::MAX).expect("there is no limit here");
        let EventStream { rest, gone, abort, .. } = *stream;
        *rest.borrow_mut() = outbox;
        tokio::task::spawn_local(self.goodbyes.track_future(async move {
            if timeout(GOODBYE, gone).await.is_ok() {
                return;
            }
            // Over HTTP/2 the body may stay for as long as its client likes, since the socket carries others too.
            drop(std::mem::take(&mut *rest.borrow_mut()));
            if let Some(abort) = abort {
                abort.cancel();
            }
        }));
    }

    fn end_native(&mut self, conn: Conn, close: Bytes) {
        let Some(Connection { door: Door::Native(socket), outbox, .. }) = self.forget(conn).map(|connection| *connection) else {
            return;
        };
        tokio::task::spawn_local(self.goodbyes.track_future(say_goodbye(socket.wire, outbox, close)));
    }

    fn forget(&mut self, conn: Conn) -> Option<Box<Connection>> {
        let connection = self.hub.remove(conn)?;
        connection.wake();
        self.tally.connections[connection.door.index()] -= 1;
        match &connection.door {
            Door::Native(_) | Door::Events(_) => self.counters.leave_place(),
            Door::Request(_) => self.requests -= 1,
            Door::SocketIo(seat) => {
                self.counters.leave_place();
                self.seats.remove(&seat.socket.number());
            }
        }
        self.refreshing.remove(&conn);
        let now = self.now();
        self.rooms.disconnect(conn, now);
        self.want_flush();
        Some(connection)
    }

    fn flush(&mut self) {
        self.settle_seats();
        for conn in self.hub.take_welcomed() {
            self.join_all(conn);
        }
        for (conn, why) in self.hub.take_closing() {
            self.counters.on_close(why);
            if why == Close::SlowConsumer {
                self.hub.drop_unsent(conn);
            }
            self.end(conn, why);
        }
        let now = self.now();
        self.rooms.on_outboxes(self.hub.waiting_bytes(), now);
        while let Some((partition, mut batch)) = self.rooms.poll_batch(now) {
            let subject = &self.subjects[partition.index()];
            Publishes::on_batch_leaves(&self.tracer, &mut batch, subject);
            self.bus.publish(subject, batch.encode_to_vec().into());
        }
        for conn in self.hub.take_dirty() {
            if let Some(connection) = self.hub.get_mut(conn).filter(|connection| connection.is_dirty) {
                connection.is_dirty = false;
                if !connection.is_blocked {
                    self.write(conn);
                }
            }
        }
        if self.hub.keep_total() {
            self.want_flush();
        }
    }

    fn want_flush(&mut self) {
        if !std::mem::replace(&mut self.flush_is_due, true)
            && let Some(flusher) = &self.flusher
        {
            flusher.wake_by_ref();
        }
    }

    /// Every client leaves at a moment of its own within the window.
    fn begin_drain(&mut self, window_ms: u64) {
        self.is_draining = true;
        let now = self.now();
        let mut leaving: Vec<Conn> = self.hub.all().collect();
        fastrand::shuffle(&mut leaving);
        let count = leaving.len().max(1) as u64;
        for (turn, conn) in leaving.into_iter().enumerate() {
            self.wheel.schedule(now.mono_ms + window_ms * turn as u64 / count, conn, Due::Drain);
        }
    }

    fn is_deserted(&self) -> bool {
        self.hub.all().next().is_none()
    }

    /// Which shard it is, to others.
    pub(crate) fn id(&self) -> GatewayId {
        self.id
    }

    /// Where what clients need to come back is kept.
    pub(crate) fn records(&self) -> Rc<Records> {
        self.records.clone()
    }

    fn now(&self) -> Now {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Now { mono_ms: self.start.elapsed().as_millis() as u64, unix_ms: unix.as_millis() as u64 }
    }
}

/// A publish over HTTP is a part of its request, whose trace was decided by whoever asked; any other begins its own.
fn begin_publish(tracer: &Tracer, from: Option<&Connection>, room: &RoomName) -> Option<Span> {
    if !tracer.is_on() {
        return None;
    }
    let door = &from?.door;
    let parent = if let Door::Request(request) = door { request.parent } else { Parent::None };
    let mut span = tracer.begin("publish", SpanKind::Producer, parent)?;
    span.set("messaging.system", "carillon");
    span.set("messaging.operation.type", "send");
    span.set("messaging.destination.name", room.as_str());
    span.set("carillon.door", DOORS[door.index()]);
    Some(span)
}

/// A name for a client that has none.
fn new_client() -> ClientId {
    let made = uuid::Uuid::new_v4().simple().to_string();
    ClientId::parse(&made).expect("32 hexadecimal digits are a client id")
}

fn error<'a>(
    code: ErrorCode,
    message: &'a str,
    reference: Option<&'a str>,
    room: Option<&'a RoomName>,
    retry_after_ms: Option<u32>,
) -> ServerFrame<'a> {
    ServerFrame::Error { code, message, reference, room, retry_after_ms, outcome_unknown: false }
}
