//! The golden vectors of the doors that are not WebSocket: what Server-Sent Events say, what HTTP asks and answers.

use std::{fs, path::Path};

use carillon_proto::{
    cursor::{self, Cursor, Position, RoomMark, Unreadable},
    frame::{ClientFrame, Outgoing, Presence, Present, ServerFrame, Span, parse_fields, parse_history},
    ids::{Epoch, MessageId, RoomName, UserId},
    sse,
};
use serde_json::{Value, json};

#[test]
fn messages_become_blocks() {
    for row in rows(&vectors("sse.json")["messages"]) {
        let (name, message) = (text(&row["name"]), &outgoing(&row["message"]));
        assert_eq!(utf8(sse::message(message)), text(&row["block"]), "{name}");
        assert_eq!(utf8(sse::personal_message(message)), text(&row["personalBlock"]), "{name}, personal");
    }
}

#[test]
fn other_blocks_are_exact() {
    for row in rows(&vectors("sse.json")["blocks"]) {
        let cursor = row.get("cursor").map(text);
        let block = match text(&row["name"]) {
            "retry" => sse::retry(number(&row["ms"])),
            "connected" => sse::connected(&UserId::parse(text(&row["user"])).unwrap()),
            "gap" => sse::gap(&room(&row["room"]), text(&row["reason"])),
            "id" => sse::id_line(cursor.expect("one")),
            "moved" => sse::moved(cursor.expect("one")),
            "heartbeat" => sse::heartbeat(cursor),
            other => panic!("no block is a {other}"),
        };
        assert_eq!(utf8(block), text(&row["text"]));
    }
}

#[test]
fn cursors_are_read_and_written() {
    let vectors = &vectors("sse.json")["cursors"];
    for row in rows(&vectors["readable"]) {
        let place = |place: &Value| (room(&place["room"]), Position::new(number(&place["offset"]), text(&place["epoch"])));
        let places: Vec<_> = rows(&row["places"]).iter().map(place).collect();
        let written = cursor::encode(places.iter().map(|(room, position)| (RoomMark::of(room), *position)));
        assert_eq!(written, text(&row["text"]));
        let cursor = Cursor::parse(&written, Cursor::MAX_ID_BYTES).unwrap();
        for (room, position) in places {
            assert_eq!(cursor.find(RoomMark::of(&room), 0), Some(position), "{room}");
        }
    }
    for row in rows(&vectors["unreadable"]) {
        assert_eq!(Cursor::parse(text(&row["text"]), Cursor::MAX_ID_BYTES), Err(Unreadable), "{}", row["name"]);
    }
}

#[test]
fn bodies_are_read() {
    let vectors = vectors("http.json");
    let (depth, lobby) = (number(&vectors["jsonDepth"]) as usize, RoomName::parse("lobby").unwrap());
    for row in rows(&vectors["publish"]) {
        let read = parse_fields("broadcast", Some(&lobby), text(&row["body"]), depth);
        let meaning = read.map(|frame| match frame {
            ClientFrame::Broadcast { room, payload, key, echo, ephemeral } => {
                assert_eq!(room, lobby);
                json!({ "payloadText": payload, "key": key, "echo": echo, "ephemeral": ephemeral })
            }
            other => panic!("{other:?}"),
        });
        assert_meaning(row, meaning.map_err(|bad| bad.code.as_str()));
    }
    for row in rows(&vectors["history"]) {
        let field = |name: &str| row["query"].get(name).map(text);
        let read = parse_history(lobby.clone(), field("before"), field("after"), field("limit"));
        let meaning = read.map(|frame| match frame {
            ClientFrame::History { span: Span::Newest, limit, .. } => json!({ "limit": limit }),
            ClientFrame::History { span: Span::After(after), limit, .. } => json!({ "after": after, "limit": limit }),
            ClientFrame::History { span: Span::Before(before), limit, .. } => json!({ "before": before, "limit": limit }),
            other => panic!("{other:?}"),
        });
        assert_meaning(row, meaning.map_err(|bad| bad.code.as_str()));
    }
}

fn assert_meaning(row: &Value, read: Result<Value, &str>) {
    let told = match read {
        Ok(mut meaning) => {
            meaning.as_object_mut().expect("made above").retain(|_, value| !value.is_null());
            ("meaning", meaning)
        }
        Err(code) => ("error", code.into()),
    };
    assert_eq!(row.get(told.0), Some(&told.1), "{}", row["name"]);
}

#[test]
fn answers_are_written() {
    for row in rows(&vectors("http.json")["answers"]) {
        let frame = &row["frame"];
        let (room, epoch) = (room(&frame["room"]), Epoch::from_wire(frame.get("epoch").map_or("", text)));
        let mut body = Vec::new();
        match text(&frame["type"]) {
            "ack" => {
                let stored = frame.get("offset").map(|offset| (number(offset), id(&frame["id"])));
                let (ts, duplicate) = (number(&frame["ts"]), frame.get("duplicate").is_some());
                ServerFrame::Ack { reference: "1", room: &room, stored, ts, duplicate }.write_answer(&mut body);
            }
            "history" => {
                let messages: Vec<_> = rows(&frame["messages"]).iter().map(outgoing).collect();
                let more = frame["more"] == true;
                let reference = Some("1");
                ServerFrame::History { room: &room, reference, messages: &messages, more, epoch: &epoch }
                    .write_resource(&mut body);
            }
            "presence" => {
                let present = |member: &Value| Present {
                    user: text(&member["userId"]).into(),
                    info: text(&member["infoText"]).into(),
                    connections: number(&member["connections"]) as u32,
                };
                let members = rows(&frame["members"]).iter().map(present).collect();
                let presence = &Presence { count: number(&frame["count"]), members };
                ServerFrame::Presence { room: &room, reference: Some("1"), presence }.write_resource(&mut body);
            }
            other => panic!("no answer is a {other}"),
        }
        assert_eq!(utf8(body), text(&row["body"]), "{}", row["name"]);
    }
}

fn outgoing(fields: &Value) -> Outgoing<'_> {
    Outgoing {
        room: text(&fields["room"]),
        payload: text(&fields["payloadText"]).as_bytes(),
        sender: text(&fields["sender"]),
        offset: number(&fields["offset"]),
        id: id(&fields["id"]),
        ts: number(&fields["ts"]),
        epoch: fields.get("epoch").map_or("", text),
        key: fields.get("key").map_or("", text),
    }
}

fn id(hyphenated: &Value) -> MessageId {
    MessageId(uuid::Uuid::parse_str(text(hyphenated)).expect("a UUID").into_bytes())
}

fn room(name: &Value) -> RoomName {
    RoomName::parse(text(name)).expect("a room name")
}

fn utf8(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).expect("UTF-8")
}

fn vectors(name: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors").join(name);
    serde_json::from_str(&fs::read_to_string(path).expect("it is in the repository")).expect("it is JSON")
}

fn rows(list: &Value) -> &[Value] {
    list.as_array().unwrap_or_else(|| panic!("a list, found {list}"))
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("text, found {value}"))
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("a whole number, found {value}"))
}
