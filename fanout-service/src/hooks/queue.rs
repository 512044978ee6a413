//! The queue of one partition under one owner: what is to be told, in order, and what was told to be so. A new owner finds both in the bucket, and
//! tells what has changed in between.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, atomic::Ordering::Relaxed},
};

use carillon_core::Now;
use carillon_platform::{
    kv::{Kv, KvError},
    log::Log,
    settings::HookType,
};
use carillon_proto::ids::{Offset, PartitionId, RoomName};
use futures_util::{FutureExt as _, TryFutureExt as _, future::BoxFuture};
use parking_lot::Mutex;
use tokio::{sync::mpsc, time::sleep};
use tokio_util::task::AbortOnDropHandle;

use super::{
    Entry, Hooks,
    delivery::Delivery,
    entry::{key, order, owner_prefix, queue_prefix},
};
use crate::{Fanout, RETRY};

/// Entries of a partition that may wait for one receiver, each some hundred bytes; further ones are dropped, and counted.
const MOST: u64 = 100_000;

/// So long after a partition was taken, who has not come back is gone: gateways notice a lost owner within three seconds, users have five to come back.
const SETTLE_MS: u64 = 10_000;

/// What is told to be so, until it is told not to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum State {
    /// The room has members.
    Occupied,
    /// The user of this personal room has a connection.
    Online,
}

impl State {
    const ALL: [(Self, char); 2] = [(Self::Occupied, 'o'), (Self::Online, 'u')];

    /// What tells that it is so now, or no more.
    fn kind(self, is_so: bool) -> HookType {
        match (self, is_so) {
            (Self::Occupied, true) => HookType::RoomFirstMember,
            (Self::Occupied, false) => HookType::RoomLastMember,
            (Self::Online, true) => HookType::UserOnline,
            (Self::Online, false) => HookType::UserOffline,
        }
    }

    /// What a kind tells.
    fn told_by(kind: HookType) -> Option<(Self, bool)> {
        Self::ALL
            .into_iter()
            .flat_map(|(state, _)| [(state, true), (state, false)])
            .find(|(state, is_so)| state.kind(*is_so) == kind)
    }

    fn key(self, partition: PartitionId, room: &RoomName) -> String {
        let letter = Self::ALL.into_iter().find(|(state, _)| *state == self).map_or('?', |(_, letter)| letter);
        format!("{}{letter}.{}", state_prefix(partition), room.as_str())
    }

    fn of_key(rest: &str) -> Option<(Self, RoomName)> {
        let (letter, room) = rest.split_once('.')?;
        let (state, _) = Self::ALL.into_iter().find(|(_, known)| letter.chars().eq([*known]))?;
        Some((state, RoomName::parse(room).ok()?))
    }
}

fn state_prefix(partition: PartitionId) -> String {
    format!("s.{:02}.", partition.0)
}

/// An entry, and where it lies.
pub(crate) type Placed = (String, Entry);

/// What is to be told of a message, and its way into the bucket.
pub(crate) type Noted = (Vec<Placed>, BoxFuture<'static, Result<(), KvError>>);

/// What is to be written, in order.
enum Write {
    /// Put these, and note what they tell to be so.
    Edge { entries: Vec<Placed>, state: String, is_so: bool },
    /// These have been put.
    Ready(Vec<Placed>),
}

/// See above.
pub(crate) struct Queue {
    hooks: Arc<Hooks>,
    kv: Arc<dyn Kv>,
    partition: PartitionId,
    generation: u64,
    /// Entries so far, and slots.
    entries: u64,
    slots: u64,
    /// Where no entry lies any more.
    freed: Freed,
    told: HashSet<(State, RoomName)>,
    /// Rooms of which it has to be looked up whether what was told is still so.
    unsettled: Vec<RoomName>,
    settle_at_ms: Option<u64>,
    /// Bounded by [`MOST`], as all that is written is told.
    writes: mpsc::UnboundedSender<Write>,
    waiting: Waiting,
    _tasks: [AbortOnDropHandle<()>; 2],
}

/// Keys of this owner that are free again.
pub(super) type Freed = Arc<Mutex<Vec<String>>>;

/// How many entries wait in one queue for each receiver, which all queues of a process add up to.
#[derive(Clone)]
pub(super) struct Waiting {
    own: Arc<Mutex<HashMap<String, u64>>>,
    pub(super) counters: Arc<crate::Counters>,
}

impl Waiting {
    fn new(counters: Arc<crate::Counters>) -> Self {
        Self { own: Arc::default(), counters }
    }

    /// One more for this receiver; false, and it is none, if too many wait for that one. How many wait for others is nothing to it.
    fn admit(&self, to: &str) -> bool {
        let is_full = self.own.lock().get(to).is_some_and(|count| *count >= MOST);
        if !is_full {
            self.add(to);
        }
        !is_full
    }

    fn add(&self, to: &str) {
        *self.own.lock().entry(to.to_owned()).or_default() += 1;
        self.counters.hooks.queued.fetch_add(1, Relaxed);
    }

    /// One less. One that ends after its queue finds nothing left.
    pub(super) fn take(&self, to: &str) {
        let mut own = self.own.lock();
        if let Some(count) = own.get_mut(to).filter(|count| **count > 0) {
            *count -= 1;
            self.counters.hooks.queued.fetch_sub(1, Relaxed);
        }
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        let left = self.waiting.own.lock().drain().map(|(_, count)| count).sum();
        self.waiting.counters.hooks.queued.fetch_sub(left, Relaxed);
    }
}

impl Queue {
    /// What an earlier owner has left. From here on it is told.
    pub(crate) async fn load(
        fanout: &Fanout,
        hooks: Arc<Hooks>,
        partition: PartitionId,
        generation: u64,
    ) -> Result<Self, KvError> {
        let kv = hooks.kv().await?;
        let (queue, states) = (queue_prefix(partition), state_prefix(partition));
        let (mut left, mut stored): (Vec<Placed>, HashSet<_>) = Default::default();
        for (key, found) in kv.list().await? {
            if key.starts_with(&queue) {
                match Entry::decoded(&found.value) {
                    Some(entry) => left.push((key, entry)),
                    None => tracing::warn!(key, "an entry of the bucket `hooks` that is none of this version"),
                }
            } else if let Some(state) = key.strip_prefix(&states).and_then(State::of_key) {
                stored.insert(state);
            }
        }
        left.sort_by(|(one, first), (other, second)| order(one, first).cmp(&order(other, second)));
        let (writes, written) = mpsc::unbounded_channel();
        let (deliveries, delivered) = mpsc::unbounded_channel();
        let waiting = Waiting::new(fanout.counters.clone());
        let log: Arc<dyn Log> = fanout.log.clone();
        let freed = Freed::default();
        let own = (owner_prefix(partition, generation), freed.clone());
        let delivery = Delivery { hooks: hooks.clone(), kv: kv.clone(), log, partition, waiting: waiting.clone(), own };
        let tasks = [
            AbortOnDropHandle::new(tokio::spawn(write(kv.clone(), written, deliveries))),
            AbortOnDropHandle::new(tokio::spawn(delivery.run(delivered))),
        ];
        let mut told = stored.clone();
        for (_, entry) in &left {
            let room = RoomName::parse(&entry.room).ok();
            match (entry.kind().and_then(State::told_by), room) {
                (Some((state, true)), Some(room)) => told.insert((state, room)),
                (Some((state, false)), Some(room)) => told.remove(&(state, room)),
                _ => false,
            };
        }
        left.iter().for_each(|(_, entry)| waiting.add(&entry.to));
        let queue = Self {
            unsettled: Vec::new(),
            settle_at_ms: None,
            entries: 0,
            slots: 0,
            freed,
            hooks,
            kv,
            partition,
            generation,
            told,
            writes,
            waiting,
            _tasks: tasks,
        };
        // An earlier owner ended between an entry and what it tells to be so.
        for (state, room) in stored.symmetric_difference(&queue.told) {
            let is_so = queue.told.contains(&(*state, room.clone()));
            queue.write(Write::Edge { entries: Vec::new(), state: state.key(partition, room), is_so });
        }
        queue.write(Write::Ready(left));
        Ok(queue)
    }

    fn write(&self, write: Write) {
        // The writer ends with this.
        let _ = self.writes.send(write);
    }

    /// A message is about to be stored. Before it may be acked, what is to be told of it has to be put, which is the future; afterwards
    /// [`Self::on_stored`] is given the entries.
    pub(crate) fn note(&mut self, room: &RoomName, offset: Offset) -> Option<Noted> {
        let of = |to: &str| Entry { to: to.to_owned(), room: room.as_str().to_owned(), offset, ..entry(HookType::MessageStored) };
        let entries: Vec<Entry> = self.hooks.told_of(HookType::MessageStored, room).map(of).collect();
        let entries = self.place(entries);
        if entries.is_empty() {
            return None;
        }
        let (kv, puts) = (self.kv.clone(), entries.clone());
        let put = async move {
            for (key, entry) in puts {
                kv.put(&key, entry.encoded()).await?;
            }
            Ok(())
        };
        Some((entries, put.boxed()))
    }

    /// The message is in the log.
    pub(crate) fn on_stored(&self, entries: Vec<Placed>) {
        if !entries.is_empty() {
            self.write(Write::Ready(entries));
        }
    }

    /// Somebody came to a room or went, and so many users are there now.
    pub(crate) fn on_present(&mut self, room: &RoomName, user: &str, is_here: bool, users: u64, now: Now) {
        if room.owner() == Some(user) {
            self.set(State::Online, room, is_here, now);
        }
        self.set(State::Occupied, room, users > 0, now);
    }

    /// Who is in this room is known again.
    pub(crate) fn on_settled(&mut self, room: RoomName) {
        self.unsettled.push(room);
    }

    /// Time passed. `occupancy`: how many users a room has, and whether this one is there; `None` while that is not known.
    pub(crate) fn on_tick(&mut self, now: Now, occupancy: impl Fn(&RoomName, &str) -> Option<(u64, bool)>) {
        match self.settle_at_ms {
            None => self.settle_at_ms = Some(now.mono_ms + SETTLE_MS),
            Some(at_ms) if now.mono_ms >= at_ms => {
                self.settle_at_ms = Some(u64::MAX);
                self.unsettled.extend(self.told.iter().map(|(_, room)| room.clone()));
            }
            Some(_) => {}
        }
        for room in std::mem::take(&mut self.unsettled) {
            let user = room.owner().unwrap_or_default();
            match occupancy(&room, user) {
                None => self.unsettled.push(room),
                Some((users, is_here)) => {
                    if room.owner().is_some() {
                        self.set(State::Online, &room, is_here, now);
                    }
                    self.set(State::Occupied, &room, users > 0, now);
                }
            }
        }
    }

    fn set(&mut self, state: State, room: &RoomName, is_so: bool, now: Now) {
        let is_wanted = [true, false].into_iter().any(|is_so| self.hooks.told_of(state.kind(is_so), room).next().is_some());
        let told = (state, room.clone());
        if !is_wanted || self.told.contains(&told) == is_so {
            return;
        }
        match is_so {
            true => self.told.insert(told),
            false => self.told.remove(&told),
        };
        let kind = state.kind(is_so);
        let id = format!("evt_{}", uuid::Uuid::new_v4().simple());
        let of = |to: &str| Entry {
            to: to.to_owned(),
            room: room.as_str().to_owned(),
            id: id.clone(),
            ts: now.unix_ms,
            ..entry(kind)
        };
        let entries: Vec<Entry> = self.hooks.told_of(kind, room).map(of).collect();
        let entries = self.place(entries);
        self.write(Write::Edge { entries, state: state.key(self.partition, room), is_so });
    }

    /// Gives each its place, as far as there is room.
    fn place(&mut self, mut entries: Vec<Entry>) -> Vec<Placed> {
        entries.retain(|entry| {
            let is_admitted = self.waiting.admit(&entry.to);
            if !is_admitted {
                self.waiting.counters.hooks.dropped.fetch_add(1, Relaxed);
                let (partition, to) = (self.partition, &entry.to);
                tracing::warn!(%partition, to, "too many webhooks wait for this receiver: it is not told what happens now");
            }
            is_admitted
        });
        let place = |entry| {
            self.entries += 1;
            let freed = self.freed.lock().pop();
            let key = freed.unwrap_or_else(|| {
                self.slots += 1;
                key(self.partition, self.generation, self.slots)
            });
            (key, Entry { number: self.entries, ..entry })
        };
        entries.into_iter().map(place).collect()
    }
}

fn entry(kind: HookType) -> Entry {
    let kind = kind.as_str().to_owned();
    Entry { to: String::new(), kind, room: String::new(), number: 0, offset: 0, id: String::new(), ts: 0 }
}

async fn write(kv: Arc<dyn Kv>, mut writes: mpsc::UnboundedReceiver<Write>, deliveries: mpsc::UnboundedSender<Placed>) {
    while let Some(write) = writes.recv().await {
        let entries = match write {
            Write::Ready(entries) => entries,
            Write::Edge { entries, state, is_so } => {
                for (key, entry) in &entries {
                    insist(|| kv.put(key, entry.encoded()).map_ok(|_| ()).boxed()).await;
                }
                match is_so {
                    true => insist(|| kv.put(&state, "1".into()).map_ok(|_| ()).boxed()).await,
                    false => insist(|| kv.delete(&state)).await,
                }
                entries
            }
        };
        for entry in entries {
            let _ = deliveries.send(entry);
        }
    }
}

/// Writes until it is written: nobody else writes here while the lease is held.
pub(super) async fn insist<'k>(write: impl Fn() -> BoxFuture<'k, Result<(), KvError>>) {
    loop {
        match write().await {
            Ok(()) => return,
            Err(KvError::Unavailable(why)) => {
                tracing::warn!(why, "the bucket `hooks` can't be written yet");
                sleep(RETRY).await;
            }
            Err(error) => return tracing::error!(%error, "the bucket `hooks` can't be written"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_queue_of_one_receiver_is_nobody_elses() {
        let waiting = Waiting::new(Arc::default());
        let queued = || waiting.counters.hooks.queued.load(Relaxed);
        assert!((0..MOST).all(|_| waiting.admit("slow")));
        assert!(!waiting.admit("slow") && waiting.admit("quick"));
        assert_eq!(queued(), MOST + 1);
        waiting.take("slow");
        assert!(waiting.admit("slow") && !waiting.admit("slow"));
        waiting.take("nobody");
        waiting.take("quick");
        waiting.take("quick");
        assert_eq!(queued(), MOST);
    }
}
