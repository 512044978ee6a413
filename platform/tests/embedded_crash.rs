//! What an ack of the embedded log is worth: processes that are killed, disks that are full, syncs that fail, journals that were
//! half written. Each with real processes and files.

mod embedded_crash {
    pub(crate) mod child;
}

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use carillon_platform::log::{Append, EmbeddedLog, Log, OpenError, Stored};
use carillon_proto::ids::{PartitionId, RoomName};
use tempfile::TempDir;

use self::embedded_crash::child::{Acked, Appender, LOG_CLOSED, Told, read_all, record, rooms, this_binary};

/// All that was acked is there, each room is dense and has nothing else in it, and appending goes on.
async fn check(folder: &Path, acked: &[Acked]) {
    let log = EmbeddedLog::open(folder).expect("opens");
    let mut found: HashMap<(PartitionId, RoomName), Vec<Stored>> = HashMap::new();
    let mut lasts: HashMap<PartitionId, u64> = HashMap::new();
    for (partition, room) in rooms() {
        let records = read_all(&log, partition, &room).await;
        for (stored, offset) in records.iter().zip(1..) {
            assert_eq!(stored.record, record(partition, &room, offset), "{partition} {room} {offset}");
        }
        let last = lasts.entry(partition).or_default();
        *last = records.iter().map(|stored| stored.sequence).fold(*last, u64::max);
        found.insert((partition, room), records);
    }
    for Acked { partition, room, offset, sequence } in acked {
        let stored = found[&(*partition, room.clone())].get(*offset as usize - 1);
        assert_eq!(stored.map(|stored| stored.sequence), Some(*sequence), "{partition} {room} {offset}");
    }
    for (partition, last) in lasts {
        let stored: usize = found.iter().filter(|((p, _), _)| *p == partition).map(|(_, records)| records.len()).sum();
        assert_eq!(stored as u64, last, "partition {partition} is dense");
        assert_eq!(log.open(partition).await.expect("readable").last, last, "partition {partition} goes on from its newest");
    }
    let (partition, room) = rooms().next().expect("some");
    let offset = found[&(partition, room.clone())].len() as u64 + 1;
    let sequence = log.open(partition).await.expect("readable").last + 1;
    let append = Append { record: record(partition, &room, offset), room, offset, sequence };
    assert_eq!(log.append(partition, append).await, Ok(sequence));
}

/// Everything that it tells, and why its log closed.
fn hear_out(child: &mut Appender, acked: &mut Vec<Acked>) -> Option<String> {
    let mut closed = None;
    while let Some(told) = child.next() {
        match told {
            Told::Acked(ack) => acked.push(ack),
            Told::Closed(reason) => closed = Some(reason),
        }
    }
    closed
}

#[tokio::test]
async fn killed_process_loses_nothing() {
    let folder = TempDir::new().unwrap();
    let mut acked = Vec::new();
    // The last one is longer, so that tables are written and merged and the journal (64 MB) is followed by another one.
    for acks in [1, 10, 1_000, 3_333, 50_000] {
        let mut child = Appender::start(folder.path());
        for _ in 0..acks {
            let Some(Told::Acked(ack)) = child.next() else { panic!("the child ended") };
            acked.push(ack);
        }
        child.kill();
        hear_out(&mut child, &mut acked);
        check(folder.path(), &acked).await;
    }
    assert!(folder.path().join("log/1.jnl").exists(), "the last one was long enough");
}

#[tokio::test]
async fn other_process_is_kept_out() {
    let folder = TempDir::new().unwrap();
    let mut child = Appender::start(folder.path());
    assert!(child.next().is_some());
    let refusal = EmbeddedLog::open(folder.path()).err().expect("refused").to_string();
    assert!(refusal.contains(&folder.path().display().to_string()), "{refusal}");
    assert!(refusal.contains(&format!("(pid {})", child.pid())), "{refusal}");
    child.kill();
    hear_out(&mut child, &mut Vec::new());
    check(folder.path(), &[]).await;
}

#[tokio::test]
async fn file_limit_closes_the_log() {
    let folder = TempDir::new().unwrap();
    // A journal is made with its full length, which the limit would not allow.
    drop(EmbeddedLog::open(folder.path()).unwrap());
    let mut shell = Command::new("sh");
    // In blocks of 512 bytes: 2 MiB.
    shell.args(["-c", "trap '' XFSZ; ulimit -f 4096; exec \"$0\" \"$@\""]).arg(this_binary());
    let mut child = Appender::start_by(shell, folder.path(), usize::MAX);
    let mut acked = Vec::new();
    let closed = hear_out(&mut child, &mut acked).expect("the log closed");
    assert!(closed.contains("os error 27"), "{closed}");
    assert_eq!(child.exit_code(), Some(LOG_CLOSED));
    assert!(acked.len() > 500, "{}", acked.len());
    check(folder.path(), &acked).await;
}

/// A small disk of its own, or `None` where mounting is not allowed.
struct Disk(TempDir);

impl Disk {
    fn mount(size: &str) -> Option<Self> {
        let folder = TempDir::new().unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"]).arg(folder.path());
        if mount.status().is_ok_and(|status| status.success()) {
            return Some(Self(folder));
        }
        println!("skipped: mounting a small tmpfs needs root");
        None
    }

    fn grow(&self, size: &str) {
        let mut mount = Command::new("mount");
        mount.args(["-o", &format!("remount,size={size}")]).arg(self.0.path());
        assert!(mount.status().unwrap().success());
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}

#[tokio::test]
async fn full_disk_closes_the_log() {
    // The first is filled by the journal, the second while the first table of messages is written, by either of them.
    for size in ["4m", "13m"] {
        let Some(disk) = Disk::mount(size) else { return };
        let mut child = Appender::start(disk.0.path());
        let mut acked = Vec::new();
        let closed = hear_out(&mut child, &mut acked).expect("the log closed");
        assert!(closed.contains("os error 28") || closed.contains("failed to write a table"), "{size}: {closed}");
        assert_eq!(child.exit_code(), Some(LOG_CLOSED));
        assert!(acked.len() > 500, "{}", acked.len());
        disk.grow("128m");
        check(disk.0.path(), &acked).await;
    }
}

/// The store writes tables on its own time. That it can't must be known before the next append, which may not come for hours.
#[tokio::test]
async fn full_disk_closes_an_idle_log() {
    let Some(disk) = Disk::mount("13m") else { return };
    // A little more than the 8 MiB that the store gathers before it writes a table; with the journal, too much for this disk.
    let size: usize =
        rooms().map(|(partition, room)| (1..=1_000).map(|n| record(partition, &room, n).len()).sum::<usize>()).sum();
    let per_append = size / (1_000 * rooms().count()) + 30;
    let mut child = Appender::start_by(Command::new(this_binary()), disk.0.path(), 9 * 1024 * 1024 / per_append);
    let mut acked = Vec::new();
    hear_out(&mut child, &mut acked).expect("the log closed");
    assert_eq!(child.exit_code(), Some(LOG_CLOSED));
    disk.grow("128m");
    check(disk.0.path(), &acked).await;
}

#[tokio::test]
async fn failed_sync_closes_the_log() {
    let folder = TempDir::new().unwrap();
    let (library, trigger) = (folder.path().join("failing_sync.so"), folder.path().join("now"));
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/embedded_crash/failing_sync.c");
    let built = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(source).arg("-ldl").status();
    assert!(built.expect("a C compiler, which Rust links with").success());

    let data = folder.path().join("data");
    let mut command = Command::new(this_binary());
    command.env("LD_PRELOAD", &library).env("FAIL_SYNC", &trigger);
    let mut child = Appender::start_by(command, &data, usize::MAX);
    let mut acked = Vec::new();
    for _ in 0..2_000 {
        let Some(Told::Acked(ack)) = child.next() else { panic!("the child ended") };
        acked.push(ack);
    }
    fs::write(&trigger, "").unwrap();
    let closed = hear_out(&mut child, &mut acked).expect("the log closed");
    assert!(closed.contains("os error 5"), "{closed}");
    assert_eq!(child.exit_code(), Some(LOG_CLOSED));
    check(&data, &acked).await;
}

/// A log of which each record is a group of its own, closed in good order, and where each group ends in its journal.
struct Journal {
    folder: TempDir,
    path: PathBuf,
    /// Without the zeros at its end.
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Journal {
    const ROOM: &str = "a";
    const GROUPS: u64 = 5;

    async fn write() -> Self {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("log/0.jnl");
        let log = EmbeddedLog::open(folder.path()).unwrap();
        let mut ends = Vec::new();
        let mut bytes = Vec::new();
        for n in 1..=Self::GROUPS {
            let append = Append { room: Self::room(), offset: n, sequence: n, record: Self::record(n) };
            assert_eq!(log.append(PartitionId(0), append).await, Ok(n));
            bytes = fs::read(&path).unwrap();
            let zeros = bytes.iter().rev().take_while(|byte| **byte == 0).count();
            bytes.truncate(bytes.len() - zeros);
            ends.push(bytes.len());
        }
        assert!(ends.is_sorted_by(|a, b| a < b), "{ends:?}");
        Self { folder, path, bytes, ends }
    }

    fn room() -> RoomName {
        RoomName::parse(Self::ROOM).unwrap()
    }

    /// Short enough to be stored as it is: a hole in a compressed record is found by other means than one in a plain one.
    fn record(n: u64) -> bytes::Bytes {
        format!("{n} ").repeat(1_500).into()
    }

    /// The records that are found when the journal holds these bytes.
    async fn opens_with(&self, journal: &[u8]) -> Result<u64, OpenError> {
        fs::write(&self.path, journal).unwrap();
        let log = EmbeddedLog::open(self.folder.path())?;
        let records = read_all(&log, PartitionId(0), &Self::room()).await;
        for (stored, n) in records.iter().zip(1..) {
            assert_eq!((stored.sequence, &stored.record), (n, &Self::record(n)));
        }
        assert_eq!(log.open(PartitionId(0)).await.unwrap().last, records.len() as u64);
        Ok(records.len() as u64)
    }
}

#[tokio::test]
async fn unfinished_group_is_cut_off() {
    let journal = Journal::write().await;
    let (before, end) = (journal.ends[3], journal.ends[4]);
    // Cut short, as after a crash, and with the zeros behind that the file was made with.
    for cut in [before + 1, before + 13, before + 40, (before + end) / 2, end - 5, end - 1] {
        let short = &journal.bytes[..cut];
        assert_eq!(journal.opens_with(short).await.unwrap(), 4, "cut at {cut}");
        assert_eq!(journal.opens_with(&[short, &[0; 100_000]].concat()).await.unwrap(), 4, "cut at {cut}, then zeros");
    }
    // A sector in the middle that never reached the disk, as after a power cut: the store alone would refuse to open.
    let mut hole = journal.bytes.clone();
    hole[before + 1_000..before + 1_512].fill(0);
    assert_eq!(journal.opens_with(&hole).await.unwrap(), 4);
}

#[tokio::test]
async fn garbage_behind_loses_nothing() {
    let journal = Journal::write().await;
    let noise: Vec<u8> = (0..10_000u64).map(|n| (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect();
    for tag in 0..=5 {
        let garbled = [&journal.bytes, &[tag][..], &noise].concat();
        assert_eq!(journal.opens_with(&garbled).await.unwrap(), 5, "garbage that begins with {tag}");
    }
    // Half of a group that looks good until it ends.
    let half = &journal.bytes[journal.ends[3]..journal.ends[4] - 20];
    assert_eq!(journal.opens_with(&[&journal.bytes, half].concat()).await.unwrap(), 5);
}

#[tokio::test]
async fn damaged_acks_are_told() {
    let journal = Journal::write().await;
    for at in [journal.ends[1], journal.ends[1] + 13, journal.ends[1] + 1_500, journal.ends[2] - 1] {
        let mut damaged = journal.bytes.clone();
        damaged[at] ^= 0xff;
        let refusal = journal.opens_with(&damaged).await.expect_err("refused").to_string();
        assert!(refusal.contains("0.jnl") && refusal.contains(&format!("byte {}", journal.ends[1])), "{refusal}");
        assert_eq!(fs::read(&journal.path).unwrap(), damaged, "nothing is changed");
    }
    assert_eq!(journal.opens_with(&journal.bytes).await.unwrap(), 5);
}
