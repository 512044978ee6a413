//! The owner of a partition: it alone gives out the offsets of its rooms. Publishes come in over links, become appends,
//! and when the log has acked one, it goes to every gateway that holds members of the room, in offset order. Knows no
//! log and no bus: the driver performs its [`Effect`]s and brings the answers back.
//!
//! ```text
//!   on_batch ─▶ publish ─▶ Effect::Append ─▶ on_appended ─▶ ring, published, message ─▶ Effect::Send
//!              attach, read ─▶ (Effect::Head, Effect::Read ─▶ on_head, on_part) ─▶ attached, page ─▶ Effect::Send
//! ```

mod erasing;
mod links;
mod presence;
mod repeats;
mod retention;
mod ring;
mod rings;
mod survey;
mod sweep;

use std::collections::{BTreeMap, HashMap, VecDeque};

use bytes::Bytes;
use carillon_proto::{
    ids::{Epoch, GatewayId, MessageId, Offset, PartitionId, RoomName},
    link::{
        self, Attach, Attached, Came, Code, Counted, DownBatch, Erase, Failed, Message, Page, Present, Publish, Published, Read,
        Up, UpBatch, UserIn, UserOut, Watch, Went, Who, down, failed, read, up,
    },
    log::{self, Record},
};
use prost::Message as _;

use crate::{Now, link::PAGE_BYTES, pace::Pace};
use links::{Links, Opening};
use presence::{Change, Presence, Question};
use repeats::{Known, Outcome, Repeats};
pub use retention::{Keep, Retention};
use ring::Ring;
use rings::Rings;
pub use sweep::ROOMS as SWEPT_AT_ONCE;
use sweep::Sweep;

/// What shapes a partition; the same for all of a process.
#[derive(Debug, Clone)]
pub struct Config {
    /// Appends under way; what comes beyond is refused with `unavailable`.
    pub window: usize,
    /// Bytes of appends under way; likewise.
    pub window_bytes: usize,
    /// Messages per room that are kept at hand.
    pub ring_messages: usize,
    /// Bytes per room that are kept at hand.
    pub ring_bytes: usize,
    /// Bytes of all rooms together that are kept at hand; the rooms that were used least lately give way.
    pub rings_bytes: usize,
    /// Reads of the log under way; what comes beyond waits. Each brings up to a page (256 KiB).
    pub reads: usize,
    /// How long an idempotency key is known, at least two minutes.
    pub key_window_ms: u64,
    /// How much of each room is kept; the first match counts.
    pub retention: Vec<Retention>,
    /// How long a room that nobody is attached to stays in memory.
    pub idle_room_ms: u64,
    /// Whether it is to be told who comes to rooms and goes ([`Effect::Present`], [`Effect::Settled`]).
    pub tells_presence: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            window: 4096,
            window_bytes: 4 * 1024 * 1024,
            ring_messages: 128,
            ring_bytes: 256 * 1024,
            rings_bytes: 16 * 1024 * 1024,
            reads: 64,
            key_window_ms: 150_000,
            retention: Vec::new(),
            idle_room_ms: 60_000,
            tells_presence: false,
        }
    }
}

/// Where the log stood when this owner took the partition.
#[derive(Debug, Clone)]
pub struct Start {
    /// Which partition.
    pub partition: PartitionId,
    /// Counts up with every owner: gateways drop what lower ones say.
    pub generation: u64,
    /// The life of the log, first part of every epoch.
    pub incarnation: String,
    /// The newest sequence in the log.
    pub last_sequence: u64,
    /// Chance for message ids, from the driver.
    pub seed: u128,
}

/// What the driver is to do, in this order.
#[derive(Debug)]
pub enum Effect {
    /// Append to the log; the outcomes go to [`Partition::on_appended`] in the same order.
    Append {
        /// The room.
        room: RoomName,
        /// The offset that the record has in it.
        offset: Offset,
        /// The sequence that the record must get.
        sequence: u64,
        /// Encoded [`Record`].
        record: Bytes,
        /// W3C trace context of the publish, `""` for none.
        traceparent: String,
    },
    /// Find the room's newest record; the answer goes to [`Partition::on_head`].
    Head {
        /// The room.
        room: RoomName,
    },
    /// Read part of a room; the answer goes to [`Partition::on_part`].
    Read {
        /// Names the answer.
        ticket: u64,
        /// The room.
        room: RoomName,
        /// Which part: above this offset, oldest first …
        after: Option<Offset>,
        /// … or below this one, the newest.
        before: Option<Offset>,
        /// At most so many records …
        limit: usize,
        /// … and so many bytes, one record excepted.
        bytes: usize,
    },
    /// Forget what is below this offset, some time.
    Trim {
        /// The room.
        room: RoomName,
        /// The oldest offset to keep.
        below: Offset,
        /// What is above this sequence was not judged here, and stays.
        through: u64,
    },
    /// Forget all of a room; then tell [`Partition::on_emptied`].
    Empty {
        /// The room.
        room: RoomName,
        /// What is above this sequence was not judged here, and stays: another owner may have had it acked meanwhile.
        through: u64,
    },
    /// A gateway has seen more of a room than there is, in the same life of it: the log has lost what it had acked. The
    /// partition must be taken anew, with another incarnation.
    TailLost,
    /// A user came to a room with the first connection, or went with the last one (after the grace).
    Present {
        /// The room.
        room: RoomName,
        /// Who.
        user: Box<str>,
        /// Came, or went.
        is_here: bool,
        /// Users in the room now.
        users: u64,
    },
    /// Who is in the room was not known for a while, and is now: see [`Partition::occupancy`].
    Settled {
        /// The room.
        room: RoomName,
    },
    /// Send a batch to a gateway.
    Send {
        /// Which one.
        gateway: GatewayId,
        /// The batch.
        batch: DownBatch,
    },
}

/// The rules of one partition under one generation.
#[derive(Debug)]
pub struct Partition {
    config: Config,
    start: Start,
    rooms: HashMap<RoomName, Room>,
    links: Links,
    repeats: Repeats,
    /// Appends under way, in order.
    in_flight: VecDeque<InFlight>,
    in_flight_bytes: usize,
    /// Rooms whose head could not be read, to be asked again at the next tick.
    head_retries: Vec<RoomName>,
    rings: Rings,
    reads: HashMap<u64, PendingRead>,
    /// Reads that wait for others to end, in order.
    waiting_reads: VecDeque<WaitingRead>,
    next_ticket: u64,
    /// Counts ids, so that two of one millisecond differ.
    ids: u128,
    /// Users whose last connection is gone, and rooms that are quiet, by when to look again.
    later: Later,
    /// Rooms that may have become idle, oldest first.
    idle: VecDeque<(u64, RoomName)>,
    effects: VecDeque<Effect>,
    sweep: Sweep,
    /// Until when the lease allows to speak.
    lease_until_ms: u64,
    /// When all gateways have had the time to say who is there: they knew another owner before; `None` before the first word.
    settled_ms: Option<u64>,
}

#[derive(Debug)]
#[allow(clippy::large_enum_variant)] // nearly all rooms are ready, nearly all of the time
enum Room {
    /// The head was asked for, or the room is being emptied (and what else is known of it is kept); what came meanwhile
    /// waits in order.
    Loading {
        waiting: Vec<(Asker, up::Item)>,
        kept: Option<Box<ReadyRoom>>,
    },
    Ready(ReadyRoom),
}

impl Room {
    fn known(&mut self) -> Option<&mut ReadyRoom> {
        match self {
            Self::Ready(room) => Some(room),
            Self::Loading { kept, .. } => kept.as_deref_mut(),
        }
    }

    fn seen(&self) -> Option<&ReadyRoom> {
        match self {
            Self::Ready(room) => Some(room),
            Self::Loading { kept, .. } => kept.as_deref(),
        }
    }
}

#[derive(Debug)]
struct ReadyRoom {
    /// The newest offset that the log has acked.
    head: Offset,
    /// The newest offset given out.
    assigned: Offset,
    epoch: Epoch,
    keep: Keep,
    /// `ts` never goes back within a room, whatever the clock does.
    ts: u64,
    ring: Ring,
    /// See [`Rings`].
    ring_turn: u64,
    routes: Vec<GatewayId>,
    presence: Presence,
    pace: Pace,
    /// Its history is to go once nothing is under way in it; what came meanwhile waits in order.
    erasing: Option<Vec<(Asker, up::Item)>>,
}

/// What to look at again, by when.
type Later = BTreeMap<u64, Vec<(RoomName, Option<Box<str>>)>>;

/// Whose request this is: answers to a link that ended meanwhile are dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Asker {
    gateway: GatewayId,
    link: u64,
}

#[derive(Debug)]
struct InFlight {
    room: RoomName,
    message: Message,
    publisher: GatewayId,
    publish: u64,
    /// Everyone who waits for the outcome: (asker, publish, is it a repeat of a key?)
    waiting: Vec<(Asker, u64, bool)>,
}

#[derive(Debug)]
struct PendingRead {
    asker: Asker,
    read: Read,
    room: RoomName,
}

#[derive(Debug)]
struct WaitingRead {
    pending: PendingRead,
    after: Option<Offset>,
    before: Option<Offset>,
    limit: usize,
}

/// Reads that wait at most; beyond it the answer is `unavailable`. A few hundred bytes each.
const MAX_WAITING_READS: usize = 4_096;

impl Partition {
    /// A partition that was just taken, with the records of the log's recent past, oldest first.
    pub fn new(config: Config, start: Start, recent: impl IntoIterator<Item = Record>) -> Self {
        let mut repeats = Repeats::new(config.key_window_ms);
        for record in recent {
            repeats.on_record(&record);
        }
        Self {
            links: Links::new(start.generation),
            config,
            start,
            rooms: HashMap::new(),
            repeats,
            in_flight: VecDeque::new(),
            in_flight_bytes: 0,
            head_retries: Vec::new(),
            rings: Rings::default(),
            reads: HashMap::new(),
            waiting_reads: VecDeque::new(),
            next_ticket: 0,
            ids: 0,
            later: BTreeMap::new(),
            idle: VecDeque::new(),
            effects: VecDeque::new(),
            sweep: Sweep::default(),
            lease_until_ms: u64::MAX,
            settled_ms: None,
        }
    }

    /// Until when this owner may speak, `mono_ms` of its own clock. Later it takes no batch, says nothing and appends nothing:
    /// another one may have the partition. Should the lease be renewed after all, it goes on where it stood. Without a lease
    /// it speaks for ever.
    pub fn on_lease(&mut self, until_ms: u64) {
        self.lease_until_ms = until_ms;
    }

    fn is_silent(&self, now: Now) -> bool {
        now.mono_ms >= self.lease_until_ms
    }

    /// A batch from a gateway.
    pub fn on_batch(&mut self, batch: UpBatch, now: Now) {
        let Some(gateway) = GatewayId::from_wire(&batch.gateway) else { return };
        if batch.version != link::VERSION || self.is_silent(now) {
            return;
        }
        self.settled_ms.get_or_insert(now.mono_ms + presence::QUIET_MS);
        let asker = Asker { gateway, link: batch.link };
        match self.links.on_batch(gateway, &batch, now.mono_ms) {
            Opening::Ignore => return,
            Opening::Take => {}
            Opening::New { left } => self.drop_routes(gateway, left, now),
            Opening::Broken { left } => return self.drop_routes(gateway, left, now),
        }
        self.repeats.on_settled(gateway, batch.settled, now.mono_ms);
        for item in batch.items.into_iter().filter_map(|Up { item }| item) {
            self.on_item(asker, item, now);
        }
    }

    fn on_item(&mut self, asker: Asker, item: up::Item, now: Now) {
        let name = room_of(&item);
        // Gateways send legal names of this partition; anything else is a stranger on the subject.
        let Ok(room) = RoomName::parse(name) else { return };
        if room.partition() != self.start.partition {
            return;
        }
        self.on_item_of(asker, room, item, now);
    }

    fn on_item_of(&mut self, asker: Asker, room: RoomName, item: up::Item, now: Now) {
        match self.rooms.get_mut(&room) {
            Some(Room::Ready(ReadyRoom { erasing: Some(waiting), .. })) => waiting.push((asker, item)),
            Some(Room::Ready(ready)) if ready.is_over_age(now) && concerns_log(&item) => self.empty(room, vec![(asker, item)]),
            Some(Room::Ready(_)) => self.on_ready_item(asker, room, item, now),
            Some(Room::Loading { waiting, .. }) => waiting.push((asker, item)),
            None => {
                self.effects.push_back(Effect::Head { room: room.clone() });
                self.rooms.insert(room, Room::Loading { waiting: vec![(asker, item)], kept: None });
            }
        }
    }

    /// A room that is to have no messages any more: those of one whose newest is too old, or that somebody deletes. Whoever waits
    /// goes on when the log has forgotten them too. What the log is being asked for would be of the life that ends here, so it is
    /// asked again in the next one.
    fn empty(&mut self, room: RoomName, mut waiting: Vec<(Asker, up::Item)>) {
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

    /// The newest sequence that the log has acked to this owner, or had when it was taken: a later owner's marker, and all that
    /// it appends, is above it.
    fn acked(&self) -> u64 {
        self.start.last_sequence - self.in_flight.len() as u64
    }

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

    fn on_ready_item(&mut self, asker: Asker, room: RoomName, item: up::Item, now: Now) {
        match item {
            up::Item::Attach(attach) => self.on_attach(asker, room, &attach, now),
            up::Item::Detach(_) => {
                self.links.detach(asker.gateway, asker.link, &room);
                self.drop_route(asker.gateway, &room, now);
            }
            up::Item::Publish(publish) => self.on_publish(asker, room, publish, now),
            up::Item::Read(read) => self.on_read(asker, room, read, now),
            up::Item::Came(came) => self.on_came(asker, &room, &came, now),
            up::Item::Went(went) => self.on_went(asker, &room, &went, now),
            up::Item::Watch(watch) => self.on_watch(asker, &room, &watch),
            up::Item::Who(who) => self.on_who(asker, &room, &who, now),
            up::Item::Erase(erase) => self.on_erase(asker, room, erase),
        }
    }

    fn on_attach(&mut self, asker: Asker, name: RoomName, attach: &Attach, now: Now) {
        if !self.links.attach(asker.gateway, asker.link, &name) {
            return;
        }
        let room = ready(&mut self.rooms, &name);
        // Nobody is shown what the log has not acked, and the head comes from the log.
        if attach.since.is_some_and(|since| since > room.head) && attach.epoch == room.epoch.as_str() && !room.epoch.is_none() {
            return self.effects.push_back(Effect::TailLost);
        }
        // The gateway knew the room before this owner knew the gateway: others that did may not be back yet.
        if attach.since.is_some() && !self.links.is_return(asker.gateway) && room.presence.quiet_until_ms <= now.mono_ms {
            room.presence.quiet_until_ms = now.mono_ms + presence::QUIET_MS;
            look_later(&mut self.later, room.presence.quiet_until_ms, &name, None);
        }
        if !room.routes.contains(&asker.gateway) {
            room.routes.push(asker.gateway);
        }
        // A gateway that has seen more than there is knows another life of the room: it is told where this one stands.
        let known = attach.since.filter(|since| *since == 0 || (*since <= room.head && attach.epoch == room.epoch.as_str()));
        let missed = known.and_then(|since| room.ring.after(since, room.head));
        let attached = Attached {
            room: attach.room.clone(),
            head: if missed.is_some() { known.unwrap_or(room.head) } else { room.head },
            epoch: room.told_epoch(),
            gap: missed.is_none() && known.is_some(),
            newest: room.head,
        };
        let missed: Vec<Message> = missed.into_iter().flatten().cloned().collect();
        self.on_ring_used(&name);
        self.links.send(asker, down::Item::Attached(attached));
        for message in missed {
            self.links.send(asker, down::Item::Message(message));
        }
    }

    fn on_publish(&mut self, asker: Asker, name: RoomName, publish: Publish, now: Now) {
        if !is_json_sized(&publish) {
            return;
        }
        let room = ready(&mut self.rooms, &name);
        if publish.ephemeral {
            room.pace.add(now.mono_ms);
            let message = Message {
                room: publish.room,
                ts: now.unix_ms,
                sender: publish.user,
                client: publish.client,
                echo: publish.echo,
                payload: publish.payload,
                traceparent: publish.traceparent,
                ..Message::default()
            };
            for gateway in &room.routes {
                self.links.send_to(*gateway, down::Item::Message(message.clone()));
            }
            let told = Published { publish: publish.publish, room: message.room, ts: now.unix_ms, ..Published::default() };
            return self.links.send(asker, down::Item::Published(told));
        }
        if self.repeats.is_settled(asker.gateway, publish.publish) {
            return;
        }
        match self.repeats.find(asker.gateway, &publish) {
            Some(Known { outcome: Outcome::Stored { offset, id, ts }, by_key }) => {
                let told = Published {
                    publish: publish.publish,
                    room: publish.room,
                    offset,
                    id: Bytes::copy_from_slice(&id.0),
                    ts,
                    duplicate: by_key,
                };
                return self.links.send(asker, down::Item::Published(told));
            }
            Some(Known { outcome: Outcome::InFlight { sequence }, by_key }) => {
                let index = self.in_flight.len() as u64 - 1 - (self.start.last_sequence - sequence);
                self.in_flight[index as usize].waiting.push((asker, publish.publish, by_key));
                return;
            }
            None => {}
        }
        let bytes = self.in_flight_bytes + publish.payload.len();
        if self.in_flight.len() >= self.config.window || (bytes > self.config.window_bytes && self.in_flight_bytes > 0) {
            return self.fail(asker, &name, Code::Unavailable, failed::Of::Publish(publish.publish));
        }
        self.append(asker, name, publish, now);
    }

    fn append(&mut self, asker: Asker, name: RoomName, publish: Publish, now: Now) {
        let room = ready(&mut self.rooms, &name);
        self.start.last_sequence += 1;
        let sequence = self.start.last_sequence;
        room.assigned += 1;
        if room.assigned == 1 {
            room.epoch = Epoch::new(&self.start.incarnation, sequence);
        }
        room.ts = room.ts.max(now.unix_ms);
        self.ids = self.ids.wrapping_add(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
        let id = MessageId::new(room.ts, self.start.seed ^ self.ids);
        self.repeats.on_assigned(asker.gateway, &publish, sequence, now.mono_ms);
        self.in_flight_bytes += publish.payload.len();
        let message = Message {
            room: publish.room,
            offset: room.assigned,
            epoch: room.epoch.as_str().to_owned(),
            id: Bytes::copy_from_slice(&id.0),
            ts: room.ts,
            sender: publish.user,
            client: publish.client,
            echo: publish.echo,
            key: publish.key,
            payload: publish.payload,
            traceparent: publish.traceparent,
        };
        let record = to_record(&message, asker.gateway, publish.publish);
        self.effects.push_back(Effect::Append {
            room: name.clone(),
            offset: message.offset,
            sequence,
            record: record.encode_to_vec().into(),
            traceparent: record.traceparent,
        });
        self.in_flight.push_back(InFlight {
            room: name,
            message,
            publisher: asker.gateway,
            publish: publish.publish,
            waiting: vec![(asker, publish.publish, false)],
        });
    }

    /// The log acked the oldest append under way.
    pub fn on_appended(&mut self, now: Now) {
        let Some(done) = self.in_flight.pop_front() else { return };
        let InFlight { room: name, message, publisher, publish, waiting } = done;
        self.in_flight_bytes -= message.payload.len();
        let id = MessageId::from_wire(&message.id).expect("made by append");
        self.repeats.on_stored(publisher, publish, &message, id, now.mono_ms);
        let through = self.acked();
        let room = ready(&mut self.rooms, &name);
        room.head = message.offset;
        room.pace.add(now.mono_ms);
        // The answer first: were it lost with the message still told, the sender would see a later message before it.
        for (asker, publish, duplicate) in waiting {
            let told = Published {
                publish,
                room: message.room.clone(),
                offset: message.offset,
                id: message.id.clone(),
                ts: message.ts,
                duplicate,
            };
            self.links.send(asker, down::Item::Published(told));
        }
        for gateway in &room.routes {
            self.links.send_to(*gateway, down::Item::Message(message.clone()));
        }
        if room.keep.purges_at(room.head) {
            self.effects.push_back(Effect::Trim { room: name.clone(), below: room.keep.floor(room.head), through });
        }
        if room.routes.is_empty() {
            self.idle.push_back((now.mono_ms, name.clone()));
        }
        self.keep_at_hand(&name, message);
        self.erase_if_still(&name);
    }

    fn on_read(&mut self, asker: Asker, name: RoomName, read: Read, now: Now) {
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
    fn read_next(&mut self) {
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

    fn on_came(&mut self, asker: Asker, name: &RoomName, came: &Came, now: Now) {
        if !self.links.stands(asker.gateway, asker.link) {
            return;
        }
        let settled_ms = self.settled_ms.unwrap_or(0);
        let room = ready(&mut self.rooms, name);
        if room.presence.on_came(asker.gateway, &came.user, &came.info) == Change::In
            && room.presence.quiet_until_ms <= now.mono_ms
        {
            let count = room.presence.count();
            for watcher in &room.presence.watchers {
                let (user, info) = (came.user.clone(), came.info.clone());
                self.links.send_to(*watcher, down::Item::UserIn(UserIn { room: came.room.clone(), user, info, count }));
            }
            if self.config.tells_presence {
                let (room, user) = (name.clone(), came.user.as_str().into());
                self.effects.push_back(Effect::Present { room, user, is_here: true, users: count });
            }
        }
        if came.ask > 0 {
            let known_ms = settled_ms.max(room.presence.quiet_until_ms);
            let early = known_ms > now.mono_ms && room.presence.asking.len() < presence::MAX_ASKING;
            if early {
                room.presence.asking.push(Question { asker, ask: came.ask, counted: Some(came.user.as_str().into()) });
                look_later(&mut self.later, known_ms, name, None);
            }
            let connections = room.presence.connections(&came.user);
            let counted = Counted { ask: came.ask, room: came.room.clone(), connections, early };
            self.links.send(asker, down::Item::Counted(counted));
        }
    }

    fn on_went(&mut self, asker: Asker, name: &RoomName, went: &Went, now: Now) {
        if !self.links.stands(asker.gateway, asker.link) {
            return;
        }
        let room = ready(&mut self.rooms, name);
        match room.presence.on_went(asker.gateway, &went.user, went.left, now.mono_ms) {
            Change::Out => self.user_is_out(name, &went.user, now),
            Change::Grace(at_ms) => look_later(&mut self.later, at_ms, name, Some(went.user.as_str().into())),
            Change::In | Change::Nothing => {}
        }
    }

    fn user_is_out(&mut self, name: &RoomName, user: &str, now: Now) {
        let Some(room) = self.rooms.get_mut(name).and_then(Room::known) else { return };
        let info = room.presence.remove(user);
        if room.presence.quiet_until_ms <= now.mono_ms {
            let count = room.presence.count();
            for watcher in &room.presence.watchers {
                let (room, user, info) = (name.to_string(), user.to_owned(), info.to_string());
                self.links.send_to(*watcher, down::Item::UserOut(UserOut { room, user, info, count }));
            }
            if self.config.tells_presence {
                self.effects.push_back(Effect::Present { room: name.clone(), user: user.into(), is_here: false, users: count });
            }
        }
        if room.routes.is_empty() {
            self.idle.push_back((now.mono_ms, name.clone()));
        }
    }

    fn on_watch(&mut self, asker: Asker, name: &RoomName, watch: &Watch) {
        if !self.links.stands(asker.gateway, asker.link) {
            return;
        }
        let watchers = &mut ready(&mut self.rooms, name).presence.watchers;
        watchers.retain(|watcher| *watcher != asker.gateway);
        if watch.on {
            watchers.push(asker.gateway);
        }
    }

    fn on_who(&mut self, asker: Asker, name: &RoomName, who: &Who, now: Now) {
        let room = ready(&mut self.rooms, name);
        // Whoever asks is told the truth, once it is known: at the end of the quiet. Those that watch are told then anyhow.
        if room.presence.quiet_until_ms > now.mono_ms {
            if who.who == 0 {
                return;
            }
            if room.presence.asking.len() < presence::MAX_ASKING {
                return room.presence.asking.push(Question { asker, ask: who.who, counted: None });
            }
            return self.fail(asker, name, Code::Unavailable, failed::Of::Who(who.who));
        }
        let present = room.presence.present(who.who, name.as_str());
        self.links.send(asker, down::Item::Present(present));
    }

    /// A user's grace may be over, or a room's quiet.
    fn look_again(&mut self, name: &RoomName, user: Option<&str>, now: Now) {
        let Some(room) = self.rooms.get_mut(name).and_then(Room::known) else { return };
        match user {
            Some(user) if room.presence.is_over(user, now.mono_ms) => self.user_is_out(name, user, now),
            Some(_) => {}
            None if room.presence.quiet_until_ms > now.mono_ms => {}
            None => {
                let present = room.presence.present(0, name.as_str());
                for watcher in &room.presence.watchers {
                    self.links.send_to(*watcher, down::Item::Present(present.clone()));
                }
                let asked = std::mem::take(&mut room.presence.asking);
                for Question { asker, ask, .. } in asked.iter().filter(|question| question.counted.is_none()) {
                    self.links.send(*asker, down::Item::Present(Present { who: *ask, ..present.clone() }));
                }
                for (asker, ask, connections) in room.presence.counted_again(&asked) {
                    let counted = Counted { ask, room: name.to_string(), connections, early: false };
                    self.links.send(asker, down::Item::Counted(counted));
                }
                if self.config.tells_presence {
                    self.effects.push_back(Effect::Settled { room: name.clone() });
                }
            }
        }
    }

    /// Time passed: heartbeats, silent gateways, users whose grace is over, idle rooms.
    pub fn on_tick(&mut self, now: Now) {
        if self.is_silent(now) {
            return;
        }
        for (gateway, left) in self.links.on_tick(now.mono_ms) {
            self.drop_routes(gateway, left, now);
        }
        for room in std::mem::take(&mut self.head_retries) {
            self.effects.push_back(Effect::Head { room });
        }
        while let Some(entry) = self.later.first_entry().filter(|entry| *entry.key() <= now.mono_ms) {
            for (name, user) in entry.remove() {
                self.look_again(&name, user.as_deref(), now);
            }
        }
        self.repeats.on_tick(now.mono_ms);
        self.sweep(now);
        while let Some((since, _)) = self.idle.front() {
            if now.mono_ms.saturating_sub(*since) < self.config.idle_room_ms {
                break;
            }
            let (_, name) = self.idle.pop_front().expect("there is a front");
            if let Some(Room::Ready(room)) = self.rooms.get(&name)
                && room.routes.is_empty()
                && room.presence.is_empty()
                && room.presence.asking.is_empty()
                && room.assigned == room.head
                && !self.reads.values().any(|read| read.room == name)
                && !self.waiting_reads.iter().any(|read| read.pending.room == name)
                && let Some(Room::Ready(mut room)) = self.rooms.remove(&name)
            {
                self.drop_ring(&mut room);
            }
        }
    }

    /// The next thing to do. Call until `None` after every input, or after several.
    pub fn poll_effect(&mut self, now: Now) -> Option<Effect> {
        if self.is_silent(now) {
            return None;
        }
        if let Some(effect) = self.effects.pop_front() {
            return Some(effect);
        }
        self.links.poll_batch(now.mono_ms).map(|(gateway, batch)| Effect::Send { gateway, batch })
    }

    /// How many users a room has, and whether this one is among them; `None` while gateways that know better may be on their way.
    pub fn occupancy(&self, room: &RoomName, user: &str, now: Now) -> Option<(u64, bool)> {
        let presence = match self.rooms.get(room) {
            None => return Some((0, false)),
            Some(Room::Ready(ready)) => &ready.presence,
            Some(Room::Loading { kept, .. }) => &kept.as_ref()?.presence,
        };
        (presence.quiet_until_ms <= now.mono_ms).then(|| (presence.count(), presence.knows(user)))
    }

    /// Appends under way.
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Rooms in memory.
    pub fn rooms(&self) -> usize {
        self.rooms.len()
    }

    fn fail(&mut self, asker: Asker, room: &RoomName, code: Code, of: failed::Of) {
        let failed = Failed { code: code.into(), room: room.as_str().to_owned(), of: Some(of), retry_after_ms: RETRY_AFTER_MS };
        self.links.send(asker, down::Item::Failed(failed));
    }

    fn drop_routes(&mut self, gateway: GatewayId, left: Vec<RoomName>, now: Now) {
        for room in left {
            self.drop_route(gateway, &room, now);
        }
    }

    fn drop_route(&mut self, gateway: GatewayId, name: &RoomName, now: Now) {
        if let Some(room) = self.rooms.get_mut(name).and_then(Room::known) {
            room.routes.retain(|route| *route != gateway);
            for user in room.presence.on_gateway_gone(gateway, now.mono_ms) {
                look_later(&mut self.later, now.mono_ms + presence::GRACE_MS, name, Some(user));
            }
            if room.routes.is_empty() {
                self.idle.push_back((now.mono_ms, name.clone()));
            }
        }
    }
}

/// What a client is told to wait when the window is full: a window's worth of appends takes about that long.
const RETRY_AFTER_MS: u32 = 500;

impl ReadyRoom {
    /// A room that is still empty has no epoch, though its first message, on its way to the log, may have given it one.
    fn told_epoch(&self) -> String {
        if self.head == 0 { String::new() } else { self.epoch.as_str().to_owned() }
    }

    /// Whether even the newest message is too old: then the room is empty, and its next message begins another life.
    fn is_over_age(&self, now: Now) -> bool {
        self.head > 0 && self.assigned == self.head && self.ts < self.keep.oldest_ts(now.unix_ms)
    }
}

/// Whether what is asked depends on what the log holds.
fn concerns_log(item: &up::Item) -> bool {
    match item {
        up::Item::Attach(_) | up::Item::Read(_) => true,
        up::Item::Publish(publish) => !publish.ephemeral,
        _ => false,
    }
}

fn look_later(later: &mut Later, at_ms: u64, room: &RoomName, user: Option<Box<str>>) {
    later.entry(at_ms).or_default().push((room.clone(), user));
}

fn room_of(item: &up::Item) -> &str {
    match item {
        up::Item::Attach(Attach { room, .. })
        | up::Item::Publish(Publish { room, .. })
        | up::Item::Read(Read { room, .. })
        | up::Item::Came(Came { room, .. })
        | up::Item::Went(Went { room, .. })
        | up::Item::Watch(Watch { room, .. })
        | up::Item::Who(Who { room, .. })
        | up::Item::Erase(Erase { room, .. }) => room,
        up::Item::Detach(detach) => &detach.room,
    }
}

fn ready<'r>(rooms: &'r mut HashMap<RoomName, Room>, name: &RoomName) -> &'r mut ReadyRoom {
    match rooms.get_mut(name) {
        Some(Room::Ready(room)) => room,
        _ => unreachable!("items reach a room only once it is ready, and it stays while anything refers to it"),
    }
}

/// Strangers on the subject may send anything; nothing of it may grow what is stored beyond what a gateway would send.
fn is_json_sized(publish: &Publish) -> bool {
    !publish.payload.is_empty() && publish.user.len() <= 128 && publish.client.len() <= 64 && publish.key.len() <= 64
}

fn page(read: &Read, room: &ReadyRoom, messages: Vec<Message>, first: Offset) -> Page {
    let more = match read.span {
        Some(read::Span::After(_)) => messages.last().is_some_and(|last| last.offset < room.head),
        _ => messages.first().is_some_and(|oldest| oldest.offset > first.max(1)) && !messages.is_empty(),
    };
    Page { read: read.read, room: read.room.clone(), messages, first, head: room.head, epoch: room.told_epoch(), more }
}

fn to_record(message: &Message, gateway: GatewayId, publish: u64) -> Record {
    Record {
        version: log::VERSION,
        room: message.room.clone(),
        offset: message.offset,
        epoch: message.epoch.clone(),
        id: message.id.clone(),
        ts: message.ts,
        sender: message.sender.clone(),
        client: message.client.clone(),
        echo: message.echo,
        key: message.key.clone(),
        payload: message.payload.clone(),
        gateway: Bytes::copy_from_slice(&gateway.0),
        publish,
        traceparent: message.traceparent.clone(),
    }
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

#[cfg(test)]
mod tests;
