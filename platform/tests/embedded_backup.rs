//! Copies of the embedded log: all that was acked before, nothing that came later, and another life once restored.

use carillon_platform::log::{Append, EmbeddedLog, Log, ReadLimit, ReadSpan, backup};
use carillon_proto::ids::{PartitionId, RoomName};
use tempfile::TempDir;

const P: PartitionId = PartitionId(3);
const ALL: ReadLimit = ReadLimit { records: 10_000, bytes: usize::MAX };

fn room(name: &str) -> RoomName {
    RoomName::parse(name).unwrap()
}

fn append(name: &str, offset: u64, sequence: u64) -> Append {
    Append { room: room(name), offset, sequence, record: format!("{name} {offset}").into() }
}

async fn records(log: &EmbeddedLog, name: &str) -> Vec<String> {
    let part = log.read(P, &room(name), ReadSpan::After(0), ALL).await.unwrap();
    part.records.iter().map(|stored| String::from_utf8(stored.record.to_vec()).unwrap()).collect()
}

#[tokio::test]
async fn restored_log_is_the_same_in_another_life() {
    let (from, to) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let log = EmbeddedLog::open(from.path()).unwrap();
    for n in 1..=2_000 {
        log.append(P, append("a", n, n)).await.unwrap();
    }
    log.append(P, append("b", 1, 2_001)).await.unwrap();
    log.trim(P, &room("a"), 1_000, 2_001).await.unwrap();
    let mut copy = Vec::new();
    let made = log.back_up(&mut copy).unwrap();
    log.append(P, append("b", 2, 2_002)).await.unwrap();
    assert_eq!(backup::check(&copy[..]).unwrap(), made);
    assert_eq!(backup::restore(to.path(), &copy[..]).unwrap(), made);

    let restored = EmbeddedLog::open(to.path()).unwrap();
    let (old, new) = (log.open(P).await.unwrap(), restored.open(P).await.unwrap());
    assert_eq!((old.last, new.last), (2_002, 2_001));
    assert_ne!(old.incarnation, new.incarnation);
    assert_eq!(records(&restored, "a").await, records(&log, "a").await);
    assert_eq!(records(&restored, "a").await.len(), 1_001);
    assert_eq!(records(&restored, "b").await, ["b 1"]);
    restored.append(P, append("b", 2, 2_002)).await.unwrap();
}

#[tokio::test]
async fn nothing_is_made_of_what_is_no_whole_backup() {
    let (from, to) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let log = EmbeddedLog::open(from.path()).unwrap();
    log.append(P, append("a", 1, 1)).await.unwrap();
    let mut copy = Vec::new();
    log.back_up(&mut copy).unwrap();
    for end in 0..copy.len() {
        assert!(backup::check(&copy[..end]).is_err(), "{end}");
    }
    for at in 0..copy.len() {
        let mut changed = copy.clone();
        changed[at] ^= 1;
        assert!(backup::check(&changed[..]).is_err(), "{at}");
    }
    let mut changed = copy.clone();
    *changed.last_mut().unwrap() ^= 1;
    let refused = backup::restore(to.path(), &changed[..]).unwrap_err().to_string();
    assert!(refused.contains("changed"), "{refused}");
    assert!(!to.path().join("log").exists() && !to.path().join("log.restored").exists());
    backup::restore(to.path(), &copy[..]).unwrap();
    let refused = backup::restore(to.path(), &copy[..]).unwrap_err().to_string();
    assert!(refused.contains("holds a log already"), "{refused}");
    let refused = backup::restore(from.path(), &copy[..]).unwrap_err().to_string();
    assert!(refused.contains("in use"), "{refused}");
}
