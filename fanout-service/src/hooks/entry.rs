//! One thing to be told to one receiver, as the bucket keeps it, and as it is told: a request in the manner of Standard Webhooks.

use aws_lc_rs::hmac;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use carillon_platform::settings::HookType;
use carillon_proto::{
    ids::{MessageId, Offset, PartitionId, RoomName},
    log::Record,
};
use serde::{Deserialize, Serialize};

/// What is to be told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entry {
    /// The address of its receiver.
    pub(super) to: String,
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) room: String,
    /// Counts the entries of one owner.
    pub(super) number: u64,
    /// Of a message: the log has the rest.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(super) offset: Offset,
    /// Of anything else: by which its repeats are known.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(super) id: String,
    /// When it happened, Unix milliseconds.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(super) ts: u64,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde hands it over so
fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Entry {
    pub(super) fn kind(&self) -> Option<HookType> {
        HookType::parse(&self.kind)
    }

    pub(super) fn encoded(&self) -> Bytes {
        serde_json::to_vec(self).expect("texts and numbers are JSON").into()
    }

    pub(super) fn decoded(value: &[u8]) -> Option<Self> {
        serde_json::from_slice(value).ok()
    }
}

/// Where an entry lies: in a slot of its owner, which is used again. A key that was deleted leaves a mark in the store, so that it would not do to have a new one for
/// each entry; and slots of an owner's own are safe from what an earlier one may still write.
pub(super) fn key(partition: PartitionId, generation: u64, slot: u64) -> String {
    format!("{}{slot:x}", owner_prefix(partition, generation))
}

/// Owners of a partition sort in their order.
pub(super) fn owner_prefix(partition: PartitionId, generation: u64) -> String {
    format!("{}{generation:016x}.", queue_prefix(partition))
}

/// By what entries of all owners sort in their order.
pub(super) fn order<'k>(key: &'k str, entry: &Entry) -> (&'k str, u64) {
    (key.rsplit_once('.').map_or(key, |(owner, _)| owner), entry.number)
}

pub(super) fn queue_prefix(partition: PartitionId) -> String {
    format!("q.{:02}.", partition.0)
}

/// A request that tells something.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) id: String,
    pub(super) body: String,
}

impl Told {
    /// Of presence.
    pub(super) fn of(entry: &Entry) -> Option<Self> {
        let kind = entry.kind()?;
        let room = RoomName::parse(&entry.room).ok()?;
        let about = match (kind, room.owner()) {
            (HookType::UserOnline | HookType::UserOffline, Some(user)) => format!(r#""user":{}"#, json(user)),
            _ => format!(r#""room":{}"#, json(room.as_str())),
        };
        let (name, time) = (kind.as_str(), iso(entry.ts));
        let body = format!(r#"{{"type":"{name}","timestamp":"{time}","data":{{{about},"ts":{}}}}}"#, entry.ts);
        Some(Self { id: entry.id.clone(), body })
    }

    /// Of a stored message; its payload goes as it came, byte for byte.
    pub(super) fn of_message(record: &Record) -> Option<Self> {
        let id = MessageId::from_wire(&record.id)?.to_string();
        let payload = std::str::from_utf8(&record.payload).ok()?;
        let body = format!(
            r#"{{"type":"{}","timestamp":"{}","data":{{"room":{},"offset":{},"id":"{id}","ts":{},"sender":{},"payload":{payload}}}}}"#,
            HookType::MessageStored.as_str(),
            iso(record.ts),
            json(&record.room),
            record.offset,
            record.ts,
            json(&record.sender),
        );
        Some(Self { id: format!("msg_{id}"), body })
    }

    /// `webhook-signature`, for a request made at this Unix second.
    pub(super) fn signature(&self, secret: &[u8], time_s: u64) -> String {
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
        let signed = hmac::sign(&key, format!("{}.{time_s}.{}", self.id, self.body).as_bytes());
        format!("v1,{}", STANDARD.encode(signed))
    }
}

fn json(text: &str) -> String {
    serde_json::to_string(text).expect("a text is JSON")
}

/// RFC 3339, UTC. The date is Howard Hinnant's `civil_from_days` (<https://howardhinnant.github.io/date_algorithms.html>).
fn iso(unix_ms: u64) -> String {
    let (days, ms) = (unix_ms / 86_400_000, unix_ms % 86_400_000);
    let z = days + 719_468;
    let (era, doe) = (z / 146_097, z % 146_097);
    let yoe = (doe - doe / 1_460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let day = doy - (153 * mp + 2) / 5 + 1;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    let year = yoe + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1_000 % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", ms % 1_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_in_utc() {
        assert_eq!(iso(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(iso(951_782_400_000), "2000-02-29T00:00:00.000Z");
        assert_eq!(iso(1_699_999_999_999), "2023-11-14T22:13:19.999Z");
    }

    /// The vector of Standard Webhooks' own libraries.
    #[test]
    fn signatures_are_those_of_standard_webhooks() {
        let secret = STANDARD.decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let told = Told { id: "msg_p5jXN8AQM9LWM0D4loKWxJek".into(), body: r#"{"test": 2432232314}"#.into() };
        assert_eq!(told.signature(&secret, 1_614_265_330), "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn entries_come_back_as_they_were_and_sort_by_age() {
        let (kind, room, id) = ("user.online".into(), "user:a".into(), "evt_1".into());
        let entry = Entry { to: "http://a".into(), kind, room, number: 7, offset: 0, id, ts: 5 };
        assert_eq!(Entry::decoded(&entry.encoded()), Some(entry.clone()));
        let told = Told::of(&entry).unwrap();
        let body = r#"{"type":"user.online","timestamp":"1970-01-01T00:00:00.005Z","data":{"user":"a","ts":5}}"#;
        assert_eq!((told.id.as_str(), told.body.as_str()), ("evt_1", body));
        let p = PartitionId(3);
        let place = |generation, number| (key(p, generation, 99 - number), Entry { number, ..entry.clone() });
        let mut placed = [place(10, 2), place(9, 20), place(10, 1), place(10, 10)];
        placed.sort_by(|(one, first), (other, second)| order(one, first).cmp(&order(other, second)));
        assert_eq!(placed.map(|(_, entry)| entry.number), [20, 1, 2, 10]);
    }

    #[test]
    fn payloads_go_as_they_came() {
        let record = Record {
            room: "a\"b".into(),
            offset: 7,
            id: Bytes::from_static(&[1; 16]),
            ts: 5,
            sender: "ada".into(),
            payload: Bytes::from_static(br#"{"n":1e400, "n":1.0}"#),
            ..Record::default()
        };
        let told = Told::of_message(&record).unwrap();
        assert!(told.body.ends_with(r#""sender":"ada","payload":{"n":1e400, "n":1.0}}}"#), "{}", told.body);
        assert!(told.body.contains(r#""room":"a\"b","offset":7"#), "{}", told.body);
    }
}
