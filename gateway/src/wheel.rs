//! Everything that is due later, for all connections of a shard: one entry each instead of a timer each.

use std::collections::BTreeMap;

use carillon_core::rooms::Conn;

/// Entries within so many milliseconds fall due together.
const SLOT_MS: u64 = 50;

/// What may be due for a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Due {
    /// It should have been welcomed by now.
    Welcome,
    /// Ping it, or see whether it answered.
    Heartbeat,
    /// Its token ends.
    Expiry,
    /// Its turn to leave.
    Drain,
    /// Its record is to be written anew.
    Record,
}

#[derive(Debug, Default)]
pub(crate) struct Wheel {
    slots: BTreeMap<u64, Vec<(Conn, Due)>>,
}

impl Wheel {
    pub(crate) fn schedule(&mut self, at_ms: u64, conn: Conn, due: Due) {
        self.slots.entry(at_ms.div_ceil(SLOT_MS)).or_default().push((conn, due));
    }

    /// The next slot that is due. Entries of connections that have gone meanwhile are among it.
    pub(crate) fn pop(&mut self, now_ms: u64) -> Option<Vec<(Conn, Due)>> {
        let (slot, _) = self.slots.first_key_value().filter(|(slot, _)| **slot <= now_ms / SLOT_MS)?;
        let slot = *slot;
        self.slots.remove(&slot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_early() {
        let mut wheel = Wheel::default();
        let conn = Conn { index: 0, life: 0 };
        wheel.schedule(120, conn, Due::Heartbeat);
        wheel.schedule(60, conn, Due::Expiry);
        assert_eq!(wheel.pop(60), None);
        assert_eq!(wheel.pop(119), Some(vec![(conn, Due::Expiry)]));
        assert_eq!(wheel.pop(119), None);
        assert_eq!(wheel.pop(150), Some(vec![(conn, Due::Heartbeat)]));
    }
}
