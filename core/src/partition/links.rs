//! The owner's end of every link: who is connected, what still has to be said to them, in which order.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use carillon_proto::{
    ids::{GatewayId, RoomName},
    link::{self, Down, DownBatch, UpBatch, down},
};
use prost::Message as _;

use super::Asker;
use crate::link::{Arrival, BATCH_BYTES, FORGET_MS, Inward, Outward};

#[derive(Debug)]
pub(super) struct Links {
    generation: u64,
    /// In an order of their own, so that a history depends on nothing but its inputs.
    links: BTreeMap<GatewayId, Link>,
    /// Links with something to say, in the order in which they got it.
    dirty: VecDeque<GatewayId>,
    /// Batches without items: heartbeats, and "this link is not known here".
    bare: VecDeque<(GatewayId, DownBatch)>,
}

#[derive(Debug)]
struct Link {
    link: u64,
    /// False once it broke; forgotten for good when its gateway has been silent for long.
    stands: bool,
    inward: Inward,
    outward: Outward,
    heard_ms: u64,
    items: VecDeque<Down>,
    is_dirty: bool,
    rooms: BTreeSet<RoomName>,
    /// There was an earlier one: what this gateway said on it has not been forgotten yet.
    is_return: bool,
}

/// What a batch means for its link.
#[derive(Debug)]
pub(super) enum Opening {
    /// Of an older link, or known already.
    Ignore,
    /// The next one of a link that stands.
    Take,
    /// The first one of a new link; the routes of the one before are void.
    New { left: Vec<RoomName> },
    /// Something is missing: the gateway is told to open anew, its routes are void.
    Broken { left: Vec<RoomName> },
}

impl Links {
    pub(super) fn new(generation: u64) -> Self {
        Self { generation, links: BTreeMap::new(), dirty: VecDeque::new(), bare: VecDeque::new() }
    }

    pub(super) fn on_batch(&mut self, gateway: GatewayId, batch: &UpBatch, now_ms: u64) -> Opening {
        let has_items = !batch.items.is_empty();
        let is_addressed = batch.generation == 0 || batch.generation == self.generation;
        if let Some(link) = self.links.get_mut(&gateway) {
            if batch.link < link.link {
                return Opening::Ignore;
            }
            if batch.link == link.link && link.stands && is_addressed {
                link.heard_ms = now_ms;
                match link.inward.on_batch(batch.number, has_items) {
                    Arrival::Next => return Opening::Take,
                    Arrival::Old => return Opening::Ignore,
                    Arrival::Hole => {}
                }
            }
        }
        // A link that broke stays known: a late copy of its first batch must not open it again.
        let is_new = self.links.get(&gateway).is_none_or(|link| batch.link > link.link);
        let is_return = self.links.contains_key(&gateway);
        let left = self.forget(gateway);
        if is_new && is_addressed && batch.number == 1 && has_items {
            let mut inward = Inward::default();
            inward.on_batch(1, true);
            let link = Link {
                link: batch.link,
                stands: true,
                inward,
                outward: Outward::default(),
                heard_ms: now_ms,
                items: VecDeque::new(),
                is_dirty: false,
                rooms: BTreeSet::new(),
                is_return,
            };
            self.links.insert(gateway, link);
            return Opening::New { left };
        }
        let unknown =
            DownBatch { version: link::VERSION, generation: self.generation, link: batch.link, number: 0, items: vec![] };
        self.bare.push_back((gateway, unknown));
        Opening::Broken { left }
    }

    /// Whether a link is the gateway's current one.
    pub(super) fn stands(&self, gateway: GatewayId, number: u64) -> bool {
        self.links.get(&gateway).is_some_and(|link| link.stands && link.link == number)
    }

    /// Whether a gateway was here before, and not so long ago that what it said is forgotten.
    pub(super) fn is_return(&self, gateway: GatewayId) -> bool {
        self.links.get(&gateway).is_some_and(|link| link.is_return)
    }

    /// Notes a route; false if the link is not the gateway's current one.
    pub(super) fn attach(&mut self, gateway: GatewayId, number: u64, room: &RoomName) -> bool {
        let Some(link) = self.links.get_mut(&gateway).filter(|link| link.stands && link.link == number) else { return false };
        link.rooms.insert(room.clone());
        true
    }

    pub(super) fn detach(&mut self, gateway: GatewayId, number: u64, room: &RoomName) {
        if let Some(link) = self.links.get_mut(&gateway).filter(|link| link.stands && link.link == number) {
            link.rooms.remove(room);
        }
    }

    /// Answers a request, if the link that it came on still stands.
    pub(super) fn send(&mut self, to: Asker, item: down::Item) {
        if self.stands(to.gateway, to.link) {
            self.send_to(to.gateway, item);
        }
    }

    /// Says something to a gateway.
    pub(super) fn send_to(&mut self, gateway: GatewayId, item: down::Item) {
        let Some(link) = self.links.get_mut(&gateway).filter(|link| link.stands) else { return };
        link.items.push_back(Down { item: Some(item) });
        if !std::mem::replace(&mut link.is_dirty, true) {
            self.dirty.push_back(gateway);
        }
    }

    /// The next batch to send.
    pub(super) fn poll_batch(&mut self, now_ms: u64) -> Option<(GatewayId, DownBatch)> {
        if let Some(bare) = self.bare.pop_front() {
            return Some(bare);
        }
        let gateway = self.dirty.pop_front()?;
        // A link that was forgotten while dirty has nothing to say any more.
        let Some(link) = self.links.get_mut(&gateway).filter(|link| link.is_dirty) else { return self.poll_batch(now_ms) };
        let mut bytes = 0;
        let mut items = Vec::with_capacity(link.items.len());
        while let Some(item) = link.items.front() {
            bytes += item.encoded_len();
            if bytes > BATCH_BYTES && !items.is_empty() {
                break;
            }
            items.extend(link.items.pop_front());
        }
        link.is_dirty = !link.items.is_empty();
        if link.is_dirty {
            self.dirty.push_front(gateway);
        }
        let number = link.outward.next(now_ms);
        Some((gateway, DownBatch { version: link::VERSION, generation: self.generation, link: link.link, number, items }))
    }

    /// Heartbeats; and the gateways that were silent for too long, with their rooms.
    pub(super) fn on_tick(&mut self, now_ms: u64) -> Vec<(GatewayId, Vec<RoomName>)> {
        let silent: Vec<GatewayId> = self
            .links
            .iter()
            .filter(|(_, link)| now_ms.saturating_sub(link.heard_ms) >= FORGET_MS)
            .map(|(gateway, _)| *gateway)
            .collect();
        for (gateway, link) in &mut self.links {
            if link.stands
                && !link.is_dirty
                && let Some(number) = link.outward.heartbeat(now_ms)
            {
                let batch =
                    DownBatch { version: link::VERSION, generation: self.generation, link: link.link, number, items: vec![] };
                self.bare.push_back((*gateway, batch));
            }
        }
        let mut gone = Vec::new();
        for gateway in silent {
            gone.push((gateway, self.forget(gateway)));
            self.links.remove(&gateway);
        }
        gone
    }

    fn forget(&mut self, gateway: GatewayId) -> Vec<RoomName> {
        let Some(link) = self.links.get_mut(&gateway) else { return Vec::new() };
        link.stands = false;
        link.is_dirty = false;
        link.items.clear();
        std::mem::take(&mut link.rooms).into_iter().collect()
    }
}
