//! The gateway's end of the link to one partition's owner: what to say, what was said and is not answered yet.

use std::collections::{HashSet, VecDeque};

use bytes::Bytes;
use carillon_proto::{
    ids::{GatewayId, RoomName},
    link::{self, DownBatch, Publish, Up, UpBatch, up},
};
use prost::Message as _;

use super::Conn;
use crate::link::{Arrival, BATCH_BYTES, Inward, Outward, SILENCE_MS};

#[derive(Debug, Default)]
pub(super) struct Owner {
    /// 0 until there is something to say; then it counts the links opened.
    link: u64,
    is_open: bool,
    /// Of the owner that answers; 0 until it has.
    generation: u64,
    /// The highest ever heard: an owner below it is one that was replaced.
    highest_generation: u64,
    /// Links in a row on which nothing was taken.
    fruitless: u32,
    inward: Inward,
    outward: Outward,
    heard_ms: u64,
    opened_ms: u64,
    items: VecDeque<Up>,
    /// In the order in which they were said, which is the order in which they are repeated.
    pub(super) pending: VecDeque<Pending>,
    pub(super) pending_bytes: usize,
}

/// After so many links on which nobody answered, any owner will do: about ten seconds, longer than a replaced owner can go on
/// speaking.
const MAX_FRUITLESS: u32 = 3;

/// A link without an answer for so long, although its owner speaks, has lost its first batch.
const UNANSWERED_MS: u64 = 500;

/// A publish that waits for its answer.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) publish: Publish,
    pub(super) conn: Conn,
    pub(super) reference: Option<Box<str>>,
    pub(super) room: RoomName,
    pub(super) deadline_ms: u64,
}

impl Pending {
    /// What it counts for while it waits.
    pub(super) fn bytes(&self) -> usize {
        self.publish.payload.len() + self.reference.as_deref().map_or(0, str::len)
    }
}

/// What a batch from the owner means.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// Act on its items.
    Take,
    /// Nothing new.
    Ignore,
    /// Open the next link.
    Broken,
}

impl Owner {
    /// Something to say, after everything said before.
    pub(super) fn queue(&mut self, item: up::Item, now_ms: u64) {
        if !self.is_open {
            self.open(now_ms);
        }
        self.items.push_back(Up { item: Some(item) });
    }

    /// Ends the link. What is still to be said has to be queued again, which opens the next one.
    pub(super) fn close(&mut self) {
        self.is_open = false;
        self.items.clear();
    }

    fn open(&mut self, now_ms: u64) {
        self.is_open = true;
        self.link += 1;
        // A number that no owner lives up to, from a clock that was wrong or from a stranger, must not lock out the real one.
        self.fruitless += 1;
        if self.fruitless > MAX_FRUITLESS {
            self.highest_generation = 0;
        }
        self.generation = 0;
        self.inward = Inward::default();
        self.outward = Outward::default();
        self.heard_ms = now_ms;
        self.opened_ms = now_ms;
    }

    /// An owner says that it is one. True if the next link is to be opened, to it: because it is a new one, or because a
    /// link that was opened a while ago has had no answer.
    pub(super) fn on_announced(&mut self, generation: u64, now_ms: u64) -> bool {
        let is_new = generation > self.highest_generation;
        let is_unanswered = generation == self.highest_generation
            && self.generation != generation
            && now_ms.saturating_sub(self.opened_ms) >= UNANSWERED_MS;
        self.highest_generation = self.highest_generation.max(generation);
        self.is_open && (is_new || is_unanswered)
    }

    pub(super) fn on_batch(&mut self, batch: &DownBatch, now_ms: u64) -> Heard {
        if !self.is_open || batch.link != self.link || batch.generation < self.highest_generation {
            return Heard::Ignore;
        }
        if batch.number == 0 || (self.generation != 0 && batch.generation != self.generation) {
            self.highest_generation = batch.generation;
            return Heard::Broken;
        }
        self.highest_generation = batch.generation;
        self.heard_ms = now_ms;
        match self.inward.on_batch(batch.number, !batch.items.is_empty()) {
            Arrival::Next => {
                self.generation = batch.generation;
                self.fruitless = 0;
                Heard::Take
            }
            Arrival::Old => Heard::Ignore,
            Arrival::Hole => Heard::Broken,
        }
    }

    pub(super) fn is_silent(&self, now_ms: u64) -> bool {
        self.is_open && now_ms.saturating_sub(self.heard_ms) >= SILENCE_MS
    }

    pub(super) fn poll_batch(&mut self, gateway: GatewayId, newest_publish: u64, now_ms: u64) -> Option<UpBatch> {
        if !self.is_open {
            return None;
        }
        let mut items = Vec::new();
        let mut bytes = 0;
        while let Some(item) = self.items.front() {
            bytes += item.encoded_len();
            if bytes > BATCH_BYTES && !items.is_empty() {
                break;
            }
            items.extend(self.items.pop_front());
        }
        let number = if items.is_empty() { self.outward.heartbeat(now_ms)? } else { self.outward.next(now_ms) };
        Some(UpBatch {
            version: link::VERSION,
            gateway: Bytes::copy_from_slice(&gateway.0),
            link: self.link,
            number,
            generation: self.generation,
            items,
            settled: self.pending.front().map_or(newest_publish + 1, |oldest| oldest.publish.publish),
        })
    }

    /// The publish that an answer belongs to. Answers come mostly in order.
    pub(super) fn settle(&mut self, publish: u64) -> Option<Pending> {
        let index = self.pending.binary_search_by_key(&publish, |pending| pending.publish.publish).ok()?;
        let pending = self.pending.remove(index)?;
        self.pending_bytes -= pending.bytes();
        Some(pending)
    }

    /// What has waited too long, and with it what the same connection said in the same room after it: were that stored, and what
    /// was given up said again, a client's messages would change places.
    pub(super) fn take_late(&mut self, now_ms: u64) -> Vec<Pending> {
        let is_late = |pending: &Pending| pending.deadline_ms <= now_ms;
        if !self.pending.front().is_some_and(is_late) {
            return Vec::new();
        }
        let mut broken: HashSet<(Conn, RoomName)> = HashSet::new();
        let (mut late, mut kept) = (Vec::new(), VecDeque::new());
        for pending in self.pending.drain(..) {
            let says = (pending.conn, pending.room.clone());
            if is_late(&pending) || broken.contains(&says) {
                broken.insert(says);
                self.pending_bytes -= pending.bytes();
                late.push(pending);
            } else {
                kept.push_back(pending);
            }
        }
        self.pending = kept;
        late
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_overtakes_what_was_given_up() {
        let mut owner = Owner::default();
        let conn = |index| Conn { index, life: 1 };
        let said = [(1, "a", 0, 100), (2, "a", 1, 150), (3, "b", 0, 200), (4, "a", 0, 200), (5, "a", 0, 300), (6, "a", 1, 300)];
        for (publish, room, index, deadline_ms) in said {
            owner.pending.push_back(Pending {
                publish: Publish { publish, payload: "12345".into(), ..Publish::default() },
                conn: conn(index),
                reference: None,
                room: RoomName::parse(room).unwrap(),
                deadline_ms,
            });
            owner.pending_bytes += 5;
        }
        let mut take = |now_ms| owner.take_late(now_ms).iter().map(|late| late.publish.publish).collect::<Vec<_>>();
        assert_eq!(take(99), [0u64; 0]);
        // The first one's, in this room and by this connection.
        assert_eq!(take(100), [1, 4, 5]);
        assert_eq!(take(199), [2, 6]);
        assert_eq!(take(200), [3]);
        assert_eq!((owner.pending.len(), owner.pending_bytes), (0, 0));
    }
}
