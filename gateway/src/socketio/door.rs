//! Who is at the door: Engine.IO clients that have not said who they are, and those that have. Verifies tokens and looks up
//! who was here before; from then on a client is the shard's.

use std::{
    cell::RefCell,
    collections::{BTreeSet, HashMap},
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use carillon_core::session::Pace;
use carillon_platform::auth::{TokenVerifier, VerifyError};
use carillon_proto::{claims::Claims, codes::Close, ids::ClientId};

use super::{
    client::{Arrived, Client},
    packet::{self, Malformed},
    records::Records,
};
use crate::{
    Counters,
    config::Config,
    engineio::{Application, Socket, peer::Over, request::Sid},
    http::{Account, Answers},
    shard::{Opening, Returning, Shard},
};

/// CONNECTs that one transport may have refused.
const ATTEMPTS: u32 = 8;

/// The door of a shard.
pub(crate) struct SocketIoDoor {
    shard: Rc<RefCell<Shard>>,
    verifier: Arc<dyn TokenVerifier>,
    records: Rc<Records>,
    token_bytes: usize,
    handshake: Duration,
    guests: Rc<RefCell<Guests>>,
    /// Clients that may be here without a good token, each for [`Config::handshake_ms`]. When there are more, the one that has
    /// taken the longest has to go.
    most_strangers: usize,
    answers: Arc<Answers>,
    counters: Arc<Counters>,
}

/// All clients, by the number of their transport.
#[derive(Default)]
struct Guests {
    by_number: HashMap<u64, Guest>,
    /// Those that nobody knows yet; the lowest number came first.
    strangers: BTreeSet<u64>,
}

impl Guests {
    fn set_known(&mut self, number: u64, is_known: bool) {
        let Some(guest) = self.by_number.get_mut(&number) else { return };
        guest.is_known = is_known;
        if is_known {
            self.strangers.remove(&number);
        } else {
            self.strangers.insert(number);
        }
    }

    fn remove(&mut self, number: u64) {
        self.by_number.remove(&number);
        self.strangers.remove(&number);
    }
}

struct Guest {
    socket: Socket,
    client: Client,
    /// How fast it has spoken, once it has left a connection behind.
    pace: Option<Pace>,
    /// Since when it may say who it is: since it came, or since it left by DISCONNECT.
    awaited: Instant,
    /// Counts the times that it may; what was due for an earlier one is not for this one.
    waits: u32,
    attempts: u32,
    /// It has a connection in the shard.
    is_known: bool,
}

/// The payload of a CONNECT, as far as it is looked at.
#[derive(Debug, Default)]
struct Auth {
    token: Option<String>,
    /// The client id, if it names one.
    client: Option<String>,
    pid: Option<String>,
    offset: Option<String>,
}

impl Auth {
    fn of(said: serde_json::Map<String, serde_json::Value>) -> Self {
        let text = |name: &str| said.get(name).and_then(|value| value.as_str()).map(str::to_owned);
        Self { token: text("token"), client: text("client"), pid: text("pid"), offset: text("offset") }
    }
}

/// What an arrival leads to, once the client's own state is free again.
enum Next {
    Nothing,
    Connect(String),
    Refuse(String),
    Leave,
    Close,
}

impl SocketIoDoor {
    pub(crate) fn new(
        config: &Config,
        shard: Rc<RefCell<Shard>>,
        verifier: Arc<dyn TokenVerifier>,
        answers: Arc<Answers>,
        counters: Arc<Counters>,
    ) -> Self {
        let records = shard.borrow().records();
        Self {
            shard,
            verifier,
            records,
            token_bytes: config.token_bytes,
            handshake: Duration::from_millis(config.handshake_ms),
            guests: Rc::default(),
            most_strangers: config.unauthenticated,
            answers,
            counters,
        }
    }

    fn on_message(&self, socket: &Socket, arrive: impl FnOnce(&mut Client, &Shared<'_>) -> Result<Next, Malformed>) {
        let next = {
            let mut guests = self.guests.borrow_mut();
            let Some(guest) = guests.by_number.get_mut(&socket.number()) else { return };
            arrive(&mut guest.client, &Shared { shard: &self.shard, number: socket.number() })
        };
        match next {
            Ok(Next::Nothing) => {}
            Ok(Next::Connect(auth)) => self.connect(socket, &auth),
            Ok(Next::Refuse(namespace)) => {
                self.refuse(socket, &namespace, "Invalid namespace");
            }
            Ok(Next::Leave) => {
                let pace = self.shard.borrow_mut().on_seat_left(socket.number());
                if let Some(guest) = self.guests.borrow_mut().by_number.get_mut(&socket.number()) {
                    guest.pace = pace.or(guest.pace);
                }
                self.come(socket.number());
                self.await_connect(socket);
            }
            Ok(Next::Close) => {}
            Err(Malformed(why)) => {
                tracing::debug!(why, "a Socket.IO client broke the protocol");
                self.shard.borrow_mut().on_seat_gone(socket.number());
                socket.close(Some((Close::WebSocketProtocol.code(), why.to_owned())));
            }
        }
    }

    /// Refuses a namespace, and the client for good when it does not stop asking.
    fn refuse(&self, socket: &Socket, namespace: &str, message: &str) {
        refuse(&self.guests, socket, namespace, message);
    }

    fn connect(&self, socket: &Socket, auth: &str) {
        // What has other types than expected says nothing.
        let auth: Auth = serde_json::from_str(auth).map(Auth::of).unwrap_or_default();
        let (asked, mut pace) = {
            let guests = self.guests.borrow();
            let Some(guest) = guests.by_number.get(&socket.number()) else { return };
            (guest.awaited, guest.pace)
        };
        if pace.as_mut().is_some_and(|pace| !self.shard.borrow().may_connect_again(pace)) {
            return socket.close(Some((Close::RateLimited.code(), Close::RateLimited.reason().into_owned())));
        }
        let (socket, shard, records, verifier) =
            (socket.clone(), self.shard.clone(), self.records.clone(), self.verifier.clone());
        let guests = self.guests.clone();
        let (patience, token_bytes) = (self.handshake, self.token_bytes);
        tokio::task::spawn_local(async move {
            let admitted = tokio::time::timeout(patience, async {
                let claims = verify(&*verifier, auth.token.as_deref(), token_bytes).await?;
                let returning = match auth.pid.filter(|pid| is_pid(pid)) {
                    None => None,
                    Some(pid) => match records.find(&pid).await {
                        Ok(found) => found.map(|(record, revision)| Returning {
                            pid,
                            record,
                            revision,
                            trail: auth.offset.unwrap_or_default(),
                        }),
                        Err(error) => {
                            tracing::debug!(%error, "a record can't be looked up");
                            return Err(Close::Unavailable);
                        }
                    },
                };
                Ok((claims, returning))
            });
            let admitted = admitted.await.unwrap_or(Err(Close::Unavailable));
            if !guests.borrow().by_number.contains_key(&socket.number()) {
                return;
            }
            let client = auth.client.and_then(|client| ClientId::parse(&client).ok());
            let admitted = admitted.and_then(|(claims, returning)| {
                shard.borrow_mut().on_seat(socket.clone(), Opening { claims, client, asked, pace }, returning)
            });
            match admitted {
                Ok(()) => {
                    let mut guests = guests.borrow_mut();
                    let Some(guest) = guests.by_number.get_mut(&socket.number()) else { return };
                    guest.client.accept("/");
                    guests.set_known(socket.number(), true);
                }
                Err(Close::Unauthorized) => refuse(&guests, &socket, "/", "Authentication failed"),
                Err(why) => socket.close(Some((why.code(), why.reason().into_owned()))),
            }
        });
    }

    /// One more that nobody knows; the oldest goes where they are too many.
    fn come(&self, number: u64) {
        let oldest = {
            let mut guests = self.guests.borrow_mut();
            let is_full = guests.strangers.len() >= self.most_strangers;
            let oldest = if is_full { guests.strangers.pop_first() } else { None };
            guests.set_known(number, false);
            oldest.and_then(|oldest| guests.by_number.get(&oldest)).map(|guest| guest.socket.clone())
        };
        if let Some(oldest) = oldest {
            self.counters.on_stranger_evicted();
            oldest.close(None);
        }
    }

    /// Closes a client that does not say who it is in time.
    fn await_connect(&self, socket: &Socket) {
        let (guests, socket, patience) = (self.guests.clone(), socket.clone(), self.handshake);
        let waits = {
            let mut guests = guests.borrow_mut();
            let Some(guest) = guests.by_number.get_mut(&socket.number()) else { return };
            guest.awaited = Instant::now();
            guest.waits += 1;
            guest.waits
        };
        tokio::task::spawn_local(async move {
            tokio::time::sleep(patience).await;
            if guests.borrow().by_number.get(&socket.number()).is_some_and(|guest| !guest.is_known && guest.waits == waits) {
                socket.close(None);
            }
        });
    }
}

/// What an event needs of the door.
struct Shared<'d> {
    shard: &'d Rc<RefCell<Shard>>,
    number: u64,
}

fn next(shared: &Shared<'_>, arrived: Arrived<'_>) -> Result<Next, Malformed> {
    Ok(match arrived {
        Arrived::Nothing => Next::Nothing,
        Arrived::Connect { namespace: "/", auth } => Next::Connect(auth.to_owned()),
        Arrived::Connect { namespace, .. } => Next::Refuse(namespace.to_owned()),
        Arrived::Disconnect { .. } => Next::Leave,
        Arrived::Event(event) => {
            if shared.shard.borrow_mut().on_seat_event(shared.number, &event) {
                Next::Nothing
            } else {
                Next::Close
            }
        }
    })
}

fn refuse(guests: &RefCell<Guests>, socket: &Socket, namespace: &str, message: &str) {
    let mut guests = guests.borrow_mut();
    let Some(guest) = guests.by_number.get_mut(&socket.number()) else { return };
    guest.client.refuse(namespace);
    guest.attempts += 1;
    socket.send(packet::connect_error(namespace, message).into(), Bytes::new());
    if guest.attempts >= ATTEMPTS {
        socket.close(None);
    }
}

async fn verify(verifier: &dyn TokenVerifier, token: Option<&str>, token_bytes: usize) -> Result<Claims, Close> {
    let token = token.filter(|token| token.len() <= token_bytes).ok_or(Close::Unauthorized)?;
    verifier.verify(token).await.map_err(|error| {
        tracing::debug!(%error, "a token was not accepted");
        match error {
            VerifyError::Refused(_) => Close::Unauthorized,
            VerifyError::Unavailable(_) => Close::Unavailable,
        }
    })
}

/// What this server may have given out: anything else is not looked up.
fn is_pid(pid: &str) -> bool {
    pid.len() == 32 && pid.bytes().all(|byte| byte.is_ascii_hexdigit())
}

impl Application for SocketIoDoor {
    fn admits(&self) -> bool {
        self.shard.borrow().has_room()
    }

    fn may_poll(&self, sid: Sid) -> bool {
        self.answers.admit(&Account::Transport(sid)).is_ok()
    }

    fn is_known(&self, socket: &Socket) -> bool {
        self.guests.borrow().by_number.get(&socket.number()).is_some_and(|guest| guest.is_known)
    }

    fn on_open(&self, socket: &Socket) {
        let (client, awaited) = (Client::default(), Instant::now());
        let guest = Guest { socket: socket.clone(), client, pace: None, awaited, waits: 0, attempts: 0, is_known: false };
        self.guests.borrow_mut().by_number.insert(socket.number(), guest);
        self.come(socket.number());
        self.await_connect(socket);
    }

    fn on_text(&self, socket: &Socket, text: &str) {
        self.on_message(socket, |client, shared| client.on_text(text, |arrived| next(shared, arrived)).and_then(|next| next));
    }

    fn on_binary(&self, socket: &Socket, bytes: &[u8]) {
        self.on_message(socket, |client, shared| client.on_binary(bytes, |arrived| next(shared, arrived)).and_then(|next| next));
    }

    fn on_drained(&self, socket: &Socket) {
        self.shard.borrow_mut().on_seat_drained(socket.number());
    }

    fn on_close(&self, socket: &Socket, _why: Over) {
        self.guests.borrow_mut().remove(socket.number());
        self.shard.borrow_mut().on_seat_gone(socket.number());
    }
}
