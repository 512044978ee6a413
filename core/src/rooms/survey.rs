//! What an admin sees of the rooms: a walk over them in pieces, so that no message waits behind all of it, and how busy each is.

use carillon_proto::ids::{Epoch, Offset, PartitionId, RoomName};

use super::Rooms;
use crate::Now;

/// Rates are over one to two of these.
const WINDOW_MS: u64 = 10_000;

/// A room as it is now.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    /// Its name.
    pub room: &'a RoomName,
    /// Connections of this shard that are in it.
    pub members: usize,
    /// Its newest offset, as far as it has come here.
    pub head: Offset,
    /// Its life.
    pub epoch: &'a Epoch,
    /// Messages per second that came in, over the last ten seconds or so.
    pub per_second: f64,
}

impl Rooms {
    /// Shows up to `count` places from the place `from` on. Where to go on; `None` when all were shown. What comes or goes between two
    /// calls may be shown or not.
    pub fn survey(&self, from: usize, count: usize, now: Now, mut show: impl FnMut(View<'_>)) -> Option<usize> {
        let end = from.saturating_add(count);
        for place in from..end.min(self.rooms.capacity()) {
            let Some(room) = self.rooms.get(place) else { continue };
            show(View {
                room: &room.name,
                members: room.members.len(),
                head: room.last,
                epoch: &room.epoch,
                per_second: room.pace.per_second(now.mono_ms),
            });
        }
        (end < self.rooms.capacity()).then_some(end)
    }

    /// The generation of each partition's owner, as last heard from itself; 0 where none was.
    pub fn generations(&self) -> impl Iterator<Item = (PartitionId, u64)> {
        PartitionId::all().zip(self.owners.iter().map(super::Owner::generation))
    }
}

/// How many messages came lately.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Pace {
    window: u32,
    count: u32,
    before: u32,
}

impl Pace {
    pub(super) fn add(&mut self, now_ms: u64) {
        self.roll(now_ms);
        self.count = self.count.saturating_add(1);
    }

    fn roll(&mut self, now_ms: u64) {
        let window = (now_ms / WINDOW_MS) as u32;
        if window != self.window {
            self.before = if window == self.window.wrapping_add(1) { self.count } else { 0 };
            (self.window, self.count) = (window, 0);
        }
    }

    /// The window before counts as far as it reaches into the last ten seconds.
    fn per_second(mut self, now_ms: u64) -> f64 {
        self.roll(now_ms);
        let left = (WINDOW_MS - now_ms % WINDOW_MS) as f64 / WINDOW_MS as f64;
        (f64::from(self.before) * left + f64::from(self.count)) * 1000.0 / WINDOW_MS as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pace_follows_what_comes() {
        let mut pace = Pace::default();
        for now_ms in (0..20_000).step_by(100) {
            pace.add(now_ms);
        }
        assert_eq!(pace.per_second(20_000), 10.0);
        assert_eq!(pace.per_second(25_000), 5.0);
        assert_eq!(pace.per_second(30_000), 0.0);
        assert_eq!(pace.per_second(300_000), 0.0);
    }
}
