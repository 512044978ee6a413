//! Order: drives the partitions that this replica owns. Here is only the carrying to and fro between the rules of a
//! partition (`carillon_core::partition`), the log and the bus.

mod owner;

use std::{sync::Arc, time::Duration};

use carillon_core::partition;
use carillon_platform::{bus::Bus, log::Log, settings::Settings, shutdown::Shutdown};
use carillon_proto::ids::PartitionId;

pub use owner::Counters;

/// What the partitions of a process share.
#[derive(Clone)]
pub struct Fanout {
    /// Where messages are kept.
    pub log: Arc<dyn Log>,
    /// The way to the gateways.
    pub bus: Arc<dyn Bus>,
    /// What shapes the partitions.
    pub config: partition::Config,
    /// What happened, for `/metrics`.
    pub counters: Arc<Counters>,
}

/// How long a partition waits before it tries again what the log or the bus could not do.
const RETRY: Duration = Duration::from_millis(500);

impl Fanout {
    /// From the settings.
    pub fn new(settings: &Settings, log: Arc<dyn Log>, bus: Arc<dyn Bus>) -> Self {
        let retention = settings.retention.iter().map(|it| partition::Retention {
            rooms: it.rooms.clone(),
            keep: partition::Keep { messages: it.messages, age_ms: u64::try_from(it.age.as_millis()).unwrap_or(u64::MAX) },
        });
        let config = partition::Config {
            window: settings.limits.publish_window,
            retention: retention.collect(),
            ..partition::Config::default()
        };
        Self { log, bus, config, counters: Arc::default() }
    }

    /// Owns all partitions until the drain ends. Resolves to what `stop` is cancelled for: the gateways in the same process
    /// need their owners until their last client has left.
    pub async fn run(self, stop: tokio_util::sync::CancellationToken, shutdown: Shutdown) {
        let owners = tokio_util::task::TaskTracker::new();
        for partition in PartitionId::all() {
            let (fanout, stop, shutdown) = (self.clone(), stop.clone(), shutdown.clone());
            owners.spawn(async move {
                tokio::select! {
                    () = owner::own(fanout, partition, shutdown) => {}
                    () = stop.cancelled() => {}
                }
            });
        }
        owners.close();
        owners.wait().await;
    }
}
