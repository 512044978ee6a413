//! The other side of the crash tests: this test binary, run again by the tests as a process of its own, appends and tells what was
//! acked until it is killed or its log closes.

use std::{
    collections::HashMap,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, ChildStdout, Command, Stdio},
    time::Duration,
};

use bytes::Bytes;
use carillon_platform::log::{Append, AppendError, EmbeddedLog, Log, ReadLimit, ReadSpan};
use carillon_proto::ids::{Offset, PartitionId, RoomName};
use futures_util::{StreamExt, stream::FuturesOrdered};

/// How the child's process ends when its log has closed.
pub(crate) const LOG_CLOSED: i32 = 3;

const FOLDER: &str = "CRASH_TEST_FOLDER";
const COUNT: &str = "CRASH_TEST_COUNT";
const IN_FLIGHT: usize = 300;
const PARTITIONS: u8 = 4;

/// Rooms of every partition.
pub(crate) fn rooms() -> impl Iterator<Item = (PartitionId, RoomName)> {
    let room = |name: &str| RoomName::parse(name).expect("a legal name");
    (0..PARTITIONS).flat_map(move |partition| ["a", "a b", "räume"].map(|name| (PartitionId(partition), room(name))))
}

/// What the child stores at this place: of any length up to 12,000 bytes, so that records are both larger and smaller than a page, and
/// than what the store begins to compress.
pub(crate) fn record(partition: PartitionId, room: &RoomName, offset: Offset) -> Bytes {
    let text = format!("{partition} {room} {offset} ");
    let len = (offset * 7_919 % 3_000) * if offset.is_multiple_of(50) { 4 } else { 1 };
    Bytes::from(text.repeat(1 + len as usize / text.len()))
}

/// The whole room, which must be dense from its first offset on.
pub(crate) async fn read_all(log: &EmbeddedLog, partition: PartitionId, room: &RoomName) -> Vec<carillon_platform::log::Stored> {
    let limit = ReadLimit { records: usize::MAX, bytes: usize::MAX };
    log.read(partition, room, ReadSpan::After(0), limit).await.expect("readable").records
}

/// One ack, as the child told it.
#[derive(Debug)]
pub(crate) struct Acked {
    pub(crate) partition: PartitionId,
    pub(crate) room: RoomName,
    pub(crate) offset: Offset,
    pub(crate) sequence: u64,
}

pub(crate) enum Told {
    Acked(Acked),
    Closed(String),
}

/// A running child.
pub(crate) struct Appender {
    child: Child,
    lines: std::io::Lines<BufReader<ChildStdout>>,
}

impl Appender {
    /// Appends to the log in `folder`, on and on.
    pub(crate) fn start(folder: &Path) -> Self {
        Self::start_by(Command::new(this_binary()), folder, usize::MAX)
    }

    /// The same by a command that runs its arguments, for `count` appends.
    pub(crate) fn start_by(mut command: Command, folder: &Path, count: usize) -> Self {
        command.args(["--exact", "embedded_crash::child::child_process", "--nocapture"]);
        command.env(FOLDER, folder).env(COUNT, count.to_string()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("the test binary runs");
        let stdout = child.stdout.take().expect("it is piped");
        Self { child, lines: BufReader::new(stdout).lines() }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it tells next; `None` once it has ended.
    pub(crate) fn next(&mut self) -> Option<Told> {
        loop {
            let line = self.lines.next()?.expect("text");
            // What the test harness says is in between, and a line that the kill cut off is no ack.
            let words: Vec<_> = line.split('\t').collect();
            match words[..] {
                ["acked", partition, room, offset, sequence, "."] => {
                    return Some(Told::Acked(Acked {
                        partition: PartitionId(partition.parse().expect("a partition")),
                        room: RoomName::parse(room).expect("a room"),
                        offset: offset.parse().expect("an offset"),
                        sequence: sequence.parse().expect("a sequence"),
                    }));
                }
                ["closed", reason, "."] => return Some(Told::Closed(reason.into())),
                _ => {}
            }
        }
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("it runs");
    }

    pub(crate) fn exit_code(mut self) -> Option<i32> {
        self.child.wait().expect("it ends").code()
    }
}

impl Drop for Appender {
    fn drop(&mut self) {
        // Nothing to do if it has ended, which it may have.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn this_binary() -> std::path::PathBuf {
    std::env::current_exe().expect("known on Linux")
}

fn tell(line: &str) {
    // One write, so that a kill cuts at most the last line. Without a reader there is nothing left to do.
    let told = std::io::stdout().lock().write_all(format!("\n{line}\t.\n").as_bytes());
    told.expect("the parent listens");
}

/// Not a test: what the child runs. In an ordinary run nothing names a folder, and it does nothing.
#[tokio::test]
async fn child_process() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let mut count: usize = std::env::var(COUNT).expect("set beside the folder").parse().expect("a number");
    let log = EmbeddedLog::open(folder.as_ref()).expect("opens");
    let rooms: Vec<_> = rooms().collect();
    let mut heads = HashMap::new();
    for (partition, room) in &rooms {
        heads.insert((*partition, room.clone()), read_all(&log, *partition, room).await.len() as Offset);
    }
    let mut sequences = HashMap::new();
    for partition in (0..PARTITIONS).map(PartitionId) {
        sequences.insert(partition, log.open(partition).await.expect("readable").last);
    }

    let mut waiting = FuturesOrdered::new();
    for (partition, room) in rooms.iter().cycle() {
        while waiting.len() >= IN_FLIGHT || (count == 0 && !waiting.is_empty()) {
            let (place, ack): (_, Result<u64, AppendError>) = waiting.next().await.expect("some wait");
            match ack {
                Ok(sequence) => tell(&format!("acked\t{place}\t{sequence}")),
                Err(AppendError::Closed(_)) => count = 0,
                Err(error) => panic!("{error}"),
            }
        }
        if count == 0 {
            break;
        }
        count -= 1;
        let offset = heads.get_mut(&(*partition, room.clone())).expect("all are in it");
        let sequence = sequences.get_mut(partition).expect("all are in it");
        (*offset, *sequence) = (*offset + 1, *sequence + 1);
        let record = record(*partition, room, *offset);
        let append = Append { room: room.clone(), offset: *offset, sequence: *sequence, record };
        let ack = log.append(*partition, append);
        let place = format!("{partition}\t{room}\t{offset}");
        waiting.push_back(async move { (place, ack.await) });
    }
    // Far longer than the log needs to notice, so that a test fails instead of waiting for ever.
    let closed = tokio::time::timeout(Duration::from_secs(60), log.closed()).await.expect("the log closes");
    tell(&format!("closed\t{closed}"));
    std::process::exit(LOG_CLOSED);
}
