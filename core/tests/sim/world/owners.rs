//! The replicas' part of the world: leases, markers, and what owners are told and do.

use bytes::Bytes;
use carillon_core::{
    Now,
    lease::{REFRESH_MS, SERVE_MS, Wish, incarnation, next_generation},
    partition::{Config, Effect, Keep, Partition, Retention, Start},
};
use carillon_proto::{ids::PartitionId, lease::Lease, link::UpBatch, log::Record};
use prost::Message as _;

use super::{Happening, SECOND_MS, STALL_MS, World, gateway_id};
use crate::{
    log::MARKER_HEIGHT,
    replica::{Event, Held},
    sabotage::Sabotage,
};

impl World {
    /// The time, as a replica knows it.
    pub(super) fn replicas_now(&self, replica: usize) -> Now {
        let Now { mono_ms, unix_ms } = self.now();
        Now { mono_ms, unix_ms: unix_ms.saturating_add_signed(self.replicas[replica].skew_ms) }
    }

    /// Every replica says that it lives; notes may get lost, and are not heard by one that is stopped.
    pub(super) fn exchange_notes(&mut self, from: usize) {
        let (me, is_leaving) = (self.replicas[from].view.me(), self.replicas[from].view.is_leaving());
        for to in (0..self.replicas.len()).filter(|to| *to != from) {
            if self.replicas[to].is_running(self.now_ms) && !self.chance.percent(self.faults.lose) {
                self.replicas[to].view.on_note(me, is_leaving, self.now_ms);
            }
        }
    }

    pub(super) fn tick_replica(&mut self, index: usize) {
        for partition in self.partitions.clone() {
            if self.replicas[index].held.contains_key(&partition) {
                self.tick_held(index, partition);
                continue;
            }
            let stored = &self.leases[&partition];
            let (lease, revision) = if self.chance.percent(self.faults.log) {
                stored.before.clone()
            } else {
                (stored.lease.clone(), stored.revision)
            };
            let view = &mut self.replicas[index].view;
            view.on_lease(partition, lease.as_ref(), revision, self.now_ms);
            if matches!(view.wish(partition, self.now_ms), Wish::Take | Wish::Keep) {
                self.take(index, partition, lease, revision);
            }
        }
    }

    fn tick_held(&mut self, index: usize, partition: PartitionId) {
        let (now_ms, now) = (self.now_ms, self.replicas_now(index));
        let is_watched = self.are_watched();
        let replica = &mut self.replicas[index];
        let held = replica.held.get_mut(&partition).expect("asked for");
        if matches!(replica.view.wish(partition, now_ms), Wish::GiveAway(_)) && held.leaves_ms.is_none() {
            held.leaves_ms = Some(now_ms + SECOND_MS);
        }
        let has_left =
            held.leaves_ms.is_some_and(|at_ms| now_ms >= at_ms || held.rules.as_ref().is_none_or(|rules| rules.in_flight() == 0));
        if has_left || now_ms >= held.refresh_ms {
            let mut lease = held.lease.clone();
            if has_left {
                lease.holder = Bytes::new();
            }
            let written = self.leases.get_mut(&partition).unwrap().write(lease.clone(), held.revision);
            if let Some(revision) = written {
                (held.revision, held.until_ms, held.refresh_ms) = (revision, now_ms + SERVE_MS, now_ms + REFRESH_MS);
                replica.view.on_lease(partition, Some(&lease), revision, now_ms);
            }
            if has_left || (written.is_none() && is_watched) {
                replica.held.remove(&partition);
                return;
            }
        }
        if let Some(rules) = &mut held.rules {
            if is_watched {
                rules.on_lease(held.until_ms);
            }
            rules.on_tick(now);
            if now_ms >= held.announce_ms {
                held.announce_ms = now_ms + SECOND_MS;
                let generation = held.lease.generation;
                self.announce(partition, generation);
            }
        }
    }

    fn announce(&mut self, partition: PartitionId, generation: u64) {
        for gateway in 0..self.gateways.len() {
            let (life, cut) = (self.gateways[gateway].life, self.gateways[gateway].cut_until_ms > self.now_ms);
            self.on_bus((3, gateway, life, partition.0), cut, || Happening::Owner { gateway, life, partition, generation });
        }
    }

    fn take(&mut self, index: usize, partition: PartitionId, lease: Option<Lease>, revision: u64) {
        let now = self.replicas_now(index);
        let holder = Bytes::copy_from_slice(&self.replicas[index].view.me().0);
        let generation = self.next_generation(lease.as_ref(), now);
        let lease = Lease { holder, generation, ..lease.unwrap_or_default() };
        let Some(revision) = self.leases.get_mut(&partition).unwrap().write(lease.clone(), revision) else { return };
        self.replicas[index].view.on_lease(partition, Some(&lease), revision, now.mono_ms);
        self.open(index, partition, lease, revision, Vec::new());
    }

    fn next_generation(&self, before: Option<&Lease>, now: Now) -> u64 {
        if self.is_without(Sabotage::Generation) { 1 } else { next_generation(before, now.unix_ms) }
    }

    /// Whether owners look how old their leases are. Where they do, no two speak at a time, and nobody has to tell one from the
    /// other: so generations are missed only where that has failed too.
    fn are_watched(&self) -> bool {
        !self.is_without(Sabotage::Silence) && !self.is_without(Sabotage::Generation)
    }

    /// The marker is on its way.
    pub(super) fn open(&mut self, index: usize, partition: PartitionId, lease: Lease, revision: u64, inbox: Vec<UpBatch>) {
        self.lives += 1;
        let tag = self.lives;
        let mut held = Held::new(tag, lease, revision, self.now_ms);
        held.inbox = inbox;
        if self.is_without(Sabotage::Marker) {
            let log = &self.logs[&partition];
            held.read_early = Some(log.records_to(log.len()).cloned().collect());
        }
        self.replicas[index].held.insert(partition, held);
        let wait_ms = 1 + self.chance.below(20);
        self.schedule(wait_ms, Happening::Mark { replica: index, partition, tag });
    }

    /// The partition under another generation, after an append whose outcome nobody knows. The lease must still be here.
    fn take_anew(&mut self, index: usize, partition: PartitionId) {
        let now = self.replicas_now(index);
        let held = self.replicas[index].held.remove(&partition).expect("asked for");
        let generation = self.next_generation(Some(&held.lease), now);
        let lease = Lease { generation, ..held.lease };
        let Some(revision) = self.leases.get_mut(&partition).unwrap().write(lease.clone(), held.revision) else { return };
        self.replicas[index].view.on_lease(partition, Some(&lease), revision, now.mono_ms);
        self.open(index, partition, lease, revision, held.inbox);
    }

    pub(super) fn on_event(&mut self, index: usize, mut event: Event) {
        let now = self.replicas_now(index);
        let (is_watched, hides_keys) = (self.are_watched(), self.is_without(Sabotage::KeysInFlight));
        let height = if self.is_without(Sabotage::Height) { 1 } else { MARKER_HEIGHT as u64 };
        let replica = &mut self.replicas[index];
        if replica.down_until_ms > self.now_ms {
            return;
        }
        if replica.paused_until_ms > self.now_ms {
            return replica.waiting.push(event);
        }
        let (Event::Up { partition, .. }
        | Event::Marked { partition, .. }
        | Event::Acked { partition, .. }
        | Event::Head { partition, .. }
        | Event::Part { partition, .. }) = event;
        let Some(held) = replica.held.get_mut(&partition) else { return };
        let tag = held.tag;
        if let Some(rules) = &mut held.rules
            && is_watched
        {
            rules.on_lease(held.until_ms);
        }
        if let Event::Up { batch, .. } = &mut event
            && hides_keys
        {
            held.hide_keys(batch);
        }
        let log = &self.logs[&partition];
        match (event, &mut held.rules) {
            (Event::Up { .. }, _) if held.leaves_ms.is_some() => {}
            (Event::Up { batch, .. }, Some(rules)) => rules.on_batch(batch, now),
            (Event::Up { batch, .. }, None) => held.inbox.push(batch),
            (Event::Marked { tag: of, sequence, .. }, None) if of == tag => {
                // Shorter than what it had acked, the marker not counted.
                if sequence - height < held.lease.acked {
                    held.lease.losses += 1;
                }
                held.lease.acked = sequence;
                let written = self.leases.get_mut(&partition).unwrap().write(held.lease.clone(), held.revision);
                let Some(revision) = written else {
                    replica.held.remove(&partition);
                    return;
                };
                held.revision = revision;
                replica.view.on_lease(partition, Some(&held.lease), revision, self.now_ms);
                let recent = held.read_early.take().unwrap_or_else(|| log.records_to(sequence).cloned().collect());
                let start = Start {
                    partition,
                    generation: held.lease.generation,
                    incarnation: incarnation("sim", held.lease.losses),
                    last_sequence: sequence,
                    seed: u128::from(self.chance.next()),
                };
                // A small ring, so that resumes reach the log too.
                let mut config = Config { ring_messages: 8, ..Config::default() };
                if self.faults.keep > 0 {
                    let keep = Keep { messages: self.faults.keep, ..Keep::DEFAULT };
                    config.retention = vec![Retention { rooms: "*".into(), keep }];
                }
                let rules = held.rules.insert(Partition::new(config, start, recent));
                rules.on_tick(now);
                for batch in std::mem::take(&mut held.inbox) {
                    rules.on_batch(batch, now);
                }
                held.announce_ms = now.mono_ms + SECOND_MS;
                let generation = held.lease.generation;
                self.announce(partition, generation);
            }
            (Event::Acked { tag: of, is_stored, .. }, Some(rules)) if of == tag => {
                if is_stored {
                    held.keys.pop_front();
                    held.lease.acked += 1;
                    rules.on_appended(now);
                } else {
                    self.take_anew(index, partition);
                }
            }
            (Event::Head { tag: of, room, .. }, Some(rules)) if of == tag => {
                let newest = log.newest(room.as_str());
                rules.on_head(room, newest, now);
            }
            (Event::Part { tag: of, ticket, room, after, before, limit, .. }, Some(rules)) if of == tag => {
                let (found, first) = log.part(room.as_str(), after, before, limit);
                rules.on_part(ticket, found, first, now);
            }
            _ => {}
        }
        self.settle_replica(index);
    }

    pub(super) fn settle_replica(&mut self, index: usize) {
        let now = self.replicas_now(index);
        let is_watched = self.are_watched();
        let held: Vec<PartitionId> = self.replicas[index].held.keys().copied().collect();
        for partition in held {
            while let Some(held) = self.replicas[index].held.get_mut(&partition) {
                let Some(rules) = &mut held.rules else { break };
                if is_watched {
                    rules.on_lease(held.until_ms);
                }
                let Some(effect) = rules.poll_effect(now) else { break };
                let (tag, generation) = (held.tag, held.lease.generation);
                if let Effect::Append { record, .. } = &effect {
                    held.keys.push_back(Record::decode(record.clone()).unwrap().key);
                }
                self.carry_out(index, partition, tag, generation, effect);
            }
        }
    }

    fn carry_out(&mut self, replica: usize, partition: PartitionId, tag: u64, generation: u64, effect: Effect) {
        let wait_ms = 1 + self.chance.below(8);
        match effect {
            Effect::Append { sequence, record, .. } => {
                let is_stalled = self.chance.permille(self.faults.stall);
                let wait_ms = if is_stalled { self.chance.below(STALL_MS) } else { wait_ms };
                let write = Happening::Write { replica, partition, tag, sequence, record };
                self.in_order((2, replica, tag, 0), wait_ms, write);
            }
            Effect::Trim { room, below, .. } => self.logs.get_mut(&partition).unwrap().trim(room.as_str(), below),
            Effect::Empty { .. } => unreachable!("nothing is old enough in this world"),
            Effect::Present { .. } | Effect::Settled { .. } => {}
            Effect::TailLost => {
                assert!(self.faults.lose_tail > 0, "this log loses nothing, yet a gateway has seen more than there is");
                if let Some(held) = self.replicas[replica].held.get_mut(&partition) {
                    held.lease.losses += 1;
                    self.take_anew(replica, partition);
                }
            }
            Effect::Head { room } => {
                self.schedule(wait_ms, Happening::Replica { replica, event: Event::Head { partition, tag, room } });
            }
            Effect::Read { ticket, room, after, before, limit, .. } => {
                let event = Event::Part { partition, tag, ticket, room, after, before, limit };
                self.schedule(wait_ms, Happening::Replica { replica, event });
            }
            Effect::Send { gateway, batch } => {
                let lease = self.leases[&partition].lease.as_ref().expect("somebody has taken it");
                // Where all have the same one, this says nothing.
                assert_eq!(lease.generation, generation, "partition {partition}: an owner that was replaced speaks");
                let Some(index) = self.gateways.iter().position(|it| gateway_id(it.life) == gateway) else { return };
                let (life, cut) = (self.gateways[index].life, self.gateways[index].cut_until_ms > self.now_ms);
                let down = || Happening::Down { gateway: index, life, partition, batch: batch.clone() };
                self.on_bus((1, index, life, partition.0), cut, down);
            }
        }
    }
}
