//! Server-Sent Events: what a browser's `EventSource` is sent, what it misses while it is away (nothing), and what never stops it
//! for good.

use crate::{
    http::Call,
    listener::{Listen, Listener},
    server::{ORIGIN, Server},
};

/// A stream of rooms that has begun.
async fn listen(server: &Server, path: &str, user: &str) -> Listener {
    Listen::to(server, path).token(&server.token(user)).open().await.begun().await
}

async fn resume(server: &Server, path: &str, user: &str, id: &str) -> Listener {
    Listen::to(server, path).token(&server.token(user)).after(id).open().await
}

#[tokio::test]
async fn own_stream_begins_with_connected() {
    let server = Server::start().await;
    for http2 in [false, true] {
        let listen = Listen::to(&server, "/events/ada").token(&server.token("ada"));
        let mut ada = if http2 { listen.http2() } else { listen }.open().await;
        assert_eq!((ada.status, &ada.headers["content-type"]), (200, &"text/event-stream".parse().unwrap()));
        assert_eq!(ada.headers["cache-control"], "no-cache, no-store");
        assert_eq!(ada.headers["x-accel-buffering"], "no");
        assert_eq!(ada.next().await.unwrap().lines, ["retry: 2000"]);
        assert_eq!(ada.next().await.unwrap().lines, ["event: connected", r#"data: {"userId":"ada"}"#]);
        let start = ada.next().await.unwrap();
        assert_eq!((start.lines.len(), start.id().is_some()), (1, true), "{start:?}");
    }
}

#[tokio::test]
async fn payloads_of_ones_own_room_are_events() {
    let server = Server::start().await;
    let mut ada = listen(&server, "/events/ada", "ada").await;
    let mut other = listen(&server, "/events?room=user:ada", "ada").await;
    let mut native = server.connect_as("ada", "phone").await;
    let cases = [
        (r#"{"type":"order","data":{"id":1.0}}"#, Some(("order", r#"{"id":1.0}"#))),
        (r#"{ "data" : null , "type" : "\u0061 b" }"#, Some(("a b", "null"))),
        (r#"{"type":"ping","data":"x"}"#, Some(("ping", r#""x""#))),
        (r#"{"type":"message","data":1}"#, Some(("message", "1"))),
        (r#"{"type":"order","data":1,"more":2}"#, None),
        (r#"{"type":"order"}"#, None),
        (r#"{"type":1,"data":1}"#, None),
        (r#"{"type":"a","type":"b","data":1}"#, None),
        (r#"["order",1]"#, None),
        (r#"{"type":"","data":1}"#, Some(("", "1"))),
        (r#"{"type":"a\nb","data":1}"#, None),
        (r#"{"type":"a\rb","data":1}"#, None),
        (r#"{"type":"a\u0000b","data":1}"#, None),
        (r#"{"type":"connected","data":1}"#, None),
        (r#"{"type":"gap","data":1}"#, None),
        (r#"{"type":"error","data":1}"#, None),
        (r#"{"type":"open","data":1}"#, None),
        ("1", None),
    ];
    for (payload, typed) in cases {
        let offset = native.say_with("user:ada", payload, r#""echo":true"#).await.number("offset");
        let frame = native.expect("message").await.raw;
        let event = ada.event().await;
        let expected = typed.unwrap_or(("message", &frame));
        assert_eq!(event.event().unwrap(), (expected.0, expected.1.to_owned()), "{payload}");
        assert!(event.id().is_some());
        // As one room of several it is a room like any other.
        assert_eq!(other.event().await.event().unwrap(), ("message", frame.to_string()), "{offset}");
    }
}

#[tokio::test]
async fn line_breaks_of_a_payload_are_lines() {
    let server = Server::start().await;
    let mut ada = listen(&server, "/events?room=lobby", "ada").await;
    let payload = "{\n\"a\":\r\n[1,\r2] }";
    let body = format!("{{\"payload\":{payload}}}");
    let said = Call::new("POST", "/rooms/lobby/messages").json(&body).token(&server.token("bob")).to(&server).await;
    assert_eq!(said.status, 201, "{}", said.body);
    let event = ada.event().await;
    assert!(event.event().unwrap().1.contains(&payload.replace('\r', "\n")), "{event:?}");
    assert_eq!(event.data("message")["payload"]["a"][1], 2);
}

#[tokio::test]
async fn several_rooms_come_back_together() {
    let mut server = Server::start().await;
    let path = "/events?room=a&room=b&room=a";
    let mut bob = server.connect("bob").await;
    let mut ada = listen(&server, path, "ada").await;
    bob.count("a", 1..=2).await;
    bob.count("b", 1..=1).await;
    let mut seen = [0, 0];
    for _ in 0..3 {
        let frame = ada.event().await.data("message");
        seen[usize::from(frame["room"] == "b")] = frame["offset"].as_u64().unwrap();
    }
    assert_eq!(seen, [2, 1]);
    let id = ada.id.clone();
    drop(ada);
    bob.count("a", 3..=4).await;
    bob.count("b", 2..=3).await;
    for round in 0..2 {
        for listen in [
            Listen::to(&server, path).after(&id),
            Listen::to(&server, path).after(&id).http2(),
            Listen::to(&server, &format!("{path}&lastEventId={id}")),
        ] {
            let mut ada = listen.token(&server.token("ada")).open().await;
            let mut seen = [2, 1];
            for _ in 0..4 {
                let frame = ada.event().await.data("message");
                let seen = &mut seen[usize::from(frame["room"] == "b")];
                *seen += 1;
                assert_eq!(frame["offset"], *seen);
            }
            assert_eq!(seen, [4, 3]);
        }
        if round == 0 {
            server.kill_and_restart().await;
        }
    }
}

#[tokio::test]
async fn who_saw_nothing_yet_misses_nothing() {
    let server = Server::start().await;
    let mut bob = server.connect("bob").await;
    bob.count("old", 1..=3).await;
    let path = "/events?room=old&room=new";
    let id = listen(&server, path, "ada").await.id;
    bob.count("old", 4..=4).await;
    bob.count("new", 1..=1).await;
    let mut ada = resume(&server, path, "ada", &id).await;
    let mut rooms = [ada.event().await.data("message"), ada.event().await.data("message")]
        .map(|frame| (frame["room"].as_str().unwrap().to_owned(), frame["offset"].as_u64().unwrap()));
    rooms.sort();
    assert_eq!(rooms, [("new".to_owned(), 1), ("old".to_owned(), 4)]);
    // A room that is new in the address begins with what comes.
    bob.count("added", 1..=1).await;
    let mut ada = resume(&server, "/events?room=added&room=old", "ada", &ada.id).await.begun().await;
    bob.say("added", 2).await;
    ada.hears("added", 2..=2).await;
}

#[tokio::test]
async fn what_cannot_be_resumed_is_told() {
    let server = Server::with(&[("retention", r#"[{"rooms":"short","messages":2}]"#)]).await;
    let mut bob = server.connect("bob").await;
    bob.count("a", 1..=3).await;
    bob.count("short", 1..=1).await;
    let of_a = listen(&server, "/events?room=a", "ada").await.id;
    let of_short = listen(&server, "/events?room=short", "ada").await.id;
    bob.count("short", 2..=6).await;
    let gap = |room: &str, reason: &str| serde_json::json!({ "room": room, "reason": reason });
    // Garbage, another room's, too long: for each room, before anything else of it.
    let long = "A".repeat(1025);
    for id in ["nonsense", "AQ", &of_a[1..], of_short.as_str(), &long, "not a cursor!"] {
        let mut ada = resume(&server, "/events?room=a&room=b", "ada", id).await;
        let mut gaps = [ada.event().await.data("gap"), ada.event().await.data("gap")];
        gaps.sort_by_key(|gap| gap["room"].to_string());
        assert_eq!(gaps, [gap("a", "cursor"), gap("b", "cursor")], "{id}");
        let ada = ada.begun().await;
        // Told once: where it stands now is a place to go on from.
        let mut again = resume(&server, "/events?room=a&room=b", "ada", &ada.id).await;
        let said = bob.say("a", 1).await.number("offset");
        again.hears("a", said..=said).await;
    }
    // Retention took some of what was missed.
    let mut ada = resume(&server, "/events?room=short", "ada", &of_short).await;
    assert_eq!(ada.event().await.data("gap"), gap("short", "trimmed"));
    bob.say("short", 7).await;
    ada.hears("short", 7..=7).await;
    // Another log: the same room of another server.
    let other = Server::start().await;
    let mut eve = other.connect("eve").await;
    eve.count("a", 1..=5).await;
    let mut ada = resume(&other, "/events?room=a", "ada", &of_a).await;
    assert_eq!(ada.event().await.data("gap"), gap("a", "epoch"));
    eve.say("a", 6).await;
    ada.hears("a", 6..=6).await;
}

#[tokio::test]
async fn heartbeat_says_where_the_client_stands() {
    let server = Server::with(&[("sse.heartbeat_ms", "200"), ("sse.retry_ms", "1234")]).await;
    let open = Listen::to(&server, "/events?room=lobby&client=phone").token(&server.token("ada"));
    let mut ada = open.open().await;
    assert_eq!(ada.next().await.unwrap().lines, ["retry: 1234"]);
    let mut ada = ada.begun().await;
    assert_eq!(ada.next().await.unwrap().lines, [":heartbeat"]);
    // Her own message is not sent to her, but she has it behind her.
    let before = ada.id.clone();
    let mut phone = server.connect_as("ada", "phone").await;
    phone.say("lobby", 1).await;
    let moved = loop {
        let block = ada.next().await.unwrap();
        assert_eq!((block.lines[0].as_str(), block.event()), (":heartbeat", None));
        if block.id().is_some() {
            break ada.id.clone();
        }
    };
    assert_ne!(moved, before);
    assert_eq!(ada.next().await.unwrap().lines, [":heartbeat"]);
    let mut bob = server.connect("bob").await;
    bob.say("lobby", 2).await;
    let path = "/events?room=lobby";
    resume(&server, path, "ada", &moved).await.hears("lobby", 2..=2).await;
    resume(&server, path, "ada", &before).await.hears("lobby", 1..=2).await;
}

#[tokio::test]
async fn ephemeral_messages_have_no_place() {
    let server = Server::start().await;
    let mut ada = listen(&server, "/events?room=lobby", "ada").await;
    let mut bob = server.connect("bob").await;
    bob.say_with("lobby", 1, r#""ephemeral":true"#).await;
    let event = ada.event().await;
    assert_eq!((event.id(), &event.data("message")["ephemeral"]), (None, &true.into()));
}

#[tokio::test]
async fn listeners_are_members() {
    let server = Server::start().await;
    let stream = listen(&server, "/events?room=lobby", "ada").await;
    let count = async || {
        let answer = Call::new("GET", "/rooms/lobby/presence").token(&server.token("bob")).to(&server).await;
        serde_json::from_str::<serde_json::Value>(&answer.body).unwrap()["count"].as_u64().unwrap()
    };
    assert_eq!(count().await, 1);
    server.until_metric("carillon_connections", 1).await;
    drop(stream);
    server.until_metric("carillon_connections", 0).await;
}

#[tokio::test]
async fn token_has_three_places() {
    let server = Server::start().await;
    let (ada, bob) = (server.token("ada"), server.token("bob"));
    let path = "/events/ada";
    let with = |query: &str| Listen::to(&server, &format!("{path}{query}"));
    let cookie = || with("").header("cookie", &format!("a=b; carillon_token={ada}; c=d"));
    assert_eq!(with("").token(&ada).open().await.status, 200);
    assert_eq!(with(&format!("?token={ada}")).open().await.status, 200);
    assert_eq!(cookie().header("origin", ORIGIN).open().await.status, 200);
    assert_eq!(cookie().header("sec-fetch-site", "same-origin").open().await.status, 200);
    // The first place decides.
    assert_eq!(with(&format!("?token={ada}")).token(&bob).refused().await, (403, "forbidden".into()));
    assert_eq!(with(&format!("?token={ada}")).token("bad").refused().await, (401, "unauthorized".into()));
    // A cookie is sent by whatever page makes the browser ask.
    assert_eq!(cookie().refused().await, (403, "forbidden".into()));
    assert_eq!(cookie().header("sec-fetch-site", "cross-site").refused().await, (403, "forbidden".into()));
    assert_eq!(cookie().header("origin", "https://evil.example").refused().await, (403, "forbidden".into()));
    // What the page may read.
    let opened = with("").token(&ada).header("origin", ORIGIN).open().await;
    assert_eq!(opened.headers["access-control-allow-origin"], ORIGIN);
    assert_eq!(opened.headers["access-control-allow-credentials"], "true");
}

#[tokio::test]
async fn mistakes_are_problems() {
    let server = Server::start().await;
    let ada = server.token("ada");
    let admin = server.token_for("ada", r#"[{"rooms":["*"],"can":["admin"]}]"#);
    let rooms = |count: usize| (0..count).map(|room| format!("room={room}")).collect::<Vec<_>>().join("&");
    let long = format!("/events?room={}", "x".repeat(129));
    let (most, more) = (format!("/events?{}", rooms(64)), format!("/events?{}", rooms(65)));
    let cases = [
        ("/events/ada", "", (401, "unauthorized")),
        ("/events/ada", "nonsense", (401, "unauthorized")),
        ("/events/bob", &ada, (403, "forbidden")),
        ("/events/bob", &admin, (403, "forbidden")),
        ("/events?room=user:bob", &ada, (403, "forbidden")),
        ("/events?room=lobby", &admin, (403, "forbidden")),
        ("/events", &ada, (400, "bad_request")),
        ("/events?room=", &ada, (400, "room_invalid")),
        (&long, &ada, (400, "room_invalid")),
        (&more, &ada, (400, "too_many_rooms")),
        ("/events/ada?client=a%20b", &ada, (400, "bad_request")),
        ("/events/ada/more", &ada, (404, "bad_request")),
    ];
    for (path, token, (status, code)) in cases {
        let listen = Listen::to(&server, path);
        let listen = if token.is_empty() { listen } else { listen.token(token) };
        assert_eq!(listen.refused().await, (status, code.to_owned()), "{path}");
    }
    let id = listen(&server, &most, "ada").await.id;
    assert!(id.len() <= 1024);
    let posted = Call::new("POST", "/events/ada").token(&ada).to(&server).await;
    assert_eq!(posted.status, 405);
}

#[tokio::test]
async fn overload_tells_when_to_come_back() {
    let server = Server::with(&[("limits.connections", "1"), ("gateway.shards", "1"), ("sse.retry_ms", "500")]).await;
    let path = "/events?room=lobby";
    let _here = listen(&server, path, "ada").await;
    let retry_ms = Listen::to(&server, path).token(&server.token("bob")).sent_away().await;
    assert!((500..=1000).contains(&retry_ms), "{retry_ms}");
}

#[tokio::test]
async fn drain_ends_streams_in_turn() {
    let mut server = Server::with(&[("drain.window_ms", "500")]).await;
    let mut bob = server.connect("bob").await;
    let path = "/events?room=lobby";
    let (ada, eve) = (listen(&server, path, "ada").await, Listen::to(&server, path).token(&server.token("eve")).http2());
    let eve = eve.open().await.begun().await;
    bob.say("lobby", 1).await;
    server.signal("TERM");
    for listener in [ada, eve] {
        let (blocks, retry_ms) = listener.ended().await;
        assert!(retry_ms <= 1000, "{retry_ms}");
        assert_eq!(blocks.len(), 1, "{blocks:?}");
        assert_eq!(blocks[0].data("message")["offset"], 1);
    }
    assert_eq!(server.ended().await, Some(0));
}

#[tokio::test]
async fn expired_token_ends_the_stream() {
    let server = Server::with(&[("jwt.leeway_s", "0")]).await;
    let token = server.token_of("ada", 2, None);
    let ada = Listen::to(&server, "/events/ada").token(&token).open().await.begun().await;
    assert!(ada.ended().await.0.is_empty());
    assert_eq!(Listen::to(&server, "/events/ada").token(&token).refused().await, (401, "unauthorized".into()));
}

#[tokio::test]
async fn slow_listener_is_let_go_and_misses_nothing() {
    const MESSAGES: u64 = 400;
    let server = Server::start().await;
    let path = "/events?room=lobby";
    let open = Listen::to(&server, path).token(&server.token("slow")).small_receive_buffer();
    let mut slow = open.open().await.begun().await;
    let mut bob = server.connect("bob").await;
    let payload = format!(r#""{}""#, "x".repeat(50_000));
    for _ in 0..MESSAGES / 50 {
        bob.say_all("lobby", vec![payload.clone(); 50]).await;
    }
    server.until_metric(r#"carillon_closes_total{code="4101"}"#, 1).await;
    let mut seen = 0;
    loop {
        // What was on its way comes whole, or not at all.
        let Some(block) = slow.next().await else { break };
        if block.event().is_some() {
            seen += 1;
            assert_eq!(block.data("message")["offset"], seen);
        }
    }
    assert!(seen < MESSAGES, "{seen}");
    let mut again = resume(&server, path, "slow", &slow.id).await;
    again.hears("lobby", seen + 1..=MESSAGES).await;
}

#[tokio::test]
async fn long_resume_comes_in_pages() {
    const MESSAGES: u64 = 500;
    let server = Server::with(&[("limits.replay_messages", "50"), ("limits.outbox_bytes", "16384")]).await;
    let path = "/events?room=lobby";
    let id = listen(&server, path, "ada").await.id;
    server.connect("bob").await.count("lobby", 1..=MESSAGES).await;
    resume(&server, path, "ada", &id).await.hears("lobby", 1..=MESSAGES).await;
}

#[tokio::test]
async fn quick_listener_outlives_a_burst() {
    const MESSAGES: u64 = 60;
    let server = Server::start().await;
    let mut ada = listen(&server, "/events?room=lobby", "ada").await;
    let mut bob = server.connect("bob").await;
    let payload = format!(r#""{}""#, "x".repeat(50_000));
    let saying = bob.say_all("lobby", vec![payload; MESSAGES as usize]);
    tokio::join!(saying, ada.hears("lobby", 1..=MESSAGES));
}

#[tokio::test]
async fn streams_count_as_connections_of_their_user() {
    let server = Server::with(&[("limits.connections_per_user", "2"), ("sse.retry_ms", "500")]).await;
    let path = "/events?room=lobby";
    let (_first, _second) = (listen(&server, path, "ada").await, server.connect("ada").await);
    let third = Listen::to(&server, path).token(&server.token("ada")).open().await;
    let (blocks, retry_ms) = third.ended().await;
    assert_eq!(blocks.len(), 1, "nothing of a room: {blocks:?}");
    assert!((500..=1000).contains(&retry_ms), "{retry_ms}");
    listen(&server, path, "bob").await;
}
