//! What a client says in `Last-Event-ID`: any text. It is refused, or it is the one text of what it means; whatever it means is a
//! join within bounds. Nothing is larger than what came in.

use carillon_proto::{
    cursor::{self, Cursor, Position, RoomMark},
    frame::{JoinOptions, Outgoing},
    ids::{MAX_OFFSET, MessageId, RoomName},
    sse,
};

/// Rooms of a request; corpus and mutations name some of them.
const ROOMS: [&str; 4] = ["a", "b", "lobby", "user:ada"];

pub(crate) fn run(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Ok(cursor) = Cursor::parse(&text, Cursor::MAX_ID_BYTES) {
        let rooms = ROOMS.map(|name| RoomMark::of(&RoomName::parse(name).expect("legal")));
        for room in rooms {
            let places: Vec<Position> = (0..).map_while(|earlier| cursor.find(room, earlier)).collect();
            assert!(places.len() * 8 <= text.len(), "a place takes eight bytes at least");
            for position in places {
                let JoinOptions { since, .. } = position.resume();
                assert!(since.is_some_and(|since| since <= MAX_OFFSET));
                // What it says of one room is what a cursor of that room says.
                let written = cursor::encode([(room, position)].into_iter());
                assert_eq!(Cursor::parse(&written, Cursor::MAX_ID_BYTES).expect("just written").find(room, 0), Some(position));
            }
        }
    }
    block(bytes);
}

/// The same bytes as a payload: whatever it is, it is one block.
fn block(payload: &[u8]) {
    if serde_json::from_slice::<&serde_json::value::RawValue>(payload).is_err() {
        return;
    }
    let message = Outgoing { room: "a", payload, sender: "u", offset: 1, id: MessageId([0; 16]), ts: 1, epoch: "i.1", key: "" };
    for block in [sse::message(&message), sse::personal_message(&message)] {
        let text = String::from_utf8(block).expect("JSON is UTF-8");
        let body = text.strip_suffix("\n\n").expect("a block ends with an empty line");
        assert!(!body.contains(['\r', '\0']), "{body:?}");
        let mut lines = body.split('\n');
        assert!(lines.next().is_some_and(|first| first.starts_with("event: ")), "{body:?}");
        assert!(lines.all(|line| line.starts_with("data: ")), "{body:?}");
    }
}
