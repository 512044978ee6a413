//! Fanout replicas: which partitions they hold under which leases, as `carillon-fanout` does it. One that is stopped for a
//! while finds everything that happened meanwhile waiting for it when it goes on.

use std::collections::{BTreeMap, VecDeque};

use carillon_core::{
    lease::{REFRESH_MS, ReplicaId, Replicas, SERVE_MS},
    partition::Partition,
};
use carillon_proto::{
    ids::{PartitionId, RoomName},
    lease::Lease,
    link::{Up, UpBatch, up},
    log::Record,
};

pub(crate) struct Replica {
    pub(crate) view: Replicas,
    pub(crate) held: BTreeMap<PartitionId, Held>,
    /// Stopped until then; what comes meanwhile waits.
    pub(crate) paused_until_ms: u64,
    pub(crate) waiting: Vec<Event>,
    /// Dead until then.
    pub(crate) down_until_ms: u64,
    /// By how much its clock of the day is wrong.
    pub(crate) skew_ms: i64,
}

/// A partition under a lease.
pub(crate) struct Held {
    /// Names one opening of the log.
    pub(crate) tag: u64,
    pub(crate) lease: Lease,
    pub(crate) revision: u64,
    pub(crate) until_ms: u64,
    pub(crate) refresh_ms: u64,
    pub(crate) announce_ms: u64,
    pub(crate) leaves_ms: Option<u64>,
    /// `None` while the partition is being taken; what comes meanwhile waits.
    pub(crate) rules: Option<Partition>,
    pub(crate) inbox: Vec<UpBatch>,
    /// Keys of appends under way, in order, for [`crate::sabotage::Sabotage::KeysInFlight`].
    pub(crate) keys: VecDeque<String>,
    /// What was read before the marker, where the world is told to do it wrong.
    pub(crate) read_early: Option<Vec<Record>>,
}

/// What comes to a replica.
pub(crate) enum Event {
    Up { partition: PartitionId, batch: UpBatch },
    Marked { partition: PartitionId, tag: u64, sequence: u64 },
    Acked { partition: PartitionId, tag: u64, is_stored: bool },
    Head { partition: PartitionId, tag: u64, room: RoomName },
    Part { partition: PartitionId, tag: u64, ticket: u64, room: RoomName, after: Option<u64>, before: Option<u64>, limit: usize },
}

/// The record of a lease, and the one before it, which a stale read gives.
#[derive(Clone, Default)]
pub(crate) struct Stored {
    pub(crate) lease: Option<Lease>,
    pub(crate) revision: u64,
    pub(crate) before: (Option<Lease>, u64),
}

impl Stored {
    /// Writes if the revision is the newest; the new one.
    pub(crate) fn write(&mut self, lease: Lease, revision: u64) -> Option<u64> {
        if revision != self.revision {
            return None;
        }
        self.before = (self.lease.take(), self.revision);
        (self.lease, self.revision) = (Some(lease), revision + 1);
        Some(self.revision)
    }
}

impl Replica {
    pub(crate) fn new(life: u64) -> Self {
        let mut id = [0; 16];
        id[8..].copy_from_slice(&life.to_be_bytes());
        Self {
            view: Replicas::new(ReplicaId(id), &[]),
            held: BTreeMap::new(),
            paused_until_ms: 0,
            waiting: Vec::new(),
            down_until_ms: 0,
            skew_ms: 0,
        }
    }

    pub(crate) fn is_running(&self, now_ms: u64) -> bool {
        self.paused_until_ms <= now_ms && self.down_until_ms <= now_ms
    }
}

impl Held {
    pub(crate) fn new(tag: u64, lease: Lease, revision: u64, now_ms: u64) -> Self {
        Self {
            tag,
            lease,
            revision,
            until_ms: now_ms + SERVE_MS,
            refresh_ms: now_ms + REFRESH_MS,
            announce_ms: 0,
            leaves_ms: None,
            rules: None,
            inbox: Vec::new(),
            keys: VecDeque::new(),
            read_early: None,
        }
    }

    /// Takes away each key that is also that of an append under way.
    pub(crate) fn hide_keys(&self, batch: &mut UpBatch) {
        for Up { item } in &mut batch.items {
            if let Some(up::Item::Publish(publish)) = item
                && self.keys.contains(&publish.key)
            {
                publish.key.clear();
            }
        }
    }
}
