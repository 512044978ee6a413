//! The peers of one thread. A request for packets is a future that looks again whenever its peer changed, so what is said in one turn
//! leaves in one answer. Requests themselves are read in `requests`, what other shards ask for is in `steps`.

mod requests;
mod steps;

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, HashMap, VecDeque},
    rc::{Rc, Weak},
    task::{Context, Waker},
    time::{Duration, Instant},
};

use bytes::Bytes;
use carillon_core::rate::{Bucket, Excess, Rate};
use carillon_platform::settings::Origins;
use carillon_proto::{codes::Close, ids::GatewayId};
use tokio::sync::Notify;
use tokio_util::task::TaskTracker;

use super::{
    elsewhere::Elsewhere,
    packet::{Outgoing, Part, parse_payload},
    peer::{Over, Peer, Polled, Times},
    request::{Refused, Sid},
};

/// How long the clock is not looked at while nothing is due.
const IDLE: Duration = Duration::from_secs(60);
/// What a WebSocket that probes may take to take over: the reference server's time.
pub(super) const UPGRADE_MS: u64 = 10_000;
/// See [`Times::goodbye_ms`].
const GOODBYE_MS: u64 = 5_000;

/// What speaks over Engine.IO. Called outside of any borrow of the server's, so everything may be called back.
pub trait Application: 'static {
    /// Whether there is room for one more client.
    fn admits(&self) -> bool {
        true
    }

    /// Whether this client may be given more of what waits for it, here or on another shard: what it was given before may be unread.
    fn may_poll(&self, _sid: Sid) -> bool {
        true
    }

    /// Whether this client has shown who it is.
    fn is_known(&self, _socket: &Socket) -> bool {
        false
    }

    /// A client came; its handshake is queued.
    fn on_open(&self, socket: &Socket);

    /// It said something.
    fn on_text(&self, socket: &Socket, text: &str);

    /// It said something in binary.
    fn on_binary(&self, socket: &Socket, bytes: &[u8]);

    /// All that waited is with the client's kernel, or on its way there in an answer.
    fn on_drained(&self, _socket: &Socket) {}

    /// It is over, by whatever end, [`Socket::close`] included: said once, soon after.
    fn on_close(&self, socket: &Socket, why: Over);
}

/// Which pages may connect.
#[derive(Debug, Clone)]
pub enum Cors {
    /// Any page, without credentials.
    Any,
    /// These, with credentials; others are refused.
    Listed(Origins),
}

/// Limits and times.
#[derive(Debug, Clone)]
#[allow(missing_docs)] // Named as the settings are.
pub struct Config {
    pub ping_interval_ms: u64,
    pub ping_timeout_ms: u64,
    /// How long the body of a POST may take.
    pub body_ms: u64,
    /// The largest body of a POST, and the largest message on a WebSocket.
    pub max_payload: usize,
    /// How fast packets may come, whatever they are. Who is faster for [`EXCESS_MS`](carillon_core::rate::EXCESS_MS) is let go.
    pub rate: Rate,
    pub cors: Cors,
}

/// A POST that another shard reads: which shard, and the number of its question.
pub(super) type Poster = (GatewayId, u64);

/// A client's connection. Cheap to clone; only of use on its own thread.
#[derive(Clone)]
pub struct Socket(Rc<Inner>);

struct Inner {
    sid: Sid,
    number: u64,
    start: Instant,
    peer: RefCell<Peer>,
    /// Bytes that left the peer and wait for the WebSocket.
    unwritten: Cell<usize>,
    /// The close frame's code and reason, where the server gave one.
    farewell: RefCell<Option<(u16, String)>>,
    polled: Notify,
    carried: Notify,
    /// Of the task of its WebSocket, or of the one that probes, where that is here.
    line: RefCell<Option<Waker>>,
    is_told: Cell<bool>,
    /// Whose POST is being read by another shard.
    poster: Cell<Option<Poster>>,
    ended: Rc<Ended>,
    scheduled_ms: Cell<u64>,
    pace: Cell<Pace>,
}

/// How fast its packets came so far.
#[derive(Debug, Clone, Copy)]
struct Pace {
    bucket: Bucket,
    excess: Excess,
}

impl Socket {
    /// Its place among all sockets of this thread, ever.
    pub fn number(&self) -> u64 {
        self.0.number
    }

    /// Its id.
    pub fn sid(&self) -> Sid {
        self.0.sid
    }

    /// Queues a text message; it starts with its packet type, `4`.
    pub fn send(&self, body: Bytes, tail: Bytes) {
        self.push(Outgoing::Text(body, tail));
    }

    /// Queues a binary message.
    pub fn send_binary(&self, bytes: Bytes) {
        self.push(Outgoing::Binary(bytes));
    }

    fn push(&self, packet: Outgoing) {
        self.0.peer.borrow_mut().push(packet);
        self.changed();
    }

    /// Bytes that wait for the client.
    pub fn waiting_bytes(&self) -> usize {
        self.0.peer.borrow().queued_bytes() + self.0.unwritten.get()
    }

    /// Gives up what no transport has taken yet.
    pub fn drop_unsent(&self) {
        self.0.peer.borrow_mut().drop_unsent();
    }

    /// Ends the transport after what is queued. A WebSocket is closed with this code and reason.
    pub fn close(&self, why: Option<(u16, String)>) {
        if self.is_over() {
            return;
        }
        *self.0.farewell.borrow_mut() = why;
        let now_ms = self.now_ms();
        self.0.peer.borrow_mut().end(Over::ByServer, now_ms);
        self.changed();
        self.0.ended.sockets.borrow_mut().push(self.clone());
        self.0.ended.notify.notify_one();
    }

    /// Whether it is over.
    pub fn is_over(&self) -> bool {
        self.0.peer.borrow().over().is_some()
    }

    pub(super) fn peer(&self) -> &RefCell<Peer> {
        &self.0.peer
    }

    pub(super) fn farewell(&self) -> Option<(u16, String)> {
        self.0.farewell.borrow_mut().take()
    }

    pub(super) fn set_unwritten(&self, bytes: usize) {
        self.0.unwritten.set(bytes);
    }

    /// Wakes this task when there may be something for the WebSocket, until [`Self::wake_no_more`].
    pub(super) fn wake_on_change(&self, cx: &Context<'_>) {
        match &mut *self.0.line.borrow_mut() {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
    }

    pub(super) fn wake_no_more(&self) {
        self.0.line.take();
    }

    /// Wakes up when there may be something for the WebSocket that another shard carries.
    pub(super) async fn carried(&self) {
        self.0.carried.notified().await;
    }

    pub(super) fn now_ms(&self) -> u64 {
        self.0.start.elapsed().as_millis() as u64
    }

    fn changed(&self) {
        self.0.polled.notify_one();
        match &*self.0.line.borrow() {
            Some(waker) => waker.wake_by_ref(),
            None => self.0.carried.notify_one(),
        }
    }
}

/// Sockets that were closed from within: what follows is done outside of whoever closed them.
#[derive(Default)]
struct Ended {
    sockets: RefCell<Vec<Socket>>,
    /// Also when something is due sooner than was thought.
    notify: Notify,
}

/// All peers of a thread.
pub struct Server<A> {
    app: A,
    config: Config,
    owner: GatewayId,
    elsewhere: Option<Rc<Elsewhere>>,
    start: Instant,
    numbers: Cell<u64>,
    sockets: RefCell<HashMap<Sid, Socket>>,
    /// When a socket is due next; an entry that is not the socket's newest one is stale.
    due: RefCell<BTreeMap<u64, Vec<Weak<Inner>>>>,
    ended: Rc<Ended>,
    /// POSTs that other shards read in vain; some may never come.
    refused_posts: RefCell<VecDeque<(Poster, Refused)>>,
    tasks: TaskTracker,
}

/// Refused POSTs of other shards that are remembered.
const REFUSED_POSTS: usize = 256;

impl<A: Application> Server<A> {
    /// Without any peer. Call [`Self::run`] beside it, and [`Elsewhere::run`] where peers may be elsewhere.
    pub fn new(owner: GatewayId, config: Config, elsewhere: Option<Rc<Elsewhere>>, app: A) -> Rc<Self> {
        Rc::new(Self {
            app,
            config,
            owner,
            elsewhere,
            start: Instant::now(),
            numbers: Cell::new(0),
            sockets: RefCell::default(),
            due: RefCell::default(),
            ended: Rc::default(),
            refused_posts: RefCell::default(),
            tasks: TaskTracker::new(),
        })
    }

    /// What speaks over it.
    pub fn app(&self) -> &A {
        &self.app
    }

    pub(super) fn config(&self) -> &Config {
        &self.config
    }

    /// Sockets that are here.
    pub fn len(&self) -> usize {
        self.sockets.borrow().len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.sockets.borrow().is_empty()
    }

    /// Looks at the clock, for ever.
    pub async fn run(self: Rc<Self>) {
        loop {
            let next_ms = self.due.borrow().first_key_value().map(|(at_ms, _)| *at_ms);
            let wait = next_ms.map_or(IDLE, |at_ms| Duration::from_millis(at_ms.saturating_sub(self.now_ms())));
            tokio::select! {
                () = tokio::time::sleep(wait) => self.on_time_passed(),
                () = self.ended.notify.notified() => {
                    let ended = std::mem::take(&mut *self.ended.sockets.borrow_mut());
                    ended.iter().for_each(|socket| self.settle(socket));
                }
            }
        }
    }

    /// Waits until every WebSocket has said its last word.
    pub async fn closed(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }

    fn on_time_passed(&self) {
        let now_ms = self.now_ms();
        loop {
            let due = {
                let mut due = self.due.borrow_mut();
                match due.first_key_value() {
                    Some((at_ms, _)) if *at_ms <= now_ms => due.pop_first(),
                    _ => None,
                }
            };
            let Some((at_ms, sockets)) = due else { return };
            for socket in sockets.iter().filter_map(Weak::upgrade).map(Socket) {
                if socket.0.scheduled_ms.get() == at_ms {
                    socket.0.scheduled_ms.set(u64::MAX);
                    self.on_time(&socket);
                }
            }
        }
    }

    fn on_time(&self, socket: &Socket) {
        let now_ms = self.now_ms();
        socket.peer().borrow_mut().on_time(now_ms);
        self.settle(socket);
    }

    /// What follows from an input: requests look again, the application learns of an end, the clock of what is due next.
    pub(super) fn settle(&self, socket: &Socket) {
        socket.changed();
        let (over, is_forgotten) = {
            let peer = socket.peer().borrow();
            (peer.over(), peer.is_forgotten(self.now_ms()))
        };
        if let Some(why) = over
            && !socket.0.is_told.replace(true)
        {
            self.app.on_close(socket, why);
        }
        if is_forgotten {
            self.sockets.borrow_mut().remove(&socket.sid());
            return;
        }
        let next_ms = socket.peer().borrow().next_ms();
        // Never at once: a tick would find it again and again.
        self.schedule(socket, next_ms.max(self.now_ms() + 1));
    }

    fn schedule(&self, socket: &Socket, at_ms: u64) {
        if at_ms < socket.0.scheduled_ms.get() || at_ms != u64::MAX && socket.0.scheduled_ms.get() == u64::MAX {
            socket.0.scheduled_ms.set(at_ms);
            let mut due = self.due.borrow_mut();
            if due.first_key_value().is_none_or(|(first_ms, _)| at_ms < *first_ms) {
                self.ended.notify.notify_one();
            }
            due.entry(at_ms).or_default().push(Rc::downgrade(&socket.0));
        }
    }

    fn now_ms(&self) -> u64 {
        self.start.elapsed().as_millis() as u64
    }

    pub(super) fn open(&self, is_on_websocket: bool) -> Socket {
        let Config { ping_interval_ms, ping_timeout_ms, max_payload, .. } = self.config;
        let times = Times { ping_interval_ms, ping_timeout_ms, upgrade_ms: UPGRADE_MS, goodbye_ms: GOODBYE_MS };
        let sid = Sid::new(self.owner);
        self.numbers.set(self.numbers.get() + 1);
        let socket = Socket(Rc::new(Inner {
            sid,
            number: self.numbers.get(),
            start: self.start,
            peer: RefCell::new(Peer::new(times, is_on_websocket, self.now_ms())),
            unwritten: Cell::new(0),
            farewell: RefCell::new(None),
            polled: Notify::new(),
            carried: Notify::new(),
            line: RefCell::new(None),
            is_told: Cell::new(false),
            poster: Cell::new(None),
            ended: self.ended.clone(),
            scheduled_ms: Cell::new(u64::MAX),
            pace: Cell::new(Pace { bucket: Bucket::full(self.config.rate, self.now_ms()), excess: Excess::default() }),
        }));
        let upgrades = if is_on_websocket { "" } else { "\"websocket\"" };
        let handshake = format!(
            r#"0{{"sid":"{sid}","upgrades":[{upgrades}],"pingInterval":{ping_interval_ms},"pingTimeout":{ping_timeout_ms},"maxPayload":{max_payload}}}"#
        );
        socket.send(handshake.into(), Bytes::new());
        self.sockets.borrow_mut().insert(sid, socket.clone());
        self.app.on_open(&socket);
        self.settle(&socket);
        socket
    }

    /// A packet came, of whatever kind. Most cost an answer, or nothing; but not for ever.
    pub(super) fn count(&self, socket: &Socket) {
        let (now_ms, mut pace) = (self.now_ms(), socket.0.pace.get());
        let is_flood = pace.bucket.take(self.config.rate, now_ms).is_err() && pace.excess.on_refused(now_ms);
        socket.0.pace.set(pace);
        if is_flood {
            socket.close(Some((Close::RateLimited.code(), Close::RateLimited.reason().into_owned())));
        }
    }

    /// The socket of this id, as it is now: what was due for it has happened.
    pub(super) fn find(&self, sid: Sid) -> Result<Socket, Refused> {
        let socket = self.sockets.borrow().get(&sid).cloned().ok_or(Refused::UnknownSid)?;
        self.on_time(&socket);
        Ok(socket)
    }

    /// Waits for what is to be said to a polling client.
    ///
    /// # Errors
    /// What the request is to be refused with.
    pub async fn poll(self: &Rc<Self>, sid: Sid) -> Result<Bytes, Refused> {
        let socket = self.find(sid)?;
        let now_ms = self.now_ms();
        let polled = socket.peer().borrow_mut().on_poll(now_ms);
        self.settle(&socket);
        if polled == Polled::Refused {
            return Err(Refused::BadRequest);
        }
        let waiting = Waiting { server: self.clone(), socket };
        loop {
            let answer = waiting.socket.peer().borrow_mut().take_answer();
            if let Some(payload) = answer {
                if waiting.socket.waiting_bytes() == 0 && !waiting.socket.is_over() {
                    self.app.on_drained(&waiting.socket);
                }
                return Ok(payload);
            }
            waiting.socket.0.polled.notified().await;
        }
    }

    /// A POST begins; [`Self::on_post`] must follow.
    ///
    /// # Errors
    /// What the request is to be refused with; then nothing follows.
    pub fn begin_post(&self, sid: Sid) -> Result<Socket, Refused> {
        let socket = self.find(sid)?;
        let now_ms = self.now_ms();
        let may_post = socket.peer().borrow_mut().on_post(now_ms);
        self.settle(&socket);
        if may_post { Ok(socket) } else { Err(Refused::BadRequest) }
    }

    /// A POST that another shard begins to read is refused.
    fn on_post_refused(&self, poster: Poster, refused: Refused) {
        let mut posts = self.refused_posts.borrow_mut();
        if posts.len() >= REFUSED_POSTS {
            posts.pop_front();
        }
        posts.push_back((poster, refused));
    }

    /// Why that POST is refused, if it was.
    fn take_refused_post(&self, poster: Poster) -> Option<Refused> {
        let mut posts = self.refused_posts.borrow_mut();
        let index = posts.iter().position(|(refused, _)| *refused == poster)?;
        posts.remove(index).map(|(_, refused)| refused)
    }

    /// The body of a POST, or why there is none.
    ///
    /// # Errors
    /// What the request is to be refused with; the connection is over then.
    pub fn on_post(&self, socket: &Socket, body: Result<Bytes, Refused>) -> Result<(), Refused> {
        socket.peer().borrow_mut().on_posted();
        let taken = body.and_then(|body| self.on_payload(socket, &body));
        if taken.is_err() {
            socket.peer().borrow_mut().end(Over::Violation, self.now_ms());
        }
        self.settle(socket);
        taken
    }

    fn on_payload(&self, socket: &Socket, body: &[u8]) -> Result<(), Refused> {
        let body = std::str::from_utf8(body).map_err(|_| Refused::BadRequest)?;
        for part in parse_payload(body).map_err(|_| Refused::BadRequest)? {
            self.count(socket);
            match part {
                Part::Packet(packet) => {
                    let text = socket.peer().borrow_mut().on_packet(packet, self.now_ms());
                    if let Some(text) = text {
                        self.app.on_text(socket, text);
                    }
                }
                Part::Binary(bytes) if !socket.is_over() => self.app.on_binary(socket, &bytes),
                Part::Binary(_) => {}
            }
        }
        match socket.peer().borrow().over() {
            Some(Over::Violation) => Err(Refused::BadRequest),
            _ => Ok(()),
        }
    }

    /// Whether this id is one of a client here that has shown who it is.
    pub(super) fn holds_known(&self, sid: Sid) -> bool {
        let socket = self.sockets.borrow().get(&sid).cloned();
        socket.is_some_and(|socket| self.app.is_known(&socket))
    }
}

/// A GET that waits: dropped without an answer, it was given up.
struct Waiting<A: Application> {
    server: Rc<Server<A>>,
    socket: Socket,
}

impl<A: Application> Drop for Waiting<A> {
    fn drop(&mut self) {
        let now_ms = self.server.now_ms();
        self.socket.peer().borrow_mut().on_poll_gone(now_ms);
        self.server.settle(&self.socket);
    }
}
