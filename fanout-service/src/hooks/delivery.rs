//! Tells what is to be told: to one receiver about one room one thing after the other, each until it is taken; different rooms and
//! receivers don't wait for each other.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use carillon_platform::{
    kv::Kv,
    log::{Log, ReadLimit, ReadSpan},
    settings::HookType,
};
use carillon_proto::ids::{PartitionId, RoomName};
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use tokio::{sync::mpsc, time::sleep};

use super::{
    Entry, Hooks, Receiver,
    entry::Told,
    queue::{Freed, Placed, Waiting, insist},
};
use crate::owner::record;

/// How long a receiver may take for a request.
const PATIENCE: Duration = Duration::from_secs(15);
/// What is read of its answer, which nobody looks at.
const ANSWER_BYTES: usize = 64 * 1024;
/// The pause after the first failure, twice as long after each further one …
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// … up to this.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

pub(super) struct Delivery {
    pub(super) hooks: Arc<Hooks>,
    pub(super) kv: Arc<dyn Kv>,
    pub(super) log: Arc<dyn Log>,
    pub(super) partition: PartitionId,
    pub(super) waiting: Waiting,
    /// How keys of this owner begin, and which of them are free again.
    pub(super) own: (String, Freed),
}

/// What is told one after the other: a receiver, a room.
type Lane = (String, String);

/// What became of a try.
enum Outcome {
    Taken,
    /// It can't be told any more.
    Gone(String),
    NotNow(String),
}

impl Delivery {
    pub(super) async fn run(self, mut entries: mpsc::UnboundedReceiver<Placed>) {
        let mut lanes = HashMap::<Lane, VecDeque<Placed>>::new();
        let mut under_way = FuturesUnordered::new();
        loop {
            tokio::select! {
                entry = entries.recv() => {
                    let Some((key, entry)) = entry else { return };
                    let lane = (entry.to.clone(), entry.room.clone());
                    match lanes.get_mut(&lane) {
                        Some(waiting) => waiting.push_back((key, entry)),
                        None => {
                            lanes.insert(lane.clone(), VecDeque::new());
                            under_way.push(self.deliver(lane, key, entry));
                        }
                    }
                }
                Some(lane) = under_way.next() => match lanes.get_mut(&lane).and_then(VecDeque::pop_front) {
                    Some((key, entry)) => under_way.push(self.deliver(lane, key, entry)),
                    None => drop(lanes.remove(&lane)),
                },
            }
        }
    }

    async fn deliver(&self, lane: Lane, key: String, entry: Entry) -> Lane {
        let counters = &self.waiting.counters.hooks;
        let mut tries = 0;
        loop {
            match self.attempt(&entry).await {
                Outcome::Taken => {
                    counters.delivered.fetch_add(1, Relaxed);
                    break;
                }
                Outcome::Gone(why) => {
                    counters.dropped.fetch_add(1, Relaxed);
                    tracing::warn!(kind = entry.kind, why, "a webhook is given up");
                    break;
                }
                Outcome::NotNow(why) => {
                    counters.failed.fetch_add(1, Relaxed);
                    tracing::debug!(kind = entry.kind, tries, why, "a webhook was not taken");
                    sleep(pause(tries)).await;
                    tries += 1;
                }
            }
        }
        insist(|| self.kv.delete(&key)).await;
        let (own, freed) = &self.own;
        if key.starts_with(own) {
            freed.lock().push(key);
        }
        self.waiting.take(&entry.to);
        lane
    }

    async fn attempt(&self, entry: &Entry) -> Outcome {
        let Some(receiver) = self.hooks.receiver(&entry.to) else {
            return Outcome::Gone("its receiver is none any more".to_owned());
        };
        // Before the message is read: what waits for a slow receiver would be as large as all of its messages else.
        let _turn = receiver.turns.acquire().await.expect("it is never closed");
        let told = match entry.kind() {
            Some(HookType::MessageStored) => match self.message(entry).await {
                Ok(told) => told,
                Err(outcome) => return outcome,
            },
            _ => Told::of(entry),
        };
        match told {
            Some(told) => post(receiver, told).await,
            None => Outcome::Gone("it is none of this version".to_owned()),
        }
    }

    /// What the log has of it: it was noted before it was stored, and may not have been.
    async fn message(&self, entry: &Entry) -> Result<Option<Told>, Outcome> {
        let Ok(room) = RoomName::parse(&entry.room) else { return Ok(None) };
        let span = ReadSpan::After(entry.offset.saturating_sub(1));
        let part = self.log.read(self.partition, &room, span, ReadLimit { records: 1, bytes: usize::MAX }).await;
        let part = part.map_err(|error| Outcome::NotNow(error.to_string()))?;
        let found = part.records.first().map(record).transpose().map_err(|error| Outcome::NotNow(error.to_string()))?;
        match found.filter(|record| record.offset == entry.offset) {
            Some(record) => Ok(Told::of_message(&record)),
            None => Err(Outcome::Gone("the log does not have the message (any more)".to_owned())),
        }
    }
}

async fn post(receiver: &Receiver, told: Told) -> Outcome {
    let now_s = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let (time, signature) = (now_s.to_string(), told.signature(receiver.hook.secret.expose(), now_s));
    let headers = [
        ("content-type", "application/json"),
        ("webhook-id", told.id.as_str()),
        ("webhook-timestamp", time.as_str()),
        ("webhook-signature", signature.as_str()),
    ];
    match receiver.place.post(&headers, told.body.clone().into(), ANSWER_BYTES, PATIENCE).await {
        Ok(200..=299) => Outcome::Taken,
        Ok(status) => Outcome::NotNow(format!("answered {status}")),
        Err(why) => Outcome::NotNow(why),
    }
}

/// Less up to a half by chance, so that not all rooms come back at once.
fn pause(tries: u32) -> Duration {
    let full = FIRST_PAUSE.saturating_mul(1 << tries.min(16)).min(LONGEST_PAUSE);
    full.mul_f64(0.5 + 0.5 * fastrand::f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_stay_bounded() {
        for tries in 0..100 {
            let pause = pause(tries);
            assert!(pause >= FIRST_PAUSE / 2 && pause <= LONGEST_PAUSE, "{tries}: {pause:?}");
        }
        assert!(pause(10) >= LONGEST_PAUSE / 2);
    }
}
