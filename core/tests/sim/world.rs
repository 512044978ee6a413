//! The world: one clock, one queue of what happens next, and the parts between which it happens.

mod check;
mod clients;
mod doors;
mod faults;
mod owners;

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, HashSet},
};

use bytes::Bytes;
use carillon_core::{
    Now,
    lease::ReplicaId,
    rooms::{RoomLimits, Rooms},
};
use carillon_proto::{
    ids::{GatewayId, PartitionId, RoomName},
    link::{DownBatch, UpBatch},
    log::Record,
};
use prost::Message as _;

use self::doors::SimDoors;
pub(crate) use self::faults::Faults;
use crate::{
    chance::Chance,
    client::{Client, Line},
    log::Log,
    replica::{Event, Replica, Stored},
    sabotage::Sabotage,
};

enum Happening {
    Up(PartitionId, UpBatch),
    Down { gateway: usize, life: u64, partition: PartitionId, batch: DownBatch },
    Owner { gateway: usize, life: u64, partition: PartitionId, generation: u64 },
    Write { replica: usize, partition: PartitionId, tag: u64, sequence: u64, record: Bytes },
    Mark { replica: usize, partition: PartitionId, tag: u64 },
    Replica { replica: usize, event: Event },
    Resume(usize),
    Replace { replica: usize, me: ReplicaId },
    Step,
    Tick,
}

struct Gateway {
    life: u64,
    rooms: Rooms,
    doors: SimDoors,
    cut_until_ms: u64,
    /// Link and number of the last batch from each owner, for [`Sabotage::Repair`].
    heard: HashMap<PartitionId, (u64, u64)>,
}

impl Gateway {
    /// As if nothing had been lost before this batch.
    fn renumber(&mut self, partition: PartitionId, batch: &mut DownBatch) {
        let (link, number) = self.heard.entry(partition).or_default();
        if *link != batch.link {
            (*link, *number) = (batch.link, 0);
        }
        if batch.number > 0 {
            *number += u64::from(!batch.items.is_empty());
            batch.number = *number;
        }
    }
}

pub(crate) struct World {
    now_ms: u64,
    chance: Chance,
    faults: Faults,
    sabotage: Option<Sabotage>,
    queue: BinaryHeap<Reverse<(u64, u64)>>,
    happenings: HashMap<u64, Happening>,
    count: u64,
    /// When the last batch between two ends arrives: the next one is not earlier, unless chance delays one.
    order: HashMap<(u8, usize, u64, u8), u64>,
    gateways: Vec<Gateway>,
    replicas: Vec<Replica>,
    leases: HashMap<PartitionId, Stored>,
    logs: HashMap<PartitionId, Log>,
    /// Payloads that a log has forgotten.
    lost: HashSet<Bytes>,
    clients: Vec<Client>,
    rooms: Vec<RoomName>,
    /// Those that have rooms; the others are left alone, to save time.
    partitions: Vec<PartitionId>,
    lives: u64,
}

const BEGIN_MS: u64 = 1_000;
/// Faults and new messages go on for so long; then everything must come to rest.
const BUSY_MS: u64 = 10_000;
const CALM_MS: u64 = 40_000;
/// When each room is written to once more, in worlds whose logs lose something.
const LAST_WRITE_MS: u64 = BEGIN_MS + BUSY_MS + 10_000;
const HANDSHAKE_MS: u64 = 5_000;
const STEP_MS: u64 = 20;
const TICK_MS: u64 = 250;
const GATEWAYS: usize = 3;
const REPLICAS: usize = 3;
/// How often an owner says that it is one, and how long it waits for its last acks when it gives its partition away.
const SECOND_MS: u64 = 1_000;
/// So long may an append be on its way: beyond the age of a lease.
const STALL_MS: u64 = 8_000;
/// Clocks of the day are wrong by so much at most, either way.
const SKEW_MS: u64 = 600_000;
const CLIENTS: usize = 6;

impl World {
    pub(crate) fn new(seed: u64, faults: Faults, sabotage: Option<Sabotage>) -> Self {
        let mut chance = Chance::new(seed);
        let rooms = ["a", "b", "c"].map(|name| RoomName::parse(name).unwrap()).to_vec();
        let clients = (0..CLIENTS).map(|number| {
            // Some users have two app instances, and some instances want their own messages.
            let (user, name) = (format!("user{}", number / 2), format!("client{number}"));
            let client = Client::new(user, name, chance.percent(30), chance.percent(60));
            let may_lose = faults.lose_tail > 0;
            Client { may_miss: faults.keep > 0 || may_lose, may_lose, ..client }
        });
        let clients: Vec<Client> = clients.collect();
        let personal = clients.iter().map(|client| RoomName::parse(&format!("user:{}", client.user)).unwrap().partition());
        let mut partitions: Vec<PartitionId> = rooms.iter().map(RoomName::partition).chain(personal).collect();
        partitions.sort_unstable();
        partitions.dedup();
        let mut world = Self {
            now_ms: BEGIN_MS,
            chance,
            faults,
            sabotage,
            queue: BinaryHeap::new(),
            happenings: HashMap::new(),
            count: 0,
            order: HashMap::new(),
            gateways: Vec::new(),
            replicas: Vec::new(),
            leases: HashMap::new(),
            logs: HashMap::new(),
            lost: HashSet::new(),
            clients,
            rooms,
            partitions,
            lives: 0,
        };
        for _ in 0..GATEWAYS {
            let gateway = world.new_gateway();
            world.gateways.push(gateway);
        }
        for partition in world.partitions.clone() {
            world.logs.insert(partition, Log::default());
            world.leases.insert(partition, Stored::default());
        }
        for _ in 0..REPLICAS {
            world.lives += 1;
            let life = world.lives;
            world.replicas.push(Replica::new(life));
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

    fn is_without(&self, safeguard: Sabotage) -> bool {
        self.sabotage == Some(safeguard)
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
                for replica in 0..self.replicas.len() {
                    self.on_event(replica, Event::Up { partition, batch: batch.clone() });
                }
            }
            Happening::Down { gateway, life, partition, mut batch } => {
                let hides_holes = self.is_without(Sabotage::Repair);
                let gateway = &mut self.gateways[gateway];
                if gateway.life == life {
                    if hides_holes {
                        gateway.renumber(partition, &mut batch);
                    }
                    gateway.rooms.on_batch(partition, batch, now, &mut gateway.doors);
                }
            }
            Happening::Owner { gateway, life, partition, generation } => {
                let gateway = &mut self.gateways[gateway];
                if gateway.life == life {
                    gateway.rooms.on_owner(partition, generation, now, &mut gateway.doors);
                }
            }
            // What was sent arrives, whatever has become of the sender.
            Happening::Write { replica, partition, tag, sequence, record } => {
                let log = self.logs.get_mut(&partition).unwrap();
                let record = Record::decode(record).unwrap();
                let is_stored = log.append(tag, sequence, record);
                let is_heard = !self.chance.percent(self.faults.log);
                let event = Event::Acked { partition, tag, is_stored: is_stored && is_heard };
                let ack_ms = self.chance.below(5);
                self.in_order((2, replica, tag, 1), ack_ms, Happening::Replica { replica, event });
            }
            Happening::Mark { replica, partition, tag } => {
                let is_tall = !self.is_without(Sabotage::Height);
                let sequence = self.logs.get_mut(&partition).unwrap().mark(tag, is_tall);
                let wait_ms = 1 + self.chance.below(20);
                self.schedule(wait_ms, Happening::Replica { replica, event: Event::Marked { partition, tag, sequence } });
            }
            Happening::Replica { replica, event } => self.on_event(replica, event),
            Happening::Resume(replica) => {
                for event in std::mem::take(&mut self.replicas[replica].waiting) {
                    self.on_event(replica, event);
                }
            }
            Happening::Replace { replica, me } => {
                if self.replicas[replica].view.me() == me {
                    self.replace_replica(replica, self.now_ms);
                }
            }
            Happening::Step => {
                self.step(busy);
                self.schedule(STEP_MS, Happening::Step);
            }
            Happening::Tick => {
                for gateway in &mut self.gateways {
                    gateway.rooms.on_tick(now, &mut gateway.doors);
                }
                for replica in 0..self.replicas.len() {
                    if self.replicas[replica].is_running(self.now_ms) {
                        self.exchange_notes(replica);
                        self.tick_replica(replica);
                    }
                }
                self.schedule(TICK_MS, Happening::Tick);
            }
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
        for index in 0..self.replicas.len() {
            if self.replicas[index].is_running(self.now_ms) {
                self.settle_replica(index);
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
        // A log that has lost something is found out when it is written to.
        let writes_on = self.faults.lose_tail > 0 && self.now_ms == LAST_WRITE_MS;
        for index in 0..self.clients.len() {
            self.step_client(index, busy);
            if writes_on && let Line::Up { gateway, conn, welcomed: true, .. } = self.clients[index].line {
                self.write_everywhere(index, gateway, conn);
            }
        }
    }

    fn new_gateway(&mut self) -> Gateway {
        self.lives += 1;
        let limits = RoomLimits { replay_messages: 10, ..RoomLimits::default() };
        let rooms = Rooms::new(gateway_id(self.lives), limits);
        Gateway { life: self.lives, rooms, doors: SimDoors::default(), cut_until_ms: 0, heard: HashMap::new() }
    }
}

fn gateway_id(life: u64) -> GatewayId {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&life.to_be_bytes());
    GatewayId(id)
}
