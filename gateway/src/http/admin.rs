//! `/admin/api/…`: what a gateway shows to whoever has the grant `admin`. All of it is read; what an admin does goes by the routes that
//! backends use.

use std::collections::BTreeMap;

use carillon_core::survey::place;
use carillon_platform::telemetry::BOUNDS_S;
use carillon_proto::{
    codes::ErrorCode,
    status::Status,
    survey::{Connection, ConnectionPlace, ConnectionsAsked, OwnerFound, Room, RoomPlace, RoomsAsked, Sort},
};
use http::{Request, StatusCode};
use serde::Serialize;
use serde_json::{Value, json as value};

use super::{
    Front, Reply, others,
    reply::{Problem, json},
};
use crate::{desk::Connections, upload::Upload};

/// Lines of a page, and what may be asked for.
const LIMIT: u32 = 100;
const MAX_LIMIT: u32 = 1000;

/// What each door is called here, in the order of the doors.
const DOORS: [&str; 4] = ["native", "events", "request", "socketio"];

/// `GET /admin/api/overview`: all gateways, and the owners of all partitions.
pub(super) async fn overview(front: &Front, request: &Request<Upload>) -> Result<Reply, Problem> {
    others::who(front, request.headers(), request.extensions()).await?;
    let gateways = front.desk.gateways();
    let owners: Vec<Value> = front.desk.owners().await.iter().map(owner).collect();
    let mut closes = BTreeMap::new();
    for close in gateways.iter().flat_map(|gateway| &gateway.closes) {
        *closes.entry((close.code, close.reason.as_str())).or_insert(0_u64) += close.count;
    }
    let closes: Vec<Value> =
        closes.into_iter().map(|((code, reason), count)| value!({ "code": code, "reason": reason, "count": count })).collect();
    let own = &gateways[0];
    let body = value!({
        "gateway": own.id,
        "startedAt": own.started_ms,
        "version": own.build,
        "gateways": gateways.iter().map(gateway).collect::<Vec<_>>(),
        "owners": owners,
        "counts": counts(&gateways),
        "latency": {
            "publish": took(gateways.iter().map(|it| &it.publish_took[..])),
            "delivery": took(gateways.iter().map(|it| &it.delivery_took[..])),
        },
        "closes": closes,
    });
    Ok(json(StatusCode::OK, body.to_string()))
}

fn owner(found: &OwnerFound) -> Value {
    value!({ "partition": found.partition, "generation": found.generation, "fanout": found.fanout, "rooms": found.rooms })
}

fn gateway(status: &Status) -> Value {
    let doors = status.connections.unwrap_or_default();
    value!({
        "id": status.id,
        "startedAt": status.started_ms,
        "version": status.build,
        "shards": status.shards,
        "connections": {
            "native": doors.native, "events": doors.events, "socketio": doors.socketio, "request": doors.requests,
        },
        "rooms": status.rooms,
        "outboxBytes": status.outbox_bytes,
        "counts": counts(std::slice::from_ref(status)),
    })
}

fn counts(gateways: &[Status]) -> Value {
    let sum = |count: fn(&carillon_proto::status::Counts) -> u64| -> u64 {
        gateways.iter().filter_map(|gateway| gateway.counts.as_ref()).map(count).sum()
    };
    value!({
        "publishes": sum(|it| it.publishes),
        "deliveriesIn": sum(|it| it.deliveries_in),
        "deliveriesOut": sum(|it| it.deliveries_out),
        "framesIn": sum(|it| it.frames_in),
    })
}

/// Of durations by bucket: how many, and below what the half and 99 of 100 of them are.
fn took<'a>(gateways: impl Iterator<Item = &'a [u64]>) -> Value {
    let mut buckets = [0_u64; BOUNDS_S.len() + 1];
    for gateway in gateways {
        for (bucket, count) in buckets.iter_mut().zip(gateway) {
            *bucket += count;
        }
    }
    value!({ "count": buckets.iter().sum::<u64>(), "p50Ms": quantile(&buckets, 0.5), "p99Ms": quantile(&buckets, 0.99) })
}

/// As if all of a bucket lay evenly between its bounds; the last one has none above, and counts as its lower one.
fn quantile(buckets: &[u64], part: f64) -> Option<f64> {
    let count: u64 = buckets.iter().sum();
    let mut rank = part * count as f64;
    let mut below_s = 0.0;
    for (index, bucket) in buckets.iter().enumerate().filter(|_| count > 0) {
        let above_s = BOUNDS_S.get(index).copied().unwrap_or(below_s);
        if rank <= *bucket as f64 {
            let seconds = below_s + (above_s - below_s) * rank / (*bucket).max(1) as f64;
            return Some((seconds * 1e6).round() / 1e3);
        }
        rank -= *bucket as f64;
        below_s = above_s;
    }
    (count > 0).then_some(below_s * 1e3)
}

/// `GET /admin/api/connections?user=&after=&limit=`: those of all gateways.
pub(super) async fn connections(front: &Front, request: &Request<Upload>) -> Result<Reply, Problem> {
    others::who(front, request.headers(), request.extensions()).await?;
    let asked = Asked::of(request);
    let after = asked.text("after").map(|text| connection_place(&text).ok_or_else(bad_cursor)).transpose()?;
    let asked = ConnectionsAsked { user: asked.text("user"), after, limit: asked.limit()? };
    let Connections { found, missing } = front.desk.connections(asked).await;
    let last = found.lines.last().filter(|_| found.more).and_then(|line| line.place.as_ref());
    let next = last.map(|place| format!("{}.{}.{}", place.gateway, place.shard, place.index));
    let lines: Vec<Value> = found.lines.iter().map(connection).collect();
    Ok(page("connections", front, found.count, lines, next, &missing))
}

fn connection(line: &Connection) -> Value {
    value!({
        "id": line.id,
        "gateway": line.place.as_ref().map(|place| &place.gateway),
        "user": line.user,
        "client": line.client,
        "door": DOORS.get(line.door as usize),
        "rooms": line.rooms,
        "outboxBytes": line.outbox_bytes,
        "since": line.since_s * 1000,
    })
}

/// `GET /admin/api/rooms?prefix=&search=&sort=&after=&limit=`: those with members, at whichever gateways.
pub(super) async fn rooms(front: &Front, request: &Request<Upload>) -> Result<Reply, Problem> {
    others::who(front, request.headers(), request.extensions()).await?;
    let asked = Asked::of(request);
    let sort = match asked.text("sort").as_deref() {
        None | Some("members") => Sort::Members,
        Some("name") => Sort::Name,
        Some("rate") => Sort::Rate,
        Some(_) => return Err(bad("`sort` is members, name or rate")),
    };
    let after = asked.text("after").map(|text| room_place(&text).ok_or_else(bad_cursor)).transpose()?;
    let (prefix, search) = (asked.text("prefix").unwrap_or_default(), asked.text("search").unwrap_or_default());
    let asked = RoomsAsked { prefix, search, sort: sort.into(), after, limit: asked.limit()? };
    let (found, missing) = front.desk.rooms(asked).await;
    let next = found.rooms.last().filter(|_| found.more).map(|line| {
        let RoomPlace { value, room } = place(sort, line);
        format!("{value}.{room}")
    });
    let lines: Vec<Value> = found.rooms.iter().map(room).collect();
    Ok(page("rooms", front, found.count, lines, next, &missing))
}

fn room(line: &Room) -> Value {
    value!({
        "room": line.room,
        "members": line.members,
        "users": line.users,
        "head": line.head,
        "epoch": line.epoch,
        "rate": line.pace as f64 / 1000.0,
    })
}

/// `missing`: who was asked, and did not answer in time.
fn page(name: &str, front: &Front, count: u64, lines: Vec<Value>, next: Option<String>, missing: &[impl Serialize]) -> Reply {
    let mut body = value!({ "gateway": front.desk.id(), "count": count, name: lines });
    if let Some(next) = next {
        body["next"] = next.into();
    }
    if !missing.is_empty() {
        body["missing"] = value!(missing);
    }
    json(StatusCode::OK, body.to_string())
}

fn connection_place(text: &str) -> Option<ConnectionPlace> {
    let mut parts = text.split('.');
    let gateway = parts.next()?.to_owned();
    let place = ConnectionPlace { gateway, shard: parts.next()?.parse().ok()?, index: parts.next()?.parse().ok()? };
    parts.next().is_none().then_some(place)
}

fn room_place(text: &str) -> Option<RoomPlace> {
    let (value, room) = text.split_once('.')?;
    Some(RoomPlace { value: value.parse().ok()?, room: room.to_owned() })
}

fn bad(why: &'static str) -> Problem {
    Problem::new(ErrorCode::BadRequest, why)
}

fn bad_cursor() -> Problem {
    bad("`after` is what `next` of another page said")
}

/// What stands behind the question mark; of a name, the first one counts, and an empty one is none.
struct Asked(Vec<(String, String)>);

impl Asked {
    fn of(request: &Request<Upload>) -> Self {
        let query = request.uri().query().unwrap_or_default();
        Self(form_urlencoded::parse(query.as_bytes()).into_owned().collect())
    }

    fn text(&self, name: &str) -> Option<String> {
        let (_, text) = self.0.iter().find(|(asked, _)| asked == name)?;
        Some(text.clone()).filter(|text| !text.is_empty())
    }

    fn limit(&self) -> Result<u32, Problem> {
        let Some(text) = self.text("limit") else { return Ok(LIMIT) };
        text.parse().ok().filter(|limit| (1..=MAX_LIMIT).contains(limit)).ok_or_else(|| bad("`limit` is 1 to 1000"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_lie_in_their_buckets() {
        let mut buckets = [0; BOUNDS_S.len() + 1];
        assert_eq!(quantile(&buckets, 0.5), None);
        buckets[1] = 98;
        buckets[6] = 2;
        assert_eq!(quantile(&buckets, 0.5), Some(0.755));
        assert_eq!(quantile(&buckets, 0.99), Some(37.5));
        buckets[BOUNDS_S.len()] = 1000;
        assert_eq!(quantile(&buckets, 0.99), Some(10_000.0));
    }
}
