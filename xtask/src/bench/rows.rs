//! The rows of the table: what is measured, of whom, and what is to be reached.

use anyhow::{Context, Result};
use serde_json::Value;

use super::contender::{Place, Running};

/// How one contender is measured once.
type Measure = fn(&Place) -> Result<f64>;

/// One line of the table.
pub(crate) struct Row {
    pub(crate) number: u8,
    pub(crate) what: &'static str,
    pub(crate) unit: &'static str,
    /// In words.
    pub(crate) target: &'static str,
    pub(crate) is_reached: fn(&[f64]) -> bool,
    /// What is compared with the target: from the medians of the contenders, in their order.
    pub(crate) result: fn(&[f64]) -> f64,
    /// Carillon is the first one.
    pub(crate) contenders: &'static [(&'static str, Measure)],
}

const ONE_ROOM: &str = "rooms --rooms 1 --members 1000 --in-flight 16";
const ROOMS: &str = "rooms --rooms 1000 --members 10 --publishers 16 --in-flight 4";
const ONE_ROOM_WIDE: &str = "rooms --rooms 1 --members 1000 --publishers 16 --in-flight 16";
const ROOMS_WIDE: &str = "rooms --rooms 1000 --members 10 --publishers 16 --in-flight 16";

fn figure(report: &Value, name: &str) -> Result<f64> {
    report["figures"][name].as_f64().with_context(|| format!("no {name} in the report"))
}

fn time(report: &Value, of: &str, percentile: &str) -> Result<f64> {
    report["times"][of][percentile].as_f64().with_context(|| format!("no times of {of} in the report"))
}

fn deliveries(place: &Place, server: Result<Running>, scenario: &str) -> Result<f64> {
    figure(&place.load(&server?, &format!("{scenario} --seconds {}", place.seconds))?, "delivered_per_s")
}

fn idle(place: &Place, server: Result<Running>, of: &str, door: &str) -> Result<f64> {
    let scenario = format!("idle --connections {} --rooms 1000 --seconds 3 {door}", place.connections);
    figure(&place.load(&server?, &scenario)?, of)
}

fn latency(place: &Place, server: Result<Running>) -> Result<f64> {
    let scenario = format!(
        "rooms --rooms 1000 --members 10 --publishers 4 --rate 2000 --in-flight 1000 --ephemeral --spin --seconds {}",
        place.seconds
    );
    time(&place.load(&server?, &scenario)?, "delivery", "p99")
}

/// NATS messages per publish beside those of an idle cluster, with so many gateways, one of which has members.
fn messages_per_publish(place: &Place, gateways: usize) -> Result<f64> {
    let mut server = place.cluster(gateways)?;
    // Everyone is on one gateway, the publisher too.
    server.keep_first_url();
    let idle_s = 3.0;
    let before = server.nats_messages()?;
    std::thread::sleep(std::time::Duration::from_secs_f64(idle_s));
    let idle_per_s = (server.nats_messages()? - before) / idle_s;
    let (before, started) = (server.nats_messages()?, std::time::Instant::now());
    let report = place.load(&server, &format!("rooms --rooms 10 --members 5 --rate 200 --seconds {}", place.seconds))?;
    let carried = server.nats_messages()? - before - idle_per_s * started.elapsed().as_secs_f64();
    Ok(carried / figure(&report, "published")?)
}

/// Memory of each of so many; a process here may have 20,000 descriptors.
fn idle_of(place: &Place, connections: usize) -> Result<f64> {
    let scenario = format!("idle --connections {connections} --rooms 1000 --seconds 3");
    figure(&place.load(&place.carillon()?, &scenario)?, "rss_kib_per_connection")
}

fn cpu(place: &Place, server: Result<Running>, rooms: usize, members: usize) -> Result<f64> {
    let rate = 20_000 / members;
    let scenario = format!(
        "rooms --rooms {rooms} --members {members} --publishers 4 --rate {rate} --in-flight 1000 --ephemeral --seconds {}",
        place.seconds
    );
    figure(&place.load(&server?, &scenario)?, "cpu_us_per_delivery")
}

/// The 99th percentile at so many deliveries per second.
fn latency_at(place: &Place, per_s: usize) -> Result<f64> {
    let rate = per_s / 10;
    let scenario = format!(
        "rooms --rooms 1000 --members 10 --publishers 4 --rate {rate} --in-flight 10000 --ephemeral --spin --seconds {}",
        place.seconds
    );
    time(&place.load(&place.carillon()?, &scenario)?, "delivery", "p99")
}

fn deliveries_in(place: &Place, rooms: usize, members: usize) -> Result<f64> {
    let scenario = format!("rooms --rooms {rooms} --members {members} --publishers 4 --in-flight 16 --ephemeral");
    deliveries(place, place.carillon(), &scenario)
}

fn history(place: &Place, rooms: usize) -> Result<f64> {
    let scenario = format!("history --rooms {rooms} --read 200 --limit 50");
    time(&place.load(&place.carillon()?, &scenario)?, "history", "p50")
}

const SOCKETIO: &str = "--door socketio";

pub(crate) const ROWS: &[Row] = &[
    Row {
        number: 1,
        what: "Memory per idle connection, authenticated and in a room (resident, without files)",
        unit: "KiB",
        target: "≤ 2.0 KiB",
        is_reached: |medians| medians[0] <= 2.0,
        result: |medians| medians[0],
        contenders: &[
            ("carillon", |place| idle(place, place.carillon(), "rss_kib_per_connection", "")),
            ("bare tokio", |place| idle(place, place.yardstick("tokio"), "rss_kib_per_connection", "")),
            ("uWebSockets.js", |place| idle(place, place.node("uws.js", None), "rss_kib_per_connection", "")),
            ("ws", |place| idle(place, place.node("ws.js", None), "rss_kib_per_connection", "")),
        ],
    },
    Row {
        number: 2,
        what: "One room of 1000, 16 in flight, not stored: deliveries per second",
        unit: "/s",
        target: "≥ 1.0 × uWebSockets.js",
        is_reached: |medians| medians[0] >= medians[1],
        result: |medians| medians[0] / medians[1],
        contenders: &[
            ("carillon", |place| deliveries(place, place.carillon(), &format!("{ONE_ROOM} --ephemeral"))),
            ("uWebSockets.js", |place| deliveries(place, place.node("uws.js", None), &format!("{ONE_ROOM} --ephemeral"))),
            ("bare tokio", |place| deliveries(place, place.yardstick("tokio"), &format!("{ONE_ROOM} --ephemeral"))),
            ("bare epoll, a write per message", |place| {
                deliveries(place, place.yardstick("epoll"), &format!("{ONE_ROOM} --ephemeral"))
            }),
            ("ws", |place| deliveries(place, place.node("ws.js", None), &format!("{ONE_ROOM} --ephemeral"))),
        ],
    },
    Row {
        number: 3,
        what: "1000 rooms of 10, not stored: deliveries per second",
        unit: "/s",
        target: "≥ 0.85 × bare tokio",
        is_reached: |medians| medians[0] >= 0.85 * medians[1],
        result: |medians| medians[0] / medians[1],
        contenders: &[
            ("carillon", |place| deliveries(place, place.carillon(), &format!("{ROOMS} --ephemeral"))),
            ("bare tokio", |place| deliveries(place, place.yardstick("tokio"), &format!("{ROOMS} --ephemeral"))),
            ("uWebSockets.js", |place| deliveries(place, place.node("uws.js", None), &format!("{ROOMS} --ephemeral"))),
            ("ws", |place| deliveries(place, place.node("ws.js", None), &format!("{ROOMS} --ephemeral"))),
        ],
    },
    Row {
        number: 4,
        what: "One room of 1000, 256 in flight, stored with fsync against not stored: deliveries per second",
        unit: "/s",
        target: "≥ 0.7 × not stored",
        is_reached: |medians| medians[0] >= 0.7 * medians[1],
        result: |medians| medians[0] / medians[1],
        contenders: &[
            ("carillon, stored", |place| deliveries(place, place.carillon(), ONE_ROOM_WIDE)),
            ("carillon, not stored", |place| deliveries(place, place.carillon(), &format!("{ONE_ROOM_WIDE} --ephemeral"))),
        ],
    },
    Row {
        number: 4,
        what: "1000 rooms of 10, 256 in flight, stored with fsync against not stored: deliveries per second",
        unit: "/s",
        target: "≥ 0.7 × not stored",
        is_reached: |medians| medians[0] >= 0.7 * medians[1],
        result: |medians| medians[0] / medians[1],
        contenders: &[
            ("carillon, stored", |place| deliveries(place, place.carillon(), ROOMS_WIDE)),
            ("carillon, not stored", |place| deliveries(place, place.carillon(), &format!("{ROOMS_WIDE} --ephemeral"))),
        ],
    },
    Row {
        number: 5,
        what: "Latency at 20,000 deliveries per second, 1000 rooms of 10, not stored: p99",
        unit: "µs",
        target: "≤ 1.5 × bare tokio",
        is_reached: |medians| medians[0] <= 1.5 * medians[1],
        result: |medians| medians[0] / medians[1],
        contenders: &[
            ("carillon", |place| latency(place, place.carillon())),
            ("bare tokio", |place| latency(place, place.yardstick("tokio"))),
            ("uWebSockets.js", |place| latency(place, place.node("uws.js", None))),
        ],
    },
    Row {
        number: 6,
        what: "Stored publish to its delivery through gateway, NATS, fanout, gateway: p50",
        unit: "µs",
        target: "≤ 3 × NATS request and JetStream ack",
        is_reached: |medians| medians[0] <= 3.0 * medians[1],
        result: |medians| medians[0] / medians[1],
        contenders: &[
            ("carillon", |place| {
                let scenario = format!("rooms --rooms 1 --members 2 --rate 100 --spin --seconds {}", place.seconds);
                time(&place.load(&place.cluster(2)?, &scenario)?, "delivery", "p50")
            }),
            ("NATS request + JetStream ack", |place| place.bare_nats("round", "p50_us")),
        ],
    },
    Row {
        number: 7,
        what: "Acked durable publishes on one core, fsync per group, 256 in flight",
        unit: "/s",
        target: "≥ 0.5 × JetStream's default (no fsync per message)",
        is_reached: |medians| medians[0] >= 0.5 * medians[1],
        result: |medians| medians[0] / medians[1],
        contenders: &[
            ("carillon", |place| {
                let scenario =
                    format!("rooms --rooms 1000 --members 0 --publishers 1 --in-flight 256 --seconds {}", place.seconds);
                figure(&place.load(&place.carillon()?, &scenario)?, "acked_per_s")
            }),
            ("JetStream, one node", |place| place.bare_nats("appends", "per_s")),
        ],
    },
    Row {
        number: 8,
        what: "Connects per second: TCP, upgrade, token verified, personal room",
        unit: "/s",
        target: "≥ 0.5 × bare tokio",
        is_reached: |medians| medians[0] >= 0.5 * medians[1],
        result: |medians| medians[0] / medians[1],
        contenders: &[
            ("carillon", |place| idle(place, place.carillon(), "connects_per_s", "")),
            ("bare tokio", |place| idle(place, place.yardstick("tokio"), "connects_per_s", "")),
            ("uWebSockets.js", |place| idle(place, place.node("uws.js", None), "connects_per_s", "")),
        ],
    },
    Row {
        number: 9,
        what: "Resume storm: all drop, miss 100 messages each, and come back: until all are whole",
        unit: "s",
        target: "≤ 15 s for 10,000",
        is_reached: |medians| medians[0] <= 15.0,
        result: |medians| medians[0],
        contenders: &[("carillon", |place| {
            let scenario = format!("resume --members {} --rooms 100 --missed 100", place.connections);
            figure(&place.load(&place.carillon()?, &scenario)?, "all_whole_after_s")
        })],
    },
    Row {
        number: 10,
        what: "NATS messages per stored publish when one of N gateways holds members, the append and its ack included",
        unit: "messages",
        target: "≤ 2 beside the append and its ack, constant in N",
        is_reached: |medians| medians.iter().all(|median| *median <= 4.0),
        result: |medians| medians.iter().copied().fold(0.0, f64::max),
        contenders: &[
            ("1 gateway", |place| messages_per_publish(place, 1)),
            ("4 gateways", |place| messages_per_publish(place, 4)),
            ("16 gateways", |place| messages_per_publish(place, 16)),
        ],
    },
    Row {
        number: 12,
        what: "Socket.IO door, 1000 rooms of 10, not stored: deliveries per second",
        unit: "/s",
        target: "≥ 2 × Socket.IO 4 with Redis",
        is_reached: |medians| medians[0] >= 2.0 * medians[1],
        result: |medians| medians[0] / medians[1],
        contenders: &[
            ("carillon", |place| deliveries(place, place.carillon(), &format!("{ROOMS} --ephemeral {SOCKETIO}"))),
            ("Socket.IO 4 + Redis adapter", |place| {
                deliveries(place, place.socketio_with_redis(), &format!("{ROOMS} --ephemeral {SOCKETIO}"))
            }),
            ("Socket.IO 4", |place| {
                deliveries(place, place.node("socketio.js", None), &format!("{ROOMS} --ephemeral {SOCKETIO}"))
            }),
        ],
    },
    Row {
        number: 12,
        what: "Socket.IO door, one room of 1000, 16 in flight, not stored: deliveries per second",
        unit: "/s",
        target: "≥ 8 × Socket.IO 4 with Redis",
        is_reached: |medians| medians[0] >= 8.0 * medians[1],
        result: |medians| medians[0] / medians[1],
        contenders: &[
            ("carillon", |place| deliveries(place, place.carillon(), &format!("{ONE_ROOM} --ephemeral {SOCKETIO}"))),
            ("Socket.IO 4 + Redis adapter", |place| {
                deliveries(place, place.socketio_with_redis(), &format!("{ONE_ROOM} --ephemeral {SOCKETIO}"))
            }),
        ],
    },
    Row {
        number: 12,
        what: "Socket.IO door: memory per idle connection (resident, without files)",
        unit: "KiB",
        target: "≤ 1/2 of Socket.IO 4 with Redis",
        is_reached: |medians| medians[0] <= 0.5 * medians[1],
        result: |medians| medians[0] / medians[1],
        contenders: &[
            ("carillon", |place| idle(place, place.carillon(), "rss_kib_per_connection", SOCKETIO)),
            ("Socket.IO 4 + Redis adapter", |place| idle(place, place.socketio_with_redis(), "rss_kib_per_connection", SOCKETIO)),
        ],
    },
    // How cost grows: the same whatever the number of connections, rooms, other rooms.
    Row {
        number: 13,
        what: "Memory per idle connection by their number (resident, without files)",
        unit: "KiB",
        target: "the same at 1,000 and at 19,000, within a quarter",
        is_reached: |medians| medians[1] <= 1.25 * medians[0],
        result: |medians| medians[1] / medians[0],
        contenders: &[
            ("carillon, 1,000", |place| idle_of(place, 1000)),
            ("carillon, 19,000", |place| idle_of(place, 19_000)),
            ("carillon, 10,000", |place| idle_of(place, 10_000)),
        ],
    },
    Row {
        number: 14,
        what: "Processor time per delivery at 20,000 deliveries per second, by rooms",
        unit: "µs",
        target: "from 10 rooms to 1000 it grows as bare tokio's does, within a quarter",
        is_reached: |medians| medians[1] / medians[0] <= 1.25 * medians[3] / medians[2],
        result: |medians| (medians[1] / medians[0]) / (medians[3] / medians[2]),
        contenders: &[
            ("carillon, 10 rooms of 10", |place| cpu(place, place.carillon(), 10, 10)),
            ("carillon, 1000 rooms of 10", |place| cpu(place, place.carillon(), 1000, 10)),
            ("bare tokio, 10 rooms of 10", |place| cpu(place, place.yardstick("tokio"), 10, 10)),
            ("bare tokio, 1000 rooms of 10", |place| cpu(place, place.yardstick("tokio"), 1000, 10)),
            ("carillon, 100 rooms of 10", |place| cpu(place, place.carillon(), 100, 10)),
        ],
    },
    Row {
        number: 15,
        what: "The last 50 messages of a room that nobody is in, by rooms that there are: p50",
        unit: "µs",
        target: "the same with 1,000 as with 100,000, within a quarter",
        is_reached: |medians| medians[1] <= 1.25 * medians[0],
        result: |medians| medians[1] / medians[0],
        contenders: &[
            ("carillon, 1,000 rooms", |place| history(place, 1000)),
            ("carillon, 100,000 rooms", |place| history(place, 100_000)),
        ],
    },
    Row {
        number: 16,
        what: "Telemetry sent to a collector at the default sampling, one room of 1000, stored: deliveries per second",
        unit: "/s",
        target: "≥ 0.95 × without",
        is_reached: |medians| medians[0] >= 0.95 * medians[1],
        result: |medians| medians[0] / medians[1],
        contenders: &[
            ("carillon, with telemetry", |place| deliveries(place, place.carillon_with_telemetry(), ONE_ROOM)),
            ("carillon, without", |place| deliveries(place, place.carillon(), ONE_ROOM)),
        ],
    },
    Row {
        number: 16,
        what: "Telemetry sent to a collector at the default sampling, 1000 rooms of 10, stored: deliveries per second",
        unit: "/s",
        target: "≥ 0.95 × without",
        is_reached: |medians| medians[0] >= 0.95 * medians[1],
        result: |medians| medians[0] / medians[1],
        contenders: &[
            ("carillon, with telemetry", |place| deliveries(place, place.carillon_with_telemetry(), ROOMS)),
            ("carillon, without", |place| deliveries(place, place.carillon(), ROOMS)),
        ],
    },
    Row {
        number: 17,
        what: "Latency by load, 1000 rooms of 10, not stored: p99",
        unit: "µs",
        target: "at half of what a core delivers, no more than three times that of a light load",
        is_reached: |medians| medians[3] <= 3.0 * medians[0],
        result: |medians| medians[3] / medians[0],
        contenders: &[
            ("10,000 deliveries per second", |place| latency_at(place, 10_000)),
            ("20,000", |place| latency_at(place, 20_000)),
            ("40,000", |place| latency_at(place, 40_000)),
            ("50,000", |place| latency_at(place, 50_000)),
            ("60,000", |place| latency_at(place, 60_000)),
            ("80,000", |place| latency_at(place, 80_000)),
            ("100,000", |place| latency_at(place, 100_000)),
        ],
    },
    Row {
        number: 18,
        what: "Deliveries per second by rooms, 64 in flight, not stored",
        unit: "/s",
        target: "none: fewer members share a write where rooms are small",
        is_reached: |_| true,
        result: |medians| medians[2] / medians[0],
        contenders: &[
            ("1 room of 1000", |place| deliveries_in(place, 1, 1000)),
            ("10 rooms of 100", |place| deliveries_in(place, 10, 100)),
            ("1000 rooms of 10", |place| deliveries_in(place, 1000, 10)),
        ],
    },
];
