//! The few frames that a yardstick knows, and the WebSocket around them (RFC 6455, sections 4.2.2, 5.2 and 5.3). Trusts its client.

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;
use tungstenite::handshake::derive_accept_key;

/// What a client says.
#[derive(Deserialize)]
pub(crate) struct Said<'a> {
    #[serde(rename = "type")]
    pub(crate) kind: &'a str,
    pub(crate) room: &'a str,
    #[serde(rename = "ref", default)]
    pub(crate) reference: u64,
    #[serde(borrow, default)]
    pub(crate) payload: Option<&'a RawValue>,
}

/// What is read from a socket at once.
pub(crate) const READ_BYTES: usize = 64 * 1024;

/// The answer to a whole upgrade request, and how long that was; `None` while it is not whole.
pub(crate) fn upgrade(head: &[u8]) -> Option<(Vec<u8>, usize)> {
    let end = memchr::memmem::find(head, b"\r\n\r\n")? + 4;
    let text = String::from_utf8_lossy(&head[..end]);
    let header = |name: &str| {
        let lines = text.lines().filter_map(|line| line.split_once(':'));
        lines.into_iter().find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim().to_owned())
    };
    let key = header("sec-websocket-key").unwrap_or_default();
    let mut answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Protocol: carillon.v1\r\n\
         Sec-WebSocket-Accept: {}\r\n\r\n",
        derive_accept_key(key.as_bytes())
    )
    .into_bytes();
    answer.extend_from_slice(&text_frame(br#"{"type":"connected"}"#));
    Some((answer, end))
}

/// Takes the first whole frame off `bytes` and unmasks it: its opcode, its payload, and how long all of it was.
pub(crate) fn take_frame(bytes: &mut [u8]) -> Option<(u8, &mut [u8], usize)> {
    let (first, second) = (*bytes.first()?, *bytes.get(1)?);
    let (start, length) = match second & 0x7f {
        126 => (4, u16::from_be_bytes(*bytes.get(2..)?.first_chunk()?) as usize),
        127 => (10, u64::from_be_bytes(*bytes.get(2..)?.first_chunk()?) as usize),
        length => (2, length as usize),
    };
    let key: [u8; 4] = *bytes.get(start..)?.first_chunk()?;
    let (begin, end) = (start + 4, start + 4 + length);
    let payload = bytes.get_mut(begin..end)?;
    if key != [0; 4] {
        payload.iter_mut().zip(key.iter().cycle()).for_each(|(byte, key)| *byte ^= key);
    }
    Some((first & 0x0f, payload, end))
}

pub(crate) fn text_frame(text: &[u8]) -> Bytes {
    let mut frame = Vec::with_capacity(text.len() + 4);
    frame.push(0x81);
    match text.len() {
        length @ 0..=125 => frame.push(length as u8),
        length => {
            frame.push(126);
            frame.extend_from_slice(&u16::try_from(length).expect("a yardstick's frames are short").to_be_bytes());
        }
    }
    frame.extend_from_slice(text);
    frame.into()
}

/// The answer to `said`.
pub(crate) fn answer(said: &Said<'_>) -> Bytes {
    let (kind, room, reference) = (if said.kind == "join" { "joined" } else { "ack" }, said.room, said.reference);
    text_frame(format!(r#"{{"type":"{kind}","room":"{room}","ref":{reference},"offset":0,"epoch":"none"}}"#).as_bytes())
}

/// What the members of a room get: all the fields of Carillon's frame, so that servers are compared, and not lengths.
pub(crate) fn message(said: &Said<'_>) -> Bytes {
    let payload = said.payload.map_or("null", RawValue::get);
    let ts = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    let room = said.room;
    let rest = r#""sender":"publisher0""#;
    text_frame(
        format!(r#"{{"type":"message","room":"{room}","payload":{payload},{rest},"ts":{ts},"ephemeral":true}}"#).as_bytes(),
    )
}
