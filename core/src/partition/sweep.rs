//! Retention by age for rooms that nobody asks about: now and then every room that the log holds is looked at, a few at a time,
//! so that what is too old leaves the disk too. Rooms that are asked about are judged on the way (`super`), in time.

use std::collections::{HashMap, HashSet, VecDeque};

use carillon_proto::{
    ids::{Offset, RoomName},
    log::Record,
};

use super::{Effect, Partition, ReadyRoom, Room};
use crate::{Now, link::PAGE_BYTES};

/// Rooms that the log is asked to name at once.
pub const ROOMS: usize = 64;
/// Rooms looked at per tick, each at the cost of two reads at most times: with 16 partitions and four ticks a second 128 rooms
/// a second, about one per cent of a core, and a million rooms in two hours.
const ROOMS_PER_TICK: usize = 2;
/// The longest pause between two rounds; otherwise a sixteenth of the shortest age.
const MAX_PAUSE_MS: u64 = 3_600_000;
/// The shortest one.
const MIN_PAUSE_MS: u64 = 1_000;
/// Records read at once where the oldest was too old.
const RECORDS: usize = 256;

#[derive(Debug, Default)]
pub(super) struct Sweep {
    /// The next round, or the next step of this one.
    next_ms: u64,
    /// The log was asked for names, and has not answered.
    is_asking: bool,
    /// The last room that it named.
    after: Option<RoomName>,
    rooms: VecDeque<RoomName>,
    /// Rooms whose head was asked for, to be looked at then.
    opening: HashSet<RoomName>,
    /// Reads under way, by their tickets.
    reads: HashMap<u64, RoomName>,
}

impl Partition {
    /// Which rooms the log should name next, at most [`ROOMS`] of them after this one, by their names; `None` for now. The answer
    /// goes to [`Self::on_rooms`]. To be asked at ticks, of owners whose log does not forget by itself.
    pub fn poll_sweep(&mut self, now: Now) -> Option<Option<RoomName>> {
        let sweep = &mut self.sweep;
        if self.lease_until_ms <= now.mono_ms || sweep.is_asking || !sweep.rooms.is_empty() || now.mono_ms < sweep.next_ms {
            return None;
        }
        sweep.is_asking = true;
        Some(sweep.after.clone())
    }

    /// The log names rooms; none when there are no more.
    pub fn on_rooms(&mut self, rooms: Vec<RoomName>, now: Now) {
        self.sweep.is_asking = false;
        self.sweep.after = rooms.last().cloned();
        if rooms.is_empty() {
            let shortest = self.config.retention.iter().map(|it| it.keep.age_ms).min().unwrap_or(u64::MAX);
            self.sweep.next_ms = now.mono_ms + (shortest / 16).clamp(MIN_PAUSE_MS, MAX_PAUSE_MS);
        }
        self.sweep.rooms.extend(rooms);
    }

    /// Looks at some rooms.
    pub(super) fn sweep(&mut self, now: Now) {
        for _ in 0..ROOMS_PER_TICK {
            let Some(room) = self.sweep.rooms.pop_front() else { return };
            self.look_at(room, now);
        }
    }

    fn look_at(&mut self, room: RoomName, now: Now) {
        match self.rooms.get(&room) {
            Some(Room::Ready(ready)) if ready.is_over_age(now) => self.empty(room, Vec::new()),
            Some(Room::Ready(ready)) if ready.head > 0 => {
                let after = ready.keep.floor(ready.head) - 1;
                self.read_oldest(room, after, 1);
            }
            // Empty, or about to be.
            Some(_) => {}
            None => {
                self.effects.push_back(Effect::Head { room: room.clone() });
                self.rooms.insert(room.clone(), Room::Loading { waiting: Vec::new(), kept: None });
                self.sweep.opening.insert(room);
            }
        }
    }

    /// A room's head is known.
    pub(super) fn on_opened(&mut self, room: &RoomName, now: Now) {
        if self.sweep.opening.remove(room) {
            self.look_at(room.clone(), now);
        }
    }

    fn read_oldest(&mut self, room: RoomName, after: Offset, limit: usize) {
        self.next_ticket += 1;
        let ticket = self.next_ticket;
        self.effects.push_back(Effect::Read {
            ticket,
            room: room.clone(),
            after: Some(after),
            before: None,
            limit,
            bytes: PAGE_BYTES,
        });
        self.sweep.reads.insert(ticket, room);
    }

    /// The answer to a read, if it is one of the sweep's.
    pub(super) fn on_swept(&mut self, ticket: u64, records: &[Record], now: Now) -> bool {
        let Some(name) = self.sweep.reads.remove(&ticket) else { return false };
        let Some(Room::Ready(ReadyRoom { keep, .. })) = self.rooms.get(&name) else { return true };
        let oldest_ts = keep.oldest_ts(now.unix_ms);
        let Some(old) = records.iter().rev().find(|record| record.ts < oldest_ts).map(|record| record.offset) else {
            return true;
        };
        let through = self.acked();
        self.effects.push_back(Effect::Trim { room: name.clone(), below: old + 1, through });
        if records.last().is_some_and(|last| last.offset == old) {
            self.read_oldest(name, old, RECORDS);
        }
        true
    }

    /// A room begins another life: what was read of this one must trim nothing of the next.
    pub(super) fn forget_swept(&mut self, room: &RoomName) {
        self.sweep.reads.retain(|_, swept| swept != room);
    }

    /// The log could not read: the next round will.
    pub(super) fn on_sweep_failed(&mut self, ticket: u64) -> bool {
        self.sweep.reads.remove(&ticket).is_some()
    }
}
