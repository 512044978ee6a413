//! The bus port: batches between gateways and owners. At most once, in order per sender and subject; whoever needs
//! more builds it above (the link, in `carillon-core`).

mod awaited;
mod in_process;
mod nats;

use bytes::Bytes;
use futures_util::future::BoxFuture;

pub use self::{awaited::AwaitedBus, in_process::InProcessBus, nats::NatsBus};

/// Where batches travel. Cheap to share.
pub trait Bus: Send + Sync + 'static {
    /// Sends to whoever is subscribed now, without waiting. What a slow subscriber has no room for is lost.
    fn publish(&self, subject: &str, batch: Bytes);

    /// Everything published to the subject from here on.
    fn subscribe(&self, subject: &str) -> BoxFuture<'_, Result<Subscription, BusError>>;
}

/// Batches as they arrive. Dropping it ends the subscription.
pub struct Subscription {
    batches: tokio::sync::mpsc::Receiver<Bytes>,
}

impl Subscription {
    /// Wraps the receiving end that an adapter fills.
    pub fn new(batches: tokio::sync::mpsc::Receiver<Bytes>) -> Self {
        Self { batches }
    }

    /// The next batch; `None` when the bus is gone for good.
    pub async fn next(&mut self) -> Option<Bytes> {
        self.batches.recv().await
    }

    /// The next batch if one is here already.
    pub fn try_next(&mut self) -> Option<Bytes> {
        self.batches.try_recv().ok()
    }
}

/// Why a subscription could not be made.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the bus can't be reached: {0}")]
pub struct BusError(pub String);
