//! Server-Sent Events (HTML standard, section 9.2): the blocks of `/events`. A message is written once for everyone who
//! sees it; the `id` line that goes before it is each client's own. Every block ends with an empty line.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{
    frame::{Outgoing, ServerFrame},
    ids::{RoomName, UserId},
};

/// Types that mean something else to a client, so that no payload is passed on under them.
const RESERVED: [&str; 4] = ["connected", "gap", "error", "open"];

/// The line that goes before a stored message: where the client stands when it has seen that.
pub fn id_line(cursor: &str) -> Vec<u8> {
    format!("id: {cursor}\n").into()
}

/// A message as the native frame.
pub fn message(message: &Outgoing<'_>) -> Vec<u8> {
    let mut frame = Vec::with_capacity(256);
    ServerFrame::Message(*message).write(&mut frame);
    event("message", &frame)
}

/// A message of a personal room: one whose payload is exactly `{"type": string, "data": any}` under its type, any other as
/// [`message`].
pub fn personal_message(message: &Outgoing<'_>) -> Vec<u8> {
    match typed(message.payload) {
        Some((kind, data)) => event(&kind, data.get().as_bytes()),
        None => self::message(message),
    }
}

/// The first event of a user's own stream.
pub fn connected(user: &UserId) -> Vec<u8> {
    event("connected", serde_json::json!({ "userId": user.as_str() }).to_string().as_bytes())
}

/// A room could not be resumed.
pub fn gap(room: &RoomName, reason: &str) -> Vec<u8> {
    #[derive(Serialize)]
    struct Gap<'a> {
        room: &'a str,
        reason: &'a str,
    }
    let gap = serde_json::to_vec(&Gap { room: room.as_str(), reason }).expect("texts are JSON");
    event("gap", &gap)
}

/// Where the client stands, without any event.
pub fn moved(cursor: &str) -> Vec<u8> {
    format!("id: {cursor}\n\n").into()
}

/// A sign of life; with a cursor if that moved since the client was told.
pub fn heartbeat(cursor: Option<&str>) -> Vec<u8> {
    match cursor {
        Some(cursor) => format!(":heartbeat\nid: {cursor}\n\n").into(),
        None => b":heartbeat\n\n".to_vec(),
    }
}

/// How long a client waits before it comes back.
pub fn retry(ms: u64) -> Vec<u8> {
    format!("retry: {ms}\n\n").into()
}

/// The type and the data of a payload that is exactly that.
fn typed(payload: &[u8]) -> Option<(Cow<'_, str>, &RawValue)> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Typed<'a> {
        #[serde(rename = "type", borrow)]
        kind: Cow<'a, str>,
        #[serde(borrow)]
        data: &'a RawValue,
    }
    // A derived struct would take an array as well.
    if payload.first() != Some(&b'{') {
        return None;
    }
    let Typed { kind, data } = serde_json::from_slice(payload).ok()?;
    let can_travel = !kind.contains(['\n', '\r', '\0']) && !RESERVED.contains(&&*kind);
    can_travel.then_some((kind, data))
}

/// An event. Line breaks of the data, which JSON has only between its tokens, become line breaks of the block; a carriage return
/// is one too, since there is no other way to send it.
fn event(kind: &str, data: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(data.len() + kind.len() + 20);
    out.extend_from_slice(b"event: ");
    out.extend_from_slice(kind.as_bytes());
    for line in data.split(|byte| matches!(byte, b'\n' | b'\r')) {
        out.extend_from_slice(b"\ndata: ");
        out.extend_from_slice(line);
    }
    out.extend_from_slice(b"\n\n");
    out
}
