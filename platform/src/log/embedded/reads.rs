//! Reading the store, each read at one moment of it: a group of appends is seen as a whole or not at all. Blocking, since
//! the store may go to the disk.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use carillon_proto::ids::{Offset, PartitionId, RoomName};
use fjall::{Readable, Snapshot};

use super::{
    buckets::Found,
    layout::{self, Floor},
    store::Store,
};
use crate::{
    kv::Revision,
    log::{Part, ReadLimit, ReadSpan, Sequence, Stored},
};

/// The store at one moment.
pub(super) struct Reads<'a> {
    store: &'a Store,
    moment: Snapshot,
}

impl<'a> Reads<'a> {
    /// The store at this moment: everything that was acked is in it.
    pub(super) fn of(store: &'a Store) -> Self {
        Self { store, moment: store.db.snapshot() }
    }

    /// The newest sequence, 0 in an empty partition.
    pub(super) fn last(&self, partition: PartitionId) -> fjall::Result<Sequence> {
        Ok(self.last_entry(partition)?.map_or(0, |(sequence, _)| sequence))
    }

    /// The newest sequence and when it was appended, in Unix milliseconds.
    pub(super) fn last_entry(&self, partition: PartitionId) -> fjall::Result<Option<(Sequence, u64)>> {
        let Some(newest) = self.order(partition, 0, Sequence::MAX).next_back() else { return Ok(None) };
        let (key, value) = newest.into_inner()?;
        Ok(Some((layout::order_sequence(&key), layout::order_ts(&value))))
    }

    /// The newest offset of a room, 0 if it is empty.
    pub(super) fn head_offset(&self, partition: PartitionId, room: &RoomName) -> fjall::Result<Offset> {
        let newest = self.messages(partition, room, 0, Offset::MAX).next_back();
        newest.map_or(Ok(0), |newest| Ok(layout::message_offset(&newest.key()?)))
    }

    /// The newest record of a room.
    pub(super) fn head(&self, partition: PartitionId, room: &RoomName) -> fjall::Result<Option<Stored>> {
        let newest = self.messages(partition, room, 0, Offset::MAX).next_back();
        newest.map(|newest| Ok(layout::stored(&newest.value()?))).transpose()
    }

    /// How far the room was trimmed.
    pub(super) fn floor(&self, partition: PartitionId, room: &RoomName) -> fjall::Result<Floor> {
        let floor = self.moment.get(&self.store.floors, layout::floor_key(partition, room))?;
        Ok(floor.map_or(Floor::NONE, |floor| Floor::decode(&floor)))
    }

    /// Part of a room, oldest first.
    pub(super) fn part(&self, partition: PartitionId, room: &RoomName, span: ReadSpan, limit: ReadLimit) -> fjall::Result<Part> {
        // Offsets are dense from 1 and the newest one always stays, so that the oldest one is known without looking for it.
        // Looking would mean to step over everything that was removed.
        let floor = self.floor(partition, room)?.first;
        let records = match span {
            ReadSpan::After(offset) => {
                let from = floor.max(offset.saturating_add(1));
                take(self.messages(partition, room, from, Offset::MAX), limit)?
            }
            ReadSpan::Before(offset) => {
                let mut newest_first = match offset.checked_sub(1) {
                    Some(to) if to >= floor => take(self.messages(partition, room, floor, to).rev(), limit)?,
                    _ => Vec::new(),
                };
                newest_first.reverse();
                newest_first
            }
        };
        let is_empty = records.is_empty() && self.head_offset(partition, room)? == 0;
        Ok(Part { records, first: if is_empty { 0 } else { floor } })
    }

    /// Of everything that was appended within the last `window` what `keep` makes of it, oldest first.
    pub(super) fn recent(
        &self,
        partition: PartitionId,
        window: Duration,
        keep: fn(&[u8]) -> Bytes,
    ) -> fjall::Result<Vec<Stored>> {
        let since = now_ms().saturating_sub(window.as_millis() as u64);
        let mut wanted = Vec::new();
        for entry in self.order(partition, 0, Sequence::MAX).rev() {
            let (key, entry) = entry.into_inner()?;
            if layout::order_ts(&entry) < since {
                break;
            }
            wanted.push((layout::order_message_key(partition, &entry), layout::order_sequence(&key)));
        }
        // As they lie in the store: in the order of their sequences, the newest records of many rooms would have a block read
        // again for each record that it holds.
        wanted.sort_unstable();
        let mut records = Vec::with_capacity(wanted.len());
        let mut walk = Walk::new(self, partition);
        for (key, sequence) in &wanted {
            // What was trimmed since is missing, and in a room that was emptied another record may have its place.
            if let Some(value) = walk.find(key)? {
                let (found, record) = layout::sequence_and_record(value);
                records.extend((found == *sequence).then(|| Stored { sequence: found, record: keep(record) }));
            }
        }
        records.sort_unstable_by_key(|stored| stored.sequence);
        Ok(records)
    }

    /// Rooms that hold records, by name: each is one look-up, behind the last record that the one before it may have.
    pub(super) fn rooms(&self, partition: PartitionId, after: Option<RoomName>, limit: usize) -> fjall::Result<Vec<RoomName>> {
        let mut rooms: Vec<RoomName> = Vec::new();
        let mut last = after;
        while rooms.len() < limit {
            let from = last.as_ref().map_or_else(|| vec![partition.0], |last| layout::after_room(partition, last));
            let Some(next) = self.moment.range(&self.store.messages, from..vec![partition.0 + 1]).next() else { break };
            let Some(room) = layout::message_room(&next.key()?) else { break };
            last = Some(room.clone());
            rooms.push(room);
        }
        Ok(rooms)
    }

    /// An entry of a bucket, however old.
    pub(super) fn entry(&self, bucket: &str, key: &str) -> fjall::Result<Option<Found>> {
        let value = self.moment.get(&self.store.entries, layout::entry_key(bucket, key))?;
        Ok(value.map(|value| layout::found(&value)))
    }

    /// All entries of a bucket, however old.
    pub(super) fn entries(&self, bucket: &str) -> fjall::Result<Vec<(String, Found)>> {
        let prefix = layout::entry_key(bucket, "");
        let mut entries = Vec::new();
        for entry in self.moment.prefix(&self.store.entries, &prefix) {
            let (key, value) = entry.into_inner()?;
            let key = String::from_utf8_lossy(&key[prefix.len()..]).into_owned();
            entries.push((key, layout::found(&value)));
        }
        Ok(entries)
    }

    /// The last revision that was given out.
    pub(super) fn last_revision(&self) -> fjall::Result<Revision> {
        let value = self.moment.get(&self.store.entries, layout::REVISION_KEY)?;
        Ok(value.and_then(|value| Some(Revision::from_be_bytes(*value.first_chunk()?))).unwrap_or(0))
    }

    /// The ages of a bucket's entries, oldest first, from a revision on.
    pub(super) fn ages(&self, bucket: &str, from: Revision) -> fjall::Iter {
        let ends = [from, Revision::MAX].map(|revision| layout::age_key(bucket, revision));
        self.moment.range(&self.store.ages, ends[0].clone()..=ends[1].clone())
    }

    /// Entries of `order`, both ends included.
    pub(super) fn order(&self, partition: PartitionId, from: Sequence, to: Sequence) -> fjall::Iter {
        self.moment.range(&self.store.order, layout::order_key(partition, from)..=layout::order_key(partition, to))
    }

    /// Entries of `messages`, both ends included. An inverted span is empty.
    fn messages(&self, partition: PartitionId, room: &RoomName, from: Offset, to: Offset) -> fjall::Iter {
        let from = layout::message_key(partition, room, from);
        let to = layout::message_key(partition, room, to);
        self.moment.range(&self.store.messages, from..=to)
    }
}

/// A way through the records of a partition, by rising keys.
struct Walk<'r> {
    reads: &'r Reads<'r>,
    end: Vec<u8>,
    ahead: fjall::Iter,
    /// The record that the way has come to; `None` before the first and behind the last one.
    at: Option<(fjall::Slice, fjall::Slice)>,
}

/// Records that are stepped over one by one; to look a key up costs about as much as that.
const STEPS: usize = 16;

impl<'r> Walk<'r> {
    fn new(reads: &'r Reads<'r>, partition: PartitionId) -> Self {
        let end = vec![partition.0 + 1];
        // Nothing yet: the first key is looked up.
        let ahead = reads.moment.range(&reads.store.messages, end.clone()..end.clone());
        Self { reads, end, ahead, at: None }
    }

    /// The value of a key that is not below the one before it.
    fn find(&mut self, key: &[u8]) -> fjall::Result<Option<&fjall::Slice>> {
        let mut steps = 0;
        while self.at.as_ref().is_none_or(|(at, _)| **at < *key) && steps < STEPS {
            steps += 1;
            match self.ahead.next() {
                Some(next) => self.at = Some(next.into_inner()?),
                None => steps = STEPS,
            }
        }
        if self.at.as_ref().is_none_or(|(at, _)| **at < *key) {
            self.ahead = self.reads.moment.range(&self.reads.store.messages, key.to_vec()..self.end.clone());
            self.at = self.ahead.next().map(fjall::Guard::into_inner).transpose()?;
        }
        Ok(self.at.as_ref().filter(|(at, _)| **at == *key).map(|(_, value)| value))
    }
}

/// Unix milliseconds.
pub(super) fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

fn take(entries: impl Iterator<Item = fjall::Guard>, limit: ReadLimit) -> fjall::Result<Vec<Stored>> {
    let mut records = Vec::new();
    let mut bytes = 0;
    for entry in entries.take(limit.records) {
        let record = layout::stored(&entry.value()?);
        bytes += record.record.len();
        if bytes > limit.bytes && !records.is_empty() {
            break;
        }
        records.push(record);
    }
    Ok(records)
}
