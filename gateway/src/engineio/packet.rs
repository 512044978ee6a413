//! Engine.IO 4 packets, and the payloads that polling carries them in (Engine.IO protocol, "Packet encoding"). Knows no
//! transport and no time.

use std::collections::VecDeque;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;

/// Stands between the packets of a payload.
pub const SEPARATOR: u8 = 0x1e;

/// What a peer says, one WebSocket frame or one part of a payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packet<'a> {
    /// `0`: the server's handshake; from a client it means nothing.
    Open,
    /// `1`: the transport can be closed.
    Close,
    /// `2`, with what stands behind it: `probe` on a WebSocket that wants to take over.
    Ping(&'a str),
    /// `3`
    Pong(&'a str),
    /// `4`
    Message(&'a str),
    /// `5`: the WebSocket takes over.
    Upgrade,
    /// `6`
    Noop,
}

/// Not a packet: the connection must end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed;

/// Reads a packet.
///
/// # Errors
/// [`Malformed`] unless it starts with a type.
pub fn parse(text: &str) -> Result<Packet<'_>, Malformed> {
    let kind = *text.as_bytes().first().ok_or(Malformed)?;
    // A type is one byte, so what follows it starts at a character.
    let rest = || &text[1..];
    Ok(match kind {
        b'0' => Packet::Open,
        b'1' => Packet::Close,
        b'2' => Packet::Ping(rest()),
        b'3' => Packet::Pong(rest()),
        b'4' => Packet::Message(rest()),
        b'5' => Packet::Upgrade,
        b'6' => Packet::Noop,
        _ => return Err(Malformed),
    })
}

/// One part of a payload.
#[derive(Debug, PartialEq, Eq)]
pub enum Part<'a> {
    /// Any packet but a binary message.
    Packet(Packet<'a>),
    /// A binary message.
    Binary(Vec<u8>),
}

/// Reads the body of a POST. All of it or nothing: a payload that is half nonsense is acted on by nobody.
///
/// # Errors
/// [`Malformed`], also for an empty body.
pub fn parse_payload(body: &str) -> Result<Vec<Part<'_>>, Malformed> {
    body.split(char::from(SEPARATOR))
        .map(|part| match part.strip_prefix('b') {
            Some(encoded) => STANDARD.decode(encoded).map(Part::Binary).map_err(|_| Malformed),
            None => parse(part).map(Part::Packet),
        })
        .collect()
}

/// What the peer is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outgoing {
    /// Text, its packet type included: what many peers are told, and what only this one is. Sent as one.
    Text(Bytes, Bytes),
    /// A binary message.
    Binary(Bytes),
}

impl Outgoing {
    /// A packet of fixed text.
    pub const fn fixed(text: &'static str) -> Self {
        Self::Text(Bytes::from_static(text.as_bytes()), Bytes::new())
    }

    /// Bytes that it takes in a queue.
    pub fn len(&self) -> usize {
        match self {
            Self::Text(body, tail) => body.len() + tail.len(),
            Self::Binary(bytes) => bytes.len(),
        }
    }

    /// Whether it is empty, which no packet is.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Takes packets off the front of a queue into one payload: as many as `max_bytes` has room for, and at least one.
pub fn take_payload(queue: &mut VecDeque<Outgoing>, max_bytes: usize) -> Vec<u8> {
    let mut payload = Vec::new();
    while let Some(packet) = queue.front() {
        if !payload.is_empty() {
            if payload.len() + packet.len() > max_bytes {
                break;
            }
            payload.push(SEPARATOR);
        }
        match queue.pop_front().expect("there is a front") {
            Outgoing::Text(body, tail) => {
                payload.extend_from_slice(&body);
                payload.extend_from_slice(&tail);
            }
            Outgoing::Binary(bytes) => {
                payload.push(b'b');
                payload.extend_from_slice(STANDARD.encode(bytes).as_bytes());
            }
        }
    }
    payload
}

/// The packets of a payload that this server made, each as it would go over a WebSocket.
pub fn split_payload(payload: &Bytes) -> Vec<Outgoing> {
    let mut packets = Vec::new();
    for part in payload.split(|byte| *byte == SEPARATOR) {
        match part.strip_prefix(b"b") {
            Some(encoded) => packets.extend(STANDARD.decode(encoded).map(|bytes| Outgoing::Binary(bytes.into()))),
            None if part.is_empty() => {}
            None => packets.push(Outgoing::Text(payload.slice_ref(part), Bytes::new())),
        }
    }
    packets
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_are_told_by_their_first_character() {
        assert_eq!(parse("4hello"), Ok(Packet::Message("hello")));
        assert_eq!(parse("4"), Ok(Packet::Message("")));
        assert_eq!(parse("2probe"), Ok(Packet::Ping("probe")));
        assert_eq!(parse("3"), Ok(Packet::Pong("")));
        assert_eq!(parse("1"), Ok(Packet::Close));
        assert_eq!(parse("5"), Ok(Packet::Upgrade));
        for nonsense in ["", "abc", "7", "é", "b", " 4"] {
            assert_eq!(parse(nonsense), Err(Malformed), "{nonsense:?}");
        }
    }

    #[test]
    fn payload_of_the_protocol_document_is_read() {
        let parts = parse_payload("4hello\x1e2\x1e4world\x1ebAQIDBA==").unwrap();
        let expected = [
            Part::Packet(Packet::Message("hello")),
            Part::Packet(Packet::Ping("")),
            Part::Packet(Packet::Message("world")),
            Part::Binary(vec![1, 2, 3, 4]),
        ];
        assert_eq!(parts, expected);
    }

    #[test]
    fn one_bad_part_spoils_a_payload() {
        for body in ["", "4a\x1e", "\x1e4a", "4a\x1e\x1e4b", "4a\x1ebA", "4a\x1eb====", "4a\x1eabc"] {
            assert_eq!(parse_payload(body), Err(Malformed), "{body:?}");
        }
    }

    #[test]
    fn payloads_are_as_long_as_allowed() {
        let text = |text: &'static str| Outgoing::Text(Bytes::from_static(text.as_bytes()), Bytes::from_static(b"!"));
        let mut queue = VecDeque::from([text("4aaa"), Outgoing::Binary(Bytes::from_static(&[1, 2, 3, 4])), text("4bbb")]);
        assert_eq!(take_payload(&mut queue.clone(), 100), b"4aaa!\x1ebAQIDBA==\x1e4bbb!");
        assert_eq!(take_payload(&mut queue, 1), b"4aaa!");
        assert_eq!(take_payload(&mut queue, 1), b"bAQIDBA==");
        assert_eq!(queue.len(), 1);
    }

    #[test]
    fn payloads_split_into_frames() {
        let packets = split_payload(&Bytes::from_static(b"4a\x1ebAQIDBA==\x1e6"));
        let expected = [Outgoing::fixed("4a"), Outgoing::Binary(Bytes::from_static(&[1, 2, 3, 4])), Outgoing::fixed("6")];
        assert_eq!(packets, expected);
    }
}
