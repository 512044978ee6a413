//! A POST of a client of Socket.IO that polls: a query, an empty line, and a body, through all that reads it, down to the frames that
//! its events ask for. Nothing may panic, and what comes of it is within bounds.

use carillon_gateway::{
    engineio::{
        packet::{Part, parse_payload},
        peer::{Peer, Times},
        request,
    },
    socketio::{
        client::{Arrived, Client},
        events, packet,
    },
};
use carillon_proto::frame::{ClientFrame, exceeds_depth};
use http::Request;

const TIMES: Times = Times { ping_interval_ms: 300, ping_timeout_ms: 200, upgrade_ms: 1000, goodbye_ms: 500 };

/// Small, so that short inputs reach it.
const DEPTH: usize = 4;

pub(crate) fn run(bytes: &[u8]) {
    let end = bytes.windows(2).position(|two| two == b"\n\n");
    let (query, body) = end.map_or((&b""[..], bytes), |end| (&bytes[..end], &bytes[end + 2..]));
    if let Ok(request) = Request::post([b"/socket.io/?", query].concat().as_slice()).body(()) {
        let _ = request::read(&request);
    }
    let Ok(body) = std::str::from_utf8(body) else { return };
    let Ok(parts) = parse_payload(body) else { return };
    assert!(parts.len() <= body.len() + 1);
    let (mut peer, mut client) = (Peer::new(TIMES, false, 0), Client::default());
    client.on_text("0", |_| ()).expect("CONNECT");
    client.accept("/");
    assert!(peer.on_post(1), "the first one");
    peer.on_posted();
    for part in &parts {
        match part {
            Part::Packet(packet) => {
                if let Some(text) = peer.on_packet(*packet, 2) {
                    let _ = client.on_text(text, on_arrived);
                }
            }
            Part::Binary(bytes) => drop(client.on_binary(bytes, on_arrived)),
        }
    }
    peer.on_time(3);
}

fn on_arrived(arrived: Arrived<'_>) {
    let Arrived::Event(event) = arrived else { return };
    let (name, arguments) = packet::arguments(event.arguments);
    let mut scratch = String::new();
    let asked = events::read(&name, &arguments, &mut scratch, DEPTH);
    assert!(asked.kind_bytes < name.len(), "a kind has a verb behind it");
    if let Ok(ClientFrame::Broadcast { payload, .. }) = asked.frame {
        assert!(!exceeds_depth(payload.as_bytes(), DEPTH));
        serde_json::from_str::<&serde_json::value::RawValue>(payload).expect("it is JSON");
    }
}
