//! Reads along the links give what the embedded log gives, with few reads.

use std::sync::Arc;

use carillon_platform::log::{Append, EmbeddedLog, Log, ReadLimit, ReadSpan};
use carillon_proto::ids::{PartitionId, RoomName};
use futures_util::future::join_all;
use tempfile::TempDir;

use crate::server::NatsServer;

const P: PartitionId = PartitionId(3);

/// A fixed scatter of rooms: some busy, some rare.
fn room_of(n: u64) -> u64 {
    let scattered = n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
    (scattered % 100) * (scattered % 7) / 6
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_logs_read_alike() {
    const MESSAGES: u64 = 5_000;
    let (server, folder) = (NatsServer::start(), TempDir::new().unwrap());
    let embedded = Arc::new(EmbeddedLog::open(folder.path()).unwrap());
    let nats = server.log().await;
    let rooms: Vec<_> = (0..100).map(|n| RoomName::parse(&format!("room {n}")).unwrap()).collect();

    let logs: [&dyn Log; 2] = [&*embedded, &nats];
    for log in logs {
        let mut last = log.open(P).await.unwrap().last;
        let mut heads = vec![0; rooms.len()];
        for piece in 0..10 {
            // The links go on where they ended before.
            if piece == 5 {
                last = log.open(P).await.unwrap().last;
            }
            let acks: Vec<_> = (1..=MESSAGES / 10)
                .map(|n| {
                    let room = room_of(piece * MESSAGES / 10 + n) as usize;
                    heads[room] += 1;
                    let record = format!("{room} {}", heads[room]).into();
                    log.append(P, Append { room: rooms[room].clone(), offset: heads[room], sequence: last + n, record })
                })
                .collect();
            assert!(join_all(acks).await.iter().all(Result::is_ok));
            last += MESSAGES / 10;
        }
        for room in [3, 7, 10] {
            log.trim(P, &rooms[room], heads[room] / 2, u64::MAX).await.unwrap();
        }
    }

    let told = async |log: &dyn Log, room, span, limit| {
        let part = log.read(P, room, span, limit).await.unwrap();
        (part.records.into_iter().map(|stored| stored.record).collect::<Vec<_>>(), part.first)
    };
    for (n, room) in rooms.iter().enumerate() {
        let limits = [(50, 1_000_000), (1, 1_000_000), (1_000, 1_000_000), (1_000, 300)];
        // All limits on a few rooms, the trimmed ones among them; one limit on the others, for the sake of time.
        for (records, bytes) in limits.into_iter().take(if n < 12 { 4 } else { 1 }) {
            let limit = ReadLimit { records, bytes };
            for offset in [0, 1, 2, 15, 16, 17, 40, 100, 1_000, u64::MAX] {
                for span in [ReadSpan::After(offset), ReadSpan::Before(offset)] {
                    let (expected, found) = tokio::join!(told(&*embedded, room, span, limit), told(&nats, room, span, limit));
                    assert_eq!(found, expected, "{room} {span:?} {limit:?}");
                }
            }
        }
    }
}
