//! What comes in over the links: deliveries, answers, and the news that a link has broken.

use carillon_proto::{
    codes::ErrorCode,
    frame::{Outgoing, ServerFrame},
    ids::{Epoch, MessageId, PartitionId, RoomName},
    link::{self, Attached, Code, DownBatch, Erase, Failed, Message, Page, Published, Who, down, failed, up},
};

use super::{Conn, Doors, Reading, RoomKey, Rooms, Waits, identity_hash, owner::Heard, retry_later};
use crate::Now;

impl Rooms {
    /// A batch from the owner of a partition.
    pub fn on_batch<D: Doors>(&mut self, partition: PartitionId, batch: DownBatch, now: Now, doors: &mut D) {
        if batch.version != link::VERSION {
            return;
        }
        match self.owners[partition.index()].on_batch(&batch, now.mono_ms) {
            Heard::Ignore => return,
            Heard::Broken => return self.reopen(partition, now, doors),
            Heard::Take => {}
        }
        let mut run = (RoomKey::MAX, D::Shared::default());
        for item in batch.items.into_iter().filter_map(|down| down.item) {
            let is_sound = match item {
                down::Item::Message(message) => self.on_message(&message, &mut run, doors),
                down::Item::Published(published) => self.on_published(partition, &published, doors),
                down::Item::Attached(attached) => self.on_attached(&attached, now, doors),
                down::Item::Page(page) => self.on_page(&page, now, doors),
                down::Item::Failed(failed) => self.on_failed(partition, &failed, now, doors),
                down::Item::Present(present) => {
                    self.on_present(present, now, doors);
                    true
                }
                down::Item::Counted(counted) => {
                    self.on_counted(&counted, now, doors);
                    true
                }
                down::Item::Erased(erased) => {
                    self.on_erased(&erased, doors);
                    true
                }
                down::Item::UserIn(news) => {
                    self.on_user_in(news, doors);
                    true
                }
                down::Item::UserOut(news) => {
                    self.on_user_out(news, doors);
                    true
                }
            };
            if !is_sound {
                return self.reopen(partition, now, doors);
            }
        }
    }

    /// A new owner says that it is one: what is said from here on goes to it, and what an older one says is not heard.
    pub fn on_owner(&mut self, partition: PartitionId, generation: u64, now: Now, doors: &mut impl Doors) {
        if self.owners[partition.index()].on_announced(generation, now.mono_ms) {
            self.reopen(partition, now, doors);
        }
    }

    /// False if the message is not the next one of its room: the link has lied, which ends it.
    /// `run`: the room of the message before, and what its members share.
    fn on_message<D: Doors>(&mut self, message: &Message, run: &mut (RoomKey, D::Shared), doors: &mut D) -> bool {
        self.counts.deliveries_in += 1;
        let Some(key) = self.names.get(message.room.as_str()).copied() else { return true };
        let Some(out) = outgoing(message) else { return false };
        let room = &mut self.rooms[key as usize];
        // Of an earlier attach: the answer to the one under way says where to go on.
        if !room.is_attached {
            return true;
        }
        if message.offset > 0 {
            let restarts = message.offset == 1 && room.last > 0 && message.epoch != room.epoch.as_str();
            if restarts {
                room.last = 0;
            }
            if message.offset <= room.last {
                return true;
            }
            if message.offset - 1 != room.last {
                return false;
            }
            if message.offset == 1 {
                room.epoch = Epoch::from_wire(&message.epoch);
            }
            if restarts {
                // Live ones see it by the epoch of offset 1.
                self.restart_members(key, false, doors);
            }
            self.rooms[key as usize].last = message.offset;
        }
        if run.0 == key {
            D::next_message(&mut run.1);
        } else {
            *run = (key, D::Shared::default());
        }
        self.deliver(key, message, &out, &mut run.1, doors);
        true
    }

    fn deliver<D: Doors>(&mut self, key: RoomKey, message: &Message, out: &Outgoing<'_>, shared: &mut D::Shared, doors: &mut D) {
        let sender = identity_hash(&message.sender, &message.client);
        let room = &self.rooms[key as usize];
        let was_missed = message.offset > 0 && message.offset <= room.missed_until;
        for member in &room.members {
            if !member.is_live {
                continue;
            }
            if member.identity == sender && member.is_own(message, doors) {
                // The connection that said it has its answer, unless that is what was lost. Another one of the same app
                // instance, most often the one after a reconnect, learns by `own` what became of it.
                if message.offset > 0 && (was_missed || room.answered != Some((message.offset, member.conn))) {
                    doors.frame(member.conn, &own(message, out));
                }
                continue;
            }
            self.counts.deliveries_out += 1;
            doors.message(member.conn, out, shared);
        }
    }

    fn on_published(&mut self, partition: PartitionId, published: &Published, doors: &mut impl Doors) -> bool {
        let Some(pending) = self.owners[partition.index()].settle(published.publish) else { return true };
        let stored = match published.offset {
            0 => None,
            offset => match MessageId::from_wire(&published.id) {
                Some(id) => Some((offset, id)),
                None => return false,
            },
        };
        if let Some(key) = self.names.get(&pending.room)
            && published.offset > 0
        {
            self.rooms[*key as usize].answered = Some((published.offset, pending.conn));
        }
        if let Some(reference) = pending.reference.as_deref().filter(|_| self.is_here(pending.conn)) {
            let ack =
                ServerFrame::Ack { reference, room: &pending.room, stored, ts: published.ts, duplicate: published.duplicate };
            doors.frame(pending.conn, &ack);
        }
        true
    }

    fn on_attached(&mut self, attached: &Attached, now: Now, doors: &mut impl Doors) -> bool {
        let Some(key) = self.names.get(attached.room.as_str()).copied() else { return true };
        let room = &mut self.rooms[key as usize];
        if room.is_attached {
            // Unasked: retention has emptied the room. Live members see it by the next message, which has offset 1.
            (room.last, room.missed_until, room.epoch) = (attached.head, 0, Epoch::from_wire(&attached.epoch));
            self.restart_members(key, false, doors);
            return true;
        }
        room.is_attached = true;
        let was_known = std::mem::replace(&mut room.is_known, true);
        let shown = room.last;
        // An empty room has no epoch yet, so its first message begins nothing new.
        let is_other_life = was_known && shown > 0 && (attached.epoch != room.epoch.as_str() || attached.head < shown);
        room.last = attached.head;
        room.missed_until = if was_known { attached.newest } else { 0 };
        room.epoch = Epoch::from_wire(&attached.epoch);
        // Reads waited for the attach: their answers lean on its head.
        self.reread(key, now);
        if is_other_life {
            self.restart_members(key, true, doors);
        } else if attached.gap {
            self.members_fell_behind(key, shown, now);
        }
        self.grant_wishes(key, now, doors);
        true
    }

    fn on_page(&mut self, page: &Page, now: Now, doors: &mut impl Doors) -> bool {
        match self.take_reading(page.read) {
            None | Some(Reading::Join { .. } | Reading::Presence { .. } | Reading::Erase { .. }) => {}
            Some(Reading::CatchUp { conn, .. }) => self.on_replay(conn, page, now, doors),
            Some(Reading::History(history)) => self.on_history_page(history, page, now, doors),
        }
        true
    }

    fn on_failed(&mut self, partition: PartitionId, failed: &Failed, now: Now, doors: &mut impl Doors) -> bool {
        match failed.of {
            Some(failed::Of::Publish(publish)) => {
                if let Some(pending) = self.owners[partition.index()].settle(publish)
                    && self.is_here(pending.conn)
                {
                    let room = Some(&pending.room);
                    failure(doors, pending.conn, failed, pending.reference.as_deref(), room);
                }
            }
            Some(failed::Of::Read(read)) => match self.take_reading(read) {
                Some(Reading::History(history)) => {
                    if self.is_here(history.conn) {
                        failure(doors, history.conn, failed, history.reference.as_deref(), Some(history.room()));
                    }
                    self.on_history_ended(read, &history, now, doors);
                }
                Some(Reading::CatchUp { conn, .. }) => {
                    let key = self.names.get(failed.room.as_str()).copied();
                    if let Some(catch_up) = key.and_then(|key| self.catch_ups.get_mut(&(key, conn.index)))
                        && catch_up.waits == Waits::Page(read)
                    {
                        catch_up.waits = Waits::Drain;
                        self.retries.extend(RoomName::parse(&failed.room).ok().map(|room| (room, Some(conn))));
                    }
                }
                _ => {}
            },
            Some(failed::Of::Who(who)) => match self.reads.remove(&who) {
                Some(Reading::Presence { conn, reference, room }) if self.is_here(conn) => {
                    failure(doors, conn, failed, reference.as_deref(), Some(&room));
                }
                Some(Reading::Join { conn }) if self.is_here(conn) => {
                    if let Some(key) = self.names.get(failed.room.as_str()).copied() {
                        self.give_up_joins(key, conn, now, doors);
                    }
                }
                _ => {}
            },
            Some(failed::Of::Erase(erase)) => {
                if let Some(Reading::Erase { conn, reference, room }) = self.reads.remove(&erase)
                    && self.is_here(conn)
                {
                    failure(doors, conn, failed, reference.as_deref(), Some(&room));
                }
            }
            Some(failed::Of::Attach(_)) => {
                if let Some(key) = self.names.get(failed.room.as_str()).copied() {
                    let room = &self.rooms[key as usize];
                    if room.members.is_empty() {
                        let mut wishers: Vec<Conn> = room.wishes.iter().map(|(conn, _)| *conn).collect();
                        wishers.dedup();
                        for conn in wishers {
                            if self.rooms.contains(key as usize) {
                                self.give_up_joins(key, conn, now, doors);
                            }
                        }
                    } else {
                        // Members hold on: asked again until the owner can tell.
                        self.retries.push((room.name.clone(), None));
                    }
                }
            }
            None => {}
        }
        true
    }

    /// The link has broken: everything that it carried is asked anew on the next one, in order. Attaches first, so that
    /// answers find their room; then publishes, in the order in which they were said; reads follow their room's attach.
    pub(super) fn reopen(&mut self, partition: PartitionId, now: Now, doors: &mut impl Doors) {
        self.counts.repairs += 1;
        self.owners[partition.index()].close();
        let keys: Vec<RoomKey> =
            self.rooms.iter().filter(|(_, room)| room.name.partition() == partition).map(|(key, _)| key as RoomKey).collect();
        for key in keys {
            self.rooms[key as usize].is_attached = false;
            self.ask_attach(key, now, doors);
        }
        let owner = &mut self.owners[partition.index()];
        let ephemeral: Vec<u64> =
            owner.pending.iter().filter(|pending| pending.publish.ephemeral).map(|pending| pending.publish.publish).collect();
        for publish in ephemeral {
            if let Some(pending) = self.owners[partition.index()].settle(publish)
                && self.is_here(pending.conn)
            {
                retry_later(doors, pending.conn, "the message may be lost", pending.reference.as_deref(), Some(&pending.room), 0);
            }
        }
        let owner = &mut self.owners[partition.index()];
        let publishes: Vec<_> = owner.pending.iter().map(|pending| pending.publish.clone()).collect();
        for publish in publishes {
            owner.queue(up::Item::Publish(publish), now.mono_ms);
        }
        let mut asked: Vec<(u64, up::Item)> =
            self.reads.iter().filter_map(|(id, reading)| Some((*id, self.again(*id, reading)?))).collect();
        asked.retain(|(_, item)| room_of(item).is_some_and(|room| room.partition() == partition));
        asked.sort_by_key(|(id, _)| *id);
        for (_, item) in asked {
            self.owners[partition.index()].queue(item, now.mono_ms);
        }
    }

    /// A question of a client's that stands on its own; those of members that catch up follow their room's attach.
    fn again(&self, id: u64, reading: &Reading) -> Option<up::Item> {
        match reading {
            Reading::History(history) => self.read_again(id, history),
            Reading::Presence { room, .. } => Some(up::Item::Who(Who { who: id, room: room.as_str().to_owned() })),
            Reading::Erase { room, .. } => Some(up::Item::Erase(Erase { erase: id, room: room.as_str().to_owned() })),
            Reading::CatchUp { .. } | Reading::Join { .. } => None,
        }
    }
}

fn room_of(item: &up::Item) -> Option<RoomName> {
    match item {
        up::Item::Read(read) => RoomName::parse(&read.room).ok(),
        up::Item::Who(who) => RoomName::parse(&who.room).ok(),
        up::Item::Erase(erase) => RoomName::parse(&erase.room).ok(),
        _ => None,
    }
}

fn failure(doors: &mut impl Doors, to: Conn, failed: &Failed, reference: Option<&str>, room: Option<&RoomName>) {
    let (code, message) = match failed.code() {
        Code::Internal => (ErrorCode::Internal, "something went wrong here; try again later"),
        Code::OverCapacity => (ErrorCode::Unavailable, "no further rooms can be opened now"),
        Code::Unavailable | Code::Unspecified => (ErrorCode::Unavailable, "not possible now; try again later"),
    };
    let retry_after_ms = Some(failed.retry_after_ms);
    doors.frame(to, &ServerFrame::Error { code, message, reference, room, retry_after_ms, outcome_unknown: false });
}

/// What the sender of a message is told in its place.
pub(super) fn own<'a>(message: &'a Message, out: &Outgoing<'a>) -> ServerFrame<'a> {
    let key = (!message.key.is_empty()).then_some(message.key.as_str());
    ServerFrame::Own { room: out.room, offset: out.offset, id: out.id, ts: out.ts, key, epoch: out.epoch }
}

/// A message as doors encode it; `None` if it has no id, which no owner sends.
pub(super) fn outgoing(message: &Message) -> Option<Outgoing<'_>> {
    let id = if message.offset == 0 { MessageId([0; 16]) } else { MessageId::from_wire(&message.id)? };
    Some(Outgoing {
        room: &message.room,
        payload: &message.payload,
        sender: &message.sender,
        offset: message.offset,
        id,
        ts: message.ts,
        epoch: &message.epoch,
        key: "",
    })
}
