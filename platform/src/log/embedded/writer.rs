//! The one thread that writes: it takes all that is queued, commits it as one group with one sync, and answers in order.
//! While it syncs the next group gathers, so that a slow disk makes larger groups rather than longer waits.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use carillon_proto::ids::{Offset, PARTITIONS, PartitionId, RoomName};
use fjall::{OwnedWriteBatch, PersistMode};
use tokio::sync::{mpsc, oneshot, watch};

use super::{
    buckets::{Write, Writes},
    layout::{self, Floor},
    reads::{Reads, now_ms},
    store::Store,
};
use crate::log::{Append, AppendError, LogError, Sequence};

/// The most records in a group, those of its last command excepted: the first of them waits for the last one to be written, about 10 ms
/// for so many.
const MAX_GROUP: usize = 1_024;
/// The most bytes of records in a group, the last one excepted; about 10 ms of writing too.
const MAX_GROUP_BYTES: usize = 4 * 1024 * 1024;

/// Rooms of a partition whose newest offset is remembered, at about 100 bytes: 6 MiB in all. Others cost a look into the store.
const MAX_HEADS: usize = 4_096;

/// How long `order` remembers. Must be longer than anybody's window in [`crate::log::Log::recent`], the longest of which
/// is the 2 minutes in which an owner recognises repeats.
pub(super) const ORDER_WINDOW: Duration = Duration::from_secs(10 * 60);
/// Old entries are removed once the oldest is so much over the window, not one by one.
const ORDER_SLACK: Duration = Duration::from_secs(60);

/// Trimmed records that are removed with one group: what a trim of a long room may add to everybody's latency, about 2 ms.
const MAX_CLEARED: u64 = 512;
/// Trimmed rooms that wait for it; more trims are refused.
const MAX_CLEARINGS: usize = 1_024;

/// What the writer is asked for. Dropping an answer's sender tells that the log is closed.
pub(super) enum Command {
    /// Answered with the last sequence.
    Append {
        partition: PartitionId,
        appends: Vec<Append>,
        ack: oneshot::Sender<Result<Sequence, AppendError>>,
    },
    Trim {
        partition: PartitionId,
        room: RoomName,
        below: Offset,
        done: oneshot::Sender<Result<(), LogError>>,
    },
    Empty {
        partition: PartitionId,
        room: RoomName,
        through: Sequence,
        done: oneshot::Sender<Result<(), LogError>>,
    },
    Write(Write),
}

impl Command {
    /// What it holds in the queue.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Append { appends, .. } => appends.iter().map(|append| append.record.len()).sum(),
            Self::Write(write) => write.bytes(),
            Self::Trim { .. } | Self::Empty { .. } => 0,
        }
    }

    fn records(&self) -> usize {
        match self {
            Self::Append { appends, .. } => appends.len(),
            Self::Write(_) | Self::Trim { .. } | Self::Empty { .. } => 1,
        }
    }
}

/// Closes the log for good; the first reason stays.
pub(super) fn close(closed: &watch::Sender<Option<String>>, reason: String) {
    closed.send_if_modified(|closed| {
        let is_first = closed.is_none();
        if is_first {
            tracing::error!(reason, "the log is closed: the process must end");
            *closed = Some(reason);
        }
        is_first
    });
}

pub(super) struct Writer {
    store: Arc<Store>,
    queue: mpsc::Receiver<Command>,
    queued_bytes: Arc<AtomicUsize>,
    closed: watch::Sender<Option<String>>,
    tails: [Tail; PARTITIONS as usize],
    heads: [HashMap<RoomName, Offset>; PARTITIONS as usize],
    clearings: HashMap<(PartitionId, RoomName), Clearing>,
    buckets: Writes,
}

/// The end of a partition, and how far its `order` was forgotten.
#[derive(Default)]
struct Tail {
    last: Sequence,
    /// When `last` was appended, in Unix milliseconds; never falls, even if the clock does.
    last_ts: u64,
    /// `order` begins here or later,
    oldest: Sequence,
    /// and what is there is of this time or later.
    oldest_ts: u64,
    /// Appended in the group at hand.
    grown: usize,
}

/// A room whose records below the floor wait to be removed.
struct Clearing {
    floor: Floor,
    /// Whether the store knows this floor.
    is_written: bool,
}

/// An answer that is owed once the group is durable.
enum Answer {
    Append(oneshot::Sender<Result<Sequence, AppendError>>, Result<Sequence, AppendError>),
    Trim(oneshot::Sender<Result<(), LogError>>, Result<(), LogError>),
}

impl Writer {
    pub(super) fn new(
        store: Arc<Store>,
        queue: mpsc::Receiver<Command>,
        queued_bytes: Arc<AtomicUsize>,
        closed: watch::Sender<Option<String>>,
    ) -> fjall::Result<Self> {
        let mut tails: [Tail; PARTITIONS as usize] = Default::default();
        let reads = Reads::of(&store);
        for partition in PartitionId::all() {
            if let Some((last, last_ts)) = reads.last_entry(partition)? {
                tails[partition.index()] = Tail { last, last_ts, ..Tail::default() };
            }
        }
        drop(reads);
        let buckets = Writes::new(&store)?;
        Ok(Self { store, queue, queued_bytes, closed, tails, heads: Default::default(), clearings: HashMap::new(), buckets })
    }

    /// Writes until nobody can append any more, or until the disk fails.
    pub(super) fn run(mut self) {
        while let Some(commands) = self.next_group() {
            let bytes: usize = commands.iter().map(Command::bytes).sum();
            if let Err(error) = self.write(commands, now_ms()) {
                // What is still queued learns it from this thread's end.
                return close(&self.closed, self.store.failure(&error));
            }
            self.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
        }
    }

    /// All that is queued, within the limits of a group. Waits for the first command, unless there is something to clear.
    fn next_group(&mut self) -> Option<Vec<Command>> {
        let mut commands = Vec::new();
        if self.clearings.is_empty() {
            commands.push(self.queue.blocking_recv()?);
        }
        let mut bytes = commands.first().map_or(0, Command::bytes);
        let mut records = commands.first().map_or(0, Command::records);
        while records < MAX_GROUP && bytes < MAX_GROUP_BYTES {
            match self.queue.try_recv() {
                Ok(command) => {
                    bytes += command.bytes();
                    records += command.records();
                    commands.push(command);
                }
                Err(mpsc::error::TryRecvError::Disconnected) if commands.is_empty() => return None,
                Err(_) => break,
            }
        }
        Some(commands)
    }

    /// Commits the commands as one group at `now` (Unix milliseconds) and answers them.
    fn write(&mut self, commands: Vec<Command>, now: u64) -> fjall::Result<()> {
        for heads in &mut self.heads {
            if heads.len() >= MAX_HEADS {
                heads.clear();
            }
        }
        // No key may be written twice in one batch, since both would have the same number. So records are cleared first,
        // while the floors don't reach into this group yet, and floors are written last, when they don't move any more.
        let mut batch = self.store.db.batch().durability(Some(PersistMode::SyncData));
        let mut answers = Vec::with_capacity(commands.len());
        self.clear(&mut batch);
        for command in commands {
            answers.push(match command {
                Command::Write(write) => {
                    self.buckets.write(&self.store, write, now)?;
                    continue;
                }
                Command::Append { partition, appends, ack } => {
                    let mut result = Ok(0);
                    for append in appends {
                        result = self.append(&mut batch, partition, append, now)?;
                        if result.is_err() {
                            break;
                        }
                    }
                    Answer::Append(ack, result)
                }
                Command::Trim { partition, room, below, done } => Answer::Trim(done, self.trim(partition, room, below)?),
                Command::Empty { partition, room, through, done } => {
                    Answer::Trim(done, self.empty(&mut batch, partition, room, through)?)
                }
            });
        }
        self.write_floors(&mut batch);
        self.forget_order(&mut batch, now)?;
        self.buckets.put_into(&mut batch, &self.store, now)?;
        batch.commit()?;

        self.buckets.answer();
        for answer in answers {
            // Who doesn't wait any more misses nothing.
            match answer {
                Answer::Append(ack, result) => drop(ack.send(result)),
                Answer::Trim(done, result) => drop(done.send(result)),
            }
        }
        Ok(())
    }

    fn append(
        &mut self,
        batch: &mut OwnedWriteBatch,
        partition: PartitionId,
        append: Append,
        now: u64,
    ) -> fjall::Result<Result<Sequence, AppendError>> {
        let Append { room, offset, sequence, record } = append;
        let fenced = AppendError::Fenced { expected: sequence, last: self.tails[partition.index()].last };
        if sequence != self.tails[partition.index()].last + 1 {
            return Ok(Err(fenced));
        }
        let head = self.head(partition, &room)?;
        if offset != *head + 1 {
            // A hole in a room could never be mended, and would look like lost messages to every reader.
            tracing::error!(%partition, %room, head, offset, "refused an append whose offset does not follow");
            return Ok(Err(fenced));
        }
        *head = offset;
        let tail = &mut self.tails[partition.index()];
        tail.last = sequence;
        tail.last_ts = now.max(tail.last_ts);
        tail.grown += 1;
        let (key, value) = (layout::order_key(partition, sequence), layout::order_value(tail.last_ts, &room, offset));
        batch.insert(&self.store.order, key, value);
        let (key, value) = (layout::message_key(partition, &room, offset), layout::message_value(sequence, &record));
        batch.insert(&self.store.messages, key, value);
        Ok(Ok(sequence))
    }

    /// The newest offset of a room, this group included.
    fn head(&mut self, partition: PartitionId, room: &RoomName) -> fjall::Result<&mut Offset> {
        let heads = &mut self.heads[partition.index()];
        if !heads.contains_key(room) {
            heads.insert(room.clone(), Reads::of(&self.store).head_offset(partition, room)?);
        }
        Ok(heads.get_mut(room).expect("it is there"))
    }

    /// Raises a room's floor; its records are removed with the next groups.
    fn trim(&mut self, partition: PartitionId, room: RoomName, below: Offset) -> fjall::Result<Result<(), LogError>> {
        let head = *self.head(partition, &room)?;
        let pending = self.clearings.get(&(partition, room.clone()));
        if pending.is_none() && self.clearings.len() >= MAX_CLEARINGS {
            return Ok(Err(LogError::Unavailable("too many trimmed rooms wait to be cleared".into())));
        }
        let mut floor = match pending {
            Some(pending) => pending.floor,
            None => Reads::of(&self.store).floor(partition, &room)?,
        };
        if below.min(head) > floor.first {
            floor.first = below.min(head);
            self.clearings.insert((partition, room), Clearing { floor, is_written: false });
        }
        Ok(Ok(()))
    }

    /// Removes all that is left of a room, its floor included. Nobody appends to it in the same group: they wait for this.
    fn empty(
        &mut self,
        batch: &mut OwnedWriteBatch,
        partition: PartitionId,
        room: RoomName,
        through: Sequence,
    ) -> fjall::Result<Result<(), LogError>> {
        let head = *self.head(partition, &room)?;
        let reads = Reads::of(&self.store);
        // One that grows in this very group has a head that can't be read yet.
        let is_judged = reads.head_offset(partition, &room)? == head
            && reads.head(partition, &room)?.is_none_or(|newest| newest.sequence <= through);
        if !is_judged {
            return Ok(Err(LogError::Unavailable(format!("{room} has grown since it was judged"))));
        }
        let cleared = match self.clearings.remove(&(partition, room.clone())) {
            Some(clearing) => clearing.floor.cleared,
            None => Reads::of(&self.store).floor(partition, &room)?.cleared,
        };
        for offset in cleared..=head {
            batch.remove(&self.store.messages, layout::message_key(partition, &room, offset));
        }
        batch.remove(&self.store.floors, layout::floor_key(partition, &room));
        *self.head(partition, &room)? = 0;
        Ok(Ok(()))
    }

    /// Removes some records below the floors of earlier groups.
    fn clear(&mut self, batch: &mut OwnedWriteBatch) {
        let mut budget = MAX_CLEARED;
        for ((partition, room), Clearing { floor, is_written }) in &mut self.clearings {
            let until = floor.first.min(floor.cleared + budget);
            for offset in floor.cleared..until {
                batch.remove(&self.store.messages, layout::message_key(*partition, room, offset));
            }
            budget -= until - floor.cleared;
            *is_written &= until == floor.cleared;
            floor.cleared = until;
        }
    }

    fn write_floors(&mut self, batch: &mut OwnedWriteBatch) {
        for ((partition, room), Clearing { floor, is_written }) in &mut self.clearings {
            if !*is_written {
                batch.insert(&self.store.floors, layout::floor_key(*partition, room), floor.encode());
                *is_written = true;
            }
        }
        self.clearings.retain(|_, Clearing { floor, .. }| floor.cleared < floor.first);
    }

    /// Removes entries of `order` that are over the window, where the partition has grown: so the newest one stays, and
    /// with it the partition's sequence.
    fn forget_order(&mut self, batch: &mut OwnedWriteBatch, now: u64) -> fjall::Result<()> {
        let since = now.saturating_sub(ORDER_WINDOW.as_millis() as u64);
        let overdue = since.saturating_sub(ORDER_SLACK.as_millis() as u64);
        for partition in PartitionId::all() {
            let tail = &mut self.tails[partition.index()];
            let grown = std::mem::take(&mut tail.grown);
            if grown == 0 || tail.oldest_ts > overdue {
                continue;
            }
            // The entries of this group are not in the store yet: they are the oldest ones if nothing else stays.
            let entries = Reads::of(&self.store).order(partition, tail.oldest, Sequence::MAX);
            (tail.oldest, tail.oldest_ts) = (tail.last - grown as u64 + 1, now);
            // Twice what has come, so that it catches up.
            let most = 2 * grown;
            for (removed, entry) in entries.enumerate() {
                let (key, value) = entry.into_inner()?;
                let ts = layout::order_ts(&value);
                if ts >= since || removed == most {
                    (tail.oldest, tail.oldest_ts) = (layout::order_sequence(&key), ts);
                    break;
                }
                batch.remove(&self.store.order, key);
            }
        }
        Ok(())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if std::thread::panicking() {
            close(&self.closed, "the writer of the log has crashed".into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const P: PartitionId = PartitionId(1);

    /// A writer that is driven by hand, at times that the test tells.
    fn writer(folder: &tempfile::TempDir) -> Writer {
        let store = Arc::new(Store::open(folder.path()).unwrap());
        Writer::new(store, mpsc::channel(1).1, Arc::default(), watch::channel(None).0).unwrap()
    }

    fn append(room: &str, offset: Offset, sequence: Sequence) -> Command {
        let room = RoomName::parse(room).unwrap();
        let append = Append { room, offset, sequence, record: offset.to_string().into() };
        Command::Append { partition: P, appends: vec![append], ack: oneshot::channel().0 }
    }

    fn trim(room: &str, below: Offset) -> Command {
        Command::Trim { partition: P, room: RoomName::parse(room).unwrap(), below, done: oneshot::channel().0 }
    }

    fn remembered(writer: &Writer) -> Vec<Sequence> {
        let entries = Reads::of(&writer.store).order(P, 0, Sequence::MAX);
        entries.map(|entry| layout::order_sequence(&entry.key().unwrap())).collect()
    }

    #[test]
    fn old_order_is_forgotten() {
        const MINUTE: u64 = 60_000;
        let folder = tempfile::tempdir().unwrap();
        let mut writer = writer(&folder);
        let start = 1_000 * MINUTE;
        writer.write((1..=100).map(|n| append("a", n, n)).collect(), start).unwrap();
        writer.write(vec![append("a", 101, 101)], start + 10 * MINUTE).unwrap();
        assert!(remembered(&writer).into_iter().eq(1..=101), "nothing is over the window and the slack");

        writer.write(vec![append("a", 102, 102)], start + 12 * MINUTE).unwrap();
        assert!(remembered(&writer).into_iter().eq(3..=102), "two for one");
        let many = (103..=200).map(|n| append("a", n, n)).collect();
        writer.write(many, start + 12 * MINUTE).unwrap();
        assert!(remembered(&writer).into_iter().eq(101..=200), "and then all that are old");

        writer.write(vec![append("a", 201, 201)], start + 100 * MINUTE).unwrap();
        writer.write((202..=300).map(|n| append("a", n, n)).collect(), start + 100 * MINUTE).unwrap();
        assert!(remembered(&writer).into_iter().eq(201..=300));
    }

    #[test]
    fn newest_order_always_stays() {
        let folder = tempfile::tempdir().unwrap();
        let mut first = writer(&folder);
        first.write(vec![append("a", 1, 1)], 1_000).unwrap();
        drop(first);
        let mut writer = writer(&folder);
        writer.write(vec![trim("a", 1)], u64::MAX / 2).unwrap();
        assert_eq!(remembered(&writer), [1]);
        writer.write(vec![append("a", 2, 2)], u64::MAX / 2).unwrap();
        assert_eq!(remembered(&writer), [2]);
    }

    #[test]
    fn clock_may_run_backwards() {
        let folder = tempfile::tempdir().unwrap();
        let mut first = writer(&folder);
        first.write(vec![append("a", 1, 1)], 5_000).unwrap();
        drop(first);
        let mut writer = writer(&folder);
        writer.write(vec![append("a", 2, 2)], 1_000).unwrap();
        assert_eq!(Reads::of(&writer.store).last_entry(P).unwrap(), Some((2, 5_000)));
    }

    #[test]
    fn trimmed_records_leave() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = writer(&folder);
        let kept = |writer: &Writer| writer.store.messages.len().unwrap() as u64;
        let count = 2 * MAX_CLEARED + 10;
        // In one group, so that records come and are trimmed at once.
        let appends = (1..=count).map(|n| append("a", n, n)).chain([trim("a", 5), trim("a", Offset::MAX), trim("a", 7)]);
        writer.write(appends.collect(), 1).unwrap();
        assert_eq!(kept(&writer), count);
        writer.write(vec![], 1).unwrap();
        assert_eq!(kept(&writer), count - MAX_CLEARED);
        writer.write(vec![trim("a", 20)], 1).unwrap();
        assert_eq!(kept(&writer), count - 2 * MAX_CLEARED);
        writer.write(vec![], 1).unwrap();
        assert_eq!(kept(&writer), 1);
        assert!(writer.clearings.is_empty());
        let floor = Reads::of(&writer.store).floor(P, &RoomName::parse("a").unwrap()).unwrap();
        assert_eq!(floor, Floor { first: count, cleared: count });
    }

    #[test]
    fn clearing_goes_on_later() {
        let folder = tempfile::tempdir().unwrap();
        let mut first = writer(&folder);
        first.write((1..=20).map(|n| append("a", n, n)).chain([trim("a", 10)]).collect(), 1).unwrap();
        // Ends before it has cleared.
        drop(first);
        let mut writer = writer(&folder);
        writer.write(vec![trim("a", 11)], 1).unwrap();
        writer.write(vec![], 1).unwrap();
        assert_eq!(writer.store.messages.len().unwrap(), 10);
    }
}
