//! What is kept of a room, and what a client is told when it comes too late.

use std::time::{Duration, Instant};

use crate::{client::Client, server::Server};

/// How long age may take to be noticed: ages here are one second.
const PATIENCE: Duration = Duration::from_secs(60);

/// Age has taken everything once a look at the room finds nothing.
async fn until_empty(client: &mut Client, room: &str) {
    let since = Instant::now();
    while !client.history(room, "").await.offsets().is_empty() {
        assert!(since.elapsed() < PATIENCE, "{room} never grew too old");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn newest_messages_are_kept() {
    let server = Server::with(&[("retention", r#"[{"rooms":"short:*","messages":20}]"#)]).await;
    let mut ada = server.connect_as("ada", "writer").await;
    for room in ["short:1", "long"] {
        ada.count(room, 1..=50).await;
    }
    let mut bob = server.connect("bob").await;
    let epoch = bob.history("short:1", "").await.text("epoch");

    let joined = bob.join_with("short:1", &format!(r#""since":3,"epoch":"{epoch}""#)).await;
    assert_eq!((joined.flag("recovered"), joined.text("reason").as_str()), (false, "trimmed"));
    bob.heard_nothing_else().await;
    let joined = bob.join_with("short:1", &format!(r#""since":3,"epoch":"{epoch}","last":5"#)).await;
    assert!(!joined.flag("recovered"));
    bob.hears(46..=50).await;
    let joined = bob.join_with("short:1", r#""since":0"#).await;
    assert_eq!(joined.text("reason"), "trimmed");
    let joined = bob.join_with("short:1", r#""since":30"#).await;
    assert!(joined.flag("recovered"));
    bob.hears(31..=50).await;
    let history = bob.history("short:1", r#""after":0,"limit":1000"#).await;
    assert_eq!(history.offsets(), (31..=50).collect::<Vec<_>>());

    bob.join_with("long", r#""since":0"#).await;
    bob.hears(1..=50).await;
}

#[tokio::test]
async fn emptied_room_has_another_epoch() {
    let server = Server::with(&[("retention", r#"[{"rooms":"*","age":"1s"}]"#)]).await;
    let mut ada = server.connect_as("ada", "writer").await;
    ada.count("r", 1..=3).await;
    let mut bob = server.connect("bob").await;
    let epoch = bob.join("r").await.text("epoch");

    until_empty(&mut bob, "r").await;
    let ack = ada.say("r", 4).await;
    assert_eq!(ack.number("offset"), 1);
    let message = bob.expect("message").await;
    assert_eq!(message.number("offset"), 1);
    assert_ne!(message.text("epoch"), epoch);

    let mut late = server.connect("carol").await;
    let joined = late.join_with("r", &format!(r#""since":3,"epoch":"{epoch}""#)).await;
    assert_eq!((joined.flag("recovered"), joined.text("reason").as_str()), (false, "epoch"));
}

/// Where streams keep everything as long as the pattern that keeps it longest, the owner keeps the shorter age.
#[tokio::test]
async fn shorter_age_holds_for_its_rooms_alone() {
    let retention = r#"[{"rooms":"short:*","age":"1s"},{"rooms":"*"}]"#;
    let server = Server::with(&[("retention", retention)]).await;
    let mut ada = server.connect_as("ada", "writer").await;
    for room in ["short:1", "long"] {
        ada.count(room, 1..=3).await;
    }
    let mut bob = server.connect("bob").await;
    let epoch = bob.join("short:1").await.text("epoch");

    // Some are too old, and the newest ones are not: what is left is told, and that something is gone.
    let since = Instant::now();
    let offsets = loop {
        assert!(since.elapsed() < PATIENCE, "nothing of short:2 grew too old");
        ada.say("short:2", 1).await;
        let offsets = ada.history("short:2", r#""after":0,"limit":1000"#).await.offsets();
        if offsets.first().is_some_and(|oldest| *oldest > 1) {
            break offsets;
        }
    };
    assert!(offsets.windows(2).all(|pair| pair[0] + 1 == pair[1]), "{offsets:?}");
    let joined = server.connect("carol").await.join_with("short:2", r#""since":0"#).await;
    assert_eq!((joined.flag("recovered"), joined.text("reason").as_str()), (false, "trimmed"));

    // A room whose newest is too old begins another life.
    until_empty(&mut bob, "short:1").await;
    assert_eq!(ada.say("short:1", 4).await.number("offset"), 1);
    let message = bob.expect("message").await;
    assert_eq!(message.number("offset"), 1);
    assert_ne!(message.text("epoch"), epoch);
    assert_eq!(bob.history("long", "").await.offsets(), [1, 2, 3]);
}
