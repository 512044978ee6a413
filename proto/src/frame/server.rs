//! Server → client. Each frame is written once, as JSON text; doors wrap that text in their own framing.

use std::io::Write as _;

use serde::Serialize;

use crate::{
    codes::ErrorCode,
    ids::{ClientId, Epoch, MessageId, Offset, RoomName, UserId},
};

/// The limits that a client is told in `connected`.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Limits {
    /// The largest message that it may send, in bytes.
    pub frame_bytes: usize,
    /// Rooms that one connection may be in, the personal one not counted.
    pub rooms: usize,
    /// Frames that it may send per second, over a longer time.
    pub frames_per_second: u32,
    /// Frames that it may send at once, where that is less than those of a second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub frames_burst: Option<u32>,
}

/// One message on its way to a member: stored (offset above 0) or ephemeral.
#[derive(Debug, Clone, Copy)]
pub struct Outgoing<'a> {
    /// Where it was said.
    pub room: &'a str,
    /// JSON text.
    pub payload: &'a [u8],
    /// Who said it.
    pub sender: &'a str,
    /// Its position, 0 for an ephemeral one.
    pub offset: Offset,
    /// Its id; ignored for an ephemeral one.
    pub id: MessageId,
    /// Unix milliseconds.
    pub ts: u64,
    /// The room's life; told with offset 1.
    pub epoch: &'a str,
    /// Its idempotency key, told in a `history` to whoever said it; empty: none, or not to be told.
    pub key: &'a str,
}

/// An entry of a `history` frame.
pub type HistoryMessage<'a> = Outgoing<'a>;

/// A user in a room.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Present {
    /// Who.
    pub user: Box<str>,
    /// JSON text of the token's `info`; empty: none.
    pub info: Box<str>,
    /// How many connections of theirs are members.
    pub connections: u32,
}

/// Who is in a room.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Presence {
    /// How many users.
    pub count: u64,
    /// At most 200 of them.
    pub members: Vec<Present>,
}

/// What a client is told. `reference` is its `ref` as JSON text.
#[derive(Debug, Clone, Copy)]
#[allow(missing_docs)] // The fields are the contract's; PROTOCOL.md explains them.
pub enum ServerFrame<'a> {
    Connected {
        user: &'a UserId,
        client: &'a ClientId,
        connection: &'a str,
        expires_at: Option<u64>,
        limits: Limits,
        personal: (&'a RoomName, Offset, &'a Epoch),
    },
    Joined {
        room: &'a RoomName,
        reference: Option<&'a str>,
        offset: Offset,
        epoch: &'a Epoch,
        recovered: bool,
        reason: Option<&'a str>,
        members: Option<&'a Presence>,
    },
    Presence {
        room: &'a RoomName,
        reference: Option<&'a str>,
        presence: &'a Presence,
    },
    /// `info`: JSON text, empty for none.
    UserJoined {
        room: &'a RoomName,
        user: &'a str,
        info: &'a str,
        count: u64,
    },
    /// `info`: JSON text, empty for none.
    UserLeft {
        room: &'a RoomName,
        user: &'a str,
        info: &'a str,
        count: u64,
    },
    Left {
        room: &'a RoomName,
        reference: Option<&'a str>,
    },
    Message(Outgoing<'a>),
    Own {
        room: &'a str,
        offset: Offset,
        id: MessageId,
        ts: u64,
        key: Option<&'a str>,
        /// Not written: for doors that keep where their client stands.
        epoch: &'a str,
    },
    /// `stored` is absent for an ephemeral message.
    Ack {
        reference: &'a str,
        room: &'a RoomName,
        stored: Option<(Offset, MessageId)>,
        ts: u64,
        duplicate: bool,
    },
    History {
        room: &'a RoomName,
        reference: Option<&'a str>,
        messages: &'a [HistoryMessage<'a>],
        more: bool,
        epoch: &'a Epoch,
    },
    /// What a room stored is gone. Answers who asked by HTTP; the wire has no such frame.
    Erased {
        room: &'a RoomName,
        reference: Option<&'a str>,
    },
    Pong {
        reference: Option<&'a str>,
    },
    Refreshed {
        reference: Option<&'a str>,
        expires_at: u64,
    },
    Error {
        code: ErrorCode,
        message: &'a str,
        reference: Option<&'a str>,
        room: Option<&'a RoomName>,
        retry_after_ms: Option<u32>,
        outcome_unknown: bool,
    },
    Draining {
        retry_after_ms: u32,
    },
}

/// How much of a frame is written: every door has its own place for what the others say in fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    /// All of it.
    Frame,
    /// Without `type` and `ref`.
    Answer,
    /// Without `room` as well.
    Resource,
}

impl ServerFrame<'_> {
    /// Appends the frame's JSON text.
    pub fn write(&self, out: &mut Vec<u8>) {
        self.write_part(out, Part::Frame);
    }

    /// Appends the frame's fields without `type` and `ref`, for a door that says those in another way.
    pub fn write_answer(&self, out: &mut Vec<u8>) {
        self.write_part(out, Part::Answer);
    }

    /// Appends the frame's fields without `type`, `ref` and `room`, for an answer about a room that was named in the question.
    pub fn write_resource(&self, out: &mut Vec<u8>) {
        self.write_part(out, Part::Resource);
    }

    /// About as long as its text is, bytes: so that what may be long is not moved while it is written.
    pub fn about_bytes(&self) -> usize {
        /// A message without its payload and its names.
        const MESSAGE_BYTES: usize = 160;
        const OTHER_BYTES: usize = 256;
        let message = |it: &Outgoing<'_>| MESSAGE_BYTES + it.payload.len() + it.room.len() + it.sender.len() + it.key.len();
        match *self {
            Self::History { messages, .. } => OTHER_BYTES + messages.iter().map(message).sum::<usize>(),
            _ => OTHER_BYTES,
        }
    }

    fn write_part(&self, out: &mut Vec<u8>, part: Part) {
        match *self {
            Self::Connected { user, client, connection, expires_at, limits, personal: (room, offset, epoch) } => {
                let mut object = Object::open(out, part, "connected");
                object.text("userId", user.as_str());
                object.text("clientId", client.as_str());
                object.text("connectionId", connection);
                object.maybe(expires_at, |object, at| object.number("expiresAt", at));
                object.value("limits", &limits);
                object.raw("personal", b"{");
                object.inner();
                object.text("room", room.as_str());
                object.number("offset", offset);
                object.text("epoch", epoch.as_str());
                object.out.push(b'}');
                object.close();
            }
            Self::Joined { room, reference, offset, epoch, recovered, reason, members } => {
                let mut object = Object::open(out, part, "joined");
                object.reference(reference);
                object.room(room.as_str());
                object.number("offset", offset);
                object.text("epoch", epoch.as_str());
                object.flag("recovered", recovered);
                object.maybe(reason, |object, reason| object.text("reason", reason));
                object.maybe(members, Object::members);
                object.close();
            }
            Self::Presence { room, reference, presence } => {
                let mut object = Object::open(out, part, "presence");
                object.reference(reference);
                object.room(room.as_str());
                object.number("count", presence.count);
                object.members(presence);
                object.close();
            }
            Self::UserJoined { room, user, info, count } => Object::open(out, part, "userJoined").user(room, user, info, count),
            Self::UserLeft { room, user, info, count } => Object::open(out, part, "userLeft").user(room, user, info, count),
            Self::Left { room, reference } => {
                let mut object = Object::open(out, part, "left");
                object.reference(reference);
                object.room(room.as_str());
                object.close();
            }
            Self::Message(message) => {
                let mut object = Object::open(out, part, "message");
                object.message(&message);
                object.close();
            }
            Self::Own { room, offset, id, ts, key, .. } => {
                let mut object = Object::open(out, part, "own");
                object.room(room);
                object.number("offset", offset);
                object.id(id);
                object.number("ts", ts);
                object.maybe(key, |object, key| object.text("key", key));
                object.close();
            }
            Self::Ack { reference, room, stored, ts, duplicate } => {
                let mut object = Object::open(out, part, "ack");
                object.reference(Some(reference));
                object.room(room.as_str());
                object.maybe(stored, |object, (offset, id)| {
                    object.number("offset", offset);
                    object.id(id);
                });
                object.number("ts", ts);
                if duplicate {
                    object.flag("duplicate", true);
                }
                object.close();
            }
            Self::History { room, reference, messages, more, epoch } => {
                let mut object = Object::open(out, part, "history");
                object.reference(reference);
                object.room(room.as_str());
                object.raw("messages", b"[");
                for (index, message) in messages.iter().enumerate() {
                    if index > 0 {
                        object.out.push(b',');
                    }
                    object.out.push(b'{');
                    object.inner();
                    object.message(message);
                    object.out.push(b'}');
                }
                object.out.push(b']');
                object.flag("more", more);
                object.text("epoch", epoch.as_str());
                object.close();
            }
            Self::Erased { room, reference } => {
                let mut object = Object::open(out, part, "erased");
                object.reference(reference);
                object.room(room.as_str());
                object.close();
            }
            Self::Pong { reference } => {
                let mut object = Object::open(out, part, "pong");
                object.reference(reference);
                object.close();
            }
            Self::Refreshed { reference, expires_at } => {
                let mut object = Object::open(out, part, "refreshed");
                object.reference(reference);
                object.number("expiresAt", expires_at);
                object.close();
            }
            Self::Error { code, message, reference, room, retry_after_ms, outcome_unknown } => {
                let mut object = Object::open(out, part, "error");
                object.reference(reference);
                object.text("code", code.as_str());
                object.text("message", message);
                object.maybe(room, |object, room| object.room(room.as_str()));
                object.maybe(retry_after_ms, |object, ms| object.number("retryAfterMs", u64::from(ms)));
                if outcome_unknown {
                    object.text("outcome", "unknown");
                }
                object.close();
            }
            Self::Draining { retry_after_ms } => {
                let mut object = Object::open(out, part, "draining");
                object.number("retryAfterMs", u64::from(retry_after_ms));
                object.close();
            }
        }
    }

    /// The frame's JSON text on its own.
    pub fn to_json(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(128);
        self.write(&mut out);
        out
    }
}

/// A JSON object under way. Written by hand: the hot frames are a few constant names around bytes that are JSON
/// already.
struct Object<'o> {
    out: &'o mut Vec<u8>,
    part: Part,
    first: bool,
}

impl<'o> Object<'o> {
    fn open(out: &'o mut Vec<u8>, part: Part, kind: &str) -> Self {
        if part != Part::Frame {
            out.push(b'{');
            return Self { out, part, first: true };
        }
        out.extend_from_slice(b"{\"type\":\"");
        out.extend_from_slice(kind.as_bytes());
        out.push(b'"');
        Self { out, part, first: false }
    }

    fn close(self) {
        self.out.push(b'}');
    }

    /// The next name is the first one of an object inside.
    fn inner(&mut self) {
        self.first = true;
    }

    fn raw(&mut self, name: &str, json: &[u8]) {
        if !std::mem::take(&mut self.first) {
            self.out.push(b',');
        }
        self.out.push(b'"');
        self.out.extend_from_slice(name.as_bytes());
        self.out.extend_from_slice(b"\":");
        self.out.extend_from_slice(json);
    }

    fn value(&mut self, name: &str, value: &impl Serialize) {
        self.raw(name, b"");
        serde_json::to_writer(&mut *self.out, value).expect("a Vec takes every byte, and these types are JSON");
    }

    fn text(&mut self, name: &str, text: &str) {
        self.value(name, &text);
    }

    fn number(&mut self, name: &str, number: u64) {
        self.value(name, &number);
    }

    fn flag(&mut self, name: &str, flag: bool) {
        self.raw(name, if flag { b"true" } else { b"false" });
    }

    /// The room that the frame is about.
    fn room(&mut self, room: &str) {
        if self.part != Part::Resource {
            self.text("room", room);
        }
    }

    fn reference(&mut self, reference: Option<&str>) {
        self.maybe(reference.filter(|_| self.part == Part::Frame), |object, json| object.raw("ref", json.as_bytes()));
    }

    fn id(&mut self, id: MessageId) {
        self.raw("id", b"\"");
        write!(self.out, "{id}").expect("a Vec takes every byte");
        self.out.push(b'"');
    }

    fn maybe<T>(&mut self, value: Option<T>, write: impl FnOnce(&mut Self, T)) {
        if let Some(value) = value {
            write(self, value);
        }
    }

    fn members(&mut self, presence: &Presence) {
        self.raw("members", b"[");
        for (index, member) in presence.members.iter().enumerate() {
            if index > 0 {
                self.out.push(b',');
            }
            self.out.push(b'{');
            self.inner();
            self.text("userId", &member.user);
            self.info(&member.info);
            self.number("connections", u64::from(member.connections));
            self.out.push(b'}');
        }
        self.out.push(b']');
        if presence.count > presence.members.len() as u64 {
            self.flag("truncated", true);
        }
    }

    fn user(mut self, room: &RoomName, user: &str, info: &str, count: u64) {
        self.room(room.as_str());
        self.raw("user", b"{");
        self.inner();
        self.text("id", user);
        self.info(info);
        self.out.push(b'}');
        self.number("count", count);
        self.close();
    }

    fn info(&mut self, json: &str) {
        if !json.is_empty() {
            self.raw("info", json.as_bytes());
        }
    }

    fn message(&mut self, message: &Outgoing<'_>) {
        self.text("room", message.room);
        self.raw("payload", message.payload);
        self.text("sender", message.sender);
        if message.offset == 0 {
            self.number("ts", message.ts);
            self.flag("ephemeral", true);
            return;
        }
        self.number("offset", message.offset);
        self.id(message.id);
        self.number("ts", message.ts);
        if message.offset == 1 {
            self.text("epoch", message.epoch);
        }
        if !message.key.is_empty() {
            self.text("key", message.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(frame: &ServerFrame<'_>) -> String {
        String::from_utf8(frame.to_json()).unwrap()
    }

    #[test]
    fn message_carries_payload_bytes() {
        let mut message = Outgoing {
            room: "a\"b",
            payload: br#"{"a":1e400,"a":1.0}"#,
            sender: "u",
            offset: 2,
            id: MessageId([0; 16]),
            ts: 5,
            epoch: "e.1",
            key: "",
        };
        assert_eq!(
            json(&ServerFrame::Message(message)),
            r#"{"type":"message","room":"a\"b","payload":{"a":1e400,"a":1.0},"sender":"u","offset":2,"id":"00000000-0000-0000-0000-000000000000","ts":5}"#
        );
        message.offset = 1;
        assert!(json(&ServerFrame::Message(message)).ends_with(r#""ts":5,"epoch":"e.1"}"#));
        message.offset = 0;
        assert_eq!(
            json(&ServerFrame::Message(message)),
            r#"{"type":"message","room":"a\"b","payload":{"a":1e400,"a":1.0},"sender":"u","ts":5,"ephemeral":true}"#
        );
    }

    #[test]
    fn answers_leave_out_what_the_door_says() {
        let (room, epoch) = (RoomName::parse("r").unwrap(), Epoch::new("i", 1));
        let text = |write: &dyn Fn(&mut Vec<u8>)| {
            let mut out = Vec::new();
            write(&mut out);
            String::from_utf8(out).unwrap()
        };
        let ack = ServerFrame::Ack { reference: "1", room: &room, stored: None, ts: 5, duplicate: false };
        assert_eq!(text(&|out| ack.write_answer(out)), r#"{"room":"r","ts":5}"#);
        let message =
            Outgoing { room: "r", payload: b"1", sender: "u", offset: 2, id: MessageId([0; 16]), ts: 5, epoch: "i.1", key: "k" };
        let history =
            ServerFrame::History { room: &room, reference: Some("1"), messages: &[message], more: false, epoch: &epoch };
        assert_eq!(
            text(&|out| history.write_resource(out)),
            r#"{"messages":[{"room":"r","payload":1,"sender":"u","offset":2,"id":"00000000-0000-0000-0000-000000000000","ts":5,"key":"k"}],"more":false,"epoch":"i.1"}"#
        );
    }

    #[test]
    fn every_frame_is_json() {
        let (room, epoch) = (RoomName::parse("r").unwrap(), Epoch::new("i", 1));
        let (user, client) = (UserId::parse("u").unwrap(), ClientId::parse("c").unwrap());
        let limits = Limits { frame_bytes: 1, rooms: 2, frames_per_second: 3, frames_burst: None };
        let message =
            Outgoing { room: "r", payload: b"1", sender: "u", offset: 1, id: MessageId([1; 16]), ts: 1, epoch: "i.1", key: "" };
        let member = |user: &str, info: &str| Present { user: user.into(), info: info.into(), connections: 2 };
        let presence = Presence { count: 3, members: vec![member("a", ""), member("b", r#"{"n":1}"#)] };
        let frames = [
            ServerFrame::Presence { room: &room, reference: Some("1"), presence: &presence },
            ServerFrame::UserJoined { room: &room, user: "u", info: r#"{"n":1}"#, count: 1 },
            ServerFrame::UserLeft { room: &room, user: "u", info: "", count: 0 },
            ServerFrame::Connected {
                user: &user,
                client: &client,
                connection: "x",
                expires_at: Some(1),
                limits,
                personal: (&room, 0, &epoch),
            },
            ServerFrame::Joined {
                room: &room,
                reference: Some("1"),
                offset: 1,
                epoch: &epoch,
                recovered: false,
                reason: Some("epoch"),
                members: Some(&presence),
            },
            ServerFrame::Left { room: &room, reference: None },
            ServerFrame::Own { room: "r", offset: 1, id: MessageId([1; 16]), ts: 1, key: Some("k"), epoch: "i.1" },
            ServerFrame::Ack { reference: "\"a\"", room: &room, stored: Some((1, MessageId([1; 16]))), ts: 1, duplicate: true },
            ServerFrame::Ack { reference: "1", room: &room, stored: None, ts: 1, duplicate: false },
            ServerFrame::History { room: &room, reference: None, messages: &[message, message], more: true, epoch: &epoch },
            ServerFrame::Pong { reference: None },
            ServerFrame::Erased { room: &room, reference: Some("1") },
            ServerFrame::Refreshed { reference: None, expires_at: 1 },
            ServerFrame::Error {
                code: ErrorCode::Unavailable,
                message: "later",
                reference: Some("1"),
                room: Some(&room),
                retry_after_ms: Some(1),
                outcome_unknown: true,
            },
            ServerFrame::Draining { retry_after_ms: 5 },
        ];
        for frame in frames {
            let text = json(&frame);
            let value: serde_json::Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
            assert!(value["type"].is_string());
        }
    }
}
