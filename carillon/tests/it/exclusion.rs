//! A sender is not sent its own messages: by user and client id, over reconnects.

use crate::{
    client::{Client, Frame},
    server::Server,
};

/// Says something with echo: the message and the ack, in either order.
async fn say_to_oneself(client: &mut Client, room: &str, options: &str) -> Frame {
    client.ask("broadcast", room, &format!(r#""payload":1{options}"#)).await;
    let (first, second) = (client.next().await, client.next().await);
    let (message, ack) = if first.kind() == "message" { (first, second) } else { (second, first) };
    assert_eq!((message.kind().as_str(), ack.kind().as_str()), ("message", "ack"));
    assert_eq!(message.json("offset"), ack.json("offset"));
    message
}

#[tokio::test]
async fn echo_is_asked_for() {
    let server = Server::start().await;
    let mut ada = server.connect("ada").await;
    ada.join("lobby").await;
    ada.say("lobby", 1).await;
    ada.heard_nothing_else().await;
    say_to_oneself(&mut ada, "lobby", r#","echo":true"#).await;
    ada.say_with("lobby", 3, r#""echo":false"#).await;
    ada.heard_nothing_else().await;
    ada.join_with("lobby", r#""echo":true"#).await;
    say_to_oneself(&mut ada, "lobby", "").await;
    say_to_oneself(&mut ada, "lobby", r#","echo":false"#).await;
}

#[tokio::test]
async fn user_and_client_id_decide() {
    let server = Server::start().await;
    let mut phone = server.connect_as("ada", "phone").await;
    let mut same_app = server.connect_as("ada", "phone").await;
    let mut laptop = server.connect_as("ada", "laptop").await;
    let mut namesake = server.connect_as("bob", "phone").await;
    for client in [&mut phone, &mut same_app, &mut laptop, &mut namesake] {
        client.join("lobby").await;
    }
    phone.say("lobby", 1).await;
    laptop.hears(1..=1).await;
    namesake.hears(1..=1).await;
    laptop.say("lobby", 2).await;
    namesake.hears(2..=2).await;
    // The phone's other connection is told of what it said itself, so that it can go on counting.
    assert_eq!(same_app.expect("own").await.number("offset"), 1);
    phone.hears(2..=2).await;
    same_app.hears(2..=2).await;
    for client in [&mut phone, &mut same_app, &mut laptop, &mut namesake] {
        client.heard_nothing_else().await;
    }
}

#[tokio::test]
async fn replays_name_ones_own() {
    let server = Server::start().await;
    let (mut ada, mut bob) = (server.connect_as("ada", "phone").await, server.connect("bob").await);
    let first = ada.say_with("lobby", 1, r#""key":"k-1""#).await;
    bob.say("lobby", 2).await;
    let third = ada.say("lobby", 3).await;
    ada.say_with("lobby", 4, r#""echo":true"#).await;
    ada.close().await;

    // The same app, on another connection.
    let mut ada = server.connect_as("ada", "phone").await;
    for options in [r#""since":0"#, r#""last":10"#] {
        ada.join_with("lobby", options).await;
        let own = ada.expect("own").await;
        assert_eq!(own.names(), ["id", "key", "offset", "room", "ts", "type"]);
        assert_eq!((own.text("room").as_str(), own.text("key").as_str()), ("lobby", "k-1"));
        for name in ["offset", "id", "ts"] {
            assert_eq!(own.json(name), first.json(name));
        }
        ada.hears(2..=2).await;
        let own = ada.expect("own").await;
        assert_eq!(own.names(), ["id", "offset", "room", "ts", "type"]);
        assert_eq!(own.json("offset"), third.json("offset"));
        ada.hears(4..=4).await;
        ada.heard_nothing_else().await;
    }
    ada.join_with("lobby", r#""since":0,"echo":true"#).await;
    ada.hears(1..=4).await;
    // Another app of the same user saw none of it yet.
    let mut laptop = server.connect_as("ada", "laptop").await;
    laptop.join_with("lobby", r#""since":0"#).await;
    laptop.hears(1..=4).await;
}

#[tokio::test]
async fn exclusion_survives_a_crash() {
    let mut server = Server::start().await;
    let mut ada = server.connect_as("ada", "phone").await;
    ada.say("lobby", 1).await;
    ada.say_with("lobby", 2, r#""echo":true"#).await;
    server.kill_and_restart().await;
    let mut ada = server.connect_as("ada", "phone").await;
    ada.join_with("lobby", r#""since":0"#).await;
    assert_eq!(ada.expect("own").await.number("offset"), 1);
    ada.hears(2..=2).await;
    ada.heard_nothing_else().await;
}

#[tokio::test]
async fn history_shows_ones_own() {
    let server = Server::start().await;
    let mut ada = server.connect("ada").await;
    ada.count("lobby", 1..=3).await;
    let history = ada.history("lobby", r#""limit":2"#).await;
    assert_eq!(history.offsets(), [2, 3]);
    assert!(history.flag("more"));
}
