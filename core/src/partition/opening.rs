//! Rooms come into memory with their newest record, begin another life once they are empty, and what was asked of them meanwhile waits
//! in line.

use std::collections::VecDeque;

use carillon_proto::{
    ids::{Epoch, RoomName},
    link::{Attached, Code, down, failed, up},
    log::Record,
};

use super::{Asker, Effect, Keep, Pace, Partition, PendingRead, Presence, ReadyRoom, Ring, Room};
use crate::Now;

impl Partition {
    /// The answer to [`Effect::Head`]: the room's newest record, or that it has none.
    pub fn on_head(&mut self, room: RoomName, newest: Option<Record>, now: Now) {
        let (offset, ts, epoch) =
            newest.map_or((0, 0, Epoch::none()), |newest| (newest.offset, newest.ts, self.epoch_now(&newest.epoch)));
        let ready = ReadyRoom {
            head: offset,
            assigned: offset,
            epoch,
            keep: Keep::of(&self.config.retention, &room),
            ts,
            ring: Ring::default(),
            ring_turn: 0,
            routes: Vec::new(),
            presence: Presence::default(),
            pace: Pace::default(),
            erasing: None,
        };
        self.open_room(room, ready, now);
    }

    /// A stored epoch as it is now: a log that has lost its tail has another incarnation since, for all of its rooms.
    fn epoch_now(&self, stored: &str) -> Epoch {
        match stored.rsplit_once('.').and_then(|(_, sequence)| sequence.parse().ok()) {
            Some(sequence) => Epoch::new(&self.start.incarnation, sequence),
            None => Epoch::from_wire(stored),
        }
    }

    /// A room that is to have no messages any more: those of one whose newest is too old, or that somebody deletes. Whoever waits
    /// goes on when the log has forgotten them too. What the log is being asked for would be of the life that ends here, so it is
    /// asked again in the next one.
    pub(super) fn empty(&mut self, room: RoomName, mut waiting: Vec<(Asker, up::Item)>) {
        let Some(Room::Ready(ready)) = self.rooms.remove(&room) else { unreachable!("looked at before") };
        self.forget_swept(&room);
        let mut asked: Vec<(u64, PendingRead)> = self.reads.extract_if(|_, read| read.room == room).collect();
        asked.sort_by_key(|(ticket, _)| *ticket);
        let ended = asked.len();
        let all = std::mem::take(&mut self.waiting_reads).into_iter();
        let (of_this, of_others): (VecDeque<_>, VecDeque<_>) = all.partition(|read| read.pending.room == room);
        self.waiting_reads = of_others;
        let asked = asked.into_iter().map(|(_, read)| read).chain(of_this.into_iter().map(|read| read.pending));
        waiting.splice(..0, asked.map(|PendingRead { asker, read, .. }| (asker, up::Item::Read(read))));
        (0..ended).for_each(|_| self.read_next());
        self.rooms.insert(room.clone(), Room::Loading { waiting, kept: Some(Box::new(ready)) });
        let through = self.acked();
        self.effects.push_back(Effect::Empty { room, through });
    }

    /// The answer to [`Effect::Empty`].
    pub fn on_emptied(&mut self, room: RoomName, now: Now) {
        let Some(Room::Loading { kept, .. }) = self.rooms.get_mut(&room) else { return };
        let Some(mut kept) = kept.take() else { return };
        self.drop_ring(&mut kept);
        let ready = ReadyRoom { head: 0, assigned: 0, epoch: Epoch::none(), ..*kept };
        for gateway in &ready.routes {
            // What it knows of the room is history: the next message has offset 1.
            self.links.send_to(*gateway, down::Item::Attached(Attached { room: room.to_string(), ..Attached::default() }));
        }
        self.open_room(room, ready, now);
    }

    fn open_room(&mut self, room: RoomName, ready: ReadyRoom, now: Now) {
        let Some(Room::Loading { waiting, .. }) = self.rooms.get_mut(&room) else { return };
        let waiting = std::mem::take(waiting);
        self.rooms.insert(room.clone(), Room::Ready(ready));
        self.idle.push_back((now.mono_ms, room.clone()));
        for (asker, item) in waiting {
            // One of them may find the room over its age.
            self.on_item_of(asker, room.clone(), item, now);
        }
        self.on_opened(&room, now);
    }

    /// The log could not tell the head: whoever asked is told to come back. Publishes go on waiting: one of them may be the
    /// repeat of one that is stored, so that "nothing was done" could be wrong.
    pub fn on_head_failed(&mut self, name: &RoomName) {
        let Some(Room::Loading { waiting, .. }) = self.rooms.get_mut(name) else { return };
        let (publishes, others): (Vec<_>, Vec<_>) =
            std::mem::take(waiting).into_iter().partition(|(_, item)| matches!(item, up::Item::Publish(_)));
        if publishes.is_empty() {
            self.rooms.remove(name);
        } else {
            *waiting = publishes;
            self.head_retries.push(name.clone());
        }
        for (asker, item) in others {
            let of = match item {
                up::Item::Attach(_) => failed::Of::Attach(true),
                up::Item::Read(read) => failed::Of::Read(read.read),
                up::Item::Who(who) => failed::Of::Who(who.who),
                up::Item::Erase(erase) => failed::Of::Erase(erase.erase),
                // Said again with the next attach, which the gateway is about to try.
                _ => continue,
            };
            self.fail(asker, name, Code::Unavailable, of);
        }
    }
}
