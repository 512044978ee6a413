//! A bad frame gets an `error`; a tenth within ten seconds ends the connection; broken WebSocket ends it at once.

use tokio_tungstenite::tungstenite::{
    Bytes, Message,
    protocol::frame::{
        Frame as WireFrame,
        coding::{Data, OpCode},
    },
};

use crate::server::Server;

/// What the frame is, the code of its error, and whether its `ref` could be read.
const BAD: &[(&str, &str, Option<&str>)] = &[
    ("", "bad_request", None),
    ("nonsense", "bad_request", None),
    (r#"{"type":"ping""#, "bad_request", None),
    (r#"{"type":"ping"} trailing"#, "bad_request", None),
    ("[]", "bad_request", None),
    (r#"["join",null]"#, "bad_request", None),
    ("1", "bad_request", None),
    (r#"{"ref":1}"#, "bad_request", Some("1")),
    (r#"{"type":7,"ref":2}"#, "bad_request", Some("2")),
    (r#"{"type":"nope","ref":"a"}"#, "unknown_type", Some(r#""a""#)),
    (r#"{"type":"Ping","ref":3}"#, "unknown_type", Some("3")),
    (r#"{"type":"join","ref":4}"#, "bad_request", Some("4")),
    (r#"{"type":"join","room":7,"ref":5}"#, "bad_request", Some("5")),
    (r#"{"type":"join","room":"","ref":6}"#, "room_invalid", Some("6")),
    (r#"{"type":"broadcast","room":"lobby","ref":7}"#, "bad_request", Some("7")),
    (r#"{"type":"broadcast","room":"lobby","payload":1,"echo":"yes","ref":8}"#, "bad_request", Some("8")),
    (r#"{"type":"broadcast","room":"lobby","payload":1,"ephemeral":1,"ref":9}"#, "bad_request", Some("9")),
    (r#"{"type":"broadcast","room":"lobby","payload":NaN,"ref":10}"#, "bad_request", None),
    (r#"{"type":"refresh","ref":11}"#, "bad_request", Some("11")),
];

#[tokio::test]
async fn bad_frames_are_answered() {
    let server = Server::start().await;
    for (text, code, reference) in BAD {
        let mut ada = server.connect("ada").await;
        ada.send(*text).await;
        let error = ada.expect_error(code).await;
        assert_eq!(error.has("ref").then(|| error.json("ref")), *reference, "{text}");
        // Otherwise unharmed.
        ada.join("lobby").await;
        ada.heard_nothing_else().await;
    }
    assert!(server.connect("ada").await.history("lobby", "").await.offsets().is_empty());
}

#[tokio::test]
async fn too_deep_frame_keeps_its_ref() {
    let server = Server::start().await;
    let mut ada = server.connect("ada").await;
    let deep = format!("{}{}", "[".repeat(65), "]".repeat(65));
    let reference = ada.ask("broadcast", "lobby", &format!(r#""payload":{deep}"#)).await;
    assert_eq!(ada.expect_error("bad_request").await.number("ref"), reference);
}

#[tokio::test]
async fn binary_is_a_bad_frame() {
    let server = Server::start().await;
    let mut ada = server.connect("ada").await;
    for bytes in [&b""[..], br#"{"type":"ping"}"#, &[0xff; 200]] {
        ada.send_message(Message::Binary(Bytes::copy_from_slice(bytes))).await;
        assert!(!ada.expect_error("bad_request").await.has("ref"));
    }
    ada.heard_nothing_else().await;
}

#[tokio::test]
async fn tenth_bad_frame_closes() {
    let server = Server::start().await;
    let mut ada = server.connect("ada").await;
    for number in 0..9 {
        match number % 3 {
            0 => ada.send("nonsense").await,
            1 => ada.send(r#"{"type":"nope"}"#).await,
            _ => ada.send_message(Message::Binary(Bytes::new())).await,
        }
        ada.expect("error").await;
        // Good ones in between make no difference.
        ada.heard_nothing_else().await;
    }
    // A name that is none is the typing of a person, and no bad frame.
    for _ in 0..20 {
        ada.send(r#"{"type":"join","room":""}"#).await;
        ada.expect_error("room_invalid").await;
    }
    ada.send(r#"{"type":"join"}"#).await;
    let (errors, close) = ada.until_closed().await;
    assert!(errors.len() <= 1, "{errors:?}");
    assert_eq!(close, (4002, "protocol_error".to_owned()));
}

#[tokio::test]
async fn refusals_are_no_bad_frames() {
    let server = Server::start().await;
    let mut ada = server.connect("ada").await;
    for _ in 0..15 {
        ada.ask("join", "user:bob", "").await;
        ada.expect_error("forbidden").await;
        ada.ask("leave", "elsewhere", "").await;
        ada.expect_error("not_joined").await;
    }
    ada.heard_nothing_else().await;
}

#[tokio::test]
async fn text_must_be_utf8() {
    let server = Server::start().await;
    let (mut ada, mut bob) = (server.connect("ada").await, server.connect("bob").await);
    bob.join("lobby").await;
    let broken = b"{\"type\":\"broadcast\",\"room\":\"lobby\",\"payload\":\"\xc3\x28\"}";
    let frame = WireFrame::message(Bytes::from_static(broken), OpCode::Data(Data::Text), true);
    ada.send_message(Message::Frame(frame)).await;
    assert_eq!(ada.closed().await.0, 1007);
    bob.heard_nothing_else().await;
}

#[tokio::test]
async fn broken_websocket_is_closed() {
    let server = Server::start().await;
    let cases: &[(&str, &[u8])] = &[
        ("not masked", &[0x81, 0x01, b'x']),
        ("a reserved bit", &[0xC1, 0x80, 0, 0, 0, 0]),
        ("an unknown opcode", &[0x83, 0x80, 0, 0, 0, 0]),
        ("a continuation of nothing", &[0x80, 0x80, 0, 0, 0, 0]),
        ("a ping in fragments", &[0x09, 0x80, 0, 0, 0, 0]),
        ("a long ping", &[0x89, 0xFE, 0, 126]),
        ("a close of one byte", &[0x88, 0x81, 0, 0, 0, 0, 3]),
        ("a close code that may not travel", &[0x88, 0x82, 0, 0, 0, 0, 0x03, 0xED]),
    ];
    for (what, bytes) in cases {
        let mut ada = server.connect("ada").await;
        ada.send_bytes(bytes).await;
        assert_eq!(ada.closed().await.0, 1002, "{what}");
    }
    server.connect("ada").await.heard_nothing_else().await;
}

#[tokio::test]
async fn fragments_are_one_frame() {
    let server = Server::start().await;
    let mut ada = server.connect("ada").await;
    let pieces: [(&[u8], Data, bool); 4] = [
        (b"{\"type\":\"pi", Data::Text, false),
        (b"", Data::Continue, false),
        (b"ng\",\"ref\":\"\xc3", Data::Continue, false),
        (b"\xa9\"}", Data::Continue, true),
    ];
    for (payload, opcode, fin) in pieces {
        ada.send_message(Message::Frame(WireFrame::message(payload, OpCode::Data(opcode), fin))).await;
        // Control frames may come in between.
        ada.send_message(Message::Ping(Bytes::from_static(b"?"))).await;
    }
    assert_eq!(ada.expect("pong").await.text("ref"), "é");
}

#[tokio::test]
async fn close_is_answered() {
    let server = Server::start().await;
    for code in [None, Some(1000), Some(4999)] {
        let mut ada = server.connect("ada").await;
        let frame = code
            .map(|code: u16| tokio_tungstenite::tungstenite::protocol::CloseFrame { code: code.into(), reason: "bye".into() });
        ada.send_message(Message::Close(frame)).await;
        assert_eq!(ada.closed().await.0, code.unwrap_or(1005));
    }
}
