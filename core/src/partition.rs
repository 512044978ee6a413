//! The owner of a partition: it alone gives out the offsets of its rooms. Publishes come in over links, become appends,
//! and when the log has acked one, it goes to every gateway that holds members of the room, in offset order. Knows no
//! log and no bus: the driver performs its [`Effect`]s and brings the answers back.
//!
//! ```text
//!   on_batch ─▶ publish ─▶ Effect::Append ─▶ on_appended ─▶ ring, published, message ─▶ Effect::Send
//!              attach, read ─▶ (Effect::Head, Effect::Read ─▶ on_head, on_part) ─▶ attached, page ─▶ Effect::Send
//! ```

mod config;
mod effect;
mod erasing;
mod links;
mod opening;
mod presence;
mod publishes;
mod reads;
mod repeats;
mod retention;
mod ring;
mod rings;
mod routes;
mod survey;
mod sweep;
mod telling;

use std::collections::{BTreeMap, HashMap, VecDeque};

use carillon_proto::{
    ids::{Epoch, GatewayId, Offset, RoomName},
    link::{self, Attach, Came, Code, Erase, Failed, Message, Publish, Read, Up, UpBatch, Watch, Went, Who, down, failed, up},
    log::Record,
};

use crate::{Now, pace::Pace};
pub use config::{Config, Start};
pub use effect::Effect;
use links::{Links, Opening};
use presence::Presence;
use repeats::Repeats;
pub use retention::{Keep, Retention};
use ring::Ring;
use rings::Rings;
pub use sweep::ROOMS as SWEPT_AT_ONCE;
use sweep::Sweep;
use telling::Later;

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

    /// The newest sequence that the log has acked to this owner, or had when it was taken: a later owner's marker, and all that
    /// it appends, is above it.
    fn acked(&self) -> u64 {
        self.start.last_sequence - self.in_flight.len() as u64
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

#[cfg(test)]
mod tests;
