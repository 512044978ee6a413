//! Who owns which partition, as one fanout replica sees it: one lease per partition, refreshed by its holder; partitions
//! spread evenly over the replicas that live. Knows no store and no bus: records and notes come in with the time, and
//! [`Replicas::wish`] tells what to do about a partition. The record alone decides: of two replicas that wish the same
//! partition, the one whose write comes first has it, so that a wrong view costs a moment and never an order.
//!
//! ```text
//!   free ──take──▶ held ──refresh, refresh, …──▶ given away, or left ─▶ free
//!                   ╰── no refresh for TAKE_AFTER_MS ──taken by another──▶ held
//! ```

use std::collections::BTreeMap;

use carillon_proto::{
    ids::{PARTITIONS, PartitionId},
    lease::Lease,
};

/// How often a holder writes its lease anew.
pub const REFRESH_MS: u64 = 1_500;
/// A lease that was not written for so long, by the clock of whoever looks, may be taken: three refreshes are missing.
pub const TAKE_AFTER_MS: u64 = 5_000;
/// So long after the start of its last successful write, by its own clock, a holder falls silent. Shorter than
/// [`TAKE_AFTER_MS`] by more than two clocks drift apart in that time: it is silent before anybody else may speak.
pub const SERVE_MS: u64 = 4_500;
/// A replica that was not heard for so long is not counted on any more; they say something every second.
pub const REPLICA_SILENCE_MS: u64 = 3_500;
/// How often a replica says that it lives.
pub const NOTE_MS: u64 = 1_000;

const _: () = assert!(SERVE_MS < TAKE_AFTER_MS && 2 * REFRESH_MS < SERVE_MS);

/// One life of one fanout replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReplicaId(pub [u8; 16]);

impl ReplicaId {
    /// From the 16 bytes of the wire.
    pub fn from_wire(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }
}

/// What to do about a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// It is held here, and stays.
    Keep,
    /// It is held here, and another replica is to have it, or whoever wants it where none is named.
    GiveAway(Option<ReplicaId>),
    /// It is free, or its holder has gone silent: write the lease.
    Take,
    /// It is somebody else's, or somebody else's to take.
    Wait,
}

/// The replicas and the leases, seen from one of them.
#[derive(Debug)]
pub struct Replicas {
    me: ReplicaId,
    place: Box<[u8]>,
    is_leaving: bool,
    others: BTreeMap<ReplicaId, Heard>,
    leases: [Seen; PARTITIONS as usize],
}

#[derive(Debug, Clone, Copy)]
struct Heard {
    at_ms: u64,
    is_leaving: bool,
}

/// A lease, and since when it has been as it is.
#[derive(Debug, Clone, Copy, Default)]
struct Seen {
    holder: Option<ReplicaId>,
    /// `None` until it was read the first time.
    revision: Option<u64>,
    since_ms: u64,
}

impl Replicas {
    /// Nothing is known yet. Where `place` is not empty, no other process can be in it: what was held from there is free.
    pub fn new(me: ReplicaId, place: &[u8]) -> Self {
        Self {
            me,
            place: place.into(),
            is_leaving: false,
            others: BTreeMap::new(),
            leases: [Seen::default(); PARTITIONS as usize],
        }
    }

    /// Which replica looks.
    pub fn me(&self) -> ReplicaId {
        self.me
    }

    /// This replica is about to end: it gives everything away and takes nothing.
    pub fn leave(&mut self) {
        self.is_leaving = true;
    }

    /// Whether [`Self::leave`] was called.
    pub fn is_leaving(&self) -> bool {
        self.is_leaving
    }

    /// Another replica says that it lives, or that it is about to end.
    pub fn on_note(&mut self, replica: ReplicaId, is_leaving: bool, now_ms: u64) {
        if replica != self.me {
            self.others.insert(replica, Heard { at_ms: now_ms, is_leaving });
        }
        self.others.retain(|_, heard| now_ms.saturating_sub(heard.at_ms) < 2 * REPLICA_SILENCE_MS);
    }

    /// The lease of a partition was read or written; revision 0 is none.
    pub fn on_lease(&mut self, partition: PartitionId, lease: Option<&Lease>, revision: u64, now_ms: u64) {
        let seen = &mut self.leases[partition.index()];
        if seen.revision != Some(revision) {
            let is_here = |lease: &Lease| !self.place.is_empty() && *lease.place == *self.place;
            let holder = lease
                .and_then(|lease| ReplicaId::from_wire(&lease.holder).filter(|holder| *holder == self.me || !is_here(lease)));
            *seen = Seen { holder, revision: Some(revision), since_ms: now_ms };
        }
    }

    /// What to do about a partition now.
    pub fn wish(&self, partition: PartitionId, now_ms: u64) -> Wish {
        let seen = self.leases[partition.index()];
        if seen.revision.is_none() {
            return Wish::Wait;
        }
        let target = self.target(partition, now_ms);
        if seen.holder == Some(self.me) {
            return match target {
                Some(target) if target == self.me => Wish::Keep,
                None if !self.is_leaving => Wish::Keep,
                target => Wish::GiveAway(target),
            };
        }
        let unwritten_ms = now_ms.saturating_sub(seen.since_ms);
        if self.is_leaving || (seen.holder.is_some() && unwritten_ms < TAKE_AFTER_MS) {
            return Wish::Wait;
        }
        // Whoever was to have it may have died just now: then anybody will do.
        let patience_ms = if seen.holder.is_some() { 2 * TAKE_AFTER_MS } else { TAKE_AFTER_MS };
        if target == Some(self.me) || unwritten_ms >= patience_ms { Wish::Take } else { Wish::Wait }
    }

    /// Who is to have a partition: everybody keeps what it has up to its share, and what is over or free goes to those that
    /// have less, in an order that is the same for all who know the same.
    fn target(&self, partition: PartitionId, now_ms: u64) -> Option<ReplicaId> {
        let mut held: BTreeMap<ReplicaId, Vec<usize>> = BTreeMap::new();
        if !self.is_leaving {
            held.insert(self.me, Vec::new());
        }
        for (replica, heard) in &self.others {
            if !heard.is_leaving && now_ms.saturating_sub(heard.at_ms) < REPLICA_SILENCE_MS {
                held.insert(*replica, Vec::new());
            }
        }
        let mut free = Vec::new();
        for (index, seen) in self.leases.iter().enumerate() {
            let is_fresh = now_ms.saturating_sub(seen.since_ms) < TAKE_AFTER_MS;
            let holder = seen.holder.filter(|holder| is_fresh || *holder == self.me);
            match holder.and_then(|holder| held.get_mut(&holder)) {
                Some(theirs) => theirs.push(index),
                None => free.push(index),
            }
        }
        if held.is_empty() {
            return None;
        }
        let count = held.len();
        let mut replicas: Vec<(ReplicaId, Vec<usize>)> = held.into_iter().collect();
        // Those who have most get the larger shares, so that as few as possible move.
        replicas.sort_by_key(|(replica, theirs)| (usize::MAX - theirs.len(), *replica));
        let (share, larger) = (usize::from(PARTITIONS) / count, usize::from(PARTITIONS) % count);
        let share_of = |place: usize| share + usize::from(place < larger);
        for (place, (_, theirs)) in replicas.iter_mut().enumerate() {
            free.extend(theirs.split_off(theirs.len().min(share_of(place))));
        }
        free.sort_unstable();
        let mut free = free.into_iter();
        for (place, (replica, theirs)) in replicas.iter_mut().enumerate() {
            let lacks = share_of(place) - theirs.len();
            theirs.extend(free.by_ref().take(lacks));
            if theirs.contains(&partition.index()) {
                return Some(*replica);
            }
        }
        None
    }
}

/// The generation of the owner that takes a lease. It grows with each, and goes on growing where the records were lost: the
/// clock takes the place of what is not known any more.
pub fn next_generation(before: Option<&Lease>, unix_ms: u64) -> u64 {
    before.map_or(0, |lease| lease.generation).saturating_add(1).max(unix_ms)
}

/// The incarnation of a partition's log, in the form that epochs have: another one after each loss of its tail.
pub fn incarnation(log: &str, losses: u64) -> String {
    if losses == 0 { log.to_owned() } else { format!("{log}-{losses}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Replicas around one store of leases, each with a view of its own; notes and reads arrive at once.
    struct Desk {
        now_ms: u64,
        views: BTreeMap<u8, Replicas>,
        leases: [(Option<u8>, u64); PARTITIONS as usize],
    }

    fn id(n: u8) -> ReplicaId {
        ReplicaId([n; 16])
    }

    impl Desk {
        fn new() -> Self {
            Self { now_ms: 1_000, views: BTreeMap::new(), leases: [(None, 0); PARTITIONS as usize] }
        }

        fn start(&mut self, n: u8) {
            self.views.insert(n, Replicas::new(id(n), &[]));
        }

        /// A quarter of a second of everybody doing what they wish; a holder that is not here any more refreshes nothing.
        fn step(&mut self) {
            self.now_ms += 250;
            let said: Vec<(u8, bool)> = self.views.iter().map(|(n, view)| (*n, view.is_leaving())).collect();
            for view in self.views.values_mut() {
                for (n, is_leaving) in &said {
                    view.on_note(id(*n), *is_leaving, self.now_ms);
                }
            }
            for index in 0..usize::from(PARTITIONS) {
                if let (Some(holder), revision) = &mut self.leases[index]
                    && self.views.contains_key(holder)
                {
                    *revision += 1;
                }
                self.show(index);
                for n in self.views.keys().copied().collect::<Vec<_>>() {
                    let holder = match self.views[&n].wish(PartitionId(index as u8), self.now_ms) {
                        Wish::Take => Some(n),
                        Wish::GiveAway(_) => None,
                        Wish::Keep | Wish::Wait => continue,
                    };
                    self.leases[index] = (holder, self.leases[index].1 + 1);
                    self.show(index);
                }
            }
        }

        fn show(&mut self, index: usize) {
            let (holder, revision) = self.leases[index];
            let lease = Lease { holder: holder.map(|n| vec![n; 16].into()).unwrap_or_default(), ..Lease::default() };
            for view in self.views.values_mut() {
                view.on_lease(PartitionId(index as u8), Some(&lease), revision, self.now_ms);
            }
        }

        fn held(&self) -> Vec<usize> {
            let count = |n: &u8| self.leases.iter().filter(|(holder, _)| holder == &Some(*n)).count();
            self.views.keys().map(count).collect()
        }

        fn steps(&mut self, count: usize) -> Vec<usize> {
            (0..count).for_each(|_| self.step());
            self.held()
        }
    }

    #[test]
    fn partitions_spread_evenly() {
        let mut desk = Desk::new();
        desk.start(1);
        assert_eq!(desk.steps(2), [16]);
        desk.start(2);
        assert_eq!(desk.steps(4), [8, 8]);
        desk.start(3);
        let before = desk.leases;
        let mut held = desk.steps(4);
        held.sort_unstable();
        assert_eq!(held, [5, 5, 6]);
        let moved = before.iter().zip(&desk.leases).filter(|(before, after)| before.0 != after.0).count();
        assert_eq!(moved, 5, "no more than what the new one gets");
        assert_eq!(desk.steps(40), desk.held(), "and then they stay");
    }

    #[test]
    fn leaving_replica_gives_all_away() {
        let mut desk = Desk::new();
        (1..=3).for_each(|n| desk.start(n));
        desk.steps(8);
        desk.views.get_mut(&2).unwrap().leave();
        assert_eq!(desk.steps(4), [8, 0, 8]);
        desk.views.get_mut(&1).unwrap().leave();
        desk.views.get_mut(&3).unwrap().leave();
        assert_eq!(desk.steps(4), [0, 0, 0], "with nobody to have it, it is free");
    }

    #[test]
    fn silent_holder_is_replaced() {
        let mut desk = Desk::new();
        desk.start(1);
        desk.start(2);
        desk.steps(8);
        desk.views.remove(&1);
        assert_eq!(desk.steps(TAKE_AFTER_MS as usize / 250 - 1), [8], "not before its time");
        assert_eq!(desk.steps(2), [16]);
    }

    #[test]
    fn whoever_is_chosen_may_die_too() {
        let mut view = Replicas::new(id(9), &[]);
        let lease = Lease { holder: vec![1; 16].into(), ..Lease::default() };
        for partition in PartitionId::all() {
            view.on_lease(partition, Some(&lease), 1, 0);
        }
        let takes = |view: &Replicas, now_ms| PartitionId::all().filter(|it| view.wish(*it, now_ms) == Wish::Take).count();
        view.on_note(id(2), false, TAKE_AFTER_MS);
        assert_eq!(takes(&view, TAKE_AFTER_MS), 8);
        view.on_note(id(2), false, 2 * TAKE_AFTER_MS);
        assert_eq!(takes(&view, 2 * TAKE_AFTER_MS), 16, "the other one lives, but takes nothing");
    }

    #[test]
    fn place_of_a_dead_holder_is_taken_at_once() {
        let lease = Lease { holder: vec![1; 16].into(), place: vec![7].into(), ..Lease::default() };
        for (place, wish) in [(&[7][..], Wish::Take), (&[8], Wish::Wait), (&[], Wish::Wait)] {
            let mut view = Replicas::new(id(2), place);
            view.on_lease(PartitionId(0), Some(&lease), 1, 0);
            assert_eq!(view.wish(PartitionId(0), 1), wish);
        }
        let nowhere = Lease { place: vec![].into(), ..lease };
        let mut view = Replicas::new(id(2), &[]);
        view.on_lease(PartitionId(0), Some(&nowhere), 1, 0);
        assert_eq!(view.wish(PartitionId(0), 1), Wish::Wait);
    }

    #[test]
    fn unread_lease_is_not_taken() {
        let view = Replicas::new(id(1), &[]);
        assert_eq!(view.wish(PartitionId(0), 1_000_000), Wish::Wait);
    }

    #[test]
    fn generations_grow_whatever_the_clock_says() {
        let lease = Lease { generation: 5_000, ..Lease::default() };
        assert_eq!(next_generation(None, 7), 7);
        assert_eq!(next_generation(Some(&lease), 7), 5_001);
        assert_eq!(next_generation(Some(&lease), 9_000), 9_000);
    }
}
