//! Peers that another shard holds, of this gateway or of another one: questions go to it over the bus, and answers come
//! back. The bus may lose either, so every question has its time, and a holder that is silent while questions wait is gone:
//! to the client that is an unknown id, and it comes back with a new one.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use carillon_platform::bus::Bus;
use carillon_proto::{
    engineio::{self as wire, Answer, Ask, Cancel, Envelope, Ping, Pong, Step, envelope::Item},
    ids::GatewayId,
};
use prost::Message as _;
use tokio::{sync::oneshot, task::AbortHandle, time::sleep};

use super::{
    request::{Refused, Sid},
    server::{Application, Server},
};

/// Questions of one shard that may wait for answers: a polling client has two at most.
const ASKED_AT_ONCE: usize = 65_536;
/// Questions of others that may be worked on here, for the same reason.
const SERVED_AT_ONCE: usize = 65_536;
/// A holder is pinged this often while questions wait for it.
const PING: Duration = Duration::from_secs(1);
/// A holder that says nothing for so long is gone; three pings, so that one may be lost.
const SILENCE: Duration = Duration::from_secs(3);
/// The pause before another try to subscribe.
const SUBSCRIBE_PAUSE: Duration = Duration::from_millis(500);

/// This shard's side of it, as one that asks and as one that is asked.
pub struct Elsewhere {
    me: GatewayId,
    bus: Arc<dyn Bus>,
    /// An answer comes within this, or never: a GET that waits is answered by a ping at the latest.
    patience: Duration,
    numbers: Cell<u64>,
    asked: RefCell<HashMap<u64, Asked>>,
    holders: RefCell<HashMap<GatewayId, Holder>>,
    served: RefCell<HashMap<(GatewayId, u64), AbortHandle>>,
}

struct Asked {
    holder: GatewayId,
    answer: oneshot::Sender<Result<Bytes, Refused>>,
    until: Instant,
}

struct Holder {
    waiting: usize,
    heard: Instant,
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
            served: RefCell::default(),
        })
    }

    /// Asks whoever holds this id. Dropped before its answer, the question is taken back.
    ///
    /// # Errors
    /// The holder's refusal, or [`Refused::UnknownSid`] if there is none.
    pub(super) async fn ask(self: &Rc<Self>, sid: Sid, step: Step, body: Bytes) -> Result<Bytes, Refused> {
        if self.asked.borrow().len() >= ASKED_AT_ONCE {
            return Err(Refused::NotNow);
        }
        self.numbers.set(self.numbers.get() + 1);
        let (number, holder) = (self.numbers.get(), sid.owner());
        let (answer, answered) = oneshot::channel();
        let now = Instant::now();
        self.asked.borrow_mut().insert(number, Asked { holder, answer, until: now + self.patience });
        {
            let mut holders = self.holders.borrow_mut();
            let known = holders.entry(holder).or_insert(Holder { waiting: 0, heard: now });
            known.waiting += 1;
        }
        let question = Question { elsewhere: self.clone(), number, holder };
        self.tell(holder, Item::Ask(Ask { number, sid: sid.to_string(), step: step.into(), body }));
        let answer = answered.await.unwrap_or(Err(Refused::UnknownSid));
        drop(question);
        answer
    }

    /// Asks without waiting for the answer.
    pub(super) fn tell_gone(&self, sid: Sid, step: Step) {
        // Numbers start at 1: this one is no question.
        self.tell(sid.owner(), Item::Ask(Ask { number: 0, sid: sid.to_string(), step: step.into(), body: Bytes::new() }));
    }

    fn tell(&self, to: GatewayId, item: Item) {
        let envelope = Envelope { version: wire::VERSION, from: self.me.0.to_vec().into(), item: Some(item) };
        self.bus.publish(&wire::subject(to), envelope.encode_to_vec().into());
    }

    /// Hears others for ever, on behalf of `server`.
    pub async fn run<A: Application>(self: Rc<Self>, server: Rc<Server<A>>) {
        tokio::task::spawn_local(self.clone().watch());
        loop {
            match self.bus.subscribe(&wire::subject(self.me)).await {
                Ok(mut subscription) => {
                    while let Some(batch) = subscription.next().await {
                        self.on_envelope(&server, batch);
                    }
                }
                Err(error) => tracing::warn!(%error, "can't hear other gateways yet"),
            }
            sleep(SUBSCRIBE_PAUSE).await;
        }
    }

    fn on_envelope<A: Application>(self: &Rc<Self>, server: &Rc<Server<A>>, batch: Bytes) {
        let Ok(Envelope { version: wire::VERSION, from, item: Some(item) }) = Envelope::decode(batch) else { return };
        let Some(from) = GatewayId::from_wire(&from) else { return };
        if let Some(holder) = self.holders.borrow_mut().get_mut(&from) {
            holder.heard = Instant::now();
        }
        match item {
            Item::Ask(ask) => self.on_ask(server, from, ask),
            Item::Answer(answer) => self.on_answer(from, answer),
            Item::Cancel(Cancel { number }) => {
                if let Some(serving) = self.served.borrow_mut().remove(&(from, number)) {
                    serving.abort();
                }
            }
            Item::Ping(Ping {}) => self.tell(from, Item::Pong(Pong {})),
            Item::Pong(Pong {}) => {}
        }
    }

    fn on_ask<A: Application>(self: &Rc<Self>, server: &Rc<Server<A>>, from: GatewayId, ask: Ask) {
        let Ask { number, sid, body, .. } = &ask;
        let (number, step) = (*number, ask.step());
        let Some(sid) = Sid::parse(sid).filter(|sid| sid.owner() == self.me) else {
            return self.answer(from, number, Err(Refused::UnknownSid));
        };
        if self.served.borrow().len() >= SERVED_AT_ONCE {
            return self.answer(from, number, Err(Refused::NotNow));
        }
        let (this, server, body) = (self.clone(), server.clone(), body.clone());
        let serving = tokio::task::spawn_local(async move {
            let answer = server.step(sid, step, body).await;
            if number > 0 {
                this.served.borrow_mut().remove(&(from, number));
                this.answer(from, number, answer);
            }
        });
        // The task has not run yet: whoever is spawned waits for its turn.
        if number > 0 {
            self.served.borrow_mut().insert((from, number), serving.abort_handle());
        }
    }

    fn answer(&self, to: GatewayId, number: u64, answer: Result<Bytes, Refused>) {
        let (refusal, body) = match answer {
            Ok(body) => (0, body),
            Err(refused) => (refused.number(), Bytes::new()),
        };
        self.tell(to, Item::Answer(Answer { number, refusal, body }));
    }

    fn on_answer(&self, from: GatewayId, answer: Answer) {
        let Answer { number, refusal, body } = answer;
        let mut asked = self.asked.borrow_mut();
        // Only the holder's word counts.
        if asked.get(&number).is_none_or(|asked| asked.holder != from) {
            return;
        }
        let waiting = asked.remove(&number).expect("found above");
        let answer = match refusal {
            0 => Ok(body),
            number => Err(Refused::of_number(number)),
        };
        let _ = waiting.answer.send(answer);
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
                    self.tell(holder, Item::Ping(Ping {}));
                } else {
                    self.give_up(|asked| asked.holder == holder);
                }
            }
            self.give_up(|asked| asked.until <= now);
        }
    }

    fn give_up(&self, is_over: impl Fn(&Asked) -> bool) {
        for (_, over) in self.asked.borrow_mut().extract_if(|_, asked| is_over(asked)) {
            let _ = over.answer.send(Err(Refused::UnknownSid));
        }
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
