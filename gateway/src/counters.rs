//! What a gateway did, as numbers that any thread may read. The shards count for themselves and add up here now and
//! then, so that no message pays for a shared cache line.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    sync::{
        Mutex,
        atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
};

use carillon_core::rooms::RoomCounts;

/// Counters of all shards of a process.
#[derive(Debug, Default)]
pub struct Counters {
    connections: AtomicI64,
    rooms: AtomicI64,
    frames_in: AtomicU64,
    deliveries_in: AtomicU64,
    deliveries_out: AtomicU64,
    attaches: AtomicU64,
    repairs: AtomicU64,
    publishes: AtomicU64,
    closes: Mutex<BTreeMap<u16, u64>>,
    /// Connections of all shards that have a place now; not a number that lags, as the others are.
    places: AtomicUsize,
    strangers_evicted: AtomicU64,
}

/// What one shard has counted and told so far.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) frames_in: u64,
    pub(crate) connections: i64,
    told: Told,
}

#[derive(Debug, Default)]
struct Told {
    frames_in: u64,
    connections: i64,
    rooms: i64,
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

    /// A connection was closed by this server.
    pub(crate) fn on_close(&self, code: u16) {
        *self.closes.lock().expect("nobody panics while counting").entry(code).or_default() += 1;
    }

    pub(crate) fn add(&self, tally: &mut Tally, rooms: usize, counts: RoomCounts) {
        let told = &mut tally.told;
        let rooms = rooms as i64;
        self.connections.fetch_add(tally.connections - told.connections, Relaxed);
        self.rooms.fetch_add(rooms - told.rooms, Relaxed);
        self.frames_in.fetch_add(tally.frames_in - told.frames_in, Relaxed);
        self.deliveries_in.fetch_add(counts.deliveries_in - told.counts.deliveries_in, Relaxed);
        self.deliveries_out.fetch_add(counts.deliveries_out - told.counts.deliveries_out, Relaxed);
        self.attaches.fetch_add(counts.attaches - told.counts.attaches, Relaxed);
        self.repairs.fetch_add(counts.repairs - told.counts.repairs, Relaxed);
        self.publishes.fetch_add(counts.publishes - told.counts.publishes, Relaxed);
        *told = Told { frames_in: tally.frames_in, connections: tally.connections, rooms, counts };
    }

    /// The Prometheus text of all of them.
    pub fn metrics(&self) -> String {
        let mut out = String::new();
        let mut line = |name: &str, kind: &str, help: &str, value: i128| {
            let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}");
        };
        line("carillon_connections", "gauge", "Connections open now.", self.connections.load(Relaxed).into());
        line("carillon_gateway_rooms", "gauge", "Rooms with members on this gateway.", self.rooms.load(Relaxed).into());
        let counters = [
            ("carillon_frames_received_total", "Frames that clients sent.", &self.frames_in),
            ("carillon_deliveries_received_total", "Messages that came in from owners.", &self.deliveries_in),
            ("carillon_deliveries_sent_total", "Messages that members were sent.", &self.deliveries_out),
            ("carillon_attaches_total", "Rooms attached at their owner.", &self.attaches),
            ("carillon_repairs_total", "Links to owners that broke and were opened anew.", &self.repairs),
            (
                "carillon_strangers_evicted_total",
                "Sockets closed before they had shown a token, because of limits.unauthenticated.",
                &self.strangers_evicted,
            ),
            ("carillon_publishes_total", "Messages that clients published.", &self.publishes),
        ];
        for (name, help, value) in counters {
            line(name, "counter", help, value.load(Relaxed).into());
        }
        let _ = writeln!(out, "# HELP carillon_closes_total Connections closed by this server, by close code.");
        let _ = writeln!(out, "# TYPE carillon_closes_total counter");
        for (code, count) in &*self.closes.lock().expect("nobody panics while counting") {
            let _ = writeln!(out, "carillon_closes_total{{code=\"{code}\"}} {count}");
        }
        out
    }
}
