//! Good clients under way for a while: publishers that repeat under the same keys what was not acked, members that resume
//! where they stood, both through whatever happens to their servers. What they saw is for the tests to judge.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{interval, sleep},
};

use crate::client::{Client, Dial, Event};

const ROOM: &str = "lobby";
/// Messages of one publisher under way at once.
const WINDOW: usize = 8;
/// Between two messages of one publisher: a load that goes on for as long as a test does must not become a flood.
const PACE: Duration = Duration::from_millis(5);
/// What a client waits before it tries to connect again.
const BACKOFF: Duration = Duration::from_millis(50);

/// A place to connect to, as somebody.
#[derive(Clone)]
pub(crate) struct Door {
    pub(crate) address: SocketAddr,
    pub(crate) token: String,
    pub(crate) client: String,
}

impl Door {
    /// Tries until it is let in.
    pub(crate) async fn enter(&self) -> Client {
        loop {
            if let Some(client) = Dial::to(self.address).token(&self.token).client(&self.client).attempt().await {
                return client;
            }
            sleep(BACKOFF).await;
        }
    }
}

/// Says 1, 2, 3, …, each under a key of its own.
pub(crate) struct Publisher {
    pub(crate) name: String,
    /// The number that was said last.
    said: Arc<AtomicU64>,
    /// The number that it ends with.
    last: Arc<AtomicU64>,
    task: JoinHandle<BTreeMap<u64, u64>>,
}

impl Publisher {
    /// Is connected when this returns; ends with `last`, or when it is stopped. One that gives up takes an error for an answer.
    pub(crate) async fn start(door: Door, last: u64, gives_up: bool) -> Self {
        let (name, client) = (door.client.clone(), door.enter().await);
        let said = Arc::new(AtomicU64::new(0));
        let last = Arc::new(AtomicU64::new(last));
        let task = tokio::spawn(publish(client, door, said.clone(), last.clone(), gives_up));
        Self { name, said, last, task }
    }

    pub(crate) fn said(&self) -> u64 {
        self.said.load(Relaxed)
    }

    /// Says nothing new.
    pub(crate) fn stop(&self) {
        self.last.store(0, Relaxed);
    }

    /// The offsets of its numbers, once all that it said is acked.
    pub(crate) async fn acked(self) -> BTreeMap<u64, u64> {
        self.task.await.expect("a publisher does not fail")
    }
}

async fn publish(
    mut client: Client,
    door: Door,
    said: Arc<AtomicU64>,
    last: Arc<AtomicU64>,
    gives_up: bool,
) -> BTreeMap<u64, u64> {
    let say =
        |number: u64| format!(r#"{{"type":"broadcast","room":"{ROOM}","payload":{number},"ref":{number},"key":"k{number}"}}"#);
    let mut pace = interval(PACE);
    let (mut acked, mut open) = (BTreeMap::new(), Vec::new());
    loop {
        let mut is_whole = true;
        for number in &open {
            is_whole = is_whole && client.try_send(say(*number)).await;
        }
        while is_whole {
            let next = said.load(Relaxed) + 1;
            if open.len() < WINDOW && next <= last.load(Relaxed) {
                pace.tick().await;
                said.store(next, Relaxed);
                open.push(next);
                is_whole = client.try_send(say(next)).await;
                continue;
            }
            if open.is_empty() {
                return acked;
            }
            match client.event().await {
                Event::Frame(ack) if ack.kind() == "ack" => {
                    let number = ack.number("ref");
                    open.retain(|it| *it != number);
                    acked.insert(number, ack.number("offset"));
                }
                Event::Frame(error) if error.kind() == "error" && gives_up => open.retain(|it| *it != error.number("ref")),
                Event::Frame(error) if error.kind() == "error" => {
                    if error.has("retryAfterMs") {
                        sleep(Duration::from_millis(error.number("retryAfterMs"))).await;
                    }
                    is_whole = client.try_send(say(error.number("ref"))).await;
                }
                Event::Frame(_) | Event::Ping => {}
                Event::Closed(..) => is_whole = false,
            }
        }
        client = door.enter().await;
    }
}

/// What a member was sent: who said which number, by offset.
pub(crate) type Heard = Vec<(String, u64)>;

/// Hears each message once, in order: anything else ends it, and the test.
pub(crate) struct Member {
    pub(crate) heard: watch::Receiver<Heard>,
    task: JoinHandle<()>,
}

impl Member {
    /// Is in the room when this returns.
    pub(crate) async fn start(door: Door) -> Self {
        let (tell, heard) = watch::channel(Heard::new());
        let mut epoch = String::new();
        let client = enter_room(&door, 0, &epoch).await;
        let task = tokio::spawn(async move {
            let mut client = client;
            loop {
                match client.event().await {
                    Event::Frame(message) if message.kind() == "message" => {
                        let expected = tell.borrow().len() as u64 + 1;
                        assert_eq!(message.number("offset"), expected, "{}", message.raw);
                        if expected == 1 {
                            epoch = message.text("epoch");
                        }
                        tell.send_modify(|heard| heard.push((message.text("sender"), message.number("payload"))));
                    }
                    Event::Frame(other) => panic!("not a message: {}", other.raw),
                    Event::Ping => {}
                    Event::Closed(..) => {
                        let since = tell.borrow().len();
                        client = enter_room(&door, since, &epoch).await;
                    }
                }
            }
        });
        Self { heard, task }
    }

    /// Waits until what it heard is enough. How long that may take is for who runs the tests: a heal has no deadline here.
    pub(crate) async fn until(&mut self, is_enough: impl FnMut(&Heard) -> bool) {
        let mut is_enough = is_enough;
        self.heard.wait_for(|heard| is_enough(heard)).await.expect("the member hears what it should");
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Resumes where it stood, as often as it takes.
async fn enter_room(door: &Door, since: usize, epoch: &str) -> Client {
    loop {
        let mut client = door.enter().await;
        let join = format!(r#"{{"type":"join","room":"{ROOM}","ref":"join","since":{since},"epoch":"{epoch}"}}"#);
        let mut is_whole = client.try_send(join.clone()).await;
        while is_whole {
            match client.event().await {
                Event::Frame(joined) if joined.kind() == "joined" => {
                    assert!(joined.flag("recovered"), "{}", joined.raw);
                    return client;
                }
                Event::Frame(error) => {
                    assert_eq!(error.text("code"), "unavailable", "{}", error.raw);
                    sleep(BACKOFF).await;
                    is_whole = client.try_send(join.clone()).await;
                }
                Event::Ping => {}
                Event::Closed(..) => is_whole = false,
            }
        }
    }
}

/// Everything acked was heard, where the ack said, and nothing was heard twice.
pub(crate) fn is_complete(heard: &Heard, acked: &BTreeMap<String, BTreeMap<u64, u64>>) -> bool {
    let all: usize = acked.values().map(BTreeMap::len).sum();
    let at = |offset: u64| usize::try_from(offset - 1).ok().and_then(|index| heard.get(index));
    heard.len() == all
        && acked.iter().all(|(name, acked)| acked.iter().all(|(number, offset)| at(*offset) == Some(&(name.clone(), *number))))
}
