//! Peers that another shard holds, of this gateway or of another one: questions go to it over the bus, and answers come
//! back. The bus may lose either, so a holder is asked now and then what it is working on: what it knows nothing of was lost,
//! and a holder that is silent while questions wait is gone. To the client both are an unknown id, and it comes back with a
//! new one.

use std::{
    cell::{Cell, RefCell},
    collections::{HashMap, HashSet},
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use carillon_platform::bus::Bus;
use carillon_proto::{
    engineio::{self as wire, Answer, Ask, Cancel, Envelope, Known, Ping, Pong, Step, envelope::Item},
    ids::GatewayId,
};
use prost::Message as _;
use tokio::{
    sync::{Notify, oneshot},
    task::AbortHandle,
    time::{sleep, timeout},
};

use super::{
    request::{Refused, Sid},
    server::{Application, Server},
};

/// Questions of one shard that may wait for answers: a polling client has two at most.
const ASKED_AT_ONCE: usize = 65_536;
/// Questions of others that may be worked on here, for the same reason.
const SERVED_AT_ONCE: usize = 65_536;
/// A holder is pinged this often while questions wait for it. A question that was lost is given up at the second ping after it
/// at the latest.
const PING: Duration = Duration::from_secs(1);
/// A holder that says nothing for so long is gone; three pings, so that one may be lost.
const SILENCE: Duration = Duration::from_secs(3);
/// The pause before another try to subscribe.
const SUBSCRIBE_PAUSE: Duration = Duration::from_millis(500);
/// How long a client that comes waits until others can be heard.
const HEARING_PATIENCE: Duration = Duration::from_secs(5);
/// What is said to one shard in one turn goes out together, for its queue counts batches: up to this, or one item alone. Both
/// are far below the payload limit of NATS (1 MiB).
const BATCH_BYTES: usize = 256 * 1024;
/// An answer is cut into pieces of this: one event of a client may be as large as its outbox.
const PIECE_BYTES: usize = 512 * 1024;

/// This shard's side of it, as one that asks and as one that is asked.
pub struct Elsewhere {
    me: GatewayId,
    bus: Arc<dyn Bus>,
    /// An answer comes within this, or never: a GET that waits is answered by a ping at the latest.
    patience: Duration,
    numbers: Cell<u64>,
    asked: RefCell<HashMap<u64, Asked>>,
    holders: RefCell<HashMap<GatewayId, Holder>>,
    /// Requests whose client may turn out to be one that has shown who it is, by the numbers of their questions.
    unknown: RefCell<HashMap<u64, (GatewayId, oneshot::Sender<()>)>>,
    served: RefCell<HashMap<(GatewayId, u64), AbortHandle>>,
    unsaid: RefCell<HashMap<GatewayId, Unsaid>>,
    saying: Notify,
    hears: Cell<bool>,
    hearing: Notify,
}

struct Asked {
    holder: GatewayId,
    /// The newest number when it was asked; its own is older where the holder was told of it before.
    since: u64,
    answer: oneshot::Sender<Result<Bytes, Refused>>,
    until: Instant,
    pieces: BytesMut,
}

struct Holder {
    waiting: usize,
    heard: Instant,
}

/// What is to be said to one shard at the end of this turn.
#[derive(Default)]
struct Unsaid {
    items: Vec<Item>,
    bytes: usize,
}

impl Elsewhere {
    /// Asks and hears over this bus.
    pub fn new(me: GatewayId, bus: Arc<dyn Bus>, patience: Duration) -> Rc<Self> {
        Rc::new(Self {
            me,
            bus,
            patience,
            numbers: Cell::new(0),
            asked: RefCell::default(),
            holders: RefCell::default(),
            unknown: RefCell::default(),
            served: RefCell::default(),
            unsaid: RefCell::default(),
            saying: Notify::new(),
            hears: Cell::new(false),
            hearing: Notify::new(),
        })
    }

    /// Waits until others can reach a peer of this shard: before that, none may be given an id.
    ///
    /// # Errors
    /// [`Refused::NotNow`], after some patience.
    pub(super) async fn hears(&self) -> Result<(), Refused> {
        let hears = async {
            let mut hearing = std::pin::pin!(self.hearing.notified());
            hearing.as_mut().enable();
            if !self.hears.get() {
                hearing.await;
            }
        };
        timeout(HEARING_PATIENCE, hears).await.map_err(|_| Refused::NotNow)
    }

    /// A number for a question.
    pub(super) fn number(&self) -> u64 {
        self.numbers.set(self.numbers.get() + 1);
        self.numbers.get()
    }

    /// Asks whoever holds this id. Dropped before its answer, the question is taken back.
    ///
    /// # Errors
    /// The holder's refusal, or [`Refused::UnknownSid`] if there is none.
    pub(super) async fn ask(self: &Rc<Self>, sid: Sid, step: Step, body: Bytes) -> Result<Bytes, Refused> {
        self.ask_as(self.number(), sid, step, body).await
    }

    /// As [`Self::ask`], with a number that the holder was told before.
    ///
    /// # Errors
    /// As [`Self::ask`].
    pub(super) async fn ask_as(self: &Rc<Self>, number: u64, sid: Sid, step: Step, body: Bytes) -> Result<Bytes, Refused> {
        if self.asked.borrow().len() >= ASKED_AT_ONCE {
            return Err(Refused::NotNow);
        }
        let holder = sid.owner();
        let (answer, answered) = oneshot::channel();
        let now = Instant::now();
        let asked = Asked { holder, since: self.number(), answer, until: now + self.patience, pieces: BytesMut::new() };
        self.asked.borrow_mut().insert(number, asked);
        {
            let mut holders = self.holders.borrow_mut();
            let known = holders.entry(holder).or_insert(Holder { waiting: 0, heard: now });
            known.waiting += 1;
        }
        let question = Question { elsewhere: self.clone(), number, holder };
        self.tell_step(number, sid, step, body);
        let answer = answered.await.unwrap_or(Err(Refused::UnknownSid));
        drop(question);
        answer
    }

    /// Waits until the holder says that the client of a question has shown who it is.
    pub(super) fn known(self: &Rc<Self>, number: u64, sid: Sid) -> KnownElsewhere {
        let (told, known) = oneshot::channel();
        self.unknown.borrow_mut().insert(number, (sid.owner(), told));
        KnownElsewhere { elsewhere: self.clone(), number, known }
    }

    /// Says a step without waiting for an answer.
    pub(super) fn tell_step(&self, number: u64, sid: Sid, step: Step, body: Bytes) {
        self.tell(sid.owner(), Item::Ask(Ask { number, sid: sid.to_string(), step: step.into(), body }));
    }

    /// Says it at the end of this turn, with all that is said to the same shard until then.
    fn tell(&self, to: GatewayId, item: Item) {
        let mut unsaid = self.unsaid.borrow_mut();
        self.saying.notify_one();
        let waiting = unsaid.entry(to).or_default();
        let bytes = body_bytes(&item);
        if waiting.bytes + bytes > BATCH_BYTES {
            self.say(to, std::mem::take(waiting).items);
        }
        waiting.bytes += bytes;
        waiting.items.push(item);
    }

    /// Says at the end of every turn what came up in it.
    async fn speak(self: Rc<Self>) {
        loop {
            self.saying.notified().await;
            let unsaid = std::mem::take(&mut *self.unsaid.borrow_mut());
            unsaid.into_iter().for_each(|(to, unsaid)| self.say(to, unsaid.items));
        }
    }

    fn say(&self, to: GatewayId, items: Vec<Item>) {
        let mut items = items.into_iter().map(Some);
        let Some(item) = items.next() else { return };
        let rest = items.map(|item| Envelope { item, ..Envelope::default() }).collect();
        let envelope = Envelope { version: wire::VERSION, from: self.me.0.to_vec().into(), item, rest };
        self.bus.publish(&wire::subject(to), envelope.encode_to_vec().into());
    }

    /// Hears others for ever, on behalf of `server`.
    pub async fn run<A: Application>(self: Rc<Self>, server: Rc<Server<A>>) {
        tokio::task::spawn_local(self.clone().watch());
        tokio::task::spawn_local(self.clone().speak());
        loop {
            match self.bus.subscribe(&wire::subject(self.me)).await {
                Ok(mut subscription) => {
                    self.hears.set(true);
                    self.hearing.notify_waiters();
                    while let Some(batch) = subscription.next().await {
                        self.on_batch(&server, batch);
                    }
                    self.hears.set(false);
                }
                Err(error) => tracing::warn!(%error, "can't hear other gateways yet"),
            }
            sleep(SUBSCRIBE_PAUSE).await;
        }
    }

    fn on_batch<A: Application>(self: &Rc<Self>, server: &Rc<Server<A>>, batch: Bytes) {
        let Ok(Envelope { version: wire::VERSION, from, item, rest }) = Envelope::decode(batch) else { return };
        let Some(from) = GatewayId::from_wire(&from) else { return };
        if let Some(holder) = self.holders.borrow_mut().get_mut(&from) {
            holder.heard = Instant::now();
        }
        for item in item.into_iter().chain(rest.into_iter().filter_map(|envelope| envelope.item)) {
            self.on_item(server, from, item);
        }
    }

    fn on_item<A: Application>(self: &Rc<Self>, server: &Rc<Server<A>>, from: GatewayId, item: Item) {
        match item {
            Item::Ask(ask) => self.on_ask(server, from, ask),
            Item::Answer(answer) => self.on_answer(from, answer),
            Item::Known(Known { number }) => {
                let mut unknown = self.unknown.borrow_mut();
                // Only the holder's word counts.
                if unknown.get(&number).is_some_and(|(holder, _)| *holder == from)
                    && let Some((_, told)) = unknown.remove(&number)
                {
                    let _ = told.send(());
                }
            }
            Item::Cancel(Cancel { number }) => {
                if let Some(serving) = self.served.borrow_mut().remove(&(from, number)) {
                    serving.abort();
                }
            }
            Item::Ping(Ping { newest }) => {
                let served = self.served.borrow();
                let serving = served.keys().filter(|(asker, _)| *asker == from).map(|(_, number)| *number).collect();
                self.tell(from, Item::Pong(Pong { newest, serving }));
            }
            Item::Pong(Pong { newest, serving }) => {
                // Answers that were under way came before the pong: the bus keeps the order.
                let serving: HashSet<u64> = serving.into_iter().collect();
                self.give_up(|number, asked| asked.holder == from && asked.since <= newest && !serving.contains(&number));
            }
        }
    }

    fn on_ask<A: Application>(self: &Rc<Self>, server: &Rc<Server<A>>, from: GatewayId, ask: Ask) {
        let Ask { number, sid, body, .. } = &ask;
        let (number, step) = (*number, ask.step());
        let sid = Sid::parse(sid).filter(|sid| sid.owner() == self.me);
        let poster = (from, number);
        // Either may take its time: the GET until there is something to say, the POST until its body is here.
        let may_wait = number > 0 && matches!(step, Step::PostBegins | Step::Poll);
        let was_known = may_wait && sid.is_some_and(|sid| server.holds_known(sid));
        if was_known {
            self.tell(from, Item::Known(Known { number }));
        }
        if let (Some(sid), Step::PostBegins | Step::PostGone) = (sid, step) {
            // At once: what is spawned has no order.
            server.on_posting_elsewhere(sid, poster, step);
        }
        if matches!(step, Step::PostBegins | Step::PostGone) {
            return;
        }
        let Some(sid) = sid else {
            return self.answer(from, number, Err(Refused::UnknownSid));
        };
        if self.served.borrow().len() >= SERVED_AT_ONCE {
            return self.answer(from, number, Err(Refused::NotNow));
        }
        let (this, server, body) = (self.clone(), server.clone(), body.clone());
        let serving = tokio::task::spawn_local(async move {
            let answer = server.step(sid, poster, step, body).await;
            if number > 0 {
                this.served.borrow_mut().remove(&poster);
                if step == Step::Poll && !was_known && server.holds_known(sid) {
                    this.tell(from, Item::Known(Known { number }));
                }
                this.answer(from, number, answer);
            }
        });
        // The task has not run yet: whoever is spawned waits for its turn.
        if number > 0 {
            self.served.borrow_mut().insert(poster, serving.abort_handle());
        }
    }

    fn answer(&self, to: GatewayId, number: u64, answer: Result<Bytes, Refused>) {
        let (refusal, mut body) = match answer {
            Ok(body) => (0, body),
            Err(refused) => (refused.number(), Bytes::new()),
        };
        while body.len() > PIECE_BYTES {
            let piece = body.split_to(PIECE_BYTES);
            self.tell(to, Item::Answer(Answer { number, refusal, body: piece, is_piece: true }));
        }
        self.tell(to, Item::Answer(Answer { number, refusal, body, is_piece: false }));
    }

    fn on_answer(&self, from: GatewayId, answer: Answer) {
        let Answer { number, refusal, body, is_piece } = answer;
        let mut asked = self.asked.borrow_mut();
        // Only the holder's word counts.
        let Some(waiting) = asked.get_mut(&number).filter(|asked| asked.holder == from) else { return };
        if is_piece || !waiting.pieces.is_empty() {
            waiting.pieces.extend_from_slice(&body);
        }
        if is_piece {
            return;
        }
        let Asked { answer, pieces, .. } = asked.remove(&number).expect("found above");
        let body = if pieces.is_empty() { body } else { pieces.freeze() };
        let _ = answer.send(if refusal == 0 { Ok(body) } else { Err(Refused::of_number(refusal)) });
    }

    /// Notices holders that are gone, and questions whose time is over.
    async fn watch(self: Rc<Self>) {
        loop {
            sleep(PING).await;
            let now = Instant::now();
            let holders: Vec<(GatewayId, Instant)> =
                self.holders.borrow().iter().map(|(holder, known)| (*holder, known.heard)).collect();
            for (holder, heard) in holders {
                if now.duration_since(heard) < SILENCE {
                    self.tell(holder, Item::Ping(Ping { newest: self.numbers.get() }));
                } else {
                    self.give_up(|_, asked| asked.holder == holder);
                }
            }
            self.give_up(|_, asked| asked.until <= now);
        }
    }

    fn give_up(&self, is_over: impl Fn(u64, &Asked) -> bool) {
        for (_, over) in self.asked.borrow_mut().extract_if(|number, asked| is_over(*number, asked)) {
            let _ = over.answer.send(Err(Refused::UnknownSid));
        }
    }
}

fn body_bytes(item: &Item) -> usize {
    /// More than the fields beside the body take.
    const OTHERS: usize = 128;
    OTHERS
        + match item {
            Item::Ask(ask) => ask.body.len(),
            Item::Answer(answer) => answer.body.len(),
            Item::Pong(pong) => pong.serving.len() * 5,
            Item::Cancel(_) | Item::Ping(_) | Item::Known(_) => 0,
        }
}

/// A request of a client that may be known to its holder.
pub(super) struct KnownElsewhere {
    elsewhere: Rc<Elsewhere>,
    number: u64,
    known: oneshot::Receiver<()>,
}

impl KnownElsewhere {
    /// Does `work`, and says once meanwhile that the client is known, if it is.
    pub(super) async fn during<T>(mut self, on_known: &dyn Fn(), work: impl Future<Output = T>) -> T {
        let mut work = std::pin::pin!(work);
        tokio::select! {
            biased;
            done = &mut work => {
                // It may have become so while it waited; then that came before the answer.
                if self.known.try_recv().is_ok() {
                    on_known();
                }
                return done;
            }
            Ok(()) = &mut self.known => on_known(),
        }
        work.await
    }
}

impl Drop for KnownElsewhere {
    fn drop(&mut self) {
        self.elsewhere.unknown.borrow_mut().remove(&self.number);
    }
}

/// A question that waits: dropped without an answer, it was given up by the client.
struct Question {
    elsewhere: Rc<Elsewhere>,
    number: u64,
    holder: GatewayId,
}

impl Drop for Question {
    fn drop(&mut self) {
        let Self { elsewhere, number, holder } = self;
        if elsewhere.asked.borrow_mut().remove(number).is_some() {
            elsewhere.tell(*holder, Item::Cancel(Cancel { number: *number }));
        }
        let mut holders = elsewhere.holders.borrow_mut();
        if let Some(known) = holders.get_mut(holder) {
            known.waiting -= 1;
            if known.waiting == 0 {
                holders.remove(holder);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use carillon_core::rate::Rate;
    use carillon_platform::bus::{BusError, InProcessBus, Subscription};
    use futures_util::future::BoxFuture;
    use tokio::task::LocalSet;

    use super::*;
    use crate::engineio::{Config, Cors, Socket, peer::Over};

    /// Loses what is said while it is told to.
    struct Lossy {
        bus: InProcessBus,
        loses: AtomicBool,
    }

    impl Bus for Lossy {
        fn publish(&self, subject: &str, batch: Bytes) {
            assert!(batch.len() < 1024 * 1024, "NATS takes no more at once");
            if !self.loses.swap(false, Ordering::Relaxed) {
                self.bus.publish(subject, batch);
            }
        }

        fn subscribe(&self, subject: &str) -> BoxFuture<'_, Result<Subscription, BusError>> {
            self.bus.subscribe(subject)
        }
    }

    struct Echo;

    impl Application for Echo {
        fn on_open(&self, _socket: &Socket) {}
        fn on_text(&self, socket: &Socket, text: &str) {
            let many = text.strip_prefix("many ").and_then(|count| count.parse().ok()).unwrap_or(0);
            socket.send(format!("4{text}{}", "x".repeat(many)).into(), Bytes::new());
        }
        fn on_binary(&self, _socket: &Socket, _bytes: &[u8]) {}
        fn on_close(&self, _socket: &Socket, _why: Over) {}
    }

    struct World {
        bus: Arc<Lossy>,
        asker: Rc<Elsewhere>,
        holder: Rc<Server<Echo>>,
    }

    const CONFIG: Config = Config {
        ping_interval_ms: 60_000,
        ping_timeout_ms: 60_000,
        body_ms: 60_000,
        max_payload: 4_000_000,
        rate: Rate { per_second: 1000, burst: 1000 },
        cors: Cors::Any,
    };

    impl World {
        async fn new() -> Self {
            let bus = Arc::new(Lossy { bus: InProcessBus::new(), loses: AtomicBool::new(false) });
            let shard = |number| {
                let id = GatewayId([number; 16]);
                let elsewhere = Elsewhere::new(id, bus.clone(), PATIENCE * 100);
                let server = Server::new(id, CONFIG, Some(elsewhere.clone()), Echo);
                tokio::task::spawn_local(elsewhere.clone().run(server.clone()));
                (elsewhere, server)
            };
            let ((asker, _), (other, holder)) = (shard(1), shard(2));
            asker.hears().await.unwrap();
            other.hears().await.unwrap();
            Self { bus, asker, holder }
        }

        async fn poll(&self, sid: Sid) -> Result<String, Refused> {
            let payload = self.asker.ask(sid, Step::Poll, Bytes::new()).await?;
            Ok(String::from_utf8(payload.to_vec()).unwrap())
        }

        async fn post(&self, sid: Sid, body: &str) -> Result<(), Refused> {
            self.asker.ask(sid, Step::Post, body.to_owned().into()).await.map(drop)
        }

        /// A client whose handshake was read.
        async fn client(&self) -> Sid {
            let sid = self.holder.open(false).sid();
            assert!(self.poll(sid).await.unwrap().starts_with("0{"));
            sid
        }
    }

    /// Far less than a question's own patience here, and far more than anything takes.
    const PATIENCE: Duration = Duration::from_secs(60);

    fn run<F: Future<Output = ()>>(test: impl FnOnce() -> F) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        LocalSet::new().block_on(&runtime, async { timeout(PATIENCE, test()).await.expect("it ends") });
    }

    #[test]
    fn answers_come_back() {
        run(async || {
            let world = World::new().await;
            let sid = world.client().await;
            world.post(sid, "4hello").await.unwrap();
            assert_eq!(world.poll(sid).await.unwrap(), "4hello");
            let unknown = Sid::new(sid.owner());
            assert_eq!(world.poll(unknown).await, Err(Refused::UnknownSid));
        });
    }

    #[test]
    fn a_lost_question_is_given_up_while_its_holder_lives() {
        run(async || {
            let world = World::new().await;
            let sid = world.client().await;
            world.bus.loses.store(true, Ordering::Relaxed);
            assert_eq!(world.post(sid, "4hello").await, Err(Refused::UnknownSid));
        });
    }

    #[test]
    fn a_lost_answer_is_given_up_while_its_holder_lives() {
        run(async || {
            let world = World::new().await;
            let sid = world.client().await;
            let polled = world.poll(sid);
            let lose = async {
                // The question is there, and so the next thing that is said is the answer.
                while world.holder.is_empty() || world.asker.asked.borrow().is_empty() {
                    tokio::task::yield_now().await;
                }
                sleep(Duration::from_millis(50)).await;
                world.bus.loses.store(true, Ordering::Relaxed);
                let socket = world.holder.find(sid).unwrap();
                socket.send("4lost".into(), Bytes::new());
            };
            assert_eq!(tokio::join!(polled, lose).0, Err(Refused::UnknownSid));
        });
    }

    #[test]
    fn a_question_that_waits_is_not_lost() {
        run(async || {
            let world = World::new().await;
            let sid = world.client().await;
            let say = async {
                sleep(PING * 3).await;
                world.holder.find(sid).unwrap().send("4late".into(), Bytes::new());
            };
            assert_eq!(tokio::join!(world.poll(sid), say).0.unwrap(), "4late");
        });
    }

    #[test]
    fn large_answers_come_in_pieces() {
        run(async || {
            let world = World::new().await;
            let sid = world.client().await;
            world.post(sid, "4many 3000000").await.unwrap();
            assert_eq!(world.poll(sid).await.unwrap().len(), 1 + "many 3000000".len() + 3_000_000);
            world.post(sid, "4hello").await.unwrap();
            assert_eq!(world.poll(sid).await.unwrap(), "4hello");
        });
    }

    #[test]
    fn many_answers_of_one_turn_are_all_heard() {
        // More than a subscriber's queue has room for.
        const CLIENTS: usize = 3_000;
        run(async || {
            let world = World::new().await;
            let mut clients = Vec::new();
            for _ in 0..CLIENTS {
                clients.push(world.client().await);
            }
            let polls = clients.iter().map(|sid| world.poll(*sid));
            let say = async {
                sleep(Duration::from_millis(50)).await;
                clients.iter().for_each(|sid| world.holder.find(*sid).unwrap().send("4all".into(), Bytes::new()));
            };
            let (answers, ()) = tokio::join!(futures_util::future::join_all(polls), say);
            assert!(answers.iter().all(|answer| answer.as_deref() == Ok("4all")));
        });
    }

    #[test]
    fn posts_that_overlap_end_the_client() {
        run(async || {
            let world = World::new().await;
            let sid = world.client().await;
            // Its body is still being read somewhere.
            let first = world.asker.number();
            world.asker.tell_step(first, sid, Step::PostBegins, Bytes::new());
            assert_eq!(world.post(sid, "4second").await, Err(Refused::BadRequest));
            let late = world.asker.ask_as(first, sid, Step::Post, Bytes::from_static(b"4first")).await;
            assert!(late.is_err());
            assert!(world.poll(sid).await.is_err());
            // The same where it is told that the second one begins: what it is refused for is not forgotten with the client.
            let sid = world.client().await;
            let [first, second] = [(); 2].map(|()| world.asker.number());
            for number in [first, second] {
                world.asker.tell_step(number, sid, Step::PostBegins, Bytes::new());
            }
            let refused = world.asker.ask_as(second, sid, Step::Post, Bytes::from_static(b"4second")).await;
            assert_eq!(refused, Err(Refused::BadRequest));
        });
    }

    #[test]
    fn a_post_that_began_elsewhere_ends_there() {
        run(async || {
            let world = World::new().await;
            let sid = world.client().await;
            for text in ["4one", "4two"] {
                let number = world.asker.number();
                world.asker.tell_step(number, sid, Step::PostBegins, Bytes::new());
                world.asker.ask_as(number, sid, Step::Post, Bytes::from_static(text.as_bytes())).await.unwrap();
                assert_eq!(world.poll(sid).await.unwrap(), text);
            }
            let number = world.asker.number();
            world.asker.tell_step(number, sid, Step::PostBegins, Bytes::new());
            world.asker.tell_step(number, sid, Step::PostGone, Bytes::new());
            assert!(world.post(sid, "4three").await.is_err());
        });
    }
}
