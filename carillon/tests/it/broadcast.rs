//! Saying something: who hears it, and what the sender is told.

use crate::server::{Server, unix_ms};

/// RFC 9562: version 7, variant 10, in lower case with hyphens.
fn is_uuid_v7(id: &str) -> bool {
    let legal = |(index, byte): (usize, u8)| match index {
        8 | 13 | 18 | 23 => byte == b'-',
        14 => byte == b'7',
        19 => b"89ab".contains(&byte),
        _ => byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte),
    };
    id.len() == 36 && id.bytes().enumerate().all(legal)
}

#[tokio::test]
async fn message_and_ack_agree() {
    let server = Server::start().await;
    let (mut ada, mut bob) = (server.connect("ada").await, server.connect("bob").await);
    bob.join("lobby").await;
    let before = unix_ms();
    let ack = ada.say("lobby", r#"{"text":"hi"}"#).await;
    assert_eq!(ack.names(), ["id", "offset", "ref", "room", "ts", "type"]);
    let message = bob.expect("message").await;
    assert_eq!(message.names(), ["epoch", "id", "offset", "payload", "room", "sender", "ts", "type"]);
    assert_eq!(message.json("payload"), r#"{"text":"hi"}"#);
    assert_eq!((message.text("room").as_str(), message.text("sender").as_str()), ("lobby", "ada"));
    for name in ["offset", "id", "ts"] {
        assert_eq!(message.json(name), ack.json(name));
    }
    assert!(is_uuid_v7(&ack.text("id")), "{}", ack.raw);
    assert!((before..=unix_ms()).contains(&ack.number("ts")));
    assert_eq!(bob.join("lobby").await.text("epoch"), message.text("epoch"));

    ada.say("lobby", 2).await;
    let second = bob.expect("message").await;
    assert_eq!(second.names(), ["id", "offset", "payload", "room", "sender", "ts", "type"]);
    assert_ne!(second.text("id"), message.text("id"));
}

#[tokio::test]
async fn refs_come_back_as_sent() {
    let server = Server::start().await;
    let mut ada = server.connect("ada").await;
    let longest = format!(r#""{}""#, "r".repeat(5000));
    for reference in ["7", "0", "-1", "1.50", "1e400", "1152921504606846977", r#""""#, r#""a \"b\" \u00e9 ä""#, &longest] {
        ada.send(format!(r#"{{"type":"broadcast","room":"lobby","payload":1,"ref":{reference}}}"#)).await;
        assert_eq!(ada.expect("ack").await.json("ref"), reference);
        ada.send(format!(r#"{{"type":"history","room":"user:bob","ref":{reference}}}"#)).await;
        assert_eq!(ada.expect_error("forbidden").await.json("ref"), reference);
    }
}

#[tokio::test]
async fn no_ref_no_ack() {
    let server = Server::start().await;
    let (mut ada, mut bob) = (server.connect("ada").await, server.connect("bob").await);
    bob.join("lobby").await;
    ada.send(r#"{"type":"broadcast","room":"lobby","payload":1}"#).await;
    ada.send(r#"{"type":"broadcast","room":"lobby","payload":2,"ref":null}"#).await;
    bob.hears(1..=2).await;
    // The next ack is that of the next one with a ref.
    assert_eq!(ada.say("lobby", 3).await.number("offset"), 3);
}

#[tokio::test]
async fn other_refs_are_bad() {
    let server = Server::start().await;
    let mut ada = server.connect("ada").await;
    for reference in ["true", "{}", "[1]"] {
        ada.send(format!(r#"{{"type":"broadcast","room":"lobby","payload":1,"ref":{reference}}}"#)).await;
        assert!(!ada.expect_error("bad_request").await.has("ref"));
    }
    assert!(ada.history("lobby", "").await.offsets().is_empty());
}

#[tokio::test]
async fn publishing_needs_no_membership() {
    let server = Server::start().await;
    let (mut ada, mut bob) = (server.connect("ada").await, server.connect("bob").await);
    bob.join("lobby").await;
    ada.say("lobby", 1).await;
    bob.hears(1..=1).await;
    ada.heard_nothing_else().await;
}

#[tokio::test]
async fn ephemeral_leaves_no_trace() {
    let server = Server::start().await;
    let (mut ada, mut bob) = (server.connect("ada").await, server.connect("bob").await);
    bob.join("lobby").await;
    ada.join("lobby").await;
    let ack = ada.say_with("lobby", r#""typing""#, r#""ephemeral":true"#).await;
    assert_eq!(ack.names(), ["ref", "room", "ts", "type"]);
    let message = bob.expect("message").await;
    assert_eq!(message.names(), ["ephemeral", "payload", "room", "sender", "ts", "type"]);
    assert!(message.flag("ephemeral"));
    assert_eq!((message.text("sender").as_str(), message.text("payload").as_str()), ("ada", "typing"));
    ada.heard_nothing_else().await;
    // With echo, and without a ref.
    ada.send(r#"{"type":"broadcast","room":"lobby","payload":2,"ephemeral":true,"echo":true}"#).await;
    assert!(ada.expect("message").await.flag("ephemeral"));
    bob.expect("message").await;

    let stored = ada.say("lobby", 3).await;
    assert_eq!(stored.number("offset"), 1);
    bob.hears(1..=1).await;
    assert_eq!(bob.history("lobby", "").await.offsets(), [1]);
    bob.join_with("lobby", r#""since":0"#).await;
    bob.hears(1..=1).await;
    bob.heard_nothing_else().await;
}

#[tokio::test]
async fn rooms_do_not_mix() {
    let server = Server::start().await;
    let mut ada = server.connect("ada").await;
    let mut bob = server.connect("bob").await;
    // More rooms than partitions: some share one.
    let rooms: Vec<String> = (0..40).map(|number| format!("room {number}")).collect();
    for room in &rooms {
        bob.join(room).await;
    }
    for round in 1..=2 {
        for room in &rooms {
            assert_eq!(ada.say(room, format!(r#""{room}""#)).await.number("offset"), round);
            let message = bob.expect("message").await;
            assert_eq!((message.text("room"), message.text("payload")), (room.clone(), room.clone()));
            assert_eq!(message.number("offset"), round);
        }
    }
}
