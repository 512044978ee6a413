//! The room that every connection of a user is in from the start.

use crate::server::Server;

const NOTIFIER: &str = r#"[{"rooms":["user:*"],"can":["publish"]}]"#;

#[tokio::test]
async fn every_connection_is_in_it() {
    let server = Server::start().await;
    let (mut phone, mut laptop) = (server.connect_as("ada", "phone").await, server.connect_as("ada", "laptop").await);
    let mut backend = server.dial().token(&server.token_for("backend", NOTIFIER)).connected().await;
    let ack = backend.say("user:ada", r#""hello""#).await;
    assert_eq!(ack.number("offset"), 1);
    for client in [&mut phone, &mut laptop] {
        let message = client.expect("message").await;
        assert_eq!((message.text("room").as_str(), message.text("sender").as_str()), ("user:ada", "backend"));
        assert_eq!((message.number("offset"), message.text("payload").as_str()), (1, "hello"));
    }
}

#[tokio::test]
async fn empty_grants_do_not_end_it() {
    let server = Server::start().await;
    let mut ada = server.dial().token(&server.token_for("ada", "[]")).connected().await;
    let mut backend = server.dial().token(&server.token_for("backend", NOTIFIER)).connected().await;
    backend.say("user:ada", 1).await;
    ada.hears(1..=1).await;
    ada.join("user:ada").await;
    ada.ask("broadcast", "user:ada", r#""payload":1"#).await;
    ada.expect_error("forbidden").await;
}

#[tokio::test]
async fn others_stay_out() {
    let server = Server::start().await;
    let mut bob = server.connect("bob").await;
    for (kind, fields) in [("join", ""), ("broadcast", r#""payload":1"#), ("history", ""), ("presence", "")] {
        let reference = bob.ask(kind, "user:ada", fields).await;
        let error = bob.expect_error("forbidden").await;
        assert_eq!((error.number("ref"), error.text("room").as_str()), (reference, "user:ada"));
    }
    let granted = server.token_for("eve", r#"[{"rooms":["user:ada"],"can":["join","history"]}]"#);
    let mut eve = server.dial().token(&granted).connected().await;
    eve.join("user:ada").await;
    eve.history("user:ada", "").await;
}

#[tokio::test]
async fn it_resumes_by_join() {
    let server = Server::start().await;
    let (ada, connected) = server.dial().token(&server.token("ada")).greeted().await;
    assert_eq!(connected.object("personal").number("offset"), 0);
    drop(ada);
    let mut backend = server.dial().token(&server.token_for("backend", NOTIFIER)).connected().await;
    backend.count("user:ada", 1..=3).await;
    let (mut ada, connected) = server.dial().token(&server.token("ada")).greeted().await;
    let personal = connected.object("personal");
    assert_eq!(personal.number("offset"), 3);
    let epoch = personal.text("epoch");
    let joined = ada.join_with("user:ada", &format!(r#""since":1,"epoch":"{epoch}""#)).await;
    assert!(joined.flag("recovered"));
    assert_eq!((joined.number("offset"), joined.text("epoch")), (3, epoch));
    ada.hears(2..=3).await;
    backend.say("user:ada", 4).await;
    ada.hears(4..=4).await;
    ada.heard_nothing_else().await;
}

#[tokio::test]
async fn it_does_not_count() {
    let server = Server::with(&[("limits.rooms_per_connection", "2")]).await;
    let mut ada = server.connect("ada").await;
    ada.join("user:ada").await;
    ada.join("one").await;
    // The bucket of joins is as large as the limit.
    let joined = loop {
        ada.ask("join", "two", "").await;
        let frame = ada.next().await;
        if frame.kind() == "joined" {
            break frame;
        }
        assert_eq!(frame.text("code"), "rate_limited");
        tokio::time::sleep(std::time::Duration::from_millis(frame.number("retryAfterMs"))).await;
    };
    assert_eq!(joined.text("room"), "two");
}

#[tokio::test]
async fn one_does_not_leave_it() {
    let server = Server::start().await;
    let mut ada = server.connect("ada").await;
    ada.ask("leave", "user:ada", "").await;
    ada.expect_error("forbidden").await;
    server.connect_as("ada", "other").await.say("user:ada", 1).await;
    ada.hears(1..=1).await;
}
