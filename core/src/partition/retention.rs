//! How much of a room is kept. The log only forgets what it is told to: what is over the limits counts as trimmed at
//! once, and is purged now and then.

use carillon_proto::ids::{Offset, RoomName};

use crate::grants::matches;

/// What is kept of the rooms that a pattern matches.
#[derive(Debug, Clone)]
pub struct Retention {
    /// Pattern over room names.
    pub rooms: String,
    /// How much.
    pub keep: Keep,
}

/// How much of a room is kept; whichever limit is reached first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keep {
    /// The newest so many messages.
    pub messages: u64,
    /// Messages not older than so many milliseconds.
    pub age_ms: u64,
}

impl Keep {
    /// What is kept where nothing else is said: the protocol's default.
    pub const DEFAULT: Self = Self { messages: 10_000, age_ms: 7 * 86_400_000 };

    /// Of the first pattern that matches.
    pub(super) fn of(all: &[Retention], room: &RoomName) -> Self {
        all.iter().find(|retention| matches(&retention.rooms, room.as_str())).map_or(Self::DEFAULT, |found| found.keep)
    }

    /// The oldest offset that the number of messages leaves.
    pub(super) fn floor(self, head: Offset) -> Offset {
        head.saturating_sub(self.messages) + 1
    }

    /// Messages with an earlier `ts` are too old at this moment.
    pub(super) fn oldest_ts(self, unix_ms: u64) -> u64 {
        unix_ms.saturating_sub(self.age_ms)
    }

    /// Whether it is time to purge what is over the number: every tenth of it, so that a purge is worth its while.
    pub(super) fn purges_at(self, head: Offset) -> bool {
        head > self.messages && head.is_multiple_of((self.messages / 10).max(16))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_match_counts() {
        let keep = |messages| Keep { messages, age_ms: 1 };
        let all = [("chat:*", 5), ("*", 9)].map(|(rooms, count)| Retention { rooms: rooms.into(), keep: keep(count) });
        assert_eq!(Keep::of(&all, &RoomName::parse("chat:1").unwrap()), keep(5));
        assert_eq!(Keep::of(&all, &RoomName::parse("news").unwrap()), keep(9));
        assert_eq!(Keep::of(&[], &RoomName::parse("news").unwrap()), Keep::DEFAULT);
    }

    #[test]
    fn floor_keeps_the_number() {
        let keep = Keep { messages: 10, age_ms: 1 };
        assert_eq!((keep.floor(0), keep.floor(10), keep.floor(11)), (1, 1, 2));
    }
}
