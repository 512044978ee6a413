//! How gateways are: each says it to all others every two seconds, and remembers what it was told for a while.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use carillon_platform::bus::Bus;
use carillon_proto::status::{self, Status};
use parking_lot::Mutex;
use prost::Message as _;
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::Counters;

/// How often a gateway says how it is.
const EVERY: Duration = Duration::from_secs(2);
/// Who was not heard for so long is gone: three times in a row is more than the bus loses.
const SILENCE: Duration = Duration::from_secs(7);
/// Durations are told of so many of those intervals: ten seconds.
const RECENT: usize = 5;
/// Others that are remembered; far more than any deployment has.
const MOST: usize = 4096;
/// The pause before another try to subscribe.
const SUBSCRIBE_PAUSE: Duration = Duration::from_millis(500);

pub(super) struct Statuses {
    id: String,
    shards: u32,
    started_ms: u64,
    counters: Arc<Counters>,
    others: Mutex<BTreeMap<String, (Instant, Status)>>,
    /// All durations so far, as of the last few times, oldest first.
    took: Mutex<VecDeque<(Vec<u64>, Vec<u64>)>>,
}

impl Statuses {
    pub(super) fn new(counters: Arc<Counters>, shards: usize) -> Self {
        let started = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            id: uuid::Uuid::new_v4().simple().to_string()[..8].to_owned(),
            shards: u32::try_from(shards).unwrap_or(u32::MAX),
            started_ms: started.as_millis() as u64,
            counters,
            others: Mutex::default(),
            took: Mutex::default(),
        }
    }

    pub(super) fn id(&self) -> &str {
        &self.id
    }

    pub(super) async fn keep(&self, bus: &dyn Bus) {
        tokio::join!(self.tell(bus), self.hear(bus));
    }

    async fn tell(&self, bus: &dyn Bus) {
        let mut ticks = interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            bus.publish(status::SUBJECT, self.own().encode_to_vec().into());
            let Status { publish_took, delivery_took, .. } = self.counters.status();
            let mut took = self.took.lock();
            took.push_back((publish_took, delivery_took));
            if took.len() > RECENT {
                took.pop_front();
            }
        }
    }

    async fn hear(&self, bus: &dyn Bus) {
        loop {
            match bus.subscribe(status::SUBJECT).await {
                Ok(mut statuses) => {
                    while let Some(status) = statuses.next().await {
                        self.on_status(status, Instant::now());
                    }
                }
                Err(error) => tracing::debug!(%error, "can't hear of other gateways yet"),
            }
            sleep(SUBSCRIBE_PAUSE).await;
        }
    }

    fn on_status(&self, status: Bytes, now: Instant) {
        let Ok(status) = Status::decode(status) else { return };
        if status.version != status::VERSION || status.id == self.id {
            return;
        }
        let mut others = self.others.lock();
        others.retain(|_, (heard, _)| now.duration_since(*heard) < SILENCE);
        if others.len() < MOST || others.contains_key(&status.id) {
            others.insert(status.id.clone(), (now, status));
        }
    }

    fn own(&self) -> Status {
        let mut own = self.counters.status();
        if let Some((publishes, deliveries)) = self.took.lock().front() {
            since(&mut own.publish_took, publishes);
            since(&mut own.delivery_took, deliveries);
        }
        let build = env!("CARGO_PKG_VERSION").to_owned();
        Status { version: status::VERSION, id: self.id.clone(), started_ms: self.started_ms, build, shards: self.shards, ..own }
    }

    pub(super) fn all(&self) -> Vec<Status> {
        let now = Instant::now();
        let others = self.others.lock();
        let heard = others.values().filter(|(heard, _)| now.duration_since(*heard) < SILENCE);
        std::iter::once(self.own()).chain(heard.map(|(_, status)| status.clone())).collect()
    }
}

/// Takes away what there was before.
fn since(now: &mut [u64], before: &[u64]) {
    for (now, before) in now.iter_mut().zip(before) {
        *now = now.saturating_sub(*before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silent_gateways_are_gone() {
        let statuses = Statuses::new(Arc::default(), 2);
        let other = Statuses::new(Arc::default(), 1);
        let (told, now) = (other.own().encode_to_vec(), Instant::now());
        statuses.on_status(told.clone().into(), now);
        statuses.on_status(statuses.own().encode_to_vec().into(), now);
        let ids: Vec<_> = statuses.all().into_iter().map(|status| status.id).collect();
        assert_eq!(ids, [statuses.id.clone(), other.id.clone()]);
        let long_ago = now.checked_sub(SILENCE).unwrap_or(now);
        statuses.others.lock().get_mut(&other.id).unwrap().0 = long_ago;
        assert_eq!(statuses.all().len(), 1);
        // One of another time says nothing that could be understood.
        let foreign = Status { version: status::VERSION + 1, ..Status::decode(&told[..]).unwrap() };
        statuses.on_status(foreign.encode_to_vec().into(), now);
        assert_eq!(statuses.all().len(), 1);
    }
}
