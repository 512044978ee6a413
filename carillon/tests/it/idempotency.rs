//! A repeat by its key stores nothing and is told what became of the first.

use crate::{client::Frame, server::Server};

fn assert_repeats(repeat: &Frame, first: &Frame) {
    assert!(repeat.flag("duplicate"), "{}", repeat.raw);
    for name in ["offset", "id", "ts", "room"] {
        assert_eq!(repeat.json(name), first.json(name));
    }
}

#[tokio::test]
async fn repeat_stores_nothing() {
    let server = Server::start().await;
    let (mut ada, mut bob) = (server.connect("ada").await, server.connect("bob").await);
    bob.join("lobby").await;
    let first = ada.say_with("lobby", 1, r#""key":"k""#).await;
    assert!(!first.has("duplicate"));
    // Another payload does not make it another message.
    assert_repeats(&ada.say_with("lobby", 2, r#""key":"k""#).await, &first);
    assert_repeats(&server.connect_as("ada", "other").await.say_with("lobby", 1, r#""key":"k""#).await, &first);
    assert_eq!(ada.say_with("lobby", 3, r#""key":"l""#).await.number("offset"), 2);
    bob.hears(1..=2).await;
    bob.heard_nothing_else().await;
    assert_eq!(bob.history("lobby", "").await.offsets(), [1, 2]);
}

#[tokio::test]
async fn repeat_in_flight_waits_for_the_first() {
    let server = Server::start().await;
    let mut ada = server.connect("ada").await;
    let say = |reference: u32| format!(r#"{{"type":"broadcast","room":"lobby","payload":1,"key":"k","ref":{reference}}}"#);
    for round in 0..20 {
        let room = format!("room {round}");
        ada.send_all((0..5).map(|reference| say(reference).replace("lobby", &room))).await;
        let first = ada.expect("ack").await;
        assert_eq!((first.number("ref"), first.number("offset"), first.has("duplicate")), (0, 1, false));
        for reference in 1..5 {
            let repeat = ada.expect("ack").await;
            assert_eq!(repeat.number("ref"), reference);
            assert_repeats(&repeat, &first);
        }
    }
}

#[tokio::test]
async fn keys_are_per_user_and_room() {
    let server = Server::start().await;
    let (mut ada, mut bob) = (server.connect("ada").await, server.connect("bob").await);
    for (client, room, offset) in [(&mut ada, "one", 1), (&mut bob, "one", 2)] {
        let ack = client.say_with(room, 1, r#""key":"k""#).await;
        assert_eq!((ack.number("offset"), ack.has("duplicate")), (offset, false));
    }
    assert!(!ada.say_with("two", 1, r#""key":"k""#).await.has("duplicate"));
}

#[tokio::test]
async fn keys_have_bounds() {
    let server = Server::start().await;
    let mut ada = server.connect("ada").await;
    for key in ["k".repeat(64), "ä".repeat(32), r"\u0000 \n".to_owned()] {
        let options = format!(r#""key":"{key}""#);
        let first = ada.say_with("lobby", 1, &options).await;
        assert_repeats(&ada.say_with("lobby", 1, &options).await, &first);
    }
    for key in [r#""""#.to_owned(), format!(r#""{}""#, "k".repeat(65)), "7".to_owned()] {
        ada.ask("broadcast", "lobby", &format!(r#""payload":1,"key":{key}"#)).await;
        ada.expect_error("bad_request").await;
    }
}

#[tokio::test]
async fn keys_outlive_a_crash() {
    let mut server = Server::start().await;
    let mut ada = server.connect("ada").await;
    let first = ada.say_with("lobby", 1, r#""key":"k""#).await;
    server.kill_and_restart().await;
    let mut ada = server.connect("ada").await;
    assert_repeats(&ada.say_with("lobby", 1, r#""key":"k""#).await, &first);
    assert_eq!(ada.history("lobby", "").await.offsets(), [1]);
}
