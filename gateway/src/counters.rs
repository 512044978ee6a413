//! What a gateway did, as numbers that any thread may read. The shards count for themselves and add up here now and
//! then, so that no message pays for a shared cache line.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex,
        atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
};

use carillon_core::rooms::RoomCounts;
use carillon_platform::telemetry::{Figures, Histogram, Reading, SharedHistogram, Unit};
use carillon_proto::{
    codes::{Close, ErrorCode},
    status::{Closes, Counts, Doors, Status},
};

use crate::door::DOORS;

/// Counters of all shards of a process.
#[derive(Debug, Default)]
pub struct Counters {
    connections: [AtomicI64; DOORS.len()],
    frames_in: [AtomicU64; DOORS.len()],
    frames_out: [AtomicU64; DOORS.len()],
    refusals: [AtomicU64; ErrorCode::ALL.len()],
    unknown_outcomes: AtomicU64,
    rooms: AtomicI64,
    outbox_bytes: AtomicI64,
    outbox_limit_bytes: AtomicI64,
    deliveries_in: AtomicU64,
    deliveries_out: AtomicU64,
    attaches: AtomicU64,
    repairs: AtomicU64,
    publishes: AtomicU64,
    recovered: AtomicU64,
    trimmed: AtomicU64,
    other_life: AtomicU64,
    publish_took: SharedHistogram,
    delivery_took: SharedHistogram,
    closes: Mutex<BTreeMap<(u16, &'static str), u64>>,
    /// Connections of all shards that have a place now; not a number that lags, as the others are.
    places: AtomicUsize,
    strangers_evicted: AtomicU64,
    answers_stalled: AtomicU64,
}

/// What one shard has counted and told so far. Whatever happens once per member is a plain addition here.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// By door, as all that follows with so many places.
    pub(crate) connections: [i64; DOORS.len()],
    pub(crate) frames_in: [u64; DOORS.len()],
    /// From a publish to its answer.
    pub(crate) publish_took: Histogram,
    /// From the time of a stored message to its members' outboxes.
    pub(crate) delivery_took: Histogram,
    told: Told,
}

/// What a shard's hub has counted.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct HubCounts {
    pub(crate) frames_out: [u64; DOORS.len()],
    pub(crate) refusals: [u64; ErrorCode::ALL.len()],
    pub(crate) unknown_outcomes: u64,
}

/// How much a shard holds now.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Held {
    pub(crate) rooms: i64,
    pub(crate) outbox_bytes: i64,
    pub(crate) outbox_limit_bytes: i64,
}

#[derive(Debug, Default)]
struct Told {
    connections: [i64; DOORS.len()],
    frames_in: [u64; DOORS.len()],
    hub: HubCounts,
    held: Held,
    counts: RoomCounts,
}

impl Counters {
    /// Takes a place for a connection, if fewer than `most` are taken.
    pub(crate) fn take_place(&self, most: usize) -> bool {
        self.places.fetch_update(Relaxed, Relaxed, |taken| (taken < most).then_some(taken + 1)).is_ok()
    }

    /// The connection has gone.
    pub(crate) fn leave_place(&self) {
        self.places.fetch_sub(1, Relaxed);
    }

    /// A socket that had shown no token yet was closed for another one.
    pub(crate) fn on_stranger_evicted(&self) {
        self.strangers_evicted.fetch_add(1, Relaxed);
    }

    /// A socket was closed because nothing of an answer was taken.
    pub(crate) fn on_answer_stalled(&self) {
        self.answers_stalled.fetch_add(1, Relaxed);
    }

    /// A connection was closed by this server.
    pub(crate) fn on_close(&self, why: Close) {
        *self.closes.lock().expect("nobody panics while counting").entry((why.code(), why.name())).or_default() += 1;
    }

    /// How much there is and was, for other gateways and for an admin. Durations are all so far.
    pub(crate) fn status(&self) -> Status {
        let level = |count: &AtomicI64| count.load(Relaxed).max(0) as u64;
        let [native, events, requests, socketio] = self.connections.each_ref().map(level);
        let closes = self.closes.lock().expect("nobody panics while counting").clone();
        let close = |((code, reason), count): ((u16, &str), u64)| Closes { code: code.into(), reason: reason.into(), count };
        Status {
            connections: Some(Doors { native, events, requests, socketio }),
            rooms: level(&self.rooms),
            outbox_bytes: level(&self.outbox_bytes),
            counts: Some(Counts {
                publishes: self.publishes.load(Relaxed),
                deliveries_in: self.deliveries_in.load(Relaxed),
                deliveries_out: self.deliveries_out.load(Relaxed),
                frames_in: self.frames_in.iter().map(|count| count.load(Relaxed)).sum(),
            }),
            closes: closes.into_iter().map(close).collect(),
            publish_took: self.publish_took.read().counts.to_vec(),
            delivery_took: self.delivery_took.read().counts.to_vec(),
            ..Status::default()
        }
    }

    /// Adds what a shard has counted since it was last added.
    pub(crate) fn add(&self, tally: &mut Tally, hub: HubCounts, held: Held, counts: RoomCounts) {
        let told = &mut tally.told;
        for door in 0..DOORS.len() {
            self.connections[door].fetch_add(tally.connections[door] - told.connections[door], Relaxed);
            more(&self.frames_in[door], tally.frames_in[door], told.frames_in[door]);
            more(&self.frames_out[door], hub.frames_out[door], told.hub.frames_out[door]);
        }
        for code in 0..ErrorCode::ALL.len() {
            more(&self.refusals[code], hub.refusals[code], told.hub.refusals[code]);
        }
        more(&self.unknown_outcomes, hub.unknown_outcomes, told.hub.unknown_outcomes);
        self.rooms.fetch_add(held.rooms - told.held.rooms, Relaxed);
        self.outbox_bytes.fetch_add(held.outbox_bytes - told.held.outbox_bytes, Relaxed);
        self.outbox_limit_bytes.fetch_add(held.outbox_limit_bytes - told.held.outbox_limit_bytes, Relaxed);
        more(&self.deliveries_in, counts.deliveries_in, told.counts.deliveries_in);
        more(&self.deliveries_out, counts.deliveries_out, told.counts.deliveries_out);
        more(&self.attaches, counts.attaches, told.counts.attaches);
        more(&self.repairs, counts.repairs, told.counts.repairs);
        more(&self.publishes, counts.publishes, told.counts.publishes);
        more(&self.recovered, counts.recovered, told.counts.recovered);
        more(&self.trimmed, counts.trimmed, told.counts.trimmed);
        more(&self.other_life, counts.other_life, told.counts.other_life);
        *told = Told { connections: tally.connections, frames_in: tally.frames_in, hub, held, counts };
        self.publish_took.take(&mut tally.publish_took);
        self.delivery_took.take(&mut tally.delivery_took);
    }
}

fn more(counter: &AtomicU64, now: u64, told: u64) {
    if now > told {
        counter.fetch_add(now - told, Relaxed);
    }
}

impl Figures for Counters {
    fn read(&self, to: &mut Reading) {
        let of = |count: &AtomicU64| count.load(Relaxed);
        // What shards add and take away one after the other may be below nothing for a moment.
        let level = |count: &AtomicI64| count.load(Relaxed).max(0) as u64;
        let doors = |counts: [u64; DOORS.len()]| DOORS.into_iter().zip(counts);
        to.gauges(
            "carillon.connections",
            "Connections open now, by door.",
            "door",
            doors(self.connections.each_ref().map(level)),
        );
        let help = "Frames, events and requests that clients sent, by door.";
        to.counters("carillon.frames.received", help, "door", doors(self.frames_in.each_ref().map(of)));
        let help = "Frames, blocks and events that clients were sent, by door.";
        to.counters("carillon.frames.sent", help, "door", doors(self.frames_out.each_ref().map(of)));
        let refusals = ErrorCode::ALL.into_iter().map(ErrorCode::as_str).zip(self.refusals.each_ref().map(of));
        to.counters("carillon.refusals", "Errors that clients were told, by code.", "code", refusals);
        let help = "Publishes without an answer in time: they may or may not be stored.";
        to.counter("carillon.publishes.unknown", help, of(&self.unknown_outcomes));
        let rooms = level(&self.rooms) as f64;
        to.gauge("carillon.gateway.rooms", "Rooms with members on this gateway.", Unit::Count, rooms);
        let waiting = level(&self.outbox_bytes) as f64;
        to.gauge("carillon.outbox", "What waits to be written to all connections.", Unit::Bytes, waiting);
        let limit = level(&self.outbox_limit_bytes) as f64;
        to.gauge("carillon.outbox.limit", "What may wait: limits.outbox_total_bytes.", Unit::Bytes, limit);
        to.counter("carillon.deliveries.received", "Messages that came in from owners.", of(&self.deliveries_in));
        to.counter("carillon.deliveries.sent", "Messages that members were sent.", of(&self.deliveries_out));
        to.counter("carillon.attaches", "Rooms attached at their owner.", of(&self.attaches));
        to.counter("carillon.repairs", "Links to owners that broke and were opened anew.", of(&self.repairs));
        to.counter("carillon.publishes", "Messages that clients published.", of(&self.publishes));
        let resumes = [("recovered", &self.recovered), ("trimmed", &self.trimmed), ("epoch", &self.other_life)];
        let help = "Resumes, by outcome: recovered, or why not.";
        to.counters("carillon.resumes", help, "outcome", resumes.map(|(outcome, count)| (outcome, of(count))));
        let help = "Time from a publish to the owner's answer.";
        to.durations("carillon.publish.duration", help, self.publish_took.read());
        let help =
            "Time from a message's `ts` to the outboxes of a gateway's members; between machines it is as exact as their clocks.";
        to.durations("carillon.delivery.duration", help, self.delivery_took.read());
        let help = "Sockets closed before they had shown a token, because of limits.unauthenticated.";
        to.counter("carillon.strangers.evicted", help, of(&self.strangers_evicted));
        let help = "Sockets closed because their client took nothing of an answer over HTTP for limits.answer_stall_ms.";
        to.counter("carillon.answers.stalled", help, of(&self.answers_stalled));
        let mut closes = BTreeMap::<u16, u64>::new();
        for ((code, _), count) in self.closes.lock().expect("nobody panics while counting").iter() {
            *closes.entry(*code).or_default() += count;
        }
        to.counters("carillon.closes", "Connections closed by this server, by close code.", "code", closes);
    }
}
