//! Each limit at the doors that share it: beside the native WebSocket (`limits`, `crowd`, `bad_frames`) those where the same limit
//! has another answer.

use std::time::Duration;

use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, sleep, timeout},
};

use crate::{
    http::Call,
    listener::Listen,
    polling::Polling,
    server::{ORIGIN, PATIENCE, SECRET, Server, Shape},
};

async fn seat<'a>(server: &'a Server, user: &str) -> Polling<'a> {
    let (seat, answer) = Polling::connect(server, &json!({ "token": server.token(user) }).to_string()).await;
    assert!(answer.starts_with("40{"), "{answer}");
    seat
}

/// The `error` that an event is acknowledged with.
async fn refused(seat: &mut Polling<'_>, event: serde_json::Value) -> serde_json::Value {
    let answer: serde_json::Value = serde_json::from_str(&seat.ask(&event.to_string()).await).unwrap();
    let error = answer[0]["error"].clone();
    assert!(error["message"].is_string(), "{event}: {answer}");
    error
}

#[tokio::test]
async fn socketio_has_the_limits_of_frames() {
    let server = Server::with(&[("limits.frame_bytes", "2000"), ("limits.rooms_per_connection", "3")]).await;
    let mut ada = seat(&server, "ada").await;
    let deep = |depth: usize| -> serde_json::Value {
        let text = format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        serde_json::from_str(&text).unwrap()
    };
    for (event, code) in [
        (json!(["broadcast", { "room": "lobby", "payload": deep(65) }]), "bad_request"),
        (json!(["broadcast", { "room": "lobby", "payload": 1, "key": "k".repeat(65) }]), "bad_request"),
        (json!(["broadcast", { "room": "x".repeat(129), "payload": 1 }]), "room_invalid"),
        (json!(["join", "x".repeat(129)]), "room_invalid"),
        (json!(["chat:join", "x".repeat(124)]), "room_invalid"),
        (json!(["history", { "room": "lobby", "limit": 1001 }]), "bad_request"),
    ] {
        assert_eq!(refused(&mut ada, event.clone()).await["code"], code, "{event}");
    }
    let deepest = ada.ask(&json!(["broadcast", { "room": "lobby", "payload": deep(64) }]).to_string()).await;
    assert!(deepest.contains(r#""offset":1"#), "{deepest}");
    // `join` has a rate of as many a second as there may be rooms.
    let mut joined = 0;
    loop {
        let answer: serde_json::Value =
            serde_json::from_str(&ada.ask(&json!(["join", format!("room {joined}")]).to_string()).await).unwrap();
        match answer[0]["error"]["code"].as_str() {
            None => joined += 1,
            Some("rate_limited") => sleep(Duration::from_millis(answer[0]["error"]["retryAfterMs"].as_u64().unwrap())).await,
            Some(code) => break assert_eq!(code, "too_many_rooms"),
        }
    }
    assert_eq!(joined, 3);
    // One packet above the limit, and several that are too much together.
    let large = format!("42{}", json!(["broadcast", { "room": "lobby", "payload": "x".repeat(2000) }]));
    assert_eq!(seat(&server, "bob").await.post(&large).await, 413);
    let many = vec![format!("42{}", json!(["broadcast", { "room": "lobby", "payload": "x".repeat(900) }])); 3].join("\u{1e}");
    assert_eq!(seat(&server, "bob").await.post(&many).await, 413);
    assert_eq!(server.connect("eve").await.history("lobby", "").await.offsets(), [1]);
}

#[tokio::test]
async fn rooms_of_a_stream_are_rooms_of_a_connection() {
    let server = Server::with(&[("limits.rooms_per_connection", "3")]).await;
    let ada = server.token("ada");
    let asked = Listen::to(&server, "/events?room=a&room=b&room=c&room=d").token(&ada);
    assert_eq!(asked.refused().await, (400, "too_many_rooms".to_owned()));
    Listen::to(&server, "/events?room=a&room=b&room=c&room=c").token(&ada).open().await.begun().await;
}

const SLOW: &[(&str, &str)] =
    &[("jwt.secret", SECRET), ("origins", ORIGIN), ("limits.frames_per_second", "1"), ("limits.frames_burst", "5")];

#[tokio::test]
async fn socketio_has_the_rate_of_frames() {
    let server = Server::bare(Shape::of_this_run(), SLOW).await;
    let mut ada = seat(&server, "ada").await;
    let say = json!(["broadcast", { "room": "lobby", "payload": 1 }]);
    let mut stored = 0;
    let error = loop {
        let answer: serde_json::Value = serde_json::from_str(&ada.ask(&say.to_string()).await).unwrap();
        if answer[0]["error"].is_object() {
            break answer[0]["error"].clone();
        }
        stored += 1;
        assert!(stored < 100, "no limit");
    };
    assert!(stored >= 5, "{stored}");
    assert_eq!((&error["code"], &error["room"]), (&"rate_limited".into(), &"lobby".into()), "{error}");
    let wait_ms = error["retryAfterMs"].as_u64().unwrap();
    assert!((1..=1000).contains(&wait_ms), "{error}");
    sleep(Duration::from_millis(wait_ms)).await;
    assert!(ada.ask(&say.to_string()).await.contains(r#""offset":"#));
}

/// As close 4102: the transport ends, so that the client comes back.
#[tokio::test]
async fn steady_excess_ends_socketio() {
    let server = Server::bare(Shape::of_this_run(), SLOW).await;
    let ada = seat(&server, "ada").await;
    let said = vec![r#"42["broadcast",{"room":"lobby","payload":1}]"#; 20].join("\u{1e}");
    let started = Instant::now();
    while ada.post(&said).await == 200 {
        assert!(started.elapsed() < PATIENCE, "still there");
        sleep(Duration::from_millis(100)).await;
    }
    assert!(started.elapsed() >= Duration::from_secs(9), "{:?}", started.elapsed());
    server.until_metric(r#"carillon_closes_total{code="4102"}"#, 1).await;
    assert!(!ada.was_stopped().await);
}

#[tokio::test]
async fn socketio_counts_connections_too() {
    for settings in [[("limits.connections_per_user", "1")], [("limits.connections", "1")]] {
        let server = Server::with(&settings).await;
        let _here = server.connect("ada").await;
        // No CONNECT_ERROR, after which a client would not come back.
        let (refused, answer) = Polling::connect(&server, &json!({ "token": server.token("ada") }).to_string()).await;
        assert!(!answer.starts_with("44"), "{settings:?}: {answer}");
        assert!(!refused.was_stopped().await, "{settings:?}");
    }
}

#[tokio::test]
async fn who_does_not_connect_is_not_waited_for() {
    let server = Server::with(&[("limits.handshake_ms", "300")]).await;
    let opened = Call::new("GET", "/socket.io/?EIO=4&transport=polling").to(&server).await;
    let open: serde_json::Value = serde_json::from_str(&opened.body[1..]).unwrap();
    let path = format!("/socket.io/?EIO=4&transport=polling&sid={}", open["sid"].as_str().unwrap());
    let gone = timeout(PATIENCE, async { while Call::new("GET", &path).to(&server).await.status == 200 {} });
    gone.await.expect("an end in time");
}

/// `null` is what sandboxed frames and files say: it names no page.
#[tokio::test]
async fn pages_are_exact_at_every_door() {
    let server = Server::start().await;
    let ada = server.token("ada");
    let poll = "/socket.io/?EIO=4&transport=polling";
    for (origin, is_listed) in [
        (ORIGIN, true),
        ("null", false),
        ("", false),
        ("https://app.example.com.evil.example", false),
        ("https://evil.example/https://app.example.com", false),
        ("http://app.example.com", false),
        ("https://app.example.com:8443", false),
        ("https://app.example.com/", false),
        ("https://sub.app.example.com", false),
    ] {
        let with = |good: u16| if is_listed { good } else { 403 };
        let socket = server.dial().token(&ada).origin(origin).open().await.map(|_| 101);
        assert_eq!(socket.unwrap_or_else(|status| status), with(101), "{origin}: WebSocket");
        let stream = Listen::to(&server, "/events?room=lobby").token(&ada).header("origin", origin).open().await;
        assert_eq!(stream.status, with(200), "{origin}: events");
        // By cookie, which a browser sends whoever makes it ask.
        let cookie = Listen::to(&server, "/events/ada").header("cookie", &format!("carillon_token={ada}"));
        assert_eq!(cookie.header("origin", origin).open().await.status, with(200), "{origin}: events by cookie");
        let said = Call::new("POST", "/rooms/lobby/messages").token(&ada).json(r#"{"payload":1}"#).header("origin", origin);
        assert_eq!(said.to(&server).await.status, with(201), "{origin}: HTTP");
        assert_eq!(Call::new("GET", poll).header("origin", origin).to(&server).await.status, with(200), "{origin}: Socket.IO");
    }
}

#[tokio::test]
async fn heads_have_a_limit_at_every_path() {
    let server = Server::start().await;
    let ada = server.token("ada");
    let padding = "x".repeat(40_000);
    for path in ["/ws", "/events/ada", "/rooms/lobby/messages", "/socket.io/?EIO=4&transport=polling", "/nothing"] {
        let mut socket = TcpStream::connect(server.listen).await.unwrap();
        let head = format!("GET {path} HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {ada}\r\nx: {padding}\r\n\r\n");
        let _ = socket.write_all(head.as_bytes()).await;
        let mut answer = Vec::new();
        // It may have hung up before it took all that was sent: then the answer is lost on the way.
        let _ = timeout(PATIENCE, socket.read_to_end(&mut answer)).await.expect("an end in time");
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431 "), "{path}: {answer}");
    }
    server.connect("ada").await;
}

/// Nothing is inflated here: a frame that says that it is compressed is a broken one, however small.
#[tokio::test]
async fn compressed_frames_are_broken_ones() {
    let server = Server::start().await;
    let mut ada = server.connect("ada").await;
    // FIN, RSV1, text; masked with zeros.
    ada.send_bytes(&[0xc1, 0x85, 0, 0, 0, 0, 0xaa, 0x56, 0x2a, 0x01, 0x00]).await;
    assert_eq!(ada.closed().await.0, 1002);
}
