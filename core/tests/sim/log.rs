//! The log of a partition as JetStream and its adapter keep it: an append names what it follows, by sequence and by id, and
//! is refused after anything else; a marker breaks every chain but its own.

use std::collections::HashMap;

use bytes::Bytes;
use carillon_proto::log::Record;

#[derive(Default)]
pub(crate) struct Log {
    entries: Vec<Entry>,
    /// The oldest offsets that retention left.
    floors: HashMap<String, u64>,
}

struct Entry {
    tag: u64,
    number: u64,
    /// A marker has none.
    record: Option<Record>,
}

impl Log {
    /// Opens a chain; its sequence.
    pub(crate) fn mark(&mut self, tag: u64) -> u64 {
        self.entries.push(Entry { tag, number: 0, record: None });
        self.entries.len() as u64
    }

    /// Whether it was stored. `by_id` is what [`crate::sabotage`] takes away.
    pub(crate) fn append(&mut self, tag: u64, number: u64, sequence: u64, record: Record, by_id: bool) -> bool {
        let follows = self.entries.last().is_some_and(|last| (last.tag, last.number + 1) == (tag, number));
        let is_next = self.entries.len() as u64 + 1 == sequence;
        if is_next && (follows || !by_id) {
            self.entries.push(Entry { tag, number, record: Some(record) });
            return true;
        }
        false
    }

    /// Forgets the newest entries, as a node may that was cut from its power; the payloads that are gone.
    pub(crate) fn lose_tail(&mut self, count: u64) -> Vec<Bytes> {
        let kept = self.entries.len().saturating_sub(count as usize);
        self.entries.drain(kept..).filter_map(|entry| entry.record).map(|record| record.payload).collect()
    }

    /// All records up to a sequence, trimmed ones too.
    pub(crate) fn records_to(&self, sequence: u64) -> impl Iterator<Item = &Record> {
        self.entries.iter().take(sequence as usize).filter_map(|entry| entry.record.as_ref())
    }

    pub(crate) fn len(&self) -> u64 {
        self.entries.len() as u64
    }

    pub(crate) fn room(&self, room: &str) -> Vec<&Record> {
        self.records_to(self.len()).filter(|record| record.room == room).collect()
    }

    pub(crate) fn newest(&self, room: &str) -> Option<Record> {
        self.room(room).last().copied().cloned()
    }

    pub(crate) fn trim(&mut self, room: &str, below: u64) {
        let floor = self.floors.entry(room.to_owned()).or_insert(1);
        *floor = below.max(*floor);
    }

    /// What a read gives: records, oldest first, and the oldest offset that is left.
    pub(crate) fn part(&self, room: &str, after: Option<u64>, before: Option<u64>, limit: usize) -> (Vec<Record>, u64) {
        let all = self.room(room);
        let Some(newest) = all.last().map(|record| record.offset) else { return (Vec::new(), 0) };
        let floor = self.floors.get(room).copied().unwrap_or(1).min(newest);
        let kept = all.into_iter().filter(|record| record.offset >= floor);
        let found = match (after, before) {
            (Some(after), _) => kept.filter(|record| record.offset > after).take(limit).cloned().collect(),
            (None, before) => {
                let before = before.unwrap_or(u64::MAX);
                let mut found: Vec<Record> = kept.filter(|record| record.offset < before).cloned().collect();
                found.drain(..found.len().saturating_sub(limit));
                found
            }
        };
        (found, floor)
    }
}
