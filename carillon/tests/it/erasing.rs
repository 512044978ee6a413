//! `DELETE /rooms/{room}`: a room's history goes for good, and everyone who knew it is told.

use crate::{http::Call, listener::Listen, server::Server};

const ADMIN: &str = r#"[{"rooms":["*"],"can":["admin"]}]"#;

fn delete(room: &str) -> Call {
    Call::new("DELETE", &format!("/rooms/{room}"))
}

#[tokio::test]
async fn erased_history_is_gone_for_good() {
    let mut server = Server::start().await;
    let (token, admin) = (server.token("ada"), server.token_for("root", ADMIN));
    let mut ada = server.connect_as("ada", "writer").await;
    ada.count("chat:1/ä", 1..=300).await;
    ada.count("other", 1..=3).await;
    let mut bob = server.connect("bob").await;
    let epoch = bob.join("chat:1/ä").await.text("epoch");

    let answer = delete("chat:1%2F%C3%A4").token(&admin).to(&server).await;
    assert_eq!((answer.status, answer.body.as_str()), (204, ""));
    let read = Call::new("GET", "/rooms/chat:1%2F%C3%A4/messages").token(&token).to(&server).await;
    assert_eq!(read.body, r#"{"messages":[],"more":false,"epoch":""}"#);
    // Asked again it is done again.
    assert_eq!(delete("chat:1%2F%C3%A4").token(&admin).to(&server).await.status, 204);
    assert_eq!(delete("never").token(&admin).to(&server).await.status, 204);

    let late = server.connect("carol").await.join_with("chat:1/ä", &format!(r#""since":300,"epoch":"{epoch}""#)).await;
    assert_eq!((late.flag("recovered"), late.text("reason").as_str(), late.number("offset")), (false, "epoch", 0));
    assert_eq!(ada.say("chat:1/ä", 1).await.number("offset"), 1);
    let message = bob.expect("message").await;
    assert_eq!(message.number("offset"), 1);
    let next = message.text("epoch");
    assert!(!next.is_empty() && next != epoch);
    assert_eq!(ada.history("other", "").await.offsets(), [1, 2, 3]);

    server.kill_and_restart().await;
    let mut dave = server.connect("dave").await;
    let page = dave.history("chat:1/ä", "").await;
    assert_eq!((page.offsets(), page.text("epoch")), (vec![1], next));
}

#[tokio::test]
async fn streams_go_on_into_the_next_life() {
    let server = Server::start().await;
    let admin = server.token_for("root", ADMIN);
    let mut ada = server.connect("ada").await;
    ada.count("lobby", 1..=3).await;
    let mut bob = Listen::to(&server, "/events?room=lobby").token(&server.token("bob")).open().await.begun().await;
    ada.count("lobby", 4..=5).await;
    bob.hears("lobby", 4..=5).await;
    assert_eq!(delete("lobby").token(&admin).to(&server).await.status, 204);
    ada.count("lobby", 1..=2).await;
    bob.hears("lobby", 1..=2).await;
}

#[tokio::test]
async fn only_admins_of_a_room_erase_it() {
    let server = Server::start().await;
    server.connect("ada").await.count("lobby", 1..=2).await;
    let chats = server.token_for("root", r#"[{"rooms":["chat:*"],"can":["admin"]}]"#);
    for (call, status, code) in [
        (delete("lobby").token(&server.token("ada")), 403, "forbidden"),
        (delete("lobby").token(&chats), 403, "forbidden"),
        (delete("lobby"), 401, "unauthorized"),
        (delete("lobby").token("nonsense"), 401, "unauthorized"),
        (delete("%20").token(&chats), 400, "room_invalid"),
    ] {
        let answer = call.to(&server).await;
        assert_eq!(answer.status, status, "{}", answer.body);
        assert!(answer.body.contains(&format!(r#""code":"{code}""#)), "{}", answer.body);
    }
    let answer = Call::new("GET", "/rooms/lobby").token(&chats).to(&server).await;
    assert_eq!(answer.status, 405);
    assert!(answer.head.contains("allow: delete, options"), "{}", answer.head);
    assert_eq!(server.connect("bob").await.history("lobby", "").await.offsets(), [1, 2]);
}

/// Who publishes and who deletes at the same time: every ack is of one life, and each life counts from 1 without holes.
#[tokio::test]
async fn deletions_among_publishes_leave_no_hole() {
    let server = Server::start().await;
    let admin = server.token_for("root", ADMIN);
    let mut bob = server.connect("bob").await;
    bob.join("lobby").await;
    let mut ada = server.connect("ada").await;
    let publishing = tokio::spawn(async move {
        ada.count("lobby", 1..=2_000).await;
    });
    let mut lives = 0;
    while !publishing.is_finished() {
        assert_eq!(delete("lobby").token(&admin).to(&server).await.status, 204);
        lives += 1;
    }
    publishing.await.unwrap();
    let (mut last, mut epoch, mut heard) = (0, String::new(), 0);
    while heard < 2_000 {
        let message = bob.expect("message").await;
        let offset = message.number("offset");
        if offset == 1 {
            assert_ne!(message.text("epoch"), epoch);
            epoch = message.text("epoch");
        } else {
            assert_eq!(offset, last + 1);
        }
        (last, heard) = (offset, heard + 1);
    }
    println!("{lives} deletions among 2,000 publishes");
}
