//! NATS goes away and comes back: nothing acked is lost, and everything heals by itself.

use std::time::{Duration, Instant};

use bytes::Bytes;
use carillon_platform::{
    bus::{Bus, NatsBus},
    log::{Append, AppendError, JetStreamLog, Log, Opened, ReadLimit, ReadSpan},
};
use carillon_proto::ids::{PartitionId, RoomName};
use futures_util::future::join_all;

use crate::server::NatsServer;

const P: PartitionId = PartitionId(3);
const ALL: ReadLimit = ReadLimit { records: 100_000, bytes: 100_000_000 };

async fn open_when_back(log: &JetStreamLog) -> Opened {
    let started = Instant::now();
    loop {
        match log.open(P).await {
            Ok(opened) => return opened,
            Err(error) => assert!(started.elapsed() < Duration::from_secs(30), "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acked_survive_a_kill() {
    let mut server = NatsServer::start();
    let log = server.log().await;
    let room = RoomName::parse("a").unwrap();
    let last = log.open(P).await.unwrap().last;
    let append = |n: u64, sequence| {
        let record = format!("{n} {}", "x".repeat(200)).into();
        log.append(P, Append { room: room.clone(), offset: n, sequence, record })
    };

    let mut acked = 0;
    let mut under_way: Vec<_> = (1..=4_000).map(|n| append(n, last + n)).collect();
    for ack in under_way.drain(..500) {
        acked += u64::from(ack.await.is_ok());
    }
    server.kill();
    let killed = Instant::now();
    let rest = join_all(under_way).await;
    assert!(killed.elapsed() < Duration::from_secs(3), "the break is told, not waited for: {:?}", killed.elapsed());
    acked += rest.iter().take_while(|ack| ack.is_ok()).count() as u64;
    assert!(rest.iter().skip_while(|ack| ack.is_ok()).all(|ack| matches!(ack, Err(AppendError::Unknown(_)))));
    assert!(matches!(append(acked + 1, last + acked + 1).await, Err(AppendError::Unknown(_))));
    assert!(log.open(P).await.is_err());

    server.restart();
    let last = open_when_back(&log).await.last;
    let stored = log.read(P, &room, ReadSpan::After(0), ALL).await.unwrap().records;
    let stored_count = stored.len() as u64;
    assert!(stored_count >= acked, "acked {acked}, stored {stored_count}");
    for (stored, n) in stored.iter().zip(1_u64..) {
        assert!(stored.record.starts_with(format!("{n} ").as_bytes()));
    }
    assert_eq!(log.recent(P, Duration::from_secs(60), Bytes::copy_from_slice).await.unwrap().len() as u64, stored_count);
    let more = (1..=100).map(|n| append(stored_count + n, last + n));
    assert!(join_all(more).await.iter().all(Result::is_ok));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn subscriptions_come_back() {
    let mut server = NatsServer::start();
    let bus = NatsBus::new(server.connect().await);
    let mut heard = bus.subscribe("a").await.unwrap();
    bus.publish("a", "before".into());
    assert_eq!(heard.next().await.unwrap(), "before");

    server.kill();
    tokio::time::sleep(Duration::from_millis(300)).await;
    for _ in 0..1_000 {
        bus.publish("a", "away".into());
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(bus.unsent(), 1_000);
    assert!(bus.subscribe("b").await.is_err());

    server.restart();
    let heard = tokio::time::timeout(Duration::from_secs(10), async {
        loop {
            bus.publish("a", "after".into());
            tokio::time::sleep(Duration::from_millis(20)).await;
            if let Some(batch) = heard.try_next() {
                return batch;
            }
        }
    });
    assert_eq!(heard.await.unwrap(), "after");
}

#[tokio::test]
async fn slow_subscriber_loses_counted() {
    let server = NatsServer::start();
    let bus = NatsBus::new(server.connect().await);
    let mut slow = bus.subscribe("a").await.unwrap();
    let mut quick = bus.subscribe("b").await.unwrap();
    for n in 0..3_000_u32 {
        bus.publish("a", n.to_string().into());
        if n % 500 == 499 {
            bus.publish("b", "so far".into());
            assert_eq!(quick.next().await.unwrap(), "so far");
        }
    }
    assert_eq!(bus.unsent(), 0);
    tokio::time::sleep(Duration::from_millis(100)).await;
    let mut heard = 0;
    while slow.try_next().is_some() {
        heard += 1;
    }
    assert_eq!(heard + bus.unheard(), 3_000);
    assert!(bus.unheard() > 0);
}
