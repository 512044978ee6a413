//! What was said before: a gateway repeats a publish until it is answered, and a client may repeat one by its
//! idempotency key. Either is stored once.

use std::collections::{BTreeMap, HashMap, VecDeque};

use carillon_proto::{
    ids::{GatewayId, MessageId, Offset},
    link::{Message, Publish},
    log::Record,
};

#[derive(Debug)]
pub(super) struct Repeats {
    window_ms: u64,
    /// Ages are told by the clock that does not jump, from the first look at it on: what the log held already counts as noted
    /// then, however old its time stamps, from whatever clock, say it is.
    began_ms: Option<u64>,
    /// By room, user and key.
    keys: HashMap<Box<str>, Outcome>,
    /// When each key was noted, oldest first.
    noted: VecDeque<(u64, Box<str>)>,
    gateways: HashMap<GatewayId, Publishes>,
}

/// The publishes of one gateway that it may still repeat.
#[derive(Debug, Default)]
struct Publishes {
    used_ms: u64,
    /// All below it have had their answers.
    settled: u64,
    outcomes: BTreeMap<u64, Outcome>,
}

/// What became of a publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// On its way to the log.
    InFlight { sequence: u64 },
    /// In the log.
    Stored { offset: Offset, id: MessageId, ts: u64 },
}

/// A publish that is a repeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) outcome: Outcome,
    /// The client repeated its key (`duplicate`), not the gateway its request.
    pub(super) by_key: bool,
}

impl Repeats {
    pub(super) fn new(window_ms: u64) -> Self {
        Self { window_ms, began_ms: None, keys: HashMap::new(), noted: VecDeque::new(), gateways: HashMap::new() }
    }

    /// A record that the log held already when the owner took the partition; they come oldest first.
    pub(super) fn on_record(&mut self, record: &Record) {
        let Some(id) = MessageId::from_wire(&record.id) else { return };
        let outcome = Outcome::Stored { offset: record.offset, id, ts: record.ts };
        if !record.key.is_empty() {
            self.note(key(&record.room, &record.sender, &record.key), outcome, 0);
        }
        if let Some(gateway) = GatewayId::from_wire(&record.gateway) {
            let publishes = self.gateways.entry(gateway).or_default();
            publishes.used_ms = 0;
            publishes.outcomes.insert(record.publish, outcome);
        }
    }

    pub(super) fn find(&self, gateway: GatewayId, publish: &Publish) -> Option<Known> {
        let by_gateway = self.gateways.get(&gateway).and_then(|publishes| publishes.outcomes.get(&publish.publish));
        if let Some(outcome) = by_gateway {
            return Some(Known { outcome: *outcome, by_key: false });
        }
        if publish.key.is_empty() {
            return None;
        }
        let outcome = self.keys.get(&*key(&publish.room, &publish.user, &publish.key))?;
        Some(Known { outcome: *outcome, by_key: true })
    }

    /// A publish got its place.
    pub(super) fn on_assigned(&mut self, gateway: GatewayId, publish: &Publish, sequence: u64, mono_ms: u64) {
        let age_ms = self.since_began(mono_ms);
        let outcome = Outcome::InFlight { sequence };
        let publishes = self.gateways.entry(gateway).or_default();
        publishes.used_ms = age_ms;
        publishes.outcomes.insert(publish.publish, outcome);
        if !publish.key.is_empty() {
            self.note(key(&publish.room, &publish.user, &publish.key), outcome, age_ms);
        }
    }

    /// The log has it.
    pub(super) fn on_stored(&mut self, gateway: GatewayId, publish: u64, message: &Message, id: MessageId, mono_ms: u64) {
        let age_ms = self.since_began(mono_ms);
        let outcome = Outcome::Stored { offset: message.offset, id, ts: message.ts };
        if let Some(publishes) = self.gateways.get_mut(&gateway) {
            publishes.used_ms = age_ms;
            if let Some(known) = publishes.outcomes.get_mut(&publish) {
                *known = outcome;
            }
        }
        if !message.key.is_empty()
            && let Some(known) = self.keys.get_mut(&*key(&message.room, &message.sender, &message.key))
        {
            *known = outcome;
        }
    }

    /// The gateway has the answers to all its publishes below `settled` and will not repeat them.
    pub(super) fn on_settled(&mut self, gateway: GatewayId, settled: u64, mono_ms: u64) {
        let age_ms = self.since_began(mono_ms);
        let publishes = self.gateways.entry(gateway).or_default();
        publishes.settled = publishes.settled.max(settled);
        publishes.used_ms = age_ms;
        if publishes.outcomes.first_key_value().is_some_and(|(first, _)| *first < settled) {
            publishes.outcomes = publishes.outcomes.split_off(&settled);
        }
    }

    /// Whether a publish has had its answer: one that comes all the same was overtaken on its way, and must not be stored
    /// again now that its outcome is forgotten.
    pub(super) fn is_settled(&self, gateway: GatewayId, publish: u64) -> bool {
        self.gateways.get(&gateway).is_some_and(|publishes| publish < publishes.settled)
    }

    pub(super) fn on_tick(&mut self, mono_ms: u64) {
        let now_ms = self.since_began(mono_ms);
        let window_ms = self.window_ms;
        while self.noted.front().is_some_and(|(noted, _)| now_ms.saturating_sub(*noted) > window_ms) {
            let (_, key) = self.noted.pop_front().expect("there is a front");
            if !matches!(self.keys.get(&key), Some(Outcome::InFlight { .. })) {
                self.keys.remove(&key);
            }
        }
        self.gateways.retain(|_, publishes| now_ms.saturating_sub(publishes.used_ms) <= window_ms);
    }

    fn since_began(&mut self, mono_ms: u64) -> u64 {
        mono_ms.saturating_sub(*self.began_ms.get_or_insert(mono_ms))
    }

    fn note(&mut self, key: Box<str>, outcome: Outcome, at_ms: u64) {
        self.noted.push_back((at_ms, key.clone()));
        self.keys.insert(key, outcome);
    }
}

/// Neither room nor user has a control character, so that no two triples meet.
fn key(room: &str, user: &str, key: &str) -> Box<str> {
    format!("{room}\0{user}\0{key}").into()
}
