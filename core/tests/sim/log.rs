//! The log of a partition as JetStream and its adapter keep it: an append names the sequence that it follows, and is refused at
//! any other; a marker is taller than any pipeline is long, and so breaks every one that is under way.

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
    /// A marker is of several entries, which have none.
    record: Option<Record>,
    /// Of whom.
    tag: u64,
}

/// Entries of a marker: more than an owner has appends under way.
pub(crate) const MARKER_HEIGHT: usize = 512;

impl Log {
    /// Begins what is appended under this tag; the sequence of the marker's last entry. `is_tall` is what [`crate::sabotage`] takes away.
    pub(crate) fn mark(&mut self, tag: u64, is_tall: bool) -> u64 {
        let height = if is_tall { MARKER_HEIGHT } else { 1 };
        self.entries.extend((0..height).map(|_| Entry { tag, record: None }));
        self.entries.len() as u64
    }

    /// Whether it was stored.
    pub(crate) fn append(&mut self, tag: u64, sequence: u64, record: Record) -> bool {
        let is_next = self.entries.len() as u64 + 1 == sequence;
        if is_next {
            self.entries.push(Entry { tag, record: Some(record) });
        }
        is_next
    }

    /// Forgets the newest records and markers, as a node may that was cut from its power; the payloads that are gone.
    pub(crate) fn lose_tail(&mut self, count: u64) -> Vec<Bytes> {
        let mut lost = Vec::new();
        for _ in 0..count {
            let Some(Entry { tag, record }) = self.entries.pop() else { break };
            match record {
                Some(record) => lost.push(record.payload),
                None => while self.entries.pop_if(|entry| entry.record.is_none() && entry.tag == tag).is_some() {},
            }
        }
        lost.reverse();
        lost
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
