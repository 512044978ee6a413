//! The trails of the rooms of a partition that were used lately. Whoever is missing is read from the stream.

use std::collections::HashMap;

use async_nats::{HeaderMap, header::NATS_EXPECTED_LAST_SUBJECT_SEQUENCE};
use carillon_proto::ids::RoomName;

use super::{message::BACK_HEADER, trail::Trail};
use crate::log::Sequence;

/// Rooms per partition and generation of the two: up to 2 × 2,048 rooms of about 500 bytes in each of 16 partitions, 32 MB.
const MAX_YOUNG: usize = 2_048;

/// A map that forgets what was not used for a while: who is used moves to the young ones, and when they are full they
/// become the old ones, and the old ones are forgotten.
#[derive(Debug, Default)]
pub(super) struct Rooms {
    young: HashMap<RoomName, Room>,
    old: HashMap<RoomName, Room>,
    /// Counts up with [`Rooms::clear`]: what was read before it must not come in after it.
    pub(super) life: u64,
}

/// What is known of one room.
#[derive(Debug, Clone, Default)]
pub(super) struct Room {
    pub(super) trail: Trail,
    /// Whether the trail ends in an append of this life. Before that it comes from a read, and the first append lets the
    /// server compare.
    pub(super) is_proven: bool,
}

impl Rooms {
    pub(super) fn find(&mut self, room: &RoomName) -> Option<&mut Room> {
        if !self.young.contains_key(room) {
            let found = self.old.remove(room)?;
            self.keep(room, found);
        }
        self.young.get_mut(room)
    }

    /// Takes what was read in the given life, unless something is known already, which is never older.
    pub(super) fn learn(&mut self, room: &RoomName, trail: Trail, life: u64) {
        if life == self.life && self.find(room).is_none() {
            self.keep(room, Room { trail, is_proven: false });
        }
    }

    /// Takes what was just read instead of what was known.
    pub(super) fn replace(&mut self, room: &RoomName, trail: Trail) {
        self.old.remove(room);
        self.keep(room, Room { trail, is_proven: false });
    }

    /// A record is about to follow in the room: writes what it must bear, and remembers it. `false` for an unknown room.
    pub(super) fn follow(&mut self, room: &RoomName, sequence: Sequence, headers: &mut HeaderMap) -> bool {
        let Some(known) = self.find(room) else { return false };
        headers.insert(BACK_HEADER, known.trail.encode(sequence));
        if !known.is_proven {
            headers.insert(NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, known.trail.last().to_string());
        }
        known.trail.push(sequence);
        known.is_proven = true;
        true
    }

    pub(super) fn clear(&mut self) {
        *self = Self { life: self.life + 1, ..Self::default() };
    }

    fn keep(&mut self, name: &RoomName, room: Room) {
        if self.young.len() >= MAX_YOUNG {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(name.clone(), room);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(n: usize) -> RoomName {
        RoomName::parse(&n.to_string()).unwrap()
    }

    #[test]
    fn used_rooms_stay_known() {
        let mut rooms = Rooms::default();
        for n in 0..10 * MAX_YOUNG {
            rooms.learn(&name(n), Trail::default(), 0);
            assert!(rooms.find(&name(0)).is_some());
        }
        assert!(rooms.find(&name(1)).is_none());
        assert!(rooms.young.len() + rooms.old.len() <= 2 * MAX_YOUNG);
    }

    #[test]
    fn earlier_lives_stay_out() {
        let mut rooms = Rooms::default();
        rooms.clear();
        rooms.learn(&name(1), Trail::default(), 0);
        assert!(rooms.find(&name(1)).is_none());
        rooms.learn(&name(1), Trail::default(), 1);
        assert!(rooms.find(&name(1)).is_some());
    }
}
