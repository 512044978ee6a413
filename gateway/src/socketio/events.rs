//! Events and the native wire: which frame an event asks for, and which event a frame becomes. The convention of the usual
//! chat tutorial, `<kind>:join` and so on, is here too; what a frame leads to is decided where it always is.

use std::borrow::Cow;

use bytes::Bytes;
use carillon_proto::{
    codes::ErrorCode,
    frame::{BadFrame, ClientFrame, Outgoing, ServerFrame, parse_fields},
    ids::RoomName,
};
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::value::RawValue;

use super::packet;

/// What an event asks for.
#[derive(Debug)]
pub struct Asked<'a> {
    /// What the client is to be told otherwise.
    pub frame: Result<ClientFrame<'a>, BadFrame>,
    /// So long is the kind, if it is by `<kind>:…`; else 0.
    pub kind_bytes: usize,
}

/// Reads an event. `scratch` keeps a text that had to be put together for as long as the frame needs it.
pub fn read<'a>(name: &str, arguments: &[&'a RawValue], scratch: &'a mut String, json_depth: usize) -> Asked<'a> {
    let first = arguments.first().map(|argument| argument.get());
    let native = |frame| Asked { frame, kind_bytes: 0 };
    match (name, first) {
        ("join" | "leave" | "presence", Some(room)) if room.starts_with('"') => {
            let options = arguments.get(1).map_or("{}", |options| options.get());
            native(text("room", room).and_then(|name| room_of(&name)).and_then(|room| {
                parse_fields(name, Some(&room), if options.starts_with('{') { options } else { "{}" }, json_depth)
            }))
        }
        ("join" | "leave" | "broadcast" | "history" | "presence", Some(fields)) => {
            native(parse_fields(name, None, fields, json_depth))
        }
        ("join" | "leave" | "broadcast" | "history" | "presence" | "refresh", None) => native(Err(bad("an argument is missing"))),
        ("refresh", Some(token)) => {
            *scratch = format!(r#"{{"token":{token}}}"#);
            native(parse_fields("refresh", None, scratch, json_depth))
        }
        ("ping", _) => native(Ok(ClientFrame::Ping)),
        _ => match name.rsplit_once(':') {
            Some((kind, verb @ ("join" | "leave" | "message"))) if !kind.is_empty() => {
                Asked { frame: of_kind(kind, verb, first, scratch, json_depth), kind_bytes: kind.len() }
            }
            _ => native(Err(refused(ErrorCode::UnknownType, "an event that this server does not know"))),
        },
    }
}

fn of_kind<'a>(
    kind: &str,
    verb: &str,
    first: Option<&'a str>,
    scratch: &'a mut String,
    json_depth: usize,
) -> Result<ClientFrame<'a>, BadFrame> {
    let first = first.ok_or_else(|| bad("an argument is missing"))?;
    if verb != "message" {
        let room = room_of_kind(kind, first)?;
        let mut frame = parse_fields(verb, Some(&room), "{}", json_depth)?;
        if let ClientFrame::Join { options, .. } = &mut frame {
            // Everyone in the room is sent everything, the sender included, and told who comes and goes.
            options.echo = true;
            options.presence = true;
        }
        return Ok(frame);
    }
    let Fields(fields) = serde_json::from_str(first).map_err(|_| bad("a message is an object with `roomId`"))?;
    let (_, id) = fields.iter().find(|(name, _)| name == "roomId").ok_or_else(|| bad("`roomId` is missing"))?;
    let room = room_of_kind(kind, id.get())?;
    scratch.push_str(r#"{"payload":{"#);
    write_fields(scratch, fields.iter().filter(|(name, _)| name != "roomId"));
    scratch.push_str("}}");
    let mut frame = parse_fields("broadcast", Some(&room), scratch, json_depth)?;
    if let ClientFrame::Broadcast { echo, .. } = &mut frame {
        *echo = true;
    }
    Ok(frame)
}

/// The `roomId` of `<kind>:<roomId>`: a string, or a whole number as a client counts its rooms.
fn room_of_kind(kind: &str, id: &str) -> Result<RoomName, BadFrame> {
    let id = match id.starts_with('"') {
        true => text("roomId", id)?,
        false if !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_digit()) => id.to_owned(),
        false => return Err(bad("`roomId` is a string")),
    };
    room_of(&format!("{kind}:{id}"))
}

fn room_of(name: &str) -> Result<RoomName, BadFrame> {
    RoomName::parse(name).map_err(|error| refused(ErrorCode::RoomInvalid, format!("the room name {error}")))
}

fn text(name: &str, json: &str) -> Result<String, BadFrame> {
    serde_json::from_str(json).map_err(|_| bad(format!("`{name}` is a string")))
}

fn bad(message: impl Into<Cow<'static, str>>) -> BadFrame {
    refused(ErrorCode::BadRequest, message)
}

/// An event that can't be acted on.
pub(crate) fn refused(code: ErrorCode, message: impl Into<Cow<'static, str>>) -> BadFrame {
    BadFrame { code, message: message.into(), reference: None }
}

/// The fields of an object in their order, with values as they are.
struct Fields<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Fields<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Vec<(Cow<'de, str>, &'de RawValue)>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut fields = Vec::new();
                while let Some(Name(name)) = map.next_key()? {
                    fields.push((name, map.next_value()?));
                }
                Ok(fields)
            }
        }
        from.deserialize_map(InOrder).map(Fields)
    }
}

/// A name borrowed where it has no escapes.
#[derive(Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

fn write_fields<'f, 'a: 'f>(out: &mut String, fields: impl Iterator<Item = &'f (Cow<'a, str>, &'a RawValue)>) {
    for (index, (name, value)) in fields.enumerate() {
        if index > 0 {
            out.push(',');
        }
        out.push_str(&json(name));
        out.push(':');
        out.push_str(value.get());
    }
}

fn json(text: &str) -> String {
    serde_json::to_string(text).expect("text is JSON")
}

/// The event `message` with the native frame, up to where each client's own end follows.
pub(crate) fn message(message: &Outgoing<'_>) -> Bytes {
    native(&ServerFrame::Message(*message), "message")
}

/// An event with the native frame, up to where each client's own end follows.
pub(crate) fn native(frame: &ServerFrame<'_>, name: &str) -> Bytes {
    let mut out = format!(r#"42["{name}","#).into_bytes();
    frame.write(&mut out);
    out.into()
}

/// The event `<kind>:message`, up to where each client's own end follows. The server's fields win over a client's of the same
/// name; a payload that is no object is the field `payload`.
pub(crate) fn message_of_kind(message: &Outgoing<'_>, kind_bytes: usize) -> Bytes {
    let (kind, room_id) = (&message.room[..kind_bytes], &message.room[kind_bytes + 1..]);
    let payload = std::str::from_utf8(message.payload).unwrap_or("null");
    let mut out = format!(r#"42[{},{{"roomId":{}"#, json(&format!("{kind}:message")), json(room_id));
    let fields = match serde_json::from_str(payload) {
        Ok(Fields(fields)) => fields.into_iter().filter(|(name, _)| !is_ours(name, message.offset == 0)).collect(),
        Err(_) => serde_json::from_str(payload).map_or(Vec::new(), |raw| vec![("payload".into(), raw)]),
    };
    if !fields.is_empty() {
        out.push(',');
        write_fields(&mut out, fields.iter());
    }
    if message.offset > 0 {
        out.push_str(&format!(r#","id":"{}""#, message.id));
    }
    out.push_str(&format!(r#","userId":{}"#, json(message.sender)));
    match message.offset {
        0 => out.push_str(r#","ephemeral":true"#),
        offset => out.push_str(&format!(r#","offset":{offset}"#)),
    }
    out.push_str(&format!(r#","ts":{}}}"#, message.ts));
    out.into()
}

/// Fields of `<kind>:message` that this server sets. One that is not stored has no `id` and no `offset`, whatever its sender says.
fn is_ours(name: &str, is_ephemeral: bool) -> bool {
    matches!(name, "roomId" | "id" | "userId" | "offset" | "ts") || is_ephemeral && name == "ephemeral"
}

/// `<kind>:userJoined` and `<kind>:userLeft`.
pub(crate) fn user_of_kind(kind: &str, verb: &str, user: &str, info: &str) -> String {
    let info = if info.is_empty() { String::new() } else { format!(r#","info":{info}"#) };
    format!(r#"42[{},{{"id":{}{info}}}]"#, json(&format!("{kind}:{verb}")), json(user))
}

/// An ack with the answer frame's fields.
pub(crate) fn answer(id: &str, frame: &ServerFrame<'_>) -> String {
    let mut fields = Vec::new();
    frame.write_answer(&mut fields);
    let fields = String::from_utf8(fields).expect("frames are JSON text");
    match frame {
        ServerFrame::Error { .. } => packet::ack("/", id, &format!(r#"[{{"error":{fields}}}]"#), 0),
        _ => packet::ack("/", id, &format!("[{fields}]"), 0),
    }
}

#[cfg(test)]
mod tests {
    use carillon_proto::ids::MessageId;

    use super::*;

    fn asked(event: &str) -> String {
        let (name, arguments) = packet::arguments(event);
        let mut scratch = String::new();
        match read(&name, &arguments, &mut scratch, 64).frame {
            Ok(ClientFrame::Join { room, options }) => format!("join {room} {} {}", options.echo, options.presence),
            Ok(ClientFrame::Leave { room }) => format!("leave {room}"),
            Ok(ClientFrame::Broadcast { room, payload, echo, .. }) => format!("broadcast {room} {payload} {echo}"),
            Ok(other) => format!("{other:?}"),
            Err(bad) => bad.code.as_str().to_owned(),
        }
    }

    fn vectors(name: &str) -> serde_json::Value {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../proto/vectors/");
        serde_json::from_str(&std::fs::read_to_string(format!("{path}{name}")).unwrap()).unwrap()
    }

    /// What a vector says of a frame, as the frame that says it.
    fn meant(fields: &serde_json::Value) -> String {
        let mut fields = fields.as_object().unwrap().clone();
        let payload = fields.remove("payloadText");
        let mut text = serde_json::to_string(&fields).unwrap();
        if let Some(payload) = payload {
            text.truncate(text.len() - 1);
            text.push_str(&format!(r#","payload":{}}}"#, payload.as_str().unwrap()));
        }
        text
    }

    #[test]
    fn golden_events_are_read() {
        for row in vectors("socketio.json")["asked"].as_array().unwrap() {
            let (name, arguments) = packet::arguments(row["event"].as_str().unwrap());
            let mut scratch = String::new();
            match read(&name, &arguments, &mut scratch, 64).frame {
                Ok(frame) => {
                    let text = meant(&row["frame"]);
                    assert_eq!(frame, carillon_proto::frame::parse(&text, 64).unwrap().frame, "{}", row["name"]);
                }
                Err(bad) => assert_eq!(Some(bad.code.as_str()), row["error"].as_str(), "{}", row["name"]),
            }
        }
    }

    #[test]
    fn golden_messages_are_written() {
        for row in vectors("socketio.json")["told"].as_array().unwrap() {
            let said = &row["message"];
            let text = |name: &str| said[name].as_str().unwrap();
            let id = MessageId(text("id").parse::<uuid::Uuid>().unwrap().into_bytes());
            let out = Outgoing {
                room: text("room"),
                payload: text("payloadText").as_bytes(),
                sender: text("sender"),
                offset: said["offset"].as_u64().unwrap(),
                id,
                ts: said["ts"].as_u64().unwrap(),
                epoch: text("epoch"),
                key: "",
            };
            let event = match row["kindBytes"].as_u64().unwrap() as usize {
                0 => message(&out),
                kind_bytes => message_of_kind(&out, kind_bytes),
            };
            assert_eq!(event, row["text"].as_str().unwrap(), "{}", row["name"]);
        }
    }

    #[test]
    fn native_events_are_frames() {
        assert_eq!(asked(r#"["join","a"]"#), "join a false false");
        assert_eq!(asked(r#"["join","a",{"echo":true}]"#), "join a true false");
        assert_eq!(asked(r#"["join",{"room":"a","presence":true}]"#), "join a false true");
        assert_eq!(asked(r#"["leave","a"]"#), "leave a");
        assert_eq!(asked(r#"["broadcast",{"room":"a","payload":{"x":1.0}}]"#), r#"broadcast a {"x":1.0} false"#);
        assert!(asked(r#"["history",{"room":"a","limit":5}]"#).contains("limit: 5"));
        assert!(asked(r#"["refresh","a.b.c"]"#).contains("a.b.c"));
        assert_eq!(asked(r#"["refresh",5]"#), "bad_request");
        assert_eq!(asked(r#"["join"]"#), "bad_request");
        assert_eq!(asked(r#"["join",null]"#), "bad_request");
        assert_eq!(asked(r#"["join"," a"]"#), "room_invalid");
        assert_eq!(asked(r#"["dance","a"]"#), "unknown_type");
    }

    #[test]
    fn kinds_name_their_rooms() {
        assert_eq!(asked(r#"["chat:join","1"]"#), "join chat:1 true true");
        assert_eq!(asked(r#"["chat:join",1]"#), "join chat:1 true true");
        assert_eq!(asked(r#"["a:b:leave","c"]"#), "leave a:b:c");
        assert_eq!(
            asked(r#"["chat:message",{"text":"hi","roomId":"1","x":[1.0]}]"#),
            r#"broadcast chat:1 {"text":"hi","x":[1.0]} true"#
        );
        assert_eq!(asked(r#"["chat:message",{"roomId":"1"}]"#), "broadcast chat:1 {} true");
        assert_eq!(asked(r#"["chat:message",{"text":"hi"}]"#), "bad_request");
        assert_eq!(asked(r#"["chat:message","hi"]"#), "bad_request");
        assert_eq!(asked(r#"["chat:join",{"roomId":"1"}]"#), "bad_request");
        assert_eq!(asked(r#"["chat:join",1.5]"#), "bad_request");
        assert_eq!(asked(r#"[":join","1"]"#), "unknown_type");
        assert_eq!(asked(r#"["chat:dance","1"]"#), "unknown_type");
    }

    #[test]
    fn messages_of_a_kind_have_the_servers_fields() {
        let mut out = Outgoing {
            room: "chat:1",
            payload: br#"{"text":"hi","id":5,"offset":9,"n":1.0}"#,
            sender: "ada",
            offset: 2,
            id: MessageId([0; 16]),
            ts: 7,
            epoch: "e.1",
            key: "",
        };
        let body = |out: &Outgoing<'_>| String::from_utf8(message_of_kind(out, 4).to_vec()).unwrap();
        let id = "00000000-0000-0000-0000-000000000000";
        assert_eq!(
            body(&out),
            format!(r#"42["chat:message",{{"roomId":"1","text":"hi","n":1.0,"id":"{id}","userId":"ada","offset":2,"ts":7}}"#)
        );
        out.payload = b"[1]";
        assert_eq!(
            body(&out),
            format!(r#"42["chat:message",{{"roomId":"1","payload":[1],"id":"{id}","userId":"ada","offset":2,"ts":7}}"#)
        );
        out.payload = br#"{"ephemeral":"ink"}"#;
        assert!(body(&out).contains(r#""ephemeral":"ink""#), "a field like any other in what is stored");
        (out.payload, out.offset) = (br#"{"ephemeral":false,"offset":9,"id":"mine"}"#, 0);
        assert_eq!(body(&out), r#"42["chat:message",{"roomId":"1","userId":"ada","ephemeral":true,"ts":7}"#);
    }

    #[test]
    fn acks_carry_fields() {
        let room = RoomName::parse("r").unwrap();
        let left = ServerFrame::Left { room: &room, reference: Some("7") };
        assert_eq!(answer("7", &left), r#"437[{"room":"r"}]"#);
        let error = ServerFrame::Error {
            code: ErrorCode::Forbidden,
            message: "no",
            reference: Some("7"),
            room: None,
            retry_after_ms: None,
            outcome_unknown: false,
        };
        assert_eq!(answer("7", &error), r#"437[{"error":{"code":"forbidden","message":"no"}}]"#);
        assert_eq!(user_of_kind("chat", "userJoined", "ada", ""), r#"42["chat:userJoined",{"id":"ada"}]"#);
        assert_eq!(user_of_kind("chat", "userLeft", "ada", r#"{"n":1}"#), r#"42["chat:userLeft",{"id":"ada","info":{"n":1}}]"#);
    }
}
