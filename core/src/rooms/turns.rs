//! Whose turn it is to catch up. Pages are large, and many members may come back at once: so few pages per partition are
//! under way, and none is asked for while outboxes are half full. Who stalls meanwhile makes room for those that read.

use std::collections::{HashMap, VecDeque};

use carillon_proto::{
    codes::Close,
    ids::{PARTITIONS, PartitionId, RoomName},
};

use super::{Conn, Doors, RoomLimits, Rooms, Waits};
use crate::{Now, link::PAGE_BYTES};

/// How often outboxes are looked at for those that stand still: each look walks all connections.
const LOOK_MS: u64 = 500;

#[derive(Debug, Default)]
pub(super) struct Turns {
    partitions: [Turn; PARTITIONS as usize],
    /// Whose members read first next time: under want each partition gets its share.
    next: usize,
    /// Pages that were asked for and have not come.
    pages: usize,
    /// In all outboxes, as the driver last said, and what pages have put there since.
    waiting_bytes: usize,
    /// What each had taken when it was last seen to take anything, and when that was; only while members wait for room.
    standing: HashMap<Conn, (u32, u64)>,
    looked_ms: u64,
}

/// Of one partition.
#[derive(Debug, Default)]
struct Turn {
    /// In order.
    waiting: VecDeque<(RoomName, Conn)>,
    pages: usize,
}

impl Turns {
    pub(super) fn may_read(&self, partition: PartitionId, limits: &RoomLimits) -> bool {
        self.partitions[partition.index()].pages < limits.replay_pages && !self.is_full(limits)
    }

    /// Nobody may read, since outboxes and the pages on their way to them hold what they may.
    fn is_full(&self, limits: &RoomLimits) -> bool {
        self.waiting_bytes + self.pages * PAGE_BYTES >= limits.replay_total_bytes
    }

    pub(super) fn wait(&mut self, room: RoomName, conn: Conn) {
        self.partitions[room.partition().index()].waiting.push_back((room, conn));
    }

    pub(super) fn on_asked(&mut self, partition: PartitionId) {
        self.pages += 1;
        self.partitions[partition.index()].pages += 1;
    }

    /// A page came, or is not waited for any more.
    pub(super) fn on_page(&mut self, partition: PartitionId) {
        self.pages -= 1;
        self.partitions[partition.index()].pages -= 1;
    }

    pub(super) fn on_replayed(&mut self, bytes: usize) {
        self.waiting_bytes += bytes;
    }

    /// Who reads next, if anybody who waits may.
    fn pop(&mut self, limits: &RoomLimits) -> Option<(RoomName, Conn)> {
        for turn in 0..self.partitions.len() {
            let index = (self.next + turn) % self.partitions.len();
            if self.partitions[index].pages < limits.replay_pages
                && !self.is_full(limits)
                && let Some(first) = self.partitions[index].waiting.pop_front()
            {
                self.next = index + 1;
                return Some(first);
            }
        }
        None
    }
}

impl Rooms {
    /// So many bytes wait in all outboxes: members that wait for their turn read on as soon as there is room.
    pub fn on_outboxes(&mut self, waiting_bytes: usize, now: Now) {
        self.turns.waiting_bytes = waiting_bytes;
        while let Some((room, conn)) = self.turns.pop(&self.limits) {
            let Some(key) = self.names.get(&room).copied().filter(|_| self.is_here(conn)) else { continue };
            if self.catch_ups.get(&(key, conn.index)).is_some_and(|catch_up| catch_up.waits == Waits::Turn) {
                self.read_on(key, conn, now);
            }
        }
    }

    /// Members wait while outboxes are full: those that stand still are closed, and miss nothing when they resume.
    pub(super) fn close_stalled(&mut self, now: Now, doors: &mut impl Doors) {
        if !self.turns.is_full(&self.limits) {
            return self.turns.standing.clear();
        }
        if now.mono_ms.saturating_sub(self.turns.looked_ms) < LOOK_MS {
            return;
        }
        self.turns.looked_ms = now.mono_ms;
        if !self.somebody_waits() {
            return self.turns.standing.clear();
        }
        let before = std::mem::take(&mut self.turns.standing);
        for (index, memberships) in &self.conns {
            let conn = Conn { index: index as u32, life: memberships.life };
            if doors.outbox_bytes(conn) == 0 {
                continue;
            }
            let taken = doors.outbox_taken(conn);
            let since_ms = before.get(&conn).filter(|(before, _)| *before == taken).map_or(now.mono_ms, |(_, since)| *since);
            if now.mono_ms - since_ms >= self.limits.replay_stall_ms {
                doors.close(conn, Close::SlowConsumer);
            }
            self.turns.standing.insert(conn, (taken, since_ms));
        }
    }

    /// Whether anybody waits for a turn, without those that have left meanwhile.
    fn somebody_waits(&mut self) -> bool {
        let Self { turns, names, conns, catch_ups, .. } = self;
        for turn in &mut turns.partitions {
            turn.waiting.retain(|(room, conn)| {
                let is_here = conns.get(conn.index as usize).is_some_and(|memberships| memberships.life == conn.life);
                let catch_up = names.get(room).and_then(|key| catch_ups.get(&(*key, conn.index)));
                is_here && catch_up.is_some_and(|catch_up| catch_up.waits == Waits::Turn)
            });
        }
        turns.partitions.iter().any(|turn| !turn.waiting.is_empty())
    }
}
