//! Order: drives the partitions that this replica owns. Here is only the carrying to and fro between the rules of a
//! partition (`carillon_core::partition`), the log and the bus.

mod clock;
mod hooks;
mod hops;
mod lease;
mod owner;
mod shared_buckets;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use carillon_core::partition;
use carillon_platform::{bus::Bus, kv::Buckets, log::Log, settings::Settings, shutdown::Shutdown, telemetry::Tracer};
use carillon_proto::ids::{PARTITIONS, PartitionId};
use tokio_util::{
    sync::CancellationToken,
    task::{AbortOnDropHandle, TaskTracker},
};

use clock::Clock;
pub use hooks::Counters as HookCounters;
use hooks::Hooks;
use lease::Leases;
pub use owner::{Counters, Held};

/// What the partitions of a process share.
#[derive(Clone)]
pub struct Fanout {
    /// Where messages are kept.
    pub log: Arc<dyn Log>,
    /// What admins are told this process is called; one life of it.
    pub id: Arc<str>,
    /// The way to the gateways.
    pub bus: Arc<dyn Bus>,
    /// Where it is kept who owns which partition.
    pub buckets: Arc<dyn Buckets>,
    /// Nobody else can own what lies in this log: no lease is waited for, and none grows old.
    pub is_sole: bool,
    /// Where this process is, if no other one can be there (see `carillon_platform::service::place`): then what an earlier
    /// one held from there need not grow old.
    pub place: Bytes,
    /// What shapes the partitions.
    pub config: partition::Config,
    /// What happened, for `/metrics`.
    pub counters: Arc<Counters>,
    /// Who hears of sampled publishes.
    pub tracer: Tracer,
    /// Who is told of what happens, if anybody is.
    hooks: Option<Arc<Hooks>>,
    /// For how long clients of Socket.IO may come back.
    recovery_s: u64,
    clock: Clock,
}

/// How long a partition waits before it tries again what the log or the bus could not do.
const RETRY: Duration = Duration::from_millis(500);

impl Fanout {
    /// One replica of perhaps several, from the settings.
    ///
    /// # Errors
    /// If a webhook's address can't be used.
    pub fn new(settings: &Settings, log: Arc<dyn Log>, bus: Arc<dyn Bus>, buckets: Arc<dyn Buckets>) -> Result<Self, String> {
        let hooks = Hooks::new(&settings.hooks, buckets.clone())?;
        let retention = settings.retention.iter().map(|it| partition::Retention {
            rooms: it.rooms.clone(),
            keep: partition::Keep { messages: it.messages, age_ms: u64::try_from(it.age.as_millis()).unwrap_or(u64::MAX) },
        });
        let config = partition::Config {
            window: settings.limits.publish_window,
            rings_bytes: settings.limits.rings_total_bytes / usize::from(PARTITIONS),
            reads: settings.limits.owner_reads,
            retention: retention.collect(),
            tells_presence: hooks.is_some(),
            ..partition::Config::default()
        };
        let id = uuid::Uuid::new_v4().simple().to_string();
        Ok(Self {
            log,
            id: id[..8].into(),
            bus,
            buckets,
            is_sole: false,
            place: Bytes::new(),
            config,
            counters: Arc::default(),
            tracer: Tracer::default(),
            hooks,
            recovery_s: settings.socketio.recovery_s,
            clock: Clock::start(),
        })
    }

    /// Goes on with the traces of publishes.
    #[must_use]
    pub fn traced(self, tracer: Tracer) -> Self {
        Self { tracer, ..self }
    }

    /// The only owner that there can be, as in a process that has the log for itself.
    #[must_use]
    pub fn sole(self) -> Self {
        Self { is_sole: true, ..self }
    }

    /// Owns its share of the partitions until `stop` is cancelled, gives them away then, and resolves when that is done. The
    /// gateways in the same process need their owners until their last client has left.
    pub async fn run(self, stop: CancellationToken, shutdown: Shutdown) {
        // Other processes use them: those wait for no lease.
        let _buckets = AbortOnDropHandle::new(tokio::spawn(shared_buckets::keep(self.buckets.clone(), self.recovery_s)));
        let leases = tokio::select! {
            leases = Leases::open(&self) => leases,
            () = stop.cancelled() => return,
        };
        let notes = tokio::spawn(leases.clone().exchange_notes());
        let owners = TaskTracker::new();
        for partition in PartitionId::all() {
            owners.spawn(owner::own(self.clone(), leases.clone(), partition, stop.clone(), shutdown.clone()));
        }
        owners.close();
        tokio::select! {
            () = stop.cancelled() => leases.leave(),
            () = owners.wait() => {}
        }
        owners.wait().await;
        notes.abort();
    }
}
