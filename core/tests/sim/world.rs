//! The world: one clock, one queue of what happens next, and the parts between which it happens.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, HashSet},
    sync::Arc,
};

use bytes::Bytes;
use carillon_core::{
    Now,
    grants::Grants,
    partition::{Config, Effect, Partition, Start},
    rooms::{Conn, Doors, Publishing, RoomLimits, Rooms},
};
use carillon_proto::{
    codes::Close,
    frame::{EpochClaim, JoinOptions, Outgoing, ServerFrame, Span},
    ids::{Epoch, GatewayId, Offset, PartitionId, RoomName, UserId},
    link::{DownBatch, UpBatch},
    log::Record,
};
use prost::Message as _;

use crate::{
    chance::Chance,
    client::{Client, Line, OWN, Outcome, Said, Seen},
};

/// What goes wrong, and how often. Bus faults are percent of batches; the others permille of steps.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Faults {
    pub(crate) lose: u64,
    pub(crate) double: u64,
    pub(crate) delay: u64,
    pub(crate) drop_client: u64,
    pub(crate) crash_owner: u64,
    pub(crate) crash_gateway: u64,
    /// Nothing gets through to or from one gateway for a while.
    pub(crate) cut: u64,
}

enum Happening {
    Up(PartitionId, UpBatch),
    Down { gateway: usize, life: u64, partition: PartitionId, batch: DownBatch },
    Write { partition: PartitionId, life: u64, sequence: u64, record: Bytes },
    Acked { partition: PartitionId, life: u64 },
    Head { partition: PartitionId, life: u64, room: RoomName },
    Part { partition: PartitionId, life: u64, ticket: u64, room: RoomName, after: Option<u64>, before: Option<u64>, limit: usize },
    OwnerReturns(PartitionId),
    Step,
    Tick,
}

struct Gateway {
    life: u64,
    rooms: Rooms,
    doors: SimDoors,
    cut_until_ms: u64,
}

#[derive(Default)]
struct SimDoors {
    people: HashMap<Conn, (String, String)>,
    seen: Vec<(Conn, Seen)>,
}

struct Owner {
    life: u64,
    rules: Option<Partition>,
}

pub(crate) struct World {
    now_ms: u64,
    chance: Chance,
    faults: Faults,
    queue: BinaryHeap<Reverse<(u64, u64)>>,
    happenings: HashMap<u64, Happening>,
    count: u64,
    /// When the last batch between two ends arrives: the next one is not earlier, unless chance delays one.
    order: HashMap<(u8, usize, u64, u8), u64>,
    gateways: Vec<Gateway>,
    owners: HashMap<PartitionId, Owner>,
    logs: HashMap<PartitionId, Vec<Record>>,
    clients: Vec<Client>,
    rooms: Vec<RoomName>,
    lives: u64,
}

/// Faults and new messages go on for so long; then everything must come to rest.
const BUSY_MS: u64 = 10_000;
const CALM_MS: u64 = 40_000;
const HANDSHAKE_MS: u64 = 5_000;
const STEP_MS: u64 = 20;
const TICK_MS: u64 = 250;
const GATEWAYS: usize = 3;
const CLIENTS: usize = 6;

impl World {
    pub(crate) fn new(seed: u64, faults: Faults) -> Self {
        let mut chance = Chance::new(seed);
        let rooms = ["a", "b", "c"].map(|name| RoomName::parse(name).unwrap()).to_vec();
        let clients = (0..CLIENTS).map(|number| {
            // Some users have two app instances, and some instances want their own messages.
            Client::new(format!("user{}", number / 2), format!("client{number}"), chance.percent(30), chance.percent(60))
        });
        let clients = clients.collect();
        let mut world = Self {
            now_ms: 1000,
            chance,
            faults,
            queue: BinaryHeap::new(),
            happenings: HashMap::new(),
            count: 0,
            order: HashMap::new(),
            gateways: Vec::new(),
            owners: HashMap::new(),
            logs: HashMap::new(),
            clients,
            rooms,
            lives: 0,
        };
        for _ in 0..GATEWAYS {
            let gateway = world.new_gateway();
            world.gateways.push(gateway);
        }
        for partition in PartitionId::all() {
            world.logs.insert(partition, Vec::new());
            world.owners.insert(partition, Owner { life: 0, rules: None });
            world.take(partition);
        }
        world
    }

    pub(crate) fn play(mut self) {
        self.schedule(0, Happening::Step);
        self.schedule(0, Happening::Tick);
        let end = self.now_ms + BUSY_MS + CALM_MS;
        while let Some(Reverse((at_ms, number))) = self.queue.pop() {
            if at_ms > end {
                break;
            }
            self.now_ms = at_ms;
            let happening = self.happenings.remove(&number).expect("scheduled");
            self.happen(happening, at_ms < end - CALM_MS);
            self.settle();
        }
        self.check();
    }

    fn now(&self) -> Now {
        Now { mono_ms: self.now_ms, unix_ms: 1_700_000_000_000 + self.now_ms }
    }

    fn schedule(&mut self, in_ms: u64, happening: Happening) {
        self.count += 1;
        self.queue.push(Reverse((self.now_ms + in_ms, self.count)));
        self.happenings.insert(self.count, happening);
    }

    fn happen(&mut self, happening: Happening, busy: bool) {
        let now = self.now();
        match happening {
            Happening::Up(partition, batch) => {
                if let Some(rules) = &mut self.owners.get_mut(&partition).unwrap().rules {
                    rules.on_batch(batch, now);
                }
            }
            Happening::Down { gateway, life, partition, batch } => {
                let gateway = &mut self.gateways[gateway];
                if gateway.life == life {
                    gateway.rooms.on_batch(partition, batch, now, &mut gateway.doors);
                }
            }
            Happening::Write { partition, life, sequence, record } => {
                // A crash takes with it what had not reached the log; the fence keeps out what comes later.
                if self.owners[&partition].life == life {
                    let log = self.logs.get_mut(&partition).unwrap();
                    assert_eq!(log.len() as u64 + 1, sequence, "appends out of order");
                    log.push(Record::decode(record).unwrap());
                    let ack_ms = self.chance.below(5);
                    self.in_order((2, partition.index(), life, 1), ack_ms, Happening::Acked { partition, life });
                }
            }
            Happening::Acked { partition, life } => self.with_owner(partition, life, |rules, now, _| rules.on_appended(now)),
            Happening::Head { partition, life, room } => self.with_owner(partition, life, |rules, now, log| {
                let newest = log.iter().rev().find(|record| record.room == room.as_str()).cloned();
                rules.on_head(room.clone(), newest, now);
            }),
            Happening::Part { partition, life, ticket, room, after, before, limit } => {
                self.with_owner(partition, life, |rules, now, log| {
                    let all: Vec<&Record> = log.iter().filter(|record| record.room == room.as_str()).collect();
                    let first = all.first().map_or(0, |record| record.offset);
                    let found: Vec<Record> = match (after, before) {
                        (Some(after), _) => all.into_iter().filter(|r| r.offset > after).take(limit).cloned().collect(),
                        (None, before) => {
                            let before = before.unwrap_or(u64::MAX);
                            let mut found: Vec<Record> =
                                all.into_iter().rev().filter(|r| r.offset < before).take(limit).cloned().collect();
                            found.reverse();
                            found
                        }
                    };
                    rules.on_part(ticket, found, first, now);
                });
            }
            Happening::OwnerReturns(partition) => self.take(partition),
            Happening::Step => {
                self.step(busy);
                self.schedule(STEP_MS, Happening::Step);
            }
            Happening::Tick => {
                for gateway in &mut self.gateways {
                    gateway.rooms.on_tick(now, &mut gateway.doors);
                }
                for owner in self.owners.values_mut() {
                    if let Some(rules) = &mut owner.rules {
                        rules.on_tick(now);
                    }
                }
                self.schedule(TICK_MS, Happening::Tick);
            }
        }
    }

    fn with_owner(&mut self, partition: PartitionId, life: u64, act: impl FnOnce(&mut Partition, Now, &[Record])) {
        let now = self.now();
        let owner = self.owners.get_mut(&partition).unwrap();
        if let Some(rules) = owner.rules.as_mut().filter(|_| owner.life == life) {
            act(rules, now, &self.logs[&partition]);
        }
    }

    /// Carries out what the last happening led to, and shows clients their frames.
    fn settle(&mut self) {
        let now = self.now();
        for index in 0..self.gateways.len() {
            loop {
                let seen = std::mem::take(&mut self.gateways[index].doors.seen);
                if seen.is_empty() {
                    break;
                }
                for (conn, seen) in seen {
                    let at = |client: &&mut Client| matches!(client.line, Line::Up { gateway, conn: at, .. } if gateway == index && at == conn);
                    if let Some(client) = self.clients.iter_mut().find(at) {
                        client.on_seen(seen);
                    }
                }
            }
            while let Some((partition, batch)) = self.gateways[index].rooms.poll_batch(now) {
                let life = self.gateways[index].life;
                let cut = self.gateways[index].cut_until_ms > self.now_ms;
                self.on_bus((0, index, life, partition.0), cut, || Happening::Up(partition, batch.clone()));
            }
        }
        for partition in PartitionId::all() {
            let life = self.owners[&partition].life;
            while let Some(effect) =
                self.owners.get_mut(&partition).unwrap().rules.as_mut().and_then(|rules| rules.poll_effect(now))
            {
                self.carry_out(partition, life, effect);
            }
        }
    }

    fn carry_out(&mut self, partition: PartitionId, life: u64, effect: Effect) {
        let wait_ms = 1 + self.chance.below(8);
        match effect {
            Effect::Append { sequence, record, .. } => {
                let write = Happening::Write { partition, life, sequence, record };
                self.in_order((2, partition.index(), life, 0), wait_ms, write);
            }
            // Nothing is old or numerous enough in this world.
            Effect::Trim { .. } | Effect::Empty { .. } | Effect::TailLost => unreachable!("nothing is trimmed"),
            Effect::Head { room } => self.schedule(wait_ms, Happening::Head { partition, life, room }),
            Effect::Read { ticket, room, after, before, limit, .. } => {
                let part = Happening::Part { partition, life, ticket, room, after, before, limit };
                self.schedule(wait_ms, part);
            }
            Effect::Send { gateway, batch } => {
                let Some(index) = self.gateways.iter().position(|it| gateway_id(it.life) == gateway) else { return };
                let (life, cut) = (self.gateways[index].life, self.gateways[index].cut_until_ms > self.now_ms);
                let down = || Happening::Down { gateway: index, life, partition, batch: batch.clone() };
                self.on_bus((1, index, life, partition.0), cut, down);
            }
        }
    }

    /// At most once, in order: unless chance loses, doubles or delays.
    fn on_bus(&mut self, ends: (u8, usize, u64, u8), cut: bool, happening: impl Fn() -> Happening) {
        if cut || self.chance.percent(self.faults.lose) {
            return;
        }
        if self.chance.percent(self.faults.double) {
            let later = self.chance.below(500);
            self.schedule(later, happening());
        }
        let wait_ms = 1 + self.chance.below(3);
        if self.chance.percent(self.faults.delay) {
            let late_ms = self.chance.below(800);
            return self.schedule(late_ms, happening());
        }
        self.in_order(ends, wait_ms, happening());
    }

    fn in_order(&mut self, ends: (u8, usize, u64, u8), wait_ms: u64, happening: Happening) {
        let earliest = self.order.get(&ends).copied().unwrap_or(0);
        let at_ms = (self.now_ms + wait_ms).max(earliest);
        self.order.insert(ends, at_ms);
        self.schedule(at_ms - self.now_ms, happening);
    }

    fn step(&mut self, busy: bool) {
        if busy {
            self.break_things();
        }
        for index in 0..self.clients.len() {
            self.step_client(index, busy);
        }
    }

    fn break_things(&mut self) {
        if self.chance.permille(self.faults.crash_gateway) {
            let index = self.chance.below(GATEWAYS as u64) as usize;
            self.gateways[index] = self.new_gateway();
            for client in 0..self.clients.len() {
                if matches!(self.clients[client].line, Line::Up { gateway, .. } if gateway == index) {
                    let until_ms = self.now_ms + self.chance.below(2000);
                    self.clients[client].on_down(until_ms);
                }
            }
        }
        if self.chance.permille(self.faults.crash_owner) {
            let room = self.chance.below(self.rooms.len() as u64) as usize;
            let partition = self.rooms[room].partition();
            let owner = self.owners.get_mut(&partition).unwrap();
            owner.rules = None;
            owner.life += 1;
            let away_ms = self.chance.below(6000);
            self.schedule(away_ms, Happening::OwnerReturns(partition));
        }
        if self.chance.permille(self.faults.cut) {
            let index = self.chance.below(GATEWAYS as u64) as usize;
            self.gateways[index].cut_until_ms = self.now_ms + self.chance.below(15_000);
        }
    }

    fn take(&mut self, partition: PartitionId) {
        let now = self.now();
        let owner = self.owners.get_mut(&partition).unwrap();
        if owner.rules.is_some() {
            return;
        }
        owner.life += 1;
        let log = &self.logs[&partition];
        let start = Start {
            partition,
            generation: now.unix_ms + owner.life,
            incarnation: "sim".into(),
            last_sequence: log.len() as u64,
            seed: u128::from(self.chance.next()),
        };
        // A small ring, so that resumes reach the log too.
        let config = Config { ring_messages: 8, ..Config::default() };
        owner.rules = Some(Partition::new(config, start, log.iter().cloned()));
    }

    fn step_client(&mut self, index: usize, busy: bool) {
        let now = self.now();
        match self.clients[index].line {
            Line::Down { until_ms } if self.now_ms >= until_ms => {
                let at = self.chance.below(GATEWAYS as u64) as usize;
                let gateway = &mut self.gateways[at];
                self.lives += 1;
                let life = self.lives as u32;
                let client = &mut self.clients[index];
                let conn = Conn { index: gateway.rooms.next_index(), life };
                gateway.doors.people.insert(conn, (client.user.clone(), client.name.clone()));
                let user = UserId::parse(&client.user).unwrap();
                let grants = Grants::new(user.clone(), None);
                client.connections += 1;
                client.line = Line::Up { gateway: at, conn, welcomed: false, since_ms: self.now_ms };
                gateway.rooms.connect(life, user, grants.personal(), now, &mut gateway.doors);
            }
            Line::Up { gateway, conn, .. } if busy && self.chance.permille(self.faults.drop_client) => {
                self.gateways[gateway].rooms.disconnect(conn, now);
                self.gateways[gateway].doors.people.remove(&conn);
                let until_ms = self.now_ms + self.chance.below(3000);
                self.clients[index].on_down(until_ms);
            }
            // The gateway's own rule: who is not welcomed in time is sent away.
            Line::Up { gateway, conn, welcomed: false, since_ms } if self.now_ms > since_ms + HANDSHAKE_MS => {
                self.gateways[gateway].rooms.disconnect(conn, now);
                self.clients[index].on_down(self.now_ms + 100);
            }
            Line::Up { gateway, conn, welcomed: true, .. } => self.act(index, gateway, conn, busy),
            _ => {}
        }
    }

    fn act(&mut self, index: usize, gateway: usize, conn: Conn, busy: bool) {
        let now = self.now();
        let gateway = &mut self.gateways[gateway];
        let client = &mut self.clients[index];
        let grants = Arc::new(Grants::new(UserId::parse(&client.user).unwrap(), None));
        for room in &self.rooms {
            let known = client.rooms.entry(room.as_str().to_owned()).or_default();
            if !known.wants && busy && self.chance.percent(2) {
                known.wants = true;
            }
            if known.wants && !known.asked {
                known.asked = true;
                let options = JoinOptions {
                    since: known.position,
                    epoch: known.position.map(|_| EpochClaim::Named(known.epoch.as_str().into())),
                    echo: client.echo,
                    presence: client.presence,
                    ..JoinOptions::default()
                };
                let reference = format!("\"join {room}\"");
                let permit = grants.join(room.clone()).unwrap();
                gateway.rooms.join(conn, &permit, options, Some(&reference), now, &mut gateway.doors);
            }
        }
        if busy && self.chance.percent(20) {
            let room = self.rooms[self.chance.below(self.rooms.len() as u64) as usize].clone();
            for _ in 0..=self.chance.below(3) {
                let number = client.said.len();
                let payload = format!("\"{}:{number}\"", client.name);
                let reference = number.to_string();
                let key = format!("{}-{number}", client.name);
                let said = Publishing {
                    payload: &payload,
                    key: self.chance.percent(50).then_some(&key),
                    echo: false,
                    ephemeral: false,
                    reference: Some(&reference),
                    traceparent: "",
                };
                let permit = grants.publish(room.clone()).unwrap();
                gateway.rooms.publish(conn, &permit, &said, now, &mut gateway.doors);
                client.said.push(Said {
                    room: room.as_str().to_owned(),
                    payload,
                    outcome: Outcome::Open,
                    connection: client.connections,
                });
            }
        }
        if busy && self.chance.percent(3) {
            let room = self.rooms[self.chance.below(self.rooms.len() as u64) as usize].clone();
            let span = match self.chance.below(3) {
                0 => Span::Newest,
                1 => Span::After(self.chance.below(40)),
                _ => Span::Before(1 + self.chance.below(40)),
            };
            let limit = 1 + self.chance.below(20) as u32;
            gateway.rooms.history(conn, &grants.read(room).unwrap(), span, limit, Some("\"history\""), now);
        }
    }

    fn new_gateway(&mut self) -> Gateway {
        self.lives += 1;
        let limits = RoomLimits { replay_messages: 10, ..RoomLimits::default() };
        let rooms = Rooms::new(gateway_id(self.lives), limits);
        Gateway { life: self.lives, rooms, doors: SimDoors::default(), cut_until_ms: 0 }
    }

    /// At rest: everyone has everything, and the log has each message once.
    fn check(&self) {
        let log = |room: &str| -> Vec<&Record> {
            let partition = RoomName::parse(room).unwrap().partition();
            self.logs[&partition].iter().filter(|record| record.room == room).collect()
        };
        for room in &self.rooms {
            let records = log(room.as_str());
            for (index, record) in records.iter().enumerate() {
                assert_eq!(record.offset, index as u64 + 1, "a hole in the log of {room}");
            }
            let payloads: HashSet<&[u8]> = records.iter().map(|record| &record.payload[..]).collect();
            assert_eq!(payloads.len(), records.len(), "a message of {room} is stored twice");
        }
        for client in &self.clients {
            let who = &client.name;
            assert!(matches!(client.line, Line::Up { welcomed: true, .. }), "{who} is not back: {:?}", client.line);
            for (room, known) in client.rooms.iter().filter(|(_, known)| known.wants) {
                let records = log(room);
                assert!(known.joined, "{who} waits for {room} for ever");
                assert_eq!(known.position, Some(records.len() as u64), "{who} is not at the head of {room}");
                for (offset, payload) in &known.seen {
                    let stored = std::str::from_utf8(&records[*offset as usize - 1].payload).unwrap();
                    assert!(payload == stored || payload == OWN, "{who}: {offset} of {room} is {stored}, seen as {payload}");
                }
                for offset in known.first + 1..=records.len() as u64 {
                    assert!(known.seen.contains_key(&offset), "{who} never saw {offset} of {room}");
                }
            }
            for (room, known) in client.rooms.iter().filter(|(_, known)| known.wants && client.presence) {
                let there = self.clients.iter().filter(|other| other.rooms.get(room).is_some_and(|known| known.wants));
                let users: HashSet<String> = there.map(|other| other.user.clone()).collect();
                assert_eq!(known.count, users.len() as u64, "{who} counts wrong in {room}");
                let others: HashSet<String> = users.into_iter().filter(|user| *user != client.user).collect();
                assert_eq!(known.others, others, "{who} sees the wrong people in {room}");
            }
            let mut last: HashMap<(&str, u64), u64> = HashMap::new();
            for said in &client.said {
                assert_ne!(said.outcome, Outcome::Open, "{who} waits for the outcome of {} for ever", said.payload);
                let stored = log(&said.room).into_iter().find(|record| record.payload == said.payload.as_bytes());
                match said.outcome {
                    Outcome::Acked(offset) => {
                        assert_eq!(stored.map(|record| record.offset), Some(offset), "{who}: {} was acked", said.payload)
                    }
                    Outcome::Refused => assert_eq!(stored, None, "{who}: {} was refused, yet stored", said.payload),
                    _ => {}
                }
                if let Some(record) = stored {
                    let before = last.insert((&said.room, said.connection), record.offset).unwrap_or(0);
                    assert!(before < record.offset, "{who}: {} is stored before what was said before it", said.payload);
                }
            }
        }
    }
}

fn gateway_id(life: u64) -> GatewayId {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&life.to_be_bytes());
    GatewayId(id)
}

impl Doors for SimDoors {
    type Shared = ();

    fn message(&mut self, to: Conn, message: &Outgoing<'_>, _: &mut ()) {
        let seen = Seen::Message {
            room: message.room.to_owned(),
            offset: message.offset,
            payload: String::from_utf8(message.payload.to_vec()).unwrap(),
            sender: (message.sender.to_owned(), self.client_of(message)),
            epoch: message.epoch.to_owned(),
        };
        self.seen.push((to, seen));
    }

    fn frame(&mut self, to: Conn, frame: &ServerFrame<'_>) {
        let seen = match *frame {
            ServerFrame::Joined { room, offset, epoch, recovered, members, .. } => {
                let members = members.map(|it| it.members.iter().map(|member| member.user.to_string()).collect());
                Seen::Joined { room: room.to_string(), offset, epoch: epoch.to_string(), recovered, members }
            }
            ServerFrame::UserJoined { room, user, count, .. } => {
                Seen::UserJoined { room: room.to_string(), user: user.to_owned(), count }
            }
            ServerFrame::UserLeft { room, user, count, .. } => {
                Seen::UserLeft { room: room.to_string(), user: user.to_owned(), count }
            }
            ServerFrame::Own { room, offset, .. } => Seen::Own { room: room.to_owned(), offset },
            ServerFrame::Ack { reference, room, stored, .. } => {
                Seen::Ack { reference: reference.to_owned(), room: room.to_string(), offset: stored.expect("stored").0 }
            }
            ServerFrame::Error { code, reference, outcome_unknown, .. } => {
                Seen::Error { reference: reference.map(str::to_owned), code: code.as_str(), outcome_unknown }
            }
            ServerFrame::History { room, messages, .. } => {
                Seen::History { room: room.to_string(), offsets: messages.iter().map(|message| message.offset).collect() }
            }
            ServerFrame::Left { .. } => Seen::Left,
            ref other => panic!("no client expects {other:?}"),
        };
        self.seen.push((to, seen));
    }

    fn welcome(&mut self, to: Conn, _: &RoomName, _: Offset, _: &Epoch) {
        self.seen.push((to, Seen::Welcome));
    }

    fn close(&mut self, _: Conn, why: Close) {
        panic!("nobody here has so many connections, and yet: {why:?}");
    }

    fn identity(&self, of: Conn) -> (&str, &str) {
        self.people.get(&of).map_or(("", ""), |(user, client)| (user, client))
    }

    fn info(&self, _: Conn) -> &str {
        ""
    }

    fn outbox_bytes(&self, _: Conn) -> usize {
        0
    }

    fn outbox_taken(&self, _: Conn) -> u32 {
        0
    }
}

impl SimDoors {
    /// Payloads name the client that said them.
    fn client_of(&self, message: &Outgoing<'_>) -> String {
        let payload = std::str::from_utf8(message.payload).unwrap();
        payload.trim_matches('"').split(':').next().unwrap().to_owned()
    }
}
