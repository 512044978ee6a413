//! Who is there: told to those who ask, by user and not by connection, with a grace for those who come back.

use crate::server::Server;

fn users(frame: &crate::client::Frame) -> Vec<String> {
    let mut users: Vec<String> = frame.objects("members").iter().map(|member| member.text("userId")).collect();
    users.sort();
    users
}

#[tokio::test]
async fn newcomers_are_told_to_watchers() {
    let server = Server::start().await;
    let mut ada = server.connect("ada").await;
    let joined = ada.join_with("hall", r#""presence":true"#).await;
    assert_eq!(users(&joined), ["ada"]);

    let mut bob = server.connect("bob").await;
    let joined = bob.join("hall").await;
    assert!(!joined.has("members"), "members are for those who ask: {}", joined.raw);
    let told = ada.expect("userJoined").await;
    assert_eq!((told.object("user").text("id").as_str(), told.number("count")), ("bob", 2));
    bob.heard_nothing_else().await;

    bob.leave("hall").await;
    let told = ada.expect("userLeft").await;
    assert_eq!((told.object("user").text("id").as_str(), told.number("count")), ("bob", 1));
    ada.heard_nothing_else().await;
}

#[tokio::test]
async fn users_count_once() {
    let server = Server::start().await;
    let mut ada = server.connect("ada").await;
    ada.join_with("hall", r#""presence":true"#).await;
    let mut phone = server.connect_as("bob", "phone").await;
    let mut laptop = server.connect_as("bob", "laptop").await;
    phone.join("hall").await;
    ada.expect("userJoined").await;
    laptop.join_with("hall", r#""presence":true"#).await;
    phone.leave("hall").await;
    let reference = ada.ask("presence", "hall", "").await;
    let presence = ada.expect("presence").await;
    assert_eq!(
        (presence.number("ref"), presence.number("count"), users(&presence)),
        (reference, 2, vec!["ada".into(), "bob".into()])
    );
    let bob = presence.objects("members").into_iter().find(|member| member.text("userId") == "bob").unwrap();
    assert_eq!(bob.number("connections"), 1);
    ada.heard_nothing_else().await;
    laptop.heard_nothing_else().await;
}

#[tokio::test]
async fn reconnect_within_grace_is_silent() {
    let server = Server::start().await;
    let mut ada = server.connect("ada").await;
    ada.join_with("hall", r#""presence":true"#).await;
    let mut bob = server.connect("bob").await;
    bob.join("hall").await;
    ada.expect("userJoined").await;
    drop(bob);
    let mut bob = server.connect("bob").await;
    bob.join("hall").await;
    let joined = bob.join_with("hall", r#""presence":true"#).await;
    assert_eq!(users(&joined), ["ada", "bob"]);
    ada.heard_nothing_else().await;

    // Gone for good, it is told after the grace.
    drop(bob);
    let told = ada.expect("userLeft").await;
    assert_eq!((told.object("user").text("id").as_str(), told.number("count")), ("bob", 1));
}

#[tokio::test]
async fn watching_needs_its_grant() {
    let server = Server::start().await;
    let token = server.token_for("ada", r#"[{"rooms":["hall"],"can":["join"]}]"#);
    let mut ada = server.dial().token(&token).connected().await;
    ada.ask("presence", "hall", "").await;
    ada.expect_error("forbidden").await;
    ada.ask("join", "hall", r#""presence":true"#).await;
    ada.expect_error("forbidden").await;
    ada.join("hall").await;
}

#[tokio::test]
async fn large_rooms_are_counted_and_not_all_named() {
    const OTHERS: usize = 204;
    let server = Server::start().await;
    let mut ada = server.connect("ada").await;
    ada.join_with("hall", r#""presence":true"#).await;
    let mut others = Vec::new();
    for number in 0..OTHERS {
        let mut other = server.connect(&format!("user{number:03}")).await;
        other.join("hall").await;
        others.push(other);
        let told = ada.expect("userJoined").await;
        assert_eq!(told.number("count"), number as u64 + 2);
    }
    ada.ask("presence", "hall", "").await;
    let presence = ada.expect("presence").await;
    assert_eq!((presence.number("count"), users(&presence).len()), (OTHERS as u64 + 1, 200));
    assert!(presence.flag("truncated"));
    let joined = others[0].join_with("hall", r#""presence":true"#).await;
    assert_eq!(users(&joined).len(), 200);

    // Who comes and goes is told all the same, named in the answer or not.
    for (gone, count) in [(OTHERS - 1, 204), (1, 203)] {
        others[gone].leave("hall").await;
        for watcher in 0..2 {
            let watcher = if watcher == 0 { &mut ada } else { &mut others[0] };
            let told = watcher.expect("userLeft").await;
            assert_eq!((told.object("user").text("id"), told.number("count")), (format!("user{gone:03}"), count));
        }
    }
}
