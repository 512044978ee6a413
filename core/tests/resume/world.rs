//! One gateway, the owners of all partitions, and a log that keeps what it is told to keep; all of it at once, unless a test
//! holds something back. The truth beside it remembers every message that the log has ever held.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use carillon_core::{
    Now,
    grants::Grants,
    link::PAGE_BYTES,
    partition::{Config, Effect, Keep, Partition, Retention, SWEPT_AT_ONCE, Start},
    rooms::{Conn, Doors, Publishing, RoomLimits, Rooms},
};
use carillon_proto::{
    codes::Close,
    frame::{Outgoing, ServerFrame, Span},
    ids::{Epoch, GatewayId, Offset, PartitionId, RoomName, UserId},
    log::Record,
};
use prost::Message as _;

use crate::client::{Asked, Client, Join, Place, Seen, Waiting};

/// What every frame counts for in an outbox.
pub(crate) const FRAME: usize = 100_000;
/// What every page under way counts for.
pub(crate) const PAGE: usize = PAGE_BYTES;
pub(crate) const KEEP: Keep = Keep { messages: 12, age_ms: 20_000 };

const TICK_MS: u64 = 250;

pub(crate) struct World {
    now: Now,
    rooms: Rooms,
    doors: Outboxes,
    owners: BTreeMap<PartitionId, Owner>,
    /// So many batches of these links will be lost.
    lost: HashMap<PartitionId, u32>,
    pub(crate) clients: Vec<Client>,
    names: Vec<String>,
    holds_appends: bool,
    holds_reads: bool,
    truth: HashMap<String, Vec<Life>>,
    said: u64,
    references: u64,
    lives: u32,
    writer: Conn,
}

/// One life of a room: what was stored, and when.
#[derive(Default)]
struct Life {
    epoch: String,
    messages: Vec<(String, u64)>,
    has_ended: bool,
}

struct Owner {
    rules: Partition,
    log: Vec<Record>,
    firsts: HashMap<String, Offset>,
    appends: VecDeque<Record>,
    reads: VecDeque<Effect>,
    /// Records that are in the log no more.
    gone: u64,
}

#[derive(Default)]
struct Outboxes {
    fresh: Vec<(Conn, Seen)>,
    bytes: HashMap<Conn, usize>,
    taken: HashMap<Conn, u32>,
    closed: Vec<Conn>,
    users: HashMap<Conn, String>,
}

impl World {
    pub(crate) fn new(limits: RoomLimits) -> Self {
        let now = Now { mono_ms: 100_000, unix_ms: 1_700_000_000_000 };
        let owners = PartitionId::all().map(|partition| {
            let config = Config {
                ring_messages: 4,
                retention: vec![Retention { rooms: "*".into(), keep: KEEP }],
                idle_room_ms: 2_000,
                ..Config::default()
            };
            let start = Start { partition, generation: 1, incarnation: "i".into(), last_sequence: 0, seed: 7 };
            let rules = Partition::new(config, start, []);
            let owner = Owner {
                rules,
                log: Vec::new(),
                firsts: HashMap::new(),
                appends: VecDeque::new(),
                reads: VecDeque::new(),
                gone: 0,
            };
            (partition, owner)
        });
        let mut rooms = Rooms::new(GatewayId([1; 16]), limits);
        let writer = rooms.request(1, UserId::parse("writer").unwrap());
        let mut world = Self {
            now,
            rooms,
            doors: Outboxes::default(),
            owners: owners.collect(),
            lost: HashMap::new(),
            clients: Vec::new(),
            names: Vec::new(),
            holds_appends: false,
            holds_reads: false,
            truth: HashMap::new(),
            said: 0,
            references: 0,
            lives: 1,
            writer,
        };
        world.settle();
        world
    }

    pub(crate) fn connect(&mut self, name: &str) -> usize {
        self.clients.push(Client::default());
        self.names.push(name.to_owned());
        self.come(self.clients.len() - 1);
        self.clients.len() - 1
    }

    /// Opens the client's next connection.
    pub(crate) fn come(&mut self, client: usize) {
        self.lives += 1;
        let user = UserId::parse(&self.names[client]).unwrap();
        let personal = Grants::new(user.clone(), None).personal();
        let conn = Conn { index: self.rooms.next_index(), life: self.lives };
        self.doors.users.insert(conn, self.names[client].clone());
        assert_eq!(self.rooms.connect(self.lives, user, personal, self.now, &mut self.doors), conn);
        self.clients[client].conn = Some(conn);
        self.settle();
        self.take(client, 1);
    }

    pub(crate) fn disconnect(&mut self, client: usize) {
        if let Some(conn) = self.clients[client].conn {
            self.rooms.disconnect(conn, self.now);
            self.doors.bytes.remove(&conn);
            self.clients[client].on_gone();
        }
        self.settle();
    }

    /// Stores so many messages of a writer who is in no room, or says them while the log is held.
    pub(crate) fn say(&mut self, room: &str, count: u64) {
        for _ in 0..count {
            self.said += 1;
            let payload = self.said.to_string();
            let permit = Grants::new(UserId::parse("writer").unwrap(), None).publish(name(room)).unwrap();
            let said =
                Publishing { payload: &payload, key: None, echo: false, ephemeral: false, reference: None, traceparent: "" };
            self.rooms.publish(self.writer, &permit, &said, self.now, &mut self.doors);
        }
        self.settle();
    }

    /// Asks to join; the `ref` of the answer.
    pub(crate) fn join(&mut self, client: usize, room: &str, join: Join) -> String {
        let asked = Asked { join: Some(join.clone()), ..self.asked(room) };
        let reference = self.next_reference(client, asked);
        let conn = self.clients[client].conn.expect("connected");
        let permit = self.grants(client).join(name(room)).unwrap();
        self.rooms.join(conn, &permit, join.options(), Some(&reference), self.now, &mut self.doors);
        self.settle();
        reference
    }

    /// Joins, and takes the answer, and nothing behind it.
    pub(crate) fn join_now(&mut self, client: usize, room: &str, join: Join) {
        self.join(client, room, join);
        self.take(client, 1);
        assert!(self.is_joined(client, room));
    }

    pub(crate) fn leave(&mut self, client: usize, room: &str) {
        let conn = self.clients[client].conn.expect("connected");
        self.rooms.leave(conn, &name(room), None, self.now, &mut self.doors);
        self.settle();
    }

    pub(crate) fn history(&mut self, client: usize, room: &str, span: Span, limit: u32) {
        let asked = Asked { history: Some((span, u64::from(limit))), ..self.asked(room) };
        let reference = self.next_reference(client, asked);
        let conn = self.clients[client].conn.expect("connected");
        let permit = self.grants(client).read(name(room)).unwrap();
        self.rooms.history(conn, &permit, span, limit, Some(&reference), self.now, &mut self.doors);
        self.settle();
    }

    fn next_reference(&mut self, client: usize, asked: Asked) -> String {
        self.references += 1;
        let reference = self.references.to_string();
        self.clients[client].asked.insert(reference.clone(), asked);
        reference
    }

    fn asked(&self, room: &str) -> Asked {
        let epoch = self.life(room).map_or_else(String::new, |life| life.epoch.clone());
        let (floor, head) = self.standing(room, &epoch);
        Asked { join: None, history: None, floor, head, epoch }
    }

    fn grants(&self, client: usize) -> Arc<Grants> {
        Arc::new(Grants::new(UserId::parse(&self.names[client]).unwrap(), None))
    }

    /// The client takes so many frames.
    pub(crate) fn take(&mut self, client: usize, frames: usize) {
        let Some(conn) = self.clients[client].conn else { return };
        for _ in 0..frames {
            let Some(waiting) = self.clients[client].outbox.pop_front() else { break };
            let bytes = self.doors.bytes.entry(conn).or_default();
            *bytes = bytes.saturating_sub(FRAME);
            *self.doors.taken.entry(conn).or_default() += FRAME as u32;
            self.clients[client].on_seen(waiting);
        }
        if self.clients[client].outbox.is_empty() {
            self.doors.bytes.insert(conn, 0);
            self.rooms.on_drained(conn, self.now);
        }
        self.settle();
    }

    /// Something else fills the client's outbox.
    pub(crate) fn fill(&mut self, client: usize, bytes: usize) {
        *self.doors.bytes.entry(self.clients[client].conn.expect("connected")).or_default() += bytes;
        self.settle();
    }

    /// Of which it takes so much.
    pub(crate) fn take_bytes(&mut self, client: usize, bytes: u32) {
        let conn = self.clients[client].conn.expect("connected");
        *self.doors.bytes.get_mut(&conn).expect("filled") -= bytes as usize;
        *self.doors.taken.entry(conn).or_default() += bytes;
    }

    /// The next batches of the link to the room's owner are lost, in either direction.
    pub(crate) fn lose(&mut self, room: &str, batches: u32) {
        self.lost.insert(name(room).partition(), batches);
    }

    pub(crate) fn hold_appends(&mut self) {
        self.holds_appends = true;
    }

    pub(crate) fn hold_reads(&mut self) {
        self.holds_reads = true;
    }

    pub(crate) fn release(&mut self) {
        (self.holds_appends, self.holds_reads) = (false, false);
        self.settle();
    }

    pub(crate) fn reads_under_way(&self, room: &str) -> usize {
        self.owners[&name(room).partition()].reads.len()
    }

    pub(crate) fn another_partition_than(&self, room: &str) -> String {
        let names = (0..).map(|number| format!("elsewhere{number}"));
        names.into_iter().find(|other| name(other).partition() != name(room).partition()).expect("there are sixteen")
    }

    pub(crate) fn wait(&mut self, time: Duration) {
        let end_ms = self.now.mono_ms + time.as_millis() as u64;
        while self.now.mono_ms < end_ms {
            let step_ms = TICK_MS.min(end_ms - self.now.mono_ms);
            self.now = Now { mono_ms: self.now.mono_ms + step_ms, unix_ms: self.now.unix_ms + step_ms };
            self.rooms.on_tick(self.now, &mut self.doors);
            for owner in self.owners.values_mut() {
                owner.rules.on_tick(self.now);
                if let Some(after) = owner.rules.poll_sweep(self.now) {
                    owner.rules.on_rooms(owner.rooms(after.as_ref()), self.now);
                }
            }
            self.settle();
        }
    }

    /// Nothing is lost or held back any more, and everyone takes everything, until all is quiet.
    pub(crate) fn calm_down(&mut self) {
        self.lost.clear();
        self.release();
        for _ in 0..60 {
            for client in 0..self.clients.len() {
                self.take(client, usize::MAX);
            }
            self.wait(Duration::from_millis(TICK_MS));
        }
    }

    fn settle(&mut self) {
        loop {
            let mut is_quiet = true;
            self.rooms.on_outboxes(self.doors.bytes.values().sum(), self.now);
            while let Some((partition, batch)) = self.rooms.poll_batch(self.now) {
                is_quiet = false;
                if !self.is_lost(partition) {
                    self.owners.get_mut(&partition).unwrap().rules.on_batch(batch, self.now);
                }
            }
            for partition in PartitionId::all() {
                is_quiet &= !self.answer_held(partition);
                while let Some(effect) = self.owners.get_mut(&partition).unwrap().rules.poll_effect(self.now) {
                    is_quiet = false;
                    self.carry_out(partition, effect);
                }
            }
            self.deliver();
            if is_quiet {
                break;
            }
        }
    }

    fn is_lost(&mut self, partition: PartitionId) -> bool {
        let Some(left) = self.lost.get_mut(&partition).filter(|left| **left > 0) else { return false };
        *left -= u32::from(*left < u32::MAX);
        true
    }

    /// Puts what the gateway said into outboxes, with how the rooms stand now.
    fn deliver(&mut self) {
        for (conn, seen) in std::mem::take(&mut self.doors.fresh) {
            let (floor, head) = match &seen {
                Seen::Joined { room, epoch, .. } | Seen::History { room, epoch, .. } => self.standing(room, epoch),
                Seen::Message { room, offset, epoch, payload } => {
                    let life = self.truth[room].iter().find(|life| life.epoch == *epoch).expect("a life that there was");
                    assert_eq!(life.messages[*offset as usize - 1].0, *payload, "{offset} of {room}");
                    self.standing(room, epoch)
                }
                _ => (0, 0),
            };
            if let Seen::History { room, found, epoch, .. } = &seen {
                for (offset, payload) in found {
                    let life = self.truth[room].iter().find(|life| life.epoch == *epoch).expect("a life that there was");
                    assert_eq!(life.messages[*offset as usize - 1].0, *payload, "{offset} of {room}");
                }
            }
            if let Some(client) = self.clients.iter_mut().find(|client| client.conn == Some(conn)) {
                client.outbox.push_back(Waiting { seen, floor, head });
            }
        }
    }

    fn carry_out(&mut self, partition: PartitionId, effect: Effect) {
        let (now, holds_reads) = (self.now, self.holds_reads);
        let owner = self.owners.get_mut(&partition).unwrap();
        match effect {
            Effect::Append { record, .. } => owner.appends.push_back(Record::decode(record).unwrap()),
            Effect::Head { .. } | Effect::Read { .. } if holds_reads => owner.reads.push_back(effect),
            Effect::Head { .. } | Effect::Read { .. } => owner.answer(effect, now),
            Effect::Trim { room, below, .. } => {
                let first = owner.firsts.entry(room.to_string()).or_insert(1);
                *first = below.max(*first);
            }
            Effect::Empty { room, through } => {
                assert_eq!(through, owner.log.len() as u64 + owner.gone, "all that was acked, and nothing else, was judged");
                let before = owner.log.len();
                owner.log.retain(|record| record.room != room.as_str());
                owner.gone += (before - owner.log.len()) as u64;
                owner.firsts.remove(room.as_str());
                if let Some(life) = self.truth.get_mut(room.as_str()).and_then(|lives| lives.last_mut()) {
                    life.has_ended = true;
                }
                owner.rules.on_emptied(room, now);
            }
            Effect::TailLost => panic!("this log loses nothing"),
            Effect::Present { .. } | Effect::Settled { .. } => {}
            Effect::Send { batch, .. } => {
                if !self.is_lost(partition) {
                    self.rooms.on_batch(partition, batch, now, &mut self.doors);
                }
            }
        }
    }

    /// Does what the log was asked, unless that is held; whether there was anything.
    fn answer_held(&mut self, partition: PartitionId) -> bool {
        let owner = self.owners.get_mut(&partition).unwrap();
        let (reads, appends) = (!self.holds_reads && !owner.reads.is_empty(), !self.holds_appends && !owner.appends.is_empty());
        for read in if reads { std::mem::take(&mut owner.reads) } else { VecDeque::new() } {
            owner.answer(read, self.now);
        }
        for record in if appends { std::mem::take(&mut owner.appends) } else { VecDeque::new() } {
            let lives = self.truth.entry(record.room.clone()).or_default();
            if record.offset == 1 {
                lives.push(Life { epoch: record.epoch.clone(), ..Life::default() });
            }
            let life = lives.last_mut().expect("it begins with 1");
            life.messages.push((String::from_utf8(record.payload.to_vec()).unwrap(), record.ts));
            assert_eq!((record.offset, &record.epoch), (life.messages.len() as u64, &life.epoch));
            owner.log.push(record);
            owner.rules.on_appended(self.now);
        }
        reads || appends
    }

    fn life(&self, room: &str) -> Option<&Life> {
        self.truth.get(room)?.last()
    }

    /// The oldest offset of this life that retention has left by now, and the newest.
    fn standing(&self, room: &str, epoch: &str) -> (Offset, Offset) {
        let Some(life) = self.truth.get(room).and_then(|lives| lives.iter().find(|life| life.epoch == epoch)) else {
            return (1, 0);
        };
        let head = life.messages.len() as u64;
        if life.has_ended {
            return (head + 1, head);
        }
        let oldest_ts = self.now.unix_ms - KEEP.age_ms;
        let young = life.messages.iter().position(|(_, ts)| *ts >= oldest_ts).unwrap_or(life.messages.len());
        (head.saturating_sub(KEEP.messages).max(young as u64) + 1, head)
    }

    pub(crate) fn is_refused(&mut self, client: usize, reference: &str) -> bool {
        self.take(client, usize::MAX);
        self.clients[client].refused.iter().any(|refused| refused == reference)
    }

    pub(crate) fn is_joined(&self, client: usize, room: &str) -> bool {
        self.clients[client].places.contains_key(room)
    }

    pub(crate) fn is_closed(&self, client: usize) -> bool {
        self.clients[client].conn.is_some_and(|conn| self.doors.closed.contains(&conn))
    }

    pub(crate) fn position(&self, client: usize, room: &str) -> Offset {
        match self.clients[client].places.get(room).unwrap_or_else(|| panic!("{} is not in {room}", self.names[client])) {
            Place::After(position) | Place::Newest { head: position, .. } => *position,
        }
    }

    /// At rest, every member stands at the head of the room's newest life, unless that has ended meanwhile.
    pub(crate) fn check(&self) {
        for (client, name) in self.clients.iter().zip(&self.names) {
            assert!(client.is_welcome, "{name} waits for ever");
            assert!(client.asked.is_empty(), "{name} has no answer to {:?}", client.asked);
            for (room, place) in &client.places {
                let Some(life) = self.life(room).filter(|life| !life.has_ended) else { continue };
                let (Place::After(position) | Place::Newest { head: position, .. }) = place;
                assert_eq!((*position, &client.epochs[room]), (life.messages.len() as u64, &life.epoch), "{name} in {room}");
            }
        }
    }
}

impl Owner {
    fn rooms(&self, after: Option<&RoomName>) -> Vec<RoomName> {
        let names: BTreeSet<&str> = self.log.iter().map(|record| record.room.as_str()).collect();
        let behind = names.into_iter().filter(|name| after.is_none_or(|after| *name > after.as_str()));
        behind.take(SWEPT_AT_ONCE).map(name).collect()
    }

    fn answer(&mut self, asked: Effect, now: Now) {
        match asked {
            Effect::Head { room } => {
                let newest = self.log.iter().rev().find(|record| record.room == room.as_str()).cloned();
                self.rules.on_head(room, newest, now);
            }
            Effect::Read { ticket, room, after, before, limit, .. } => {
                let first = self.firsts.get(room.as_str()).copied().unwrap_or(1);
                let of_room = self.log.iter().filter(|record| record.room == room.as_str() && record.offset >= first);
                let found: Vec<Record> = match after {
                    Some(after) => of_room.filter(|record| record.offset > after).take(limit).cloned().collect(),
                    None => {
                        let below = of_room.filter(|record| record.offset < before.unwrap_or(u64::MAX));
                        let mut found: Vec<Record> = below.cloned().collect();
                        found.drain(..found.len().saturating_sub(limit));
                        found
                    }
                };
                let is_empty = !self.log.iter().any(|record| record.room == room.as_str());
                self.rules.on_part(ticket, found, if is_empty { 0 } else { first }, now);
            }
            other => unreachable!("the log is not asked {other:?}"),
        }
    }
}

fn name(room: &str) -> RoomName {
    RoomName::parse(room).unwrap()
}

impl Outboxes {
    fn push(&mut self, to: Conn, seen: Seen) {
        if self.users.contains_key(&to) && !self.closed.contains(&to) {
            *self.bytes.entry(to).or_default() += FRAME;
            self.fresh.push((to, seen));
        }
    }
}

impl Doors for Outboxes {
    type Shared = ();

    fn message(&mut self, to: Conn, message: &Outgoing<'_>, (): &mut ()) {
        let (room, payload) = (message.room.to_owned(), String::from_utf8(message.payload.to_vec()).unwrap());
        self.push(to, Seen::Message { room, offset: message.offset, epoch: message.epoch.to_owned(), payload });
    }

    fn frame(&mut self, to: Conn, frame: &ServerFrame<'_>) {
        let seen = match *frame {
            ServerFrame::Joined { room, reference, offset, epoch, recovered, reason, .. } => {
                assert_eq!(recovered, reason.is_none());
                let reference = reference.map(str::to_owned);
                Seen::Joined {
                    room: room.to_string(),
                    reference,
                    offset,
                    epoch: epoch.to_string(),
                    reason: reason.map(str::to_owned),
                }
            }
            ServerFrame::History { room, reference, messages, more, epoch } => {
                let text = |payload: &[u8]| String::from_utf8(payload.to_vec()).unwrap();
                let found = messages.iter().map(|message| (message.offset, text(message.payload))).collect();
                let reference = reference.expect("asked with one").to_owned();
                Seen::History { reference, room: room.to_string(), found, more, epoch: epoch.to_string() }
            }
            ServerFrame::Left { room, .. } => Seen::Left { room: room.to_string() },
            ServerFrame::Error { reference: Some(reference), .. } => Seen::Refused { reference: reference.to_owned() },
            _ => Seen::Other,
        };
        self.push(to, seen);
    }

    fn welcome(&mut self, to: Conn, _: &RoomName, _: Offset, _: &Epoch) {
        self.push(to, Seen::Welcome);
    }

    fn close(&mut self, of: Conn, _: Close) {
        self.closed.push(of);
    }

    fn identity(&self, of: Conn) -> (&str, &str) {
        (self.users.get(&of).map_or("writer", String::as_str), "app")
    }

    fn info(&self, _: Conn) -> &str {
        ""
    }

    fn outbox_bytes(&self, of: Conn) -> usize {
        self.bytes.get(&of).copied().unwrap_or(0)
    }

    fn outbox_taken(&self, of: Conn) -> u32 {
        self.taken.get(&of).copied().unwrap_or(0)
    }
}
