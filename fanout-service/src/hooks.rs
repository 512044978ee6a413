//! Webhooks: who is to be told of what happens in a partition, and what was told. What is to be told lies in the bucket `hooks` before anybody
//! can know that it happened, and is taken out when its receiver has it (docs/decisions/0010). The lease of the partition is the lease of its queue.

mod delivery;
mod entry;
mod queue;

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use carillon_core::grants::matches;
use carillon_platform::{
    kv::{Bucket, Buckets, Kv, KvError},
    outbound::Place,
    settings::{Hook, HookType},
    telemetry::{Figures, Reading, Unit},
};
use carillon_proto::ids::RoomName;
use tokio::sync::Semaphore;

pub(crate) use entry::Entry;
pub(crate) use queue::{Noted, Placed, Queue};

/// Where the queues are.
const BUCKET: Bucket = Bucket::new("hooks");

/// Requests to one receiver at a time, from one process.
const AT_ONCE: usize = 16;

/// All receivers of a process.
pub(crate) struct Hooks {
    receivers: Vec<Receiver>,
    buckets: Arc<dyn Buckets>,
}

struct Receiver {
    hook: Hook,
    place: Place,
    turns: Semaphore,
}

/// What became of webhooks; only ever counts up, but for `queued`.
#[derive(Debug, Default)]
pub struct Counters {
    pub(crate) delivered: AtomicU64,
    pub(crate) failed: AtomicU64,
    pub(crate) dropped: AtomicU64,
    pub(crate) queued: AtomicU64,
}

impl Hooks {
    /// `None` where nobody is to be told anything.
    ///
    /// # Errors
    /// If an address can't be used.
    pub(crate) fn new(hooks: &[Hook], buckets: Arc<dyn Buckets>) -> Result<Option<Arc<Self>>, String> {
        let receiver = |hook: &Hook| {
            let place = Place::at(&hook.url).map_err(|problem| format!("hooks: {}: {problem}", hook.url))?;
            Ok(Receiver { hook: hook.clone(), place, turns: Semaphore::new(AT_ONCE) })
        };
        let receivers = hooks.iter().map(receiver).collect::<Result<Vec<_>, String>>()?;
        Ok((!receivers.is_empty()).then(|| Arc::new(Self { receivers, buckets })))
    }

    /// Looked for each time that a partition is taken: it may have been lost with all that NATS had.
    async fn kv(&self) -> Result<Arc<dyn Kv>, KvError> {
        self.buckets.open(BUCKET).await
    }

    /// The addresses of those that are to be told this.
    fn told_of<'h>(&'h self, kind: HookType, room: &'h RoomName) -> impl Iterator<Item = &'h str> {
        let wants = move |receiver: &&Receiver| {
            let is_of_user = matches!(kind, HookType::UserOnline | HookType::UserOffline);
            receiver.hook.types.contains(&kind) && (is_of_user || matches(&receiver.hook.rooms, room.as_str()))
        };
        self.receivers.iter().filter(wants).map(|receiver| receiver.hook.url.as_str())
    }

    fn receiver(&self, url: &str) -> Option<&Receiver> {
        self.receivers.iter().find(|receiver| receiver.hook.url.as_str() == url)
    }
}

impl Figures for Counters {
    fn read(&self, to: &mut Reading) {
        to.counter("carillon.hooks.delivered", "Webhooks that their receivers have taken.", self.delivered.load(Relaxed));
        to.counter("carillon.hooks.failed", "Requests of webhooks that failed, and are repeated.", self.failed.load(Relaxed));
        let help = "Webhooks that were given up: their queue was full, or what they told of is gone.";
        to.counter("carillon.hooks.dropped", help, self.dropped.load(Relaxed));
        let queued = self.queued.load(Relaxed) as f64;
        to.gauge("carillon.hooks.queued", "Webhooks that wait for their receivers.", Unit::Count, queued);
    }
}
