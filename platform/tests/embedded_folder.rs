//! Whose the embedded log's folder is, and which folders it takes.

use std::fs;

use carillon_platform::log::{Append, EmbeddedLog, Log};
use carillon_proto::ids::{PartitionId, RoomName};
use tempfile::TempDir;

fn refusal(folder: &TempDir) -> String {
    EmbeddedLog::open(folder.path()).err().expect("refused").to_string()
}

/// Changes what the log says about itself, as another build would have written it.
fn say(folder: &TempDir, name: &str, value: &str) {
    let store = fjall::Database::builder(folder.path().join("log")).open().unwrap();
    store.keyspace("meta", Default::default).unwrap().insert(name, value).unwrap();
    store.persist(fjall::PersistMode::SyncAll).unwrap();
}

#[test]
fn second_open_is_refused() {
    let folder = TempDir::new().unwrap();
    let log = EmbeddedLog::open(folder.path()).unwrap();
    let refusal = refusal(&folder);
    assert!(refusal.contains(&folder.path().display().to_string()), "{refusal}");
    assert!(refusal.contains(&format!("(pid {})", std::process::id())), "{refusal}");
    drop(log);
    EmbeddedLog::open(folder.path()).unwrap();
}

#[tokio::test]
async fn dropping_writes_what_is_queued() {
    let folder = TempDir::new().unwrap();
    let log = EmbeddedLog::open(folder.path()).unwrap();
    let room = RoomName::parse("a").unwrap();
    for n in 1..=1_000 {
        // Not even awaited.
        drop(log.append(PartitionId(0), Append { room: room.clone(), offset: n, sequence: n, record: "x".into() }));
    }
    drop(log);
    let log = EmbeddedLog::open(folder.path()).unwrap();
    assert_eq!(log.open(PartitionId(0)).await.unwrap().last, 1_000);
}

#[test]
fn foreign_logs_are_refused() {
    for (name, value) in [("format", "2"), ("partitions", "32"), ("hash", "crc32")] {
        let folder = TempDir::new().unwrap();
        drop(EmbeddedLog::open(folder.path()).unwrap());
        say(&folder, name, value);
        let refusal = refusal(&folder);
        assert!(refusal.contains(&format!("made with {name} {value}, this build expects")), "{refusal}");
        assert!(refusal.contains(&folder.path().display().to_string()), "{refusal}");
    }
}

#[test]
fn half_made_folder_is_made_anew() {
    let folder = TempDir::new().unwrap();
    // What is left of a process that ended while it made its log.
    fs::create_dir_all(folder.path().join("log.new/keyspaces")).unwrap();
    fs::write(folder.path().join("log.new/0.jnl"), "").unwrap();
    EmbeddedLog::open(folder.path()).unwrap();
    assert!(!folder.path().join("log.new").exists());
}

#[test]
fn unwritable_folder_is_told() {
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join("file"), "").unwrap();
    let refusal = EmbeddedLog::open(&folder.path().join("file")).err().expect("refused").to_string();
    assert!(refusal.contains("file: "), "{refusal}");
}
