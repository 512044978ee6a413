//! Streams that are not as the log makes them: that another process makes at the same moment, or that an older version made.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use async_nats::{
    HeaderMap,
    jetstream::{self, stream::Config},
};
use bytes::Bytes;
use carillon_platform::{
    log::{Append, JetStreamConfig, JetStreamLog, Log, LogError, ReadLimit, ReadSpan},
    settings::{Program, Settings},
};
use carillon_proto::ids::{PARTITIONS, PartitionId, RoomName};
use futures_util::StreamExt as _;
use serde_json::{Value, json};

use crate::server::NatsServer;

const P: PartitionId = PartitionId(3);

/// A node of a cluster that refuses a name because another node gave it out, and does not find the stream yet. Looking for it and
/// making it took turns without a pause, each inside the other, until the stack was full.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_that_are_not_known_yet_are_waited_for() {
    const REFUSALS: u64 = 10 * PARTITIONS as u64;
    // JetStream's part is played here.
    let server = NatsServer::start_without_jetstream();
    let client = async_nats::connect(format!("nats://127.0.0.1:{}", server.port())).await.unwrap();
    let mut asked = client.subscribe("$JS.API.STREAM.*.*").await.unwrap();
    client.flush().await.unwrap();
    let refusals = Arc::new(AtomicU64::new(0));
    let refused = refusals.clone();
    tokio::spawn(async move {
        let mut configs: HashMap<String, Value> = HashMap::new();
        while let Some(request) = asked.next().await {
            let mut words = request.subject.split('.').skip(3).map(str::to_owned);
            let (verb, name) = (words.next().unwrap(), words.next().unwrap());
            let is_hidden = refused.load(Relaxed) < REFUSALS;
            let answer = match verb.as_str() {
                "INFO" if is_hidden => error(404, 10059, "stream not found"),
                "INFO" => found(&configs[&name]),
                "CREATE" => {
                    refused.fetch_add(1, Relaxed);
                    configs.insert(name, serde_json::from_slice(&request.payload).unwrap());
                    error(400, 10058, "stream name already in use with a different configuration")
                }
                _ => found(&serde_json::from_slice(&request.payload).unwrap()),
            };
            client.publish(request.reply.unwrap(), answer.to_string().into()).await.unwrap();
        }
    });

    let started = Instant::now();
    let config = JetStreamConfig::new(&Settings::defaults(Program::Fanout));
    JetStreamLog::start(server.connect().await, config).await.unwrap();
    assert!(refusals.load(Relaxed) >= REFUSALS);
    // Each partition paused nine times for 100 ms before it had been refused so often.
    assert!(started.elapsed() > Duration::from_millis(800), "{:?}", started.elapsed());
}

fn error(code: u64, err_code: u64, description: &str) -> Value {
    json!({ "error": { "code": code, "err_code": err_code, "description": description } })
}

fn found(config: &Value) -> Value {
    let never = "0001-01-01T00:00:00Z";
    let state = json!({
        "messages": 0, "bytes": 0, "first_seq": 0, "first_ts": never, "last_seq": 0, "last_ts": never, "consumer_count": 0,
    });
    json!({ "config": config, "created": "2026-01-01T00:00:00Z", "state": state })
}

/// Before markers were batches, a stream did not allow them, a marker was one message, and ids chained what was appended.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_of_older_versions_are_brought_up() {
    let server = NatsServer::start();
    drop(server.log().await);
    let client = async_nats::connect(format!("nats://127.0.0.1:{}", server.port())).await.unwrap();
    let context = jetstream::new(client);
    let name = format!("LOG_{P}");
    let config = context.get_stream(&name).await.unwrap().cached_info().config.clone();
    context.delete_stream(&name).await.unwrap();
    context.create_stream(Config { allow_atomic_publish: false, ..config }).await.unwrap();
    for (subject, offset, record) in [("m", None, ""), ("r.a", Some("1"), "old")] {
        let mut headers = HeaderMap::new();
        headers.insert("Carillon-Writer", "older");
        headers.insert("Nats-Msg-Id", format!("1.{subject}"));
        if let Some(offset) = offset {
            headers.insert("Carillon-Offset", offset);
            headers.insert("Carillon-Back", "");
        }
        let ack = context.publish_with_headers(format!("log.{P}.{subject}"), headers, record.into()).await.unwrap();
        ack.await.unwrap();
    }

    let log = server.log().await;
    assert!(context.get_stream(&name).await.unwrap().cached_info().config.allow_atomic_publish);
    let opened = log.open(P).await.unwrap();
    assert_eq!((opened.found, opened.last), (2, 2 + 512));
    let a = RoomName::parse("a").unwrap();
    let append = Append { room: a.clone(), offset: 2, sequence: opened.last + 1, record: "new".into() };
    assert_eq!(log.append(P, append).await, Ok(opened.last + 1));
    let part = log.read(P, &a, ReadSpan::After(0), ReadLimit { records: 10, bytes: 1_000 }).await.unwrap();
    assert!(part.records.iter().map(|stored| &stored.record[..]).eq([b"old", b"new"]));
    assert_eq!(log.recent(P, Duration::from_secs(60), Bytes::copy_from_slice).await.unwrap().len(), 2);
}

/// What a node answers that was cut off for a while and lags behind the others: less than the marker that was acked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_lags_behind_the_marker_is_not_believed() {
    let server = NatsServer::start();
    let log = server.log().await;
    log.open(P).await.unwrap();
    let client = async_nats::connect(format!("nats://127.0.0.1:{}", server.port())).await.unwrap();
    let context = jetstream::new(client);
    let name = format!("LOG_{P}");
    let config = context.get_stream(&name).await.unwrap().cached_info().config.clone();
    context.delete_stream(&name).await.unwrap();
    context.create_stream(config).await.unwrap();
    let recent = async || log.recent(P, Duration::from_secs(60), Bytes::copy_from_slice).await;
    assert!(matches!(recent().await, Err(LogError::Unavailable(_))));
    // With a marker of its own the stream is what it says.
    log.open(P).await.unwrap();
    assert_eq!(recent().await.unwrap().len(), 0);
}
