//! The rooms of one gateway shard: who is a member, where each room stands, what is asked of the owners. Messages come
//! in over the links in offset order and go to every member that is live; a member that resumes holds a position and
//! is fed pages until it stands at the head. Knows no socket and no encoding: those are behind [`Doors`].
//!
//! ```text
//!   join ─▶ (attach ─▶ attached) ─▶ joined ─▶ live
//!                                 ╰▶ read ─▶ page ─▶ joined, messages ─▶ read ─▶ … ─▶ live
//!   publish ─▶ pending ─▶ published ─▶ ack
//! ```
//!
//! Two facts carry everything here. A page is answered on the link in order with the deliveries, so the head in it is the
//! head that the room has here. And a link that breaks is opened anew with all that is still unanswered, so nothing is ever
//! repaired twice.

mod erasing;
mod history;
mod joining;
mod owner;
mod presence;
mod receiving;
mod turns;

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use carillon_proto::{
    codes::{Close, ErrorCode},
    frame::{EpochClaim, JoinOptions, Outgoing, Presence, ServerFrame},
    ids::{Epoch, GatewayId, Offset, PARTITIONS, PartitionId, RoomName, UserId, fnv1a32},
    link::{Attach, Detach, Publish, Read, UpBatch, read, up},
};
use slab::Slab;
use smallvec::SmallVec;

use crate::{
    Now,
    grants::{MayJoin, MayPublish},
};
use history::{Histories, History};
use owner::{Owner, Pending};
use presence::Known;
use turns::Turns;

/// One connection of this gateway: a place, and which of its tenants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Conn {
    /// The place, used again after a connection ends.
    pub index: u32,
    /// Counts the tenants, so that an answer for one that left finds nobody.
    pub life: u32,
}

/// The connections, as rooms see them. Nothing here may call back into [`Rooms`]: what a frame sets off (an outbox
/// that overflows, say) is for the driver to do afterwards.
pub trait Doors {
    /// A message in every door's encoding, each made when the first member needs it; and what messages of one room in a row may
    /// share.
    type Shared: Default;

    /// Another message of the same room follows, for the same members or nearly so.
    fn next_message(shared: &mut Self::Shared) {
        *shared = Self::Shared::default();
    }

    /// A message for a member; `shared` is the same for all members of the room.
    fn message(&mut self, to: Conn, message: &Outgoing<'_>, shared: &mut Self::Shared);

    /// Any other frame.
    fn frame(&mut self, to: Conn, frame: &ServerFrame<'_>);

    /// The personal room is attached: the connection may begin.
    fn welcome(&mut self, to: Conn, personal: &RoomName, head: Offset, epoch: &Epoch);

    /// The connection can't go on.
    fn close(&mut self, of: Conn, why: Close);

    /// The user and the client id of a connection.
    fn identity(&self, of: Conn) -> (&str, &str);

    /// What a connection's token says of its user in presence, JSON text; empty for nothing.
    fn info(&self, of: Conn) -> &str;

    /// Bytes in the connection's outbox: pages go out as it drains.
    fn outbox_bytes(&self, of: Conn) -> usize;

    /// Counts the bytes that the client has taken out of its outbox, wrapping: one that stands still has stalled.
    fn outbox_taken(&self, of: Conn) -> u32;
}

/// The limits that rooms keep, all of them settings.
#[derive(Debug, Clone)]
pub struct RoomLimits {
    /// Connections per user, on all gateways together.
    pub connections_per_user: u32,
    /// Rooms per connection, the personal one not counted.
    pub rooms_per_connection: usize,
    /// Messages per page of a resume, and the most that `last` gives.
    pub replay_messages: u32,
    /// A member that catches up is fed while its outbox holds less than this.
    pub replay_outbox_bytes: usize,
    /// Pages under way and outboxes together may hold so many bytes before further members that catch up wait for their turn:
    /// many that come back at once must not push each other over the limit of all outboxes.
    pub replay_total_bytes: usize,
    /// Pages per partition under way: with each up to 256 KiB, what comes in at once stays within 64 MiB, and a partition
    /// that does not answer keeps no other one's members waiting.
    pub replay_pages: usize,
    /// While members wait because outboxes are full, whoever has taken nothing out of its own for so long is closed as too
    /// slow: it holds the room that they need.
    pub replay_stall_ms: u64,
    /// An answer to `history` that is gathered from several pages is given when another page might make it larger than this.
    pub answer_bytes: usize,
    /// Answers to `history` that are gathered from several pages may hold so many bytes together; but one always goes on.
    pub history_bytes: usize,
    /// How long a publish is repeated before its outcome is called unknown.
    pub publish_timeout_ms: u64,
    /// How long a join or a read may wait for the owner.
    pub request_timeout_ms: u64,
    /// Publishes per partition that wait for their answer.
    pub pending_publishes: usize,
    /// Bytes per partition, of payloads and of `ref`s, that wait for their answer.
    pub pending_bytes: usize,
}

impl Default for RoomLimits {
    fn default() -> Self {
        Self {
            connections_per_user: 64,
            rooms_per_connection: 256,
            replay_messages: 1000,
            replay_outbox_bytes: 256 * 1024,
            replay_total_bytes: 512 * 1024 * 1024,
            replay_pages: 16,
            replay_stall_ms: 5_000,
            answer_bytes: 8 * 1024 * 1024,
            history_bytes: 64 * 1024 * 1024,
            publish_timeout_ms: 15_000,
            request_timeout_ms: 10_000,
            pending_publishes: 8192,
            pending_bytes: 32 * 1024 * 1024,
        }
    }
}

/// What happened, for metrics; only ever counts up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RoomCounts {
    /// Stored and ephemeral messages that came in over the links.
    pub deliveries_in: u64,
    /// Messages that members were sent, replays included.
    pub deliveries_out: u64,
    /// Rooms attached, the repeats of a repair included.
    pub attaches: u64,
    /// Links that broke and were opened anew.
    pub repairs: u64,
    /// Publishes sent to owners, repeats not counted.
    pub publishes: u64,
    /// Resumes (`since`) that were honoured.
    pub recovered: u64,
    /// Resumes that could not be, since retention took some of what was missed.
    pub trimmed: u64,
    /// Resumes that could not be, since the room lives another life.
    pub other_life: u64,
}

/// A publish as the door hands it over.
#[derive(Debug)]
pub struct Publishing<'a> {
    /// JSON text.
    pub payload: &'a str,
    /// Idempotency key.
    pub key: Option<&'a str>,
    /// Send it to the sender too.
    pub echo: bool,
    /// Do not store it.
    pub ephemeral: bool,
    /// The client's `ref`, JSON text: without one there is no `ack`.
    pub reference: Option<&'a str>,
    /// W3C trace context, `""` for none.
    pub traceparent: &'a str,
}

/// All rooms of one gateway shard.
#[derive(Debug)]
pub struct Rooms {
    gateway: GatewayId,
    limits: RoomLimits,
    names: HashMap<RoomName, RoomKey>,
    rooms: Slab<Room>,
    /// By the index of [`Conn`].
    conns: Slab<Memberships>,
    owners: [Owner; PARTITIONS as usize],
    reads: HashMap<u64, Reading>,
    histories: Histories,
    catch_ups: HashMap<(RoomKey, u32), CatchUp>,
    /// Which of them may read now.
    turns: Turns,
    /// Connections that began though their owner did not know yet of all that their user has, in their personal rooms: by which
    /// question they are counted again.
    early: HashMap<(RoomKey, u32), u64>,
    next_read: u64,
    next_publish: u64,
    /// Joins and reads that may wait until then.
    deadlines: BTreeMap<u64, Vec<Waiting>>,
    /// Catch-ups whose read failed, and rooms whose attach failed, to be tried again at the next tick.
    retries: Vec<(RoomName, Option<Conn>)>,
    counts: RoomCounts,
}

type RoomKey = u32;

/// Rooms of one connection that read on when its outbox has drained. A page is about as large as what the outbox takes of
/// a replay, so that more would mostly be read in vain; a second one covers for a partition that does not answer.
const READS_PER_DRAIN: usize = 2;

#[derive(Debug)]
struct Room {
    name: RoomName,
    /// Deliveries come in, from `last` on; before that, an attach is under way.
    is_attached: bool,
    /// `last` and `epoch` are what members were shown: an attach goes on from there.
    is_known: bool,
    last: Offset,
    /// Up to here deliveries repeat what was missed while the link was down.
    missed_until: Offset,
    /// The newest own message that a connection was answered for, just before its delivery: that one needs no `own`.
    answered: Option<(Offset, Conn)>,
    epoch: Epoch,
    members: SmallVec<[Member; 1]>,
    /// What members asked for while the room, or an earlier wish of theirs, was not ready.
    wishes: Vec<(Conn, Wish)>,
    /// Members that want to be told who comes and goes; while there are any, who is there.
    watchers: u32,
    known: Option<Box<Known>>,
}

/// 16 bytes; a room of a thousand walks a thousand of them per message.
#[derive(Debug, Clone, Copy)]
struct Member {
    conn: Conn,
    /// Of user and client id: most messages can be told from a member's own without looking further.
    identity: u32,
    is_live: bool,
    echo: bool,
    presence: bool,
}

#[derive(Debug)]
enum Wish {
    Join { options: JoinOptions, reference: Option<Box<str>>, is_personal: bool, deadline_ms: u64 },
    Leave { reference: Option<Box<str>>, deadline_ms: u64 },
}

/// A member that is not live yet.
#[derive(Debug)]
struct CatchUp {
    /// What it has been sent.
    position: Offset,
    /// The answer to its join, which comes before its messages.
    owed: Option<Owed>,
    waits: Waits,
    /// It asked for the newest few, up to here: what retention took of them is no loss.
    lenient_until: Offset,
}

/// What a member that catches up waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Waits {
    /// Who is in the room, for its `joined`.
    Present(u64),
    /// How many connections its user has, before it may begin.
    Counted(u64),
    /// A page.
    Page(u64),
    /// Its own outbox, to drain.
    Drain,
    /// Its turn: others that catch up fill all the room there is.
    Turn,
}

#[derive(Debug)]
struct Owed {
    reference: Option<Box<str>>,
    /// The `since` of the join, and its epoch unless that is not to be checked.
    claim: Option<(Offset, Option<EpochClaim>)>,
    /// The `last` of the join, should its `since` turn out not to be recoverable.
    last: u32,
    /// A member that joins again without a `since` had come so far: it misses nothing by that.
    stood: Option<Offset>,
    is_personal: bool,
    members: Option<Presence>,
    deadline_ms: u64,
}

/// Whether a resume could be honoured, and if not, why.
type Reason = Option<&'static str>;

#[derive(Debug)]
enum Reading {
    CatchUp { conn: Conn, partition: PartitionId },
    Join { conn: Conn },
    History(Box<History>),
    Presence { conn: Conn, reference: Option<Box<str>>, room: RoomName },
    Erase { conn: Conn, reference: Option<Box<str>>, room: RoomName },
}

#[derive(Debug)]
enum Waiting {
    Join(RoomName, Conn),
    Read(u64),
}

#[derive(Debug)]
struct Memberships {
    life: u32,
    user: UserId,
    joined: SmallVec<[Joined; 2]>,
}

/// A room of a connection, and its place among the room's members.
#[derive(Debug, Clone, Copy)]
struct Joined {
    room: RoomKey,
    /// [`NOT_YET`] while its first join waits.
    place: u32,
}

const NOT_YET: u32 = u32::MAX;

impl Rooms {
    /// No rooms yet, for one life of one gateway shard.
    pub fn new(gateway: GatewayId, limits: RoomLimits) -> Self {
        Self {
            gateway,
            limits,
            names: HashMap::new(),
            rooms: Slab::new(),
            conns: Slab::new(),
            owners: std::array::from_fn(|_| Owner::default()),
            reads: HashMap::new(),
            histories: Histories::default(),
            catch_ups: HashMap::new(),
            turns: Turns::default(),
            early: HashMap::new(),
            next_read: 0,
            next_publish: 0,
            deadlines: BTreeMap::new(),
            retries: Vec::new(),
            counts: RoomCounts::default(),
        }
    }

    /// A connection begins. It becomes a member of its personal room, and [`Doors::welcome`] tells when.
    pub fn connect(&mut self, life: u32, user: UserId, personal: MayJoin, now: Now, doors: &mut impl Doors) -> Conn {
        let index = self.conns.insert(Memberships { life, user, joined: SmallVec::new() }) as u32;
        let conn = Conn { index, life };
        let wish = Wish::Join {
            options: JoinOptions::default(),
            reference: None,
            is_personal: true,
            deadline_ms: self.deadline_ms(now),
        };
        self.wish(conn, personal.room(), wish, now, doors);
        conn
    }

    /// A request begins: it may publish, read and ask who is there, and is in no room. Answers come by [`Doors::frame`], one for
    /// each question that carries a reference, at the latest when its time is over.
    pub fn request(&mut self, life: u32, user: UserId) -> Conn {
        let index = self.conns.insert(Memberships { life, user, joined: SmallVec::new() }) as u32;
        Conn { index, life }
    }

    /// The index that [`Self::connect`] or [`Self::request`] will give next.
    pub fn next_index(&self) -> u32 {
        self.conns.vacant_key() as u32
    }

    /// A connection ended.
    pub fn disconnect(&mut self, conn: Conn, now: Now) {
        if !self.is_here(conn) {
            return;
        }
        let memberships = self.conns.remove(conn.index as usize);
        self.forget_histories(conn);
        for joined in memberships.joined {
            self.remove_member(conn, &memberships.user, joined, false, now);
        }
    }

    /// A client wants to be a member, or to be one in another way.
    pub fn join(
        &mut self,
        conn: Conn,
        permit: &MayJoin,
        options: JoinOptions,
        reference: Option<&str>,
        now: Now,
        doors: &mut impl Doors,
    ) {
        let room = permit.room();
        let count = self.conns[conn.index as usize].joined.len();
        // The personal room is one of them.
        if self.joined(conn, room).is_none() && count > self.limits.rooms_per_connection {
            let message = "leave a room before joining another one";
            return error(doors, conn, ErrorCode::TooManyRooms, message, reference, Some(room));
        }
        let wish =
            Wish::Join { options, reference: reference.map(Box::from), is_personal: false, deadline_ms: self.deadline_ms(now) };
        self.wish(conn, room, wish, now, doors);
    }

    /// A client does not want to be a member any more.
    pub fn leave(&mut self, conn: Conn, room: &RoomName, reference: Option<&str>, now: Now, doors: &mut impl Doors) {
        if self.joined(conn, room).is_none() {
            return error(doors, conn, ErrorCode::NotJoined, "not a member of this room", reference, Some(room));
        }
        let wish = Wish::Leave { reference: reference.map(Box::from), deadline_ms: self.deadline_ms(now) };
        self.wish(conn, room, wish, now, doors);
    }

    /// The names of the rooms that a connection is in.
    pub fn rooms_of(&self, conn: Conn) -> impl Iterator<Item = &RoomName> {
        let joined = self.conns.get(conn.index as usize).filter(|it| it.life == conn.life).into_iter();
        joined.flat_map(|it| it.joined.iter()).map(|joined| &self.rooms[joined.room as usize].name)
    }

    /// A client says something. The number of the publish, by which its answer is known; `None` if it was refused.
    pub fn publish(
        &mut self,
        conn: Conn,
        permit: &MayPublish,
        said: &Publishing<'_>,
        now: Now,
        doors: &mut impl Doors,
    ) -> Option<u64> {
        let room = permit.room();
        let owner = &mut self.owners[room.partition().index()];
        if owner.pending.len() >= self.limits.pending_publishes
            || owner.pending_bytes + said.payload.len() + said.reference.map_or(0, str::len) > self.limits.pending_bytes
        {
            let message = "too many messages are under way";
            retry_later(doors, conn, message, said.reference, Some(room), 1000);
            return None;
        }
        self.next_publish += 1;
        let (user, client) = doors.identity(conn);
        let publish = Publish {
            publish: self.next_publish,
            room: room.as_str().to_owned(),
            payload: Bytes::copy_from_slice(said.payload.as_bytes()),
            user: user.to_owned(),
            client: client.to_owned(),
            echo: said.echo,
            ephemeral: said.ephemeral,
            key: said.key.unwrap_or_default().to_owned(),
            traceparent: said.traceparent.to_owned(),
        };
        self.counts.publishes += 1;
        // An ephemeral message that nobody waits for leaves nothing behind.
        if !said.ephemeral || said.reference.is_some() {
            let pending = Pending {
                publish: publish.clone(),
                conn,
                reference: said.reference.map(Box::from),
                room: room.clone(),
                deadline_ms: now.mono_ms + self.limits.publish_timeout_ms,
            };
            owner.pending_bytes += pending.bytes();
            owner.pending.push_back(pending);
        }
        owner.queue(up::Item::Publish(publish), now.mono_ms);
        Some(self.next_publish)
    }

    /// A connection's outbox has room again.
    pub fn on_drained(&mut self, conn: Conn, now: Now) {
        self.ask_next(conn, 0, now);
        let Some(memberships) = self.conns.get(conn.index as usize).filter(|it| it.life == conn.life) else { return };
        if self.catch_ups.is_empty() {
            return;
        }
        let rooms = memberships.joined.iter().map(|joined| joined.room);
        let waiting: SmallVec<[RoomKey; READS_PER_DRAIN]> =
            rooms.filter(|room| self.is_waiting_to_read(*room, conn)).take(READS_PER_DRAIN).collect();
        for room in waiting {
            self.read_on(room, conn, now);
        }
    }

    /// Time passed: heartbeats, silent owners, what waited too long.
    pub fn on_tick(&mut self, now: Now, doors: &mut impl Doors) {
        for partition in PartitionId::all() {
            for late in self.owners[partition.index()].take_late(now.mono_ms) {
                if self.is_here(late.conn) {
                    doors.frame(
                        late.conn,
                        &ServerFrame::Error {
                            code: ErrorCode::Unavailable,
                            message: "no answer in time; the message may or may not be stored",
                            reference: late.reference.as_deref(),
                            room: Some(&late.room),
                            retry_after_ms: Some(1000),
                            outcome_unknown: !late.publish.ephemeral,
                        },
                    );
                }
            }
            if self.owners[partition.index()].is_silent(now.mono_ms) {
                self.reopen(partition, now, doors);
            }
        }
        for (room, conn) in std::mem::take(&mut self.retries) {
            match (self.names.get(&room).copied(), conn) {
                (Some(key), None) if !self.rooms[key as usize].is_attached => self.ask_attach(key, now, doors),
                (Some(key), Some(conn)) if self.is_here(conn) && self.is_waiting_to_read(key, conn) => {
                    self.read_on(key, conn, now)
                }
                _ => {}
            }
        }
        while let Some(late) = self.deadlines.first_entry().filter(|late| *late.key() <= now.mono_ms) {
            for waiting in late.remove() {
                self.on_deadline(waiting, now, doors);
            }
        }
        self.close_stalled(now, doors);
    }

    /// The next batch for an owner. Call until `None` after every input, or after several.
    pub fn poll_batch(&mut self, now: Now) -> Option<(PartitionId, UpBatch)> {
        PartitionId::all().find_map(|partition| {
            let batch = self.owners[partition.index()].poll_batch(self.gateway, self.next_publish, now.mono_ms)?;
            Some((partition, batch))
        })
    }

    /// What happened so far.
    pub fn counts(&self) -> RoomCounts {
        self.counts
    }

    /// Rooms with members here.
    pub fn len(&self) -> usize {
        self.rooms.len()
    }

    /// Whether no room has a member here.
    pub fn is_empty(&self) -> bool {
        self.rooms.is_empty()
    }

    fn deadline_ms(&self, now: Now) -> u64 {
        now.mono_ms + self.limits.request_timeout_ms
    }

    fn wait(&mut self, until_ms: u64, waiting: Waiting) {
        self.deadlines.entry(until_ms).or_default().push(waiting);
    }

    fn is_here(&self, conn: Conn) -> bool {
        self.conns.get(conn.index as usize).is_some_and(|memberships| memberships.life == conn.life)
    }

    fn is_waiting_to_read(&self, room: RoomKey, conn: Conn) -> bool {
        self.catch_ups.get(&(room, conn.index)).is_some_and(|catch_up| catch_up.waits == Waits::Drain)
    }

    fn take_reading(&mut self, read: u64) -> Option<Reading> {
        let reading = self.reads.remove(&read)?;
        if let Reading::CatchUp { partition, .. } = reading {
            self.turns.on_page(partition);
        }
        Some(reading)
    }

    /// A member catches up in this way from now on, or (`None`) not any more: what was asked for it before is of no use.
    fn set_catch_up(&mut self, room: RoomKey, conn: Conn, catch_up: Option<CatchUp>) -> Option<CatchUp> {
        let place = (room, conn.index);
        let old = match catch_up {
            Some(catch_up) => self.catch_ups.insert(place, catch_up),
            None => self.catch_ups.remove(&place),
        };
        if let Some(CatchUp { waits: Waits::Page(read) | Waits::Present(read), .. }) = &old {
            self.take_reading(*read);
        }
        old
    }

    fn owner(&mut self, room: &RoomName) -> &mut Owner {
        &mut self.owners[room.partition().index()]
    }

    fn joined(&self, conn: Conn, room: &RoomName) -> Option<Joined> {
        let key = self.names.get(room)?;
        self.conns.get(conn.index as usize)?.joined.iter().find(|joined| joined.room == *key).copied()
    }

    fn new_read(&mut self, room: &RoomName, span: read::Span, limit: u32) -> Read {
        self.next_read += 1;
        Read { read: self.next_read, room: room.as_str().to_owned(), span: Some(span), limit }
    }

    fn ask_attach(&mut self, key: RoomKey, now: Now, doors: &impl Doors) {
        let room = &self.rooms[key as usize];
        let attach = Attach {
            room: room.name.as_str().to_owned(),
            since: room.is_known.then_some(room.last),
            epoch: room.epoch.as_str().to_owned(),
        };
        let name = room.name.clone();
        self.counts.attaches += 1;
        self.owner(&name).queue(up::Item::Attach(attach), now.mono_ms);
        self.report_all(key, now, doors);
    }

    /// Takes a connection out of a room with all that it wanted there, and the room out of the gateway with its last member.
    fn remove_member(&mut self, conn: Conn, user: &UserId, joined: Joined, left: bool, now: Now) {
        self.rooms[joined.room as usize].wishes.retain(|(wisher, _)| *wisher != conn);
        self.unseat(conn, user, joined, left, now);
        self.drop_if_empty(joined.room, now);
    }

    /// Takes a member's place away. The last member moves into it, so that this costs the same in a room of any size.
    fn unseat(&mut self, conn: Conn, user: &UserId, joined: Joined, left: bool, now: Now) {
        self.set_catch_up(joined.room, conn, None);
        self.early.remove(&(joined.room, conn.index));
        if joined.place == NOT_YET {
            return;
        }
        self.report_went(joined.room, user.as_str(), left, now);
        if self.rooms[joined.room as usize].members[joined.place as usize].presence {
            self.count_watcher(joined.room, false, now);
        }
        let room = &mut self.rooms[joined.room as usize];
        room.members.swap_remove(joined.place as usize);
        if let Some(moved) = room.members.get(joined.place as usize) {
            let entries = &mut self.conns[moved.conn.index as usize].joined;
            let entry = entries.iter_mut().find(|entry| entry.room == joined.room);
            entry.expect("a member has its room in its list").place = joined.place;
        }
    }

    fn drop_if_empty(&mut self, key: RoomKey, now: Now) {
        let room = &self.rooms[key as usize];
        if room.members.is_empty() && room.wishes.is_empty() {
            let room = self.rooms.remove(key as usize);
            self.names.remove(&room.name);
            let detach = Detach { room: room.name.as_str().to_owned() };
            self.owner(&room.name).queue(up::Item::Detach(detach), now.mono_ms);
        }
    }
}

fn identity_hash(user: &str, client: &str) -> u32 {
    fnv1a32(user.as_bytes()).rotate_left(16) ^ fnv1a32(client.as_bytes())
}

fn error(doors: &mut impl Doors, to: Conn, code: ErrorCode, message: &str, reference: Option<&str>, room: Option<&RoomName>) {
    doors.frame(to, &ServerFrame::Error { code, message, reference, room, retry_after_ms: None, outcome_unknown: false });
}

fn retry_later(doors: &mut impl Doors, to: Conn, message: &str, reference: Option<&str>, room: Option<&RoomName>, ms: u32) {
    doors.frame(
        to,
        &ServerFrame::Error {
            code: ErrorCode::Unavailable,
            message,
            reference,
            room,
            retry_after_ms: Some(ms),
            outcome_unknown: false,
        },
    );
}

#[cfg(test)]
mod tests;
