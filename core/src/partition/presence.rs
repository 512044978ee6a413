//! Who is in a room, by what the gateways say of their connections. Soft state: a new owner learns it from them, and says
//! nothing that it does not know yet.

use std::collections::BTreeMap;

use carillon_proto::{
    ids::GatewayId,
    link::{Present, PresentUser},
};
use smallvec::SmallVec;

use super::Asker;
use crate::link::{FORGET_MS, PAGE_BYTES};

/// A user whose last connection is gone is told as gone after this: long enough for a reconnect.
pub(super) const GRACE_MS: u64 = 5_000;
/// How long an owner holds its tongue about a room that gateways knew before it did: they notice a lost link within three
/// seconds, and come back at once.
pub(super) const QUIET_MS: u64 = 5_000;
/// Questions about one room that may wait for the end of that.
pub(super) const MAX_ASKING: usize = 4_096;
/// Nobody is shown a ghost of a dead gateway for longer than the 15 s that the contract allows; two are for ticks and the way.
const _: () = assert!(FORGET_MS + GRACE_MS + 2_000 <= 15_000);
/// The most users that an answer names; fewer, where their `info` would be larger than a page.
const MAX_NAMED: usize = 200;

/// The users of one room.
#[derive(Debug, Default)]
pub(super) struct Presence {
    users: BTreeMap<Box<str>, User>,
    /// Connections of all of them.
    members: u64,
    /// Gateways with members that want to be told.
    pub(super) watchers: Vec<GatewayId>,
    /// Until then gateways come back, and what is known here is not the truth.
    pub(super) quiet_until_ms: u64,
    /// Who wants to know who is here, and is told when that is known.
    pub(super) asking: Vec<Question>,
}

/// What is answered once all gateways are back.
#[derive(Debug)]
pub(super) struct Question {
    pub(super) asker: Asker,
    /// Names the answer.
    pub(super) ask: u64,
    /// The user whose connection was counted before all of them were known; without one, who is here.
    pub(super) counted: Option<Box<str>>,
}

#[derive(Debug, Default)]
struct User {
    info: Box<str>,
    connections: SmallVec<[(GatewayId, u32); 1]>,
    /// When the graces of connections end that went without a word, in order: each may be a device that comes back.
    graces: SmallVec<[u64; 1]>,
}

impl User {
    /// So many connections went without a word.
    fn drop_connections(&mut self, count: u32, now_ms: u64) {
        self.graces.retain(|ends_ms| *ends_ms > now_ms);
        let room = MAX_GRACES.saturating_sub(self.graces.len());
        self.graces.extend(std::iter::repeat_n(now_ms + GRACE_MS, room.min(count as usize)));
        // Of more than there are, the last one counts.
        if let Some(last) = self.graces.last_mut() {
            *last = now_ms + GRACE_MS;
        }
    }
}

/// Devices of a user that may be away at a time, as many as the default lets connect.
const MAX_GRACES: usize = 64;

/// What changed for those who watch.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// Nothing that is told.
    Nothing,
    /// The user's first connection.
    In,
    /// The user's last connection is gone, and nobody waits for another.
    Out,
    /// The user's last connection is gone: look again at this time.
    Grace(u64),
}

impl Presence {
    pub(super) fn is_empty(&self) -> bool {
        self.users.is_empty() && self.watchers.is_empty()
    }

    pub(super) fn count(&self) -> u64 {
        self.users.len() as u64
    }

    /// Connections that are members, on all gateways together.
    pub(super) fn members(&self) -> u64 {
        self.members
    }

    /// Whether a user is here, or may come back within the grace.
    pub(super) fn knows(&self, user: &str) -> bool {
        self.users.contains_key(user)
    }

    /// A connection became a member.
    pub(super) fn on_came(&mut self, gateway: GatewayId, user: &str, info: &str) -> Change {
        let is_new = !self.users.contains_key(user);
        self.members += 1;
        let entry = self.users.entry(user.into()).or_default();
        if *entry.info != *info {
            entry.info = info.into();
        }
        // The one that has been away for longest is back.
        if !entry.graces.is_empty() {
            entry.graces.remove(0);
        }
        match entry.connections.iter_mut().find(|(at, _)| *at == gateway) {
            Some((_, count)) => *count += 1,
            None => entry.connections.push((gateway, 1)),
        }
        if is_new { Change::In } else { Change::Nothing }
    }

    /// The connections that were counted early, counted again: who asked, the question, how many connections its user has. Those
    /// that came last are the ones too many, so that each is counted without those that came after it.
    pub(super) fn counted_again(&self, asked: &[Question]) -> Vec<(Asker, u64, u32)> {
        let mut newer: BTreeMap<&str, u32> = BTreeMap::new();
        let counted = asked.iter().rev().filter_map(|Question { asker, ask, counted }| {
            let user = counted.as_deref()?;
            let newer = newer.entry(user).or_default();
            let connections = self.connections(user).saturating_sub(*newer);
            *newer += 1;
            Some((*asker, *ask, connections))
        });
        counted.collect()
    }

    /// How many connections of a user are members, on all gateways together.
    pub(super) fn connections(&self, user: &str) -> u32 {
        self.users.get(user).map_or(0, |entry| entry.connections.iter().map(|(_, count)| count).sum())
    }

    /// A connection is no member any more; `left`: by its own wish.
    pub(super) fn on_went(&mut self, gateway: GatewayId, user: &str, left: bool, now_ms: u64) -> Change {
        let Some(entry) = self.users.get_mut(user) else { return Change::Nothing };
        let Some(index) = entry.connections.iter().position(|(at, _)| *at == gateway) else { return Change::Nothing };
        entry.connections[index].1 -= 1;
        self.members -= 1;
        if entry.connections[index].1 == 0 {
            entry.connections.swap_remove(index);
        }
        if !left {
            entry.drop_connections(1, now_ms);
        }
        // Which of them went is not said, and makes no difference to how many are to be counted again.
        let is_counted = |it: &Question| it.asker.gateway == gateway && it.counted.as_deref() == Some(user);
        if let Some(index) = self.asking.iter().position(is_counted) {
            self.asking.remove(index);
        }
        match entry.graces.last() {
            _ if !entry.connections.is_empty() => Change::Nothing,
            // Another device went without a word, and may be about to come back.
            Some(ends_ms) if *ends_ms > now_ms => Change::Grace(*ends_ms),
            _ => Change::Out,
        }
    }

    /// Everything that a gateway said is void. The users whose last connections those were.
    pub(super) fn on_gateway_gone(&mut self, gateway: GatewayId, now_ms: u64) -> Vec<Box<str>> {
        self.watchers.retain(|watcher| *watcher != gateway);
        self.asking.retain(|question| question.asker.gateway != gateway);
        let mut alone = Vec::new();
        for (user, entry) in &mut self.users {
            let Some(index) = entry.connections.iter().position(|(at, _)| *at == gateway) else { continue };
            let (_, count) = entry.connections.swap_remove(index);
            self.members -= u64::from(count);
            entry.drop_connections(count, now_ms);
            if entry.connections.is_empty() {
                alone.push(user.clone());
            }
        }
        alone
    }

    /// Whether the grace of a user is over.
    pub(super) fn is_over(&self, user: &str, now_ms: u64) -> bool {
        let user = self.users.get(user).filter(|user| user.connections.is_empty());
        user.is_some_and(|user| user.graces.last().is_none_or(|ends_ms| *ends_ms <= now_ms))
    }

    /// Takes a user out, and gives what was known.
    pub(super) fn remove(&mut self, user: &str) -> Box<str> {
        self.users.remove(user).map(|entry| entry.info).unwrap_or_default()
    }

    /// Who is here.
    pub(super) fn present(&self, who: u64, room: &str) -> Present {
        let mut bytes = 0;
        let all = self.users.iter().take(MAX_NAMED).map(|(user, entry)| PresentUser {
            user: user.to_string(),
            info: entry.info.to_string(),
            connections: self.connections(user),
        });
        let named = all.take_while(|user| {
            bytes += user.user.len() + user.info.len() + 16;
            bytes <= PAGE_BYTES
        });
        Present { who, room: room.to_owned(), count: self.count(), users: named.collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: GatewayId = GatewayId([1; 16]);
    const B: GatewayId = GatewayId([2; 16]);

    #[test]
    fn first_in_and_last_out_are_told() {
        let mut presence = Presence::default();
        assert_eq!(presence.on_came(A, "ada", ""), Change::In);
        assert_eq!(presence.on_came(B, "ada", ""), Change::Nothing);
        assert_eq!(presence.on_went(A, "ada", true, 0), Change::Nothing);
        assert_eq!(presence.on_went(B, "ada", true, 0), Change::Out);
    }

    #[test]
    fn connections_are_counted_over_gateways() {
        let mut presence = Presence::default();
        for gateway in [A, A, B] {
            presence.on_came(gateway, "ada", "");
        }
        assert_eq!((presence.connections("ada"), presence.members()), (3, 3));
        presence.on_went(A, "ada", false, 0);
        assert_eq!(presence.connections("ada"), 2);
        presence.on_gateway_gone(B, 0);
        assert_eq!((presence.connections("ada"), presence.connections("bob"), presence.members()), (1, 0, 1));
    }

    #[test]
    fn early_ones_are_counted_again() {
        let mut presence = Presence::default();
        let asker = |gateway| Asker { gateway, link: 1 };
        let counted = |gateway, ask| Question { asker: asker(gateway), ask, counted: Some("ada".into()) };
        for (gateway, ask) in [(A, 1), (B, 2), (A, 3)] {
            presence.on_came(gateway, "ada", "");
            presence.asking.push(counted(gateway, ask));
        }
        presence.asking.push(Question { asker: asker(B), ask: 4, counted: None });
        for _ in 0..5 {
            presence.on_came(B, "ada", "");
        }
        presence.on_went(A, "ada", true, 0);
        // Seven are there, two of them early: one is the seventh, the other one the sixth.
        assert_eq!(presence.counted_again(&presence.asking), [(asker(A), 3, 7), (asker(B), 2, 6)]);
        presence.on_gateway_gone(A, 0);
        assert_eq!(presence.counted_again(&presence.asking), [(asker(B), 2, 6)]);
    }

    #[test]
    fn grace_forgives_a_reconnect() {
        let mut presence = Presence::default();
        presence.on_came(A, "ada", "");
        assert_eq!(presence.on_went(A, "ada", false, 100), Change::Grace(100 + GRACE_MS));
        assert!(!presence.is_over("ada", 100));
        assert_eq!(presence.on_came(B, "ada", ""), Change::Nothing);
        assert!(!presence.is_over("ada", 100 + GRACE_MS));
    }

    #[test]
    fn leaving_cuts_no_other_devices_grace_short() {
        let mut presence = Presence::default();
        for gateway in [A, B] {
            presence.on_came(gateway, "ada", "");
        }
        assert_eq!(presence.on_went(A, "ada", false, 100), Change::Nothing);
        assert_eq!(presence.on_went(B, "ada", true, 1_000), Change::Grace(100 + GRACE_MS));
        assert!(!presence.is_over("ada", 99 + GRACE_MS) && presence.is_over("ada", 100 + GRACE_MS));

        // One of two that were cut off comes back, and leaves: the other one may still come.
        let mut presence = Presence::default();
        for gateway in [A, B] {
            presence.on_came(gateway, "ada", "");
        }
        presence.on_went(A, "ada", false, 100);
        presence.on_went(B, "ada", false, 200);
        presence.on_came(A, "ada", "");
        assert_eq!(presence.on_went(A, "ada", true, 1_000), Change::Grace(200 + GRACE_MS));
        // After all graces, a word is enough.
        presence.on_came(A, "ada", "");
        assert_eq!(presence.on_went(A, "ada", true, 1_001 + GRACE_MS), Change::Out);
    }

    #[test]
    fn lost_gateway_takes_its_own() {
        let mut presence = Presence::default();
        for (gateway, user) in [(A, "ada"), (B, "ada"), (A, "bob")] {
            presence.on_came(gateway, user, "");
        }
        assert_eq!(presence.on_gateway_gone(A, 0), ["bob".into()]);
        assert!(presence.is_over("bob", GRACE_MS) && !presence.is_over("ada", GRACE_MS));
    }

    #[test]
    fn answers_are_bounded_in_bytes() {
        let mut presence = Presence::default();
        let info = format!("{{\"text\":\"{}\"}}", "x".repeat(6_000));
        for number in 0..150 {
            presence.on_came(A, &number.to_string(), &info);
        }
        let present = presence.present(1, "r");
        assert_eq!(present.count, 150);
        assert!((40..45).contains(&present.users.len()), "{}", present.users.len());
    }

    #[test]
    fn unmatched_leaves_change_nothing() {
        let mut presence = Presence::default();
        assert_eq!(presence.on_went(A, "ada", true, 0), Change::Nothing);
        presence.on_came(A, "ada", "");
        assert_eq!(presence.on_went(B, "ada", true, 0), Change::Nothing);
        assert_eq!(presence.count(), 1);
    }
}
