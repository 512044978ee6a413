//! The numbers of a link, one struct per direction's end. A link delivers every batch once and in order, or breaks;
//! what a break means is for [`crate::rooms`] (opens the next link) and [`crate::partition`] (forgets this one).

/// How often a quiet end repeats its last number.
pub const HEARTBEAT_MS: u64 = 1_000;
/// A gateway that heard nothing for so long opens the next link: three missed heartbeats.
pub const SILENCE_MS: u64 = 3_000;
/// An owner that heard nothing for so long forgets the gateway: eight missed heartbeats. With the grace of presence that
/// makes ghosts of a dead gateway disappear after 13 s.
pub const FORGET_MS: u64 = 8_000;
/// A batch holds so many bytes of items at most, one item excepted: with the largest item still below the payload limit of
/// NATS, 1 MiB by default.
pub const BATCH_BYTES: usize = 384 * 1024;
/// A page of messages holds so many bytes at most, one message excepted.
pub const PAGE_BYTES: usize = 256 * 1024;

/// The sending end.
#[derive(Debug, Default)]
pub struct Outward {
    number: u64,
    sent_ms: u64,
}

impl Outward {
    /// The number of the next batch.
    pub fn next(&mut self, now_ms: u64) -> u64 {
        self.number += 1;
        self.sent_ms = now_ms;
        self.number
    }

    /// The number to repeat, if it is time to.
    pub fn heartbeat(&mut self, now_ms: u64) -> Option<u64> {
        if now_ms.saturating_sub(self.sent_ms) < HEARTBEAT_MS {
            return None;
        }
        self.sent_ms = now_ms;
        Some(self.number)
    }
}

/// The receiving end.
#[derive(Debug, Default)]
pub struct Inward {
    number: u64,
}

/// What to do with a batch.
#[derive(Debug, PartialEq, Eq)]
pub enum Arrival {
    /// The next one: act on it.
    Next,
    /// Known already: a heartbeat, or a batch that came twice.
    Old,
    /// Something before it was lost.
    Hole,
}

impl Inward {
    /// Judges the number of a batch that arrived; one without items only repeats a number.
    pub fn on_batch(&mut self, number: u64, has_items: bool) -> Arrival {
        if number <= self.number {
            Arrival::Old
        } else if has_items && number == self.number + 1 {
            self.number = number;
            Arrival::Next
        } else {
            Arrival::Hole
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loss_and_repeats_are_seen() {
        let mut inward = Inward::default();
        assert_eq!(inward.on_batch(1, true), Arrival::Next);
        assert_eq!(inward.on_batch(1, true), Arrival::Old);
        assert_eq!(inward.on_batch(1, false), Arrival::Old);
        assert_eq!(inward.on_batch(3, true), Arrival::Hole);
        assert_eq!(inward.on_batch(2, false), Arrival::Hole);
        assert_eq!(inward.on_batch(2, true), Arrival::Next);
    }

    #[test]
    fn quiet_ends_repeat_their_number() {
        let mut outward = Outward::default();
        assert_eq!(outward.next(0), 1);
        assert_eq!(outward.heartbeat(999), None);
        assert_eq!(outward.heartbeat(1000), Some(1));
        assert_eq!(outward.heartbeat(1001), None);
    }
}
