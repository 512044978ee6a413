//! The bus inside this process: a table of subjects, and a bounded queue for each subscriber.

use std::{
    collections::HashMap,
    sync::atomic::{AtomicU64, Ordering},
};

use bytes::Bytes;
use futures_util::{FutureExt, future::BoxFuture};
use parking_lot::RwLock;
use tokio::sync::mpsc::{self, error::TrySendError};

use super::{Bus, BusError, Subscription};

/// Batches that may wait for a subscriber. A link sends about one per wake-up of its owner, each a pointer here and at
/// most some hundred KB behind it; who is so far behind is better served by a new start than by more memory.
const MAX_WAITING: usize = 1_024;

/// A bus for everything that runs in one process.
#[derive(Default)]
pub struct InProcessBus {
    // Publishing takes this lock for reading only: publishers don't wait for one another, and tokio's queues take batches
    // from any number of them.
    subjects: RwLock<HashMap<Box<str>, Vec<mpsc::Sender<Bytes>>>>,
    lost: AtomicU64,
}

impl InProcessBus {
    /// A bus without subscribers.
    pub fn new() -> Self {
        Self::default()
    }

    /// Batches that were lost since the start because their subscriber's queue was full.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// Removes subscribers that are gone, and the subject with the last of them.
    fn remove_gone(&self, subject: &str) {
        let mut subjects = self.subjects.write();
        if let Some(subscribers) = subjects.get_mut(subject) {
            subscribers.retain(|subscriber| !subscriber.is_closed());
            if subscribers.is_empty() {
                subjects.remove(subject);
            }
        }
    }
}

impl Bus for InProcessBus {
    fn publish(&self, subject: &str, batch: Bytes) {
        let mut is_any_gone = false;
        if let Some(subscribers) = self.subjects.read().get(subject) {
            for subscriber in subscribers {
                match subscriber.try_send(batch.clone()) {
                    Ok(()) => {}
                    Err(TrySendError::Full(_)) => drop(self.lost.fetch_add(1, Ordering::Relaxed)),
                    Err(TrySendError::Closed(_)) => is_any_gone = true,
                }
            }
        }
        if is_any_gone {
            self.remove_gone(subject);
        }
    }

    fn subscribe(&self, subject: &str) -> BoxFuture<'_, Result<Subscription, BusError>> {
        let (sender, batches) = mpsc::channel(MAX_WAITING);
        let mut subjects = self.subjects.write();
        // A subject that nobody publishes to would keep its gone subscribers otherwise.
        let subscribers = subjects.entry(subject.into()).or_default();
        subscribers.retain(|subscriber| !subscriber.is_closed());
        subscribers.push(sender);
        drop(subjects);
        std::future::ready(Ok(Subscription::new(batches))).boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn slow_subscriber_loses_counted() {
        let bus = InProcessBus::new();
        let mut slow = bus.subscribe("a").await.unwrap();
        for n in 0..MAX_WAITING + 3 {
            bus.publish("a", n.to_string().into());
        }
        assert_eq!(bus.lost(), 3);
        for n in 0..MAX_WAITING {
            assert_eq!(slow.next().await.unwrap(), n.to_string());
        }
        assert!(slow.try_next().is_none());
        bus.publish("a", "room again".into());
        assert_eq!(slow.next().await.unwrap(), "room again");
    }

    #[tokio::test]
    async fn gone_subscribers_leave_nothing() {
        let bus = InProcessBus::new();
        drop(bus.subscribe("a").await.unwrap());
        bus.publish("a", Bytes::new());
        assert!(bus.subjects.read().is_empty());
        assert_eq!(bus.lost(), 0);
    }
}
