//! The bus on NATS, core publish and subscribe: what a subscriber or the connection has no room for is lost and counted,
//! and nothing is kept while NATS is away.

use std::sync::{
    Arc,
    atomic::{AtomicU64, AtomicUsize, Ordering},
};

use async_nats::{Subscriber, subject::Subject};
use bytes::Bytes;
use futures_util::{FutureExt, StreamExt, future::BoxFuture};
use tokio::sync::{
    mpsc::{self, error::TrySendError},
    oneshot,
};

use super::{Bus, BusError, Subscription};
use crate::nats::Nats;

/// Batches that may wait to be sent. Owners and gateways send about one per wake-up and peer; this is some hundred
/// wake-ups' worth.
const MAX_QUEUED: usize = 8_192;

/// Bytes that may wait to be sent: 256 pages of 256 KiB.
const MAX_QUEUED_BYTES: usize = 64 * 1024 * 1024;

/// Batches that may wait for a subscriber, as many as on the bus inside one process.
const MAX_WAITING: usize = 1_024;

/// A bus between processes. One task sends, in the order of the calls; each subscription has one that receives.
pub struct NatsBus {
    commands: mpsc::Sender<Command>,
    counters: Arc<Counters>,
}

enum Command {
    Publish { subject: Subject, batch: Bytes },
    Subscribe { subject: Subject, subscribed: oneshot::Sender<Result<Subscription, BusError>> },
}

#[derive(Debug, Default)]
struct Counters {
    queued_bytes: AtomicUsize,
    unsent: AtomicU64,
    unheard: AtomicU64,
}

impl NatsBus {
    /// A bus over this connection. Call it inside a tokio runtime.
    pub fn new(nats: Nats) -> Self {
        let (commands, queue) = mpsc::channel(MAX_QUEUED);
        let counters = Arc::new(Counters::default());
        tokio::spawn(carry(nats, queue, Arc::clone(&counters)));
        Self { commands, counters }
    }

    /// Batches that were not sent since the start: NATS was away, the queue was full, or the batch was too large for NATS.
    pub fn unsent(&self) -> u64 {
        self.counters.unsent.load(Ordering::Relaxed)
    }

    /// Batches that were lost since the start because their subscriber's queue was full.
    pub fn unheard(&self) -> u64 {
        self.counters.unheard.load(Ordering::Relaxed)
    }
}

impl Bus for NatsBus {
    fn publish(&self, subject: &str, batch: Bytes) {
        let bytes = batch.len();
        let queued = self.counters.queued_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let command = Command::Publish { subject: subject.into(), batch };
        if queued > MAX_QUEUED_BYTES || self.commands.try_send(command).is_err() {
            self.counters.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
            self.counters.unsent.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn subscribe(&self, subject: &str) -> BoxFuture<'_, Result<Subscription, BusError>> {
        let subject = subject.into();
        async move {
            // Behind everything that was published before, so that none of it is heard.
            let (subscribed, subscription) = oneshot::channel();
            let gone = || BusError("its task has ended".into());
            self.commands.send(Command::Subscribe { subject, subscribed }).await.map_err(|_| gone())?;
            subscription.await.unwrap_or_else(|_| Err(gone()))
        }
        .boxed()
    }
}

async fn carry(nats: Nats, mut commands: mpsc::Receiver<Command>, counters: Arc<Counters>) {
    while let Some(command) = commands.recv().await {
        match command {
            Command::Publish { subject, batch } => {
                counters.queued_bytes.fetch_sub(batch.len(), Ordering::Relaxed);
                // At most what is in the client's own small queue when NATS goes away is sent late.
                let sent = nats.while_up(nats.client().publish(subject, batch)).await;
                if !matches!(sent, Ok(Ok(()))) {
                    counters.unsent.fetch_add(1, Ordering::Relaxed);
                }
                if let Ok(Err(error)) = sent {
                    tracing::warn!(%error, "a batch could not be sent");
                }
            }
            Command::Subscribe { subject, subscribed } => {
                let subscription = match nats.while_up(nats.client().subscribe(subject)).await {
                    Ok(subscription) => subscription.map_err(|error| BusError(error.to_string())),
                    Err(away) => Err(BusError(away.to_string())),
                };
                // Who doesn't wait any more drops the subscription with the answer.
                let _ = subscribed.send(subscription.map(|subscriber| hand_on(subscriber, &counters)));
            }
        }
    }
}

/// Batches come to a queue of our own, since the client's queues are as long as its longest user needs them.
fn hand_on(mut subscriber: Subscriber, counters: &Arc<Counters>) -> Subscription {
    let (sender, batches) = mpsc::channel(MAX_WAITING);
    let counters = Arc::clone(counters);
    tokio::spawn(async move {
        loop {
            let message = tokio::select! {
                message = subscriber.next() => message,
                () = sender.closed() => return,
            };
            let Some(message) = message else { return };
            match sender.try_send(message.payload) {
                Ok(()) => {}
                Err(TrySendError::Full(_)) => drop(counters.unheard.fetch_add(1, Ordering::Relaxed)),
                Err(TrySendError::Closed(_)) => return,
            }
        }
    });
    Subscription::new(batches)
}
