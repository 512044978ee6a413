//! Several replicas of the owners: whoever dies, stops for a while, comes or goes, nothing that was acked is lost or stored
//! twice, and every partition is owned again. A speaker per partition says 1, 2, 3, … under keys; what is in the streams
//! afterwards is looked at too.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use async_nats::jetstream::consumer::pull::OrderedConfig;
use carillon_proto::ids::{PARTITIONS, PartitionId, RoomName};
use futures_util::StreamExt as _;
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{interval, sleep, timeout},
};

use crate::{
    client::{Client, Event},
    load::Door,
    server::{PATIENCE, Part, Server, Service, get, value_of},
};

/// Between two messages of a speaker.
const PACE: Duration = Duration::from_millis(10);

/// Says 1, 2, 3, … to the one room of a partition that is its own, each once the one before is acked.
struct Speaker {
    room: String,
    acked: Arc<Mutex<Vec<Instant>>>,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Speaker {
    async fn start(server: &Server, partition: PartitionId) -> Self {
        let mut names = (0..).map(|n| format!("room {n}"));
        let room = names.find(|name| RoomName::parse(name).unwrap().partition() == partition).unwrap();
        let door = Door { address: server.listen, token: server.token("speaker"), client: format!("speaker{partition}") };
        let (stop, stopped) = watch::channel(false);
        let acked = Arc::new(Mutex::new(Vec::new()));
        let client = door.enter().await;
        let task = tokio::spawn(speak(client, door, room.clone(), acked.clone(), stopped));
        Self { room, acked, stop, task }
    }

    fn said(&self) -> usize {
        self.acked.lock().unwrap().len()
    }

    /// The longest time without an ack since then, up to now.
    fn pause_since(&self, since: Instant) -> Duration {
        let acked = self.acked.lock().unwrap();
        let times: Vec<Instant> = acked.iter().copied().filter(|at| *at > since).chain([Instant::now()]).collect();
        let before = std::iter::once(since).chain(times.iter().copied());
        times.iter().zip(before).map(|(at, before)| *at - before).max().unwrap_or_default()
    }
}

async fn speak(mut client: Client, door: Door, room: String, acked: Arc<Mutex<Vec<Instant>>>, stopped: watch::Receiver<bool>) {
    let mut pace = interval(PACE);
    for number in 1.. {
        pace.tick().await;
        if *stopped.borrow() {
            return;
        }
        let text = format!(r#"{{"type":"broadcast","room":"{room}","payload":{number},"ref":{number},"key":"k{number}"}}"#);
        let mut is_whole = client.try_send(text.clone()).await;
        let offset = loop {
            if !is_whole {
                client = door.enter().await;
                is_whole = client.try_send(text.clone()).await;
                continue;
            }
            match client.event().await {
                Event::Frame(ack) if ack.kind() == "ack" => break ack.number("offset"),
                Event::Frame(error) => {
                    assert_eq!(error.text("code"), "unavailable", "{}", error.raw);
                    sleep(Duration::from_millis(100)).await;
                    is_whole = client.try_send(text.clone()).await;
                }
                Event::Ping => {}
                Event::Closed(..) => is_whole = false,
            }
        };
        // Nobody else speaks there: every number has the offset of its own value, or one was lost or stored twice.
        assert_eq!(offset, number, "{room}");
        acked.lock().unwrap().push(Instant::now());
    }
}

/// All speakers of a cluster.
struct Load(Vec<Speaker>);

impl Load {
    async fn start(server: &Server) -> Self {
        let mut speakers = Vec::new();
        for partition in PartitionId::all() {
            speakers.push(Speaker::start(server, partition).await);
        }
        let load = Self(speakers);
        load.until_all_are_acked_again().await;
        load
    }

    /// Waits until each has had a few acks more.
    async fn until_all_are_acked_again(&self) {
        let before: Vec<usize> = self.0.iter().map(Speaker::said).collect();
        let again = timeout(PATIENCE, async {
            while self.0.iter().zip(&before).any(|(speaker, before)| speaker.said() < before + 5) {
                sleep(Duration::from_millis(10)).await;
            }
        });
        assert!(again.await.is_ok(), "some partitions stay silent");
    }

    /// Prints the pauses per partition: the median, and the longest.
    fn tell(&self, what: &str, since: Instant) {
        let mut pauses: Vec<Duration> = self.0.iter().map(|speaker| speaker.pause_since(since)).collect();
        pauses.sort_unstable();
        println!(
            "{what}: time without acks per partition: p50 {:.2?}, max {:.2?}",
            pauses[pauses.len() / 2],
            pauses.last().unwrap()
        );
    }

    /// Ends the load, and proves that what was acked is what is stored, once, in order, and readable.
    async fn ends_stored(self, server: &Server) {
        let mut reader = server.connect("reader").await;
        let mut all = 0;
        for speaker in &self.0 {
            let _ = speaker.stop.send(true);
        }
        for Speaker { room, acked, task, .. } in self.0 {
            timeout(PATIENCE, task).await.expect("the last ack in time").expect("every number had its own offset");
            let count = acked.lock().unwrap().len() as u64;
            assert_eq!(reader.join_with(&room, r#""since":0,"last":0"#).await.number("offset"), count);
            for number in 1..=count {
                let message = reader.expect("message").await;
                assert_eq!((message.number("offset"), message.number("payload")), (number, number), "{}", message.raw);
            }
            all += count;
        }
        let markers = nothing_is_stored_after_a_marker(server).await;
        println!("{all} messages acked, each stored once and in order, under {markers} markers");
    }
}

/// Every record follows the newest marker before it in the chain of that one's owner. The number of markers.
async fn nothing_is_stored_after_a_marker(server: &Server) -> usize {
    let nats = async_nats::connect(server.nats_url()).await.unwrap();
    let context = async_nats::jetstream::new(nats);
    let mut markers = 0;
    for partition in PartitionId::all() {
        let mut stream = context.get_stream(format!("LOG_{partition}")).await.unwrap();
        let last = stream.info().await.unwrap().state.last_sequence;
        let consumer = stream.create_consumer(OrderedConfig::default()).await.unwrap();
        let mut messages = consumer.messages().await.unwrap();
        let (mut writer, mut sequence) = (String::new(), 0);
        while sequence < last {
            let message = timeout(PATIENCE, messages.next()).await.expect("all that is stored").unwrap().unwrap();
            sequence = message.info().unwrap().stream_sequence;
            let tag = message.headers.as_ref().and_then(|headers| headers.get("Carillon-Writer")).expect("a writer").as_str();
            if message.subject.ends_with(".m") && tag != writer {
                tag.clone_into(&mut writer);
                markers += 1;
            }
            assert_eq!(tag, writer, "{partition}: {sequence} was appended by an owner that another one had replaced");
        }
    }
    markers
}

async fn owned(fanout: &Part) -> u64 {
    value_of("carillon_partitions_owned", &get(fanout.admin, "/metrics").await.body)
}

/// Waits until the replicas own so many partitions each, in any order.
async fn until_spread(fanouts: &[&Part], mut expected: Vec<u64>) {
    expected.sort_unstable();
    let mut seen = Vec::new();
    let spread = timeout(PATIENCE, async {
        while seen != expected {
            sleep(Duration::from_millis(20)).await;
            seen.clear();
            for fanout in fanouts {
                seen.push(owned(fanout).await);
            }
            seen.sort_unstable();
        }
    });
    assert!(spread.await.is_ok(), "{seen:?} instead of {expected:?}");
}

const ALL: u64 = PARTITIONS as u64;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_owner_is_replaced() {
    let mut server = Server::cluster().await;
    let other = server.another_fanout("other").await;
    until_spread(&[server.service(Service::Fanout), &other], vec![ALL / 2, ALL / 2]).await;
    let load = Load::start(&server).await;
    let since = Instant::now();
    server.service(Service::Fanout).kill().await;
    until_spread(&[&other], vec![ALL]).await;
    load.until_all_are_acked_again().await;
    load.tell("owner killed", since);
    let since = Instant::now();
    server.service(Service::Fanout).start_again().await;
    until_spread(&[server.service(Service::Fanout), &other], vec![ALL / 2, ALL / 2]).await;
    load.until_all_are_acked_again().await;
    load.tell("owner back, half handed over", since);
    load.ends_stored(&server).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn zombie_owner_is_shut_out() {
    let mut server = Server::cluster().await;
    let other = server.another_fanout("other").await;
    until_spread(&[server.service(Service::Fanout), &other], vec![ALL / 2, ALL / 2]).await;
    let load = Load::start(&server).await;
    let since = Instant::now();
    server.service(Service::Fanout).signal("STOP");
    until_spread(&[&other], vec![ALL]).await;
    load.until_all_are_acked_again().await;
    // Well beyond the age at which its leases were taken.
    sleep(Duration::from_secs(10).saturating_sub(since.elapsed())).await;
    load.tell("owner stopped", since);
    let since = Instant::now();
    server.service(Service::Fanout).signal("CONT");
    load.until_all_are_acked_again().await;
    until_spread(&[server.service(Service::Fanout), &other], vec![ALL / 2, ALL / 2]).await;
    load.until_all_are_acked_again().await;
    load.tell("owner continued, half handed back", since);
    load.ends_stored(&server).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_come_and_go() {
    let mut server = Server::cluster().await;
    until_spread(&[server.service(Service::Fanout)], vec![ALL]).await;
    let load = Load::start(&server).await;
    let since = Instant::now();
    let (mut b, mut c) = (server.another_fanout("b").await, server.another_fanout("c").await);
    until_spread(&[server.service(Service::Fanout), &b, &c], vec![5, 5, 6]).await;
    load.until_all_are_acked_again().await;
    load.tell("one replica to three", since);
    let since = Instant::now();
    b.signal("TERM");
    c.signal("TERM");
    assert_eq!((b.ended().await.code(), c.ended().await.code()), (Some(0), Some(0)));
    until_spread(&[server.service(Service::Fanout)], vec![ALL]).await;
    load.until_all_are_acked_again().await;
    load.tell("three replicas to one", since);
    load.ends_stored(&server).await;
}
