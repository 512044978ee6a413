//! Each limit, at its edge.

use std::time::Duration;

use tokio_tungstenite::tungstenite::{
    Bytes, Message,
    protocol::frame::{
        Frame as WireFrame,
        coding::{Data, OpCode},
    },
};

use crate::{
    client::Client,
    polling::Polling,
    server::{ORIGIN, PATIENCE, SECRET, Server, Shape},
};

/// A broadcast of exactly so many bytes.
fn broadcast_of(bytes: usize) -> String {
    let frame =
        |padding: usize| format!(r#"{{"type":"broadcast","room":"lobby","ref":"r","payload":"{}"}}"#, "x".repeat(padding));
    let text = frame(bytes - frame(0).len());
    assert_eq!(text.len(), bytes);
    text
}

#[tokio::test]
async fn frame_size_is_exact() {
    for (settings, limit) in [(&[][..], 65_536), (&[("limits.frame_bytes", "1000")][..], 1000)] {
        let server = Server::with(settings).await;
        let (mut ada, mut bob) = (server.connect("ada").await, server.connect("bob").await);
        bob.join("lobby").await;
        ada.send(broadcast_of(limit)).await;
        ada.expect("ack").await;
        bob.hears(1..=1).await;
        ada.send(broadcast_of(limit + 1)).await;
        assert_eq!(ada.closed().await.0, 1009);
        bob.heard_nothing_else().await;
    }
}

#[tokio::test]
async fn fragments_count_together() {
    let server = Server::with(&[("limits.frame_bytes", "1000")]).await;
    for bytes in [1000, 1001] {
        let mut ada = server.connect("ada").await;
        let text = broadcast_of(bytes).into_bytes();
        let pieces: Vec<_> = text.chunks(100).collect();
        for (index, piece) in pieces.iter().enumerate() {
            let opcode = OpCode::Data(if index == 0 { Data::Text } else { Data::Continue });
            let frame = WireFrame::message(Bytes::copy_from_slice(piece), opcode, index + 1 == pieces.len());
            ada.send_message(Message::Frame(frame)).await;
        }
        match bytes {
            1000 => assert_eq!(ada.expect("ack").await.text("ref"), "r"),
            _ => assert_eq!(ada.closed().await.0, 1009),
        }
    }
}

/// Joins as soon as the rate allows; the answer.
async fn join_patiently(client: &mut Client, room: &str) -> crate::client::Frame {
    loop {
        let reference = client.ask("join", room, "").await;
        let frame = client.next().await;
        assert_eq!(frame.number("ref"), reference);
        if frame.kind() != "error" || frame.text("code") != "rate_limited" {
            return frame;
        }
        tokio::time::sleep(Duration::from_millis(frame.number("retryAfterMs"))).await;
    }
}

#[tokio::test]
async fn rooms_are_counted() {
    let server = Server::with(&[("limits.rooms_per_connection", "3")]).await;
    let mut ada = server.connect("ada").await;
    for room in ["one", "two", "three"] {
        assert_eq!(join_patiently(&mut ada, room).await.kind(), "joined");
    }
    let refused = join_patiently(&mut ada, "four").await;
    assert_eq!((refused.text("code").as_str(), refused.text("room").as_str()), ("too_many_rooms", "four"));
    // One that it is in already is none more.
    assert_eq!(join_patiently(&mut ada, "two").await.kind(), "joined");
    loop {
        ada.ask("leave", "one", "").await;
        let frame = ada.next().await;
        if frame.kind() == "left" {
            break;
        }
        tokio::time::sleep(Duration::from_millis(frame.number("retryAfterMs"))).await;
    }
    assert_eq!(join_patiently(&mut ada, "four").await.kind(), "joined");
    // Not a member of what was refused, and still one of the others.
    let mut bob = server.connect("bob").await;
    for room in ["one", "two", "three", "four"] {
        bob.say(room, 1).await;
    }
    let heard = [ada.expect("message").await, ada.expect("message").await, ada.expect("message").await];
    assert_eq!(heard.map(|message| message.text("room")), ["two", "three", "four"]);
    ada.heard_nothing_else().await;
}

const SLOW: &[(&str, &str)] =
    &[("jwt.secret", SECRET), ("origins", ORIGIN), ("limits.frames_per_second", "1"), ("limits.frames_burst", "5")];

#[tokio::test]
async fn frames_over_the_rate_are_not_acted_on() {
    let server = Server::bare(Shape::of_this_run(), SLOW).await;
    let mut ada = server.connect("ada").await;
    let say = |number: u32| format!(r#"{{"type":"broadcast","room":"lobby","payload":{number},"ref":{number}}}"#);
    ada.send_all((1..=8).map(say)).await;
    let (mut acked, mut refused) = (Vec::new(), Vec::new());
    let mut wait_ms = 0;
    for _ in 0..8 {
        let frame = ada.next().await;
        match frame.kind().as_str() {
            "ack" => acked.push(frame.number("ref")),
            _ => {
                assert_eq!(frame.text("code"), "rate_limited");
                assert_eq!(frame.text("room"), "lobby");
                wait_ms = frame.number("retryAfterMs");
                assert!((1..=1000).contains(&wait_ms), "{}", frame.raw);
                refused.push(frame.number("ref"));
            }
        }
    }
    assert_eq!((acked.as_slice(), refused.as_slice()), (&[1, 2, 3, 4, 5][..], &[6, 7, 8][..]));
    // `join` and `leave` have a bucket of their own.
    ada.join("lobby").await;
    tokio::time::sleep(Duration::from_millis(wait_ms)).await;
    ada.send(say(9)).await;
    assert_eq!(ada.expect("ack").await.number("offset"), 6);
}

#[tokio::test]
async fn default_rate_allows_its_burst() {
    let server = Server::bare(Shape::of_this_run(), &[("jwt.secret", SECRET), ("origins", ORIGIN)]).await;
    let mut ada = server.connect("ada").await;
    ada.send_all((0..300).map(|number| format!(r#"{{"type":"ping","ref":{number}}}"#))).await;
    let mut pongs = 0;
    for _ in 0..300 {
        match ada.next().await.kind().as_str() {
            "pong" => pongs += 1,
            kind => assert_eq!(kind, "error"),
        }
    }
    // 100 at once and 50 in a second; a busy machine takes a while for three hundred.
    assert!((100..250).contains(&pongs), "{pongs}");
}

#[tokio::test]
async fn steady_excess_closes() {
    let server = Server::bare(Shape::of_this_run(), SLOW).await;
    let mut ada = server.connect("ada").await;
    let started = std::time::Instant::now();
    let mut pace = tokio::time::interval(Duration::from_millis(50));
    let close = loop {
        pace.tick().await;
        ada.send(r#"{"type":"ping"}"#).await;
        match ada.event().await {
            crate::client::Event::Closed(code, reason) => break (code, reason),
            crate::client::Event::Frame(frame) => assert!(["pong", "error"].contains(&frame.kind().as_str())),
            crate::client::Event::Ping => {}
        }
        assert!(started.elapsed() < Duration::from_secs(20), "still there");
    };
    assert_eq!(close, (4102, "rate_limited".to_owned()));
    assert!(started.elapsed() >= Duration::from_secs(10), "{:?}", started.elapsed());
}

#[tokio::test]
async fn socketio_is_no_faster_for_connecting_again() {
    let server = Server::bare(Shape::of_this_run(), SLOW).await;
    let auth = format!(r#"{{"token":"{}"}}"#, server.token("ada"));
    let (mut ada, answer) = Polling::connect(&server, &auth).await;
    assert!(answer.starts_with("40{"), "{answer}");
    let say = r#"["broadcast",{"room":"lobby","payload":1}]"#;
    let (started, mut accepted) = (std::time::Instant::now(), 0);
    for _ in 0..5 {
        accepted += u64::from(!ada.ask(say).await.contains("rate_limited"));
    }
    assert_eq!(ada.post(&format!("41\u{1e}40{auth}")).await, 200);
    let answer = loop {
        match ada.next().await {
            Some(packet) if packet.starts_with("40{") => break true,
            // Not even a place for this was left.
            None => break false,
            Some(_) => {}
        }
    };
    if answer {
        for _ in 0..5 {
            accepted += u64::from(!ada.ask(say).await.contains("rate_limited"));
        }
    }
    // The burst, and one a second.
    assert!(accepted <= 5 + started.elapsed().as_secs() + 1, "{accepted} in {:?}", started.elapsed());
}

#[tokio::test]
async fn packets_that_say_nothing_are_counted() {
    let settings = [SLOW, &[("limits.rooms_per_connection", "1")]].concat();
    let server = Server::bare(Shape::of_this_run(), &settings).await;
    let auth = format!(r#"{{"token":"{}"}}"#, server.token("ada"));
    let (ada, answer) = Polling::connect(&server, &auth).await;
    assert!(answer.starts_with("40{"), "{answer}");
    let started = std::time::Instant::now();
    let mut pace = tokio::time::interval(Duration::from_millis(100));
    // Noops, which are free for whoever sends a few.
    let noops = vec!["6"; 20].join("\u{1e}");
    while ada.post(&noops).await == 200 {
        pace.tick().await;
        assert!(started.elapsed() < PATIENCE, "still there");
    }
    assert!(started.elapsed() >= Duration::from_secs(10), "{:?}", started.elapsed());
}

#[tokio::test]
async fn bad_frames_count_as_frames() {
    let server = Server::bare(Shape::of_this_run(), SLOW).await;
    let mut ada = server.connect("ada").await;
    ada.send_all((0..30).map(|_| "nonsense".to_owned())).await;
    let mut codes = Vec::new();
    for _ in 0..30 {
        codes.push(ada.expect("error").await.text("code"));
    }
    assert_eq!(codes.iter().filter(|code| *code == "bad_request").count(), 5);
    assert!(codes[5..].iter().all(|code| code == "rate_limited"));
}
