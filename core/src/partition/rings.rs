//! What all rings of a partition hold together: bounded, and the rooms that were used least lately give way. Their newest messages
//! are read from the log then, like any older ones.

use std::collections::BTreeMap;

use carillon_proto::{ids::RoomName, link::Message};

use super::{Partition, ReadyRoom, Room, ready};

#[derive(Debug, Default)]
pub(super) struct Rings {
    bytes: usize,
    /// Counts uses; a room's turn is that of its latest one, 0 for one that is not in `order`.
    turn: u64,
    /// Rooms that have something in their ring, by turn.
    order: BTreeMap<u64, RoomName>,
}

impl Partition {
    /// Puts a room's newest message into its ring.
    pub(super) fn keep_at_hand(&mut self, name: &RoomName, message: Message) {
        let room = ready(&mut self.rooms, name);
        let messages = usize::try_from(room.keep.messages).unwrap_or(usize::MAX).min(self.config.ring_messages);
        let before = room.ring.bytes();
        room.ring.push(message, messages, self.config.ring_bytes);
        self.rings.bytes = self.rings.bytes - before + room.ring.bytes();
        self.on_ring_used(name);
        // The room itself is the last one, and stays.
        while self.rings.bytes > self.config.rings_bytes && self.rings.order.len() > 1 {
            let Some((_, oldest)) = self.rings.order.pop_first() else { return };
            if let Some(room) = self.rooms.get_mut(&oldest).and_then(Room::known) {
                self.rings.bytes -= room.ring.bytes();
                (room.ring, room.ring_turn) = Default::default();
            }
        }
    }

    /// Something was read from a room's ring, or put there.
    pub(super) fn on_ring_used(&mut self, name: &RoomName) {
        let room = ready(&mut self.rooms, name);
        let is_latest = room.ring_turn == self.rings.turn && room.ring_turn > 0;
        if room.ring.is_empty() || is_latest {
            return;
        }
        let entry = self.rings.order.remove(&room.ring_turn).unwrap_or_else(|| name.clone());
        self.rings.turn += 1;
        room.ring_turn = self.rings.turn;
        self.rings.order.insert(self.rings.turn, entry);
    }

    /// What is too old is not at hand any more.
    pub(super) fn forget_older(&mut self, name: &RoomName, oldest_ts: u64) {
        let room = ready(&mut self.rooms, name);
        let before = room.ring.bytes();
        room.ring.forget_older(oldest_ts);
        self.rings.bytes = self.rings.bytes - before + room.ring.bytes();
    }

    /// A room leaves memory, or begins another life.
    pub(super) fn drop_ring(&mut self, room: &mut ReadyRoom) {
        self.rings.bytes -= room.ring.bytes();
        self.rings.order.remove(&room.ring_turn);
        (room.ring, room.ring_turn) = Default::default();
    }

    /// What all rings hold.
    pub fn ring_bytes(&self) -> usize {
        self.rings.bytes
    }
}
