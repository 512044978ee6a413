//! What goes wrong: how often, and what it does to the parts.

use super::{GATEWAYS, Happening, REPLICAS, SKEW_MS, World};
use crate::{client::Line, replica::Replica};

/// What goes wrong, and how often. Bus faults are percent of batches; the others permille of steps.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Faults {
    pub(crate) lose: u64,
    pub(crate) double: u64,
    pub(crate) delay: u64,
    pub(crate) drop_client: u64,
    pub(crate) crash_owner: u64,
    pub(crate) crash_gateway: u64,
    /// Nothing gets through to or from one gateway for a while.
    pub(crate) cut: u64,
    /// A replica stops for a while, and goes on as if nothing had happened.
    pub(crate) pause_owner: u64,
    /// A replica gives all away and ends, and another one comes some time later.
    pub(crate) replace_owner: u64,
    /// A replica's clock of the day jumps.
    pub(crate) skew: u64,
    /// Percent of acks of the log that get lost, and of leases that are read as they were before.
    pub(crate) log: u64,
    /// Permille of appends that are a long time on their way, with all behind them.
    pub(crate) stall: u64,
    /// So many messages are kept of each room; 0 for all.
    pub(crate) keep: u64,
    /// The log forgets its newest records, acked ones too.
    pub(crate) lose_tail: u64,
}

impl Faults {
    pub(crate) const NONE: Self = Self {
        lose: 0,
        double: 0,
        delay: 0,
        drop_client: 0,
        crash_owner: 0,
        crash_gateway: 0,
        cut: 0,
        pause_owner: 0,
        replace_owner: 0,
        skew: 0,
        log: 0,
        stall: 0,
        keep: 0,
        lose_tail: 0,
    };
}

impl World {
    pub(super) fn break_things(&mut self) {
        if self.chance.permille(self.faults.crash_gateway) {
            let index = self.chance.below(GATEWAYS as u64) as usize;
            self.gateways[index] = self.new_gateway();
            for client in 0..self.clients.len() {
                if matches!(self.clients[client].line, Line::Up { gateway, .. } if gateway == index) {
                    let until_ms = self.now_ms + self.chance.below(2000);
                    self.clients[client].on_down(until_ms);
                }
            }
        }
        self.break_replicas();
        if self.chance.permille(self.faults.lose_tail) {
            let room = &self.rooms[self.chance.below(self.rooms.len() as u64) as usize];
            let log = self.logs.get_mut(&room.partition()).unwrap();
            self.lost.extend(log.lose_tail(1 + self.chance.below(5)));
        }
        if self.chance.permille(self.faults.cut) {
            let index = self.chance.below(GATEWAYS as u64) as usize;
            self.gateways[index].cut_until_ms = self.now_ms + self.chance.below(15_000);
        }
    }

    fn break_replicas(&mut self) {
        let index = self.chance.below(REPLICAS as u64) as usize;
        let now_ms = self.now_ms;
        if self.chance.permille(self.faults.crash_owner) {
            let away_ms = self.chance.below(6000);
            self.replace_replica(index, now_ms + away_ms);
        }
        if self.chance.permille(self.faults.pause_owner) && self.replicas[index].is_running(now_ms) {
            // Mostly beyond the age of a lease.
            let pause_ms = 1 + self.chance.below(12_000);
            self.replicas[index].paused_until_ms = now_ms + pause_ms;
            self.schedule(pause_ms, Happening::Resume(index));
        }
        if self.chance.permille(self.faults.replace_owner) && self.replicas[index].is_running(now_ms) {
            let view = &mut self.replicas[index].view;
            if !view.is_leaving() {
                view.leave();
                let me = view.me();
                // Mostly after it has given everything away.
                let ends_ms = self.chance.below(5_000);
                self.schedule(ends_ms, Happening::Replace { replica: index, me });
            }
        }
        if self.chance.permille(self.faults.skew) {
            self.replicas[index].skew_ms = self.chance.below(2 * SKEW_MS) as i64 - SKEW_MS as i64;
        }
    }

    /// What the old one held stays written until it is old.
    pub(super) fn replace_replica(&mut self, index: usize, from_ms: u64) {
        self.lives += 1;
        self.replicas[index] = Replica { down_until_ms: from_ms, ..Replica::new(self.lives) };
    }
}
