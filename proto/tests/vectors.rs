//! The golden frames of `proto/vectors/`, read by this crate as other languages' tests read them. What is in there is
//! the contract: an entry may be added, and one that has to change is a break of the wire.

use std::{collections::BTreeSet, fs, path::Path};

use carillon_proto::{
    codes::{Close, ErrorCode},
    frame::{ClientFrame, EpochClaim, JoinOptions, Limits, Outgoing, Presence, Present, ServerFrame, Span, parse},
    ids::{ClientId, Epoch, MessageId, NameError, PARTITIONS, RoomName, UserId, fnv1a32},
};
use serde_json::{Map, Value, json, value::RawValue};

/// The sources that read vectors. Which rooms a grant reaches is a rule, so that `carillon-core` reads those; what an event
/// means is known at its door.
const READERS: [&str; 4] = [
    include_str!("vectors.rs"),
    include_str!("doors.rs"),
    include_str!("../../core/tests/vectors.rs"),
    include_str!("../../gateway/src/socketio/events.rs"),
];

#[test]
fn every_vector_has_a_reader() {
    for entry in fs::read_dir(folder()).expect("the vectors are in the repository") {
        let name = entry.expect("listed").file_name().into_string().expect("plain names");
        let call = format!("vectors({name:?})");
        assert!(READERS.iter().any(|reader| reader.contains(&call)), "no test reads proto/vectors/{name}");
    }
}

#[test]
fn client_frames_are_read() {
    let vectors = vectors("client-frames.json");
    let depth = number(&vectors["jsonDepth"]) as usize;
    let mut types = BTreeSet::new();
    for row in rows(&vectors["frames"]) {
        let (name, given) = (text(&row["name"]), text(&row["text"]));
        let reference = row.get("refText").map(text);
        match parse(given, depth) {
            Ok(incoming) => {
                assert_eq!(row.get("frame"), Some(&meaning(&incoming.frame)), "{name}");
                assert_eq!(incoming.reference, reference, "the ref of: {name}");
                types.insert(text(&row["frame"]["type"]));
            }
            Err(refused) => {
                assert_eq!(row.get("error"), Some(&json!(refused.code.as_str())), "{name}: {}", refused.message);
                assert_eq!(refused.reference.as_deref(), reference, "the ref of: {name}");
            }
        }
    }
    assert_eq!(types, BTreeSet::from(["broadcast", "history", "join", "leave", "ping", "presence", "refresh"]));
}

fn epoch_of(options: &JoinOptions) -> Option<&str> {
    match &options.epoch {
        Some(EpochClaim::Named(name)) => Some(name),
        Some(EpochClaim::Hashed(_)) => panic!("no frame says it so"),
        None => None,
    }
}

/// A frame as the vectors say it: what is absent is left out, defaults are filled in.
fn meaning(frame: &ClientFrame<'_>) -> Value {
    let mut fields = match frame {
        ClientFrame::Join { room, options } => json!({
            "type": "join", "room": room.as_str(), "since": options.since, "epoch": epoch_of(options), "last": options.last,
            "presence": options.presence, "echo": options.echo,
        }),
        ClientFrame::Leave { room } => json!({ "type": "leave", "room": room.as_str() }),
        ClientFrame::Broadcast { room, payload, key, echo, ephemeral } => json!({
            "type": "broadcast", "room": room.as_str(), "payloadText": payload, "key": key, "echo": echo, "ephemeral": ephemeral,
        }),
        ClientFrame::History { room, span, limit } => {
            let (before, after) = match *span {
                Span::Before(offset) => (Some(offset), None),
                Span::After(offset) => (None, Some(offset)),
                Span::Newest => (None, None),
            };
            json!({ "type": "history", "room": room.as_str(), "before": before, "after": after, "limit": limit })
        }
        ClientFrame::Presence { room } => json!({ "type": "presence", "room": room.as_str() }),
        ClientFrame::Erase { .. } => panic!("no frame is read as one"),
        ClientFrame::Refresh { token } => json!({ "type": "refresh", "token": token }),
        ClientFrame::Ping => json!({ "type": "ping" }),
    };
    fields.as_object_mut().expect("made above").retain(|_, value| !value.is_null());
    fields
}

#[test]
fn server_frames_are_written() {
    let vectors = vectors("server-frames.json");
    let mut types = BTreeSet::new();
    for row in rows(&vectors["frames"]) {
        let (name, fields, wanted) = (text(&row["name"]), object(&row["fields"]), text(&row["text"]));
        assert_eq!(written(fields), wanted, "{name}");
        let raw: std::collections::BTreeMap<&str, &RawValue> = serde_json::from_str(wanted).expect(name);
        let told = fields.keys().map(|field| field.strip_suffix("Text").unwrap_or(field));
        assert_eq!(told.collect::<BTreeSet<_>>(), raw.into_keys().collect(), "the fields of: {name}");
        types.insert(text(&fields["type"]));
    }
    let answers = ["ack", "connected", "history", "joined", "left", "pong", "presence", "refreshed"];
    let news = ["draining", "error", "message", "own", "userJoined", "userLeft"];
    assert_eq!(types, answers.into_iter().chain(news).collect());
}

/// The frame that says these fields, as the server writes it.
fn written(fields: &Map<String, Value>) -> String {
    let maybe = |name: &str| fields.get(name).map(text);
    let room = || RoomName::parse(text(&fields["room"])).expect("a room name");
    let epoch = || Epoch::from_wire(text(&fields["epoch"]));
    let reference = maybe("refText");
    let json = match text(&fields["type"]) {
        "connected" => {
            let (limits, personal) = (&fields["limits"], &fields["personal"]);
            ServerFrame::Connected {
                user: &UserId::parse(text(&fields["userId"])).expect("a user id"),
                client: &ClientId::parse(text(&fields["clientId"])).expect("a client id"),
                connection: text(&fields["connectionId"]),
                expires_at: fields.get("expiresAt").map(number),
                limits: Limits {
                    frame_bytes: number(&limits["frameBytes"]) as usize,
                    rooms: number(&limits["rooms"]) as usize,
                    frames_per_second: number(&limits["framesPerSecond"]) as u32,
                    frames_burst: limits.get("framesBurst").map(|burst| number(burst) as u32),
                },
                personal: (
                    &RoomName::parse(text(&personal["room"])).expect("a room name"),
                    number(&personal["offset"]),
                    &Epoch::from_wire(text(&personal["epoch"])),
                ),
            }
            .to_json()
        }
        "joined" => ServerFrame::Joined {
            room: &room(),
            reference,
            offset: number(&fields["offset"]),
            epoch: &epoch(),
            recovered: flag(fields.get("recovered")),
            reason: maybe("reason"),
            members: fields.get("members").map(|_| presence(fields)).as_ref(),
        }
        .to_json(),
        "presence" => ServerFrame::Presence { room: &room(), reference, presence: &presence(fields) }.to_json(),
        "userJoined" | "userLeft" => {
            let (user, room, count) = (object(&fields["user"]), &room(), number(&fields["count"]));
            let (user, info) = (text(&user["id"]), user.get("infoText").map_or("", text));
            match text(&fields["type"]) {
                "userJoined" => ServerFrame::UserJoined { room, user, info, count }.to_json(),
                _ => ServerFrame::UserLeft { room, user, info, count }.to_json(),
            }
        }
        "left" => ServerFrame::Left { room: &room(), reference }.to_json(),
        "message" => ServerFrame::Message(outgoing(fields)).to_json(),
        "own" => {
            let Outgoing { room, offset, id, ts, .. } = outgoing(fields);
            ServerFrame::Own { room, offset, id, ts, key: maybe("key"), epoch: "" }.to_json()
        }
        "ack" => ServerFrame::Ack {
            reference: reference.expect("an ack has a ref"),
            room: &room(),
            stored: fields.get("offset").map(|offset| (number(offset), message_id(&fields["id"]))),
            ts: number(&fields["ts"]),
            duplicate: flag(fields.get("duplicate")),
        }
        .to_json(),
        "history" => {
            let messages: Vec<_> = rows(&fields["messages"]).iter().map(|message| outgoing(object(message))).collect();
            let more = flag(fields.get("more"));
            ServerFrame::History { room: &room(), reference, messages: &messages, more, epoch: &epoch() }.to_json()
        }
        "pong" => ServerFrame::Pong { reference }.to_json(),
        "refreshed" => ServerFrame::Refreshed { reference, expires_at: number(&fields["expiresAt"]) }.to_json(),
        "error" => ServerFrame::Error {
            code: error_code(text(&fields["code"])),
            message: text(&fields["message"]),
            reference,
            room: fields.get("room").map(|_| room()).as_ref(),
            retry_after_ms: fields.get("retryAfterMs").map(|ms| number(ms) as u32),
            outcome_unknown: maybe("outcome") == Some("unknown"),
        }
        .to_json(),
        "draining" => ServerFrame::Draining { retry_after_ms: number(&fields["retryAfterMs"]) as u32 }.to_json(),
        other => panic!("no server frame is a {other}"),
    };
    String::from_utf8(json).expect("frames are UTF-8")
}

fn outgoing(fields: &Map<String, Value>) -> Outgoing<'_> {
    Outgoing {
        room: text(&fields["room"]),
        payload: fields.get("payloadText").map_or(&b""[..], |payload| text(payload).as_bytes()),
        sender: fields.get("sender").map_or("", text),
        offset: fields.get("offset").map_or(0, number),
        id: fields.get("id").map_or(MessageId([0; 16]), message_id),
        ts: number(&fields["ts"]),
        epoch: fields.get("epoch").map_or("", text),
        key: fields.get("key").map_or("", text),
    }
}

/// `joined` names no count; it only tells whether there are more users than it names.
fn presence(fields: &Map<String, Value>) -> Presence {
    let members: Vec<_> = rows(&fields["members"])
        .iter()
        .map(|member| Present {
            user: text(&member["userId"]).into(),
            info: member.get("infoText").map_or("", text).into(),
            connections: number(&member["connections"]) as u32,
        })
        .collect();
    let named = members.len() as u64;
    let count = fields.get("count").map_or(named + u64::from(flag(fields.get("truncated"))), number);
    Presence { count, members }
}

fn message_id(hyphenated: &Value) -> MessageId {
    MessageId(uuid::Uuid::parse_str(text(hyphenated)).expect("a UUID").into_bytes())
}

const ERRORS: [ErrorCode; 11] = [
    ErrorCode::BadRequest,
    ErrorCode::UnknownType,
    ErrorCode::Forbidden,
    ErrorCode::RoomInvalid,
    ErrorCode::NotJoined,
    ErrorCode::TooManyRooms,
    ErrorCode::PayloadTooLarge,
    ErrorCode::Unauthorized,
    ErrorCode::RateLimited,
    ErrorCode::Unavailable,
    ErrorCode::Internal,
];

fn error_code(word: &str) -> ErrorCode {
    ERRORS.into_iter().find(|code| code.as_str() == word).unwrap_or_else(|| panic!("no error code is {word}"))
}

const CLOSES: [Close; 15] = [
    Close::Normal,
    Close::WebSocketProtocol,
    Close::NotUtf8,
    Close::TooBig,
    Close::Unauthorized,
    Close::ProtocolError,
    Close::Forbidden,
    Close::TokenExpired,
    Close::OverCapacity,
    Close::TooManyConnections,
    Close::Unavailable,
    Close::SlowConsumer,
    Close::RateLimited,
    Close::HeartbeatTimeout,
    Close::Draining { retry_ms: 417 },
];

/// Without a wildcard, so that a new one is also added to [`CLOSES`] and to the vectors.
fn name_of(close: Close) -> &'static str {
    match close {
        Close::Normal => "normal",
        Close::WebSocketProtocol => "websocket_protocol",
        Close::NotUtf8 => "not_utf8",
        Close::TooBig => "too_big",
        Close::Unauthorized => "unauthorized",
        Close::ProtocolError => "protocol_error",
        Close::Forbidden => "forbidden",
        Close::TokenExpired => "token_expired",
        Close::OverCapacity => "over_capacity",
        Close::TooManyConnections => "too_many_connections",
        Close::Unavailable => "unavailable",
        Close::SlowConsumer => "slow_consumer",
        Close::RateLimited => "rate_limited",
        Close::HeartbeatTimeout => "heartbeat_timeout",
        Close::Draining { .. } => "draining",
    }
}

#[test]
fn codes_are_exact() {
    let vectors = vectors("codes.json");
    let errors: Vec<_> = ERRORS.iter().map(|code| json!(code.as_str())).collect();
    assert_eq!(vectors["errors"], json!(errors));

    let closes: Vec<_> = CLOSES
        .iter()
        .map(|close| {
            let (name, code) = (name_of(*close), close.code());
            let mut row = json!({ "name": name, "code": code, "reason": close.reason(), "then": then(code) });
            if let Close::Draining { retry_ms } = close {
                row["retryMs"] = json!(retry_ms);
            }
            row
        })
        .collect();
    assert_eq!(vectors["closes"], json!(closes));
    for other in rows(&vectors["otherCloses"]) {
        assert_eq!(text(&other["then"]), then(number(&other["code"]) as u16), "{other}");
    }
}

/// What the ranges tell a client (PROTOCOL.md, "Closing").
fn then(code: u16) -> &'static str {
    match code {
        1009 | 4000..=4099 => "stop",
        4200..=4299 => "return",
        _ => "backoff",
    }
}

#[test]
fn names_parse_or_are_refused() {
    let vectors = vectors("names.json");
    let check = |kind: &str, parse: fn(&str) -> Result<String, NameError>| {
        for row in rows(&vectors[kind]) {
            let name = text(&row["text"]);
            let refused = row.get("refused").map(text);
            match parse(name) {
                Ok(parsed) => assert_eq!((parsed.as_str(), refused), (name, None), "{kind}: {row}"),
                Err(error) => assert_eq!(Some(word(&error)), refused, "{kind}: {row}"),
            }
        }
    };
    check("rooms", |name| RoomName::parse(name).map(|it| it.to_string()));
    check("users", |name| UserId::parse(name).map(|it| it.to_string()));
    check("clients", |name| ClientId::parse(name).map(|it| it.to_string()));
    for row in rows(&vectors["personal"]) {
        let user = UserId::parse(text(&row["user"])).expect("a user id");
        let room = RoomName::personal(&user);
        assert_eq!(room.as_str(), text(&row["room"]));
        assert_eq!(RoomName::parse(room.as_str()).as_ref(), Ok(&room));
        assert_eq!(room.owner(), Some(user.as_str()));
    }
}

fn word(error: &NameError) -> &'static str {
    match error {
        NameError::Empty => "empty",
        NameError::TooLong(_) => "too_long",
        NameError::Control => "control",
        NameError::OuterSpace => "outer_space",
        NameError::Alphabet => "alphabet",
    }
}

#[test]
fn rooms_keep_their_partition() {
    let vectors = vectors("partitions.json");
    assert_eq!(number(&vectors["partitions"]), u64::from(PARTITIONS));
    for row in rows(&vectors["rooms"]) {
        let room = RoomName::parse(text(&row["room"])).expect("a room name");
        assert_eq!(u64::from(fnv1a32(room.as_str().as_bytes())), number(&row["hash"]), "{room}");
        assert_eq!(u64::from(room.partition().0), number(&row["partition"]), "{room}");
    }
}

fn folder() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/vectors"))
}

fn vectors(name: &str) -> Value {
    let json = fs::read_to_string(folder().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    serde_json::from_str(&json).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The entries of a list; one that is missing is an error, not an empty one.
fn rows(list: &Value) -> &[Value] {
    list.as_array().unwrap_or_else(|| panic!("a list, found {list}"))
}

fn object(value: &Value) -> &Map<String, Value> {
    value.as_object().unwrap_or_else(|| panic!("an object, found {value}"))
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("text, found {value}"))
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("a whole number, found {value}"))
}

fn flag(value: Option<&Value>) -> bool {
    value.is_some_and(|value| value.as_bool().unwrap_or_else(|| panic!("true or false, found {value}")))
}
