//! The log port: what was acked is in here. Each partition is one append-only sequence of records; each room's
//! records are a dense run of offsets within it. The log stores and finds, it never decides: order, offsets and
//! duplicates are the partition owner's business (`carillon-core`).

mod embedded;
mod jetstream;

use std::time::Duration;

use bytes::Bytes;
use carillon_proto::ids::{Offset, PartitionId, RoomName};
use futures_util::future::BoxFuture;

pub use self::{
    embedded::{EmbeddedBuckets, EmbeddedLog, OpenError, backup},
    jetstream::{JetStreamConfig, JetStreamLog, StreamError},
};

/// A record's position in its partition: 1, 2, 3, … Sequences may have holes (markers, trimmed records).
pub type Sequence = u64;

/// Where records are kept. Cheap to share; every method may be called from any task.
///
/// ```text
///   open ─▶ append, append, … ─▶ acks in the order of the appends
///             head, read, recent: any time, they see what was acked
/// ```
pub trait Log: Send + Sync + 'static {
    /// Makes the partition ready for this process's appends and tells where it stands: [`Opened::last`] is what the first
    /// append comes after. To be called before the first append, and again after a failed one. It may take a sequence of
    /// its own, and shuts out every process that opened the partition before (on JetStream; embedded, there is only one).
    fn open(&self, partition: PartitionId) -> BoxFuture<'_, Result<Opened, LogError>>;

    /// Queues one append at once, in the order of the calls, and resolves when the record is durable: synced to this
    /// machine's disk (embedded), or acked by JetStream. Appends of one partition resolve in order, and when one fails,
    /// every later one that was queued behind it fails too. Dropping the future takes nothing back.
    fn append(&self, partition: PartitionId, append: Append) -> BoxFuture<'static, Result<Sequence, AppendError>>;

    /// Queues several appends as [`Self::append`] does, in their order. The answers come in that order too, each for the next one or
    /// the next few of them; when it is a refusal, some of those may be stored.
    fn append_all(&self, partition: PartitionId, appends: Vec<Append>) -> Vec<Appending> {
        appends.into_iter().map(|append| Appending { count: 1, acked: self.append(partition, append) }).collect()
    }

    /// The newest record of a room.
    fn head(&self, partition: PartitionId, room: &RoomName) -> BoxFuture<'_, Result<Option<Stored>, LogError>>;

    /// Part of a room, oldest first, without holes in between: at least one record where there is one in the span, even
    /// if it is over `limit.bytes`.
    fn read(
        &self,
        partition: PartitionId,
        room: &RoomName,
        span: ReadSpan,
        limit: ReadLimit,
    ) -> BoxFuture<'_, Result<Part, LogError>>;

    /// All records of the partition that were appended within the last `window`, oldest first, and maybe some older ones:
    /// what an owner needs to recognise repeats after a restart. Of each only what `keep` makes of it, since all of them
    /// together may be more than there is memory.
    fn recent(
        &self,
        partition: PartitionId,
        window: Duration,
        keep: fn(&[u8]) -> Bytes,
    ) -> BoxFuture<'_, Result<Vec<Stored>, LogError>>;

    /// Rooms of the partition that hold records, at most `limit` of them, after this one in the order of their names: so that an
    /// owner finds those whose records are too old. None where the log forgets what is too old by itself (JetStream, for all
    /// rooms as late as for those that keep it longest).
    fn rooms(
        &self,
        partition: PartitionId,
        after: Option<&RoomName>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<RoomName>, LogError>>;

    /// Takes the room's records below this offset out of every read, from the moment it resolves. The newest record stays
    /// in any case, so that its offset is never given out twice. Asked again, or for less, it does nothing. Disk space
    /// comes back later. What is above the sequence `through` stays: an owner that was replaced in the meantime has not
    /// judged it.
    fn trim(
        &self,
        partition: PartitionId,
        room: &RoomName,
        below: Offset,
        through: Sequence,
    ) -> BoxFuture<'_, Result<(), LogError>>;

    /// Everything of the room is gone for good, so that its next record has offset 1 again. Nothing may be under way in the
    /// room; resolves once that record may be appended. What is above the sequence `through` stays, whenever it was appended: where
    /// there is any, somebody else owns the partition, and this fails.
    fn empty(&self, partition: PartitionId, room: &RoomName, through: Sequence) -> BoxFuture<'_, Result<(), LogError>>;
}

/// Where a partition stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opened {
    /// Names this life of the log: another one after it was lost, reset or restored. Short, without dots.
    pub incarnation: String,
    /// What the next append comes after: the newest sequence, 0 in an empty log.
    pub last: Sequence,
    /// The newest sequence that was there before: all that was ever acked is at or below it, or the log has lost its tail.
    pub found: Sequence,
}

/// One record to append.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Append {
    /// Whose record.
    pub room: RoomName,
    /// Its offset in the room: one more than the room's newest.
    pub offset: Offset,
    /// The sequence that it must get: the append fails if another one is next.
    pub sequence: Sequence,
    /// Encoded `carillon.log.v1.Record`.
    pub record: Bytes,
}

/// The answer to the next `count` of the appends that were queued together.
pub struct Appending {
    /// How many it is for.
    pub count: usize,
    /// The sequence of the last of them.
    pub acked: BoxFuture<'static, Result<Sequence, AppendError>>,
}

/// A record with its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// Its sequence in the partition.
    pub sequence: Sequence,
    /// Encoded `carillon.log.v1.Record`.
    pub record: Bytes,
}

/// Which part of a room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadSpan {
    /// The oldest ones above this offset.
    After(Offset),
    /// The newest ones below this offset; `Offset::MAX` for the newest ones of all.
    Before(Offset),
}

/// How much at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadLimit {
    /// At most so many records.
    pub records: usize,
    /// At most so many bytes of records, the first one excepted.
    pub bytes: usize,
}

/// What a read found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Oldest first.
    pub records: Vec<Stored>,
    /// The oldest offset of the room that retention left; 0 if the room is empty.
    pub first: Offset,
}

/// Why an append was not acknowledged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// Another record has this place, in the partition or in the room: whoever appended is not the owner, or has lost
    /// count. Nothing was stored.
    #[error("sequence {expected} or its offset does not follow, the log is at sequence {last}")]
    Fenced {
        /// What the append asked for.
        expected: Sequence,
        /// The newest sequence there is.
        last: Sequence,
    },
    /// Nobody knows whether it was stored: resynchronise before the next append.
    #[error("the outcome is unknown: {0}")]
    Unknown(String),
    /// The log is closed for good and the process must end: a failed sync, a full disk.
    #[error("the log is closed: {0}")]
    Closed(String),
}

/// Why the log could not answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LogError {
    /// Not now; the same call may work later.
    #[error("the log can't be reached: {0}")]
    Unavailable(String),
    /// Never again in this process.
    #[error("the log is broken: {0}")]
    Broken(String),
}
