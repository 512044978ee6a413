//! What an admin asks a gateway, and what it asks all others for that: connections of gateways and rooms of owners, page by page, and how all
//! gateways are, of which each tells the others now and then. Nothing here is on a message's way.

mod pages;
mod statuses;
mod survey;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use carillon_core::survey::{Page, join};
use carillon_platform::bus::Bus;
use carillon_proto::{
    ids::PARTITIONS,
    status::Status,
    survey::{ConnectionsAsked, OwnerFound, OwnersAsked, RoomsAsked, RoomsFound, answer, question},
};
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};

use crate::Counters;
pub(crate) use pages::{Connections, Found, is_shown_already};
use statuses::Statuses;
use survey::{Questions, Survey};

/// Questions that wait for one shard; whoever asks more waits with them.
const QUESTIONS: usize = 16;
/// Lines that a gateway gives others at most, whatever they ask for.
const MAX_LIMIT: u32 = 1000;

/// A question to one shard: which connections it has.
pub(crate) struct Ask {
    /// How this gateway is called.
    pub(crate) gateway: String,
    pub(crate) asked: Arc<ConnectionsAsked>,
    pub(crate) answer: oneshot::Sender<Found>,
}

/// One for all shards of a gateway.
pub(crate) struct Desk {
    shards: Mutex<Vec<mpsc::Sender<Ask>>>,
    statuses: Statuses,
    survey: Survey,
    bus: Arc<dyn Bus>,
}

impl Desk {
    pub(crate) fn new(counters: Arc<Counters>, shards: usize, bus: Arc<dyn Bus>) -> Arc<Self> {
        let statuses = Statuses::new(counters, shards);
        Arc::new(Self { shards: Mutex::default(), statuses, survey: Survey::default(), bus })
    }

    /// Where one more shard hears what it is asked.
    pub(crate) fn open(&self) -> (usize, mpsc::Receiver<Ask>) {
        let (asks, asked) = mpsc::channel(QUESTIONS);
        let mut shards = self.shards.lock();
        shards.push(asks);
        (shards.len() - 1, asked)
    }

    /// Tells and hears how gateways are, and what they ask, for ever.
    pub(crate) async fn keep(self: Arc<Self>) {
        tokio::join!(self.statuses.keep(&*self.bus), self.survey.hear(&*self.bus, self.id()), self.answer());
    }

    /// Answers other gateways, one after the other.
    async fn answer(&self) {
        let mut questions = Questions::new(&*self.bus, self.id());
        loop {
            let (question, of) = questions.next().await;
            // The others are for owners.
            if let question::Of::Connections(asked) = of {
                let asked = ConnectionsAsked { limit: asked.limit.min(MAX_LIMIT), ..asked };
                let found = self.own_connections(&Arc::new(asked)).await;
                questions.answer(&question, answer::Of::Connections(found.told(self.id())));
            }
        }
    }

    /// What this gateway is called.
    pub(crate) fn id(&self) -> &str {
        self.statuses.id()
    }

    /// This gateway, and then all others that have been heard lately.
    pub(crate) fn gateways(&self) -> Vec<Status> {
        self.statuses.all()
    }

    /// A page of the connections of all gateways, by gateway, in no order that means anything.
    pub(crate) async fn connections(&self, asked: ConnectionsAsked) -> Connections {
        let mut missing: BTreeSet<String> = self.gateways().into_iter().skip(1).map(|other| other.id).collect();
        let asked = Arc::new(asked);
        let mut found = vec![self.own_connections(&asked).await];
        if !missing.is_empty() {
            let question = question::Of::Connections((*asked).clone());
            let take = |answer| {
                if let answer::Of::Connections(told) = answer
                    && missing.remove(&told.gateway)
                {
                    found.push(Found::of(told));
                }
                missing.is_empty()
            };
            self.survey.ask(&*self.bus, self.id(), question, take).await;
        }
        Connections { found: pages::join(found, asked.limit as usize), missing: missing.into_iter().collect() }
    }

    async fn own_connections(&self, asked: &Arc<ConnectionsAsked>) -> Found {
        let shards = self.shards.lock().clone();
        let found = shards.into_iter().map(|shard| {
            let (answer, answered) = oneshot::channel();
            let ask = Ask { gateway: self.id().to_owned(), asked: asked.clone(), answer };
            // One that ends meanwhile says nothing.
            async move {
                shard.send(ask).await.ok()?;
                answered.await.ok()
            }
        });
        let found = futures_util::future::join_all(found).await.into_iter().flatten().collect();
        pages::join(found, asked.limit as usize)
    }

    /// A page of all rooms with members, wherever those are, and the partitions whose owners did not answer in time.
    pub(crate) async fn rooms(&self, asked: RoomsAsked) -> (Page, Vec<u32>) {
        let mut found = BTreeMap::<u32, RoomsFound>::new();
        let take = |answer| {
            if let answer::Of::Rooms(told) = answer {
                newest(&mut found, told.partition, told, |told| told.generation);
            }
            found.len() == usize::from(PARTITIONS)
        };
        self.survey.ask(&*self.bus, self.id(), question::Of::Rooms(asked.clone()), take).await;
        let missing = (0..PARTITIONS.into()).filter(|partition| !found.contains_key(partition)).collect();
        (join(found.into_values().collect(), &asked), missing)
    }

    /// The owners of partitions that answer.
    pub(crate) async fn owners(&self) -> Vec<OwnerFound> {
        let mut found = BTreeMap::<u32, OwnerFound>::new();
        let take = |answer| {
            if let answer::Of::Owner(told) = answer {
                newest(&mut found, told.partition, told, |told| told.generation);
            }
            found.len() == usize::from(PARTITIONS)
        };
        self.survey.ask(&*self.bus, self.id(), question::Of::Owners(OwnersAsked {}), take).await;
        found.into_values().collect()
    }
}

/// Of two owners of a partition, the later one is right.
fn newest<T>(found: &mut BTreeMap<u32, T>, partition: u32, told: T, generation: impl Fn(&T) -> u64) {
    let is_older = found.get(&partition).is_some_and(|known| generation(known) > generation(&told));
    if partition < PARTITIONS.into() && !is_older {
        found.insert(partition, told);
    }
}
