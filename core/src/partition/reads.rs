//! Parts of a room: from the ring, or from the log, of which only so many are asked for at once.

use carillon_proto::{
    ids::{Offset, RoomName},
    link::{Code, Message, Page, Read, down, failed, read},
    log::Record,
};

use super::{Asker, Effect, Partition, PendingRead, ReadyRoom, Room, WaitingRead, ready, ring};
use crate::{Now, link::PAGE_BYTES};

/// Reads that wait at most; beyond it the answer is `unavailable`. A few hundred bytes each.
pub(super) const MAX_WAITING_READS: usize = 4_096;

impl Partition {
    pub(super) fn on_read(&mut self, asker: Asker, name: RoomName, read: Read, now: Now) {
        let oldest_ts = ready(&mut self.rooms, &name).keep.oldest_ts(now.unix_ms);
        self.forget_older(&name, oldest_ts);
        self.on_ring_used(&name);
        let room = ready(&mut self.rooms, &name);
        let floor = room.keep.floor(room.head);
        let limit = read.limit.clamp(1, 1000) as usize;
        let (after, before) = match read.span {
            Some(read::Span::After(offset)) => (Some(offset), None),
            Some(read::Span::Before(offset)) => (None, Some(offset.min(room.head + 1))),
            None => (None, Some(room.head + 1)),
        };
        let at_hand = match (after, before) {
            (Some(after), _) => room.ring.after(after, room.head).map(|found| ring::oldest(found, limit, PAGE_BYTES)),
            (_, Some(before)) => room.ring.before(before, limit, PAGE_BYTES),
            (None, None) => None,
        };
        if let Some(messages) = at_hand {
            // Whoever reads forward is told that nothing is missing in between; backward, how far it may go on.
            let first = if after.is_some() { room.ring.first().unwrap_or(room.head + 1) } else { floor };
            let page = page(&read, room, messages, first);
            return self.links.send(asker, down::Item::Page(page));
        }
        let after = after.map(|after| after.max(floor - 1));
        // Backward, one more tells by its age whether there is anything further.
        let limit = limit + usize::from(after.is_none());
        self.read_log(PendingRead { asker, read, room: name }, after, before, limit);
    }

    fn read_log(&mut self, pending: PendingRead, after: Option<Offset>, before: Option<Offset>, limit: usize) {
        if self.reads.len() >= self.config.reads {
            if self.waiting_reads.len() < MAX_WAITING_READS {
                return self.waiting_reads.push_back(WaitingRead { pending, after, before, limit });
            }
            let PendingRead { asker, read, room } = pending;
            return self.fail(asker, &room, Code::Unavailable, failed::Of::Read(read.read));
        }
        self.next_ticket += 1;
        let (ticket, room) = (self.next_ticket, pending.room.clone());
        self.effects.push_back(Effect::Read { ticket, room, after, before, limit, bytes: PAGE_BYTES });
        self.reads.insert(ticket, pending);
    }

    fn take_read(&mut self, ticket: u64) -> Option<PendingRead> {
        let ended = self.reads.remove(&ticket)?;
        self.read_next();
        Some(ended)
    }

    /// A read has ended: the next one begins whose asker is still there.
    pub(super) fn read_next(&mut self) {
        while let Some(WaitingRead { pending, after, before, limit }) = self.waiting_reads.pop_front() {
            if self.links.stands(pending.asker.gateway, pending.asker.link) {
                return self.read_log(pending, after, before, limit);
            }
        }
    }

    /// The answer to [`Effect::Read`]: records, oldest first, and the oldest offset that the log still has (0: none).
    pub fn on_part(&mut self, ticket: u64, mut records: Vec<Record>, first: Offset, now: Now) {
        if self.on_swept(ticket, &records, now) {
            return;
        }
        let Some(pending) = self.take_read(ticket) else { return };
        let acked = self.acked();
        let Some(room) = self.rooms.get_mut(&pending.room).and_then(Room::known) else { return };
        // The log may have acked more than this owner has told yet: that comes as deliveries, in its order.
        records.retain(|record| record.offset <= room.head);
        let is_forward = matches!(pending.read.span, Some(read::Span::After(_)));
        // Going forward, what was kept when it was asked for is shown, though the room has grown out of it meanwhile: nothing
        // would look like the end of the room.
        let floor = room.keep.floor(room.head);
        let floor = records.first().filter(|_| is_forward).map_or(floor, |oldest| floor.min(oldest.offset));
        let first = if first == 0 { room.head + 1 } else { first.max(floor) };
        let (oldest_ts, read_any) = (room.keep.oldest_ts(now.unix_ms), !records.is_empty());
        let newest_old = records.iter().rev().find(|record| record.ts < oldest_ts).map(|record| record.offset);
        let first = first.max(newest_old.map_or(0, |offset| offset + 1));
        records.retain(|record| record.offset >= first);
        if let Some(old) = newest_old {
            self.effects.push_back(Effect::Trim { room: pending.room.clone(), below: old + 1, through: acked });
            if read_any && records.is_empty() && is_forward {
                let limit = pending.read.limit.clamp(1, 1000) as usize;
                return self.read_log(pending, Some(old), None, limit);
            }
        }
        if !is_forward {
            let limit = pending.read.limit.clamp(1, 1000) as usize;
            records.drain(..records.len().saturating_sub(limit));
        }
        let epoch = room.epoch.as_str().to_owned();
        let messages = records.into_iter().map(|record| Message { epoch: epoch.clone(), ..to_message(record) });
        let page = page(&pending.read, room, messages.collect(), first);
        self.links.send(pending.asker, down::Item::Page(page));
    }

    /// The log could not read.
    pub fn on_part_failed(&mut self, ticket: u64) {
        if self.on_sweep_failed(ticket) {
            return;
        }
        if let Some(PendingRead { asker, read, room }) = self.take_read(ticket) {
            self.fail(asker, &room, Code::Unavailable, failed::Of::Read(read.read));
        }
    }
}

fn page(read: &Read, room: &ReadyRoom, messages: Vec<Message>, first: Offset) -> Page {
    let more = match read.span {
        Some(read::Span::After(_)) => messages.last().is_some_and(|last| last.offset < room.head),
        _ => messages.first().is_some_and(|oldest| oldest.offset > first.max(1)) && !messages.is_empty(),
    };
    Page { read: read.read, room: read.room.clone(), messages, first, head: room.head, epoch: room.told_epoch(), more }
}

fn to_message(record: Record) -> Message {
    Message {
        room: record.room,
        offset: record.offset,
        epoch: record.epoch,
        id: record.id,
        ts: record.ts,
        sender: record.sender,
        client: record.client,
        echo: record.echo,
        key: record.key,
        payload: record.payload,
        traceparent: record.traceparent,
    }
}
