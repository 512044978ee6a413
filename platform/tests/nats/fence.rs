//! Of two logs that opened a partition, only the last one appends.

use std::time::Duration;

use bytes::Bytes;
use carillon_platform::{
    log::{Append, AppendError, JetStreamConfig, JetStreamLog, Log, ReadLimit, ReadSpan},
    nats::Nats,
    settings::{self, Program, Settings},
};
use carillon_proto::ids::{PartitionId, RoomName};
use futures_util::future::join_all;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use crate::server::NatsServer;

const P: PartitionId = PartitionId(3);
const ALL: ReadLimit = ReadLimit { records: 10_000, bytes: 10_000_000 };

fn entry(room: &RoomName, offset: u64, sequence: u64, text: &str) -> Append {
    Append { room: room.clone(), offset, sequence, record: text.to_owned().into() }
}

/// Opens the partition, as soon as its stream has a leader.
async fn open(log: &impl Log) -> u64 {
    loop {
        match log.open(P).await {
            Ok(opened) => return opened.last,
            Err(error) => eprintln!("not yet: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn zombie_stores_nothing() {
    let server = NatsServer::start();
    let (zombie, owner) = (server.log().await, server.log().await);
    let room = RoomName::parse("a").unwrap();
    let last = zombie.open(P).await.unwrap().last;

    // The owner comes while the zombie's pipeline is full.
    let under_way: Vec<_> = (1..=2_000).map(|n| zombie.append(P, entry(&room, n, last + n, "zombie"))).collect();
    let marker = owner.open(P).await.unwrap().last;
    let under_way = join_all(under_way).await;
    let acked = under_way.iter().take_while(|ack| ack.is_ok()).count() as u64;
    assert!(under_way[acked as usize..].iter().all(|ack| matches!(ack, Err(AppendError::Fenced { .. }))), "{under_way:?}");
    assert!(marker > last + acked, "{marker}");

    // Whatever the zombie tries now: with the right numbers, with its old ones, in a new room.
    let b = RoomName::parse("b").unwrap();
    let late = [
        zombie.append(P, entry(&room, acked + 1, marker + 1, "late")),
        zombie.append(P, entry(&room, acked + 1, last + acked + 1, "late")),
        zombie.append(P, entry(&b, 1, marker + 1, "late")),
    ];
    assert!(join_all(late).await.iter().all(Result::is_err));

    let mine = (1..=100).map(|n| owner.append(P, entry(&room, acked + n, marker + n, "owner")));
    assert!(join_all(mine).await.iter().all(Result::is_ok));
    let part = owner.read(P, &room, ReadSpan::After(acked), ALL).await.unwrap();
    assert_eq!(part.records.len(), 100);
    assert!(part.records.iter().all(|stored| stored.record == "owner"));
    let recent = owner.recent(P, Duration::from_secs(60), Bytes::copy_from_slice).await.unwrap();
    assert!(recent.iter().all(|stored| (stored.record == "owner") == (stored.sequence > marker)));
    assert_eq!(recent.len() as u64, acked + 100);

    // The zombie opens again and is the owner: then the other one can't append.
    let marker = zombie.open(P).await.unwrap().last;
    assert_eq!(zombie.append(P, entry(&b, 1, marker + 1, "back")).await, Ok(marker + 1));
    let ack = owner.append(P, entry(&room, acked + 101, marker, "late")).await;
    assert!(matches!(ack, Err(AppendError::Fenced { .. })), "{ack:?}");
}

/// A purge takes no part in the chain of appends: what it may take is bounded by its sequence alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn zombie_purges_nothing_of_the_next_owner() {
    let server = NatsServer::start();
    let (zombie, owner) = (server.log().await, server.log().await);
    let room = RoomName::parse("a").unwrap();
    let last = zombie.open(P).await.unwrap().last;
    for n in 1..=4 {
        assert_eq!(zombie.append(P, entry(&room, n, last + n, "old")).await, Ok(last + n));
    }
    let marker = owner.open(P).await.unwrap().last;
    assert_eq!(owner.empty(P, &room, marker).await, Ok(()));
    for n in 1..=3 {
        assert_eq!(owner.append(P, entry(&room, n, marker + n, "new")).await, Ok(marker + n));
    }
    // The zombie found the room too old before it was stopped, and wants to empty it, or to trim it, only now.
    assert!(zombie.empty(P, &room, last + 4).await.is_err());
    assert_eq!(zombie.trim(P, &room, 4, last + 4).await, Ok(()));
    let part = owner.read(P, &room, ReadSpan::After(0), ALL).await.unwrap();
    assert_eq!((part.first, part.records.len()), (1, 3));

    // A purge that was on its way since before the owner came.
    let b = RoomName::parse("b").unwrap();
    assert_eq!(owner.append(P, entry(&b, 1, marker + 4, "new")).await, Ok(marker + 4));
    let client = async_nats::connect(format!("nats://127.0.0.1:{}", server.port())).await.unwrap();
    let stream = async_nats::jetstream::new(client).get_stream(format!("LOG_{P}")).await.unwrap();
    let subject = format!("log.{P}.r.b");
    stream.purge().filter(subject).sequence(last + 5).await.unwrap();
    assert!(owner.head(P, &b).await.unwrap().is_some());
    assert_eq!(owner.append(P, entry(&room, 4, marker + 5, "new")).await, Ok(marker + 5));
}

/// A sequence that fits by chance is no permission: none fits, since a marker is taller than a pipeline is long.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn foreign_record_breaks_the_pipeline() {
    let server = NatsServer::start();
    let (zombie, owner) = (server.log().await, server.log().await);
    let room = RoomName::parse("a").unwrap();
    let last = zombie.open(P).await.unwrap().last;
    assert_eq!(zombie.append(P, entry(&room, 1, last + 1, "zombie")).await, Ok(last + 1));
    // A marker of one message would take the sequence of the first of these, and so the second one's number would be free again.
    let marker = owner.open(P).await.unwrap().last;
    assert!(marker > last + 500, "{marker}");
    let late: Vec<_> = (2..=500).map(|n| zombie.append(P, entry(&room, n, last + n, "late"))).collect();
    assert!(join_all(late).await.iter().all(|ack| matches!(ack, Err(AppendError::Fenced { .. }))));
    let head = owner.head(P, &room).await.unwrap().unwrap();
    assert_eq!(head.sequence, last + 1);
}

/// Lets a client through to the server until it has said something, then no byte more either way: as if it had been killed.
async fn killed_at(server: &NatsServer, last_words: &'static str) -> settings::Nats {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("nats://{}", listener.local_addr().unwrap());
    let port = server.port();
    tokio::spawn(async move {
        let (client, _) = listener.accept().await.unwrap();
        let server = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let ((mut from_client, mut to_client), (mut from_server, mut to_server)) = (client.into_split(), server.into_split());
        let answers = tokio::spawn(async move { tokio::io::copy(&mut from_server, &mut to_client).await });
        let (mut heard, mut told) = (Vec::new(), 0_usize);
        loop {
            let from = told.saturating_sub(last_words.len());
            let end = heard[from..].windows(last_words.len()).position(|window| window == last_words.as_bytes());
            let until = end.map_or(heard.len(), |end| (from + end).max(told));
            to_server.write_all(&heard[told..until]).await.unwrap();
            told = until;
            if end.is_some() {
                break;
            }
            assert!(from_client.read_buf(&mut heard).await.unwrap() > 0, "it never came to its last words");
        }
        answers.abort();
    });
    settings::Nats { url: settings::Url::parse(&url, &["nats"]), ..settings::Nats::default() }
}

/// A marker is a batch: of one whose writer dies in the middle nothing is ever stored, and the next owner waits for nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_a_marker_is_none() {
    let server = NatsServer::start();
    let (older, owner) = (server.log().await, server.log().await);
    let room = RoomName::parse("a").unwrap();
    let last = older.open(P).await.unwrap().last;
    assert_eq!(older.append(P, entry(&room, 1, last + 1, "old")).await, Ok(last + 1));

    let settings = killed_at(&server, "Nats-Batch-Sequence: 300\r\n").await;
    let config = JetStreamConfig::new(&Settings::defaults(Program::Fanout));
    let killed = JetStreamLog::start(Nats::connect(&settings, "killed").await.unwrap(), config).await.unwrap();
    assert!(killed.open(P).await.is_err());

    // Until somebody has replaced it, the older one goes on: half a marker breaks no chain.
    assert_eq!(older.append(P, entry(&room, 2, last + 2, "old")).await, Ok(last + 2));
    let opened = owner.open(P).await.unwrap();
    assert_eq!((opened.found, opened.last), (last + 2, last + 2 + 512));
    let late = older.append(P, entry(&room, 3, last + 3, "late")).await;
    assert!(matches!(late, Err(AppendError::Fenced { .. })), "{late:?}");
    assert_eq!(owner.append(P, entry(&room, 3, opened.last + 1, "new")).await, Ok(opened.last + 1));
    let part = owner.read(P, &room, ReadSpan::After(0), ALL).await.unwrap();
    assert!(part.records.iter().map(|stored| &stored.record[..]).eq([&b"old"[..], b"old", b"new"]));
    assert_eq!(owner.recent(P, Duration::from_secs(60), Bytes::copy_from_slice).await.unwrap().len(), 3);
}

/// The same on three nodes, again and again: what is refused is refused before the nodes agree on it, and so none of them takes it for
/// damage.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_outlive_zombies() {
    let nodes = NatsServer::start_three();
    let logs = [nodes[0].log_on_three().await, nodes[1].log_on_three().await];
    let room = RoomName::parse("a").unwrap();
    let mut head = 0;
    let mut last = open(&logs[0]).await;
    for turn in 0..6 {
        let (zombie, owner) = (&logs[turn % 2], &logs[(turn + 1) % 2]);
        let under_way: Vec<_> = (1..=400).map(|n| zombie.append(P, entry(&room, head + n, last + n, "zombie"))).collect();
        let (under_way, marker) = tokio::join!(join_all(under_way), open(owner));
        let acked = under_way.iter().take_while(|ack| ack.is_ok()).count() as u64;
        assert!(under_way[acked as usize..].iter().all(Result::is_err), "{under_way:?}");
        head += acked;
        // Neither less nor more than what was acked is there.
        let part = owner.read(P, &room, ReadSpan::After(0), ALL).await.unwrap();
        assert_eq!(part.records.len() as u64, head);
        assert_eq!(owner.append(P, entry(&room, head + 1, marker + 1, "owner")).await, Ok(marker + 1), "turn {turn}");
        (head, last) = (head + 1, marker + 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unopened_partition_refuses_appends() {
    let server = NatsServer::start();
    let log = server.log().await;
    let room = RoomName::parse("a").unwrap();
    assert!(matches!(log.append(P, entry(&room, 1, 1, "early")).await, Err(AppendError::Unknown(_))));
    let last = log.open(P).await.unwrap().last;
    assert_eq!(log.append(P, entry(&room, 1, last + 1, "now")).await, Ok(last + 1));
}
