//! Owners beside what takes its time: a log whose trims are slow, a receiver of webhooks that never answers.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use carillon_fanout::Fanout;
use carillon_platform::{
    bus::{Bus, InProcessBus, Subscription},
    kv::EmbeddedBuckets,
    log::{Append, AppendError, EmbeddedLog, Log, LogError, Opened, Part, ReadLimit, ReadSpan, Sequence, Stored},
    settings::{Hook, HookSecret, HookType, Program, Retention, Settings, Url},
    shutdown::Shutdown,
};
use carillon_proto::{
    ids::{GatewayId, Offset, PARTITIONS, PartitionId, RoomName},
    link::{self, DownBatch, Erase, Publish, Up, UpBatch, down, down_subject, up, up_subject},
};
use futures_util::{FutureExt, future::BoxFuture};
use prost::Message as _;
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

const PATIENCE: Duration = Duration::from_secs(30);
const GATEWAY: GatewayId = GatewayId([7; 16]);

/// The embedded log, whose trims wait until they are let go.
struct Slow {
    log: Arc<EmbeddedLog>,
    gate: watch::Receiver<bool>,
    done: Mutex<Vec<&'static str>>,
    trims: AtomicUsize,
    reads: AtomicUsize,
}

impl Slow {
    fn new(log: Arc<EmbeddedLog>, gate: watch::Receiver<bool>) -> Arc<Self> {
        Arc::new(Self { log, gate, done: Mutex::default(), trims: AtomicUsize::new(0), reads: AtomicUsize::new(0) })
    }
}

impl Log for Slow {
    fn open(&self, partition: PartitionId) -> BoxFuture<'_, Result<Opened, LogError>> {
        self.log.open(partition)
    }

    fn append(&self, partition: PartitionId, append: Append) -> BoxFuture<'static, Result<Sequence, AppendError>> {
        self.log.append(partition, append)
    }

    fn head(&self, partition: PartitionId, room: &RoomName) -> BoxFuture<'_, Result<Option<Stored>, LogError>> {
        self.log.head(partition, room)
    }

    fn read(
        &self,
        partition: PartitionId,
        room: &RoomName,
        span: ReadSpan,
        limit: ReadLimit,
    ) -> BoxFuture<'_, Result<Part, LogError>> {
        self.reads.fetch_add(1, Relaxed);
        self.log.read(partition, room, span, limit)
    }

    fn recent(
        &self,
        partition: PartitionId,
        window: Duration,
        keep: fn(&[u8]) -> Bytes,
    ) -> BoxFuture<'_, Result<Vec<Stored>, LogError>> {
        self.log.recent(partition, window, keep)
    }

    fn rooms(&self, _: PartitionId, _: Option<&RoomName>, _: usize) -> BoxFuture<'_, Result<Vec<RoomName>, LogError>> {
        // Nobody looks for what is old here.
        std::future::ready(Ok(Vec::new())).boxed()
    }

    fn trim(
        &self,
        partition: PartitionId,
        room: &RoomName,
        below: Offset,
        through: Sequence,
    ) -> BoxFuture<'_, Result<(), LogError>> {
        let (room, mut gate) = (room.clone(), self.gate.clone());
        async move {
            self.trims.fetch_add(1, Relaxed);
            gate.wait_for(|is_open| *is_open).await.expect("the test goes on");
            let trimmed = self.log.trim(partition, &room, below, through).await;
            self.done.lock().unwrap().push("trimmed");
            trimmed
        }
        .boxed()
    }

    fn empty(&self, partition: PartitionId, room: &RoomName, through: Sequence) -> BoxFuture<'_, Result<(), LogError>> {
        self.done.lock().unwrap().push("emptied");
        self.log.empty(partition, room, through)
    }
}

/// A gateway's end of a link.
struct Link {
    bus: Arc<InProcessBus>,
    partition: PartitionId,
    heard: Subscription,
    number: u64,
    publishes: u64,
}

impl Link {
    fn say(&mut self, items: Vec<up::Item>) {
        self.number += 1;
        let batch = UpBatch {
            version: link::VERSION,
            gateway: Bytes::copy_from_slice(&GATEWAY.0),
            link: 1,
            number: self.number,
            generation: 0,
            items: items.into_iter().map(|item| Up { item: Some(item) }).collect(),
            settled: 0,
        };
        self.bus.publish(&up_subject(self.partition), batch.encode_to_vec().into());
    }

    fn publish(&mut self, room: &RoomName) -> up::Item {
        self.publishes += 1;
        up::Item::Publish(Publish {
            publish: self.publishes,
            room: room.to_string(),
            payload: Bytes::from_static(b"1"),
            user: "ada".into(),
            client: "c".into(),
            ..Publish::default()
        })
    }

    /// Waits for this answer.
    async fn hears(&mut self, is_it: impl Fn(&down::Item) -> bool) {
        let answered = async {
            loop {
                let batch = DownBatch::decode(self.heard.next().await.expect("a bus")).unwrap();
                if batch.items.into_iter().filter_map(|item| item.item).any(|item| is_it(&item)) {
                    return;
                }
            }
        };
        timeout(PATIENCE, answered).await.expect("an answer in time");
    }
}

/// A trim that is late would take what the room's next life begins with.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trims_end_before_a_room_is_emptied() {
    const KEPT: u64 = 16;
    let folder = tempfile::tempdir().unwrap();
    let embedded = Arc::new(EmbeddedLog::open(folder.path()).unwrap());
    let (gate, is_open) = watch::channel(false);
    let log = Slow::new(embedded.clone(), is_open);
    let bus = Arc::new(InProcessBus::new());
    let mut settings = Settings::defaults(Program::AllInOne);
    settings.retention = vec![Retention { messages: KEPT, ..Retention::default() }];
    let fanout =
        Fanout::new(&settings, log.clone(), bus.clone(), Arc::new(EmbeddedBuckets::of(embedded.clone()))).unwrap().sole();
    let counters = fanout.counters.clone();
    let stop = CancellationToken::new();
    let running = tokio::spawn(fanout.run(stop.clone(), Shutdown::new()));
    until(|| counters.takeovers.load(Relaxed) == u64::from(PARTITIONS)).await;

    let room = RoomName::parse("r").unwrap();
    let partition = room.partition();
    let names = (0..).map(|number| RoomName::parse(&format!("other {number}")).unwrap());
    let other = names.into_iter().find(|name| name.partition() == partition).unwrap();
    let heard = bus.subscribe(&down_subject(GATEWAY, partition)).await.unwrap();
    let mut link = Link { bus: bus.clone(), partition, heard, number: 0, publishes: 0 };
    let said = (0..2 * KEPT).map(|_| link.publish(&room)).collect();
    link.say(said);
    until(|| log.trims.load(Relaxed) == 1).await;

    link.say(vec![up::Item::Erase(Erase { erase: 1, room: room.to_string() })]);
    // The owner has been about its business since: what it was to do for the deletion is begun.
    for _ in 0..3 {
        let said = link.publish(&other);
        link.say(vec![said]);
        let number = link.publishes;
        link.hears(|item| matches!(item, down::Item::Published(told) if told.publish == number)).await;
    }
    assert_eq!(*log.done.lock().unwrap(), [""; 0]);
    gate.send(true).unwrap();
    link.hears(|item| matches!(item, down::Item::Erased(erased) if erased.erase == 1)).await;
    assert_eq!(*log.done.lock().unwrap(), ["trimmed", "emptied"]);
    assert_eq!(embedded.head(partition, &room).await, Ok(None));
    stop.cancel();
    running.await.unwrap();
}

/// What waits for a slow receiver lies in the log, and not in memory: a message is read when it is its turn.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_are_read_when_their_receiver_has_a_turn_for_them() {
    const ROOMS: u64 = 200;
    /// Requests to one receiver at a time.
    const AT_ONCE: usize = 16;
    let receiver = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut settings = Settings::defaults(Program::AllInOne);
    settings.hooks = vec![Hook {
        url: Url::parse(&format!("http://{}", receiver.local_addr().unwrap()), &["http"]).unwrap(),
        secret: HookSecret::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap(),
        types: vec![HookType::MessageStored],
        rooms: "*".into(),
    }];
    let folder = tempfile::tempdir().unwrap();
    let embedded = Arc::new(EmbeddedLog::open(folder.path()).unwrap());
    let (_gate, is_open) = watch::channel(true);
    let log = Slow::new(embedded.clone(), is_open);
    let bus = Arc::new(InProcessBus::new());
    let buckets = Arc::new(EmbeddedBuckets::of(embedded));
    let fanout = Fanout::new(&settings, log.clone(), bus.clone(), buckets).unwrap().sole();
    let counters = fanout.counters.clone();
    let stop = CancellationToken::new();
    let running = tokio::spawn(fanout.run(stop.clone(), Shutdown::new()));
    until(|| counters.takeovers.load(Relaxed) == u64::from(PARTITIONS)).await;

    let partition = PartitionId(3);
    let heard = bus.subscribe(&down_subject(GATEWAY, partition)).await.unwrap();
    let mut link = Link { bus: bus.clone(), partition, heard, number: 0, publishes: 0 };
    let names = (0..).map(|number| RoomName::parse(&format!("room {number}")).unwrap());
    let rooms: Vec<RoomName> = names.filter(|name| name.partition() == partition).take(ROOMS as usize).collect();
    let said = rooms.iter().map(|room| link.publish(room)).collect();
    link.say(said);
    until(|| counters.partitions[partition.index()].appends.load(Relaxed) == ROOMS).await;
    let mut held = Vec::new();
    while held.len() < AT_ONCE {
        held.push(timeout(PATIENCE, receiver.accept()).await.expect("a request").unwrap());
    }
    // Whatever was to be read besides would have been by the time that further messages are stored and noted.
    for room in rooms.iter().take(8) {
        let said = link.publish(room);
        link.say(vec![said]);
        let number = link.publishes;
        link.hears(|item| matches!(item, down::Item::Published(told) if told.publish == number)).await;
    }
    assert_eq!(log.reads.load(Relaxed), AT_ONCE);
    stop.cancel();
    running.await.unwrap();
}

async fn until(is_so: impl Fn() -> bool) {
    let waited = async {
        while !is_so() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, waited).await.expect("in time");
}
