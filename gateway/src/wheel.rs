//! Everything that is due later, for all connections of a shard: one entry each instead of a timer each.

use std::{collections::BTreeMap, num::NonZeroU32};

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

/// Entries that fall due together: how many times [`SLOT_MS`] after the start, and never 0. 32 bits are seven years.
pub(crate) type Slot = NonZeroU32;

#[derive(Debug, Default)]
pub(crate) struct Wheel {
    slots: BTreeMap<Slot, Vec<(Conn, Due)>>,
}

impl Wheel {
    /// When something that is due at this time falls due.
    pub(crate) fn slot_of(at_ms: u64) -> Slot {
        let slot = u32::try_from(at_ms.div_ceil(SLOT_MS)).unwrap_or(u32::MAX);
        Slot::new(slot).unwrap_or(Slot::MIN)
    }

    /// The slot is for [`Self::schedule_one`].
    pub(crate) fn schedule(&mut self, at_ms: u64, conn: Conn, due: Due) -> Slot {
        let slot = Self::slot_of(at_ms);
        self.slots.entry(slot).or_default().push((conn, due));
        slot
    }

    /// As [`Self::schedule`], for what has at most one entry: the one that it has already stays if it is due sooner.
    pub(crate) fn schedule_one(&mut self, standing: Option<Slot>, at_ms: u64, conn: Conn, due: Due) -> Slot {
        match standing {
            Some(slot) if slot <= Self::slot_of(at_ms) => slot,
            Some(slot) => {
                self.cancel(slot, conn, due);
                self.schedule(at_ms, conn, due)
            }
            None => self.schedule(at_ms, conn, due),
        }
    }

    /// Takes out what was scheduled there. Goes through all that falls due with it.
    fn cancel(&mut self, slot: Slot, conn: Conn, due: Due) {
        if let Some(entries) = self.slots.get_mut(&slot)
            && let Some(place) = entries.iter().position(|entry| *entry == (conn, due))
        {
            entries.swap_remove(place);
            if entries.is_empty() {
                self.slots.remove(&slot);
            }
        }
    }

    /// The next slot that is due. Entries of connections that have gone meanwhile are among it.
    pub(crate) fn pop(&mut self, now_ms: u64) -> Option<Vec<(Conn, Due)>> {
        let (slot, _) = self.slots.first_key_value().filter(|(slot, _)| u64::from(slot.get()) <= now_ms / SLOT_MS)?;
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

    #[test]
    fn one_entry_is_enough_however_often_its_time_changes() {
        let mut wheel = Wheel::default();
        let conn = Conn { index: 0, life: 0 };
        wheel.schedule(1000, conn, Due::Heartbeat);
        let mut slot = None;
        for times in 0..100 {
            slot = Some(wheel.schedule_one(slot, if times % 2 == 0 { 5000 } else { 1000 }, conn, Due::Expiry));
        }
        assert_eq!(slot, Some(Wheel::slot_of(1000)));
        assert_eq!(wheel.pop(1000), Some(vec![(conn, Due::Heartbeat), (conn, Due::Expiry)]));
        assert_eq!(wheel.pop(u64::MAX / 2), None);
    }
}
