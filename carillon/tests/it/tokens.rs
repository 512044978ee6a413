//! A token's end, and going on with a newer one.

use std::{path::Path, process::Command};

use serde_json::json;

use crate::{
    client::{Client, Dial},
    listener::Listen,
    polling::Polling,
    server::{ORIGIN, SECRET, Server, Shape, unix_ms},
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
async fn leeway_is_the_auth_services() {
    let server = Server::shaped(Shape::Cluster, &[("jwt.leeway_s", "3")]).await;
    let other = server.another_gateway_with("b", &[("jwt.leeway_s", "0")]).await;
    let token = server.token_of("ada", 1, None);
    let (mut ada, connected) = Dial::to(other.listen).token(&token).greeted().await;
    assert_eq!(ada.closed().await.0, 4004);
    assert!(unix_ms() >= connected.number("expiresAt") + 3000, "it holds as long as it opens doors");
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
async fn refresh_takes_presence_away() {
    let server = Server::start().await;
    let (mut ada, mut eve) = (server.connect("ada").await, server.connect("eve").await);
    for watcher in [&mut ada, &mut eve] {
        watcher.join_with("lobby", r#""presence":true"#).await;
    }
    ada.expect("userJoined").await;
    refresh(&mut ada, &server.token_for("ada", r#"[{"rooms":["*"],"can":["join"]}]"#)).await;
    ada.expect("refreshed").await;
    let mut bob = server.connect("bob").await;
    bob.join("lobby").await;
    eve.expect("userJoined").await;
    bob.say("lobby", 1).await;
    ada.hears(1..=1).await;
    ada.heard_nothing_else().await;
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

/// A connection over Socket.IO by this token, in a room.
async fn seat<'a>(server: &'a Server, token: &str) -> Polling<'a> {
    let (mut seat, answer) = Polling::connect(server, &json!({ "token": token }).to_string()).await;
    assert!(answer.starts_with("40{"), "{answer}");
    let joined = seat.ask(r#"["join","lobby"]"#).await;
    assert!(joined.contains(r#""recovered":true"#), "{joined}");
    seat
}

#[tokio::test]
async fn refresh_holds_over_socketio() {
    let server = Server::with(NO_LEEWAY).await;
    let token = server.token_of("ada", 3, None);
    let (mut refreshed, left) = (seat(&server, &token).await, seat(&server, &token).await);
    let before = unix_ms() / 1000 * 1000;
    let answer = refreshed.ask(&json!(["refresh", server.token_of("ada", 600, None)]).to_string()).await;
    let answer: serde_json::Value = serde_json::from_str(&answer).unwrap();
    assert!(answer[0]["expiresAt"].as_u64().unwrap() >= before + 600_000, "{answer}");
    // The transport ends without DISCONNECT, so that the client comes back with another token.
    assert!(!left.was_stopped().await);
    assert!(unix_ms() >= before + 2000);
    let still = refreshed.ask(r#"["broadcast",{"room":"lobby","payload":1}]"#).await;
    assert!(still.contains(r#""offset":1"#), "{still}");
    // Another user's stops it.
    let other = seat(&server, &server.token("ada")).await;
    assert_eq!(other.post(&format!("42{}", json!(["refresh", server.token("bob")]))).await, 200);
    assert!(other.was_stopped().await);
}

#[tokio::test]
async fn stream_goes_on_with_a_newer_token() {
    let server = Server::with(NO_LEEWAY).await;
    let path = "/events?room=lobby";
    let open = Listen::to(&server, path).token(&server.token_of("ada", 2, None)).open().await.begun().await;
    let mut bob = server.connect("bob").await;
    bob.say("lobby", 1).await;
    let (blocks, _) = open.ended().await;
    let [block] = &blocks[..] else { panic!("one message, not {blocks:?}") };
    assert_eq!(block.data("message")["offset"], 1);
    bob.say("lobby", 2).await;
    let mut again = Listen::to(&server, path).token(&server.token("ada")).after(block.id().unwrap()).open().await;
    again.hears("lobby", 2..=2).await;
}

/// The end of a token is a time of the wall clock, whatever was reckoned with when it was shown.
#[tokio::test]
async fn clock_that_is_set_ahead_ends_tokens() {
    let folder = tempfile::tempdir().unwrap();
    let (library, trigger) = (folder.path().join("stepped_clock.so"), folder.path().join("now"));
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/stepped_clock.c");
    let built = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(source).arg("-ldl").status();
    assert!(built.expect("a C compiler, which Rust links with").success());
    let variables = [("LD_PRELOAD", library.to_str().unwrap()), ("STEP_CLOCK", trigger.to_str().unwrap())];
    let settings = [("jwt.secret", SECRET), ("origins", ORIGIN)];
    let server = Server::in_environment(Shape::Serve, &variables, &settings).await;
    let token = server.token_of("ada", 1800, None);
    let mut ada = server.dial().token(&token).connected().await;
    let stream = Listen::to(&server, "/events/ada").token(&token).open().await.begun().await;
    let seat = seat(&server, &token).await;
    let mut bob = server.dial().token(&server.token_of("bob", 7200, None)).connected().await;
    ada.heard_nothing_else().await;
    std::fs::write(&trigger, "").unwrap();
    assert_eq!(ada.closed().await, (4004, "token_expired".to_owned()));
    assert!(stream.ended().await.0.is_empty());
    assert!(!seat.was_stopped().await);
    bob.heard_nothing_else().await;
}
