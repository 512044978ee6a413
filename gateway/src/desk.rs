//! What an admin asks a gateway: its connections and rooms, which its shards show page by page, and how all gateways are, of which each
//! tells the others now and then. Nothing here is on a message's way.

mod pages;
mod statuses;

use std::sync::Arc;

use carillon_proto::{ids::PartitionId, status::Status};
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};

use crate::Counters;
pub(crate) use pages::{Best, ConnectionLine, ConnectionPlace, ConnectionsAsked, Found, RoomLine, RoomPlace, RoomsAsked, Sort};
use statuses::Statuses;

/// Questions that wait for one shard; whoever asks more waits with them.
const QUESTIONS: usize = 16;

/// A question to one shard.
pub(crate) enum Ask {
    /// Which connections it has.
    Connections(Arc<ConnectionsAsked>, oneshot::Sender<Found<ConnectionLine>>),
    /// Which rooms have members there.
    Rooms(Arc<RoomsAsked>, oneshot::Sender<Found<RoomLine>>),
    /// Which owners it hears, and their generations.
    Owners(oneshot::Sender<Vec<(PartitionId, u64)>>),
}

/// One for all shards of a gateway.
pub(crate) struct Desk {
    shards: Mutex<Vec<mpsc::Sender<Ask>>>,
    statuses: Statuses,
}

impl Desk {
    pub(crate) fn new(counters: Arc<Counters>, shards: usize) -> Arc<Self> {
        Arc::new(Self { shards: Mutex::default(), statuses: Statuses::new(counters, shards) })
    }

    /// Where one more shard hears what it is asked.
    pub(crate) fn open(&self) -> (usize, mpsc::Receiver<Ask>) {
        let (asks, asked) = mpsc::channel(QUESTIONS);
        let mut shards = self.shards.lock();
        shards.push(asks);
        (shards.len() - 1, asked)
    }

    /// Tells and hears how gateways are, for ever.
    pub(crate) async fn keep(self: Arc<Self>, bus: Arc<dyn carillon_platform::bus::Bus>) {
        self.statuses.keep(&*bus).await;
    }

    /// What this gateway is called.
    pub(crate) fn id(&self) -> &str {
        self.statuses.id()
    }

    /// This gateway, and then all others that have been heard lately.
    pub(crate) fn gateways(&self) -> Vec<Status> {
        self.statuses.all()
    }

    /// A page of this gateway's connections, in no order that means anything.
    pub(crate) async fn connections(&self, asked: ConnectionsAsked) -> Found<ConnectionLine> {
        let asked = Arc::new(asked);
        let found = self.ask(|answer| Ask::Connections(asked.clone(), answer)).await;
        pages::join_connections(found, asked.limit)
    }

    /// A page of the rooms with members at this gateway.
    pub(crate) async fn rooms(&self, asked: RoomsAsked) -> Found<RoomLine> {
        let whole = self.shards.lock().len() > 1;
        let asked = Arc::new(RoomsAsked { whole, ..asked });
        let found = self.ask(|answer| Ask::Rooms(asked.clone(), answer)).await;
        // Of a hundred thousand rooms this takes tens of milliseconds: not on the thread of a shard.
        let joined = tokio::task::spawn_blocking(move || pages::join_rooms(found, &asked)).await;
        joined.expect("it does not panic, and is not cancelled")
    }

    /// The owners that any shard hears.
    pub(crate) async fn owners(&self) -> Vec<(PartitionId, u64)> {
        let heard = self.ask(Ask::Owners).await;
        let newest = |partition: PartitionId| {
            let generations = heard.iter().flatten().filter(|(of, _)| *of == partition);
            (partition, generations.map(|(_, generation)| *generation).max().unwrap_or(0))
        };
        PartitionId::all().map(newest).filter(|(_, generation)| *generation > 0).collect()
    }

    /// Asks all shards; one that ends meanwhile says nothing.
    async fn ask<T>(&self, question: impl Fn(oneshot::Sender<T>) -> Ask) -> Vec<T> {
        let shards = self.shards.lock().clone();
        let asked = shards.into_iter().map(|shard| {
            let (answer, answered) = oneshot::channel();
            let ask = question(answer);
            async move {
                shard.send(ask).await.ok()?;
                answered.await.ok()
            }
        });
        futures_util::future::join_all(asked).await.into_iter().flatten().collect()
    }
}
