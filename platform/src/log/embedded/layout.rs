//! Keys and values as they lie in the store. Changing one is a new format version.
//!
//! ```text
//!   messages   partition ‖ room ‖ 00 ‖ offset   →  sequence ‖ record       a room lies in one piece, oldest first
//!   order      partition ‖ sequence             →  ts ms ‖ offset ‖ room   what was appended when, the newest minutes of it
//!   floors     partition ‖ room                 →  floor ‖ cleared         rooms that were trimmed
//!   meta       name                             →  text                    what this log is
//!   entries    bucket ‖ 00 ‖ key                →  revision ‖ written ms ‖ value   of key-value buckets
//!              00                               →  the last revision
//!   ages       bucket ‖ 00 ‖ revision           →  written ms ‖ key in `entries`   what is there, oldest first
//! ```
//! Numbers are 8 bytes, big endian, so that they sort. A room's name has no control characters, so that the 00 ends it
//! and no room's keys lie between another one's.

use bytes::Bytes;
use carillon_proto::ids::{Offset, PartitionId, RoomName};

use super::buckets::Found;
use crate::{
    kv::{Entry, Revision},
    log::{Sequence, Stored},
};

/// Of everything below.
pub(super) const FORMAT: &str = "1";

/// A record's key in `messages`.
pub(super) fn message_key(partition: PartitionId, room: &RoomName, offset: Offset) -> Vec<u8> {
    let mut key = Vec::with_capacity(1 + room.as_str().len() + 1 + 8);
    key.push(partition.0);
    key.extend_from_slice(room.as_str().as_bytes());
    key.push(0);
    key.extend_from_slice(&offset.to_be_bytes());
    key
}

/// The offset at the end of a key in `messages`.
pub(super) fn message_offset(key: &[u8]) -> Offset {
    key.last_chunk().map_or(0, |offset| Offset::from_be_bytes(*offset))
}

/// The room of a key in `messages`.
pub(super) fn message_room(key: &[u8]) -> Option<RoomName> {
    let name = key.get(1..key.len().checked_sub(9)?)?;
    RoomName::parse(std::str::from_utf8(name).ok()?).ok()
}

/// Behind all keys of a room in `messages`, and before those of any other one after it.
pub(super) fn after_room(partition: PartitionId, room: &RoomName) -> Vec<u8> {
    [&[partition.0], room.as_str().as_bytes(), &[1]].concat()
}

/// A record's value in `messages`.
pub(super) fn message_value(sequence: Sequence, record: &[u8]) -> Vec<u8> {
    [&sequence.to_be_bytes(), record].concat()
}

/// A record from its value. Copied, because the value is part of a block of the store's cache, which a record in some
/// ring would keep alive.
pub(super) fn stored(value: &[u8]) -> Stored {
    let (sequence, record) = sequence_and_record(value);
    Stored { sequence, record: Bytes::copy_from_slice(record) }
}

/// A record where it lies, and its sequence.
pub(super) fn sequence_and_record(value: &[u8]) -> (Sequence, &[u8]) {
    number(value)
}

/// A record's key in `order`.
pub(super) fn order_key(partition: PartitionId, sequence: Sequence) -> [u8; 9] {
    let mut key = [partition.0; 9];
    key[1..].copy_from_slice(&sequence.to_be_bytes());
    key
}

/// The sequence of a key in `order`.
pub(super) fn order_sequence(key: &[u8]) -> Sequence {
    message_offset(key)
}

/// A record's value in `order`; `ts` in Unix milliseconds.
pub(super) fn order_value(ts: u64, room: &RoomName, offset: Offset) -> Vec<u8> {
    [&ts.to_be_bytes(), &offset.to_be_bytes(), room.as_str().as_bytes()].concat()
}

/// When the record was appended, in Unix milliseconds.
pub(super) fn order_ts(value: &[u8]) -> u64 {
    number(value).0
}

/// The key in `messages` of the record that this entry of `order` is about.
pub(super) fn order_message_key(partition: PartitionId, value: &[u8]) -> Vec<u8> {
    let (offset, room) = number(number(value).1);
    [&[partition.0], room, &[0], &offset.to_be_bytes()].concat()
}

/// A room's key in `floors`.
pub(super) fn floor_key(partition: PartitionId, room: &RoomName) -> Vec<u8> {
    [&[partition.0], room.as_str().as_bytes()].concat()
}

/// How far a room was trimmed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Floor {
    /// The oldest offset that reads may show.
    pub(super) first: Offset,
    /// Offsets below this one are removed from the store as well; those in between await their removal.
    pub(super) cleared: Offset,
}

impl Floor {
    /// Of a room that was never trimmed.
    pub(super) const NONE: Self = Self { first: 1, cleared: 1 };

    pub(super) fn encode(self) -> Vec<u8> {
        [self.first.to_be_bytes(), self.cleared.to_be_bytes()].concat()
    }

    pub(super) fn decode(value: &[u8]) -> Self {
        let (first, rest) = number(value);
        Self { first, cleared: number(rest).0 }
    }
}

/// Where the last revision of all buckets stands in `entries`: no bucket's name is empty.
pub(super) const REVISION_KEY: [u8; 1] = [0];

/// A key in `entries`; with an empty key, what all of the bucket's begin with.
pub(super) fn entry_key(bucket: &str, key: &str) -> Vec<u8> {
    [bucket.as_bytes(), &[0], key.as_bytes()].concat()
}

/// A value in `entries`.
pub(super) fn entry_value(revision: Revision, written_ms: u64, value: &[u8]) -> Vec<u8> {
    [&revision.to_be_bytes(), &written_ms.to_be_bytes(), value].concat()
}

/// An entry from its value, copied as records are.
pub(super) fn found(value: &[u8]) -> Found {
    let (revision, rest) = number(value);
    let (written_ms, value) = number(rest);
    Found { entry: Entry { value: Bytes::copy_from_slice(value), revision }, written_ms }
}

/// A key in `ages`.
pub(super) fn age_key(bucket: &str, revision: Revision) -> Vec<u8> {
    [bucket.as_bytes(), &[0], &revision.to_be_bytes()].concat()
}

/// The revision of a key in `ages`.
pub(super) fn age_revision(key: &[u8]) -> Revision {
    key.last_chunk().map_or(0, |revision| Revision::from_be_bytes(*revision))
}

/// A value in `ages`.
pub(super) fn age_value(written_ms: u64, key: &[u8]) -> Vec<u8> {
    [&written_ms.to_be_bytes(), key].concat()
}

/// When the entry was written, in Unix milliseconds, and its key in `entries`.
pub(super) fn age(value: &[u8]) -> (u64, &[u8]) {
    number(value)
}

/// The number at the front and what follows it. The store checks its blocks, so that a short value can't come from it.
fn number(bytes: &[u8]) -> (u64, &[u8]) {
    bytes.split_first_chunk().map_or((0, bytes), |(number, rest)| (u64::from_be_bytes(*number), rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    const P: PartitionId = PartitionId(7);

    fn room(name: &str) -> RoomName {
        RoomName::parse(name).unwrap()
    }

    #[test]
    fn keys_sort_by_offset() {
        assert_eq!(message_key(P, &room("a"), 258), b"\x07a\0\0\0\0\0\0\0\x01\x02");
        assert!(message_key(P, &room("a"), 255) < message_key(P, &room("a"), 256));
        assert!(message_key(P, &room("a"), Offset::MAX) < message_key(P, &room("a b"), 0));
    }

    #[test]
    fn rooms_are_found_by_their_keys() {
        let key = message_key(P, &room("räume 1"), 258);
        assert_eq!(message_room(&key), Some(room("räume 1")));
        assert!(message_key(P, &room("a"), Offset::MAX) < after_room(P, &room("a")));
        assert!(after_room(P, &room("a")) < message_key(P, &room("a b"), 0));
    }

    #[test]
    fn order_leads_to_message() {
        let value = order_value(5, &room("räume 1"), 9);
        assert_eq!(order_ts(&value), 5);
        assert_eq!(order_message_key(P, &value), message_key(P, &room("räume 1"), 9));
        assert_eq!(order_sequence(&order_key(P, 77)), 77);
    }

    #[test]
    fn floors_come_back() {
        let floor = Floor { first: 9, cleared: 4 };
        assert_eq!(Floor::decode(&floor.encode()), floor);
    }
}
