//! A token's end, and going on with a newer one.

use crate::{
    client::Client,
    server::{Server, unix_ms},
};

const NO_LEEWAY: &[(&str, &str)] = &[("jwt.leeway_s", "0")];

async fn refresh(client: &mut Client, token: &str) {
    client.send(format!(r#"{{"type":"refresh","token":"{token}","ref":"r"}}"#)).await;
}

#[tokio::test]
async fn expired_token_closes() {
    let server = Server::with(NO_LEEWAY).await;
    let token = server.token_of("ada", 2, None);
    let (mut ada, connected) = server.dial().token(&token).greeted().await;
    assert_eq!(ada.closed().await, (4004, "token_expired".to_owned()));
    assert!(unix_ms() >= connected.number("expiresAt"));
}

#[tokio::test]
async fn leeway_is_granted() {
    let server = Server::with(&[("jwt.leeway_s", "4")]).await;
    // Ended a second ago, and is still let in.
    let token = server.token_since(unix_ms() - 2000, "ada", 1, None);
    let (mut ada, connected) = server.dial().token(&token).greeted().await;
    assert_eq!(ada.closed().await.0, 4004);
    assert!(unix_ms() >= connected.number("expiresAt") + 4000);
}

#[tokio::test]
async fn refresh_outlives_the_old_token() {
    let server = Server::with(NO_LEEWAY).await;
    let token = server.token_of("ada", 3, None);
    let mut refreshed = server.dial().token(&token).connected().await;
    let mut left = server.dial().token(&token).connected().await;
    refreshed.join("lobby").await;
    let before = unix_ms() / 1000 * 1000;
    refresh(&mut refreshed, &server.token_of("ada", 600, None)).await;
    let answer = refreshed.expect("refreshed").await;
    assert_eq!(answer.names(), ["expiresAt", "ref", "type"]);
    assert_eq!(answer.text("ref"), "r");
    assert!(answer.number("expiresAt") >= before + 600_000);
    assert_eq!(left.closed().await.0, 4004);
    server.connect("bob").await.say("lobby", 1).await;
    refreshed.hears(1..=1).await;
}

#[tokio::test]
async fn shorter_token_ends_sooner() {
    let server = Server::with(NO_LEEWAY).await;
    let mut ada = server.connect("ada").await;
    refresh(&mut ada, &server.token_of("ada", 2, None)).await;
    ada.expect("refreshed").await;
    assert_eq!(ada.closed().await.0, 4004);
}

#[tokio::test]
async fn refresh_must_be_good() {
    let server = Server::start().await;
    let expired = server.token_since(unix_ms() - 3_600_000, "ada", 60, None);
    for token in [server.token("bob"), "nonsense".to_owned(), expired, String::new(), "x".repeat(9000)] {
        let mut ada = server.connect("ada").await;
        refresh(&mut ada, &token).await;
        assert_eq!(ada.closed().await, (4001, "unauthorized".to_owned()), "{token}");
    }
}

#[tokio::test]
async fn refresh_takes_rooms_away() {
    let server = Server::start().await;
    let mut ada = server.connect("ada").await;
    for room in ["chat:1", "news", "user:ada"] {
        ada.join(room).await;
    }
    refresh(&mut ada, &server.token_for("ada", r#"[{"rooms":["chat:*"],"can":["join"]}]"#)).await;
    ada.expect("refreshed").await;
    assert_eq!(ada.expect("left").await.text("room"), "news");
    assert_eq!(ada.expect_error("forbidden").await.text("room"), "news");

    let mut bob = server.connect("bob").await;
    bob.say("news", 1).await;
    bob.say("chat:1", 1).await;
    assert_eq!(ada.expect("message").await.text("room"), "chat:1");
    ada.heard_nothing_else().await;
    // What the new token no longer allows is gone, too.
    ada.ask("broadcast", "chat:1", r#""payload":1"#).await;
    ada.expect_error("forbidden").await;
    ada.ask("join", "news", "").await;
    ada.expect_error("forbidden").await;
}

#[tokio::test]
async fn refresh_gives_rooms() {
    let server = Server::start().await;
    let narrow = server.token_for("ada", r#"[{"rooms":["chat:*"],"can":["join"]}]"#);
    let mut ada = server.dial().token(&narrow).connected().await;
    ada.ask("join", "news", "").await;
    ada.expect_error("forbidden").await;
    refresh(&mut ada, &server.token("ada")).await;
    ada.expect("refreshed").await;
    ada.join("news").await;
    ada.say("news", 1).await;
}
