//! Coming into rooms and going out of them.

use crate::server::Server;

#[tokio::test]
async fn members_hear_others_do_not() {
    let server = Server::start().await;
    let (mut ada, mut bob, mut eve) = (server.connect("ada").await, server.connect("bob").await, server.connect("eve").await);
    let joined = ada.join("lobby").await;
    assert_eq!(joined.names(), ["epoch", "offset", "recovered", "ref", "room", "type"]);
    assert_eq!((joined.number("offset"), joined.text("epoch").as_str(), joined.flag("recovered")), (0, "", true));
    eve.join("elsewhere").await;
    bob.say("lobby", 1).await;
    ada.hears(1..=1).await;
    bob.say("elsewhere", 1).await;
    assert_eq!(eve.expect("message").await.text("room"), "elsewhere");
    ada.heard_nothing_else().await;
    bob.heard_nothing_else().await;
}

#[tokio::test]
async fn who_left_hears_nothing() {
    let server = Server::start().await;
    let (mut ada, mut bob) = (server.connect("ada").await, server.connect("bob").await);
    ada.join("lobby").await;
    let left = ada.leave("lobby").await;
    assert_eq!(left.names(), ["ref", "room", "type"]);
    assert_eq!(left.text("room"), "lobby");
    bob.say("lobby", 1).await;
    ada.heard_nothing_else().await;
    let joined = ada.join("lobby").await;
    assert_eq!(joined.number("offset"), 1);
    bob.say("lobby", 2).await;
    ada.hears(2..=2).await;
}

#[tokio::test]
async fn leaving_needs_membership() {
    let server = Server::start().await;
    let mut ada = server.connect("ada").await;
    let reference = ada.ask("leave", "lobby", "").await;
    let error = ada.expect_error("not_joined").await;
    assert_eq!((error.number("ref"), error.text("room").as_str()), (reference, "lobby"));
    ada.join("lobby").await;
    ada.leave("lobby").await;
    ada.ask("leave", "lobby", "").await;
    ada.expect_error("not_joined").await;
}

#[tokio::test]
async fn joining_again_replaces_the_options() {
    let server = Server::start().await;
    let mut ada = server.connect("ada").await;
    ada.join_with("lobby", r#""echo":true"#).await;
    ada.ask("broadcast", "lobby", r#""payload":1"#).await;
    let (first, second) = (ada.next().await.kind(), ada.next().await.kind());
    assert!([("message", "ack"), ("ack", "message")].contains(&(&first, &second)), "{first} {second}");
    let again = ada.join("lobby").await;
    assert_eq!(again.number("offset"), 1);
    ada.say("lobby", 2).await;
    ada.heard_nothing_else().await;
    // Once more, from the start: now as one who wants to see everything.
    ada.join_with("lobby", r#""since":0,"echo":true"#).await;
    ada.hears(1..=2).await;
    // One membership, however often it was joined.
    server.connect("bob").await.say("lobby", 3).await;
    ada.hears(3..=3).await;
    ada.heard_nothing_else().await;
}

/// Who is there is asked of the owner, and the room goes on meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn joining_again_misses_nothing() {
    let server = Server::start().await;
    let (mut ada, mut bob) = (server.connect("ada").await, server.connect("bob").await);
    ada.join("lobby").await;
    const COUNT: u64 = 300;
    let speaker = tokio::spawn(async move {
        for number in 1..=COUNT {
            bob.say("lobby", number).await;
        }
    });
    let mut last = 0;
    while last < COUNT {
        ada.send(r#"{"type":"join","room":"lobby","presence":true}"#.to_owned()).await;
        // What came before the answer, and one message behind it.
        let mut is_joined = false;
        loop {
            let frame = ada.next().await;
            match &*frame.kind() {
                "joined" => is_joined = true,
                "message" => {
                    assert_eq!(frame.number("offset"), last + 1);
                    last += 1;
                }
                _ => continue,
            }
            if is_joined && (frame.kind() == "message" || last == COUNT) {
                break;
            }
        }
    }
    speaker.await.unwrap();
}

#[tokio::test]
async fn wishes_are_answered_in_order() {
    let server = Server::start().await;
    let (mut ada, mut bob) = (server.connect("ada").await, server.connect("bob").await);
    bob.count("lobby", 1..=3).await;
    let frame =
        |kind: &str, reference: u32, options: &str| format!(r#"{{"type":"{kind}","room":"lobby","ref":{reference}{options}}}"#);
    ada.send_all([
        frame("join", 1, r#","since":0"#),
        frame("leave", 2, ""),
        frame("join", 3, r#","last":1"#),
        frame("join", 4, ""),
        frame("leave", 5, ""),
    ])
    .await;
    assert_eq!(ada.expect("joined").await.number("ref"), 1);
    let mut rest = Vec::new();
    while rest.last() != Some(&"left 5".to_owned()) {
        let frame = ada.next().await;
        let mark = if frame.has("ref") { frame.number("ref") } else { frame.number("offset") };
        rest.push(format!("{} {mark}", frame.kind()));
    }
    let answers: Vec<_> = rest.iter().filter(|it| !it.starts_with("message")).collect();
    assert_eq!(answers, ["left 2", "joined 3", "joined 4", "left 5"], "{rest:?}");
    bob.say("lobby", 4).await;
    ada.heard_nothing_else().await;
}

#[tokio::test]
async fn answers_need_no_ref() {
    let server = Server::start().await;
    let mut ada = server.connect("ada").await;
    ada.send(r#"{"type":"join","room":"lobby"}"#).await;
    assert!(!ada.expect("joined").await.has("ref"));
    ada.send(r#"{"type":"leave","room":"lobby"}"#).await;
    assert!(!ada.expect("left").await.has("ref"));
    ada.send(r#"{"type":"ping"}"#).await;
    assert_eq!(ada.expect("pong").await.names(), ["type"]);
    ada.send(r#"{"type":"leave","room":"lobby"}"#).await;
    assert!(!ada.expect_error("not_joined").await.has("ref"));
}

#[tokio::test]
async fn grants_bound_what_one_may() {
    let server = Server::start().await;
    let token = server.token_for(
        "ada",
        r#"[{"rooms":["chat:*"],"can":["join"]},{"rooms":["*:out"],"can":["publish"]},{"rooms":["log"],"can":["history"]}]"#,
    );
    let mut ada = server.dial().token(&token).connected().await;
    ada.join("chat:1").await;
    ada.say("chat:out", 1).await;
    ada.history("log", "").await;
    for (kind, room, fields) in [
        ("join", "news", ""),
        ("broadcast", "chat:1", r#""payload":1"#),
        ("history", "chat:1", ""),
        ("broadcast", "user:ada", r#""payload":1"#),
        ("join", "log", ""),
    ] {
        let reference = ada.ask(kind, room, fields).await;
        let error = ada.expect_error("forbidden").await;
        assert_eq!((error.number("ref"), error.text("room").as_str()), (reference, room));
    }
}

#[tokio::test]
async fn room_names_are_judged() {
    let server = Server::start().await;
    let mut ada = server.connect("ada").await;
    for room in ["a".to_owned(), "x".repeat(128), "Räume & Dinge 🎵".to_owned(), "ä".repeat(64)] {
        ada.join(&room).await;
    }
    for room in [String::new(), "x".repeat(129), " a".to_owned(), "a ".to_owned(), "a\\nb".to_owned(), "\\u0085".to_owned()] {
        // Each on a connection of its own: the tenth bad frame would end a shared one.
        for (kind, fields) in [("join", ""), ("leave", ""), ("broadcast", r#""payload":1"#), ("history", "")] {
            let mut ada = server.connect("ada").await;
            let reference = ada.ask(kind, &room, fields).await;
            assert_eq!(ada.expect_error("room_invalid").await.number("ref"), reference, "{kind} {room:?}");
        }
    }
    // The name counts, not how its JSON was written.
    ada.send(r#"{"type":"join","room":"\u0061","ref":"same"}"#).await;
    assert_eq!(ada.expect("joined").await.text("room"), "a");
}

#[tokio::test]
async fn gone_connections_leave_nothing() {
    let server = Server::start().await;
    let (mut polite, mut rude) = (server.connect("ada").await, server.connect("bob").await);
    for client in [&mut polite, &mut rude] {
        for room in ["one", "two", "three"] {
            client.join(room).await;
        }
    }
    server.until_metric("carillon_connections", 2).await;
    // Rooms count per shard; at least these and the two personal ones.
    assert!(server.metric("carillon_gateway_rooms").await >= 5);
    polite.close().await;
    server.until_metric("carillon_connections", 1).await;
    drop(rude);
    server.until_metric("carillon_connections", 0).await;
    server.until_metric("carillon_gateway_rooms", 0).await;
}
