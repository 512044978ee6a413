//! The leases of this replica: reads and writes the records that say who owns which partition, tells the other replicas that
//! this one lives, and keeps what is held here fresh. What to wish is for `carillon_core::lease`; what an owner does with
//! its partition is for `owner`.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use carillon_core::lease::{NOTE_MS, REFRESH_MS, ReplicaId, Replicas, SERVE_MS, Wish, next_generation};
use carillon_platform::{
    bus::{Bus, Subscription},
    kv::{Bucket, Buckets, Kv, KvError, Revision},
};
use carillon_proto::{
    ids::{PARTITIONS, PartitionId},
    lease::{Lease, NOTES, Note, VERSION},
};
use prost::Message as _;
use tokio::{
    sync::{Mutex, Notify, watch},
    time::{MissedTickBehavior, interval, sleep, timeout},
};

use crate::{Fanout, RETRY, clock::Clock};

const LEASES: Bucket = Bucket::new("leases");

/// How often somebody else's lease is read. A note tells of changes at once; this is for those that got lost.
const READ_EVERY: Duration = Duration::from_millis(500);
/// How often a held partition is looked at: whether it stays here.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Limit on one write: time for a second try is left before the lease is too old to serve.
const WRITE_TIMEOUT: Duration = Duration::from_millis(1_500);
/// The pause after a write that could not be made.
const WRITE_RETRY: Duration = Duration::from_millis(200);
/// How long an end may wait for a lease to be given back: without it, the next owner waits for it to age.
const GIVE_BACK_TIMEOUT: Duration = Duration::from_secs(2);

/// What the partitions of a replica share about leases. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Leases(Arc<Shared>);

struct Shared {
    kv: Arc<dyn Kv>,
    buckets: Arc<dyn Buckets>,
    bus: Arc<dyn Bus>,
    is_sole: bool,
    place: Bytes,
    clock: Clock,
    replicas: parking_lot::Mutex<Replicas>,
    /// Told when a note says that the lease of a partition has changed.
    changes: [Notify; PARTITIONS as usize],
}

impl Leases {
    /// Opens the bucket, as soon as it can be.
    pub(crate) async fn open(fanout: &Fanout) -> Self {
        let kv = loop {
            match fanout.buckets.open(LEASES).await {
                Ok(kv) => break kv,
                Err(error) => tracing::warn!(%error, "the leases can't be read yet"),
            }
            sleep(RETRY).await;
        };
        Self(Arc::new(Shared {
            kv,
            buckets: fanout.buckets.clone(),
            bus: fanout.bus.clone(),
            is_sole: fanout.is_sole,
            clock: fanout.clock,
            replicas: parking_lot::Mutex::new(Replicas::new(ReplicaId(uuid::Uuid::new_v4().into_bytes()), &fanout.place)),
            place: fanout.place.clone(),
            changes: std::array::from_fn(|_| Notify::new()),
        }))
    }

    /// From here on everything is given away and nothing taken.
    pub(crate) fn leave(&self) {
        self.0.replicas.lock().leave();
        self.say(&[]);
    }

    /// Tells the others that this replica lives, and hears them; until dropped.
    pub(crate) async fn exchange_notes(self) {
        if self.0.is_sole {
            return std::future::pending().await;
        }
        let mut tick = interval(Duration::from_millis(NOTE_MS));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let mut notes = match self.0.bus.subscribe(NOTES).await {
                Ok(notes) => notes,
                Err(error) => {
                    tracing::warn!(%error, "can't hear the other replicas yet");
                    sleep(RETRY).await;
                    continue;
                }
            };
            while self.exchange(&mut notes, &mut tick).await {}
        }
    }

    async fn exchange(&self, notes: &mut Subscription, tick: &mut tokio::time::Interval) -> bool {
        tokio::select! {
            note = notes.next() => match note {
                Some(note) => self.on_note(&note),
                None => return false,
            },
            _ = tick.tick() => self.say(&[]),
        }
        true
    }

    fn on_note(&self, note: &Bytes) {
        let Some(note) = Note::decode(note.clone()).ok().filter(|note| note.version == VERSION) else { return };
        let Some(replica) = ReplicaId::from_wire(&note.replica) else { return };
        self.0.replicas.lock().on_note(replica, note.leaving, self.0.clock.now().mono_ms);
        for partition in note.changed {
            if let Some(change) = self.0.changes.get(partition as usize) {
                change.notify_one();
            }
        }
    }

    fn say(&self, changed: &[PartitionId]) {
        if self.0.is_sole {
            return;
        }
        let replicas = self.0.replicas.lock();
        let note = Note {
            version: VERSION,
            replica: Bytes::copy_from_slice(&replicas.me().0),
            leaving: replicas.is_leaving(),
            changed: changed.iter().map(|partition| u32::from(partition.0)).collect(),
        };
        drop(replicas);
        self.0.bus.publish(NOTES, note.encode_to_vec().into());
    }

    /// Waits until the partition is to be owned here, and writes its lease.
    pub(crate) async fn take(&self, partition: PartitionId) -> Tenure {
        loop {
            match self.try_take(partition).await {
                Ok(Some(tenure)) => return tenure,
                Ok(None) | Err(KvError::Conflict) => {}
                Err(error) => {
                    tracing::warn!(%partition, %error, "the lease can't be read or written");
                    self.restore_bucket().await;
                }
            }
            let _ = timeout(READ_EVERY, self.0.changes[partition.index()].notified()).await;
        }
    }

    /// The bucket may have been lost with all that NATS had: then it is made anew, whoever held a lease loses it, and the log is made
    /// anew by whoever takes it.
    async fn restore_bucket(&self) {
        if let Err(error) = within(self.0.buckets.open(LEASES)).await {
            tracing::debug!(%error, "the bucket of the leases can't be reached");
        }
    }

    async fn try_take(&self, partition: PartitionId) -> Result<Option<Tenure>, KvError> {
        let Shared { kv, is_sole, clock, replicas, place, .. } = &*self.0;
        let found = within(kv.get(&key(partition))).await?;
        let revision = found.as_ref().map_or(0, |entry| entry.revision);
        let lease = found.map(|entry| decode(&entry.value)).transpose()?;
        let (me, wish) = {
            let mut replicas = replicas.lock();
            replicas.on_lease(partition, lease.as_ref(), revision, clock.now().mono_ms);
            (replicas.me(), replicas.wish(partition, clock.now().mono_ms))
        };
        match wish {
            Wish::Take | Wish::Keep => {}
            // Whoever has the folder is alone: what an earlier process held is nobody's.
            Wish::Wait if *is_sole && !replicas.lock().is_leaving() => {}
            Wish::Wait | Wish::GiveAway(_) => return Ok(None),
        }
        let now = clock.now();
        let lease = Lease {
            version: VERSION,
            holder: Bytes::copy_from_slice(&me.0),
            place: place.clone(),
            generation: next_generation(lease.as_ref(), now.unix_ms),
            ..lease.unwrap_or_default()
        };
        let value = Bytes::from(lease.encode_to_vec());
        let revision = match revision {
            0 => within(kv.create(&key(partition), value)).await?,
            revision => within(kv.update(&key(partition), value, revision)).await?,
        };
        replicas.lock().on_lease(partition, Some(&lease), revision, clock.now().mono_ms);
        tracing::info!(%partition, generation = lease.generation, "the lease is written");
        Ok(Some(Tenure {
            leases: self.clone(),
            partition,
            acked: AtomicU64::new(lease.acked),
            until_ms: AtomicU64::new(if *is_sole { u64::MAX } else { now.mono_ms + SERVE_MS }),
            written: Mutex::new(Written { lease, revision }),
            phase: watch::Sender::new(Phase::Held),
        }))
    }
}

/// A partition that is held here.
pub(crate) struct Tenure {
    leases: Leases,
    partition: PartitionId,
    /// One write at a time, since each names the revision of the one before.
    written: Mutex<Written>,
    until_ms: AtomicU64,
    acked: AtomicU64,
    phase: watch::Sender<Phase>,
}

struct Written {
    lease: Lease,
    revision: Revision,
}

/// What is to become of a tenure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// It goes on.
    Held,
    /// To be given away, in good order.
    GiveAway,
    /// Somebody else has written the lease.
    Lost,
}

impl Tenure {
    /// Until when the owner may speak, by the replica's clock.
    pub(crate) fn until_ms(&self) -> u64 {
        self.until_ms.load(Ordering::Acquire)
    }

    /// Does something only while the owner may speak. A process that was stopped, or is too slow, does not go on with what it had
    /// begun: it does once the lease is renewed, if it ever is.
    pub(crate) async fn while_held<T>(&self, deed: impl Future<Output = T>) -> T {
        let mut deed = std::pin::pin!(deed);
        let mut look = interval(LOOK_EVERY);
        std::future::poll_fn(|cx| {
            if self.leases.0.clock.now().mono_ms < self.until_ms() {
                return deed.as_mut().poll(cx);
            }
            while look.poll_tick(cx).is_ready() {}
            std::task::Poll::Pending
        })
        .await
    }

    /// How old the lease is.
    pub(crate) fn age_ms(&self) -> u64 {
        match self.until_ms() {
            u64::MAX => 0,
            until_ms => (self.leases.0.clock.now().mono_ms + SERVE_MS).saturating_sub(until_ms),
        }
    }

    /// What the log has acked; the lease tells the next owner with its next writing.
    pub(crate) fn on_acked(&self, sequence: u64) {
        self.acked.store(sequence, Ordering::Relaxed);
    }

    /// What is to become of it.
    pub(crate) fn phase(&self) -> watch::Receiver<Phase> {
        self.phase.subscribe()
    }

    /// The lease as it is written.
    pub(crate) async fn lease(&self) -> Lease {
        self.written.lock().await.lease.clone()
    }

    /// Refreshes the lease until it is lost, and tells when it is to be given away.
    pub(crate) async fn keep(self: Arc<Self>) {
        let Shared { is_sole, clock, replicas, .. } = &*self.leases.0;
        let mut look = interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut next_ms = clock.now().mono_ms + REFRESH_MS;
        loop {
            look.tick().await;
            let now_ms = clock.now().mono_ms;
            if matches!(replicas.lock().wish(self.partition, now_ms), Wish::GiveAway(_)) {
                self.phase.send_if_modified(|phase| {
                    let is_news = *phase == Phase::Held;
                    *phase = if is_news { Phase::GiveAway } else { *phase };
                    is_news
                });
            }
            if !is_sole && now_ms >= next_ms {
                if self.write(|_| ()).await.is_none() {
                    return;
                }
                next_ms = now_ms + REFRESH_MS;
            }
        }
    }

    /// Writes the lease with a change; tries until it is written. `None` once it is somebody else's.
    pub(crate) async fn write(&self, change: impl FnOnce(&mut Lease)) -> Option<Lease> {
        let Shared { kv, is_sole, clock, replicas, .. } = &*self.leases.0;
        let key = key(self.partition);
        let mut written = self.written.lock().await;
        let mut lease = written.lease.clone();
        lease.acked = self.acked.load(Ordering::Relaxed);
        change(&mut lease);
        loop {
            let started_ms = clock.now().mono_ms;
            match within(kv.update(&key, lease.encode_to_vec().into(), written.revision)).await {
                Ok(revision) => {
                    let until_ms = if *is_sole { u64::MAX } else { started_ms + SERVE_MS };
                    self.until_ms.store(until_ms, Ordering::Release);
                    replicas.lock().on_lease(self.partition, Some(&lease), revision, clock.now().mono_ms);
                    *written = Written { lease: lease.clone(), revision };
                    return Some(lease);
                }
                // What is there may be our own: a write whose answer was lost, or was not waited for.
                Err(KvError::Conflict) => match within(kv.get(&key)).await {
                    Ok(Some(entry)) => match decode(&entry.value) {
                        Ok(found) if is_of(&found, &written.lease) || is_of(&found, &lease) => {
                            written.revision = entry.revision;
                            continue;
                        }
                        _ => return self.lose(),
                    },
                    Ok(None) => return self.lose(),
                    Err(error) => tracing::debug!(partition = %self.partition, %error, "the lease can't be read"),
                },
                Err(error) => {
                    tracing::warn!(partition = %self.partition, %error, "the lease can't be written");
                    self.leases.restore_bucket().await;
                }
            }
            sleep(WRITE_RETRY).await;
        }
    }

    fn lose(&self) -> Option<Lease> {
        tracing::warn!(partition = %self.partition, "another replica has the lease");
        self.until_ms.store(0, Ordering::Release);
        self.phase.send_replace(Phase::Lost);
        None
    }

    /// The owner has ended in good order: the partition is free, and the others are told.
    pub(crate) async fn give_back(&self) {
        self.until_ms.store(0, Ordering::Release);
        if timeout(GIVE_BACK_TIMEOUT, self.write(|lease| lease.holder = Bytes::new())).await.is_err() {
            tracing::warn!(partition = %self.partition, "the lease could not be given back; the next owner waits for it to age");
        }
        self.until_ms.store(0, Ordering::Release);
        self.leases.say(&[self.partition]);
    }

    /// Another generation of the same owner, before it takes the partition anew.
    pub(crate) async fn renew(&self, tail_was_lost: bool) -> Option<Lease> {
        let unix_ms = self.leases.0.clock.now().unix_ms;
        self.write(|lease| {
            lease.generation = next_generation(Some(lease), unix_ms);
            lease.losses += u64::from(tail_was_lost);
        })
        .await
    }
}

/// Whether a lease is one that this holder wrote under this generation.
fn is_of(found: &Lease, mine: &Lease) -> bool {
    found.holder == mine.holder && found.generation == mine.generation
}

fn key(partition: PartitionId) -> String {
    partition.to_string()
}

fn decode(value: &Bytes) -> Result<Lease, KvError> {
    let lease = Lease::decode(value.clone()).map_err(|error| KvError::Broken(format!("a lease that is none: {error}")))?;
    if lease.version != VERSION {
        return Err(KvError::Broken(format!("a lease of format {}, this binary knows {VERSION}", lease.version)));
    }
    Ok(lease)
}

async fn within<T>(question: impl Future<Output = Result<T, KvError>>) -> Result<T, KvError> {
    timeout(WRITE_TIMEOUT, question)
        .await
        .unwrap_or_else(|_| Err(KvError::Unavailable(format!("no answer within {WRITE_TIMEOUT:?}"))))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;

    use carillon_platform::{
        bus::InProcessBus,
        kv::EmbeddedBuckets,
        log::EmbeddedLog,
        settings::{Program, Settings},
    };

    use super::*;

    #[tokio::test]
    async fn deeds_of_an_old_lease_stand_still() {
        let folder = tempfile::tempdir().unwrap();
        let log = Arc::new(EmbeddedLog::open(folder.path()).unwrap());
        let buckets = Arc::new(EmbeddedBuckets::of(log.clone()));
        let fanout = Fanout::new(&Settings::defaults(Program::Fanout), log, Arc::new(InProcessBus::new()), buckets).unwrap();
        let tenure = Leases::open(&fanout).await.take(PartitionId(3)).await;

        // A purge that was asked for, whose next step is ready once the lease is too old.
        let (steps, next_step) = (AtomicU32::new(0), Notify::new());
        let mut purge = std::pin::pin!(tenure.while_held(async {
            steps.store(1, Ordering::Relaxed);
            next_step.notified().await;
            steps.store(2, Ordering::Relaxed);
        }));
        assert!(timeout(LOOK_EVERY, &mut purge).await.is_err());
        assert_eq!(steps.load(Ordering::Relaxed), 1);
        tenure.until_ms.store(0, Ordering::Release);
        next_step.notify_one();
        assert!(timeout(4 * LOOK_EVERY, &mut purge).await.is_err());
        assert_eq!(steps.load(Ordering::Relaxed), 1);

        // Written anew, nobody else was there meanwhile.
        assert!(tenure.write(|_| ()).await.is_some());
        purge.await;
        assert_eq!(steps.load(Ordering::Relaxed), 2);
    }
}
